//! Interfaces, addresses, routes and neighbours: the bridges, and every service's link to one.
//!
//! Interface indexes are chosen, not asked for, so that the messages for all services can be written before
//! the first is sent.
//!
//! `rtnetlink` makes the bridges: few messages, one after the other. What there is once for each service goes
//! by our own encoder: in the router 0.37 ms of processor time for a service (four messages, nearly all of it
//! the kernel's), where `rtnetlink` took 0.63 ms, awaited one by one or all at once (debug builds, 100 services,
//! five runs of each, kernel 6.18). It also says in words what the kernel did not like, of which `rtnetlink`
//! keeps the number only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};
use ws_core::plan::ExternalPlan;
use ws_model::{ServiceName, Subnet};
use ws_sys::netlink::route::{self, LOOPBACK, Veth};
use ws_sys::netlink::{self, Batch, Socket};

use super::{INSIDE_NAME, Member, NetError, NsRef, SocketSource, route_socket};

/// Services on one bridge. The kernel takes up to 1,023, but looks at all ports of a bridge when one is added:
/// with 1,000 services on one, each takes 0.65 ms in the router, on four 0.42 ms; a bridge takes 0.4 ms.
const PER_BRIDGE: u32 = 250;
/// The index of the first bridge. New namespaces may have tunnel devices of the host's modules (`sit0`,
/// `tunl0`, …) with the first few numbers.
const FIRST_BRIDGE: u32 = 100;
/// The index of the port of the service with the number 0.
pub(super) const FIRST_PORT: u32 = 1000;
/// The index of a service's interface inside, chosen for the same reason.
const INSIDE: u32 = 100;
/// There are as many bridges as fit below the ports.
pub(super) const MOST_SERVICES: u32 = (FIRST_PORT - FIRST_BRIDGE) * PER_BRIDGE;

/// How long a port may take to forward: it is a matter of milliseconds on an idle machine.
const PORT_PATIENCE: Duration = Duration::from_secs(10);

/// The number of the bridge of the service with the number `index`.
pub(super) fn bridge_of(index: u32) -> u32 {
    index / PER_BRIDGE
}

/// The name, in the router, of the interface of the service with the number `index`.
pub(super) fn port_name(index: u32) -> String {
    format!("v{index}")
}

/// The hardware address of all bridges: locally administered, and of no service.
pub(super) fn gateway_mac(gateway: Ipv4Addr, members: &[Member<'_>]) -> [u8; 6] {
    let taken: BTreeSet<_> = members.iter().map(|member| member.mac).collect();
    let [a, b, c, d] = gateway.octets();
    // The two lowest bits of the first byte say "locally administered" and "one receiver".
    (0..=u8::MAX)
        .flat_map(|second| [0x02, 0x06, 0x0a, 0x0e].map(|first| [first, second, a, b, c, d]))
        .find(|mac| !taken.contains(mac))
        .expect("fewer services than hardware addresses")
}

/// Makes these bridges, with the gateway's address; with the first one the loopback and the routes.
pub(super) fn make_bridges(
    sockets: &dyn SocketSource,
    subnet: Subnet,
    mac: [u8; 6],
    bridges: &BTreeSet<u32>,
) -> Result<(), NetError> {
    if bridges.is_empty() {
        return Ok(());
    }
    let fd = route_socket(sockets, NsRef::Router)?;
    let reactor =
        tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(NetError::Reactor)?;
    reactor.block_on(async {
        let socket = netlink::into_async(fd).map_err(NetError::Reactor)?;
        let (connection, handle, _) = rtnetlink::from_socket(socket);
        let connection = tokio::spawn(connection);
        let result = make_bridges_with(&handle, bridges, subnet, mac).await;
        connection.abort();
        result
    })
}

async fn make_bridges_with(
    handle: &Handle,
    bridges: &BTreeSet<u32>,
    subnet: Subnet,
    mac: [u8; 6],
) -> Result<(), NetError> {
    let first = bridges.contains(&0);
    if first {
        let loopback = LinkUnspec::new_with_index(LOOPBACK).up().build();
        handle.link().set(loopback).execute().await.map_err(failed("set the loopback interface up"))?;
    }
    for number in bridges {
        let (name, index) = (format!("ws{number}"), FIRST_BRIDGE + number);
        let bridge = LinkMessageBuilder::<LinkBridge>::new(&name)
            .index(index)
            .address(mac.to_vec())
            .mcast_snooping(false)
            .up()
            .build();
        let what = format!("add the bridge `{name}`");
        handle.link().add(bridge).execute().await.map_err(failed(what))?;
        let mut address = handle.address().add(index, IpAddr::V4(subnet.gateway()), 32);
        // It would be the address itself, and a route of its own for it.
        let broadcast = |a: &_| matches!(a, rtnetlink::packet_route::address::AddressAttribute::Broadcast(_));
        address.message_mut().attributes.retain(|attribute| !broadcast(attribute));
        address.execute().await.map_err(failed(format!("set the gateway's address on `{name}`")))?;
    }
    if !first {
        return Ok(());
    }
    // What is of no service has a way too, so that the rules see and count it. Services on other bridges
    // than the first have a route of their own.
    for (what, to, prefix) in [
        ("add the subnet's route", subnet.base(), subnet.prefix()),
        ("add the default route", Ipv4Addr::UNSPECIFIED, 0),
    ] {
        let mut route =
            RouteMessageBuilder::<Ipv4Addr>::new().output_interface(FIRST_BRIDGE).scope(RouteScope::Link);
        if prefix > 0 {
            route = route.destination_prefix(to, prefix);
        }
        handle.route().add(route.build()).execute().await.map_err(failed(what))?;
    }
    Ok(())
}

fn failed(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetError {
    let what = what.into();
    |source| NetError::Bridge { what, source }
}

/// Messages with what each does, for errors.
#[derive(Default)]
struct Steps<'a> {
    batch: Batch,
    does: Vec<(&'a ServiceName, &'static str)>,
}

impl<'a> Steps<'a> {
    fn add(&mut self, of: &'a ServiceName, what: &'static str, push: impl FnOnce(&mut Batch) -> usize) {
        push(&mut self.batch);
        self.does.push((of, what));
    }

    fn run(mut self, socket: &mut Socket) -> Result<(), NetError> {
        let done = socket.run(&mut self.batch);
        done.map_err(|source| self.error(source, |_| true))
    }

    /// As [`run`](Self::run), and what is not there any more is taken away already.
    fn run_taking_away(mut self, socket: &mut Socket) -> Result<(), NetError> {
        let absent = |errno| [libc::ENODEV, libc::ENOENT, libc::ESRCH, libc::EADDRNOTAVAIL].contains(&errno);
        match socket.run(&mut self.batch) {
            Err(netlink::Error::Refused(refusals)) if refusals.iter().all(|one| absent(one.errno)) => Ok(()),
            done => done.map_err(|source| self.error(source, |errno| !absent(errno))),
        }
    }

    /// The first refusal that `matters`, in words.
    fn error(&self, source: netlink::Error, matters: impl Fn(i32) -> bool) -> NetError {
        let mut refusals = source.refusals().iter().filter(|refusal| matters(refusal.errno));
        let refused = refusals.next().and_then(|refusal| self.does.get(refusal.index));
        match refused.or(self.does.first()) {
            Some((service, what)) => NetError::Link { service: (*service).clone(), what, source },
            None => NetError::BadSocket { of: NsRef::Router.to_string(), source },
        }
    }
}

/// Makes every member's pair of interfaces: one end is a port of a bridge, the other in its namespace, down.
pub(super) fn connect(sockets: &dyn SocketSource, members: &[Member<'_>]) -> Result<(), NetError> {
    let fd = route_socket(sockets, NsRef::Router)?;
    let mut socket =
        Socket::new(fd).map_err(|source| NetError::BadSocket { of: NsRef::Router.to_string(), source })?;
    let mut steps = Steps::default();
    for member in members {
        let (index, bridge) = (FIRST_PORT + member.index, FIRST_BRIDGE + bridge_of(member.index));
        let veth = Veth {
            index,
            name: &port_name(member.index),
            bridge,
            peer_index: INSIDE,
            peer_name: INSIDE_NAME,
            peer_mac: member.mac,
            peer_namespace: member.namespace,
        };
        steps.add(member.name, "add the link", |b| route::add_veth(b, &veth));
        steps.add(member.name, "isolate the port", |b| route::isolate_port(b, index));
        steps.add(member.name, "set the bridge's entry", |b| route::add_bridge_entry(b, index, member.mac));
        steps.add(member.name, "set the neighbour", |b| {
            route::add_neighbour(b, bridge, member.address, member.mac)
        });
        if bridge != FIRST_BRIDGE {
            steps.add(member.name, "add the route", |b| route::add_host_route(b, bridge, member.address));
        }
    }
    steps.run(&mut socket)
}

/// Takes a member's pair of interfaces away, and what the router knew of it. The kernel would take the interfaces
/// away by itself some time after the service's namespace has ended; after this their places are free at once.
/// `last`: nobody else is on its bridge, which goes too.
pub(super) fn disconnect(
    sockets: &dyn SocketSource,
    name: &ServiceName,
    index: u32,
    address: Ipv4Addr,
    last: bool,
) -> Result<(), NetError> {
    let fd = route_socket(sockets, NsRef::Router)?;
    let mut socket =
        Socket::new(fd).map_err(|source| NetError::BadSocket { of: NsRef::Router.to_string(), source })?;
    let bridge = FIRST_BRIDGE + bridge_of(index);
    let mut steps = Steps::default();
    steps.add(name, "take away the neighbour", |b| route::delete_neighbour(b, bridge, address));
    if bridge != FIRST_BRIDGE {
        steps.add(name, "take away the route", |b| route::delete_host_route(b, bridge, address));
    }
    steps.add(name, "take away the link", |b| route::delete_link(b, FIRST_PORT + index));
    if last {
        steps.add(name, "take away the bridge", |b| route::delete_link(b, bridge));
    }
    steps.run_taking_away(&mut socket)
}

/// Gives the router the addresses of what is elsewhere.
pub(super) fn add_external(sockets: &dyn SocketSource, external: &[ExternalPlan]) -> Result<(), NetError> {
    if external.is_empty() {
        return Ok(());
    }
    let fd = route_socket(sockets, NsRef::Router)?;
    let mut socket =
        Socket::new(fd).map_err(|source| NetError::BadSocket { of: NsRef::Router.to_string(), source })?;
    let mut steps = Steps::default();
    for one in external {
        steps.add(&one.name, "set the address", |b| route::add_address(b, LOOPBACK, one.address));
    }
    steps.run(&mut socket)
}

/// Takes such addresses away again.
pub(super) fn remove_external(sockets: &dyn SocketSource, external: &[ExternalPlan]) -> Result<(), NetError> {
    if external.is_empty() {
        return Ok(());
    }
    let fd = route_socket(sockets, NsRef::Router)?;
    let mut socket =
        Socket::new(fd).map_err(|source| NetError::BadSocket { of: NsRef::Router.to_string(), source })?;
    let mut steps = Steps::default();
    for one in external {
        steps.add(&one.name, "take away the address", |b| route::delete_address(b, LOOPBACK, one.address));
    }
    steps.run_taking_away(&mut socket)
}

/// Sets up what a service's namespace has: address, neighbour and routes, in one send.
pub(super) fn finish_inside(
    sockets: &dyn SocketSource,
    member: &Member<'_>,
    gateway: Ipv4Addr,
    gateway_mac: [u8; 6],
) -> Result<(), NetError> {
    let of = NsRef::Service(member.name);
    let mut socket = Socket::new(route_socket(sockets, of)?)
        .map_err(|source| NetError::BadSocket { of: of.to_string(), source })?;
    let mut steps = Steps::default();
    steps.add(member.name, "set the loopback interface up", |b| route::set_up(b, LOOPBACK));
    steps.add(member.name, "set the address", |b| route::add_address(b, INSIDE, member.address));
    steps.add(member.name, "set the interface up", |b| route::set_up(b, INSIDE));
    steps.add(member.name, "set the neighbour", |b| route::add_neighbour(b, INSIDE, gateway, gateway_mac));
    steps.add(member.name, "add the gateway's route", |b| route::add_host_route(b, INSIDE, gateway));
    steps.add(member.name, "add the default route", |b| route::add_default_route(b, INSIDE, gateway));
    steps.run(&mut socket)
}

/// Waits until every member's port forwards frames and its bridge sends them. Before that, what is sent to it or by it
/// is lost: the first connection of a service that starts at once would wait a second for its second try.
pub(super) fn wait_for_ports(sockets: &dyn SocketSource, members: &[Member<'_>]) -> Result<(), NetError> {
    let of = NsRef::Router;
    let failed = |source| NetError::BadSocket { of: of.to_string(), source };
    let mut socket = Socket::new(route_socket(sockets, of)?).map_err(failed)?;
    let start = Instant::now();
    let mut pause = Duration::from_micros(100);
    loop {
        let forwarding = match route::forwarding_ports(&mut socket) {
            Ok(forwarding) => forwarding,
            // A port changed meanwhile.
            Err(netlink::Error::Changed) => BTreeSet::new(),
            Err(source) => return Err(failed(source)),
        };
        let port = |member: &Member<'_>| FIRST_PORT + member.index;
        let mut waiting: Vec<_> =
            members.iter().filter(|member| !forwarding.contains(&port(member))).collect();
        for member in &waiting {
            route::settle(&mut socket, port(member)).map_err(failed)?;
        }
        if waiting.is_empty() {
            // A bridge works some time after its first port does, and the kernel leaves that to the same queue.
            let by_bridge: BTreeMap<u32, _> =
                members.iter().map(|member| (bridge_of(member.index), member)).collect();
            for (bridge, member) in by_bridge {
                if !route::settle(&mut socket, FIRST_BRIDGE + bridge).map_err(failed)? {
                    waiting.push(member);
                }
            }
        }
        let Some(first) = waiting.first() else { return Ok(()) };
        if start.elapsed() > PORT_PATIENCE {
            return Err(NetError::PortDown(first.name.clone()));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}
