//! Listening TCP sockets of one port that take turns (`SO_REUSEPORT`, socket(7)).
//!
//! Sockets of one user that are bound to one address with `SO_REUSEPORT` form a group, in the order in which they began
//! to listen, and a program of the group says which of them a new connection goes to ([`choose`]). It is asked for the
//! first packet of a connection; what a socket has got stays with it. When one leaves, the last takes its place.

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::net::sockopt;

/// Which of two sockets of a group new connections go to. One that does not exist (any more) means the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// To the first; those with this type of service (its upper six bits) to the second.
    FirstBut {
        /// The type of service.
        tos: u8,
    },
    /// To the second.
    Second,
}

/// The part of the type of service that says something of the packet; the rest is about congestion (RFC 3168).
const DSCP: u32 = 0xfc;

/// Listens on `address` with a new TCP socket, as a further one of its group.
///
/// # Errors
/// When somebody else listens there.
pub fn listen(socket: BorrowedFd<'_>, address: SocketAddrV4, backlog: i32) -> io::Result<()> {
    // Connections of an earlier one that linger are no reason to refuse.
    sockopt::set_socket_reuseaddr(socket, true)?;
    sockopt::set_socket_reuseport(socket, true)?;
    rustix::net::bind(socket, &address)?;
    Ok(rustix::net::listen(socket, backlog)?)
}

/// Makes of a socket again what [`listen`] made of it, whatever a program that had it has done with it; says whether
/// that can be done. If not, only a new one is good. What waits in it is kept. The sizes of its buffers stay as they
/// are.
///
/// # Errors
/// When it is no TCP socket, or does not listen any more.
pub fn restore(socket: BorrowedFd<'_>, address: SocketAddrV4, backlog: i32) -> io::Result<bool> {
    let is_there = SocketAddrV4::try_from(rustix::net::getsockname(socket)?).is_ok_and(|at| at == address);
    // One that was connected to somewhere, or is bound to one interface, is that for ever.
    if !is_there || rustix::net::getpeername(socket).is_ok() || is_bound_to_interface(socket)? {
        return Ok(false);
    }
    sockopt::set_socket_reuseport(socket, true)?;
    for (level, option, value) in [
        // -1: without a limit.
        (libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, -1),
        (libc::IPPROTO_IP, libc::IP_MINTTL, 0),
        // -1: that of the system.
        (libc::IPPROTO_IP, libc::IP_TTL, -1),
        (libc::IPPROTO_IP, libc::IP_TOS, 0),
        (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 0),
        (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 0),
    ] {
        set_number(socket, level, option, value)?;
    }
    // Also sets the length of the queue of one that listens.
    rustix::net::listen(socket, backlog)?;
    Ok(true)
}

fn set_number(socket: BorrowedFd<'_>, level: i32, option: i32, value: libc::c_int) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes of `value`, which has as many and outlives the call.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `SO_BINDTODEVICE`
fn is_bound_to_interface(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut name = [0_u8; libc::IFNAMSIZ];
    let mut length = name.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `name`, which has as many; both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            name.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(length > 0) } else { Err(io::Error::last_os_error()) }
}

/// Says, for the whole group of a listening socket, where new connections go.
///
/// # Errors
/// When the socket is in no group.
pub fn choose(socket: BorrowedFd<'_>, choice: Choice) -> io::Result<()> {
    // Whoever has it as well may have taken it out of its group.
    sockopt::set_socket_reuseport(socket, true)?;
    let mut program = program(choice);
    let fprog = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_mut_ptr(),
    };
    let length = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: the kernel reads a `sock_fprog` of this size and, through it, `len` instructions; both outlive the call,
    // which copies them. It checks the program before it uses it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const fprog).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A program of the classic packet filter (bpf(4)) that gives the number of a socket. For a number that there is not,
/// the kernel chooses among those that there are.
fn program(choice: Choice) -> Vec<libc::sock_filter> {
    /// `SKF_NET_OFF` of linux/filter.h: from the network header on. The type of service is its second byte.
    const TYPE_OF_SERVICE: u32 = (-0x10_0000_i32 + 1).cast_unsigned();
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let answer = |number: u32| op(libc::BPF_RET | libc::BPF_K, 0, 0, number);
    match choice {
        Choice::Second => vec![answer(1)],
        Choice::FirstBut { tos } => vec![
            op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, TYPE_OF_SERVICE),
            op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, DSCP),
            op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, u32::from(tos) & DSCP),
            answer(1),
            answer(0),
        ],
    }
}

/// How many connections wait to be accepted from a listening socket (`TCP_INFO`, tcp(7)); 0 where it does not listen.
///
/// # Errors
/// When it is no TCP socket.
pub fn waiting(socket: BorrowedFd<'_>) -> io::Result<u32> {
    if !sockopt::socket_acceptconn(socket)? {
        return Ok(0);
    }
    // SAFETY: the struct has integers and nothing else, for which all zeros are a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `info`, which has as many; both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    // Of a listening socket this field is the length of its queue.
    if result == 0 { Ok(info.tcpi_unacked) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::os::fd::{AsFd, OwnedFd};

    use rustix::net::{AddressFamily, SocketFlags, SocketType};

    use super::*;

    const TOS: u8 = 0xdc;

    fn socket() -> OwnedFd {
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap()
    }

    fn listener(address: SocketAddrV4) -> TcpListener {
        let socket = socket();
        listen(socket.as_fd(), address, 128).unwrap();
        TcpListener::from(socket)
    }

    fn connect(address: SocketAddrV4, tos: u8) -> TcpStream {
        let socket = socket();
        sockopt::set_ip_tos(&socket, tos).unwrap();
        rustix::net::connect(&socket, &address).unwrap();
        TcpStream::from(socket)
    }

    fn waits(listeners: [&TcpListener; 2]) -> [u32; 2] {
        listeners.map(|listener| waiting(listener.as_fd()).unwrap())
    }

    #[test]
    fn programs_are_the_same_for_ever() {
        let codes = |choice| -> Vec<(u16, u8, u8, u32)> {
            program(choice).iter().map(|op| (op.code, op.jt, op.jf, op.k)).collect()
        };
        assert_eq!(codes(Choice::Second), [(0x06, 0, 0, 1)]);
        let first = [
            (0x30, 0, 0, 0xfff0_0001),
            (0x54, 0, 0, 0xfc),
            (0x15, 0, 1, 0xdc),
            (0x06, 0, 0, 1),
            (0x06, 0, 0, 0),
        ];
        assert_eq!(codes(Choice::FirstBut { tos: TOS }), first);
        assert_eq!(codes(Choice::FirstBut { tos: TOS | 3 }), first);
    }

    #[test]
    fn connections_go_where_the_program_says_and_never_nowhere() {
        let old = listener(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
        let std::net::SocketAddr::V4(address) = old.local_addr().unwrap() else { panic!("not IPv4") };
        choose(old.as_fd(), Choice::FirstBut { tos: TOS }).unwrap();
        let mut open = vec![connect(address, 0), connect(address, TOS)];
        assert_eq!(waiting(old.as_fd()).unwrap(), 2, "alone it gets all");

        let new = listener(address);
        for tos in [0, 0x10, 0x03, TOS ^ 0x80, 0] {
            open.push(connect(address, tos));
        }
        assert_eq!(waits([&old, &new]), [7, 0]);
        for tos in [TOS, TOS | 0x03, TOS] {
            open.push(connect(address, tos));
        }
        assert_eq!(waits([&old, &new]), [7, 3]);

        choose(new.as_fd(), Choice::Second).unwrap();
        for tos in [0, TOS, 0x10, 0] {
            open.push(connect(address, tos));
        }
        assert_eq!(waits([&old, &new]), [7, 7]);
        for _ in 0..7 {
            old.accept().unwrap();
        }
        assert_eq!(waits([&old, &new]), [0, 7]);

        // The one that stays is now the first; and again.
        drop(old);
        open.extend([connect(address, 0), connect(address, TOS)]);
        assert_eq!(waiting(new.as_fd()).unwrap(), 9);
        choose(new.as_fd(), Choice::FirstBut { tos: TOS }).unwrap();
        let newer = listener(address);
        open.extend([connect(address, 0), connect(address, TOS), connect(address, 0)]);
        assert_eq!(waits([&new, &newer]), [11, 1]);
        // One that failed leaves all as it was.
        drop(newer);
        open.extend([connect(address, 0), connect(address, TOS)]);
        assert_eq!(waiting(new.as_fd()).unwrap(), 13);
    }

    /// Whether somebody who connects comes through to it.
    fn reaches(listener: &TcpListener, address: SocketAddrV4) -> bool {
        let before = waiting(listener.as_fd()).unwrap();
        let stream =
            std::net::TcpStream::connect_timeout(&address.into(), std::time::Duration::from_millis(300));
        drop(stream);
        waiting(listener.as_fd()).unwrap() > before
    }

    #[test]
    fn what_a_program_did_with_it_is_undone_or_told() {
        type Spoil = fn(BorrowedFd<'_>) -> io::Result<()>;
        let spoils: [(&str, bool, Spoil); 7] = [
            ("nothing", true, |_| Ok(())),
            ("no group", true, |socket| Ok(sockopt::set_socket_reuseport(socket, false)?)),
            ("not from afar", true, |socket| set_number(socket, libc::IPPROTO_IP, libc::IP_MINTTL, 255)),
            ("when they speak", true, |socket| {
                set_number(socket, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 100)
            }),
            ("no queue", true, |socket| Ok(rustix::net::listen(socket, 0)?)),
            ("shut", true, |socket| Ok(rustix::net::shutdown(socket, rustix::net::Shutdown::Both)?)),
            ("connected", false, |socket| {
                let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
                rustix::net::connect_unspec(socket)?;
                Ok(rustix::net::connect(socket, &other.local_addr()?)?)
            }),
        ];
        for (what, can_be_undone, spoil) in spoils {
            // Bound to a number that was asked for, as those that are held: it stays when one stops listening.
            let any = listener(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
            let std::net::SocketAddr::V4(address) = any.local_addr().unwrap() else { panic!("not IPv4") };
            let listener = listener(address);
            drop(any);
            spoil(listener.as_fd()).unwrap();
            assert_eq!(restore(listener.as_fd(), address, 64).unwrap_or(false), can_be_undone, "{what}");
            if can_be_undone {
                assert!(reaches(&listener, address), "{what}");
                assert!(reaches(&listener, address) && reaches(&listener, address), "{what}: more than one");
                assert!(sockopt::socket_reuseport(&listener).unwrap(), "{what}");
            }
        }
        // It may be asked for by whoever has it, and can be taken back by none of those.
        let bound = listener(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
        let std::net::SocketAddr::V4(address) = bound.local_addr().unwrap() else { panic!("not IPv4") };
        let name = b"lo";
        // SAFETY: the kernel reads two bytes of `name`.
        let result = unsafe {
            let length = name.len() as libc::socklen_t;
            let socket = bound.as_raw_fd();
            libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, name.as_ptr().cast(), length)
        };
        assert_eq!(result, 0);
        assert!(!restore(bound.as_fd(), address, 64).unwrap());
    }

    #[test]
    fn a_socket_that_does_not_listen_has_nothing_that_waits() {
        let socket = socket();
        assert_eq!(waiting(socket.as_fd()).unwrap(), 0);
        let (reader, _writer) = io::pipe().unwrap();
        waiting(reader.as_fd()).unwrap_err();
    }
}
