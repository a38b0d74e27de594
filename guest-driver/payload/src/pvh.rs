//! Entry by PVH, for VMMs other than ours: Cloud Hypervisor, QEMU's `-kernel`.
//!
//! PVH ("Xen: PVH direct boot", xen/include/public/arch-x86/hvm/start_info.h) enters in 32-bit mode
//! without paging, with the address of a start record in `ebx`. This makes of it what
//! `turnstile_boot` says a guest is entered with, for one processor, and goes on to [`start`]. What
//! differs: page 0 is mapped, RAM that counts ends where the piece with the image ends, and there is
//! no window for BARs: such VMMs, or their firmware, have placed them, and [`map`] makes them
//! reachable.
//!
//! [`start`]: crate::start
#![allow(unsafe_code)]

use core::arch::global_asm;
use core::sync::atomic::{AtomicUsize, Ordering};

use turnstile_boot::{BootInfo, COMMAND_LINE_MAX};

/// Tables for what is mapped later: two levels for each of three BARs.
const SPARE_TABLES: usize = 6;
/// Bytes that an entry of the lowest level maps.
const LARGE_PAGE: u64 = 2 << 20;
/// Entry bits: present, writable, open to ring 3.
const TABLE: u64 = 0x7;
/// The same, and a page of [`LARGE_PAGE`] instead of a table.
const PAGE: u64 = 0x87;

const _: () = assert!(BootInfo::BYTES == 64, "the record is written field by field below");

global_asm!(
    r#"
# Note XEN_ELFNOTE_PHYS32_ENTRY: the 32-bit entry point.
.section .note.pvh, "a", @note
.balign 4
    .long 4, 8, 18
    .asciz "Xen"
    .quad pvh_start

.section .text.pvh, "ax"
.code32
pvh_start:
    cld
    mov ebp, ebx
    # The old interrupt controllers, where there are any, stay silent: firmware leaves the timer on.
    mov al, 0xff
    out 0x21, al
    out 0xa1, al
    # 4 GiB from 0, in pages of 2 MiB, writable and open to ring 3.
    mov edi, offset pvh_pages
    mov eax, 0x87
    mov ecx, 4 * 512
2:  mov [edi], eax
    mov dword ptr [edi + 4], 0
    add eax, 0x200000
    add edi, 8
    loop 2b
    mov eax, offset pvh_pages + 7
    mov ecx, 4
    mov edi, offset pvh_directories
4:  mov [edi], eax
    add eax, 0x1000
    add edi, 8
    loop 4b
    mov eax, offset pvh_directories + 7
    mov [pvh_root], eax
    # Physical address extension, SSE, long mode, paging.
    mov eax, cr4
    or eax, 0x620
    mov cr4, eax
    mov eax, offset pvh_root
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, cr0
    and eax, 0xfffffff3
    or eax, 0x80000003
    mov cr0, eax
    lgdt [pvh_descriptors_pointer]
    .byte 0xea
    .long pvh_long
    .word 0x10

.code64
pvh_long:
    mov eax, 0x18
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov ebp, ebp
    # RAM: the piece of memory of type 1 that the image lies in.
    mov rsi, [rbp + 40]
    mov ecx, [rbp + 48]
    xor eax, eax
    lea rdx, [rip + pvh_start]
5:  test ecx, ecx
    jz 7f
    cmp dword ptr [rsi + 16], 1
    jne 6f
    cmp rdx, [rsi]
    jb 6f
    mov rbx, [rsi]
    add rbx, [rsi + 8]
    cmp rdx, rbx
    jae 6f
    mov rax, rbx
6:  add rsi, 24
    dec ecx
    jmp 5b
7:  # No more than is mapped.
    mov ecx, 0xc0000000
    cmp rax, rcx
    cmova rax, rcx
    lea rdi, [rip + pvh_boot]
    mov [rdi + 8], rax
    # The command line, at most as long as it may be.
    mov rsi, [rbp + 24]
    mov [rdi + 48], rsi
    xor ecx, ecx
    test rsi, rsi
    jz 9f
8:  cmp byte ptr [rsi + rcx], 0
    je 9f
    inc ecx
    cmp ecx, {command_line_max}
    jb 8b
9:  mov [rdi + 56], rcx
    xor esi, esi
    jmp _start

.section .data.pvh, "aw"
.balign 16
pvh_descriptors:
    .quad 0, 0
    .quad 0x00af9b000000ffff    # 0x10 code, 0x18 data, as turnstile_boot says
    .quad 0x00cf93000000ffff
pvh_descriptors_end:
pvh_descriptors_pointer:
    .word pvh_descriptors_end - pvh_descriptors - 1
    .quad pvh_descriptors
.balign 16
pvh_boot:
    .quad {magic}, 0, 0, 0, 0, 1, 0, 0

.section .bss.pvh, "aw", @nobits
.balign 4096
pvh_pages:
    .space 4 * 4096
pvh_directories:
    .space 4096
.globl pvh_root
pvh_root:
    .space 4096
.globl pvh_spare
pvh_spare:
    .space 4096 * {spare_tables}
"#,
    spare_tables = const SPARE_TABLES,
    magic = const BootInfo::MAGIC,
    command_line_max = const COMMAND_LINE_MAX,
);

type Table = [u64; 512];

/// Spare tables in use.
static SPARE_USED: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" {
    static mut pvh_root: Table;
    static mut pvh_spare: [Table; SPARE_TABLES];
}

/// Maps device memory one to one. `false`: it lies where no table is left for it, or it is no
/// address. Entries go from absent to present, so nothing has to be flushed.
pub(crate) fn map(base: u64, bytes: u64) -> bool {
    let Some(end) = base.checked_add(bytes).filter(|&end| end <= 1 << 47) else { return false };
    let mut at = base / LARGE_PAGE * LARGE_PAGE;
    while at < end {
        let root = &raw mut pvh_root;
        let Some(directories) = below(root, at >> 39) else { return false };
        let Some(pages) = below(directories, at >> 30) else { return false };
        // SAFETY: tables are this module's own and mapped one to one; only the boot processor, which
        // runs this, writes them.
        unsafe {
            let entry = &raw mut (*pages)[(at >> 21 & 511) as usize];
            if entry.read_volatile() == 0 {
                entry.write_volatile(at | PAGE);
            }
        }
        at += LARGE_PAGE;
    }
    true
}

/// The table that an entry leads to; a spare one if it leads nowhere yet.
fn below(table: *mut Table, index: u64) -> Option<*mut Table> {
    // SAFETY: as in `map`; the table is one of this module's.
    unsafe {
        let entry = &raw mut (*table)[(index & 511) as usize];
        if entry.read_volatile() == 0 {
            let spare = SPARE_USED.fetch_add(1, Ordering::Relaxed);
            if spare >= SPARE_TABLES {
                return None;
            }
            entry.write_volatile((&raw mut pvh_spare[spare]) as u64 | TABLE);
        }
        Some((entry.read_volatile() & !0xfff) as *mut Table)
    }
}
