//! The document's `attach`: one record for each way to reach the device.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::decode::{At, Decode, Reader, record, words};
use super::quantity::{Count, Size};
use super::records::Id;
use super::text::{FilePath, Mode, Name, SocketPath, Text};
use super::tree::{NodeId, Value};

const MIB: u64 = 1 << 20;

/// How a tenant reaches its device.
#[derive(Clone, Debug)]
pub(crate) enum Attach {
    MicroVm(MicroVm),
    Process(Process),
    VfioUser(VfioUser),
    Rpc(Rpc),
}

words! {
    /// The ways to reach a device.
    enum Kind("a way to attach", "\"microvm\"") {
        /// A microVM.
        MicroVm = "microvm",
        /// A process.
        Process = "process",
        /// Another VMM.
        VfioUser = "vfio-user",
        /// A client of the capability RPC.
        Rpc = "rpc",
    }
}

impl Decode for Attach {
    const EXPECTED: &'static str = "an object";
    const EXAMPLE: &'static str = "{ \"kind\": \"microvm\", \"guest\": \"vecadd\" }";
    fn decode(reader: &mut Reader<'_>, at: NodeId) -> Option<Attach> {
        if !matches!(reader.tree.node(at).value, Value::Object(_)) {
            reader.wrong_type::<Attach>(at);
            return None;
        }
        let Some(kind) = reader.member(at, "kind") else {
            reader.missing(at, "kind", Kind::EXAMPLE);
            return None;
        };
        match Kind::decode(reader, kind)? {
            Kind::MicroVm => MicroVm::decode(reader, at).map(Attach::MicroVm),
            Kind::Process => Process::decode(reader, at).map(Attach::Process),
            Kind::VfioUser => VfioUser::decode(reader, at).map(Attach::VfioUser),
            Kind::Rpc => Rpc::decode(reader, at).map(Attach::Rpc),
        }
    }
}

impl JsonSchema for Attach {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Attach".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "oneOf": [
                generator.subschema_for::<MicroVm>(),
                generator.subschema_for::<Process>(),
                generator.subschema_for::<VfioUser>(),
                generator.subschema_for::<Rpc>(),
            ]
        })
    }
}

words! {
    /// The kind of a microVM.
    enum MicroVmKind("\"microvm\"", "\"microvm\"") {
        /// A microVM that Turnstile runs itself, on KVM.
        MicroVm = "microvm",
    }
}

words! {
    /// The kind of a process.
    enum ProcessKind("\"process\"", "\"process\"") {
        /// A process on the host, without a virtual machine.
        Process = "process",
    }
}

words! {
    /// The kind of a vfio-user device.
    enum VfioUserKind("\"vfio-user\"", "\"vfio-user\"") {
        /// A virtual machine of QEMU, Cloud Hypervisor or another VMM that speaks vfio-user.
        VfioUser = "vfio-user",
    }
}

words! {
    /// The kind of an RPC client.
    enum RpcKind("\"rpc\"", "\"rpc\"") {
        /// A process that holds the GPU as object capabilities, over Cap'n Proto RPC.
        Rpc = "rpc",
    }
}

record! {
    /// A microVM that Turnstile runs itself. It boots exactly one of `guest`, `elf` and `linux`.
    struct MicroVm("an object", "{ \"kind\": \"microvm\", \"guest\": \"vecadd\" }") {
        /// Chooses this record.
        required kind: MicroVmKind;
        /// Name of a guest that is built into Turnstile.
        optional guest: Name;
        /// A statically linked 64-bit ELF file to boot.
        optional elf: FilePath;
        /// A Linux kernel to boot.
        optional linux: Linux;
        /// Memory of the guest, a multiple of 4KiB.
        default memory: Size<{ 2 * MIB }, { 1 << 42 }> = Size(64 * MIB);
        /// Its vCPUs.
        default vcpus: Count<1, 64> = Count(1);
        /// Arguments for the guest; with `linux`, words added to the command line.
        optional args: Vec<At<Text>>;
    }
}

record! {
    /// A Linux kernel to boot.
    struct Linux("an object", "{ \"kernel\": \"vmlinuz\" }") {
        /// The kernel, a bzImage or a vmlinux.
        required kernel: FilePath;
        /// The initial RAM file system.
        optional initramfs: FilePath;
        /// The command line.
        optional cmdline: Text;
    }
}

record! {
    /// A process on the host. With neither `guest` nor `program` Turnstile starts nothing and waits
    /// for a process to connect.
    struct Process("an object", "{ \"kind\": \"process\", \"guest\": \"vecadd\" }") {
        /// Chooses this record.
        required kind: ProcessKind;
        /// Name of a workload that is built into Turnstile.
        optional guest: Name;
        /// An executable file that Turnstile starts.
        optional program: FilePath;
        /// Arguments for it.
        optional args: Vec<At<Text>>;
        /// The tenant's own socket. Without it, the one that all process tenants share.
        optional socket: SocketPath;
        /// User ids that may connect. With neither `users` nor `groups`, only the user that runs
        /// Turnstile.
        optional users: Vec<At<Id>>;
        /// Group ids whose members may connect.
        optional groups: Vec<At<Id>>;
    }
}

record! {
    /// A virtual machine of another VMM, which connects to a socket and speaks vfio-user.
    struct VfioUser("an object", "{ \"kind\": \"vfio-user\", \"socket\": \"/run/vm.sock\" }") {
        /// Chooses this record.
        required kind: VfioUserKind;
        /// The socket that Turnstile listens on for this tenant.
        required socket: SocketPath;
        /// Permission bits of the socket, in octal.
        default mode: Mode = Mode(0o600);
        /// Id of the group that the socket is given to. Without it, the group that runs Turnstile.
        optional group: Id;
        /// User ids that may connect. Without it, whoever the socket's permissions let through.
        optional users: Vec<At<Id>>;
    }
}

record! {
    /// A process on the host that connects to a socket and speaks Cap'n Proto RPC. A second socket,
    /// named like the first with `.map` added, hands out the memory of mapped buffers.
    struct Rpc("an object", "{ \"kind\": \"rpc\", \"socket\": \"/run/turnstile/a.sock\" }") {
        /// Chooses this record.
        required kind: RpcKind;
        /// The socket that Turnstile listens on for this tenant.
        required socket: SocketPath;
        /// Permission bits of both sockets, in octal.
        default mode: Mode = Mode(0o600);
        /// Id of the group that both sockets are given to. Without it, the group that runs Turnstile.
        optional group: Id;
        /// User ids that may connect. Without it, whoever the socket's permissions let through.
        optional users: Vec<At<Id>>;
    }
}
