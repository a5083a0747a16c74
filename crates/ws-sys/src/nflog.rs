//! Packets that a rule logged (NFLOG, nfnetlink_log): binding to a group, and reading what comes.
//!
//! A group is bound in the network namespace in which the socket was made. Messages come at once, one for each
//! packet, as long as the receive buffer has room; when it has none the kernel drops them, and says so once
//! ([`Received::Lost`]) without saying how many: whoever must know counts by the rules' own counters
//! ([`crate::nft::counters`]).
//!
//! The kernel's messages and the packets in them are parsed with bounds checks; no sequence of bytes makes the
//! parser panic. Never opens a socket, and never decides what a packet means.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::RecvFlags;

use crate::netlink::{Batch, Error, Malformed, Message, Socket, messages};

/// `NFNL_SUBSYS_ULOG` in the upper byte of a message's type.
const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_ULOG as u16) << 8;
const PACKET: u16 = SUBSYSTEM | libc::NFULNL_MSG_PACKET as u16;
const CONFIG: u16 = SUBSYSTEM | libc::NFULNL_MSG_CONFIG as u16;
/// `struct nfgenmsg`
const HEADER: usize = 4;

/// How many bytes a buffer for [`receive`] should have: more than the kernel puts into one message.
pub const BUFFER: usize = 8 << 10;

/// Binds a `NETLINK_NETFILTER` socket that was not used yet to a group: from here on it receives a message for each
/// packet that is logged there, with at most `copy` bytes of it. One group has one listener.
///
/// # Errors
/// [`Error::Refused`] with `EBUSY` when somebody else listens there; `EPERM` without `CAP_NET_ADMIN` in the namespace.
pub fn bind(fd: OwnedFd, group: u16, copy: u32) -> Result<OwnedFd, Error> {
    let mut socket = Socket::new(fd)?;
    let mut batch = Batch::new();
    batch.push(CONFIG, 0, |b| {
        let [high, low] = group.to_be_bytes();
        let [c0, c1, c2, c3] = copy.to_be_bytes();
        b.raw(&[libc::AF_UNSPEC as u8, 0, high, low])
            .u8(libc::NFULA_CFG_CMD as u16, libc::NFULNL_CFG_CMD_BIND as u8)
            .attr(libc::NFULA_CFG_MODE as u16, &[c0, c1, c2, c3, libc::NFULNL_COPY_PACKET as u8, 0])
            // Without it the kernel gathers messages for up to a second.
            .be32(libc::NFULA_CFG_QTHRESH as u16, 1);
    });
    socket.run(&mut batch)?;
    Ok(socket.into_fd())
}

/// What was read from a bound socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// This many bytes of messages, at the beginning of the buffer: for [`packets`].
    Messages(usize),
    /// The kernel had to drop messages; how many, it does not say.
    Lost,
}

/// Reads one datagram without waiting.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] when nothing is there.
pub fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    loop {
        match rustix::net::recv(fd, &mut *buffer, RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
            Ok((_, len)) if len <= buffer.len() => return Ok(Received::Messages(len)),
            Ok(_) | Err(rustix::io::Errno::NOBUFS) => return Ok(Received::Lost),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A packet that was logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The text of the rule; what is not UTF-8 is replaced.
    pub prefix: String,
    /// Its type as in a frame (`0x0800` for IPv4); 0 when it is not told.
    pub ether_type: u16,
    /// The index of the interface that it came from: that of the bridge when it came by one of its ports.
    pub input: Option<u32>,
    /// The index of the bridge's port that it came from. Only the kernel knows it, so nobody forges it.
    pub port: Option<u32>,
    /// The hardware address that the frame says it is from.
    pub sender: Option<[u8; 6]>,
    /// The user of the socket that sent it, as the listener's user namespace counts; of packets that were made here.
    pub uid: Option<u32>,
    /// The beginning of it, from the network header on.
    pub payload: &'a [u8],
}

/// The packets in what [`receive`] has put into the buffer. What is no such message is passed over; what is malformed
/// ends it.
pub fn packets(bytes: &[u8]) -> impl Iterator<Item = Result<Packet<'_>, Malformed>> {
    messages(bytes).filter_map(|message| match message {
        Ok(message) if message.kind == PACKET => Some(packet(&message)),
        Ok(_) => None,
        Err(malformed) => Some(Err(malformed)),
    })
}

fn packet<'a>(message: &Message<'a>) -> Result<Packet<'a>, Malformed> {
    let mut packet = Packet {
        prefix: String::new(),
        ether_type: 0,
        input: None,
        port: None,
        sender: None,
        uid: None,
        payload: &[],
    };
    for attr in message.attrs_after(HEADER)? {
        let attr = attr?;
        match libc::c_int::from(attr.kind) {
            libc::NFULA_PACKET_HDR => {
                let kind: [u8; 2] =
                    attr.bytes.get(..2).and_then(|b| b.try_into().ok()).ok_or(Malformed::Value)?;
                packet.ether_type = u16::from_be_bytes(kind);
            }
            libc::NFULA_IFINDEX_INDEV => packet.input = Some(attr.be32()?),
            libc::NFULA_IFINDEX_PHYSINDEV => packet.port = Some(attr.be32()?),
            // `struct nfulnl_msg_packet_hw`: the length, two bytes of nothing, the address.
            libc::NFULA_HWADDR => {
                let address = attr.bytes.strip_prefix(&[0, 6]).and_then(|rest| rest.get(2..8));
                packet.sender = address.and_then(|address| address.try_into().ok());
            }
            libc::NFULA_UID => packet.uid = Some(attr.be32()?),
            libc::NFULA_PREFIX => packet.prefix = attr.text()?,
            libc::NFULA_PAYLOAD => packet.payload = attr.bytes,
            _ => {}
        }
    }
    Ok(packet)
}

/// What the headers of an IPv4 packet say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4 {
    /// Who sent it, as it says itself.
    pub source: Ipv4Addr,
    /// To whom.
    pub destination: Ipv4Addr,
    /// The number of the transport protocol.
    pub protocol: u8,
    /// The ports of source and destination, of TCP, UDP and their like; of a later fragment they are not known.
    pub ports: Option<(u16, u16)>,
}

/// Reads the headers of an IPv4 packet, of which the beginning may be all that there is; `None` when it is none.
#[must_use]
pub fn ipv4(packet: &[u8]) -> Option<Ipv4> {
    const SHORTEST: usize = 20;
    let header = packet.get(..SHORTEST)?;
    let length = usize::from(header[0] & 0xf) * 4;
    if header[0] >> 4 != 4 || length < SHORTEST {
        return None;
    }
    let be16 = |bytes: &[u8], at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    let protocol = header[9];
    let first_fragment = be16(packet, 6)? & 0x1fff == 0;
    let has_ports = matches!(
        i32::from(protocol),
        libc::IPPROTO_TCP
            | libc::IPPROTO_UDP
            | libc::IPPROTO_SCTP
            | libc::IPPROTO_DCCP
            | libc::IPPROTO_UDPLITE
    );
    let ports = || Some((be16(packet, length)?, be16(packet, length + 2)?));
    Some(Ipv4 {
        source: address(12)?,
        destination: address(16)?,
        protocol,
        ports: (first_fragment && has_ports).then(ports).flatten(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A SYN from 10.77.1.2:40000 to 10.77.3.4:5432, as the kernel gives it.
    const SYN: [u8; 44] = [
        0x45, 0, 0, 60, 1, 2, 0x40, 0, 64, 6, 0, 0, 10, 77, 1, 2, 10, 77, 3, 4, 0x9c, 0x40, 0x15, 0x38, 0, 0,
        0, 1, 0, 0, 0, 0, 0xa0, 2, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 5, 0xb4,
    ];

    /// A message as the kernel writes it (nfnetlink_log.c, `__build_packet_message`).
    fn message() -> Batch {
        let mut batch = Batch::new();
        batch.push(PACKET, 0, |b| {
            b.raw(&[2, 0, 0, 5])
                .attr(1, &[8, 0, 3, 0])
                .text(10, "ws-denied")
                .be32(4, 100)
                .be32(6, 1007)
                .attr(8, &[0, 6, 0, 0, 2, 1, 2, 3, 4, 5, 0, 0])
                .be32(11, 1000)
                .be32(14, 1000)
                .attr(9, &SYN);
        });
        batch
    }

    #[test]
    fn a_logged_packet_is_read_as_the_kernel_wrote_it() {
        let batch = message();
        let all: Vec<_> = packets(batch.as_bytes()).collect();
        let expected = Packet {
            prefix: "ws-denied".to_owned(),
            ether_type: 0x0800,
            input: Some(100),
            port: Some(1007),
            sender: Some([2, 1, 2, 3, 4, 5]),
            uid: Some(1000),
            payload: &SYN,
        };
        assert_eq!(all, [Ok(expected)]);
        let expected = Ipv4 {
            source: Ipv4Addr::new(10, 77, 1, 2),
            destination: Ipv4Addr::new(10, 77, 3, 4),
            protocol: 6,
            ports: Some((40_000, 5432)),
        };
        assert_eq!(ipv4(&SYN), Some(expected));
    }

    #[test]
    fn what_is_not_told_is_not_made_up() {
        let mut batch = Batch::new();
        batch.push(PACKET, 0, |b| {
            b.raw(&[0; 4]);
        });
        // An acknowledgement among them is no packet.
        batch.push(libc::NLMSG_ERROR as u16, 0, |b| {
            b.raw(&[0; 20]);
        });
        let all: Vec<_> = packets(batch.as_bytes()).map(Result::unwrap).collect();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].port, all[0].sender, all[0].uid, all[0].payload), (None, None, None, &[][..]));
        // A later fragment has no ports; neither has what was cut, nor a protocol without any.
        let mut later = SYN;
        later[7] = 1;
        let mut icmp = SYN;
        icmp[9] = 1;
        for packet in [&later[..], &icmp[..], &SYN[..22]] {
            assert_eq!(ipv4(packet).unwrap().ports, None);
        }
        let mut six = SYN;
        six[0] = 0x65;
        let mut short = SYN;
        short[0] = 0x44;
        for packet in [&six[..], &short[..], &SYN[..19], &[]] {
            assert_eq!(ipv4(packet), None);
        }
        // Options move the ports.
        let mut options = SYN.to_vec();
        options[0] = 0x46;
        options.splice(20..20, [1; 4]);
        assert_eq!(ipv4(&options).unwrap().ports, Some((40_000, 5432)));
    }

    fn read_all(bytes: &[u8]) {
        for packet in packets(bytes).flatten() {
            let _ = ipv4(packet.payload);
        }
        let _ = ipv4(bytes);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            read_all(&bytes);
        }

        #[test]
        fn a_damaged_message_is_read_without_a_panic(
            damage in proptest::collection::vec((0_usize..160, any::<u8>()), 1..8),
            cut in 0_usize..160,
        ) {
            let mut bytes = message().as_bytes().to_vec();
            for (at, byte) in damage {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            bytes.truncate(cut);
            read_all(&bytes);
        }
    }
}
