//! The document's records, as an operator writes them.
//!
//! The comments here are the reference: they become the descriptions of the JSON Schema and the
//! tables of docs/policy.md.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::allow::Grants;
use super::attach::Attach;
use super::decode::{At, Decode, Reader, Set, choice, quoted, record, words};
use super::problem::Problem;
use super::quantity::{Count, Size, Span};
use super::text::{FilePath, Name, PciAddress, Text};
use super::tree::{NodeId, Value};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// The largest amount of memory a policy can speak of.
const MOST: u64 = 1 << 50;
const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;
const HOUR: u64 = 3600 * SECOND;

/// The most tenants a policy can have.
pub(crate) const MAX_TENANTS: usize = 4096;

/// Identifies a user or group; the last value means "none" to the system.
pub(crate) type Id = Count<0, 0xffff_fffe>;

record! {
    /// A Turnstile policy: one device, and the tenants that share it. What is not granted is denied.
    struct Document("an object", "{ \"version\": 1, … }") {
        /// Where the schema of this document lies, for editors. Not read.
        optional schema("$schema"): Text;
        /// Version of the format: 1.
        required version: Version;
        /// The device that is shared.
        required device: Device;
        /// What holds for every tenant that does not say otherwise.
        section defaults: Defaults;
        /// The audit log.
        section audit: Audit;
        /// The tenants, at most 4096.
        required tenants: Vec<At<Tenant>>;
    }
}

record! {
    /// The device that is shared.
    struct Device("an object", "{ \"backend\": \"emulated\", \"memory\": \"1GiB\" }") {
        /// What drives it.
        required backend: Backend;
        /// Device memory that all tenants together may hold.
        required memory: Size<{ MIB }, { MOST }>;
        /// Whether the tenants' `max_bytes` of device buffers may add up to more than the device's
        /// memory. Then a tenant within its quota may still be told that there is no memory left.
        default overcommit: bool = false;
        /// How long the backend may be silent about a command, beyond the command's own limit, before
        /// the tenant's session is ended.
        default watchdog: Span<{ MS }, { HOUR }> = Span(30 * SECOND);
        /// Options of the emulated GPU.
        section emulated: Emulated;
        /// Options of the CUDA backend.
        section cuda: Cuda;
        /// Options of the VFIO backend.
        optional vfio: Vfio;
    }
}

words! {
    /// What drives the device.
    enum Backend("a backend", "\"emulated\"") {
        /// A GPU in software. Runs everywhere.
        Emulated = "emulated",
        /// An NVIDIA GPU, through its CUDA driver.
        Cuda = "cuda",
        /// A PCI function that speaks the Turnstile ABI, through VFIO.
        Vfio = "vfio",
    }
}

record! {
    /// Options of the emulated GPU.
    struct Emulated("an object", "{ \"workers\": 2 }") {
        /// Threads that run kernels. Without it, one for each processor.
        optional workers: Count<1, 256>;
    }
}

record! {
    /// Options of the CUDA backend.
    struct Cuda("an object", "{ \"device\": 0 }") {
        /// Ordinal of the GPU, as the CUDA driver counts.
        default device: Count<0, 63> = Count(0);
        /// Use of the Multi-Process Service, which lets concurrent tenants run at the same time.
        default mps: Mps = Mps::Auto;
        /// Worker processes kept ready for new sessions.
        default warm_workers: Count<0, 64> = Count(1);
        /// Directory where compiled programs are kept. Without it, each run compiles anew.
        optional cache: FilePath;
    }
}

words! {
    /// Use of the Multi-Process Service.
    enum Mps("a use of MPS", "\"auto\"") {
        /// Used if it is installed; if not, tenants take turns, and the daemon says so.
        Auto = "auto",
        /// Used, and the daemon does not start without it.
        Require = "require",
        /// Not used: every tenant must have isolation `exclusive`, which is the default then.
        Off = "off",
    }
}

record! {
    /// Options of the VFIO backend.
    struct Vfio("an object", "{ \"function\": \"0000:65:00.0\" }") {
        /// PCI address of the function.
        required function: PciAddress;
        /// Dangers that are accepted where the hardware leaves no choice. Without it, none: the function
        /// is refused.
        optional accept: Set<Danger>;
    }
}

words! {
    /// A danger of giving a device away.
    enum Danger("a danger", "\"unsafe_interrupts\"") {
        /// Interrupts that the IOMMU does not remap: the device can raise any interrupt of the host.
        UnsafeInterrupts = "unsafe_interrupts",
        /// Addresses that the device says it has translated (ATS) pass the IOMMU unchecked.
        Ats = "ats",
    }
}

record! {
    /// What holds for every tenant that does not say otherwise.
    struct Defaults("an object", "{ \"audit\": \"denied\" }") {
        /// See the tenant's `audit`.
        optional audit: AuditLevel;
        /// See the tenant's `rate`.
        optional rate: RateLimit;
        /// See the tenant's `isolation`.
        optional isolation: Isolation;
        /// See the tenant's `aperture`.
        optional aperture: Aperture;
        /// See the tenant's `recover`.
        optional recover: bool;
    }
}

record! {
    /// The audit log: JSON lines, each with a sequence number and the hash of the one before.
    struct Audit("an object", "{ \"path\": \"audit.jsonl\" }") {
        /// The file. Without it no log is kept, and events are only counted.
        optional path: FilePath;
        /// When the log is forced to disk.
        default fsync: Fsync = Fsync::Every(SECOND);
        /// Size at which a new file is begun. Without it, never.
        optional rotate: Size<{ 64 * KIB }, { MOST }>;
        /// Age at which a new file is begun, with the next line, though it is not full. Without it,
        /// never.
        optional rotate_after: Span<{ 60 * SECOND }, { 366 * 24 * HOUR }>;
        /// Full files kept.
        default keep: Count<1, 1000> = Count(8);
        /// What happens when the log cannot be written, as on a full disk.
        default on_full: OnFull = OnFull::Count;
        /// Lines a tenant may cause. What exceeds it is counted, and the count is logged.
        default rate: LineRate = LineRate::new(100, 1000);
    }
}

words! {
    /// What happens when the log cannot be written.
    enum OnFull("a way to go on", "\"stop\"") {
        /// No command of any tenant is accepted until it can be.
        Stop = "stop",
        /// Commands go on; lost lines are counted, and the count is logged as soon as it can be.
        Count = "count",
    }
}

record! {
    /// How many lines of the audit log a tenant may cause.
    struct LineRate("an object", "{ \"lines_per_second\": 100, \"burst\": 1000 }") {
        /// Lines a second, on average.
        required lines_per_second: Count<1, 1_000_000>;
        /// Lines at once.
        required burst: Count<1, 1_000_000>;
    }
}

impl LineRate {
    const fn new(lines_per_second: u64, burst: u64) -> LineRate {
        LineRate {
            lines_per_second: At { value: Count(lines_per_second), at: 0 },
            burst: At { value: Count(burst), at: 0 },
        }
    }
}

impl serde::Serialize for LineRate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let LineRate { lines_per_second, burst } = self;
        let fields = [("lines_per_second", lines_per_second.value), ("burst", burst.value)];
        serializer.collect_map(fields)
    }
}

record! {
    /// One tenant: how it attaches, what it may do, how it shares.
    struct Tenant("an object", "{ \"name\": \"trainer\", … }") {
        /// Its name, in logs and metrics. Unique; lower-case letters, digits and inner hyphens.
        required name: Name;
        /// How it reaches its device.
        required attach: Attach;
        /// What it may do. `{}` grants nothing but to look at its limits and to open a session.
        required grants: Grants;
        /// How its kernels run beside those of others. `concurrent`, unless `defaults` or
        /// `device.cuda.mps` say otherwise.
        optional isolation: Isolation;
        /// Its share of the device.
        section schedule: Schedule;
        /// How fast it may submit commands: an object, or `"unlimited"`, which is the default.
        optional rate: RateLimit;
        /// What of it goes to the audit log. `denied`, unless `defaults` says otherwise.
        optional audit: AuditLevel;
        /// Memory that it shares with the mediator for rings, parameters and host-visible buffers; a
        /// power of two. 16MiB, unless `defaults` says otherwise.
        optional aperture: Aperture;
        /// Whether a reset of its device brings it back after its backend was lost. `true`, unless
        /// `defaults` says otherwise. A revocation stands either way.
        optional recover: bool;
    }
}

/// Size of an aperture.
pub(crate) type Aperture = Size<{ MIB }, { 64 * GIB }>;

/// What an aperture measures when nobody says.
pub(crate) const DEFAULT_APERTURE: u64 = 16 * MIB;

words! {
    /// How kernels run beside those of other tenants, on a real GPU.
    enum Isolation("an isolation", "\"concurrent\"") {
        /// At the same time as others'. On the CUDA backend this needs guard `fence`: programs that
        /// cannot fault.
        Concurrent = "concurrent",
        /// In turns with others, in a context of the tenant's own. Slower, but programs may fault.
        Exclusive = "exclusive",
    }
}

words! {
    /// What goes to the audit log. The life and death of tenants and sessions always do.
    enum AuditLevel("an audit level", "\"denied\"") {
        /// Nothing more.
        None = "none",
        /// Every refused command.
        Denied = "denied",
        /// Every command.
        All = "all",
    }
}

record! {
    /// A tenant's share of the device.
    struct Schedule("an object", "{ \"weight\": 1 }") {
        /// Share of the device relative to other tenants that have work, 1 to 1000.
        default weight: Count<1, 1000> = Count(1);
        /// Part of the GPU's multiprocessors its kernels may occupy, in percent. Needs the CUDA
        /// backend and isolation `concurrent`.
        optional sm_percent: Count<1, 100>;
    }
}

record! {
    /// How fast a tenant may submit commands.
    struct CommandRate("a rate", "{ \"commands_per_second\": 200000, \"burst\": 4096 }") {
        /// Commands a second, on average.
        required commands_per_second: Count<1, 1_000_000_000>;
        /// Commands at once.
        required burst: Count<1, 1_000_000_000>;
    }
}

/// A rate, or none.
#[derive(Clone, Debug)]
pub(crate) enum RateLimit {
    Unlimited,
    Limited(CommandRate),
}

impl Decode for RateLimit {
    const EXPECTED: &'static str = "a rate";
    const EXAMPLE: &'static str = CommandRate::EXAMPLE;
    fn decode(reader: &mut Reader<'_>, at: NodeId) -> Option<RateLimit> {
        match &reader.tree.node(at).value {
            Value::String(word) if word == "unlimited" => Some(RateLimit::Unlimited),
            Value::String(word) => {
                let found = quoted(word);
                let write = format!("\"unlimited\" or {}", CommandRate::EXAMPLE);
                reader.error(at, Problem::Unreadable { found, what: "rate", write });
                None
            }
            _ => CommandRate::decode(reader, at).map(RateLimit::Limited),
        }
    }
}

impl JsonSchema for RateLimit {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RateLimit".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "oneOf": [
                { "const": "unlimited", "description": "As fast as it can." },
                generator.subschema_for::<CommandRate>(),
            ]
        })
    }
}

/// When the log is forced to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fsync {
    Never,
    Always,
    /// Nanoseconds.
    Every(u64),
}

/// How often the log may be forced to disk.
type Interval = Span<{ MS }, { HOUR }>;

impl Decode for Fsync {
    const EXPECTED: &'static str = "a time to force the log to disk";
    const EXAMPLE: &'static str = "\"1s\"";
    fn decode(reader: &mut Reader<'_>, at: NodeId) -> Option<Fsync> {
        match &reader.tree.node(at).value {
            Value::String(word) if word == "never" => Some(Fsync::Never),
            Value::String(word) if word == "always" => Some(Fsync::Always),
            Value::String(word) if !word.starts_with(|c: char| c.is_ascii_digit()) => {
                let found = quoted(word);
                let write = match choice(word, &["never", "always"]).as_str() {
                    one if !one.starts_with("one of") => one.into(),
                    _ => "\"never\", \"always\", or a duration such as \"1s\"".into(),
                };
                let what = "time to force the log to disk";
                reader.error(at, Problem::Unreadable { found, what, write });
                None
            }
            _ => Interval::decode(reader, at).map(|interval| Fsync::Every(interval.0)),
        }
    }
}

impl JsonSchema for Fsync {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Fsync".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "oneOf": [
                { "const": "never", "description": "When the system does it." },
                { "const": "always", "description": "Before the commands it speaks of complete." },
                generator.subschema_for::<Interval>(),
            ]
        })
    }
}

impl serde::Serialize for Fsync {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Fsync::Never => serializer.serialize_str("never"),
            Fsync::Always => serializer.serialize_str("always"),
            Fsync::Every(ns) => serializer.serialize_str(&super::quantity::span(*ns)),
        }
    }
}

/// The version of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version;

impl Decode for Version {
    const EXPECTED: &'static str = "a version";
    const EXAMPLE: &'static str = "1";
    fn decode(reader: &mut Reader<'_>, at: NodeId) -> Option<Version> {
        match &reader.tree.node(at).value {
            Value::Number("1") => Some(Version),
            Value::Number(n) => {
                let found = super::decode::shortened(n);
                reader.error(at, Problem::Version { found });
                None
            }
            _ => {
                reader.wrong_type::<Version>(at);
                None
            }
        }
    }
}

impl JsonSchema for Version {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Version".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "const": 1 })
    }
}
