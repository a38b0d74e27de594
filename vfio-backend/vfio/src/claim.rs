//! Binding a function to vfio-pci, and putting back what was there before.
//!
//! What is about to change is written down first, in a record of its own for each function. A daemon
//! holds a lock on the record of what it claimed; a record that nobody locks belongs to a daemon that
//! was killed, and whoever comes next puts the function back from it.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::inspect::{Allowances, Finding, inspect};
use crate::{Address, Host};

/// The driver that hands a function to programs.
const VFIO: &str = "vfio-pci";

/// Why a function cannot be claimed or released.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Something about it stands in the way.
    #[error("{address} is not claimed: {}", list(.findings))]
    Refused {
        /// The function.
        address: Address,
        /// What stands in the way.
        findings: Vec<Finding>,
    },
    /// Another daemon has it.
    #[error("{address} is claimed by process {holder}, which holds {}; stop it first", record.display())]
    Busy {
        /// The function.
        address: Address,
        /// Its process id, as it wrote it down.
        holder: u32,
        /// The record.
        record: PathBuf,
    },
    /// Nothing is known about it.
    #[error("{address} was not claimed: there is no {}; release what you bound yourself with: \
             driverctl unset-override {address}", record.display())]
    NotClaimed {
        /// The function.
        address: Address,
        /// Where the record would be.
        record: PathBuf,
    },
    /// A file says no. What was changed before has been put back.
    #[error("cannot {what} {}: {source}; {fix}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
        /// What helps.
        fix: &'static str,
    },
    /// The kernel took the words and did something else.
    #[error("{address} is bound to {found} and not to {wanted} after {}; see dmesg", probe.display())]
    NotBound {
        /// The function.
        address: Address,
        /// What it is bound to.
        found: String,
        /// What it should be.
        wanted: String,
        /// The file that was written.
        probe: PathBuf,
    },
}

fn list(findings: &[Finding]) -> String {
    let each = |f: &Finding| format!("{} ({}); {}", f.what, f.path.display(), f.fix);
    findings.iter().map(each).collect::<Vec<_>>().join(". ")
}

/// What a function was before it was claimed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Before {
    address: Address,
    /// The process that claimed it.
    holder: u32,
    /// The driver it was bound to.
    driver: Option<String>,
    /// What its `driver_override` said.
    driver_override: Option<String>,
    /// Claimed by an operator for later: stays claimed without a process.
    kept: bool,
}

/// Where records are kept.
#[derive(Clone, Debug)]
pub struct Records {
    directory: PathBuf,
}

impl Default for Records {
    fn default() -> Records {
        Records::at("/run/turnstile/claims")
    }
}

impl Records {
    /// Records in a directory, which is made when something is claimed.
    #[must_use]
    pub fn at(directory: impl Into<PathBuf>) -> Records {
        Records { directory: directory.into() }
    }

    fn path(&self, address: &Address) -> PathBuf {
        self.directory.join(format!("{address}.json"))
    }

    /// Functions that an operator claimed, or whose daemon was killed.
    #[must_use]
    pub fn functions(&self) -> Vec<Address> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let name =
            |e: fs::DirEntry| e.file_name().to_string_lossy().strip_suffix(".json")?.parse().ok();
        entries.filter_map(name).collect()
    }

    /// Puts every function back whose daemon was killed. Returns which, and what became of each.
    pub fn recover(&self, host: &Host) -> Vec<(Address, Result<(), ClaimError>)> {
        let mut recovered = Vec::new();
        for address in self.functions() {
            let stale = match self.lock(&address, false) {
                Ok(Some(mut record)) => match record.read() {
                    Some(before) if before.kept => continue,
                    Some(before) => record.undo(host, &before),
                    // Written halfway: nothing had been changed yet.
                    None => record.remove(),
                },
                Ok(None) | Err(ClaimError::Busy { .. }) => continue,
                Err(error) => Err(error),
            };
            recovered.push((address, stale));
        }
        recovered
    }

    /// The record of a function, locked. `None`: there is none and none is wanted.
    fn lock(&self, address: &Address, create: bool) -> Result<Option<Record>, ClaimError> {
        let path = self.path(address);
        let failed = |what, source| ClaimError::File {
            what,
            path: path.clone(),
            source,
            fix: "run as root, with a writable /run",
        };
        if create {
            fs::create_dir_all(&self.directory).map_err(|e| failed("make the directory of", e))?;
        }
        // A record that is removed while this waits for nothing: whoever locks a file that is not
        // there any more starts over.
        for _ in 0..8 {
            let mut options = fs::OpenOptions::new();
            let opened = options.read(true).write(true).create(create).truncate(false).open(&path);
            let file = match opened {
                Err(e) if e.kind() == io::ErrorKind::NotFound && !create => return Ok(None),
                other => other.map_err(|e| failed("open", e))?,
            };
            let mut record = Record { file, path: path.clone() };
            match flock(&record.file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if same(&record.file, &path) => return Ok(Some(record)),
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let holder = record.read().map_or(0, |before| before.holder);
                    let address = address.clone();
                    return Err(ClaimError::Busy { address, holder, record: path });
                }
                Err(e) => return Err(failed("lock", e.into())),
            }
        }
        Err(failed("lock", io::ErrorKind::ResourceBusy.into()))
    }
}

fn same(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let key = |m: fs::Metadata| (m.dev(), m.ino());
    let there = fs::metadata(path).map(key).ok();
    there.is_some() && file.metadata().map(key).ok() == there
}

/// A record, open and locked.
#[derive(Debug)]
struct Record {
    file: File,
    path: PathBuf,
}

impl Record {
    fn failed(&self, what: &'static str, source: io::Error) -> ClaimError {
        ClaimError::File { what, path: self.path.clone(), source, fix: "free space on /run" }
    }

    fn read(&mut self) -> Option<Before> {
        let mut text = String::new();
        self.file.rewind().ok()?;
        (&self.file).take(1 << 16).read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }

    fn write(&mut self, before: &Before) -> Result<(), ClaimError> {
        let text = serde_json::to_vec_pretty(before).unwrap_or_default();
        let mut put = || {
            self.file.set_len(0)?;
            self.file.rewind()?;
            self.file.write_all(&text)?;
            self.file.sync_all()
        };
        put().map_err(|e| self.failed("write", e))
    }

    fn remove(self) -> Result<(), ClaimError> {
        // Removed while it is locked, so nobody can take the old one for theirs.
        fs::remove_file(&self.path).map_err(|e| self.failed("remove", e))
    }

    /// Puts the function back and forgets it. The record stays where that fails.
    fn undo(self, host: &Host, before: &Before) -> Result<(), ClaimError> {
        if host.function(&before.address).exists() {
            let old = before.driver_override.as_deref().unwrap_or("");
            bind(host, &before.address, before.driver.as_deref(), old)?;
        }
        self.remove()
    }
}

/// Binds a function to a driver, or to whichever wants it, with this override in force afterwards.
fn bind(
    host: &Host,
    address: &Address,
    driver: Option<&str>,
    driver_override: &str,
) -> Result<(), ClaimError> {
    let directory = host.function(address);
    let write = |path: PathBuf, text: &str, fix| {
        let result = host.write(&path, text);
        result.map_err(|source| ClaimError::File { what: "write to", path, source, fix })
    };
    if host.driver(address).as_deref() == driver && driver.is_some() {
        let line = format!("{driver_override}\n");
        return write(directory.join("driver_override"), &line, "run as root");
    }
    if host.driver(address).is_some() {
        write(directory.join("driver/unbind"), address.as_str(), "run as root")?;
    }
    // The override decides who may take it while it is probed, and is put right afterwards.
    let probe = host.path("sys/bus/pci/drivers_probe");
    if let Some(driver) = driver {
        write(directory.join("driver_override"), &format!("{driver}\n"), "run as root")?;
        write(probe.clone(), address.as_str(), "see dmesg")?;
    }
    write(directory.join("driver_override"), &format!("{driver_override}\n"), "run as root")?;
    let found = host.driver(address);
    if found.as_deref() == driver {
        return Ok(());
    }
    let word = |driver: Option<&str>| driver.unwrap_or("no driver").to_owned();
    let (found, wanted) = (word(found.as_deref()), word(driver));
    Err(ClaimError::NotBound { address: address.clone(), found, wanted, probe })
}

/// A function that is bound to vfio-pci, and goes back to what it was when this is
/// [released](Self::release) or dropped.
pub struct Claim {
    host: Host,
    before: Before,
    record: Option<Record>,
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claim").field("before", &self.before).finish_non_exhaustive()
    }
}

impl Claim {
    /// Claims a function. Whatever fails, it is afterwards what it was before.
    ///
    /// # Errors
    /// When something stands in the way, another daemon has it, or the kernel says no.
    pub fn take(
        host: Host,
        records: &Records,
        address: &Address,
        allow: &Allowances,
    ) -> Result<Claim, ClaimError> {
        let directory = host.function(address);
        let report = inspect(&host, address, allow);
        if !directory.join("vendor").exists() {
            let findings = report.refusals().cloned().collect();
            return Err(ClaimError::Refused { address: address.clone(), findings });
        }
        let known = records.path(address).exists();
        let existing = if known { records.lock(address, false)? } else { None };
        if !report.is_claimable() {
            let findings = report.refusals().cloned().collect();
            return Err(ClaimError::Refused { address: address.clone(), findings });
        }
        let mut record = match existing {
            Some(record) => record,
            // PANIC: with `create` there is always one.
            None => records.lock(address, true)?.expect("a record was made"),
        };
        let holder = std::process::id();
        // A record without a holder: an operator's, or a killed daemon's. Both say what was before.
        let before = match record.read() {
            Some(before) => Before { holder, ..before },
            None => Before {
                address: address.clone(),
                holder,
                driver: host.driver(address),
                driver_override: host
                    .text(directory.join("driver_override"))
                    .filter(|text| text != "(null)" && !text.is_empty()),
                kept: false,
            },
        };
        record.write(&before)?;
        if let Err(error) = bind(&host, address, Some(VFIO), VFIO) {
            // The first error is the one to tell.
            let _ = record.undo(&host, &before);
            return Err(error);
        }
        Ok(Claim { host, before, record: Some(record) })
    }

    /// The function.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.before.address
    }

    /// The driver it goes back to.
    #[must_use]
    pub fn driver_before(&self) -> Option<&str> {
        self.before.driver.as_deref()
    }

    /// Leaves the function claimed when this process ends, until somebody releases it.
    ///
    /// # Errors
    /// When that cannot be written down.
    pub fn keep(mut self) -> Result<(), ClaimError> {
        let before = Before { kept: true, ..self.before.clone() };
        match self.record.take() {
            Some(mut record) => record.write(&before),
            None => Ok(()),
        }
    }

    /// Puts the function back. One that an operator claimed stays claimed.
    ///
    /// # Errors
    /// When the kernel says no; the record stays, so it can be tried again.
    pub fn release(mut self) -> Result<(), ClaimError> {
        self.let_go()
    }

    fn let_go(&mut self) -> Result<(), ClaimError> {
        match self.record.take() {
            Some(_) if self.before.kept => Ok(()),
            Some(record) => record.undo(&self.host, &self.before),
            None => Ok(()),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Err(error) = self.let_go() {
            tracing::warn!(%error, "the function was not put back; turnstile device release tries again");
        }
    }
}

/// Puts back a function that an operator claimed, or whose daemon was killed.
///
/// # Errors
/// When nothing is known about it, a daemon has it, or the kernel says no.
pub fn release(host: &Host, records: &Records, address: &Address) -> Result<(), ClaimError> {
    let unknown =
        || ClaimError::NotClaimed { address: address.clone(), record: records.path(address) };
    let mut record = records.lock(address, false)?.ok_or_else(unknown)?;
    match record.read() {
        Some(before) => record.undo(host, &before),
        None => record.remove(),
    }
}

#[cfg(test)]
#[path = "claim/tests.rs"]
pub(crate) mod tests;
