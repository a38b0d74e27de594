//! Guard (being written).
pub mod analysis;
