//! What needs the C interface: a peer's credentials and groups, and an eventfd made of another file.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use vmm_sys_util::eventfd::EventFd;

/// Process, user and group id of the process at the other end (`SO_PEERCRED`, socket(7)).
///
/// The process id is 0 for a peer outside this process id namespace, which is why a wrapper with a
/// non-zero id type will not do.
pub(crate) fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<(u32, u32, u32)> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut bytes = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe one initialised structure of plain integers, and
    // the kernel writes at most that length.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut bytes,
        )
    };
    if result != 0 || bytes as usize != size_of::<libc::ucred>() {
        return Err(io::Error::last_os_error());
    }
    Ok((credentials.pid.unsigned_abs(), credentials.uid, credentials.gid))
}

/// Supplementary groups of the process at the other end of a socket, as they were when it connected
/// (`SO_PEERGROUPS`, socket(7)).
pub(crate) fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 32];
    loop {
        let mut bytes = (groups.len() * size_of::<libc::gid_t>()) as libc::socklen_t;
        // SAFETY: the pointer and the length describe the vector's own initialised memory, and the
        // kernel writes at most that length.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let count = bytes as usize / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// Wraps a file that takes eight-byte writes, so that the dispatcher signals it like an eventfd.
pub(crate) fn signal_through(fd: OwnedFd) -> EventFd {
    // SAFETY: the descriptor is open and owned, and its ownership moves into the value.
    unsafe { EventFd::from_raw_fd(fd.into_raw_fd()) }
}
