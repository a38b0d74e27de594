//! Random PTX modules: everything a hostile tenant can write into one, mostly well-formed.

use std::fmt::Write;

/// A small random number generator (xorshift64*), so that a seed alone makes a module.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }

    pub(crate) fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

const OFFSETS: &[i64] = &[
    0,
    0,
    0,
    0,
    4,
    8,
    16,
    60,
    64,
    124,
    -4,
    -8,
    -16,
    -64,
    1,
    3,
    7,
    255,
    1 << 16,
    1 << 20,
    (16 << 20) - 4,
    16 << 20,
    -(16 << 20),
    i32::MAX as i64,
    i32::MIN as i64,
    -(1 << 30),
];

struct Maker {
    random: Random,
    text: String,
    labels: u32,
    /// Inside a function rather than the kernel: no parameters of the kernel, no calls.
    function: bool,
}

/// A module with a kernel `k(p, q, n, blob)`: p a pointer into the arena, q anything, n anything.
pub(crate) fn module(seed: u64) -> String {
    let mut maker =
        Maker { random: Random::new(seed), text: String::new(), labels: 0, function: true };
    maker.module();
    maker.text
}

impl Maker {
    fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn module(&mut self) {
        self.line(".version 8.6\n.target sm_90\n.address_size 64");
        self.line(".shared .align 16 .b8 s0[256];\n.shared .align 4 .b8 s1[64];\n.shared .align 8 .b64 bar;");
        self.line(".extern .shared .align 16 .b8 dyn[];");
        self.line(".global .align 16 .b8 g0[128] = {1, 2, 3};\n.global .u64 g1 = g0;");
        self.line(".const .align 16 .b8 c0[64] = {9, 8, 7, 6};");
        self.line(".func (.param .b32 r) f0(.param .b64 a, .param .b32 b)\n{");
        self.registers();
        self.line("ld.param.b64 %d0, [a]; ld.param.b64 %d1, [a]; ld.param.b32 %r0, [b];");
        self.body(6, 1);
        self.line("st.param.b32 [r], %r1;\nret;\n}");
        self.line(".func (.param .b32 r) f1(.param .b64 a, .param .b32 b)\n{");
        self.registers();
        self.line("ld.param.b64 %d0, [a]; ld.param.b64 %d1, [a]; ld.param.b32 %r0, [b];");
        self.body(3, 1);
        self.line("st.param.b32 [r], %r0;\nret;\n}");
        self.function = false;
        self.line(".visible .entry k(.param .u64 p, .param .u64 q, .param .u32 n, .param .align 8 .b8 blob[64])\n{");
        self.registers();
        self.line("ld.param.u64 %d0, [p]; ld.param.u64 %d1, [q]; ld.param.u32 %r0, [n];");
        self.line(
            "mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u64 %d2, l0; cvta.local.u64 %d3, %d2;",
        );
        let count = 6 + self.random.below(18);
        self.body(count, 3);
        self.line("ret;\n}");
    }

    fn registers(&mut self) {
        self.line(".reg .pred %p<6>;\n.reg .b16 %h<6>;\n.reg .b32 %r<12>;\n.reg .b64 %d<10>;\n.reg .f32 %f<4>;");
        self.line(".local .align 16 .b8 l0[64];\n.local .align 4 .b8 l1[20];");
        // Everything has a value; which one a register that was never written holds is not defined.
        for n in 0..12 {
            let _ = writeln!(self.text, "mov.u32 %r{n}, {};", n * 4);
        }
        for n in 0..10 {
            let _ = writeln!(self.text, "mov.u64 %d{n}, {};", n * 8);
        }
        for n in 0..6 {
            let _ = writeln!(self.text, "setp.lt.u32 %p{n}, %r{n}, 7; mov.u16 %h{n}, {n};");
        }
        for n in 0..4 {
            let _ = writeln!(self.text, "mov.f32 %f{n}, 0f3F800000;");
        }
    }

    fn r(&mut self) -> String {
        format!("%r{}", self.random.below(12))
    }

    fn d(&mut self) -> String {
        format!("%d{}", self.random.below(10))
    }

    fn p(&mut self) -> String {
        format!("%p{}", self.random.below(6))
    }

    /// A 32-bit source.
    fn source(&mut self) -> String {
        match self.random.below(6) {
            0 => format!("{}", self.random.next() as u32 >> self.random.below(32)),
            1 => self
                .random
                .pick(&["0", "1", "4", "31", "32", "64", "255", "4096", "0x7fffffff"])
                .into(),
            _ => self.r(),
        }
    }

    fn source64(&mut self) -> String {
        match self.random.below(6) {
            0 => format!("{}", self.random.next() as i64 >> self.random.below(63)),
            1 => self
                .random
                .pick(&["0", "1", "4", "8", "64", "0xffffffff", "-16", "0x400000000"])
                .into(),
            _ => self.d(),
        }
    }

    fn guard(&mut self) -> String {
        match self.random.below(5) {
            0 => format!("@{} ", self.p()),
            1 if self.random.chance(50) => format!("@!{} ", self.p()),
            _ => String::new(),
        }
    }

    fn offset(&mut self) -> i64 {
        match self.random.below(8) {
            0 => (self.random.next() as i32 >> self.random.below(31)).into(),
            _ => OFFSETS[self.random.below(OFFSETS.len())],
        }
    }

    fn label(&mut self) -> String {
        self.labels += 1;
        format!("L{}", self.labels)
    }

    fn body(&mut self, count: usize, depth: u32) {
        for _ in 0..count {
            match self.random.below(20) {
                0..=4 => self.arithmetic(),
                5..=6 => self.wide(),
                7 => self.address(),
                8 => self.compare(),
                9..=13 => self.access(),
                14 => self.special(),
                15 => self.synchronise(),
                16 if depth > 0 => self.branch(depth),
                17 if depth > 0 => self.looping(depth),
                18 if depth > 0 => self.table(depth),
                19 if !self.function => self.call(),
                _ => self.access(),
            }
        }
    }

    fn arithmetic(&mut self) {
        let (g, to, a, b, c) =
            (self.guard(), self.r(), self.source(), self.source(), self.source());
        let op = self.random.pick(&[
            "add.u32",
            "add.s32",
            "sub.s32",
            "mul.lo.s32",
            "min.u32",
            "min.s32",
            "max.s32",
            "and.b32",
            "or.b32",
            "xor.b32",
            "shl.b32",
            "shr.u32",
            "shr.s32",
            "rem.u32",
            "div.u32",
            "max.u32",
            "bfind",
            "selp",
            "mad",
            "lop3",
            "bfe",
            "prmt",
            "neg",
            "popc",
            "shf",
            "bfi",
            "add.u16x2",
            "cvt",
            "abs",
            "rem.s32",
            "and.b32",
            "min.u32",
        ]);
        let a_reg = self.r();
        let line = match op {
            "bfind" => format!("{g}bfind.u32 {to}, {a};"),
            "selp" => format!("{g}selp.b32 {to}, {a}, {b}, {};", self.p()),
            "mad" => format!("{g}mad.lo.s32 {to}, {a}, {b}, {c};"),
            "lop3" => format!("{g}lop3.b32 {to}, {a}, {b}, {c}, {};", self.random.below(256)),
            "bfe" => format!("{g}bfe.u32 {to}, {a}, {b}, {c};"),
            "bfi" => format!("{g}bfi.b32 {to}, {a}, {b}, {c}, {};", self.source()),
            "prmt" => format!("{g}prmt.b32 {to}, {a}, {b}, {c};"),
            "shf" => format!("{g}shf.l.wrap.b32 {to}, {a}, {b}, {c};"),
            "neg" => format!("{g}neg.s32 {to}, {a};"),
            "abs" => format!("{g}abs.s32 {to}, {a};"),
            "popc" => format!("{g}popc.b32 {to}, {a};"),
            "cvt" => {
                let kind = self
                    .random
                    .pick(&["u32.u8", "s32.s8", "u32.u16", "s32.s16", "u8.u32", "s16.s32"]);
                format!("{g}cvt.{kind} {to}, {a_reg};")
            }
            op if op.starts_with("div") || op.starts_with("rem") => {
                format!("{g}{op} {to}, {a}, {};", 1 + self.random.below(300))
            }
            op => format!("{g}{op} {to}, {a}, {b};"),
        };
        self.line(&line);
    }

    fn wide(&mut self) {
        let (g, to, a, b) = (self.guard(), self.d(), self.source64(), self.source64());
        let (x, y, r) = (self.r(), self.source(), self.r());
        let from = self.d();
        let op = self.random.below(16);
        let line = match op {
            0 | 1 => format!("{g}add.s64 {to}, {a}, {b};"),
            2 => format!("{g}sub.s64 {to}, {a}, {b};"),
            3 => format!("{g}mul.wide.u32 {to}, {x}, {y};"),
            4 => format!("{g}mul.wide.s32 {to}, {x}, {y};"),
            5 => format!("{g}cvt.u64.u32 {to}, {x};"),
            6 => format!("{g}cvt.s64.s32 {to}, {x};"),
            7 => format!("{g}cvt.u32.u64 {r}, {from};"),
            8 => format!("{g}and.b64 {to}, {a}, {b};"),
            9 => format!("{g}shl.b64 {to}, {a}, {y};"),
            10 => format!("{g}mov.b64 {to}, {{{x}, {r}}};"),
            11 => format!("{g}mov.b64 {{{x}, {r}}}, {from};"),
            12 => format!("{g}mad.wide.u32 {to}, {x}, {y}, {from};"),
            13 => format!("{g}selp.b64 {to}, {a}, {b}, {};", self.p()),
            14 => format!("{g}min.u64 {to}, {a}, {b};"),
            _ => format!("{g}mul.lo.s64 {to}, {a}, {b};"),
        };
        self.line(&line);
    }

    /// The address of something.
    fn address(&mut self) {
        let (g, to, r, from) = (self.guard(), self.d(), self.r(), self.d());
        let symbol = self.random.pick(&["s0", "s1", "l0", "l1", "g0", "g1", "c0", "dyn", "bar"]);
        let narrow = self.random.pick(&["s0", "s1", "dyn", "bar", "l0", "l1"]);
        let space = self.random.pick(&["shared", "local", "global", "const"]);
        let line = match self.random.below(7) {
            0 | 1 => format!("{g}mov.u64 {to}, {symbol};"),
            2 => format!("{g}mov.u32 {r}, {narrow};"),
            3 => format!("{g}cvta.{space}.u64 {to}, {from};"),
            4 => format!("{g}cvta.to.{space}.u64 {to}, {from};"),
            5 => format!("{g}mov.u64 {to}, f0;"),
            _ => format!("{g}isspacep.shared {}, {from};", self.p()),
        };
        self.line(&line);
    }

    fn compare(&mut self) {
        let (g, p, a, b) = (self.guard(), self.p(), self.source(), self.source());
        let how = self.random.pick(&[
            "lt.u32", "le.s32", "gt.u32", "ge.s32", "eq.s32", "ne.s32", "lo.u32", "hs.u32",
        ]);
        let q = self.p();
        let line = match self.random.below(4) {
            0 => {
                let (a, b) = (self.source64(), self.source64());
                format!("{g}setp.ltu.f32 {q}, %f0, %f1; {g}setp.lt.u64 {p}, {a}, {b};")
            }
            1 => {
                let (base, ty) = how.split_once('.').unwrap();
                format!("{g}setp.{base}.and.{ty} {p}, {a}, {b}, {q};")
            }
            _ => format!("{g}setp.{how} {p}, {a}, {b};"),
        };
        self.line(&line);
    }

    fn base(&mut self, space: &str) -> String {
        match (space, self.random.below(4)) {
            ("shared" | "local", 0) => self.r(),
            ("shared", 1) => self.random.pick(&["s0", "s1", "dyn"]).into(),
            ("local", 1) => self.random.pick(&["l0", "l1"]).into(),
            ("global", 1) => "g0".into(),
            ("const", 1) => "c0".into(),
            _ => self.d(),
        }
    }

    fn access(&mut self) {
        let g = self.guard();
        let space = self
            .random
            .pick(&["global", "global", "shared", "shared", "local", "const", "", "", "param"]);
        let dot = if space.is_empty() { String::new() } else { format!(".{space}") };
        let base = self.base(space);
        let mut offset = self.offset();
        if !base.starts_with('%') {
            // Accesses by name outside the object are refused; that is tested elsewhere.
            offset = [0, 4, 8][self.random.below(3)];
        }
        let at = if offset == 0 { format!("[{base}]") } else { format!("[{base}+{offset}]") };
        let (r, d, h) = (self.r(), self.d(), format!("%h{}", self.random.below(6)));
        let vector = format!("{{{}, {}}}", self.r(), "%r11");
        let four = "{%r3, %r4, %r5, %r6}";
        let value = self.source();
        let line = match (space, self.random.below(12)) {
            ("param", _) if self.function => "membar.cta;".into(),
            ("param", n) => {
                let at = [0, 4, 8, 56, 60][self.random.below(5)];
                if n < 4 {
                    format!("{g}mov.b64 {d}, blob; {g}ld.param.u32 {r}, [{d}+{at}];")
                } else {
                    format!("{g}ld.param.u32 {r}, [blob+{at}];")
                }
            }
            ("const", 0..=2) => format!("{g}ld.const.u8 {h}, {at};"),
            ("const", _) => format!("{g}ld.const.u32 {r}, {at};"),
            (_, 0) => format!("{g}ld{dot}.u8 {h}, {at};"),
            (_, 1) if offset % 8 == 0 || base.starts_with('%') => {
                format!("{g}ld{dot}.u64 {d}, {at};")
            }
            (_, 2) if base.starts_with('%') => format!("{g}ld{dot}.v2.u32 {vector}, {at};"),
            (_, 3) if base.starts_with('%') => format!("{g}ld{dot}.v4.u32 {four}, {at};"),
            (_, 4) if base.starts_with('%') => format!("{g}st{dot}.v4.u32 {at}, {four};"),
            (_, 5) => format!("{g}st{dot}.u8 {at}, {h};"),
            (_, 6) if base.starts_with('%') => format!("{g}st{dot}.u64 {at}, {d};"),
            ("global" | "shared" | "", 7) => {
                let op =
                    self.random.pick(&["add.u32", "max.u32", "exch.b32", "inc.u32", "and.b32"]);
                format!("{g}atom{dot}.{op} {r}, {at}, {value};")
            }
            ("global" | "shared" | "", 8) => format!("{g}red{dot}.add.u32 {at}, {value};"),
            ("global" | "shared" | "", 9) => {
                format!("{g}atom{dot}.cas.b32 {r}, {at}, {value}, {};", self.source())
            }
            (_, 10) => format!("{g}st{dot}.u32 {at}, {value};"),
            _ => format!("{g}ld{dot}.u32 {r}, {at};"),
        };
        self.line(&line);
    }

    fn special(&mut self) {
        let g = self.guard();
        let (r, r2, d, d2, p) = (self.r(), self.r(), self.d(), self.d(), self.p());
        let offset = OFFSETS[self.random.below(16)];
        let line = match self.random.below(18) {
            0 => format!("{g}mov.u32 {r}, %ntid.x;"),
            1 => format!("{g}mov.u32 {r}, %laneid;"),
            2 => format!("{g}prefetch.global.L2 [{d}+{offset}];"),
            3 => {
                format!("{g}cp.async.ca.shared.global [{r}+{offset}], [{d}], 8; cp.async.wait_all;")
            }
            4 => format!(
                "{g}cp.async.ca.shared.global [{r}], [{d}+{offset}], 4, {r2}; cp.async.wait_all;"
            ),
            5 => format!(
                "{g}cp.async.bulk.global.shared::cta.bulk_group [{d}], [{r}], 64; cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;"
            ),
            6 => format!(
                "and.b32 {r2}, {r2}, 1023; {g}cp.async.bulk.global.shared::cta.bulk_group [{d}], [{r}], {r2}; cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;"
            ),
            7 => format!(
                "and.b32 {r2}, {r2}, 1023; {g}cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [{r}], [{d}], {r2}, [bar];"
            ),
            8 => format!("{g}mbarrier.init.shared.b64 [{r}+{offset}], {r2};"),
            9 => format!("{g}mbarrier.arrive.shared.b64 {d}, [{r}];"),
            10 => format!("{g}mbarrier.arrive.expect_tx.shared.b64 {d}, [bar], {r2};"),
            11 => format!("{g}mbarrier.test_wait.shared.b64 {p}, [{r}], {d};"),
            12 => format!("{g}mbarrier.try_wait.parity.b64 {p}, [{d2}], {r2};"),
            13 => format!("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{{r2}}}, [{r}+{offset}];"),
            14 => format!("{g}mov.u32 {r}, %dynamic_smem_size;"),
            15 if self.random.chance(20) => format!("{g}trap;"),
            16 if self.random.chance(20) => format!("{g}exit;"),
            17 => format!(
                "{{ .reg .b64 %d1; .reg .b32 %r0; mov.u64 %d1, {d2}; mov.u32 %r0, 1; st.global.u32 [%d1+{offset}], %r0; }}"
            ),
            _ => format!("{g}mov.u32 {r}, %clock;"),
        };
        self.line(&line);
    }

    fn synchronise(&mut self) {
        let (r, p) = (self.r(), self.p());
        let line = match self.random.below(8) {
            0 => "bar.warp.sync 0xffffffff;".into(),
            1 => format!("shfl.sync.idx.b32 {r}, {}, {}, 31, -1;", self.r(), self.source()),
            2 => format!("vote.sync.ballot.b32 {r}, {p}, -1;"),
            3 => "membar.gl;".into(),
            4 => "fence.acq_rel.gpu;".into(),
            5 if self.random.chance(30) => "bar.sync 0;".into(),
            6 if self.random.chance(30) => format!("bar.red.popc.u32 {r}, 0, {p};"),
            _ => format!("activemask.b32 {r};"),
        };
        self.line(&line);
    }

    fn branch(&mut self, depth: u32) {
        let (other, end, p) = (self.label(), self.label(), self.p());
        self.line(&format!("@{p} bra {other};"));
        let (a, b) = (1 + self.random.below(4), self.random.below(4));
        self.body(a, depth - 1);
        if self.random.chance(60) {
            self.line(&format!("bra {end};"));
        }
        self.line(&format!("{other}:"));
        self.body(b, depth - 1);
        self.line(&format!("{end}:"));
    }

    /// A loop with a counter of its own, so that most end.
    fn looping(&mut self, depth: u32) {
        let head = self.label();
        let n = self.labels;
        let step = [1, 1, 2, 4, 16][self.random.below(5)];
        let limit = step * (1 + self.random.below(8));
        let how = self.random.pick(&["lt.u32", "ne.s32", "lt.s32", "le.u32"]);
        self.line(&format!("{{ .reg .b32 %i{n}_; .reg .pred %q{n}_; mov.u32 %i{n}_, 0;"));
        self.line(&format!("{head}:"));
        let count = 1 + self.random.below(4);
        self.body(count, depth - 1);
        match self.random.below(3) {
            0 => {
                let base = self.random.pick(&["s0", "s1", "dyn"]);
                let r = self.r();
                self.line(&format!(
                    "mov.u32 {r}, {base}; add.u32 {r}, {r}, %i{n}_; st.shared.u8 [{r}], %h1;"
                ));
            }
            1 => {
                let d = self.d();
                self.line(&format!(
                    "mul.wide.u32 {d}, %i{n}_, 4; add.s64 {d}, {d}, %d0; ld.global.u32 %r7, [{d}];"
                ));
            }
            _ => {}
        }
        self.line(&format!("add.u32 %i{n}_, %i{n}_, {step}; setp.{how} %q{n}_, %i{n}_, {limit}; @%q{n}_ bra {head}; }}"));
    }

    fn table(&mut self, depth: u32) {
        let (a, b, end, name) = (self.label(), self.label(), self.label(), self.label());
        let (g, r) = (self.guard(), self.r());
        self.line(&format!("{name}: .branchtargets {a}, {b}, {end};"));
        self.line(&format!("{g}brx.idx {r}, {name};\n{a}:"));
        self.body(1, depth - 1);
        self.line(&format!("bra {end};\n{b}:"));
        self.body(1, depth - 1);
        self.line(&format!("{end}:"));
    }

    fn call(&mut self) {
        let n = {
            self.labels += 1;
            self.labels
        };
        let (argument, b, result) =
            (self.random.pick(&["%d0", "%d1", "%d3", "%d3", "%d4"]), self.source(), self.r());
        let target = self.random.pick(&["f0", "f1"]);
        self.line(&format!("{{ .param .b64 a{n}; .param .b32 b{n}; .param .b32 r{n}; st.param.b64 [a{n}], {argument}; mov.u32 %r9, {b}; st.param.b32 [b{n}], %r9;"));
        if self.random.chance(30) {
            let from = self.d();
            let from =
                if self.random.chance(50) { format!("mov.u64 {from}, f1; ") + &from } else { from };
            let (set, register) = from
                .rsplit_once(' ')
                .map_or((String::new(), from.clone()), |(s, r)| (s.into(), r.into()));
            self.line(&format!("{set} P{n}: .callprototype (.param .b32 _) _ (.param .b64 _, .param .b32 _); call (r{n}), {register}, (a{n}, b{n}), P{n};"));
        } else {
            self.line(&format!("call (r{n}), {target}, (a{n}, b{n});"));
        }
        self.line(&format!("ld.param.b32 {result}, [r{n}]; }}"));
    }
}
