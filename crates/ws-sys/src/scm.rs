//! Messages with file descriptors between processes: a sequenced-packet unix socket (unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};

/// The most descriptors that one message carries (`SCM_MAX_FD` is 253).
pub const MAX_FDS: usize = 250;

/// The longest message; longer data go in a memfd.
pub const MAX_MESSAGE: usize = 16 * 1024;

/// One end of a pair of connected sequenced-packet sockets.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// A message as it came.
#[derive(Debug)]
pub struct Message {
    /// The bytes; empty: the other end is closed.
    pub bytes: Vec<u8>,
    /// The descriptors, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

impl Channel {
    /// A connected pair; both ends are blocking.
    ///
    /// # Errors
    /// When the process has too many descriptors.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self(a), Self(b)))
    }

    /// Takes a socket that was received or inherited.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Sends one message.
    ///
    /// # Errors
    /// When the other end is closed (`EPIPE`) or the message is too long.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        send_on(self.0.as_fd(), bytes, fds)
    }

    /// Waits for one message. Empty bytes: the other end is closed.
    ///
    /// # Errors
    /// When the socket fails, or a message was longer than [`MAX_MESSAGE`].
    pub fn recv(&self) -> io::Result<Message> {
        recv_on(self.0.as_fd(), MsgFlags::empty())
    }

    /// Takes one message if there is one.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if there is none, else as [`Channel::recv`].
    pub fn try_recv(&self) -> io::Result<Message> {
        recv_on(self.0.as_fd(), MsgFlags::MSG_DONTWAIT)
    }

    /// The socket.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Sends one message on any sequenced-packet socket; as [`Channel::send`].
///
/// # Errors
/// As [`Channel::send`].
pub fn send_on(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let sent = loop {
        let flags = MsgFlags::MSG_NOSIGNAL;
        match sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None) {
            Err(nix::errno::Errno::EINTR) => {}
            other => break other?,
        }
    };
    if sent == bytes.len() { Ok(()) } else { Err(io::Error::other("a message was cut short")) }
}

/// Receives one message, without waiting; as [`Channel::try_recv`].
///
/// # Errors
/// As [`Channel::try_recv`].
pub fn try_recv_on(socket: BorrowedFd<'_>) -> io::Result<Message> {
    recv_on(socket, MsgFlags::MSG_DONTWAIT)
}

fn recv_on(socket: BorrowedFd<'_>, flags: MsgFlags) -> io::Result<Message> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut space = nix::cmsg_space!([RawFd; MAX_FDS]);
    let (length, fds, cut) = loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
            Ok(message) => {
                let mut fds = Vec::new();
                for control in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(raw) = control {
                        for fd in raw {
                            // SAFETY: the kernel has just installed this descriptor for us and nobody
                            // else knows its number.
                            fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
                        }
                    }
                }
                let cut = message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC);
                break (message.bytes, fds, cut);
            }
        }
    };
    if cut {
        return Err(io::Error::other("a message was too long"));
    }
    bytes.truncate(length);
    Ok(Message { bytes, fds })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn descriptors_travel_with_messages() {
        let (a, b) = Channel::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        a.send(b"hello", &[writer.as_fd()]).unwrap();
        drop(writer);
        let message = b.recv().unwrap();
        assert_eq!(message.bytes, b"hello");
        let mut fds = message.fds;
        let mut writer = io::PipeWriter::from(fds.remove(0));
        writer.write_all(b"x").unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
        assert_eq!(b.try_recv().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(a);
        assert!(b.recv().unwrap().bytes.is_empty());
    }
}
