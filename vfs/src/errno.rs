//! Linux error numbers: the only place where the engine's errors become numbers.
//!
//! Invariant: nothing below this crate knows an errno, and every error of the engine has one here.

use core::fmt;

/// A positive Linux error number (x86-64).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Errno(i32);

/// The result of everything that may fail with an error number.
pub type Result<T> = core::result::Result<T, Errno>;

macro_rules! errnos {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        impl Errno {
            $(#[doc = $text] pub const $name: Errno = Errno($value);)*

            /// Its symbolic name, or `E?` for a number this table does not know.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self.0 { $($value => stringify!($name),)* _ => "E?" }
            }

            /// What it means, in words.
            #[must_use]
            pub const fn message(self) -> &'static str {
                match self.0 { $($value => $text,)* _ => "unknown error" }
            }
        }
    };
}

errnos! {
    EPERM = 1, "operation not permitted";
    ENOENT = 2, "no such file or directory";
    ESRCH = 3, "no such process";
    EINTR = 4, "interrupted system call";
    EIO = 5, "input/output error";
    ENXIO = 6, "no such device or address";
    E2BIG = 7, "argument list too long";
    ENOEXEC = 8, "exec format error";
    EBADF = 9, "bad file descriptor";
    ECHILD = 10, "no child processes";
    EAGAIN = 11, "resource temporarily unavailable";
    ENOMEM = 12, "cannot allocate memory";
    EACCES = 13, "permission denied";
    EFAULT = 14, "bad address";
    EBUSY = 16, "device or resource busy";
    EEXIST = 17, "file exists";
    EXDEV = 18, "invalid cross-device link";
    ENODEV = 19, "no such device";
    ENOTDIR = 20, "not a directory";
    EISDIR = 21, "is a directory";
    EINVAL = 22, "invalid argument";
    ENFILE = 23, "too many open files in system";
    EMFILE = 24, "too many open files";
    ENOTTY = 25, "inappropriate ioctl for device";
    ETXTBSY = 26, "text file busy";
    EFBIG = 27, "file too large";
    ENOSPC = 28, "no space left on device";
    ESPIPE = 29, "illegal seek";
    EROFS = 30, "read-only file system";
    EMLINK = 31, "too many links";
    EPIPE = 32, "broken pipe";
    ERANGE = 34, "numerical result out of range";
    EDEADLK = 35, "resource deadlock avoided";
    ENAMETOOLONG = 36, "file name too long";
    ENOLCK = 37, "no locks available";
    ENOSYS = 38, "function not implemented";
    ENOTEMPTY = 39, "directory not empty";
    ELOOP = 40, "too many levels of symbolic links";
    ENODATA = 61, "no data available";
    ETIME = 62, "timer expired";
    EOVERFLOW = 75, "value too large for defined data type";
    ELIBBAD = 80, "accessing a corrupted shared library";
    EILSEQ = 84, "invalid or incomplete multibyte character";
    ENOTSOCK = 88, "socket operation on non-socket";
    EDESTADDRREQ = 89, "destination address required";
    EMSGSIZE = 90, "message too long";
    EPROTOTYPE = 91, "protocol wrong type for socket";
    ENOPROTOOPT = 92, "protocol not available";
    EPROTONOSUPPORT = 93, "protocol not supported";
    ESOCKTNOSUPPORT = 94, "socket type not supported";
    EOPNOTSUPP = 95, "operation not supported";
    EAFNOSUPPORT = 97, "address family not supported by protocol";
    EADDRINUSE = 98, "address already in use";
    EADDRNOTAVAIL = 99, "cannot assign requested address";
    ENETUNREACH = 101, "network is unreachable";
    ECONNABORTED = 103, "software caused connection abort";
    ECONNRESET = 104, "connection reset by peer";
    ENOBUFS = 105, "no buffer space available";
    EISCONN = 106, "transport endpoint is already connected";
    ENOTCONN = 107, "transport endpoint is not connected";
    ETIMEDOUT = 110, "connection timed out";
    ECONNREFUSED = 111, "connection refused";
    EALREADY = 114, "operation already in progress";
    EINPROGRESS = 115, "operation now in progress";
    ESTALE = 116, "stale file handle";
    EDQUOT = 122, "disk quota exceeded";
    ECANCELED = 125, "operation canceled";
    ENOKEY = 126, "required key not available";
}

impl Errno {
    /// The number, positive.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name())
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message(), self.name())
    }
}

impl core::error::Error for Errno {}

impl From<::zfs::Error> for Errno {
    fn from(error: ::zfs::Error) -> Self {
        use ::zfs::Error as E;
        match error {
            E::NoSpace => Errno::ENOSPC,
            E::QuotaExceeded => Errno::EDQUOT,
            E::ReadOnly | E::ReadOnlyFeature { .. } => Errno::EROFS,
            E::NotFound => Errno::ENOENT,
            E::Exists => Errno::EEXIST,
            E::NotDirectory => Errno::ENOTDIR,
            E::IsDirectory => Errno::EISDIR,
            E::NotEmpty => Errno::ENOTEMPTY,
            E::NameTooLong => Errno::ENAMETOOLONG,
            E::NotPermitted => Errno::EPERM,
            E::NotUtf8 => Errno::EILSEQ,
            E::Invalid(_) => Errno::EINVAL,
            E::TooBig => Errno::EFBIG,
            E::TooManyLinks => Errno::EMLINK,
            E::Busy | E::InUse { .. } => Errno::EBUSY,
            E::CrossDataset => Errno::EXDEV,
            E::Unsupported { .. } => Errno::EOPNOTSUPP,
            E::NoPool | E::MissingDevice { .. } => Errno::ENXIO,
            E::KeyNotLoaded | E::WrongKey => Errno::ENOKEY,
            error => {
                if let Some(report) = REPORT.get() {
                    report(&error);
                }
                Errno::EIO
            }
        }
    }
}

static REPORT: spin::Once<fn(&::zfs::Error)> = spin::Once::new();

/// Tells this crate whom to tell what lies behind an `EIO`, which says nothing by itself. Later calls have no effect.
pub fn set_report(hook: fn(&::zfs::Error)) {
    REPORT.call_once(|| hook);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engine_errors_have_their_posix_number() {
        assert_eq!(Errno::from(::zfs::Error::NotFound), Errno::ENOENT);
        assert_eq!(Errno::from(::zfs::Error::NoSpace).number(), 28);
        assert_eq!(Errno::from(::zfs::Error::corrupt("x", None)), Errno::EIO);
        assert_eq!(Errno::ENOENT.name(), "ENOENT");
    }
}
