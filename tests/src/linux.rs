//! QEMU and Linux guests in it: where they come from, and how they are booted.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, ensure};

use crate::guest::Guest;
use crate::initramfs::Initramfs;
use crate::workspace;

/// What a guest is made of, found or fetched once.
#[derive(Clone, Debug)]
pub struct Parts {
    directory: PathBuf,
    /// `turnstile-guest`, static.
    pub tool: PathBuf,
}

/// Fetches the parts, or says why they cannot be had here.
pub fn parts() -> Result<Parts, String> {
    static PARTS: OnceLock<Result<Parts, String>> = OnceLock::new();
    PARTS.get_or_init(|| fetch().map_err(|e| format!("{e:#}"))).clone()
}

fn fetch() -> anyhow::Result<Parts> {
    let directory = workspace::target().join("guest-linux");
    let script = workspace::root().join("scripts/guest-linux");
    let output = Command::new(script).arg(&directory).output().context("scripts/guest-linux")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", said.lines().last().unwrap_or("scripts/guest-linux"));
    Ok(Parts { directory, tool: tool()? })
}

/// Builds the guest's tool, static, because the guest has no libraries.
fn tool() -> anyhow::Result<PathBuf> {
    let into = workspace::target().join("guest-tool");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--release", "--quiet", "--package", "turnstile-linux"])
        .args(["--lib", "--bin", "turnstile-guest", "--target", "x86_64-unknown-linux-gnu"])
        .arg("--target-dir")
        .arg(&into)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .current_dir(workspace::root())
        .output()
        .context("running cargo")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(into.join("x86_64-unknown-linux-gnu/release/turnstile-guest"))
}

/// Puts a program of this machine into an archive, with the libraries that `ldd` says it needs and
/// without what only debuggers read.
pub fn add_program(archive: &mut Initramfs, name: &str, program: &Path) -> anyhow::Result<()> {
    let stripped = tempfile::NamedTempFile::new()?;
    let strip = Command::new("strip").arg("-o").arg(stripped.path()).arg(program).status();
    // Without it the guest only needs more memory.
    let smaller = strip.is_ok_and(|status| status.success());
    let smaller = smaller.then_some(stripped.path());
    archive.copy(&format!("bin/{name}"), smaller.unwrap_or(program))?;
    let output = Command::new("ldd").arg(program).output().context("running ldd")?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let library = line.split_whitespace().find(|word| word.starts_with('/'));
        let Some(library) = library else { continue };
        archive.copy(library.trim_start_matches('/'), Path::new(library))?;
    }
    Ok(())
}

/// Builds the C example against the C library, static. `None`: no C compiler here.
pub fn c_example(parts: &Parts, into: &Path) -> anyhow::Result<Option<PathBuf>> {
    let program = into.join("vecadd-c");
    let root = workspace::root().join("guest-driver/linux");
    let libraries = parts.tool.parent().context("the tool lies in a directory")?;
    let mut command = Command::new("cc");
    command
        .arg("-static")
        .arg("-o")
        .arg(&program)
        .arg(root.join("c/vecadd.c"))
        .arg("-I")
        .arg(root.join("include"))
        .arg(libraries.join("libturnstile_linux.a"))
        .args(["-lpthread", "-ldl", "-lm"]);
    let Ok(output) = command.output() else { return Ok(None) };
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(Some(program))
}

impl Parts {
    /// QEMU (TCG) with this kernel on this command line, with vfio-user devices at these sockets;
    /// the guest's serial line is QEMU's standard output.
    #[must_use]
    pub fn qemu(&self, mib: u32, kernel: &Path, line: &str, sockets: &[PathBuf]) -> Command {
        let root = self.directory.join("root");
        let libraries = root.join("usr/lib/x86_64-linux-gnu");
        let mut command = Command::new(root.join("lib64/ld-linux-x86-64.so.2"));
        command
            .env("QEMU_MODULE_DIR", libraries.join("qemu"))
            .arg("--library-path")
            .arg(&libraries)
            .arg(root.join("usr/bin/qemu-system-x86_64"))
            .arg("-L")
            .arg(root.join("usr/share/qemu"))
            .arg("-L")
            .arg(root.join("usr/share/seabios"))
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"])
            .args(["-machine", "q35,memory-backend=m", "-m", &format!("{mib}M")])
            .args(["-object", &format!("memory-backend-memfd,id=m,size={mib}M,share=on")])
            .args(["-serial", "stdio", "-append", line, "-kernel"])
            .arg(kernel);
        for socket in sockets {
            let device = serde_json::json!({
                "driver": "vfio-user-pci", "socket": { "type": "unix", "path": socket }
            });
            command.args(["-device", &device.to_string()]);
        }
        command
    }

    /// The modules that must be loaded for `name`, in order, with `name` last. There is no index of
    /// them (depmod has not run): each module says itself what it needs.
    pub fn modules(&self, name: &str) -> anyhow::Result<Vec<PathBuf>> {
        let mut order = Vec::new();
        self.need(name, &mut order, 0)?;
        Ok(order)
    }

    fn need(&self, name: &str, order: &mut Vec<PathBuf>, depth: u32) -> anyhow::Result<()> {
        ensure!(depth < 16, "modules that need each other: {name}");
        let Some(path) = find(&self.directory.join("modules"), name) else {
            // Built in.
            return Ok(());
        };
        if order.contains(&path) {
            return Ok(());
        }
        let bytes = std::fs::read(&path)?;
        let needle = b"\0depends=";
        let at = bytes.windows(needle.len()).position(|w| w == needle);
        let at = at.with_context(|| format!("{} does not say what it needs", path.display()))?;
        let list = bytes[at + needle.len()..].split(|&b| b == 0).next().unwrap_or_default();
        for needed in String::from_utf8_lossy(list).split(',').filter(|n| !n.is_empty()) {
            self.need(needed, order, depth + 1)?;
        }
        order.push(path);
        Ok(())
    }

    /// An init that runs these lines in busybox's shell and switches the machine off.
    pub fn init(&self, lines: &str) -> anyhow::Result<Initramfs> {
        let mut archive = Initramfs::new();
        archive
            .copy("bin/busybox", &self.directory.join("busybox"))?
            .copy("bin/turnstile-guest", &self.tool)?;
        let script = format!(
            "#!/bin/busybox sh\n/bin/busybox --install -s /bin\nexport PATH=/bin\n\
             mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev\n\
             echo 'guest: up'\n{lines}\necho 'guest: done'\npoweroff -f\n"
        );
        archive.program("init", script.as_bytes());
        Ok(archive)
    }

    /// An init as above, with vfio-pci bound to the Turnstile device first.
    pub fn init_with_vfio(&self, lines: &str) -> anyhow::Result<Initramfs> {
        let bind = "echo 1234 7473 > /sys/bus/pci/drivers/vfio-pci/new_id\n";
        self.init_with(&["vfio_iommu_type1", "vfio-pci"], &format!("{bind}{lines}"))
    }

    /// An init as above, with these modules loaded first.
    pub fn init_with(&self, modules: &[&str], lines: &str) -> anyhow::Result<Initramfs> {
        let mut load = String::new();
        let mut files = Vec::new();
        for name in modules {
            for path in self.modules(name)? {
                let file = path.file_name().context("a module has a name")?;
                let place = format!("lib/{}", file.to_string_lossy());
                if !files.contains(&(place.clone(), path.clone())) {
                    load.push_str(&format!("insmod /{place}\n"));
                    files.push((place, path));
                }
            }
        }
        let mut archive = self.init(&format!("{load}{lines}"))?;
        for (place, path) in files {
            archive.copy(&place, &path)?;
        }
        Ok(archive)
    }
}

fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    let same = |a: &str| a.replace('-', "_") == name.replace('-', "_");
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).ok()?.flatten() {
            let path = entry.path();
            if path.is_dir() && !path.is_symlink() {
                left.push(path);
            } else if path.extension().is_some_and(|e| e == "ko")
                && path.file_stem().is_some_and(|stem| same(&stem.to_string_lossy()))
            {
                return Some(path);
            }
        }
    }
    None
}

/// How a guest is booted.
#[derive(Clone, Debug)]
pub struct Machine {
    /// RAM in MiB.
    pub mib: u32,
    /// Sockets of its vfio-user devices.
    pub sockets: Vec<PathBuf>,
    /// Whether it has an IOMMU for its devices.
    pub iommu: bool,
}

/// Boots a Linux guest.
pub fn boot(parts: &Parts, machine: &Machine, archive: Initramfs) -> anyhow::Result<Guest> {
    let initramfs = tempfile::NamedTempFile::new()?;
    std::fs::write(initramfs.path(), archive.finish())?;
    // On a busy machine an emulated timer looks broken to a kernel that checks it.
    let mut line = "console=ttyS0 no_timer_check quiet panic=-1 loglevel=4".to_owned();
    if machine.iommu {
        line.push_str(" intel_iommu=on");
    }
    let kernel = parts.directory.join("vmlinuz");
    let mut command = parts.qemu(machine.mib, &kernel, &line, &machine.sockets);
    command.arg("-initrd").arg(initramfs.path());
    if machine.iommu {
        command.args(["-device", "intel-iommu,intremap=on,caching-mode=on"]);
    }
    Guest::start(command, vec![initramfs])
}
