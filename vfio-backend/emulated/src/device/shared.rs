//! Memory shared with tenants, as the executor's segments.
#![allow(unsafe_code)]

use std::sync::Arc;

use turnstile_backend_api::{Piece, SharedRegion};

use crate::raw::Segment;

/// The bytes of a piece. `None` when it does not lie inside the region or is not aligned to 16 bytes.
pub(super) fn segment(region: &Arc<SharedRegion>, piece: &Piece) -> Option<Segment> {
    let mapping = region.mapping();
    let size = mapping.size() as u64;
    // SAFETY: the mapping lives as long as the region, which the segment keeps alive; it is readable
    // and writable, its file is sealed against shrinking, and everybody else in this process reaches
    // it through volatile or atomic accesses (`SharedRegion` offers no other).
    let whole = unsafe { Segment::foreign(mapping.as_ptr(), size, region.clone()) }?;
    whole.part(piece.offset, piece.bytes)
}
