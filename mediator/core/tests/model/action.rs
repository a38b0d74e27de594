//! What can happen to a mediator.

/// Something that happens to a mediator.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Push an operation on a queue of a tenant, with operands drawn from small numbers, live
    /// handles (one's own or another's) and extremes.
    Push {
        tenant: usize,
        queue: usize,
        op: usize,
        words: [u8; 6],
    },
    /// Push noise.
    Noise {
        tenant: usize,
        queue: usize,
        words: [u64; 7],
    },
    Poll,
    /// Serve and answer until nothing is left to do.
    Run,
    /// Open a session and a queue.
    Setup {
        tenant: usize,
    },
    Answer {
        index: usize,
        fail: bool,
    },
    Verdict {
        good: bool,
    },
    KillSpace {
        index: usize,
    },
    Reset {
        tenant: usize,
        enable: bool,
    },
    Revoke {
        tenant: usize,
        all: bool,
    },
    RemoveMemory {
        tenant: usize,
    },
    AddMemory {
        tenant: usize,
    },
    Tick,
    Scribble {
        tenant: usize,
        offset: u32,
        value: u64,
    },
}
