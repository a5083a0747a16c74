//! What the encoder sends is what `nft list ruleset` shows. Runs in namespaces of its own.

// What a machine lacks is told on the terminal.
#![allow(clippy::print_stderr)]

use std::collections::BTreeSet;
use std::ffi::CString;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sched::CloneFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netlink as protocol, socket_with};
use ws_sys::netlink::Socket;
use ws_sys::nft::{
    Base, Chain, CtDirection, CtState, Family, Field, Hook, InterfaceName, Load, Log, Policy, Reject, Rule,
    Set, Table, Transaction, Value, chains, elements, generation, rules, tables,
};

const INSIDE: &str = "WS_TEST_INSIDE";

/// Runs the test `name` again as the root of new user and network namespaces; there, gives true.
fn inside(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let path = |text: &str| CString::new(text).unwrap();
    let files = [path("/proc/self/setgroups"), path("/proc/self/uid_map"), path("/proc/self/gid_map")];
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let texts = ["deny".to_owned(), format!("0 {uid} 1"), format!("0 {gid} 1")];
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]).env(INSIDE, "1");
    // SAFETY: between fork and exec only system calls are made, on memory that was made before.
    unsafe {
        command.pre_exec(move || {
            use rustix::fs::{Mode, OFlags};
            nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
            for (file, text) in files.iter().zip(&texts) {
                let file = rustix::fs::open(file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
                rustix::io::write(&file, text.as_bytes())?;
            }
            Ok(())
        });
    }
    match command.status() {
        Ok(status) => assert!(status.success(), "`{name}` failed inside: {status}"),
        Err(error) => lack("userns", &format!("no user and network namespaces: {error}")),
    }
    false
}

/// Says what the machine lacks; fails if the environment says that it must have it.
fn lack(need: &str, why: &str) {
    eprintln!("skipped: {why}");
    let required = std::env::var("WS_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|word| word == need), "WS_REQUIRE has `{need}`: {why}");
}

fn netfilter() -> OwnedFd {
    let cloexec = SocketFlags::CLOEXEC;
    socket_with(AddressFamily::NETLINK, SocketType::RAW, cloexec, Some(protocol::NETFILTER)).unwrap()
}

/// What `nft` says is loaded; `None` when there is no `nft`.
fn listed() -> Option<String> {
    let output =
        match Command::new("nft").args(["--stateless", "--numeric-protocol", "list", "ruleset"]).output() {
            Ok(output) => output,
            Err(error) => {
                lack("nft", &format!("`nft` cannot be run: {error}"));
                return None;
            }
        };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    Some(text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n"))
}

const INET: Table = Table { family: Family::Inet, name: "t" };
const LINKS: Set =
    Set { table: INET, name: "links", fields: &[Field::Ipv4, Field::Ipv4, Field::Protocol, Field::Port] };
const HOSTS: Set = Set { table: INET, name: "hosts", fields: &[Field::Ipv4] };
const OUTPUT: Chain = Chain { table: INET, name: "output" };
const MORE: Chain = Chain { table: INET, name: "more" };
const BRIDGE: Table = Table { family: Family::Bridge, name: "t" };
const PORTS: Set =
    Set { table: BRIDGE, name: "ports", fields: &[Field::Interface, Field::Ether, Field::Ipv4] };
const FRAMES: Chain = Chain { table: BRIDGE, name: "frames" };
const FLOW: &[Load] =
    &[Load::Ipv4Source, Load::Ipv4Destination, Load::TransportProtocol, Load::DestinationPort];
const BACK: &[Load] = &[Load::Ipv4Destination, Load::Ipv4Source, Load::TransportProtocol, Load::SourcePort];

fn link(last: u8, port: u16) -> [Value; 4] {
    let address = |n| Value::Ipv4(Ipv4Addr::new(10, 0, 0, n));
    [address(2), address(last), Value::Protocol(6), Value::Port(port)]
}

fn port(name: &str) -> [Value; 3] {
    let name = Value::Interface(InterfaceName::new(name).unwrap());
    [name, Value::Ether([2, 0, 0, 0, 0, 7]), Value::Ipv4(Ipv4Addr::new(10, 0, 0, 7))]
}

fn build() -> Transaction {
    let mut t = Transaction::new();
    t.add_table(INET);
    t.add_set(LINKS);
    t.add_set(HOSTS);
    t.add_chain(MORE);
    t.add_base_chain(OUTPUT, Base { hook: Hook::Output, priority: 0, policy: Policy::Drop });
    t.add_base_chain(
        Chain { table: INET, name: "early" },
        Base { hook: Hook::Prerouting, priority: -300, policy: Policy::Accept },
    );
    let eth0 = InterfaceName::new("eth0").unwrap();
    for rule in [
        Rule::new().to_index(1).accept(),
        Rule::new().state(CtState::INVALID).counter().drop(),
        Rule::new()
            .direction(CtDirection::Original)
            .ipv4()
            .in_set(LINKS, FLOW)
            .counter()
            .accept()
            .comment("links"),
        Rule::new()
            .direction(CtDirection::Reply)
            .state(CtState::ESTABLISHED.or(CtState::RELATED))
            .ipv4()
            .in_set(LINKS, BACK)
            .accept(),
        Rule::new().ipv4().not_in_set(HOSTS, &[Load::Ipv4Destination]).jump("more"),
        Rule::new().from_interface(eth0).to_interface(eth0).accept(),
        Rule::new().ipv4().ipv4_destination(Ipv4Addr::new(10, 0, 0, 1)).transport(17).drop(),
        Rule::new().transport(6).tcp_opening().state(CtState::NEW).counter(),
        Rule::new().not_transport(6).counter(),
        Rule::new().limit(100, 200).log(Log { group: 5, prefix: "ws-deny", snaplen: 64 }),
        Rule::new().transport(6).counter().reject(Reject::TcpReset),
        Rule::new().reject(Reject::AdminProhibited),
    ] {
        t.add_rule(OUTPUT, &rule);
    }
    t.add_rule(MORE, &Rule::new().counter());
    t.add_elements(LINKS, [link(3, 80), link(4, 443)]);
    t.add_elements(HOSTS, [[Value::Ipv4(Ipv4Addr::new(10, 0, 0, 9))]]);
    t.add_table(BRIDGE);
    t.add_set(PORTS);
    t.add_base_chain(FRAMES, Base { hook: Hook::Prerouting, priority: -300, policy: Policy::Drop });
    let sender = &[Load::InputInterface, Load::EtherSource, Load::Ipv4Source];
    t.add_rule(FRAMES, &Rule::new().ether_type(0x0800).in_set(PORTS, sender).accept());
    t.add_rule(FRAMES, &Rule::new().ether_destination([2, 0, 0, 0, 0, 1]).counter().drop());
    t.add_elements(PORTS, [port("v7")]);
    t
}

const GOLDEN: &str = r#"table inet t {
	set links {
		type ipv4_addr . ipv4_addr . inet_proto . inet_service
		elements = { 10.0.0.2 . 10.0.0.3 . 6 . 80,
			     10.0.0.2 . 10.0.0.4 . 6 . 443 }
	}

	set hosts {
		type ipv4_addr
		elements = { 10.0.0.9 }
	}

	chain more {
		counter
	}

	chain output {
		type filter hook output priority filter; policy drop;
		oif "lo" accept
		ct state invalid counter drop
		ct direction original ip saddr . ip daddr . meta l4proto . th dport @links counter accept comment "links"
		ct direction reply ct state established,related ip daddr . ip saddr . meta l4proto . th sport @links accept
		ip daddr != @hosts jump more
		iifname "eth0" oifname "eth0" accept
		ip daddr 10.0.0.1 meta l4proto 17 drop
		tcp flags syn / fin,syn,rst,ack ct state new counter
		meta l4proto != 6 counter
		limit rate 100/second burst 200 packets log prefix "ws-deny" group 5 snaplen 64 queue-threshold 1
		meta l4proto 6 counter reject with tcp reset
		reject with icmpx admin-prohibited
	}

	chain early {
		type filter hook prerouting priority raw; policy accept;
	}
}
table bridge t {
	set ports {
		type ifname . ether_addr . ipv4_addr
		elements = { "v7" . 02:00:00:00:00:07 . 10.0.0.7 }
	}

	chain frames {
		type filter hook prerouting priority dstnat; policy drop;
		iifname . ether saddr . ip saddr @ports accept
		ether daddr 02:00:00:00:00:01 counter drop
	}
}"#;

#[test]
fn nft_lists_what_was_built() {
    if !inside("nft_lists_what_was_built") {
        return;
    }
    let mut socket = Socket::new(netfilter()).unwrap();
    build().commit(&mut socket).unwrap();
    let Some(listed) = listed() else { return };
    assert_eq!(listed, GOLDEN, "nft lists:\n{listed}");
}

#[test]
fn what_is_loaded_is_read_back() {
    if !inside("what_is_loaded_is_read_back") {
        return;
    }
    let mut socket = Socket::new(netfilter()).unwrap();
    let before = generation(&mut socket).unwrap();
    build().commit(&mut socket).unwrap();
    let after = generation(&mut socket).unwrap();
    assert_ne!(before, after);

    assert_eq!(tables(&mut socket, Family::Inet).unwrap(), BTreeSet::from(["t".to_owned()]));
    let found = chains(&mut socket, INET).unwrap();
    let found: Vec<_> = found.iter().map(|chain| (chain.name.as_str(), chain.base)).collect();
    assert_eq!(found, [("more", None), ("output", Some((3, 0, 0))), ("early", Some((0, -300, 1)))]);
    let found = rules(&mut socket, INET).unwrap();
    let output: Vec<_> = found.iter().filter(|rule| rule.chain == "output").collect();
    assert_eq!(output.len(), 12);
    assert_eq!(output[0].expressions, ["meta", "cmp", "immediate"]);
    assert_eq!(rules(&mut socket, BRIDGE).unwrap().len(), 2);
    let expected = [link(3, 80), link(4, 443)].map(|key| key.to_vec());
    assert_eq!(elements(&mut socket, LINKS).unwrap(), BTreeSet::from(expected));
    assert_eq!(elements(&mut socket, PORTS).unwrap(), BTreeSet::from([port("v7").to_vec()]));
    assert_eq!(generation(&mut socket).unwrap(), after, "reading changes nothing");

    let mut t = Transaction::new();
    t.delete_elements(LINKS, [link(3, 80)]);
    t.add_elements(LINKS, [link(4, 443), link(5, 1)]);
    t.commit(&mut socket).unwrap();
    let expected = [link(4, 443), link(5, 1)].map(|key| key.to_vec());
    assert_eq!(elements(&mut socket, LINKS).unwrap(), BTreeSet::from(expected));

    let mut t = Transaction::new();
    t.replace_table(INET);
    t.commit(&mut socket).unwrap();
    assert_eq!(rules(&mut socket, INET).unwrap(), []);
}

#[test]
fn one_refusal_leaves_nothing_behind_and_names_what_was_refused() {
    if !inside("one_refusal_leaves_nothing_behind_and_names_what_was_refused") {
        return;
    }
    let mut socket = Socket::new(netfilter()).unwrap();
    let mut t = build();
    t.add_rule(OUTPUT, &Rule::new().jump("nowhere"));
    t.add_rule(OUTPUT, &Rule::new().accept());
    let error = t.commit(&mut socket).unwrap_err();
    assert_eq!(error.to_string(), "could not add rule 13 to the chain `output`");
    let [refusal] = error.source.refusals() else { panic!("{:?}", error.source) };
    assert_eq!(refusal.errno, rustix::io::Errno::NOENT.raw_os_error());
    assert!(refusal.offset.is_some(), "{refusal:?}");
    assert_eq!(tables(&mut socket, Family::Inet).unwrap(), BTreeSet::new());

    // The last message, the only one that is asked to be acknowledged.
    let mut t = Transaction::new();
    t.add_table(INET);
    t.delete_table(BRIDGE);
    let error = t.commit(&mut socket).unwrap_err();
    assert_eq!(error.to_string(), "could not delete the table `t`");
    assert_eq!(tables(&mut socket, Family::Inet).unwrap(), BTreeSet::new());

    Transaction::new().commit(&mut socket).unwrap();
    build().commit(&mut socket).unwrap();
    assert_eq!(tables(&mut socket, Family::Inet).unwrap(), BTreeSet::from(["t".to_owned()]));
}

/// The acknowledgements of many messages, of which many are refused, all arrive.
#[test]
fn thousands_of_elements_and_hundreds_of_refusals() {
    if !inside("thousands_of_elements_and_hundreds_of_refusals") {
        return;
    }
    let mut socket = Socket::new(netfilter()).unwrap();
    let key = |n: u32| [Value::Ipv4(n.into()), Value::Ipv4(n.into()), Value::Protocol(6), Value::Port(1)];
    let mut t = Transaction::new();
    t.add_table(INET);
    t.add_set(LINKS);
    t.add_elements(LINKS, (0..8000).map(key));
    assert!(t.size() < 400 << 10, "{} bytes", t.size());
    t.commit(&mut socket).unwrap();
    assert_eq!(elements(&mut socket, LINKS).unwrap().len(), 8000);

    let mut t = Transaction::new();
    for _ in 0..300 {
        t.delete_table(BRIDGE);
    }
    let error = t.commit(&mut socket).unwrap_err();
    assert_eq!(error.source.refusals().len(), 300);
}

#[test]
fn without_the_right_nothing_is_done() {
    if !inside("without_the_right_nothing_is_done") {
        return;
    }
    let mut socket = Socket::new(netfilter()).unwrap();
    rustix::thread::set_capabilities(
        None,
        rustix::thread::CapabilitySets {
            effective: rustix::thread::CapabilitySet::empty(),
            permitted: rustix::thread::CapabilitySet::empty(),
            inheritable: rustix::thread::CapabilitySet::empty(),
        },
    )
    .unwrap();
    let error = build().commit(&mut socket).unwrap_err();
    assert_eq!(error.to_string(), "could not commit the rules");
    assert_eq!(error.source.refusals()[0].errno, rustix::io::Errno::PERM.raw_os_error());
}
