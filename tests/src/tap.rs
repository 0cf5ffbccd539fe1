//! A tap device whose other end is this process: an interface of this machine's network at one end, frames at the other.

use crate::link::{HONEST_MAC, Inbox, NAP};
use anyhow::{Context, Result};
use net::device::{Device, Fill, Frame};
use platform::sync::Mutex;
use smoltcp::phy::{Device as _, Medium, RxToken, TunTapInterface, TxToken};
use smoltcp::time::Instant;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

/// UDP, as IPv4 has it in its ninth byte.
const UDP: u8 = 17;

/// The device.
pub struct Tap {
    inbox: Arc<Inbox>,
    outbox: Mutex<Sender<Vec<u8>>>,
    spoils: AtomicBool,
}

impl Tap {
    /// Attaches to the tap device `name`, which is up.
    pub fn open(name: &str) -> Result<Arc<Self>> {
        let inbox = Arc::new(Inbox::default());
        let (outbox, frames) = channel();
        let (done, opened) = channel();
        let (name, arrived) = (name.to_owned(), Arc::clone(&inbox));
        // smoltcp's device stays in the thread that it was made in.
        std::thread::spawn(move || match TunTapInterface::new(&name, Medium::Ethernet) {
            Ok(device) => {
                let _ = done.send(Ok(()));
                carry(device, &arrived, &frames);
            }
            Err(error) => drop(done.send(Err(error))),
        });
        opened.recv()?.context("attaching to a tap device")?;
        Ok(Arc::new(Tap { inbox, outbox: Mutex::new(outbox), spoils: AtomicBool::new(false) }))
    }

    /// From now on the last byte of what is sent by UDP over IPv4 is changed on the way, or not any more.
    pub fn spoil(&self, on: bool) {
        self.spoils.store(on, Ordering::SeqCst);
    }
}

/// Moves frames until nobody sends any more.
fn carry(mut device: TunTapInterface, inbox: &Inbox, frames: &Receiver<Vec<u8>>) {
    loop {
        let mut idle = true;
        while let Some((arrived, _)) = device.receive(Instant::ZERO) {
            inbox.put(arrived.consume(<[u8]>::to_vec));
            idle = false;
        }
        loop {
            match frames.try_recv() {
                Ok(frame) => {
                    if let Some(token) = device.transmit(Instant::ZERO) {
                        token.consume(frame.len(), |bytes| bytes.copy_from_slice(&frame));
                    }
                    idle = false;
                }
                Err(std::sync::mpsc::TryRecvError::Empty) => break,
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
            }
        }
        if idle {
            std::thread::sleep(NAP);
        }
    }
}

impl Device for Tap {
    fn mac(&self) -> Option<[u8; 6]> {
        Some(HONEST_MAC)
    }
    fn mtu(&self) -> usize {
        1500
    }
    fn can_send(&self) -> bool {
        true
    }
    fn send(&self, len: usize, _segment: Option<NonZeroU16>, fill: &mut Fill<'_>) {
        let mut frame = vec![0; len];
        fill(&mut frame);
        let datagram = frame.get(23) == Some(&UDP) && frame[12..14] == [8, 0];
        if datagram && self.spoils.load(Ordering::SeqCst) {
            frame[len - 1] ^= 1;
        }
        // The thread ends after this device.
        let _ = self.outbox.lock().send(frame);
    }
    fn receive(&self, take: &mut dyn FnMut(Frame<'_>)) -> bool {
        self.inbox.next(take)
    }
}
