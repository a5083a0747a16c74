//! The vocabulary of `ws`.
//!
//! Owns the words that every other crate uses: names that were checked once, the validated
//! [`Workspace`], the phases of a service, the [`Event`] that every surface renders, the shapes of the
//! control protocol and the exit codes.
//!
//! Never does IO, never decides anything, and knows neither YAML nor Linux. Types that cross a
//! process boundary ([`event`], [`wire`]) are serializable and promised by a schema in `schemas/`;
//! the rest is not serializable and free to change.
//!
//! Read [`workspace`] first.

pub mod event;
pub mod exit;
pub mod instance;
pub mod name;
pub mod policy;
pub mod problem;
pub mod units;
pub mod version;
pub mod wire;
pub mod workspace;

pub use event::{
    Cause, Event, EventKind, ExitReason, Phase, PlanEffect, PlanLine, Reason, ReloadAction, ReloadResult,
    Timestamp, Trigger,
};
pub use instance::InstanceId;
pub use name::{NameError, SecretName, ServiceName, VolumeName, WorkspaceName};
pub use policy::{
    Accept, Evidence, FileAct, Mechanism, Need, NetworkAct, Offender, Policy, PolicyAction, PolicyRule,
    Posture, Suggestion, Violation, ViolationClass, ViolationRow, Wish,
};
pub use problem::{ConfigPath, Problem, Severity};
pub use units::{ByteSize, MilliCpus, Subnet};
pub use version::{Version, VersionRange};
pub use workspace::{
    Borrowed, Build, BuildRef, CommandLine, Condition, Dependency, External, ExternalHost, Fetch,
    HookCommand, Hooks, Level, Limits, Link, LinkPorts, Listen, LogRetention, Mount, MountSource,
    PathPattern, Poll, PortProto, Probe, ProbeKind, Protocol, Publish, Reload, Requirement, Restart,
    RestartPolicy, SecretSource, SecretTarget, SecretUse, Service, ServiceKind, Stdin, Stop, Tmpfs,
    VolumeDecl, WatchAction, WatchEntry, Watching, Workspace,
};
