//! Kernels that bring a group of lanes to where its assumptions end: each must do what the interpreter does.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use turnstile_ptx::view::ModuleView;
use turnstile_ptx::{Limits, parse};

use crate::fault::Fault;
use crate::memory::{ARENA_BASE, Access, AddressSpace, Arena};
use crate::program::{Engine, LaunchConfig, LaunchError, LoadedProgram};

const WORDS: usize = 1024;

/// A kernel of `(u64 out, u32 value)`; `%r1` = `%tid.x`, `%rd3` = the thread's word of out, `%r2` = value.
fn kernel(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n\
         .visible .entry k(.param .u64 out, .param .u32 value) {{\n\
         .reg .pred %p<8>; .reg .b32 %r<32>; .reg .b64 %rd<16>; .reg .f32 %f<8>;\n\
         .shared .align 4 .b8 s[4096];\n\
         ld.param.u64 %rd1, [out]; ld.param.u32 %r2, [value]; mov.u32 %r1, %tid.x;\n\
         mul.wide.u32 %rd3, %r1, 4; add.s64 %rd3, %rd1, %rd3;\n{body}\nret;\n}}\n"
    )
}

/// What a body leaves in the words of out, or its fault.
fn run(body: &str, engine: Engine, block: [u32; 3], value: u32) -> Result<Vec<u32>, Fault> {
    let text = kernel(body);
    let module = parse(text.as_bytes(), &Limits::default()).expect("the test's PTX parses");
    let view = ModuleView::of(&module).expect("the test's PTX has a layout");
    let mut space = AddressSpace::new(Arena { base: ARENA_BASE, log2: 32 }).unwrap();
    let mut program = LoadedProgram::load(&module, &view, &mut space).unwrap();
    let out = space.allocate(4 * WORDS as u64, Access::READ_WRITE).unwrap();
    let mut params = out.to_le_bytes().to_vec();
    params.extend(u64::from(value).to_le_bytes());
    let config = LaunchConfig { engine, ..LaunchConfig::new([2, 1, 1], block, params) };
    match program.launch("k", &config, space.snapshot(), &Arc::new(AtomicBool::new(false))) {
        Ok(_) => {}
        Err(LaunchError::Fault(fault)) => return Err(*fault),
        Err(other) => panic!("{other}"),
    }
    let mut bytes = vec![0; 4 * WORDS];
    space.read(out, &mut bytes).unwrap();
    Ok(bytes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect())
}

/// Both engines give the same, and what it is.
fn both(body: &str, block: [u32; 3], value: u32) -> Result<Vec<u32>, Fault> {
    let interpreted = run(body, Engine::Interpreter, block, value);
    let compiled = run(body, Engine::Compiled, block, value);
    assert_eq!(interpreted, compiled, "{body}");
    compiled
}

#[test]
fn a_run_that_ends_inside_a_group_faults_at_its_lane() {
    // Thread t stores word t + 1000 of 1024: the first that is outside is thread 24's, the first of a group; then 21's.
    for (offset, first) in [(4000, 24), (4012, 21)] {
        let body = format!("st.global.u32 [%rd3+{offset}], %r1;");
        let fault = both(&body, [64, 1, 1], 0).unwrap_err();
        assert_eq!(fault.thread, [first, 0, 0]);
    }
    let fault = both("add.s64 %rd3, %rd3, 2;\nld.global.u32 %r3, [%rd3];", [64, 1, 1], 0);
    assert_eq!(fault.unwrap_err().thread, [0, 0, 0]);
}

#[test]
fn bytes_one_below_a_buffer_are_outside() {
    // The first lane's byte lies before the buffer, the last lane's inside.
    let body = "sub.s64 %rd4, %rd1, 1;\ncvt.u64.u32 %rd5, %r1;\nadd.s64 %rd4, %rd4, %rd5;\nst.global.u8 [%rd4], %r1;";
    assert_eq!(both(body, [32, 1, 1], 0).unwrap_err().thread, [0, 0, 0]);
}

#[test]
fn counting_that_wraps_is_no_run() {
    let body = "add.u32 %r3, %r1, %r2;\nmul.wide.u32 %rd4, %r3, 4;\ncvt.u32.u64 %r4, %rd4;\n\
                shr.u64 %rd4, %rd4, 32;\ncvt.u32.u64 %r5, %rd4;\nadd.u32 %r4, %r4, %r5;\nst.global.u32 [%rd3], %r4;";
    let words = both(body, [32, 1, 1], u32::MAX - 11).unwrap();
    assert_eq!(words[12], 0, "thread 12 is where the index wraps");
    let signed = body.replace("mul.wide.u32", "mul.wide.s32");
    both(&signed, [32, 1, 1], i32::MAX as u32 - 11).unwrap();
}

#[test]
fn lanes_that_part_meet_the_same_results() {
    let bodies = [
        // A bound inside a group, an odd lane, a loop of a different length each.
        "setp.lt.u32 %p1, %r1, 21;\n@%p1 st.global.u32 [%rd3], 7;",
        "and.b32 %r3, %r1, 1;\nsetp.eq.u32 %p1, %r3, 0;\n@%p1 bra E;\nst.global.u32 [%rd3], %r1;\nE:",
        "mov.u32 %r3, 0;\nL: add.u32 %r3, %r3, %r1;\nadd.u32 %r4, %r4, 1;\nsetp.lt.u32 %p1, %r3, 40;\n\
         setp.ne.u32 %p2, %r1, 0;\nand.pred %p1, %p1, %p2;\n@%p1 bra L;\nst.global.u32 [%rd3], %r3;",
        "setp.ge.s32 %p1, %r1, %r2;\nselp.u32 %r3, %r1, 5, %p1;\nst.global.u32 [%rd3], %r3;",
        "shr.s32 %r3, %r1, 31;\nsub.s32 %r4, %r1, %r2;\nshr.s32 %r4, %r4, 31;\nxor.b32 %r3, %r3, %r4;\nst.global.u32 [%rd3], %r3;",
        "and.b32 %r3, %r1, 24;\nor.b32 %r4, %r1, 192;\nxor.b32 %r5, %r1, 5;\nadd.u32 %r3, %r3, %r4;\n\
         add.u32 %r3, %r3, %r5;\nshr.u32 %r4, %r1, 3;\nadd.u32 %r3, %r3, %r4;\nst.global.u32 [%rd3], %r3;",
    ];
    for body in bodies {
        for block in [[64, 1, 1], [40, 1, 1], [16, 3, 1], [7, 5, 1], [37, 1, 1]] {
            both(body, block, 13).unwrap();
        }
    }
}

#[test]
fn values_that_differ_behind_a_barrier_are_noticed() {
    // The slot is the same in all lanes on one way and not on the other; behind the barrier both come together.
    let body = "mov.u32 %r3, %r2;\nand.b32 %r4, %r1, 4;\nsetp.eq.u32 %p1, %r4, 0;\n@%p1 bra B;\nmov.u32 %r3, 99;\nB:\n\
                bar.sync 0;\nadd.u32 %r5, %r3, %r1;\nmul.lo.u32 %r5, %r5, %r3;\nmov.u32 %r6, s;\nshl.b32 %r7, %r1, 2;\n\
                add.u32 %r6, %r6, %r7;\nst.shared.u32 [%r6], %r5;\nld.shared.u32 %r8, [%r6];\nst.global.u32 [%rd3], %r8;";
    let words = both(body, [64, 1, 1], 5).unwrap();
    assert_eq!((words[1], words[6]), (6 * 5, 105 * 99));
}

#[test]
fn narrow_and_wide_rows_keep_their_bytes() {
    let rows = "mul.wide.u32 %rd4, %r1, 16;\nadd.s64 %rd4, %rd1, %rd4;\n\
                st.global.v4.u32 [%rd4], {%r1, %r2, 3, %r1};\nld.global.v2.u32 {%r4, %r5}, [%rd4+8];\n\
                add.u32 %r6, %r4, %r5;\nst.global.v2.u32 [%rd4], {%r6, %r5};\nld.global.v4.u32 {%r4,%r5,%r6,%r7}, [%rd4];\n\
                st.global.u32 [%rd4+12], %r7;";
    both(rows, [32, 1, 1], 70_000).unwrap();
    for (ty, bytes) in [("u8", 1), ("s8", 1), ("u16", 2), ("s16", 2)] {
        let body = format!(
            "mul.wide.u32 %rd4, %r1, {bytes};\nadd.s64 %rd4, %rd1, %rd4;\nadd.u32 %r3, %r1, %r2;\n\
             cvt.u16.u32 %r3, %r3;\nst.global.{ty} [%rd4], %r3;\nld.global.{ty} %r4, [%rd4];\n\
             st.global.u32 [%rd3+2048], %r4;"
        );
        let body = body.replace("cvt.u16.u32 %r3, %r3;\n", "");
        both(&body, [64, 1, 1], 250).unwrap();
    }
}
