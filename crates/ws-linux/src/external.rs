//! What runs elsewhere: a listener inside the workspace whose connections the host passes on.
//!
//! The other way round than [`publish`](crate::publish): a service connects to an address of the router, where only
//! those with a link to it get through (`ws_linux::net`), and the connection goes on from the host's own network.
//! Nothing of the host's network is changed, and a service cannot choose where it goes: that stands in the plan.
//!
//! A name is looked up at each connection, so that it may move. What cannot be reached is told to the client as a
//! reset at once, and to the log once, until it can be reached again (and not more often than every ten seconds).

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use ws_core::plan::ExternalPlan;
use ws_model::ExternalHost;

use crate::publish::{self, BACKLOG, TROUBLE_PAUSE, io_phrase};

/// The most connections that one service has open to one thing elsewhere; further ones are reset.
pub const MAX_OPEN_PER_SERVICE: usize = 512;
/// How long it may take to be connected: looking a name up and trying all its addresses.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// How many names are looked up at the same time, for one thing elsewhere: each look-up occupies a thread that
/// others of the host wait for too.
const MAX_LOOKUPS: usize = 4;
/// How often it is told at most that something cannot be reached.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// How long a client may be silent before the kernel asks whether it is there. Nobody tells us when it lost its link
/// or its interface.
const KEEP_IDLE: Duration = Duration::from_secs(60);
/// The pause between such questions.
const KEEP_PAUSE: Duration = Duration::from_secs(15);
/// How many of them stay without an answer before the connection ends.
const KEEP_TRIES: u32 = 4;
/// How long what was sent to a client may stay unacknowledged, for the same reason.
const UNACKNOWLEDGED: Duration = Duration::from_secs(60);

/// Passes the connections to something elsewhere on. Dropping it closes the listener and every connection.
pub struct External {
    plan: ExternalPlan,
    task: JoinHandle<()>,
}

impl fmt::Debug for External {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("External").field("name", &self.plan.name).finish_non_exhaustive()
    }
}

impl External {
    /// Listens at the plan's address and port with `socket`, a new TCP socket of the namespace that has the address,
    /// and passes what connects on.
    ///
    /// # Errors
    /// When the socket cannot listen there, or cannot be registered with the runtime.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn serve(plan: &ExternalPlan, socket: OwnedFd) -> io::Result<Self> {
        Self::serve_bounded(plan, socket, MAX_OPEN_PER_SERVICE)
    }

    fn serve_bounded(plan: &ExternalPlan, socket: OwnedFd, most_open: usize) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        rustix::net::bind(&socket, &SocketAddrV4::new(plan.address, plan.port))?;
        rustix::net::listen(&socket, BACKLOG)?;
        let listener = TcpListener::from_std(socket.into())?;
        let there = Arc::new(There {
            plan: plan.clone(),
            lookups: Semaphore::new(MAX_LOOKUPS),
            trouble: Mutex::default(),
        });
        Ok(Self { plan: plan.clone(), task: tokio::spawn(accept(listener, there, most_open)) })
    }

    /// What it serves.
    #[must_use]
    pub fn plan(&self) -> &ExternalPlan {
        &self.plan
    }

    /// Closes the listener and every connection; afterwards another one can listen there.
    pub async fn close(mut self) {
        self.task.abort();
        // That it was aborted is what is wanted.
        let _ = (&mut self.task).await;
    }
}

impl Drop for External {
    fn drop(&mut self) {
        // The connections are the task's: they end with it.
        self.task.abort();
    }
}

/// What the connections to one thing elsewhere have in common.
struct There {
    plan: ExternalPlan,
    lookups: Semaphore,
    trouble: Mutex<Trouble>,
}

/// What is told of connections that fail: that they do and that they do no more, and that not too often.
#[derive(Default)]
struct Trouble {
    /// How many have failed since it was told, while it is told.
    failed: Option<u64>,
    /// When it was told last.
    told: Option<Instant>,
}

impl Trouble {
    /// A connection failed. Whether that is to be told.
    fn failed(&mut self, now: Instant) -> bool {
        if let Some(failed) = &mut self.failed {
            *failed += 1;
            return false;
        }
        if self.told.is_some_and(|told| now < told + TOLD_EVERY) {
            return false;
        }
        *self = Self { failed: Some(1), told: Some(now) };
        true
    }

    /// One did not. How many have failed before, if that was told.
    fn worked(&mut self) -> Option<u64> {
        self.failed.take()
    }
}

/// Accepts until its owner is gone.
async fn accept(listener: TcpListener, there: Arc<There>, most_open: usize) {
    let mut connections = JoinSet::new();
    // By the address of the service. The rules let only those through that have a link, as who they are: few.
    let mut places: BTreeMap<IpAddr, Arc<Semaphore>> = BTreeMap::new();
    loop {
        let accepted = tokio::select! {
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((client, from)) => {
                if !places.contains_key(&from.ip()) {
                    // Services come and go: those that have nothing open are new again the next time.
                    places.retain(|_, places| places.available_permits() < most_open);
                }
                let places = places.entry(from.ip()).or_insert_with(|| Arc::new(Semaphore::new(most_open)));
                match Arc::clone(places).try_acquire_owned() {
                    Ok(place) => {
                        connections.spawn(pass_on(client, Arc::clone(&there), place));
                    }
                    Err(_) => {
                        tracing::debug!(external = %there.plan.name, %from, "too many connections are open");
                        publish::reset(&client);
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(external = %there.plan.name, %error, "cannot accept connections now");
                tokio::time::sleep(TROUBLE_PAUSE).await;
            }
        }
    }
}

/// One connection from beginning to end.
async fn pass_on(mut client: TcpStream, there: Arc<There>, _place: OwnedSemaphorePermit) {
    let reached = tokio::time::timeout(CONNECT_WITHIN, there.reach()).await;
    let mut other = match reached.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into())) {
        Ok(other) => other,
        Err(error) => {
            there.failed(&error);
            publish::reset(&client);
            return;
        }
    };
    there.worked();
    if let Err(error) = end_with_the_client(&client) {
        tracing::debug!(external = %there.plan.name, %error, "a connection may outlive its client");
    }
    // Small messages must not wait for others; where it cannot be set they are only slower.
    let _ = other.set_nodelay(true);
    publish::copy_both(&mut client, &mut other).await;
}

/// Makes the kernel notice that a client is gone which nobody can tell us of.
fn end_with_the_client(client: &TcpStream) -> rustix::io::Result<()> {
    sockopt::set_socket_keepalive(client, true)?;
    sockopt::set_tcp_keepidle(client, KEEP_IDLE)?;
    sockopt::set_tcp_keepintvl(client, KEEP_PAUSE)?;
    sockopt::set_tcp_keepcnt(client, KEEP_TRIES)?;
    sockopt::set_tcp_user_timeout(client, u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX))
}

impl There {
    /// Connects from the host.
    async fn reach(&self) -> io::Result<TcpStream> {
        let deadline = Instant::now() + CONNECT_WITHIN;
        let addresses = self.addresses().await?;
        let mut result = Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        for (tried, address) in addresses.iter().enumerate() {
            // One that does not answer leaves time for those after it.
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
            let connected = tokio::time::timeout(share, TcpStream::connect(address)).await;
            result = connected.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()));
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// Where it is now.
    async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let port = self.plan.port;
        match &self.plan.host {
            // Programs listen on the one or the other when they say "localhost".
            ExternalHost::Loopback => {
                let both = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
                Ok(both.map(|address| SocketAddr::new(address, port)).to_vec())
            }
            ExternalHost::Address(address) => Ok(vec![SocketAddr::from((*address, port))]),
            ExternalHost::Name(name) => {
                let _place = self.lookups.acquire().await.map_err(io::Error::other)?;
                Ok(tokio::net::lookup_host((name.as_str(), port)).await?.collect())
            }
        }
    }

    fn failed(&self, error: &io::Error) {
        if self.trouble.lock().unwrap_or_else(PoisonError::into_inner).failed(Instant::now()) {
            let (external, to) = (&self.plan.name, Shown(&self.plan));
            tracing::warn!(%external, "{to} cannot be reached: {}; services are reset", io_phrase(error));
        }
    }

    fn worked(&self) {
        let failed = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).worked();
        if let Some(failed) = failed {
            tracing::info!(external = %self.plan.name, failed, "{} can be reached again", Shown(&self.plan));
        }
    }
}

/// Something elsewhere as the file names it: `host:3000`.
struct Shown<'a>(&'a ExternalPlan);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.host {
            ExternalHost::Loopback => write!(f, "host:{}", self.0.port),
            ExternalHost::Address(address) => write!(f, "{address}:{}", self.0.port),
            ExternalHost::Name(name) => write!(f, "{name}:{}", self.0.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use ws_model::ServiceName;

    use super::*;
    use crate::publish::Dial;
    use crate::publish::tests::HostDial;

    const LONG: Duration = Duration::from_secs(20);

    async fn soon<T>(work: impl Future<Output = T>) -> T {
        tokio::time::timeout(LONG, work).await.expect("it takes too long")
    }

    /// What a plan says, with an address of the host's loopback for the router's.
    fn to(host: ExternalHost, port: u16) -> ExternalPlan {
        // Numbers that are of no other test, nor of one that runs beside it.
        static NEXT: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(2);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let [high, low] = (std::process::id() as u16).to_be_bytes();
        let address = Ipv4Addr::new(127, high.max(1), low, number);
        ExternalPlan { name: ServiceName::new("orders").unwrap(), address, port, host }
    }

    fn serve(plan: &ExternalPlan) -> External {
        External::serve(plan, HostDial.tcp_socket().unwrap()).unwrap()
    }

    async fn connect(plan: &ExternalPlan) -> TcpStream {
        soon(TcpStream::connect((plan.address, plan.port))).await.unwrap()
    }

    async fn is_reset(mut client: TcpStream) {
        let error = soon(client.read(&mut [0])).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn both_directions_are_copied_and_half_closes_passed_on() {
        let elsewhere = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let plan = to(ExternalHost::Loopback, elsewhere.local_addr().unwrap().port());
        let _external = serve(&plan);
        let answer = tokio::spawn(async move {
            let (mut stream, _) = elsewhere.accept().await.unwrap();
            let mut request = Vec::new();
            stream.read_to_end(&mut request).await.unwrap();
            stream.write_all(&request).await.unwrap();
            stream.write_all(b"!").await.unwrap();
        });
        let mut client = connect(&plan).await;
        let text: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 253) as u8).collect();
        client.write_all(&text).await.unwrap();
        client.shutdown().await.unwrap();
        let mut echoed = Vec::new();
        soon(client.read_to_end(&mut echoed)).await.unwrap();
        answer.await.unwrap();
        assert_eq!(echoed.pop(), Some(b'!'));
        assert!(echoed == text);
    }

    #[tokio::test]
    async fn what_listens_on_ipv6_only_is_reached_too() {
        let Ok(elsewhere) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await else { return };
        let plan = to(ExternalHost::Loopback, elsewhere.local_addr().unwrap().port());
        let _external = serve(&plan);
        let mut client = connect(&plan).await;
        let (mut inside, _) = soon(elsewhere.accept()).await.unwrap();
        inside.write_all(b"x").await.unwrap();
        assert_eq!(soon(client.read_u8()).await.unwrap(), b'x');
    }

    #[tokio::test]
    async fn an_address_and_a_name_lead_there() {
        let elsewhere = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = elsewhere.local_addr().unwrap().port();
        for host in [ExternalHost::Address(Ipv4Addr::LOCALHOST), ExternalHost::Name("localhost".to_owned())] {
            let plan = to(host, port);
            let _external = serve(&plan);
            let mut client = connect(&plan).await;
            let (mut inside, _) = soon(elsewhere.accept()).await.unwrap();
            inside.write_all(b"x").await.unwrap();
            assert_eq!(soon(client.read_u8()).await.unwrap(), b'x');
        }
    }

    #[tokio::test]
    async fn what_does_not_listen_is_a_reset_and_comes_back() {
        let reserved = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = reserved.local_addr().unwrap();
        let plan = to(ExternalHost::Address(Ipv4Addr::LOCALHOST), address.port());
        let _external = serve(&plan);
        drop(reserved);
        for _ in 0..3 {
            is_reset(connect(&plan).await).await;
        }
        let elsewhere = TcpListener::bind(address).await.unwrap();
        let _client = connect(&plan).await;
        soon(elsewhere.accept()).await.unwrap();
    }

    #[test]
    fn trouble_is_told_at_its_beginning_and_end_and_not_too_often() {
        let start = Instant::now();
        let mut trouble = Trouble::default();
        assert_eq!(trouble.worked(), None);
        assert!(trouble.failed(start));
        assert!(!trouble.failed(start + TOLD_EVERY * 2), "it is told already");
        assert_eq!(trouble.worked(), Some(2));
        assert_eq!(trouble.worked(), None);
        assert!(trouble.failed(start + TOLD_EVERY));
        assert_eq!(trouble.worked(), Some(1));
        for _ in 0..100 {
            assert!(!trouble.failed(start + TOLD_EVERY * 2 - Duration::from_millis(1)), "it comes and goes");
            assert_eq!(trouble.worked(), None);
        }
        assert!(trouble.failed(start + TOLD_EVERY * 2));
    }

    #[tokio::test]
    async fn a_service_has_a_bounded_number_open_and_gets_places_back() {
        let elsewhere = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let plan = to(ExternalHost::Loopback, elsewhere.local_addr().unwrap().port());
        let _external = External::serve_bounded(&plan, HostDial.tcp_socket().unwrap(), 2).unwrap();
        let first = connect(&plan).await;
        let (inside, _) = soon(elsewhere.accept()).await.unwrap();
        let _second = connect(&plan).await;
        soon(elsewhere.accept()).await.unwrap();
        is_reset(connect(&plan).await).await;
        // Another service has places of its own.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, 0, 0, 2), 0).into()).unwrap();
        let _other = soon(socket.connect((plan.address, plan.port).into())).await.unwrap();
        soon(elsewhere.accept()).await.unwrap();
        drop((first, inside));
        let again = async {
            loop {
                let mut client = connect(&plan).await;
                tokio::select! {
                    _ = elsewhere.accept() => break,
                    // A reset: the place is not free yet.
                    _ = client.read_u8() => {}
                }
            }
        };
        soon(again).await;
    }

    #[tokio::test]
    async fn a_broken_connection_does_not_look_complete_and_dropping_ends_all() {
        let elsewhere = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let plan = to(ExternalHost::Loopback, elsewhere.local_addr().unwrap().port());
        let external = serve(&plan);
        let client = connect(&plan).await;
        let (inside, _) = soon(elsewhere.accept()).await.unwrap();
        inside.set_zero_linger().unwrap();
        drop(inside);
        is_reset(client).await;

        let mut client = connect(&plan).await;
        let (mut inside, _) = soon(elsewhere.accept()).await.unwrap();
        drop(external);
        assert_eq!(soon(client.read(&mut [0])).await.unwrap_or(0), 0);
        assert_eq!(soon(inside.read(&mut [0])).await.unwrap_or(0), 0);
        soon(async { while TcpStream::connect((plan.address, plan.port)).await.is_ok() {} }).await;
    }
}
