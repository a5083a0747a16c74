//! Readiness of file descriptors in tokio: the one place where a descriptor is registered.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor whose readability is awaited: a pidfd, a sequenced-packet socket, an eventfd.
#[derive(Debug)]
pub struct Readable {
    inner: AsyncFd<OwnedFd>,
}

impl Readable {
    /// Registers `fd` with the current runtime. The descriptor should be non-blocking when it is read.
    ///
    /// # Errors
    /// When the kernel does not let the descriptor be polled.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: an `OwnedFd` is open until it is dropped, gives the same number each time, and is
        // moved into the `AsyncFd`, which never hands it out but by `into_inner`, which ends the
        // registration first.
        let inner = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Self { inner })
    }

    /// Waits until the descriptor is readable (or hung up); a level, not an edge.
    ///
    /// # Errors
    /// When the runtime shuts down.
    pub async fn readable(&self) -> io::Result<()> {
        let mut guard = self.inner.readable().await?;
        guard.retain_ready();
        Ok(())
    }

    /// Waits until `read` gives something other than [`io::ErrorKind::WouldBlock`].
    ///
    /// # Errors
    /// What `read` gives.
    pub async fn read_with<T>(&self, mut read: impl FnMut(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        loop {
            let mut guard = self.inner.readable().await?;
            match guard.try_io(|inner| read(inner.get_ref().as_fd())) {
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }
}

impl AsFd for Readable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.get_ref().as_fd()
    }
}

impl AsRawFd for Readable {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.inner.get_ref().as_raw_fd()
    }
}
