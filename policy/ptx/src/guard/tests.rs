//! Each pass on small modules, and all of them on the corpus and the attacks.

use super::*;
use crate::{Limits, parse, parse_guarded, print};

fn options(mode: GuardMode) -> GuardOptions {
    GuardOptions::new(mode, Arena::new(16 << 30, 4 << 30).unwrap())
}

fn guard_with(text: &str, options: &GuardOptions) -> Result<(String, Report), Refusal> {
    let module =
        parse(text.as_bytes(), &Limits::default()).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let (module, report) = guard(&module, options)?;
    let text = print(&module).text;
    parse_guarded(text.as_bytes(), &Limits::default()).unwrap_or_else(|e| panic!("{e}\n{text}"));
    Ok((text, report))
}

fn fence(text: &str) -> Result<(String, Report), Refusal> {
    guard_with(text, &options(GuardMode::Fence))
}

/// A kernel with two pointer parameters in `%rd1`, `%rd2` and a number in `%r1`.
fn kernel(before: &str, body: &str) -> String {
    format!(
        ".version 8.7\n.target sm_90\n.address_size 64\n{before}\n\
         .visible .entry k(.param .u64 p, .param .u64 q, .param .u32 n)\n{{\n\
         .reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<40>; .reg .f32 %f<9>; .reg .b64 %rd<40>;\n\
         ld.param.u64 %rd1, [p]; ld.param.u64 %rd2, [q]; ld.param.u32 %r1, [n];\n{body}\nret;\n}}\n"
    )
}

/// The guarded body without the declarations and parameter loads in front.
fn body_of(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim);
    let from = lines.skip_while(|l| !l.starts_with("ld.param.u32 %r1, [n]")).skip(1);
    from.take_while(|l| *l != "ret;").map(String::from).collect()
}

fn fenced(body: &str) -> Vec<String> {
    body_of(&fence(&kernel("", body)).unwrap().0)
}

fn refused(text: &str) -> String {
    fence(text).map(|(text, _)| panic!("accepted:\n{text}")).unwrap_err().to_string()
}

#[test]
fn a_fence_replaces_the_high_half_and_rounds_down() {
    assert_eq!(
        fenced("ld.global.u32 %r2, [%rd1+8];"),
        [
            "mov.b64 {%$ts_w0, _}, %rd1;",
            "and.b32 %$ts_w1, %$ts_w0, 4294967292;",
            "mov.b64 %$ts_d0, {%$ts_w1, 4};",
            "ld.global.u32 %r2, [%$ts_d0+8];",
        ]
    );
    // A byte needs no rounding.
    assert_eq!(fenced("ld.global.u8 %h1, [%rd1];").len(), 3);
}

#[test]
fn smaller_and_larger_arenas_mask_one_half_or_the_other() {
    let with = |base: u64, size: u64| {
        let options = GuardOptions::new(GuardMode::Fence, Arena::new(base, size).unwrap());
        let text = kernel("", "st.global.u64 [%rd1], %rd2;");
        body_of(&guard_with(&text, &options).unwrap().0)
    };
    assert_eq!(
        with(0x7_4000_0000, 1 << 30)[1..3],
        [
            "lop3.b32 %$ts_w1, %$ts_w0, 1073741816, 1073741824, 234;",
            "mov.b64 %$ts_d0, {%$ts_w1, 7};"
        ]
    );
    assert_eq!(
        with(1 << 40, 1 << 36)[..4],
        [
            "mov.b64 {%$ts_w0, %$ts_w1}, %rd1;",
            "and.b32 %$ts_w2, %$ts_w0, 4294967288;",
            "lop3.b32 %$ts_w3, %$ts_w1, 15, 256, 234;",
            "mov.b64 %$ts_d0, {%$ts_w2, %$ts_w3};"
        ]
    );
}

#[test]
fn addresses_a_constant_apart_share_a_fence() {
    let text = kernel(
        "",
        "ld.global.u32 %r2, [%rd1];\nadd.s64 %rd3, %rd1, 4096;\nld.global.v4.u32 {%r3,%r4,%r5,%r6}, [%rd3];\n\
         setp.eq.u32 %p1, %r1, 0;\n@%p1 bra L;\nst.global.u32 [%rd3+4], %r2;\nL:",
    );
    let (text, report) = fence(&text).unwrap();
    assert_eq!(report.total(Change::GlobalFence), 1, "{text}");
    assert_eq!(report.total(Change::GlobalShared), 2);
    // The widest certain access of the block decides the rounding.
    assert!(text.contains("and.b32 %$ts_w1, %$ts_w0, 4294967280;"), "{text}");
    assert!(text.contains("st.global.u32 [%$ts_d0+4100], %r2;"), "{text}");
}

#[test]
fn a_fence_is_not_used_where_its_register_may_hold_something_else() {
    // In the loop %rd1 moves: each turn has an address of its own.
    let text = kernel(
        "",
        "ld.global.u32 %r2, [%rd1];\nL:\nld.global.u32 %r3, [%rd1];\nadd.s64 %rd1, %rd1, 4;\n\
         ld.global.u32 %r4, [%rd1];\nadd.s32 %r1, %r1, -1;\nsetp.ne.u32 %p1, %r1, 0;\n@%p1 bra L;",
    );
    let (text, report) = fence(&text).unwrap();
    assert!(report.total(Change::GlobalFence) >= 3, "{text}");
    // Two ways meet: neither way's fence serves behind the meeting.
    let text = kernel(
        "",
        "setp.eq.u32 %p1, %r1, 0;\n@%p1 bra A;\nld.global.u32 %r2, [%rd1];\nbra B;\nA:\nld.global.u32 %r2, \
         [%rd1];\nB:\nld.global.u32 %r3, [%rd1];",
    );
    assert_eq!(fence(&text).unwrap().1.total(Change::GlobalFence), 3);
}

#[test]
fn a_predicated_access_gives_its_rounding_to_no_other() {
    let text = kernel(
        "",
        "setp.eq.u32 %p1, %r1, 0;\n@%p1 ld.global.u64 %rd3, [%rd1];\nld.global.u8 %h1, [%rd1];",
    );
    let (text, report) = fence(&text).unwrap();
    assert_eq!(report.total(Change::GlobalFence), 2, "{text}");
}

#[test]
fn far_and_crooked_offsets_are_folded_in() {
    let body = fenced("ld.global.u32 %r2, [%rd1+16777216];");
    assert_eq!(body[0], "add.s64 %$ts_d0, %rd1, 16777216;");
    assert_eq!(body[4], "ld.global.u32 %r2, [%$ts_d1];");
    // Four bytes at an odd distance: what is aligned is the sum.
    let body = fenced("ld.global.u32 %r2, [%rd1+2];");
    assert_eq!(body[0], "add.s64 %$ts_d0, %rd1, 2;");
}

const SHAPE: BlockShape = BlockShape { x: 16, y: 16, z: 1 };

fn shaped(before: &str, body: &str) -> Report {
    let options = GuardOptions { block: Some(SHAPE), ..options(GuardMode::Fence) };
    guard_with(&kernel(before, body), &options).unwrap().1
}

#[test]
fn the_block_shape_proves_a_tile() {
    let tile = ".shared .align 4 .b8 tile[1024];";
    let body = "mov.u32 %r2, %tid.x; mov.u32 %r3, %tid.y; shl.b32 %r4, %r3, 6; mov.u32 %r5, tile;\n\
        add.s32 %r6, %r5, %r4; shl.b32 %r7, %r2, 2; add.s32 %r8, %r6, %r7; st.shared.u32 [%r8], %r1;";
    let report = shaped(tile, body);
    assert_eq!((report.total(Change::Proved), report.total(Change::SharedClamp)), (1, 0));
    assert_eq!(report.contract.kernels[0].block, Some(SHAPE));
    // Without the shape, or with less memory, it is clamped.
    assert_eq!(fence(&kernel(tile, body)).unwrap().1.total(Change::SharedClamp), 1);
    let less = ".shared .align 4 .b8 tile[1020];";
    assert_eq!(shaped(less, body).total(Change::SharedClamp), 1);
}

#[test]
fn counted_loops_bound_their_registers() {
    let tile = ".shared .align 4 .b8 tile[1024];";
    // A counter and an address that move together; the test is on the counter alone.
    let body = "mov.u32 %r2, tile; mov.u32 %r3, 0;\nL:\nld.shared.u32 %r4, [%r2];\nadd.s32 %r2, %r2, 64;\n\
        add.s32 %r3, %r3, 1;\nsetp.ne.s32 %p1, %r3, 16;\n@%p1 bra L;";
    assert_eq!(shaped(tile, body).total(Change::Proved), 1);
    // One turn more, and it is not.
    let more = body.replace("%r3, 16", "%r3, 17");
    assert_eq!(shaped(tile, &more).total(Change::SharedClamp), 1);
    // A step that jumps over the end of the count wraps around.
    let over = body.replace("add.s32 %r3, %r3, 1;", "add.s32 %r3, %r3, 3;");
    assert_eq!(shaped(tile, &over).total(Change::SharedClamp), 1);
    // A number of turns that the launch brings.
    let open = body.replace("%r3, 16", "%r3, %r1");
    assert_eq!(shaped(tile, &open).total(Change::SharedClamp), 1);
}

#[test]
fn halving_loops_and_branches_bound_a_reduction() {
    let tile = ".shared .align 4 .b8 sums[1024];";
    let body = "mov.u32 %r2, %tid.x; mov.u32 %r9, %tid.y; mad.lo.s32 %r2, %r9, 16, %r2; mov.u32 %r3, 128; mov.u32 \
        %r5, sums; shl.b32 %r4, %r2, 2; add.s32 %r6, %r5, %r4;\nL:\nsetp.ge.u32 %p1, %r2, %r3;\n@%p1 bra M;\nshl.b32 \
        %r7, %r3, 2; add.s32 %r8, %r6, %r7; ld.shared.u32 %r10, [%r8]; st.shared.u32 [%r6], %r10;\nM:\nbar.sync 0;\n\
        shr.u32 %r3, %r3, 1; setp.ne.u32 %p2, %r3, 0;\n@%p2 bra L;";
    let report = shaped(tile, body);
    assert_eq!((report.total(Change::Proved), report.total(Change::SharedClamp)), (2, 0));
}

#[test]
fn predicates_of_the_access_itself_count() {
    let tile = ".shared .align 4 .b8 first[128];";
    let body = "mov.u32 %r2, %tid.x; mov.u32 %r9, %tid.y; mad.lo.s32 %r2, %r9, 16, %r2; setp.lt.u32 %p1, %r2, 32; \
        mov.u32 %r5, first; shl.b32 %r4, %r2, 2; add.s32 %r6, %r5, %r4; @%p1 st.shared.u32 [%r6], %r1;";
    assert_eq!(shaped(tile, body).total(Change::Proved), 1);
    let wrong = body.replace("@%p1", "@!%p1");
    assert_eq!(shaped(tile, &wrong).total(Change::SharedClamp), 1);
}

#[test]
fn what_is_written_elsewhere_is_not_believed() {
    let tile = ".shared .align 4 .b8 tile[1024];";
    // Every way an instruction can write %r8 after it was proved.
    for write in [
        "ld.global.u32 %r8, [%rd1];",
        "atom.global.add.u32 %r8, [%rd1], 1;",
        "shfl.sync.bfly.b32 %r8|%p1, %r8, 1, 31, -1;",
        "mov.b64 {%r7, %r8}, %rd1;",
        "ld.global.v2.u32 {%r7, %r8}, [%rd1];",
        "@%p1 mov.u32 %r8, %r1;",
        "cvt.rni.u32.f32 %r8, %f1;",
        "vote.sync.ballot.b32 %r8, %p1, -1;",
        "prmt.b32 %r8, %r1, %r1, 1;",
    ] {
        let body = format!("mov.u32 %r8, tile; {write} st.shared.u32 [%r8], %r1;");
        assert_eq!(shaped(tile, &body).total(Change::SharedClamp), 1, "{write}");
    }
}

#[test]
fn clamps_keep_to_their_object() {
    let tile = ".shared .align 4 .b8 tile[1024];";
    let (text, report) = fence(&kernel(
        tile,
        "mov.u32 %r2, tile; add.s32 %r2, %r2, %r1; st.shared.u32 [%r2+4], %r1;",
    ))
    .unwrap();
    assert_eq!(report.total(Change::SharedClamp), 1);
    assert_eq!(
        body_of(&text)[2..],
        [
            "add.s32 %$ts_w0, %r2, 4;",
            "mov.b32 %$ts_w1, tile;",
            "sub.s32 %$ts_w2, %$ts_w0, %$ts_w1;",
            "min.u32 %$ts_w3, %$ts_w2, 1020;",
            "and.b32 %$ts_w4, %$ts_w3, 4294967292;",
            "add.s32 %$ts_w5, %$ts_w1, %$ts_w4;",
            "st.shared.u32 [%$ts_w5], %r1;",
        ]
    );
    // Dynamic shared memory has the launch's size.
    let (text, report) = fence(&kernel(
        ".extern .shared .align 4 .b8 dyn[];",
        "mov.u32 %r2, dyn; add.s32 %r2, %r2, %r1; st.shared.u32 [%r2], %r1;",
    ))
    .unwrap();
    assert!(text.contains("mov.u32 %$ts_w0, %dynamic_smem_size;"), "{text}");
    assert_eq!(report.contract.kernel("k").unwrap().dynamic_shared, 16);
}

#[test]
fn one_clamp_serves_its_neighbours() {
    let tile = ".shared .align 4 .b8 tile[1024];";
    let body = "mov.u32 %r2, tile; add.s32 %r2, %r2, %r1; ld.shared.u32 %r3, [%r2+8]; ld.shared.u32 %r4, \
        [%r2+-4]; st.shared.u32 [%r2], %r1;";
    let (text, report) = fence(&kernel(tile, body)).unwrap();
    assert_eq!((report.total(Change::SharedClamp), report.total(Change::ClampShared)), (1, 2));
    // 1024 less the 16 bytes from -4 to 12.
    assert!(text.contains("min.u32 %$ts_w3, %$ts_w2, 1008;"), "{text}");
    assert!(text.contains("ld.shared.u32 %r3, [%$ts_w5+12];"), "{text}");
}

#[test]
fn locals_parameters_and_unknown_addresses_are_bounded_too() {
    let local = "\n.local .align 4 .b8 here[64];\nmov.u64 %rd3, here; cvt.u64.u32 %rd4, %r1; add.s64 %rd5, %rd3, \
        %rd4; st.local.u32 [%rd5], %r1;";
    assert_eq!(fence(&kernel("", local)).unwrap().1.total(Change::LocalClamp), 1);
    // No local object at all: something must stand in.
    let (text, _) = fence(&kernel("", "st.local.u32 [%rd1], %r1;")).unwrap();
    assert!(text.contains(".local .align 32 .b8 $ts_local[32];"), "{text}");
    let (text, _) = fence(&kernel("", "st.shared.u32 [%r1], %r1;")).unwrap();
    assert!(text.contains(".shared .align 32 .b8 $ts_shared[32];"), "{text}");
    let by_register = "mov.b64 %rd3, p; add.s64 %rd3, %rd3, %rd2; ld.param.u32 %r2, [%rd3];";
    assert_eq!(fence(&kernel("", by_register)).unwrap().1.total(Change::ParamClamp), 1);
    assert!(refused(&kernel("", "ld.param.u32 %r2, [%rd1];")).contains("no parameter's"));
    assert!(refused(&kernel("", "ld.param.u32 %r2, [p+100000];")).contains("outside"));
    assert!(refused(&kernel("", "ld.param.u32 %r2, [p+2];")).contains("aligned"));
}

#[test]
fn a_generic_access_is_confined_in_every_window() {
    let shared = ".shared .align 8 .b8 s[64];";
    let body = ".local .align 8 .b8 l[32];\nmov.u32 %r2, s; mov.u64 %rd3, l; st.u32 [%rd1+4], %r1;";
    let (text, report) = fence(&kernel(shared, body)).unwrap();
    assert_eq!(report.total(Change::Generic), 1);
    for part in [
        "add.s64 %$ts_d0, %rd1, 4;",
        "isspacep.shared",
        "isspacep.local",
        "cvta.shared.u64",
        "cvta.local.u64",
        "selp.b64",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    // An atomic operation has no business in local memory.
    let (text, _) = fence(&kernel(
        shared,
        &body.replace("st.u32 [%rd1+4], %r1", "atom.add.u32 %r3, [%rd1], 1"),
    ))
    .unwrap();
    assert!(!text.contains("isspacep.local"), "{text}");
}

#[test]
fn traps_and_assertions_end_the_thread() {
    assert_eq!(fenced("@%p1 trap;"), ["@%p1 exit;"]);
    let text = kernel(
        ".extern .func __assertfail(.param .b64 a, .param .b64 b);",
        "{\n.param .b64 x;\nst.param.b64 [x], %rd1;\n.param .b64 y;\nst.param.b64 [y], %rd2;\ncall.uni __assertfail, \
         (x, y);\n}",
    );
    let (text, report) = fence(&text).unwrap();
    assert_eq!(report.total(Change::Trap), 1);
    assert!(!text.contains(".extern") && !text.contains("call"), "{text}");
    assert!(!body_of(&text).iter().any(|l| l.starts_with("st.param")), "{text}");
}

#[test]
fn external_functions_fail_as_documented() {
    let text = kernel(
        ".extern .func (.param .b64 r) malloc(.param .b64 a);",
        "{\n.param .b64 x;\n.param .b64 y;\nst.param.b64 [x], %rd1;\ncall.uni (y), malloc, (x);\nld.param.b64 %rd3, \
         [y];\n}",
    );
    let (text, _) = fence(&text).unwrap();
    assert!(text.contains("st.param.b64 [r], 0;"), "{text}");
    assert!(!text.contains(".extern"), "{text}");
}

#[test]
fn indirect_calls_become_compare_chains() {
    let functions = ".func (.param .b32 r) f(.param .b32 a) { st.param.b32 [r], 1; ret; }\n\
        .func (.param .b32 r) g(.param .b32 a) { st.param.b32 [r], 2; ret; }\n\
        .func h(.param .b64 a) { ret; }\n.global .u64 table[2] = {g, h};";
    let body = "mov.u64 %rd3, f;\n{\n.param .b32 x;\n.param .b32 y;\nst.param.b32 [x], %r1;\n\
        proto: .callprototype (.param .b32 _) _ (.param .b32 _);\ncall (y), %rd1, (x), proto;\nld.param.b32 %r2, \
        [y];\n}";
    let (text, report) = fence(&kernel(functions, body)).unwrap();
    assert_eq!(report.total(Change::IndirectCall), 1);
    assert!(text.contains("call (y), $ts_dispatch0, (%rd1, x);"), "{text}");
    assert!(!text.contains("callprototype"), "{text}");
    // Only functions of that signature are there; h keeps a token, which no call here accepts.
    let dispatcher = text.split(".func (").last().unwrap();
    assert!(dispatcher.contains(", f, (") && dispatcher.contains(", g, ("), "{dispatcher}");
    assert!(!dispatcher.contains(", h, ("), "{dispatcher}");
    // Nothing of the program sees a code address.
    assert!(text.contains(&format!("mov.u64 %rd3, {};", FIRST_TOKEN + 2 * TOKEN_STEP)), "{text}");
    assert_eq!(report.variables[0].init[..8], FIRST_TOKEN.to_le_bytes());
}

#[test]
fn a_branch_index_is_bounded() {
    let body = "T: .branchtargets A, B, C;\nbrx.idx %r1, T;\nA:\nret;\nB:\nret;\nC:";
    let (text, _) = fence(&kernel("", body)).unwrap();
    assert!(text.contains("min.u32 %$ts_w0, %r1, 2;\n\tbrx.idx %$ts_w0, T;"), "{text}");
}

#[test]
fn recursion_depth_and_local_memory_are_bounded() {
    let even = ".func f() { call g; ret; }\n.func g() { call f; ret; }";
    let declared = format!(".func g();\n{even}");
    assert!(refused(&kernel(&declared, "call f;")).contains("calls itself"));
    let chain: String = std::iter::once(".func f0() { ret; }\n".to_string())
        .chain((1..70).map(|i| format!(".func f{i}() {{ call f{}; ret; }}\n", i - 1)))
        .collect();
    assert!(refused(&kernel(&chain, "call f69;")).contains("64 calls"));
    assert!(refused(&kernel("", ".local .b8 big[70000];")).contains("local memory"));
}

#[test]
fn variables_move_into_the_arena() {
    let before = ".global .align 4 .u32 a[3] = {1, 2, 3};\n.const .f64 c = 0d3FF0000000000000;\n\
        .global .align 2 .u16 grid[2][3] = {{1, 2}, {4, 5, 6}};\n.global .u64 at = generic(a)+8;\n\
        .global .u8 bytes[2] = {0xFF(a), 0xFF00(a)};";
    let body = "mov.u64 %rd3, a; ld.global.u32 %r2, [a+4]; ld.const.f64 %f64, [c]; cvta.const.u64 %rd4, %rd3;"
        .replace(" %f64,", " %rd5,");
    let (text, report) = fence(&kernel(before, &body)).unwrap();
    let start = (16u64 << 30) + (16 << 20) + RECORD_BYTES;
    let at: Vec<(u64, u64)> = report.variables.iter().map(|v| (v.address, v.bytes)).collect();
    assert_eq!(
        at,
        [(start, 12), (start + 16, 8), (start + 32, 12), (start + 48, 8), (start + 64, 2)]
    );
    assert_eq!(report.variable_bytes, 66);
    let grid: Vec<u8> = [1u16, 2, 0, 4, 5, 6].iter().flat_map(|n| n.to_le_bytes()).collect();
    assert_eq!(report.variables[2].init, grid);
    assert_eq!(report.variables[3].init, (start + 8).to_le_bytes());
    assert_eq!(report.variables[4].init, start.to_le_bytes()[..2]);
    assert!(text.contains(&format!("mov.u64 %rd3, {start};")), "{text}");
    assert!(text.contains("ld.global.u32 %r2, [%$ts_d0+4];"), "{text}");
    assert!(text.contains("ld.global.nc.f64 %rd5, [%$ts_d1];"), "{text}");
    assert!(text.contains("mov.u64 %rd4, %rd3;"), "{text}");
    assert!(!text.contains(".const") && !text.contains(".global ."), "{text}");
    let huge = ".global .b8 huge[4294967295];";
    assert!(refused(&kernel(huge, "")).contains("does not fit"));
    // A small text must not ask for gigabytes of initial values.
    let sparse = ".global .b8 sparse[3][1073741824] = {{1}, {2}, {3}};";
    assert!(refused(&kernel(sparse, "")).contains("sparse"));
}

#[test]
fn barriers_keep_one_kind_each() {
    assert!(refused(&kernel("", "bar.sync 1, 64;\nbar.sync 1, 96;")).contains("thread counts"));
    assert!(refused(&kernel("", "bar.sync 1, 64;\nbar.arrive 1, 96;")).contains("thread counts"));
    assert!(refused(&kernel("", "bar.sync 1, 64;\nbar.sync 1;")).contains("thread counts"));
    assert!(refused(&kernel("", "bar.sync 1, 33;")).contains("multiple of 32"));
    assert!(refused(&kernel("", "bar.sync 1, %r1;")).contains("multiple of 32"));
    // Registers that hold one constant are constants; other numbers are told apart.
    assert_eq!(
        fenced("mov.u32 %r2, 3; mov.u32 %r3, 64; bar.sync %r2, %r3;").last().unwrap(),
        "bar.sync 3, 64;"
    );
    let chain = fenced("@%p1 bar.sync %r1;");
    assert_eq!(chain[1], "@!%p1 bra $ts_l0;");
    assert_eq!(chain[2..4], ["setp.ne.b32 %$ts_p0, %$ts_w0, 0;", "@!%$ts_p0 bar.sync 0;"]);
    assert_eq!(chain[33], "@!%$ts_p15 bar.sync 15;");
    assert!(refused(&kernel("", "bar.sync 16;")).contains("0 to 15"));
    fence(&kernel("", "bar.sync 1, 64;\nbar.arrive 1, 64;\nbar.sync 0;")).unwrap();
    // Reductions move away from waits and from each other.
    let body =
        "bar.sync 0;\nbar.red.popc.u32 %r2, 0, %p1;\nbar.red.and.pred %p2, 0, %p1;\nbar.sync 1;";
    let lines = fenced(body);
    let numbers: Vec<&str> = lines[..3]
        .iter()
        .map(|l| {
            l.split([' ', ','])
                .find(|w| w.parse::<u32>().is_ok())
                .unwrap_or(l.trim_end_matches(';').rsplit(' ').next().unwrap())
        })
        .collect();
    assert_eq!(lines[0], "bar.sync 0;");
    assert!(
        numbers[1] != numbers[2] && numbers[1..].iter().all(|n| *n != "0" && *n != "1"),
        "{lines:?}"
    );
    assert_eq!(fenced("bar.red.popc.u32 %r2, 0, %p1;"), ["bar.red.popc.u32 %r2, 0, %p1;"]);
    let all: String = (0..16).map(|n| format!("bar.sync {n};\n")).collect();
    refused(&kernel("", &format!("{all}bar.red.popc.u32 %r2, 0, %p1;")));
}

#[test]
fn hints_go_and_what_can_fault_is_refused() {
    let body = fenced("ld.global.L2::cache_hint.u32 %r2, [%rd1], %rd2;");
    assert_eq!(body.last().unwrap(), "ld.global.u32 %r2, [%$ts_d0];");
    let shared = ".shared .align 8 .b64 m;";
    let text = kernel(shared, "mov.u32 %r2, m; mbarrier.init.shared.b64 [%r2], 1;");
    let (text, report) = fence(&text).unwrap();
    assert_eq!(report.total(Change::Mbarrier), 1);
    assert!(!text.contains("mbarrier") && text.contains("st.volatile.shared.b64 [%r2]"), "{text}");
}

#[test]
fn names_of_the_guards_own_are_refused() {
    let mut module =
        parse(kernel("", "st.global.u32 [%rd1], %r1;").as_bytes(), &Limits::default()).unwrap();
    let crate::tree::Item::Function(f) = &mut module.items[0] else { panic!() };
    f.name = Name::from("$ts_report");
    assert!(matches!(guard(&module, &options(GuardMode::Fence)), Err(Refusal::Name { .. })));
}

#[test]
fn check_mode_compares_and_reports() {
    let check = options(GuardMode::Check);
    let text = kernel("", "@%p1 ld.global.u32 %r2, [%rd1+8];\n@!%p1 trap;");
    let (text, report) = guard_with(&text, &check).unwrap();
    let body = body_of(&text);
    assert_eq!(body[0], "add.s64 %$ts_d0, %rd1, 8;");
    assert_eq!(body[4], "setp.ne.and.b64 %$ts_p0, %$ts_d1, %$ts_d0, %p1;");
    assert_eq!(body[5], "@%$ts_p0 bra $ts_l0;");
    assert_eq!(body[6], "@%p1 ld.global.u32 %r2, [%$ts_d1];");
    assert_eq!(body[7], "@!%p1 bra $ts_l1;");
    let number = report.functions.iter().position(|f| f.name == *"k").unwrap();
    // The text's own line, not the final one's.
    let line = 9;
    assert!(
        text.contains(&format!("$ts_l0:\n\tcall $ts_report, (%$ts_d0, {line}, {number}, 1);")),
        "{text}"
    );
    assert!(text.contains(&format!("mov.b64 %$ts_d0, {};", check.report_address)), "{text}");
}

#[test]
fn promised_pointers_need_no_fence() {
    let body = "mov.u32 %r2, %tid.x; mul.wide.u32 %rd3, %r2, 4; add.s64 %rd4, %rd1, %rd3; ld.global.u32 %r3, \
        [%rd4]; mul.wide.s32 %rd5, %r1, 4; add.s64 %rd6, %rd2, %rd5; st.global.u32 [%rd6], %r3;";
    let arena = Arena::new(64 << 30, 4 << 30).unwrap();
    let options = GuardOptions { pointers: true, ..GuardOptions::new(GuardMode::Fence, arena) };
    let (text, report) = guard_with(&kernel("", body), &options).unwrap();
    // tid.x is small enough for the red zone; a 32-bit index times four is not, but needs no rounding.
    assert_eq!((report.total(Change::Proved), report.total(Change::GlobalFence)), (1, 1), "{text}");
    assert!(!text.contains("and.b32"), "{text}");
    let pointers = &report.contract.kernel("k").unwrap().pointers;
    assert_eq!(pointers.len(), 2);
    assert!(pointers.iter().all(|p| p.align == 4));
    let wide = GuardOptions { arena: arena.with_red_zone(32 << 30).unwrap(), ..options };
    assert_eq!(guard_with(&kernel("", body), &wide).unwrap().1.total(Change::Proved), 2);
}

#[test]
fn options_are_checked() {
    let text = kernel("", "");
    let good = options(GuardMode::Fence);
    let bad = [
        GuardOptions { report_address: 0, ..good },
        GuardOptions { report_address: good.report_address + 8, ..good },
        GuardOptions { variables: 0, ..good },
        GuardOptions { block: Some(BlockShape { x: 1024, y: 2, z: 1 }), ..good },
        GuardOptions { dynamic_shared: Some(1 << 20), ..good },
    ];
    for options in bad {
        assert!(matches!(guard_with(&text, &options), Err(Refusal::Options(_))), "{options:?}");
    }
}

#[test]
fn mode_none_changes_nothing() {
    let text = kernel("", "st.global.u32 [%rd1], %r1;");
    let module = parse(text.as_bytes(), &Limits::default()).unwrap();
    let (same, report) = guard(&module, &options(GuardMode::None)).unwrap();
    assert_eq!(same, module);
    assert_eq!(report, Report::default());
}

fn files(folder: &str) -> Vec<(String, Vec<u8>)> {
    let path = format!("{}/../../tests/kernels/{folder}", env!("CARGO_MANIFEST_DIR"));
    let mut found: Vec<(String, Vec<u8>)> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "ptx"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read(path).unwrap())
        })
        .collect();
    found.sort();
    found
}

/// Kernels that cannot be guarded, and why.
const UNGUARDABLE: &[(&str, &str)] = &[("recursion", "calls itself")];

#[test]
fn the_corpus_is_guarded_in_every_mode() {
    let mut guarded = 0;
    for (name, text) in files("ptx") {
        let module = parse(&text, &Limits::default()).unwrap();
        for mode in [GuardMode::Fence, GuardMode::Check] {
            match guard(&module, &options(mode)) {
                Ok((module, _)) => {
                    let text = print(&module).text;
                    parse_guarded(text.as_bytes(), &Limits::default())
                        .unwrap_or_else(|e| panic!("{name}: {e}"));
                    check::check(&module).unwrap_or_else(|e| panic!("{name}: {e}"));
                    guarded += 1;
                }
                Err(error) => {
                    let known = UNGUARDABLE.iter().find(|(file, _)| *file == name);
                    let known = known.is_some_and(|(_, why)| error.to_string().contains(why));
                    assert!(known, "{name}: {error}");
                }
            }
        }
    }
    assert!(guarded > 120, "{guarded}");
}

#[test]
fn every_attack_is_refused_or_rewritten() {
    let (mut refused, mut rewritten) = (0, 0);
    for (name, text) in files("attacks") {
        let Ok(module) = parse(&text, &Limits::default()) else {
            refused += 1;
            continue;
        };
        for mode in [GuardMode::Fence, GuardMode::Check] {
            match guard(&module, &options(mode)) {
                Ok((module, _)) => {
                    let text = print(&module).text;
                    parse_guarded(text.as_bytes(), &Limits::default())
                        .unwrap_or_else(|e| panic!("{name}: {e}\n{text}"));
                    rewritten += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 50 && rewritten > 50, "{refused} {rewritten}");
}
