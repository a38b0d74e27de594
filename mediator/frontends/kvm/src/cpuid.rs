//! What `CPUID` says in the guest: what KVM supports, with the VM's own processors.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

/// Writes the topology of one vCPU into what KVM supports: one package, `vcpus` cores, APIC id
/// `index`; and whether its APIC timer can wait for a time stamp.
pub(crate) fn adjust(cpuid: &mut CpuId, index: u8, vcpus: u8, deadline_timer: bool) {
    // Leaf 0x1f would say it better than 0xb, but describes the host; without it 0xb counts.
    cpuid.retain(|entry| entry.function != 0x1f);
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            0x1 => {
                // KVM keeps this timer in its local APIC but leaves it to us to say so.
                entry.ecx |= u32::from(deadline_timer) << 24;
                let keep = entry.ebx & 0x0000_ffff;
                entry.ebx = keep | u32::from(vcpus) << 16 | u32::from(index) << 24;
                entry.ecx |= 1 << 31; // a hypervisor is present
                // Hyper-threading: "more than one logical processor in the package".
                entry.edx = entry.edx & !(1 << 28) | u32::from(vcpus > 1) << 28;
            }
            0xb => topology(entry, index, vcpus),
            _ => {}
        }
    }
}

/// Leaf 0xb (Intel SDM volume 2A, "Extended Topology Enumeration"): threads, then cores.
fn topology(entry: &mut kvm_cpuid_entry2, index: u8, vcpus: u8) {
    let shift = u32::from(vcpus).next_power_of_two().trailing_zeros();
    (entry.eax, entry.ebx, entry.ecx) = match entry.index {
        0 => (0, 1, 1 << 8),
        1 => (shift, vcpus.into(), 2 << 8 | 1),
        level => (0, 0, level),
    };
    entry.edx = index.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vcpu_has_its_own_id_and_the_same_package() {
        let entry = |function, index| kvm_cpuid_entry2 {
            function,
            index,
            ebx: 0xffff_ffff,
            ..Default::default()
        };
        let all = [entry(1, 0), entry(0xb, 0), entry(0xb, 1), entry(0x1f, 0), entry(7, 0)];
        let mut cpuid = CpuId::from_entries(&all).unwrap();
        adjust(&mut cpuid, 2, 3, true);
        let e = cpuid.as_slice();
        assert_eq!(e.len(), 4, "leaf 0x1f is gone");
        assert_eq!(e[0].ebx, 0x0203_ffff);
        assert_eq!(e[0].ecx, 1 << 31 | 1 << 24);
        assert_eq!((e[1].eax, e[1].ebx, e[1].edx), (0, 1, 2));
        assert_eq!((e[2].eax, e[2].ebx, e[2].ecx, e[2].edx), (2, 3, 0x201, 2));
        assert_eq!(e[3].ebx, 0xffff_ffff, "left alone");
    }
}
