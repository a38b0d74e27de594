//! Runs one case of the corpus on the interpreter.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use turnstile_corpus::{Arg, Case};
use turnstile_emulated::memory::{ARENA_BASE, Access, AddressSpace, Arena};
use turnstile_emulated::{Engine, LaunchConfig, LaunchReport, LoadedProgram};
use turnstile_ptx::view::ModuleView;
use turnstile_ptx::{Limits, parse};

/// A case with its program loaded and its buffers filled.
pub(crate) struct Prepared<'c> {
    case: &'c Case,
    space: AddressSpace,
    program: LoadedProgram,
    addresses: Vec<u64>,
    params: Vec<u8>,
}

impl<'c> Prepared<'c> {
    /// Loads the program and fills the buffers.
    pub(crate) fn new(case: &'c Case) -> Result<Self, String> {
        let module =
            parse(case.kernel.ptx.as_bytes(), &Limits::default()).map_err(|e| e.to_string())?;
        let view = ModuleView::of(&module).map_err(|e| e.to_string())?;
        let mut space =
            AddressSpace::new(Arena { base: ARENA_BASE, log2: 32 }).map_err(|e| e.to_string())?;
        let program = LoadedProgram::load(&module, &view, &mut space).map_err(|e| e.to_string())?;
        let mut addresses = Vec::new();
        for buffer in &case.buffers {
            let len = buffer.initial.len().max(1) as u64;
            addresses.push(space.allocate(len, Access::READ_WRITE).map_err(|e| e.to_string())?);
        }
        let kernel = program.kernel(case.kernel.entry).ok_or("no such kernel")?;
        let mut params = vec![0u8; kernel.param_bytes as usize];
        for (arg, (offset, bytes)) in case.args.iter().zip(&kernel.params) {
            let value = match arg {
                Arg::Buffer(index) => addresses[*index].to_le_bytes().to_vec(),
                Arg::Value(value) => value.clone(),
            };
            assert_eq!(value.len(), *bytes as usize, "{}: a parameter's size", case.name());
            params[*offset as usize..][..value.len()].copy_from_slice(&value);
        }
        let mut prepared = Self { case, space, program, addresses, params };
        prepared.fill()?;
        Ok(prepared)
    }

    /// Puts the initial contents into every buffer.
    pub(crate) fn fill(&mut self) -> Result<(), String> {
        for (buffer, address) in self.case.buffers.iter().zip(&self.addresses) {
            let mut bytes = buffer.initial.clone();
            for p in &buffer.pointers {
                let target = self.addresses[p.buffer] + p.addend;
                bytes[p.offset..p.offset + 8].copy_from_slice(&target.to_le_bytes());
            }
            self.space.write(*address, &bytes).map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// Launches with so many host threads.
    #[allow(dead_code)] // Not everybody who includes this file launches both ways.
    pub(crate) fn launch(&mut self, workers: u32) -> Result<LaunchReport, String> {
        self.launch_on(Engine::Interpreter, workers)
    }

    /// Launches on an engine.
    pub(crate) fn launch_on(
        &mut self,
        engine: Engine,
        workers: u32,
    ) -> Result<LaunchReport, String> {
        let launch = &self.case.launch;
        let config = LaunchConfig {
            dynamic_shared_bytes: launch.shared,
            cooperative: launch.cooperative,
            workers,
            engine,
            time_limit: Duration::from_secs(60),
            ..LaunchConfig::new(launch.grid, launch.block, self.params.clone())
        };
        let stop = Arc::new(AtomicBool::new(false));
        let map = self.space.snapshot();
        self.program.launch(self.case.kernel.entry, &config, map, &stop).map_err(|e| e.to_string())
    }

    /// The contents of every buffer.
    #[allow(dead_code)] // As above.
    pub(crate) fn outputs(&self) -> Result<Vec<Vec<u8>>, String> {
        let mut outputs = Vec::new();
        for (buffer, address) in self.case.buffers.iter().zip(&self.addresses) {
            let mut bytes = vec![0; buffer.initial.len()];
            self.space.read(*address, &mut bytes).map_err(|e| e.to_string())?;
            outputs.push(bytes);
        }
        Ok(outputs)
    }

    /// How many pieces of the program are machine code.
    #[allow(dead_code)] // As above.
    pub(crate) fn regions(&self) -> usize {
        self.program.compiled_regions()
    }

    /// Compares every buffer with what the host computed.
    #[allow(dead_code)] // The benchmark only times.
    pub(crate) fn check(&self) -> Result<(), String> {
        let outputs = self.outputs()?;
        self.case.check(&outputs).map_err(|e| e.to_string())
    }
}
