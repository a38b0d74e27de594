//! Whether a function can be given away: everything that decides it, read from sysfs, changing nothing.

use std::path::PathBuf;

use serde::Serialize;

use crate::pci::Config;
use crate::{Address, Host};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Good,
    /// Worth knowing.
    Warn,
    /// The function is not claimed like this.
    Refuse,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Check {
    Function,
    Iommu,
    NoIommu,
    Group,
    AcsOverride,
    Interrupts,
    Ats,
    Acs,
    Driver,
    Users,
    Reset,
    Vfio,
}

impl Check {
    /// Its name for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Check::Function => "function",
            Check::Iommu => "IOMMU",
            Check::NoIommu => "no-IOMMU mode",
            Check::Group => "group",
            Check::AcsOverride => "ACS override",
            Check::Interrupts => "interrupts",
            Check::Ats => "ATS",
            Check::Acs => "ACS",
            Check::Driver => "driver",
            Check::Users => "users",
            Check::Reset => "reset",
            Check::Vfio => "vfio-pci",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: Check,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub what: String,
    /// What to do about it; empty if nothing.
    pub fix: String,
    /// The file that says so.
    pub path: PathBuf,
}

/// What an operator accepts although it is refused by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowances {
    /// Interrupts that the IOMMU does not check: the device can raise any vector of the host.
    pub unsafe_interrupts: bool,
    /// Address translation by the device itself: what it says it translated is not checked.
    pub ats: bool,
    /// A function that nothing can reset: the next tenant may find what the last one left in it.
    pub no_reset: bool,
}

/// A function, looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// Its address.
    pub address: Address,
    /// Vendor and device id.
    pub id: (u16, u16),
    /// Class code.
    pub class: u32,
    /// The driver it is bound to.
    pub driver: Option<String>,
    /// Its IOMMU group.
    pub group: Option<u32>,
    /// Everything that was looked at.
    pub findings: Vec<Finding>,
}

impl Inspection {
    /// Whether it may be claimed.
    #[must_use]
    pub fn is_claimable(&self) -> bool {
        self.refusals().next().is_none()
    }

    /// What stands in the way.
    pub fn refusals(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|f| f.level == Level::Refuse)
    }
}

/// Whether this machine has an IOMMU that Linux uses.
#[must_use]
pub fn has_iommu(host: &Host) -> bool {
    !host.names("sys/class/iommu").is_empty()
}

/// What to do on a machine without.
pub const NO_IOMMU_FIX: &str = "switch VT-d or AMD-Vi on in the firmware and boot with intel_iommu=on \
     (AMD: amd_iommu=on); in a VM, give the VM an IOMMU";

/// Looks at a function.
#[must_use]
pub fn inspect(host: &Host, address: &Address, allow: &Allowances) -> Inspection {
    let directory = host.function(address);
    let id = |file| host.number(directory.join(file)).unwrap_or(0);
    let mut look = Look { host, address, directory: directory.clone(), findings: Vec::new() };
    let present = directory.join("vendor").exists();
    let group = host.link(directory.join("iommu_group")).and_then(|n| n.parse().ok());
    if present {
        look.iommu(group);
        look.interrupts(allow);
        look.capabilities(allow);
        look.driver();
        look.reset(allow);
    } else {
        look.add(Check::Function, Level::Refuse, "vendor", "there is no such function",
            "look at the addresses that turnstile device list shows; a function that was unplugged comes \
             back with: echo 1 > /sys/bus/pci/rescan");
    }
    // CAST: ids of 16 bits, a class of 24.
    Inspection {
        address: address.clone(),
        id: (id("vendor") as u16, id("device") as u16),
        class: id("class") as u32,
        driver: host.driver(address),
        group,
        findings: look.findings,
    }
}

struct Look<'h> {
    host: &'h Host,
    address: &'h Address,
    directory: PathBuf,
    findings: Vec<Finding>,
}

impl Look<'_> {
    /// A finding about a file of the function's directory.
    fn add(
        &mut self,
        check: Check,
        level: Level,
        file: &str,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.add_at(check, level, self.directory.join(file), what, fix);
    }

    fn add_at(
        &mut self,
        check: Check,
        level: Level,
        path: PathBuf,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.findings.push(Finding { check, level, what: what.into(), fix: fix.into(), path });
    }

    fn iommu(&mut self, group: Option<u32>) {
        let host = self.host;
        let class = host.path("sys/class/iommu");
        let Some(group) = group else {
            let what = if has_iommu(host) {
                "this machine's IOMMU does not cover the function"
            } else {
                "this machine has no IOMMU that Linux uses"
            };
            let path = if has_iommu(host) { self.directory.join("iommu_group") } else { class };
            return self.add_at(Check::Iommu, Level::Refuse, path, what, NO_IOMMU_FIX);
        };
        let group_directory = host.path(format!("sys/kernel/iommu_groups/{group}"));
        if host.text(group_directory.join("name")).as_deref() == Some("vfio-noiommu") {
            let what = "the function is in a group without an IOMMU: its DMA reaches all memory";
            let fix = format!(
                "rmmod vfio-pci vfio, load them without enable_unsafe_noiommu_mode, and {NO_IOMMU_FIX}"
            );
            return self.add_at(Check::NoIommu, Level::Refuse, group_directory, what, fix);
        }
        let kind = host.text(group_directory.join("type")).unwrap_or_default();
        let (level, what, fix) = if has_iommu(host) {
            (Level::Good, format!("group {group}, translating for the kernel as {kind:?}"), "")
        } else {
            (Level::Refuse, format!("group {group}, but no IOMMU in use"), NO_IOMMU_FIX)
        };
        self.add_at(Check::Iommu, level, group_directory.join("type"), what, fix);
        self.members(group, group_directory.join("devices"));
        let unsafe_mode = "sys/module/vfio/parameters/enable_unsafe_noiommu_mode";
        if host.text(unsafe_mode).is_some_and(|on| on == "Y" || on == "1") {
            let what = "VFIO was loaded so that it also works without an IOMMU";
            let fix = "load vfio without enable_unsafe_noiommu_mode; this function has an IOMMU";
            self.add_at(Check::NoIommu, Level::Warn, host.path(unsafe_mode), what, fix);
        }
        let line = host.text("proc/cmdline").unwrap_or_default();
        if line.split_whitespace().any(|word| word.starts_with("pcie_acs_override")) {
            let what = "groups were split by pcie_acs_override: functions in different groups can still \
                        reach each other";
            let fix = "boot without pcie_acs_override, and give away whole groups";
            self.add_at(Check::AcsOverride, Level::Refuse, host.path("proc/cmdline"), what, fix);
        }
    }

    /// What else is in the group goes with the function.
    fn members(&mut self, group: u32, directory: PathBuf) {
        let host = self.host;
        let (mut with, mut blocked) = (Vec::new(), Vec::new());
        for other in host.names(&directory).iter().filter_map(|name| name.parse::<Address>().ok()) {
            if other == *self.address {
                continue;
            }
            let bridge =
                host.number(host.function(&other).join("class")).unwrap_or(0) >> 8 == 0x0604;
            match host.driver(&other) {
                None => with.push(other.to_string()),
                Some(driver) if driver == "vfio-pci" || (bridge && driver == "pcieport") => {
                    with.push(other.to_string());
                }
                Some(driver) => blocked.push((other, driver)),
            }
        }
        if blocked.is_empty() {
            let what = match with.as_slice() {
                [] => "the function is alone in its group".to_owned(),
                with => format!(
                    "in the group with it, bound to nothing or vfio-pci: {}",
                    with.join(", ")
                ),
            };
            return self.add_at(Check::Group, Level::Good, directory, what, "");
        }
        let list: Vec<String> = blocked.iter().map(|(a, d)| format!("{a} ({d})")).collect();
        let fix: Vec<String> =
            blocked.iter().map(|(a, _)| format!("driverctl set-override {a} vfio-pci")).collect();
        let what = format!("group {group} is not viable: other drivers hold {}", list.join(", "));
        self.add_at(Check::Group, Level::Refuse, directory, what, fix.join("; "));
    }

    fn interrupts(&mut self, allow: &Allowances) {
        let parameter = "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";
        let on = self.host.text(parameter).is_some_and(|on| on == "Y" || on == "1");
        let path = self.host.path(parameter);
        if !on {
            let what = "VFIO insists on interrupt remapping";
            return self.add_at(Check::Interrupts, Level::Good, path, what, "");
        }
        let level = if allow.unsafe_interrupts { Level::Warn } else { Level::Refuse };
        let what = "allow_unsafe_interrupts is on: the device may raise any interrupt of the host";
        let fix = "load vfio_iommu_type1 without it; where the IOMMU cannot remap interrupts, accept it \
                   with --allow unsafe-interrupts, or \"allow\": [\"unsafe_interrupts\"] in the policy";
        self.add_at(Check::Interrupts, level, path, what, fix);
    }

    fn config(&self, address: &Address) -> Config {
        Config(std::fs::read(self.host.function(address).join("config")).unwrap_or_default())
    }

    fn capabilities(&mut self, allow: &Allowances) {
        let config = self.config(self.address);
        match config.ats_enabled() {
            Some(true) => {
                let level = if allow.ats { Level::Warn } else { Level::Refuse };
                let what = "ATS is on: what the device calls translated passes the IOMMU unchecked";
                let fix = "boot with pci=noats, or accept it with --allow ats";
                self.add(Check::Ats, level, "config", what, fix);
            }
            Some(false) => self.add(Check::Ats, Level::Good, "config", "ATS is off", ""),
            None if config.is_whole() => {
                self.add(Check::Ats, Level::Good, "config", "the function has no ATS", "");
            }
            // Conventional PCI has no extended part either; with privileges 256 bytes can be read.
            None if config.0.len() >= 256 => {
                let what = "the function has no extended capabilities, so no ATS";
                self.add(Check::Ats, Level::Good, "config", what, "");
            }
            None => {
                let what = "the extended capabilities cannot be read";
                self.add(Check::Ats, Level::Warn, "config", what, "look again as root");
            }
        }
        for port in self.ports() {
            let config = self.config(&port);
            if config.0.len() < 256 {
                continue;
            }
            let path = self.host.function(&port).join("config");
            match config.acs_isolates() {
                Some(true) => {
                    let what = format!("port {port} keeps what is behind it apart");
                    self.add_at(Check::Acs, Level::Good, path, what, "");
                }
                _ => {
                    let what = format!(
                        "port {port} does not say that it keeps what is behind it apart (no ACS in force)"
                    );
                    let fix = "nothing to do while the whole group is the tenant's; the kernel forms groups \
                               by this";
                    self.add_at(Check::Acs, Level::Warn, path, what, fix);
                }
            }
        }
    }

    /// The ports between the function and the root, nearest first.
    fn ports(&self) -> Vec<Address> {
        let Ok(real) = std::fs::canonicalize(&self.directory) else { return Vec::new() };
        let names = real.parent().into_iter().flat_map(|p| p.iter().rev());
        names.map_while(|name| name.to_str()?.parse().ok()).collect()
    }

    fn driver(&mut self) {
        let host = self.host;
        let vfio = host.path("sys/bus/pci/drivers/vfio-pci");
        if !vfio.exists() {
            self.add_at(
                Check::Vfio,
                Level::Refuse,
                vfio,
                "vfio-pci is not loaded",
                "modprobe vfio-pci",
            );
        } else {
            let cdev = !host.names(self.directory.join("vfio-dev")).is_empty();
            let way = if cdev && host.path("dev/iommu").exists() {
                "through iommufd"
            } else {
                "through group and container"
            };
            self.add_at(Check::Vfio, Level::Good, vfio, format!("vfio-pci is loaded, {way}"), "");
        }
        let (level, what, fix) = match host.driver(self.address).as_deref() {
            Some("vfio-pci") => (Level::Good, "bound to vfio-pci".to_owned(), String::new()),
            None => (Level::Good, "bound to no driver".to_owned(), String::new()),
            Some(driver) => {
                let fix = "claiming unbinds it and binds it again on release";
                (Level::Warn, format!("bound to {driver}"), fix.to_owned())
            }
        };
        self.add(Check::Driver, level, "driver", what, fix);
        let users = crate::inspect::users(host, self.address);
        if users.is_empty() {
            self.add(
                Check::Users,
                Level::Good,
                "driver",
                "nobody uses it, as far as this user may see",
                "",
            );
        } else {
            let what = format!("in use by {}", users.join(", "));
            self.add(Check::Users, Level::Refuse, "driver", what, "end or unmount what uses it");
        }
    }

    fn reset(&mut self, allow: &Allowances) {
        match self.host.text(self.directory.join("reset_method")) {
            Some(methods) if !methods.is_empty() => {
                let what = format!("can be reset by {}", methods.replace(' ', ", "));
                self.add(Check::Reset, Level::Good, "reset_method", what, "");
            }
            _ => {
                let level = if allow.no_reset { Level::Warn } else { Level::Refuse };
                let what = "nothing can reset the function between tenants";
                let fix = "use another function; or accept it with --allow no-reset where the device \
                           has a reset of its own, as a Turnstile device has";
                self.add(Check::Reset, level, "reset_method", what, fix);
            }
        }
    }
}

/// Who uses a function: processes that hold its device files, network interfaces that are up,
/// mounted disks.
#[must_use]
pub fn users(host: &Host, address: &Address) -> Vec<String> {
    let directory = host.function(address);
    let mut nodes = Vec::new();
    if let Some(group) = host.link(directory.join("iommu_group")) {
        nodes.push(format!("/dev/vfio/{group}"));
        nodes.push(format!("/dev/vfio/noiommu-{group}"));
    }
    nodes.extend(
        host.names(directory.join("vfio-dev")).iter().map(|n| format!("/dev/vfio/devices/{n}")),
    );
    nodes.extend(host.names(directory.join("drm")).iter().map(|n| format!("/dev/dri/{n}")));
    let nvidia = host.driver(address).as_deref() == Some("nvidia");
    let mut users = Vec::new();
    for pid in host.names("proc").iter().filter(|n| n.bytes().all(|b| b.is_ascii_digit())) {
        let files = host.path(format!("proc/{pid}/fd"));
        let uses = |name: &String| {
            let target = std::fs::read_link(files.join(name)).unwrap_or_default();
            let target = target.to_string_lossy();
            nodes.iter().any(|node| *node == target)
                || (nvidia && target.starts_with("/dev/nvidia"))
        };
        if host.names(&files).iter().any(uses) {
            let name = host.text(format!("proc/{pid}/comm")).unwrap_or_default();
            users.push(format!("process {pid} ({name})"));
        }
    }
    for interface in host.names(directory.join("net")) {
        let up = directory.join("net").join(&interface).join("operstate");
        if host.text(up).is_some_and(|state| state == "up") {
            users.push(format!("network interface {interface}, which is up"));
        }
    }
    let mounts = host.text("proc/mounts").unwrap_or_default();
    for disk in disks(host, &directory) {
        let prefix = format!("/dev/{disk}");
        if mounts.lines().any(|line| line.starts_with(&prefix)) {
            users.push(format!("disk {disk}, which is mounted"));
        }
    }
    users
}

/// Block devices of a function: NVMe namespaces, SCSI and virtio disks.
fn disks(host: &Host, directory: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for name in host.names("sys/block") {
        let real = std::fs::canonicalize(host.path("sys/block").join(&name)).unwrap_or_default();
        if std::fs::canonicalize(directory).is_ok_and(|own| real.starts_with(own)) {
            found.push(name);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::tests::Fake;

    fn level(fake: &Fake, allow: Allowances, check: Check) -> (Level, String) {
        let report = inspect(&fake.host(), &Fake::address(), &allow);
        let finding = report.findings.iter().rfind(|f| f.check == check);
        let finding = finding.unwrap_or_else(|| panic!("{check:?} in {report:#?}"));
        if finding.level == Level::Refuse {
            assert!(!finding.fix.is_empty() && !report.is_claimable(), "{finding:?}");
        }
        (finding.level, finding.what.clone())
    }

    #[test]
    fn a_function_behind_an_iommu_is_claimable() {
        let fake = Fake::new();
        let report = inspect(&fake.host(), &Fake::address(), &Allowances::default());
        assert!(report.is_claimable(), "{report:#?}");
        assert_eq!((report.id, report.group), ((0x1234, 0x11e8), Some(7)));
        assert_eq!(report.driver.as_deref(), Some("edu"));
    }

    #[test]
    fn every_danger_is_refused_and_says_what_to_do() {
        let none = Allowances::default();
        let check = |change: &dyn Fn(&Fake), what| {
            let fake = Fake::new();
            change(&fake);
            level(&fake, none, what).0
        };
        let refused = |change: &dyn Fn(&Fake), what| {
            assert_eq!(check(change, what), Level::Refuse, "{what:?}");
        };
        refused(&|f| f.remove("sys/bus/pci/devices/0000:00:04.0/vendor"), Check::Function);
        refused(&|f| f.remove("sys/bus/pci/devices/0000:00:04.0/iommu_group"), Check::Iommu);
        refused(&|f| f.file("sys/kernel/iommu_groups/7/name", "vfio-noiommu"), Check::NoIommu);
        refused(&|f| f.remove("sys/class/iommu/dmar0"), Check::Iommu);
        refused(&|f| f.neighbour("e1000", "0x020000"), Check::Group);
        refused(
            &|f| f.file("proc/cmdline", "quiet pcie_acs_override=downstream"),
            Check::AcsOverride,
        );
        let parameter = "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";
        refused(&|f| f.file(parameter, "Y"), Check::Interrupts);
        let ats = |f: &Fake| f.bytes("config", &crate::pci::tests::with(0xf, 1 << 15));
        refused(&ats, Check::Ats);
        refused(&|f| f.remove("sys/bus/pci/drivers/vfio-pci"), Check::Vfio);
        refused(&|f| f.remove("sys/bus/pci/devices/0000:00:04.0/reset_method"), Check::Reset);
        refused(
            &|f| f.file("sys/bus/pci/devices/0000:00:04.0/net/eth0/operstate", "up"),
            Check::Users,
        );
        refused(&|f| f.symlink("proc/99/fd/3", "/dev/vfio/7"), Check::Users);
        assert_eq!(check(&|f| f.neighbour("pcieport", "0x060400"), Check::Group), Level::Good);
        assert_eq!(check(&|f| f.neighbour("vfio-pci", "0x040300"), Check::Group), Level::Good);
    }

    #[test]
    fn an_operator_may_accept_what_the_hardware_cannot_do() {
        let fake = Fake::new();
        fake.file("sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "1");
        fake.remove("sys/bus/pci/devices/0000:00:04.0/reset_method");
        fake.bytes("config", &crate::pci::tests::with(0xf, 1 << 15));
        let all = Allowances { unsafe_interrupts: true, ats: true, no_reset: true };
        for check in [Check::Interrupts, Check::Ats, Check::Reset] {
            assert_eq!(level(&fake, all, check).0, Level::Warn);
        }
        assert!(inspect(&fake.host(), &Fake::address(), &all).is_claimable());
    }
}
