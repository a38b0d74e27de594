//! A physical PCI function through Linux VFIO: looked at, claimed, driven, given back.
//!
//! [`mod@inspect`] reads from sysfs whether a function can be given to a program safely, and says what to
//! do where it cannot. [`claim`] binds it to vfio-pci and writes down what was there before, so that a
//! daemon that was killed leaves nothing that the next one cannot mend. [`function`] opens it: IOMMU,
//! interrupts, reset. [`Mediated`] is the backend for a function that speaks the Turnstile ABI; it
//! drives it with `guest-driver`, so a device that another Turnstile serves is shared once more.
//!
//! The function is not trusted with the daemon's memory. It reaches what a tenant registered, for as
//! long as it is registered, by addresses that mean nothing outside the IOMMU; what it says is checked.
//!
//! `unsafe` is in the module `raw` alone.

pub mod address;
pub mod claim;
pub mod function;
pub mod host;
pub mod inspect;
mod iova;
pub mod mediated;
mod pci;
mod raw;
pub mod rules;

pub use address::Address;
pub use claim::{Claim, ClaimError, Records};
pub use function::{Claimed, Function, FunctionError};
pub use host::Host;
pub use inspect::{Allowances, Check, Finding, Inspection, Level, inspect};
pub use mediated::{Mediated, MediatedError, Outer};
