//! Netlink: messages with nested attributes, and a socket that sends them and collects the answers.
//!
//! Owns the wire format (netlink(7)): lengths, padding, sequence numbers, extended acknowledgements. The
//! kernel's answers are parsed with bounds checks; no sequence of bytes makes the parser panic.
//!
//! Never opens a socket: a socket belongs to the network namespace in which it was made, so it is handed in
//! by whoever made it there. Knows no family of messages; those are in [`route`] and [`crate::nft`].

mod parse;
pub mod route;

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvFlags, SendFlags, netlink::SocketAddrNetlink, sockopt};

pub use parse::{Attr, Attrs, Malformed, Message, Messages, attrs, messages};

/// Size of `struct nlmsghdr`.
const HEADER: usize = 16;
/// What lengths and starts are rounded up to.
const ALIGN: usize = 4;
/// `NLA_F_NESTED`: the attribute holds attributes.
const NESTED: u16 = 1 << 15;
/// The buffers that are asked for; without `CAP_NET_ADMIN` in the initial namespace the kernel gives less.
const BUFFER: usize = 4 << 20;
/// The kernel answers while it takes the request, so an answer is there when the send returns. This is for
/// a kernel that is not like that, so that nothing waits for ever.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many messages one send of [`Socket::run`] has: if all of them fail, their errors still fit into the
/// smallest receive buffer.
const PER_SEND: usize = 128;
/// How many bytes one send of [`Socket::run`] has at most; far below the smallest send buffer.
const BYTES_PER_SEND: usize = 64 << 10;

const fn aligned(len: usize) -> usize {
    len.next_multiple_of(ALIGN)
}

/// What went wrong between us and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The descriptor cannot be used.
    #[error("could not prepare the netlink socket")]
    Socket(#[source] io::Error),
    /// A message or attribute is longer than its length field can say; nothing was sent.
    #[error("a netlink message or attribute is too long")]
    TooLong,
    /// The request contradicts itself; nothing was sent.
    #[error("{0}")]
    Invalid(&'static str),
    /// The messages could not be sent.
    #[error("could not send {bytes} bytes of netlink messages")]
    Send {
        /// How many bytes.
        bytes: usize,
        /// Why.
        source: io::Error,
    },
    /// The answer could not be read.
    #[error("could not read the kernel's answer")]
    Receive(#[source] io::Error),
    /// The kernel dropped answers because too many were waiting: what was done is not known.
    #[error("the kernel's answers did not fit into the receive buffer")]
    Lost,
    /// No answer came in time.
    #[error("the kernel did not answer")]
    NoAnswer,
    /// The list changed while it was read; ask again.
    #[error("the list changed while it was read")]
    Changed,
    /// The answer is not netlink.
    #[error("the kernel's answer is malformed")]
    Malformed(#[from] Malformed),
    /// The kernel refused messages.
    #[error("{}", Refusals(.0))]
    Refused(Vec<Refusal>),
}

impl Error {
    /// The refusals, if that is what it is.
    #[must_use]
    pub fn refusals(&self) -> &[Refusal] {
        match self {
            Self::Refused(refusals) => refusals,
            _ => &[],
        }
    }
}

struct Refusals<'a>(&'a [Refusal]);

impl fmt::Display for Refusals<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => write!(f, "the kernel refused"),
            [one] => write!(f, "the kernel refused: {one}"),
            [first, rest @ ..] => write!(f, "the kernel refused: {first} (and {} more)", rest.len()),
        }
    }
}

/// One message that the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which message of the batch, counted from 0.
    pub index: usize,
    /// The error's number, positive.
    pub errno: i32,
    /// What the kernel says about it (extended acknowledgement).
    pub text: Option<String>,
    /// Where in the message the attribute is that it does not like, in bytes from the message's start.
    pub offset: Option<u32>,
    /// The type of that attribute.
    pub attribute: Option<u16>,
    /// The type of an attribute that it misses.
    pub missing: Option<u32>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", io::Error::from_raw_os_error(self.errno))?;
        if let Some(text) = &self.text {
            write!(f, ": {text}")?;
        }
        if let (Some(attribute), Some(offset)) = (self.attribute, self.offset) {
            write!(f, " (attribute {attribute} at byte {offset} of message {})", self.index)?;
        }
        if let Some(missing) = self.missing {
            write!(f, " (attribute {missing} is missing in message {})", self.index)?;
        }
        Ok(())
    }
}

/// Messages that are sent together.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    bytes: Vec<u8>,
    starts: Vec<usize>,
    too_long: bool,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a message of the type `kind` and gives its index. `NLM_F_REQUEST` is set besides `flags`;
    /// `body` writes what follows the header.
    pub fn push(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Body<'_>)) -> usize {
        let start = self.bytes.len();
        self.starts.push(start);
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        body(&mut Body { bytes: &mut self.bytes, too_long: &mut self.too_long });
        match u32::try_from(self.bytes.len() - start) {
            Ok(len) => self.bytes[start..start + 4].copy_from_slice(&len.to_ne_bytes()),
            Err(_) => self.too_long = true,
        }
        self.bytes.resize(aligned(self.bytes.len()), 0);
        self.starts.len() - 1
    }

    /// How many messages there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// The messages as they go to the kernel.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes of some of the messages.
    fn span(&self, messages: &Range<usize>) -> Range<usize> {
        let at = |index: usize| self.starts.get(index).copied().unwrap_or(self.bytes.len());
        at(messages.start)..at(messages.end)
    }

    fn set_seq(&mut self, index: usize, seq: u32) {
        let start = self.starts[index];
        self.bytes[start + 8..start + 12].copy_from_slice(&seq.to_ne_bytes());
    }

    fn add_flags(&mut self, index: usize, flags: i32) {
        let at = self.starts[index] + 6;
        let old = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]);
        self.bytes[at..at + 2].copy_from_slice(&(old | flags as u16).to_ne_bytes());
    }

    /// The type of the attribute that starts `offset` bytes into a message.
    fn attribute_at(&self, index: usize, offset: u32) -> Option<u16> {
        let at = self.starts.get(index)?.checked_add(usize::try_from(offset).ok()?)?.checked_add(2)?;
        let kind = self.bytes.get(at..at.checked_add(2)?)?;
        Some(u16::from_ne_bytes([kind[0], kind[1]]) & !NESTED)
    }
}

/// Writes what follows a message's header, or what an attribute holds. Numbers are in the machine's byte
/// order unless the method's name says otherwise.
#[derive(Debug)]
pub struct Body<'a> {
    bytes: &'a mut Vec<u8>,
    too_long: &'a mut bool,
}

impl Body<'_> {
    /// Bytes that are no attribute (a family's own header), padded.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(aligned(self.bytes.len()), 0);
        self
    }

    /// An attribute with these bytes.
    pub fn attr(&mut self, kind: u16, bytes: &[u8]) -> &mut Self {
        self.put(kind, |body| {
            body.bytes.extend_from_slice(bytes);
        })
    }

    /// An attribute without a value.
    pub fn flag(&mut self, kind: u16) -> &mut Self {
        self.attr(kind, &[])
    }

    /// An attribute with a byte.
    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.attr(kind, &[value])
    }

    /// An attribute with 16 bits.
    pub fn u16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// An attribute with 32 bits.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// An attribute with 16 bits, big endian.
    pub fn be16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// An attribute with 32 bits, big endian.
    pub fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// An attribute with 64 bits, big endian.
    pub fn be64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// An attribute with a text, ended by a NUL.
    pub fn text(&mut self, kind: u16, text: &str) -> &mut Self {
        self.put(kind, |body| {
            body.bytes.extend_from_slice(text.as_bytes());
            body.bytes.push(0);
        })
    }

    /// An attribute that holds attributes.
    pub fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Body<'_>)) -> &mut Self {
        self.put(kind | NESTED, inside)
    }

    fn put(&mut self, kind: u16, inside: impl FnOnce(&mut Body<'_>)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        inside(&mut Body { bytes: &mut *self.bytes, too_long: &mut *self.too_long });
        match u16::try_from(self.bytes.len() - start) {
            Ok(len) => self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes()),
            Err(_) => *self.too_long = true,
        }
        self.bytes.resize(aligned(self.bytes.len()), 0);
        self
    }
}

/// A socket for requests: every one is answered before the call returns.
///
/// It takes answers only from the kernel. It works in the namespace in which its descriptor was made,
/// whatever the namespace of the caller; the kernel wants `CAP_NET_ADMIN` there both of the process that
/// made the descriptor and of the one that sends.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    next_seq: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Takes over a netlink socket that was not used yet.
    ///
    /// # Errors
    /// When `fd` is not a netlink socket, or the kernel is older than extended acknowledgements (4.12).
    pub fn new(fd: OwnedFd) -> Result<Self, Error> {
        prepare(&fd).map_err(Error::Socket)?;
        Ok(Self { fd, next_seq: 1, buffer: vec![0; 64 << 10] })
    }

    /// Gives the descriptor back: for a socket on which messages come by themselves from now on.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Has the kernel carry out every message of the batch, one after the other; a message that it refuses
    /// does not keep it from the next ones of the same send, but no further send follows.
    ///
    /// # Errors
    /// [`Error::Refused`] with every refusal; any other error leaves open how far the kernel got.
    pub fn run(&mut self, batch: &mut Batch) -> Result<(), Error> {
        let mut start = 0;
        while start < batch.len() {
            let mut end = start + 1;
            while end < batch.len()
                && end - start < PER_SEND
                && batch.span(&(start..end + 1)).len() <= BYTES_PER_SEND
            {
                end += 1;
            }
            self.exchange(batch, start..end, end - 1)?;
            start = end;
        }
        Ok(())
    }

    /// Sends all messages of the batch at once, for families where a batch is one transaction. Only the
    /// message `acked` is asked to be acknowledged; refusals are told in any case.
    ///
    /// # Errors
    /// [`Error::Refused`] with every refusal: nothing was done then. [`Error::Send`] with `EMSGSIZE` when the
    /// batch is longer than the send buffer. After any other error it is open whether it was done.
    ///
    /// # Panics
    /// When there is no message `acked`.
    pub fn run_at_once(&mut self, batch: &mut Batch, acked: usize) -> Result<(), Error> {
        let all = 0..batch.len();
        self.exchange(batch, all, acked)
    }

    fn exchange(&mut self, batch: &mut Batch, messages: Range<usize>, acked: usize) -> Result<(), Error> {
        if batch.too_long {
            return Err(Error::TooLong);
        }
        let first = self.next_seq;
        let seq_of = |index: usize| first.wrapping_add((index - messages.start) as u32);
        for index in messages.clone() {
            batch.set_seq(index, seq_of(index));
        }
        self.next_seq = seq_of(messages.end);
        batch.add_flags(acked, libc::NLM_F_ACK);
        self.send(&batch.bytes[batch.span(&messages)])?;

        let mut refused = Vec::new();
        let mut acknowledged = false;
        loop {
            // The kernel has queued all its answers when the send returns: it is read until nothing is
            // there, and waited for only if the one that must come is not among them.
            let wait = if acknowledged || !refused.is_empty() { Duration::ZERO } else { PATIENCE };
            let Some(len) = self.receive(wait)? else { break };
            for message in parse::messages(&self.buffer[..len]) {
                let message = message?;
                let index = message.seq.wrapping_sub(first) as usize;
                if message.kind != libc::NLMSG_ERROR as u16 || index >= messages.len() {
                    continue;
                }
                let index = messages.start + index;
                let ack = parse::Ack::of(&message)?;
                if ack.errno == 0 {
                    acknowledged |= index == acked;
                } else {
                    refused.push(Refusal {
                        index,
                        errno: ack.errno,
                        text: ack.text,
                        offset: ack.offset,
                        attribute: ack.offset.and_then(|offset| batch.attribute_at(index, offset)),
                        missing: ack.missing,
                    });
                }
            }
        }
        if !refused.is_empty() {
            return Err(Error::Refused(refused));
        }
        if acknowledged { Ok(()) } else { Err(Error::NoAnswer) }
    }

    /// Asks for a list: sends the only message of `request` with `NLM_F_DUMP` and gives every message of the
    /// answer to `each`.
    ///
    /// # Errors
    /// [`Error::Changed`] when the list changed meanwhile (part of it was given to `each` then).
    pub fn dump(
        &mut self,
        request: &mut Batch,
        each: impl FnMut(&Message<'_>) -> Result<(), Malformed>,
    ) -> Result<(), Error> {
        self.query(request, libc::NLM_F_DUMP, each)
    }

    /// Asks for one thing: sends the only message of `request` and gives every message of the answer to
    /// `each`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn ask(
        &mut self,
        request: &mut Batch,
        each: impl FnMut(&Message<'_>) -> Result<(), Malformed>,
    ) -> Result<(), Error> {
        self.query(request, libc::NLM_F_ACK, each)
    }

    fn query(
        &mut self,
        request: &mut Batch,
        flags: libc::c_int,
        mut each: impl FnMut(&Message<'_>) -> Result<(), Malformed>,
    ) -> Result<(), Error> {
        if request.too_long {
            return Err(Error::TooLong);
        }
        debug_assert_eq!(request.len(), 1, "a question is one message");
        let seq = self.next_seq;
        self.next_seq = seq.wrapping_add(1);
        request.set_seq(0, seq);
        request.add_flags(0, flags);
        self.send(&request.bytes)?;

        let mut changed = false;
        loop {
            let len = self.receive(PATIENCE)?.ok_or(Error::NoAnswer)?;
            for message in parse::messages(&self.buffer[..len]) {
                let message = message?;
                if message.seq != seq {
                    continue;
                }
                changed |= message.flags & libc::NLM_F_DUMP_INTR as u16 != 0;
                let end = message.kind == libc::NLMSG_DONE as u16;
                if end || message.kind == libc::NLMSG_ERROR as u16 {
                    let ack = parse::Ack::of(&message)?;
                    if ack.errno != 0 {
                        return Err(Error::Refused(vec![Refusal {
                            index: 0,
                            errno: ack.errno,
                            text: ack.text,
                            offset: ack.offset,
                            attribute: ack.offset.and_then(|offset| request.attribute_at(0, offset)),
                            missing: ack.missing,
                        }]));
                    }
                    return if changed { Err(Error::Changed) } else { Ok(()) };
                }
                each(&message)?;
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Error> {
        // The kernel takes a netlink datagram as a whole or not at all.
        rustix::io::retry_on_intr(|| rustix::net::send(&self.fd, bytes, SendFlags::empty()))
            .map(drop)
            .map_err(|errno| Error::Send { bytes: bytes.len(), source: errno.into() })
    }

    /// Reads one datagram into the buffer; `None` when none came within `wait`.
    fn receive(&mut self, wait: Duration) -> Result<Option<usize>, Error> {
        loop {
            let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
            match rustix::net::recv(&self.fd, &mut self.buffer[..], flags) {
                Ok((_, len)) if len <= self.buffer.len() => return Ok(Some(len)),
                Ok(_) => return Err(Error::Lost),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::NOBUFS) => return Err(Error::Lost),
                Err(rustix::io::Errno::AGAIN) => {
                    if wait.is_zero() || !self.readable(wait)? {
                        return Ok(None);
                    }
                }
                Err(errno) => return Err(Error::Receive(errno.into())),
            }
        }
    }

    fn readable(&self, wait: Duration) -> Result<bool, Error> {
        let timeout = Timespec::try_from(wait).map_err(|_| Error::NoAnswer)?;
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(count) => Ok(count > 0),
            Err(rustix::io::Errno::INTR) => Ok(true),
            Err(errno) => Err(Error::Receive(errno.into())),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Hands a netlink socket that was not used yet to the crates around `rtnetlink`; must be called in a tokio
/// runtime, and used in the same.
///
/// # Errors
/// When `fd` is not a netlink socket.
pub fn into_async(fd: OwnedFd) -> io::Result<netlink_sys::TokioSocket> {
    must_be_netlink(&fd)?;
    // SAFETY: the descriptor is open and a netlink socket, and its ownership goes over.
    Ok(unsafe { netlink_sys::TokioSocket::from_raw_fd(fd.into_raw_fd()) })
}

fn must_be_netlink(fd: &OwnedFd) -> io::Result<()> {
    if sockopt::socket_domain(fd)? == rustix::net::AddressFamily::NETLINK {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a netlink socket"))
    }
}

fn prepare(fd: &OwnedFd) -> io::Result<()> {
    must_be_netlink(fd)?;
    set_option(fd, libc::NETLINK_EXT_ACK)?;
    set_option(fd, libc::NETLINK_CAP_ACK)?;
    if sockopt::set_socket_recv_buffer_size_force(fd, BUFFER).is_err() {
        sockopt::set_socket_recv_buffer_size(fd, BUFFER)?;
    }
    if sockopt::set_socket_send_buffer_size_force(fd, BUFFER).is_err() {
        sockopt::set_socket_send_buffer_size(fd, BUFFER)?;
    }
    // Connected to port 0, which is the kernel, it takes datagrams from nobody else.
    rustix::net::connect(fd, &SocketAddrNetlink::new(0, 0))?;
    Ok(())
}

fn set_option(fd: &OwnedFd, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer is to a live `c_int` and the length is its size.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_padding_are_the_kernels() {
        let mut batch = Batch::new();
        batch.push(0x0a0b, 0x0300, |b| {
            b.raw(&[1, 2]).u8(3, 9).nest(4, |b| {
                b.text(5, "abc").flag(6);
            });
        });
        let kind = 0x0a0b_u16.to_ne_bytes();
        let flags = 0x0301_u16.to_ne_bytes();
        let mut expected = Vec::new();
        expected.extend_from_slice(&44_u32.to_ne_bytes());
        expected.extend_from_slice(&[kind[0], kind[1], flags[0], flags[1], 0, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[1, 2, 0, 0]);
        for (len, kind, rest) in
            [(5_u16, 3_u16, &[9_u8, 0, 0, 0][..]), (16, 0x8004, &[]), (8, 5, b"abc\0"), (4, 6, &[])]
        {
            expected.extend_from_slice(&len.to_ne_bytes());
            expected.extend_from_slice(&kind.to_ne_bytes());
            expected.extend_from_slice(rest);
        }
        assert_eq!(batch.as_bytes(), expected);
    }

    #[test]
    fn what_does_not_fit_is_an_error_and_not_a_wrong_length() {
        let mut batch = Batch::new();
        batch.push(1, 0, |b| {
            b.nest(1, |b| {
                for _ in 0..9 {
                    b.attr(2, &[0; 8000]);
                }
            });
        });
        assert!(batch.too_long);
        let mut batch = Batch::new();
        batch.push(1, 0, |b| {
            b.attr(2, &[0; 65_531]);
        });
        assert!(!batch.too_long);
    }

    #[test]
    fn a_socket_of_another_kind_is_refused() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(matches!(Socket::new(one.into()), Err(Error::Socket(_))));
    }

    #[test]
    fn a_refusal_says_what_and_where() {
        let refusal = Refusal {
            index: 3,
            errno: libc::EINVAL,
            text: Some("bad thing".to_owned()),
            offset: Some(36),
            attribute: Some(5),
            missing: None,
        };
        let error = Error::Refused(vec![refusal.clone(), refusal]);
        assert_eq!(
            error.to_string(),
            "the kernel refused: Invalid argument (os error 22): bad thing \
             (attribute 5 at byte 36 of message 3) (and 1 more)"
        );
    }
}
