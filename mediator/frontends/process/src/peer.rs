//! Who is at the other end of a socket.

use std::os::fd::BorrowedFd;

/// Credentials of a peer, as the kernel took them when it connected. They cannot be forged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Process id; 0 if it lies outside this process id namespace.
    pub pid: u32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl Peer {
    /// The peer of a connected socket.
    pub fn of(socket: BorrowedFd<'_>) -> std::io::Result<Peer> {
        let (pid, uid, gid) = crate::raw::peer_credentials(socket)?;
        Ok(Peer { pid, uid, gid, groups: crate::raw::peer_groups(socket)? })
    }

    /// Whether it is in a group, by its effective group id or a supplementary one.
    #[must_use]
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}
