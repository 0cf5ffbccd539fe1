//! Runs of sending calls: what a program sends by one call after the other leaves together. See [`net::Outbox`].
//!
//! The first call of a run sends at once; what the others send is put off until the thread makes another call, as it does before it waits
//! for anything, until it touches a page that is not there or is about to lose its processor, or until the timer interrupts a program that
//! goes on computing, at the latest after [`PUT_OFF_NS`].

use super::{Call, socket_calls};
use crate::process::{self, Task};
use crate::sched;
use core::sync::atomic::Ordering;
use net::Outbox;

/// How long a program may compute while something of it is put off.
const PUT_OFF_NS: u64 = 500_000;

/// `write`, `writev`, `sendto`, `sendmsg`, `sendmmsg`.
const SENDING: [u64; 5] = [1, 20, 44, 46, 307];

/// Before the call with this number: it goes on with a run, or ends it.
pub(super) fn before(call: &Call<'_>, number: u64) {
    let Task { outbox, sending, .. } = call.task;
    let sends = SENDING.contains(&number);
    sending.store(sends, Ordering::Relaxed);
    if outbox.is_open() && !(sends && socket_calls::socket_of(call, call.arg(0) as i32).is_ok()) {
        outbox.push();
    }
}

/// Runs `send` with what the calling thread may put off, if it is a program's that makes a sending call.
pub(super) fn with_outbox<R>(send: impl FnOnce(Option<&Outbox>) -> R) -> R {
    let Some(task) = process::try_current().filter(|task| task.sending.load(Ordering::Relaxed)) else {
        return send(None);
    };
    let result = send(Some(&task.outbox));
    if task.outbox.holds() {
        // Each time: what was set for an earlier call may have gone by while the thread waited for a processor in this one.
        sched::interrupt_within(PUT_OFF_NS);
    }
    result
}

/// Whether something of the running thread is put off.
pub(super) fn holds() -> bool {
    process::try_current().is_some_and(|task| task.outbox.holds())
}

/// Lets go what the running thread has put off.
pub(super) fn push() {
    process::current().outbox.push();
}
