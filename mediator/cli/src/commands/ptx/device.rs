//! `turnstile ptx device`: the corpus and the attacks on the device that a policy names, through its
//! backend: unguarded, fenced, checked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use turnstile_abi::Status;
use turnstile_backend_api::{BufferId, Code, Isolation};
use turnstile_corpus::attacks::{BUFFER_BYTES, ENTRY, HOSTILE, THREADS};
use turnstile_corpus::{Arg, Attack, Case, Kernel, Outcome as Wanted, Size, attacks, kernels};
use turnstile_ptx::{
    Admission, Arena, BlockShape, GuardMode, Limits, RED_ZONE, VerifiedModule, admit,
};

use crate::commands::failure::Failure;
use crate::commands::machine;
use crate::commands::rig::{Loaded, Place0, Rig, Shape};
use crate::commands::table::{say, say_json, table};

/// Run the corpus and the attacks on the device a policy names, and compare with what the host computes
///
/// Every kernel runs unguarded and in check mode in an exclusive address space, and fenced in a concurrent one; every
/// attack runs fenced beside a neighbour whose memory and commands must not notice. Exit code 1 if anything is wrong.
#[derive(Args)]
pub(in crate::commands) struct OnDevice {
    /// A policy; only its device counts
    config: PathBuf,
    /// Only kernels and attacks whose name contains this
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// Leave the attacks out
    #[arg(long)]
    no_attacks: bool,
    /// Also measure what guarding costs, on the larger cases
    #[arg(long)]
    measure: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Host memory of the rig: as much as the largest buffer of a case.
const HOST_BYTES: u64 = 256 << 20;
/// Device memory of a space.
const SPACE_BYTES: u64 = 1 << 30;
const LIMIT: Duration = Duration::from_secs(20);
const MODES: [GuardMode; 3] = [GuardMode::None, GuardMode::Fence, GuardMode::Check];
/// Launches measured; the median counts.
const LAUNCHES: usize = 15;

fn name(mode: GuardMode) -> &'static str {
    match mode {
        GuardMode::None => "unguarded",
        GuardMode::Fence => "fence",
        GuardMode::Check => "check",
    }
}

fn isolation(mode: GuardMode) -> Isolation {
    match mode {
        GuardMode::Fence => Isolation::Concurrent { sm_percent: None },
        _ => Isolation::Exclusive,
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Admits a program for an arena, and for a block shape if there is one.
fn admitted(
    ptx: &[u8],
    mode: GuardMode,
    arena: (u64, u64),
    shape: Option<(BlockShape, u64)>,
    serial: u64,
) -> Result<VerifiedModule, String> {
    let admission = if mode == GuardMode::None {
        Admission::unguarded(Limits::default())
    } else {
        let arena = Arena::new(arena.0, arena.1).map_err(text)?;
        let variables = arena.base() + RED_ZONE + (4 << 20) * (1 + serial % 255);
        Admission {
            variables: Some(variables),
            block: shape.map(|(block, _)| block),
            dynamic_shared: shape.map(|(_, shared)| shared),
            ..Admission::guarded(mode, arena, Limits::default())
        }
    };
    admit(ptx, &admission).map_err(text)
}

/// One mode's space, opened again when it is lost.
struct Bench {
    mode: GuardMode,
    at: Option<Place0>,
    serial: u64,
}

/// A kernel loaded with its buffers.
struct Prepared<'c> {
    case: &'c Case,
    at: Place0,
    loaded: Loaded,
    buffers: Vec<(BufferId, u64)>,
    params: Vec<u8>,
    shape: Shape,
}

impl Bench {
    fn place(&mut self, rig: &mut Rig) -> Result<Place0, String> {
        if let Some(at) = self.at.filter(|at| !rig.is_lost(at.space)) {
            return Ok(at);
        }
        if let Some(lost) = self.at.take() {
            let _ = rig.close(&lost);
        }
        let at = rig.open(SPACE_BYTES, isolation(self.mode)).map_err(text)?;
        self.at = Some(at);
        Ok(at)
    }

    fn prepare<'c>(&mut self, rig: &mut Rig, case: &'c Case) -> Result<Prepared<'c>, String> {
        let at = self.place(rig)?;
        let [x, y, z] = case.launch.block;
        let shape = (BlockShape { x, y, z }, case.launch.shared.into());
        self.serial += 1;
        let ptx = case.kernel.ptx.as_bytes();
        let module = admitted(ptx, self.mode, at.arena, Some(shape), self.serial)?;
        let kernel = module.view().kernel(case.kernel.entry).ok_or("no such kernel")?;
        let places: Vec<u64> = kernel.params.iter().map(|p| p.offset).collect();
        let code = Code::Ptx(Box::new(module));
        let loaded = rig.load(&at, code, case.kernel.entry).map_err(text)?;
        let mut buffers = Vec::new();
        for buffer in &case.buffers {
            buffers.push(rig.buffer(&at, buffer.initial.len() as u64).map_err(text)?);
        }
        let mut params = vec![0; loaded.param_bytes as usize];
        for (arg, offset) in case.args.iter().zip(places) {
            let value = match arg {
                Arg::Buffer(index) => buffers[*index].1.to_le_bytes().to_vec(),
                Arg::Value(value) => value.clone(),
            };
            let at = offset as usize;
            let slot = params.get_mut(at..at + value.len()).ok_or("a parameter does not fit")?;
            slot.copy_from_slice(&value);
        }
        let launch = &case.launch;
        let shape = Shape {
            grid: launch.grid,
            block: launch.block,
            shared_bytes: launch.shared,
            cooperative: launch.cooperative,
            timeout: LIMIT,
        };
        Ok(Prepared { case, at, loaded, buffers, params, shape })
    }
}

impl Prepared<'_> {
    fn fill(&self, rig: &mut Rig) -> Result<(), String> {
        for (buffer, (id, _)) in self.case.buffers.iter().zip(&self.buffers) {
            let mut bytes = buffer.initial.clone();
            for p in &buffer.pointers {
                let target = self.buffers[p.buffer].1 + p.addend;
                bytes[p.offset..p.offset + 8].copy_from_slice(&target.to_le_bytes());
            }
            rig.upload(&self.at, *id, &bytes).map_err(text)?;
        }
        Ok(())
    }

    fn launch(&self, rig: &mut Rig) -> Result<u64, String> {
        let op = rig.launch_op(&self.at, &self.loaded, &self.shape, &self.params);
        rig.run("launch", op).map(|outcome| outcome.value).map_err(text)
    }

    fn check(&self, rig: &mut Rig) -> Result<(), String> {
        let mut outputs = Vec::new();
        for (buffer, (id, _)) in self.case.buffers.iter().zip(&self.buffers) {
            outputs.push(rig.download(&self.at, *id, buffer.initial.len()).map_err(text)?);
        }
        self.case.check(&outputs).map_err(text)
    }

    fn end(self, rig: &mut Rig) {
        // What fails here is lost with its space.
        for (id, _) in &self.buffers {
            let _ = rig.free(&self.at, *id);
        }
        let _ = rig.unload(&self.at, &self.loaded);
    }
}

/// Runs a case once and checks it; then, if asked, measures it. The result is the median GPU time in nanoseconds.
fn one(
    rig: &mut Rig,
    bench: &mut Bench,
    case: &Case,
    launches: usize,
) -> Result<Option<u64>, String> {
    let prepared = bench.prepare(rig, case)?;
    let result = (|| {
        prepared.fill(rig)?;
        let first = prepared.launch(rig)?;
        if launches == 0 {
            prepared.check(rig)?;
            return Ok(Some(first));
        }
        let mut times = Vec::new();
        for _ in 0..launches {
            times.push(prepared.launch(rig)?);
        }
        times.sort_unstable();
        Ok(times.get(times.len() / 2).copied())
    })();
    prepared.end(rig);
    result
}

/// A tenant that only minds its own business while others attack.
struct Neighbour {
    at: Place0,
    loaded: Loaded,
    buffer: BufferId,
    params: Vec<u8>,
    content: Vec<u8>,
}

impl Neighbour {
    fn new(rig: &mut Rig) -> Result<Neighbour, String> {
        let at = rig.open(64 << 20, Isolation::Concurrent { sm_percent: None }).map_err(text)?;
        let kernel = turnstile_corpus::find("vecadd").ok_or("no kernel vecadd")?;
        let module = admitted(kernel.ptx.as_bytes(), GuardMode::Fence, at.arena, None, 1)?;
        let loaded = rig.load(&at, Code::Ptx(Box::new(module)), kernel.entry).map_err(text)?;
        let content: Vec<u8> = (0..4096_u32).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let (buffer, address) = rig.buffer(&at, content.len() as u64).map_err(text)?;
        let (_, to) = rig.buffer(&at, content.len() as u64).map_err(text)?;
        rig.upload(&at, buffer, &content).map_err(text)?;
        let mut params = Vec::new();
        for word in [address, address, to] {
            params.extend(word.to_le_bytes());
        }
        params.extend(4096_u32.to_le_bytes());
        params.resize(loaded.param_bytes as usize, 0);
        Ok(Neighbour { at, loaded, buffer, params, content })
    }

    /// Whether it can still work and its memory is as it was.
    fn is_well(&self, rig: &mut Rig) -> Result<(), String> {
        let shape = Shape {
            grid: [16, 1, 1],
            block: [256, 1, 1],
            shared_bytes: 0,
            cooperative: false,
            timeout: LIMIT,
        };
        let op = rig.launch_op(&self.at, &self.loaded, &shape, &self.params);
        rig.run("the neighbour's launch", op).map_err(text)?;
        let now = rig.download(&self.at, self.buffer, self.content.len()).map_err(text)?;
        if now == self.content { Ok(()) } else { Err("the neighbour's memory changed".into()) }
    }
}

/// Runs an attack with every hostile value. The result says what became of it.
fn attack(
    rig: &mut Rig,
    bench: &mut Bench,
    neighbour: &Neighbour,
    attack: &Attack,
) -> Result<&'static str, String> {
    let at = bench.place(rig)?;
    bench.serial += 1;
    let module = match admitted(attack.text, GuardMode::Fence, at.arena, None, bench.serial) {
        Ok(module) => module,
        Err(why) if attack.expect == Wanted::RunsClean => return Err(why),
        // More than must be refused may be.
        Err(_) => return Ok("refused"),
    };
    let loaded = match rig.load(&at, Code::Ptx(Box::new(module)), ENTRY) {
        Ok(loaded) => loaded,
        Err(failed) if failed.outcome.status == Status::NoMemory => return Ok("too large to load"),
        Err(failed) if failed.outcome.status == Status::BadProgram => {
            return Ok("refused by the driver's compiler");
        }
        Err(failed) if failed.outcome.status == Status::NotFound => {
            return Ok("has no such kernel");
        }
        Err(failed) => return Err(failed.to_string()),
    };
    let (buffer, address) = rig.buffer(&at, BUFFER_BYTES as u64).map_err(text)?;
    let shape = Shape {
        grid: [1, 1, 1],
        block: [THREADS, 1, 1],
        shared_bytes: 0,
        cooperative: false,
        timeout: Duration::from_millis(200),
    };
    let end = at.arena.0 + at.arena.1;
    let mut ended = match attack.expect {
        Wanted::Refused => "ran, fenced, though it may be refused",
        _ => "ran, fenced",
    };
    for value in HOSTILE.into_iter().chain([at.arena.0, end, end - 1]) {
        let mut params = [address.to_le_bytes(), value.to_le_bytes()].concat();
        params.resize(loaded.param_bytes as usize, 0);
        let op = rig.launch_op(&at, &loaded, &shape, &params);
        match rig.run("launch", op) {
            Ok(_) => {}
            Err(failed) if failed.outcome.status == Status::Timeout => {
                ended = "ran for ever, terminated";
                break;
            }
            Err(failed) if failed.outcome.status == Status::OutOfRange => {
                ended = "the driver refuses the launch";
                break;
            }
            Err(failed) => return Err(format!("value {value:#x}: {failed}")),
        }
    }
    neighbour.is_well(rig)?;
    if !rig.is_lost(at.space) {
        let _ = rig.free(&at, buffer);
        let _ = rig.unload(&at, &loaded);
    }
    Ok(ended)
}

/// What came out, for people and for programs.
#[derive(Default)]
struct Results {
    rows: Vec<serde_json::Value>,
    cells: Vec<Vec<String>>,
    right: [u32; 3],
    refused: Vec<String>,
    wrong: Vec<String>,
    /// GPU time over that of the unguarded kernel, by mode.
    ratios: [Vec<f64>; 3],
    attacks: BTreeMap<&'static str, u32>,
}

/// Below this the clock's own half microsecond is most of a ratio, in nanoseconds.
const LEAST_NS: u64 = 20_000;

impl Results {
    fn kernel(
        &mut self,
        rig: &mut Rig,
        benches: &mut [Bench; 3],
        kernel: &'static Kernel,
        measure: bool,
    ) {
        let small = kernel.case(Size::Small);
        let mut cells = vec![kernel.name.to_owned()];
        let mut ways = serde_json::Map::new();
        for (n, bench) in benches.iter_mut().enumerate() {
            let mode = name(bench.mode);
            let (cell, value) = match one(rig, bench, &small, 0) {
                Ok(_) => {
                    self.right[n] += 1;
                    ("right", json!("right"))
                }
                Err(why) if why.starts_with("refused") || why.starts_with("cannot be guarded") => {
                    self.refused.push(format!("{} {mode}: {why}", kernel.name));
                    ("refused", json!({"refused": why}))
                }
                Err(why) => {
                    self.wrong.push(format!("{} {mode}: {why}", kernel.name));
                    ("WRONG", json!({"wrong": why}))
                }
            };
            cells.push(cell.into());
            ways.insert(mode.into(), value);
        }
        if measure {
            let large = kernel.case(Size::Large);
            let mut times = [None; 3];
            for (time, bench) in times.iter_mut().zip(benches) {
                *time = one(rig, bench, &large, LAUNCHES).ok().flatten();
            }
            let [plain, guarded @ ..] = times;
            cells.push(plain.map_or(String::new(), |ns| ns.to_string()));
            for (n, time) in guarded.into_iter().enumerate() {
                let ratio = plain.zip(time).map(|(plain, time)| time as f64 / plain.max(1) as f64);
                self.ratios[n + 1].extend(ratio.filter(|_| plain.is_some_and(|ns| ns >= LEAST_NS)));
                cells.push(ratio.map_or(String::new(), |r| format!("{r:.3}")));
            }
            ways.insert("large_ns".into(), json!(times));
        }
        self.cells.push(cells);
        self.rows.push(json!({"kernel": kernel.name, "ways": ways}));
    }

    /// Geometric mean, worst, and number of the ratios of a mode.
    fn cost(&self, mode: usize) -> (Option<f64>, Option<f64>, usize) {
        let values = &self.ratios[mode];
        let sum: f64 = values.iter().map(|v| v.ln()).sum();
        let mean = (!values.is_empty()).then(|| (sum / values.len() as f64).exp());
        (mean, values.iter().copied().reduce(f64::max), values.len())
    }

    fn print_json(&self, device: &str) -> Result<(), Failure> {
        let cost = |mode| {
            let (mean, worst, n) = self.cost(mode);
            json!({"geometric_mean": mean, "worst": worst, "kernels": n})
        };
        say_json(
            &json!({"device": device, "kernels": self.rows, "attacks": self.attacks, "fence": cost(1),
            "check": cost(2), "refused": self.refused, "wrong": self.wrong}),
        )
    }

    fn print(self, device: &str, measure: bool) -> Result<(), Failure> {
        let mut head = vec!["kernel"];
        head.extend(MODES.map(name));
        if measure {
            head.extend(["large, ns#", "fence/none#", "check/none#"]);
        }
        let mut out = table(&head);
        let kernels = self.cells.len();
        let costs = [self.cost(1), self.cost(2)];
        for cells in self.cells {
            out.add_row(cells);
        }
        say(out)?;
        self.refused.iter().try_for_each(say)?;
        self.wrong.iter().try_for_each(|line| say(format!("wrong: {line}")))?;
        for (n, mode) in MODES.into_iter().enumerate() {
            say(format!("{}: {} of {kernels} kernels right", name(mode), self.right[n]))?;
        }
        for ((mean, worst, n), mode) in costs.into_iter().zip(["fence", "check"]) {
            if let (Some(mean), Some(worst)) = (mean, worst) {
                say(format!(
                    "{mode}: {mean:.3} of the unguarded time (geometric mean), worst {worst:.3}, {n} kernels of 20 us or more"
                ))?;
            }
        }
        for (what, n) in &self.attacks {
            say(format!("attacks: {n} {what}"))?;
        }
        say(format!("{device}: {} wrong", self.wrong.len()))
    }
}

impl OnDevice {
    pub(super) fn run(self) -> Result<(), Failure> {
        let policy = crate::commands::policy::load(&self.config)?;
        let backend = machine::backend(&policy.device, &[])?;
        let device = backend.describe().name;
        let failed = |why: String| Failure::machine(why, "run it on a machine with the device");
        let mut rig = Rig::new(backend, HOST_BYTES).map_err(failed)?;
        let mut benches = MODES.map(|mode| Bench { mode, at: None, serial: 0 });
        let wanted = |name: &str| self.filter.as_ref().is_none_or(|f| name.contains(f.as_str()));
        let mut results = Results::default();
        for kernel in kernels().filter(|k| wanted(k.name)) {
            results.kernel(&mut rig, &mut benches, kernel, self.measure);
        }
        if !self.no_attacks {
            let mut neighbour = Neighbour::new(&mut rig).map_err(failed)?;
            for a in attacks().iter().filter(|a| wanted(a.file)) {
                match attack(&mut rig, &mut benches[1], &neighbour, a) {
                    Ok(what) => *results.attacks.entry(what).or_default() += 1,
                    Err(why) => results.wrong.push(format!("attack {}: {why}", a.file)),
                }
                if rig.is_lost(neighbour.at.space) {
                    results
                        .wrong
                        .push(format!("attack {}: the neighbour's session is lost", a.file));
                    neighbour = Neighbour::new(&mut rig).map_err(failed)?;
                }
            }
        }
        let right = results.wrong.is_empty();
        if self.json {
            results.print_json(&device)?;
        } else {
            results.print(&device, self.measure)?;
        }
        if right { Ok(()) } else { Err(Failure::said()) }
    }
}
