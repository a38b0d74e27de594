//! What the verifier accepts and, above all, what it does not.

use super::*;
use crate::contract::{BlockShape, PointerContract};

const ARENA: (u64, u64) = (4 << 32, 4 << 30);

fn contract() -> Contract {
    Contract {
        kernels: vec![KernelContract {
            kernel: "k".into(),
            block: Some(BlockShape { x: 256, y: 1, z: 1 }),
            dynamic_shared: 1024,
            pointers: vec![PointerContract { offset: 16, align: 16 }],
        }],
    }
}

fn report() -> Report {
    let mut report = Report::default();
    report.contract = contract();
    report
}

/// A module with one kernel of this body, a device function, and some objects.
fn module(body: &str) -> String {
    format!(
        ".version 9.0\n.target sm_90\n.address_size 64\n\
         .extern .shared .align 16 .b8 dyn[];\n\
         .shared .align 16 .b8 tile[1024];\n\
         .func (.param .b32 r) f(.param .b64 a) {{ st.param.b32 [r], 1; ret; }}\n\
         .visible .entry k(.param .u64 p, .param .u32 n, .param .u64 q, .param .align 8 .b8 s[24]) {{\n\
         .reg .b64 %rd<20>; .reg .b32 %r<20>; .reg .b16 %h<4>; .reg .pred %p<8>; .reg .f32 %f<4>;\n\
         .local .align 8 .b8 frame[64];\n\
         {body}\nret;\n}}\n"
    )
}

fn run(body: &str) -> Result<(), VerifyError> {
    let arena = Arena::new(ARENA.0, ARENA.1).expect("an arena");
    verify(module(body), Vec::new(), GuardMode::Fence, arena, report()).map(|_| ())
}

fn accept(body: &str) {
    if let Err(error) = run(body) {
        panic!("refused: {error}\n{body}");
    }
}

fn refuse(body: &str) {
    match run(body) {
        Err(VerifyError::Unsafe { .. }) => {}
        Err(other) => panic!("refused for another reason: {other}\n{body}"),
        Ok(()) => panic!("accepted:\n{body}"),
    }
}

const LOAD_P: &str = "ld.param.u64 %rd1, [p];\n";
/// `%rd2` is the fenced `%rd1`, a multiple of 4.
const FENCE: &str = "mov.b64 {%r1, %r2}, %rd1; and.b32 %r1, %r1, -4; mov.b64 %rd2, {%r1, 4};\n";

#[test]
fn a_fenced_global_access_passes() {
    accept(&format!(
        "{LOAD_P}{FENCE} ld.global.u32 %r3, [%rd2]; st.global.u32 [%rd2+16777216], %r3;"
    ));
    accept(&format!("{LOAD_P}{FENCE} atom.global.add.u32 %r3, [%rd2-16777216], 1;"));
    accept(&format!("{LOAD_P}{FENCE} ld.u32 %r3, [%rd2];"));
    // The fence of a small arena's form, in a 4 GiB arena: also inside.
    accept(&format!(
        "{LOAD_P}mov.b64 {{%r1, _}}, %rd1; lop3.b32 %r2, %r1, 0x3ffffff0, 0x40000000, 0xEA;\
         mov.b64 %rd2, {{%r2, 4}}; ld.global.v4.u32 {{%r3, %r4, %r5, %r6}}, [%rd2];"
    ));
}

#[test]
fn the_high_half_in_a_large_arena_may_keep_its_low_bits() {
    let arena = Arena::new(1 << 40, 1 << 36).expect("an arena");
    let text = module(&format!(
        "{LOAD_P}mov.b64 {{%r1, %r2}}, %rd1; lop3.b32 %r3, %r2, 15, 0x100, 0xEA;\
         mov.b64 %rd2, {{%r1, %r3}}; ld.global.u8 %r4, [%rd2];"
    ));
    let go = |text: &str| verify(text.into(), vec![], GuardMode::Check, arena, report());
    assert!(go(&text).is_ok(), "{:?}", go(&text));
    assert!(go(&text.replace("15, 0x100", "31, 0x100")).is_err());
    assert!(go(&text.replace("ld.global.u8", "ld.global.u16")).is_err());
}

#[test]
fn an_unfenced_global_access_does_not_pass() {
    refuse(&format!("{LOAD_P} ld.global.u32 %r3, [%rd1];"));
    refuse(&format!("{LOAD_P} ld.u32 %r3, [%rd1];"));
    refuse("ld.global.u32 %r3, [0];");
    refuse("ld.global.u32 %r3, [%rd5];");
    refuse(&format!("{LOAD_P} prefetch.global.L2 [%rd1];"));
    refuse(&format!("{LOAD_P} red.global.add.u32 [%rd1], 1;"));
}

#[test]
fn a_fence_that_does_not_fence_does_not_pass() {
    // Another high half; too far an offset; too wide for the alignment; misaligned offset.
    refuse(&format!("{LOAD_P}{} ld.global.u32 %r3, [%rd2];", FENCE.replace(", 4}", ", 5}")));
    refuse(&format!("{LOAD_P}{FENCE} ld.global.u32 %r3, [%rd2+16777220];"));
    refuse(&format!("{LOAD_P}{FENCE} ld.global.u64 %rd3, [%rd2];"));
    refuse(&format!("{LOAD_P}{FENCE} ld.global.u32 %r3, [%rd2+2];"));
    // Redefined between fence and access.
    refuse(&format!("{LOAD_P}{FENCE} add.s64 %rd2, %rd2, %rd1; ld.global.u32 %r3, [%rd2];"));
    refuse(&format!("{LOAD_P}{FENCE} ld.global.u64 %rd2, [%rd2]; ld.global.u32 %r3, [%rd2];"));
    // The halves swapped.
    refuse(&format!(
        "{LOAD_P} mov.b64 {{%r1, %r2}}, %rd1; mov.b64 %rd2, {{4, %r1}}; ld.global.u8 %r3, [%rd2];"
    ));
}

#[test]
fn a_fence_must_be_on_every_way() {
    let skip = "setp.eq.u32 %p1, %r9, 0;\n";
    refuse(&format!(
        "{LOAD_P} mov.u64 %rd2, %rd1; @%p1 bra A;\n{FENCE} A: ld.global.u32 %r3, [%rd2];"
    ));
    refuse(&format!("{LOAD_P}{skip} @%p1 bra A;\n{FENCE} A: ld.global.u32 %r3, [%rd2];"));
    accept(&format!("{LOAD_P}{FENCE}{skip} @%p1 bra A;\n{FENCE} A: ld.global.u32 %r3, [%rd2];"));
    // A predicated fence leaves the old value.
    refuse(&format!(
        "{LOAD_P} mov.u64 %rd2, %rd1; mov.b64 {{%r1, %r2}}, %rd1; and.b32 %r1, %r1, -4;\
         @%p1 mov.b64 %rd2, {{%r1, 4}}; ld.global.u32 %r3, [%rd2];"
    ));
    // A loop that changes the register after the access.
    refuse(&format!(
        "{LOAD_P}{FENCE} L: ld.global.u32 %r3, [%rd2]; add.u64 %rd2, %rd2, %rd1; bra L;"
    ));
    // Used above its definition.
    refuse(&format!(
        "{LOAD_P} bra B; A: ld.global.u32 %r3, [%rd2]; ret; B: @%p1 bra A;\n{FENCE} bra A;"
    ));
}

#[test]
fn a_pointer_under_contract_needs_no_fence() {
    accept("ld.param.u64 %rd1, [q]; ld.global.v4.f32 {%f1, %f2, %f3, %f1}, [%rd1+16];");
    accept("ld.param.u64 %rd1, [q]; cvta.to.global.u64 %rd2, %rd1; ld.global.f32 %f1, [%rd2];");
    refuse("ld.param.u64 %rd1, [q]; add.u64 %rd1, %rd1, %rd2; ld.global.f32 %f1, [%rd1];");
    refuse("ld.param.u64 %rd1, [q]; ld.global.v4.f32 {%f1, %f2, %f3, %f1}, [%rd1+8];");
}

#[test]
fn shared_accesses_are_proved_or_clamped() {
    accept("ld.shared.u32 %r1, [tile+1020];");
    refuse("ld.shared.u32 %r1, [tile+1024];");
    refuse("ld.shared.u32 %r1, [tile-4];");
    refuse("ld.shared.u32 %r1, [tile+2];");
    let thread =
        "mov.u32 %r1, %tid.x; shl.b32 %r2, %r1, 2; mov.u32 %r3, tile; add.s32 %r4, %r3, %r2;";
    accept(&format!("{thread} st.shared.u32 [%r4], %r1;"));
    refuse(&format!("{thread} st.shared.u32 [%r4+4], %r1;"));
    refuse(&format!(
        "{} st.shared.u32 [%r4], %r1;",
        thread.replace("%tid.x", "%tid.y; add.u32 %r1, %r1, 256")
    ));
    refuse(&format!("{} st.shared.u32 [%r4], %r1;", thread.replace("%r1, 2;", "%r1, 3;")));
    accept(&format!(
        "setp.gt.u32 %p1, %r1, 3; {thread} setp.gt.u32 %p2, %r1, 254; @!%p2 st.shared.u32 [%r4+4], %r1;"
    ));
    refuse(&format!("{thread} setp.gt.u32 %p2, %r1, 254; @%p2 st.shared.u32 [%r4+4], %r1;"));
    let clamp = "ld.param.u32 %r5, [n]; mov.b32 %r6, tile; sub.s32 %r7, %r5, %r6; and.b32 %r7, %r7, -4;\
                 min.u32 %r8, %r7, 1016; add.s32 %r9, %r6, %r8;";
    accept(&format!("{clamp} ld.shared.u32 %r1, [%r9+4];"));
    refuse(&format!("{clamp} ld.shared.u32 %r1, [%r9+8];"));
    refuse(&format!("{} ld.shared.u32 %r1, [%r9];", clamp.replace("min.u32", "min.s32")));
    refuse(&format!("{} ld.shared.u32 %r1, [%r9];", clamp.replace("-4", "-2")));
    refuse(&format!("{clamp} ld.local.u32 %r1, [%r9];"));
    refuse(&format!("{clamp} cvt.u64.u32 %rd1, %r9; ld.global.u8 %r1, [%rd1];"));
}

#[test]
fn dynamic_shared_memory_is_bounded_by_the_contract_or_by_its_own_size() {
    accept("ld.shared.u32 %r1, [dyn+1020];");
    refuse("ld.shared.u32 %r1, [dyn+1024];");
    let clamp = "ld.param.u32 %r5, [n]; mov.b32 %r6, dyn; sub.s32 %r7, %r5, %r6; and.b32 %r7, %r7, -16;\
                 mov.u32 %r10, %dynamic_smem_size; sub.u32 %r11, %r10, 16; min.u32 %r8, %r7, %r11; add.s32 %r9, %r6, %r8;";
    // Aligned by the address but not by the bound, whose size may be anything.
    refuse(&format!("{clamp} ld.shared.u32 %r1, [%r9];"));
    let even = clamp
        .replace("min.u32 %r8, %r7, %r11;", "and.b32 %r11, %r11, -16; min.u32 %r8, %r7, %r11;");
    accept(&format!("{even} ld.shared.v4.u32 {{%r1, %r2, %r3, %r4}}, [%r9];"));
    refuse(&format!("{even} ld.shared.u32 %r1, [%r9+16];"));
    // More than the contract promises may wrap below zero.
    refuse(&format!("{} ld.shared.u32 %r1, [%r9];", even.replace("%r10, 16;", "%r10, 2048;")));
}

#[test]
fn loops_are_followed() {
    let walk = |step: &str, end: &str| {
        format!(
            "mov.u32 %r1, 0; mov.u32 %r3, tile; L: shl.b32 %r2, %r1, 2; add.s32 %r4, %r3, %r2;\
             st.shared.u32 [%r4], %r1; add.s32 %r1, %r1, {step}; setp.lt.u32 %p1, %r1, {end}; @%p1 bra L;"
        )
    };
    accept(&walk("1", "256"));
    refuse(&walk("1", "257"));
    refuse(&walk("1", "%r9"));
    // Minus one is no small unsigned number, but a small signed one.
    accept(&walk("-1", "256"));
    refuse(&walk("-1", "256").replace("lt.u32", "lt.s32"));
    // A reduction: the thread's own place and its partner's.
    let reduce = "mov.u32 %r1, %tid.x; shl.b32 %r2, %r1, 2; mov.u32 %r3, tile; add.s32 %r4, %r3, %r2;\
                  mov.u32 %r10, %ntid.x; L: shr.u32 %r5, %r10, 1; setp.ge.u32 %p1, %r1, %r5; @%p1 bra N;\
                  shl.b32 %r6, %r5, 2; add.s32 %r7, %r4, %r6; ld.shared.u32 %r8, [%r7];\
                  N: setp.gt.u32 %p2, %r10, 3; mov.u32 %r10, %r5; @%p2 bra L;";
    accept(reduce);
    refuse(&reduce.replace("setp.ge.u32 %p1, %r1, %r5", "setp.lt.u32 %p1, %r1, %r5"));
    refuse(&reduce.replace("shr.u32 %r5, %r10, 1", "shl.b32 %r5, %r10, 1"));
}

#[test]
fn a_running_address_is_bounded_by_the_loops_counter() {
    let walk = |start: &str, step: &str, test: &str| {
        format!(
            "mov.u32 %r4, tile; mov.u32 %r1, {start}; L: st.shared.u32 [%r4], %r1; add.s32 %r4, %r4, 4;\
             add.s32 %r1, %r1, {step}; {test} @%p1 bra L;"
        )
    };
    accept(&walk("256", "-1", "setp.ne.s32 %p1, %r1, 0;"));
    refuse(&walk("257", "-1", "setp.ne.s32 %p1, %r1, 0;"));
    accept(&walk("0", "1", "setp.ne.u32 %p1, %r1, 256;"));
    refuse(&walk("0", "1", "setp.ne.u32 %p1, %r1, 257;"));
    // Steps over the end, or away from it.
    refuse(&walk("255", "-2", "setp.ne.s32 %p1, %r1, 0;"));
    refuse(&walk("0", "-1", "setp.ne.s32 %p1, %r1, 256;"));
    accept(&walk("0", "4", "setp.lt.u32 %p1, %r1, 1024;"));
    accept(&walk("0", "4", "setp.lt.u32 %p1, %r1, 1021;"));
    refuse(&walk("0", "4", "setp.lt.u32 %p1, %r1, 1025;"));
    refuse(&walk("0", "4", "setp.lt.u32 %p1, %r1, %r9;"));
    refuse(&walk("0", "4", "setp.ge.u32 %p1, %r1, 4;"));
    accept(&walk("1000", "-4", "setp.gt.s32 %p1, %r1, 0;"));
    // Unsigned numbers never go below zero: this one wraps and the loop goes on.
    refuse(&walk("1000", "-3", "setp.ge.u32 %p1, %r1, 0;"));
    refuse(&walk("1000", "-3", "setp.gt.u32 %p1, %r1, 0;"));
    // A start that is known, but not to be on the grid of the steps.
    refuse(&walk("%tid.x", "-2", "setp.ne.s32 %p1, %r1, 0;"));
    // The counter is touched elsewhere in the loop; the address moves twice; a second way back.
    refuse(&walk("256", "-1", "@%p2 mov.u32 %r1, %r9; setp.ne.s32 %p1, %r1, 0;"));
    refuse(&walk("256", "-1", "@%p2 add.s32 %r4, %r4, 4; setp.ne.s32 %p1, %r1, 0;"));
    refuse(&walk("256", "-1", "@%p2 bra L; setp.ne.s32 %p1, %r1, 0;"));
    // The loop's own loop starts the counter again, but not the address.
    refuse(
        "mov.u32 %r4, tile; O: mov.u32 %r1, 0; L: st.shared.u32 [%r4], %r1; add.s32 %r4, %r4, 4;\
         add.s32 %r1, %r1, 1; setp.ne.s32 %p1, %r1, 16; @%p1 bra L; bra O;",
    );
}

#[test]
fn selections_know_their_condition() {
    let ring = "mov.u32 %r1, 0; mov.u32 %r3, tile; L: shl.b32 %r2, %r1, 8; add.s32 %r4, %r3, %r2;\
                st.shared.u32 [%r4], %r1; add.s32 %r5, %r1, 1; setp.gt.s32 %p1, %r5, 3;\
                selp.b32 %r1, 0, %r5, %p1; bra L;";
    accept(ring);
    refuse(&ring.replace("%r5, 3", "%r5, 4"));
    accept(&ring.replace("%r1, 0;", "%r1, 3;"));
    refuse(&ring.replace("%r1, 0;", "%r1, 3;").replace("0, %r5, %p1", "%r5, 0, %p1"));
}

#[test]
fn facts_do_not_outlive_the_value_they_speak_of() {
    // The test is on the old value of %r1; the access uses a new one.
    refuse(
        "ld.param.u32 %r1, [n]; setp.gt.u32 %p1, %r1, 200; @%p1 bra E; ld.param.u32 %r1, [n+0];\
         shl.b32 %r2, %r1, 2; mov.u32 %r3, tile; add.s32 %r4, %r3, %r2; st.shared.u32 [%r4], %r1; E:",
    );
    accept(
        "ld.param.u32 %r1, [n]; setp.gt.u32 %p1, %r1, 200; @%p1 bra E;\
         shl.b32 %r2, %r1, 2; mov.u32 %r3, tile; add.s32 %r4, %r3, %r2; st.shared.u32 [%r4], %r1; E:",
    );
    // The predicate is overwritten before the branch.
    refuse(
        "ld.param.u32 %r1, [n]; setp.gt.u32 %p1, %r1, 200; setp.eq.u32 %p1, %r9, 1; @%p1 bra E;\
         shl.b32 %r2, %r1, 2; mov.u32 %r3, tile; add.s32 %r4, %r3, %r2; st.shared.u32 [%r4], %r1; E:",
    );
    // A loop: the bound is tested, then the value changes, then it is used.
    refuse(
        "ld.param.u32 %r1, [n]; L: setp.gt.u32 %p1, %r1, 255; @%p1 bra E; add.u32 %r1, %r1, 1;\
         shl.b32 %r2, %r1, 2; mov.u32 %r3, tile; add.s32 %r4, %r3, %r2; st.shared.u32 [%r4], %r1; bra L; E:",
    );
    // An address kept from an earlier round of the loop, tested with the index of this one.
    refuse(
        "ld.param.u32 %r1, [n]; mov.u32 %r3, tile; mov.u32 %r4, tile;\
         L: setp.gt.u32 %p1, %r1, 255; @%p1 bra N; st.shared.u32 [%r4], %r1;\
         N: shl.b32 %r2, %r1, 2; add.s32 %r4, %r3, %r2; ld.param.u32 %r1, [n]; bra L;",
    );
}

#[test]
fn local_and_parameter_accesses_stay_in_their_objects() {
    accept("st.local.u64 [frame+56], %rd1;");
    refuse("st.local.u64 [frame+64], %rd1;");
    refuse("st.local.u64 [frame+60], %rd1;");
    let index = "ld.param.u32 %r1, [n]; and.b32 %r1, %r1, 7; mul.wide.u32 %rd1, %r1, 8; mov.u64 %rd2, frame;\
                 add.s64 %rd3, %rd2, %rd1;";
    accept(&format!("{index} ld.local.u64 %rd4, [%rd3];"));
    refuse(&format!("{} ld.local.u64 %rd4, [%rd3];", index.replace("%r1, 7;", "%r1, 15;")));
    accept(&format!("{index} cvta.local.u64 %rd5, %rd3; st.u64 [%rd5], %rd4;"));
    refuse(&format!("{index} cvta.shared.u64 %rd5, %rd3; st.u64 [%rd5], %rd4;"));
    refuse(&format!("{index} st.u64 [%rd3], %rd4;"));
    accept("ld.param.u64 %rd1, [s+16];");
    refuse("ld.param.u64 %rd1, [s+24];");
    refuse("ld.param.u64 %rd1, [s+4];");
    refuse("ld.param.u64 %rd1, [n];");
    accept("mov.b64 %rd1, s; ld.param.u32 %r1, [%rd1+20];");
    refuse("mov.b64 %rd1, s; ld.param.u32 %r1, [%rd1+24];");
    refuse("st.param.u64 [s], %rd1;");
}

#[test]
fn generic_arms_are_each_checked() {
    let arms = |arm: &str| {
        format!(
            "{LOAD_P}{FENCE} mov.u32 %r5, tile; cvt.u64.u32 %rd4, %r5; cvta.shared.u64 %rd5, %rd4;\
             isspacep.shared %p1, %rd1; selp.b64 %rd6, {arm}, %rd2, %p1; ld.u32 %r6, [%rd6];"
        )
    };
    accept(&arms("%rd5"));
    accept(&arms("%rd5").replace("ld.u32 %r6, [%rd6]", "atom.add.u32 %r6, [%rd6], 1"));
    refuse(
        &arms("%rd5")
            .replace("ld.u32 %r6, [%rd6]", "ldmatrix.sync.aligned.m8n8.x1.b16 {%r6}, [%rd6]"),
    );
    refuse("mov.u64 %rd1, frame; cvta.local.u64 %rd2, %rd1; atom.add.u32 %r6, [%rd2], 1;");
    refuse(&arms("%rd4"));
    refuse(&arms("%rd1"));
}

#[test]
fn control_stays_in_the_module() {
    let call = |args: &str| {
        format!(
            "{{ .param .b32 x; .param .b64 y; .param .b32 z; .param .align 4 .b8 w[8]; {args} }}"
        )
    };
    accept(&call("st.param.b64 [y], %rd1; call (x), f, (y); ld.param.b32 %r1, [x];"));
    accept(&call("call (x), f, (%rd1);"));
    refuse(&call("call (w), f, (y);"));
    refuse(&call("call (x), f, (z);"));
    refuse(&call("call (x), f, (y, y);"));
    refuse(&call("call f, (y);"));
    refuse(&call("call (n), f, (y);"));
    refuse("proto: .callprototype _ (.param .b64 _); call %rd1, (%rd2), proto;");
    refuse("mov.u64 %rd1, f;");
    refuse("trap;");
    let index =
        "ld.param.u32 %r1, [n]; T: .branchtargets A, B; min.u32 %r2, %r1, 1; brx.idx %r2, T; A: B:";
    accept(index);
    refuse(&index.replace("min.u32 %r2, %r1, 1", "min.u32 %r2, %r1, 2"));
    refuse(&index.replace("min.u32", "min.s32"));
    refuse("bar.sync 16;");
    refuse("bar.sync %r1;");
    refuse("bar.sync 1, 33;");
    refuse("and.b32 %r1, %r2, 15; bar.sync %r1;");
    refuse("mov.u32 %r1, 3; bar.sync %r1;");
    refuse("bar.sync 1, %r1;");
    accept("bar.sync 1, 64; bar.arrive 1, 64; bar.red.popc.u32 %r1, 0, %p1; bar.sync 2;");
    refuse("bar.sync 1, 64; bar.arrive 1, 96;");
    refuse("bar.sync 1, 64; bar.sync 1;");
    refuse("bar.sync 0; bar.red.popc.u32 %r1, 0, %p1;");
    refuse("bar.red.and.pred %p2, 0, %p1; bar.red.popc.u32 %r1, 0, %p1;");
    accept("bar.red.and.pred %p2, 0, %p1; bar.red.popc.u32 %r1, 1, %p1;");
    refuse(".pragma \"nounroll\";");
}

#[test]
fn recursion_and_module_variables_do_not_pass() {
    let arena = Arena::new(ARENA.0, ARENA.1).expect("an arena");
    let go = |items: &str| {
        let text = format!(".version 9.0\n.target sm_90\n.address_size 64\n{items}");
        verify(text, Vec::new(), GuardMode::Fence, arena, Report::default())
    };
    assert!(
        go(".func a() { ret; } .func b() { call a; ret; } .entry k() { call b; ret; }").is_ok()
    );
    assert!(go(".func a() { call a; ret; }").is_err());
    assert!(go(".func b(); .func a() { call b; ret; } .func b() { call a; ret; }").is_err());
    assert!(go(".global .u32 x; .entry k() { ret; }").is_err());
    // Constants may stay when they hold numbers and are read inside.
    let read = ".const .align 4 .b8 x[8] = {1}; .entry k() { .reg .b32 %r<3>; ld.const.u32 %r1, [x+AT]; ret; }";
    assert!(go(&read.replace("AT", "4")).is_ok());
    assert!(go(&read.replace("AT", "8")).is_err());
    assert!(go(&read.replace("AT", "2")).is_err());
    assert!(go(&read.replace("AT", "4").replace("ld.const", "ld.global")).is_err());
    assert!(
        go(&read.replace("AT", "4").replace("ld.const.u32 %r1, [x+4]", "st.const.u32 [x], 1"))
            .is_err()
    );
    assert!(go(".func f() { ret; } .const .u64 x = f; .entry k() { ret; }").is_err());
    assert!(go(".entry k() { .global .u32 x; ret; }").is_err());
    assert!(go(".extern .func vprintf(.param .b64 a); .entry k() { ret; }").is_err());
    assert!(go(".entry k() { .reg .b32 %r<2>; mov.u32 %r1, 0; }").is_err());
    let meet = ".func f() { bar.sync 1, 64; ret; } .entry k() { CALL bar.sync 1, 96; ret; }";
    assert!(go(&meet.replace("CALL", "")).is_ok());
    assert!(go(&meet.replace("CALL", "call f;")).is_err());
    assert!(go(".func a() .noreturn { ret; } .entry k() { ret; }").is_err());
    assert!(
        go(".entry k() { { .reg .b32 a; mov.u32 a, 1; } { .reg .b32 a; mov.u32 a, 1; } ret; }")
            .is_err()
    );
}

#[test]
fn copies_are_bounded_on_both_sides() {
    let fence16 = FENCE.replace("-4", "-16");
    let copy = |tail: &str| format!("{LOAD_P}{fence16} mov.u32 %r5, tile; {tail}");
    accept(&copy("cp.async.cg.shared.global [%r5], [%rd2], 16;"));
    accept(&copy("cp.async.ca.shared.global [%r5+1020], [%rd2], 4, %r3;"));
    refuse(&copy("cp.async.cg.shared.global [%r5+1020], [%rd2], 16;"));
    refuse(&copy("cp.async.cg.shared.global [%r5], [%rd1], 16;"));
    let bulk = |size: &str| {
        copy(&format!(
            "ld.param.u32 %r6, [n]; and.b32 %r7, %r6, -16; min.u32 %r8, %r7, 512;\
             cp.async.bulk.global.shared::cta.bulk_group [%rd2], [%r5], {size};"
        ))
    };
    accept(&bulk("%r8"));
    accept(&bulk("1024"));
    refuse(&bulk("1040"));
    refuse(&bulk("1000"));
    refuse(&bulk("%r7"));
    refuse(&bulk("%r8").replace("[%rd2]", "[%rd1]"));
    refuse(&bulk("%r8").replace("[%r5]", "[%r5+8]"));
    refuse(&bulk("%r8").replace("[%r5]", "[%r5+528]"));
    accept(&bulk("%r8").replace("[%r5]", "[%r5+512]"));
    accept(&copy("cp.async.bulk.prefetch.L2.global [%rd2], 4096;"));
    refuse(&copy("cp.async.bulk.prefetch.L2.global [%rd1], 4096;"));
    // mbarriers fault when they hold what they should not, so none remain.
    refuse(&copy(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r5], [%rd2], 16, [tile+1016];",
    ));
    refuse(&copy("mbarrier.init.shared.b64 [tile+1016], 1;"));
    refuse(&copy("cp.async.mbarrier.arrive.shared.b64 [tile+1016];"));
    refuse(&copy("ld.global.L2::cache_hint.u32 %r6, [%rd2], %rd3;"));
    accept(&copy("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [tile+16];"));
    refuse(&copy("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [tile+8];"));
}

#[test]
fn registers_of_another_width_prove_nothing() {
    refuse(&format!(
        "{LOAD_P}{FENCE} cvt.u32.u64 %r5, %rd2; cvt.u64.u32 %rd3, %r5; ld.global.u32 %r3, [%rd3];"
    ));
    // Too many bits for the register: what it holds is not what the number says.
    refuse("mov.u32 %r1, 0x400000000; ld.global.u32 %r2, [%r1];");
    refuse("mov.u32 %r1, 0x400000000; ld.u32 %r2, [%r1];");
    accept("mov.u64 %rd1, 0x400000000; ld.u32 %r2, [%rd1];");
    // Packed halves do not carry into each other, so this is no 32-bit sum.
    let sum = "ld.param.u32 %r1, [n]; and.b32 %r1, %r1, 0xffff; add.u32 %r1, %r1, 0x1fff0; sub.u32 %r1, %r1, 0x10000;\
               setp.lt.u32 %p1, %r1, 32; @!%p1 bra E; shl.b32 %r1, %r1, 2; mov.u32 %r2, tile; add.u32 %r3, %r2, %r1;\
               ld.shared.u32 %r4, [%r3]; E:";
    accept(sum);
    let packed = "ld.param.u32 %r1, [n]; and.b32 %r1, %r1, 255; shl.b32 %r1, %r1, 2; add.OP %r1, %r1, 65536;\
                  mov.u32 %r2, tile; add.u32 %r3, %r2, %r1; ld.shared.u32 %r4, [%r3+-65536];";
    accept(&packed.replace("OP", "u32"));
    refuse(&packed.replace("OP", "u16x2"));
    // A 16-bit shift does not carry into 32 bits.
    accept(
        "cvt.u16.u32 %h1, %r9; shl.b16 %h2, %h1, 2; cvt.u32.u16 %r1, %h2; min.u32 %r1, %r1, 1020; mov.u32 %r2, tile; add.u32 %r3, %r2, %r1; ld.shared.u32 %r4, [%r3];",
    );
}

#[test]
fn a_uniform_branch_says_nothing_about_other_lanes() {
    let body = |branch: &str| {
        format!(
            "mov.u32 %r1, %tid.x; setp.ge.u32 %p1, %r1, 64; @%p1 {branch} E; shl.b32 %r2, %r1, 4;\
             mov.u32 %r3, tile; add.u32 %r3, %r3, %r2; st.shared.v4.u32 [%r3], {{%r1, %r1, %r1, %r1}}; E:"
        )
    };
    accept(&body("bra"));
    refuse(&body("bra.uni"));
}

#[test]
fn a_register_has_the_width_of_the_declaration_that_covers_it() {
    let wide = "{ .reg .b64 %w<100>; .reg .b32 %w1<5>;\n";
    let narrow = "{ .reg .b32 %w<100>; .reg .b64 %w1<5>;\n";
    let access = format!("{LOAD_P}{} ld.global.u32 %r3, [%w17]; }}", FENCE.replace("%rd2", "%w17"));
    let head = |registers: &str| format!("{}{access}", registers.replace("{ ", ""));
    accept(head(wide).trim_end_matches('}'));
    refuse(head(narrow).trim_end_matches('}'));
}
