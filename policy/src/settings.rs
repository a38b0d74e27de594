//! A compiled policy as a flat list of settings, for explaining it and for comparing two of them.
//!
//! Each record is taken apart field by field, so a new field does not compile until it is here.

use std::path::Path;

use crate::document::quantity::{size, span};
use crate::grants::{
    BufferGrant, DmaGrant, FenceGrant, Grants, Guard, LaunchGrant, ProgramGrant, QueueGrant,
};
use crate::policy::{
    AuditPolicy, Backend, CudaOptions, DevicePolicy, EmulatedOptions, Fsync, Mps, OnFull,
    VfioOptions,
};
use crate::rate::Rate;
use crate::tenant::{
    Attach, AuditLevel, Guest, Isolation, MicroVm, Process, Program, Rpc, TenantPolicy, VfioUser,
};

/// One setting: where it stands in the document, and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) path: &'static str,
    pub(crate) value: Value,
    /// Whether a reload puts it in force; otherwise it takes a restart of the tenant or daemon.
    pub(crate) live: bool,
}

/// The value of a setting, with what a change of it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// A limit: more is looser. `None` is no limit.
    Limit(Option<u64>, Unit),
    /// A permission: true is looser.
    Allowed(bool),
    /// A choice by how much it allows: a higher rank is looser.
    Choice(u8, &'static str),
    /// A set of things that are allowed: more is looser.
    Listed(Vec<String>),
    /// Anything else: a change neither tightens nor loosens.
    Other(String),
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Limit(Some(limit), unit) => f.write_str(&unit.written(*limit)),
            Value::Limit(None, _) => f.write_str("unlimited"),
            Value::Allowed(allowed) => write!(f, "{allowed}"),
            Value::Choice(_, word) => f.write_str(word),
            Value::Listed(items) if items.is_empty() => f.write_str("none"),
            Value::Listed(items) => f.write_str(&items.join(", ")),
            Value::Other(text) => f.write_str(text),
        }
    }
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Things,
    Bytes,
    Nanoseconds,
}

impl Unit {
    /// An amount as it is written in the document.
    fn written(self, amount: u64) -> String {
        match self {
            Unit::Things => amount.to_string(),
            Unit::Bytes => size(amount),
            Unit::Nanoseconds => span(amount),
        }
    }
}

/// Collects settings.
#[derive(Default)]
struct List(Vec<Setting>);

impl List {
    fn live(&mut self, path: &'static str, value: Value) {
        self.0.push(Setting { path, value, live: true });
    }
    fn fixed(&mut self, path: &'static str, value: Value) {
        self.0.push(Setting { path, value, live: false });
    }
    fn count(&mut self, path: &'static str, n: impl Into<u64>) {
        self.live(path, Value::Limit(Some(n.into()), Unit::Things));
    }
    fn size(&mut self, path: &'static str, bytes: impl Into<u64>) {
        self.live(path, Value::Limit(Some(bytes.into()), Unit::Bytes));
    }
    fn allowed(&mut self, path: &'static str, allowed: bool) {
        self.live(path, Value::Allowed(allowed));
    }
    fn listed(&mut self, path: &'static str, items: &[(bool, &str)]) {
        let items = items.iter().filter(|(on, _)| *on).map(|(_, word)| (*word).to_string());
        self.live(path, Value::Listed(items.collect()));
    }
}

/// The settings of the policy outside its tenants.
pub(crate) fn of_policy(device: &DevicePolicy, audit: &AuditPolicy) -> Vec<Setting> {
    let mut list = List::default();
    let DevicePolicy { backend, memory_bytes, overcommit, watchdog_ns } = device;
    list.fixed("device.backend", Value::Other(backend.kind().name().into()));
    list.fixed("device.memory", Value::Limit(Some(*memory_bytes), Unit::Bytes));
    list.live("device.overcommit", Value::Allowed(*overcommit));
    list.fixed("device.watchdog", Value::Limit(Some(*watchdog_ns), Unit::Nanoseconds));
    match backend {
        Backend::Emulated(EmulatedOptions { workers }) => {
            let workers = workers.map_or("one a processor".into(), |n| n.to_string());
            list.fixed("device.emulated.workers", Value::Other(workers));
        }
        Backend::Cuda(CudaOptions { device, mps, warm_workers, cache }) => {
            let mps = match mps {
                Mps::Auto => "auto",
                Mps::Require => "require",
                Mps::Off => "off",
            };
            list.fixed("device.cuda.device", Value::Other(device.to_string()));
            list.fixed("device.cuda.mps", Value::Other(mps.into()));
            list.fixed("device.cuda.warm_workers", Value::Other(warm_workers.to_string()));
            list.fixed("device.cuda.cache", Value::Other(path(cache.as_deref())));
        }
        Backend::Vfio(VfioOptions { function, unsafe_interrupts, ats }) => {
            list.fixed("device.vfio.function", Value::Other(function.to_string()));
            let accepted = [(*unsafe_interrupts, "unsafe_interrupts"), (*ats, "ats")];
            let accepted = accepted.iter().filter(|(on, _)| *on).map(|(_, word)| (*word).into());
            list.fixed("device.vfio.accept", Value::Listed(accepted.collect()));
        }
    }
    let AuditPolicy { path: file, fsync, rotate_bytes, rotate_after_ns, keep, on_full, rate } =
        audit;
    list.fixed("audit.path", Value::Other(path(file.as_deref())));
    let fsync = match fsync {
        Fsync::Never => "never".into(),
        Fsync::EveryNs(ns) => span(*ns),
        Fsync::Always => "always".into(),
    };
    list.fixed("audit.fsync", Value::Other(fsync));
    list.fixed("audit.rotate", Value::Other(rotate_bytes.map_or("never".into(), size)));
    let after = rotate_after_ns.map_or("never".into(), span);
    list.fixed("audit.rotate_after", Value::Other(after));
    list.fixed("audit.keep", Value::Other(keep.to_string()));
    let on_full = match on_full {
        OnFull::Stop => "stop",
        OnFull::Count => "count",
    };
    list.fixed("audit.on_full", Value::Other(on_full.into()));
    let Rate { per_second, burst } = rate;
    list.fixed("audit.rate.lines_per_second", Value::Other(per_second.to_string()));
    list.fixed("audit.rate.burst", Value::Other(burst.to_string()));
    list.0
}

/// The settings of a tenant.
pub(crate) fn of_tenant(tenant: &TenantPolicy) -> Vec<Setting> {
    let TenantPolicy {
        name: _, // says which tenant, is no setting of it
        attach,
        grants,
        isolation,
        weight,
        sm_percent,
        rate,
        audit,
        aperture_bytes,
        recover,
    } = tenant;
    let mut list = List::default();
    attached(&mut list, attach);
    granted(&mut list, grants);
    let isolation = match isolation {
        Isolation::Concurrent => "concurrent",
        Isolation::Exclusive => "exclusive",
    };
    list.fixed("isolation", Value::Other(isolation.into()));
    list.count("schedule.weight", *weight);
    list.fixed("schedule.sm_percent", Value::Limit(sm_percent.map(u64::from), Unit::Things));
    list.live("rate.commands_per_second", Value::Limit(rate.map(|r| r.per_second), Unit::Things));
    list.live("rate.burst", Value::Limit(rate.map(|r| r.burst), Unit::Things));
    let audit = match audit {
        AuditLevel::None => "none",
        AuditLevel::Denied => "denied",
        AuditLevel::All => "all",
    };
    list.live("audit", Value::Other(audit.into()));
    list.fixed("aperture", Value::Limit(Some(*aperture_bytes), Unit::Bytes));
    list.allowed("recover", *recover);
    list.0
}

fn attached(list: &mut List, attach: &Attach) {
    let mut fixed = |path, text| list.fixed(path, Value::Other(text));
    fixed("attach.kind", attach.kind().into());
    match attach {
        Attach::MicroVm(MicroVm { guest, memory_bytes, vcpus, args }) => {
            match guest {
                Guest::Payload(name) => fixed("attach.guest", name.to_string()),
                Guest::Elf(file) => fixed("attach.elf", path(Some(file))),
                Guest::Linux { kernel, initramfs, cmdline } => {
                    fixed("attach.linux.kernel", path(Some(kernel)));
                    fixed("attach.linux.initramfs", path(initramfs.as_deref()));
                    fixed("attach.linux.cmdline", cmdline.clone());
                }
            }
            fixed("attach.memory", size(*memory_bytes));
            fixed("attach.vcpus", vcpus.to_string());
            fixed("attach.args", args.join(" "));
        }
        Attach::Process(Process { program, args, socket, users, groups }) => {
            match program {
                Some(Program::Payload(name)) => fixed("attach.guest", name.to_string()),
                Some(Program::File(file)) => fixed("attach.program", path(Some(file))),
                None => fixed("attach.program", "none".into()),
            }
            fixed("attach.args", args.join(" "));
            fixed("attach.socket", path(socket.as_deref()));
            list.live("attach.users", Value::Other(ids(users)));
            list.live("attach.groups", Value::Other(ids(groups)));
        }
        Attach::VfioUser(VfioUser { socket, mode, group, users })
        | Attach::Rpc(Rpc { socket, mode, group, users }) => {
            fixed("attach.socket", path(Some(socket)));
            fixed("attach.mode", format!("{mode:04o}"));
            fixed("attach.group", group.map_or("none".into(), |id| id.to_string()));
            let users = Value::Other(ids(users));
            match attach {
                // Its door is made once, with who may come through it.
                Attach::Rpc(_) => list.fixed("attach.users", users),
                _ => list.live("attach.users", users),
            }
        }
    }
}

fn granted(list: &mut List, grants: &Grants) {
    let Grants {
        sessions,
        max_handles,
        buffer,
        dma,
        program,
        launch,
        queue,
        copy,
        fill,
        fence,
        derive,
    } = grants;
    list.count("grants.sessions", *sessions);
    list.count("grants.max_handles", *max_handles);
    list.allowed("grants.buffer", buffer.is_some());
    if let Some(BufferGrant { max_bytes, max_count, device, host }) = buffer {
        list.size("grants.buffer.max_bytes", *max_bytes);
        list.count("grants.buffer.max_count", *max_count);
        list.listed("grants.buffer.usage", &[(*device, "device"), (*host, "host")]);
    }
    list.allowed("grants.dma", dma.is_some());
    if let Some(DmaGrant { max_bytes, max_regions, read, write }) = dma {
        list.size("grants.dma.max_bytes", *max_bytes);
        list.count("grants.dma.max_regions", *max_regions);
        list.listed("grants.dma.access", &[(*read, "read"), (*write, "write")]);
    }
    list.allowed("grants.program", program.is_some());
    if let Some(program) = program {
        let ProgramGrant { ptx, guard, max_bytes, max_count, max_functions, images } = program;
        let image = !images.is_empty();
        list.listed("grants.program.formats", &[(*ptx, "ptx"), (image, "image")]);
        let guard = match guard {
            Guard::Fence => Value::Choice(0, "fence"),
            Guard::Check => Value::Choice(1, "check"),
            Guard::None => Value::Choice(2, "none"),
        };
        list.live("grants.program.guard", guard);
        list.size("grants.program.max_bytes", *max_bytes);
        list.count("grants.program.max_count", *max_count);
        list.count("grants.program.max_functions", *max_functions);
        let hex = |hash: &[u8; 32]| hash.iter().map(|b| format!("{b:02x}")).collect();
        list.live("grants.program.images", Value::Listed(images.iter().map(hex).collect()));
    }
    list.allowed("grants.launch", launch.is_some());
    if let Some(LaunchGrant {
        max_threads_per_block,
        max_blocks,
        max_shared_bytes,
        timeout_ns,
        cooperative,
        raw_addresses,
    }) = launch
    {
        list.count("grants.launch.max_threads_per_block", *max_threads_per_block);
        list.count("grants.launch.max_blocks", *max_blocks);
        list.size("grants.launch.max_shared", *max_shared_bytes);
        list.live("grants.launch.timeout", Value::Limit(Some(*timeout_ns), Unit::Nanoseconds));
        list.allowed("grants.launch.cooperative", *cooperative);
        list.allowed("grants.launch.raw_addresses", *raw_addresses);
    }
    list.allowed("grants.queue", queue.is_some());
    if let Some(QueueGrant { max_count, max_depth, max_in_flight }) = queue {
        list.count("grants.queue.max_count", *max_count);
        list.count("grants.queue.max_depth", *max_depth);
        list.count("grants.queue.max_in_flight", *max_in_flight);
    }
    list.allowed("grants.copy", *copy);
    list.allowed("grants.fill", *fill);
    list.allowed("grants.fence", fence.is_some());
    if let Some(FenceGrant { max_count, max_wait_ns }) = fence {
        list.count("grants.fence.max_count", *max_count);
        list.live("grants.fence.max_wait", Value::Limit(Some(*max_wait_ns), Unit::Nanoseconds));
    }
    list.allowed("grants.derive", *derive);
}

fn path(path: Option<&Path>) -> String {
    path.map_or("none".into(), |path| path.display().to_string())
}

fn ids(ids: &[u32]) -> String {
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    if ids.is_empty() { "none".into() } else { ids.join(", ") }
}
