//! Records to a compiled policy: defaults filled in, and the checks that need more than one value.

use std::path::Path;
use std::sync::Arc;

use crate::document::allow;
use crate::document::attach;
use crate::document::decode::{At, Decode, Reader};
use crate::document::problem::{PolicyErrors, Problem};
use crate::document::quantity::size;
use crate::document::records::{self, DEFAULT_APERTURE, Document, MAX_TENANTS, RateLimit};
use crate::document::tree::NodeId;
use crate::grants::{
    BufferGrant, DmaGrant, FenceGrant, Grants, Guard, LaunchGrant, ProgramGrant, QueueGrant,
};
use crate::policy::{
    AuditPolicy, Backend, BackendKind, CudaOptions, DevicePolicy, EmulatedOptions, Fsync, Mps,
    OnFull, Policy, VfioOptions,
};
use crate::rate::Rate;
use crate::tenant::{
    Attach, AuditLevel, Guest, Isolation, MicroVm, Process, Program, Rpc, TenantPolicy, VfioUser,
};

impl Policy {
    /// Reads a policy document.
    ///
    /// # Errors
    /// Every mistake that could be found, each with line, column, JSON path and what to write
    /// instead. Text that is no JSON gives one error; otherwise all values are looked at, and rules
    /// that span several values are checked for those that could be read.
    pub fn parse(text: &str) -> Result<Policy, PolicyErrors> {
        let mut reader = Reader::new(text).map_err(|error| PolicyErrors::new(vec![error]))?;
        let policy = Document::decode(&mut reader, 0).map(|document| {
            let device = device(&mut reader, &document.device);
            let audit = audit(&mut reader, &document.audit);
            let tenants = tenants(&mut reader, &document, &device);
            Policy { device, audit, tenants }
        });
        match (policy, reader.into_errors()) {
            (Some(policy), errors) if errors.is_empty() => Ok(policy),
            (_, errors) => Err(PolicyErrors::new(errors)),
        }
    }

    /// The JSON Schema (draft 2020-12) of the policy document, made from the types that
    /// [`Policy::parse`] reads. Rules that span several values are not in it.
    #[must_use]
    pub fn schema() -> String {
        crate::document::schema()
    }
}

fn device(reader: &mut Reader<'_>, device: &At<records::Device>) -> DevicePolicy {
    let word = device.backend.word();
    let absent = reader.tree.empty();
    let sections = [
        ("emulated", device.emulated.at),
        ("cuda", device.cuda.at),
        ("vfio", device.vfio.as_ref().map_or(absent, |options| options.at)),
    ];
    for (options, at) in sections {
        if at != absent && options != word {
            reader.error(at, Problem::OtherBackend { options, backend: word });
        }
    }
    let backend = match device.backend.value {
        records::Backend::Emulated => Backend::Emulated(EmulatedOptions {
            workers: device.emulated.workers.as_ref().map(|workers| workers.get32()),
        }),
        records::Backend::Cuda => Backend::Cuda(CudaOptions {
            device: device.cuda.device.get32(),
            mps: match device.cuda.mps.value {
                records::Mps::Auto => Mps::Auto,
                records::Mps::Require => Mps::Require,
                records::Mps::Off => Mps::Off,
            },
            warm_workers: device.cuda.warm_workers.get32(),
            cache: device.cuda.cache.as_ref().map(|path| path.0.clone()),
        }),
        records::Backend::Vfio => Backend::Vfio(match &device.vfio {
            Some(vfio) => {
                let accepts = |danger| vfio.accept.as_ref().is_some_and(|set| set.has(&danger));
                VfioOptions {
                    function: vfio.function.0.clone(),
                    unsafe_interrupts: accepts(records::Danger::UnsafeInterrupts),
                    ats: accepts(records::Danger::Ats),
                }
            }
            None => {
                reader.error(device.at, Problem::NoFunction);
                VfioOptions { function: "".into(), unsafe_interrupts: false, ats: false }
            }
        }),
    };
    DevicePolicy {
        backend,
        memory_bytes: device.memory.0,
        overcommit: device.overcommit.value,
        watchdog_ns: device.watchdog.0,
    }
}

fn audit(reader: &mut Reader<'_>, audit: &At<records::Audit>) -> AuditPolicy {
    if let (Some(rotate), None) = (&audit.rotate, &audit.path) {
        reader.error(rotate.at, Problem::NoAuditPath { field: "rotate" });
    }
    if let (Some(rotate), None) = (&audit.rotate_after, &audit.path) {
        reader.error(rotate.at, Problem::NoAuditPath { field: "rotate_after" });
    }
    AuditPolicy {
        path: audit.path.as_ref().map(|path| path.0.clone()),
        fsync: match audit.fsync.value {
            records::Fsync::Never => Fsync::Never,
            records::Fsync::Always => Fsync::Always,
            records::Fsync::Every(ns) => Fsync::EveryNs(ns),
        },
        rotate_bytes: audit.rotate.as_ref().map(|bytes| bytes.0),
        rotate_after_ns: audit.rotate_after.as_ref().map(|age| age.0),
        keep: audit.keep.get32(),
        on_full: match audit.on_full.value {
            records::OnFull::Stop => OnFull::Stop,
            records::OnFull::Count => OnFull::Count,
        },
        rate: Rate { per_second: audit.rate.lines_per_second.0, burst: audit.rate.burst.0 },
    }
}

fn tenants(
    reader: &mut Reader<'_>,
    document: &Document,
    device: &DevicePolicy,
) -> Vec<Arc<TenantPolicy>> {
    if let Some(extra) = document.tenants.get(MAX_TENANTS) {
        let found = format!("{} tenants", document.tenants.len());
        let (least, most) = ("0".into(), MAX_TENANTS.to_string());
        reader.error(extra.at, Problem::TooLarge { found, least, most });
        return Vec::new();
    }
    let mut names = Names::new();
    let mut sockets = Names::new();
    let mut memory = 0_u64;
    let mut compiled = Vec::with_capacity(document.tenants.len());
    for tenant in &document.tenants.value {
        let name = &tenant.name;
        if let Some(first) = names.insert(name.0.to_string(), name.at) {
            let line = reader.line(first);
            reader.error(name.at, Problem::NameTaken { name: format!("{:?}", name.0), line });
        }
        if let Some((socket, at)) = socket(tenant)
            && let Some(first) = sockets.insert(socket.display().to_string(), at)
        {
            let line = reader.line(first);
            let socket = format!("{:?}", socket.display().to_string());
            reader.error(at, Problem::SocketTaken { socket, line });
        }
        if let Some(buffer) = &tenant.grants.buffer {
            let before = memory;
            if buffer.usage.has(&allow::Usage::Device) {
                memory = memory.saturating_add(buffer.max_bytes.0);
            }
            let crossed = before <= device.memory_bytes && memory > device.memory_bytes;
            if crossed && !device.overcommit {
                let problem =
                    Problem::Overcommitted { sum: size(memory), memory: size(device.memory_bytes) };
                reader.error(buffer.max_bytes.at, problem);
            }
        }
        compiled.push(Arc::new(self::tenant(reader, document, device, tenant)));
    }
    compiled
}

/// Where each name was first given.
type Names = std::collections::BTreeMap<String, NodeId>;

fn socket(tenant: &records::Tenant) -> Option<(&Path, NodeId)> {
    let socket = match &tenant.attach.value {
        attach::Attach::MicroVm(_) => None,
        attach::Attach::Process(process) => process.socket.as_ref(),
        attach::Attach::VfioUser(vm) => Some(&vm.socket),
        attach::Attach::Rpc(rpc) => Some(&rpc.socket),
    };
    socket.map(|socket| (socket.0.as_path(), socket.at))
}

fn tenant(
    reader: &mut Reader<'_>,
    document: &Document,
    device: &DevicePolicy,
    tenant: &records::Tenant,
) -> TenantPolicy {
    let defaults = &document.defaults;
    let mps_off = matches!(&device.backend, Backend::Cuda(cuda) if cuda.mps == Mps::Off);
    let asked = tenant.isolation.as_ref().or(defaults.isolation.as_ref());
    let isolation = match asked.map(|asked| asked.value) {
        Some(records::Isolation::Concurrent) => Isolation::Concurrent,
        Some(records::Isolation::Exclusive) => Isolation::Exclusive,
        None if mps_off => Isolation::Exclusive,
        None => Isolation::Concurrent,
    };
    if let (Some(asked), Isolation::Concurrent, true) = (asked, isolation, mps_off) {
        reader.error(asked.at, Problem::ConcurrentWithoutMps);
    }
    let rate = tenant.rate.as_ref().or(defaults.rate.as_ref());
    let aperture = tenant.aperture.as_ref().or(defaults.aperture.as_ref());
    if let Some(aperture) = aperture.filter(|a| !a.0.is_power_of_two()) {
        power_of_two(reader, aperture.at, aperture.0, |n| format!("\"{}\"", size(n)));
    }
    let sm_percent = tenant.schedule.sm_percent.as_ref();
    let concurrent_cuda =
        device.backend.kind() == BackendKind::Cuda && isolation == Isolation::Concurrent;
    if let Some(percent) = sm_percent.filter(|_| !concurrent_cuda) {
        reader.error(percent.at, Problem::SmPercent);
    }
    let audit = tenant.audit.as_ref().or(defaults.audit.as_ref());
    let recover = tenant.recover.as_ref().or(defaults.recover.as_ref());
    TenantPolicy {
        name: tenant.name.0.clone(),
        attach: attach(reader, &tenant.attach),
        grants: grants(reader, &tenant.grants, device, isolation),
        isolation,
        weight: tenant.schedule.weight.get32(),
        sm_percent: sm_percent.map(|percent| percent.0 as u8), // CAST: at most 100.
        rate: rate.and_then(|rate| match &rate.value {
            RateLimit::Unlimited => None,
            RateLimit::Limited(rate) => {
                Some(Rate { per_second: rate.commands_per_second.0, burst: rate.burst.0 })
            }
        }),
        audit: match audit.map(|audit| audit.value) {
            Some(records::AuditLevel::None) => AuditLevel::None,
            Some(records::AuditLevel::Denied) | None => AuditLevel::Denied,
            Some(records::AuditLevel::All) => AuditLevel::All,
        },
        aperture_bytes: aperture.map_or(DEFAULT_APERTURE, |aperture| aperture.0),
        recover: recover.is_none_or(|recover| recover.value),
    }
}

/// Notes that a number is no power of two, with its neighbours that are.
fn power_of_two(reader: &mut Reader<'_>, at: NodeId, n: u64, words: fn(u64) -> String) {
    // Every amount of a document is below 2^54, so the next power of two exists.
    let above = n.next_power_of_two();
    let problem =
        Problem::PowerOfTwo { found: words(n), below: words(above / 2), above: words(above) };
    reader.error(at, problem);
}

fn attach(reader: &mut Reader<'_>, at: &At<attach::Attach>) -> Attach {
    match &at.value {
        attach::Attach::MicroVm(vm) => Attach::MicroVm(micro_vm(reader, at.at, vm)),
        attach::Attach::Process(process) => {
            let program = match (&process.guest, &process.program) {
                (Some(_), Some(program)) => {
                    reader.error(program.at, Problem::OneProgram);
                    None
                }
                (Some(guest), None) => Some(Program::Payload(guest.0.clone())),
                (None, Some(program)) => Some(Program::File(program.0.clone())),
                (None, None) => {
                    if let Some(args) = &process.args {
                        reader.error(args.at, Problem::ArgsWithoutProgram);
                    }
                    None
                }
            };
            Attach::Process(Process {
                program,
                args: texts(process.args.as_ref()),
                socket: process.socket.as_ref().map(|socket| socket.0.clone()),
                users: ids(process.users.as_ref()),
                groups: ids(process.groups.as_ref()),
            })
        }
        attach::Attach::VfioUser(vm) => Attach::VfioUser(VfioUser {
            socket: vm.socket.0.clone(),
            mode: vm.mode.0,
            group: vm.group.as_ref().map(|group| group.get32()),
            users: ids(vm.users.as_ref()),
        }),
        attach::Attach::Rpc(rpc) => Attach::Rpc(Rpc {
            socket: rpc.socket.0.clone(),
            mode: rpc.mode.0,
            group: rpc.group.as_ref().map(|group| group.get32()),
            users: ids(rpc.users.as_ref()),
        }),
    }
}

fn micro_vm(reader: &mut Reader<'_>, at: NodeId, vm: &attach::MicroVm) -> MicroVm {
    let guest = match (&vm.guest, &vm.elf, &vm.linux) {
        (Some(guest), None, None) => Guest::Payload(guest.0.clone()),
        (None, Some(elf), None) => Guest::Elf(elf.0.clone()),
        (None, None, Some(linux)) => Guest::Linux {
            kernel: linux.kernel.0.clone(),
            initramfs: linux.initramfs.as_ref().map(|path| path.0.clone()),
            cmdline: linux.cmdline.as_ref().map_or_else(String::new, |text| text.0.clone()),
        },
        (guest, elf, linux) => {
            let named = match [guest.is_some(), elf.is_some(), linux.is_some()] {
                [false, ..] if elf.is_none() => "none",
                [true, true, true] => "three",
                _ => "two",
            };
            reader.error(at, Problem::OneGuest { named: named.into() });
            Guest::Payload("".into())
        }
    };
    let bytes = vm.memory.0;
    if !bytes.is_multiple_of(4096) {
        let above = format!("\"{}\"", size(bytes.next_multiple_of(4096)));
        reader.error(vm.memory.at, Problem::Pages { found: size(bytes), above });
    }
    MicroVm { guest, memory_bytes: bytes, vcpus: vm.vcpus.get32(), args: texts(vm.args.as_ref()) }
}

fn texts(list: Option<&At<Vec<At<crate::document::text::Text>>>>) -> Vec<String> {
    list.map_or_else(Vec::new, |list| list.iter().map(|text| text.0.clone()).collect())
}

fn ids(list: Option<&At<Vec<At<records::Id>>>>) -> Vec<u32> {
    let mut ids: Vec<u32> =
        list.map_or_else(Vec::new, |list| list.iter().map(|id| id.get32()).collect());
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn grants(
    reader: &mut Reader<'_>,
    grants: &At<allow::Grants>,
    device: &DevicePolicy,
    isolation: Isolation,
) -> Grants {
    if grants.queue.is_none() {
        let launch = grants.launch.as_ref().map(|launch| launch.at);
        let work = [
            ("copy", grants.copy.then_some(grants.copy.at)),
            ("fill", grants.fill.then_some(grants.fill.at)),
            ("launch", launch),
        ];
        for (grant, at) in work {
            if let Some(at) = at {
                reader.error(at, Problem::NeedsQueue { grant });
            }
        }
    }
    if let (Some(launch), None) = (&grants.launch, &grants.program) {
        reader.error(launch.at, Problem::NeedsProgram);
    }
    Grants {
        sessions: grants.sessions.get32(),
        max_handles: grants.max_handles.get32(),
        buffer: grants.buffer.as_ref().map(|buffer| BufferGrant {
            max_bytes: buffer.max_bytes.0,
            max_count: buffer.max_count.get32(),
            device: buffer.usage.has(&allow::Usage::Device),
            host: buffer.usage.has(&allow::Usage::Host),
        }),
        dma: grants.dma.as_ref().map(|dma| DmaGrant {
            max_bytes: dma.max_bytes.0,
            max_regions: dma.max_regions.get32(),
            read: dma.access.has(&allow::Access::Read),
            write: dma.access.has(&allow::Access::Write),
        }),
        program: grants
            .program
            .as_ref()
            .map(|granted| program(reader, granted, device.backend.kind(), isolation)),
        launch: grants.launch.as_ref().map(|launch| LaunchGrant {
            max_threads_per_block: launch.max_threads_per_block.get32(),
            max_blocks: launch.max_blocks.0,
            max_shared_bytes: launch.max_shared.0 as u32, // CAST: at most 1 MiB.
            timeout_ns: launch.timeout.0,
            cooperative: launch.cooperative.value,
            raw_addresses: launch.raw_addresses.value,
        }),
        queue: grants.queue.as_ref().map(|queue| {
            let depth = &queue.max_depth;
            if !depth.0.is_power_of_two() {
                power_of_two(reader, depth.at, depth.0, |n| n.to_string());
            }
            QueueGrant {
                max_count: queue.max_count.get32(),
                max_depth: depth.get32(),
                max_in_flight: queue.max_in_flight.get32(),
            }
        }),
        copy: grants.copy.value,
        fill: grants.fill.value,
        fence: grants.fence.as_ref().map(|fence| FenceGrant {
            max_count: fence.max_count.get32(),
            max_wait_ns: fence.max_wait.0,
        }),
        derive: grants.derive.value,
    }
}

fn program(
    reader: &mut Reader<'_>,
    program: &At<allow::Program>,
    backend: BackendKind,
    isolation: Isolation,
) -> ProgramGrant {
    let ptx = program.formats.has(&allow::Format::Ptx);
    let image = program.formats.find(&allow::Format::Image);
    let guard = match program.guard.value {
        allow::Guard::None => Guard::None,
        allow::Guard::Check => Guard::Check,
        allow::Guard::Fence => Guard::Fence,
    };
    let concurrent_cuda = backend == BackendKind::Cuda && isolation == Isolation::Concurrent;
    if ptx && concurrent_cuda && guard != Guard::Fence {
        let problem = Problem::GuardTooWeak { guard: program.guard.word() };
        reader.error(program.guard.at, problem);
    }
    if let Some(image) = image {
        if backend == BackendKind::Emulated {
            reader.error(image.at, Problem::ImageOnEmulated);
        } else if concurrent_cuda {
            reader.error(image.at, Problem::ImageNotGuarded);
        } else if program.images.is_none() {
            reader.error(image.at, Problem::NoImages);
        }
    }
    let mut images = Vec::new();
    if let Some(list) = &program.images {
        if image.is_none() {
            reader.error(list.at, Problem::ImagesNotGranted);
        }
        images.extend(list.0.iter().map(|hash| hash.0));
        images.sort_unstable();
        images.dedup();
    }
    ProgramGrant {
        ptx,
        guard,
        max_bytes: program.max_bytes.0,
        max_count: program.max_count.get32(),
        max_functions: program.max_functions.get32(),
        images,
    }
}
