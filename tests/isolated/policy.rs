//! Violations, end to end: what services try is denied, told with its evidence, and acted on, and nothing else is; how
//! soon that is; and that nobody but who did it notices.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use ws_e2e::attack::{Came, Row, assert_right, row, try_all};
use ws_e2e::leak::listing;
use ws_e2e::wait::let_pass;
use ws_e2e::{Mode, Ran, Stack, both_ways, requires, show, wait_until};
use ws_model::{
    Event, EventKind, Evidence, Mechanism, NetworkAct, Phase, PolicyAction, Reason, ViolationClass,
    ViolationRow,
};

both_ways! {
    attempts_are_denied_told_and_killed_for
}

/// How long anything may take. Generous: it is there so that a test that hangs fails.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Long enough that what should not be told would have been.
pub(crate) const QUIET: Duration = Duration::from_millis(700);

/// How late anything may be told, on a machine that does a hundred other things: far above what is promised, which the
/// tables show.
pub(crate) const LATE: Duration = Duration::from_secs(5);

// ---- the table

/// An attempt, and the evidence that must be told of it; none: nothing may be told.
type Attempt = (Row, &'static str);

const fn told(
    group: &'static str,
    what: &'static str,
    command: &'static str,
    right: &'static str,
    evidence: &'static str,
) -> Attempt {
    (row(group, what, command, right), evidence)
}

const fn quiet(
    group: &'static str,
    what: &'static str,
    command: &'static str,
    right: &'static str,
) -> Attempt {
    (row(group, what, command, right), "")
}

const REFUSED: &str = "EPERM";
const TCP: &str = "ECONNREFUSED";
const UDP: &str = "EPERM|EHOSTUNREACH";
const HIDDEN: &str = "EACCES|EPERM|ENOENT|EROFS";

const STACK: &str = "
services:
  evil: { command: [bin/ws-e2e-serve, 'tcp:7000', 'udp:7000'], links: ['api:7000', 'clock:9000/udp'] }
  caller: { command: [bin/ws-e2e-serve] }
  opener: { command: [bin/ws-e2e-serve] }
  changer: { command: [bin/ws-e2e-serve] }
  mover: { command: [bin/ws-e2e-serve] }
  looker: { command: [bin/ws-e2e-serve] }
";

const SIBLINGS: &str = "
  api: { command: [bin/ws-e2e-serve, 'tcp:7000', 'udp:7000', 'tcp:7001'], ready: { tcp: ':7000' } }
  clock: { command: [bin/ws-e2e-serve, 'tcp:9000', 'udp:9000', 'udp:9001'], ready: { tcp: ':9000' } }
  db: { command: [bin/ws-e2e-serve, 'tcp:5432', 'udp:5432'], ready: { tcp: ':5432' } }
";

const NETWORK: &[Attempt] = &[
    quiet("link", "a declared link", "tcp {api} 7000", "did"),
    quiet("link", "a declared link, by name", "name api 7000", "did"),
    quiet("link", "a declared UDP link", "udp {clock} 9000", "did"),
    quiet("link", "itself, by its address", "tcp {evil} 7000", "did"),
    quiet("link", "itself, over the loopback", "udp 127.0.0.1 7000", "did"),
    quiet("link", "a port of its own where nobody listens", "tcp 127.0.0.1 9", TCP),
    quiet("link", "localhost, as programs spell it", "name localhost 7000", "did"),
    told("pair", "an undeclared service", "tcp {db} 5432", TCP, "network sent tcp db:5432"),
    told("pair", "an undeclared service, UDP", "udp {db} 5432", UDP, "network sent udp db:5432"),
    told("pair", "an undeclared service, by name", "name db 5432", TCP, "network sent tcp db:5432"),
    told("pair", "a port where nobody listens", "tcp {db} 9", TCP, "network sent tcp db:9"),
    told("pair", "the port of ssh", "tcp {db} 22", TCP, "network sent tcp db:22"),
    told("port", "another port of a linked service", "tcp {api} 7001", TCP, "network sent tcp api:7001"),
    told("port", "the highest port", "tcp {api} 65535", TCP, "network sent tcp api:65535"),
    told("port", "another UDP port", "udp {clock} 9001", UDP, "network sent udp clock:9001"),
    told("port", "UDP where TCP is linked", "udp {api} 7000", UDP, "network sent udp api:7000"),
    told("port", "TCP where UDP is linked", "tcp {clock} 9000", TCP, "network sent tcp clock:9000"),
    told(
        "gateway",
        "the gateway's name service, TCP",
        "tcp {gateway} 53",
        TCP,
        "network sent tcp {gateway}:53",
    ),
    told(
        "gateway",
        "the gateway's name service, UDP",
        "udp {gateway} 53",
        UDP,
        "network sent udp {gateway}:53",
    ),
    told("gateway", "ssh of the gateway", "tcp {gateway} 22", TCP, "network sent tcp {gateway}:22"),
    told(
        "gateway",
        "a name of the internet",
        "name api.stripe.com 443",
        "none",
        "network lookup api.stripe.com",
    ),
    told("host", "the host's own address", "tcp {host} 22", TCP, "network sent tcp {host}:22"),
    told("host", "the host's own address, UDP", "udp {host} 53", UDP, "network sent udp {host}:53"),
    told("outside", "a name server", "udp 8.8.8.8 53", UDP, "network sent udp 8.8.8.8:53"),
    told("outside", "a name server, TCP", "tcp 8.8.8.8 53", TCP, "network sent tcp 8.8.8.8:53"),
    told("outside", "a web server", "tcp 1.1.1.1 443", TCP, "network sent tcp 1.1.1.1:443"),
    told("outside", "a web server, QUIC", "udp 1.1.1.1 443", UDP, "network sent udp 1.1.1.1:443"),
    told("outside", "mail", "tcp 192.0.2.25 25", TCP, "network sent tcp 192.0.2.25:25"),
    told(
        "outside",
        "a cloud's metadata",
        "tcp 169.254.169.254 80",
        TCP,
        "network sent tcp 169.254.169.254:80",
    ),
    told("outside", "a private network", "tcp 192.168.1.1 80", TCP, "network sent tcp 192.168.1.1:80"),
    told("outside", "docker's bridge", "tcp 172.17.0.1 2375", TCP, "network sent tcp 172.17.0.1:2375"),
    told(
        "outside",
        "an address of the subnet that nobody has",
        "tcp 10.77.255.254 80",
        TCP,
        "network sent tcp 10.77.255.254:80",
    ),
    told("outside", "multicast", "udp 224.0.0.251 5353", UDP, "network sent udp 224.0.0.251:5353"),
    told(
        "outside",
        "multicast that is found by everybody",
        "udp 239.255.255.250 1900",
        UDP,
        "network sent udp 239.255.255.250:1900",
    ),
    quiet("outside", "broadcast", "udp 255.255.255.255 67", "EACCES"),
    quiet("outside", "ping without privilege", "ping 8.8.8.8", "EACCES"),
    quiet("source", "a linked service from another's address", "tcp {api} 7000 {db}", "EADDRNOTAVAIL|broken"),
    quiet(
        "source",
        "another's address, where nobody asks whose it is",
        "not-own {api} 7000 {db}",
        "EINVAL|ENETUNREACH",
    ),
    quiet("source", "from the loopback", "not-own {api} 7000 127.0.0.1", "EINVAL|ENETUNREACH"),
    told("raw", "raw ICMP", "raw-ping {api}", REFUSED, "network raw SOCK_RAW"),
    told("raw", "raw IPv4", "call socket 2 3 1", REFUSED, "network raw SOCK_RAW"),
    told("raw", "raw IPv6", "call socket 10 3 58", REFUSED, "network raw SOCK_RAW"),
    told("raw", "AF_PACKET", "call socket 17 3 0", REFUSED, "network raw AF_PACKET"),
    told("raw", "AF_PACKET, datagrams", "call socket 17 2 0", REFUSED, "network raw AF_PACKET"),
    told("raw", "SOCK_PACKET", "call socket 2 10 0x0300", REFUSED, "network raw SOCK_PACKET"),
    quiet("raw", "netfilter's netlink", "call socket 16 3 12", REFUSED),
    quiet("raw", "AF_ALG", "call socket 38 5 0", REFUSED),
    quiet("ipv6", "the loopback", "tcp6 ::1 80 lo", "EADDRNOTAVAIL|EAFNOSUPPORT|ECONNREFUSED|ENETUNREACH"),
    quiet("ipv6", "a neighbour", "tcp6 fe80::1 7000 eth0", "EADDRNOTAVAIL|ENETUNREACH|EAFNOSUPPORT|EACCES"),
    quiet(
        "ipv6",
        "the internet",
        "tcp6 2001:4860:4860::8888 53 eth0",
        "EADDRNOTAVAIL|ENETUNREACH|EAFNOSUPPORT",
    ),
    quiet("ipv6", "addresses", "addresses6", "none"),
];

const CALLS: &[Attempt] = &[
    told(
        "call",
        "unshare: user",
        "caller: call unshare 0x10000000",
        REFUSED,
        "syscalls unshare CLONE_NEWUSER",
    ),
    told(
        "call",
        "unshare: mount",
        "caller: call unshare 0x00020000",
        REFUSED,
        "syscalls unshare CLONE_NEWNS",
    ),
    told(
        "call",
        "unshare: network",
        "caller: call unshare 0x40000000",
        REFUSED,
        "syscalls unshare CLONE_NEWNET",
    ),
    told("call", "unshare: pid", "caller: call unshare 0x20000000", REFUSED, "syscalls unshare CLONE_NEWPID"),
    told("call", "unshare: ipc", "caller: call unshare 0x08000000", REFUSED, "syscalls unshare CLONE_NEWIPC"),
    told("call", "unshare: uts", "caller: call unshare 0x04000000", REFUSED, "syscalls unshare CLONE_NEWUTS"),
    told(
        "call",
        "unshare: cgroup",
        "caller: call unshare 0x02000000",
        REFUSED,
        "syscalls unshare CLONE_NEWCGROUP",
    ),
    told(
        "call",
        "unshare: everything",
        "caller: call unshare 0x7e020000",
        REFUSED,
        "syscalls unshare CLONE_NEWUSER",
    ),
    told(
        "call",
        "clone: user",
        "caller: call clone 0x10000011 0 0 0 0",
        REFUSED,
        "syscalls clone CLONE_NEWUSER",
    ),
    told(
        "call",
        "clone: network, with high bits",
        "caller: call clone 0x140000011 0 0 0 0",
        REFUSED,
        "syscalls clone CLONE_NEWNET",
    ),
    told(
        "call",
        "clone: pid",
        "caller: call clone 0x20000011 0 0 0 0",
        REFUSED,
        "syscalls clone CLONE_NEWPID",
    ),
    told("call", "setns", "caller: call setns -1 0", REFUSED, "syscalls setns"),
    told("call", "mount", "caller: call mount s:none s:/tmp s:tmpfs 0 0", REFUSED, "syscalls mount"),
    told(
        "call",
        "a bind mount",
        "caller: call mount s:/etc s:/tmp s:none 0x1000 0",
        REFUSED,
        "syscalls mount",
    ),
    told("call", "umount", "caller: call umount2 s:/proc 2", REFUSED, "syscalls umount2"),
    told("call", "pivot_root", "caller: call pivot_root s:/tmp s:/tmp", REFUSED, "syscalls pivot_root"),
    told("call", "chroot", "caller: call chroot s:/tmp", REFUSED, "syscalls chroot"),
    told("call", "open_tree", "caller: call open_tree -100 s:/ 1", REFUSED, "syscalls open_tree"),
    told(
        "call",
        "move_mount",
        "caller: call move_mount -100 s:/tmp -100 s:/tmp 0",
        REFUSED,
        "syscalls move_mount",
    ),
    told("call", "fsopen", "caller: call fsopen s:tmpfs 0", REFUSED, "syscalls fsopen"),
    told("call", "fsmount", "caller: call fsmount -1 0 0", REFUSED, "syscalls fsmount"),
    told("call", "fspick", "caller: call fspick -100 s:/ 0", REFUSED, "syscalls fspick"),
    told(
        "call",
        "mount_setattr",
        "caller: call mount_setattr -100 s:/usr 0 z:32 32",
        REFUSED,
        "syscalls mount_setattr",
    ),
    told("call", "bpf", "caller: call bpf 0 z:120 120", REFUSED, "syscalls bpf"),
    told("call", "init_module", "caller: call init_module z:16 16 s:x", REFUSED, "syscalls init_module"),
    told("call", "finit_module", "caller: call finit_module -1 s:x 0", REFUSED, "syscalls finit_module"),
    told("call", "delete_module", "caller: call delete_module s:x 0", REFUSED, "syscalls delete_module"),
    told("call", "kexec_load", "caller: call kexec_load 0 0 0 0", REFUSED, "syscalls kexec_load"),
    told("call", "tracing init", "caller: call ptrace 16 1 0 0", REFUSED, "syscalls ptrace"),
    told("call", "seizing init", "caller: call ptrace 0x4206 1 0 0", REFUSED, "syscalls ptrace"),
    quiet("call", "looking whether it is traced", "caller: call ptrace 0 0 0 0", REFUSED),
    told(
        "call",
        "reading another's memory",
        "caller: call process_vm_readv 1 0 0 0 0 0",
        REFUSED,
        "syscalls process_vm_readv",
    ),
    told(
        "call",
        "writing another's memory",
        "caller: call process_vm_writev 1 0 0 0 0 0",
        REFUSED,
        "syscalls process_vm_writev",
    ),
    told(
        "call",
        "taking another's descriptor",
        "caller: call pidfd_getfd -1 0 0",
        REFUSED,
        "syscalls pidfd_getfd",
    ),
    told("call", "userfaultfd", "caller: call userfaultfd 1", REFUSED, "syscalls userfaultfd"),
    told("call", "keyctl", "caller: call keyctl 0 -3 0", REFUSED, "syscalls keyctl"),
    told("call", "add_key", "caller: call add_key s:user s:x s:y 1 -3", REFUSED, "syscalls add_key"),
    told("call", "request_key", "caller: call request_key s:user s:x 0 0", REFUSED, "syscalls request_key"),
    told("call", "settimeofday", "caller: call settimeofday z:16 0", REFUSED, "syscalls settimeofday"),
    told("call", "clock_settime", "caller: call clock_settime 0 z:16", REFUSED, "syscalls clock_settime"),
    told("call", "reboot", "caller: call reboot 0 0 0 0", REFUSED, "syscalls reboot"),
    told("call", "swapon", "caller: call swapon s:/tmp 0", REFUSED, "syscalls swapon"),
    told("call", "swapoff", "caller: call swapoff s:/tmp", REFUSED, "syscalls swapoff"),
    told("call", "acct", "caller: call acct 0", REFUSED, "syscalls acct"),
    told(
        "call",
        "a file by its handle",
        "caller: call open_by_handle_at -1 z:16 0",
        REFUSED,
        "syscalls open_by_handle_at",
    ),
    told("call", "AF_VSOCK", "caller: call socket 40 1 0", REFUSED, "syscalls socket AF_VSOCK"),
    told(
        "call",
        "typing into a terminal",
        "caller: call ioctl 0 0x5412 s:x",
        REFUSED,
        "syscalls ioctl TIOCSTI",
    ),
    told(
        "call",
        "typing into a terminal, with high bits",
        "caller: call ioctl 0 0x100005412 s:x",
        REFUSED,
        "syscalls ioctl TIOCSTI",
    ),
    told(
        "call",
        "the console's selection",
        "caller: call ioctl 0 0x541c x:02",
        REFUSED,
        "syscalls ioctl TIOCLINUX",
    ),
    // What programs try to see whether it works.
    quiet("probe", "unshare of nothing", "caller: call unshare 0", REFUSED),
    quiet("probe", "io_uring", "caller: call io_uring_setup 1 z:120", "ENOSYS"),
    quiet("probe", "perf_event_open", "caller: call perf_event_open z:128 0 -1 -1 0", REFUSED),
    quiet("probe", "adjtimex", "caller: call adjtimex z:256", REFUSED),
    quiet("probe", "the kernel's log", "caller: call syslog 3 z:100 100", REFUSED),
    quiet("probe", "a handle of a file", "caller: call name_to_handle_at -100 s:/ z:128 z:8 0", REFUSED),
    quiet("probe", "a call that nobody knows", "caller: call 1000", "ENOSYS"),
    quiet("probe", "a higher priority", "caller: call setpriority 0 0 -5", "EACCES|EPERM"),
    quiet("probe", "becoming root", "caller: call setuid 0", "EINVAL|EPERM"),
];

const DECOYS: &[Attempt] = &[
    told(
        "decoy",
        "opening a key",
        "opener: read {home}/.ssh/id_ed25519",
        "did",
        "decoys opened .ssh/id_ed25519",
    ),
    told(
        "decoy",
        "opening an RSA key, to write",
        "opener: append {home}/.ssh/id_rsa",
        "did",
        "decoys opened .ssh/id_rsa",
    ),
    told(
        "decoy",
        "opening a PGP key",
        "opener: copy {home}/.gnupg/private-keys-v1.d/8F1C5D3A0B7E4926D1A4C7F05E92B8136A0D4CE7.key",
        "did",
        "decoys opened .gnupg/private-keys-v1.d/8F1C5D3A0B7E4926D1A4C7F05E92B8136A0D4CE7.key",
    ),
    told(
        "decoy",
        "opening a browser's passwords",
        "opener: read {home}/.mozilla/firefox/k3x9q2lm.default-release/logins.json",
        "did",
        "decoys opened .mozilla/firefox/k3x9q2lm.default-release/logins.json",
    ),
    told(
        "decoy",
        "opening a wallet, through a link",
        "opener: through-link {home}/.bitcoin/wallet.dat /tmp/link",
        "did",
        "decoys opened .bitcoin/wallet.dat",
    ),
    told(
        "decoy",
        "opening a cloud's key",
        "opener: read {home}/.aws/credentials",
        "did",
        "decoys opened .aws/credentials",
    ),
    told(
        "decoy",
        "opening a cluster's key",
        "opener: read {home}/.kube/config",
        "did",
        "decoys opened .kube/config",
    ),
    told(
        "decoy",
        "opening a registry's key",
        "opener: read {home}/.docker/config.json",
        "did",
        "decoys opened .docker/config.json",
    ),
    told(
        "decoy",
        "opening another cloud's key",
        "opener: read {home}/.config/gcloud/credentials.db",
        "did",
        "decoys opened .config/gcloud/credentials.db",
    ),
    told(
        "decoy",
        "opening it by another way there",
        "changer: read /proc/self/root{home}/.aws/credentials",
        "did",
        "decoys opened .aws/credentials",
    ),
    told(
        "decoy",
        "mode of a key",
        "changer: chmod {home}/.ssh/id_ed25519 644",
        "did",
        "decoys changed .ssh/id_ed25519",
    ),
    told("decoy", "times of a key", "changer: touch {home}/.ssh/id_rsa", "did", "decoys changed .ssh/id_rsa"),
    told(
        "decoy",
        "another name for a wallet",
        "changer: hard-link {home}/.bitcoin/wallet.dat /tmp/wallet",
        "did|EXDEV",
        "decoys changed .bitcoin/wallet.dat",
    ),
    told(
        "decoy",
        "truncating a registry's key",
        "changer: truncate {home}/.docker/config.json",
        "did",
        "decoys opened .docker/config.json",
    ),
    told(
        "decoy",
        "overwriting a cluster's key",
        "changer: write {home}/.kube/config x",
        "did",
        "decoys opened .kube/config",
    ),
    told(
        "decoy",
        "renaming a key",
        "mover: rename {home}/.ssh/id_ed25519 {home}/.ssh/x",
        "did",
        "decoys moved .ssh/id_ed25519",
    ),
    told("decoy", "removing a key", "mover: remove {home}/.ssh/id_rsa", "did", "decoys changed .ssh/id_rsa"),
    told(
        "decoy",
        "replacing a cloud's key",
        "mover: rename {home}/.kube/config {home}/.aws/credentials",
        "did",
        "decoys moved .kube/config|decoys changed .aws/credentials",
    ),
    quiet("decoy", "that a key is there", "looker: exists {home}/.ssh/id_ed25519", "did"),
    quiet("decoy", "the list of keys", "looker: list {home}/.ssh", "did"),
    quiet("decoy", "the list of the home", "looker: list {home}", "did"),
    quiet("decoy", "whether a key can be read", "looker: call faccessat -100 s:{home}/.ssh/id_rsa 4", "did"),
    quiet("decoy", "stat of a key", "looker: call statx -100 s:{home}/.ssh/id_rsa 0 0xfff z:256", "did"),
    quiet("decoy", "its file system", "looker: call statfs s:{home}/.ssh/id_rsa z:256", "did"),
    quiet("decoy", "its attributes", "looker: call listxattr s:{home}/.ssh/id_rsa z:256 256", "did"),
    quiet(
        "decoy",
        "whether it is a link",
        "looker: call readlinkat -100 s:{home}/.ssh/id_rsa z:256 256",
        "EINVAL",
    ),
    quiet("decoy", "a file beside keys", "looker: create {home}/.ssh/known_hosts", "did"),
    quiet("decoy", "a file that is no decoy", "looker: read {home}/.npmrc", "ENOENT"),
    quiet("decoy", "settings of a person", "looker: read {home}/.gitconfig", "ENOENT"),
];

const OTHERS: &[Attempt] = &[
    quiet("control", "the control socket", "looker: unix {control}", "ENOENT"),
    quiet("control", "the control socket, through init", "looker: unix /proc/1/root{control}", HIDDEN),
    quiet("control", "its directory", "looker: list {runtime}", "ENOENT"),
    quiet("control", "the state directory", "looker: list {state}", "ENOENT"),
    quiet("control", "the workspace file", "looker: append {project}/workspace.yaml", HIDDEN),
    quiet("control", "a new workspace file", "looker: create {project}/ws.yaml", HIDDEN),
    quiet("control", "docker's socket", "looker: unix /var/run/docker.sock", "ENOENT"),
    quiet("process", "killing the supervisor", "looker: signal {supervisor} 9", "ESRCH"),
    quiet("process", "killing a sibling", "looker: signal {sibling} 9", "ESRCH"),
    quiet("process", "the environment of init", "looker: read /proc/1/environ", HIDDEN),
    quiet("process", "the memory of init", "looker: append /proc/1/mem", HIDDEN),
    quiet("process", "the environment of whoever runs ws", "looker: environment {canary}", "none"),
    quiet("file", "a program of the system", "looker: append /usr/bin/env", HIDDEN),
    quiet("file", "a file in /etc", "looker: create /etc/x", HIDDEN),
    quiet("file", "the project", "looker: create {project}/x", HIDDEN),
    quiet("file", "passwords", "looker: read /etc/shadow", "EACCES|EPERM|ENOENT|none"),
    quiet("file", "where core dumps go", "looker: append /proc/sys/kernel/core_pattern", HIDDEN),
    quiet("file", "the kernel's memory", "looker: read /proc/kcore", "EACCES|EPERM|ENOENT|none"),
    quiet("file", "a disk", "looker: exists /dev/vda", "ENOENT"),
    quiet("file", "control groups", "looker: list /sys/fs/cgroup", "ENOENT"),
];

fn all() -> Vec<Attempt> {
    [NETWORK, CALLS, DECOYS, OTHERS].concat()
}

/// How long something took, by class.
type Times = BTreeMap<ViolationClass, Vec<Duration>>;

/// Evidence in the words of the table; paths below the home without it.
fn words(evidence: &Evidence, home: &str) -> String {
    match evidence {
        Evidence::Network { act: NetworkAct::RawSocket, protocol, .. } => format!("network raw {protocol}"),
        Evidence::Network { lookup: Some(lookup), .. } => format!("network lookup {lookup}"),
        Evidence::Network { act, protocol, .. } => {
            let act = if *act == NetworkAct::Sent { "sent" } else { "spoofed" };
            format!("network {act} {protocol} {}", evidence.target().unwrap_or_default())
        }
        Evidence::Syscall { name, detail: Some(detail), .. } => format!("syscalls {name} {detail}"),
        Evidence::Syscall { name, detail: None, .. } => format!("syscalls {name}"),
        Evidence::Decoy { path, act } => {
            let path = path.strip_prefix(home).unwrap_or(path).trim_start_matches('/');
            format!("decoys {} {path}", act.as_str())
        }
        Evidence::Memory { .. }
        | Evidence::Pids { .. }
        | Evidence::Cpu { .. }
        | Evidence::Process { .. }
        | Evidence::File { .. }
        | Evidence::Logs { .. } => format!("{} {evidence}", evidence.class()),
    }
}

pub(crate) fn violations(stack: &Stack) -> Vec<ViolationRow> {
    let out = stack.ws(&["violations", "--json"]).ok();
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

pub(crate) fn events(stack: &Stack) -> Vec<Event> {
    let out = stack.ws(&["events", "--json"]).ok();
    let event = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    out.lines().map(event).collect()
}

/// Waits for a row of `ws violations`.
pub(crate) fn violation(stack: &Stack, what: &str, is_it: impl Fn(&ViolationRow) -> bool) -> ViolationRow {
    wait_until(SOON, what, || {
        let rows = violations(stack);
        let found = rows.iter().find(|row| is_it(row)).cloned();
        found.ok_or_else(|| format!("{rows:#?}"))
    })
}

pub(crate) fn until(stack: &Stack, service: &str, phase: Phase) -> ws_model::wire::ServiceStatus {
    wait_until(SOON, &format!("{service} is {phase:?}"), || {
        let row = stack.status(service);
        if row.phase == phase { Ok(row) } else { Err(format!("{row:#?}\n{}", stack.story())) }
    })
}

/// How long after the act something was; events have milliseconds.
pub(crate) fn after(act_us: u64, unix_ms: i64) -> Duration {
    let at = u64::try_from(unix_ms).expect("after 1970") * 1000;
    Duration::from_micros(at.saturating_sub(act_us))
}

/// p50, p95 and max, as text; and the last.
pub(crate) fn spread(times: &[Duration]) -> (String, Duration) {
    let mut times = times.to_vec();
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    (format!("p50 {:?}, p95 {:?}, max {:?}", at(50), at(95), at(100)), at(100))
}

fn values(stack: &Stack) -> BTreeMap<&'static str, String> {
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let rows = stack.ps();
    let control = listing(&stack.runtime);
    let control = control.iter().find(|path| {
        std::fs::metadata(path).is_ok_and(|meta| std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type()))
    });
    let supervisor = stack.processes().into_iter().find(|process| process.cmdline.contains("__supervise"));
    let home = stack.exec("api", &["/bin/sh", "-c", "echo $HOME"]).ok();
    let mut values = BTreeMap::from([
        ("home", home.trim().to_owned()),
        ("gateway", "10.77.0.1".to_owned()),
        // One that is for documentation: what is not there is denied as well.
        ("host", "192.0.2.1".to_owned()),
        ("supervisor", supervisor.expect("a supervisor").pid.to_string()),
        ("sibling", stack.pid("api").to_string()),
        ("canary", format!("canary-{}", stack.token)),
        ("control", text(control.expect("the control socket"))),
        ("runtime", text(&stack.runtime)),
        ("state", text(&stack.state)),
        ("project", text(&stack.project)),
    ]);
    for name in ["evil", "api", "clock", "db"] {
        if let Some(row) = rows.iter().find(|row| row.service.as_str() == name) {
            values.insert(name, row.address.clone());
        }
    }
    if let Some(host) = super::links::host_address() {
        values.insert("host", host.to_string());
    }
    values
}

fn fill(text: &str, values: &BTreeMap<&str, String>) -> String {
    values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
}

/// Who tries, and what he does.
fn place(command: &str) -> (&str, &str) {
    match command.split_once(": ") {
        Some((place, rest)) if !place.contains(' ') => (place, rest),
        _ => ("evil", command),
    }
}

/// Siblings are what they were: they answer, and were not started anew; so is the supervisor.
pub(crate) fn assert_untouched(stack: &Stack, supervisor: &str, siblings: &[(&str, u32)]) {
    for (name, pid) in siblings {
        let row = stack.status(name);
        assert!(row.ready && row.restarts == 0 && row.pid == Some(*pid), "{row:?}\n{}", stack.story());
        assert!(violations(stack).iter().all(|row| row.service.as_str() != *name), "{name} did nothing");
    }
    let still = stack.processes().into_iter().find(|process| process.cmdline.contains("__supervise"));
    assert_eq!(still.map(|process| process.pid.to_string()).as_deref(), Some(supervisor));
    let echo = attack(stack, "api", &["tcp", "127.0.0.1", "7000"]);
    assert_eq!(echo.outcome, "did", "{echo:?}");
}

pub(crate) fn attack(stack: &Stack, service: &str, words: &[&str]) -> Came {
    let program = stack.bin("ws-e2e-attack");
    came(&stack.exec(service, &[&[program.as_str()], words].concat()))
}

pub(crate) fn came(ran: &Ran) -> Came {
    serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {ran}"))
}

pub(crate) fn pids(stack: &Stack, names: &[&'static str]) -> Vec<(&'static str, u32)> {
    names.iter().map(|name| (*name, stack.pid(name).cast_unsigned())).collect()
}

fn attempts_are_denied_told_and_killed_for(mode: Mode) {
    requires!(mode, userns, netns, nft, seccomp);
    let attempts = all();
    let mut table = format!("{} attempts, ws run as {mode}\n", attempts.len());
    told_of(mode, &attempts, &mut table);
    killed_for(mode, &attempts, &mut table);
    show(&table);
}

/// Everything is denied, and exactly what must be is told.
fn told_of(mode: Mode, attempts: &[Attempt], table: &mut String) {
    let mut stack = Stack::new(mode, &format!("policy: {{ decoys: report }}{STACK}{SIBLINGS}"));
    stack.up();
    let values = values(&stack);
    let siblings = pids(&stack, &["api", "clock", "db"]);
    let rows: Vec<Row> = attempts.iter().map(|(row, _)| *row).collect();
    let tried = try_all(&stack, "evil", &rows, &values);
    assert_right(mode, &tried);

    // Who, and what of it is to be told; with the first act.
    let mut expected: BTreeMap<(String, String), (u64, u64)> = BTreeMap::new();
    for (tried, (row, evidence)) in tried.iter().zip(attempts) {
        for evidence in evidence.split('|').filter(|evidence| !evidence.is_empty()) {
            let key = (place(row.command).0.to_owned(), fill(evidence, &values));
            let entry = expected.entry(key).or_insert((tried.came.at_us, 0));
            entry.0 = entry.0.min(tried.came.at_us);
            entry.1 += 1;
        }
    }
    let by_words = || -> BTreeMap<(String, String), ViolationRow> {
        let rows = violations(&stack).into_iter();
        rows.map(|row| ((row.service.to_string(), words(&row.evidence, &values["home"])), row)).collect()
    };
    // What repeats is told again a second later.
    let seen = wait_until(SOON, "everything is told", || {
        let seen = by_words();
        let missing: Vec<_> = expected
            .iter()
            .filter(|(key, (_, count))| seen.get(key).is_none_or(|row| row.count < *count))
            .map(|(key, _)| key)
            .collect();
        let unexpected: Vec<_> = seen.keys().filter(|key| !expected.contains_key(key)).collect();
        if missing.is_empty() {
            Ok(seen)
        } else {
            Err(format!("missing {missing:#?}, unexpected {unexpected:#?}\n{}", stack.story()))
        }
    });
    let_pass(QUIET);
    let unexpected: Vec<_> = by_words().into_keys().filter(|key| !expected.contains_key(key)).collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}");
    let mut times = Times::new();
    for (key, (act, count)) in &expected {
        let row = &seen[key];
        assert_eq!((row.action, row.events_lost), (PolicyAction::Report, 0), "{row:?}");
        let mechanism = match row.class {
            ViolationClass::Decoys => Mechanism::Inotify,
            ViolationClass::Network if !key.1.starts_with("network raw") => Mechanism::Nflog,
            _ => Mechanism::Seccomp,
        };
        assert_eq!(row.mechanism, mechanism, "{row:?}");
        // A resolver asks for both kinds of addresses, and asks again.
        let exactly = !key.1.starts_with("network lookup");
        assert!(row.count == *count || !exactly && row.count > *count, "{count} times: {row:?}");
        times.entry(row.class).or_default().push(after(*act, row.first_at.unix_ms));
    }
    let harmless = attempts.iter().filter(|(_, evidence)| evidence.is_empty()).count();
    let denied = attempts.iter().filter(|(row, _)| row.right != "did").count();
    let _ = writeln!(
        table,
        "  denied {denied}, worked {}; told {} as {} kinds, not told {}",
        attempts.len() - denied,
        attempts.len() - harmless,
        expected.len(),
        harmless
    );
    for (class, times) in times {
        let (text, last) = spread(&times);
        let _ = writeln!(table, "  {class:10} {:3} from the act to the event: {text}", times.len());
        assert!(last < LATE, "{class}: {text}");
    }
    assert_untouched(&stack, &values["supervisor"], &siblings);
    stack.down();
}

/// What is told under a strict policy is killed for, and nobody else is.
fn killed_for(mode: Mode, attempts: &[Attempt], table: &mut String) {
    // One of each kind.
    let mut kinds = BTreeSet::new();
    let fatal: Vec<&Attempt> =
        attempts.iter().filter(|(_, evidence)| !evidence.is_empty() && kinds.insert(*evidence)).collect();
    let mut yaml = format!("policy: {{ posture: strict }}{STACK}{SIBLINGS}");
    for number in 0..fatal.len() {
        let links = "links: ['api:7000', 'clock:9000/udp']";
        let _ = writeln!(yaml, "  k{number}: {{ command: [bin/ws-e2e-serve], {links} }}");
    }
    let mut stack = Stack::new(mode, &yaml);
    stack.up();
    let values = values(&stack);
    let siblings = pids(&stack, &["api", "clock", "db", "evil", "caller", "opener", "looker"]);
    let harmless: Vec<Row> =
        attempts.iter().filter(|(_, evidence)| evidence.is_empty()).map(|(row, _)| *row).collect();
    assert_right(mode, &try_all(&stack, "evil", &harmless, &values));

    let program = stack.bin("ws-e2e-attack");
    let mut acts = Vec::new();
    for (number, (row, evidence)) in fatal.iter().enumerate() {
        let service = format!("k{number}");
        let words: Vec<String> =
            place(row.command).1.split_whitespace().map(|word| fill(word, &values)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let ran = stack.exec(&service, &[&[program.as_str(), "announce"], &words[..]].concat());
        let act = ran.out.lines().next().and_then(|line| line.parse::<u64>().ok());
        acts.push((service, *row, evidence, act.unwrap_or_else(|| panic!("{}: {ran}", row.what))));
    }
    let mut rows = wait_until(SOON, "all are down", || {
        let rows = stack.ps();
        let up: Vec<_> = rows
            .iter()
            .filter(|row| row.name.as_str().starts_with('k') && row.phase != Phase::Violated)
            .map(|row| (row.name.to_string(), row.phase))
            .collect();
        if up.is_empty() { Ok(rows) } else { Err(format!("{up:?}\n{:#?}", violations(&stack))) }
    });
    rows.retain(|row| row.name.as_str().starts_with('k'));
    let told = events(&stack);
    let (mut seen, mut dead): (Times, Times) = Default::default();
    for (service, row, evidence, act) in &acts {
        let own =
            || told.iter().filter(|it| it.service.as_ref().is_some_and(|name| name.as_str() == service));
        let expected: Vec<String> = evidence.split('|').map(|one| fill(one, &values)).collect();
        let first = own().find_map(|event| match &event.kind {
            EventKind::Violation(it) if it.action == PolicyAction::Kill => Some((event.at, it)),
            _ => None,
        });
        let (at, it) = first.unwrap_or_else(|| panic!("{}: {:#?}", row.what, own().collect::<Vec<_>>()));
        let said = words(&it.evidence, &values["home"]);
        assert!(expected.contains(&said), "{}: {said} instead of {expected:?}", row.what);
        assert_eq!(it.rule, "default (strict)", "{it:?}");
        let violated = own().find_map(|event| match &event.kind {
            EventKind::Phase { phase: Phase::Violated, cause, .. } => Some((event.at, cause)),
            _ => None,
        });
        let (down, _) = violated.unwrap_or_else(|| panic!("{}: it is down", row.what));
        seen.entry(it.class).or_default().push(after(*act, at.unix_ms));
        dead.entry(it.class).or_default().push(after(*act, down.unix_ms));
        // Its verdict is its cause, and nothing of it is left.
        let status = rows.iter().find(|row| row.name.as_str() == service).expect("its row");
        assert_eq!((status.reason, status.restarts), (Reason::Violation, 0), "{status:?}");
        assert!(status.cause.contains(&it.evidence.to_string()), "{status:?}");
    }
    let _ = writeln!(table, "  killed {} of {} kinds under `posture: strict`", acts.len(), fatal.len());
    for (class, times) in &seen {
        let ((event, last), (death, last_dead)) = (spread(times), spread(&dead[class]));
        let _ = writeln!(table, "  {class:10} {:3} to the event: {event}", times.len());
        let _ = writeln!(table, "  {:14} to the last process dead: {death}", "");
        assert!(last < LATE && last_dead < LATE, "{class}: {event}; {death}");
    }
    assert_untouched(&stack, &values["supervisor"], &siblings);
    stack.down();
}
