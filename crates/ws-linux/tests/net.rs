//! The network of a workspace with real packets, as root and as an ordinary user.
//!
//! Three processes, as in the product: this one runs the tests; for each it starts a *supervisor* (itself
//! again, as the user in question), which starts a *factory*. The factory is root in a user namespace that the
//! supervisor owns; it makes the network namespaces and gives away sockets that it makes in them. So
//! everything that the supervisor does, it does on sockets, as the real one.
//!
//! That something does not arrive is shown by something that was sent after it and does.

// The results of a test program go to the terminal.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, Protocol as Number, SocketFlags, SocketType, ipproto, netlink, socket_with,
};
use ws_core::plan::{ExternalPlan, LimitsPlan, LinkRule, Plan, Run, ServicePlan, View};
use ws_linux::net::{
    DENIED_GROUP, NetError, Network, NsRef, SPOOFED_GROUP, SYSCTLS_ROUTER, SYSCTLS_SERVICE, SocketSource,
    set_up, sysctl_may_be_missing,
};
use ws_model::{
    ByteSize, ConfigPath, ExternalHost, Level, PortProto, Protocol, Restart, RestartPolicy, ServiceKind,
    ServiceName, Stop, Subnet, WorkspaceName,
};
use ws_sys::netlink::{Batch, Socket, route};
use ws_sys::nft::{self, Family, Field, Set, Table, Transaction};
use ws_sys::scm::Channel;

/// An ordinary user; need not be in the password file.
const USER: u32 = 1000;
/// What "at once" means on a busy machine; refusals take well under a millisecond.
const AT_ONCE: Duration = Duration::from_millis(500);
/// Longest wait for something that must happen.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to look for something that must not happen, after the proof that it would have by now.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

type Test = (&'static str, fn(&mut World));
const TESTS: &[Test] = &[
    ("declared_links_work", declared_links_work),
    ("the_network_works_when_it_is_made", the_network_works_when_it_is_made),
    ("what_is_not_declared_is_refused_at_once", what_is_not_declared_is_refused_at_once),
    ("the_router_refuses_by_itself", the_router_refuses_by_itself),
    ("the_gateway_cannot_be_reached", the_gateway_cannot_be_reached),
    ("ws_reaches_services_and_nothing_else", ws_reaches_services_and_nothing_else),
    ("forged_frames_never_arrive", forged_frames_never_arrive),
    ("a_hand_made_route_does_not_get_round_it", a_hand_made_route_does_not_get_round_it),
    ("ipv6_does_not_work", ipv6_does_not_work),
    ("a_removed_link_ends_what_runs_over_it", a_removed_link_ends_what_runs_over_it),
    (
        "denied_attempts_are_logged_and_late_packets_are_not",
        denied_attempts_are_logged_and_late_packets_are_not,
    ),
    ("services_on_different_bridges_reach_each_other", services_on_different_bridges_reach_each_other),
    ("services_join_and_leave_and_nobody_else_notices", services_join_and_leave_and_nobody_else_notices),
    ("links_of_one_service_change_alone_and_come_back", links_of_one_service_change_alone_and_come_back),
    ("a_service_that_cannot_join_leaves_nothing", a_service_that_cannot_join_leaves_nothing),
    ("what_is_elsewhere_is_reached_along_links_only", what_is_elsewhere_is_reached_along_links_only),
    ("the_rules_are_as_nft_lists_them", the_rules_are_as_nft_lists_them),
    ("errors_name_what_failed", errors_name_what_failed),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["--factory"] => {
            factory();
            ExitCode::SUCCESS
        }
        ["--supervisor", test] => {
            let (_, run) = TESTS.iter().find(|(name, _)| *name == test).unwrap();
            run(&mut World::new(&standard()));
            ExitCode::SUCCESS
        }
        ["--probe"] => probe(),
        ["--measure", services] => {
            measure(services.parse().unwrap());
            ExitCode::SUCCESS
        }
        _ => run_all(&args),
    }
}

// --- The tests ---

/// `web` may reach `api`, which may reach `db`; `other` may reach `api` elsewhere.
fn standard() -> Plan {
    plan(&[
        ("web", 0, &[("api", 80, Protocol::Tcp), ("api", 53, Protocol::Udp)]),
        ("api", 1, &[("db", 5432, Protocol::Tcp)]),
        ("db", 2, &[]),
        ("other", 3, &[("api", 54, Protocol::Udp), ("api", 80, Protocol::Tcp)]),
    ])
}

fn declared_links_work(world: &mut World) {
    let listener = world.listen("api", 80);
    let mut client = world.connect("web", "api", 80).unwrap();
    let (mut server, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip(), world.address("web"), "the address is the client's own");
    echo(&mut client, &mut server);

    // More than any buffer on the way holds, in both directions.
    let sender = std::thread::spawn(move || {
        let data = vec![7; 8 << 20];
        client.write_all(&data).unwrap();
        let mut back = vec![0; data.len()];
        client.read_exact(&mut back).unwrap();
        assert_eq!(back, data);
    });
    let mut data = vec![0; 8 << 20];
    server.read_exact(&mut data).unwrap();
    server.write_all(&data).unwrap();
    sender.join().unwrap();

    let receiver = world.bind("api", 53);
    let sender = world.udp("web");
    sender.connect((world.address("api"), 53)).unwrap();
    sender.send(b"question").unwrap();
    let (text, from) = receive(&receiver);
    assert_eq!(text, b"question");
    receiver.send_to(b"answer", from).unwrap();
    assert_eq!(receive(&sender).0, b"answer");

    // Its own address and its loopback belong to each service.
    let listener = world.listen("db", 1);
    world.connect_to("db", SocketAddrV4::new(world.address("db"), 1)).unwrap();
    world.connect_to("db", SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1)).unwrap();
    drop(listener);
    // A declared port on which nobody listens is refused by the other side.
    assert_eq!(world.connect("api", "db", 5432).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

/// Not a moment later: what is sent right after is not lost.
fn the_network_works_when_it_is_made(_: &mut World) {
    let names: Vec<String> = (0..40).map(|n| format!("s{n}")).collect();
    let declared: Vec<Declared<'_>> =
        (0..).zip(&names).map(|(n, name)| (name.as_str(), n, &[][..])).collect();
    let plan = plan(&declared);
    let (factory, namespaces) = World::prepare(&plan);
    let socket = |of| factory.socket(of, AddressFamily::INET, SocketType::DGRAM, None).unwrap();
    let sender = UdpSocket::from(socket(NsRef::Router));
    let receivers: Vec<_> = plan.services.keys().map(|name| socket(NsRef::Service(name))).collect();
    for receiver in &receivers {
        rustix::net::bind(receiver, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 9)).unwrap();
    }
    set_up(&factory, &namespaces, &plan).unwrap();
    for service in plan.services.values().rev() {
        sender.send_to(b"first", (service.address, 9)).unwrap();
    }
    for receiver in receivers {
        assert_eq!(receive(&receiver.into()).0, b"first");
    }
}

fn what_is_not_declared_is_refused_at_once(world: &mut World) {
    let listeners: Vec<_> =
        [("api", 53), ("api", 54), ("api", 81), ("web", 80), ("web", 5432), ("db", 80), ("db", 5432)]
            .map(|(service, port)| world.listen(service, port))
            .into();
    for (from, to, port) in [
        ("web", "api", 53), // another protocol
        ("web", "api", 54), // another service's port, and protocol
        ("web", "api", 81), // another port
        ("web", "db", 80),  // another service
        ("web", "db", 5432),
        ("api", "web", 80), // the other direction
        ("db", "api", 5432),
        ("db", "web", 5432),
        ("other", "web", 80),
    ] {
        let start = Instant::now();
        let error = world.connect(from, to, port).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{from} -> {to}:{port}: {error}");
        assert!(start.elapsed() < AT_ONCE, "{from} -> {to}:{port} took {:?}", start.elapsed());
    }
    for address in
        [Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::new(10, 77, 200, 200), Ipv4Addr::new(169, 254, 169, 254)]
    {
        let start = Instant::now();
        let error = world.connect_to("web", SocketAddrV4::new(address, 80)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{address}: {error}");
        assert!(start.elapsed() < AT_ONCE);
    }
    for listener in &listeners {
        assert!(!readable(listener, LOOK), "somebody reached {:?}", listener.local_addr());
    }

    for (to, port) in [("api", 80), ("api", 54), ("db", 53)] {
        let start = Instant::now();
        let error = refused_datagram(world, "web", SocketAddrV4::new(world.address(to), port));
        assert!(is_refusal(&error), "{to}:{port}: {error}");
        assert!(start.elapsed() < AT_ONCE);
    }
    for address in [Ipv4Addr::BROADCAST, Ipv4Addr::new(10, 77, 255, 255), Ipv4Addr::new(224, 0, 0, 251)] {
        let error = refused_datagram(world, "web", SocketAddrV4::new(address, 53));
        assert!(is_refusal(&error), "{address}: {error}");
    }

    // Pings: by a socket of the kind that needs no privilege, which the namespace has closed, and by a raw one.
    let error = world.socket("web", AddressFamily::INET, SocketType::DGRAM, Some(ipproto::ICMP)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    let raw = world.socket("web", AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).unwrap();
    let to = SocketAddrV4::new(world.address("api"), 0);
    let start = Instant::now();
    let error =
        rustix::net::sendto(&raw, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0], rustix::net::SendFlags::empty(), &to);
    assert!(is_refusal(&error.unwrap_err().into()));
    assert!(start.elapsed() < AT_ONCE);
}

/// A service that got rid of its own rules still reaches nothing but its links.
fn the_router_refuses_by_itself(world: &mut World) {
    for service in ["web", "api"] {
        world.drop_rules(service);
    }
    let forbidden: Vec<_> =
        [("db", 53), ("api", 54)].map(|(service, port)| (service, world.bind(service, port))).into();
    let listener = world.listen("db", 80);
    let sender = world.udp("web");
    for (service, receiver) in &forbidden {
        sender.send_to(b"hidden", (world.address(service), receiver.local_addr().unwrap().port())).unwrap();
    }
    let pending = world.start_connect("web", SocketAddrV4::new(world.address("db"), 80));
    // In the other direction, from a port that answers.
    let honest = world.bind("api", 53);
    let reverse = world.bind("web", 2000);
    honest.send_to(b"hidden", (world.address("web"), 2000)).unwrap();

    sender.send_to(b"honest", (world.address("api"), 53)).unwrap();
    assert_eq!(receive(&honest).0, b"honest");
    for (service, receiver) in &forbidden {
        assert!(!readable(receiver, LOOK), "a datagram reached {service}");
    }
    assert!(!readable(&reverse, LOOK), "a datagram reached web");
    assert!(!readable(&listener, LOOK), "a connection reached db");
    assert!(!writable(&pending, LOOK), "a connection is open, or was refused: the router only drops");
}

fn the_gateway_cannot_be_reached(world: &mut World) {
    let gateway = world.network.gateway();
    let listener = world.listen_at(NsRef::Router, 80);
    let receiver = world.udp_at(NsRef::Router, 53);
    for port in [22, 53, 80] {
        let start = Instant::now();
        let error = world.connect_to("web", SocketAddrV4::new(gateway, port)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}");
        assert!(start.elapsed() < AT_ONCE);
    }
    assert!(is_refusal(&refused_datagram(world, "web", SocketAddrV4::new(gateway, 53))));

    // Nor without the service's own rules; then the router is silent.
    world.drop_rules("web");
    let pending = world.start_connect("web", SocketAddrV4::new(gateway, 80));
    let sender = world.udp("web");
    sender.send_to(b"hidden", (gateway, 53)).unwrap();
    let ping = world.socket("web", AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).unwrap();
    let echo_request = [8, 0, 0xf7, 0xff, 0, 0, 0, 0];
    let flags = rustix::net::SendFlags::empty();
    rustix::net::sendto(&ping, &echo_request, flags, &SocketAddrV4::new(gateway, 0)).unwrap();
    let honest = world.bind("api", 53);
    sender.send_to(b"honest", (world.address("api"), 53)).unwrap();
    assert_eq!(receive(&honest).0, b"honest");
    assert!(!readable(&listener, LOOK) && !readable(&receiver, LOOK));
    assert!(!readable(&ping, LOOK), "the gateway answered a ping");
    assert!(!writable(&pending, LOOK));
}

fn ws_reaches_services_and_nothing_else(world: &mut World) {
    let listener = world.listen("db", 8080);
    let socket = world.router_socket(SocketType::STREAM, None);
    connect_within(socket, SocketAddrV4::new(world.address("db"), 8080)).unwrap();
    let (_, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip(), world.network.gateway());

    let receiver = world.bind("db", 53);
    let sender = UdpSocket::from(world.router_socket(SocketType::DGRAM, None));
    sender.connect((world.address("db"), 53)).unwrap();
    sender.send(b"question").unwrap();
    let (_, from) = receive(&receiver);
    receiver.send_to(b"answer", from).unwrap();
    assert_eq!(receive(&sender).0, b"answer");

    let error = sender.send_to(b"out", (Ipv4Addr::new(8, 8, 8, 8), 53)).unwrap_err();
    assert!(is_refusal(&error), "{error}");
    let raw = world.router_socket(SocketType::RAW, Some(ipproto::ICMP));
    let (to, flags) = (SocketAddrV4::new(world.address("db"), 0), rustix::net::SendFlags::empty());
    let error = rustix::net::sendto(&raw, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0], flags, &to).unwrap_err();
    assert!(is_refusal(&error.into()), "{error}");
}

fn forged_frames_never_arrive(world: &mut World) {
    let (web, api, other) = (world.address("web"), world.address("api"), world.address("other"));
    let (web_mac, api_mac, other_mac) = (world.mac("web"), world.mac("api"), world.mac("other"));
    let gateway_mac = world.gateway_mac();
    let link_local = [0x01, 0x80, 0xc2, 0, 0, 0x0e];
    let everybody = [0xff; 6];
    let raw = world.packet_socket("web");
    let tap = world.packet_socket("api");
    let [links_of_web, links_of_other, anything] = [53, 54, 55].map(|port| world.bind("api", port));

    // The frame that differs in nothing arrives.
    let honest = frame(gateway_mac, web_mac, &udp(web, api, 53, b"honest"));
    raw.send(&honest);
    assert_eq!(receive(&links_of_web).0, b"honest");
    while tap.receive(LOOK).is_some() {}

    let as_other = udp(other, api, 54, b"forged");
    let forged: &[(&str, Vec<u8>)] = &[
        ("another's address", frame(gateway_mac, web_mac, &as_other)),
        ("another's address and hardware address", frame(gateway_mac, other_mac, &as_other)),
        ("another's hardware address", frame(gateway_mac, other_mac, &udp(web, api, 53, b"forged"))),
        (
            "the gateway's address",
            frame(gateway_mac, web_mac, &udp(world.network.gateway(), api, 55, b"forged")),
        ),
        ("the gateway's hardware address", frame(gateway_mac, gateway_mac, &udp(web, api, 53, b"forged"))),
        ("loopback", frame(gateway_mac, web_mac, &udp(Ipv4Addr::LOCALHOST, api, 53, b"forged"))),
        ("the receiver's own address", frame(gateway_mac, web_mac, &udp(api, api, 53, b"forged"))),
        ("past the router", frame(api_mac, web_mac, &udp(web, api, 53, b"forged"))),
        ("past the router, to everybody", frame(everybody, web_mac, &udp(web, api, 53, b"forged"))),
        ("past the router, as another", frame(api_mac, web_mac, &as_other)),
        ("link-local multicast", frame(link_local, web_mac, &as_other)),
        ("link-local multicast, honest", frame(link_local, web_mac, &udp(web, api, 53, b"forged"))),
        ("multicast", frame([1, 0, 0x5e, 0, 0, 1], web_mac, &udp(web, api, 53, b"forged"))),
        ("an undeclared port", frame(gateway_mac, web_mac, &udp(web, api, 55, b"forged"))),
        ("as an answer", frame(gateway_mac, web_mac, &udp_from(web, 54, other, 2000, b"forged"))),
        ("in a virtual network", tagged(&frame(gateway_mac, web_mac, &as_other))),
        ("as IPv6", with_type(&honest, 0x86dd)),
        ("as something else", with_type(&honest, 0x88cc)),
        ("an address announcement", arp(everybody, web_mac, world.network.gateway(), api)),
        ("an address announcement to one", arp(api_mac, web_mac, world.network.gateway(), api)),
        ("too short", frame(gateway_mac, web_mac, &[0x45, 0, 0, 1])),
    ];
    for (what, bytes) in forged {
        raw.send(bytes);
        raw.send(&honest);
        assert_eq!(receive(&links_of_web).0, b"honest", "after: {what}");
        for receiver in [&links_of_web, &links_of_other, &anything] {
            assert!(!readable(receiver, LOOK), "arrived: {what}");
        }
        while let Some(seen) = tap.receive(Timespec::default()) {
            let expected = seen.ends_with(b"honest") && seen[..6] == api_mac && seen[6..12] == gateway_mac;
            assert!(expected || seen[6..12] == api_mac, "seen on the wire: {what}: {seen:02x?}");
        }
    }
}

fn a_hand_made_route_does_not_get_round_it(world: &mut World) {
    let db = world.address("db");
    let listener = world.listen("db", 80);
    let receiver = world.bind("db", 53);
    let index = world.interface_index("web");
    let mut batch = Batch::new();
    route::add_host_route(&mut batch, index, db);
    route::add_neighbour(&mut batch, index, db, world.mac("db"));
    let name = service("web");
    Socket::new(world.factory.netlink_route(NsRef::Service(&name)).unwrap())
        .unwrap()
        .run(&mut batch)
        .unwrap();

    let error = world.connect("web", "db", 80).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}");
    world.drop_rules("web");
    let pending = world.start_connect("web", SocketAddrV4::new(db, 80));
    let sender = world.udp("web");
    sender.send_to(b"hidden", (db, 53)).unwrap();
    let honest = world.bind("api", 53);
    sender.send_to(b"honest", (world.address("api"), 53)).unwrap();
    assert_eq!(receive(&honest).0, b"honest");
    assert!(!readable(&listener, LOOK) && !readable(&receiver, LOOK));
    assert!(!writable(&pending, LOOK));
}

fn ipv6_does_not_work(world: &mut World) {
    let index = world.interface_index("web");
    let open = |world: &World| world.socket("web", AddressFamily::INET6, SocketType::DGRAM, None);
    let link_local = |address: &str| SocketAddrV6::new(address.parse().unwrap(), 53, 0, index);
    match open(world) {
        // A kernel without it.
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EAFNOSUPPORT), "{error}"),
        Ok(socket) => {
            for address in ["fe80::1", "ff02::1"] {
                UdpSocket::from(socket.try_clone().unwrap())
                    .send_to(b"hidden", link_local(address))
                    .unwrap_err();
            }
            // Even if somebody turns it on.
            for name in ["web", "api"] {
                for part in ["all", "default", "eth0"] {
                    world.factory.sysctl(name, &format!("net/ipv6/conf/{part}/disable_ipv6"), "0").unwrap();
                    // Addresses are usable at once.
                    world.factory.sysctl(name, &format!("net/ipv6/conf/{part}/accept_dad"), "0").unwrap();
                }
            }
            let tap = world.packet_socket("api");
            let receiver = world.socket("api", AddressFamily::INET6, SocketType::DGRAM, None).unwrap();
            rustix::net::sockopt::set_ipv6_v6only(&receiver, true).unwrap();
            rustix::net::bind(&receiver, &SocketAddrV6::new("::".parse().unwrap(), 53, 0, 0)).unwrap();
            world.drop_rules("web");
            let sender = UdpSocket::from(socket);
            for address in ["fe80::1", "ff02::1"] {
                // It may now leave the service, or fail for the want of an address: both are fine.
                let _ = sender.send_to(b"hidden", link_local(address));
            }
            let honest = world.bind("api", 53);
            let v4 = world.udp("web");
            v4.send_to(b"honest", (world.address("api"), 53)).unwrap();
            assert_eq!(receive(&honest).0, b"honest");
            assert!(!readable(&receiver, LOOK));
            while let Some(seen) = tap.receive(Timespec::default()) {
                let from_here = seen[6..12] == world.mac("api");
                assert!(from_here || seen[12..14] == [8, 0], "IPv6 on the wire: {seen:02x?}");
            }
        }
    }
}

fn a_removed_link_ends_what_runs_over_it(world: &mut World) {
    let listener = world.listen("api", 80);
    let open = |world: &World, from| {
        let mut client = world.connect(from, "api", 80).unwrap();
        let mut server = listener.accept().unwrap().0;
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        echo(&mut client, &mut server);
        (client, server)
    };
    let (mut client, mut server) = open(world, "web");
    let (_quiet_client, mut talking_server) = open(world, "web");
    let (mut kept_client, mut kept_server) = open(world, "other");
    let asked = world.bind("api", 53);
    let asker = world.udp("web");
    asker.connect((world.address("api"), 53)).unwrap();
    asker.send(b"question").unwrap();
    let (_, from) = receive(&asked);

    // `web` loses what it had and gets something else; the others keep theirs.
    let changed = plan(&[
        ("web", 0, &[("db", 80, Protocol::Tcp)]),
        ("api", 1, &[("db", 5432, Protocol::Tcp)]),
        ("db", 2, &[]),
        ("other", 3, &[("api", 54, Protocol::Udp), ("api", 80, Protocol::Tcp)]),
    ]);
    world.network.replace_links(&world.factory, &changed).unwrap();

    // The near end is told with its next segment, the far end with its own.
    let start = Instant::now();
    let error = client.write_all(b"more").and_then(|()| client.read(&mut [0; 8]).map(drop)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    for server in [&mut server, &mut talking_server] {
        let start = Instant::now();
        let error = server.write_all(b"more").and_then(|()| server.read(&mut [0; 8]).map(drop)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
        assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    }
    // What was answered before can no longer be answered, nor asked.
    asked.send_to(b"answer", from).unwrap();
    assert!(is_refusal(&refused_datagram(world, "web", SocketAddrV4::new(world.address("api"), 53))));
    assert_eq!(world.connect("web", "api", 80).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    echo(&mut kept_client, &mut kept_server);
    assert!(!readable(&asker, LOOK), "an answer arrived over a removed link");

    // The new one works; the old one does again when it comes back.
    let _listener = world.listen("db", 80);
    world.connect("web", "db", 80).unwrap();
    world.network.replace_links(&world.factory, &standard()).unwrap();
    open(world, "web");
    assert_eq!(world.connect("web", "db", 80).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    // Nothing to do is done.
    world.network.replace_links(&world.factory, &standard()).unwrap();
    open(world, "web");
}

fn denied_attempts_are_logged_and_late_packets_are_not(world: &mut World) {
    let listener = world.listen("api", 80);
    let mut client = world.connect("web", "api", 80).unwrap();
    let mut server = listener.accept().unwrap().0;
    echo(&mut client, &mut server);
    let name = service("web");
    let mut denied =
        Events::new(world.factory.netlink_netfilter(NsRef::Service(&name)).unwrap(), DENIED_GROUP);
    let mut spoofed = Events::new(world.factory.netlink_netfilter(NsRef::Router).unwrap(), SPOOFED_GROUP);

    // Over a link that is gone: refused, but nobody's attempt.
    let without = plan(&[("web", 0, &[]), ("api", 1, &[]), ("db", 2, &[]), ("other", 3, &[])]);
    world.network.replace_links(&world.factory, &without).unwrap();
    client.write_all(b"late").and_then(|()| client.read(&mut [0; 8]).map(drop)).unwrap_err();
    drop((client, server));
    assert_eq!(denied.next(LOOK), None);

    world.connect("web", "db", 5432).unwrap_err();
    let event = denied.next(PATIENCE.try_into().unwrap()).unwrap();
    assert_eq!(event.prefix, "ws-denied");
    assert_eq!(event.payload[12..20], [world.address("web").octets(), world.address("db").octets()].concat());
    assert_eq!(event.payload[22..24], 5432_u16.to_be_bytes());
    refused_datagram(world, "web", SocketAddrV4::new(world.address("db"), 53));
    let event = denied.next(PATIENCE.try_into().unwrap()).unwrap();
    assert_eq!((event.payload[9], &event.payload[22..24]), (17, &53_u16.to_be_bytes()[..]));

    let forged = udp(world.address("db"), world.address("api"), 80, b"forged");
    world.packet_socket("web").send(&frame(world.gateway_mac(), world.mac("web"), &forged));
    let event = spoofed.next(PATIENCE.try_into().unwrap()).unwrap();
    assert_eq!(event.prefix, "ws-spoofed");
}

fn services_on_different_bridges_reach_each_other(_: &mut World) {
    let plan = plan(&[
        ("first", 0, &[("second", 80, Protocol::Tcp)]),
        ("second", 1000, &[("third", 80, Protocol::Tcp)]),
        ("third", 2999, &[]),
    ]);
    let world = World::new(&plan);
    let listeners = ["first", "second", "third"].map(|name| world.listen(name, 80));
    for (from, to, listener) in [("first", "second", &listeners[1]), ("second", "third", &listeners[2])] {
        let mut client = world.connect(from, to, 80).unwrap();
        let mut server = listener.accept().unwrap().0;
        echo(&mut client, &mut server);
    }
    for (from, to) in [("first", "third"), ("second", "first"), ("third", "second")] {
        assert_eq!(world.connect(from, to, 80).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
    for name in ["first", "second", "third"] {
        let socket = world.router_socket(SocketType::STREAM, None);
        connect_within(socket, SocketAddrV4::new(world.address(name), 80)).unwrap();
    }
}

/// What the router's namespace has: rules with their elements, interfaces, neighbours and routes.
fn router_state(world: &World) -> String {
    let mut state = match world.factory.nft(ROUTER) {
        Ok(listed) => elements_in_order(&listed),
        Err(error) => {
            lack("nft", &format!("`nft` cannot be run: {error}"));
            String::new()
        }
    };
    let mut socket = Socket::new(world.factory.netlink_route(NsRef::Router).unwrap()).unwrap();
    for (kind, family, header) in [
        (libc::RTM_GETLINK, libc::AF_UNSPEC, 16),
        (libc::RTM_GETNEIGH, libc::AF_INET, 12),
        (libc::RTM_GETNEIGH, libc::AF_BRIDGE, 12),
        (libc::RTM_GETROUTE, libc::AF_INET, 12),
        (libc::RTM_GETADDR, libc::AF_INET, 8),
    ] {
        let mut request = Batch::new();
        request.push(kind, 0, |b| {
            let mut bytes = vec![0; header];
            bytes[0] = family as u8;
            b.raw(&bytes);
        });
        let mut found = Vec::new();
        let dumped = socket.dump(&mut request, |message| {
            // Of an interface its index and state, of the rest all but the counters of its use.
            let mut text = format!("{kind} {:02x?}", &message.payload[..header.min(8)]);
            let mut resolved = false;
            for attr in message.attrs_after(header)?.filter_map(Result::ok) {
                resolved |= attr.kind == libc::NDA_LLADDR;
                if kind != libc::RTM_GETLINK && [1, 2, 4, 5].contains(&attr.kind) {
                    text += &format!(" {}={:02x?}", attr.kind, attr.bytes);
                }
            }
            // A last answer to one that has just left may make the kernel look for it in vain.
            if kind != libc::RTM_GETNEIGH || resolved {
                found.push(text);
            }
            Ok(())
        });
        dumped.unwrap();
        found.sort_unstable();
        state += &found.join("\n");
    }
    state
}

/// `standard`, with a service that joins: it may reach `api`, and `other` may reach it once that is granted.
fn with_late(index: u32) -> Plan {
    plan(&[
        ("web", 0, &[("api", 80, Protocol::Tcp), ("api", 53, Protocol::Udp)]),
        ("api", 1, &[("db", 5432, Protocol::Tcp)]),
        ("db", 2, &[]),
        ("other", 3, &[("api", 54, Protocol::Udp), ("api", 80, Protocol::Tcp), ("late", 90, Protocol::Tcp)]),
        ("late", index, &[("api", 80, Protocol::Tcp)]),
    ])
}

fn services_join_and_leave_and_nobody_else_notices(world: &mut World) {
    let listener = world.listen("api", 80);
    let mut client = world.connect("web", "api", 80).unwrap();
    let mut server = listener.accept().unwrap().0;
    let late = service("late");
    // Also on a bridge of its own.
    for index in [4, 1000, 1000, 4] {
        let changed = with_late(index);
        let planned = &changed.services[&late];
        world.plan = changed.clone();
        let namespace = world.factory.add(&late).unwrap();
        let before = router_state(world);
        world.network.add(&world.factory, planned, namespace.as_fd()).unwrap();
        assert_eq!(world.network.address(&late), Some(planned.address));

        // Its own links work from the first packet on, and nothing else does.
        let mut out = world.connect("late", "api", 80).unwrap();
        echo(&mut out, &mut listener.accept().unwrap().0);
        let inside = world.listen("late", 90);
        for (from, to, port) in [("late", "db", 5432), ("late", "api", 81), ("other", "late", 90)] {
            let error = world.connect(from, to, port).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{from} to {to}:{port}: {error}");
        }
        // It is who it is.
        let raw = world.packet_socket("late");
        let api = world.bind("api", 54);
        raw.send(&frame(
            world.gateway_mac(),
            world.mac("late"),
            &udp(world.address("other"), world.address("api"), 54, b"forged"),
        ));
        assert!(!readable(&api, LOOK), "a forged datagram arrived");
        drop(api);
        // Links of others to it are granted with everybody's.
        world.network.replace_links(&world.factory, &changed).unwrap();
        let mut other = world.connect("other", "late", 90).unwrap();
        echo(&mut other, &mut inside.accept().unwrap().0);
        // Twice is an error and changes nothing.
        let again = world.network.add(&world.factory, planned, namespace.as_fd()).unwrap_err();
        assert!(matches!(&again, NetError::Taken(name) if *name == late), "{again:?}");

        world.network.remove(&world.factory, &late).unwrap();
        assert_eq!(world.network.address(&late), None);
        assert_eq!(world.connect("other", "late", 90).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let gone = world.network.remove(&world.factory, &late).unwrap_err();
        assert!(matches!(&gone, NetError::Unknown(name) if *name == late), "{gone:?}");
        drop((inside, out, other, raw, namespace));
        world.factory.remove(&late).unwrap();
        let after = router_state(world);
        assert!(after == before, "before:\n{before}\nafter:\n{after}");
        echo(&mut client, &mut server);
        // Nobody has a link to it any more: else it would be there again when it comes back.
        world.network.replace_links(&world.factory, &standard()).unwrap();
    }
}

/// How many links the router lets through.
fn links_in_router(world: &World) -> usize {
    let mut socket = Socket::new(world.factory.netlink_netfilter(NsRef::Router).unwrap()).unwrap();
    let fields = &[Field::Ipv4, Field::Ipv4, Field::Protocol, Field::Port];
    let set = Set { table: Table { family: Family::Inet, name: "ws" }, name: "links", fields };
    nft::elements(&mut socket, set).unwrap().len()
}

fn links_of_one_service_change_alone_and_come_back(world: &mut World) {
    let late = service("late");
    let changed = with_late(4);
    world.plan = changed.clone();
    let namespace = world.factory.add(&late).unwrap();
    world.network.add(&world.factory, &changed.services[&late], namespace.as_fd()).unwrap();
    let inside = world.listen("late", 90);
    let listener = world.listen("api", 80);
    let mut client = world.connect("web", "api", 80).unwrap();
    let mut server = listener.accept().unwrap().0;
    assert!(world.connect("other", "late", 90).is_err());

    // Of one service, and of no other.
    let mut other = changed.services[&service("other")].clone();
    let before = links_in_router(world);
    world.network.update(&world.factory, &other).unwrap();
    assert_eq!(links_in_router(world), before + 1);
    let granted = router_state(world);
    world.network.update(&world.factory, &other).unwrap();
    assert!(router_state(world) == granted, "again is nothing");
    let mut open = world.connect("other", "late", 90).unwrap();
    echo(&mut open, &mut inside.accept().unwrap().0);
    echo(&mut client, &mut server);

    // It goes and comes back: what others declare is there again.
    drop((inside, open));
    world.network.remove(&world.factory, &late).unwrap();
    assert!(world.connect("other", "late", 90).is_err());
    drop(namespace);
    world.factory.remove(&late).unwrap();
    let namespace = world.factory.add(&late).unwrap();
    world.network.add(&world.factory, &changed.services[&late], namespace.as_fd()).unwrap();
    assert_eq!(links_in_router(world), before + 1);
    let inside = world.listen("late", 90);
    let mut open = world.connect("other", "late", 90).unwrap();
    let mut end = inside.accept().unwrap().0;
    echo(&mut open, &mut end);

    // A link that goes ends what is open over it; the others stay.
    other.links.retain(|link| link.port.port != 90);
    world.network.update(&world.factory, &other).unwrap();
    let cut = (0..100).find_map(|_| {
        open.write_all(b"x").err().or_else(|| {
            std::thread::sleep(Duration::from_millis(10));
            None
        })
    });
    assert!(cut.is_some(), "it is still open");
    assert!(world.connect("other", "late", 90).is_err());
    world.connect("other", "api", 80).unwrap();
    echo(&mut client, &mut server);

    // Under another name nobody comes back.
    world.network.update(&world.factory, &changed.services[&service("other")]).unwrap();
    drop((inside, end));
    world.network.remove(&world.factory, &late).unwrap();
    drop(namespace);
    world.factory.remove(&late).unwrap();
    let stranger = service("stranger");
    let namespace = world.factory.add(&stranger).unwrap();
    let same = ServicePlan { name: stranger.clone(), ..changed.services[&late].clone() };
    world.network.add(&world.factory, &same, namespace.as_fd()).unwrap();
    assert!(world.connect("other", "late", 90).is_err(), "at the address of one who had a link");
    let unknown = world.network.update(&world.factory, &changed.services[&late]).unwrap_err();
    assert!(matches!(&unknown, NetError::Unknown(name) if *name == late), "{unknown:?}");
}

fn a_service_that_cannot_join_leaves_nothing(world: &mut World) {
    let late = service("late");
    let changed = with_late(4);
    let before = router_state(world);
    let namespace = world.factory.add(&late).unwrap();
    let mut batch = Batch::new();
    batch.push(libc::RTM_NEWLINK, (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16, |b| {
        b.raw(&[0; 16]).text(libc::IFLA_IFNAME, "eth0").nest(libc::IFLA_LINKINFO, |b| {
            b.text(libc::IFLA_INFO_KIND, "bridge");
        });
    });
    let of = NsRef::Service(&late);
    Socket::new(world.factory.netlink_route(of).unwrap()).unwrap().run(&mut batch).unwrap();
    let error = world.network.add(&world.factory, &changed.services[&late], namespace.as_fd()).unwrap_err();
    assert!(matches!(&error, NetError::Link { service, .. } if *service == late), "{error:?}");
    assert_eq!(world.network.address(&late), None);
    let after = router_state(world);
    assert!(after == before, "before:\n{before}\nafter:\n{after}");

    // With the number, address or name of another.
    let mut twin = changed.services[&late].clone();
    twin.index = 0;
    let error = world.network.add(&world.factory, &twin, namespace.as_fd()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the network of the workspace has a service with the name, the number or the address of `late`"
    );
    assert!(router_state(world) == before);

    // A new namespace, and it can.
    drop(namespace);
    world.factory.remove(&late).unwrap();
    let namespace = world.factory.add(&late).unwrap();
    world.network.add(&world.factory, &changed.services[&late], namespace.as_fd()).unwrap();
    world.plan = changed;
    let _listener = world.listen("api", 80);
    world.connect("late", "api", 80).unwrap();
}

fn what_is_elsewhere_is_reached_along_links_only(_: &mut World) {
    let mut declared = plan(&[("web", 0, &[]), ("db", 1, &[]), ("api", 2, &[])]);
    let elsewhere = |name: &str, number: u32| ExternalPlan {
        name: service(name),
        address: Subnet::DEFAULT.host(number),
        port: 9000,
        host: ExternalHost::Loopback,
    };
    declared.external = vec![elsewhere("orders", 500), elsewhere("mail", 501)];
    let [orders, mail] = [0, 1].map(|n| declared.external[n].address);
    let link = LinkRule {
        to: service("orders"),
        address: orders,
        port: PortProto { port: 9000, protocol: Protocol::Tcp },
        at: ConfigPath::default(),
    };
    declared.services.get_mut(&service("web")).unwrap().links.push(link);
    let mut world = World::new(&declared);
    let at = |address, port| {
        let socket =
            world.factory.socket(NsRef::Router, AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrV4::new(address, port)).unwrap();
        rustix::net::listen(&socket, 16).unwrap();
        TcpListener::from(socket)
    };
    let listener = at(orders, 9000);
    let others = [at(orders, 9001), at(mail, 9000), at(world.network.gateway(), 9000)];

    let mut client = world.connect_to("web", SocketAddrV4::new(orders, 9000)).unwrap();
    let (mut server, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip(), world.address("web"), "who asks is seen");
    echo(&mut client, &mut server);
    let refused = [
        ("db", orders, 9000),
        ("web", orders, 9001),
        ("web", mail, 9000),
        ("web", world.network.gateway(), 9000),
        ("db", world.network.gateway(), 9000),
    ];
    for (from, address, port) in refused {
        let start = Instant::now();
        let error = world.connect_to(from, SocketAddrV4::new(address, port)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{from} to {address}:{port}: {error}");
        assert!(start.elapsed() < AT_ONCE);
    }
    // Without its own rules, a service that is not linked is dropped by the router; nor does it help to say that
    // one is somebody else.
    world.drop_rules("db");
    let pending: Vec<_> = [(orders, 9000), (orders, 9001), (mail, 9000)]
        .map(|(address, port)| world.start_connect("db", SocketAddrV4::new(address, port)))
        .into();
    let mut spoofed = Events::new(world.factory.netlink_netfilter(NsRef::Router).unwrap(), SPOOFED_GROUP);
    let forged = udp(world.address("web"), orders, 9000, b"forged");
    world.packet_socket("db").send(&frame(world.gateway_mac(), world.mac("db"), &forged));
    let event = spoofed.next(PATIENCE.try_into().unwrap()).unwrap();
    assert_eq!(event.payload[12..20], [world.address("web").octets(), orders.octets()].concat());
    // Linked for TCP is not linked for UDP.
    assert!(is_refusal(&refused_datagram(&world, "web", SocketAddrV4::new(orders, 9000))));
    let error = world.connect_to("web", SocketAddrV4::new(mail, 9000)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    for listener in others.iter().chain([&listener]) {
        assert!(!readable(listener, LOOK), "somebody reached {:?}", listener.local_addr());
    }
    for socket in &pending {
        assert!(!writable(socket, LOOK), "the router answered");
    }
    echo(&mut client, &mut server);

    // A link that is removed ends what runs over it.
    let without = plan(&[("web", 0, &[]), ("db", 1, &[]), ("api", 2, &[])]);
    world.network.replace_links(&world.factory, &without).unwrap();
    let error = client.write_all(b"more").and_then(|()| client.read(&mut [0; 8]).map(drop)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
}

fn the_rules_are_as_nft_lists_them(world: &mut World) {
    for (place, golden) in
        [(ROUTER, include_str!("net/router.nft")), ("web", include_str!("net/service.nft"))]
    {
        let listed = match world.factory.nft(place) {
            Ok(listed) => elements_in_order(&listed),
            Err(error) => return lack("nft", &format!("`nft` cannot be run: {error}")),
        };
        assert!(listed.trim() == golden.trim(), "{place}: nft lists\n{listed}");
    }
}

/// The kernel gives the elements of a set in the order of a hash with a seed.
fn elements_in_order(listed: &str) -> String {
    let mut text = String::new();
    let mut rest = listed;
    while let Some((before, after)) = rest.split_once("elements = {") {
        let (inside, after) = after.split_once('}').unwrap();
        let mut elements: Vec<_> = inside.split(',').map(str::trim).collect();
        elements.sort_unstable();
        text = format!("{text}{before}elements = {{ {} }}", elements.join(", "));
        rest = after;
    }
    text + rest
}

fn errors_name_what_failed(world: &mut World) {
    let plan = standard();
    let error = set_up(&world.factory, &BTreeMap::new(), &plan).unwrap_err();
    assert_eq!(error.to_string(), "there is no network namespace for `api`");
    let error = set_up(&world.factory, &world.namespaces, &plan).unwrap_err();
    let text = chain(&error);
    let expected = "could not load the rules of the router: could not add the set `ports`: \
        the kernel refused: File exists (os error 17)";
    assert!(text.starts_with(expected), "{text}");

    let stranger = self::plan(&[("stranger", 9, &[])]);
    let error = world.network.replace_links(&world.factory, &stranger).unwrap_err();
    assert_eq!(error.to_string(), "`stranger` is not in the network of the workspace");

    // A namespace in which the interface's place is taken.
    let world = World::prepare(&plan);
    let mut batch = Batch::new();
    batch.push(libc::RTM_NEWLINK, (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16, |b| {
        b.raw(&[0; 16]).text(libc::IFLA_IFNAME, "eth0").nest(libc::IFLA_LINKINFO, |b| {
            b.text(libc::IFLA_INFO_KIND, "bridge");
        });
    });
    let db = service("db");
    Socket::new(world.0.netlink_route(NsRef::Service(&db)).unwrap()).unwrap().run(&mut batch).unwrap();
    let error = set_up(&world.0, &world.1, &plan).unwrap_err();
    assert!(matches!(&error, NetError::Link { service, .. } if *service == db), "{error:?}");
    assert!(
        chain(&error).starts_with("could not add the link of `db`: the kernel refused: "),
        "{}",
        chain(&error)
    );
}

// --- Plans ---

type Declared<'a> = (&'a str, u32, &'a [(&'a str, u16, Protocol)]);

fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

fn plan(services: &[Declared<'_>]) -> Plan {
    let subnet = Subnet::DEFAULT;
    let index_of = |name: &str| services.iter().find(|declared| declared.0 == name).unwrap().1;
    let address_of = |name: &str| subnet.host(index_of(name) * 3 + 7);
    let services = services.iter().map(|(name, index, links)| {
        let address = address_of(name);
        let [a, b, c, d] = address.octets();
        let link = |(to, port, protocol): &(&str, u16, Protocol)| LinkRule {
            to: service(to),
            address: address_of(to),
            port: PortProto { port: *port, protocol: *protocol },
            at: ConfigPath::default(),
        };
        let plan = ServicePlan {
            name: service(name),
            declared: service(name),
            replica: 1,
            kind: ServiceKind::Service,
            index: *index,
            address,
            mac: [0x02, 0x77, a, b, c, d],
            waits: Vec::new(),
            build: None,
            makes: None,
            uses: Vec::new(),
            watch: Vec::new(),
            reload: ws_model::Reload::Restart,
            listen: Vec::new(),
            hold: std::time::Duration::from_secs(10),
            run: Run { argv: vec!["true".to_owned()], env: Vec::new(), cwd: "/".into() },
            view: View {
                uid: 0,
                gid: 0,
                user: String::new(),
                home: "/".into(),
                symlinks: Vec::new(),
                files: Vec::new(),
                system: Vec::new(),
                scratch: Vec::new(),
                scratch_size: ByteSize(0),
                repo: None,
                binds: Vec::new(),
                tmpfs: Vec::new(),
                secret_files: Vec::new(),
                secret_env: Vec::new(),
            },
            links: links.iter().map(link).collect(),
            publish: Vec::new(),
            startup: None,
            ready: None,
            liveness: None,
            hooks: ws_model::Hooks::default(),
            success_exit_codes: vec![0],
            open_stdin: true,
            tty: false,
            logs: ws_model::LogRetention::default(),
            restart: Restart {
                policy: RestartPolicy::No,
                max: None,
                backoff_min: Duration::ZERO,
                backoff_max: Duration::ZERO,
            },
            stop: Stop { command: None, signal: libc::SIGTERM, grace: Duration::ZERO },
            limits: LimitsPlan { memory: None, cpus: None, pids: 1, pids_declared: false, files: None },
            policy: ws_core::plan::PolicyPlan::default(),
        };
        (plan.name.clone(), plan)
    });
    Plan {
        name: WorkspaceName::new("test").unwrap(),
        root: "/".into(),
        subnet,
        required: Level::None,
        required_because: String::new(),
        volumes: Vec::new(),
        external: Vec::new(),
        secrets: BTreeMap::new(),
        borrowed: BTreeMap::new(),
        requires: Vec::new(),
        parallel_builds: None,
        watching: ws_model::Watching::default(),
        services: services.collect(),
        waves: Vec::new(),
        channels: Vec::new(),
        warnings: Vec::new(),
    }
}

// --- The workspace under test ---

type Namespaces = BTreeMap<ServiceName, OwnedFd>;

struct World {
    factory: Factory,
    namespaces: Namespaces,
    plan: Plan,
    network: Network,
}

impl World {
    /// The namespaces, still empty.
    fn prepare(plan: &Plan) -> (Factory, Namespaces) {
        Factory::start(plan.services.keys().cloned().collect())
    }

    fn new(plan: &Plan) -> Self {
        let (factory, namespaces) = Self::prepare(plan);
        let network = set_up(&factory, &namespaces, plan).unwrap_or_else(|error| panic!("{}", chain(&error)));
        for (name, service) in &plan.services {
            assert_eq!(network.address(name), Some(service.address));
        }
        Self { factory, namespaces, plan: plan.clone(), network }
    }

    fn planned(&self, name: &str) -> &ServicePlan {
        &self.plan.services[&service(name)]
    }

    fn address(&self, name: &str) -> Ipv4Addr {
        self.planned(name).address
    }

    fn mac(&self, name: &str) -> [u8; 6] {
        self.planned(name).mac
    }

    fn socket(
        &self,
        of: &str,
        family: AddressFamily,
        kind: SocketType,
        protocol: Option<Number>,
    ) -> io::Result<OwnedFd> {
        self.factory.socket(NsRef::Service(&service(of)), family, kind, protocol)
    }

    fn router_socket(&self, kind: SocketType, protocol: Option<Number>) -> OwnedFd {
        self.factory.socket(NsRef::Router, AddressFamily::INET, kind, protocol).unwrap()
    }

    fn listen(&self, of: &str, port: u16) -> TcpListener {
        self.listen_at(NsRef::Service(&service(of)), port)
    }

    fn listen_at(&self, of: NsRef<'_>, port: u16) -> TcpListener {
        let socket = self.factory.socket(of, AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)).unwrap();
        rustix::net::listen(&socket, 16).unwrap();
        socket.into()
    }

    fn udp_at(&self, of: NsRef<'_>, port: u16) -> UdpSocket {
        let socket = self.factory.socket(of, AddressFamily::INET, SocketType::DGRAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)).unwrap();
        rustix::net::sockopt::set_socket_broadcast(&socket, true).unwrap();
        socket.into()
    }

    fn bind(&self, of: &str, port: u16) -> UdpSocket {
        self.udp_at(NsRef::Service(&service(of)), port)
    }

    fn udp(&self, of: &str) -> UdpSocket {
        self.bind(of, 0)
    }

    fn connect(&self, from: &str, to: &str, port: u16) -> io::Result<TcpStream> {
        self.connect_to(from, SocketAddrV4::new(self.address(to), port))
    }

    fn connect_to(&self, from: &str, to: SocketAddrV4) -> io::Result<TcpStream> {
        connect_within(self.socket(from, AddressFamily::INET, SocketType::STREAM, None)?, to)
    }

    /// A connection that is being opened.
    fn start_connect(&self, from: &str, to: SocketAddrV4) -> OwnedFd {
        let socket = self.socket(from, AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::io::ioctl_fionbio(&socket, true).unwrap();
        assert_eq!(rustix::net::connect(&socket, &to), Err(rustix::io::Errno::INPROGRESS));
        socket
    }

    /// As a service would that got all rights in its own namespace.
    fn drop_rules(&self, of: &str) {
        let name = service(of);
        let mut socket = Socket::new(self.factory.netlink_netfilter(NsRef::Service(&name)).unwrap()).unwrap();
        let mut transaction = Transaction::new();
        transaction.delete_table(Table { family: Family::Inet, name: "ws" });
        transaction.commit(&mut socket).unwrap();
    }

    fn interface_index(&self, of: &str) -> u32 {
        let socket = self.socket(of, AddressFamily::INET, SocketType::DGRAM, None).unwrap();
        rustix::net::netdevice::name_to_index(&socket, "eth0").unwrap()
    }

    fn gateway_mac(&self) -> [u8; 6] {
        // What a service could learn by listening: the sender of what reaches it.
        let tap = self.packet_socket("db");
        let sender = UdpSocket::from(self.router_socket(SocketType::DGRAM, None));
        sender.send_to(b"hello", (self.address("db"), 9)).unwrap();
        loop {
            let seen = tap.receive(PATIENCE.try_into().unwrap()).expect("the datagram");
            if seen.ends_with(b"hello") && seen[..6] == self.mac("db") {
                return seen[6..12].try_into().unwrap();
            }
        }
    }

    /// A socket for whole frames on the interface of a service.
    fn packet_socket(&self, of: &str) -> PacketSocket {
        let everything = Number::from_raw(std::num::NonZeroU32::new(u32::from(3_u16.to_be())).unwrap());
        let socket = self.socket(of, AddressFamily::PACKET, SocketType::RAW, Some(everything)).unwrap();
        // The address of the interface, from something that came in by it.
        let sender = UdpSocket::from(self.router_socket(SocketType::DGRAM, None));
        sender.send_to(b"hello", (self.address(of), 9)).unwrap();
        assert!(readable(&socket, PATIENCE.try_into().unwrap()));
        let from =
            nix::sys::socket::recvfrom::<nix::sys::socket::LinkAddr>(socket.as_raw_fd(), &mut [0; 128]);
        let socket = PacketSocket { socket, interface: from.unwrap().1.unwrap() };
        while socket.receive(Timespec::default()).is_some() {}
        socket
    }
}

struct PacketSocket {
    socket: OwnedFd,
    interface: nix::sys::socket::LinkAddr,
}

impl PacketSocket {
    fn send(&self, frame: &[u8]) {
        let flags = nix::sys::socket::MsgFlags::empty();
        let sent = nix::sys::socket::sendto(self.socket.as_raw_fd(), frame, &self.interface, flags).unwrap();
        assert_eq!(sent, frame.len());
    }

    fn receive(&self, wait: Timespec) -> Option<Vec<u8>> {
        let mut buffer = [0; 2048];
        let got = || rustix::net::recv(&self.socket, &mut buffer, rustix::net::RecvFlags::empty()).unwrap().1;
        let len = readable(&self.socket, wait).then(got)?;
        Some(buffer[..len].to_vec())
    }
}

/// A process that is root in a user namespace of its own and makes sockets in the network namespaces that it
/// made there. Ends with its channel.
struct Factory {
    channel: Channel,
    child: std::process::Child,
}

/// What the factory calls the router's namespace; no service can have this name.
const ROUTER: &str = "/router";

impl Factory {
    fn start(services: Vec<ServiceName>) -> (Self, Namespaces) {
        Self::try_start(services).unwrap_or_else(|(need, error)| panic!("{need}: {error}"))
    }

    /// The error says which need is not met.
    fn try_start(services: Vec<ServiceName>) -> Result<(Self, Namespaces), (&'static str, io::Error)> {
        let (ours, theirs) = Channel::pair().unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .arg("--factory")
            .stdin(Stdio::from(theirs.into_fd()))
            .spawn()
            .unwrap();
        let factory = Self { channel: ours, child };
        factory.ask(&["root"]).map_err(|error| ("userns", error))?;
        let make = |name: &str| factory.ask(&["namespace", name]).map_err(|error| ("netns", error));
        make(ROUTER)?;
        let mut namespaces = BTreeMap::new();
        for name in services {
            let fd = make(name.as_str())?.expect("a namespace");
            namespaces.insert(name, fd);
        }
        Ok((factory, namespaces))
    }

    /// A namespace for a further service.
    fn add(&self, name: &ServiceName) -> io::Result<OwnedFd> {
        Ok(self.ask(&["namespace", name.as_str()])?.expect("a namespace"))
    }

    /// Lets go of a service's namespace.
    fn remove(&self, name: &ServiceName) -> io::Result<()> {
        self.ask(&["forget", name.as_str()]).map(drop)
    }

    fn ask(&self, words: &[&str]) -> io::Result<Option<OwnedFd>> {
        self.channel.send(words.join("\n").as_bytes(), &[])?;
        let mut answer = self.channel.recv()?;
        match answer.bytes.split_first() {
            Some((b'+', _)) => Ok(answer.fds.pop()),
            Some((b'-', text)) => {
                let text = String::from_utf8_lossy(text).into_owned();
                Err(match text.parse() {
                    Ok(errno) => io::Error::from_raw_os_error(errno),
                    Err(_) => io::Error::other(text),
                })
            }
            _ => Err(io::Error::other("the factory ended")),
        }
    }

    fn socket(
        &self,
        of: NsRef<'_>,
        family: AddressFamily,
        kind: SocketType,
        protocol: Option<Number>,
    ) -> io::Result<OwnedFd> {
        let place = match of {
            NsRef::Router => ROUTER,
            NsRef::Service(name) => name.as_str(),
        };
        let protocol = protocol.map_or(0, |protocol| protocol.as_raw().get());
        let numbers = [u32::from(family.as_raw()), kind.as_raw(), protocol].map(|number| number.to_string());
        let fd = self.ask(&["socket", place, &numbers[0], &numbers[1], &numbers[2]])?;
        Ok(fd.expect("a socket"))
    }

    fn sysctl(&self, of: &str, path: &str, value: &str) -> io::Result<()> {
        self.ask(&["sysctl", of, path, value]).map(drop)
    }

    /// What `nft` lists in a namespace.
    fn nft(&self, of: &str) -> io::Result<String> {
        let mut listed = std::fs::File::from(self.ask(&["nft", of])?.expect("a file"));
        io::Seek::rewind(&mut listed)?;
        io::read_to_string(listed)
    }
}

impl Drop for Factory {
    fn drop(&mut self) {
        // It ends by itself when the channel closes, which is only after this.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl SocketSource for Factory {
    fn netlink_route(&self, ns: NsRef<'_>) -> io::Result<OwnedFd> {
        self.socket(ns, AddressFamily::NETLINK, SocketType::RAW, None)
    }

    fn netlink_netfilter(&self, ns: NsRef<'_>) -> io::Result<OwnedFd> {
        self.socket(ns, AddressFamily::NETLINK, SocketType::RAW, Some(netlink::NETFILTER))
    }
}

/// The factory's process: single-threaded, or it could not have a user namespace.
fn factory() {
    let channel = Channel::from_fd(io::stdin().as_fd().try_clone_to_owned().unwrap());
    let mut namespaces = BTreeMap::new();
    loop {
        let request = channel.recv().unwrap();
        if request.bytes.is_empty() {
            return;
        }
        let request = String::from_utf8(request.bytes).unwrap();
        let words: Vec<&str> = request.split('\n').collect();
        let mut answer = || match words[..] {
            ["root"] => become_root().map(|()| None),
            ["namespace", name] => {
                unshare(CloneFlags::CLONE_NEWNET)?;
                let settings = if name == ROUTER { SYSCTLS_ROUTER } else { SYSCTLS_SERVICE };
                for (path, value) in settings {
                    match write_setting(path, value) {
                        Err(error)
                            if error.kind() == io::ErrorKind::NotFound && sysctl_may_be_missing(path) => {}
                        other => other.map_err(|error| io::Error::other(format!("{path}: {error}")))?,
                    }
                }
                let namespace = std::fs::File::open("/proc/self/ns/net")?;
                namespaces.insert(name.to_owned(), namespace.try_clone()?);
                Ok(Some(namespace.into()))
            }
            ["forget", name] => {
                setns(&namespaces[ROUTER], CloneFlags::CLONE_NEWNET)?;
                namespaces.remove(name);
                Ok(None)
            }
            ["socket", name, family, kind, protocol] => {
                setns(&namespaces[name], CloneFlags::CLONE_NEWNET)?;
                let [family, kind, protocol] =
                    [family, kind, protocol].map(|word| word.parse::<u32>().unwrap());
                let socket = socket_with(
                    AddressFamily::from_raw(family as u16),
                    SocketType::from_raw(kind),
                    SocketFlags::CLOEXEC,
                    std::num::NonZeroU32::new(protocol).map(Number::from_raw),
                )?;
                Ok(Some(socket))
            }
            ["sysctl", name, path, value] => {
                setns(&namespaces[name], CloneFlags::CLONE_NEWNET)?;
                write_setting(path, value).map(|()| None)
            }
            ["nft", name] => {
                setns(&namespaces[name], CloneFlags::CLONE_NEWNET)?;
                let file = rustix::fs::memfd_create("nft", rustix::fs::MemfdFlags::CLOEXEC)?;
                let status = Command::new("nft")
                    .args(["--stateless", "--numeric-protocol", "list", "ruleset"])
                    .stdout(file.try_clone()?)
                    .status()?;
                assert!(status.success(), "nft: {status}");
                Ok(Some(file))
            }
            _ => unreachable!("{words:?}"),
        };
        let answer: io::Result<Option<OwnedFd>> = answer();
        match answer {
            Ok(fd) => channel.send(b"+", &fd.iter().map(AsFd::as_fd).collect::<Vec<_>>()),
            Err(error) => {
                let text = error.raw_os_error().map_or_else(|| error.to_string(), |errno| errno.to_string());
                channel.send(format!("-{text}").as_bytes(), &[])
            }
        }
        .unwrap();
    }
}

fn become_root() -> io::Result<()> {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    unshare(CloneFlags::CLONE_NEWUSER)?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

fn write_setting(path: &str, value: &str) -> io::Result<()> {
    std::fs::write(format!("/proc/sys/{path}"), value)
}

// --- Packets ---

fn frame(to: [u8; 6], from: [u8; 6], packet: &[u8]) -> Vec<u8> {
    [&to[..], &from, &[0x08, 0x00], packet].concat()
}

fn with_type(frame: &[u8], kind: u16) -> Vec<u8> {
    [&frame[..12], &kind.to_be_bytes(), &frame[14..]].concat()
}

/// In the virtual network 0, which receivers take like none.
fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0x00, 0, 0], &frame[12..]].concat()
}

/// An answer that nobody asked for: `address` is at `from`.
fn arp(to: [u8; 6], from: [u8; 6], address: Ipv4Addr, receiver: Ipv4Addr) -> Vec<u8> {
    let body = [&[0, 1, 8, 0, 6, 4, 0, 2], &from[..], &address.octets(), &to, &receiver.octets()].concat();
    with_type(&frame(to, from, &body), 0x0806)
}

fn udp(from: Ipv4Addr, to: Ipv4Addr, port: u16, data: &[u8]) -> Vec<u8> {
    udp_from(from, 2000, to, port, data)
}

fn udp_from(from: Ipv4Addr, from_port: u16, to: Ipv4Addr, port: u16, data: &[u8]) -> Vec<u8> {
    let len = (8 + data.len()) as u16;
    let mut ip = [&[0x45, 0][..], &(20 + len).to_be_bytes(), &[0, 0, 0, 0, 64, 17, 0, 0]].concat();
    ip.extend_from_slice(&from.octets());
    ip.extend_from_slice(&to.octets());
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    // Without a checksum of its own, which UDP over IPv4 allows.
    [&ip[..], &from_port.to_be_bytes(), &port.to_be_bytes(), &len.to_be_bytes(), &[0, 0], data].concat()
}

/// Messages of rules that log.
#[derive(Debug)]
struct Events {
    socket: Socket,
}

#[derive(Debug, PartialEq)]
struct Event {
    prefix: String,
    payload: Vec<u8>,
}

impl Events {
    fn new(fd: OwnedFd, group: u16) -> Self {
        const CONFIG: u16 = 4 << 8 | 1;
        const WHOLE_PACKETS: [u8; 6] = [0, 0, 0xff, 0xff, 2, 0];
        let mut socket = Socket::new(fd).unwrap();
        let mut batch = Batch::new();
        batch.push(CONFIG, 0, |b| {
            let [high, low] = group.to_be_bytes();
            b.raw(&[0, 0, high, low]).attr(1, &[1]).attr(2, &WHOLE_PACKETS);
        });
        socket.run(&mut batch).unwrap();
        Self { socket }
    }

    fn next(&mut self, wait: Timespec) -> Option<Event> {
        if !readable(&self.socket, wait) {
            return None;
        }
        let mut buffer = [0; 4096];
        let flags = rustix::net::RecvFlags::empty();
        let (_, len) = rustix::net::recv(&self.socket, &mut buffer, flags).unwrap();
        let message = ws_sys::netlink::messages(&buffer[..len]).next().unwrap().unwrap();
        let attrs = message.attrs_after(4).unwrap();
        let payload = attrs.find_kind(9).unwrap().bytes.to_vec();
        Some(Event { prefix: attrs.find_kind(10).unwrap().text().unwrap(), payload })
    }
}

// --- Waiting and looking ---

fn ready(fd: impl AsFd, flags: PollFlags, wait: Timespec) -> bool {
    let fd = fd.as_fd();
    let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
    poll(&mut fds, Some(&wait)).unwrap() > 0
}

fn readable(fd: impl AsFd, wait: Timespec) -> bool {
    ready(fd, PollFlags::IN, wait)
}

fn writable(fd: impl AsFd, wait: Timespec) -> bool {
    ready(fd, PollFlags::OUT, wait)
}

/// Connects, or fails after a while.
fn connect_within(socket: OwnedFd, to: SocketAddrV4) -> io::Result<TcpStream> {
    use rustix::net::sockopt::{Timeout, set_socket_timeout};
    for timeout in [Timeout::Send, Timeout::Recv] {
        set_socket_timeout(&socket, timeout, Some(PATIENCE))?;
    }
    rustix::net::connect(&socket, &to)?;
    Ok(socket.into())
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    assert!(readable(socket, PATIENCE.try_into().unwrap()), "no datagram came");
    let mut buffer = [0; 128];
    let (len, from) = socket.recv_from(&mut buffer).unwrap();
    (buffer[..len].to_vec(), from)
}

fn echo(client: &mut TcpStream, server: &mut TcpStream) {
    let mut buffer = [0; 4];
    client.write_all(b"ping").unwrap();
    server.read_exact(&mut buffer).unwrap();
    server.write_all(b"pong").unwrap();
    client.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"pong");
}

/// The error of a datagram that is refused, by the send itself or told right after.
fn refused_datagram(world: &World, from: &str, to: SocketAddrV4) -> io::Error {
    let socket = world.udp(from);
    let sent = socket.connect(to).and_then(|()| socket.send(b"hidden"));
    match sent {
        Err(error) => error,
        Ok(_) => {
            assert!(ready(&socket, PollFlags::ERR, PATIENCE.try_into().unwrap()), "nobody refused");
            socket.take_error().unwrap().unwrap()
        }
    }
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::EHOSTUNREACH | libc::ECONNREFUSED))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

// --- Running ---

/// Says what the machine lacks; fails if the environment says that it must have it.
fn lack(need: &str, why: &str) {
    println!("skipped: {why}");
    let required = std::env::var("WS_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|word| word == need), "WS_REQUIRE has `{need}`: {why}");
}

/// As whom tests run: root as root and as a user, a user as itself.
fn users() -> Vec<(&'static str, Option<u32>)> {
    if rustix::process::geteuid().is_root() {
        vec![("root", None), ("user", Some(USER))]
    } else {
        vec![("user", None)]
    }
}

fn supervisor(user: Option<u32>, args: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(args);
    if let Some(id) = user {
        command.uid(id).gid(id);
    }
    command
}

/// Prints what the machine lacks for these tests: need, why.
fn probe() -> ExitCode {
    let (factory, _) = match Factory::try_start(Vec::new()) {
        Ok(started) => started,
        Err((need, error)) => {
            println!("{need}\nno user or network namespaces: {error}");
            return ExitCode::SUCCESS;
        }
    };
    let fd = factory.netlink_netfilter(NsRef::Router).unwrap();
    if let Err(error) = ws_sys::nft::tables(&mut Socket::new(fd).unwrap(), Family::Inet) {
        println!("nft\nthe kernel has no nf_tables: {}", chain(&error));
    }
    ExitCode::SUCCESS
}

fn run_all(args: &[&str]) -> ExitCode {
    let filters: Vec<_> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let chosen = |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(**filter));
    if args.contains(&"--list") {
        // nextest asks a second time for those that are left out by default: there are none.
        if args.contains(&"--ignored") {
            return ExitCode::SUCCESS;
        }
        TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let mut failed = Vec::new();
    for (who, user) in users() {
        let probed = match supervisor(user, &["--probe"]).output() {
            Ok(probed) => probed,
            Err(error) => {
                lack("userns", &format!("the network's tests as {who}: cannot become one: {error}"));
                continue;
            }
        };
        assert!(probed.status.success(), "{}", String::from_utf8_lossy(&probed.stderr));
        if let Some((need, why)) = String::from_utf8(probed.stdout).unwrap().trim().split_once('\n') {
            lack(need, &format!("the network's tests as {who}: {why}"));
            continue;
        }
        for (name, _) in TESTS.iter().filter(|(name, _)| chosen(name)) {
            let status = supervisor(user, &["--supervisor", name]).status().unwrap();
            println!("test {name} as {who} ... {}", if status.success() { "ok" } else { "FAILED" });
            if !status.success() {
                failed.push((name, who));
            }
        }
    }
    println!("\n{} failed {failed:?}", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints how long it takes to set up a network of so many services, each linked to the next.
fn measure(services: u32) {
    let (soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    if soft < hard {
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    }
    let names: Vec<String> = (0..services).map(|n| format!("s{n}")).collect();
    let links: Vec<_> =
        (0..names.len()).map(|n| [(names[(n + 1) % names.len()].as_str(), 80, Protocol::Tcp)]).collect();
    let declared: Vec<Declared<'_>> =
        (0..services).map(|n| (names[n as usize].as_str(), n, links[n as usize].as_slice())).collect();
    let plan = plan(&declared);
    let (factory, namespaces) = World::prepare(&plan);
    let start = Instant::now();
    set_up(&factory, &namespaces, &plan).unwrap();
    let took = start.elapsed();
    println!("{services} services: {took:?}, {:?} each", took / services);
}
