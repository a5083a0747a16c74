//! A web server that ends as servers should, and a load that misses nothing: what hot reload is measured with.
//!
//! The server takes its socket from `LISTEN_FDS` (sd_listen_fds(3)) or binds the port itself. On SIGTERM it accepts no
//! more, answers what is asked on the connections that it has, tells each that it is the last answer, and exits when
//! they are gone. So whatever fails under a load that keeps asking was lost by somebody else.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// The longest head of a request or an answer.
const HEAD: usize = 8 << 10;

/// How long a connection that is silent may keep the server from its end.
const LINGER: Duration = Duration::from_secs(2);

/// Serves on `port` until SIGTERM: `GET /` is answered with `text` and the process id.
///
/// # Errors
/// When there is no socket.
pub fn serve(port: u16, text: &str, starts_in: Duration) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        // Before anything else: a signal that comes early is not the end.
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::time::sleep(starts_in).await;
        let listener = match listenfd::ListenFd::from_env().take_tcp_listener(0)? {
            Some(listener) => {
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener)?
            }
            None => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?,
        };
        let answer: Arc<str> = format!("{text} {}\n", std::process::id()).into();
        let (stopping, stopped) = watch::channel(false);
        let open = Arc::new(AtomicUsize::new(0));
        loop {
            tokio::select! {
                biased;
                _ = terminate.recv() => break,
                accepted = listener.accept() => {
                    if let Ok((stream, _)) = accepted {
                        take(stream, &answer, &stopped, &open);
                    }
                }
            }
        }
        // What is in the queue was promised an answer; without a supervisor who holds the socket nobody else gives it.
        while let Ok(Ok((stream, _))) = tokio::time::timeout(Duration::ZERO, listener.accept()).await {
            take(stream, &answer, &stopped, &open);
        }
        drop(listener);
        stopping.send_replace(true);
        while open.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    })
}

fn take(stream: TcpStream, answer: &Arc<str>, stopped: &watch::Receiver<bool>, open: &Arc<AtomicUsize>) {
    let (answer, mut stopped, open) = (Arc::clone(answer), stopped.clone(), Arc::clone(open));
    open.fetch_add(1, Ordering::SeqCst);
    tokio::spawn(async move {
        // A peer that goes away is its own business.
        let _ = converse(stream, &answer, &mut stopped).await;
        open.fetch_sub(1, Ordering::SeqCst);
    });
}

async fn converse(
    mut stream: TcpStream,
    answer: &str,
    stopped: &mut watch::Receiver<bool>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(HEAD);
    loop {
        let head = loop {
            if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break buffer.drain(..end + 4).collect::<Vec<u8>>();
            }
            let stops = *stopped.borrow();
            tokio::select! {
                read = stream.read_buf(&mut buffer) => {
                    if read? == 0 || buffer.len() > HEAD {
                        return Ok(());
                    }
                }
                () = tokio::time::sleep(LINGER), if stops => return Ok(()),
                _ = stopped.changed(), if !stops => {}
            }
        };
        let asked_to_close =
            String::from_utf8_lossy(&head).to_ascii_lowercase().contains("connection: close");
        let last = asked_to_close || *stopped.borrow();
        let connection = if last { "close" } else { "keep-alive" };
        let length = answer.len();
        let text = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: {connection}\r\n\r\n{answer}"
        );
        stream.write_all(text.as_bytes()).await?;
        if last {
            return stream.shutdown().await;
        }
    }
}

/// What became of a load.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests that were answered.
    pub answered: u64,
    /// Connections that were refused.
    pub refused: u64,
    /// Requests that were lost in another way: reset, ended without an answer.
    pub lost: u64,
    /// The first error of each connection, in words.
    pub errors: Vec<String>,
    /// The processes that answered, by their last words, in order of appearance.
    pub by: Vec<String>,
}

/// Asks as fast as it can over so many connections, until told to stop.
#[derive(Debug)]
pub struct Asking {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<Load>,
}

impl Asking {
    /// Begins.
    ///
    /// # Panics
    /// When there can be no thread.
    #[must_use]
    pub fn start(address: SocketAddr, connections: usize, keep_alive: bool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let (stops, counts) = (Arc::clone(&stop), Arc::clone(&answered));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("making the load's runtime");
            runtime.block_on(async move {
                let tasks: Vec<_> = (0..connections)
                    .map(|_| tokio::spawn(ask(address, keep_alive, Arc::clone(&stops), Arc::clone(&counts))))
                    .collect();
                let mut all = Load::default();
                for task in tasks {
                    let one = task.await.expect("a connection of the load");
                    all.answered += one.answered;
                    all.refused += one.refused;
                    all.lost += one.lost;
                    all.errors.extend(one.errors);
                    for by in one.by {
                        if !all.by.contains(&by) {
                            all.by.push(by);
                        }
                    }
                }
                all
            })
        });
        Self { stop, answered, thread }
    }

    /// How many requests were answered until now.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Ends it.
    ///
    /// # Panics
    /// When it broke.
    #[must_use]
    pub fn stop(self) -> Load {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("the load")
    }
}

async fn ask(address: SocketAddr, keep_alive: bool, stop: Arc<AtomicBool>, count: Arc<AtomicU64>) -> Load {
    let mut load = Load::default();
    let mut connection: Option<TcpStream> = None;
    while !stop.load(Ordering::SeqCst) {
        let stream = match connection.take() {
            Some(stream) => Ok(stream),
            None => TcpStream::connect(address).await,
        };
        let mut stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                load.refused += 1;
                if load.errors.is_empty() {
                    load.errors.push(format!("connect: {error}"));
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
        };
        match request(&mut stream, keep_alive).await {
            Ok((by, goes_on)) => {
                load.answered += 1;
                count.fetch_add(1, Ordering::Relaxed);
                if load.by.last() != Some(&by) && !load.by.contains(&by) {
                    load.by.push(by);
                }
                connection = (keep_alive && goes_on).then_some(stream);
            }
            Err(error) => {
                load.lost += 1;
                if load.errors.is_empty() {
                    load.errors.push(format!("request: {error}"));
                }
            }
        }
    }
    load
}

async fn request(stream: &mut TcpStream, keep_alive: bool) -> io::Result<(String, bool)> {
    stream.set_nodelay(true)?;
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let text = format!("GET / HTTP/1.1\r\nhost: load\r\nconnection: {connection}\r\n\r\n");
    stream.write_all(text.as_bytes()).await?;
    let mut buffer = Vec::new();
    let ended = || io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended without an answer");
    let head = loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(ended());
        }
    };
    let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
    let length =
        text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    let length = length.ok_or_else(|| io::Error::other("an answer without a length"))?;
    while buffer.len() < head + length {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(ended());
        }
    }
    let by = String::from_utf8_lossy(&buffer[head..head + length]).trim().to_owned();
    Ok((by, text.contains("connection: keep-alive")))
}
