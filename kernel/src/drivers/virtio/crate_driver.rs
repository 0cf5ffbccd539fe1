//! What the drivers of the crate `virtio-drivers` need from us: memory for their queues, and our transports as theirs.
//!
//! See ADR 9 for which driver is whose.

use super::{QueueMemory, Transport};
use crate::mm::{frame, phys};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ptr::NonNull;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport as CrateTransport};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// `VIRTIO_F_RING_EVENT_IDX`: with it, the crate cannot keep a device silent while the driver polls.
const EVENT_IDX: u64 = 1 << 29;

/// The machine: frames of the direct map, which devices see at their physical addresses.
pub(super) struct Machine;

// SAFETY: frames come zeroed from the frame allocator, which gives them to nobody else; the direct map is valid for all of
// them; buffers of the heap lie in the direct map, contiguously.
unsafe impl Hal for Machine {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        match frame::alloc_contiguous(pages, 1) {
            Some(address) => {
                let memory = phys::to_virt(address);
                // SAFETY: fresh frames of the direct map.
                unsafe { memory.write_bytes(0, pages * PAGE_SIZE) };
                (address, NonNull::new(memory).unwrap_or(NonNull::dangling()))
            }
            // The crate's sign for "no memory".
            None => (0, NonNull::dangling()),
        }
    }

    unsafe fn dma_dealloc(address: PhysAddr, _memory: NonNull<u8>, pages: usize) -> i32 {
        frame::free_contiguous(address, pages);
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, size: usize) -> NonNull<u8> {
        let mapped = phys::map_device(address, size as u64) as *mut u8;
        NonNull::new(mapped).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        phys::to_phys(buffer.as_ptr().cast::<u8>())
    }

    unsafe fn unshare(_address: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}

/// Connects a queue's interrupt; called when the device has been reset and the queue is about to be enabled.
pub(super) type Connect = Box<dyn Fn(u16) + Send + Sync>;

/// One of our transports, as the crate wants it.
pub(super) struct Adapter {
    transport: Arc<dyn Transport>,
    connect: Connect,
}

impl Adapter {
    /// An adapter that calls `connect` for every queue.
    pub(super) fn new(transport: Arc<dyn Transport>, connect: Connect) -> Self {
        Adapter { transport, connect }
    }
}

impl CrateTransport for Adapter {
    fn device_type(&self) -> DeviceType {
        DeviceType::try_from(self.transport.device_id()).unwrap_or(DeviceType::Network)
    }

    fn read_device_features(&mut self) -> u64 {
        self.transport.device_features() & !EVENT_IDX
    }

    fn write_driver_features(&mut self, features: u64) {
        self.transport.set_driver_features(features);
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        u32::from(self.transport.queue_size(queue))
    }

    fn notify(&mut self, queue: u16) {
        self.transport.notify(queue);
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_truncate(u32::from(self.transport.status()))
    }

    fn set_status(&mut self, status: DeviceStatus) {
        let mut bits = status.bits() as u8;
        if self.transport.legacy() {
            bits &= !super::status::FEATURES_OK;
        }
        self.transport.set_status(bits);
    }

    fn set_guest_page_size(&mut self, _size: u32) {
        // Our transport has done it together with the features.
    }

    fn requires_legacy_layout(&self) -> bool {
        self.transport.legacy()
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        available: PhysAddr,
        used: PhysAddr,
    ) {
        (self.connect)(queue);
        let memory = QueueMemory { size: size as u16, descriptors, available, used };
        self.transport.enable_queue(queue, &memory);
    }

    fn queue_unset(&mut self, _queue: u16) {
        // Single queues cannot be taken back; a reset ends all.
        self.transport.set_status(0);
    }

    fn queue_used(&mut self, _queue: u16) -> bool {
        // Asked once, after the reset that begins everything.
        false
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        // Our handlers have done it.
        InterruptStatus::QUEUE_INTERRUPT
    }

    fn read_config_generation(&self) -> u32 {
        0
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> virtio_drivers::Result<T> {
        let mut value = T::new_zeroed();
        for (i, byte) in value.as_mut_bytes().iter_mut().enumerate() {
            *byte = self.transport.config_u8((offset + i) as u64);
        }
        Ok(value)
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        _offset: usize,
        _value: T,
    ) -> virtio_drivers::Result<()> {
        Err(virtio_drivers::Error::Unsupported)
    }
}
