//! The executor as judge: random modules are guarded, verified and run in an arena with nothing mapped
//! around it. Whatever they hold and whatever they are given, no access may touch anything outside and
//! no instruction may fault.

mod generator;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use generator::Random;
use turnstile_emulated::fault::FaultKind;
use turnstile_emulated::memory::{Access, AddressSpace, Arena as Space};
use turnstile_emulated::{LaunchConfig, LaunchError, LoadedProgram};
use turnstile_ptx::{
    Admission, Arena, BlockShape, GuardMode, LaunchShape, Limits, RED_ZONE, Terms, VerifiedModule,
    admit,
};

/// The arenas: of 1 GiB, which masks low halves, and of 4 GiB, which replaces the high one.
const ARENAS: [(u64, u64); 2] = [(77 << 30, 1 << 30), (80 << 30, 4 << 30)];

#[derive(Default)]
struct Tally {
    cases: u32,
    refused: u32,
    ran: u32,
    stopped: u32,
    /// Launches of variants.
    variants: u32,
    findings: Vec<String>,
}

/// Red zones that variants are made for: wide enough for indices of some sizes, and what this host can map.
const RED: u64 = 4 << 30;

/// The parameter block: an address in the arena, an address that is anything, numbers.
fn params(arena: Arena, random: &mut Random) -> Vec<u8> {
    let wild = match random.below(8) {
        0 => 0,
        1 => arena.base() + arena.size() - 2,
        2 => u64::MAX - 7,
        3 => arena.base() - 1,
        4 => 0x0100_0000,
        5 => arena.base(),
        6 => arena.base() + arena.size() - 16,
        _ => random.next(),
    };
    let mut params = Vec::new();
    params.extend((arena.base() + (32 << 20) + 64).to_le_bytes());
    params.extend(wild.to_le_bytes());
    params.extend((random.next() as u32).to_le_bytes());
    params.extend([0; 4]);
    params.extend((0..8).flat_map(|_| random.next().to_le_bytes()));
    params
}

/// The variant for a launch when it keeps the variant's promises; else the module itself.
fn chosen(module: VerifiedModule, block: BlockShape, params: &[u8]) -> (VerifiedModule, u64) {
    let shape = LaunchShape { block, dynamic_shared: 64, pointers: true };
    let Ok(variant) = module.variant(&shape, RED) else { return (module, RED_ZONE) };
    let dynamic_shared = variant.contract().kernel("k").map_or(0, |k| k.dynamic_shared).max(64);
    let terms = Terms { block, dynamic_shared, params };
    let arena = variant.arena().expect("it is fenced");
    match variant.contract().admits("k", arena, &terms) {
        Ok(()) => (variant, RED),
        Err(_) => (module, RED_ZONE),
    }
}

fn launch(
    module: &VerifiedModule,
    arena: Arena,
    red: u64,
    params: Vec<u8>,
    block: BlockShape,
) -> Result<(), LaunchError> {
    // A space of 64 GiB in which only the arena and its red zones are mapped.
    let mut space = AddressSpace::new(Space { base: 64 << 30, log2: 36 }).expect("a space");
    space
        .allocate_at(arena.base() - red, arena.size() + 2 * red, Access::READ_WRITE)
        .expect("the arena and its red zones");
    let loaded = LoadedProgram::load(module.module(), module.view(), &mut space).expect("it loads");
    for v in &module.report().variables {
        space.write(v.address, &v.init).expect("inside the arena");
    }
    let dynamic = module.contract().kernel("k").map_or(0, |k| k.dynamic_shared).max(64);
    let mut config = LaunchConfig::new([2, 1, 1], [block.x, block.y, block.z], params);
    config.dynamic_shared_bytes = u32::try_from(dynamic).expect("a size");
    config.instruction_limit = 60_000;
    config.time_limit = Duration::from_secs(2);
    let map = space.snapshot();
    loaded.launch("k", &config, map, &Arc::new(AtomicBool::new(false))).map(|_| ())
}

fn case(seed: u64, tally: &mut Tally) {
    let text = generator::module(seed);
    if let Ok(folder) = std::env::var("DUMP") {
        std::fs::write(format!("{folder}/{seed}.ptx"), &text)
            .expect("a folder to dump modules into");
    }
    let mut random = Random::new(seed ^ 0x5bd1_e995);
    let (base, size) = ARENAS[random.below(2)];
    let arena = Arena::new(base, size).expect("an arena");
    let block = BlockShape { x: [32, 64, 33][random.below(3)], y: 1, z: 1 };
    let mode = if random.below(4) == 0 { GuardMode::Check } else { GuardMode::Fence };
    let mut admission = Admission::guarded(mode, arena, Limits::default());
    if random.below(2) == 0 {
        admission.block = Some(block);
    }
    tally.cases += 1;
    let module = match admit(text.as_bytes(), &admission) {
        Ok(module) => module,
        Err(error @ turnstile_ptx::PtxError::Verify(_)) => {
            tally.findings.push(format!("seed {seed} {mode:?}: {error}"));
            return;
        }
        Err(error) => {
            tally.refused += 1;
            if std::env::var("SHOW").is_ok() {
                println!("seed {seed}: {error}\n");
            }
            return;
        }
    };
    let params = params(arena, &mut random);
    let variant = mode == GuardMode::Fence && random.below(2) == 0;
    let (module, red) = match variant {
        true => chosen(module, block, &params),
        false => (module, RED_ZONE),
    };
    tally.variants += u32::from(red != RED_ZONE);
    match launch(&module, arena, red, params, block) {
        Ok(()) => tally.ran += 1,
        Err(LaunchError::Fault(fault)) => match fault.kind {
            FaultKind::Deadlock { .. } => tally.stopped += 1,
            _ => tally.findings.push(format!(
                "seed {seed} {mode:?}: {fault}: `{}`",
                module
                    .text()
                    .lines()
                    .nth(fault.line.saturating_sub(1) as usize)
                    .unwrap_or("")
                    .trim()
            )),
        },
        Err(LaunchError::Timeout) => tally.stopped += 1,
        Err(other) => tally.findings.push(format!("seed {seed}: {other}")),
    }
}

fn run(seeds: impl Iterator<Item = u64>, limit: Duration) -> Tally {
    let mut tally = Tally::default();
    let start = Instant::now();
    for seed in seeds {
        case(seed, &mut tally);
        if start.elapsed() > limit || tally.findings.len() > 20 {
            break;
        }
    }
    println!(
        "{} modules, {} as variants: {} ran to their end, {} were stopped or waited for ever, {} refused, {} findings, {:.1?}",
        tally.cases,
        tally.variants,
        tally.ran,
        tally.stopped,
        tally.refused,
        tally.findings.len(),
        start.elapsed()
    );
    tally
}

#[test]
fn no_random_module_leaves_its_arena_or_faults() {
    let seeds = 1..400;
    let tally = run(seeds, Duration::from_secs(20));
    assert!(tally.findings.is_empty(), "{}", tally.findings.join("\n"));
    assert!(tally.ran * 2 > tally.cases, "most must run, or nothing is shown");
    assert!(tally.variants * 20 > tally.cases, "some must run as variants");
}

/// As long as `SECONDS` says, from the seed `SEED` on (scripts/ptx-fuzz).
#[test]
#[ignore = "a long search; run by scripts/ptx-fuzz"]
fn for_as_long_as_asked() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seed = number("SEED").unwrap_or(1_000_000);
    let tally = run(seed.., Duration::from_secs(number("SECONDS").unwrap_or(60)));
    assert!(tally.findings.is_empty(), "{}", tally.findings.join("\n"));
}
