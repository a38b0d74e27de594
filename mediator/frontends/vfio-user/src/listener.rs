//! A listening stream socket at a path, with the permissions the policy wants.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Why a socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path}: {source}; {fix}")]
pub struct ListenError {
    what: &'static str,
    path: String,
    source: Errno,
    fix: &'static str,
}

/// A listening socket; removes its path when dropped.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
}

fn new_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

impl Listener {
    /// Listens at `path`, whose permission bits become `mode` and whose group `group`. A socket file
    /// that nobody listens on any more is replaced; one that is in use, or any other file, is not.
    ///
    /// # Errors
    /// When the path cannot be a socket, or the group cannot be given it.
    pub fn bind(path: &Path, mode: u32, group: Option<u32>) -> Result<Listener, ListenError> {
        let failed = |what, fix| {
            move |source| ListenError { what, path: path.display().to_string(), source, fix }
        };
        let listen = failed("listen at", "name a path in a directory you can write");
        let address = SocketAddrUnix::new(path).map_err(&listen)?;
        let socket = new_socket().map_err(&listen)?;
        match rustix::net::bind(&socket, &address) {
            Err(Errno::ADDRINUSE) => {
                let in_use =
                    failed("listen at", "something else uses it; stop that or name another");
                let probe = new_socket().map_err(&in_use)?;
                let refused = rustix::net::connect(probe, &address) == Err(Errno::CONNREFUSED);
                // A file that is no socket refuses as well, and is not ours to remove.
                let socket_file = std::fs::symlink_metadata(path)
                    .is_ok_and(|metadata| metadata.file_type().is_socket());
                if !(refused && socket_file) {
                    return Err(in_use(Errno::ADDRINUSE));
                }
                rustix::fs::unlink(path).map_err(&in_use)?;
                rustix::net::bind(&socket, &address).map_err(&in_use)?;
            }
            other => other.map_err(&listen)?,
        }
        // From here on the path is ours to remove.
        let listener = Listener { socket, path: path.to_owned() };
        // Nobody can connect before `listen`, so there is no moment with other permissions.
        if let Some(group) = group {
            let give = failed("give the group", "name a group of yours, or run as root");
            rustix::fs::chown(path, None, Some(Gid::from_raw(group))).map_err(give)?;
        }
        rustix::fs::chmod(path, Mode::from_raw_mode(mode))
            .map_err(failed("set the permissions of", "check attach.mode"))?;
        rustix::net::listen(&listener.socket, 64).map_err(&listen)?;
        Ok(listener)
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the next connection, if there is one. The connection blocks.
    ///
    /// # Errors
    /// `AGAIN` when there is none; when descriptors run out.
    pub fn accept(&self) -> Result<OwnedFd, Errno> {
        let connection = rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC)?;
        // accept does not inherit the flag, but say so: reads on it are meant to wait.
        rustix::fs::fcntl_setfl(&connection, OFlags::empty())?;
        Ok(connection)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = rustix::fs::unlink(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn permissions_are_set_and_dead_sockets_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let gid = rustix::process::getgid().as_raw();
        let first = Listener::bind(&path, 0o620, Some(gid)).unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!((metadata.mode() & 0o777, metadata.gid()), (0o620, gid));
        assert!(Listener::bind(&path, 0o600, None).is_err(), "in use");
        assert!(path.exists());
        drop(first);
        assert!(!path.exists());
        // A crashed daemon leaves its socket behind.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(Listener::bind(&path, 0o600, None).unwrap());
        std::fs::write(&path, "precious").unwrap();
        assert!(Listener::bind(&path, 0o600, None).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
