//! How a service starts.
//!
//! ```text
//! supervisor ──fork, before the runtime──▶ spawner     in U1, in the router's network namespace
//!     │                                      │ clone3(NEWNS|NEWNET|PARENT), one per service
//!     │◀───────────channel─────────────▶ launcher      holds the service's network namespace, its v1
//!     │                                      │         cgroups, and its template (nothing else is mounted)
//!     │                                      │ clone3(NEWNS|NEWPID|NEWUTS|NEWIPC|NEWCGROUP|PARENT|INTO_CGROUP)
//!     │◀───────────channel─────────────▶ ws-init       process 1 of one run, in U2, locked down
//!     │                                      │ fork
//!     └──────────pidfd────────────────▶ the service
//! ```
//!
//! **U1** is one user namespace per instance, owner of every other namespace. As root it maps a range of
//! host ids that is this instance's alone; rootless, only the caller's id. **U2** is the service's own,
//! without any right over what U1 owns; no further user namespace can be made in it.
//!
//! Everything is said over sequenced-packet sockets whose other end the supervisor alone holds: when it
//! dies, however it dies, spawner, launchers and inits read end-of-file and exit, and with process 1 of a
//! pid namespace the kernel kills all others of it.
//!
//! Init also answers the calls that the filter asks about (`trips`), and lays decoys (`bait`).
//!
//! All of spawner, launcher and init are single-threaded copies of the supervisor from before its runtime
//! started, so they are ordinary safe Rust.

mod bait;
mod files;
pub mod init;
pub mod launcher;
pub mod layout;
pub mod protocol;
pub mod sources;
pub mod spawner;
mod trips;
