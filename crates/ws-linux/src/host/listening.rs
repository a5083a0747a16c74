//! The listening sockets of a service: held across its runs, and taken over from one run by another beside it.
//!
//! Each declared port has one socket in the service's network namespace. It is ours: every run gets a copy, and while
//! there is no run, connections queue in the kernel. A service that is stopped for good has none, so that whoever
//! connects is refused at once; the next run gets new ones.
//!
//! # One run beside another
//!
//! The run beside gets sockets of its own, which are in a group with those of the run that goes on
//! ([`ws_sys::listener`]). The group's program sends every new connection to the first of the two sockets, that of the
//! old run, but those to the second whose packets carry [`PROBE_TOS`], which is how probes of the new run reach it. A
//! sibling that sets the same only reaches the new run early. [`Listening::take_over`] makes the program send all to the
//! second. From then on the old socket gets nothing new but handshakes that had begun, and its queue is emptied by the
//! old run; what is left in it when it is closed the kernel gives to the other socket of the group
//! (`net.ipv4.tcp_migrate_req`). When it is closed, the second becomes the first and only one, and is that whatever the
//! program says.
//!
//! A probe that runs a command inside has no such mark: where it connects to such a port it finds the run that has the
//! connections, so one for an overlap should be `http`, `tcp`, `grpc`, or a word of the program's own.
//!
//! So in a group there are never more than two. A run that was taken over from and does not end is in the way of the
//! next overlap: its sockets are closed for it then ([`Listening::shut`]).

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{Shutdown, sockopt};
use ws_model::Listen;
use ws_sys::listener::{self, Choice};

use crate::sandbox::protocol::{Failure, SocketKind, Stage};
use crate::sandbox::spawner::Spawner;

/// The type of service of what our probes send to a run beside another: a value for local use (RFC 2474, pool 2).
pub(super) const PROBE_TOS: u8 = 0b1101_1100;

/// Whether a socket that a run has had listens to a port as a new one would, or does again.
fn is_good(port: u16, socket: &OwnedFd) -> bool {
    let address = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
    listener::restore(socket.as_fd(), address, BACKLOG).unwrap_or(false)
}

/// How many connections wait in the kernel for a run. The kernel takes no more than `net.core.somaxconn`, 4,096 in a
/// new namespace.
const BACKLOG: i32 = 4096;

/// Where sockets come from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) spawner: &'a Spawner,
    /// The service's network namespace.
    pub(super) namespace: BorrowedFd<'a>,
}

/// Listening sockets, one for each port, in the order of the plan.
#[derive(Debug)]
pub(super) struct Listening {
    sockets: Vec<(u16, OwnedFd)>,
}

impl Listening {
    /// Listens, with those of `kept` that are of the right port, as far as the run before has left them of use.
    pub(super) fn open(source: Source<'_>, listen: &[Listen], kept: Option<&Self>) -> Result<Self, Failure> {
        let mut sockets = Vec::new();
        for Listen { port, name: _ } in listen {
            let stage = || format!("listening on port {port}");
            let kept = kept.and_then(|kept| kept.sockets.iter().find(|(of, _)| of == port));
            let socket = match kept.filter(|(port, socket)| is_good(*port, socket)) {
                Some((_, socket)) => socket.try_clone().stage(stage())?,
                None => Self::listen(source, *port)?,
            };
            sockets.push((*port, socket));
        }
        Ok(Self { sockets })
    }

    /// Listens in a group with `old`, which gets everything but what our probes send.
    pub(super) fn beside(source: Source<'_>, listen: &[Listen], old: Option<&Self>) -> Result<Self, Failure> {
        for (port, socket) in old.map_or(&[][..], |old| &old.sockets) {
            // Before there is a second one: nothing goes astray in between.
            listener::choose(socket.as_fd(), Choice::FirstBut { tos: PROBE_TOS })
                .stage(format!("choosing who gets the connections to port {port}"))?;
        }
        Self::open(source, listen, None)
    }

    fn listen(source: Source<'_>, port: u16) -> Result<OwnedFd, Failure> {
        let stage = || format!("listening on port {port}");
        let socket = source.spawner.socket(SocketKind::Tcp, Some(source.namespace))?;
        listener::listen(socket.as_fd(), SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port), BACKLOG)
            .stage(stage())?;
        Ok(socket)
    }

    /// Makes them what they were at first, whatever the run before has done with them, as far as that can be done; says
    /// whether they all are. The others are of no use to anybody.
    pub(super) fn restore(&self) -> bool {
        self.sockets.iter().fold(true, |all, (port, socket)| is_good(*port, socket) && all)
    }

    /// Makes them what a program expects: they listen, and block. Copies of them to pass on.
    pub(super) fn ready(&self) -> Result<Vec<OwnedFd>, Failure> {
        let ready = |(port, socket): &(u16, OwnedFd)| {
            let make = || -> io::Result<OwnedFd> {
                if !sockopt::socket_acceptconn(socket)? {
                    rustix::net::listen(socket, BACKLOG)?;
                }
                rustix::io::ioctl_fionbio(socket, false)?;
                socket.try_clone()
            };
            make().stage(format!("listening on port {port}"))
        };
        self.sockets.iter().map(ready).collect()
    }

    /// From now on they get all new connections.
    pub(super) fn take_over(&self) -> io::Result<()> {
        self.sockets.iter().try_for_each(|(_, socket)| listener::choose(socket.as_fd(), Choice::Second))
    }

    /// Stops listening, whoever has a copy of them.
    pub(super) fn shut(&self) {
        for (_, socket) in &self.sockets {
            // One that does not listen any more is what is wanted.
            let _ = rustix::net::shutdown(socket, Shutdown::Both);
        }
    }

    /// How many connections wait in them.
    pub(super) fn waiting(&self) -> u64 {
        self.sockets.iter().map(|(_, socket)| u64::from(listener::waiting(socket.as_fd()).unwrap_or(0))).sum()
    }

    /// Whether they are those of this list, in its order.
    pub(super) fn is_of(&self, listen: &[Listen]) -> bool {
        self.sockets.iter().map(|(port, _)| port).eq(listen.iter().map(|listen| &listen.port))
    }

    /// Whether one of them is of this port.
    pub(super) fn has(&self, port: u16) -> bool {
        self.sockets.iter().any(|(of, _)| *of == port)
    }
}
