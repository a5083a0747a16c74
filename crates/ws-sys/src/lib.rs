//! Safe wrappers over the Linux interfaces that `ws` needs.
//!
//! The only crate with `unsafe`; every block says why it is sound. Knows no concept of `ws`: it could
//! serve another project. Takes and gives owned or borrowed file descriptors, never raw integers; every
//! descriptor is close-on-exec from birth.

pub mod aio;
pub mod attempt;
pub mod cgroup;
pub mod idmap;
pub mod inotify;
pub mod landlock;
pub mod listener;
pub mod lockdown;
pub mod mount;
pub mod netlink;
pub mod nflog;
pub mod nft;
pub mod probe;
pub mod process;
pub mod scm;
pub mod seccomp;
