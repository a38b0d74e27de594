//! Getting programs ready for their workers, off the dispatcher's thread: looking them up in the cache,
//! writing them into memory that can be handed over, keeping what a worker compiled.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, unbounded};
use rustix::fs::MemfdFlags;
use turnstile_backend_api::{Code, SpaceId, Ticket};
use turnstile_ptx::{BlockShape, GuardMode, VerifiedModule};

use super::cache::{Cache, Key};
use super::post::{Happening, Post};
use crate::wire::ProgramKind;

/// What a launch of a kernel must keep, and how long its parameters are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KernelInfo {
    pub(super) param_bytes: u64,
    /// Least dynamic shared memory, in bytes.
    pub(super) dynamic_shared: u64,
    /// The block shape it was made for, if for one only.
    pub(super) block: Option<BlockShape>,
}

/// What the daemon keeps of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ProgramInfo {
    /// By name; `None` for machine code, whose kernels only the driver knows.
    pub(super) kernels: Option<HashMap<String, KernelInfo>>,
    /// Whether the guard records violations.
    pub(super) checked: bool,
}

/// A program ready to be handed over.
pub(super) struct Prepared {
    pub(super) payload: OwnedFd,
    pub(super) kind: ProgramKind,
    pub(super) bytes: u64,
    pub(super) variables: u32,
    pub(super) info: ProgramInfo,
    /// Under what the compiled image is to be kept.
    pub(super) key: Option<Key>,
}

enum Errand {
    Prepare { space: SpaceId, ticket: Ticket, code: Code },
    Keep { key: Key, payload: OwnedFd, bytes: u64 },
}

/// The thread.
pub(super) struct Porter {
    errands: Option<Sender<Errand>>,
    thread: Option<JoinHandle<()>>,
}

impl Porter {
    pub(super) fn start(
        cache: Option<Cache>,
        (compute, driver): (u32, u32),
        post: Arc<Post>,
    ) -> std::io::Result<Porter> {
        let (errands, todo) = unbounded();
        let thread = std::thread::Builder::new()
            .name("porter".into())
            .spawn(move || work(&todo, cache.as_ref(), (compute, driver), &post))?;
        Ok(Porter { errands: Some(errands), thread: Some(thread) })
    }

    fn send(&self, errand: Errand) {
        // The thread lives as long as this sender.
        if let Some(errands) = &self.errands {
            let _ = errands.send(errand);
        }
    }

    pub(super) fn prepare(&self, space: SpaceId, ticket: Ticket, code: Code) {
        self.send(Errand::Prepare { space, ticket, code });
    }

    pub(super) fn keep(&self, key: Key, payload: OwnedFd, bytes: u64) {
        self.send(Errand::Keep { key, payload, bytes });
    }
}

impl Drop for Porter {
    fn drop(&mut self) {
        self.errands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn work(todo: &Receiver<Errand>, cache: Option<&Cache>, device: (u32, u32), post: &Post) {
    for errand in todo {
        match errand {
            Errand::Keep { key, payload, bytes } => {
                if let Some(cache) = cache {
                    cache.keep(&key, &File::from(payload), bytes);
                }
            }
            Errand::Prepare { space, ticket, code } => {
                post.put(match prepare(code, cache, device) {
                    Ok(prepared) => {
                        Happening::Prepared { space, ticket, prepared: Box::new(prepared) }
                    }
                    Err(error) => {
                        tracing::error!(%error, "no memory to hand a program over");
                        Happening::NotPrepared { space, ticket }
                    }
                })
            }
        }
    }
}

fn prepare(
    code: Code,
    cache: Option<&Cache>,
    (compute, driver): (u32, u32),
) -> std::io::Result<Prepared> {
    let (content, kind, key, info, variables) = match &code {
        Code::Listed(image) => {
            (&**image, ProgramKind::Image, None, ProgramInfo::default(), &[][..])
        }
        Code::Ptx(module) => {
            let key = Key::of(module.text(), compute, driver);
            let variables = &module.report().variables[..];
            let text = module.text().as_bytes();
            (text, ProgramKind::Ptx, Some(key), info(module), variables)
        }
    };
    let found = cache.zip(key.as_ref()).and_then(|(cache, key)| cache.find(key));
    let (content, kind, key) = match &found {
        Some(image) => (&image[..], ProgramKind::Image, None),
        None => (content, kind, key.filter(|_| cache.is_some())),
    };
    let fd = rustix::fs::memfd_create("turnstile-program", MemfdFlags::CLOEXEC)?;
    let mut file = File::from(fd);
    let mut tail = Vec::new();
    tail.resize(content.len().next_multiple_of(8) - content.len(), 0);
    for variable in variables {
        for word in [variable.address, variable.bytes, variable.init.len() as u64] {
            tail.extend(word.to_le_bytes());
        }
        tail.extend(&variable.init);
        tail.resize(tail.len() + (8 - (content.len() + tail.len()) % 8) % 8, 0);
    }
    file.write_all(content)?;
    file.write_all(&tail)?;
    Ok(Prepared {
        payload: file.into(),
        kind,
        bytes: content.len() as u64,
        // CAST: a module has far fewer variables than bytes, and at most 2^32 of those.
        variables: variables.len() as u32,
        info,
        key,
    })
}

fn info(module: &VerifiedModule) -> ProgramInfo {
    let kernels = module.kernels().iter().map(|kernel| {
        let contract = module.contract().kernel(&kernel.name);
        let info = KernelInfo {
            param_bytes: kernel.param_bytes,
            dynamic_shared: contract.map_or(0, |c| c.dynamic_shared),
            block: contract.and_then(|c| c.block),
        };
        (kernel.name.to_string(), info)
    });
    let checked = module.mode() == GuardMode::Check;
    ProgramInfo { kernels: Some(kernels.collect()), checked }
}
