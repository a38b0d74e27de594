//! Whether this machine can run microVMs, and what to do if it cannot.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use kvm_ioctls::{Cap, Kvm};

/// Where KVM is.
const PATH: &str = "/dev/kvm";
/// The one API version there is (Linux Documentation/virt/kvm/api.rst, 4.1).
const API_VERSION: i32 = 12;

/// What a microVM needs of KVM.
const NEEDED: &[(Cap, &str)] = &[
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::SignalMsi, "KVM_CAP_SIGNAL_MSI"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// Why KVM cannot be used here. Each says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// There is no `/dev/kvm`.
    #[error(
        "/dev/kvm is missing: switch virtualisation on in the firmware and load the kvm-intel or \
         kvm-amd module (in a container, pass --device /dev/kvm), or use --frontend process, which \
         needs no VM"
    )]
    Missing,
    /// This user may not open it.
    #[error(
        "no permission to open /dev/kvm, which belongs to {owner}: {remedy}, or use --frontend \
         process, which needs no VM"
    )]
    Permission {
        /// Owner and group of the device.
        owner: Owner,
        /// What gives access.
        remedy: String,
    },
    /// It does not open or does not answer.
    #[error(
        "/dev/kvm does not work: {0}; see the kernel log (dmesg) for why, or use --frontend process, \
         which needs no VM"
    )]
    Broken(io::Error),
    /// The kernel's KVM lacks something.
    #[error(
        "this kernel's KVM lacks {}: use Linux 5.10 or later with KVM for x86, or --frontend \
         process, which needs no VM", .0.join(", ")
    )]
    Lacks(Vec<&'static str>),
}

/// Owner and group of a file, by name where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub user: String,
    /// Group.
    pub group: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {} and group {}", self.user, self.group)
    }
}

/// Whether microVMs can run here: opens KVM, asks for what is needed, creates an empty VM.
pub fn probe() -> Result<(), Unusable> {
    open().map(drop)
}

/// Opens KVM, having checked it.
pub(crate) fn open() -> Result<Kvm, Unusable> {
    let kvm = Kvm::new().map_err(|errno| {
        let error = io::Error::from_raw_os_error(errno.errno());
        match error.kind() {
            io::ErrorKind::NotFound => Unusable::Missing,
            io::ErrorKind::PermissionDenied => permission(),
            // Present, but with no driver behind it.
            _ if errno.errno() == libc::ENODEV || errno.errno() == libc::ENXIO => Unusable::Missing,
            _ => Unusable::Broken(error),
        }
    })?;
    let version = kvm.get_api_version();
    if version != API_VERSION {
        let what = format!("it speaks API version {version}, not {API_VERSION}");
        return Err(Unusable::Broken(io::Error::other(what)));
    }
    let lacks = NEEDED.iter().filter(|(cap, _)| !kvm.check_extension(*cap));
    let lacks: Vec<_> = lacks.map(|(_, name)| *name).collect();
    if !lacks.is_empty() {
        return Err(Unusable::Lacks(lacks));
    }
    let broken = |e: kvm_ioctls::Error| Unusable::Broken(io::Error::from_raw_os_error(e.errno()));
    kvm.create_vm().map_err(broken)?;
    Ok(kvm)
}

fn permission() -> Unusable {
    let (uid, gid, mode) = match fs::metadata(PATH) {
        Ok(file) => (file.uid(), file.gid(), file.mode()),
        Err(_) => (0, 0, 0),
    };
    let owner = Owner { user: name_of("/etc/passwd", uid), group: name_of("/etc/group", gid) };
    let remedy = remedy(gid, mode, &owner.group);
    Unusable::Permission { owner, remedy }
}

/// What gives a user access to a device of this group and mode.
fn remedy(gid: u32, mode: u32, group: &str) -> String {
    if gid != 0 && mode & 0o060 == 0o060 {
        format!("add yourself to that group (sudo usermod -aG {group} $USER) and log in again")
    } else {
        "give a group access (sudo chgrp kvm /dev/kvm && sudo chmod 660 /dev/kvm) and join it \
         (sudo usermod -aG kvm $USER), or run as root"
            .into()
    }
}

/// The name with this number in a file of the form `name:x:number:…`, or the number.
fn name_of(file: &str, number: u32) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    find_name(&text, number).unwrap_or_else(|| number.to_string())
}

fn find_name(text: &str, number: u32) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(number)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_group_and_the_way_around() {
        let groups = "root:x:0:\nbroken\nkvm:x:108:me\n";
        assert_eq!(find_name(groups, 108).as_deref(), Some("kvm"));
        assert_eq!(find_name(groups, 7), None);
        let owner = Owner { user: "root".into(), group: "kvm".into() };
        let text = Unusable::Permission { remedy: remedy(108, 0o660, "kvm"), owner }.to_string();
        assert!(text.contains("usermod -aG kvm"), "{text}");
        assert!(text.contains("--frontend process"), "{text}");
        assert!(remedy(0, 0o600, "root").contains("chgrp kvm"));
        assert!(remedy(108, 0o600, "kvm").contains("chgrp kvm"));
        for other in [Unusable::Missing, Unusable::Lacks(vec!["X", "Y"])] {
            assert!(other.to_string().contains("--frontend process"));
        }
    }
}
