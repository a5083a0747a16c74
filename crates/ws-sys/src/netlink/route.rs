//! The messages of `NETLINK_ROUTE` (rtnetlink(7)) that make a link between two network namespaces.
//!
//! Most functions only encode: they add messages to a [`Batch`], which a [`Socket`] then runs. Interface
//! indexes are chosen by the caller, for both ends, so that everything can be prepared without asking the
//! kernel in between.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{Batch, Body, Error, Malformed, Message, Socket};

/// The index of the loopback interface: the first of every namespace.
pub const LOOPBACK: u32 = 1;

const CREATE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
/// Size of `struct ifinfomsg`.
const LINK_HEADER: usize = 16;
const UP: u32 = libc::IFF_UP as u32;
const OPER_UP: u8 = 6; // IF_OPER_UP of linux/if.h

/// A pair of virtual interfaces: one here, in a bridge and up; the other, still down, in another namespace.
#[derive(Debug, Clone, Copy)]
pub struct Veth<'a> {
    /// The index here; must be free.
    pub index: u32,
    /// The name here, at most 15 bytes.
    pub name: &'a str,
    /// The index of the bridge here.
    pub bridge: u32,
    /// The other end's index; must be free in its namespace.
    pub peer_index: u32,
    /// The other end's name, at most 15 bytes.
    pub peer_name: &'a str,
    /// The other end's hardware address.
    pub peer_mac: [u8; 6],
    /// The other end's namespace.
    pub peer_namespace: BorrowedFd<'a>,
}

/// Makes a pair. One queue each: the kernel would make one for each processor, with objects in sysfs that
/// cost more than the pair itself on a large machine, and a link between two processes uses one at a time.
///
/// The peer cannot be made up already (`ENOTCONN`), nor a port's flags be set in the message that makes it.
pub fn add_veth(batch: &mut Batch, veth: &Veth<'_>) -> usize {
    batch.push(libc::RTM_NEWLINK, CREATE, |b| {
        link_header(b, veth.index, UP, UP);
        b.text(libc::IFLA_IFNAME, veth.name).u32(libc::IFLA_MASTER, veth.bridge);
        one_queue(b);
        b.nest(libc::IFLA_LINKINFO, |b| {
            b.text(libc::IFLA_INFO_KIND, "veth").nest(libc::IFLA_INFO_DATA, |b| {
                const PEER: u16 = 1; // VETH_INFO_PEER
                b.nest(PEER, |b| {
                    link_header(b, veth.peer_index, 0, 0);
                    b.text(libc::IFLA_IFNAME, veth.peer_name)
                        .attr(libc::IFLA_ADDRESS, &veth.peer_mac)
                        .u32(libc::IFLA_NET_NS_FD, veth.peer_namespace.as_raw_fd().cast_unsigned());
                    one_queue(b);
                });
            });
        });
    })
}

/// Makes the port `index` of a bridge one that only the bridge itself talks with: isolated from other
/// isolated ports, learning nothing, flooded with nothing.
/// Then nothing reaches it without an [`add_bridge_entry`].
pub fn isolate_port(batch: &mut Batch, index: u32) -> usize {
    // IFLA_BRPORT_* of linux/if_link.h.
    const LEARNING: u16 = 8;
    const UNICAST_FLOOD: u16 = 9;
    const MULTICAST_FLOOD: u16 = 27;
    const BROADCAST_FLOOD: u16 = 30;
    const ISOLATED: u16 = 33;
    batch.push(libc::RTM_NEWLINK, 0, |b| {
        link_header(b, index, 0, 0);
        b.nest(libc::IFLA_LINKINFO, |b| {
            b.text(libc::IFLA_INFO_SLAVE_KIND, "bridge").nest(libc::IFLA_INFO_SLAVE_DATA, |b| {
                b.u8(ISOLATED, 1);
                for off in [LEARNING, UNICAST_FLOOD, MULTICAST_FLOOD, BROADCAST_FLOOD] {
                    b.u8(off, 0);
                }
            });
        });
    })
}

/// Tells a bridge that `mac` is behind its port `index`, for good.
pub fn add_bridge_entry(batch: &mut Batch, index: u32, mac: [u8; 6]) -> usize {
    neighbour(batch, libc::AF_BRIDGE, index, libc::NUD_NOARP, libc::NTF_MASTER, |b| {
        b.attr(libc::NDA_LLADDR, &mac);
    })
}

/// Tells the interface `index` that `address` has the hardware address `mac`, for good: nobody is asked,
/// and nobody's answer changes it.
pub fn add_neighbour(batch: &mut Batch, index: u32, address: Ipv4Addr, mac: [u8; 6]) -> usize {
    neighbour(batch, libc::AF_INET, index, libc::NUD_PERMANENT, 0, |b| {
        b.attr(libc::NDA_DST, &address.octets()).attr(libc::NDA_LLADDR, &mac);
    })
}

/// Gives the interface `index` an address of its own (`/32`).
pub fn add_address(batch: &mut Batch, index: u32, address: Ipv4Addr) -> usize {
    batch.push(libc::RTM_NEWADDR, CREATE, |b| {
        let mut header = [libc::AF_INET as u8, 32, 0, libc::RT_SCOPE_UNIVERSE, 0, 0, 0, 0];
        header[4..].copy_from_slice(&index.to_ne_bytes());
        b.raw(&header).attr(libc::IFA_LOCAL, &address.octets()).attr(libc::IFA_ADDRESS, &address.octets());
    })
}

/// Takes an [`add_address`] back.
pub fn delete_address(batch: &mut Batch, index: u32, address: Ipv4Addr) -> usize {
    batch.push(libc::RTM_DELADDR, 0, |b| {
        let mut header = [libc::AF_INET as u8, 32, 0, libc::RT_SCOPE_UNIVERSE, 0, 0, 0, 0];
        header[4..].copy_from_slice(&index.to_ne_bytes());
        b.raw(&header).attr(libc::IFA_LOCAL, &address.octets()).attr(libc::IFA_ADDRESS, &address.octets());
    })
}

/// Brings the interface `index` up.
pub fn set_up(batch: &mut Batch, index: u32) -> usize {
    batch.push(libc::RTM_SETLINK, 0, |b| link_header(b, index, UP, UP))
}

/// Adds a route to `address` as a neighbour on the interface `index`.
pub fn add_host_route(batch: &mut Batch, index: u32, address: Ipv4Addr) -> usize {
    route(batch, 32, libc::RT_SCOPE_LINK, |b| {
        b.attr(libc::RTA_DST, &address.octets()).u32(libc::RTA_OIF, index);
    })
}

/// Adds the default route, through `gateway` on the interface `index`.
pub fn add_default_route(batch: &mut Batch, index: u32, gateway: Ipv4Addr) -> usize {
    route(batch, 0, libc::RT_SCOPE_UNIVERSE, |b| {
        b.attr(libc::RTA_GATEWAY, &gateway.octets()).u32(libc::RTA_OIF, index);
    })
}

/// Takes away the interface `index`, and with a pair the other end.
pub fn delete_link(batch: &mut Batch, index: u32) -> usize {
    batch.push(libc::RTM_DELLINK, 0, |b| link_header(b, index, 0, 0))
}

/// Takes an [`add_neighbour`] back.
pub fn delete_neighbour(batch: &mut Batch, index: u32, address: Ipv4Addr) -> usize {
    batch.push(libc::RTM_DELNEIGH, 0, |b| {
        neighbour_header(b, libc::AF_INET, index, 0, 0);
        b.attr(libc::NDA_DST, &address.octets());
    })
}

/// Takes an [`add_host_route`] back.
pub fn delete_host_route(batch: &mut Batch, index: u32, address: Ipv4Addr) -> usize {
    batch.push(libc::RTM_DELROUTE, 0, |b| {
        route_header(b, 32, libc::RT_SCOPE_LINK);
        b.attr(libc::RTA_DST, &address.octets()).u32(libc::RTA_OIF, index);
    })
}

/// The indexes of all ports of bridges that forward frames.
///
/// A port begins to only some time after its link is up: the kernel leaves that to a work queue, and drops
/// what comes before it had its turn. Its state in the bridge is not enough to know: as long as the queue has not had
/// its first turn, a port counts as one that may be up, and stands as forwarding from the beginning.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn forwarding_ports(socket: &mut Socket) -> Result<BTreeSet<u32>, Error> {
    const STATE: u16 = 1; // IFLA_BRPORT_STATE
    const FORWARDING: u8 = 3; // BR_STATE_FORWARDING
    let mut request = Batch::new();
    request.push(libc::RTM_GETLINK, 0, |b| {
        let mut header = [0; LINK_HEADER];
        header[0] = libc::AF_BRIDGE as u8;
        b.raw(&header);
    });
    let mut found = BTreeSet::new();
    socket.dump(&mut request, |message| {
        let port = match message.attrs_after(LINK_HEADER)?.find_kind(libc::IFLA_PROTINFO) {
            Ok(port) => port,
            // The bridge itself.
            Err(Malformed::Missing) => return Ok(()),
            Err(other) => return Err(other),
        };
        let works = message.attrs_after(LINK_HEADER)?.find_kind(libc::IFLA_OPERSTATE)?.bytes == [OPER_UP];
        if works && port.attrs().find_kind(STATE)?.bytes == [FORWARDING] {
            found.insert(index_of(message)?);
        }
        Ok(())
    })?;
    Ok(found)
}

/// Asks whether the interface `index` works: it is up, its link is there, and what is sent on it is not dropped any
/// more.
///
/// The kernel leaves that to a work queue too (see [`forwarding_ports`]); since 6.8 a question makes it do the work of
/// this interface first.
///
/// # Errors
/// When there is no such interface, or the kernel cannot be asked.
pub fn settle(socket: &mut Socket, index: u32) -> Result<bool, Error> {
    let mut request = Batch::new();
    request.push(libc::RTM_GETLINK, 0, |b| link_header(b, index, 0, 0));
    let mut works = false;
    socket.ask(&mut request, |message| {
        works = message.attrs_after(LINK_HEADER)?.find_kind(libc::IFLA_OPERSTATE)?.bytes == [OPER_UP];
        Ok(())
    })?;
    Ok(works)
}

fn index_of(message: &Message<'_>) -> Result<u32, Malformed> {
    let bytes = message.payload.get(4..8).and_then(|bytes| bytes.try_into().ok());
    bytes.map(u32::from_ne_bytes).ok_or(Malformed::Message)
}

/// `struct ifinfomsg`.
fn link_header(b: &mut Body<'_>, index: u32, flags: u32, change: u32) {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&change.to_ne_bytes());
    b.raw(&header);
}

fn one_queue(b: &mut Body<'_>) {
    b.u32(libc::IFLA_NUM_TX_QUEUES, 1).u32(libc::IFLA_NUM_RX_QUEUES, 1);
}

/// `struct ndmsg` and what follows.
fn neighbour(
    batch: &mut Batch,
    family: libc::c_int,
    index: u32,
    state: u16,
    flags: u8,
    attrs: impl FnOnce(&mut Body<'_>),
) -> usize {
    batch.push(libc::RTM_NEWNEIGH, (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16, |b| {
        neighbour_header(b, family, index, state, flags);
        attrs(b);
    })
}

/// `struct ndmsg`.
fn neighbour_header(b: &mut Body<'_>, family: libc::c_int, index: u32, state: u16, flags: u8) {
    let mut header = [0; 12];
    header[0] = family as u8;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    header[10] = flags;
    b.raw(&header);
}

/// `struct rtmsg` and what follows.
fn route(batch: &mut Batch, prefix: u8, scope: u8, attrs: impl FnOnce(&mut Body<'_>)) -> usize {
    batch.push(libc::RTM_NEWROUTE, CREATE, |b| {
        route_header(b, prefix, scope);
        attrs(b);
    })
}

/// `struct rtmsg`.
fn route_header(b: &mut Body<'_>, prefix: u8, scope: u8) {
    let (main, made_by, unicast) = (libc::RT_TABLE_MAIN, libc::RTPROT_STATIC, libc::RTN_UNICAST);
    b.raw(&[libc::AF_INET as u8, prefix, 0, 0, main, made_by, scope, unicast, 0, 0, 0, 0]);
}
