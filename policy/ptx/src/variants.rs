//! Modules guarded for the launches they get.
//!
//! [`crate::admit`] guards for any block shape and any parameters: safe whatever a launch brings, and
//! slower than needed. What a launch does bring (its block shape, its dynamic shared memory, parameters
//! that are addresses in the arena) lets the guard prove most accesses instead of fencing them. So a
//! backend asks for a variant when it first launches with a new shape, keeps what it made of it, and
//! takes the module it was given for launches that no variant serves. Every variant passes the verifier
//! like any other module, and every launch is held to the contract of the one it takes.

use std::sync::{Arc, Mutex, PoisonError};

use crate::admit::{PtxError, guard_and_verify};
use crate::contract::{Arena, BlockShape, BrokenPromise, Contract, Terms};
use crate::guard::GuardOptions;
use crate::hash::HashMap;
use crate::tree::Module;
use crate::verify::VerifiedModule;

/// Most variants of one module, so that a tenant cannot fill the host with them: launches with further
/// shapes take the module that serves all.
pub const MAX_VARIANTS: usize = 16;

/// What a module was made from.
#[derive(Debug)]
pub(crate) struct Source {
    /// The tenant's module, checked and not guarded.
    pub(crate) module: Module,
    /// How it was guarded.
    pub(crate) options: GuardOptions,
}

/// What a variant is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LaunchShape {
    /// Threads of a block.
    pub block: BlockShape,
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u64,
    /// Whether parameters used as addresses are in the arena.
    pub pointers: bool,
}

impl VerifiedModule {
    /// The same program guarded for one shape of launch. It takes about as long as [`crate::admit`].
    /// Names, parameters and the places of variables are those of this module. `red_zone` is how many
    /// bytes around the arena the caller maps to a sink of the tenant's own; [`crate::WIDE_RED_ZONE`] is
    /// what makes promised pointers worth having.
    ///
    /// # Errors
    /// [`PtxError::Variant`] when the module is not in `fence` mode or the variant would want other
    /// variables; anything else that [`crate::admit`] says.
    pub fn variant(&self, shape: &LaunchShape, red_zone: u64) -> Result<VerifiedModule, PtxError> {
        let source = self.source().ok_or(PtxError::Variant("it is not fenced"))?;
        let arena = source.options.arena.with_red_zone(red_zone);
        let options = GuardOptions {
            arena: arena.map_err(|_| PtxError::Variant("its red zones do not fit"))?,
            block: Some(shape.block),
            dynamic_shared: Some(shape.dynamic_shared),
            pointers: shape.pointers,
            keep_constants: !self.report().constants.is_empty(),
            ..source.options
        };
        let variant = guard_and_verify(&source.module, &options)?;
        if variant.report().variables != self.report().variables {
            return Err(PtxError::Variant("its variables would lie elsewhere"));
        }
        Ok(variant)
    }
}

/// The variants of one module, each as what a backend made of it (`T`: loaded code).
#[derive(Debug)]
pub struct Variants<T> {
    module: VerifiedModule,
    general: Arc<T>,
    red_zone: u64,
    made: Mutex<HashMap<LaunchShape, Option<Variant<T>>>>,
    /// Held while one is made, so that each is made once; launches whose variant exists do not wait.
    making: Mutex<()>,
}

/// What a launch takes.
#[derive(Debug)]
pub struct Choice<T> {
    /// What the backend made of the module to run.
    pub loaded: Arc<T>,
    /// Bytes of dynamic shared memory to launch it with: at least what was asked for.
    pub dynamic_shared: u64,
}

/// One of them, and what its launches must keep.
#[derive(Debug)]
struct Variant<T> {
    loaded: Arc<T>,
    contract: Arc<Contract>,
}

impl<T> Clone for Variant<T> {
    fn clone(&self) -> Self {
        Self { loaded: self.loaded.clone(), contract: self.contract.clone() }
    }
}

impl<T> Variants<T> {
    /// No variants yet; `general` is what was made of the module itself, and `red_zone` as for
    /// [`VerifiedModule::variant`].
    pub fn new(module: VerifiedModule, general: Arc<T>, red_zone: u64) -> Self {
        Self { module, general, red_zone, made: Mutex::default(), making: Mutex::default() }
    }

    /// What was made of the module itself.
    pub fn general(&self) -> &Arc<T> {
        &self.general
    }

    /// Everything that was made of variants so far.
    pub fn loaded(&self) -> Vec<Arc<T>> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.values().flatten().map(|variant| variant.loaded.clone()).collect()
    }

    /// The best variant for a launch, and the dynamic shared memory to launch it with: made now if the
    /// shape is new, which takes milliseconds; else a look-up. `load` makes of a module what a backend
    /// needs; if it fails, or no variant can be made, or the launch does not keep its contract, the
    /// launch takes the module that was given.
    ///
    /// # Errors
    /// [`BrokenPromise`] when the launch does not keep the contract of that one either.
    pub fn choose<E>(
        &self,
        kernel: &str,
        terms: &Terms<'_>,
        load: impl Fn(&VerifiedModule) -> Result<T, E>,
    ) -> Result<Choice<T>, BrokenPromise> {
        let loaded = self.general.clone();
        let Some(arena) = self.module.arena() else {
            return Ok(Choice { loaded, dynamic_shared: terms.dynamic_shared });
        };
        if self.module.source().is_some() {
            for pointers in [true, false] {
                let (block, dynamic_shared) = (terms.block, terms.dynamic_shared);
                let shape = LaunchShape { block, dynamic_shared, pointers };
                if let Some(variant) = self.variant(shape, &load)
                    && let Ok(dynamic_shared) = raised(&variant.contract, kernel, arena, terms)
                {
                    return Ok(Choice { loaded: variant.loaded, dynamic_shared });
                }
            }
        }
        let dynamic_shared = raised(self.module.contract(), kernel, arena, terms)?;
        Ok(Choice { loaded, dynamic_shared })
    }

    fn variant<E>(
        &self,
        shape: LaunchShape,
        load: &impl Fn(&VerifiedModule) -> Result<T, E>,
    ) -> Option<Variant<T>> {
        if let Some(known) = self.known(&shape) {
            return known;
        }
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = self.known(&shape) {
            return known;
        }
        let module = self.module.variant(&shape, self.red_zone).ok();
        let variant = module.and_then(|module| {
            let contract = Arc::new(module.contract().clone());
            load(&module).ok().map(|loaded| Variant { loaded: Arc::new(loaded), contract })
        });
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.insert(shape, variant.clone());
        variant
    }

    /// What is known of a shape: its variant, that it has none, or nothing yet.
    fn known(&self, shape: &LaunchShape) -> Option<Option<Variant<T>>> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        match made.get(shape) {
            None if made.len() >= MAX_VARIANTS => Some(None),
            known => known.cloned(),
        }
    }
}

/// The dynamic shared memory with which a launch keeps a contract.
fn raised(
    contract: &Contract,
    kernel: &str,
    arena: Arena,
    terms: &Terms<'_>,
) -> Result<u64, BrokenPromise> {
    let least = contract.kernel(kernel).map_or(0, |k| k.dynamic_shared);
    let dynamic_shared = terms.dynamic_shared.max(least);
    contract.admits(kernel, arena, &Terms { dynamic_shared, ..*terms })?;
    Ok(dynamic_shared)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{GuardMode, WIDE_RED_ZONE};
    use crate::{Admission, Limits, admit};

    const BASE: u64 = 128 << 30;
    /// `p[tid] = s[tid]`: needs a clamp unless blocks have at most 64 threads, a fence unless `p` is promised.
    const TEXT: &str = ".version 9.0\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 p)\n{\n\
        .reg .b32 %r<4>; .reg .b64 %rd<4>; .shared .align 4 .b8 s[256];\n\
        ld.param.u64 %rd1, [p]; mov.u32 %r1, %tid.x; shl.b32 %r2, %r1, 2; mov.u32 %r3, s; add.s32 %r2, %r2, %r3;\n\
        ld.shared.u32 %r3, [%r2]; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2;\n\
        st.global.u32 [%rd3], %r3; ret;\n}\n";

    fn arena() -> Arena {
        Arena::new(BASE, 4 << 30).unwrap()
    }

    fn module(mode: GuardMode) -> VerifiedModule {
        admit(TEXT.as_bytes(), &Admission::guarded(mode, arena(), Limits::default())).unwrap()
    }

    fn guards(text: &str) -> usize {
        text.matches("$ts_").count()
    }

    fn choose(variants: &Variants<String>, threads: u32, p: u64) -> String {
        let params = p.to_le_bytes();
        let block = BlockShape { x: threads, y: 1, z: 1 };
        let terms = Terms { block, dynamic_shared: 0, params: &params };
        let load = |m: &VerifiedModule| Ok::<_, ()>(m.text().to_owned());
        String::clone(&variants.choose("k", &terms, load).unwrap().loaded)
    }

    fn variants() -> Variants<String> {
        let module = module(GuardMode::Fence);
        let general = Arc::new(module.text().to_owned());
        Variants::new(module, general, WIDE_RED_ZONE)
    }

    #[test]
    fn a_launch_that_keeps_every_promise_runs_without_a_guard() {
        let variants = variants();
        assert_eq!(guards(&choose(&variants, 64, BASE + 4096)), 0);
        assert_eq!(variants.loaded().len(), 1);
    }

    #[test]
    fn a_parameter_outside_the_arena_takes_a_fenced_variant() {
        let variants = variants();
        for p in [BASE - 4, BASE + (4 << 30), BASE + 2, 0] {
            let text = choose(&variants, 64, p);
            assert!(text.contains("mov.b64"), "{p:#x}: {text}");
            assert!(!text.contains("min.u32"), "{p:#x}: {text}");
        }
    }

    #[test]
    fn a_larger_block_takes_a_variant_of_its_own() {
        let variants = variants();
        let small = choose(&variants, 64, BASE);
        let large = choose(&variants, 128, BASE);
        assert!(large.contains("min.u32") && small != large);
    }

    #[test]
    fn there_are_never_more_than_the_most_variants() {
        let variants = variants();
        for threads in 1..40 {
            choose(&variants, threads, BASE);
        }
        assert_eq!(variants.loaded().len(), MAX_VARIANTS);
        assert_eq!(choose(&variants, 50, BASE), **variants.general());
    }

    #[test]
    fn a_load_that_fails_is_served_by_the_module_itself() {
        let variants = variants();
        let params = BASE.to_le_bytes();
        let block = BlockShape { x: 64, y: 1, z: 1 };
        let terms = Terms { block, dynamic_shared: 0, params: &params };
        let chosen = variants.choose("k", &terms, |_| Err::<String, _>("no room")).unwrap();
        assert!(Arc::ptr_eq(&chosen.loaded, variants.general()));
    }

    #[test]
    fn a_launch_that_no_module_serves_is_told_why() {
        let block = BlockShape { x: 64, y: 1, z: 1 };
        let admission = Admission {
            block: Some(block),
            ..Admission::guarded(GuardMode::Check, arena(), Limits::default())
        };
        let module = admit(TEXT.as_bytes(), &admission).unwrap();
        let variants = Variants::new(module, Arc::new(()), WIDE_RED_ZONE);
        let terms = Terms { block: BlockShape { x: 65, ..block }, dynamic_shared: 0, params: &[] };
        let refused = variants.choose("k", &terms, |_| Ok::<_, ()>(()));
        assert_eq!(refused.map(|_| ()), Err(BrokenPromise::Block(block)));
    }

    #[test]
    fn only_fenced_modules_have_variants() {
        let block = BlockShape { x: 64, y: 1, z: 1 };
        let shape = LaunchShape { block, dynamic_shared: 0, pointers: true };
        assert!(matches!(
            module(GuardMode::Check).variant(&shape, WIDE_RED_ZONE),
            Err(PtxError::Variant(_))
        ));
    }
}
