//! The admin queue: creating, deriving and closing capabilities. One command at a time.

use turnstile_abi::identify::Identity;
use turnstile_abi::launch::DmaExtent;
use turnstile_abi::op::{self, Class};
use turnstile_abi::request::Usage;
use turnstile_abi::ring::{Layout, Permit};
use turnstile_abi::version::Version;
use turnstile_abi::{
    Completion, Descriptor, Handle, Kind, Opcode, Request, Rights, SharedMemory, Status, regs,
};
use turnstile_backend_api::{
    BackendOp, BufferId, FunctionId, Home, Isolation, Piece, ProgramId, QueueId, RegionId, SpaceId,
};
use turnstile_policy::{AuditLevel, Authorized, Resource, authorize};

use crate::capability::{Cap, CapIndex};
use crate::context::{Context, Purpose};
use crate::effects::{Effects, VerifyJob, What};
use crate::object::{Body, ObjKey, Object, Phase, Session};
use crate::queue::{Origin, WorkQueue, post};
use crate::tenant::{ADMIN_BIT, AdminCommand, AdminWait, Refusal};
use crate::work::Fetched;

/// What became of an admin command.
enum Step {
    /// It is done: value and detail.
    Done(u64, u64),
    /// The backend's turn.
    Waits(AdminWait),
}

/// What the dispatcher spends on a command's payload, refused or not: bytes it copies and lists it
/// walks. Bounded by what the command could ask for at most.
fn payload_cost(request: &Request, aperture_bytes: u64) -> u32 {
    match request {
        Request::DmaRegister(args) => args.extents.min(DmaExtent::MAX) as u32,
        Request::ProgramLoad(args) => {
            // An image lies in the aperture; a claim of more is refused without a byte copied, and
            // must not keep the dispatcher paying it off for hours.
            u32::try_from(args.bytes.min(aperture_bytes) / 1024).unwrap_or(u32::MAX)
        }
        _ => 0,
    }
}

/// Longest kernel name, in bytes.
const MAX_NAME: u64 = 256;

impl<M: SharedMemory, F: Effects> Context<'_, M, F> {
    /// Serves one admin command, if none is in flight.
    pub(crate) fn serve_admin(&mut self) -> Fetched {
        let Some(admin) = self.t.admin.as_mut() else { return Fetched::Nothing };
        if admin.broken || admin.command.is_some() {
            return Fetched::Nothing;
        }
        let (descriptor, permit) = match admin.ring.fetch(&self.t.aperture) {
            Ok(Some(fetched)) => fetched,
            Ok(None) => return Fetched::Nothing,
            Err(_) => {
                admin.broken = true;
                self.t.counters.broken_rings += 1;
                self.t.registers.set_last_error(Status::RingBroken);
                self.audit(What::RingBroken { queue: 0 });
                return Fetched::Nothing;
            }
        };
        self.t.counters.fetched += 1;
        Fetched::Command(self.admin_command(&descriptor, permit))
    }

    fn admin_command(&mut self, descriptor: &Descriptor, permit: Permit) -> u32 {
        let cookie = descriptor.cookie;
        let mut payload = 0;
        let (opcode, step) = match Request::decode(descriptor) {
            Err(malformed) => {
                let opcode = Opcode::from_code(descriptor.head as u16);
                (opcode, Err(Refusal::new(malformed.status(), malformed.detail())))
            }
            Ok(request) => {
                payload = payload_cost(&request, self.t.aperture.size());
                (Some(request.opcode()), self.authorize_admin(request))
            }
        };
        if step.is_ok()
            && self.t.policy.audit == AuditLevel::All
            && let Some(opcode) = opcode
        {
            self.audit(What::Accepted { opcode });
        }
        let fetched_ns = self.now;
        match (step, opcode) {
            (Ok(Step::Waits(wait)), Some(opcode)) => {
                if let Some(admin) = self.t.admin.as_mut() {
                    admin.command = Some(AdminCommand { cookie, opcode, fetched_ns, permit, wait });
                }
            }
            (Ok(Step::Done(value, detail)), opcode) => {
                let completion = Completion { cookie, value, detail, status: Status::Ok };
                self.post_admin(permit, opcode, &completion, fetched_ns);
            }
            (Ok(Step::Waits(_)), None) => unreachable!("what was authorized was decoded"),
            (Err(refusal), opcode) => {
                self.refused(opcode, &refusal);
                let Refusal { status, detail, .. } = refusal;
                let completion = Completion { cookie, value: 0, detail, status };
                self.post_admin(permit, opcode, &completion, fetched_ns);
            }
        }
        opcode.map_or(1, |opcode| opcode.info().cost).saturating_add(payload)
    }

    fn post_admin(
        &mut self,
        permit: Permit,
        opcode: Option<Opcode>,
        completion: &Completion,
        fetched_ns: u64,
    ) {
        if let Some(admin) = self.t.admin.as_mut() {
            post(&mut admin.ring, &self.t.aperture, permit, completion);
            self.t.unannounced |= ADMIN_BIT;
        }
        self.completed(opcode, completion, 0, fetched_ns);
    }

    /// Completes the admin command in flight, if it waits for just this.
    pub(crate) fn answer_admin(
        &mut self,
        waits_for: impl FnOnce(&AdminWait) -> bool,
        status: Status,
        value: u64,
        detail: u64,
    ) {
        let Some(admin) = self.t.admin.as_mut() else { return };
        if !admin.command.as_ref().is_some_and(|c| waits_for(&c.wait)) {
            return;
        }
        if let Some(AdminCommand { cookie, opcode, fetched_ns, permit, wait: _ }) =
            admin.command.take()
        {
            let completion = Completion { cookie, value, detail, status };
            self.post_admin(permit, Some(opcode), &completion, fetched_ns);
        }
    }

    fn authorize_admin(&mut self, request: Request) -> Result<Step, Refusal> {
        if request.opcode().info().class != Class::Admin {
            return Err(Status::WrongQueue.into());
        }
        let authorized = authorize(&self.t.policy, request)?;
        self.perform(authorized)
    }

    /// Carries out an authorized admin command: every check first, then the change.
    fn perform(&mut self, request: Authorized<Request>) -> Result<Step, Refusal> {
        match request.into_inner() {
            Request::Identify(args) => self.identify(&args),
            Request::SessionOpen(_) => self.session_open(),
            Request::SessionClose(a) => self.close(a.session, op::session_close::Args::INFO),
            Request::BufferCreate(args) => self.buffer_create(&args),
            Request::BufferDestroy(a) => self.close(a.buffer, op::buffer_destroy::Args::INFO),
            Request::BufferMap(args) => self.buffer_map(args.buffer),
            Request::BufferUnmap(args) => self.buffer_unmap(args.buffer),
            Request::DmaRegister(args) => self.dma_register(&args),
            Request::DmaUnregister(a) => self.close(a.region, op::dma_unregister::Args::INFO),
            Request::ProgramLoad(args) => self.program_load(&args),
            Request::ProgramUnload(a) => self.close(a.program, op::program_unload::Args::INFO),
            Request::FunctionGet(args) => self.function_get(&args),
            Request::FunctionRelease(a) => self.close(a.function, op::function_release::Args::INFO),
            Request::QueueCreate(args) => self.queue_create(&args),
            Request::QueueDestroy(a) => self.close(a.queue, op::queue_destroy::Args::INFO),
            Request::FenceCreate(args) => self.fence_create(&args),
            Request::FenceDestroy(a) => self.close(a.fence, op::fence_destroy::Args::INFO),
            Request::Derive(args) => self.derive(&args),
            // Work requests were turned away by class.
            _ => Err(Status::WrongQueue.into()),
        }
    }

    fn identify(&mut self, args: &op::identify::Args) -> Result<Step, Refusal> {
        if args.bytes < Identity::BYTES {
            return Err(Refusal::new(Status::OutOfRange, Identity::BYTES));
        }
        if !args.offset.is_multiple_of(8) {
            return Err(Refusal::new(Status::BadAddress, args.offset));
        }
        let grants = &self.t.policy.grants;
        let arena = self
            .t
            .sessions
            .iter()
            .filter_map(|&key| self.session(key))
            .find(|s| s.dead.is_none())
            .map_or((0, 0), |s| s.arena);
        let (_, features) = self.t.registers.negotiation();
        let buffer = grants.buffer.as_ref();
        let queue = grants.queue.as_ref();
        let launch = grants.launch.as_ref();
        let identity = Identity {
            version: Version::CURRENT.0.into(),
            features,
            memory_bytes: buffer.map_or(0, |b| b.max_bytes),
            buffers: buffer.map_or(0, |b| b.max_count.into()),
            dma_bytes: grants.dma.as_ref().map_or(0, |d| d.max_bytes),
            queues: queue.map_or(0, |q| q.max_count.into()),
            queue_depth: queue.map_or(0, |q| q.max_depth.into()),
            in_flight: queue.map_or(0, |q| q.max_in_flight.into()),
            threads_per_block: launch.map_or(0, |l| l.max_threads_per_block.into()),
            blocks: launch.map_or(0, |l| l.max_blocks),
            launch_timeout_ns: launch.map_or(0, |l| l.timeout_ns),
            program_bytes: grants.program.as_ref().map_or(0, |p| p.max_bytes),
            arena_base: arena.0,
            arena_bytes: arena.1,
            multiprocessors: self.t.multiprocessors.into(),
            timestamp_hz: 1_000_000_000,
        };
        self.t.aperture.write(args.offset, &identity.to_bytes())?;
        Ok(Step::Done(Identity::BYTES, 0))
    }

    /// Puts a new object and its root capability in place, charged for. It resolves to nothing
    /// until it is live. The caller has checked everything else.
    fn create(
        &mut self,
        body: Body,
        kind: Kind,
        rights: Rights,
        parent: Option<(CapIndex, ObjKey)>,
        charges: &[(Resource, u64)],
    ) -> Result<(ObjKey, Handle), Refusal> {
        let mut ledger = self.t.ledger.clone();
        ledger.charge_all(&self.t.policy.grants, charges)?;
        ledger.charge(&self.t.policy.grants, Resource::Handles, 1)?;
        if self.t.caps.is_full() {
            return Err(Status::NoMemory.into());
        }
        let key = self.t.objects.insert_with_key(|key| Object {
            body,
            phase: Phase::Creating,
            session: parent.map_or(key, |(_, object)| object),
            pins: 0,
            cap: CapIndex::default(),
        });
        let cap = Cap { kind, rights, object: key, root: true };
        let Some((index, handle)) = self.t.caps.insert(cap, parent.map(|(index, _)| index)) else {
            self.t.objects.remove(key);
            return Err(Status::NoMemory.into());
        };
        if let Some(object) = self.t.objects.get_mut(key) {
            object.cap = index;
        }
        if let Some((_, session)) = parent
            && let Some(session) = self.session_mut(session)
        {
            session.members += 1;
        }
        self.t.ledger = ledger;
        Ok((key, handle))
    }

    /// Starts the backend's part of a creation.
    fn start(&mut self, key: ObjKey, handle: Handle, op: BackendOp) -> Step {
        self.pin(key);
        self.submit(Purpose::Create(key), op);
        Step::Waits(AdminWait::Created(key, handle))
    }

    fn set_live(&mut self, key: ObjKey) {
        if let Some(object) = self.t.objects.get_mut(key) {
            object.phase = Phase::Live;
        }
    }

    fn session_open(&mut self) -> Result<Step, Refusal> {
        let space = SpaceId(self.ids.next());
        let session = Session { space, dead: None, closed: false, members: 0, arena: (0, 0) };
        let rights = Kind::Session.full_rights();
        let charges = [(Resource::Sessions, 1)];
        let (key, handle) =
            self.create(Body::Session(session), Kind::Session, rights, None, &charges)?;
        self.t.sessions.push(key);
        let grants = &self.t.policy.grants;
        let memory_bytes = grants.buffer.as_ref().map_or(0, |b| b.max_bytes);
        let isolation = match self.t.policy.isolation {
            turnstile_policy::Isolation::Concurrent => {
                Isolation::Concurrent { sm_percent: self.t.policy.sm_percent }
            }
            turnstile_policy::Isolation::Exclusive => Isolation::Exclusive,
        };
        let weight = self.t.policy.weight;
        let op = BackendOp::SpaceOpen { space, memory_bytes, weight, isolation };
        Ok(self.start(key, handle, op))
    }

    /// The session a creation happens in: its capability, object and space.
    fn parent(
        &self,
        session: Handle,
        info: &op::OpInfo,
    ) -> Result<(CapIndex, ObjKey, SpaceId), Refusal> {
        let (index, key, object) = self.resolve(session, info.need(0))?;
        match &object.body {
            Body::Session(session) => Ok((index, key, session.space)),
            _ => Err(Status::BadHandle.into()),
        }
    }

    fn buffer_create(&mut self, args: &op::buffer_create::Args) -> Result<Step, Refusal> {
        let op::buffer_create::Args { session, bytes, usage } = *args;
        let (parent, session, space) = self.parent(session, op::buffer_create::Args::INFO)?;
        if bytes == 0 {
            return Err(Status::OutOfRange.into());
        }
        let id = BufferId(self.ids.next());
        // Checked before the heap changes, so that nothing needs undoing.
        let charges = [(Resource::Buffers, 1), (Resource::BufferBytes, bytes)];
        self.t.ledger.clone().charge_all(&self.t.policy.grants, &charges)?;
        let aperture = match usage {
            Usage::Device => None,
            Usage::Host => Some(self.t.heap.allocate(bytes).ok_or(Status::NoMemory)?),
        };
        let body = Body::Buffer { id, bytes, address: 0, aperture, maps: 0 };
        let rights = Kind::Buffer.full_rights();
        let created = self.create(body, Kind::Buffer, rights, Some((parent, session)), &charges);
        let (key, handle) = match created {
            Ok(created) => created,
            Err(refusal) => {
                if let Some(offset) = aperture {
                    self.t.heap.release(offset, bytes);
                }
                return Err(refusal);
            }
        };
        let home = match aperture {
            None => Home::Device,
            Some(offset) => Home::Shared(Piece { memory: self.t.aperture_memory, offset, bytes }),
        };
        Ok(self.start(key, handle, BackendOp::BufferCreate { space, buffer: id, bytes, home }))
    }

    fn buffer_map(&mut self, buffer: Handle) -> Result<Step, Refusal> {
        let (_, key, _) = self.resolve(buffer, op::buffer_map::Args::INFO.need(0))?;
        match self.t.objects.get_mut(key).map(|o| &mut o.body) {
            Some(Body::Buffer { bytes, aperture: Some(offset), maps, .. }) => {
                *maps = maps.checked_add(1).ok_or(Status::Busy)?;
                Ok(Step::Done(*offset, *bytes))
            }
            // Device memory is not visible to the host.
            _ => Err(Status::Unsupported.into()),
        }
    }

    fn buffer_unmap(&mut self, buffer: Handle) -> Result<Step, Refusal> {
        let (_, key, _) = self.resolve(buffer, op::buffer_unmap::Args::INFO.need(0))?;
        match self.t.objects.get_mut(key).map(|o| &mut o.body) {
            Some(Body::Buffer { maps, .. }) if *maps > 0 => {
                *maps -= 1;
                Ok(Step::Done(0, 0))
            }
            _ => Err(Status::NotFound.into()),
        }
    }

    fn dma_register(&mut self, args: &op::dma_register::Args) -> Result<Step, Refusal> {
        let op::dma_register::Args { session, list, extents, access } = *args;
        let (parent, session, space) = self.parent(session, op::dma_register::Args::INFO)?;
        if extents == 0 || extents > DmaExtent::MAX {
            return Err(Refusal::new(Status::OutOfRange, DmaExtent::MAX));
        }
        if !list.is_multiple_of(8) {
            return Err(Refusal::new(Status::BadAddress, list));
        }
        let mut copy = vec![0; (extents * DmaExtent::BYTES) as usize];
        self.t.aperture.read(list, &mut copy)?;
        let extents: Box<[DmaExtent]> =
            copy.as_chunks().0.iter().map(DmaExtent::from_bytes).collect();
        let (pieces, bytes) = self.t.map.translate(&extents)?;
        let id = RegionId(self.ids.next());
        let rights =
            (Kind::DmaRegion.full_rights() - (Rights::READ | Rights::WRITE)) | access.rights();
        let charges = [(Resource::DmaRegions, 1), (Resource::DmaBytes, bytes)];
        let body = Body::Region { id, bytes, extents: extents.clone() };
        let (key, handle) =
            self.create(body, Kind::DmaRegion, rights, Some((parent, session)), &charges)?;
        self.t.map.register(&extents);
        let pieces = pieces.into_boxed_slice();
        Ok(self.start(key, handle, BackendOp::DmaMap { space, region: id, pieces, access }))
    }

    fn program_load(&mut self, args: &op::program_load::Args) -> Result<Step, Refusal> {
        let op::program_load::Args { session, image, bytes, format } = *args;
        let (parent, session, _) = self.parent(session, op::program_load::Args::INFO)?;
        turnstile_abi::memory::check(self.t.aperture.size(), image, bytes)?;
        if bytes == 0 {
            return Err(Status::OutOfRange.into());
        }
        let arena = self.session(session).map_or((0, 0), |s| s.arena);
        let id = ProgramId(self.ids.next());
        let charges = [(Resource::Programs, 1), (Resource::ProgramBytes, bytes)];
        // The policy bounds `bytes`; the aperture holds them.
        let mut copy = vec![0; bytes as usize].into_boxed_slice();
        self.t.aperture.read(image, &mut copy)?;
        let body = Body::Program { id, bytes };
        let rights = Kind::Program.full_rights();
        let (key, handle) =
            self.create(body, Kind::Program, rights, Some((parent, session)), &charges)?;
        self.pin(key);
        let ticket = self.ticket(Purpose::Check(key));
        let policy = self.t.policy.clone();
        self.t.programs += 1;
        let serial = self.t.programs;
        self.fx.verify(ticket, VerifyJob { image: copy, format, policy, arena, serial });
        Ok(Step::Waits(AdminWait::Created(key, handle)))
    }

    fn function_get(&mut self, args: &op::function_get::Args) -> Result<Step, Refusal> {
        let op::function_get::Args { program, name, bytes } = *args;
        let (parent, program_key, object) =
            self.resolve(program, op::function_get::Args::INFO.need(0))?;
        let session = object.session;
        let Body::Program { id: program, .. } = object.body else {
            return Err(Status::BadHandle.into());
        };
        let space = self.session(session).map(|s| s.space).ok_or(Status::BadHandle)?;
        if bytes == 0 || bytes > MAX_NAME {
            return Err(Refusal::new(Status::OutOfRange, MAX_NAME));
        }
        let mut copy = vec![0; bytes as usize];
        self.t.aperture.read(name, &mut copy)?;
        let name = String::from_utf8(copy).map_err(|_| Status::NotFound)?.into_boxed_str();
        let id = FunctionId(self.ids.next());
        let body = Body::Function { id, program: program_key, params: 0 };
        let rights = Kind::Function.full_rights();
        let charges = [(Resource::Functions, 1)];
        let (key, handle) =
            self.create(body, Kind::Function, rights, Some((parent, session)), &charges)?;
        Ok(self.start(key, handle, BackendOp::FunctionGet { space, program, function: id, name }))
    }

    fn queue_create(&mut self, args: &op::queue_create::Args) -> Result<Step, Refusal> {
        let op::queue_create::Args { session, ring, depth, vector } = *args;
        let (parent, session, space) = self.parent(session, op::queue_create::Args::INFO)?;
        // Rings lie below the heap, where host-visible buffers are.
        let layout = Layout::new(ring, depth, self.t.registers.heap_offset())
            .map_err(|_| Refusal::new(Status::BadAddress, ring))?;
        let vector = u16::try_from(vector)
            .ok()
            .filter(|&v| v < regs::VECTORS)
            .ok_or(Refusal::new(Status::OutOfRange, regs::VECTORS.into()))?;
        let number = self.t.free_queue().ok_or(Status::NoMemory)?;
        let id = QueueId(self.ids.next());
        let rights = Kind::Queue.full_rights();
        let charges = [(Resource::Queues, 1)];
        let body = Body::Queue { number };
        let (key, handle) =
            self.create(body, Kind::Queue, rights, Some((parent, session)), &charges)?;
        let origin = Origin { number, queue: id, space, session };
        let mut queue = WorkQueue::new(origin, layout, vector);
        // Nothing is fetched until the queue is live.
        queue.stopped = true;
        self.t.queues[usize::from(number)] = Some(queue);
        self.t.queue_mask |= 1 << number;
        Ok(self.start(key, handle, BackendOp::QueueOpen { space, queue: id }))
    }

    fn fence_create(&mut self, args: &op::fence_create::Args) -> Result<Step, Refusal> {
        let op::fence_create::Args { session, initial, mirror } = *args;
        let (parent, session, _) = self.parent(session, op::fence_create::Args::INFO)?;
        let mirror = (mirror != u64::MAX).then_some(mirror);
        if let Some(at) = mirror {
            // The first store is the check: it fails if the place is outside or misaligned.
            self.t.ledger.clone().charge(&self.t.policy.grants, Resource::Fences, 1)?;
            self.t.aperture.store64(at, initial)?;
        }
        let body = Body::Fence { value: initial, mirror };
        let rights = Kind::Fence.full_rights();
        let charges = [(Resource::Fences, 1)];
        let (key, handle) =
            self.create(body, Kind::Fence, rights, Some((parent, session)), &charges)?;
        self.set_live(key);
        Ok(Step::Done(handle.raw(), 0))
    }

    fn derive(&mut self, args: &op::derive::Args) -> Result<Step, Refusal> {
        let (index, key, _) = self.resolve(args.source, op::derive::Args::INFO.need(0))?;
        let source = *self.t.caps.get(index).ok_or(Status::BadHandle)?;
        if !source.rights.contains(args.rights) {
            return Err(Refusal::new(Status::NoRight, source.rights.bits().into()));
        }
        if self.t.caps.is_full() {
            return Err(Status::NoMemory.into());
        }
        self.t.ledger.charge(&self.t.policy.grants, Resource::Handles, 1)?;
        let cap = Cap { kind: source.kind, rights: args.rights, object: key, root: false };
        match self.t.caps.insert(cap, Some(index)) {
            Some((_, handle)) => Ok(Step::Done(handle.raw(), 0)),
            None => {
                self.t.ledger.release(Resource::Handles, 1);
                Err(Status::NoMemory.into())
            }
        }
    }

    /// Closes a capability and everything under it.
    fn close(&mut self, handle: Handle, info: &op::OpInfo) -> Result<Step, Refusal> {
        let (index, key, object) = self.resolve(handle, info.need(0))?;
        let root = self.t.caps.get(index).is_some_and(|cap| cap.root);
        if root && matches!(object.body, Body::Buffer { maps, .. } if maps > 0) {
            return Err(Status::Busy.into());
        }
        if root && matches!(object.body, Body::Session(_)) {
            self.close_session(key, Status::BadHandle);
        } else {
            self.close_capability(index, Status::BadHandle);
        }
        // A derived capability is gone at once; an object may take a while.
        if root && self.t.objects.contains_key(key) {
            Ok(Step::Waits(AdminWait::Gone(key)))
        } else {
            Ok(Step::Done(0, 0))
        }
    }
}
