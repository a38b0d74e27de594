//! Guards one PTX file: `guard IN OUT MODE [X,Y,Z [DYNAMIC]]`. The arena is 4 GiB at 64 GiB; with
//! `RED_ZONE_GIB` its red zones are that wide, and with `POINTERS` launches promise their parameters.
//!
//! A tool for `scripts/ptx-cost`; the `turnstile` command has the one for users.

use std::process::ExitCode;

use turnstile_ptx::guard::{Change, GuardOptions, guard};
use turnstile_ptx::{Arena, BlockShape, GuardMode, Limits, parse, print};

fn run(args: &[String]) -> Result<(), String> {
    let [input, output, mode, rest @ ..] = args else {
        return Err("usage: guard IN OUT fence|check|none [X,Y,Z [DYNAMIC]]".into());
    };
    let mode = match mode.as_str() {
        "fence" => GuardMode::Fence,
        "check" => GuardMode::Check,
        "none" => GuardMode::None,
        other => return Err(format!("no mode `{other}`")),
    };
    let arena = Arena::new(64 << 30, 4 << 30).map_err(|e| e.to_string())?;
    let arena = match std::env::var("RED_ZONE_GIB").ok().and_then(|n| n.parse::<u64>().ok()) {
        Some(gib) => arena.with_red_zone(gib << 30).map_err(|e| e.to_string())?,
        None => arena,
    };
    let mut options = GuardOptions::new(mode, arena);
    options.pointers = std::env::var("POINTERS").is_ok();
    if let Some(shape) = rest.first().filter(|s| *s != "-") {
        let values: Vec<u32> = shape.split(',').filter_map(|n| n.parse().ok()).collect();
        let [x, y, z] = values[..] else { return Err("a block shape is X,Y,Z".into()) };
        options.block = Some(BlockShape { x, y, z });
    }
    options.dynamic_shared = rest.get(1).and_then(|n| n.parse().ok());
    let text = std::fs::read(input).map_err(|e| format!("{input}: {e}"))?;
    let module = parse(&text, &Limits::default()).map_err(|e| format!("{input}: {e}"))?;
    let (module, report) = guard(&module, &options).map_err(|e| format!("{input}: {e}"))?;
    std::fs::write(output, print(&module).text).map_err(|e| format!("{output}: {e}"))?;
    let changes: Vec<String> = Change::ALL
        .into_iter()
        .filter(|c| report.total(*c) > 0)
        .map(|c| format!("{} {}", report.total(c), c.text()))
        .collect();
    println!("{}", changes.join(", "));
    Ok(())
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
