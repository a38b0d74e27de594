//! Texts written to be slow: each grows with its size in one way that a careless pass would answer with
//! the square of it. Time is the processor time of the thread, so that a busy machine does not matter.

use std::fmt::Write;
use std::time::Duration;

use turnstile_ptx::{Admission, Arena, BlockShape, GuardMode, Limits, admit};

fn processor_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

const HEAD: &str = ".version 9.0\n.target sm_90\n.address_size 64\n";

fn kernel(body: &str) -> String {
    format!(
        "{HEAD}.shared .align 4 .b8 s[64];\n.visible .entry k(.param .u64 p) {{\n.reg .b32 %r<100000>;\n\
         .reg .b64 %rd<100000>;\n.reg .pred %p<100000>;\n{body}\nret;\n}}\n"
    )
}

/// Repeats a line with `#` as its number, `#-` as the one before, until the text has `bytes`.
fn repeat(bytes: usize, line: &str) -> String {
    let mut text = String::with_capacity(bytes + 256);
    for n in 1.. {
        if text.len() >= bytes || n >= 99_999 {
            break;
        }
        text += &line.replace("#-", &(n - 1).to_string()).replace('#', &n.to_string());
        text.push('\n');
    }
    text
}

type Shape = (&'static str, fn(usize) -> String);

const SHAPES: &[Shape] = &[
    ("one long comment", |n| format!("{HEAD}/*{}*/", "*".repeat(n))),
    ("one long line", |n| format!("{HEAD}{}", " ".repeat(n))),
    ("braces", |n| format!("{HEAD}{}", "{".repeat(n))),
    ("one long number", |n| format!("{HEAD}.global .b8 a[{}];", "1".repeat(n))),
    ("one long name", |n| format!("{HEAD}.global .b8 {};", "a".repeat(n))),
    ("an initialiser", |n| format!("{HEAD}.global .b8 a[] = {{{}0}};", "1,".repeat(n / 2))),
    ("names with long numbers", |n| kernel(&repeat(n, "mov.u32 %r12345, %r54321;"))),
    ("many prefixes", |n| {
        let names = repeat(n / 2, ".reg .b32 a#_<9>;");
        kernel(&(names + &repeat(n / 2, "mov.u32 a#_1, a#-_1;").replace("a0_1", "%r1")))
    }),
    ("sibling scopes", |n| {
        kernel(&repeat(n, "{ .reg .b32 t<9>; .reg .b32 q; mov.u32 t1, 1; L: bra L; }"))
    }),
    ("labels", |n| kernel(&repeat(n, "L#:"))),
    ("a chain of copies", |n| kernel(&repeat(n, "mov.u32 %r#, %r#-;"))),
    ("a chain of sums", |n| kernel(&repeat(n, "add.u32 %r#, %r#-, %r#-;"))),
    ("a chain of sums at the end of which memory is touched", |n| {
        kernel(&repeat(n, "add.u32 %r#, %r#-, %r#-; st.shared.u32 [%r#], 0;"))
    }),
    ("selections", |n| {
        kernel(&repeat(
            n,
            "setp.lt.u32 %p#, %r#-, 9; selp.b32 %r#, %r#-, 0, %p#; ld.shared.u32 %r1, [%r#];",
        ))
    }),
    ("diamonds", |n| {
        kernel(&repeat(
            n,
            "@%p1 bra A#; mov.u32 %r1, #; bra B#; A#: mov.u32 %r2, #; B#: ld.shared.u32 %r3, [%r1];",
        ))
    }),
    ("diamonds with conditions", |n| {
        kernel(&repeat(
            n,
            "setp.lt.u32 %p#, %r#-, %r1; @%p# bra A#; add.u32 %r1, %r1, 1; A#: st.shared.u32 [%r1], 1;",
        ))
    }),
    ("nested loops", |n| {
        let heads = repeat(n / 2, "L#: add.u32 %r1, %r1, 1; add.u32 %r#, %r#, %r1;");
        let count = heads.lines().count();
        let mut tails = String::new();
        for n in (1..=count).rev() {
            let _ = writeln!(
                tails,
                "setp.lt.u32 %p{n}, %r{n}, 9; st.shared.u32 [%r1], 1; @%p{n} bra L{n};"
            );
        }
        kernel(&(heads + &tails))
    }),
    ("a loop of jumps", |n| {
        kernel(&repeat(n, "L#: @%p1 bra L#-; mov.u32 %r#, %r2;").replace("L0;", "L1;"))
    }),
    ("everything jumps to one place", |n| {
        kernel(&format!(
            "L0: ld.shared.u32 %r1, [%r2];\n{}",
            repeat(n, "@%p1 bra L0; mov.u32 %r2, #;")
        ))
    }),
    ("jumps that cross", |n| {
        let jumps = repeat(n / 2, "@%p1 bra L#; mov.u32 %r2, #; ld.shared.u32 %r1, [%r2];");
        let count = jumps.lines().count();
        let mut labels = String::new();
        for n in 1..=count {
            let _ = writeln!(labels, "L{n}: mov.u32 %r{n}, %r2;");
        }
        kernel(&(jumps + &labels))
    }),
    ("a wide jump table", |n| {
        let labels = repeat(n / 2, "L#:");
        let count = labels.lines().count();
        let list: Vec<String> = (1..=count).map(|n| format!("L{n}")).collect();
        kernel(&format!("{labels} T: .branchtargets {};\nbrx.idx %r1, T;", list.join(", ")))
    }),
    ("the same jump table again and again", |n| {
        let list = "L1, ".repeat(300) + "L1";
        kernel(&format!(
            "L1: T: .branchtargets {list};\n{}",
            repeat(n.min(1 << 18), "@%p1 brx.idx %r1, T;")
        ))
    }),
    ("many jump tables over the same labels", |n| {
        let labels = repeat(2048, "L#:");
        let list: Vec<String> = (1..=labels.lines().count()).map(|n| format!("L{n}")).collect();
        let table = format!("T: .branchtargets {};\n", list.join(", "));
        kernel(&(labels + &table + &repeat(n, "@%p1 brx.idx %r1, T; mov.u32 %r1, #;")))
    }),
    ("a ladder into two loops at once", |n| {
        // Irreducible: two loops entered in the middle, over and over.
        kernel(&repeat(
            n,
            "@%p1 bra B#; A#: add.u32 %r1, %r1, 1; @%p2 bra C#; B#: add.u32 %r1, %r1, 2; @%p3 bra A#; C#: \
             st.shared.u32 [%r1], %r1;",
        ))
    }),
    ("every jump goes back, every other one further", |n| {
        let body = repeat(
            n,
            "L#: @%p1 bra L#-; @%p2 bra M; add.u32 %r#, %r#-, 1; ld.shared.u32 %r2, [%r#];",
        );
        kernel(&format!("L0: M:\n{body}"))
    }),
    ("registers that meet everywhere", |n| {
        let count = 64;
        let mut body = String::new();
        for n in 0..count {
            let _ = writeln!(body, "mov.u32 %r{n}, {n};");
        }
        let mut line = 0;
        while body.len() < n {
            line += 1;
            let r = line % count;
            let _ = writeln!(
                body,
                "@%p1 bra J{line}; add.u32 %r{r}, %r{r}, 4; J{line}: ld.shared.u32 %r99, [%r{r}];"
            );
        }
        kernel(&body)
    }),
    ("selections of selections", |n| {
        kernel(&repeat(n, "selp.b32 %r#, %r#-, %r1, %p1; st.shared.u32 [%r#], %r#-;"))
    }),
    ("vectors", |n| {
        let lanes = "{%r1, %r2, %r3, %r4}";
        kernel(&repeat(
            n,
            &format!("ld.shared.v4.u32 {lanes}, [%r5+#]; st.global.v4.u32 [%rd1], {lanes};"),
        ))
    }),
    ("a vector that does not end", |n| {
        kernel(&format!("mov.b64 %rd1, {{{}%r1}};", "%r1, ".repeat(n / 5)))
    }),
    ("long names", |n| {
        let name = "n".repeat(1000);
        kernel(&repeat(
            n,
            &format!(".reg .b32 {name}#; mov.u32 {name}#, 1; st.shared.u32 [{name}#], 0;"),
        ))
    }),
    ("registers declared one by one", |n| kernel(&repeat(n, ".reg .b32 q#; mov.u32 q#, %r1;"))),
    ("nested blocks", |n| kernel(&format!("{}{}", "{".repeat(n / 2), "}".repeat(n / 2)))),
    ("nested blocks as deep as may be", |n| {
        let depth = 60;
        let one = format!(
            "{}ld.shared.u32 %r1, [%r1];{}\n",
            "{.reg .b32 t;".repeat(depth),
            "}".repeat(depth)
        );
        kernel(&one.repeat(n / one.len()))
    }),
    ("generic accesses to many objects", |n| {
        let objects = repeat(2000, ".shared .b32 s#;");
        let names: Vec<String> = (1..=objects.lines().count()).map(|n| format!("s{n}")).collect();
        let takes: String = names.iter().map(|s| format!("mov.u32 %r1, {s};")).collect();
        kernel(&(takes + &repeat(n, "ld.u32 %r#, [%rd#];")))
            .replace(".shared .align", &format!("{objects}.shared .align"))
    }),
    ("a thousand mbarriers", |_| {
        kernel(&repeat(48 * 1000, "mbarrier.arrive.shared.b64 %rd#, [%r#];"))
    }),
    ("mbarriers", |n| kernel(&repeat(n, "mbarrier.arrive.shared.b64 %rd#, [%r#];"))),
    ("barriers with numbers", |n| kernel(&repeat(n, "bar.sync %r#;"))),
    ("inlined again and again", |n| {
        let functions = repeat(
            n / 2,
            ".func f#(.param .b64 a) { .reg .b64 %d; .reg .b32 %i; ld.param.u64 %d, [a]; \
            ld.u32 %i, [%d]; call f#-, (a); call f#-, (a); ret; }",
        )
        .replace("call f0, (a);", "");
        kernel(
            ".local .b8 here[64]; mov.u64 %rd1, here; cvta.local.u64 %rd2, %rd1; call f30, (%rd2);",
        )
        .replace(".shared", &format!("{functions}.shared"))
    }),
    ("a sum of many parts, addressed", |n| {
        kernel(&repeat(n, "mad.lo.s32 %r#, %r#-, 3, %r#-; st.shared.u32 [%r#+4], %r#;"))
    }),
    ("relocated variables, all initialised with each other", |n| {
        format!("{HEAD}.global .u64 v0 = 1;\n{}", repeat(n, ".global .u64 v# = v#-;"))
    }),
    ("wide arrays", |n| format!("{HEAD}{}", repeat(n, ".global .b8 v#[1000000000];"))),
    ("global accesses", |n| kernel(&repeat(n, "ld.global.u32 %r#, [%rd#+4];"))),
    ("generic accesses", |n| kernel(&repeat(n, "st.u32 [%rd#+4], %r#;"))),
    ("variables", |n| format!("{HEAD}{}", repeat(n, ".global .u32 v# = #;"))),
    ("shared objects, all in every function", |n| {
        let objects = repeat(n / 2, ".shared .b32 s#;");
        objects.lines().count();
        format!("{HEAD}{objects}{}", repeat(n / 2, ".visible .entry k#() { ret; }"))
    }),
    ("functions that call each other", |n| {
        let functions = repeat(n, ".func f#() { call f#-; ret; }").replace("call f0;", "");
        format!("{HEAD}{functions}")
    }),
    ("functions called through pointers", |n| {
        let functions = repeat(n / 2, ".func f#() { ret; }");
        let mut body = String::from("P: .callprototype _ ();\n");
        body += &repeat(n / 2, "mov.u64 %rd1, f#; call %rd1, P;");
        let count = functions.lines().count();
        let body: Vec<&str> = body.lines().take(count).collect();
        kernel(&body.join("\n")).replace(".shared", &format!("{functions}.shared"))
    }),
    ("kernels that call the same function", |n| {
        let kernels = repeat(n, ".visible .entry k#() { call f; ret; }");
        format!("{HEAD}.shared .b8 s[64]; .func f() {{ st.shared.u8 [s], 1; ret; }}\n{kernels}")
    }),
    ("local objects", |n| kernel(&repeat(n, ".local .b32 l#; st.local.u32 [l#], 1;"))),
    ("parameters of a call", |n| {
        kernel(&repeat(
            n,
            "{ .param .b32 a; .param .b32 b; st.param.b32 [a], %r1; st.param.b32 [b], %r#; }",
        ))
    }),
];

/// The most memory that this process ever had, in bytes; it only grows.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib =
        line.and_then(|line| line.split_whitespace().nth(1)).and_then(|n| n.parse::<usize>().ok());
    kib.unwrap_or(0) << 10
}

fn run(bytes: usize, bound: Duration) {
    let arena = Arena::new(4 << 32, 4 << 30).expect("an arena");
    let mut shaped = Admission::guarded(GuardMode::Fence, arena, Limits::default());
    shaped.block = Some(BlockShape { x: 64, y: 1, z: 1 });
    let mut slow = Vec::new();
    let only = std::env::var("SHAPE").unwrap_or_default();
    for (name, make) in SHAPES.iter().filter(|(name, _)| name.contains(&only)) {
        let text = make(bytes);
        let before = peak();
        for admission in [Admission::unguarded(Limits::default()), shaped] {
            let start = processor_time();
            let result = admit(text.as_bytes(), &admission);
            let took = processor_time() - start;
            let outcome = match result {
                Ok(_) => "admitted".to_owned(),
                Err(error) => error.to_string().chars().take(90).collect(),
            };
            println!(
                "{took:>10.2?} {:>8} bytes {:?} {name}: {outcome}",
                text.len(),
                admission.mode
            );
            let grown = peak().saturating_sub(before);
            if grown > 256 * text.len().max(1 << 20) {
                slow.push(format!("{name}, {:?}: {} MiB", admission.mode, grown >> 20));
            }
            if took > bound {
                slow.push(format!("{name}, {:?}: {took:?}", admission.mode));
            }
        }
    }
    assert!(slow.is_empty(), "too slow:\n{}", slow.join("\n"));
}

/// Built without optimisation, everything takes about thirty times as long as in a release.
#[test]
fn thirty_two_kibibytes_take_at_most_five_seconds() {
    run(1 << 15, Duration::from_secs(5));
}

#[test]
#[ignore = "slow without optimisation; run with --release -- --ignored"]
fn a_quarter_of_a_mebibyte_takes_at_most_a_second() {
    run(1 << 18, Duration::from_secs(1));
}

/// The size that policies allow by default; built without optimisation this takes minutes.
#[test]
#[ignore = "minutes without optimisation; run with --release -- --ignored"]
fn four_mebibytes_take_at_most_ten_seconds() {
    run(
        std::env::var("BYTES").ok().and_then(|b| b.parse().ok()).unwrap_or(4 << 20),
        Duration::from_secs(10),
    );
}
