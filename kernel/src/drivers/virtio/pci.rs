//! virtio over PCI, modern layout (also of transitional devices), interrupts by MSI-X, else by
//! the function's interrupt line.

use super::{Interrupts, QueueMemory, Transport};
use crate::arch::ioapic::Trigger;
use crate::arch::{cpu, irq};
use crate::drivers::mmio::Registers;
use crate::drivers::pci::{self, Function, Msix};
use crate::sync::IrqLock;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

const VENDOR: u16 = 0x1af4;
const CAP_VENDOR: u8 = 0x09;

/// Kinds of virtio capability.
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const ISR: u8 = 3;
const DEVICE: u8 = 4;

/// Offsets in the common configuration.
mod common {
    pub(super) const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub(super) const DEVICE_FEATURE: u64 = 0x04;
    pub(super) const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub(super) const DRIVER_FEATURE: u64 = 0x0c;
    pub(super) const CONFIG_VECTOR: u64 = 0x10;
    pub(super) const STATUS: u64 = 0x14;
    pub(super) const QUEUE_SELECT: u64 = 0x16;
    pub(super) const QUEUE_SIZE: u64 = 0x18;
    pub(super) const QUEUE_VECTOR: u64 = 0x1a;
    pub(super) const QUEUE_ENABLE: u64 = 0x1c;
    pub(super) const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    pub(super) const QUEUE_DESCRIPTORS: u64 = 0x20;
    pub(super) const QUEUE_AVAILABLE: u64 = 0x28;
    pub(super) const QUEUE_USED: u64 = 0x30;
}

const NO_VECTOR: u16 = 0xffff;
/// In the ISR status: a queue has completions.
const ISR_QUEUE: u8 = 1;
const MAX_QUEUES: usize = 8;

/// What is called when a line signals.
type Handlers = IrqLock<Vec<Arc<dyn Fn() + Send + Sync>>>;

struct Pci {
    function: Function,
    kind: u32,
    common: Registers,
    notify: Registers,
    notify_multiplier: u64,
    device: Option<Registers>,
    isr: Option<Registers>,
    /// Who is told by the interrupt line.
    on_line: Arc<Handlers>,
    msix: Option<Msix>,
    // Read once, so that `notify` does not touch the shared queue selector.
    notify_offsets: [u64; MAX_QUEUES],
}

/// The virtio device at `function`; `None` if it is none, or only speaks the protocol before 1.0.
pub(super) fn open(function: Function) -> Option<impl Transport> {
    if function.vendor != VENDOR {
        return None;
    }
    let kind = match function.device {
        0x1000 => 1,
        0x1001 => 2,
        0x1002 => 5,
        0x1003 => 3,
        0x1004 => 8,
        0x1005 => 4,
        id @ 0x1040..=0x107f => u32::from(id - 0x1040),
        _ => return None,
    };
    function.enable();
    let (mut common, mut notify, mut device, mut isr) = (None, None, None, None);
    for capability in function.capabilities().iter().filter(|c| c.id == CAP_VENDOR) {
        let word = |at: u16| pci::read(function.address, capability.at + at);
        let (kind, bar) = ((word(0) >> 24) as u8, word(4) as u8);
        let (offset, len) = (u64::from(word(8)), u64::from(word(12)));
        let part = || {
            let (address, size) = function.bar(bar)?;
            (offset.checked_add(len)? <= size).then(|| Registers::map(address + offset, len))
        };
        match kind {
            COMMON if common.is_none() => common = part(),
            NOTIFY if notify.is_none() => notify = part().map(|p| (p, u64::from(word(16)))),
            ISR if isr.is_none() => isr = part(),
            DEVICE if device.is_none() => device = part(),
            _ => {}
        }
    }
    let (notify, notify_multiplier) = notify?;
    let common = common?;
    let mut transport = Pci {
        function,
        kind,
        common,
        notify,
        notify_multiplier,
        device,
        isr,
        on_line: Arc::new(IrqLock::new(Vec::new())),
        msix: function.msix(),
        notify_offsets: [0; MAX_QUEUES],
    };
    for index in 0..MAX_QUEUES {
        transport.common.write(common::QUEUE_SELECT, index as u16);
        let offset: u16 = transport.common.read(common::QUEUE_NOTIFY_OFF);
        transport.notify_offsets[index] = u64::from(offset) * transport.notify_multiplier;
    }
    Some(transport)
}

impl Pci {
    /// Interrupts by the function's line, for all queues together. Reading the ISR status acknowledges them.
    fn connect_line(&self, handler: Arc<dyn Fn() + Send + Sync>) -> Interrupts {
        let Some(isr) = self.isr else { return Interrupts::None };
        let mut queues = self.on_line.lock();
        queues.push(handler);
        if queues.len() > 1 {
            return Interrupts::Line;
        }
        drop(queues);
        let Some(gsi) = self.function.use_interrupt_line() else { return Interrupts::None };
        let queues = Arc::clone(&self.on_line);
        Interrupts::line(irq::connect_gsi(gsi, Trigger::LevelHigh, move || {
            if isr.read::<u8>(0) & ISR_QUEUE != 0 {
                queues.lock().iter().for_each(|handler| handler());
            }
        }))
    }

    fn connect_message(&self, msix: &Msix, index: u16, handler: Arc<dyn Fn() + Send + Sync>) -> Option<()> {
        let vector = irq::allocate(move || handler())?;
        let cpu = cpu::get(usize::from(index) % cpu::count().max(1))?;
        if !msix.set(u32::from(index), irq::message(vector, cpu)) {
            return None;
        }
        self.common.write(common::CONFIG_VECTOR, NO_VECTOR);
        self.common.write(common::QUEUE_SELECT, index);
        self.common.write(common::QUEUE_VECTOR, index);
        (self.common.read::<u16>(common::QUEUE_VECTOR) == index).then_some(())
    }
}

impl Transport for Pci {
    fn device_id(&self) -> u32 {
        self.kind
    }

    fn name(&self) -> String {
        format!("pci {}", self.function.address)
    }

    fn device_features(&self) -> u64 {
        let half = |select: u32| {
            self.common.write(common::DEVICE_FEATURE_SELECT, select);
            u64::from(self.common.read::<u32>(common::DEVICE_FEATURE))
        };
        half(0) | half(1) << 32
    }

    fn set_driver_features(&self, features: u64) {
        for select in 0..2u32 {
            self.common.write(common::DRIVER_FEATURE_SELECT, select);
            self.common.write(common::DRIVER_FEATURE, (features >> (32 * select)) as u32);
        }
    }

    fn status(&self) -> u8 {
        self.common.read(common::STATUS)
    }

    fn set_status(&self, status: u8) {
        self.common.write(common::STATUS, status);
    }

    fn queue_size(&self, index: u16) -> u16 {
        self.common.write(common::QUEUE_SELECT, index);
        self.common.read(common::QUEUE_SIZE)
    }

    fn enable_queue(&self, index: u16, queue: &QueueMemory) {
        self.common.write(common::QUEUE_SELECT, index);
        self.common.write(common::QUEUE_SIZE, queue.size);
        for (register, address) in [
            (common::QUEUE_DESCRIPTORS, queue.descriptors),
            (common::QUEUE_AVAILABLE, queue.available),
            (common::QUEUE_USED, queue.used),
        ] {
            self.common.write(register, address as u32);
            self.common.write(register + 4, (address >> 32) as u32);
        }
        self.common.write(common::QUEUE_ENABLE, 1u16);
    }

    fn notify(&self, index: u16) {
        if let Some(offset) = self.notify_offsets.get(usize::from(index)) {
            self.notify.write(*offset, index);
        }
    }

    fn config_u8(&self, offset: u64) -> u8 {
        match self.device {
            Some(device) if offset < device.len() => device.read(offset),
            _ => 0,
        }
    }

    fn set_config_u32(&self, offset: u64, value: u32) {
        if let Some(device) = self.device
            && offset + 4 <= device.len()
        {
            device.write(offset, value);
        }
    }

    fn connect(&self, index: u16, handler: Arc<dyn Fn() + Send + Sync>) -> Interrupts {
        match &self.msix {
            Some(msix) => match self.connect_message(msix, index, handler) {
                Some(()) => Interrupts::Message,
                None => Interrupts::None,
            },
            None => self.connect_line(handler),
        }
    }
}
