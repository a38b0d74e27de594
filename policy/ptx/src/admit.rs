//! The one way in: bytes of an untrusted image to a [`VerifiedModule`] or the reason why not.

use crate::check::{Refusal, check};
use crate::contract::{Arena, BlockShape, GuardMode};
use crate::guard::{self, GuardOptions};
use crate::hash::HashSet;
use crate::parse::{Limits, ParseError, parse};
use crate::print::{Printed, print};
use crate::tree::Module;
use crate::variants::Source;
use crate::verify::{self, VerifiedModule, VerifyError};
use crate::view::ViewError;

/// Under which terms an image is admitted.
#[derive(Clone, Copy, Debug)]
pub struct Admission {
    /// How to guard.
    pub mode: GuardMode,
    /// What to confine it to; needed unless the mode is [`GuardMode::None`].
    pub arena: Option<Arena>,
    /// Bounds on the image.
    pub limits: Limits,
    /// The block shape it will be launched with, if known: proofs are better with it, and the
    /// module is then good for this shape only.
    pub block: Option<BlockShape>,
    /// Bytes of dynamic shared memory it will be launched with, if known.
    pub dynamic_shared: Option<u64>,
    /// Device address in the arena where the module's variables go; `None` for the guard's default
    /// place, which only one module of an arena can have.
    pub variables: Option<u64>,
    /// Device address in the arena of the violation record (check mode); `None` for the default.
    pub report: Option<u64>,
}

impl Admission {
    /// Allow list only.
    pub const fn unguarded(limits: Limits) -> Self {
        Self {
            mode: GuardMode::None,
            arena: None,
            limits,
            block: None,
            dynamic_shared: None,
            variables: None,
            report: None,
        }
    }

    /// Guarded, for any block shape.
    pub const fn guarded(mode: GuardMode, arena: Arena, limits: Limits) -> Self {
        Self { mode, arena: Some(arena), ..Self::unguarded(limits) }
    }

    fn options(&self) -> Result<GuardOptions, PtxError> {
        let arena = self.arena.ok_or(PtxError::NoArena(self.mode))?;
        let defaults = GuardOptions::new(self.mode, arena);
        Ok(GuardOptions {
            block: self.block,
            dynamic_shared: self.dynamic_shared,
            variables: self.variables.unwrap_or(defaults.variables),
            report_address: self.report.unwrap_or(defaults.report_address),
            ..defaults
        })
    }
}

/// Why an image was not admitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PtxError {
    /// It is not PTX.
    #[error("not PTX: {0}")]
    Parse(#[from] ParseError),
    /// It uses something that is not permitted.
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    /// Something in it cannot be made safe.
    #[error("cannot be guarded: {0}")]
    Guard(#[from] guard::Refusal),
    /// Its objects do not fit.
    #[error("does not fit: {0}")]
    View(#[from] ViewError),
    /// The final text did not pass the verifier. For an image that parsed and was checked, this is
    /// a limit of the guard or the verifier; the image is refused all the same.
    #[error("not verified: {0}")]
    Verify(#[from] VerifyError),
    /// A variant for a launch cannot stand in for the module.
    #[error("no variant: {0}")]
    Variant(&'static str),
    /// A guard was asked for and no arena given. A mistake of the caller, not of the image.
    #[error("guard mode {0:?} needs an arena")]
    NoArena(GuardMode),
}

impl PtxError {
    /// Line of the tenant's text, if one is to blame.
    pub fn line(&self) -> Option<u32> {
        let line = match self {
            Self::Parse(error) => error.span().line,
            Self::Refused(refusal) => refusal.span().line,
            Self::Guard(refusal) => refusal.span().line,
            Self::View(ViewError::TooLarge { at, .. } | ViewError::Unsized { at, .. }) => at.line,
            Self::Verify(_) | Self::Variant(_) | Self::NoArena(_) => 0,
        };
        (line != 0).then_some(line)
    }
}

/// Parses, checks, guards, prints and verifies an image.
///
/// # Errors
/// [`PtxError`]: what is wrong, with line and column.
pub fn admit(image: &[u8], admission: &Admission) -> Result<VerifiedModule, PtxError> {
    let module = parse(image, &admission.limits)?;
    check(&module)?;
    if admission.mode == GuardMode::None {
        let printed = print(&module);
        return Ok(verify::allow(printed.text, printed.lines)?);
    }
    let options = admission.options()?;
    let verified = guard_and_verify(&module, &options)?;
    Ok(match options.mode {
        GuardMode::Fence => verified.made_from(Source { module, options }),
        _ => verified,
    })
}

/// Most lines whose proofs are given up one by one; then all are.
const DOUBTS: usize = 6;

/// Guards a checked module and verifies what comes out.
pub(crate) fn guard_and_verify(
    module: &Module,
    options: &GuardOptions,
) -> Result<VerifiedModule, PtxError> {
    let (mut doubts, mut options) = (HashSet::default(), *options);
    loop {
        let (guarded, report) = guard::guard_doubting(module, &options, &doubts)?;
        let Printed { text, lines } = print(&guarded);
        let source_lines = lines.clone();
        let error = match verify::verify(text, lines, options.mode, options.arena, report) {
            Err(error) if error.is_unproved() && options.proofs => error,
            done => return Ok(done?),
        };
        // The verifier cannot follow some proof of the guard's: do without it, and in the end without any.
        let index = usize::try_from(error.line().saturating_sub(1)).unwrap_or(usize::MAX);
        let line = source_lines.get(index).copied().unwrap_or(0);
        options.proofs = line != 0 && doubts.len() < DOUBTS && doubts.insert(line);
    }
}
