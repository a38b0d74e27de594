//! Guards one PTX file: `guard IN OUT MODE [X,Y,Z [DYNAMIC]]`, for an arena of 4 GiB at 128 GiB. MODE is `none`, `check`,
//! `fence` (for any launch, or any of the given shape), or `variant`: what a backend makes of a fenced module for launches of
//! the given shape whose pointers are in the arena. With `SMALL` the arena is 1 GiB at 77 GiB.
//!
//! A tool for `scripts/ptx-cost`; the `turnstile` command has the one for users.

use std::process::ExitCode;

use turnstile_ptx::guard::Change;
use turnstile_ptx::{
    Admission, Arena, BlockShape, GuardMode, LaunchShape, Limits, VerifiedModule, WIDE_RED_ZONE,
    admit,
};

fn guarded(text: &[u8], mode: &str, rest: &[String]) -> Result<VerifiedModule, String> {
    let small = std::env::var("SMALL").is_ok();
    let arena = if small { Arena::new(77 << 30, 1 << 30) } else { Arena::new(128 << 30, 4 << 30) };
    let arena = arena.map_err(|e| e.to_string())?;
    let block = match rest.first().filter(|s| *s != "-") {
        None => None,
        Some(shape) => {
            let values: Vec<u32> = shape.split(',').filter_map(|n| n.parse().ok()).collect();
            let [x, y, z] = values[..] else { return Err("a block shape is X,Y,Z".into()) };
            Some(BlockShape { x, y, z })
        }
    };
    let dynamic_shared = rest.get(1).and_then(|n| n.parse().ok());
    let limits = Limits::default();
    let fence = Admission::guarded(GuardMode::Fence, arena, limits);
    let admission = match mode {
        "none" => Admission::unguarded(limits),
        "check" => {
            let check = Admission::guarded(GuardMode::Check, arena, limits);
            Admission { block, dynamic_shared, ..check }
        }
        "fence" => Admission { block, dynamic_shared, ..fence },
        "variant" => fence,
        other => return Err(format!("no mode `{other}`")),
    };
    let module = admit(text, &admission).map_err(|e| e.to_string())?;
    match (mode, block) {
        ("variant", Some(block)) => {
            let dynamic_shared = dynamic_shared.unwrap_or(0);
            let shape = LaunchShape { block, dynamic_shared, pointers: true };
            module.variant(&shape, WIDE_RED_ZONE).map_err(|e| e.to_string())
        }
        ("variant", None) => Err("a variant needs a block shape".into()),
        _ => Ok(module),
    }
}

fn run(args: &[String]) -> Result<(), String> {
    let [input, output, mode, rest @ ..] = args else {
        return Err("usage: guard IN OUT fence|variant|check|none [X,Y,Z [DYNAMIC]]".into());
    };
    let text = std::fs::read(input).map_err(|e| format!("{input}: {e}"))?;
    let module = guarded(&text, mode, rest).map_err(|e| format!("{input}: {e}"))?;
    std::fs::write(output, module.text()).map_err(|e| format!("{output}: {e}"))?;
    let report = module.report();
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
