//! Answers `GET /metrics`, and nothing else: few connections, small requests, short patience.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

/// Connections at once; more are closed at once.
const MAX_CONNECTIONS: usize = 16;
/// From accepting to the last byte of the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of a request's head; more is refused. No body is read.
const MAX_HEAD: usize = 8 * 1024;
const MAX_HEADERS: usize = 32;
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A question for the daemon, and where its answer goes.
pub(crate) type Scrape = oneshot::Sender<String>;

/// A bound socket: what can fail has been done.
pub(crate) struct Listener(TcpListener);

impl Listener {
    pub(crate) async fn bind(address: SocketAddr) -> io::Result<Listener> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("metrics.listen {address}: {error}"));
        Ok(Listener(TcpListener::bind(address).await.map_err(named)?))
    }
}

/// Serves until it is dropped.
pub(crate) struct Server(JoinHandle<()>);

impl Server {
    /// `ask` leads to the daemon.
    pub(crate) fn start(listener: Listener, ask: mpsc::Sender<Scrape>) -> Server {
        Server(tokio::spawn(serve(listener.0, ask)))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn serve(listener: TcpListener, ask: mpsc::Sender<Scrape>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors: one will be free again.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let ask = ask.clone();
        tokio::spawn(async move {
            // An error or a time-out ends this connection and nothing else.
            let _ = tokio::time::timeout(PATIENCE, serve_connection(stream, ask)).await;
            drop(place);
        });
    }
}

async fn serve_connection(stream: TcpStream, ask: mpsc::Sender<Scrape>) -> hyper::Result<()> {
    let service = service_fn(|request| async {
        let response = answer(request, &ask).await;
        Ok::<_, Infallible>(response)
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn answer(request: Request<Incoming>, ask: &mpsc::Sender<Scrape>) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "only /metrics is here\n");
    }
    if request.method() != Method::GET {
        return with(plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n"), ALLOW, "GET");
    }
    let (answer, answered) = oneshot::channel();
    if ask.send(answer).await.is_err() {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "the daemon ends\n");
    }
    match answered.await {
        Ok(text) => with(Response::new(Full::from(text)), CONTENT_TYPE, OPENMETRICS),
        Err(_) => plain(StatusCode::SERVICE_UNAVAILABLE, "the daemon ends\n"),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    with(response, CONTENT_TYPE, "text/plain; charset=utf-8")
}

fn with<T>(mut response: Response<T>, name: HeaderName, value: &'static str) -> Response<T> {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A server whose daemon answers with one line; what comes back for what is sent.
    fn exchange(request: &[u8]) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
            let address = listener.0.local_addr().unwrap();
            let (ask, mut asked) = mpsc::channel::<Scrape>(1);
            let _server = Server::start(listener, ask);
            tokio::spawn(async move {
                while let Some(answer) = asked.recv().await {
                    let _ = answer.send("muster_up 1\n".into());
                }
            });
            let mut stream = TcpStream::connect(address).await.unwrap();
            // The server may close before all of it is written.
            let _ = stream.write_all(request).await;
            let mut reply = Vec::new();
            let _ = stream.read_to_end(&mut reply).await;
            String::from_utf8_lossy(&reply).into_owned()
        })
    }

    #[test]
    fn one_page_is_there_and_nothing_else() {
        let page = exchange(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.ends_with("\r\n\r\nmuster_up 1\n"), "{page}");
        assert!(page.contains("content-type: application/openmetrics-text"), "{page}");
        assert!(page.to_lowercase().contains("connection: close"), "{page}");
        let other = exchange(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(other.starts_with("HTTP/1.1 404 "), "{other}");
        let post = exchange(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi");
        assert!(post.starts_with("HTTP/1.1 405 "), "{post}");
    }

    #[test]
    fn junk_is_refused() {
        for junk in [b"\xff\xfe\r\n\r\n".as_slice(), b"GET\r\n\r\n"] {
            let reply = exchange(&[junk, b"\n\r\n"].concat());
            assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 400 "), "{reply}");
        }
        let long = [b"GET /metrics HTTP/1.1\r\nx: ".as_slice(), &[b'a'; 100_000], b"\r\n\r\n"].concat();
        let reply = exchange(&long);
        assert!(!reply.contains(" 200 "), "{reply}");
        let many = [b"GET /metrics HTTP/1.1\r\n".as_slice(), &b"a: b\r\n".repeat(100), b"\r\n"].concat();
        assert!(!exchange(&many).contains(" 200 "));
    }

    #[test]
    fn who_says_nothing_takes_no_place_for_long_and_more_than_the_places_are_turned_away() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
            let address = listener.0.local_addr().unwrap();
            let (ask, _asked) = mpsc::channel::<Scrape>(1);
            let _server = Server::start(listener, ask);
            let mut streams = Vec::new();
            for _ in 0..=MAX_CONNECTIONS {
                streams.push(TcpStream::connect(address).await.unwrap());
            }
            // The clock stands still as long as anybody has something to do, and goes on by itself when nobody has.
            let begun = tokio::time::Instant::now();
            let mut nothing = [0; 1];
            let one_too_many = streams.pop().unwrap();
            for (mut stream, waits) in [(one_too_many, false), (streams.pop().unwrap(), true)] {
                assert!(matches!(stream.read(&mut nothing).await, Ok(0) | Err(_)));
                assert_eq!(begun.elapsed() >= PATIENCE, waits, "{:?}", begun.elapsed());
            }
        });
    }
}
