//! The other end: one request at a time over the daemon's socket, for the command line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::problem::Problem;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no daemon answers at {}: {source}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("the daemon hung up: {0}")]
    Broken(String),
    /// The daemon refused.
    #[error("{}", .0.title)]
    Refused(Box<Problem>),
}

/// A client of the API.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    runtime: tokio::runtime::Runtime,
}

fn broken(error: impl std::fmt::Display) -> ClientError {
    ClientError::Broken(error.to_string())
}

impl Client {
    /// A client of the daemon at this socket. Connects with the first request.
    ///
    /// # Errors
    /// When file descriptors run out.
    pub fn new(path: &Path) -> Result<Client, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Client { path: path.to_owned(), runtime: runtime.map_err(broken)? })
    }

    /// Asks for something and reads the answer as JSON.
    ///
    /// # Errors
    /// When there is no answer, or it is a refusal.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        serde_json::from_slice(&self.ask(Method::GET, path, Bytes::new())?).map_err(broken)
    }

    /// Asks for something and reads the answer as text.
    ///
    /// # Errors
    /// When there is no answer, or it is a refusal.
    pub fn text(&self, path: &str) -> Result<String, ClientError> {
        let bytes = self.ask(Method::GET, path, Bytes::new())?;
        String::from_utf8(bytes.into()).map_err(broken)
    }

    /// Orders something.
    ///
    /// # Errors
    /// When there is no answer, or it is a refusal.
    pub fn order(&self, method: Method, path: &str) -> Result<(), ClientError> {
        self.ask(method, path, Bytes::new()).map(drop)
    }

    /// Sends a document and reads the answer as JSON.
    ///
    /// # Errors
    /// When there is no answer, or it is a refusal.
    pub fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<T, ClientError> {
        serde_json::from_slice(&self.ask(method, path, body.into())?).map_err(broken)
    }

    fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        self.runtime.block_on(async {
            let asked = async {
                let response = self.begin(method, path, body).await?;
                let status = response.status();
                let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
                if status.is_success() { Ok(body) } else { Err(refused(status, &body)) }
            };
            match tokio::time::timeout(PATIENCE, asked).await {
                Ok(answer) => answer,
                Err(_) => Err(broken(format!("no answer in {PATIENCE:?}"))),
            }
        })
    }

    /// Reads a stream of server-sent events, until `each` (kind and data) says `false` or it ends.
    ///
    /// # Errors
    /// When there is no stream, or the connection breaks.
    pub fn events(
        &self,
        path: &str,
        mut each: impl FnMut(&str, &str) -> bool,
    ) -> Result<(), ClientError> {
        self.runtime.block_on(async {
            let response = self.begin(Method::GET, path, Bytes::new()).await?;
            let status = response.status();
            let mut body = response.into_body();
            if !status.is_success() {
                let body = body.collect().await.map_err(broken)?.to_bytes();
                return Err(refused(status, &body));
            }
            let mut waiting = Vec::new();
            while let Some(frame) = body.frame().await {
                if let Ok(data) = frame.map_err(broken)?.into_data() {
                    waiting.extend_from_slice(&data);
                }
                while let Some(end) = waiting.windows(2).position(|two| two == b"\n\n") {
                    let event: Vec<u8> = waiting.drain(..end + 2).collect();
                    let text = String::from_utf8_lossy(&event);
                    let field = |name| text.lines().find_map(|line| line.strip_prefix(name));
                    if let (Some(kind), Some(data)) = (field("event: "), field("data: "))
                        && !each(kind, data)
                    {
                        return Ok(());
                    }
                }
            }
            Ok(())
        })
    }

    async fn begin(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let connect = |source| ClientError::Connect { path: self.path.clone(), source };
        let stream = UnixStream::connect(&self.path).await.map_err(connect)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(async move {
            // What goes wrong shows at the request.
            let _ = connection.await;
        });
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "turnstile")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(broken)?;
        sender.send_request(request).await.map_err(broken)
    }
}

fn refused(status: hyper::StatusCode, body: &[u8]) -> ClientError {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => ClientError::Refused(Box::new(problem)),
        Err(_) => broken(format!("it answers {status}, which is no answer of a turnstile")),
    }
}
