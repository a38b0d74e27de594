//! How a client gets at the memory of a mapped buffer.
//!
//! Cap'n Proto's two-party protocol in Rust and Python carries no file descriptors. So a mapping is
//! answered with a token, and the descriptor is fetched with it from a second socket: the token is 32
//! random bytes, works once and for a short time, and only for a process of the user who made the
//! call, by the kernel's word (`SO_PEERCRED`).

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, IoSlice, Read};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use capnp::{Error, ErrorKind};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::Device;
use crate::failure::say;

/// Bytes of a token.
pub(crate) const TOKEN: usize = 32;
/// How long a token works.
const LIFE: Duration = Duration::from_secs(30);
/// How long a connection may take to send its token.
const PATIENCE: Duration = Duration::from_secs(2);
/// Connections that may be at it at once; further ones wait in the kernel.
const AT_ONCE: usize = 8;

/// Tokens that wait to be redeemed.
pub(crate) struct Tokens {
    waiting: RefCell<HashMap<[u8; TOKEN], Instant>>,
    most: usize,
}

impl Tokens {
    pub(crate) fn new(most: usize) -> Tokens {
        Tokens { waiting: RefCell::default(), most }
    }

    /// A new one.
    pub(crate) fn issue(&self, now: Instant) -> Result<[u8; TOKEN], Error> {
        let mut waiting = self.waiting.borrow_mut();
        waiting.retain(|_, until| *until > now);
        if waiting.len() >= self.most {
            let more = "too many mappings wait to be fetched; fetch or wait";
            return Err(say(ErrorKind::Overloaded, "no_room", more));
        }
        let mut token = [0; TOKEN];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut token))
            .map_err(|e| say(ErrorKind::Failed, "backend", e))?;
        waiting.insert(token, now + LIFE);
        Ok(token)
    }

    fn redeem(&self, token: &[u8; TOKEN], now: Instant) -> bool {
        self.waiting.borrow_mut().remove(token).is_some_and(|until| until > now)
    }
}

/// Hands out descriptors until it is dropped.
pub(crate) async fn serve(listener: UnixListener, tokens: Rc<Tokens>, device: Device, uid: u32) {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, for one.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let tokens = tokens.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = hand_out(stream, &tokens, device, uid).await {
                tracing::debug!(%error, "no descriptor for a mapping");
            }
            drop(place);
        });
    }
}

async fn hand_out(
    mut stream: UnixStream,
    tokens: &Tokens,
    device: Device,
    uid: u32,
) -> io::Result<()> {
    if stream.peer_cred()?.uid() != uid {
        return Err(io::Error::other("another user's process"));
    }
    let mut token = [0; TOKEN];
    let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut token));
    read.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    if !tokens.redeem(&token, Instant::now()) {
        return Err(io::Error::other("no such token"));
    }
    let fd = device.transport().memory();
    let sent = stream.async_io(Interest::WRITABLE, || {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [fd];
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::net::sendmsg(stream.as_fd(), &[IoSlice::new(b"m")], &mut control, flags)
            .map_err(io::Error::from)
    });
    tokio::time::timeout(PATIENCE, sent)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_works_once_and_not_for_ever() {
        let tokens = Tokens::new(2);
        let now = Instant::now();
        let (a, b) = (tokens.issue(now).unwrap(), tokens.issue(now).unwrap());
        assert_ne!(a, b);
        assert!(tokens.issue(now).is_err(), "bounded");
        assert!(tokens.redeem(&a, now));
        assert!(!tokens.redeem(&a, now));
        assert!(!tokens.redeem(&b, now + LIFE));
        assert!(!tokens.redeem(&[0; TOKEN], now));
        tokens.issue(now).unwrap();
        tokens.issue(now + LIFE).unwrap();
    }
}
