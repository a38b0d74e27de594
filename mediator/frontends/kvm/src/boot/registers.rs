//! The registers a vCPU starts with: 64-bit mode, ring 0, flat segments, interrupts off.

use kvm_bindings::{
    KVM_MP_STATE_RUNNABLE, Msrs, kvm_fpu, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_segment,
};
use kvm_ioctls::VcpuFd;

use crate::KvmError;
use crate::layout::{GDT, PAGE_TABLES, ZERO_PAGE};

/// Code segment selector, as Linux wants it (`__BOOT_CS`).
const CODE: u16 = 0x10;
/// Data segment selector (`__BOOT_DS`).
const DATA: u16 = 0x18;
/// Descriptors of [`CODE`] and [`DATA`]: flat, ring 0, 64-bit code.
const DESCRIPTORS: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// Protection, monitor coprocessor, extension type, numeric error, write protect, paging.
const CR0: u64 = 0x8001_0033;
/// Physical address extension, `fxsave` and SSE exceptions.
const CR4: u64 = 0x620;
/// Long mode enabled and active.
const EFER: u64 = 0x500;
/// Reserved bit 1 is always set; interrupts are off.
const RFLAGS: u64 = 2;
/// The MXCSR register after a reset: all exceptions masked.
const MXCSR: u32 = 0x1f80;
/// The x87 control word after `fninit`.
const FPU_CONTROL: u16 = 0x37f;
/// `IA32_MTRR_DEF_TYPE`: MTRRs on, everything write-back.
const MTRR_DEFAULT: (u32, u64) = (0x2ff, 1 << 11 | 6);

/// The global descriptor table's bytes.
pub(super) fn gdt() -> Vec<u8> {
    DESCRIPTORS.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// Where and how vCPUs enter the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    rip: u64,
    argument: u64,
    linux: bool,
}

impl Entry {
    /// Every vCPU starts at `rip` with `argument` in `rdi` and its index in `rsi`.
    pub(super) const fn bare(rip: u64, argument: u64) -> Entry {
        Entry { rip, argument, linux: false }
    }
    /// The boot processor starts at `rip` with the zero page in `rsi`; the others wait for Linux.
    pub(super) const fn linux(rip: u64) -> Entry {
        Entry { rip, argument: 0, linux: true }
    }
    /// The same, with another argument.
    pub(crate) const fn with_argument(self, argument: u64) -> Entry {
        Entry { argument, ..self }
    }

    /// Sets a vCPU's registers.
    pub(crate) fn prepare(&self, vcpu: &VcpuFd, index: u8) -> Result<(), KvmError> {
        let fpu = kvm_fpu { fcw: FPU_CONTROL, mxcsr: MXCSR, ..Default::default() };
        vcpu.set_fpu(&fpu).map_err(KvmError::call("set a vCPU's FPU"))?;
        if self.linux {
            let (msr, data) = MTRR_DEFAULT;
            let entry = kvm_msr_entry { index: msr, data, ..Default::default() };
            // A processor without MTRRs is as good: then everything is write-back anyway.
            if let Ok(msrs) = Msrs::from_entries(&[entry]) {
                let _ = vcpu.set_msrs(&msrs);
            }
            if index > 0 {
                return Ok(()); // waits for INIT and SIPI, as after a reset
            }
        }
        let mut special = vcpu.get_sregs().map_err(KvmError::call("read a vCPU's registers"))?;
        special.cs = segment(CODE);
        let data = segment(DATA);
        (special.ds, special.es, special.ss) = (data, data, data);
        (special.fs, special.gs) = (data, data);
        special.gdt.base = GDT;
        special.gdt.limit = (DESCRIPTORS.len() * 8 - 1) as u16;
        special.idt.base = 0;
        special.idt.limit = 0;
        (special.cr0, special.cr3, special.cr4) = (CR0, PAGE_TABLES, CR4);
        special.efer = EFER;
        vcpu.set_sregs(&special).map_err(KvmError::call("set a vCPU's segments"))?;

        let mut general = kvm_regs { rip: self.rip, rflags: RFLAGS, ..Default::default() };
        if self.linux {
            general.rsi = ZERO_PAGE;
        } else {
            (general.rdi, general.rsi) = (self.argument, index.into());
            let runnable = kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE };
            vcpu.set_mp_state(runnable).map_err(KvmError::call("make a vCPU runnable"))?;
        }
        vcpu.set_regs(&general).map_err(KvmError::call("set a vCPU's registers"))
    }
}

/// The cached form of one of [`DESCRIPTORS`].
fn segment(selector: u16) -> kvm_segment {
    let d = DESCRIPTORS[usize::from(selector >> 3)];
    let bit = |at: u32| (d >> at & 1) as u8;
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_: (d >> 40 & 0xf) as u8,
        s: bit(44),
        dpl: (d >> 45 & 3) as u8,
        present: bit(47),
        l: bit(53),
        db: bit(54),
        g: bit(55),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_match_the_table() {
        let code = segment(CODE);
        assert_eq!(
            (code.type_, code.s, code.present, code.l, code.db, code.g),
            (11, 1, 1, 1, 0, 1)
        );
        let data = segment(DATA);
        assert_eq!((data.type_, data.s, data.present, data.l, data.db), (3, 1, 1, 0, 1));
        assert_eq!((code.dpl, data.dpl), (0, 0));
        assert_eq!(gdt().len(), 32);
        assert_eq!(gdt()[16..24], 0x00af_9b00_0000_ffff_u64.to_le_bytes());
    }
}
