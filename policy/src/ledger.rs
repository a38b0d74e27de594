//! What a tenant holds, counted against its quotas.

use crate::denial::Denial;
use crate::grants::Grants;

macro_rules! resources {
    ($($(#[doc = $doc:literal])* $name:ident, $reason:literal, $path:literal, $what:literal, $limit:expr;)*) => {
        /// What a ledger counts.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Resource { $($(#[doc = $doc])* $name,)* }

        impl Resource {
            /// Every resource.
            pub const ALL: &'static [Resource] = &[$(Resource::$name,)*];

            /// Stable machine name, for denials and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Resource::$name => $reason,)* }
            }
            /// Where its limit stands in the tenant's policy.
            #[must_use]
            pub const fn path(self) -> &'static str {
                match self { $(Resource::$name => $path,)* }
            }
            const fn what(self) -> &'static str {
                match self { $(Resource::$name => $what,)* }
            }
            /// How much of it these grants allow; 0 when they do not grant it.
            #[must_use]
            pub fn limit(self, grants: &Grants) -> u64 {
                let limit: fn(&Grants) -> Option<u64> = match self { $(Resource::$name => $limit,)* };
                limit(grants).unwrap_or(0)
            }
        }
    };
}

resources! {
    /// Open sessions.
    Sessions, "sessions", "grants.sessions", "sessions",
        |g| Some(g.sessions.into());
    /// Buffers.
    Buffers, "buffers", "grants.buffer.max_count", "buffers",
        |g| Some(g.buffer?.max_count.into());
    /// Bytes of buffers.
    BufferBytes, "buffer_bytes", "grants.buffer.max_bytes", "bytes of buffers",
        |g| Some(g.buffer?.max_bytes);
    /// Registered regions of guest memory.
    DmaRegions, "dma_regions", "grants.dma.max_regions", "registered regions",
        |g| Some(g.dma?.max_regions.into());
    /// Bytes of registered guest memory.
    DmaBytes, "dma_bytes", "grants.dma.max_bytes", "bytes of registered memory",
        |g| Some(g.dma?.max_bytes);
    /// Loaded programs.
    Programs, "programs", "grants.program.max_count", "programs",
        |g| Some(g.program.as_ref()?.max_count.into());
    /// Bytes of program images.
    ProgramBytes, "program_bytes", "grants.program.max_bytes", "bytes of program images",
        |g| Some(g.program.as_ref()?.max_bytes);
    /// Functions of programs.
    Functions, "functions", "grants.program.max_functions", "functions",
        |g| Some(g.program.as_ref()?.max_functions.into());
    /// Work queues.
    Queues, "queues", "grants.queue.max_count", "queues",
        |g| Some(g.queue?.max_count.into());
    /// Fences.
    Fences, "fences", "grants.fence.max_count", "fences",
        |g| Some(g.fence?.max_count.into());
    /// Handles of all kinds.
    Handles, "handles", "grants.max_handles", "handles",
        |g| Some(g.max_handles.into());
    /// Commands of work queues that were fetched and are not complete.
    InFlight, "in_flight", "grants.queue.max_in_flight", "commands in flight",
        |g| Some(g.queue?.max_in_flight.into());
}

/// What one tenant holds of each resource.
///
/// The ledger keeps amounts, not limits: limits come from the policy in force at each charge, so a
/// reload to a lower limit takes nothing away and lets nothing more be taken until enough is given
/// back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    used: [u64; Resource::ALL.len()],
}

impl Ledger {
    /// A tenant that holds nothing.
    #[must_use]
    pub const fn new() -> Ledger {
        Ledger { used: [0; Resource::ALL.len()] }
    }

    /// How much of `resource` is held.
    #[must_use]
    pub const fn used(&self, resource: Resource) -> u64 {
        self.used[resource as usize]
    }

    /// How much of `resource` may still be charged under these grants.
    #[must_use]
    pub fn left(&self, grants: &Grants, resource: Resource) -> u64 {
        resource.limit(grants).saturating_sub(self.used(resource))
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used.iter().all(|&used| used == 0)
    }

    /// Takes `amount` of `resource`. Charging nothing always succeeds.
    ///
    /// # Errors
    /// The refusal when that would be more than the grants allow. Nothing is taken then.
    #[inline]
    pub fn charge(
        &mut self,
        grants: &Grants,
        resource: Resource,
        amount: u64,
    ) -> Result<(), Denial> {
        let used = self.used(resource);
        let limit = resource.limit(grants);
        match used.checked_add(amount) {
            Some(sum) if sum <= limit || amount == 0 => {
                self.used[resource as usize] = sum;
                Ok(())
            }
            _ => Err(Denial::quota(
                resource.name(),
                resource.path(),
                resource.what(),
                limit,
                used,
                amount,
            )),
        }
    }

    /// Takes all of these amounts or none. A resource may be named more than once.
    ///
    /// # Errors
    /// The first refusal. Nothing is taken then.
    pub fn charge_all(
        &mut self,
        grants: &Grants,
        amounts: &[(Resource, u64)],
    ) -> Result<(), Denial> {
        let mut after = self.clone();
        for &(resource, amount) in amounts {
            after.charge(grants, resource, amount)?;
        }
        *self = after;
        Ok(())
    }

    /// Gives `amount` of `resource` back. Giving back more than was taken is a mistake of the caller:
    /// it stops a debug build, and in a release build the count stays at 0.
    #[inline]
    pub fn release(&mut self, resource: Resource, amount: u64) {
        let used = &mut self.used[resource as usize];
        debug_assert!(amount <= *used, "{} released below zero", resource.name());
        *used = used.saturating_sub(amount);
    }
}

#[cfg(test)]
mod tests;
