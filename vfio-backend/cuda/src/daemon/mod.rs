//! The daemon's half: the backend, its workers, MPS.

mod answer;
mod cache;
mod gpu;
mod mps;
mod porter;
mod post;
mod reaper;
mod share;
mod space;
mod staff;
mod submit;
#[cfg(test)]
mod tests;

pub use gpu::{CudaError, CudaGpu, Mps, Settings};
pub use mps::Mps as MpsService;
