//! `turnstile ptx corpus`: every kernel of the corpus in the interpreter and as machine code, unguarded and guarded,
//! checked against what the host computes.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use turnstile_corpus::{Arg, Case, Kernel, Size, kernels};
use turnstile_emulated::memory::{Access, AddressSpace, Arena};
use turnstile_emulated::{Engine, LaunchConfig, LaunchReport, LoadedProgram};
use turnstile_ptx::guard::RECORD_BYTES;
use turnstile_ptx::{Admission, BlockShape, GuardMode, Limits, RED_ZONE, VerifiedModule, admit};

use crate::commands::failure::Failure;
use crate::commands::table::{count, nanoseconds, say, say_json, table};

/// Run every kernel of the corpus every way the emulated GPU has, check the results, and print the speeds
///
/// Each kernel runs in the interpreter, as machine code, and as a launch chooses by itself (auto); by itself also guarded by
/// `fence` and by `check`. The small case is checked first, guarded ones with every access held to the arena; the speed
/// is that of the larger case: instructions of threads in a second of one core's time, the best of three runs.
///
///   turnstile ptx corpus --filter gemm
///   turnstile ptx corpus --small --json
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(in crate::commands) struct Corpus {
    /// Only kernels whose name contains this
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// Only check the small cases, measure nothing
    #[arg(long)]
    small: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The arena of a run: 4 GiB, like a tenant's.
const ARENA: Arena = Arena { base: 0x7000_0000_0000, log2: 32 };

/// The ways a kernel runs.
const WAYS: [(&str, Engine, GuardMode); 5] = [
    ("interpreter", Engine::Interpreter, GuardMode::None),
    ("compiled", Engine::Compiled, GuardMode::None),
    ("auto", Engine::Auto, GuardMode::None),
    ("fence", Engine::Auto, GuardMode::Fence),
    ("check", Engine::Auto, GuardMode::Check),
];

/// What became of one way.
enum Ran {
    /// Right; thread instructions and nanoseconds of the larger case, if it was measured.
    Right(Option<(u64, u64)>),
    /// The guard or the executor refuses the kernel.
    Refused(String),
    /// It ran and something was wrong.
    Wrong(String),
}

/// A case in an address space of its own.
struct Prepared<'c> {
    case: &'c Case,
    space: AddressSpace,
    program: LoadedProgram,
    addresses: Vec<u64>,
    params: Vec<u8>,
    dynamic_shared: u32,
    guarded: bool,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Admits a kernel's program for the launch of a case.
fn admitted(case: &Case, mode: GuardMode) -> Result<VerifiedModule, String> {
    let admission = if mode == GuardMode::None {
        Admission::unguarded(Limits::default())
    } else {
        let [x, y, z] = case.launch.block;
        let arena = turnstile_ptx::Arena::new(ARENA.base, 1 << ARENA.log2).map_err(text)?;
        Admission {
            block: Some(BlockShape { x, y, z }),
            dynamic_shared: Some(case.launch.shared.into()),
            ..Admission::guarded(mode, arena, Limits::default())
        }
    };
    admit(case.kernel.ptx.as_bytes(), &admission).map_err(text)
}

impl<'c> Prepared<'c> {
    /// Loads the program and fills the buffers.
    fn new(case: &'c Case, module: &VerifiedModule) -> Result<Self, String> {
        let mut space = AddressSpace::new(ARENA).map_err(text)?;
        let guarded = module.mode() != GuardMode::None;
        if guarded {
            // The guard's own place is below what it left for variables.
            space.reserve_low(RED_ZONE + RECORD_BYTES + module.report().variable_bytes + RED_ZONE);
        }
        for variable in &module.report().variables {
            let bytes = variable.bytes.max(1);
            space.allocate_at(variable.address, bytes, Access::READ_WRITE).map_err(text)?;
            space.write(variable.address, &variable.init).map_err(text)?;
        }
        if module.mode() == GuardMode::Check {
            let at = ARENA.base + RED_ZONE;
            space.allocate_at(at, RECORD_BYTES, Access::READ_WRITE).map_err(text)?;
        }
        let program =
            LoadedProgram::load(module.module(), module.view(), &mut space).map_err(text)?;
        let mut addresses = Vec::new();
        for buffer in &case.buffers {
            let len = buffer.initial.len().max(1) as u64;
            addresses.push(space.allocate(len, Access::READ_WRITE).map_err(text)?);
        }
        let kernel = program.kernel(case.kernel.entry).ok_or("no such kernel")?;
        let mut params = vec![0u8; kernel.param_bytes as usize];
        for (arg, (offset, _)) in case.args.iter().zip(&kernel.params) {
            let value = match arg {
                Arg::Buffer(index) => addresses[*index].to_le_bytes().to_vec(),
                Arg::Value(value) => value.clone(),
            };
            let at = *offset as usize;
            params
                .get_mut(at..at + value.len())
                .ok_or("a parameter does not fit")?
                .copy_from_slice(&value);
        }
        let contract = module.contract().kernels.iter();
        let least = contract
            .filter(|k| k.kernel == case.kernel.entry)
            .map(|k| k.dynamic_shared)
            .max()
            .unwrap_or(0);
        let dynamic_shared = case.launch.shared.max(u32::try_from(least).map_err(text)?);
        Ok(Self { case, space, program, addresses, params, dynamic_shared, guarded })
    }

    /// Puts the initial contents into every buffer.
    fn fill(&mut self) -> Result<(), String> {
        for (buffer, address) in self.case.buffers.iter().zip(&self.addresses) {
            let mut bytes = buffer.initial.clone();
            for p in &buffer.pointers {
                let target = self.addresses[p.buffer] + p.addend;
                bytes[p.offset..p.offset + 8].copy_from_slice(&target.to_le_bytes());
            }
            self.space.write(*address, &bytes).map_err(text)?;
        }
        Ok(())
    }

    /// Launches once, on one host thread. `confined`: an access outside the arena is a fault of the guard's.
    fn launch(&mut self, engine: Engine, confined: bool) -> Result<LaunchReport, String> {
        let launch = &self.case.launch;
        let config = LaunchConfig {
            dynamic_shared_bytes: self.dynamic_shared,
            cooperative: launch.cooperative,
            time_limit: Duration::from_secs(120),
            arena: (confined && self.guarded).then_some(ARENA),
            engine,
            ..LaunchConfig::new(launch.grid, launch.block, self.params.clone())
        };
        let stop = Arc::new(AtomicBool::new(false));
        let map = self.space.snapshot();
        self.program.launch(self.case.kernel.entry, &config, map, &stop).map_err(text)
    }

    /// Compares every buffer with what the host computed.
    fn check(&self) -> Result<(), String> {
        let mut outputs = Vec::new();
        for (buffer, address) in self.case.buffers.iter().zip(&self.addresses) {
            let mut bytes = vec![0; buffer.initial.len()];
            self.space.read(*address, &mut bytes).map_err(text)?;
            outputs.push(bytes);
        }
        self.case.check(&outputs).map_err(text)
    }
}

/// Nanoseconds of processor time that this thread has used: what other processes do does not count.
fn cpu_time() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// Runs a kernel one way.
fn run(kernel: &'static Kernel, engine: Engine, mode: GuardMode, measure: bool) -> Ran {
    let small = kernel.case(Size::Small);
    let module = match admitted(&small, mode) {
        Ok(module) => module,
        Err(why) => return Ran::Refused(why),
    };
    let checked = Prepared::new(&small, &module).and_then(|mut p| {
        p.fill()?;
        p.launch(engine, true)?;
        p.check()
    });
    if let Err(why) = checked {
        return Ran::Wrong(why);
    }
    if !measure {
        return Ran::Right(None);
    }
    let large = kernel.case(Size::Large);
    let measured = admitted(&large, mode).and_then(|module| {
        let mut p = Prepared::new(&large, &module)?;
        p.program.compiled_regions();
        let (mut instructions, mut best) = (0, u64::MAX);
        for _ in 0..3 {
            p.fill()?;
            let begun = cpu_time();
            instructions = p.launch(engine, false)?.thread_instructions;
            best = best.min(cpu_time() - begun);
        }
        // Results that depend on what an earlier launch left in module variables are the small case's to check.
        Ok((instructions, best))
    });
    match measured {
        Ok(measured) => Ran::Right(Some(measured)),
        Err(why) => Ran::Wrong(why),
    }
}

impl Corpus {
    pub(super) fn run(self) -> Result<(), Failure> {
        let named =
            |k: &&'static Kernel| self.filter.as_ref().is_none_or(|f| k.name.contains(f.as_str()));
        let chosen: Vec<&'static Kernel> = kernels().filter(named).collect();
        if chosen.is_empty() {
            return Err(Failure::input(
                format!("no kernel is called {}", self.filter.unwrap_or_default()),
                "docs/kernels.md lists them",
            ));
        }
        let mut head = vec!["kernel", "instructions#", "time#"];
        let titles: Vec<String> = WAYS.iter().map(|(name, ..)| format!("{name}#")).collect();
        head.extend(titles.iter().map(String::as_str));
        let mut table = table(&head);
        let mut rows = Vec::new();
        let (mut wrong, mut refused) = (Vec::new(), Vec::new());
        let mut logs = [(0.0, 0u32); WAYS.len()];
        for kernel in chosen {
            let mut cells = vec![kernel.name.to_owned(), String::new(), String::new()];
            let mut ways = serde_json::Map::new();
            for (n, (name, engine, mode)) in WAYS.into_iter().enumerate() {
                let (cell, value) = match run(kernel, engine, mode, !self.small) {
                    Ran::Right(None) => ("right".to_owned(), json!({"right": true})),
                    Ran::Right(Some((instructions, ns))) => {
                        let speed = instructions as f64 / ns.max(1) as f64;
                        logs[n] = (logs[n].0 + speed.ln(), logs[n].1 + 1);
                        if n == 0 {
                            cells[1] = count(instructions);
                            cells[2] = nanoseconds(ns);
                        }
                        let value = json!({"right": true, "thread_instructions": instructions,
                                           "cpu_ns": ns, "per_second": speed * 1e9});
                        (format!("{speed:.2} G/s"), value)
                    }
                    Ran::Refused(why) => {
                        refused.push(format!("{} {name}: {why}", kernel.name));
                        ("refused".to_owned(), json!({"right": null, "refused": why}))
                    }
                    Ran::Wrong(why) => {
                        wrong.push(format!("{} {name}: {why}", kernel.name));
                        ("WRONG".to_owned(), json!({"right": false, "why": why}))
                    }
                };
                cells.push(cell);
                ways.insert(name.to_owned(), value);
            }
            table.add_row(cells);
            rows.push(json!({"kernel": kernel.name, "file": kernel.file, "ways": ways}));
        }
        let means = logs.map(|(sum, n)| (n > 0).then(|| (sum / f64::from(n)).exp()));
        if self.json {
            let means: serde_json::Map<String, serde_json::Value> = WAYS
                .iter()
                .zip(means)
                .map(|((name, ..), mean)| ((*name).to_owned(), json!(mean.map(|m| m * 1e9))))
                .collect();
            say_json(&json!({"kernels": rows, "geometric_means": means, "wrong": wrong}))?;
        } else {
            let mut cells = vec!["geometric mean".to_owned(), String::new(), String::new()];
            cells.extend(means.map(|m| m.map_or(String::new(), |m| format!("{m:.2} G/s"))));
            table.add_row(cells);
            say(table)?;
            refused.iter().try_for_each(|line| say(format!("refused: {line}")))?;
            wrong.iter().try_for_each(|line| say(format!("wrong: {line}")))?;
            say(format!("{} kernels, {} wrong", rows.len(), wrong.len()))?;
        }
        if wrong.is_empty() { Ok(()) } else { Err(Failure::said()) }
    }
}
