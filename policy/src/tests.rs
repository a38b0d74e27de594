//! The policy that unit tests share.

use crate::Policy;

pub(crate) fn policy() -> Policy {
    Policy::parse(include_str!("../examples/two-tenants.json")).unwrap_or_else(|e| panic!("{e}"))
}
