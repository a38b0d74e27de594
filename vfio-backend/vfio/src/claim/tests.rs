//! Claims against a kernel made of directories and links.

use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::host::Kernel;

/// A machine with one `edu` device in group 7.
pub(crate) struct Fake {
    root: tempfile::TempDir,
    records: tempfile::TempDir,
}

const BDF: &str = "0000:00:04.0";

/// Does what the PCI bus does with `unbind`, `driver_override` and `drivers_probe`.
struct Bus {
    root: PathBuf,
    /// vfio-pci does not want the function.
    refuses: AtomicBool,
}

impl Kernel for Bus {
    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        let function = self.root.join("sys/bus/pci/devices").join(BDF);
        match path.file_name().and_then(|n| n.to_str()) {
            Some("unbind") => fs::remove_file(function.join("driver")),
            Some("driver_override") => fs::write(path, text),
            Some("drivers_probe") => {
                assert_eq!(text, BDF);
                let wanted = fs::read_to_string(function.join("driver_override"))?;
                let driver = self.root.join("sys/bus/pci/drivers").join(wanted.trim());
                if self.refuses.load(Ordering::Relaxed) && wanted.trim() == VFIO {
                    return Err(io::Error::from_raw_os_error(22));
                }
                symlink(driver, function.join("driver"))
            }
            other => panic!("nobody writes to {other:?}"),
        }
    }
}

impl Fake {
    pub(crate) fn new() -> Fake {
        let fake =
            Fake { root: tempfile::tempdir().unwrap(), records: tempfile::tempdir().unwrap() };
        let own = |file: &str| format!("sys/bus/pci/devices/{BDF}/{file}");
        for (file, text) in [
            ("vendor", "0x1234"),
            ("device", "0x11e8"),
            ("class", "0x00ff00"),
            ("reset_method", "bus"),
            ("driver_override", "(null)"),
        ] {
            fake.file(&own(file), text);
        }
        fake.bytes("config", &[0; 256]);
        fake.file("sys/class/iommu/dmar0", "");
        fake.file("sys/kernel/iommu_groups/7/type", "DMA-FQ");
        fake.symlink(&own("iommu_group"), "../../../kernel/iommu_groups/7");
        fake.symlink(&format!("sys/kernel/iommu_groups/7/devices/{BDF}"), "nowhere");
        fake.file("sys/bus/pci/drivers/vfio-pci/bind", "");
        fake.file("sys/bus/pci/drivers/edu/bind", "");
        fake.symlink(&own("driver"), "../../../bus/pci/drivers/edu");
        fake
    }

    pub(crate) fn address() -> Address {
        BDF.parse().unwrap()
    }

    pub(crate) fn host(&self) -> Host {
        self.host_that(false)
    }

    fn host_that(&self, refuses: bool) -> Host {
        let root = self.root.path().to_owned();
        Host::under(root.clone(), Box::new(Bus { root, refuses: refuses.into() }))
    }

    fn records(&self) -> Records {
        Records::at(self.records.path())
    }

    fn place(&self, path: &str) -> PathBuf {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    pub(crate) fn file(&self, path: &str, text: &str) {
        fs::write(self.place(path), text).unwrap();
    }

    /// A file of the function's own.
    pub(crate) fn bytes(&self, file: &str, bytes: &[u8]) {
        fs::write(self.place(&format!("sys/bus/pci/devices/{BDF}/{file}")), bytes).unwrap();
    }

    pub(crate) fn symlink(&self, path: &str, target: &str) {
        symlink(target, self.place(path)).unwrap();
    }

    pub(crate) fn remove(&self, path: &str) {
        let path = self.root.path().join(path);
        if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }

    /// Another function in the group.
    pub(crate) fn neighbour(&self, driver: &str, class: &str) {
        let own = "sys/bus/pci/devices/0000:00:05.0";
        self.file(&format!("{own}/class"), class);
        self.symlink(&format!("{own}/driver"), &format!("../drivers/{driver}"));
        self.symlink("sys/kernel/iommu_groups/7/devices/0000:00:05.0", "nowhere");
    }

    fn take(&self) -> Result<Claim, ClaimError> {
        Claim::take(self.host(), &self.records(), &Fake::address(), &Allowances::default())
    }

    fn driver(&self) -> Option<String> {
        self.host().driver(&Fake::address())
    }

    fn driver_override(&self) -> String {
        self.host().text(self.host().function(&Fake::address()).join("driver_override")).unwrap()
    }
}

#[test]
fn a_claim_binds_and_its_end_puts_back() {
    let fake = Fake::new();
    let claim = fake.take().unwrap();
    assert_eq!(fake.driver().as_deref(), Some(VFIO));
    assert_eq!(claim.driver_before(), Some("edu"));
    claim.release().unwrap();
    assert_eq!((fake.driver().as_deref(), &*fake.driver_override()), (Some("edu"), ""));
    assert!(fake.records().functions().is_empty());
    drop(fake.take().unwrap());
    assert_eq!(fake.driver().as_deref(), Some("edu"));
}

#[test]
fn what_was_bound_to_nothing_or_to_vfio_already_is_so_again() {
    let fake = Fake::new();
    fake.remove(&format!("sys/bus/pci/devices/{BDF}/driver"));
    drop(fake.take().unwrap());
    assert_eq!(fake.driver(), None);

    fake.symlink(&format!("sys/bus/pci/devices/{BDF}/driver"), "../../../bus/pci/drivers/vfio-pci");
    fake.file(&format!("sys/bus/pci/devices/{BDF}/driver_override"), "vfio-pci");
    drop(fake.take().unwrap());
    assert_eq!((fake.driver().as_deref(), &*fake.driver_override()), (Some(VFIO), VFIO));
}

#[test]
fn a_second_daemon_is_told_who_has_it() {
    let fake = Fake::new();
    let first = fake.take().unwrap();
    let Err(ClaimError::Busy { holder, .. }) = fake.take() else { panic!("taken twice") };
    assert_eq!(holder, std::process::id());
    let released = release(&fake.host(), &fake.records(), &Fake::address());
    assert!(matches!(released, Err(ClaimError::Busy { .. })));
    assert!(fake.records().recover(&fake.host()).is_empty());
    drop(first);
    drop(fake.take().unwrap());
}

#[test]
fn what_a_killed_daemon_left_is_found_and_put_back() {
    let fake = Fake::new();
    let mut claim = fake.take().unwrap();
    // As SIGKILL does it: the lock goes, the record and the binding stay.
    drop(claim.record.take());
    assert_eq!(fake.driver().as_deref(), Some(VFIO));
    let recovered = fake.records().recover(&fake.host());
    assert!(matches!(recovered.as_slice(), [(_, Ok(()))]), "{recovered:?}");
    assert_eq!(fake.driver().as_deref(), Some("edu"));
    // Or the next daemon claims it at once, and still knows what was before.
    let mut claim = fake.take().unwrap();
    drop(claim.record.take());
    drop(fake.take().unwrap());
    assert_eq!(fake.driver().as_deref(), Some("edu"));
}

#[test]
fn an_operators_claim_outlives_daemons_until_it_is_released() {
    let fake = Fake::new();
    fake.take().unwrap().keep().unwrap();
    assert!(fake.records().recover(&fake.host()).is_empty());
    drop(fake.take().unwrap());
    assert_eq!(fake.driver().as_deref(), Some(VFIO));
    release(&fake.host(), &fake.records(), &Fake::address()).unwrap();
    assert_eq!(fake.driver().as_deref(), Some("edu"));
    let again = release(&fake.host(), &fake.records(), &Fake::address());
    assert!(matches!(again, Err(ClaimError::NotClaimed { .. })));
}

#[test]
fn a_claim_that_fails_changes_nothing() {
    let fake = Fake::new();
    let records = fake.records();
    let allow = Allowances::default();
    let failed = Claim::take(fake.host_that(true), &records, &Fake::address(), &allow);
    assert!(matches!(failed, Err(ClaimError::File { .. })), "{failed:?}");
    assert_eq!((fake.driver().as_deref(), &*fake.driver_override()), (Some("edu"), ""));
    assert!(records.functions().is_empty());

    fake.neighbour("e1000", "0x020000");
    let Err(refused) = fake.take() else { panic!("claimed half a group") };
    let text = refused.to_string();
    assert!(text.contains("0000:00:05.0 (e1000)") && text.contains("driverctl"), "{text}");
    assert_eq!(fake.driver().as_deref(), Some("edu"));
    assert!(records.functions().is_empty());
}

#[test]
fn an_unplugged_function_is_forgotten() {
    let fake = Fake::new();
    let claim = fake.take().unwrap();
    fake.remove(&format!("sys/bus/pci/devices/{BDF}"));
    claim.release().unwrap();
    assert!(fake.records().functions().is_empty());
    assert!(matches!(fake.take(), Err(ClaimError::Refused { .. })));
}
