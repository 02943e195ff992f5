//! The control socket: newline-delimited JSON-RPC 2.0 on a Unix socket. Server and client.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot};

/// A request line is no longer than this.
const MAX_LINE: u64 = 64 * 1024;
/// Connections at once.
const MAX_CONNECTIONS: usize = 64;
/// A connection on which nothing moves for so long ends.
const IDLE: Duration = Duration::from_secs(60);
/// JSON-RPC 2.0, section 5.1.
const PARSE_ERROR: i64 = -32700;
const INVALID_REQUEST: i64 = -32600;
const METHOD_NOT_FOUND: i64 = -32601;
/// Ours: the method is known and does not do it.
const REFUSED: i64 = -32000;

/// What a client asks of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Status,
    Members,
    Neighbors,
    Sas {
        show_keys: bool,
    },
    Routes,
    Events,
    Rekey,
    Reload,
    Leave,
    /// Of a key server, as all that follow.
    Clients,
    Groups,
    Vpns,
    Push {
        group: Option<String>,
    },
    Exclude {
        clients: Vec<String>,
    },
    Admit {
        clients: Vec<String>,
    },
}

/// A request and where its answer goes.
pub(crate) type Asked = (Request, oneshot::Sender<Result<Value, String>>);

/// The listening socket. Removed when dropped.
pub(crate) struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Binds the socket (mode 0660); takes the place of one that nobody listens on any more.
    pub(crate) fn bind(path: &Path) -> io::Result<Server> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(named)?;
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("{}: a daemon answers there already; stop it, or set device.control", path.display()),
            ));
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named(error)),
            _ => {}
        }
        // The socket must not be open to others even for a moment.
        let mask = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o117));
        let listener = UnixListener::bind(path);
        nix::sys::stat::umask(mask);
        let listener = listener.map_err(named)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(named)?;
        Ok(Server { listener, path: path.to_owned() })
    }

    /// Serves until the daemon's side of the channel is gone.
    pub(crate) async fn serve(self, ask: mpsc::Sender<Asked>, events: broadcast::Sender<String>) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = ask.closed() => return,
            };
            let Ok((stream, _)) = accepted else {
                // Out of file descriptors: one will be free again.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let Ok(place) = places.clone().try_acquire_owned() else { continue };
            let (ask, events) = (ask.clone(), events.clone());
            tokio::spawn(async move {
                // An error ends this connection and nothing else.
                let _ = serve_connection(stream, ask, events).await;
                drop(place);
            });
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[derive(Deserialize)]
struct Call {
    jsonrpc: String,
    method: String,
    #[serde(default)]
    params: Params,
    #[serde(default)]
    id: Value,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Params {
    show_keys: bool,
    follow: bool,
    group: Option<String>,
    clients: Vec<String>,
}

async fn serve_connection(
    stream: UnixStream,
    ask: mpsc::Sender<Asked>,
    events: broadcast::Sender<String>,
) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = tokio::io::BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut reader).take(MAX_LINE);
        // A connection that asks nothing gives its place up.
        match tokio::time::timeout(IDLE, limited.read_until(b'\n', &mut line)).await {
            Ok(Ok(1..)) => {}
            Ok(Err(error)) => return Err(error),
            Ok(Ok(0)) | Err(_) => return Ok(()),
        }
        if line.last() != Some(&b'\n') {
            write_line(&mut writer, &failure(Value::Null, INVALID_REQUEST, "a request is one line of at most 64 KiB"))
                .await?;
            return Ok(());
        }
        let (request, Call { params, id, .. }) = match understand(&line) {
            Ok(understood) => understood,
            Err(refusal) => {
                write_line(&mut writer, &refusal).await?;
                continue;
            }
        };
        // Before the answer, so that nothing is missed between the two.
        let follow = (request == Request::Events && params.follow).then(|| events.subscribe());
        let (answer, answered) = oneshot::channel();
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        ask.send((request, answer)).await.map_err(|_| gone())?;
        let reply = match answered.await.map_err(|_| gone())? {
            Ok(result) => json!({"jsonrpc": "2.0", "result": result, "id": id}),
            Err(message) => failure(id, REFUSED, &message),
        };
        write_line(&mut writer, &reply).await?;
        if let Some(follow) = follow {
            return follow_events(follow, &mut reader, &mut writer).await;
        }
    }
}

async fn follow_events(
    mut events: broadcast::Receiver<String>,
    reader: &mut (impl tokio::io::AsyncRead + Unpin),
    writer: &mut (impl tokio::io::AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut nothing = [0; 1];
    loop {
        tokio::select! {
            // Whoever follows says nothing more: this is the end of the connection.
            _ = reader.read(&mut nothing) => return Ok(()),
            event = events.recv() => match event {
                // Whoever does not read gives its place up.
                Ok(line) => tokio::time::timeout(IDLE, writer.write_all(line.as_bytes())).await??,
                // Too slow: what was lost shows in the epochs; better than holding the daemon up.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            },
        }
    }
}

/// What a line asks for, or the answer that it gets at once.
fn understand(line: &[u8]) -> Result<(Request, Call), Value> {
    let call: Call =
        serde_json::from_slice(line).map_err(|error| failure(Value::Null, PARSE_ERROR, &error.to_string()))?;
    if call.jsonrpc != "2.0" {
        return Err(failure(call.id, INVALID_REQUEST, "jsonrpc must be \"2.0\""));
    }
    match request_of(&call) {
        Some(request) => Ok((request, call)),
        None => Err(failure(call.id, METHOD_NOT_FOUND, "no such method")),
    }
}

/// Whether a line is understood, or the refusal that it gets.
#[cfg(feature = "fuzzing")]
pub fn fuzz_request(line: &[u8]) -> Result<(), Value> {
    understand(line).map(drop)
}

fn request_of(call: &Call) -> Option<Request> {
    Some(match call.method.as_str() {
        "status" => Request::Status,
        "members" => Request::Members,
        "neighbors" => Request::Neighbors,
        "sas" => Request::Sas { show_keys: call.params.show_keys },
        "routes" => Request::Routes,
        "events" => Request::Events,
        "rekey" => Request::Rekey,
        "reload" => Request::Reload,
        "leave" => Request::Leave,
        "clients" => Request::Clients,
        "groups" => Request::Groups,
        "vpns" => Request::Vpns,
        "push" => Request::Push { group: call.params.group.clone() },
        "exclude" => Request::Exclude { clients: call.params.clients.clone() },
        "admit" => Request::Admit { clients: call.params.clients.clone() },
        _ => return None,
    })
}

/// The notification of an event, as a line.
pub(crate) fn notification(event: &impl Serialize) -> String {
    format!("{}\n", json!({"jsonrpc": "2.0", "method": "event", "params": event}))
}

fn failure(id: Value, code: i64, message: &str) -> Value {
    json!({"jsonrpc": "2.0", "error": {"code": code, "message": message}, "id": id})
}

async fn write_line(writer: &mut (impl tokio::io::AsyncWrite + Unpin), value: &Value) -> io::Result<()> {
    tokio::time::timeout(IDLE, writer.write_all(format!("{value}\n").as_bytes())).await?
}

/// Why a call to a daemon failed.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Nobody listens there.
    #[error("{}: {error}; is the daemon running? (--control names its socket)", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The connection broke, or no answer came in time.
    #[error("{}: no answer: {error}", path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The daemon refuses.
    #[error("{0}")]
    Refused(String),
}

/// One call to the daemon behind `socket`.
pub fn call(socket: &Path, method: &str, params: Value) -> Result<Value, ControlError> {
    ask(socket, method, params).map(|(answer, _)| answer)
}

/// Hands over the events kept and then those to come, until `each` returns `false` or the daemon ends.
pub fn follow(socket: &Path, mut each: impl FnMut(Value) -> bool) -> Result<(), ControlError> {
    let (kept, reader) = ask(socket, "events", json!({"follow": true}))?;
    if !kept.as_array().into_iter().flatten().cloned().all(&mut each) {
        return Ok(());
    }
    reader.get_ref().set_read_timeout(None).map_err(|error| answer_error(socket, error))?;
    for line in reader.lines() {
        let line = line.map_err(|error| answer_error(socket, error))?;
        let mut event: Value =
            serde_json::from_str(&line).map_err(|error| answer_error(socket, io::Error::other(error)))?;
        if !each(event["params"].take()) {
            return Ok(());
        }
    }
    Ok(())
}

fn ask(
    path: &Path,
    method: &str,
    params: Value,
) -> Result<(Value, BufReader<std::os::unix::net::UnixStream>), ControlError> {
    let connect = |error| ControlError::Connect { path: path.to_owned(), error };
    let mut stream = std::os::unix::net::UnixStream::connect(path).map_err(connect)?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(connect)?;
    let request = json!({"jsonrpc": "2.0", "method": method, "params": params, "id": 1});
    stream.write_all(format!("{request}\n").as_bytes()).map_err(|error| answer_error(path, error))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    if reader.read_line(&mut line).map_err(|error| answer_error(path, error))? == 0 {
        return Err(answer_error(path, io::ErrorKind::UnexpectedEof.into()));
    }
    let mut reply: Value = serde_json::from_str(&line).map_err(|error| answer_error(path, io::Error::other(error)))?;
    match reply["error"]["message"].as_str() {
        Some(message) => Err(ControlError::Refused(message.to_owned())),
        None => Ok((reply["result"].take(), reader)),
    }
}

fn answer_error(path: &Path, error: io::Error) -> ControlError {
    ControlError::Answer { path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server on a socket of its own whose daemon answers every request with its name, and refuses `leave`.
    fn served(test: impl FnOnce(&Path) + Send + 'static) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = Server::bind(&path).unwrap();
            let (ask, mut asked) = mpsc::channel::<Asked>(8);
            let (events, _keep) = broadcast::channel(16);
            tokio::spawn(server.serve(ask, events.clone()));
            let client = tokio::task::spawn_blocking(move || test(&path));
            let answers = async {
                while let Some((request, answer)) = asked.recv().await {
                    let _ = answer.send(match &request {
                        Request::Leave => Err("not now".into()),
                        Request::Events => Ok(json!([{"kept": 1}])),
                        other => Ok(json!(format!("{other:?}"))),
                    });
                    if request == Request::Events {
                        let _ = events.send(notification(&json!({"new": 2})));
                    }
                }
            };
            tokio::select! { done = client => done.unwrap(), () = answers => {} }
        });
    }

    #[test]
    fn calls_are_answered_and_refused() {
        served(|path| {
            assert_eq!(call(path, "status", json!({})).unwrap(), json!("Status"));
            assert_eq!(call(path, "sas", json!({"show_keys": true})).unwrap(), json!("Sas { show_keys: true }"));
            assert!(matches!(call(path, "leave", json!({})), Err(ControlError::Refused(why)) if why == "not now"));
            assert!(matches!(call(path, "format-disk", json!({})), Err(ControlError::Refused(_))));
            assert!(matches!(call(path, "status", json!({"unknown": 1})), Err(ControlError::Refused(_))));
        });
    }

    #[test]
    fn events_are_followed_from_those_kept_on() {
        served(|path| {
            let mut seen = Vec::new();
            follow(path, |event| {
                seen.push(event);
                seen.len() < 2
            })
            .unwrap();
            assert_eq!(seen, [json!({"kept": 1}), json!({"new": 2})]);
        });
    }

    #[test]
    fn junk_gets_an_error_and_the_server_lives_on() {
        served(|path| {
            for junk in
                [b"\n".as_slice(), b"{}\n", b"[1,2]\n", b"\xff\xfe\n", b"{\"jsonrpc\":\"1.0\",\"method\":\"status\"}\n"]
            {
                let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
                stream.write_all(junk).unwrap();
                let mut line = String::new();
                BufReader::new(stream).read_line(&mut line).unwrap();
                assert!(line.contains("\"error\""), "{line}");
            }
            let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
            // The server may close before all of it is written.
            let _ = stream.write_all(&vec![b'x'; 100_000]);
            assert!(call(path, "status", json!({})).is_ok());
        });
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        served(|path| {
            let mode = std::fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o660);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _guard = runtime.enter();
            assert_eq!(Server::bind(path).err().unwrap().kind(), io::ErrorKind::AddrInUse);
            let stale = path.with_extension("stale");
            drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
            assert!(stale.exists());
            assert!(Server::bind(&stale).is_ok());
        });
    }
}
