//! Kernels written for the interpreter's hard parts: divergence, waiting, calls, faults, limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use turnstile_ptx::view::ModuleView;
use turnstile_ptx::{Limits, parse};

use crate::fault::{FaultKind, Intent, Space};
use crate::memory::{ARENA_BASE, Access, AddressSpace, Arena};
use crate::program::{LaunchConfig, LaunchError, LaunchReport, LoadError, LoadedProgram};

const HEAD: &str = ".version 8.0\n.target sm_90\n.address_size 64\n";

/// A kernel `k(u64 out, u64 value)` with `body` on lines 8 and following, `%rd1` = out and `%rd2` = value.
fn kernel(declarations: &str, body: &str) -> String {
    format!(
        "{HEAD}{declarations}.visible .entry k(.param .u64 out, .param .u64 value) {{\n\
         .reg .pred %p<8>; .reg .b32 %r<32>; .reg .b64 %rd<16>; .reg .f32 %f<8>; .reg .b16 %h<8>;\n\
         ld.param.u64 %rd1, [out]; ld.param.u64 %rd2, [value]; mov.u32 %r1, %tid.x;\n\
         mul.wide.u32 %rd3, %r1, 4; add.s64 %rd3, %rd1, %rd3;\n{body}\nret;\n}}\n"
    )
}

struct Bench {
    space: AddressSpace,
    program: LoadedProgram,
    out: u64,
}

const OUT_BYTES: u64 = 4096 * 4;

fn load(text: &str) -> Result<Bench, LoadError> {
    let module = parse(text.as_bytes(), &Limits::default()).expect("the test's PTX parses");
    let view = ModuleView::of(&module).expect("the test's PTX has a layout");
    let mut space = AddressSpace::new(Arena { base: ARENA_BASE, log2: 32 }).unwrap();
    let program = LoadedProgram::load(&module, &view, &mut space)?;
    let out = space.allocate(OUT_BYTES, Access::READ_WRITE).unwrap();
    Ok(Bench { space, program, out })
}

impl Bench {
    fn config(&self, grid: u32, block: u32, value: u64) -> LaunchConfig {
        let mut params = self.out.to_le_bytes().to_vec();
        params.extend(value.to_le_bytes());
        LaunchConfig::new([grid, 1, 1], [block, 1, 1], params)
    }

    fn launch(&mut self, config: &LaunchConfig) -> Result<LaunchReport, LaunchError> {
        let map = self.space.snapshot();
        self.program.launch("k", config, map, &Arc::new(AtomicBool::new(false)))
    }

    fn run(&mut self, block: u32, value: u64) -> Result<LaunchReport, LaunchError> {
        let config = self.config(1, block, value);
        self.launch(&config)
    }

    fn words(&self, n: usize) -> Vec<u32> {
        let mut bytes = vec![0; n * 4];
        self.space.read(self.out, &mut bytes).unwrap();
        bytes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
    }
}

/// Runs a body with 64 threads and returns what each stored to `out[tid]`.
fn results(declarations: &str, body: &str, value: u64) -> Vec<u32> {
    let mut bench = load(&kernel(declarations, body)).unwrap();
    bench.run(64, value).unwrap();
    bench.words(64)
}

/// The fault of a body run with 64 threads.
fn fault(declarations: &str, body: &str, value: u64) -> crate::fault::Fault {
    match load(&kernel(declarations, body)).unwrap().run(64, value) {
        Err(LaunchError::Fault(fault)) => *fault,
        other => panic!("no fault but {other:?}"),
    }
}

#[test]
fn a_fault_names_line_block_thread_and_address() {
    let text = kernel(
        "",
        "mov.u32 %r2, %ctaid.x;\nsetp.ne.u32 %p1, %r2, 2;\n@%p1 bra DONE;\nsetp.lt.u32 %p1, %r1, 37;\n@%p1 bra DONE;\nst.global.u32 [%rd2], %r1;\nDONE:",
    );
    let line = 1 + text.lines().position(|l| l.contains("st.global")).unwrap() as u32;
    let mut bench = load(&text).unwrap();
    let config = bench.config(4, 64, 0xdead_0000);
    let Err(LaunchError::Fault(fault)) = bench.launch(&config) else { panic!("no fault") };
    assert_eq!((fault.kernel.as_str(), fault.line), ("k", line));
    assert_eq!((fault.block, fault.thread), ([2, 0, 0], [37, 0, 0]));
    let (space, intent) = (Space::Global, Intent::Write);
    assert_eq!(fault.kind, FaultKind::Unmapped { space, intent, address: 0xdead_0000, width: 4 });
}

#[test]
fn one_byte_beyond_a_buffer_faults_and_the_last_does_not() {
    let mut bench = load(&kernel("", "ld.global.u8 %r2, [%rd2];")).unwrap();
    let (out, last) = (bench.out, bench.out + OUT_BYTES - 1);
    assert!(bench.run(1, last).is_ok());
    assert!(bench.run(1, out).is_ok());
    for address in [last + 1, out - 1, 0, 1 << 63, u64::MAX] {
        assert!(matches!(bench.run(1, address), Err(LaunchError::Fault(_))), "{address:#x}");
    }
    // A wide access may not hang over the end either.
    let mut bench = load(&kernel("", "ld.global.v4.u32 {%r2,%r3,%r4,%r5}, [%rd2];")).unwrap();
    let end = bench.out + OUT_BYTES;
    assert!(bench.run(1, end - 16).is_ok());
    assert!(bench.run(1, end).is_err());
    let Err(LaunchError::Fault(fault)) = bench.run(1, end - 8) else { panic!("no fault") };
    assert!(matches!(fault.kind, FaultKind::Misaligned { .. }), "{fault}");
}

#[test]
fn misaligned_and_forbidden_accesses_fault() {
    let misaligned = fault("", "add.s64 %rd4, %rd1, 2;\nld.global.u32 %r2, [%rd4];", 0);
    assert!(matches!(misaligned.kind, FaultKind::Misaligned { width: 4, .. }));
    let shared = fault(".shared .b8 s[64];\n", "st.shared.u32 [s+62], %r1;", 0);
    assert!(matches!(shared.kind, FaultKind::Misaligned { space: Space::Shared, .. }));
    let shared = fault(".shared .align 4 .b8 s[64];\n", "st.shared.u32 [s+64], %r1;", 0);
    assert!(matches!(shared.kind, FaultKind::Unmapped { space: Space::Shared, .. }));
    let local = fault(
        "",
        ".local .align 4 .b8 l[64];\nmov.u64 %rd4, l;\nst.local.u32 [%rd4+1048576], %r1;",
        0,
    );
    assert!(matches!(local.kind, FaultKind::Unmapped { space: Space::Local, .. }));
    let constant = fault(
        ".const .align 4 .u32 c = 5;\n",
        "mov.u64 %rd4, c;\ncvta.const.u64 %rd4, %rd4;\nst.u32 [%rd4], %r1;",
        0,
    );
    assert!(matches!(constant.kind, FaultKind::Forbidden { intent: Intent::Write, .. }));
    let atomic = fault("", "atom.global.add.u32 %r2, [%rd2], 1;", 0x123);
    assert!(matches!(atomic.kind, FaultKind::Misaligned { intent: Intent::Atomic, .. }));
}

#[test]
fn the_oracle_reports_what_leaves_the_arena() {
    let mut bench = load(&kernel("", "st.global.u32 [%rd2], %r1;")).unwrap();
    let outside = bench.space.allocate(64, Access::READ_WRITE).unwrap();
    let arena = Some(Arena { base: bench.out, log2: 12 });
    let inside = LaunchConfig { arena, ..bench.config(1, 1, bench.out + 4092) };
    assert!(bench.launch(&inside).is_ok());
    let config = LaunchConfig { arena, ..bench.config(1, 1, outside) };
    let Err(LaunchError::Fault(fault)) = bench.launch(&config) else { panic!("no fault") };
    assert!(matches!(fault.kind, FaultKind::OutsideArena { intent: Intent::Write, .. }));
}

#[test]
fn divergent_lanes_meet_again() {
    // Each lane loops tid times; the vote after the loop sees all of them.
    let got = results(
        "",
        "mov.u32 %r2, 0;\nLOOP:\nsetp.ge.u32 %p1, %r2, %r1;\n@%p1 bra OUT;\nadd.u32 %r2, %r2, 1;\nbra LOOP;\nOUT:\n\
         vote.sync.ballot.b32 %r3, 1, 0xffffffff;\nactivemask.b32 %r4;\nand.b32 %r3, %r3, %r4;\npopc.b32 %r3, %r3;\n\
         mad.lo.u32 %r3, %r3, 1000, %r2;\nst.global.u32 [%rd3], %r3;",
        0,
    );
    for (tid, word) in got.iter().enumerate() {
        assert_eq!(*word, 32_000 + tid as u32);
    }
}

#[test]
fn a_lock_within_a_warp_is_handed_around() {
    let body = "SPIN:\natom.global.cas.b32 %r2, [%rd1+1024], 0, 1;\nsetp.ne.u32 %p1, %r2, 0;\n@%p1 bra SPIN;\n\
                ld.volatile.global.u32 %r3, [%rd1+1028];\nadd.u32 %r3, %r3, 1;\nst.volatile.global.u32 [%rd1+1028], %r3;\n\
                membar.gl;\natom.global.exch.b32 %r4, [%rd1+1024], 0;";
    let mut bench = load(&kernel("", body)).unwrap();
    let config = LaunchConfig { workers: 2, ..bench.config(8, 96, 0) };
    bench.launch(&config).unwrap();
    assert_eq!(bench.words(258)[257], 8 * 96);
}

#[test]
fn an_endless_loop_around_a_barrier_is_stopped() {
    let mut bench = load(&kernel("", "LOOP: bar.sync 0; bra LOOP;")).unwrap();
    let config = LaunchConfig { time_limit: Duration::from_millis(50), ..bench.config(1, 64, 0) };
    assert_eq!(bench.launch(&config), Err(LaunchError::Timeout));
    let config = LaunchConfig { instruction_limit: 100_000, ..bench.config(1, 64, 0) };
    assert_eq!(bench.launch(&config), Err(LaunchError::Timeout));
}

#[test]
fn a_spinning_kernel_is_stopped_and_the_next_runs() {
    let mut bench = load(&kernel("", "LOOP: bra LOOP;")).unwrap();
    let config = LaunchConfig { time_limit: Duration::from_millis(50), ..bench.config(4, 64, 0) };
    let begun = Instant::now();
    assert_eq!(bench.launch(&config), Err(LaunchError::Timeout));
    assert!(begun.elapsed() < Duration::from_secs(5));
    let config = LaunchConfig { instruction_limit: 100_000, ..bench.config(1, 32, 0) };
    assert_eq!(bench.launch(&config), Err(LaunchError::Timeout));
    let stop = Arc::new(AtomicBool::new(false));
    let map = bench.space.snapshot();
    std::thread::scope(|s| {
        s.spawn(|| {
            std::thread::sleep(Duration::from_millis(30));
            stop.store(true, Ordering::Relaxed);
        });
        let config = bench.config(4, 64, 0);
        assert_eq!(bench.program.launch("k", &config, map, &stop), Err(LaunchError::Stopped));
    });
    let mut good = load(&kernel("", "st.global.u32 [%rd3], %r1;")).unwrap();
    good.run(64, 0).unwrap();
    assert_eq!(good.words(64)[63], 63);
}

#[test]
fn exited_threads_count_at_a_barrier() {
    let got = results(
        ".shared .u32 sum;\n",
        "setp.lt.u32 %p1, %r1, 20;\n@%p1 ret;\nred.shared.add.u32 [sum], 1;\nbar.sync 0;\n\
         ld.shared.u32 %r2, [sum];\nst.global.u32 [%rd3], %r2;",
        0,
    );
    assert!(got[20..].iter().all(|&w| w == 44) && got[..20].iter().all(|&w| w == 0));
}

#[test]
fn barriers_reduce_and_pair_up() {
    let got = results(
        "",
        "and.b32 %r2, %r1, 3;\nsetp.eq.u32 %p1, %r2, 0;\nbar.red.popc.u32 %r3, 0, %p1;\n\
         bar.red.or.pred %p2, 1, %p1;\nbar.red.and.pred %p3, 2, !%p1;\n\
         selp.u32 %r4, 100, 0, %p2;\nselp.u32 %r5, 1000, 0, %p3;\nadd.u32 %r3, %r3, %r4;\nadd.u32 %r3, %r3, %r5;\n\
         st.global.u32 [%rd3], %r3;",
        0,
    );
    assert!(got.iter().all(|&w| w == 116), "{got:?}");
    // Warp 0 arrives, warp 1 waits: a producer and a consumer.
    let got = results(
        ".shared .u32 cell;\n",
        "setp.gt.u32 %p1, %r1, 31;\n@%p1 bra TAKE;\nst.shared.u32 [cell], 77;\nbar.arrive 3, 64;\nbra END;\n\
         TAKE:\nbar.sync 3, 64;\nld.shared.u32 %r2, [cell];\nst.global.u32 [%rd3], %r2;\nEND:",
        0,
    );
    assert!(got[32..].iter().all(|&w| w == 77));
}

#[test]
fn a_barrier_that_not_all_reach_is_a_deadlock() {
    let stuck = fault(
        "",
        "setp.gt.u32 %p1, %r1, 31;\n@%p1 bra WAIT;\nbar.sync 1;\nbra END;\nWAIT:\nbar.sync 2;\nEND:",
        0,
    );
    assert!(matches!(stuck.kind, FaultKind::Deadlock { .. }), "{stuck}");
    let stuck = fault(
        "",
        "setp.gt.u32 %p1, %r1, 15;\n@%p1 bra OTHER;\nshfl.sync.idx.b32 %r2, %r1, 0, 31, 0xffffffff;\nbra END;\n\
         OTHER:\nshfl.sync.idx.b32 %r2, %r1, 0, 31, 0xffffffff;\nEND:",
        0,
    );
    assert!(matches!(stuck.kind, FaultKind::Deadlock { .. }), "{stuck}");
    let wrong = fault("", "bar.sync 0, 33;", 0);
    assert!(matches!(wrong.kind, FaultKind::BadSync { .. }), "{wrong}");
}

#[test]
fn warp_barriers_at_different_places_meet() {
    let got = results(
        "",
        "and.b32 %r2, %r1, 1;\nsetp.eq.u32 %p1, %r2, 0;\n@%p1 bra EVEN;\nbar.warp.sync 0xffffffff;\nmov.u32 %r3, 1;\n\
         bra END;\nEVEN:\nbar.warp.sync 0xffffffff;\nmov.u32 %r3, 2;\nEND:\nst.global.u32 [%rd3], %r3;",
        0,
    );
    assert!(got.iter().enumerate().all(|(i, &w)| w == 2 - i as u32 % 2));
}

#[test]
fn recursion_works_until_the_stack_is_full() {
    let declarations = ".func (.param .b32 result) fact(.param .b32 n) {\n\
        .reg .pred %p; .reg .b32 %a, %b;\nld.param.u32 %a, [n];\nsetp.le.u32 %p, %a, 1;\n@%p bra ONE;\n\
        sub.u32 %b, %a, 1;\n{ .param .b32 in; st.param.b32 [in], %b; .param .b32 back;\n\
        call (back), fact, (in);\nld.param.b32 %b, [back]; }\nmul.lo.u32 %a, %a, %b;\n\
        st.param.b32 [result], %a;\nret;\nONE:\nst.param.b32 [result], 1;\nret;\n}\n";
    let body = "{ .param .b32 in; cvt.u32.u64 %r2, %rd2; and.b32 %r3, %r1, 7; add.u32 %r2, %r2, %r3;\n\
        st.param.b32 [in], %r2; .param .b32 back;\ncall (back), fact, (in);\nld.param.b32 %r2, [back]; }\n\
        st.global.u32 [%rd3], %r2;";
    let got = results(declarations, body, 1);
    let factorial = |n: u32| (1..=n).fold(1u32, u32::wrapping_mul);
    assert!(got.iter().enumerate().all(|(i, &w)| w == factorial(1 + i as u32 % 8)), "{got:?}");
    let deep = fault(declarations, body, 1_000_000);
    assert!(matches!(deep.kind, FaultKind::StackOverflow { .. }), "{deep}");
}

#[test]
fn register_parameters_travel_both_ways() {
    let declarations =
        ".func (.reg .b32 %out) twice(.reg .b32 %in) {\nadd.u32 %out, %in, %in;\nret;\n}\n";
    let got = results(declarations, "call (%r2), twice, (%r1);\nst.global.u32 [%rd3], %r2;", 0);
    assert!(got.iter().enumerate().all(|(i, &w)| w == 2 * i as u32), "{got:?}");
}

#[test]
fn forged_targets_and_indices_are_faults() {
    let body = "{ .param .b32 in; st.param.b32 [in], %r1; .param .b32 back;\n\
        proto: .callprototype (.param .b32 _) _ (.param .b32 _);\ncall (back), %rd2, (in), proto; }";
    let forged = fault("", body, 0x1234);
    assert_eq!(forged.kind, FaultKind::BadCallTarget { address: 0x1234 });
    let body = "cvt.u32.u64 %r2, %rd2;\ntab: .branchtargets A, B;\nbrx.idx %r2, tab;\nA: st.global.u32 [%rd3], 5;\nB:";
    assert_eq!(results("", body, 0)[9], 5);
    assert_eq!(results("", body, 1)[9], 0);
    assert_eq!(fault("", body, 2).kind, FaultKind::BadBranchIndex { index: 2, targets: 2 });
    assert_eq!(fault("", "trap;", 0).kind, FaultKind::Trap);
}

#[test]
fn printing_and_assertions_are_heard() {
    let declarations = ".extern .func (.param .b32 r) vprintf(.param .b64 f, .param .b64 a);\n\
        .extern .func __assertfail(.param .b64 m, .param .b64 f, .param .b32 l, .param .b64 n, .param .b64 s);\n\
        .global .align 1 .b8 fmt[17] = {116,61,37,100,32,102,61,37,46,50,102,32,37,115,10,0,0};\n\
        .global .align 1 .b8 word[3] = {104,105,0};\n";
    let say = "setp.ne.u32 %p1, %r1, 3;\n@%p1 bra END;\n.local .align 8 .b8 args[24];\nmov.u64 %rd4, args;\n\
        st.local.u32 [%rd4], %r1;\nst.local.u64 [%rd4+8], 0x4004000000000000;\nmov.u64 %rd5, word;\n\
        cvta.global.u64 %rd5, %rd5;\nst.local.u64 [%rd4+16], %rd5;\ncvta.local.u64 %rd4, %rd4;\nmov.u64 %rd6, fmt;\n\
        { .param .b64 p0; st.param.b64 [p0], %rd6; .param .b64 p1; st.param.b64 [p1], %rd4; .param .b32 back;\n\
        call (back), vprintf, (p0, p1);\nld.param.b32 %r2, [back]; }\nst.global.u32 [%rd3], %r2;\nEND:";
    let mut bench = load(&kernel(declarations, say)).unwrap();
    let report = bench.run(64, 0).unwrap();
    assert_eq!(String::from_utf8_lossy(&report.printed), "t=3 f=2.50 hi\n");
    assert_eq!(bench.words(4)[3], 14);
    let assert = "mov.u64 %rd6, word;\n{ .param .b64 p0; st.param.b64 [p0], %rd6; .param .b64 p1;\n\
        st.param.b64 [p1], %rd6; .param .b32 p2; st.param.b32 [p2], 42; .param .b64 p3; st.param.b64 [p3], %rd6;\n\
        .param .b64 p4; st.param.b64 [p4], 1;\ncall __assertfail, (p0, p1, p2, p3, p4); }";
    let failed = fault(declarations, assert, 0);
    assert_eq!(failed.kind, FaultKind::Assert { message: "hi (hi:42, hi)".to_owned() });
}

#[test]
fn launches_that_do_not_fit_are_refused() {
    let mut bench = load(&kernel("", "")).unwrap();
    let base = bench.config(1, 32, 0);
    let bad = [
        LaunchConfig { grid: [0, 1, 1], ..base.clone() },
        LaunchConfig { grid: [1, 70_000, 1], ..base.clone() },
        LaunchConfig { block: [1025, 1, 1], ..base.clone() },
        LaunchConfig { block: [32, 32, 2], ..base.clone() },
        LaunchConfig { block: [1, 1, 65], ..base.clone() },
        LaunchConfig { dynamic_shared_bytes: 1 << 20, ..base.clone() },
        LaunchConfig { dynamic_shared_bytes: u32::MAX, ..base.clone() },
        LaunchConfig { params: vec![0; 15], ..base.clone() },
    ];
    for config in &bad {
        let error = bench.launch(config).unwrap_err();
        assert!(matches!(error, LaunchError::Limit { .. } | LaunchError::Params { .. }), "{error}");
    }
    assert!(bench.launch(&LaunchConfig { block: [8, 8, 16], ..base.clone() }).is_ok());
    let map = bench.space.snapshot();
    let stop = Arc::new(AtomicBool::new(false));
    let missing = bench.program.launch("other", &base, map, &stop);
    assert_eq!(missing, Err(LaunchError::NoKernel { name: "other".to_owned() }));
}

#[test]
fn what_the_gpu_lacks_is_refused_by_name() {
    for (body, word) in [
        ("wgmma.fence.sync.aligned;", "wgmma.fence.sync.aligned"),
        ("multimem.red.relaxed.sys.global.add.u32 [%rd1], %r1;", "multimem"),
        ("tex.1d.v4.f32.s32 {%f1,%f2,%f3,%f4}, [%rd1, {%r1}];", "tex.1d"),
    ] {
        let text = kernel("", body);
        let Ok(module) = parse(text.as_bytes(), &Limits::default()) else { continue };
        let view = ModuleView::of(&module).unwrap();
        let mut space = AddressSpace::new(Arena { base: ARENA_BASE, log2: 32 }).unwrap();
        let error = LoadedProgram::load(&module, &view, &mut space).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("line 8"), "{error}");
        assert_eq!(space.regions(), 0, "nothing is left behind");
    }
}

#[test]
fn generic_addresses_reach_every_window() {
    let got = results(
        ".shared .align 4 .b8 s[256];\n",
        ".local .align 4 .b8 l[16];\nmov.u64 %rd4, s;\ncvta.shared.u64 %rd4, %rd4;\nmul.wide.u32 %rd5, %r1, 4;\n\
         add.s64 %rd4, %rd4, %rd5;\nst.u32 [%rd4], %r1;\nmov.u64 %rd6, l;\ncvta.local.u64 %rd6, %rd6;\n\
         st.u32 [%rd6+4], 1000;\nand.b32 %r2, %r1, 1;\nsetp.eq.u32 %p1, %r2, 0;\n\
         add.s64 %rd6, %rd6, 4;\nselp.b64 %rd7, %rd4, %rd6, %p1;\nld.u32 %r3, [%rd7];\n\
         isspacep.shared %p2, %rd7;\nselp.u32 %r4, 10000, 0, %p2;\nadd.u32 %r3, %r3, %r4;\nst.u32 [%rd3], %r3;",
        0,
    );
    for (i, &w) in got.iter().enumerate() {
        assert_eq!(w, if i % 2 == 0 { 10_000 + i as u32 } else { 1000 });
    }
}
