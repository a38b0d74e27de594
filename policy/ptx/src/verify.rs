//! The verifier's result. `VerifiedModule` can be made here alone.

use crate::contract::{Arena, Contract, GuardMode};
use crate::tree::Module;
use crate::view::{Kernel, ModuleView};

/// A module that may be handed to a GPU: the text, what it holds, and under which contract it is
/// safe. Only [`crate::admit`] makes one.
#[derive(Clone, Debug)]
pub struct VerifiedModule {
    text: String,
    lines: Vec<u32>,
    module: Module,
    view: ModuleView,
    mode: GuardMode,
    arena: Option<Arena>,
    contract: Contract,
}

impl VerifiedModule {
    pub(crate) fn unguarded(
        text: String,
        lines: Vec<u32>,
        module: Module,
        view: ModuleView,
    ) -> Self {
        let contract = Contract::default();
        Self { text, lines, module, view, mode: GuardMode::None, arena: None, contract }
    }

    /// The PTX text to load.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The tree of that text; its spans count lines of [`Self::text`].
    pub fn module(&self) -> &Module {
        &self.module
    }

    /// Kernels, variables and sizes.
    pub fn view(&self) -> &ModuleView {
        &self.view
    }

    /// The kernels.
    pub fn kernels(&self) -> &[Kernel] {
        &self.view.kernels
    }

    /// How it is guarded.
    pub fn mode(&self) -> GuardMode {
        self.mode
    }

    /// The arena it is confined to; `None` exactly when the mode is [`GuardMode::None`].
    pub fn arena(&self) -> Option<Arena> {
        self.arena
    }

    /// What every launch must keep.
    pub fn contract(&self) -> &Contract {
        &self.contract
    }

    /// The line of the tenant's text that a line of [`Self::text`] (from 1) came from; `None` for
    /// lines that the guard added of its own.
    pub fn source_line(&self, line: u32) -> Option<u32> {
        let index = usize::try_from(line.checked_sub(1)?).ok()?;
        self.lines.get(index).copied().filter(|line| *line != 0)
    }
}
