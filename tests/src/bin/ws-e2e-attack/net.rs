//! Reaching others over the network and over sockets; and joining a service's network from outside.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, socket,
};
use ws_e2e::attack::now_us;
use ws_sys::netlink::route;
use ws_sys::netlink::{Batch, Socket};
use ws_sys::nft::{Family, Table, Transaction};

use crate::{End, number};

/// How long an answer may take that must not come at all.
const NO_ANSWER: Duration = Duration::from_millis(700);

pub(crate) fn attempt(verb: &str, arguments: &[&str]) -> Option<io::Result<End>> {
    Some(match (verb, arguments) {
        ("tcp", [to, port]) => tcp(to, port, None),
        ("tcp", [to, port, from]) => tcp(to, port, Some(from)),
        ("udp", [to, port]) => udp(to, port, None),
        ("udp", [to, port, from]) => udp(to, port, Some(from)),
        ("name", [name, port]) => by_name(name, port),
        ("not-own", [to, port, from]) => not_own(to, port, from),
        ("hold", [to, port]) => hold(to, port),
        ("flood", [to, millis]) => flood(to, millis),
        ("tcp-ports", [to, low, high]) => tcp_ports(to, low, high),
        ("tcp6", [to, port, interface]) => tcp6(to, port, interface),
        ("ping", [to]) => ping(to, SockType::Datagram),
        ("raw-ping", [to]) => ping(to, SockType::Raw),
        ("unix", [path]) => Ok(End::of(UnixStream::connect(path), "connected")),
        ("abstract", [name]) => abstract_socket(name),
        ("abstract-any", [word]) => abstract_any(word),
        ("addresses6", []) => addresses6(),
        ("interfaces", known) => interfaces(known),
        ("mac", []) => mac(),
        ("join", [pid, rest @ ..]) => join(pid, rest),
        _ => return None,
    })
}

fn address(to: &str, port: &str) -> io::Result<SocketAddr> {
    let ip: IpAddr = to.parse().map_err(|_| io::Error::other(format!("`{to}` is no address")))?;
    Ok(SocketAddr::new(ip, number(port)?))
}

/// Connects, and has a word echoed when a service of the tests answers.
fn tcp(to: &str, port: &str, from: Option<&str>) -> io::Result<End> {
    let to = address(to, port)?;
    let connected = match from {
        None => TcpStream::connect_timeout(&to, NO_ANSWER),
        Some(from) => connect_from(to, address(from, "0")?),
    };
    let mut stream = match connected {
        Ok(stream) => stream,
        Err(error) => return Ok(End::because(&error, "connecting")),
    };
    stream.set_read_timeout(Some(NO_ANSWER))?;
    let mut answer = [0; 4];
    let echoed = stream.write_all(b"echo").and_then(|()| stream.read_exact(&mut answer));
    Ok(match echoed {
        Ok(()) if answer == *b"echo" => End::Did("connected, and echoed".to_owned()),
        _ => End::Did("connected".to_owned()),
    })
}

fn connect_from(to: SocketAddr, from: SocketAddr) -> io::Result<TcpStream> {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp)?;
    bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrStorage::from(from))?;
    let stream = TcpStream::from(fd);
    // Bounds connect(2) too (socket(7)).
    stream.set_write_timeout(Some(NO_ANSWER))?;
    match connect(std::os::fd::AsRawFd::as_raw_fd(&stream), &SockaddrStorage::from(to)) {
        Ok(()) => Ok(stream),
        Err(nix::errno::Errno::EINPROGRESS | nix::errno::Errno::EAGAIN) => {
            Err(io::ErrorKind::TimedOut.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Sends a datagram and waits for its echo, or for the error that it met.
fn udp(to: &str, port: &str, from: Option<&str>) -> io::Result<End> {
    let to = address(to, port)?;
    let socket = UdpSocket::bind(address(from.unwrap_or("0.0.0.0"), "0")?)?;
    socket.set_read_timeout(Some(NO_ANSWER))?;
    let mut answer = [0; 64];
    let mut exchange = || -> io::Result<usize> {
        socket.connect(to)?;
        socket.send(b"echo")?;
        socket.recv(&mut answer)
    };
    Ok(match exchange() {
        Ok(length) => End::Did(format!("{length} bytes came back")),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => End::Silent,
        Err(error) => End::because(&error, "sending"),
    })
}

/// Connects to whatever a name stands for.
fn by_name(name: &str, port: &str) -> io::Result<End> {
    let Ok(mut found) = (name, number::<u16>(port)?).to_socket_addrs() else {
        return Ok(End::Nothing);
    };
    let to = found.next().ok_or(io::ErrorKind::NotFound)?;
    Ok(End::of(TcpStream::connect_timeout(&to, NO_ANSWER), "connected"))
}

/// Sends a datagram with an address that is not its own, which anybody may ask for (`IP_FREEBIND`).
fn not_own(to: &str, port: &str, from: &str) -> io::Result<End> {
    let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::Udp)?;
    nix::sys::socket::setsockopt(&fd, nix::sys::socket::sockopt::IpFreebind, &true)?;
    bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrStorage::from(address(from, "0")?))?;
    let socket = UdpSocket::from(fd);
    Ok(End::of(socket.send_to(b"x", address(to, port)?), "sent"))
}

/// Keeps a connection open and uses it all the time; says when it can no longer, and how.
fn hold(to: &str, port: &str) -> io::Result<End> {
    let mut stream = TcpStream::connect((to, number::<u16>(port)?))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    writeln!(io::stdout(), "holding")?;
    let mut answer = [0; 4];
    loop {
        let echoed = stream.write_all(b"echo").and_then(|()| stream.read_exact(&mut answer));
        if let Err(error) = echoed {
            return Ok(End::because(&error, &now_us().to_string()));
        }
        ws_e2e::wait::let_pass(Duration::from_millis(1));
    }
}

/// Sends datagrams for a time, as fast as two threads can, to many ports; tells how many it tried to send.
fn flood(to: &str, millis: &str) -> io::Result<End> {
    let until = Instant::now() + Duration::from_millis(number(millis)?);
    let to: IpAddr = to.parse().map_err(|_| io::Error::other(format!("`{to}` is no address")))?;
    let all: Vec<_> = (0..2)
        .map(|_| {
            std::thread::spawn(move || -> io::Result<u64> {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                let mut sent = 0;
                while Instant::now() < until {
                    for port in 1000..1100 {
                        // What the rules deny comes back as an error, of this packet or of the one before.
                        let _ = socket.send_to(b"x", (to, port));
                        sent += 1;
                    }
                }
                Ok(sent)
            })
        })
        .collect();
    let mut sent = 0;
    for one in all {
        sent += one.join().map_err(|_| io::Error::other("a thread panicked"))??;
    }
    Ok(End::Did(sent.to_string()))
}

/// Finds ports that accept a connection.
fn tcp_ports(to: &str, low: &str, high: &str) -> io::Result<End> {
    let (low, high): (u16, u16) = (number(low)?, number(high)?);
    let mut found = Vec::new();
    let mut refused = None;
    for port in low..=high {
        match TcpStream::connect_timeout(&address(to, &port.to_string())?, NO_ANSWER) {
            Ok(_) => found.push(port.to_string()),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(End::Silent),
            Err(error) => refused = Some(error),
        }
    }
    Ok(match refused {
        Some(error) if found.is_empty() => End::because(&error, "connecting"),
        _ => End::found(&found),
    })
}

fn tcp6(to: &str, port: &str, interface: &str) -> io::Result<End> {
    let ip = to.parse().map_err(|_| io::Error::other(format!("`{to}` is no address")))?;
    let scope = nix::net::if_::if_nametoindex(interface).unwrap_or(0);
    let to = SocketAddrV6::new(ip, number(port)?, 0, scope);
    Ok(End::of(TcpStream::connect_timeout(&to.into(), NO_ANSWER), "connected"))
}

/// Pings: with a socket that needs no privilege where `ping_group_range` allows it, or with a raw one.
fn ping(to: &str, kind: SockType) -> io::Result<End> {
    let protocol = SockProtocol::Icmp;
    let fd = match socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, protocol) {
        Ok(fd) => fd,
        Err(error) => return Ok(End::Refused(error, "making a socket".to_owned())),
    };
    // The shape of the socket is that of UDP: connect, send, receive.
    let socket = UdpSocket::from(fd);
    socket.set_read_timeout(Some(NO_ANSWER))?;
    // Type 8, identifier and number 1; the checksum is the complement of the sum of the words.
    let echo_request = [8, 0, 0xf7, 0xfd, 0, 1, 0, 1];
    let sent = socket.connect(address(to, "0")?).and_then(|()| socket.send(&echo_request));
    Ok(match sent.and_then(|_| socket.recv(&mut [0; 64])) {
        Ok(_) => End::Did("it answered".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => End::Silent,
        Err(error) => End::because(&error, "pinging"),
    })
}

fn abstract_socket(name: &str) -> io::Result<End> {
    let address = UnixAddr::from_abstract_name(name)?;
    Ok(End::of(UnixStream::connect_addr(&address), "connected"))
}

/// Finds sockets in the list of this network namespace whose line has a word.
fn abstract_any(word: &str) -> io::Result<End> {
    let text = fs::read_to_string("/proc/net/unix")?;
    let found = text.lines().skip(1).filter(|line| line.contains(word) || line.contains('@'));
    Ok(End::found(&found.map(str::to_owned).collect::<Vec<_>>()))
}

/// Finds IPv6 addresses.
fn addresses6() -> io::Result<End> {
    let text = match fs::read_to_string("/proc/net/if_inet6") {
        Ok(text) => text,
        // No IPv6 in the kernel at all.
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    Ok(End::found(&text.lines().map(str::to_owned).collect::<Vec<_>>()))
}

/// Finds interfaces that are up and are not known.
fn interfaces(known: &[&str]) -> io::Result<End> {
    let mut found = Vec::new();
    for one in nix::ifaddrs::getifaddrs()? {
        let up = one.flags.contains(nix::net::if_::InterfaceFlags::IFF_UP);
        if up && !known.contains(&one.interface_name.as_str()) {
            found.push(one.interface_name);
        }
    }
    Ok(End::found(&found))
}

/// The hardware address of `eth0`.
fn mac() -> io::Result<End> {
    for one in nix::ifaddrs::getifaddrs()? {
        let link = one.address.as_ref().and_then(SockaddrStorage::as_link_addr).and_then(LinkAddr::addr);
        if let (true, Some(mac)) = (one.interface_name == "eth0", link) {
            return Ok(End::Did(mac.map(|byte| format!("{byte:02x}")).join(":")));
        }
    }
    Ok(End::Nothing)
}

/// Enters the network namespace of a process, as whoever has all rights over it may, changes it, and
/// attempts something from there: `join PID [flush | onlink ADDRESS MAC | address ADDRESS | enable6]… VERB …`.
fn join(pid: &str, mut rest: &[&str]) -> io::Result<End> {
    let namespace = fs::File::open(format!("/proc/{pid}/ns/net"))?;
    ws_sys::process::enter_net(namespace.as_fd())?;
    let route_socket = || -> io::Result<Socket> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        Socket::new(fd).map_err(io::Error::other)
    };
    let eth0 = || nix::net::if_::if_nametoindex("eth0").map_err(io::Error::from);
    loop {
        let mut batch = Batch::new();
        rest = match rest {
            ["flush", rest @ ..] => {
                let fd = socket(
                    AddressFamily::Netlink,
                    SockType::Raw,
                    SockFlag::SOCK_CLOEXEC,
                    SockProtocol::NetlinkNetFilter,
                )?;
                let mut t = Transaction::new();
                t.delete_table(Table { family: Family::Inet, name: "ws" });
                t.commit(&mut Socket::new(fd).map_err(io::Error::other)?).map_err(io::Error::other)?;
                rest
            }
            ["onlink", to, mac, rest @ ..] => {
                let to: Ipv4Addr = to.parse().map_err(io::Error::other)?;
                let mut bytes = [0; 6];
                for (byte, text) in bytes.iter_mut().zip(mac.split(':')) {
                    *byte = u8::from_str_radix(text, 16).map_err(io::Error::other)?;
                }
                route::add_host_route(&mut batch, eth0()?, to);
                route::add_neighbour(&mut batch, eth0()?, to, bytes);
                rest
            }
            ["address", own, rest @ ..] => {
                route::add_address(&mut batch, eth0()?, own.parse().map_err(io::Error::other)?);
                rest
            }
            ["enable6", rest @ ..] => {
                for name in ["all", "default", "eth0"] {
                    // An address that is still being looked for elsewhere could not be used at once.
                    fs::write(format!("/proc/sys/net/ipv6/conf/{name}/accept_dad"), "0")?;
                    fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "0")?;
                }
                // Until then it is tentative (IFA_F_TENTATIVE).
                ws_e2e::wait_until(Duration::from_secs(5), "a link-local address", || {
                    let text = fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
                    let usable = |line: &str| {
                        let fields: Vec<&str> = line.split_whitespace().collect();
                        line.starts_with("fe80")
                            && fields
                                .get(4)
                                .and_then(|flags| u8::from_str_radix(flags, 16).ok())
                                .is_some_and(|flags| flags & 0x40 == 0)
                    };
                    if text.lines().any(usable) { Ok(()) } else { Err(text) }
                });
                rest
            }
            [verb, rest @ ..] => {
                let rest: Vec<String> = rest.iter().map(|text| (*text).to_owned()).collect();
                return Ok(crate::attempt(verb, &rest));
            }
            [] => return Ok(End::Did("joined".to_owned())),
        };
        if !batch.is_empty() {
            route_socket()?.run(&mut batch).map_err(io::Error::other)?;
        }
    }
}
