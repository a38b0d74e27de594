//! The state directory: what a daemon leaves on the machine while it runs, so that the next one can
//! start clean after any death of the last.
//!
//! ```text
//! lock           held while the daemon lives; two daemons cannot share a directory
//! pid            process id; still there at the next start: the last daemon was killed
//! children       process ids and start times of tenants' processes
//! sockets        paths of sockets outside this directory
//! control.sock   the control API
//! tenants/       the socket of process tenants
//! ```
//!
//! Nothing is removed or ended because of its name alone. A process is ended if id *and* start time
//! are those written down, so never one that came to the id later; a socket is removed if it is a
//! socket, of this user, and nobody listens on it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FlockOperation, Gid, Mode, flock};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Why a directory cannot be the daemon's.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The system refuses.
    #[error("state directory {}: {source}; name one you can write with --state", path.display())]
    System {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Others could plant files in it.
    #[error(
        "state directory {}: it belongs to another user or others can write to it; \
         name one of your own with --state, or: chmod go-w {}", path.display(), path.display()
    )]
    NotOurs {
        /// The directory.
        path: PathBuf,
    },
    /// Another daemon runs there.
    #[error(
        "state directory {}: another turnstile (process {holder}) uses it; stop that one, \
         or give this one a directory of its own with --state", path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Process id in its `pid` file.
        holder: String,
    },
}

/// What the last daemon left behind and is cleaned up now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Process id of a daemon that did not stop in good order.
    pub died: Option<u32>,
    /// Processes of its tenants that still ran and were ended.
    pub ended: Vec<u32>,
    /// Sockets that nobody listened on and that were removed.
    pub sockets: Vec<PathBuf>,
}

/// A directory this daemon holds the lock of. Dropping it says that the daemon stopped in good order.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    /// Its lock goes with it.
    lock: File,
    /// Held while a record is written.
    records: Mutex<()>,
}

/// Where the state directory is if nobody says: `$XDG_RUNTIME_DIR/turnstile`, else `/run/turnstile`.
#[must_use]
pub fn default_path() -> PathBuf {
    std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|path| path.is_dir())
        .unwrap_or_else(|| "/run".into())
        .join("turnstile")
}

/// Where a daemon with this state directory has its control socket.
#[must_use]
pub fn control_socket(state: &Path) -> PathBuf {
    state.join("control.sock")
}

impl StateDirectory {
    /// Makes the directory if need be (for this user alone), takes its lock, and cleans up after a
    /// daemon that was killed.
    ///
    /// # Errors
    /// When it cannot be written, is not this user's alone to write, or another daemon uses it.
    pub fn open(path: &Path) -> Result<(StateDirectory, Recovered), StateError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| StateError::System { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed(path))?;
        let metadata = std::fs::metadata(path).map_err(failed(path))?;
        let ours = metadata.uid() == rustix::process::geteuid().as_raw();
        if !ours || metadata.mode() & 0o022 != 0 {
            return Err(StateError::NotOurs { path: path.to_owned() });
        }
        let at = path.join("lock");
        let lock = options().open(&at).map_err(failed(&at))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let holder = std::fs::read_to_string(path.join("pid")).unwrap_or_default();
            let holder = if holder.is_empty() { "unknown".into() } else { holder.trim().into() };
            return Err(StateError::InUse { path: path.to_owned(), holder });
        }
        let directory = StateDirectory { path: path.to_owned(), lock, records: Mutex::new(()) };
        let recovered = directory.recover();
        let pid = path.join("pid");
        std::fs::write(&pid, format!("{}\n", std::process::id())).map_err(failed(&pid))?;
        Ok((directory, recovered))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets a group through to the control socket: the directory can be passed, not listed.
    ///
    /// # Errors
    /// When this user is not in the group.
    pub fn let_group_pass(&self, group: u32) -> Result<(), StateError> {
        let failed =
            |e: rustix::io::Errno| StateError::System { path: self.path.clone(), source: e.into() };
        rustix::fs::chown(&self.path, None, Some(Gid::from_raw(group))).map_err(failed)?;
        rustix::fs::chmod(&self.path, Mode::from_raw_mode(0o710)).map_err(failed)
    }

    /// A directory in it for one purpose, for this user alone.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn part(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.path.join(name);
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(path)
    }

    /// Writes down a process that must not outlive the daemon.
    pub fn note_child(&self, pid: u32) {
        // A process that is gone already needs no record.
        if let Some(started) = start_time(pid) {
            self.note("children", &format!("{pid} {started}"));
        }
    }

    /// Writes down a socket outside the directory.
    pub fn note_socket(&self, path: &Path) {
        // A path with a line break cannot be written down; its socket is replaced when it is bound.
        if let Some(text) = path.to_str().filter(|text| !text.contains('\n')) {
            self.note("sockets", text);
        }
    }

    fn note(&self, file: &str, line: &str) {
        let _held = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let written = options()
            .append(true)
            .open(self.path.join(file))
            .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
        if let Err(error) = written {
            tracing::warn!(%error, file, "the state directory cannot be written");
        }
    }

    fn take(&self, file: &str) -> String {
        let path = self.path.join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let _ = std::fs::remove_file(&path);
        text
    }

    fn recover(&self) -> Recovered {
        let died = self.take("pid").trim().parse().ok();
        let children = self.take("children");
        let ended = children.lines().filter_map(end_orphan).collect();
        let mut sockets = self.take("sockets");
        for name in ["control.sock", "tenants/socket"] {
            sockets.push_str(&format!("{}\n", self.path.join(name).display()));
        }
        let stale = sockets.lines().map(PathBuf::from).filter(|path| remove_stale(path));
        Recovered { died, ended, sockets: stale.collect() }
    }
}

impl Drop for StateDirectory {
    fn drop(&mut self) {
        for name in ["children", "sockets", "pid"] {
            let _ = std::fs::remove_file(self.path.join(name));
        }
        let _ = std::fs::remove_dir(self.path.join("tenants"));
        // By name: a child that is being forked holds a copy of the descriptor for a moment.
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    options
}

/// When a process started, in clock ticks since boot: with its id, which process it is.
fn start_time(pid: u32) -> Option<u64> {
    // proc_pid_stat(5): field 22, the twentieth after the name in brackets.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Ends the process a record names, if it is that process still.
fn end_orphan(record: &str) -> Option<u32> {
    let (pid, started) = record.split_once(' ')?;
    let (pid, started) = (pid.parse::<u32>().ok()?, started.parse::<u64>().ok()?);
    let process = Pid::from_raw(i32::try_from(pid).ok()?)?;
    // The descriptor first: it stays that process's, whatever becomes of the id.
    let pidfd = pidfd_open(process, PidfdFlags::empty()).ok()?;
    if start_time(pid) != Some(started) {
        return None;
    }
    pidfd_send_signal(&pidfd, Signal::KILL).ok().map(|()| pid)
}

/// Removes a socket of this user that nobody listens on.
fn remove_stale(path: &Path) -> bool {
    let user = rustix::process::geteuid().as_raw();
    let ours =
        std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket() && m.uid() == user);
    ours && !answers(path) && std::fs::remove_file(path).is_ok()
}

/// Whether anybody listens on a socket, of either kind.
fn answers(path: &Path) -> bool {
    let Ok(address) = SocketAddrUnix::new(path) else { return true };
    [SocketType::STREAM, SocketType::SEQPACKET].into_iter().any(|kind| {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(probe) = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None) else {
            return true;
        };
        // A listener of the other kind is EPROTOTYPE; one with a full backlog EAGAIN.
        !matches!(
            rustix::net::connect(probe, &address),
            Err(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::PROTOTYPE)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;
    use std::process::{Child, Command};

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").spawn().unwrap()
    }

    /// What a daemon that is killed leaves: its directory without the goodbye.
    fn killed(directory: StateDirectory) {
        let StateDirectory { lock, .. } = &directory;
        flock(lock, FlockOperation::Unlock).unwrap();
        std::mem::forget(directory);
    }

    #[test]
    fn two_daemons_cannot_share_a_directory() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("state");
        let (first, recovered) = StateDirectory::open(&path).unwrap();
        assert_eq!(recovered, Recovered::default());
        let second = StateDirectory::open(&path).unwrap_err().to_string();
        assert!(second.contains(&std::process::id().to_string()), "{second}");
        drop(first);
        let (_again, recovered) = StateDirectory::open(&path).unwrap();
        assert_eq!(recovered, Recovered::default());
    }

    #[test]
    fn what_a_killed_daemon_left_is_cleaned_up_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let (directory, _) = StateDirectory::open(&place.path().join("state")).unwrap();
        let (mut orphan, mut stranger) = (sleeper(), sleeper());
        directory.note_child(orphan.id());
        // The id of a process that ended is another one's now.
        directory.note("children", &format!("{} 1", stranger.id()));
        let stale = place.path().join("stale");
        let (live, precious) = (place.path().join("live"), place.path().join("precious"));
        drop(UnixListener::bind(&stale).unwrap());
        let _listening = UnixListener::bind(&live).unwrap();
        std::fs::write(&precious, "data").unwrap();
        [&stale, &live, &precious].into_iter().for_each(|path| directory.note_socket(path));
        killed(directory);

        let (_next, recovered) = StateDirectory::open(&place.path().join("state")).unwrap();
        assert_eq!(recovered.died, Some(std::process::id()));
        assert_eq!(recovered.ended, [orphan.id()]);
        assert_eq!(recovered.sockets, std::slice::from_ref(&stale));
        assert!(!stale.exists() && live.exists() && precious.exists());
        assert!(!orphan.wait().unwrap().success());
        assert!(stranger.try_wait().unwrap().is_none(), "a stranger was ended");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }

    #[test]
    fn a_directory_that_others_write_to_is_refused() {
        let place = tempfile::tempdir().unwrap();
        std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(StateDirectory::open(place.path()), Err(StateError::NotOurs { .. })));
    }
}
