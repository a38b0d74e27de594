//! Any text gives an answer: no panic, and no time out of proportion to its length.

use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use turnstile_ptx::{Admission, Arena, BlockShape, GuardMode, Limits, admit, check, parse, print};

fn admissions() -> [Admission; 3] {
    let arena = Arena::new(4 << 32, 4 << 30).expect("an arena");
    let mut shaped = Admission::guarded(GuardMode::Fence, arena, Limits::default());
    shaped.block = Some(BlockShape { x: 256, y: 1, z: 1 });
    [
        Admission::unguarded(Limits::default()),
        Admission::guarded(GuardMode::Check, arena, Limits::default()),
        shaped,
    ]
}

/// Admits in every mode; what comes out must parse again and keep its meaning.
fn judge(text: &[u8]) {
    for admission in admissions() {
        if let Ok(module) = admit(text, &admission) {
            let again = print(module.module()).text;
            assert_eq!(again, module.text(), "printing the verified tree gives the verified text");
        }
    }
}

static CORPUS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/kernels/ptx");
    let mut files: Vec<_> =
        std::fs::read_dir(root).expect("the corpus").filter_map(|e| Some(e.ok()?.path())).collect();
    files.sort();
    let texts = files.iter().map(|path| std::fs::read_to_string(path).expect("PTX"));
    // Short ones, so that many mutations fit into a test's time.
    texts.filter(|text| text.len() < 12_000).collect()
});

const WORDS: &[&str] = &[
    ".version",
    "9.0",
    ".target",
    "sm_90",
    ".address_size",
    "64",
    ".visible",
    ".entry",
    ".func",
    "k",
    "f",
    "(",
    ")",
    "{",
    "}",
    "[",
    "]",
    ",",
    ";",
    ":",
    "@",
    "!",
    "|",
    "+",
    "-",
    "=",
    "<",
    ">",
    ".param",
    ".align",
    "8",
    ".b8",
    ".b32",
    ".u64",
    ".reg",
    ".pred",
    "%r",
    "%r1",
    "%rd1",
    "%p1",
    "<4>",
    "mov",
    ".u32",
    "ld",
    "st",
    ".global",
    ".shared",
    ".local",
    ".const",
    "bra",
    "L1",
    "call",
    ".uni",
    "ret",
    "exit",
    "brx",
    ".idx",
    ".branchtargets",
    ".calltargets",
    ".callprototype",
    "_",
    "0x10",
    "0f3F800000",
    "-1",
    "%tid.x",
    ".v2",
    ".v4",
    "atom",
    ".add",
    "cp",
    ".async",
    ".loc",
    "1",
    "2",
    "3",
    ".file",
    "\"x\"",
    ".section",
    ".debug_str",
    ".pragma",
    "\"nounroll\"",
    ".maxntid",
    ".extern",
    ".weak",
    ".alias",
    "generic",
    ".ptr",
    "setp",
    ".lt",
    "selp",
    "bar",
    ".sync",
    "// c\n",
    "/* c */",
    "\n",
];

/// The head of a module with a body of these words.
fn wrap(body: &str) -> String {
    format!(
        ".version 9.0\n.target sm_90\n.address_size 64\n.shared .align 4 .b8 s[64];\n\
         .visible .entry k(.param .u64 p) {{\n.reg .b32 %r<4>; .reg .b64 %rd<4>; .reg .pred %p<4>;\n\
         {body}\nret;\n}}\n"
    )
}

const LINES: &[&str] = &[
    "L{n}:",
    "bra L{n};",
    "@%p1 bra L{n};",
    "@!%p2 bra L{n};",
    "ld.param.u64 %rd1, [p];",
    "mov.u32 %r1, %tid.x;",
    "mov.u32 %r2, s;",
    "add.s32 %r2, %r2, %r1;",
    "add.s32 %r1, %r1, {n};",
    "mov.u32 %r3, %r1;",
    "shl.b32 %r1, %r1, 2;",
    "and.b32 %r1, %r1, 15;",
    "min.u32 %r1, %r1, {n};",
    "setp.lt.u32 %p1, %r1, {n};",
    "setp.ne.s32 %p2, %r1, %r3;",
    "and.pred %p1, %p1, %p2;",
    "selp.b32 %r1, %r2, %r3, %p1;",
    "ld.shared.u32 %r3, [%r2];",
    "st.shared.u32 [%r2+{n}], %r1;",
    "ld.global.u32 %r1, [%rd1+{n}];",
    "st.global.u32 [%rd2], %r1;",
    "ld.u32 %r1, [%rd3];",
    "add.s64 %rd1, %rd1, {n};",
    "cvt.u64.u32 %rd2, %r1;",
    "mov.u64 %rd3, %rd1;",
    "bar.sync 0;",
    "@%p1 mov.u32 %r1, {n};",
    "exit;",
    "{ .reg .b32 %r<2>; mov.u32 %r1, 1; }",
    "mul.wide.u32 %rd2, %r1, 4;",
    "mov.b64 {%r1, %r2}, %rd1;",
    "mov.b64 %rd2, {%r1, %r2};",
    "cvta.to.global.u64 %rd1, %rd1;",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        judge(&bytes);
    }

    #[test]
    fn any_words(words in proptest::collection::vec(proptest::sample::select(WORDS), 0..120), head in any::<bool>()) {
        let soup = words.join(" ");
        judge(if head { wrap(&soup) } else { soup }.as_bytes());
    }

    /// Statements that mostly make sense, in an order that does not: tangled flow for the analyses.
    #[test]
    fn any_statements(lines in proptest::collection::vec((proptest::sample::select(LINES), 0u32..8), 1..40)) {
        let mut body = String::new();
        let mut labels = [false; 8];
        for (line, n) in &lines {
            if line.starts_with('L') && std::mem::replace(&mut labels[*n as usize], true) {
                continue;
            }
            body += &line.replace("{n}", &n.to_string());
            body.push('\n');
        }
        for (n, there) in labels.iter().enumerate() {
            if !there {
                body += &format!("L{n}:\n");
            }
        }
        judge(wrap(&body).as_bytes());
    }

    /// Real modules with a few bytes or lines changed, doubled, moved or cut off.
    #[test]
    fn damaged_modules(pick in any::<prop::sample::Index>(), edits in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..7, any::<u8>()), 1..6)) {
        let mut text = pick.get(&CORPUS).clone().into_bytes();
        for (place, kind, byte) in edits {
            if text.is_empty() {
                break;
            }
            let at = place.index(text.len());
            let line_end = text[at..].iter().position(|b| *b == b'\n').map_or(text.len(), |n| at + n + 1);
            let line_start = text[..at].iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
            match kind {
                0 => text[at] = byte,
                1 => { text.remove(at); }
                2 => text.insert(at, byte),
                3 => { text.drain(line_start..line_end); }
                4 => { let line = text[line_start..line_end].to_vec(); text.splice(line_start..line_start, line); }
                5 => text[at] = b"0123456789%$_.,;{}[]()@!|+-"[usize::from(byte) % 27],
                _ => text.truncate(at),
            }
        }
        judge(&text);
    }
}

#[test]
fn the_limits_hold() {
    let limits = Limits { max_bytes: 100, max_nesting: 4 };
    let long = wrap("");
    assert!(parse(long.as_bytes(), &limits).unwrap_err().to_string().contains("bytes of text"));
    let deep = wrap(&("{".repeat(20) + &"}".repeat(20)));
    assert!(
        parse(deep.as_bytes(), &Limits::default()).unwrap_err().to_string().contains("nesting")
    );
    let deep = format!(".version 9.0\n.target sm_90\n.global .u32 a = {};", "{".repeat(100_000));
    assert!(parse(deep.as_bytes(), &Limits::default()).is_err());
    let name = "a".repeat(20_000);
    assert!(parse(wrap(&format!(".reg .b32 {name};")).as_bytes(), &Limits::default()).is_err());
    assert!(parse(wrap("mov.u32 %r$ts_1, 0;").as_bytes(), &Limits::default()).is_err());
}

#[test]
fn errors_name_line_and_column() {
    let text = wrap("add.s32 %r1, %r2;\nfrobnicate.u32 %r1, %r2;");
    let module = parse(text.as_bytes(), &Limits::default()).expect("it is well formed");
    assert_eq!(
        check(&module).unwrap_err().to_string(),
        "line 7, column 1: the operands of `add` fit no permitted form (want dss, see the table's letters)"
    );
    let text = wrap("frobnicate.u32 %r1, %r2;");
    let module = parse(text.as_bytes(), &Limits::default()).expect("it is well formed");
    let message = check(&module).unwrap_err().to_string();
    assert_eq!(message, "line 7, column 1: `frobnicate` is not an instruction this table knows");
    let text = wrap("mov.u32 %r1 %r2;");
    let message = parse(text.as_bytes(), &Limits::default()).unwrap_err().to_string();
    assert_eq!(message, "line 7, column 13: expected `,` or `;` after the operand, found `%r2`");
    let text = wrap("mov.u32 %r1, %r9;");
    let message = parse(text.as_bytes(), &Limits::default()).unwrap_err().to_string();
    assert_eq!(message, "line 7, column 1: `%r9` is not declared here");
    for (body, want) in [
        ("tex.2d.v4.f32.f32 {%r1, %r1, %r1, %r1}, [s, {%r1, %r2}];", "textures are not supported"),
        ("wgmma.fence.sync.aligned;", "its operands are descriptors"),
        ("multimem.ld_reduce.global.add.u32 %r1, [%rd1];", "other GPUs"),
        ("brkpt;", "stops the whole GPU"),
        ("ld.global.foo.u32 %r1, [%rd1];", "`ld` is not permitted with `.foo`"),
        ("cp.async.bulk.tensor.2d.shared::cta.global [s], [%rd1, {%r1, %r2}], [s];", "`cp`"),
    ] {
        let module = parse(wrap(body).as_bytes(), &Limits::default()).expect("it is well formed");
        let message = check(&module).unwrap_err().to_string();
        assert!(message.starts_with("line 7, column 1: ") && message.contains(want), "{message}");
    }
}
