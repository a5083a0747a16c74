//! What a service must not do, what is done about it, and how it is told: the words of the policy.
//!
//! A violation is a thing that a service tried and the kernel refused, or a limit that it ran into. [`Violation`] is
//! what events and `ws violations` show of it; [`Policy`] is what the file says. Who finds violations and who decides
//! about them stands elsewhere.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{ByteSize, PortProto, ServiceName, Timestamp};

/// What kind of violation: a fixed lower-case word in the file and in every output.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum ViolationClass {
    /// A packet to where no link leads, with an address that is not its own, or a raw socket.
    Network,
    /// It needed more memory than its limit.
    Memory,
    /// It wanted more processes than its limit.
    Pids,
    /// It used more processor time than it should, for a while.
    Cpu,
    /// A system call that no service needs.
    Syscalls,
    /// It touched a file that is there only to be touched by who looks for secrets.
    Decoys,
    /// It executed a program that is not among those that it may.
    Processes,
    /// It wrote where nothing is declared writable.
    Filesystem,
    /// It wrote more output than is read with pleasure.
    Logs,
}

impl ViolationClass {
    /// All of them, in order.
    pub const ALL: [Self; 9] = [
        Self::Network,
        Self::Memory,
        Self::Pids,
        Self::Cpu,
        Self::Syscalls,
        Self::Decoys,
        Self::Processes,
        Self::Filesystem,
        Self::Logs,
    ];

    /// The word that stands in files and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
            Self::Syscalls => "syscalls",
            Self::Decoys => "decoys",
            Self::Processes => "processes",
            Self::Filesystem => "filesystem",
            Self::Logs => "logs",
        }
    }
}

impl fmt::Display for ViolationClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What is done about a violation, from nothing to everything.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum PolicyAction {
    /// Nothing; it is not even looked for.
    Off,
    /// It is told.
    Report,
    /// Its run is killed and counts as a failure, about which its restart policy decides.
    Restart,
    /// Its run is killed and it stays down.
    Kill,
    /// The same, and the workspace goes down.
    Stop,
}

impl PolicyAction {
    /// The word that stands in files and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Report => "report",
            Self::Restart => "restart",
            Self::Kill => "kill",
            Self::Stop => "stop",
        }
    }
}

impl fmt::Display for PolicyAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// By what a violation was seen.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Mechanism {
    /// A rule of nf_tables in the service's own network namespace told it (NFLOG).
    Nflog,
    /// A counter of such a rule: there was more than was told.
    Counter,
    /// A rule of the workspace's router told it, for the interface that it came in by.
    Router,
    /// `memory.events` of the service's control group.
    MemoryEvents,
    /// `memory.oom_control` of the service's control group (version 1).
    OomControl,
    /// `pids.events` of the service's control group.
    PidsEvents,
    /// Its processor time, looked at again and again.
    CpuStat,
    /// The system call filter asked.
    Seccomp,
    /// The file was watched (inotify(7)).
    Inotify,
    /// Its processes were looked at.
    Exec,
    /// The pipe of its output.
    Pipe,
    /// How its run ended.
    Exit,
}

impl Mechanism {
    /// The word that stands in output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nflog => "nflog",
            Self::Counter => "counter",
            Self::Router => "router",
            Self::MemoryEvents => "memory_events",
            Self::OomControl => "oom_control",
            Self::PidsEvents => "pids_events",
            Self::CpuStat => "cpu_stat",
            Self::Seccomp => "seccomp",
            Self::Inotify => "inotify",
            Self::Exec => "exec",
            Self::Pipe => "pipe",
            Self::Exit => "exit",
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What was tried: one kind of evidence for each [`ViolationClass`]. On the wire: `{"what": "network", …}`.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Evidence {
    /// Packets, or a socket for them.
    Network {
        /// What it tried.
        act: NetworkAct,
        /// The transport: `tcp`, `udp`, `icmp`, or the protocol's number.
        protocol: String,
        /// Where to; absent where that is not known.
        destination: Option<IpAddr>,
        /// Which port, where the protocol has ports.
        port: Option<u16>,
        /// Whose address that is, by its name inside: a service, or something external.
        name: Option<String>,
        /// The name that it asked for, where it was a lookup (DNS).
        lookup: Option<String>,
    },
    /// The kernel killed something for its memory limit.
    Memory {
        /// The limit.
        limit_bytes: Option<u64>,
    },
    /// A process or thread more than its limit.
    Pids {
        /// The limit.
        limit: u32,
    },
    /// Processor time.
    Cpu {
        /// How much it used: per cent of one processor.
        percent: u32,
        /// For how long, in milliseconds.
        for_ms: u64,
    },
    /// A system call.
    Syscall {
        /// Its name: `mount`.
        name: String,
        /// What of its arguments makes it one, where that is not the name: `AF_PACKET`, `CLONE_NEWUSER`.
        detail: Option<String>,
        /// What it was answered: `EPERM`.
        answer: String,
    },
    /// A decoy.
    Decoy {
        /// Its path inside.
        path: String,
        /// What was done with it.
        act: FileAct,
    },
    /// A program that was executed.
    Process {
        /// Its path inside.
        executable: String,
    },
    /// A file that is not declared.
    File {
        /// Its path inside.
        path: String,
        /// What was done with it.
        act: FileAct,
    },
    /// Output.
    Logs {
        /// How much of it there was in a second.
        bytes_per_second: u64,
        /// How much there may be.
        limit: u64,
    },
}

/// What a service did on its network.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum NetworkAct {
    /// Sent to where no link leads.
    Sent,
    /// Sent with an address that is not its own.
    Spoofed,
    /// Asked for a raw socket.
    RawSocket,
}

/// What was done with a file.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum FileAct {
    /// Opened or read.
    Opened,
    /// Written, or its mode or times changed, or linked.
    Changed,
    /// Renamed.
    Moved,
    /// Removed.
    Removed,
    /// Made.
    Created,
}

impl FileAct {
    /// The word that stands in output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Changed => "changed",
            Self::Moved => "moved",
            Self::Removed => "removed",
            Self::Created => "created",
        }
    }
}

impl Evidence {
    /// Its class.
    #[must_use]
    pub fn class(&self) -> ViolationClass {
        match self {
            Self::Network { .. } => ViolationClass::Network,
            Self::Memory { .. } => ViolationClass::Memory,
            Self::Pids { .. } => ViolationClass::Pids,
            Self::Cpu { .. } => ViolationClass::Cpu,
            Self::Syscall { .. } => ViolationClass::Syscalls,
            Self::Decoy { .. } => ViolationClass::Decoys,
            Self::Process { .. } => ViolationClass::Processes,
            Self::File { .. } => ViolationClass::Filesystem,
            Self::Logs { .. } => ViolationClass::Logs,
        }
    }

    /// Where it went, as it stands in `links` and in `accept`: `db:5432`, `93.184.216.34:443`, `/home/me/.ssh/id_rsa`,
    /// `mount`. Absent where the class says it all.
    #[must_use]
    pub fn target(&self) -> Option<String> {
        match self {
            Self::Network { destination, port, name, .. } => {
                let host = name.clone().or_else(|| destination.map(|address| address.to_string()))?;
                Some(match port {
                    Some(port) if host.contains(':') => format!("[{host}]:{port}"),
                    Some(port) => format!("{host}:{port}"),
                    None => host,
                })
            }
            Self::Syscall { name, .. } => Some(name.clone()),
            Self::Decoy { path, .. } | Self::File { path, .. } => Some(path.clone()),
            Self::Process { executable } => Some(executable.clone()),
            Self::Memory { .. } | Self::Pids { .. } | Self::Cpu { .. } | Self::Logs { .. } => None,
        }
    }
}

impl fmt::Display for Evidence {
    /// What the service did, as a clause that follows its name: "tried db:5432 (tcp), and no link leads there".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network { act: NetworkAct::RawSocket, protocol, .. } => {
                write!(f, "asked for a raw socket ({protocol})")
            }
            Self::Network { act, protocol, lookup, .. } => {
                let target = self.target().unwrap_or_else(|| "an address that is not known".to_owned());
                match (act, lookup) {
                    (NetworkAct::Sent, Some(lookup)) => {
                        write!(f, "looked up {lookup} at {target} ({protocol}), and no link leads there")
                    }
                    (NetworkAct::Sent | NetworkAct::RawSocket, _) => {
                        write!(f, "tried {target} ({protocol}), and no link leads there")
                    }
                    (NetworkAct::Spoofed, _) => {
                        write!(f, "sent to {target} ({protocol}) with an address that is not its own")
                    }
                }
            }
            Self::Memory { limit_bytes: Some(limit) } => {
                write!(f, "needed more memory than its limit, {}", ByteSize(*limit))
            }
            Self::Memory { limit_bytes: None } => f.write_str("needed more memory than its limit"),
            Self::Pids { limit } => write!(f, "wanted more processes than its limit, {limit}"),
            Self::Cpu { percent, for_ms } => {
                write!(f, "used {percent} % of a processor for {} s", for_ms.div_ceil(1000))
            }
            Self::Syscall { name, detail: Some(detail), answer } => {
                write!(f, "called {name} ({detail}), answered {answer}")
            }
            Self::Syscall { name, detail: None, answer } => write!(f, "called {name}, answered {answer}"),
            Self::Decoy { path, act } => write!(f, "{} the decoy {path}", act.as_str()),
            Self::Process { executable } => {
                write!(f, "executed {executable}, which is not among its `processes`")
            }
            Self::File { path, act } => write!(f, "{} {path}, where nothing is declared", act.as_str()),
            Self::Logs { bytes_per_second, limit } => {
                write!(
                    f,
                    "wrote {} of output in a second, over {}",
                    ByteSize(*bytes_per_second),
                    ByteSize(*limit)
                )
            }
        }
    }
}

/// Who did it, where the kernel tells.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Offender {
    /// The host's process id.
    pub pid: Option<u32>,
    /// The path of its program inside.
    pub executable: Option<String>,
    /// The programs of its parent, of that one's parent, and so on up to the service's main process.
    pub parents: Vec<String>,
}

/// What would allow it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Suggestion {
    /// To what of the file it is added: `services.api`.
    pub to: String,
    /// The line: `links: ["db:5432"]`.
    pub add: String,
}

impl fmt::Display for Suggestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "add `{}` to `{}`", self.add, self.to)
    }
}

/// Violations of one kind, as an event tells them: the first at once, those that repeat it together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Violation {
    /// The class.
    pub class: ViolationClass,
    /// What was tried.
    pub evidence: Evidence,
    /// By what it was seen.
    pub mechanism: Mechanism,
    /// What is done about it.
    pub action: PolicyAction,
    /// How many this event stands for. No event of the same kind counts them again.
    pub count: u64,
    /// How many more there were that nothing is known about, because there were too many.
    pub events_lost: u64,
    /// How long before this event the first of them was seen, in milliseconds.
    pub over_ms: u64,
    /// Which run of the service it was, where that is known.
    pub run: Option<u64>,
    /// Which process, where that is known.
    pub process: Option<Offender>,
    /// The rule that decided: its place in the file (`services.api.policy.network`), `default` or `default (strict)`.
    pub rule: String,
    /// Why less is done than the rule says: "it is not certain that it was api".
    pub unless: Option<String>,
    /// What would allow it, where that could be what is wanted.
    pub suggestion: Option<Suggestion>,
}

impl fmt::Display for Violation {
    /// What stands after the name of the service, on one line: "tried db:5432 (tcp), and no link leads there, 12 times
    /// in 3 s; killed for it (services.api.policy.network)".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.evidence)?;
        if self.count > 1 {
            write!(f, ", {} times", self.count)?;
            if self.over_ms >= 1000 {
                write!(f, " in {} s", self.over_ms.div_ceil(1000))?;
            }
        }
        if self.events_lost > 0 {
            write!(f, " ({} more were too many to be looked at)", self.events_lost)?;
        }
        if let Some(executable) = self.process.as_ref().and_then(|process| process.executable.as_ref()) {
            write!(f, ", by {executable}")?;
        }
        let done = match self.action {
            PolicyAction::Off | PolicyAction::Report => None,
            PolicyAction::Restart => Some("its run is ended for it"),
            PolicyAction::Kill => Some("killed for it"),
            PolicyAction::Stop => Some("the workspace goes down for it"),
        };
        if let Some(done) = done {
            write!(f, "; {done} ({})", self.rule)?;
        }
        if let Some(unless) = &self.unless {
            write!(f, "; only told: {unless}")?;
        }
        match &self.suggestion {
            Some(suggestion) => write!(f, "; to allow it, {suggestion}"),
            None => Ok(()),
        }
    }
}

/// A right that a service would have needed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wish {
    /// Which service, by its name in the file.
    pub service: ServiceName,
    /// What.
    pub need: Need,
}

/// What a [`Wish`] is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// A link.
    Link {
        /// To a service, or something external.
        to: ServiceName,
        /// On which port.
        port: PortProto,
    },
    /// A higher limit of its memory.
    Memory(ByteSize),
    /// A higher limit of its processes.
    Pids(u32),
    /// A further program that it may execute.
    Program(String),
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = &self.service;
        match &self.need {
            Need::Link { to, port } => write!(f, "{service}: link to {to}:{port}"),
            Need::Memory(size) => write!(f, "{service}: limits.memory: {size}"),
            Need::Pids(count) => write!(f, "{service}: limits.pids: {count}"),
            Need::Program(program) => write!(f, "{service}: may execute {program}"),
        }
    }
}

/// One row of `ws violations --json` and of `GET /v1/violations`: all violations of one kind of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ViolationRow {
    /// The number of the last event about them.
    pub seq: u64,
    /// When that was.
    pub at: Timestamp,
    /// The service.
    pub service: ServiceName,
    /// The class.
    pub class: ViolationClass,
    /// What was tried.
    pub evidence: Evidence,
    /// By what it was seen.
    pub mechanism: Mechanism,
    /// What is done about it.
    pub action: PolicyAction,
    /// How many there were.
    pub count: u64,
    /// How many more there were that nothing is known about.
    pub events_lost: u64,
    /// When the first of them was seen.
    pub first_at: Timestamp,
    /// When the last of them was seen.
    pub last_at: Timestamp,
    /// Which process did the last one, where that is known.
    pub process: Option<Offender>,
    /// The rule that decided: its place in the file, `default` or `default (strict)`.
    pub rule: String,
    /// Why less is done than the rule says.
    pub unless: Option<String>,
    /// What would allow it, where that could be what is wanted.
    pub suggestion: Option<Suggestion>,
}

/// How strict the defaults are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Posture {
    /// For work: what could be a mistake is told.
    #[default]
    Default,
    /// For what is not trusted: what a program does not do by mistake ends it.
    Strict,
}

impl Posture {
    /// The word that stands in files and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Strict => "strict",
        }
    }
}

/// What the file says about one class; what is absent follows from the workspace's rule, then from the posture.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyRule {
    /// What is done.
    pub action: Option<PolicyAction>,
    /// From how many on; until then they are told.
    pub after: Option<u32>,
    /// Within what time they count together; absent: in the whole life of a run.
    pub within: Option<Duration>,
    /// For [`ViolationClass::Cpu`] the processor time that is too much, in per cent of one processor; for
    /// [`ViolationClass::Logs`] the bytes in a second.
    pub over: Option<u64>,
    /// For [`ViolationClass::Cpu`]: for how long.
    pub lasting: Option<Duration>,
}

/// An entry of `accept`: what is not told, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accept {
    /// Of which class.
    pub class: ViolationClass,
    /// What it was about: `93.184.216.34:443`, `10.0.0.0/8`, `db:*`, a path, a system call; `*` at the end stands for
    /// anything. Absent: everything of that class.
    pub to: Option<String>,
    /// The reason.
    pub why: String,
}

impl Accept {
    /// Whether a violation of this class can be about that.
    ///
    /// # Errors
    /// Why not, as a phrase.
    pub fn check(&self) -> Result<(), &'static str> {
        match (self.class, self.to.as_deref()) {
            (
                ViolationClass::Memory | ViolationClass::Pids | ViolationClass::Cpu | ViolationClass::Logs,
                Some(_),
            ) => Err("violations of this class are about nothing in particular"),
            (_, Some("")) => Err("it is empty"),
            (ViolationClass::Network, Some(to)) => {
                let (host, port) = host_and_port(to);
                let is_port = |port: &str| port == "*" || port.parse::<u16>().is_ok_and(|port| port > 0);
                if port.is_some_and(|port| !is_port(port)) || host.is_empty() {
                    return Err("none of `NAME`, `ADDRESS`, `NETWORK/BITS` and `*`, with or without `:PORT`");
                }
                Ok(())
            }
            (
                ViolationClass::Network
                | ViolationClass::Syscalls
                | ViolationClass::Decoys
                | ViolationClass::Processes
                | ViolationClass::Filesystem,
                _,
            )
            | (
                ViolationClass::Memory | ViolationClass::Pids | ViolationClass::Cpu | ViolationClass::Logs,
                None,
            ) => Ok(()),
        }
    }
}

/// The parts of `db:5432`, `db`, `[fe80::1]:80`, `fe80::1`.
#[must_use]
pub fn host_and_port(text: &str) -> (&str, Option<&str>) {
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (host, rest.strip_prefix(':'));
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => (host, Some(port)),
        Some(_) | None => (text, None),
    }
}

/// What the file says about violations, for the workspace or for one service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// How strict the defaults are.
    pub posture: Option<Posture>,
    /// What is said about each class.
    pub rules: BTreeMap<ViolationClass, PolicyRule>,
    /// The programs that may be executed, beside those that the file itself names: paths, names without a slash (in any
    /// directory of `PATH`), `*` at the end stands for anything. Absent: any.
    pub processes: Option<Vec<String>>,
    /// What is not told.
    pub accept: Vec<Accept>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(destination: &str, name: Option<&str>, port: Option<u16>) -> Evidence {
        Evidence::Network {
            act: NetworkAct::Sent,
            protocol: "tcp".to_owned(),
            destination: Some(destination.parse().unwrap()),
            port,
            name: name.map(str::to_owned),
            lookup: None,
        }
    }

    #[test]
    fn evidence_is_told_by_the_names_of_the_file() {
        let text = |evidence: Evidence| evidence.to_string();
        assert_eq!(
            text(network("10.88.0.3", Some("db"), Some(5432))),
            "tried db:5432 (tcp), and no link leads there"
        );
        assert_eq!(
            text(network("8.8.8.8", None, Some(53))),
            "tried 8.8.8.8:53 (tcp), and no link leads there"
        );
        assert_eq!(network("fe80::1", None, Some(80)).target().as_deref(), Some("[fe80::1]:80"));
        assert_eq!(network("10.88.0.1", None, None).target().as_deref(), Some("10.88.0.1"));
        assert_eq!(
            text(Evidence::Memory { limit_bytes: Some(64 << 20) }),
            format!("needed more memory than its limit, {}", ByteSize::mib(64))
        );
        let syscall = |detail: Option<&str>| Evidence::Syscall {
            name: "socket".to_owned(),
            detail: detail.map(str::to_owned),
            answer: "EPERM".to_owned(),
        };
        assert_eq!(text(syscall(Some("AF_PACKET"))), "called socket (AF_PACKET), answered EPERM");
        assert_eq!(text(syscall(None)), "called socket, answered EPERM");
    }

    #[test]
    fn evidence_on_the_wire_says_what_it_is() {
        let json = serde_json::to_value(network("10.88.0.3", Some("db"), Some(5432))).unwrap();
        assert_eq!(json["what"], "network");
        assert_eq!(json["destination"], "10.88.0.3");
        assert_eq!(json["act"], "sent");
        let back: Evidence = serde_json::from_value(json).unwrap();
        assert_eq!(back.class(), ViolationClass::Network);
    }

    #[test]
    fn the_words_of_the_wire_are_those_of_the_file() {
        for class in ViolationClass::ALL {
            assert_eq!(serde_json::to_value(class).unwrap(), class.as_str());
        }
        for action in [
            PolicyAction::Off,
            PolicyAction::Report,
            PolicyAction::Restart,
            PolicyAction::Kill,
            PolicyAction::Stop,
        ] {
            assert_eq!(serde_json::to_value(action).unwrap(), action.as_str());
        }
    }
}
