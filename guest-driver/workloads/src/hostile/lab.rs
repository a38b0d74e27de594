//! What attacks have in common: a fresh device, one command and its status, the tenant's limits.

use turnstile_abi::identify::Identity;
use turnstile_abi::launch::{Block, Extras, Grid};
use turnstile_abi::request::{Access, Format, Usage};
use turnstile_abi::{Completion, Descriptor, Handle, Request, Rights, Status, op};
use turnstile_driver::{Buffer, DeviceManager, Patience, Queue, Session, Slot, Token, Transport};

use crate::env::{Env, number};
use crate::failure::{During, Failure, among};
use crate::random::Random;
use crate::vecadd;

/// Longest wait for one command, in nanoseconds: above every timeout a policy is likely to have.
pub(crate) const PATIENCE: u64 = 60_000_000_000;
/// Slots of an attack's queue.
pub(crate) const SLOTS: usize = 32;
/// Size of the buffers that attacks play with.
pub(crate) const BYTES: u64 = 4096;

/// What the policy grants, as far as commands can find out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Granted {
    pub(crate) queue: bool,
    pub(crate) copy: bool,
    pub(crate) fill: bool,
    pub(crate) fence: bool,
    pub(crate) derive: bool,
    pub(crate) device: bool,
    pub(crate) host: bool,
    pub(crate) dma_read: bool,
    pub(crate) dma_write: bool,
    pub(crate) ptx: bool,
    pub(crate) image: bool,
    pub(crate) launch: bool,
}

/// Where attacks are made.
pub(crate) struct Lab<'a, T: Transport, E: Env> {
    pub(crate) transport: &'a T,
    pub(crate) env: &'a E,
    pub(crate) random: Random,
    pub(crate) limits: Identity,
    pub(crate) granted: Granted,
}

impl<'a, T: Transport, E: Env> Lab<'a, T, E> {
    pub(crate) fn new(transport: &'a T, env: &'a E) -> Result<Lab<'a, T, E>, Failure> {
        let device = DeviceManager::start(transport).during("start the device")?;
        let limits = device.identify().during("identify")?;
        let mut lab = Lab {
            transport,
            env,
            random: Random::new(number(env, "seed", 1)),
            limits,
            granted: Granted::default(),
        };
        lab.granted = lab.probe(&device)?;
        Ok(lab)
    }

    /// Prints what this tenant has to play with.
    pub(crate) fn describe(&self) {
        self.env.print(format_args!("{:?}", self.granted));
    }

    /// A device that was just reset and enabled.
    pub(crate) fn start(&self) -> Result<DeviceManager<&'a T>, Failure> {
        let mut device = DeviceManager::start(self.transport).during("start the device")?;
        device.set_patience(Patience { timeout_ns: PATIENCE, ..Patience::default() });
        Ok(device)
    }

    /// Finds out what is granted: the grant is checked before the handles, which are null here.
    fn probe(&self, device: &DeviceManager<&'a T>) -> Result<Granted, Failure> {
        let ask = |request: Request| -> Result<bool, Failure> {
            let status = admin(device, request)?.status;
            among(
                "a probe",
                request.opcode() as u64,
                status,
                &[Status::Denied, Status::BadHandle, Status::Quota],
            )?;
            Ok(status != Status::Denied)
        };
        let session = Handle::NULL;
        let buffer = |usage| op::buffer_create::Args { session, bytes: 1, usage }.into();
        let dma = |access| op::dma_register::Args { session, list: 0, extents: 1, access }.into();
        let load = |format| op::program_load::Args { session, image: 0, bytes: 1, format }.into();
        let mut granted = Granted {
            queue: ask(op::queue_create::Args { session, ring: 0, depth: 1, vector: 0 }.into())?,
            fence: ask(op::fence_create::Args { session, initial: 0, mirror: u64::MAX }.into())?,
            derive: ask(op::derive::Args { source: session, rights: Rights::empty() }.into())?,
            device: ask(buffer(Usage::Device))?,
            host: ask(buffer(Usage::Host))?,
            dma_read: ask(dma(Access::Read))?,
            dma_write: ask(dma(Access::Write))?,
            ptx: ask(load(Format::Ptx))?,
            image: ask(load(Format::Image))?,
            ..Granted::default()
        };
        if !granted.queue {
            return Ok(granted);
        }
        let session = device.open_session().during("open a session")?;
        let mut slots = [Slot::NEW; 4];
        let mut queue = session.create_queue(&mut slots).during("create a queue")?;
        let mut ask = |request: Request| -> Result<bool, Failure> {
            let status = work(&mut queue, request)?;
            among(
                "a probe",
                request.opcode() as u64,
                status,
                &[Status::Denied, Status::BadHandle],
            )?;
            Ok(status != Status::Denied)
        };
        let null = Handle::NULL;
        granted.copy =
            ask(op::copy::Args { dst: null, dst_offset: 0, src: null, src_offset: 0, bytes: 1 }
                .into())?;
        granted.fill =
            ask(op::fill::Args { dst: null, offset: 0, bytes: 1, pattern: 0, width: 1 }.into())?;
        granted.launch = ask(null_launch().into())?;
        Ok(granted)
    }

    /// The usage of buffers this tenant may create.
    pub(crate) const fn usage(&self) -> Usage {
        if self.granted.device { Usage::Device } else { Usage::Host }
    }

    /// Whether there is a queue, and buffers to copy between.
    pub(crate) const fn can_copy(&self) -> bool {
        self.granted.queue && self.granted.copy && (self.granted.device || self.granted.host)
    }

    /// A little work of every granted kind, after a reset.
    pub(crate) fn works_still(&mut self) -> Result<&'static str, Failure> {
        let device = self.start()?;
        if !self.granted.queue {
            device.open_session().during("open a session")?.close().during("close it")?;
            return Ok("a session opens and closes");
        }
        let transfers = self.granted.host || (self.granted.dma_read && self.granted.dma_write);
        if self.granted.launch && self.granted.ptx && self.granted.copy && transfers {
            let quiet = Quiet(self.env);
            vecadd::run(self.transport, &quiet)?;
            return Ok("vecadd, saxpy and reductions come out right");
        }
        let session = device.open_session().during("open a session")?;
        let mut slots = [Slot::NEW; SLOTS];
        let mut queue = session.create_queue(&mut slots).during("create a queue")?;
        for _ in 0..100 {
            among("a nop", 0, work(&mut queue, op::nop::Args {})?, &[Status::Ok])?;
        }
        Ok("a hundred nops go through")
    }
}

/// An environment that prints nothing, for the work that only shows that the device works.
struct Quiet<'e, E>(&'e E);

impl<E: Env> Env for Quiet<'_, E> {
    type Memory = E::Memory;
    fn print(&self, _: core::fmt::Arguments<'_>) {}
    fn arg(&self, key: &str) -> Option<&str> {
        (key == "n").then_some("2000")
    }
    fn pages(&self) -> Option<crate::env::GuestPages<'_, E::Memory>> {
        self.0.pages()
    }
}

/// One command on the admin queue, whatever it ends with.
pub(crate) fn admin<T: Transport>(
    device: &DeviceManager<T>,
    request: impl Into<Request>,
) -> Result<Completion, Failure> {
    device.exchange(&request.into().encode(0)).during("an admin command")
}

/// The status of one command on a work queue.
pub(crate) fn work<T: Transport>(
    queue: &mut Queue<'_, T>,
    request: impl Into<Request>,
) -> Result<Status, Failure> {
    raw(queue, &request.into().encode(0))
}

/// The status of whatever a descriptor says on a work queue.
pub(crate) fn raw<T: Transport>(
    queue: &mut Queue<'_, T>,
    descriptor: &Descriptor,
) -> Result<Status, Failure> {
    let token = queue.submit_raw(descriptor).during("submit")?;
    finish(queue, token)
}

/// The status a command ends with.
pub(crate) fn finish<T: Transport>(
    queue: &mut Queue<'_, T>,
    token: Token,
) -> Result<Status, Failure> {
    Ok(queue.complete(token, PATIENCE).during("wait for a command")?.status)
}

/// A launch of nothing.
pub(crate) fn null_launch() -> op::launch::Args {
    op::launch::Args {
        function: Handle::NULL,
        grid: Grid { blocks: [1; 3], shared_bytes: 0 },
        block: Block { threads: [1; 3], params_bytes: 0 },
        params: 0,
        extras: Extras { relocations: 0, flags: 0 },
    }
}

/// A copy of one byte between two handles.
pub(crate) fn copy_byte(dst: Handle, src: Handle) -> op::copy::Args {
    op::copy::Args { dst, dst_offset: 0, src, src_offset: 0, bytes: 1 }
}

/// Two buffers of [`BYTES`].
pub(crate) fn two_buffers<'d, T: Transport>(
    session: &Session<'d, T>,
    usage: Usage,
) -> Result<(Buffer<'d, T>, Buffer<'d, T>), Failure> {
    let a = session.create_buffer(BYTES, usage).during("create a buffer")?;
    let b = session.create_buffer(BYTES, usage).during("create a second buffer")?;
    Ok((a, b))
}

/// Whether a status is the tenant's own fault or the operator's word: what a refusal looks like.
pub(crate) fn is_refusal(status: Status) -> bool {
    use turnstile_abi::Blame;
    matches!(status.blame(), Blame::Tenant | Blame::Operator)
}
