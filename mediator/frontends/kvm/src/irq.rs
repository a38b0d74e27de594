//! MSI-X delivery: each vector's eventfd connected to the kernel while the guest wants its message.
//!
//! A connected eventfd is an irqfd: the kernel turns a signal into the message. A masked vector's
//! eventfd is not connected, so a signal stays in it; connecting it again delivers. See
//! [`turnstile_device::msix`].

use std::sync::Arc;

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_irqchip,
    kvm_irq_routing_msi,
};
use turnstile_abi::regs::VECTORS;
use turnstile_device::{Device, Function, Message, Vectors};
use vmm_sys_util::eventfd::EventFd;

use crate::sys::{self, Vm};

/// Pins of the I/O APIC; the first interrupt number that is not one of them.
pub(crate) const PINS: u32 = 24;
/// Pins of the two PICs together.
const PIC_PINS: u32 = 16;

type Table = [Option<Message>; VECTORS as usize];

/// The device's vectors as the kernel knows them.
#[derive(Debug)]
pub(crate) struct Interrupts {
    vm: Arc<Vm>,
    events: Vec<Arc<EventFd>>,
    /// Messages of the vectors whose eventfds are connected.
    connected: Table,
    /// Messages that KVM refused.
    refused: u64,
}

impl Interrupts {
    pub(crate) fn new(vm: Arc<Vm>, device: &Device) -> Interrupts {
        let events = (0..VECTORS).filter_map(|v| device.vector(v)).collect();
        Interrupts { vm, events, connected: [None; VECTORS as usize], refused: 0 }
    }

    /// Whether an interrupt waits in a vector's eventfd.
    pub(crate) fn pending(&self, vector: u16) -> bool {
        self.events.get(usize::from(vector)).is_some_and(|event| sys::is_signalled(event))
    }

    /// Messages that KVM refused: no interrupt can have them.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    /// Brings the kernel up to date with the vectors that changed.
    pub(crate) fn apply(&mut self, function: &Function, changed: Vectors) {
        let want = |v: u16| function.route(v);
        let differs = |i: &Interrupts, v: u16| i.connected[usize::from(v)] != want(v);
        let changed: Vec<u16> = changed.iter().filter(|&v| differs(self, v)).collect();
        for &v in &changed {
            self.disconnect(v);
        }
        let new: Vec<u16> = changed.into_iter().filter(|&v| want(v).is_some()).collect();
        let mut table = self.connected;
        for &v in &new {
            table[usize::from(v)] = want(v);
        }
        if new.is_empty() {
            return;
        }
        if self.route(&table) {
            new.iter().for_each(|&v| self.connect(v, want(v)));
            return;
        }
        // The kernel refuses a message that no interrupt can have; the guest chose it. Find out
        // which, and let that one stay pending.
        for &v in &new {
            let mut table = self.connected;
            table[usize::from(v)] = want(v);
            if self.route(&table) {
                self.connect(v, want(v));
            } else {
                self.refused += 1;
            }
        }
    }

    fn disconnect(&mut self, vector: u16) {
        let i = usize::from(vector);
        if let (Some(event), Some(_)) = (self.events.get(i), self.connected[i].take())
            && let Err(error) = self.vm.fd().unregister_irqfd(event, PINS + u32::from(vector))
        {
            tracing::warn!(vector, %error, "an interrupt stays connected");
        }
    }

    fn connect(&mut self, vector: u16, message: Option<Message>) {
        let i = usize::from(vector);
        let Some(event) = self.events.get(i) else { return };
        match self.vm.fd().register_irqfd(event, PINS + u32::from(vector)) {
            Ok(()) => {
                self.connected[i] = message;
                // What was pending has just been delivered, but the kernel leaves it in the eventfd,
                // to be delivered again at the next unmasking. (What comes from now on it reads.)
                let _ = event.read();
            }
            Err(error) => tracing::warn!(vector, %error, "an interrupt cannot be connected"),
        }
    }

    /// Replaces the kernel's routing table. `false`: it refuses.
    fn route(&self, table: &Table) -> bool {
        let mut entries = legacy();
        for (i, message) in table.iter().enumerate() {
            if let Some(message) = message {
                entries.push(msi(PINS + i as u32, message));
            }
        }
        KvmIrqRouting::from_entries(&entries)
            .is_ok_and(|routing| self.vm.fd().set_gsi_routing(&routing).is_ok())
    }
}

/// The routes a VM is born with, which a new table replaces: PICs and I/O APIC, pin by pin.
fn legacy() -> Vec<kvm_irq_routing_entry> {
    let pin = |gsi, irqchip, pin| {
        let mut entry =
            kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
        entry.u.irqchip = kvm_irq_routing_irqchip { irqchip, pin };
        entry
    };
    let pics = (0..PIC_PINS).map(|gsi| match gsi {
        0..8 => pin(gsi, KVM_IRQCHIP_PIC_MASTER, gsi),
        _ => pin(gsi, KVM_IRQCHIP_PIC_SLAVE, gsi - 8),
    });
    pics.chain((0..PINS).map(|gsi| pin(gsi, KVM_IRQCHIP_IOAPIC, gsi))).collect()
}

fn msi(gsi: u32, message: &Message) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    entry.u.msi = kvm_irq_routing_msi {
        address_lo: message.address as u32,
        address_hi: (message.address >> 32) as u32,
        data: message.data,
        ..Default::default()
    };
    entry
}
