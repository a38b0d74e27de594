//! `turnstile ptx run`: launch one kernel on the emulated GPU and look at what it left behind.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::json;
use turnstile_emulated::memory::{Access, AddressSpace, Arena};
use turnstile_emulated::{LaunchConfig, LoadedProgram, program::KernelInfo};
use turnstile_ptx::{Admission, BlockShape, Limits};

use super::value::{Argument, contents};
use super::{Mode, load, parse_shape};
use crate::commands::failure::Failure;
use crate::commands::table::{count, nanoseconds, say, say_json, table};

/// Launch a kernel on the emulated GPU and print or check what it left in its buffers
///
/// Arguments are given in the kernel's order. A scalar is TYPE=VALUE, a structure or array passed
/// by value TYPE=VALUE,VALUE,…, a buffer TYPE[N] or TYPE[N]=CONTENTS, where CONTENTS is zero, iota
/// (0, 1, 2, …), one number for all elements, a comma-separated list, or @FILE with raw bytes. Types: u8 u16 u32 u64 s8 s16 s32 s64 f32 f64.
///
///   turnstile ptx run tests/kernels/ptx/vecadd.ptx --kernel vecadd --grid 4 --block 256 \
///     --arg 'f32[1000]=iota' --arg 'f32[1000]=1' --arg 'f32[1000]' --arg u32=1000 --print 2
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(in crate::commands) struct Run {
    /// PTX file
    file: PathBuf,
    /// Kernel to launch; may be left out if there is only one
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,
    /// Blocks
    #[arg(long, value_name = "X,Y,Z", default_value = "1", value_parser = parse_shape)]
    grid: [u32; 3],
    /// Threads of a block
    #[arg(long, value_name = "X,Y,Z", default_value = "1", value_parser = parse_shape)]
    block: [u32; 3],
    /// Bytes of dynamic shared memory
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    shared: u32,
    /// All blocks are resident at once and may wait for each other
    #[arg(long)]
    cooperative: bool,
    /// An argument of the kernel; repeat it for each
    #[arg(long = "arg", value_name = "ARG", value_parser = Argument::parse)]
    args: Vec<Argument>,
    /// What buffer argument N (from 0) must hold afterwards
    #[arg(long, value_name = "N=CONTENTS", value_parser = parse_expect)]
    expect: Vec<(usize, String)>,
    /// How far an element may be from what is expected, relative to it
    #[arg(long, value_name = "FRACTION", default_value_t = 0.0)]
    tolerance: f64,
    /// Print the first elements of buffer argument N (from 0)
    #[arg(long, value_name = "N")]
    print: Vec<usize>,
    /// Guard it first; every access outside the arena is then an error of the guard
    #[arg(long, value_enum, default_value = "none")]
    guard: Mode,
    /// Seconds after which it is stopped
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    timeout: u64,
    /// What executes it: auto takes machine code once the compiler is done, compiled waits for it
    #[arg(long, value_enum, default_value = "auto")]
    engine: Engine,
    /// Host threads that run blocks
    #[arg(long, value_name = "N", default_value_t = 1)]
    workers: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What executes a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Engine {
    /// Machine code for what is compiled by then, the interpreter for the rest
    Auto,
    /// The interpreter alone
    Interpreter,
    /// Machine code wherever possible, from the first instruction on
    Compiled,
}

impl From<Engine> for turnstile_emulated::Engine {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::Auto => Self::Auto,
            Engine::Interpreter => Self::Interpreter,
            Engine::Compiled => Self::Compiled,
        }
    }
}

/// Elements that `--print` shows.
const SHOWN: usize = 16;
/// The arena of a run: 4 GiB, like a tenant's.
const ARENA: Arena = Arena { base: 0x7000_0000_0000, log2: 32 };

fn parse_expect(text: &str) -> Result<(usize, String), String> {
    let (index, contents) = text.split_once('=').ok_or("write N=CONTENTS, such as 2=iota")?;
    let index = index.parse().map_err(|_| format!("{index} is no argument number"))?;
    Ok((index, contents.to_owned()))
}

impl Run {
    pub(super) fn run(self) -> Result<(), Failure> {
        for index in self.print.iter().chain(self.expect.iter().map(|(index, _)| index)) {
            if self.args.get(*index).is_none_or(|a| a.elements.is_none()) {
                return Err(Failure::input(
                    format!("argument {index} is no buffer"),
                    "count the --arg from 0; only buffers can be printed or expected",
                ));
            }
        }
        let [x, y, z] = self.block;
        let arena = turnstile_ptx::Arena::new(ARENA.base, 1 << ARENA.log2)
            .map_err(|e| Failure::input(e.to_string(), ""))?;
        let admission = match self.guard {
            Mode::None => Admission::unguarded(Limits::default()),
            mode => Admission {
                block: Some(BlockShape { x, y, z }),
                dynamic_shared: Some(self.shared.into()),
                ..Admission::guarded(mode.into(), arena, Limits::default())
            },
        };
        let module = load(&self.file, &admission)?;
        let failed = |what: &dyn std::fmt::Display| {
            Failure::check(format!("{}: {what}", self.file.display()), "")
        };
        let mut space = AddressSpace::new(ARENA).map_err(|e| failed(&e))?;
        let program = LoadedProgram::load(module.module(), module.view(), &mut space)
            .map_err(|e| failed(&e))?;
        let name = match (&self.kernel, program.kernels().as_slice()) {
            (Some(name), _) => name.clone(),
            (None, [only]) => only.name.clone(),
            (None, kernels) => {
                let names: Vec<&str> = kernels.iter().map(|k| k.name.as_str()).collect();
                return Err(Failure::input(
                    "the program has several kernels",
                    format!("choose one with --kernel: {}", names.join(", ")),
                ));
            }
        };
        let kernel = program.kernel(&name).ok_or_else(|| {
            Failure::input(
                format!("the program has no kernel {name}"),
                "leave --kernel out to see which",
            )
        })?;
        let (params, addresses) = self.place(&mut space, &kernel)?;
        let config = LaunchConfig {
            dynamic_shared_bytes: self.shared,
            cooperative: self.cooperative,
            time_limit: Duration::from_secs(self.timeout),
            arena: (self.guard != Mode::None).then_some(ARENA),
            workers: self.workers,
            engine: self.engine.into(),
            ..LaunchConfig::new(self.grid, self.block, params)
        };
        let stop = Arc::new(AtomicBool::new(false));
        let done = program
            .launch(&name, &config, space.snapshot(), &stop)
            .map_err(|e| Failure::check(format!("{name}: {e}"), ""))?;
        let after: Vec<Vec<u8>> = addresses
            .iter()
            .zip(&self.args)
            .map(|(address, arg)| {
                let mut bytes = vec![0; arg.bytes.len()];
                match address {
                    Some(address) => space.read(*address, &mut bytes).map(|()| bytes),
                    None => Ok(arg.bytes.clone()),
                }
            })
            .collect::<Result<_, _>>()
            .map_err(|e| failed(&e))?;
        self.print_result(&name, &done, &after)
    }

    /// Allocates the buffers and puts the parameters where the kernel has them.
    fn place(
        &self,
        space: &mut AddressSpace,
        kernel: &KernelInfo,
    ) -> Result<(Vec<u8>, Vec<Option<u64>>), Failure> {
        let (given, wanted) = (self.args.len(), kernel.params.len());
        if given != wanted {
            return Err(Failure::input(
                format!("{} has {wanted} parameters, {given} arguments are given", kernel.name),
                "give --arg once for each, in order",
            ));
        }
        let mut params = vec![0; kernel.param_bytes as usize];
        let mut addresses = Vec::new();
        for (index, (arg, &(offset, size))) in self.args.iter().zip(&kernel.params).enumerate() {
            let (bytes, address) = if arg.elements.is_some() {
                let address = space
                    .allocate(arg.bytes.len() as u64, Access::READ_WRITE)
                    .and_then(|address| space.write(address, &arg.bytes).map(|()| address))
                    .map_err(|e| Failure::check(e.to_string(), "use smaller buffers"))?;
                (address.to_le_bytes().to_vec(), Some(address))
            } else {
                (arg.bytes.clone(), None)
            };
            let place = params.get_mut(offset as usize..(offset + size) as usize);
            match place.filter(|place| place.len() == bytes.len()) {
                Some(place) => place.copy_from_slice(&bytes),
                None => {
                    return Err(Failure::input(
                        format!("argument {index} has {} bytes, the parameter {size}", bytes.len()),
                        "use a type of that size, or TYPE=VALUE,VALUE,… for a structure",
                    ));
                }
            }
            addresses.push(address);
        }
        Ok((params, addresses))
    }

    fn print_result(
        &self,
        kernel: &str,
        done: &turnstile_emulated::LaunchReport,
        after: &[Vec<u8>],
    ) -> Result<(), Failure> {
        let mut wrong = Vec::new();
        for (index, expected) in &self.expect {
            wrong.extend(self.compare(*index, expected, &after[*index])?);
        }
        let ns = u64::try_from(done.elapsed.as_nanos()).unwrap_or(u64::MAX);
        let elements = |index: usize| -> Vec<String> {
            let element = self.args[index].element;
            let chunks = after[index].chunks_exact(element.bytes());
            chunks.take(SHOWN).map(|chunk| element.show(chunk).1).collect()
        };
        if self.json {
            let buffers: Vec<_> = self
                .print
                .iter()
                .map(|&index| json!({"argument": index, "first": elements(index)}))
                .collect();
            say_json(&json!({
                "kernel": kernel,
                "elapsed_ns": ns,
                "thread_instructions": done.thread_instructions,
                "warp_instructions": done.warp_instructions,
                "printed": String::from_utf8_lossy(&done.printed),
                "buffers": buffers,
                "wrong": wrong,
                "passed": wrong.is_empty(),
            }))?;
        } else {
            if !done.printed.is_empty() {
                say(String::from_utf8_lossy(&done.printed).trim_end())?;
            }
            let mut table = table(&["kernel", "time#", "thread instructions#", "a second#"]);
            let rate = done.thread_instructions as f64 / done.elapsed.as_secs_f64().max(1e-9);
            table.add_row([
                kernel.to_owned(),
                nanoseconds(ns),
                count(done.thread_instructions),
                count(rate as u64),
            ]);
            say(table)?;
            for &index in &self.print {
                let more = if self.args[index].elements > Some(SHOWN) { ", …" } else { "" };
                say(format!("argument {index}: {}{more}", elements(index).join(", ")))?;
            }
            wrong.iter().try_for_each(say)?;
            if !self.expect.is_empty() && wrong.is_empty() {
                say("as expected")?;
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(Failure::said()) }
    }

    /// The first element of a buffer that is not as expected.
    fn compare(&self, index: usize, expected: &str, got: &[u8]) -> Result<Option<String>, Failure> {
        let arg = &self.args[index];
        let want = contents(arg.element, arg.elements.unwrap_or(1), expected).map_err(|e| {
            Failure::input(format!("--expect {index}={expected}: {e}"), "count again")
        })?;
        let size = arg.element.bytes();
        let pairs = want.chunks_exact(size).zip(got.chunks_exact(size));
        for (i, (want, got)) in pairs.enumerate() {
            let ((w, w_text), (g, g_text)) = (arg.element.show(want), arg.element.show(got));
            let near = (w - g).abs() <= self.tolerance * w.abs();
            if want != got && !near {
                return Ok(Some(format!(
                    "argument {index}, element {i}: {g_text}, expected {w_text}"
                )));
            }
        }
        Ok(None)
    }
}
