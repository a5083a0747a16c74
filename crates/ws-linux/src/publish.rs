//! Published ports: a listener on the host whose connections go on inside the workspace.
//!
//! The host side is bound before anything starts, so that a port that is taken is told with who has it.
//! The inside is reached through a socket that comes from the workspace's network namespace ([`Dial`]):
//! nothing of the host's network is changed. While the service restarts, connections wait; when it is
//! stopped for good, the port stays ours and refuses.
//!
//! # Who waits, and for how long
//!
//! A connection waits no longer than the service's `hold`, from its arrival on:
//!
//! - while the service is held or has no run and may get one ([`TargetState::Restarting`]),
//! - while it runs and refuses, if it has accepted before: it has closed its listener and is about to end, whether or
//!   not anybody has seen that yet. If it has never accepted, it may not listen yet; that is believed for as long as
//!   `hold` from its start on, and then for a moment.
//!
//! Who is refused tries again, but few at a time ([`TRYING`]): each try is a request to the spawner, which the next run
//! needs too.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpStream as StdStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, sockopt};
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use ws_model::{Protocol, Publish, ServiceName};

/// The most connections of one port that wait for their service.
pub const MAX_WAITING: usize = 1024;
/// The most connections of one port that are open; further ones stay in the kernel's queue.
const MAX_OPEN: usize = 4096;
/// How long it may take to be connected to a service that runs.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// How long a connection is tried again at least that a service refuses while it counts as running, where connections
/// wait at all.
const REFUSED_FOR: Duration = Duration::from_millis(500);
/// The pause between such tries.
const REFUSED_PAUSE: Duration = Duration::from_millis(10);
/// How many connections of one port that were refused try again at the same time; the others queue behind them.
const TRYING: usize = 2;
/// How long an open connection may go on when its service is down: what is under way is delivered.
const LINGER: Duration = Duration::from_secs(1);
/// The pause when no connection can be accepted, for lack of descriptors most likely.
pub(crate) const TROUBLE_PAUSE: Duration = Duration::from_millis(50);
/// What is copied at once, in each direction.
const BUFFER: usize = 64 * 1024;
/// The kernel's queue of connections that were not accepted yet.
pub(crate) const BACKLOG: i32 = 1024;

/// Opens sockets inside the workspace.
pub trait Dial: Send + Sync {
    /// A new TCP socket (IPv4) in the network namespace of the workspace's router, unconnected and
    /// non-blocking. May block for a moment.
    ///
    /// # Errors
    /// When the workspace's network is gone, or descriptors are exhausted.
    fn tcp_socket(&self) -> io::Result<OwnedFd>;
}

/// Connects to `target` inside the workspace. Takes as long as the other side: bound it.
///
/// # Errors
/// When no socket can be had or nothing accepts.
pub async fn connect(dial: &Arc<dyn Dial>, target: SocketAddrV4) -> io::Result<TcpStream> {
    connect_as(dial, target, 0).await
}

/// As [`connect`], with packets of this type of service (ip(7), `IP_TOS`).
pub(crate) async fn connect_as(dial: &Arc<dyn Dial>, target: SocketAddrV4, tos: u8) -> io::Result<TcpStream> {
    let dial = Arc::clone(dial);
    // Asking for the socket is a round trip to another process.
    let socket = tokio::task::spawn_blocking(move || dial.tcp_socket()).await.map_err(io::Error::other)??;
    if tos != 0 {
        sockopt::set_ip_tos(&socket, tos)?;
    }
    let stream = TcpSocket::from_std_stream(StdStream::from(socket)).connect(SocketAddr::V4(target)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// An error of the operating system in few words.
pub(crate) fn io_phrase(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::TimedOut => "timed out".to_owned(),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "no route to it".to_owned(),
        _ => {
            let text = error.to_string();
            text.split_once(" (os error").map_or(text.as_str(), |(words, _)| words).to_lowercase()
        }
    }
}

/// Whether the service behind a port can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetState {
    /// It runs: connections go through.
    Up,
    /// It is being started: connections wait.
    Restarting,
    /// It does not run and will not by itself: connections are refused.
    Down,
}

/// Why a port could not be published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something listens there.
    #[error(
        "could not publish port {port} of `{service}`: {address} is in use by {holder}; `ports: [\"0:{port}\"]` picks \
         a free one"
    )]
    InUse {
        /// Whose port.
        service: ServiceName,
        /// Its port.
        port: u16,
        /// The host's address and port.
        address: SocketAddr,
        /// Who has it.
        holder: Holder,
    },
    /// The address cannot be listened on.
    #[error("could not publish port {port} of `{service}` on {address}{hint}")]
    Bind {
        /// Whose port.
        service: ServiceName,
        /// Its port.
        port: u16,
        /// The host's address and port.
        address: SocketAddr,
        /// What to do about it, or nothing.
        hint: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Only TCP ports are published.
    #[error("could not publish port {port}/{protocol} of `{service}`: only tcp ports are published")]
    Protocol {
        /// Whose port.
        service: ServiceName,
        /// Its port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
    },
}

/// Who listens on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// This process.
    Process {
        /// Its number.
        pid: u32,
        /// Its name.
        name: String,
    },
    /// It belongs to another user, or is outside of what we can see.
    Unknown,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, name } => write!(f, "`{}` (pid {pid})", name.escape_debug()),
            Self::Unknown => f.write_str("a process that we may not look at"),
        }
    }
}

/// What connections find behind a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Target {
    address: SocketAddrV4,
    state: TargetState,
    /// How long they wait.
    hold: Duration,
    /// Counts how often it came up, and when it did the last time.
    turn: u64,
    since: Instant,
}

/// A published port. Dropping it closes the port and every connection.
pub struct Publisher {
    service: ServiceName,
    publish: Publish,
    address: SocketAddr,
    /// The socket until it is served.
    socket: Option<OwnedFd>,
    most_waiting: usize,
    target: watch::Sender<Target>,
    task: Option<JoinHandle<()>>,
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("service", &self.service)
            .field("address", &self.address)
            .field("target", &*self.target.borrow())
            .finish_non_exhaustive()
    }
}

impl Publisher {
    /// Listens on the host's side and gives the port, which was picked when none was asked for. `target` is
    /// the service's address and port in the workspace; `hold` how long connections wait for it. They queue in the
    /// kernel until [`Publisher::serve`]; the state is `Restarting`. Needs no runtime.
    ///
    /// # Errors
    /// When the port is taken, or the address cannot be listened on.
    pub fn bind(
        publish: &Publish,
        service: &ServiceName,
        target: SocketAddrV4,
        hold: Duration,
    ) -> Result<(Self, u16), Error> {
        match publish.protocol {
            Protocol::Tcp => {}
            Protocol::Udp => {
                return Err(Error::Protocol {
                    service: service.clone(),
                    port: publish.port,
                    protocol: publish.protocol,
                });
            }
        }
        let wanted = SocketAddr::new(publish.host, publish.host_port.unwrap_or(0));
        let (socket, address) = listen(wanted).map_err(|source| {
            let (service, port, address) = (service.clone(), publish.port, wanted);
            if source.kind() == io::ErrorKind::AddrInUse {
                let holder = holder_of(Path::new("/proc"), address);
                return Error::InUse { service, port, address, holder };
            }
            let hint = match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    ": ports below net.ipv4.ip_unprivileged_port_start (1024) are for root; take a higher one"
                }
                io::ErrorKind::AddrNotAvailable => ": this machine has no such address",
                _ => "",
            };
            Error::Bind { service, port, address, hint, source }
        })?;
        let state = TargetState::Restarting;
        let target = Target { address: target, state, hold, turn: 0, since: Instant::now() };
        let publisher = Self {
            service: service.clone(),
            publish: publish.clone(),
            address,
            socket: Some(socket),
            most_waiting: MAX_WAITING,
            target: watch::Sender::new(target),
            task: None,
        };
        Ok((publisher, address.port()))
    }

    /// Begins to accept connections on the current runtime, which reach the service through `dial`. Later
    /// calls change nothing.
    ///
    /// # Errors
    /// When the socket cannot be registered with the runtime.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn serve(&mut self, dial: Arc<dyn Dial>) -> io::Result<()> {
        let Some(socket) = self.socket.take() else { return Ok(()) };
        let listener = register(&socket)?;
        let port = Port {
            service: self.service.clone(),
            dial,
            target: self.target.subscribe(),
            waiting: Arc::new(Semaphore::new(self.most_waiting)),
            trying: Arc::new(Semaphore::new(TRYING)),
            accepted: Arc::new(AtomicU64::new(0)),
        };
        self.task = Some(tokio::spawn(accept(socket, listener, port)));
        Ok(())
    }

    /// Says whether the service can be reached from now on.
    pub fn set_target_state(&self, state: TargetState) {
        self.target.send_if_modified(|target| {
            if state == TargetState::Up && target.state != TargetState::Up {
                target.turn += 1;
                target.since = Instant::now();
            }
            std::mem::replace(&mut target.state, state) != state
        });
    }

    /// Says how long connections wait from now on.
    pub fn set_hold(&self, hold: Duration) {
        self.target.send_if_modified(|target| std::mem::replace(&mut target.hold, hold) != hold);
    }

    /// What it publishes.
    #[must_use]
    pub fn publish(&self) -> &Publish {
        &self.publish
    }

    /// Leads further connections to another port of the service; those that are open stay. Only the service's port
    /// may be another one.
    pub fn lead_to(&mut self, publish: Publish) {
        self.target.send_modify(|target| target.address.set_port(publish.port));
        self.publish = publish;
    }

    /// Closes the port and every connection; afterwards another one can have it.
    pub async fn close(mut self) {
        if let Some(mut task) = self.task.take() {
            task.abort();
            // That it was aborted is what is wanted.
            let _ = (&mut task).await;
        }
    }

    /// The host's address and port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // The connections are the task's: they end with it.
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// A socket that listens on `wanted`, and where it does.
fn listen(wanted: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    let mut socket = bound(wanted)?;
    let address = SocketAddr::try_from(rustix::net::getsockname(&socket)?).map_err(io::Error::from)?;
    if wanted.port() == 0 {
        // A port that the kernel picked is lost when the socket stops listening, one that was asked for is
        // kept: the same one is asked for before it is given back.
        socket = bound(address)?;
    }
    rustix::net::listen(&socket, BACKLOG)?;
    Ok((socket, address))
}

fn bound(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    // Connections of an earlier listener that still linger are no reason to refuse.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

/// What the connections of a port have in common.
#[derive(Clone)]
struct Port {
    service: ServiceName,
    dial: Arc<dyn Dial>,
    target: watch::Receiver<Target>,
    /// Places of those that wait.
    waiting: Arc<Semaphore>,
    /// Places of those of them that try.
    trying: Arc<Semaphore>,
    /// The last turn in which the service has accepted a connection.
    accepted: Arc<AtomicU64>,
}

/// Accepts until the publisher is gone. `socket` is bound, and listens at first.
async fn accept(socket: OwnedFd, listener: TcpListener, mut port: Port) {
    let mut connections = JoinSet::new();
    let mut listener = Some(listener);
    loop {
        let down = port.target.borrow_and_update().state == TargetState::Down;
        if down && listener.is_some() {
            // A registration never forgets that its socket was shut down: each turn has its own.
            listener = None;
            refuse(&socket, &port.service);
        } else if !down && listener.is_none() {
            listener = listen_again(&socket, &port.service);
        }
        let full = connections.len() >= MAX_OPEN;
        let accepted = tokio::select! {
            changed = port.target.changed() => {
                if changed.is_err() {
                    return;
                }
                continue;
            }
            Some(_) = connections.join_next() => continue,
            accepted = accept_on(listener.as_ref()), if !full && !down => accepted,
        };
        match accepted {
            Ok(client) => {
                connections.spawn(serve_one(client, port.clone()));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(service = %port.service, %error, "cannot accept connections now");
                tokio::time::sleep(TROUBLE_PAUSE).await;
            }
        }
    }
}

async fn accept_on(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(client, _)| client),
        // Somebody has taken the port: the next turn tries again.
        None => Err(io::ErrorKind::AddrInUse.into()),
    }
}

fn register(socket: &OwnedFd) -> io::Result<TcpListener> {
    TcpListener::from_std(socket.try_clone()?.into())
}

/// Stops listening without giving the port up: connections that were not accepted are reset.
fn refuse(socket: &OwnedFd, service: &ServiceName) {
    // Without the option no other socket can listen on the port that ours is bound to.
    let result = sockopt::set_socket_reuseaddr(socket, false)
        .and_then(|()| rustix::net::shutdown(socket, Shutdown::Both));
    if let Err(error) = result {
        tracing::warn!(%service, %error, "a published port of a service that is down cannot refuse");
    }
}

fn listen_again(socket: &OwnedFd, service: &ServiceName) -> Option<TcpListener> {
    let listen = || {
        sockopt::set_socket_reuseaddr(socket, true)?;
        rustix::net::listen(socket, BACKLOG)?;
        register(socket)
    };
    listen()
        .inspect_err(|error| tracing::warn!(%service, %error, "a published port cannot be listened on again"))
        .ok()
}

/// One connection from beginning to end.
async fn serve_one(client: TcpStream, mut port: Port) {
    match reach(&mut port).await {
        Ok(service) => relay(client, service, &mut port.target).await,
        Err(error) => {
            tracing::debug!(service = %port.service, %error, "a connection found no service");
            reset(&client);
        }
    }
}

/// Connects to the service, waiting while it restarts.
async fn reach(port: &mut Port) -> io::Result<TcpStream> {
    let arrived = Instant::now();
    // A place among those that wait, taken when there is something to wait for.
    let mut place = None;
    loop {
        let target = *port.target.borrow_and_update();
        // One beyond all time is none.
        let until = |from: Instant| from.checked_add(target.hold);
        let (until, _trying) = match target.state {
            TargetState::Down => return Err(io::ErrorKind::ConnectionRefused.into()),
            TargetState::Restarting => (until(arrived), None),
            TargetState::Up => {
                // The first try is free; it is what nearly all need.
                let mut trying = None;
                if place.is_some() {
                    trying = tokio::select! {
                        permit = Arc::clone(&port.trying).acquire_owned() => permit.ok(),
                        changed = port.target.changed() => {
                            changed.map_err(io::Error::other)?;
                            continue;
                        }
                    };
                }
                let connecting = tokio::time::timeout(CONNECT_WITHIN, connect(&port.dial, target.address));
                let tried = tokio::select! {
                    tried = connecting => tried,
                    // A service that is gone answers nothing: what its state becomes decides.
                    changed = port.target.changed() => {
                        changed.map_err(io::Error::other)?;
                        continue;
                    }
                };
                let error = match tried {
                    Ok(Ok(stream)) => {
                        port.accepted.fetch_max(target.turn, Ordering::Relaxed);
                        return Ok(stream);
                    }
                    Ok(Err(error)) => error,
                    Err(_elapsed) => return Err(io::ErrorKind::TimedOut.into()),
                };
                // Reset: its listener was closed between the kernel's word and its own.
                let gone = [io::ErrorKind::ConnectionRefused, io::ErrorKind::ConnectionReset];
                if !gone.contains(&error.kind()) {
                    return Err(error);
                }
                let at_least = arrived + REFUSED_FOR.min(target.hold);
                let known = port.accepted.load(Ordering::Relaxed) >= target.turn;
                let from = if known { arrived } else { target.since.min(arrived) };
                (until(from).map(|until| until.max(at_least)), trying)
            }
        };
        if until.is_some_and(|until| Instant::now() >= until) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if place.is_none() {
            let taken = Arc::clone(&port.waiting).try_acquire_owned();
            place = Some(taken.map_err(|_| io::Error::other("too many connections wait"))?);
        }
        let wake = match target.state {
            TargetState::Up => Some(Instant::now() + REFUSED_PAUSE),
            TargetState::Restarting | TargetState::Down => until,
        };
        let woken = async {
            match wake {
                Some(wake) => tokio::time::sleep_until(wake).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = port.target.changed() => changed.map_err(io::Error::other)?,
            () = woken => {}
        }
    }
}

/// Copies both ways until both sides are done, or the service is down.
async fn relay(mut client: TcpStream, mut service: TcpStream, target: &mut watch::Receiver<Target>) {
    let cut = tokio::select! {
        () = copy_both(&mut client, &mut service) => false,
        () = left_behind(target) => true,
    };
    if cut {
        reset(&client);
        reset(&service);
    }
}

/// Copies both ways until both sides are done; the end of one side is passed on at once, and a reader that stops
/// holds the writer back. A connection that broke on one side does not look complete on the other.
pub(crate) async fn copy_both(client: &mut TcpStream, service: &mut TcpStream) {
    // Small messages must not wait for others; where it cannot be set they are only slower.
    let _ = client.set_nodelay(true);
    if copy_bidirectional_with_sizes(client, service, BUFFER, BUFFER).await.is_err() {
        reset(client);
        reset(service);
    }
}

/// Waits until the service is down and what was under way has had its time.
async fn left_behind(target: &mut watch::Receiver<Target>) {
    loop {
        if target.wait_for(|target| target.state == TargetState::Down).await.is_err() {
            return;
        }
        let back = target.wait_for(|target| target.state != TargetState::Down);
        match tokio::time::timeout(LINGER, back).await {
            Ok(Ok(_back)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// Makes the close that follows a reset.
pub(crate) fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

/// Who listens on `address`, found in the tables of `proc` (`/proc`).
fn holder_of(proc: &Path, address: SocketAddr) -> Holder {
    let mut inodes = Vec::new();
    for table in ["net/tcp", "net/tcp6"] {
        let text = fs::read_to_string(proc.join(table)).unwrap_or_default();
        inodes.extend(text.lines().skip(1).filter_map(|line| listening(line, address)));
    }
    let sockets: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    if sockets.is_empty() {
        return Holder::Unknown;
    }
    let processes = fs::read_dir(proc).into_iter().flatten().flatten();
    for process in processes {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let fds = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let holds = fds.into_iter().any(|fd| {
            fs::read_link(fd.path())
                .is_ok_and(|link| sockets.iter().any(|socket| link.as_os_str() == socket.as_str()))
        });
        if holds {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Holder::Process { pid, name: name.trim_end().to_owned() };
        }
    }
    Holder::Unknown
}

/// The inode of a listening socket in a line of `/proc/net/tcp` or `tcp6` that stands in the way of
/// `wanted`.
fn listening(line: &str, wanted: SocketAddr) -> Option<u64> {
    // sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?.parse().ok()?;
    let (address, port) = local.split_once(':')?;
    if state != "0A" || u16::from_str_radix(port, 16).ok()? != wanted.port() {
        return None;
    }
    let address = table_address(address)?;
    let same = address == wanted.ip() || address.is_unspecified() || wanted.ip().is_unspecified();
    same.then_some(inode)
}

/// An address as the kernel prints it: words of four bytes, each in the machine's own order.
fn table_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(text.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    match text.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let mut bytes = [0; 16];
            for (at, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// Longer than a test.
    const HOLD: Duration = Duration::from_secs(3600);

    /// Sockets of the host itself: the tests' services listen on its loopback.
    #[derive(Debug)]
    pub(crate) struct HostDial;

    impl Dial for HostDial {
        fn tcp_socket(&self) -> io::Result<OwnedFd> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            Ok(rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?)
        }
    }

    fn web() -> ServiceName {
        ServiceName::new("web").unwrap()
    }

    fn any_port() -> Publish {
        Publish { host: Ipv4Addr::LOCALHOST.into(), host_port: None, port: 8080, protocol: Protocol::Tcp }
    }

    /// A service that listens, and the port that publishes it.
    async fn published() -> (TcpListener, Publisher, SocketAddr) {
        let service = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (publisher, address) = publisher_of(&service);
        (service, publisher, address)
    }

    fn publisher_of(service: &TcpListener) -> (Publisher, SocketAddr) {
        let SocketAddr::V4(target) = service.local_addr().unwrap() else { panic!("not IPv4") };
        let (mut publisher, port) = Publisher::bind(&any_port(), &web(), target, HOLD).unwrap();
        publisher.serve(Arc::new(HostDial)).unwrap();
        assert_eq!(publisher.address(), SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let address = publisher.address();
        (publisher, address)
    }

    async fn soon<T>(work: impl Future<Output = T>) -> T {
        tokio::time::timeout(LONG, work).await.expect("it takes too long")
    }

    #[tokio::test]
    async fn both_directions_are_copied_and_half_closes_passed_on() {
        let (service, publisher, address) = published().await;
        publisher.set_target_state(TargetState::Up);
        let answer = tokio::spawn(async move {
            let (mut stream, _) = service.accept().await.unwrap();
            let mut request = Vec::new();
            // Ends when the client's half is closed; the other half is still open then.
            stream.read_to_end(&mut request).await.unwrap();
            stream.write_all(&request).await.unwrap();
            stream.write_all(b"!").await.unwrap();
            request.len()
        });
        let mut client = TcpStream::connect(address).await.unwrap();
        let text: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 253) as u8).collect();
        client.write_all(&text).await.unwrap();
        client.shutdown().await.unwrap();
        let mut echoed = Vec::new();
        soon(client.read_to_end(&mut echoed)).await.unwrap();
        assert_eq!(soon(answer).await.unwrap(), text.len());
        assert_eq!(echoed.pop(), Some(b'!'));
        assert!(echoed == text);
    }

    #[tokio::test]
    async fn a_reader_that_stops_holds_the_writer_back() {
        let (service, publisher, address) = published().await;
        publisher.set_target_state(TargetState::Up);
        let client = TcpStream::connect(address).await.unwrap();
        let (_stalled, _) = soon(service.accept()).await.unwrap();
        let sent = AtomicUsize::new(0);
        let flood = async {
            let chunk = vec![0_u8; 1 << 16];
            loop {
                client.writable().await.unwrap();
                match client.try_write(&chunk) {
                    Ok(n) => sent.fetch_add(n, Ordering::Relaxed),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(error) => panic!("{error}"),
                };
            }
        };
        // Until nothing has gone through for a while: sockets and buffers are full.
        let still = async {
            let mut before = usize::MAX;
            while before != sent.load(Ordering::Relaxed) {
                before = sent.load(Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        };
        tokio::select! {
            () = flood => (),
            () = soon(still) => (),
        }
        // Two sockets' buffers of at most 6 MiB each way, and ours.
        assert!(sent.load(Ordering::Relaxed) < 64 << 20, "{sent:?}");
    }

    #[tokio::test]
    async fn connections_wait_while_the_service_restarts() {
        let (service, publisher, address) = published().await;
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"x").await.unwrap();
        // Nothing goes through before the service is up.
        assert!(tokio::time::timeout(Duration::from_millis(50), service.accept()).await.is_err());
        publisher.set_target_state(TargetState::Up);
        let (mut stream, _) = soon(service.accept()).await.unwrap();
        let mut byte = [0];
        soon(stream.read_exact(&mut byte)).await.unwrap();
        assert_eq!(byte, *b"x");
    }

    /// Whether it is over with a reset, and after how long.
    async fn is_reset(mut client: TcpStream) -> Duration {
        let began = Instant::now();
        let error = soon(client.read(&mut [0])).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        began.elapsed()
    }

    async fn waits_on(client: &mut TcpStream) {
        let read = tokio::time::timeout(Duration::from_millis(60), client.read(&mut [0])).await;
        assert!(read.is_err(), "{read:?}");
    }

    #[tokio::test]
    async fn a_service_that_does_not_listen_yet_is_waited_for() {
        let reserved = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let target = reserved.local_addr().unwrap();
        let (publisher, address) = publisher_of(&reserved);
        drop(reserved);
        publisher.set_target_state(TargetState::Up);
        let mut early = TcpStream::connect(address).await.unwrap();
        waits_on(&mut early).await;
        let service = TcpListener::bind(target).await.unwrap();
        let (_inside, _) = soon(service.accept()).await.unwrap();
        waits_on(&mut early).await;

        // Nor one that has closed its listener, which nobody has seen yet.
        drop(service);
        let mut late = TcpStream::connect(address).await.unwrap();
        waits_on(&mut late).await;
        publisher.set_target_state(TargetState::Restarting);
        waits_on(&mut late).await;
        publisher.set_target_state(TargetState::Up);
        let service = TcpListener::bind(target).await.unwrap();
        soon(service.accept()).await.unwrap();
    }

    #[tokio::test]
    async fn nobody_waits_for_longer_than_hold() {
        let reserved = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let target = reserved.local_addr().unwrap();
        let (publisher, address) = publisher_of(&reserved);
        drop(reserved);
        let hold = Duration::from_millis(800);
        publisher.set_hold(hold);
        let took = is_reset(TcpStream::connect(address).await.unwrap()).await;
        assert!(took >= hold / 2, "{took:?}");
        publisher.set_target_state(TargetState::Up);
        let took = is_reset(TcpStream::connect(address).await.unwrap()).await;
        assert!(took >= hold / 2, "{took:?}");
        // One that never listens is believed to be about to for no longer than that: then for a moment each time.
        let took = is_reset(TcpStream::connect(address).await.unwrap()).await;
        assert!(took >= REFUSED_FOR / 2, "{took:?}");

        let service = TcpListener::bind(target).await.unwrap();
        let _client = TcpStream::connect(address).await.unwrap();
        soon(service.accept()).await.unwrap();
        drop(service);
        let took = is_reset(TcpStream::connect(address).await.unwrap()).await;
        assert!(took >= hold / 2, "{took:?}");

        // Without it nobody waits at all.
        publisher.set_hold(Duration::ZERO);
        let took = is_reset(TcpStream::connect(address).await.unwrap()).await;
        assert!(took < REFUSED_FOR, "{took:?}");
        publisher.set_target_state(TargetState::Restarting);
        is_reset(TcpStream::connect(address).await.unwrap()).await;
        publisher.set_hold(Duration::MAX);
        let mut client = TcpStream::connect(address).await.unwrap();
        waits_on(&mut client).await;
    }

    #[tokio::test]
    async fn many_that_were_refused_get_through_and_ask_for_few_sockets() {
        #[derive(Debug, Default)]
        struct Counting(AtomicUsize);
        impl Dial for Counting {
            fn tcp_socket(&self) -> io::Result<OwnedFd> {
                self.0.fetch_add(1, Ordering::Relaxed);
                HostDial.tcp_socket()
            }
        }
        let reserved = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let SocketAddr::V4(target) = reserved.local_addr().unwrap() else { panic!("not IPv4") };
        drop(reserved);
        let dial = Arc::new(Counting::default());
        let (mut publisher, _) = Publisher::bind(&any_port(), &web(), target, HOLD).unwrap();
        publisher.serve(Arc::clone(&dial) as _).unwrap();
        publisher.set_target_state(TargetState::Up);
        let mut clients = Vec::new();
        for _ in 0..200 {
            clients.push(TcpStream::connect(publisher.address()).await.unwrap());
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let tries = dial.0.load(Ordering::Relaxed);
        // The first of each, and those that take turns: at most as many as there are pauses.
        assert!((200..200 + 2 * TRYING * 100).contains(&tries), "{tries}");
        let service = TcpListener::bind(target).await.unwrap();
        for _ in 0..200 {
            soon(service.accept()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn it_can_lead_elsewhere_and_be_closed_for_another() {
        let (first, mut publisher, address) = published().await;
        let second = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        publisher.set_target_state(TargetState::Up);
        let mut open = TcpStream::connect(address).await.unwrap();
        let (mut inside, _) = soon(first.accept()).await.unwrap();
        // It is through, and not only about to be: that could still be led elsewhere.
        inside.write_all(b"w").await.unwrap();
        assert_eq!(soon(open.read_u8()).await.unwrap(), b'w');
        publisher.lead_to(Publish { port: second.local_addr().unwrap().port(), ..any_port() });
        let _client = TcpStream::connect(address).await.unwrap();
        soon(second.accept()).await.unwrap();
        inside.write_all(b"x").await.unwrap();
        assert_eq!(soon(open.read_u8()).await.unwrap(), b'x');
        for _ in 0..20 {
            publisher.close().await;
            let wanted = Publish { host_port: Some(address.port()), ..any_port() };
            let SocketAddr::V4(target) = second.local_addr().unwrap() else { panic!("not IPv4") };
            publisher = Publisher::bind(&wanted, &web(), target, HOLD).unwrap().0;
            publisher.serve(Arc::new(HostDial)).unwrap();
        }
    }

    #[tokio::test]
    async fn a_service_that_is_down_refuses_and_comes_back_on_the_same_port() {
        let (service, publisher, address) = published().await;
        publisher.set_target_state(TargetState::Up);
        let mut open = TcpStream::connect(address).await.unwrap();
        let (_inside, _) = soon(service.accept()).await.unwrap();

        publisher.set_target_state(TargetState::Down);
        let refused = async {
            // Accepted by the kernel, or reset, as long as the state is not seen.
            let refuses =
                |result: io::Result<_>| result.is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
            while !refuses(TcpStream::connect(address).await) {
                tokio::task::yield_now().await;
            }
        };
        soon(refused).await;
        // Nobody else can have the port meanwhile.
        let error = std::net::TcpListener::bind(address).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        // What was open is cut, after a moment.
        let error = soon(open.read(&mut [0])).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);

        for _ in 0..3 {
            publisher.set_target_state(TargetState::Restarting);
            publisher.set_target_state(TargetState::Up);
            let accepted = async {
                loop {
                    match TcpStream::connect(address).await {
                        Ok(client) => break client,
                        Err(_) => tokio::task::yield_now().await,
                    }
                }
            };
            let _client = soon(accepted).await;
            soon(service.accept()).await.unwrap();
            publisher.set_target_state(TargetState::Down);
            soon(async { while TcpStream::connect(address).await.is_ok() {} }).await;
        }
    }

    #[tokio::test]
    async fn no_more_than_a_bounded_number_waits() {
        let target = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
        let (mut publisher, _) = Publisher::bind(&any_port(), &web(), target, HOLD).unwrap();
        publisher.most_waiting = 8;
        publisher.serve(Arc::new(HostDial)).unwrap();
        let mut waiting = JoinSet::new();
        for _ in 0..9 {
            let mut client = TcpStream::connect(publisher.address()).await.unwrap();
            waiting.spawn(async move { client.read(&mut [0]).await });
        }
        // One too many, whichever it is; the others wait on.
        let refused = soon(waiting.join_next()).await.unwrap().unwrap();
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(tokio::time::timeout(Duration::from_millis(50), waiting.join_next()).await.is_err());
        assert_eq!(waiting.len(), 8);
    }

    #[tokio::test]
    async fn dropping_it_closes_the_port_and_its_connections() {
        let (service, publisher, address) = published().await;
        publisher.set_target_state(TargetState::Up);
        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut inside, _) = soon(service.accept()).await.unwrap();
        drop(publisher);
        // Whether it ends or breaks, it is over on both sides.
        assert_eq!(soon(client.read(&mut [0])).await.unwrap_or(0), 0);
        assert_eq!(soon(inside.read(&mut [0])).await.unwrap_or(0), 0);
        soon(async { while TcpStream::connect(address).await.is_ok() {} }).await;
    }

    #[tokio::test]
    async fn a_broken_connection_does_not_look_complete() {
        let (service, publisher, address) = published().await;
        publisher.set_target_state(TargetState::Up);
        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut inside, _) = soon(service.accept()).await.unwrap();
        inside.write_all(b"half").await.unwrap();
        let mut half = [0; 4];
        soon(client.read_exact(&mut half)).await.unwrap();
        inside.set_zero_linger().unwrap();
        drop(inside);
        let error = soon(client.read(&mut [0])).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn a_port_that_is_taken_names_who_has_it() {
        let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = taken.local_addr().unwrap();
        let publish = Publish { host_port: Some(address.port()), ..any_port() };
        let target = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 2), 8080);
        let error = Publisher::bind(&publish, &web(), target, HOLD).unwrap_err();
        let Error::InUse { holder: Holder::Process { pid, name }, .. } = &error else { panic!("{error:?}") };
        assert_eq!(*pid, std::process::id());
        let own = fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(name, own.trim_end());
        let text = error.to_string();
        assert!(text.contains(&format!("{address} is in use by `{name}` (pid {pid})")), "{text}");
        assert!(text.contains("`ports: [\"0:8080\"]` picks a free one"), "{text}");
    }

    #[test]
    fn an_address_of_another_machine_and_udp_are_refused_in_words() {
        let target = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
        let elsewhere = Publish { host: Ipv4Addr::new(192, 0, 2, 1).into(), ..any_port() };
        let error = Publisher::bind(&elsewhere, &web(), target, HOLD).unwrap_err();
        assert!(error.to_string().contains("this machine has no such address"), "{error}");
        let udp = Publish { protocol: Protocol::Udp, ..any_port() };
        let error = Publisher::bind(&udp, &web(), target, HOLD).unwrap_err();
        assert!(error.to_string().contains("only tcp"), "{error}");
    }

    #[test]
    fn listeners_are_found_in_the_kernels_tables() {
        let v4 = "   3: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1 0 100";
        let any = "   3: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12346 1 0 100";
        let v6 = "   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A \
                  00000000:00000000 00:00000000 00000000 0 0 777 1 0 100 0 0 10 0";
        let established = v4.replace(" 0A ", " 01 ");
        let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
        if cfg!(target_endian = "little") {
            assert_eq!(listening(v4, wanted), Some(12345));
            assert_eq!(listening(v4, SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 8080))), None);
        }
        assert_eq!(listening(v4, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080))), Some(12345));
        assert_eq!(listening(any, wanted), Some(12346));
        assert_eq!(listening(v6, wanted), Some(777));
        assert_eq!(listening(any, SocketAddr::from((Ipv4Addr::LOCALHOST, 8081))), None);
        assert_eq!(listening(&established, wanted), None);
        for garbage in [
            "",
            "  sl  local_address rem_address   st",
            "1: x:y z 0A a b c d e f",
            "1: 00:1F90 0 0A a b c d e 1",
        ] {
            assert_eq!(listening(garbage, wanted), None, "{garbage}");
        }
    }

    #[test]
    fn a_holder_that_cannot_be_seen_is_said_so() {
        let proc = tempfile::tempdir().unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
        assert_eq!(holder_of(proc.path(), address), Holder::Unknown);
        assert!(Holder::Unknown.to_string().contains("may not look at"));
    }
}
