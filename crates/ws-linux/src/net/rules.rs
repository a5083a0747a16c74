//! The rule sets: what each namespace of a workspace lets through.
//!
//! Pure: builds transactions. The tables are the same for every workspace; only the elements of the sets
//! differ, so a change of links is a change of elements.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ws_sys::netlink::route::LOOPBACK;
use ws_sys::nft::{
    Base, Chain, CtDirection, CtState, Family, Field, Hook, InterfaceName, Load, Log, Policy, Reject, Rule,
    Set, Table, Transaction, Value,
};

use super::{DENIED_GROUP, INSIDE_NAME, SNAPLEN, SPOOFED_GROUP};

const ETHERTYPE_IPV4: u16 = 0x0800;
/// The numbers of transport protocols.
pub(crate) const ICMP: u8 = libc::IPPROTO_ICMP as u8;
pub(crate) const TCP: u8 = libc::IPPROTO_TCP as u8;
pub(crate) const UDP: u8 = libc::IPPROTO_UDP as u8;
const IGMP: u8 = libc::IPPROTO_IGMP as u8;

/// The comment of rules that count attempts, before any of them is left out of the log.
pub(super) const ATTEMPTS: &str = "attempts";

/// The table of a service's namespace, and one of the router's.
pub(super) const INET: Table = Table { family: Family::Inet, name: "ws" };
/// The other one of the router's.
pub(super) const BRIDGE: Table = Table { family: Family::Bridge, name: "ws" };

/// In a service's namespace: where it may connect to.
pub(super) const SERVICE_LINKS: Set =
    Set { table: INET, name: "links", fields: &[Field::Ipv4, Field::Protocol, Field::Port] };
/// In the router: who may connect where.
pub(super) const ROUTER_LINKS: Set =
    Set { table: INET, name: "links", fields: &[Field::Ipv4, Field::Ipv4, Field::Protocol, Field::Port] };
/// In the router: the addresses of all services.
pub(super) const SERVICES: Set = Set { table: INET, name: "services", fields: &[Field::Ipv4] };
/// In the router: which hardware and IPv4 address is behind which port of the bridge.
pub(super) const PORTS: Set =
    Set { table: BRIDGE, name: "ports", fields: &[Field::Interface, Field::Ether, Field::Ipv4] };

/// How long a transaction may become by elements: it stays below the send buffer that an ordinary user can
/// have (416 KiB). More go into further transactions; the rules that they are for exist from the first one.
const BYTES_AT_ONCE: usize = 320 << 10;
/// How long an element is at most.
const ELEMENT_BYTES: usize = 52;

/// What of a packet says to which link it belongs.
const THERE: &[Load] =
    &[Load::Ipv4Source, Load::Ipv4Destination, Load::TransportProtocol, Load::DestinationPort];
/// The same for an answer.
const BACK: &[Load] = &[Load::Ipv4Destination, Load::Ipv4Source, Load::TransportProtocol, Load::SourcePort];

/// One link: who may connect to which address, with which protocol, on which port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Flow {
    pub(super) from: Ipv4Addr,
    pub(super) to: Ipv4Addr,
    pub(super) protocol: u8,
    pub(super) port: u16,
}

impl Flow {
    pub(super) fn router_key(&self) -> [Value; 4] {
        let [to, protocol, port] = self.service_key();
        [Value::Ipv4(self.from), to, protocol, port]
    }

    pub(super) fn service_key(&self) -> [Value; 3] {
        [Value::Ipv4(self.to), Value::Protocol(self.protocol), Value::Port(self.port)]
    }
}

/// What is behind a port of the bridge.
#[derive(Debug, Clone, Copy)]
pub(super) struct Port {
    pub(super) name: InterfaceName,
    pub(super) mac: [u8; 6],
    pub(super) address: Ipv4Addr,
}

impl Port {
    fn frames_key(&self) -> [Value; 3] {
        [Value::Interface(self.name), Value::Ether(self.mac), Value::Ipv4(self.address)]
    }

    fn address_key(&self) -> [Value; 1] {
        [Value::Ipv4(self.address)]
    }
}

/// A message for each packet that opens something and is denied: at most 100 a second after 200 at once.
fn log(rule: Rule, group: u16, prefix: &'static str) -> Rule {
    rule.limit(100, 200).log(Log { group, prefix, snaplen: SNAPLEN })
}

/// Logs what tries to open something. Segments of a TCP connection that nobody knows any more (a peer that
/// answers late, a link that was removed under it) are the kernel's doing and no attempt of a program's.
fn log_attempts(t: &mut Transaction, chain: Chain, prefix: &'static str) {
    let attempt = Rule::new().state(CtState::NEW);
    for attempt in [attempt.clone().transport(TCP).tcp_opening(), attempt.not_transport(TCP)] {
        // The counter comes first: what is too much for the log is counted all the same.
        t.add_rule(chain, &log(attempt.counter().comment(ATTEMPTS), DENIED_GROUP, prefix));
    }
}

fn base(t: &mut Transaction, table: Table, name: &'static str, hook: Hook, priority: i32) -> Chain {
    let chain = Chain { table, name };
    t.add_base_chain(chain, Base { hook, priority, policy: Policy::Drop });
    chain
}

/// What a service's namespace gets before its interface is up.
pub(super) fn service(links: &BTreeSet<Flow>) -> Vec<Transaction> {
    let mut t = Transaction::new();
    t.add_table(INET);
    t.add_set(SERVICE_LINKS);

    let out = base(&mut t, INET, "output", Hook::Output, 0);
    let replies = Rule::new().direction(CtDirection::Reply).state(CtState::ESTABLISHED.or(CtState::RELATED));
    let there = &THERE[1..];
    for rule in [
        Rule::new().to_index(LOOPBACK).accept(),
        // Every packet of a connection is looked up, not only the first: a link that is removed ends what
        // runs over it.
        Rule::new()
            .direction(CtDirection::Original)
            .ipv4()
            .in_set(SERVICE_LINKS, there)
            .counter()
            .accept()
            .comment("links"),
        replies.accept().comment("answers"),
        // Both are the kernel's doing: late segments, and errors about answers that came too late.
        Rule::new().state(CtState::INVALID.or(CtState::RELATED)).counter().drop(),
        // The kernel's word to routers that a program listens to a multicast group: no packet of the program's.
        Rule::new().transport(IGMP).counter().drop(),
        Rule::new().counter().comment("denied"),
    ] {
        t.add_rule(out, &rule);
    }
    log_attempts(&mut t, out, "ws-denied");
    t.add_rule(out, &Rule::new().transport(TCP).reject(Reject::TcpReset));
    t.add_rule(out, &Rule::new().reject(Reject::AdminProhibited));

    let input = base(&mut t, INET, "input", Hook::Input, 0);
    let eth0 = InterfaceName::new(INSIDE_NAME).expect("a constant that is a name");
    for rule in [
        Rule::new().from_index(LOOPBACK).accept(),
        Rule::new().state(CtState::INVALID).counter().drop(),
        // What comes from the router was allowed there.
        Rule::new().from_interface(eth0).ipv4().accept(),
    ] {
        t.add_rule(input, &rule);
    }
    in_parts(t, SERVICE_LINKS, links.iter().map(Flow::service_key))
}

/// What the router's namespace gets before there is an interface in it.
pub(super) fn router(bridge_mac: [u8; 6], links: &BTreeSet<Flow>, ports: &[Port]) -> Vec<Transaction> {
    let mut t = Transaction::new();
    frames(&mut t, bridge_mac);
    packets(&mut t);
    join(t, links, ports)
}

/// What the router's namespace gets for services that join, before their interfaces exist: `first` and what
/// comes after it.
pub(super) fn join(first: Transaction, links: &BTreeSet<Flow>, ports: &[Port]) -> Vec<Transaction> {
    let mut all = in_parts(first, PORTS, ports.iter().map(Port::frames_key));
    let last = all.pop().unwrap_or_default();
    all.extend(in_parts(last, SERVICES, ports.iter().map(Port::address_key)));
    let last = all.pop().unwrap_or_default();
    all.extend(in_parts(last, ROUTER_LINKS, links.iter().map(Flow::router_key)));
    all
}

/// What the router's namespace loses with a service that leaves: all `links` from it and to it, then who it was.
pub(super) fn leave(links: &BTreeSet<Flow>, port: &Port) -> Vec<Transaction> {
    let mut all = change(ROUTER_LINKS, links, &BTreeSet::new(), Flow::router_key);
    let mut last = all.pop().unwrap_or_default();
    last.delete_elements(SERVICES, [port.address_key()]);
    last.delete_elements(PORTS, [port.frames_key()]);
    all.push(last);
    all
}

/// Frames: each port says who it is, and talks with nobody but the bridge.
fn frames(t: &mut Transaction, bridge_mac: [u8; 6]) {
    const EARLIEST: i32 = -300;
    t.add_table(BRIDGE);
    t.add_set(PORTS);
    let who = &[Load::InputInterface, Load::EtherSource, Load::Ipv4Source];

    let first = base(t, BRIDGE, "prerouting", Hook::Prerouting, EARLIEST);
    t.add_rule(first, &Rule::new().ether_type(ETHERTYPE_IPV4).in_set(PORTS, who).accept());
    t.add_rule(first, &Rule::new().counter().comment("spoofed"));
    t.add_rule(first, &log(Rule::new(), SPOOFED_GROUP, "ws-spoofed"));

    // Frames to the link-local multicast addresses (01:80:c2:00:00:0X) skip prerouting, and those that the
    // bridge does not take go on as if the port were an interface of its own.
    let input = base(t, BRIDGE, "input", Hook::Input, 0);
    t.add_rule(input, &Rule::new().ether_destination(bridge_mac).accept());
    t.add_rule(input, &Rule::new().counter().comment("not for the gateway"));
    t.add_rule(input, &log(Rule::new(), SPOOFED_GROUP, "ws-spoofed"));

    // Isolated ports have nothing to forward to; this stands behind that.
    let forward = base(t, BRIDGE, "forward", Hook::Forward, 0);
    t.add_rule(forward, &log(Rule::new().counter(), SPOOFED_GROUP, "ws-spoofed"));
}

/// Packets: from service to service along links, from services along links to what `ws` passes on, from `ws` to
/// services, and nothing else.
fn packets(t: &mut Transaction) {
    t.add_table(INET);
    t.add_set(ROUTER_LINKS);
    t.add_set(SERVICES);
    let reply = Rule::new().direction(CtDirection::Reply);
    let replies = reply.clone().state(CtState::ESTABLISHED.or(CtState::RELATED)).accept();

    let forward = base(t, INET, "forward", Hook::Forward, 0);
    for rule in [
        Rule::new()
            .direction(CtDirection::Original)
            .ipv4()
            .in_set(ROUTER_LINKS, THERE)
            .accept()
            .comment("links"),
        // Answers too are looked up: without this, the far end of a removed UDP link could go on sending
        // for as long as it likes.
        reply
            .clone()
            .state(CtState::ESTABLISHED)
            .ipv4()
            .in_set(ROUTER_LINKS, BACK)
            .accept()
            .comment("answers"),
        reply.state(CtState::RELATED).ipv4().transport(ICMP).accept().comment("errors about answers"),
        Rule::new().counter().comment("denied"),
    ] {
        t.add_rule(forward, &rule);
    }
    log_attempts(t, forward, "ws-forward");
    // The far end of a connection whose link was removed learns it from its next segment; the near end was
    // told in its own namespace.
    t.add_rule(forward, &Rule::new().state(CtState::ESTABLISHED).transport(TCP).reject(Reject::TcpReset));

    let input = base(t, INET, "input", Hook::Input, 0);
    t.add_rule(input, &Rule::new().from_index(LOOPBACK).accept());
    // What is elsewhere has an address of the router: it is reached along links like a service, packet by packet.
    let to_elsewhere = Rule::new().direction(CtDirection::Original).ipv4().in_set(ROUTER_LINKS, THERE);
    t.add_rule(input, &to_elsewhere.accept().comment("links to what is elsewhere"));
    t.add_rule(input, &replies.clone().comment("answers to ws"));
    t.add_rule(input, &Rule::new().counter().comment("denied"));
    log_attempts(t, input, "ws-input");

    let output = base(t, INET, "output", Hook::Output, 0);
    t.add_rule(output, &Rule::new().to_index(LOOPBACK).accept());
    for protocol in [TCP, UDP] {
        let to_services = Rule::new().ipv4().in_set(SERVICES, &[Load::Ipv4Destination]).transport(protocol);
        t.add_rule(output, &to_services.accept());
    }
    t.add_rule(output, &replies);
    t.add_rule(output, &Rule::new().counter().comment("denied"));
}

/// Adds elements to `first`, and to as many further transactions as it takes.
fn in_parts<const N: usize>(
    first: Transaction,
    set: Set,
    keys: impl Iterator<Item = [Value; N]>,
) -> Vec<Transaction> {
    let mut keys = keys.peekable();
    let mut all = vec![first];
    while keys.peek().is_some() {
        let room = |t: &Transaction| BYTES_AT_ONCE.saturating_sub(t.size()) / ELEMENT_BYTES;
        match all.last_mut().map(|last| (room(last), last)) {
            Some((room, last)) if room > 0 => last.add_elements(set, keys.by_ref().take(room)),
            _ => all.push(Transaction::new()),
        }
    }
    all
}

/// The changes from what is loaded to what is wanted.
pub(super) fn change<const N: usize>(
    set: Set,
    loaded: &BTreeSet<Flow>,
    wanted: &BTreeSet<Flow>,
    key: impl Fn(&Flow) -> [Value; N],
) -> Vec<Transaction> {
    // What is taken away comes first, in case that it does not fit into one.
    let mut all = vec![Transaction::new()];
    let gone: Vec<_> = loaded.difference(wanted).map(&key).collect();
    for part in gone.chunks(BYTES_AT_ONCE / ELEMENT_BYTES) {
        if all.last().is_none_or(|t| !t.is_empty()) {
            all.push(Transaction::new());
        }
        if let Some(last) = all.last_mut() {
            last.delete_elements(set, part);
        }
    }
    let last = all.pop().unwrap_or_default();
    all.extend(in_parts(last, set, wanted.difference(loaded).map(&key)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an ordinary user can send at once: twice the default of `net.core.wmem_max`.
    const SEND_BUFFER: usize = 2 * 212_992 - 32;

    fn flows(numbers: std::ops::Range<u32>) -> BTreeSet<Flow> {
        let flow = |n| Flow { from: Ipv4Addr::from(n), to: Ipv4Addr::from(n + 1), protocol: TCP, port: 80 };
        numbers.map(flow).collect()
    }

    fn sizes(transactions: &[Transaction]) -> Vec<usize> {
        transactions.iter().map(Transaction::size).collect()
    }

    #[test]
    fn a_usual_workspace_is_one_transaction_for_each_place() {
        assert_eq!(service(&flows(0..100)).len(), 1);
        let port = |n| Port {
            name: InterfaceName::new(&format!("v{n}")).unwrap(),
            mac: [2, 0, 0, 0, 0, 1],
            address: Ipv4Addr::from(n),
        };
        let ports: Vec<_> = (0..1000).map(port).collect();
        assert_eq!(router([2; 6], &flows(0..3000), &ports).len(), 1);
    }

    #[test]
    fn a_huge_one_is_as_many_as_an_ordinary_user_can_send() {
        let all = service(&flows(0..30_000));
        assert!(all.len() > 1 && sizes(&all).iter().all(|size| *size < SEND_BUFFER), "{:?}", sizes(&all));
        let all = change(ROUTER_LINKS, &flows(0..30_000), &flows(20_000..60_000), Flow::router_key);
        assert!(all.len() > 1 && sizes(&all).iter().all(|size| *size < SEND_BUFFER), "{:?}", sizes(&all));
        let elements: usize = sizes(&all).iter().sum();
        assert!(elements > 50_000 * 28, "no change is left out: {elements} bytes");
    }

    #[test]
    fn a_change_is_one_transaction_and_nothing_is_none() {
        let key = Flow::service_key;
        assert!(change(SERVICE_LINKS, &flows(0..9), &flows(0..9), key).iter().all(Transaction::is_empty));
        let all = change(SERVICE_LINKS, &flows(0..9), &flows(3..12), key);
        assert_eq!(all.len(), 1);
        assert!(!all[0].is_empty());
    }
}
