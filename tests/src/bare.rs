//! The bare-metal guest in VMMs that are not ours, entered by PVH.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::NamedTempFile;

use crate::guest::Guest;
use crate::linux::Parts;

/// Its image, in a file.
fn image() -> anyhow::Result<NamedTempFile> {
    let file = NamedTempFile::new()?;
    std::fs::write(file.path(), turnstile_images::PAYLOAD)?;
    Ok(file)
}

/// Boots it in QEMU. QEMU ends with the guest: exit status 1 says that its checks passed.
pub fn in_qemu(parts: &Parts, socket: &Path, line: &str) -> anyhow::Result<Guest> {
    let image = image()?;
    let mut command = parts.qemu(256, image.path(), line, &[socket.to_owned()]);
    // A write of N to the guest's exit port ends QEMU with status 2 N + 1.
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
    Guest::start(command, vec![image])
}

/// Cloud Hypervisor, if this machine names one: Debian has no package of it.
///
/// # Errors
/// What to do to have it.
pub fn cloud_hypervisor() -> Result<PathBuf, String> {
    let name = "TURNSTILE_CLOUD_HYPERVISOR";
    let path = std::env::var_os(name).map(PathBuf::from);
    path.ok_or_else(|| format!("no Cloud Hypervisor: name the program in {name}"))
}

/// Boots it in Cloud Hypervisor, on KVM. It does not end with the guest.
pub fn in_cloud_hypervisor(program: &Path, socket: &Path, line: &str) -> anyhow::Result<Guest> {
    let image = image()?;
    let mut command = Command::new(program);
    command
        .args(["--memory", "size=256M,shared=on", "--cpus", "boot=1"])
        .args(["--serial", "tty", "--console", "off", "--cmdline", line])
        .arg("--user-device")
        .arg(format!("socket={}", socket.display()))
        .arg("--kernel")
        .arg(image.path());
    Guest::start(command, vec![image])
}
