//! The only code that runs in ring 0: entry, system calls, interrupts, faults.
//!
//! It is assembly, small and free of SSE, because ring 0 may be emulated instruction by instruction
//! while ring 3 runs on the processor itself. A vCPU sets its tables up and drops to ring 3; from
//! then on ring 0 only answers.
//!
//! The system call is `int3`: unlike `int n` and `syscall` it works under every KVM there is. The
//! number is in `rax`, arguments in `rdi`, `rsi`, `rdx`; `rax`, `rcx`, `rdx` and `rsi` are lost.
#![allow(unsafe_code)]

use core::arch::global_asm;

/// vCPUs there are stacks and tables for.
pub(crate) const MAX_CPUS: usize = 4;
/// Stack of the boot processor in ring 3, in bytes: the workload's, and as much again for what
/// calls it.
pub(crate) const STACK_BYTES: usize = 2 * turnstile_workloads::STACK_BYTES;
/// Vector by which the boot processor wakes another.
pub(crate) const WAKE_VECTOR: u8 = 0xf0;

/// System call numbers.
pub(crate) mod call {
    /// `out dx, al`: port, value.
    pub(crate) const OUT8: u64 = 0;
    /// `out dx, eax`: port, value.
    pub(crate) const OUT32: u64 = 1;
    /// `in al, dx`: port.
    pub(crate) const IN8: u64 = 2;
    /// `in eax, dx`: port.
    pub(crate) const IN32: u64 = 3;
    /// `rep outsb`: port, address, length.
    pub(crate) const OUT_BYTES: u64 = 4;
    /// Sleep until an interrupt, unless the word at the first argument is no longer the second; the
    /// third goes into the APIC timer first.
    pub(crate) const SLEEP: u64 = 5;
    /// This processor has nothing to do any more.
    pub(crate) const PARK: u64 = 6;
    /// Fault with no way to handle it.
    pub(crate) const TRIPLE_FAULT: u64 = 7;
    /// Halt with interrupts off.
    pub(crate) const HALT: u64 = 8;
}

global_asm!(
    r#"
.section .text.start, "ax"
.globl _start
_start:
    cmp rsi, {max_cpus}
    jae 9f
    mov r8, rdi
    # Ring 0 stack and task state of this processor.
    lea rbx, [rip + kernel_stacks + 4096]
    mov rcx, rsi
    shl rcx, 12
    add rbx, rcx
    mov rsp, rbx
    lea rax, [rip + task_states]
    mov rcx, rsi
    shl rcx, 7
    add rax, rcx
    mov [rax + 4], rbx
    mov word ptr [rax + 102], 104
    # Its descriptor: an available 64-bit TSS of 104 bytes.
    lea rdi, [rip + descriptors + 0x30]
    mov rcx, rsi
    shl rcx, 4
    add rdi, rcx
    mov word ptr [rdi], 103
    mov [rdi + 2], ax
    mov rdx, rax
    shr rdx, 16
    mov [rdi + 4], dl
    mov byte ptr [rdi + 5], 0x89
    mov [rdi + 7], dh
    shr rax, 32
    mov [rdi + 8], eax
    lgdt [rip + descriptors_pointer]
    add ecx, 0x30
    ltr cx
    lidt [rip + gates_pointer]
    # Enable the local APIC.
    mov eax, 0xfee000f0
    mov dword ptr [rax], 0x1ff
    test rsi, rsi
    jnz 5f
    # The system call's gate, open to ring 3. Ring 3 fills in the others.
    lea rdi, [rip + gates + 3 * 16]
    lea rax, [rip + system_call]
    mov [rdi], ax
    mov dword ptr [rdi + 2], 0xee000010
    shr rax, 16
    mov [rdi + 6], ax
    shr rax, 16
    mov [rdi + 8], eax
    lea rbx, [rip + {stack} + {stack_bytes}]
    lea rcx, [rip + {boot}]
    mov rdi, r8
    jmp to_ring_3
    # Another processor: the second waits for work, the rest have none.
5:  cmp rsi, 1
    jne 9f
    mov dword ptr [rip + {awake}], 1
6:  sti
    hlt
    cli
    mov rdi, [rip + {job}]
    test rdi, rdi
    jz 6b
    mov qword ptr [rip + {job}], 0
    lea rsp, [rip + kernel_stacks + 8192]
    lea rbx, [rip + {other_stack} + {stack_bytes}]
    lea rcx, [rip + {other}]
    jmp to_ring_3
9:  hlt
    jmp 9b

# rcx: where; rbx: stack; rdi: argument.
to_ring_3:
    sub rbx, 8
    push 0x23
    push rbx
    push 0x202
    push 0x2b
    push rcx
    iretq

system_call:
    cmp eax, {out8}
    je 20f
    cmp eax, {out32}
    je 21f
    cmp eax, {in8}
    je 22f
    cmp eax, {in32}
    je 23f
    cmp eax, {out_bytes}
    je 24f
    cmp eax, {sleep}
    je 25f
    cmp eax, {park}
    je 26f
    cmp eax, {triple_fault}
    je 27f
    cmp eax, {halt}
    je 28f
    iretq
20: mov edx, edi
    mov eax, esi
    out dx, al
    iretq
21: mov edx, edi
    mov eax, esi
    out dx, eax
    iretq
22: mov edx, edi
    xor eax, eax
    in al, dx
    iretq
23: mov edx, edi
    in eax, dx
    iretq
24: mov rcx, rdx
    mov edx, edi
    rep outsb
    iretq
25: mov ecx, 0xfee00380
    mov [rcx], edx
    cmp [rdi], esi
    jne 3f
    sti
    hlt
    cli
3:  iretq
26: lea rsp, [rip + kernel_stacks + 8192]
    jmp 6b
27: lidt [rip + no_gates_pointer]
    ud2
28: cli
    hlt
    jmp 28b

# Interrupts: count by vector and in all, acknowledge.
interrupt:
    push rcx
    mov ecx, [rsp + 8]
    push rax
    lea rax, [rip + {counts}]
    lock inc dword ptr [rax + rcx * 4]
    lock inc dword ptr [rip + {total}]
    mov eax, 0xfee000b0
    mov dword ptr [rax], 0
    pop rax
    pop rcx
    add rsp, 8
    iretq

# Faults: [rsp] vector, error code, rip, cs, rflags, rsp, ss. From ring 3, continue there in the
# fault handler; from ring 0, give up.
fault:
    test byte ptr [rsp + 24], 3
    jz 4f
    mov rdi, [rsp]
    mov rsi, [rsp + 8]
    mov rdx, [rsp + 16]
    mov rcx, cr2
    lea rax, [rip + {fault_stack} + {fault_stack_bytes} - 8]
    mov [rsp + 40], rax
    lea rax, [rip + {faulted}]
    mov [rsp + 16], rax
    add rsp, 16
    iretq
4:  lea rsi, [rip + ring_0_fault]
    mov ecx, 37
    mov edx, {serial_port}
    rep outsb
    mov rdi, [rsp]
    call print_hex
    mov rdi, [rsp + 8]
    call print_hex
    mov rdi, [rsp + 16]
    call print_hex
    mov eax, 10
    out dx, al
    mov edx, {exit_port}
    mov eax, {exit_fault}
    out dx, eax
    jmp 28b

# A space and the 16 digits of rdi to port dx.
print_hex:
    mov eax, 32
    out dx, al
    mov ecx, 16
7:  rol rdi, 4
    mov eax, edi
    and eax, 15
    cmp eax, 10
    jb 8f
    add eax, 39
8:  add eax, 48
    out dx, al
    dec ecx
    jnz 7b
    ret

# One stub a vector, 16 bytes apart.
.balign 16
.globl vector_stubs
vector_stubs:
.set i, 0
.rept 256
.balign 16
.if i < 32
.if i == 8 || (i >= 10 && i <= 14) || i == 17 || i == 21 || i == 29 || i == 30
.else
    push 0
.endif
    push i
    jmp fault
.else
    push i
    jmp interrupt
.endif
.set i, i + 1
.endr

.section .data.start, "aw"
.balign 16
descriptors:
    .quad 0, 0
    .quad 0x00af9b000000ffff    # 0x10 code, ring 0: these two as the VM sets them
    .quad 0x00cf93000000ffff    # 0x18 data, ring 0
    .quad 0x00cff3000000ffff    # 0x20 data, ring 3
    .quad 0x00affb000000ffff    # 0x28 code, ring 3
    .space 16 * {max_cpus}      # 0x30 task states
descriptors_end:
descriptors_pointer:
    .word descriptors_end - descriptors - 1
    .quad descriptors
gates_pointer:
    .word 4095
    .quad gates
no_gates_pointer:
    .word 0
    .quad 0
ring_0_fault:
    .ascii "fault in ring 0 (vector, error, rip):"
ring_0_fault_end:

.section .bss.start, "aw", @nobits
.balign 4096
.globl gates
gates:
    .space 4096
kernel_stacks:
    .space 4096 * {max_cpus}
task_states:
    .space 128 * {max_cpus}
"#,
    max_cpus = const MAX_CPUS,
    stack_bytes = const STACK_BYTES,
    fault_stack_bytes = const crate::fault::STACK_BYTES,
    serial_port = const turnstile_boot::SERIAL_PORT,
    exit_port = const turnstile_boot::EXIT_PORT,
    exit_fault = const turnstile_boot::ExitCode::Fault as u32,
    out8 = const call::OUT8,
    out32 = const call::OUT32,
    in8 = const call::IN8,
    in32 = const call::IN32,
    out_bytes = const call::OUT_BYTES,
    sleep = const call::SLEEP,
    park = const call::PARK,
    triple_fault = const call::TRIPLE_FAULT,
    halt = const call::HALT,
    stack = sym crate::STACK,
    other_stack = sym crate::processor::STACK,
    fault_stack = sym crate::fault::STACK,
    boot = sym crate::boot,
    other = sym crate::processor::run_job,
    job = sym crate::processor::JOB,
    awake = sym crate::processor::AWAKE,
    counts = sym crate::interrupt::COUNTS,
    total = sym crate::interrupt::TOTAL,
    faulted = sym crate::fault::faulted,
);
