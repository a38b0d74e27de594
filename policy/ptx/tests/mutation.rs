//! How much the verifier depends on what the guard wrote. Guarded texts, each proved safe, are changed in one
//! place: an instruction dropped or moved, a register, number, operand, predicate, label, width or state
//! space exchanged. The verifier must refuse the changed text, or the executor must find it harmless
//! whatever the kernel is given, with nothing mapped around the arena and its red zones. A text that is
//! accepted and then faults is a finding.

mod generator;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use generator::Random;
use turnstile_emulated::fault::FaultKind;
use turnstile_emulated::memory::{Access, AddressSpace, Arena as Space};
use turnstile_emulated::{LaunchConfig, LaunchError, LoadedProgram};
use turnstile_ptx::{
    Admission, Arena, BlockShape, Contract, GuardMode, Kernel, Limits, Module, ModuleView,
    VerifyError, admit, parse_guarded, verify_text,
};

/// The arenas: of 1 GiB, which masks low halves, and of 4 GiB, which replaces the high one.
const ARENAS: [(u64, u64); 2] = [(77 << 30, 1 << 30), (80 << 30, 4 << 30)];
/// Launches of an accepted mutant, each with other parameters.
const LAUNCHES: u32 = 3;

/// A guarded text that is safe.
struct Original {
    name: String,
    arena: Arena,
    contract: Contract,
    variables: Vec<(u64, Vec<u8>)>,
    lines: Vec<String>,
    /// Lines worth changing: those of the guard's, accesses and what leads to them come often.
    places: Vec<usize>,
}

#[derive(Default)]
struct Tally {
    mutants: u32,
    malformed: u32,
    refused: u32,
    /// Refused ones that were run all the same, and those of them that faulted: the judge is not blind.
    tried: u32,
    faulted: u32,
    harmless: u32,
    findings: Vec<String>,
}

fn originals(random: &mut Random, generated: u64) -> Vec<Original> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/kernels/ptx");
    let entries = std::fs::read_dir(root).expect("the corpus");
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    let read = |path: &std::path::PathBuf| {
        let text = std::fs::read_to_string(path).expect("PTX");
        (path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), text)
    };
    // `gridsync` waits in a loop for blocks of a cooperative launch, which these launches are not.
    let fits = |(name, text): &(String, String)| text.len() < 20_000 && name != "gridsync";
    let corpus = files.iter().map(read).filter(fits);
    let made = (1..=generated).map(|seed| (format!("seed {seed}"), generator::module(seed)));
    corpus.chain(made).filter_map(|(name, text)| original(name, &text, random)).collect()
}

fn original(name: String, text: &str, random: &mut Random) -> Option<Original> {
    let (base, size) = ARENAS[random.below(2)];
    let arena = Arena::new(base, size).expect("an arena");
    let mut admission = Admission::guarded(GuardMode::Fence, arena, Limits::default());
    let x = [32, 64, 128, 256][random.below(4)];
    admission.block = (random.below(2) == 0).then_some(BlockShape { x, y: 1, z: 1 });
    let module = admit(text.as_bytes(), &admission).ok()?;
    let lines: Vec<String> = module.text().lines().map(str::to_owned).collect();
    let mut places = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let declares = code.starts_with('.') && !code.contains('[');
        if declares || !code.contains(';') {
            continue;
        }
        let matters = ["$ts_", "[", "bra", "setp", ".local", ".shared", "brx", "bar"];
        let weight = if matters.iter().any(|word| code.contains(word)) { 4 } else { 1 };
        places.extend(std::iter::repeat_n(at, weight));
    }
    let variables = module.report().variables.iter().map(|v| (v.address, v.init.clone())).collect();
    let contract = module.contract().clone();
    (!places.is_empty()).then_some(Original { name, arena, contract, variables, lines, places })
}

enum Harm {
    NotRun,
    Fault(String),
}

impl Original {
    fn read(&self, text: &str) -> Option<(Module, ModuleView)> {
        let module = parse_guarded(text.as_bytes(), &Limits::default()).ok()?;
        let view = ModuleView::of(&module).ok()?;
        Some((module, view))
    }

    /// Runs every kernel with hostile parameters; an error is what must not happen.
    fn harm(&self, module: &Module, view: &ModuleView, random: &mut Random) -> Result<(), Harm> {
        let mut space = AddressSpace::new(Space { base: 64 << 30, log2: 36 }).expect("a space");
        let (red, arena) = (turnstile_ptx::RED_ZONE, self.arena);
        space
            .allocate_at(arena.base() - red, arena.size() + 2 * red, Access::READ_WRITE)
            .expect("the arena and its red zones");
        let loaded = LoadedProgram::load(module, view, &mut space).map_err(|_| Harm::NotRun)?;
        for (address, init) in &self.variables {
            space.write(*address, init).expect("inside the arena");
        }
        let map = space.snapshot();
        for kernel in view.kernels.iter().take(2) {
            for round in 0..LAUNCHES {
                let config = self.config(kernel, round, random);
                let stop = Arc::new(AtomicBool::new(false));
                match loaded.launch(&kernel.name, &config, Arc::clone(&map), &stop) {
                    Ok(_) | Err(LaunchError::Timeout) => {}
                    Err(LaunchError::Fault(fault)) => match fault.kind {
                        FaultKind::Deadlock { .. } => {}
                        _ => return Err(Harm::Fault(fault.to_string())),
                    },
                    // A launch that the device refuses does no harm.
                    Err(_) => {}
                }
            }
        }
        Ok(())
    }

    fn config(&self, kernel: &Kernel, round: u32, random: &mut Random) -> LaunchConfig {
        let arena = self.arena;
        let mut params = vec![0u8; kernel.param_bytes as usize];
        for byte in &mut params {
            *byte = random.next() as u8;
        }
        for object in &kernel.params {
            let at = object.offset as usize;
            let wild = match random.below(6) {
                0 => arena.base() + (32 << 20) + 64,
                1 => arena.base() + arena.size() - 2,
                2 => u64::MAX - 7,
                3 => arena.base() - 1,
                4 => 0x0100_0000,
                _ => random.next(),
            };
            let small = [0, 1, 3, 64, 1000, u32::MAX, 1 << 31, random.next() as u32];
            match object.size {
                8 if round == 0 => {
                    params[at..at + 8].copy_from_slice(&(arena.base() + (32 << 20)).to_le_bytes())
                }
                8 => params[at..at + 8].copy_from_slice(&wild.to_le_bytes()),
                4 => {
                    let value: u32 = if round == 0 { 64 } else { small[random.below(8)] };
                    params[at..at + 4].copy_from_slice(&value.to_le_bytes());
                }
                _ => {}
            }
        }
        let promised = self.contract.kernel(&kernel.name);
        let shape = promised.and_then(|entry| entry.block).map(|block| [block.x, block.y, block.z]);
        let most = kernel.max_threads.map_or(64, |[x, y, z]| x.saturating_mul(y).saturating_mul(z));
        let block = shape.or(kernel.required_threads).unwrap_or([most.clamp(1, 64), 1, 1]);
        let dynamic = promised.map_or(0, |entry| entry.dynamic_shared);
        let mut config = LaunchConfig::new([2, 1, 1], block, params);
        config.dynamic_shared_bytes = u32::try_from(dynamic).expect("a size");
        config.instruction_limit = 2_000;
        config.time_limit = Duration::from_millis(10);
        config
    }

    /// Judges one changed text.
    fn judge(&self, lines: &[String], what: &str, random: &mut Random, tally: &mut Tally) {
        let text = lines.join("\n");
        tally.mutants += 1;
        match verify_text(text.as_bytes(), self.arena, &self.contract) {
            Err(VerifyError::Unsafe { .. } | VerifyError::View(_)) => {
                tally.refused += 1;
                if random.below(4) == 0
                    && let Some((module, view)) = self.read(&text)
                {
                    tally.tried += 1;
                    let harm = self.harm(&module, &view, random);
                    tally.faulted += u32::from(matches!(harm, Err(Harm::Fault(_))));
                }
            }
            Err(VerifyError::Parse(_) | VerifyError::Refused(_)) => tally.malformed += 1,
            Ok(()) => {
                let Some((module, view)) = self.read(&text) else {
                    tally.refused += 1;
                    return;
                };
                match self.harm(&module, &view, random) {
                    Ok(()) => tally.harmless += 1,
                    Err(Harm::NotRun) => tally.malformed += 1,
                    Err(Harm::Fault(fault)) => {
                        tally.findings.push(format!("{}: {what}: {fault}", self.name));
                    }
                }
            }
        }
    }
}

/// Where the words that `is` accepts the bytes of are in a line.
fn words(line: &str, first: impl Fn(u8) -> bool, rest: impl Fn(u8) -> bool) -> Vec<(usize, usize)> {
    let (bytes, mut found, mut at) = (line.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        let start = at;
        at += 1;
        let inside = start > 0
            && (bytes[start - 1].is_ascii_alphanumeric() || b"_$%".contains(&bytes[start - 1]));
        if !first(bytes[start]) || inside {
            continue;
        }
        while at < bytes.len() && rest(bytes[at]) {
            at += 1;
        }
        found.push((start, at));
    }
    found
}

fn follow(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_$".contains(&byte)
}

fn registers(line: &str) -> Vec<(usize, usize)> {
    words(line, |b| b == b'%', follow)
}

fn replaced(line: &str, (start, end): (usize, usize), with: &str) -> String {
    format!("{}{with}{}", &line[..start], &line[end..])
}

const SPACES: &[&str] = &[".global", ".shared", ".local", ".param", ".const", ""];
const TYPES: &[&str] = &[
    ".u8", ".s8", ".b16", ".u16", ".b32", ".u32", ".s32", ".f32", ".b64", ".u64", ".s64", ".f64",
    ".b128", ".v2.b32", ".v4.b32", ".v2.b64",
];
const OPCODES: &[(&str, &[&str])] = &[
    ("min.", &["max.", "add.", "sub."]),
    ("max.", &["min."]),
    ("and.", &["or.", "xor.", "add."]),
    ("add.", &["sub.", "min."]),
    ("sub.", &["add.", "max."]),
    ("shl.", &["shr."]),
    ("shr.", &["shl."]),
    ("setp.lt", &["setp.le", "setp.gt", "setp.ne"]),
    ("setp.ge", &["setp.gt", "setp.lt", "setp.eq"]),
    ("setp.gt", &["setp.ge", "setp.le", "setp.ne"]),
    ("setp.le", &["setp.lt", "setp.gt"]),
    ("setp.eq", &["setp.ne", "setp.ge"]),
    ("setp.ne", &["setp.eq", "setp.lt"]),
    (".lo", &[".hi"]),
    (".wide.u32", &[".wide.s32", ".wide.u16"]),
    (".u32", &[".s32"]),
    (".s32", &[".u32"]),
    (".u64", &[".s64"]),
    ("cvt.u64.u32", &["cvt.s64.s32", "cvt.u64.u8"]),
    ("cvta.to.", &["cvta."]),
    ("bar.sync", &["bar.arrive"]),
    ("ld.", &["st.", "ldu."]),
    ("atom.", &["red.", "ld."]),
];

/// Changes one place; `None` when there is nothing of the kind there.
fn mutate(original: &Original, lines: &mut Vec<String>, random: &mut Random) -> Option<String> {
    let at = original.places[random.below(original.places.len())];
    let line = lines[at].clone();
    let near =
        |random: &mut Random| (at + random.below(81)).saturating_sub(40).min(lines.len() - 1);
    let new = match random.below(12) {
        0 => {
            lines.remove(at);
            return Some(format!("`{}` dropped", line.trim()));
        }
        1 => {
            let to = near(random);
            if !lines[to].contains(';') && !lines[to].trim().ends_with(':') {
                return None;
            }
            lines.remove(at);
            lines.insert(to.min(lines.len() - 1), line.clone());
            return Some(format!("`{}` moved from line {} to {}", line.trim(), at + 1, to + 1));
        }
        2 | 3 => {
            let (mine, other) = (registers(&line), lines[near(random)].clone());
            let theirs = registers(&other);
            if mine.is_empty() || theirs.is_empty() {
                return None;
            }
            let theirs = theirs[random.below(theirs.len())];
            replaced(&line, mine[random.below(mine.len())], &other[theirs.0..theirs.1])
        }
        4 | 5 => {
            let digit = |b: u8| b.is_ascii_digit();
            let numbers = words(&line, digit, digit);
            let place = *numbers.get(random.below(numbers.len().max(1)))?;
            let value: u64 = line[place.0..place.1].parse().ok()?;
            let bit = 1u64 << random.below(33);
            let changes = [
                value.wrapping_add(1),
                value.wrapping_mul(2),
                value / 2,
                0,
                value ^ bit,
                value.wrapping_add(bit),
                value.wrapping_sub(bit) & 0xffff_ffff,
                0xffff_ffff,
            ];
            replaced(&line, place, &changes[random.below(changes.len())].to_string())
        }
        6 => {
            let (head, tail) = line.trim_end().strip_suffix(';')?.rsplit_once(", ")?;
            let (start, other) = head.rsplit_once(", ").or_else(|| head.rsplit_once(' '))?;
            let joint = if head.contains(", ") { ", " } else { " " };
            format!("{start}{joint}{tail}, {other};")
        }
        7 => match line.trim_start().strip_prefix('@') {
            Some(code) if random.below(2) == 0 => code.split_once(' ')?.1.to_owned(),
            Some(code) => match code.strip_prefix('!') {
                Some(code) => format!("@{code}"),
                None => format!("@!{code}"),
            },
            None => {
                let guards: Vec<&str> = lines
                    .iter()
                    .filter_map(|l| l.trim_start().strip_prefix('@')?.split_once(' '))
                    .map(|(guard, _)| guard)
                    .collect();
                let guard = *guards.get(random.below(guards.len().max(1)))?;
                format!("@{guard} {}", line.trim_start())
            }
        },
        8 => {
            let labels: Vec<&str> =
                lines.iter().filter_map(|l| l.trim().strip_suffix(':')).collect();
            let label = *labels.get(random.below(labels.len().max(1)))?;
            let start = line.find("bra ").map(|at| at + 4)?;
            format!("{}{label};", &line[..start])
        }
        9 => {
            let kinds: Vec<&&str> = TYPES.iter().filter(|ty| line.contains(**ty)).collect();
            let from = **kinds.get(random.below(kinds.len().max(1)))?;
            line.replacen(from, random.pick(TYPES), 1)
        }
        10 => {
            let from = SPACES.iter().find(|space| !space.is_empty() && line.contains(**space))?;
            line.replacen(from, random.pick(SPACES), 1)
        }
        _ if random.below(3) == 0 => {
            let offsets = ["+4", "+16", "+1", "-4", "+16777216", "-16777216", "+4294967296"];
            let end = line.find(']')?;
            format!("{}{}{}", &line[..end], random.pick(&offsets), &line[end..])
        }
        _ => {
            let fits: Vec<_> = OPCODES.iter().filter(|(from, _)| line.contains(from)).collect();
            let (from, to) = **fits.get(random.below(fits.len().max(1)))?;
            line.replacen(from, random.pick(to), 1)
        }
    };
    if new == line {
        return None;
    }
    let what = format!("line {}: `{}` became `{}`", at + 1, line.trim(), new.trim());
    lines[at] = new;
    Some(what)
}

fn search(seed: u64, count: u32, generated: u64, limit: Duration) -> Tally {
    let start = Instant::now();
    let mut random = Random::new(seed);
    let originals = originals(&mut random, generated);
    assert!(originals.len() > 20, "too few texts to change: {}", originals.len());
    let mut tally = Tally::default();
    while tally.mutants < count && start.elapsed() < limit && tally.findings.len() < 40 {
        let original = &originals[random.below(originals.len())];
        let mut lines = original.lines.clone();
        if let Some(what) = mutate(original, &mut lines, &mut random) {
            original.judge(&lines, &what, &mut random, &mut tally);
        }
    }
    println!(
        "{} mutants of {} texts: {} are no PTX or not permitted, {} not verified (of {} that were run all the \
         same, {} faulted), {} accepted and harmless, {} findings, {:.1?}",
        tally.mutants,
        originals.len(),
        tally.malformed,
        tally.refused,
        tally.tried,
        tally.faulted,
        tally.harmless,
        tally.findings.len(),
        start.elapsed()
    );
    tally
}

#[test]
fn a_changed_text_is_refused_or_harmless() {
    let tally = search(1, 300, 20, Duration::from_secs(15));
    assert!(tally.findings.is_empty(), "{}", tally.findings.join("\n"));
    assert!(tally.refused * 10 > tally.mutants, "hardly any change matters: {}", tally.refused);
    assert!(tally.harmless > 0, "nothing reached the judge");
    assert!(tally.faulted > 0, "the judge is blind");
}

/// As long as `SECONDS` says, with the seed `SEED` (scripts/ptx-fuzz).
#[test]
#[ignore = "a long search; run by scripts/ptx-fuzz"]
fn for_as_long_as_asked() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let limit = Duration::from_secs(number("SECONDS").unwrap_or(60));
    let tally = search(number("SEED").unwrap_or(1_000_000), u32::MAX, 400, limit);
    assert!(tally.findings.is_empty(), "{}", tally.findings.join("\n"));
}
