//! What can go wrong with a socket. The numbers of POSIX are given by the layers above.

use core::fmt;

/// Why a call on a socket failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Error {
    /// Nothing to read, no room to write, nobody to accept: later.
    WouldBlock,
    /// The connection is being made.
    InProgress,
    /// The connection is being made since an earlier call.
    Already,
    /// The address or port is taken.
    AddressInUse,
    /// The address is not one of this machine's.
    AddressNotAvailable,
    /// Nobody listens there.
    Refused,
    /// The other side ended the connection at once.
    Reset,
    /// The other side did not answer in time.
    TimedOut,
    /// The connection was given up before it was accepted.
    Aborted,
    /// There is no connection.
    NotConnected,
    /// There is a connection already.
    Connected,
    /// The sending side was shut down.
    Closed,
    /// The call does not fit the socket's state.
    Invalid,
    /// No interface leads there.
    Unreachable,
    /// The datagram does not fit.
    TooLong,
    /// No destination was given.
    NoDestination,
    /// The socket is of another address family.
    Family,
    /// There is no memory for buffers.
    NoMemory,
}

/// The outcome of a call on a socket.
pub type Result<T> = core::result::Result<T, Error>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Error::WouldBlock => "the socket is not ready",
            Error::InProgress | Error::Already => "the connection is being made",
            Error::AddressInUse => "the address is in use",
            Error::AddressNotAvailable => "the address is not this machine's",
            Error::Refused => "the connection was refused",
            Error::Reset => "the connection was reset",
            Error::TimedOut => "the other side does not answer",
            Error::Aborted => "the connection was aborted",
            Error::NotConnected => "the socket is not connected",
            Error::Connected => "the socket is connected",
            Error::Closed => "the sending side is shut down",
            Error::Invalid => "the socket is in another state",
            Error::Unreachable => "the network is unreachable",
            Error::TooLong => "the datagram is too long",
            Error::NoDestination => "no destination was given",
            Error::Family => "the address is of another family",
            Error::NoMemory => "no memory for the socket's buffers",
        })
    }
}

impl core::error::Error for Error {}
