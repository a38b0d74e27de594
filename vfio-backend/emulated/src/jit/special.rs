//! Special registers that stay what they are while compiled code runs: which they are, and where it finds them.

use crate::exec::block::Common;
use crate::exec::launch::Launch;
use crate::ir::Special;
use crate::ops::Class;

/// Entries of the table that [`table`] makes.
pub(super) const ENTRIES: usize = 20;

/// The register class of a special register.
pub(super) fn class(which: Special) -> Class {
    match which {
        Special::Clock64 | Special::Globaltimer | Special::Gridid => Class::W64,
        _ => Class::W32,
    }
}

/// Where a special register that is the same for all threads of a warp lies in the table.
pub(super) fn index(which: Special) -> Option<usize> {
    Some(match which {
        Special::Ntid(n) => usize::from(n) % 3,
        Special::Ctaid(n) => 3 + usize::from(n) % 3,
        Special::Nctaid(n) => 6 + usize::from(n) % 3,
        Special::Warpid => 9,
        Special::Nwarpid => 10,
        Special::Smid => 11,
        Special::Nsmid => 12,
        Special::TotalSharedSize => 13,
        Special::DynamicSharedSize => 14,
        Special::DynamicSharedBase => 15,
        Special::Env(n) if n < 4 => 16 + usize::from(n),
        _ => return None,
    })
}

/// Whether compiled code can read it.
pub(super) fn is_fixed(which: Special) -> bool {
    let lanes = matches!(
        which,
        Special::Tid(_)
            | Special::Laneid
            | Special::LanemaskEq
            | Special::LanemaskLe
            | Special::LanemaskLt
            | Special::LanemaskGe
            | Special::LanemaskGt
    );
    lanes || index(which).is_some()
}

/// The values for a warp, as [`index`] counts them.
pub(super) fn table(launch: &Launch, common: &Common, warp: u32) -> [u32; ENTRIES] {
    let mut out = [0; ENTRIES];
    out[0..3].copy_from_slice(&launch.block);
    out[3..6].copy_from_slice(&common.index);
    out[6..9].copy_from_slice(&launch.grid);
    out[9..16].copy_from_slice(&[
        warp,
        launch.warps(),
        common.worker,
        launch.workers,
        launch.shared_bytes,
        launch.dynamic_bytes,
        launch.dynamic_base,
    ]);
    out[16..20].copy_from_slice(&launch.env);
    out
}
