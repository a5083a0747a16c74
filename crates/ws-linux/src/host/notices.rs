//! Listening to what a run says of itself, on the socket that its init has made.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::net::{RecvFlags, recv};
use tokio::task::JoinHandle;
use ws_core::engine::Notified;
use ws_sys::aio::Readable;

use crate::notify::{self, MAX_DATAGRAM, Patience};

/// Listens until it is dropped.
#[derive(Debug)]
pub(super) struct Listener {
    task: JoinHandle<()>,
}

impl Listener {
    /// Begins to listen on a datagram socket; `tell` gets everything that is said, and the same status not twice in a
    /// row.
    pub(super) fn start(
        socket: OwnedFd,
        mut tell: impl FnMut(Notified) + Send + 'static,
    ) -> io::Result<Self> {
        let socket = Readable::new(socket)?;
        let task = tokio::spawn(async move {
            let mut patience = Patience::new(Instant::now());
            let mut status = None;
            let mut buffer = [0; MAX_DATAGRAM];
            loop {
                if let Err(wait) = patience.hear(Instant::now()) {
                    tokio::time::sleep(wait).await;
                    continue;
                }
                // Without room for them, descriptors that come along are closed by the kernel (unix(7)), which is also
                // all that `BARRIER=1` wants. With TRUNC the length is that of the whole datagram.
                let length = socket
                    .read_with(|socket| {
                        Ok(recv(socket, &mut buffer, RecvFlags::DONTWAIT | RecvFlags::TRUNC)?.1)
                    })
                    .await;
                let Ok(length) = length else { break };
                let Some(datagram) = buffer.get(..length) else { continue };
                for news in notify::parse(datagram) {
                    if let Notified::Status(text) = &news {
                        if status.as_ref() == Some(text) {
                            continue;
                        }
                        status = Some(text.clone());
                    }
                    tell(news);
                }
            }
        });
        Ok(Self { task })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn what_is_said_is_told_and_what_comes_along_is_closed() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let (sender, mut told) = mpsc::unbounded_channel();
        let listener = Listener::start(ours.into(), move |news| {
            let _ = sender.send(news);
        })
        .unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        ws_sys::scm::send_on(theirs.as_fd(), b"STATUS=a\nBARRIER=1", &[writer.as_fd()]).unwrap();
        drop(writer);
        theirs.send(b"STATUS=a").unwrap();
        theirs.send(&[b'x'; 2 * MAX_DATAGRAM]).unwrap();
        theirs.send(b"").unwrap();
        theirs.send(b"STATUS=b\nREADY=1").unwrap();
        let status = |text: &str| Notified::Status(text.to_owned());
        for expected in [status("a"), status("b"), Notified::Ready] {
            let news = tokio::time::timeout(Duration::from_secs(20), told.recv()).await.unwrap();
            assert_eq!(news, Some(expected));
        }
        // The descriptor that came along was the last writer.
        assert_eq!(io::Read::read(&mut reader, &mut [0]).unwrap(), 0);
        drop(listener);
        assert_eq!(tokio::time::timeout(Duration::from_secs(20), told.recv()).await.unwrap(), None);
    }
}
