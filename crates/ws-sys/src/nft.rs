//! nf_tables without the `nft` program: rule sets are built as data and committed in one transaction.
//!
//! Owns the encoding of tables, base chains, sets with concatenated keys, elements and rules from a small
//! set of expressions. What it encodes is compared with what `nft list ruleset` makes of it in tests. Names
//! are plain texts: keep to ones that nft's own grammar does not reserve (a chain called `fwd` cannot be
//! listed), so that people can look.
//!
//! Never decides what is allowed, and never opens a socket: see [`Socket`].

mod list;

use std::net::Ipv4Addr;

use crate::netlink::{self, Batch, Body, Socket};

pub use list::{ChainInfo, CounterInfo, RuleInfo, chains, counters, elements, generation, rules, tables};

/// `NFNL_SUBSYS_NFTABLES` in the upper byte of a message's type.
const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;
/// Elements in one message: an attribute's length has 16 bits, and an element takes at most 52 bytes.
const ELEMENTS_PER_MESSAGE: usize = 1000;
/// The first 32-bit register.
const FIRST_REGISTER: u32 = libc::NFT_REG32_00 as u32;
/// How long a comment may be, as in `nft`.
const LONGEST_COMMENT: usize = 128;

/// The family of a table: which packets it sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// Frames on the ports of bridges.
    Bridge,
}

impl Family {
    fn number(self) -> u8 {
        match self {
            Self::Inet => libc::NFPROTO_INET as u8,
            Self::Bridge => libc::NFPROTO_BRIDGE as u8,
        }
    }
}

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: &'static str,
}

/// A chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    /// The table that it is in.
    pub table: Table,
    /// Its name.
    pub name: &'static str,
}

/// Where a base chain sees packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// As they come in.
    Prerouting,
    /// On the way to a socket here (of a bridge: to the host of the bridge).
    Input,
    /// From one interface to another.
    Forward,
    /// From a socket here.
    Output,
    /// As they go out.
    Postrouting,
}

impl Hook {
    fn number(self) -> u32 {
        // NF_INET_* and NF_BR_* are numbered alike.
        match self {
            Self::Prerouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }
}

/// What happens to packets that no rule decides about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// They go on.
    Accept,
    /// They end here, silently.
    Drop,
}

/// The place of a base chain (of type `filter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// Where it sees packets.
    pub hook: Hook,
    /// When, among the chains there: lower is earlier.
    pub priority: i32,
    /// What happens to the rest.
    pub policy: Policy,
}

/// The type of one part of a set's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// An IPv4 address.
    Ipv4,
    /// A hardware address.
    Ether,
    /// A transport protocol's number.
    Protocol,
    /// A port.
    Port,
    /// An interface's name.
    Interface,
}

impl Field {
    /// The length of its value, before padding.
    fn len(self) -> u32 {
        match self {
            Self::Ipv4 => 4,
            Self::Ether => 6,
            Self::Protocol => 1,
            Self::Port => 2,
            Self::Interface => libc::IFNAMSIZ as u32,
        }
    }

    /// The number of nft's data type: tells `nft` how to print it.
    fn data_type(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ether => 9,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Interface => 41,
        }
    }
}

/// One part of an element's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// An IPv4 address.
    Ipv4(Ipv4Addr),
    /// A hardware address.
    Ether([u8; 6]),
    /// A transport protocol's number.
    Protocol(u8),
    /// A port.
    Port(u16),
    /// An interface's name.
    Interface(InterfaceName),
}

impl Value {
    fn field(&self) -> Field {
        match self {
            Self::Ipv4(_) => Field::Ipv4,
            Self::Ether(_) => Field::Ether,
            Self::Protocol(_) => Field::Protocol,
            Self::Port(_) => Field::Port,
            Self::Interface(_) => Field::Interface,
        }
    }

    fn write(&self, key: &mut Vec<u8>) {
        match self {
            Self::Ipv4(address) => key.extend_from_slice(&address.octets()),
            Self::Ether(mac) => key.extend_from_slice(mac),
            Self::Protocol(number) => key.push(*number),
            Self::Port(port) => key.extend_from_slice(&port.to_be_bytes()),
            Self::Interface(name) => key.extend_from_slice(&name.0),
        }
        key.resize(key.len().next_multiple_of(4), 0);
    }

    fn read(field: Field, bytes: &[u8]) -> Option<Self> {
        Some(match field {
            Field::Ipv4 => Self::Ipv4(<[u8; 4]>::try_from(bytes).ok()?.into()),
            Field::Ether => Self::Ether(bytes.try_into().ok()?),
            Field::Protocol => Self::Protocol(*bytes.first()?),
            Field::Port => Self::Port(u16::from_be_bytes(bytes.try_into().ok()?)),
            Field::Interface => Self::Interface(InterfaceName(bytes.try_into().ok()?)),
        })
    }
}

/// The name of a network interface: 1 to 15 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName([u8; libc::IFNAMSIZ]);

impl InterfaceName {
    /// Checks `name`; `None` when it cannot be one.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let bytes = name.as_bytes();
        let good = !bytes.is_empty()
            && bytes.len() < libc::IFNAMSIZ
            && bytes.iter().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'"'));
        let mut padded = [0; libc::IFNAMSIZ];
        good.then(|| {
            padded[..bytes.len()].copy_from_slice(bytes);
            Self(padded)
        })
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let len = self.0.iter().position(|b| *b == 0).unwrap_or(self.0.len());
        // One that was read from the kernel may be anything.
        std::str::from_utf8(&self.0[..len]).unwrap_or("?")
    }
}

impl std::fmt::Debug for InterfaceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// A set: keys that a rule can look up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Set {
    /// The table that it is in.
    pub table: Table,
    /// Its name.
    pub name: &'static str,
    /// The parts of its keys, at most five.
    pub fields: &'static [Field],
}

impl Set {
    /// The kernel's form of a key; `None` when its parts are not of this set's types.
    fn key(&self, values: &[Value]) -> Option<Vec<u8>> {
        let same = values.len() == self.fields.len()
            && values.iter().zip(self.fields).all(|(value, field)| value.field() == *field);
        let mut key = Vec::new();
        same.then(|| values.iter().for_each(|value| value.write(&mut key)))?;
        Some(key)
    }

    /// The length of a key, each part padded to a register.
    fn key_len(&self) -> u32 {
        self.fields.iter().map(|field| field.len().next_multiple_of(4)).sum()
    }

    /// What `nft` prints as its type.
    fn key_type(&self) -> u32 {
        self.fields.iter().fold(0, |all, field| (all << 6) | field.data_type())
    }
}

/// Something of a packet that a rule can look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// The hardware address of the frame's sender.
    EtherSource,
    /// The hardware address of the frame's receiver.
    EtherDestination,
    /// The IPv4 address of the sender. Only meaningful once the packet is known to be IPv4.
    Ipv4Source,
    /// The IPv4 address of the receiver. Only meaningful once the packet is known to be IPv4.
    Ipv4Destination,
    /// The sender's port, of any transport that starts with ports.
    SourcePort,
    /// The receiver's port, of any transport that starts with ports.
    DestinationPort,
    /// The flags of a TCP segment. Only meaningful once the packet is known to be TCP.
    TcpFlags,
    /// The type in the frame's header.
    EtherType,
    /// The family of a packet in an [`Family::Inet`] table.
    NetworkProtocol,
    /// The transport protocol's number.
    TransportProtocol,
    /// The name of the interface that it came from.
    InputInterface,
    /// The name of the interface that it goes to.
    OutputInterface,
    /// The index of the interface that it came from.
    InputIndex,
    /// The index of the interface that it goes to.
    OutputIndex,
    /// The state of its connection: a bit of [`CtState`].
    ConnectionState,
    /// Its direction in its connection; nothing matches a packet without a connection.
    ConnectionDirection,
}

impl Load {
    fn len(self) -> u32 {
        match self {
            Self::NetworkProtocol | Self::TransportProtocol => 1,
            Self::ConnectionDirection | Self::TcpFlags => 1,
            Self::SourcePort | Self::DestinationPort | Self::EtherType => 2,
            Self::Ipv4Source | Self::Ipv4Destination => 4,
            Self::InputIndex | Self::OutputIndex | Self::ConnectionState => 4,
            Self::EtherSource | Self::EtherDestination => 6,
            Self::InputInterface | Self::OutputInterface => libc::IFNAMSIZ as u32,
        }
    }

    /// The type that it has in a set; `None`: it cannot be looked up.
    fn field(self) -> Option<Field> {
        match self {
            Self::Ipv4Source | Self::Ipv4Destination => Some(Field::Ipv4),
            Self::EtherSource | Self::EtherDestination => Some(Field::Ether),
            Self::TransportProtocol => Some(Field::Protocol),
            Self::SourcePort | Self::DestinationPort => Some(Field::Port),
            Self::InputInterface | Self::OutputInterface => Some(Field::Interface),
            Self::TcpFlags
            | Self::EtherType
            | Self::NetworkProtocol
            | Self::InputIndex
            | Self::OutputIndex
            | Self::ConnectionState
            | Self::ConnectionDirection => None,
        }
    }

    /// The expression that puts it into a register.
    fn encode(self, b: &mut Body<'_>, register: u32) {
        let payload = |b: &mut Body<'_>, base: i32, offset: u32| {
            expression(b, "payload", |b| {
                b.be32(1, register).be32(2, base.cast_unsigned()).be32(3, offset).be32(4, self.len());
            });
        };
        let meta = |b: &mut Body<'_>, key: i32| {
            expression(b, "meta", |b| {
                b.be32(1, register).be32(2, key.cast_unsigned());
            });
        };
        let connection = |b: &mut Body<'_>, key: i32| {
            expression(b, "ct", |b| {
                b.be32(1, register).be32(2, key.cast_unsigned());
            });
        };
        match self {
            Self::EtherDestination => payload(b, libc::NFT_PAYLOAD_LL_HEADER, 0),
            Self::EtherSource => payload(b, libc::NFT_PAYLOAD_LL_HEADER, 6),
            Self::Ipv4Source => payload(b, libc::NFT_PAYLOAD_NETWORK_HEADER, 12),
            Self::Ipv4Destination => payload(b, libc::NFT_PAYLOAD_NETWORK_HEADER, 16),
            Self::SourcePort => payload(b, libc::NFT_PAYLOAD_TRANSPORT_HEADER, 0),
            Self::DestinationPort => payload(b, libc::NFT_PAYLOAD_TRANSPORT_HEADER, 2),
            Self::TcpFlags => payload(b, libc::NFT_PAYLOAD_TRANSPORT_HEADER, 13),
            Self::EtherType => meta(b, libc::NFT_META_PROTOCOL),
            Self::NetworkProtocol => meta(b, libc::NFT_META_NFPROTO),
            Self::TransportProtocol => meta(b, libc::NFT_META_L4PROTO),
            Self::InputInterface => meta(b, libc::NFT_META_IIFNAME),
            Self::OutputInterface => meta(b, libc::NFT_META_OIFNAME),
            Self::InputIndex => meta(b, libc::NFT_META_IIF),
            Self::OutputIndex => meta(b, libc::NFT_META_OIF),
            Self::ConnectionState => connection(b, libc::NFT_CT_STATE),
            Self::ConnectionDirection => connection(b, libc::NFT_CT_DIRECTION),
        }
    }
}

/// States of a connection, as bits of [`Load::ConnectionState`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CtState(u32);

impl CtState {
    /// The packet belongs to no connection and can open none.
    pub const INVALID: Self = Self(1);
    /// The connection has seen packets in both directions.
    pub const ESTABLISHED: Self = Self(2);
    /// The packet is about another connection (an ICMP error).
    pub const RELATED: Self = Self(4);
    /// The packet opens a connection.
    pub const NEW: Self = Self(8);

    /// Any of both.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A direction in a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CtDirection {
    /// From the one that opened it.
    Original,
    /// To the one that opened it.
    Reply,
}

/// A packet goes to a listener as a log message (NFLOG) when a rule says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// The group that a listener binds to.
    pub group: u16,
    /// A text that comes with it, at most 127 bytes.
    pub prefix: &'static str,
    /// How many bytes of the packet come with it.
    pub snaplen: u32,
}

/// How a sender is told that its packet was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    /// A TCP reset; the packet must be known to be TCP.
    TcpReset,
    /// An ICMP or ICMPv6 error that says "administratively prohibited".
    AdminProhibited,
}

/// One step of a rule. The steps are taken in order; a rule ends at the first that does not match.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Compare { load: Load, mask: Option<Vec<u8>>, equal: bool, value: Vec<u8> },
    Lookup { set: Set, loads: &'static [Load], inverted: bool },
    Counter,
    Limit { per_second: u64, burst: u32 },
    Log(Log),
    Reject(Reject),
    Verdict { code: i32, chain: Option<&'static str> },
}

/// A rule: conditions first, then what is done.
///
/// ```
/// use ws_sys::nft::{CtDirection, CtState, Rule};
/// let replies = Rule::new().direction(CtDirection::Reply).state(CtState::ESTABLISHED).accept();
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    steps: Vec<Step>,
    comment: Option<&'static str>,
}

impl Rule {
    /// A rule that matches everything and does nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    fn compare(self, load: Load, equal: bool, value: &[u8]) -> Self {
        self.step(Step::Compare { load, mask: None, equal, value: value.to_vec() })
    }

    /// The packet is IPv4 (in an [`Family::Inet`] table). Must precede everything that looks at addresses.
    #[must_use]
    pub fn ipv4(self) -> Self {
        self.compare(Load::NetworkProtocol, true, &[libc::NFPROTO_IPV4 as u8])
    }

    /// The frame carries this type (in a [`Family::Bridge`] table), `0x0800` for IPv4.
    #[must_use]
    pub fn ether_type(self, kind: u16) -> Self {
        self.compare(Load::EtherType, true, &kind.to_be_bytes())
    }

    /// The frame goes to this hardware address.
    #[must_use]
    pub fn ether_destination(self, mac: [u8; 6]) -> Self {
        self.compare(Load::EtherDestination, true, &mac)
    }

    /// The transport protocol has this number.
    #[must_use]
    pub fn transport(self, protocol: u8) -> Self {
        self.compare(Load::TransportProtocol, true, &[protocol])
    }

    /// The transport protocol has another number.
    #[must_use]
    pub fn not_transport(self, protocol: u8) -> Self {
        self.compare(Load::TransportProtocol, false, &[protocol])
    }

    /// It is a TCP segment that asks for a connection: of FIN, SYN, RST and ACK only SYN is set. The packet
    /// must be known to be TCP.
    #[must_use]
    pub fn tcp_opening(self) -> Self {
        const FIN_SYN_RST_ACK: u8 = 0x17;
        const SYN: u8 = 0x02;
        let mask = Some(vec![FIN_SYN_RST_ACK]);
        self.step(Step::Compare { load: Load::TcpFlags, mask, equal: true, value: vec![SYN] })
    }

    /// The IPv4 receiver is this address.
    #[must_use]
    pub fn ipv4_destination(self, address: Ipv4Addr) -> Self {
        self.compare(Load::Ipv4Destination, true, &address.octets())
    }

    /// It came from the interface with this index.
    #[must_use]
    pub fn from_index(self, index: u32) -> Self {
        self.compare(Load::InputIndex, true, &index.to_ne_bytes())
    }

    /// It goes to the interface with this index.
    #[must_use]
    pub fn to_index(self, index: u32) -> Self {
        self.compare(Load::OutputIndex, true, &index.to_ne_bytes())
    }

    /// It came from the interface with this name, which need not exist yet.
    #[must_use]
    pub fn from_interface(self, name: InterfaceName) -> Self {
        self.compare(Load::InputInterface, true, &name.0)
    }

    /// It goes to the interface with this name, which need not exist yet.
    #[must_use]
    pub fn to_interface(self, name: InterfaceName) -> Self {
        self.compare(Load::OutputInterface, true, &name.0)
    }

    /// Its connection has one of these states.
    #[must_use]
    pub fn state(self, states: CtState) -> Self {
        let mask = Some(states.0.to_ne_bytes().to_vec());
        self.step(Step::Compare { load: Load::ConnectionState, mask, equal: false, value: vec![0; 4] })
    }

    /// It goes in this direction of its connection.
    #[must_use]
    pub fn direction(self, direction: CtDirection) -> Self {
        let number = match direction {
            CtDirection::Original => 0,
            CtDirection::Reply => 1,
        };
        self.compare(Load::ConnectionDirection, true, &[number])
    }

    /// What these load is in the set.
    #[must_use]
    pub fn in_set(self, set: Set, loads: &'static [Load]) -> Self {
        self.step(Step::Lookup { set, loads, inverted: false })
    }

    /// What these load is not in the set.
    #[must_use]
    pub fn not_in_set(self, set: Set, loads: &'static [Load]) -> Self {
        self.step(Step::Lookup { set, loads, inverted: true })
    }

    /// Counts packets and bytes that come so far.
    #[must_use]
    pub fn counter(self) -> Self {
        self.step(Step::Counter)
    }

    /// No more than so many packets a second, after `burst` at once.
    #[must_use]
    pub fn limit(self, per_second: u64, burst: u32) -> Self {
        self.step(Step::Limit { per_second, burst })
    }

    /// Sends a message to listeners, at once and not when some have gathered.
    #[must_use]
    pub fn log(self, log: Log) -> Self {
        self.step(Step::Log(log))
    }

    /// Tells the sender that its packet was refused, and drops it.
    #[must_use]
    pub fn reject(self, how: Reject) -> Self {
        self.step(Step::Reject(how))
    }

    /// The packet goes on.
    #[must_use]
    pub fn accept(self) -> Self {
        self.step(Step::Verdict { code: libc::NF_ACCEPT, chain: None })
    }

    /// The packet ends here.
    #[must_use]
    pub fn drop(self) -> Self {
        self.step(Step::Verdict { code: libc::NF_DROP, chain: None })
    }

    /// Goes on with the rules of another chain, and comes back if they do not decide.
    #[must_use]
    pub fn jump(self, chain: &'static str) -> Self {
        self.step(Step::Verdict { code: libc::NFT_JUMP, chain: Some(chain) })
    }

    /// A text that is shown with the rule; cut after 128 bytes.
    #[must_use]
    pub fn comment(mut self, text: &'static str) -> Self {
        self.comment = Some(text);
        self
    }

    fn encode(&self, b: &mut Body<'_>) {
        for step in &self.steps {
            step.encode(b);
        }
    }
}

impl Step {
    /// Whether the loads of a look-up are what the set has.
    fn fits(&self) -> bool {
        match self {
            Self::Lookup { set, loads, .. } => {
                set.fields.iter().map(|field| Some(*field)).eq(loads.iter().map(|load| load.field()))
            }
            _ => true,
        }
    }

    fn encode(&self, b: &mut Body<'_>) {
        match self {
            Self::Compare { load, mask, equal, value } => {
                load.encode(b, FIRST_REGISTER);
                if let Some(mask) = mask {
                    expression(b, "bitwise", |b| {
                        b.be32(1, FIRST_REGISTER).be32(2, FIRST_REGISTER).be32(3, mask.len() as u32);
                        b.nest(4, |b| data(b, mask)).nest(5, |b| data(b, &vec![0; mask.len()]));
                    });
                }
                let op = if *equal { libc::NFT_CMP_EQ } else { libc::NFT_CMP_NEQ };
                expression(b, "cmp", |b| {
                    b.be32(1, FIRST_REGISTER).be32(2, op.cast_unsigned()).nest(3, |b| data(b, value));
                });
            }
            Self::Lookup { set, loads, inverted } => {
                let mut register = FIRST_REGISTER;
                for load in *loads {
                    load.encode(b, register);
                    register += load.len().div_ceil(4);
                }
                expression(b, "lookup", |b| {
                    b.text(1, set.name).be32(2, FIRST_REGISTER);
                    if *inverted {
                        b.be32(5, libc::NFT_LOOKUP_F_INV as u32);
                    }
                });
            }
            Self::Counter => expression(b, "counter", |_| {}),
            Self::Limit { per_second, burst } => expression(b, "limit", |b| {
                const SECOND: u64 = 1;
                const PACKETS: u32 = 0;
                b.be64(1, *per_second).be64(2, SECOND).be32(3, *burst).be32(4, PACKETS).be32(5, 0);
            }),
            Self::Log(log) => expression(b, "log", |b| {
                const AT_ONCE: u16 = 1;
                b.be16(1, log.group).text(2, log.prefix).be32(3, log.snaplen).be16(4, AT_ONCE);
            }),
            Self::Reject(how) => expression(b, "reject", |b| {
                match how {
                    Reject::TcpReset => b.be32(1, libc::NFT_REJECT_TCP_RST as u32),
                    Reject::AdminProhibited => b
                        .be32(1, libc::NFT_REJECT_ICMPX_UNREACH as u32)
                        .u8(2, libc::NFT_REJECT_ICMPX_ADMIN_PROHIBITED as u8),
                };
            }),
            Self::Verdict { code, chain } => expression(b, "immediate", |b| {
                b.be32(1, libc::NFT_REG_VERDICT as u32).nest(2, |b| {
                    b.nest(2, |b| {
                        b.be32(1, code.cast_unsigned());
                        if let Some(chain) = chain {
                            b.text(2, chain);
                        }
                    });
                });
            }),
        }
    }
}

/// `NFTA_LIST_ELEM` with an expression.
fn expression(b: &mut Body<'_>, name: &str, inside: impl FnOnce(&mut Body<'_>)) {
    b.nest(1, |b| {
        b.text(1, name).nest(2, inside);
    });
}

/// `NFTA_DATA_VALUE`
fn data(b: &mut Body<'_>, bytes: &[u8]) {
    b.attr(1, bytes);
}

/// A transaction could not be committed: nothing of it was done.
#[derive(Debug, thiserror::Error)]
#[error("could not {what}")]
pub struct CommitError {
    /// What was refused first, as a phrase: "add rule 2 to `output`".
    pub what: String,
    /// Why.
    pub source: netlink::Error,
}

/// What a message of a transaction does, for errors.
#[derive(Debug, Clone, Copy)]
enum Does {
    Begin,
    AddTable(Table),
    DeleteTable(Table),
    AddChain(Chain),
    AddSet(Set),
    AddRule(Chain, usize),
    AddElements(Set),
    DeleteElements(Set),
}

impl std::fmt::Display for Does {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Begin => write!(f, "commit the rules"),
            Self::AddTable(table) => write!(f, "add the table `{}`", table.name),
            Self::DeleteTable(table) => write!(f, "delete the table `{}`", table.name),
            Self::AddChain(chain) => write!(f, "add the chain `{}`", chain.name),
            Self::AddSet(set) => write!(f, "add the set `{}`", set.name),
            Self::AddRule(chain, n) => write!(f, "add rule {n} to the chain `{}`", chain.name),
            Self::AddElements(set) => write!(f, "add elements to the set `{}`", set.name),
            Self::DeleteElements(set) => write!(f, "delete elements of the set `{}`", set.name),
        }
    }
}

/// Changes that the kernel makes all at once or not at all.
///
/// The send buffer bounds its size: 4 MiB with `CAP_NET_ADMIN` in the initial namespace, else twice
/// `net.core.wmem_max` (416 KiB by default, 8,000 elements with room to spare).
#[derive(Debug, Clone)]
pub struct Transaction {
    batch: Batch,
    does: Vec<Does>,
    wrong: Option<Does>,
}

impl Default for Transaction {
    fn default() -> Self {
        Self::new()
    }
}

impl Transaction {
    /// One that changes nothing.
    #[must_use]
    pub fn new() -> Self {
        let mut batch = Batch::new();
        border(&mut batch, libc::NFNL_MSG_BATCH_BEGIN);
        Self { batch, does: vec![Does::Begin], wrong: None }
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batch.len() == 1
    }

    /// How many bytes it takes so far.
    #[must_use]
    pub fn size(&self) -> usize {
        self.batch.as_bytes().len()
    }

    fn push(
        &mut self,
        does: Does,
        op: libc::c_int,
        family: Family,
        flags: libc::c_int,
        body: impl FnOnce(&mut Body<'_>),
    ) {
        self.does.push(does);
        self.batch.push(SUBSYSTEM | op as u16, flags as u16, |b| {
            b.raw(&[family.number(), 0, 0, 0]);
            body(b);
        });
    }

    /// Adds a table; nothing happens when there is one of this name.
    pub fn add_table(&mut self, table: Table) {
        self.push(Does::AddTable(table), libc::NFT_MSG_NEWTABLE, table.family, libc::NLM_F_CREATE, |b| {
            b.text(1, table.name);
        });
    }

    /// Deletes a table and all that is in it; it must be there.
    pub fn delete_table(&mut self, table: Table) {
        self.push(Does::DeleteTable(table), libc::NFT_MSG_DELTABLE, table.family, 0, |b| {
            b.text(1, table.name);
        });
    }

    /// Adds a table that is empty, whether there was one of this name or not.
    pub fn replace_table(&mut self, table: Table) {
        self.add_table(table);
        self.delete_table(table);
        self.add_table(table);
    }

    /// Adds a base chain.
    pub fn add_base_chain(&mut self, chain: Chain, base: Base) {
        self.chain(chain, |b| {
            b.nest(4, |b| {
                b.be32(1, base.hook.number()).be32(2, base.priority.cast_unsigned());
            });
            let policy = match base.policy {
                Policy::Accept => libc::NF_ACCEPT,
                Policy::Drop => libc::NF_DROP,
            };
            b.be32(5, policy.cast_unsigned()).text(7, "filter");
        });
    }

    /// Adds a chain that rules can jump to.
    pub fn add_chain(&mut self, chain: Chain) {
        self.chain(chain, |_| {});
    }

    fn chain(&mut self, chain: Chain, rest: impl FnOnce(&mut Body<'_>)) {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        self.push(Does::AddChain(chain), libc::NFT_MSG_NEWCHAIN, chain.table.family, flags, |b| {
            b.text(1, chain.table.name).text(3, chain.name);
            rest(b);
        });
    }

    /// Adds an empty set.
    pub fn add_set(&mut self, set: Set) {
        // Without both the flag and the description of the parts, a concatenated key is EINVAL.
        const CONCATENATED: u32 = 0x80;
        let id = self.batch.len() as u32;
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        self.push(Does::AddSet(set), libc::NFT_MSG_NEWSET, set.table.family, flags, |b| {
            b.text(1, set.table.name).text(2, set.name);
            let concatenated = set.fields.len() > 1;
            b.be32(3, if concatenated { CONCATENATED } else { 0 });
            b.be32(4, set.key_type()).be32(5, set.key_len()).be32(10, id);
            if concatenated {
                b.nest(9, |b| {
                    b.nest(2, |b| {
                        for field in set.fields {
                            b.nest(1, |b| {
                                b.be32(1, field.len());
                            });
                        }
                    });
                });
            }
        });
    }

    /// Adds a rule behind the others of its chain.
    pub fn add_rule(&mut self, chain: Chain, rule: &Rule) {
        let earlier = self.does.iter().filter(|does| matches!(does, Does::AddRule(c, _) if *c == chain));
        let does = Does::AddRule(chain, earlier.count() + 1);
        if !rule.steps.iter().all(Step::fits) {
            self.wrong.get_or_insert(does);
        }
        let flags = libc::NLM_F_CREATE | libc::NLM_F_APPEND;
        self.push(does, libc::NFT_MSG_NEWRULE, chain.table.family, flags, |b| {
            b.text(1, chain.table.name).text(2, chain.name).nest(4, |b| rule.encode(b));
            if let Some(comment) = rule.comment {
                let comment = comment.as_bytes();
                let comment = &comment[..comment.len().min(LONGEST_COMMENT)];
                // NFTNL_UDATA_RULE_COMMENT, length with the NUL, text.
                let mut user_data = vec![0, comment.len() as u8 + 1];
                user_data.extend_from_slice(comment);
                user_data.push(0);
                b.attr(7, &user_data);
            }
        });
    }

    /// Adds elements to a set; nothing happens for those that are in it.
    pub fn add_elements<K: AsRef<[Value]>>(&mut self, set: Set, keys: impl IntoIterator<Item = K>) {
        self.elements(Does::AddElements(set), libc::NFT_MSG_NEWSETELEM, libc::NLM_F_CREATE, set, keys);
    }

    /// Deletes elements of a set; all must be in it.
    pub fn delete_elements<K: AsRef<[Value]>>(&mut self, set: Set, keys: impl IntoIterator<Item = K>) {
        self.elements(Does::DeleteElements(set), libc::NFT_MSG_DELSETELEM, 0, set, keys);
    }

    fn elements<K: AsRef<[Value]>>(
        &mut self,
        does: Does,
        op: libc::c_int,
        flags: libc::c_int,
        set: Set,
        keys: impl IntoIterator<Item = K>,
    ) {
        let mut keys = keys.into_iter().peekable();
        let mut fits = true;
        while keys.peek().is_some() {
            self.push(does, op, set.table.family, flags, |b| {
                b.text(1, set.table.name).text(2, set.name).nest(3, |b| {
                    for values in keys.by_ref().take(ELEMENTS_PER_MESSAGE) {
                        let Some(key) = set.key(values.as_ref()) else {
                            fits = false;
                            continue;
                        };
                        b.nest(1, |b| {
                            b.nest(1, |b| data(b, &key));
                        });
                    }
                });
            });
        }
        if !fits {
            self.wrong.get_or_insert(does);
        }
    }

    /// Has the kernel make the changes.
    ///
    /// # Errors
    /// Nothing was changed then, unless the error's source says that the answer was lost.
    pub fn commit(mut self, socket: &mut Socket) -> Result<(), CommitError> {
        if let Some(wrong) = self.wrong {
            let source = netlink::Error::Invalid("the parts of a key are not those of the set");
            return Err(CommitError { what: wrong.to_string(), source });
        }
        if self.is_empty() {
            return Ok(());
        }
        // Before 6.10 the end of a batch is not acknowledged, so the last real message is asked to be. It is
        // only after the commit.
        let acked = self.batch.len() - 1;
        border(&mut self.batch, libc::NFNL_MSG_BATCH_END);
        socket.run_at_once(&mut self.batch, acked).map_err(|source| {
            let first = source.refusals().first().and_then(|refusal| self.does.get(refusal.index));
            CommitError { what: first.unwrap_or(&Does::Begin).to_string(), source }
        })
    }
}

fn border(batch: &mut Batch, kind: libc::c_int) {
    batch.push(kind as u16, 0, |b| {
        let subsystem = (libc::NFNL_SUBSYS_NFTABLES as u16).to_be_bytes();
        b.raw(&[libc::AF_UNSPEC as u8, 0, subsystem[0], subsystem[1]]);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: Table = Table { family: Family::Inet, name: "t" };
    const SET: Set = Set { table: TABLE, name: "s", fields: &[Field::Ipv4, Field::Protocol, Field::Port] };

    #[test]
    fn keys_are_padded_to_registers() {
        let values = [Value::Ipv4(Ipv4Addr::new(10, 0, 0, 1)), Value::Protocol(6), Value::Port(0x1234)];
        assert_eq!(SET.key(&values).unwrap(), [10, 0, 0, 1, 6, 0, 0, 0, 0x12, 0x34, 0, 0]);
        assert_eq!(SET.key_len(), 12);
        assert_eq!(SET.key(&values[..2]), None);
        assert_eq!(SET.key(&[values[1], values[0], values[2]]), None);
        for (value, field) in values.iter().zip(SET.fields) {
            let mut bytes = Vec::new();
            value.write(&mut bytes);
            assert_eq!(Value::read(*field, &bytes[..field.len() as usize]), Some(*value));
        }
    }

    #[test]
    fn a_mistake_in_a_key_or_a_look_up_is_kept_until_the_commit() {
        let mut transaction = Transaction::new();
        transaction.add_elements(SET, [[Value::Port(1)]]);
        assert!(transaction.wrong.is_some());
        let mut transaction = Transaction::new();
        let rule = Rule::new().in_set(SET, &[Load::Ipv4Source, Load::DestinationPort]);
        transaction.add_rule(Chain { table: TABLE, name: "c" }, &rule);
        assert_eq!(transaction.wrong.unwrap().to_string(), "add rule 1 to the chain `c`");
    }

    #[test]
    fn many_elements_go_into_many_messages() {
        let mut transaction = Transaction::new();
        let key = |n: u32| [Value::Ipv4(n.into()), Value::Protocol(6), Value::Port(1)];
        transaction.add_elements(SET, (0..2001).map(key));
        assert_eq!(transaction.batch.len(), 1 + 3);
        transaction.add_elements(SET, (0..0).map(key));
        assert_eq!(transaction.batch.len(), 1 + 3);
    }

    #[test]
    fn interface_names_are_checked() {
        for (name, good) in [
            ("eth0", true),
            ("", false),
            ("a/b", false),
            ("0123456789abcde", true),
            ("0123456789abcdef", false),
        ] {
            assert_eq!(InterfaceName::new(name).is_some(), good, "{name:?}");
        }
        assert_eq!(InterfaceName::new("eth0").unwrap().as_str(), "eth0");
    }
}
