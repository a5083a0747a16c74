//! What is declared works; everything else is refused at once, whatever is tried.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::process::Command;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{SockaddrIn, SockaddrStorage};
use ws_e2e::attack::{Came, Row, assert_right, row, table, try_all};
use ws_e2e::show;
use ws_e2e::stack::helper;
use ws_e2e::{Mode, Stack, both_ways, needs, requires, wait_until};

both_ways! {
    only_what_is_declared_is_reached
    the_router_holds_where_a_service_has_taken_its_own_network
}

const STACK: &str = "
services:
  web:
    command: [bin/ws-e2e-serve, 'tcp:7000', 'udp:7000', 'http:8080']
    links: ['api:7000']
    ready: { tcp: ':7000' }
  api:
    command: [bin/ws-e2e-serve, 'tcp:7000', 'udp:7000', 'tcp:7001']
    links: ['db:9000/udp']
    ready: { tcp: ':7000' }
  db:
    command: [bin/ws-e2e-serve, 'tcp:9000', 'udp:9000', 'udp:9001']
    ready: { tcp: ':9000' }
  lone:
    command: [bin/ws-e2e-serve, 'tcp:5000', 'udp:5000']
    ready: { tcp: ':5000' }
";

const TCP: &str = "ECONNREFUSED";
const UDP: &str = "EPERM|EHOSTUNREACH";

const ATTEMPTS: &[Row] = &[
    row("link", "a declared link works", "tcp {api} 7000", "did"),
    row("link", "a declared UDP link works", "api: udp {db} 9000", "did"),
    row("link", "a service reaches itself by its address", "tcp {web} 7000", "did"),
    row("link", "a service reaches itself over the loopback", "udp 127.0.0.1 7000", "did"),
    row("port", "another port of a linked service", "tcp {api} 7001", TCP),
    row("port", "another UDP port of a linked service", "api: udp {db} 9001", UDP),
    row("port", "a port of a linked service on which nobody listens", "tcp {api} 9", TCP),
    row("protocol", "UDP where TCP is linked", "udp {api} 7000", UDP),
    row("protocol", "TCP where UDP is linked", "api: tcp {db} 9000", TCP),
    row("protocol", "ping of a linked service", "ping {api}", "EACCES"),
    row("protocol", "raw ICMP to a linked service", "raw-ping {api}", "EPERM"),
    row("direction", "back along a link", "api: tcp {web} 7000", TCP),
    row("direction", "back along a link, UDP", "db: udp {api} 7000", UDP),
    row("pair", "two links away", "tcp {db} 9000", TCP),
    row("pair", "two links away, UDP", "udp {db} 9000", UDP),
    row("pair", "somebody without links", "tcp {lone} 5000", TCP),
    row("pair", "from somebody without links", "lone: tcp {api} 7000", TCP),
    row("pair", "from somebody without links, UDP", "lone: udp {db} 9000", UDP),
    row("pair", "from somebody without links, ping", "lone: ping {web}", "EACCES"),
    row("gateway", "the gateway's name service, TCP", "tcp {gateway} 53", TCP),
    row("gateway", "the gateway's name service, UDP", "udp {gateway} 53", UDP),
    row("gateway", "every port of the gateway", "tcp-ports {gateway} 1 65535", TCP),
    row("gateway", "ping of the gateway", "ping {gateway}", "EACCES"),
    row("host", "a listener on the host's loopback", "tcp 127.0.0.1 {loopback_port}", TCP),
    row("host", "another address of the loopback", "tcp 127.0.0.53 {loopback_port}", TCP),
    row("host", "a listener on all of the host's addresses", "tcp {gateway} {any_port}", TCP),
    row("host", "a listener by the host's own address", "tcp {host} {any_port}", TCP),
    row("host", "a UDP socket by the host's own address", "udp {host} {udp_port}", UDP),
    row("host", "an abstract socket of the host", "abstract {abstract}", "ECONNREFUSED|EPERM"),
    row("host", "the host's sockets are listed", "abstract-any {abstract}", "none"),
    row("host", "the control socket", "unix {control}", "ENOENT"),
    row("host", "docker's socket", "unix /var/run/docker.sock", "ENOENT"),
    row("host", "the system bus", "unix /run/dbus/system_bus_socket", "ENOENT"),
    row("outside", "a name server on the internet, UDP", "udp 8.8.8.8 53", UDP),
    row("outside", "a name server on the internet, TCP", "tcp 8.8.8.8 53", TCP),
    row("outside", "a web server on the internet", "tcp 1.1.1.1 443", TCP),
    row("outside", "ping of the internet", "ping 8.8.8.8", "EACCES"),
    row("outside", "a cloud's metadata", "tcp 169.254.169.254 80", TCP),
    row("outside", "an address of the subnet that nobody has", "tcp 10.77.255.254 80", TCP),
    row("outside", "multicast", "udp 224.0.0.251 5353", UDP),
    row("outside", "broadcast", "udp 255.255.255.255 67", "EACCES"),
    row("ipv6", "addresses", "addresses6", "none"),
    row(
        "ipv6",
        "a listener on the host's loopback",
        "tcp6 ::1 {port6} lo",
        "EADDRNOTAVAIL|EAFNOSUPPORT|ECONNREFUSED|ENETUNREACH",
    ),
    row(
        "ipv6",
        "a link-local neighbour",
        "tcp6 fe80::1 7000 eth0",
        "EADDRNOTAVAIL|ENETUNREACH|EAFNOSUPPORT|EACCES",
    ),
    row("ipv6", "all nodes", "tcp6 ff02::1 7000 eth0", "EADDRNOTAVAIL|ENETUNREACH|EAFNOSUPPORT|EACCES"),
    row(
        "ipv6",
        "the internet",
        "tcp6 2001:4860:4860::8888 53 eth0",
        "EADDRNOTAVAIL|ENETUNREACH|EAFNOSUPPORT",
    ),
    row("network", "other interfaces than its own", "interfaces lo eth0", "none"),
];

/// An address of the host that is not its loopback.
pub(crate) fn host_address() -> Option<Ipv4Addr> {
    let all = getifaddrs().ok()?;
    let v4 = all
        .filter_map(|one| one.address.as_ref().and_then(SockaddrStorage::as_sockaddr_in).map(SockaddrIn::ip));
    v4.filter(|ip| !ip.is_loopback()).find(|ip| !ip.octets().starts_with(&[10, 77]))
}

/// The addresses of the services, by their names, and the gateway's.
fn addresses(stack: &Stack) -> BTreeMap<&'static str, String> {
    let rows = stack.ps();
    let of = |name: &str| {
        let row = rows.iter().find(|row| row.service.as_str() == name);
        row.map(|row| row.address.clone()).expect("every service has an address")
    };
    let mut values: BTreeMap<&str, String> =
        ["web", "api", "db", "lone"].into_iter().map(|name| (name, of(name))).collect();
    values.insert("gateway", "10.77.0.1".to_owned());
    values
}

fn only_what_is_declared_is_reached(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(mode, STACK);
    stack.up();

    let loopback = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let any = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let datagrams = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let six = TcpListener::bind((IpAddr::V6(Ipv6Addr::LOCALHOST), 0)).ok();
    let name = format!("{}-abstract", stack.token);
    let socket = UnixListener::bind_addr(&UnixAddr::from_abstract_name(&name).unwrap()).unwrap();
    let mut values = addresses(&stack);
    let port = |address: std::io::Result<std::net::SocketAddr>| address.unwrap().port().to_string();
    values.insert("loopback_port", port(loopback.local_addr()));
    values.insert("any_port", port(any.local_addr()));
    values.insert("udp_port", port(datagrams.local_addr()));
    values.insert("port6", six.as_ref().map_or_else(|| "9".to_owned(), |six| port(six.local_addr())));
    values.insert("host", host_address().unwrap_or(Ipv4Addr::new(192, 0, 2, 1)).to_string());
    values.insert("abstract", name);
    let control = ws_e2e::leak::listing(&stack.runtime);
    let control = control.iter().find(|path| {
        std::fs::metadata(path).is_ok_and(|meta| std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type()))
    });
    values.insert("control", control.expect("the control socket").to_string_lossy().into_owned());

    let tried = try_all(&stack, "web", ATTEMPTS, &values);
    show(&table(mode, &tried));
    assert_right(mode, &tried);
    // Nobody came to the host's listeners either.
    for listener in [&loopback, &any] {
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "somebody connected to the host");
    }
    socket.set_nonblocking(true).unwrap();
    assert!(socket.accept().is_err(), "somebody connected to an abstract socket of the host");
    drop(socket);
    stack.down();
}

/// Runs an attempt from outside, with all rights over the network namespace of a process.
fn joined(pid: i32, command: &str) -> Came {
    let output = Command::new(helper("ws-e2e-attack"))
        .args(["join", &pid.to_string()])
        .args(command.split_whitespace())
        .output()
        .expect("running ws-e2e-attack");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let came = serde_json::from_str(&text);
    came.unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// Whoever has all rights over a service's namespace, and so could remove its rules, forge its address and
/// choose its routes, still meets the workspace's own rules.
fn the_router_holds_where_a_service_has_taken_its_own_network(mode: Mode) {
    requires!(mode, userns, netns, nft);
    if !needs::met(mode, &["root"]) {
        // Joining needs rights over the namespace; without root, `ws-linux` shows the same from inside.
        return;
    }
    let mut stack = Stack::new(mode, STACK);
    stack.up();
    let values = addresses(&stack);
    let (web, api, db) = (&values["web"], &values["api"], &values["db"]);
    let mac = |service: &str| {
        let ran = stack.exec(service, &[&stack.bin("ws-e2e-attack"), "mac"]);
        serde_json::from_str::<Came>(&ran.clone().ok())
            .unwrap_or_else(|error| panic!("{error}: {ran}"))
            .detail
    };
    let (db_mac, api_mac) = (mac("db"), mac("api"));
    let (web_pid, lone_pid, db_pid) = (stack.pid("web"), stack.pid("lone"), stack.pid("db"));

    // With its rules in place: a route past the gateway changes nothing.
    let expect = |pid: i32, command: &str, right: &[&str]| {
        let came = joined(pid, command);
        assert!(right.contains(&came.outcome.as_str()), "{mode}: `{command}`: {came:?} instead of {right:?}");
    };
    expect(web_pid, &format!("tcp {api} 7000"), &["did"]);
    expect(web_pid, &format!("onlink {db} {db_mac} tcp {db} 9000"), &["ECONNREFUSED"]);
    expect(web_pid, &format!("udp {db} 9000"), &["EPERM", "EHOSTUNREACH"]);
    expect(web_pid, &format!("raw-ping {api}"), &["EPERM", "EHOSTUNREACH"]);

    // Without them: the link works still, and nothing else; along a hand-made route or through the gateway.
    expect(web_pid, &format!("flush tcp {api} 7000"), &["did"]);
    for pid in [lone_pid, db_pid] {
        expect(pid, "flush", &["did"]);
    }
    expect(web_pid, &format!("tcp {db} 9000"), &["silent"]);
    expect(web_pid, &format!("udp {db} 9000"), &["silent"]);
    expect(web_pid, &format!("tcp {api} 7001"), &["silent"]);
    expect(web_pid, &format!("raw-ping {api}"), &["silent"]);
    expect(web_pid, &format!("raw-ping {db}"), &["silent"]);
    expect(web_pid, "tcp 10.77.0.1 53", &["silent"]);
    expect(web_pid, "udp 10.77.0.1 53", &["silent"]);
    expect(web_pid, "raw-ping 10.77.0.1", &["silent"]);
    expect(web_pid, "tcp 8.8.8.8 53", &["silent"]);
    expect(db_pid, &format!("tcp {api} 7000"), &["silent"]);
    expect(lone_pid, &format!("onlink {api} {api_mac} tcp {api} 7000"), &["silent"]);

    // With the address of somebody who has a link.
    expect(lone_pid, &format!("address {web} tcp {api} 7000 {web}"), &["silent"]);
    expect(lone_pid, &format!("address {api} udp {db} 9000 {api}"), &["silent"]);
    expect(web_pid, &format!("address {api} udp {db} 9000 {api}"), &["silent"]);

    // IPv6, switched on by hand on both sides.
    if std::path::Path::new("/proc/sys/net/ipv6").exists() {
        expect(db_pid, "enable6", &["did"]);
        let own = joined(db_pid, "addresses6").detail;
        let local = own.split(' ').find(|word| word.starts_with("fe80"));
        let local = local.unwrap_or_else(|| panic!("{mode}: no link-local address: {own}"));
        let groups: Vec<&str> = (0..8).map(|group| &local[group * 4..group * 4 + 4]).collect();
        let unreachable = ["silent", "EHOSTUNREACH", "ENETUNREACH"];
        expect(web_pid, &format!("enable6 tcp6 {} 9000 eth0", groups.join(":")), &unreachable);
        expect(web_pid, "tcp6 ff02::1 9000 eth0", &["silent", "EHOSTUNREACH", "ENETUNREACH", "EACCES"]);
    }

    // What is declared still works, and what arrived is what was sent by who may.
    let ran = stack.exec("api", &[&stack.bin("ws-e2e-attack"), "udp", db, "9000"]).ok();
    assert!(ran.contains(r#""outcome":"did""#), "{ran}");
    wait_until(Duration::from_secs(10), "the one datagram that may arrive", || {
        let text = stack.logs("db");
        let senders: Vec<&str> = text.lines().filter(|line| line.contains("a datagram from")).collect();
        if senders.len() == 1 && senders[0].contains(api.as_str()) { Ok(()) } else { Err(text) }
    });
    stack.down();
}
