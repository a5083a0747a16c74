//! The network of a workspace: bridge, links and rules, from a plan.
//!
//! ```text
//!  service `api`            router                      service `db`
//!  ┌──────────────────┐   ┌───────────────────────┐   ┌──────────────────┐
//!  │  eth0 10.77.x/32 ├───┤ v7   ws0         v9   ├───┤ eth0 10.77.y/32  │
//!  │                  │   │      10.77.0.1/32     │   │                  │
//!  │ links: db:5432   │   │ links: api → db:5432  │   │ links: none      │
//!  └──────────────────┘   └───────────────────────┘   └──────────────────┘
//! ```
//!
//! Every port of the bridge is isolated, so frames go only between a service and the bridge, and whatever
//! services say to each other is routed, through the rules (`net/rules.rs`):
//!
//! - **In the service's namespace** (`table inet ws`) every packet that leaves must belong to a link or
//!   answer one that came in. What does not is counted, logged to the group [`DENIED_GROUP`] if it tries to
//!   open something, and refused at once: a TCP reset, else "administratively prohibited". A service cannot
//!   reach these rules, and whatever they log was sent by this service and no other.
//! - **In the router** (`table inet ws`) the same is asked again of every packet, in both directions, with
//!   "drop" as the answer. So a link that is removed also ends what runs over it. Nothing may connect to
//!   the router; the router may connect to services (published ports, probes), over TCP and UDP.
//! - **On the ports** (`table bridge ws`) a frame must be IPv4 and have the hardware and IPv4 addresses of the
//!   service behind the port; what has others is logged to the group [`SPOOFED_GROUP`]. There is no ARP:
//!   both sides have permanent neighbours. IPv6 is off, and passes nowhere if it is not.
//!
//! In input, a service takes IPv4 from `eth0` and everything from its loopback: what comes through the
//! router was allowed there. There is no rule that relies on `br_netfilter`, reverse path filters, or the
//! neighbour protocol.
//!
//! Rules are loaded before interfaces exist, so nothing passes in between.
//!
//! What is elsewhere ([`Plan::external`]) has an address of the router, on its loopback. A link leads there as to a
//! service; whoever listens there passes connections on ([`crate::external`]).
//!
//! Services join and leave at any time ([`Network::add`], [`Network::remove`]): elements of the sets come and go,
//! the rules stay, with the connections and counters of everybody else.
//!
//! Works in namespaces that others made, by sockets that others made in them ([`SocketSource`]): rootless, the
//! supervisor cannot enter its own workspace's namespaces, but it may speak on such a socket, because the
//! namespaces belong to a user namespace that it owns. Never touches the host's network. At the end nothing is
//! undone: all ends with the namespaces. The system settings that this relies on ([`SYSCTLS_ROUTER`],
//! [`SYSCTLS_SERVICE`]) are written by whoever makes the namespaces, in them, before [`set_up`].
//!
//! Who encodes what: the bridge with its address and routes is made with `rtnetlink`; the links to the
//! services, in the router and in each service's namespace, with our own encoder ([`ws_sys::netlink`]).
//! `net/links.rs` has the figures behind that.

mod links;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ws_core::plan::{ExternalPlan, Plan, ServicePlan};
use ws_model::{ServiceName, Subnet};
use ws_sys::netlink::{self, Socket};
use ws_sys::nft::{self, InterfaceName, Transaction};

use rules::Flow;
pub(crate) use rules::{ICMP, TCP, UDP};

/// The interface of a service, inside.
pub const INSIDE_NAME: &str = "eth0";
/// The group (NFLOG) of packets that a rule denied: in a service's namespace, and in the router's.
pub const DENIED_GROUP: u16 = 5;
/// The group (NFLOG), in the router, of frames that are not what the service behind the port may send.
pub const SPOOFED_GROUP: u16 = 6;

/// How many bytes of a packet come with the message of a rule that logs: the headers, and a name that is looked up.
pub const SNAPLEN: u32 = 256;

/// Settings of the router's namespace, below `/proc/sys`, to be written in this order before [`set_up`].
/// Those for which [`sysctl_may_be_missing`] may be missing; any other that cannot be written is an error.
///
/// All are written even where the kernel has the same default: a new namespace inherits the IPv4 ones from
/// the host's, whatever the host's administrator did there. `ip_forward` comes first because it changes
/// others. Pings without privilege need no setting: `ping_group_range` is empty in a new namespace.
pub const SYSCTLS_ROUTER: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/conf/all/rp_filter", "1"),
    ("net/ipv4/conf/default/rp_filter", "1"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/default/accept_redirects", "0"),
    ("net/ipv4/conf/all/secure_redirects", "0"),
    ("net/ipv4/conf/default/secure_redirects", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv4/conf/all/accept_source_route", "0"),
    ("net/ipv4/conf/default/accept_source_route", "0"),
    ("net/ipv4/conf/all/accept_local", "0"),
    ("net/ipv4/conf/default/accept_local", "0"),
    ("net/ipv4/conf/all/route_localnet", "0"),
    ("net/ipv4/conf/default/route_localnet", "0"),
    ("net/ipv4/conf/all/proxy_arp", "0"),
    ("net/ipv4/conf/default/proxy_arp", "0"),
    ("net/ipv4/conf/all/arp_accept", "0"),
    ("net/ipv4/conf/default/arp_accept", "0"),
    ("net/ipv4/conf/all/arp_notify", "0"),
    ("net/ipv4/conf/default/arp_notify", "0"),
    ("net/ipv4/conf/all/arp_ignore", "1"),
    ("net/ipv4/conf/default/arp_ignore", "1"),
    ("net/ipv4/conf/all/arp_announce", "2"),
    ("net/ipv4/conf/default/arp_announce", "2"),
    ("net/ipv4/conf/all/log_martians", "0"),
    ("net/ipv4/conf/default/log_martians", "0"),
    ("net/ipv6/conf/all/disable_ipv6", "1"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/bridge/bridge-nf-call-iptables", "0"),
    ("net/bridge/bridge-nf-call-ip6tables", "0"),
    ("net/bridge/bridge-nf-call-arptables", "0"),
];

/// Settings of every service's namespace; see [`SYSCTLS_ROUTER`].
pub const SYSCTLS_SERVICE: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "0"),
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    ("net/ipv4/tcp_migrate_req", "1"),
    ("net/ipv4/conf/all/rp_filter", "1"),
    ("net/ipv4/conf/default/rp_filter", "1"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/default/accept_redirects", "0"),
    ("net/ipv4/conf/all/secure_redirects", "0"),
    ("net/ipv4/conf/default/secure_redirects", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv4/conf/all/accept_source_route", "0"),
    ("net/ipv4/conf/default/accept_source_route", "0"),
    ("net/ipv4/conf/all/accept_local", "0"),
    ("net/ipv4/conf/default/accept_local", "0"),
    ("net/ipv4/conf/all/route_localnet", "0"),
    ("net/ipv4/conf/default/route_localnet", "0"),
    ("net/ipv4/conf/all/proxy_arp", "0"),
    ("net/ipv4/conf/default/proxy_arp", "0"),
    ("net/ipv4/conf/all/arp_accept", "0"),
    ("net/ipv4/conf/default/arp_accept", "0"),
    ("net/ipv4/conf/all/arp_notify", "0"),
    ("net/ipv4/conf/default/arp_notify", "0"),
    ("net/ipv4/conf/all/arp_ignore", "1"),
    ("net/ipv4/conf/default/arp_ignore", "1"),
    ("net/ipv4/conf/all/arp_announce", "2"),
    ("net/ipv4/conf/default/arp_announce", "2"),
    ("net/ipv4/conf/all/log_martians", "0"),
    ("net/ipv4/conf/default/log_martians", "0"),
    ("net/ipv6/conf/all/disable_ipv6", "1"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
];

/// Whether a machine may lack a setting without harm: it belongs to a part of the kernel (IPv6, the bridge's
/// netfilter) that then is not there, or is a second lock (connections of a listening socket that is closed go to the
/// next one of its port, since Linux 5.14).
#[must_use]
pub fn sysctl_may_be_missing(path: &str) -> bool {
    path.starts_with("net/ipv6/") || path.starts_with("net/bridge/") || path == "net/ipv4/tcp_migrate_req"
}

/// A network namespace of the workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NsRef<'a> {
    /// The one with the bridge.
    Router,
    /// A service's.
    Service(&'a ServiceName),
}

impl fmt::Display for NsRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Router => write!(f, "the router"),
            Self::Service(name) => write!(f, "`{name}`"),
        }
    }
}

/// Makes sockets inside the namespaces of a workspace. Each call gives a new one, close-on-exec, not yet
/// used.
pub trait SocketSource {
    /// A raw socket of `NETLINK_ROUTE`.
    ///
    /// # Errors
    /// When none can be had.
    fn netlink_route(&self, ns: NsRef<'_>) -> io::Result<OwnedFd>;

    /// A raw socket of `NETLINK_NETFILTER`.
    ///
    /// # Errors
    /// When none can be had.
    fn netlink_netfilter(&self, ns: NsRef<'_>) -> io::Result<OwnedFd>;
}

/// A network could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// No socket was to be had.
    #[error("could not get a netlink socket in the network of {of}")]
    Socket {
        /// Of whom: "the router", "`api`".
        of: String,
        /// Why.
        source: io::Error,
    },
    /// A socket is not usable.
    #[error("could not use the netlink socket in the network of {of}")]
    BadSocket {
        /// Of whom.
        of: String,
        /// Why.
        source: netlink::Error,
    },
    /// The kernel did not take the rules.
    #[error("could not load the rules of {of}")]
    Rules {
        /// Of whom.
        of: String,
        /// Why.
        source: nft::CommitError,
    },
    /// The bridge could not be made.
    #[error("could not {what} in the router")]
    Bridge {
        /// What: "add the bridge `ws0`".
        what: String,
        /// Why.
        source: rtnetlink::Error,
    },
    /// A service could not be connected to the bridge.
    #[error("could not {what} of `{service}`")]
    Link {
        /// Which service.
        service: ServiceName,
        /// What: "set the address".
        what: &'static str,
        /// Why.
        source: netlink::Error,
    },
    /// A service's port of the bridge does not come up.
    #[error("the link of `{0}` does not come up")]
    PortDown(ServiceName),
    /// A service of the plan has no namespace.
    #[error("there is no network namespace for `{0}`")]
    NoNamespace(ServiceName),
    /// A service's number is so large that there is no bridge for it.
    #[error("`{0}` is beyond the {limit} services that one workspace can connect", limit = links::MOST_SERVICES)]
    TooMany(ServiceName),
    /// A service that joins has the name, number or address of one that is there.
    #[error("the network of the workspace has a service with the name, the number or the address of `{0}`")]
    Taken(ServiceName),
    /// A service of the plan is not in the network.
    #[error("`{0}` is not in the network of the workspace")]
    Unknown(ServiceName),
    /// The reactor that `rtnetlink` needs could not be started.
    #[error("could not prepare to set the network up")]
    Reactor(#[source] io::Error),
}

/// A service as the network sees it.
#[derive(Debug, Clone, Copy)]
struct Member<'a> {
    name: &'a ServiceName,
    index: u32,
    address: Ipv4Addr,
    mac: [u8; 6],
    namespace: BorrowedFd<'a>,
}

impl<'a> Member<'a> {
    fn new(service: &'a ServicePlan, namespace: BorrowedFd<'a>) -> Result<Self, NetError> {
        if service.index >= links::MOST_SERVICES {
            return Err(NetError::TooMany(service.name.clone()));
        }
        let (index, address, mac) = (service.index, service.address, service.mac);
        Ok(Self { name: &service.name, index, address, mac, namespace })
    }

    fn port(&self) -> rules::Port {
        port(self.index, self.mac, self.address)
    }
}

fn port(index: u32, mac: [u8; 6], address: Ipv4Addr) -> rules::Port {
    let name = InterfaceName::new(&links::port_name(index)).expect("a letter and a number");
    rules::Port { name, mac, address }
}

/// The index, in the router, of the interface of the service with the number `index`.
pub(crate) fn port_index(index: u32) -> u32 {
    links::FIRST_PORT + index
}

/// How many attempts the rules in a service's namespace have denied since they were loaded. `socket` is in that
/// namespace.
pub(crate) fn attempts(socket: &mut Socket) -> Result<u64, netlink::Error> {
    let counters = nft::counters(socket, rules::INET)?;
    Ok(counters.iter().filter(|one| one.comment == rules::ATTEMPTS).map(|one| one.packets).sum())
}

/// A service that is connected.
#[derive(Debug)]
struct Joined {
    index: u32,
    address: Ipv4Addr,
    mac: [u8; 6],
    /// Whether the router has its rules: not any more when it leaves.
    known: bool,
    /// What is loaded in its namespace.
    links: BTreeSet<Flow>,
    /// What its plan says, with whom each leads to: one who comes back has them again.
    declared: BTreeSet<(ServiceName, Flow)>,
}

/// The network of a workspace. Dropping it changes nothing: the network lives as long as its namespaces.
#[derive(Debug)]
pub struct Network {
    subnet: Subnet,
    gateway_mac: [u8; 6],
    /// In the router's namespace.
    rules: Socket,
    /// The bridges that there are.
    bridges: BTreeSet<u32>,
    /// Everybody who is connected.
    members: BTreeMap<ServiceName, Joined>,
    /// What is loaded in the router.
    in_router: BTreeSet<Flow>,
}

/// Makes the network of `plan`: rules first, then the bridge, then every service's link to it.
///
/// `namespaces` has a descriptor of every service's network namespace; they and the router's are new and
/// empty, with the settings [`SYSCTLS_ROUTER`] and [`SYSCTLS_SERVICE`].
///
/// Blocks for about a millisecond for each service: call it on a thread that may (`spawn_blocking`).
///
/// # Errors
/// See [`NetError`]. What was made so far stays; it ends with the namespaces.
pub fn set_up(
    sockets: &dyn SocketSource,
    namespaces: &BTreeMap<ServiceName, OwnedFd>,
    plan: &Plan,
) -> Result<Network, NetError> {
    let mut members = Vec::with_capacity(plan.services.len());
    for (name, service) in &plan.services {
        let namespace = namespaces.get(name).ok_or_else(|| NetError::NoNamespace(name.clone()))?.as_fd();
        members.push(Member::new(service, namespace)?);
    }
    let gateway_mac = links::gateway_mac(plan.subnet.gateway(), &members);
    let wanted = wanted(plan);

    let mut rules = rules_socket(sockets, NsRef::Router)?;
    let ports: Vec<_> = members.iter().map(Member::port).collect();
    let in_router: BTreeSet<Flow> = wanted.values().flatten().copied().collect();
    commit(&mut rules, NsRef::Router, rules::router(gateway_mac, &in_router, &ports))?;

    let bridges = BTreeSet::from([0]);
    links::make_bridges(sockets, plan.subnet, gateway_mac, &bridges)?;
    links::add_external(sockets, &plan.external)?;
    let subnet = plan.subnet;
    let mut network = Network { subnet, gateway_mac, rules, bridges, members: BTreeMap::new(), in_router };
    network.connect(sockets, &members, wanted)?;
    plan.services.values().for_each(|service| network.declare(service));
    Ok(network)
}

impl Network {
    /// The router's address on every bridge; `ws` itself connects to services from it.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        self.subnet.gateway()
    }

    /// The address of a service.
    #[must_use]
    pub fn address(&self, service: &ServiceName) -> Option<Ipv4Addr> {
        self.members.get(service).map(|member| member.address)
    }

    /// Connects services for which the router has its rules already; they count as members from here on.
    fn connect(
        &mut self,
        sockets: &dyn SocketSource,
        members: &[Member<'_>],
        mut wanted: BTreeMap<ServiceName, BTreeSet<Flow>>,
    ) -> Result<(), NetError> {
        for member in members {
            let Member { name, index, address, mac, namespace: _ } = *member;
            let links = wanted.remove(name).unwrap_or_default();
            let declared = BTreeSet::new();
            self.members.insert(name.clone(), Joined { index, address, mac, known: true, links, declared });
        }
        let bridges: BTreeSet<u32> = members.iter().map(|member| links::bridge_of(member.index)).collect();
        let further = bridges.difference(&self.bridges).copied().collect();
        links::make_bridges(sockets, self.subnet, self.gateway_mac, &further)?;
        self.bridges.extend(further);
        links::connect(sockets, members)?;
        for member in members {
            let of = NsRef::Service(member.name);
            let links = &self.members[member.name].links;
            commit(&mut rules_socket(sockets, of)?, of, rules::service(links))?;
            links::finish_inside(sockets, member, self.gateway(), self.gateway_mac)?;
        }
        links::wait_for_ports(sockets, members)
    }

    fn declare(&mut self, service: &ServicePlan) {
        if let Some(member) = self.members.get_mut(&service.name) {
            member.declared = service
                .links
                .iter()
                .zip(each_flow(service))
                .map(|(link, flow)| (link.to.clone(), flow))
                .collect();
        }
    }

    /// Connects a further service, with its links. Nothing of the others is touched: the router takes its part in
    /// one transaction, before the interface exists. Links of others to it are granted where their plans
    /// have them already (it was there before); else by [`Network::update`] or [`Network::replace_links`].
    ///
    /// `namespace` is its network namespace, new and empty, with the settings [`SYSCTLS_SERVICE`]. Blocks, as
    /// [`set_up`].
    ///
    /// # Errors
    /// See [`NetError`]. What was made so far was taken away again.
    pub fn add(
        &mut self,
        sockets: &dyn SocketSource,
        service: &ServicePlan,
        namespace: BorrowedFd<'_>,
    ) -> Result<(), NetError> {
        let member = Member::new(service, namespace)?;
        let taken = self.members.values().any(|other| {
            other.index == member.index || other.address == member.address || other.mac == member.mac
        });
        if taken || self.members.contains_key(member.name) || member.mac == self.gateway_mac {
            return Err(NetError::Taken(member.name.clone()));
        }
        let links = flows(service);
        let further: BTreeSet<Flow> = links.difference(&self.in_router).copied().collect();
        let rules = rules::join(Transaction::new(), &further, &[member.port()]);
        commit(&mut self.rules, NsRef::Router, rules)?;
        self.in_router.extend(further);
        let connected = self.connect(sockets, &[member], BTreeMap::from([(member.name.clone(), links)]));
        let connected = connected.and_then(|()| self.grant_again(sockets, service));
        if connected.is_err() {
            // The error that matters is the one that is returned.
            let _ = self.remove(sockets, member.name);
            return connected;
        }
        self.declare(service);
        Ok(())
    }

    /// Grants the links of others to one who came back.
    fn grant_again(&mut self, sockets: &dyn SocketSource, service: &ServicePlan) -> Result<(), NetError> {
        let to_it = |(to, flow): &&(ServiceName, Flow)| *to == service.name && flow.to == service.address;
        let again = |member: &Joined| -> BTreeSet<Flow> {
            member.declared.iter().filter(to_it).map(|(_, flow)| *flow).collect()
        };
        let wanted: BTreeSet<Flow> =
            self.members.values().flat_map(&again).filter(|flow| !self.in_router.contains(flow)).collect();
        if !wanted.is_empty() {
            let change = rules::change(rules::ROUTER_LINKS, &BTreeSet::new(), &wanted, Flow::router_key);
            commit(&mut self.rules, NsRef::Router, change)?;
            self.in_router.extend(wanted);
        }
        for (name, member) in &mut self.members {
            let links = member.links.union(&again(member)).copied().collect();
            member.replace_links(sockets, name, links)?;
        }
        Ok(())
    }

    /// Grants the links of a service as its plan says, and no others: as [`Network::replace_links`], for one. After an
    /// error it is as it was before.
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn update(&mut self, sockets: &dyn SocketSource, service: &ServicePlan) -> Result<(), NetError> {
        let Some(member) = self.members.get_mut(&service.name) else {
            return Err(NetError::Unknown(service.name.clone()));
        };
        let wanted = flows(service);
        let address = member.address;
        let before: BTreeSet<Flow> =
            self.in_router.iter().copied().filter(|flow| flow.from == address).collect();
        if before != wanted {
            let change = rules::change(rules::ROUTER_LINKS, &before, &wanted, Flow::router_key);
            commit(&mut self.rules, NsRef::Router, change)?;
        }
        if let Err(error) = member.replace_links(sockets, &service.name, wanted.clone()) {
            let back = rules::change(rules::ROUTER_LINKS, &wanted, &before, Flow::router_key);
            if let Err(error) = commit(&mut self.rules, NsRef::Router, back) {
                // It has fewer rights than before, in one place or the other, or those of both.
                tracing::warn!(service = %service.name, %error, "taking back a change of links");
            }
            return Err(error);
        }
        self.in_router.retain(|flow| flow.from != address);
        self.in_router.extend(wanted);
        self.declare(service);
        Ok(())
    }

    /// Gives the router the addresses of what is elsewhere that it has not, and takes those away that it is not to
    /// have. Links lead there as the plans of services say.
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn change_external(
        &mut self,
        sockets: &dyn SocketSource,
        come: &[ExternalPlan],
        go: &[ExternalPlan],
    ) -> Result<(), NetError> {
        links::add_external(sockets, come)?;
        links::remove_external(sockets, go)
    }

    /// Disconnects a service: its links and those of others to it go first, in one transaction of the router, then
    /// its interfaces. Nothing of the others is touched. Its namespace may have ended already.
    ///
    /// Blocks for some 20 ms: the kernel waits until nobody uses the interfaces any more.
    ///
    /// # Errors
    /// The first one; all was tried then, and a repeated call does what is left to do.
    pub fn remove(&mut self, sockets: &dyn SocketSource, service: &ServiceName) -> Result<(), NetError> {
        let Some(leaving) = self.members.get_mut(service) else {
            return Err(NetError::Unknown(service.clone()));
        };
        let (index, mac, address) = (leaving.index, leaving.mac, leaving.address);
        let of_it = |flow: &Flow| flow.from == address || flow.to == address;
        let mut result = Ok(());
        if leaving.known {
            let gone = self.in_router.iter().copied().filter(of_it).collect();
            let change = rules::leave(&gone, &port(index, mac, address));
            result = commit(&mut self.rules, NsRef::Router, change);
            if result.is_ok() {
                leaving.known = false;
                self.in_router.retain(|flow| !of_it(flow));
            }
        }
        for (name, member) in self.members.iter_mut().filter(|(name, _)| *name != service) {
            let wanted = member.links.iter().copied().filter(|flow| !of_it(flow)).collect();
            result = result.and(member.replace_links(sockets, name, wanted));
        }
        let bridge = links::bridge_of(index);
        let others = self.members.iter().filter(|(name, _)| *name != service);
        let last = bridge != 0 && others.into_iter().all(|(_, one)| links::bridge_of(one.index) != bridge);
        result = result.and(links::disconnect(sockets, service, index, address, last));
        if result.is_ok() {
            self.members.remove(service);
            if last {
                self.bridges.remove(&bridge);
            }
        }
        result
    }

    /// Grants the links of `plan` and no others. Links that stay are not touched; over links that go, open
    /// connections end at once, at both ends with their next packet.
    ///
    /// The router changes first, in one transaction, and decides; the services follow, one transaction each,
    /// so that their programs are told. Services of the network that are not in the plan lose their links.
    ///
    /// # Errors
    /// The first one; all places were tried then, and a repeated call does what is left to do.
    pub fn replace_links(&mut self, sockets: &dyn SocketSource, plan: &Plan) -> Result<(), NetError> {
        let mut wanted = wanted(plan);
        for name in wanted.keys() {
            if !self.members.contains_key(name) {
                return Err(NetError::Unknown(name.clone()));
            }
        }
        let in_router: BTreeSet<Flow> = wanted.values().flatten().copied().collect();
        let change = rules::change(rules::ROUTER_LINKS, &self.in_router, &in_router, Flow::router_key);
        let mut result = commit(&mut self.rules, NsRef::Router, change);
        if result.is_ok() {
            self.in_router = in_router;
        }
        for (name, member) in &mut self.members {
            let wanted = wanted.remove(name).unwrap_or_default();
            result = result.and(member.replace_links(sockets, name, wanted));
        }
        plan.services.values().for_each(|service| self.declare(service));
        result
    }
}

impl Joined {
    /// Changes the links in its namespace from what is loaded to what is wanted, in one transaction.
    fn replace_links(
        &mut self,
        sockets: &dyn SocketSource,
        name: &ServiceName,
        wanted: BTreeSet<Flow>,
    ) -> Result<(), NetError> {
        if self.links == wanted {
            return Ok(());
        }
        let of = NsRef::Service(name);
        let change = rules::change(rules::SERVICE_LINKS, &self.links, &wanted, Flow::service_key);
        commit(&mut rules_socket(sockets, of)?, of, change)?;
        self.links = wanted;
        Ok(())
    }
}

/// The links of every service.
fn wanted(plan: &Plan) -> BTreeMap<ServiceName, BTreeSet<Flow>> {
    plan.services.iter().map(|(name, service)| (name.clone(), flows(service))).collect()
}

/// The links of a service.
fn flows(service: &ServicePlan) -> BTreeSet<Flow> {
    each_flow(service).collect()
}

/// The same, in order.
fn each_flow(service: &ServicePlan) -> impl Iterator<Item = Flow> {
    let from = service.address;
    service.links.iter().map(move |link| {
        let (protocol, port) = (link.port.protocol.number(), link.port.port);
        Flow { from, to: link.address, protocol, port }
    })
}

fn rules_socket(sockets: &dyn SocketSource, of: NsRef<'_>) -> Result<Socket, NetError> {
    let fd =
        sockets.netlink_netfilter(of).map_err(|source| NetError::Socket { of: of.to_string(), source })?;
    Socket::new(fd).map_err(|source| NetError::BadSocket { of: of.to_string(), source })
}

fn route_socket(sockets: &dyn SocketSource, of: NsRef<'_>) -> Result<OwnedFd, NetError> {
    sockets.netlink_route(of).map_err(|source| NetError::Socket { of: of.to_string(), source })
}

fn commit(socket: &mut Socket, of: NsRef<'_>, transactions: Vec<Transaction>) -> Result<(), NetError> {
    transactions
        .into_iter()
        .try_for_each(|transaction| transaction.commit(socket))
        .map_err(|source| NetError::Rules { of: of.to_string(), source })
}
