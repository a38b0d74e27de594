//! Two guests, a mediator and the model of a backend, put through arbitrary actions.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use turnstile_abi::regs::{ADMIN_DEPTH, DeviceStatus, offset};
use turnstile_abi::ring::{DriverRing, Layout};
use turnstile_abi::version::{Features, Version};
use turnstile_abi::{Completion, Descriptor, Handle, Opcode, SharedMemory, Status, op};
use turnstile_backend_api::{MemoryId, SharedRegion};
use turnstile_core::{Attachment, GuestMemory, Mediator, Registers, Settings, TenantId, Wrote};
use turnstile_policy::{Policy, Resource};

use super::Model;
use super::action::Action;

pub(super) const APERTURE: u64 = 1 << 20;
pub(super) const HEAP: u64 = 1 << 19;
pub(super) const RAM: u64 = 1 << 18;
const POLICY: &str = r#"{
  "version": 1,
  "device": { "backend": "emulated", "memory": "1GiB" },
  "tenants": [
    { "name": "a", "attach": { "kind": "process" }, "aperture": "1MiB",
      "grants": {
        "sessions": 2, "max_handles": 24, "derive": true, "copy": true, "fill": true,
        "buffer": { "max_bytes": "64KiB", "max_count": 6, "usage": ["device", "host"] },
        "dma": { "max_bytes": "64KiB", "max_regions": 4, "access": ["read", "write"] },
        "program": { "formats": ["ptx"], "guard": "none", "max_bytes": "16KiB" },
        "launch": { "max_threads_per_block": 1024, "max_blocks": 64, "timeout": "1s" },
        "queue": { "max_count": 3, "max_depth": 16, "max_in_flight": 8 },
        "fence": { "max_count": 4 } } } ]
}"#;

struct Guest {
    id: TenantId,
    registers: Arc<Registers>,
    aperture: Arc<SharedRegion>,
    /// The driver's view: queue number -> ring and cookies in flight in order.
    rings: HashMap<usize, (DriverRing, Vec<u64>)>,
    /// What the admin command in flight would create, by cookie.
    handles: Vec<u64>,
    /// A ring of ours was scribbled over: its completions mean nothing any more.
    spoiled: bool,
    revoked: bool,
    creations: HashMap<u64, (Opcode, u64)>,
}

struct World {
    mediator: Mediator<Arc<SharedRegion>>,
    model: Model,
    guests: Vec<Guest>,
    now: u64,
    cookie: u64,
    requests: u64,
    rings: u64,
}

impl World {
    fn new() -> World {
        let policy = Policy::parse(POLICY).expect("the test's policy");
        let mut mediator = Mediator::new(Settings { multiprocessors: 4, ..Settings::default() });
        let mut model = Model::default();
        let mut guests = Vec::new();
        for i in 0..2_u32 {
            let registers = Arc::new(Registers::new(Features::all(), APERTURE, HEAP));
            let aperture = Arc::new(SharedRegion::create("aperture", APERTURE).unwrap());
            let aperture_memory = MemoryId(i * 2);
            model.partner.insert(MemoryId(i * 2 + 1), aperture_memory);
            let attachment = Attachment {
                policy: policy.tenants[0].clone(),
                registers: registers.clone(),
                aperture: aperture.clone(),
                aperture_memory,
            };
            let id = mediator.attach(attachment, 0, &mut model);
            let memory =
                GuestMemory { gpa: 0x10_0000, bytes: RAM, memory: MemoryId(i * 2 + 1), offset: 0 };
            mediator.add_memory(id, memory).unwrap();
            guests.push(Guest {
                id,
                registers,
                aperture,
                rings: HashMap::new(),
                handles: Vec::new(),
                spoiled: false,
                revoked: false,
                creations: HashMap::new(),
            });
        }
        let mut world = World { mediator, model, guests, now: 1, cookie: 0, requests: 0, rings: 0 };
        for tenant in 0..2 {
            world.enable(tenant, 1);
        }
        world
    }

    fn enable(&mut self, tenant: usize, control: u32) {
        let guest = &mut self.guests[tenant];
        let layout = Layout::new(0, u64::from(ADMIN_DEPTH), HEAP).unwrap();
        layout.clear(&*guest.aperture).unwrap();
        guest.rings = HashMap::from([(0, (DriverRing::new(layout), Vec::new()))]);
        guest.spoiled = false;
        assert_eq!(
            guest.registers.write(offset::DRIVER_VERSION, 4, Version::CURRENT.0.into()),
            Wrote::Done
        );
        assert_eq!(guest.registers.write(offset::CONTROL, 4, control.into()), Wrote::Kick);
        self.mediator.attention(guest.id, self.now, &mut self.model);
    }

    /// An operand drawn from what a clever or a stupid tenant would try.
    fn operand(&self, tenant: usize, byte: u8) -> u64 {
        let pick = |list: &[u64]| match list.len() {
            0 => 0,
            n => list[byte as usize / 4 % n],
        };
        match byte % 16 {
            0..=5 => pick(&self.guests[tenant].handles),
            6 => pick(&self.guests[1 - tenant].handles),
            7 => u64::from(byte / 16),
            8 => 1 << (byte / 16),
            9 => 0x1000 * u64::from(byte / 16),
            10 => 0x10_0000 + 0x1000 * u64::from(byte / 16),
            11 => 64,
            12 => u64::MAX - u64::from(byte / 16),
            13 => 0x8000 + 0x2000 * u64::from(byte / 16),
            14 => 0x1_0000_0001,
            _ => 0,
        }
    }

    /// Usually makes handles plausible and numbers small, so that the search gets past the first
    /// check.
    fn help(&self, tenant: usize, info: &op::OpInfo, noise: &[u8; 6], words: &mut [u64; 6]) {
        let mut at = 0;
        for operand in info.operands {
            let byte = noise[at];
            match operand.usage {
                op::Use::Cap(need) if !byte.is_multiple_of(8) => {
                    let fits = |h: &&u64| {
                        Handle::from_raw(**h).kind().is_some_and(|k| need.kinds.contains(k.set()))
                    };
                    let own: Vec<_> = self.guests[tenant].handles.iter().filter(fits).collect();
                    if !own.is_empty() {
                        // Mostly one of the latest: old ones tend to be stale.
                        let back = byte as usize / 8 % own.len().min(4);
                        words[at] = *own[own.len() - 1 - back];
                    }
                }
                op::Use::Scalar if byte % 8 > 2 => {
                    words[at] = match operand.name {
                        "bytes" => 8 * u64::from(byte / 8) + 8,
                        "width" => 8,
                        "rights" => 0x1ff,
                        "grid" => 1 << 32 | 1,
                        "block" => 16 << 48 | 1 << 32 | 1 << 16 | 32,
                        "mirror" => u64::MAX,
                        "params" => 0x7100,
                        "extras" => 0,
                        "timeout_ns" => 1 << 20,
                        "value" | "initial" => u64::from(byte / 32),
                        name if name.ends_with("offset") => 64 * u64::from(byte / 16),
                        _ => words[at],
                    };
                    if operand.name == "grid" {
                        words[at + 1] = 1;
                    }
                }
                _ => {}
            }
            at += operand.words;
        }
    }

    fn push(&mut self, tenant: usize, queue: usize, mut descriptor: Descriptor) {
        self.cookie += 1;
        descriptor.cookie = self.cookie;
        let guest = &mut self.guests[tenant];
        // DMA lists and parameters are read from the start of this page.
        guest.aperture.store64(0x7000, 0x10_0000).unwrap();
        guest.aperture.store64(0x7008, 0x1000).unwrap();
        let mut numbers: Vec<_> = guest.rings.keys().copied().collect();
        numbers.sort_unstable();
        // 0 is the admin queue; any other number is some work queue, if there is one.
        let number = match (queue, &numbers[1..]) {
            (0, _) | (_, []) => 0,
            (n, work) => work[n % work.len()],
        };
        let Some((ring, cookies)) = guest.rings.get_mut(&number) else { return };
        if ring.push(&*guest.aperture, &descriptor).unwrap().is_ok() {
            cookies.push(self.cookie);
            if let Some(opcode) = Opcode::from_code(descriptor.head as u16) {
                guest.creations.insert(self.cookie, (opcode, descriptor.words[1]));
            }
            if ring.doorbell_needed(&*guest.aperture).unwrap() {
                self.mediator.attention(guest.id, self.now, &mut self.model);
            }
        }
    }

    fn apply(&mut self, action: &Action) {
        self.now += 100_000;
        match *action {
            Action::Push { tenant, queue, op, words } => {
                let info = op::TABLE[op];
                let used: usize = info.operands.iter().map(|o| o.words).sum();
                let mut descriptor =
                    Descriptor { head: info.opcode as u64, cookie: 0, words: [0; 6] };
                for (i, word) in descriptor.words.iter_mut().enumerate().take(used) {
                    *word = self.operand(tenant, words[i]);
                }
                self.help(tenant, info, &words, &mut descriptor.words);
                // Help the deeper paths along: a sound first operand and list, usually.
                if info.opcode == Opcode::DmaRegister && words[5] % 4 != 0 {
                    descriptor.words[1] = 0x7000;
                    descriptor.words[2] = 1;
                    descriptor.words[3] = u64::from(words[3] % 3) + 1;
                }
                if info.opcode == Opcode::BufferCreate && words[5] % 4 != 0 {
                    descriptor.words[1] = 1 + 32 * u64::from(words[1]);
                    descriptor.words[2] = u64::from(words[2] % 2) + 1;
                }
                if info.opcode == Opcode::QueueCreate && words[5] % 4 != 0 {
                    // Every ring in a place of its own: two rings on one place are the driver's own loss.
                    self.rings += 1;
                    descriptor.words[1] = 0x9000 + 0x400 * (self.rings % 448);
                    descriptor.words[2] = 8;
                    descriptor.words[3] = 1;
                }
                if matches!(info.opcode, Opcode::ProgramLoad | Opcode::FunctionGet)
                    && words[5] % 4 != 0
                {
                    descriptor.words[1] = 0x7000;
                    descriptor.words[2] = 1;
                    descriptor.words[3] = u64::from(info.opcode == Opcode::ProgramLoad);
                }
                // Where the device writes at the driver's wish: not over the driver's own rings.
                match info.opcode {
                    Opcode::Identify => descriptor.words[0] = 0x7200,
                    Opcode::FenceCreate if words[2] % 2 == 0 => descriptor.words[2] = 0x7300,
                    Opcode::FenceCreate => descriptor.words[2] = u64::MAX,
                    _ => {}
                }
                // Usually on a queue where it belongs.
                let queue = match info.class {
                    _ if words[4] % 8 == 0 => queue,
                    op::Class::Admin => 0,
                    op::Class::Work => queue.max(1),
                };
                self.push(tenant, queue, descriptor);
            }
            Action::Noise { tenant, queue, words } => {
                let mut six = [0; 6];
                six.copy_from_slice(&words[1..]);
                self.push(tenant, queue, Descriptor { head: words[0], cookie: 0, words: six });
            }
            Action::Poll => {
                self.mediator.poll(self.now, &mut self.model);
                self.mediator.announce(&mut self.model);
            }
            Action::Setup { tenant } => {
                self.push(tenant, 0, Descriptor { head: 2, ..Descriptor::default() });
                self.apply(&Action::Run);
                let session = self.guests[tenant].handles.last().copied().unwrap_or(0);
                self.rings += 1;
                let words = [session, 0x9000 + 0x400 * (self.rings % 448), 8, 1, 0, 0];
                self.push(tenant, 0, Descriptor { head: 0xe, cookie: 0, words });
                self.apply(&Action::Run);
            }
            Action::Run => {
                for _ in 0..20 {
                    self.mediator.poll(self.now, &mut self.model);
                    self.mediator.announce(&mut self.model);
                    if let Some((ticket, result)) = self.model.verdict(true) {
                        self.mediator.verified(ticket, result, self.now, &mut self.model);
                    }
                    while let Some(event) = self.model.answer(0, false) {
                        self.mediator.backend(event, self.now, &mut self.model);
                    }
                }
            }
            Action::Answer { index, fail } => {
                if let Some(event) = self.model.answer(index, fail) {
                    self.mediator.backend(event, self.now, &mut self.model);
                }
            }
            Action::Verdict { good } => {
                if let Some((ticket, result)) = self.model.verdict(good) {
                    self.mediator.verified(ticket, result, self.now, &mut self.model);
                }
            }
            Action::KillSpace { index } => {
                for event in self.model.kill_space(index) {
                    self.mediator.backend(event, self.now, &mut self.model);
                }
            }
            Action::Reset { tenant, enable } => {
                self.collect();
                let before = self.guests[tenant].revoked;
                assert_eq!(self.guests[tenant].registers.write(offset::CONTROL, 4, 2), Wrote::Kick);
                self.mediator.attention(self.guests[tenant].id, self.now, &mut self.model);
                if !before {
                    self.settle(tenant);
                    self.drained(tenant);
                    if enable {
                        self.enable(tenant, 1);
                    }
                }
            }
            Action::Revoke { tenant, all } => {
                self.collect();
                let id = self.guests[tenant].id;
                if all {
                    self.mediator.revoke(id, self.now, &mut self.model);
                    self.guests[tenant].revoked = true;
                } else {
                    self.mediator.revoke_sessions(id, self.now, &mut self.model);
                }
                // Invariant 5: whatever completes from here on of what was pushed is no success.
                let unfetched = self.guests[tenant].rings.len();
                for completion in self.pop(tenant) {
                    assert!(!completion.status.is_ok(), "success after a revoke: {completion:?}");
                }
                assert_eq!(self.guests[tenant].rings.len(), unfetched);
            }
            Action::RemoveMemory { tenant } => {
                self.requests += 1;
                let (id, request) = (self.guests[tenant].id, self.requests);
                self.mediator.remove_memory(id, 0x10_0000, RAM, request, self.now, &mut self.model);
            }
            Action::AddMemory { tenant } => {
                let memory = MemoryId(tenant as u32 * 2 + 1);
                let piece = GuestMemory { gpa: 0x10_0000, bytes: RAM, memory, offset: 0 };
                let _ = self.mediator.add_memory(self.guests[tenant].id, piece);
            }
            Action::Tick => self.mediator.tick(self.now, &mut self.model),
            Action::Scribble { tenant, offset, value } => {
                let guest = &mut self.guests[tenant];
                guest.spoiled = true;
                guest.aperture.store64(u64::from(offset) & !7, value).unwrap();
            }
        }
        self.collect();
        self.check_quotas();
    }

    /// Lets the backend answer everything, so that a reset can finish.
    fn settle(&mut self, tenant: usize) {
        for _ in 0..10_000 {
            let busy = DeviceStatus::BUSY.bits();
            if self.guests[tenant].registers.read(offset::STATUS, 4).unwrap() as u32 & busy == 0 {
                return;
            }
            if let Some((ticket, result)) = self.model.verdict(true) {
                self.mediator.verified(ticket, result, self.now, &mut self.model);
            }
            if let Some(event) = self.model.answer(0, false) {
                self.mediator.backend(event, self.now, &mut self.model);
            }
        }
        panic!("the reset does not finish");
    }

    fn pop(&mut self, tenant: usize) -> Vec<Completion> {
        let guest = &mut self.guests[tenant];
        let mut out = Vec::new();
        for (ring, cookies) in guest.rings.values_mut() {
            while let Some(completion) = ring.pop(&*guest.aperture).unwrap() {
                if !guest.spoiled {
                    let at = cookies.iter().position(|&c| c == completion.cookie);
                    let at = at.expect("a completion for a command that is open, once");
                    assert_eq!(at, 0, "in order");
                    cookies.remove(at);
                }
                out.push(completion);
            }
        }
        out
    }

    fn collect(&mut self) {
        for tenant in 0..self.guests.len() {
            for completion in self.pop(tenant) {
                let guest = &mut self.guests[tenant];
                let Some((opcode, operand)) = guest.creations.remove(&completion.cookie) else {
                    continue;
                };
                if guest.spoiled || completion.status != Status::Ok {
                    continue;
                }
                REACHED.fetch_or(1 << opcode as u16, Ordering::Relaxed);
                match opcode {
                    Opcode::SessionOpen
                    | Opcode::BufferCreate
                    | Opcode::DmaRegister
                    | Opcode::ProgramLoad
                    | Opcode::FunctionGet
                    | Opcode::FenceCreate
                    | Opcode::Derive => guest.handles.push(completion.value),
                    Opcode::QueueCreate => {
                        guest.handles.push(completion.value);
                        let layout = Layout::new(operand, 8, HEAP);
                        if let Ok(layout) = layout {
                            layout.clear(&*guest.aperture).unwrap();
                            let ring = (DriverRing::new(layout), Vec::new());
                            guest.rings.insert(completion.detail as usize, ring);
                        }
                    }
                    _ => {}
                }
                if guest.handles.len() > 40 {
                    guest.handles.remove(0);
                }
            }
        }
    }

    fn check_quotas(&self) {
        for guest in &self.guests {
            let Some(view) = self.mediator.view(guest.id) else { continue };
            for (resource, used) in Resource::ALL.iter().zip(&view.used) {
                let limit = resource.limit(&view.policy.grants);
                assert!(*used <= limit, "{} of {limit}: {used}", resource.name());
            }
            assert!(view.in_flight <= 8 + 8, "work in flight is bounded by the policy");
            assert_eq!(u64::from(view.handles), view.used[Resource::Handles as usize]);
        }
    }

    /// After a reset nothing the driver submitted is open.
    fn drained(&mut self, tenant: usize) {
        self.collect();
        let view = self.mediator.view(self.guests[tenant].id).unwrap();
        for (resource, used) in Resource::ALL.iter().zip(&view.used) {
            assert_eq!(*used, 0, "{} left after a reset", resource.name());
        }
        assert_eq!(view.handles, 0);
    }

    fn finish(mut self) {
        for tenant in 0..2 {
            self.mediator.detach(self.guests[tenant].id, self.now, &mut self.model);
        }
        for _ in 0..100_000 {
            if let Some((ticket, result)) = self.model.verdict(true) {
                self.mediator.verified(ticket, result, self.now, &mut self.model);
            } else if let Some(event) = self.model.answer(0, false) {
                self.mediator.backend(event, self.now, &mut self.model);
            } else {
                break;
            }
        }
        assert_eq!(self.model.detached.len(), 2, "both tenants are gone");
        assert!(self.model.is_empty(), "the backend holds nothing: {:?}", self.model);
        assert_eq!(self.mediator.open_operations(), 0);
        assert_eq!(self.model.regions(), 0);
        let mut removed = self.model.removed.clone();
        removed.sort_unstable();
        removed.dedup();
        assert_eq!(removed.len() as u64, self.requests, "every memory removal was answered");
        assert_eq!(self.model.removed.len() as u64, self.requests, "once");
        let _ = self.model.interrupts;
    }
}

/// Operations that succeeded somewhere in the search, as bits of their codes.
pub(crate) static REACHED: AtomicU64 = AtomicU64::new(0);

/// Applies the actions, checks after each, and checks that nothing is left at the end.
pub(crate) fn search(actions: &[Action]) {
    let mut world = World::new();
    // A session and a queue to begin with, so that most actions reach something.
    for tenant in 0..2 {
        world.apply(&Action::Setup { tenant });
    }
    assert!(world.guests.iter().all(|g| g.rings.len() == 2));
    for action in actions {
        world.apply(action);
    }
    world.finish();
}
