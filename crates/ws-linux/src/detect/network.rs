//! Packets that rules denied, from the kernel's messages to what is told.
//!
//! - **In a service's own namespace** every attempt that the rules deny is logged to a socket of this service
//!   ([`Network`]). Whatever comes there was sent by this service and no other, whatever it says of itself.
//! - **In the router** what got past that, and frames that are not what the service behind their port may send, are
//!   logged to one pair of sockets ([`Router`]). Who it was follows from the bridge's port, which only the kernel writes.
//!   What the router's other rules log has lost its port by then: its hardware and IPv4 addresses are those that the
//!   bridge bound to one port, and if they are not both of the same service it is told as not certain.
//!
//! A rule logs no more than a hundred attempts a second, and the kernel drops what does not fit into a socket. So what
//! was told is compared with what the rules counted: the difference is told too ([`Mechanism::Counter`]). That is done
//! a moment after something was told, never by the clock: a service that denies itself nothing wakes up nobody.
//!
//! What is no attempt of a program is not logged to begin with (`net/rules.rs`): late segments of connections, errors,
//! answers, and the kernel's reports of multicast groups. IPv6 is off, so the IPv6 half of "happy eyeballs" fails without
//! a packet. A datagram to a multicast or broadcast address is sent by a program, and is told as any other.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use ws_core::engine::Generation;
use ws_core::plan::ServicePlan;
use ws_model::{Evidence, Mechanism, NetworkAct, ServiceName};
use ws_sys::aio::Readable;
use ws_sys::netlink::{self, Socket};
use ws_sys::nflog::{self, Ipv4, Packet, Received};

use super::{Reporter, Runs, Seen};
use crate::net::{self, DENIED_GROUP, SPOOFED_GROUP};

/// How many bytes of a packet are looked at: enough for a name that is looked up.
const COPY: u32 = net::SNAPLEN;
/// How long after something was told the counters are looked at.
const COUNT_AFTER: Duration = Duration::from_millis(150);
/// How long the messages of what was counted may take.
const SETTLE: Duration = Duration::from_millis(50);
/// Messages that are put together at most; there are no more at once but after a time without processor.
const TOGETHER: usize = 512;
/// Different things that are told of one batch.
const KINDS: usize = 64;

/// How a service's rules' counters are read.
pub(crate) type Counters = Box<dyn FnMut() -> io::Result<u64> + Send>;

/// What a service tries on its network, heard in its own namespace.
#[derive(Debug)]
pub(crate) struct Network {
    listener: Arc<Listener>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Network {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

#[derive(Debug)]
struct Listener {
    socket: Readable,
    reporter: Reporter,
    runs: Arc<Runs>,
    told: Mutex<Told>,
    /// Something was told: the counters are to be looked at.
    news: Notify,
}

#[derive(Debug)]
struct Told {
    /// Attempts that were told, or told as lost.
    attempts: u64,
    /// Which run it was the last time.
    last: Option<Generation>,
}

impl Network {
    /// Begins to listen in the namespace of the socket `log`, a `NETLINK_NETFILTER` socket that was not used yet. `new`:
    /// nothing has run in it yet; else what its rules have counted until now is nobody's loss.
    pub(crate) fn listen(
        log: OwnedFd,
        mut counters: Counters,
        new: bool,
        reporter: Reporter,
        runs: Arc<Runs>,
    ) -> io::Result<Self> {
        let attempts = if new { 0 } else { counters()? };
        let socket = nflog::bind(log, DENIED_GROUP, COPY).map_err(io::Error::other)?;
        let listener = Arc::new(Listener {
            socket: Readable::new(socket)?,
            reporter,
            runs,
            told: Mutex::new(Told { attempts, last: None }),
            news: Notify::new(),
        });
        let tasks = [
            tokio::spawn(hear(Arc::clone(&listener))),
            tokio::spawn(compare(Arc::clone(&listener), counters)),
        ];
        Ok(Self { listener, tasks })
    }

    /// Tells what has come until now, of a run that has ended: the next run's is told of the next.
    pub(crate) fn settle(&self) {
        self.listener.settle();
    }
}

async fn hear(listener: Arc<Listener>) {
    let mut buffer = vec![0; nflog::BUFFER];
    let none = || io::Error::from(io::ErrorKind::WouldBlock);
    // Read and told in one, or the end of a run could come in between.
    while listener
        .socket
        .read_with(|_| listener.take(&mut buffer).then_some(()).ok_or_else(none))
        .await
        .is_ok()
    {}
}

impl Listener {
    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self) {
        let mut buffer = vec![0; nflog::BUFFER];
        while self.take(&mut buffer) {}
    }

    /// Reads what is there and tells it; `false` when nothing is.
    fn take(&self, buffer: &mut [u8]) -> bool {
        // Held from the reading to the telling, so that what one has read is told before another says it is done.
        let mut told = self.told();
        let mut batch = Batch::default();
        let mut any = false;
        while let Ok(received) = nflog::receive(self.socket.as_fd(), buffer) {
            any = true;
            batch.add(&received, buffer);
            if batch.messages >= TOGETHER {
                break;
            }
        }
        self.tell(&mut told, batch);
        any
    }

    fn tell(&self, told: &mut Told, batch: Batch) {
        if batch.messages == 0 {
            return;
        }
        let generation = self.runs.only();
        told.last = generation;
        for (evidence, count) in batch.kinds {
            told.attempts += count;
            self.reporter.tell(Seen { count, ..Seen::new(generation, evidence, Mechanism::Nflog) });
        }
        self.news.notify_one();
    }

    /// Tells of attempts that were counted and not told.
    fn lost(&self, counted: u64) {
        let mut told = self.told();
        let Some(more) = counted.checked_sub(told.attempts).filter(|more| *more > 0) else { return };
        told.attempts = counted;
        let generation = self.runs.only().or(told.last);
        let evidence = sent("any".to_owned(), None);
        let seen = Seen::new(generation, evidence, Mechanism::Counter);
        self.reporter.tell(Seen { lost: more - 1, ..seen });
    }
}

/// Compares what was counted with what was told, some time after something was told and as long as it goes on.
async fn compare(listener: Arc<Listener>, counters: Counters) {
    let mut counters = Some(counters);
    loop {
        listener.news.notified().await;
        tokio::time::sleep(COUNT_AFTER).await;
        let Some(mut read) = counters.take() else { return };
        let count = tokio::task::spawn_blocking(move || {
            let count = read();
            (read, count)
        });
        let Ok((read, count)) = count.await else { return };
        counters = Some(read);
        let counted = match count {
            Ok(counted) => counted,
            Err(error) => {
                tracing::warn!(reporter = ?listener.reporter, %error, "reading what rules have counted");
                continue;
            }
        };
        // Whatever was counted then has been said by now.
        tokio::time::sleep(SETTLE).await;
        listener.settle();
        listener.lost(counted);
    }
}

/// Messages that were there at once, put together.
#[derive(Debug, Default)]
struct Batch {
    messages: usize,
    kinds: BTreeMap<Evidence, u64>,
}

impl Batch {
    fn add(&mut self, received: &Received, buffer: &[u8]) {
        self.messages += 1;
        // What was lost is what the counters have more.
        let Received::Messages(length) = received else { return };
        for packet in nflog::packets(buffer.get(..*length).unwrap_or_default()).flatten() {
            let evidence = attempt(&packet);
            if let Some(count) = self.kinds.get_mut(&evidence) {
                *count += 1;
            } else if self.kinds.len() < KINDS {
                self.kinds.insert(evidence, 1);
            }
        }
    }
}

/// What a packet tried.
fn attempt(packet: &Packet<'_>) -> Evidence {
    let Some(header) = nflog::ipv4(packet.payload) else { return sent(ether_name(packet.ether_type), None) };
    with_lookup(sent(protocol_name(header.protocol), Some(header)), header, packet.payload)
}

fn sent(protocol: String, header: Option<Ipv4>) -> Evidence {
    Evidence::Network {
        act: NetworkAct::Sent,
        protocol,
        destination: header.map(|header| IpAddr::V4(header.destination)),
        port: header.and_then(|header| header.ports).map(|(_, port)| port),
        name: None,
        lookup: None,
    }
}

fn with_lookup(mut evidence: Evidence, header: Ipv4, packet: &[u8]) -> Evidence {
    const DNS: u16 = 53;
    if let Evidence::Network { lookup, port: Some(DNS), .. } = &mut evidence
        && header.protocol == net::UDP
    {
        const UDP_HEADER: usize = 8;
        let length = usize::from(packet.first().copied().unwrap_or(0) & 0xf) * 4;
        *lookup = packet.get(length + UDP_HEADER..).and_then(question);
    }
    evidence
}

/// The name that a DNS query asks for (RFC 1035, 4.1), as text; what is not printable is replaced.
fn question(message: &[u8]) -> Option<String> {
    const HEADER: usize = 12;
    let is_query = message.get(2)? & 0x80 == 0 && *message.get(5)? >= 1;
    let mut rest = message.get(HEADER..).filter(|_| is_query)?;
    let mut name = String::new();
    loop {
        let (length, after) = rest.split_first()?;
        // No pointers in a question; a name has 255 bytes at most.
        if *length == 0 || *length > 63 || name.len() > 255 {
            break;
        }
        // Of what was cut, the beginning.
        let (label, after) = after.split_at_checked(usize::from(*length)).unwrap_or((after, &[]));
        if !name.is_empty() {
            name.push('.');
        }
        name.extend(label.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '?' }));
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    (!name.is_empty()).then_some(name)
}

fn protocol_name(number: u8) -> String {
    match number {
        net::TCP => "tcp".to_owned(),
        net::UDP => "udp".to_owned(),
        net::ICMP => "icmp".to_owned(),
        other => other.to_string(),
    }
}

fn ether_name(kind: u16) -> String {
    match kind {
        0x0806 => "arp".to_owned(),
        0x86dd => "ipv6".to_owned(),
        other => format!("{other:#06x}"),
    }
}

/// What the router's rules log, for all services.
#[derive(Debug, Default)]
pub(crate) struct Router {
    sockets: Mutex<Option<Sockets>>,
    members: Mutex<BTreeMap<ServiceName, Member>>,
    /// Held from the reading of a message to its telling.
    reading: Mutex<()>,
}

#[derive(Debug)]
struct Sockets {
    all: [(Arc<Readable>, Kind); 2],
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// A service as the router sees it.
#[derive(Debug, Clone)]
struct Member {
    port: u32,
    mac: [u8; 6],
    address: Ipv4Addr,
    reporter: Reporter,
    runs: Arc<Runs>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Denied,
    Forged,
}

impl Router {
    /// Begins to listen on two `NETLINK_NETFILTER` sockets of the router's namespace.
    pub(crate) fn listen(self: &Arc<Self>, denied: OwnedFd, forged: OwnedFd) -> io::Result<()> {
        let bind = |socket, group| -> Result<_, netlink::Error> { nflog::bind(socket, group, COPY) };
        let denied = bind(denied, DENIED_GROUP).map_err(io::Error::other)?;
        let forged = bind(forged, SPOOFED_GROUP).map_err(io::Error::other)?;
        let all = [
            (Arc::new(Readable::new(denied)?), Kind::Denied),
            (Arc::new(Readable::new(forged)?), Kind::Forged),
        ];
        let tasks = all
            .each_ref()
            .map(|(socket, kind)| tokio::spawn(route(Arc::downgrade(self), Arc::clone(socket), *kind)));
        *self.sockets.lock().unwrap_or_else(PoisonError::into_inner) = Some(Sockets { all, tasks });
        Ok(())
    }

    /// Stops listening.
    pub(crate) fn stop(&self) {
        drop(self.sockets.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// A service is there.
    pub(crate) fn join(&self, service: &ServicePlan, reporter: Reporter, runs: Arc<Runs>) {
        let member = Member {
            port: net::port_index(service.index),
            mac: service.mac,
            address: service.address,
            reporter,
            runs,
        };
        self.members().insert(service.name.clone(), member);
    }

    /// A service is gone.
    pub(crate) fn leave(&self, service: &ServiceName) {
        self.members().remove(service);
    }

    fn members(&self) -> std::sync::MutexGuard<'_, BTreeMap<ServiceName, Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells what has come until now, as [`Network::settle`].
    pub(crate) fn settle(&self) {
        let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Sockets { all, .. }) = sockets.as_ref() else { return };
        let mut buffer = vec![0; nflog::BUFFER];
        for (socket, kind) in all {
            for _ in 0..TOGETHER {
                if self.take(socket, *kind, &mut buffer).is_err() {
                    break;
                }
            }
        }
    }

    /// Reads one message, and tells it.
    fn take(&self, socket: &Readable, kind: Kind, buffer: &mut [u8]) -> io::Result<()> {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let received = nflog::receive(socket.as_fd(), buffer)?;
        self.heard(&received, buffer, kind);
        Ok(())
    }

    fn heard(&self, received: &Received, buffer: &[u8], kind: Kind) {
        let Received::Messages(length) = received else { return };
        for packet in nflog::packets(buffer.get(..*length).unwrap_or_default()).flatten() {
            let whose = {
                let members = self.members();
                whose(members.values(), &packet, kind)
            };
            let Some((member, certain)) = whose else { continue };
            let evidence = match (kind, attempt(&packet)) {
                (Kind::Forged, Evidence::Network { protocol, destination, port, name, lookup, .. }) => {
                    let act = NetworkAct::Spoofed;
                    Evidence::Network { act, protocol, destination, port, name, lookup }
                }
                (_, evidence) => evidence,
            };
            let seen = Seen::new(member.runs.only(), evidence, Mechanism::Router);
            member.reporter.tell(Seen { certain, ..seen });
        }
    }
}

async fn route(router: Weak<Router>, socket: Arc<Readable>, kind: Kind) {
    let mut buffer = vec![0; nflog::BUFFER];
    loop {
        let read = socket.read_with(|_| match router.upgrade() {
            Some(router) => router.take(&socket, kind, &mut buffer),
            None => Err(io::ErrorKind::NotConnected.into()),
        });
        if read.await.is_err() {
            break;
        }
    }
}

/// Who sent it, and whether that is certain.
fn whose<'a>(
    mut members: impl Iterator<Item = &'a Member> + Clone,
    packet: &Packet<'_>,
    kind: Kind,
) -> Option<(Member, bool)> {
    match (kind, packet.port) {
        // The port is the kernel's word.
        (Kind::Forged, Some(port)) => members.find(|one| one.port == port).map(|one| (one.clone(), true)),
        (Kind::Forged, None) => None,
        (Kind::Denied, _) => {
            // On its way through the bridge both were found to belong to the same port.
            let source = nflog::ipv4(packet.payload)?.source;
            let by_address = members.clone().find(|one| one.address == source);
            let by_mac = members.find(|one| packet.sender == Some(one.mac));
            match (by_address, by_mac) {
                (Some(one), Some(same)) => Some((one.clone(), one.port == same.port)),
                (Some(one), None) | (None, Some(one)) => Some((one.clone(), false)),
                (None, None) => None,
            }
        }
    }
}

/// Reads the counters of a service's attempts with sockets that are made when they are needed first.
pub(crate) fn counters(mut socket: impl FnMut() -> io::Result<OwnedFd> + Send + 'static) -> Counters {
    let mut made: Option<Socket> = None;
    Box::new(move || {
        let socket = match &mut made {
            Some(socket) => socket,
            none => none.insert(Socket::new(socket()?).map_err(io::Error::other)?),
        };
        net::attempts(socket).map_err(io::Error::other)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A DNS query for `api.stripe.com`, type A.
    const QUERY: &[u8] =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03api\x06stripe\x03com\x00\x00\x01\x00\x01";

    #[test]
    fn a_query_is_read_however_much_of_it_is_there() {
        assert_eq!(question(QUERY).as_deref(), Some("api.stripe.com"));
        for length in 0..QUERY.len() {
            let _ = question(&QUERY[..length]);
        }
        assert_eq!(question(&QUERY[..20]).as_deref(), Some("api.str"));
        assert_eq!(question(&QUERY[..12]), None);
        let mut answer = QUERY.to_vec();
        answer[2] |= 0x80;
        assert_eq!(question(&answer), None, "an answer asks for nothing");
        // A name that is meant for a terminal is not shown to it.
        let mut odd = QUERY.to_vec();
        odd[13] = 0x1b;
        assert_eq!(question(&odd).as_deref(), Some("?pi.stripe.com"));
        // A pointer, and a name without end.
        assert_eq!(question(b"\0\0\x01\0\0\x01\0\0\0\0\0\0\xc0\x0c"), None);
        let endless = [&QUERY[..12], &[1; 4000]].concat();
        assert!(question(&endless).is_some_and(|name| name.len() < 300));
    }

    fn packet(payload: &[u8]) -> Packet<'_> {
        Packet {
            prefix: "ws-denied".to_owned(),
            ether_type: 0x0800,
            input: None,
            port: None,
            sender: None,
            uid: None,
            payload,
        }
    }

    fn ip(source: [u8; 4], protocol: u8, port: u16, data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
        bytes.extend(source);
        bytes.extend([10, 77, 3, 4]);
        bytes.extend([0x9c, 0x40]);
        bytes.extend(port.to_be_bytes());
        bytes.extend([0, 0, 0, 0]);
        bytes.extend(data);
        bytes
    }

    #[test]
    fn a_packet_says_where_it_wants_to_go() {
        let wanted = |protocol: &str, port, lookup: Option<&str>| Evidence::Network {
            act: NetworkAct::Sent,
            protocol: protocol.to_owned(),
            destination: Some(IpAddr::V4(Ipv4Addr::new(10, 77, 3, 4))),
            port,
            name: None,
            lookup: lookup.map(str::to_owned),
        };
        let source = [10, 77, 1, 2];
        let of = |protocol, port, data: &[u8]| attempt(&packet(&ip(source, protocol, port, data)));
        assert_eq!(of(6, 5432, b""), wanted("tcp", Some(5432), None));
        assert_eq!(of(17, 53, QUERY), wanted("udp", Some(53), Some("api.stripe.com")));
        assert_eq!(of(17, 54, QUERY), wanted("udp", Some(54), None));
        assert_eq!(of(1, 0, b""), wanted("icmp", None, None));
        assert_eq!(of(47, 0, b""), wanted("47", None, None));
        let Evidence::Network { protocol, destination: None, .. } =
            attempt(&Packet { ether_type: 0x0806, ..packet(b"\0\x01\x08\0") })
        else {
            panic!("an ARP frame has no IPv4 destination")
        };
        assert_eq!(protocol, "arp");
    }

    #[test]
    fn a_forged_source_blames_nobody_else() {
        let member = |number: u8| Member {
            port: net::port_index(number.into()),
            mac: [2, 0, 0, 0, 0, number],
            address: Ipv4Addr::new(10, 77, 0, number),
            reporter: Reporter::new(ServiceName::new(format!("s{number}")).unwrap(), Arc::new(|_| {})),
            runs: Arc::default(),
        };
        let members = [member(1), member(2)];
        let whose = |packet: &Packet<'_>, kind| {
            super::whose(members.iter(), packet, kind)
                .map(|(one, certain)| (one.address.octets()[3], certain))
        };
        let from_two = ip([10, 77, 0, 2], 17, 80, b"");
        let forged =
            Packet { port: Some(net::port_index(1)), sender: Some([2, 0, 0, 0, 0, 2]), ..packet(&from_two) };
        assert_eq!(whose(&forged, Kind::Forged), Some((1, true)), "the port counts");
        assert_eq!(whose(&Packet { port: Some(7), ..forged.clone() }, Kind::Forged), None);
        assert_eq!(whose(&Packet { port: None, ..forged.clone() }, Kind::Forged), None);
        // Behind the bridge both addresses must be of one service.
        assert_eq!(whose(&forged, Kind::Denied), Some((2, true)));
        let half = Packet { sender: Some([2, 0, 0, 0, 0, 1]), ..forged };
        assert_eq!(whose(&half, Kind::Denied).map(|(_, certain)| certain), Some(false));
        let nobody = ip([9, 9, 9, 9], 17, 80, b"");
        assert_eq!(whose(&packet(&nobody), Kind::Denied), None);
    }
}
