//! Status codes a tenant sees in completions and in the `LAST_ERROR` register.

/// Who caused an outcome. Only [`Blame::Tenant`] outcomes count as denials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Nobody: it worked.
    None,
    /// The tenant's own command, program or memory.
    Tenant,
    /// The policy or the operator (revocation, limits).
    Operator,
    /// The mediator, the backend or the hardware.
    Host,
}

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $code:literal $blame:ident $text:literal;)*) => {
        /// Outcome of a command.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Status { $($(#[$doc])* $name = $code,)* }
        impl Status {
            /// Every status, in code order.
            pub const ALL: &'static [Status] = &[$(Status::$name,)*];
            /// The status with this wire code.
            #[must_use]
            pub const fn from_code(code: u32) -> Option<Status> {
                match code { $($code => Some(Status::$name),)* _ => None }
            }
            /// Whose doing it is.
            #[must_use]
            pub const fn blame(self) -> Blame {
                match self { $(Status::$name => Blame::$blame,)* }
            }
            /// Stable snake-case name for logs and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Status::$name => $text,)* }
            }
        }
    };
}

statuses! {
    /// Done.
    Ok = 0 None "ok";
    /// The descriptor or a parameter block does not decode: reserved bits set, bad enum value.
    Malformed = 1 Tenant "malformed";
    /// No such operation.
    UnknownOp = 2 Tenant "unknown_op";
    /// The operation does not belong on this queue (admin on a work queue or the reverse).
    WrongQueue = 3 Tenant "wrong_queue";
    /// The handle does not resolve: null, stale, another tenant's, or of the wrong kind.
    BadHandle = 4 Tenant "bad_handle";
    /// The capability lacks a right the operation needs.
    NoRight = 5 Tenant "no_right";
    /// The tenant's policy does not grant this.
    Denied = 6 Tenant "denied";
    /// A quota of the policy is used up. `detail` holds what is left.
    Quota = 7 Tenant "quota";
    /// Offset or length outside the object.
    OutOfRange = 8 Tenant "out_of_range";
    /// An aperture or guest address the tenant does not own, or a misaligned one.
    BadAddress = 9 Tenant "bad_address";
    /// The object is in use (mapped, in flight, already registered).
    Busy = 10 Tenant "busy";
    /// The program was refused. `detail` holds the source line, 0 if there is none.
    BadProgram = 11 Tenant "bad_program";
    /// The program has no such function.
    NotFound = 12 Tenant "not_found";
    /// The kernel faulted. `detail` holds the faulting device address.
    KernelFault = 13 Tenant "kernel_fault";
    /// The command ran longer than the policy allows, or a wait expired.
    Timeout = 14 Tenant "timeout";
    /// A capability the command needed was revoked.
    Revoked = 15 Operator "revoked";
    /// The device was reset by its driver while the command was in flight.
    Reset = 16 Tenant "reset";
    /// The backend is gone; open a new session.
    DeviceLost = 17 Host "device_lost";
    /// The GPU or the host has no memory left.
    NoMemory = 18 Host "no_memory";
    /// This backend cannot do it.
    Unsupported = 19 Host "unsupported";
    /// A queue's ring is broken (indices out of range); the queue is stopped.
    RingBroken = 20 Tenant "ring_broken";
    /// The backend reported an error of its own.
    Backend = 21 Host "backend";
}

impl Status {
    /// Whether the command did what it was asked.
    #[must_use]
    pub const fn is_ok(self) -> bool {
        matches!(self, Status::Ok)
    }
}
