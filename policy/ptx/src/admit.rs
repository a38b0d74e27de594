//! The one way in: bytes of an untrusted image to a [`VerifiedModule`] or the reason why not.

use crate::check::{Refusal, check};
use crate::contract::{Arena, BlockShape, GuardMode};
use crate::parse::{Limits, ParseError, parse};
use crate::print::print;
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
}

impl Admission {
    /// Allow list only.
    pub fn unguarded(limits: Limits) -> Self {
        Self { mode: GuardMode::None, arena: None, limits, block: None }
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
    /// Its objects do not fit.
    #[error("does not fit: {0}")]
    View(#[from] ViewError),
    /// The final text did not pass the verifier. For an image that parsed and was checked, this is
    /// a limit of the guard or the verifier; the image is refused all the same.
    #[error("not verified: {0}")]
    Verify(#[from] VerifyError),
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
            Self::View(ViewError::TooLarge { at, .. } | ViewError::Unsized { at, .. }) => at.line,
            Self::Verify(_) | Self::NoArena(_) => 0,
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
    let printed = print(&module);
    match admission.mode {
        GuardMode::None => Ok(verify::allow(printed.text, printed.lines)?),
        mode => Err(PtxError::NoArena(mode)),
    }
}
