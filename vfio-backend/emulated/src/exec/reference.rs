//! A second, simpler interpreter for tests: one thread at a time, straight from the meaning of each instruction. Random
//! programs run on both must leave the same registers, whatever way the lanes branch.

use super::block::{Barriers, Common, Turn};
use super::launch::{Launch, Linked};
use super::levels::Level;
use super::warp::Warp;
use crate::ir::{CONSTANT, Combine, Function, Guard, Inst, Lanes, NONE, Op, Program, Shape, Slot};
use crate::memory::MemoryMap;
use crate::ops::compare::Compare;
use crate::ops::float32::Float32;
use crate::ops::int32::Int32;
use crate::ops::int64::Int64;
use crate::raw::Segment;
use proptest::prelude::*;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const SLOTS: u16 = 6;
const PREDS: u16 = 4;
/// Instructions a thread may execute before a loop is called endless.
const STEPS: usize = 400;

/// One thread's registers.
#[derive(Clone, Debug, PartialEq)]
struct Thread {
    r32: Vec<u32>,
    r64: Vec<u64>,
    preds: Vec<bool>,
}

impl Thread {
    fn new(lane: u32) -> Self {
        Self {
            r32: (0..SLOTS)
                .map(|s| lane.wrapping_mul(0x9e37_79b9).rotate_left(u32::from(s)))
                .collect(),
            r64: (0..SLOTS)
                .map(|s| u64::from(lane).wrapping_mul(0x1234_5678_9abc_def1) << s)
                .collect(),
            preds: (0..PREDS).map(|p| lane >> p & 1 != 0).collect(),
        }
    }

    fn read32(&self, program: &Program, slot: Slot) -> u64 {
        u64::from(if slot & CONSTANT != 0 {
            program.constants32[usize::from(slot & !CONSTANT)]
        } else {
            self.r32[usize::from(slot)]
        })
    }

    fn read64(&self, slot: Slot) -> u64 {
        self.r64[usize::from(slot)]
    }

    /// Runs to the end. `None` when it takes too long.
    fn run(&mut self, program: &Program) -> Option<()> {
        let mut pc = 0;
        for _ in 0..STEPS {
            let Inst { guard, op } = program.code[pc];
            pc += 1;
            let (p, negated) = guard.parts();
            if !guard.is_always() && self.preds[usize::from(p)] == negated {
                continue;
            }
            match op {
                Op::Int32(l) => {
                    let o = [l.a, l.b, l.c]
                        .map(|s| if s == NONE { 0 } else { self.read32(program, s) });
                    self.r32[usize::from(l.d)] = l.op.scalar(o, l.x) as u32;
                }
                Op::Float32(l) => {
                    let o = [l.a, l.b, l.c]
                        .map(|s| if s == NONE { 0 } else { self.read32(program, s) });
                    self.r32[usize::from(l.d)] = l.op.scalar(o, l.x) as u32;
                }
                Op::Int64(l) => {
                    let o = [l.a, l.b, l.c].map(|s| if s == NONE { 0 } else { self.read64(s) });
                    self.r64[usize::from(l.d)] = l.op.scalar(o, l.x);
                }
                Op::Select32 { d, a, b, p } => {
                    let from = if self.preds[usize::from(p)] { a } else { b };
                    self.r32[usize::from(d)] = self.read32(program, from) as u32;
                }
                Op::Compare { op, x, d, not_d, a, b, c, combine, negate } => {
                    let yes = op.scalar(self.read32(program, a), self.read32(program, b), x);
                    let c = c != NONE && self.preds[usize::from(c)] != negate;
                    let with = |v: bool| match combine {
                        Combine::None => v,
                        Combine::And => v & c,
                        Combine::Or => v | c,
                        Combine::Xor => v ^ c,
                    };
                    self.preds[usize::from(d)] = with(yes);
                    if not_d != NONE {
                        self.preds[usize::from(not_d)] = with(!yes);
                    }
                }
                Op::Logic { table, d, a, b } => {
                    let n = 2 * u8::from(self.preds[usize::from(a)])
                        + u8::from(self.preds[usize::from(b)]);
                    self.preds[usize::from(d)] = table >> n & 1 != 0;
                }
                Op::Branch { to } => pc = to as usize,
                Op::Exit => return Some(()),
                other => unreachable!("the generator makes no {other:?}"),
            }
        }
        None
    }
}

fn guard() -> impl Strategy<Value = Guard> {
    prop_oneof![
        2 => Just(Guard::ALWAYS),
        1 => (0..PREDS, any::<bool>()).prop_map(|(p, n)| Guard::new(p, n)),
    ]
}

fn source() -> impl Strategy<Value = Slot> {
    prop_oneof![4 => 0..SLOTS, 1 => (0..3u16).prop_map(|c| c | CONSTANT)]
}

fn instruction(length: u32) -> impl Strategy<Value = Op> {
    let ints = prop::sample::select(Int32::ALL);
    let floats = prop::sample::select(Float32::ALL);
    let wides: Vec<Int64> = Int64::ALL
        .iter()
        .copied()
        .filter(|op| {
            let s = op.signature();
            s.result == crate::ops::Class::W64
                && s.sources.iter().all(|&c| c == crate::ops::Class::W64)
        })
        .collect();
    let compares: Vec<Compare> =
        Compare::ALL.iter().copied().filter(|c| c.class() == crate::ops::Class::W32).collect();
    let slots = || (0..SLOTS, source(), source(), source(), any::<u8>());
    let combine =
        prop::sample::select(vec![Combine::None, Combine::And, Combine::Or, Combine::Xor]);
    prop_oneof![
        4 => (ints, slots()).prop_map(|(op, (d, a, b, c, x))| Op::Int32(Lanes { op, x, d, a, b, c })),
        2 => (floats, slots()).prop_map(|(op, (d, a, b, c, x))| Op::Float32(Lanes { op, x, d, a, b, c })),
        2 => (prop::sample::select(wides), 0..SLOTS, 0..SLOTS, 0..SLOTS, 0..SLOTS, any::<u8>())
            .prop_map(|(op, d, a, b, c, x)| Op::Int64(Lanes { op, x, d, a, b, c })),
        3 => (prop::sample::select(compares), 0..PREDS, prop_oneof![0..PREDS, Just(NONE)], source(), source(), 0..PREDS, combine, any::<bool>(), any::<u8>())
            .prop_map(|(op, d, not_d, a, b, c, combine, negate, x)| Op::Compare {
                op, x, combine, negate, d, not_d: if not_d == d { NONE } else { not_d }, a, b, c,
            }),
        1 => (0u8..16, 0..PREDS, 0..PREDS, 0..PREDS).prop_map(|(table, d, a, b)| Op::Logic { table, d, a, b }),
        1 => (0..SLOTS, source(), source(), 0..PREDS).prop_map(|(d, a, b, p)| Op::Select32 { d, a, b, p }),
        3 => (0..length).prop_map(|to| Op::Branch { to }),
        1 => Just(Op::Exit),
    ]
}

fn programs() -> impl Strategy<Value = Program> {
    (4u32..40).prop_flat_map(|length| {
        prop::collection::vec((guard(), instruction(length)), length as usize).prop_map(|body| {
            let mut code: Vec<Inst> =
                body.into_iter().map(|(guard, op)| Inst { guard, op }).collect();
            code.push(Inst { guard: Guard::ALWAYS, op: Op::Exit });
            let function = Function {
                name: "random".into(),
                is_kernel: true,
                entry: 0,
                slots32: SLOTS.into(),
                slots64: SLOTS.into(),
                preds: PREDS.into(),
                frame_bytes: 0,
                shape: Shape::default(),
                params: Vec::new(),
                param_bytes: 0,
                shared_bytes: 0,
                dynamic_base: 0,
                required_block: None,
                max_threads: None,
            };
            let constants32 = vec![0, 1, 0x3f80_0000];
            let lines = vec![1; code.len()];
            Program { code, lines, functions: vec![function], constants32, ..Program::default() }
        })
    })
}

/// The same program with an instruction before its end that only the interpreter executes and of which the compiler knows
/// nothing: it must find every register in the file.
fn observed(program: &Program) -> Program {
    let mut program = program.clone();
    let last = program.code.len() - 1;
    for inst in &mut program.code[..last] {
        if inst.op == Op::Exit {
            inst.op = Op::Branch { to: last as u32 };
        }
    }
    let guard = Guard::ALWAYS;
    program.code[last] = Inst { guard, op: Op::Elect { d: NONE, p: PREDS, members: CONSTANT } };
    program.code.push(Inst { guard, op: Op::Exit });
    program.lines.push(1);
    program.functions[0].preds += 1;
    program
}

/// A launch that only the interpreter's loop looks at.
fn launch(program: Program) -> Launch {
    Launch {
        linked: Arc::new(Linked::new(Arc::new(program), &[])),
        compiled: None,
        choose: false,
        kernel: 0,
        grid: [1; 3],
        block: [32, 1, 1],
        shared_bytes: 0,
        dynamic_bytes: 0,
        dynamic_base: 0,
        params: Segment::zeroed(16).unwrap(),
        map: Arc::new(MemoryMap::default()),
        arena: None,
        stack_bytes: 1 << 16,
        env: [0; 4],
        workers: 1,
        cooperative: false,
        grid_id: 1,
        deadline: Instant::now() + Duration::from_secs(10),
        instruction_limit: u64::MAX,
        begun: Instant::now(),
        stop: Arc::new(AtomicBool::new(false)),
        halted: AtomicBool::new(false),
        next: AtomicU64::new(0),
        warp_instructions: AtomicU64::new(0),
        thread_instructions: AtomicU64::new(0),
        printed: Mutex::new(Vec::new()),
        failure: Mutex::new(None),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// Random code with random branches leaves every lane's registers as running that lane alone does, at every level.
    #[test]
    fn lanes_do_not_disturb_each_other(program in programs(), threads in 1u32..=32) {
        let mut alone: Vec<Thread> = (0..32).map(Thread::new).collect();
        for thread in alone.iter_mut().take(threads as usize) {
            prop_assume!(thread.run(&program).is_some());
        }
        let watched = observed(&program);
        let machine = crate::jit::compile(&watched, &[]).map(Arc::new);
        let mut plain = launch(program);
        let mut compiled_launch = launch(watched);
        compiled_launch.compiled = machine;
        plain.block = [threads, 1, 1];
        compiled_launch.block = plain.block;
        let mut ways: Vec<(Level, bool)> = Level::available().into_iter().map(|l| (l, false)).collect();
        ways.push((Level::detect(), true));
        for (level, compiled) in ways {
            let launch = if compiled { &compiled_launch } else { &plain };
            let kernel = &launch.linked.program.functions[0];
            let mut warp = Warp::new(0);
            warp.start(0, kernel, launch.block);
            for (lane, thread) in (0..32).map(Thread::new).enumerate() {
                for s in 0..usize::from(SLOTS) {
                    warp.r32[s].0[lane] = thread.r32[s];
                    warp.r64[s].0[lane] = thread.r64[s];
                }
                for p in 0..usize::from(PREDS) {
                    warp.preds[p] = (warp.preds[p] & !(1 << lane)) | u32::from(thread.preds[p]) << lane;
                }
            }
            let shared = Segment::zeroed(16).unwrap();
            let mut common = Common { index: [0; 3], worker: 0, shared, barriers: Barriers::default(), compiled, sites: Vec::new() };
            loop {
                match level.run(&mut warp, &mut common, launch) {
                    Ok(Turn::Done) => break,
                    Ok(_) => {}
                    Err(fault) => panic!("{fault:?}"),
                }
            }
            for (lane, thread) in alone.iter().enumerate() {
                let got = Thread {
                    r32: warp.r32.iter().take(usize::from(SLOTS)).map(|v| v.0[lane]).collect(),
                    r64: warp.r64.iter().take(usize::from(SLOTS)).map(|v| v.0[lane]).collect(),
                    preds: warp.preds.iter().take(usize::from(PREDS)).map(|p| p >> lane & 1 != 0).collect(),
                };
                prop_assert_eq!(&got, thread, "lane {} at {:?}, compiled: {}", lane, level, compiled);
            }
        }
    }
}
