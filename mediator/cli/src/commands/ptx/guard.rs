//! `turnstile ptx guard`: rewrite a program so that it cannot leave its arena, and say what was done.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use turnstile_ptx::guard::Change;
use turnstile_ptx::{Admission, Arena, BlockShape, Limits};

use super::{Mode, load, parse_arena, parse_shape};
use crate::commands::failure::Failure;
use crate::commands::table::{say, say_json, table};

/// Rewrite a program so that it can neither leave its arena nor fault, and say what was rewritten
///
/// The rewritten text has passed the verifier, a second and independent reading of it. It assembles
/// with `ptxas -arch=sm_90`.
#[derive(Args)]
pub(in crate::commands) struct Guard {
    /// PTX file
    file: PathBuf,
    /// Device addresses it may touch: a power of two from 1 GiB on, aligned to its size
    #[arg(long, value_name = "BASE:SIZE", value_parser = parse_arena)]
    arena: Arena,
    /// What happens to an access that would leave the arena
    #[arg(long, value_enum, default_value = "fence")]
    mode: Mode,
    /// Block shape it will be launched with; proofs are better with it, and only it may be launched
    #[arg(long, value_name = "X,Y,Z", value_parser = parse_shape)]
    block: Option<[u32; 3]>,
    /// Bytes of dynamic shared memory it will be launched with
    #[arg(long, value_name = "BYTES")]
    shared: Option<u64>,
    /// Write the rewritten text here; - is standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

impl Guard {
    pub(super) fn run(self) -> Result<(), Failure> {
        let admission = Admission {
            block: self.block.map(|[x, y, z]| BlockShape { x, y, z }),
            dynamic_shared: self.shared,
            ..Admission::guarded(self.mode.into(), self.arena, Limits::default())
        };
        let module = load(&self.file, &admission)?;
        let to_stdout = self.output.as_deref().is_some_and(|path| path.as_os_str() == "-");
        if to_stdout {
            return say(module.text().trim_end());
        }
        if let Some(path) = &self.output {
            std::fs::write(path, module.text()).map_err(|e| {
                Failure::input(format!("cannot write {}: {e}", path.display()), "check the path")
            })?;
        }
        let report = module.report();
        let used: Vec<Change> =
            Change::ALL.into_iter().filter(|&change| report.total(change) > 0).collect();
        if self.json {
            let functions: Vec<_> = report
                .functions
                .iter()
                .map(|function| {
                    let counts: serde_json::Map<String, serde_json::Value> = used
                        .iter()
                        .map(|&change| (change.text().to_owned(), json!(function.get(change))))
                        .collect();
                    json!({"name": function.name.to_string(), "rewritten": counts})
                })
                .collect();
            let contract: Vec<_> = module
                .contract()
                .kernels
                .iter()
                .map(|k| {
                    json!({"kernel": k.kernel.to_string(), "dynamic_shared": k.dynamic_shared,
                           "block": k.block.map(|b| [b.x, b.y, b.z]),
                           "pointers": k.pointers.iter().map(|p| json!({"offset": p.offset,
                               "align": p.align})).collect::<Vec<_>>()})
                })
                .collect();
            return say_json(&json!({
                "file": self.file,
                "lines": module.text().lines().count(),
                "functions": functions,
                "variable_bytes": report.variable_bytes,
                "stack_bytes": report.stack_bytes,
                "call_depth": report.call_depth,
                "contract": contract,
            }));
        }
        let heads: Vec<String> =
            used.iter().map(|change| format!("{}#", change.text().replace(' ', "\n"))).collect();
        let mut head = vec!["function"];
        head.extend(heads.iter().map(String::as_str));
        let mut table = table(&head);
        for function in &report.functions {
            let mut row = vec![function.name.to_string()];
            row.extend(used.iter().map(|&change| match function.get(change) {
                0 => String::new(),
                n => n.to_string(),
            }));
            table.add_row(row);
        }
        say(table)?;
        for kernel in &module.contract().kernels {
            let mut terms = Vec::new();
            if let Some(b) = kernel.block {
                terms.push(format!("blocks of exactly {}x{}x{} threads", b.x, b.y, b.z));
            }
            if kernel.dynamic_shared > 0 {
                terms.push(format!(
                    "at least {} bytes of dynamic shared memory",
                    kernel.dynamic_shared
                ));
            }
            if !kernel.pointers.is_empty() {
                terms.push(format!("{} pointers into the arena", kernel.pointers.len()));
            }
            if !terms.is_empty() {
                say(format!("{}: every launch must have {}", kernel.kernel, terms.join(", ")))?;
            }
        }
        if let Some(path) = &self.output {
            say(format!("{} lines written to {}", module.text().lines().count(), path.display()))?;
        }
        Ok(())
    }
}
