//! The socket, and what keeps its clients from holding anything.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::fs::{Gid, Mode};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;

use super::problem::Problem;
use crate::daemon::{Daemon, Operator};

/// Connections at once. One more ends the oldest, so that nobody keeps others out for good.
const MOST_CONNECTIONS: usize = 64;
/// Time to send the head of a request, or to begin the next one.
const HEAD: Duration = Duration::from_secs(10);
/// Time for a whole request, its body included, until the answer begins.
const REQUEST: Duration = Duration::from_secs(30);
/// How long a client may not take a byte of an answer.
const STALLED: Duration = Duration::from_secs(10);
/// Threads for what waits on the dispatcher.
const WAITERS: usize = 4;

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket.
    #[error("cannot {what} the control socket {}: {source}; {fix}", path.display())]
    Socket {
        /// What was tried.
        what: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
        /// What would help.
        fix: &'static str,
    },
    /// The thread.
    #[error("cannot start the control thread: {0}; raise the limit on processes (ulimit -u)")]
    Thread(io::Error),
}

/// Where the API listens and who may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// The path.
    pub path: PathBuf,
    /// Permission bits of the socket.
    pub mode: u32,
    /// Group of the socket; `None`: this process's.
    pub group: Option<u32>,
}

/// The API while it is served. Dropping it ends it and removes the socket.
#[derive(Debug)]
pub struct ControlServer {
    path: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ControlServer {
    /// Serves the API over a daemon, on a thread of its own.
    ///
    /// # Errors
    /// When the socket cannot be made, for instance because another daemon listens on it.
    pub fn start(daemon: Arc<Daemon>, socket: &Socket) -> Result<ControlServer, ControlError> {
        let listener = bind(socket)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(WAITERS)
            .thread_name("control-wait")
            .build()
            .map_err(ControlError::Thread)?;
        let (stop, stopped) = oneshot::channel();
        let router = super::router(daemon);
        let path = socket.path.clone();
        let serve = move || {
            runtime.block_on(async {
                match UnixListener::from_std(listener) {
                    Ok(listener) => accept(listener, router, stopped).await,
                    Err(error) => tracing::error!(%error, "the control socket"),
                }
            });
            runtime.shutdown_timeout(Duration::from_secs(1));
        };
        let thread = std::thread::Builder::new().name("control".into()).spawn(serve);
        let thread = match thread {
            Ok(thread) => thread,
            Err(error) => {
                let _ = std::fs::remove_file(&path);
                return Err(ControlError::Thread(error));
            }
        };
        Ok(ControlServer { path, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Makes the socket. Nobody can connect before it has its mode and group.
fn bind(socket: &Socket) -> Result<std::os::unix::net::UnixListener, ControlError> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let Socket { path, mode, group } = socket;
    let failed = |what, fix| {
        move |errno: rustix::io::Errno| ControlError::Socket {
            what,
            path: path.clone(),
            source: errno.into(),
            fix,
        }
    };
    let listen = failed("listen at", "name another path with --control");
    let address = SocketAddrUnix::new(path).map_err(&listen)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
    let listener = rustix::net::socket_with(family, kind, flags, None).map_err(&listen)?;
    rustix::net::bind(&listener, &address).map_err(&listen)?;
    let ready = || {
        if let Some(group) = group {
            let give = failed("give the group of", "name a group of yours with --control-group");
            rustix::fs::chown(path, None, Some(Gid::from_raw(*group))).map_err(give)?;
        }
        let permit = failed("set the mode of", "check --control-mode");
        rustix::fs::chmod(path, Mode::from_raw_mode(*mode)).map_err(permit)?;
        rustix::net::listen(&listener, 64).map_err(&listen)
    };
    if let Err(error) = ready() {
        let _ = std::fs::remove_file(path);
        return Err(error);
    }
    Ok(listener.into())
}

async fn accept(listener: UnixListener, router: axum::Router, mut stopped: oneshot::Receiver<()>) {
    let mut connections: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stopped => return,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.retain(|connection| !connection.is_finished());
                if connections.len() >= MOST_CONNECTIONS
                    && let Some(oldest) = connections.pop_front()
                {
                    oldest.abort();
                }
                let task = tokio::spawn(serve(stream, router.clone()));
                connections.push_back(task.abort_handle());
            }
            Err(error) => {
                // No descriptor left: somebody has to let go of one first.
                tracing::warn!(%error, "a control connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Serves one connection to its end.
async fn serve(stream: UnixStream, router: axum::Router) {
    let by = match stream.peer_cred() {
        Ok(cred) => {
            let pid = cred.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
            Operator { uid: cred.uid(), pid }
        }
        Err(_) => return,
    };
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(STALLED));
    let stream = Box::pin(stream);
    let service = router.map_request(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(by);
        request
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a control connection");
    }
}

/// Bounds the time of a request.
pub(super) async fn bounded(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let title = "the request took too long";
            let fix = "send the whole request at once";
            Problem::new(StatusCode::REQUEST_TIMEOUT, "too-slow", title, fix).into_response()
        }
    }
}

/// Runs what may block on the dispatcher on another thread.
pub(super) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|_| {
        let title = "the daemon failed on it; its log says more";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "bug", title, "report it as a bug")
    })
}
