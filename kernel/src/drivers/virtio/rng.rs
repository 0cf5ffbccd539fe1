//! virtio-rng: read once at boot to seed the kernel's generator.

use super::queue::{Queue, Segment};
use super::{Transport, negotiate, start};
use crate::arch::random;
use crate::mm::{frame, phys};
use crate::time;

const BYTES: usize = 64;
const PATIENCE_NS: u64 = 20_000_000;

/// Mixes what the device gives within some milliseconds into the generator.
pub(super) fn seed(transport: &dyn Transport) {
    if negotiate(transport, 0).is_none() {
        return;
    }
    let size = transport.queue_size(0).min(8);
    let (true, Some(mut queue)) = (size > 0, Queue::new(size, false)) else { return };
    let Some(buffer) = frame::alloc_zeroed() else { return };
    transport.enable_queue(0, &queue.memory());
    start(transport);
    queue.set_interrupts(false);
    queue.push(&[Segment { address: buffer, len: BYTES as u32, device_writes: true }]);
    transport.notify(0);
    let deadline = time::monotonic_ns() + PATIENCE_NS;
    while !queue.has_used() && time::monotonic_ns() < deadline {
        core::hint::spin_loop();
    }
    let done = queue.pop().is_some();
    // A reset ends all use of the buffer by the device.
    transport.set_status(0);
    if done {
        let mut bytes = [0; BYTES];
        // SAFETY: the frame is ours again.
        unsafe { phys::to_virt(buffer).copy_to_nonoverlapping(bytes.as_mut_ptr(), BYTES) };
        random::add_entropy(&bytes);
    }
    frame::free(buffer);
}
