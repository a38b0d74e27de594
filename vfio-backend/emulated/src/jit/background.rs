//! Compiling off the hot path: one thread compiles what launches ask for, in order, while they are interpreted.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock, Weak};

use super::{Compiled, compile};
use crate::exec::launch::Linked;

/// Programs that may wait for the compiler. More stay interpreted and ask again with their next launch.
const WAITING: usize = 64;

/// A program's machine code: not there yet, refused, or there.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    code: OnceLock<Option<Arc<Compiled>>>,
    requested: AtomicBool,
}

impl Machine {
    /// The machine code if it is there. Otherwise it is asked for.
    pub(crate) fn get_or_request(&self, linked: &Arc<Linked>) -> Option<Arc<Compiled>> {
        if let Some(code) = self.code.get() {
            return code.clone();
        }
        if !self.requested.swap(true, Relaxed) && !request(Arc::downgrade(linked)) {
            self.requested.store(false, Relaxed);
        }
        None
    }

    /// The machine code, compiled here and now if need be.
    pub(crate) fn wait(&self, linked: &Linked) -> Option<Arc<Compiled>> {
        self.code
            .get_or_init(|| {
                let constants: Vec<u64> = linked.constants64.iter().map(|v| v.0[0]).collect();
                // A mistake of the compiler's must cost speed only.
                catch_unwind(AssertUnwindSafe(|| compile(&linked.program, &constants)))
                    .unwrap_or_else(|_| {
                        tracing::warn!("the compiler gave up on a program: it is interpreted");
                        None
                    })
                    .map(Arc::new)
            })
            .clone()
    }
}

/// Hands a program to the compiler's thread. `false` when it is busy or cannot be started.
fn request(linked: Weak<Linked>) -> bool {
    static QUEUE: OnceLock<Option<SyncSender<Weak<Linked>>>> = OnceLock::new();
    let queue = QUEUE.get_or_init(|| {
        let (sender, receiver) = sync_channel::<Weak<Linked>>(WAITING);
        let thread = std::thread::Builder::new().name("turnstile-jit".into());
        let started = thread.spawn(move || {
            for linked in receiver {
                // A program that was unloaded meanwhile is not worth it.
                if let Some(linked) = linked.upgrade() {
                    linked.machine.wait(&linked);
                }
            }
        });
        started.ok().map(|_| sender)
    });
    queue.as_ref().is_some_and(|q| q.try_send(linked).is_ok())
}
