//! What a hostile service tries against processes, the kernel and `ws` itself.

use std::collections::BTreeMap;
use std::fs;

use ws_e2e::attack::{Row, assert_right, row, table, try_all};
use ws_e2e::show;
use ws_e2e::{Mode, Stack, both_ways, needs, requires};

both_ways! {
    a_service_cannot_get_out
}

const STACK: &str = "
services:
  evil:
    command: [bin/ws-e2e-serve, 'tcp:7000']
    ready: { tcp: ':7000' }
    writable: [data]
  sibling:
    command: [bin/ws-e2e-serve, 'tcp:7000']
    ready: { tcp: ':7000' }
    environment: { SIBLING_CANARY: '{token}-sibling' }
";

const REFUSED: &str = "EPERM";
/// As if the kernel did not have it: programs then do without.
const UNKNOWN: &str = "ENOSYS";

/// Everything is to be refused by what the service is, not by bad arguments: where the kernel checks arguments
/// first, they are good.
const ATTEMPTS: &[Row] = &[
    // Processes.
    row("process", "a signal to the supervisor", "signal {supervisor} 0", "ESRCH"),
    row("process", "killing the supervisor", "signal {supervisor} 9", "ESRCH"),
    row("process", "killing the spawner", "signal {spawner} 9", "ESRCH"),
    row("process", "killing every launcher", "signal {launcher} 9", "ESRCH"),
    row("process", "killing its own init, by the host's number", "signal {init} 9", "ESRCH"),
    row("process", "killing the sibling", "signal {sibling} 9", "ESRCH"),
    row("process", "killing the test", "signal {test} 9", "ESRCH"),
    row("process", "a descriptor of the supervisor", "pidfd {supervisor}", "ESRCH|EINVAL"),
    row("process", "a descriptor of the sibling", "pidfd {sibling}", "ESRCH|EINVAL"),
    row("process", "a signal to any process that there can be", "signal-any 4194304", "none"),
    row("process", "seeing other processes", "strangers ws-init ws-e2e-serve ws-e2e-attack", "none"),
    row("process", "the environment of init", "read /proc/1/environ", "EACCES|EPERM|ENOENT"),
    row("process", "the memory of init", "read /proc/1/mem", "EACCES|EPERM|ENOENT"),
    row("process", "the maps of init", "read /proc/1/maps", "EACCES|EPERM|ENOENT"),
    row("process", "the memory of init, for writing", "append /proc/1/mem", "EACCES|EPERM|ENOENT"),
    row("process", "the root of init", "list /proc/1/root", "EACCES|EPERM|ENOENT"),
    row("process", "the current directory of init", "list /proc/1/cwd", "EACCES|EPERM|ENOENT"),
    row("process", "the descriptors of init", "list /proc/1/fd", "EACCES|EPERM|ENOENT"),
    row("process", "the program of init", "append /proc/1/exe", "EACCES|EPERM|ENOENT"),
    row("process", "the namespaces of init", "read /proc/1/ns/net", "EACCES|EPERM|ENOENT"),
    row("process", "the user's environment, in any process", "environment {canary}", "none"),
    row("process", "the sibling's environment, in any process", "environment {sibling_canary}", "none"),
    row("process", "tracing init", "call ptrace 16 1 0 0", REFUSED),
    row("process", "seizing init", "call ptrace 0x4206 1 0 0", REFUSED),
    row("process", "being traced", "call ptrace 0 0 0 0", REFUSED),
    row("process", "reading another's memory", "call process_vm_readv 1 0 0 0 0 0", REFUSED),
    row("process", "writing another's memory", "call process_vm_writev 1 0 0 0 0 0", REFUSED),
    row("process", "advising another's memory", "call process_madvise -1 0 0 0 0", REFUSED),
    row("process", "comparing kernel objects", "call kcmp 1 1 0 0 0", REFUSED),
    row("process", "taking another's descriptor", "call pidfd_getfd -1 0 0", REFUSED),
    row("process", "descriptors that were left open", "descriptors", "none"),
    row("process", "a terminal", "terminal", "ENXIO|ENOENT|EACCES|EPERM"),
    row("process", "real-time priority", "call sched_setscheduler 0 1 x:01000000", REFUSED),
    row("process", "a higher priority than others", "call setpriority 0 0 -5", "EACCES|EPERM"),
    // What the process is.
    row("rights", "capabilities in any set", "capabilities", "none"),
    row("rights", "new privileges by exec", "field /proc/self/status NoNewPrivs 1", "none"),
    row("rights", "no system call filter", "field /proc/self/status Seccomp 2", "none"),
    row("rights", "init with new privileges", "init-status NoNewPrivs 1", "none|EPERM|EACCES|ENOENT"),
    row("rights", "init without a filter", "init-status Seccomp 2", "none|EPERM|EACCES|ENOENT"),
    row("rights", "becoming root", "call setuid 0", "EINVAL|EPERM"),
    row("rights", "becoming root's group", "call setgid 0", "EINVAL|EPERM"),
    row("rights", "taking groups", "call setgroups 0 0", REFUSED),
    row(
        "rights",
        "taking capabilities",
        "call capset x:2205082000000000 x:ffffffffffffffffffffffffffffffffffffffffffffffff",
        REFUSED,
    ),
    row("rights", "the maps of the user namespace", "write /proc/self/uid_map 0_0_1", "EACCES|EPERM|EROFS"),
    // Namespaces and mounts.
    row("namespace", "unshare of nothing", "call unshare 0", REFUSED),
    row("namespace", "unshare: user", "call unshare 0x10000000", REFUSED),
    row("namespace", "unshare: mount", "call unshare 0x00020000", REFUSED),
    row("namespace", "unshare: network", "call unshare 0x40000000", REFUSED),
    row("namespace", "unshare: pid", "call unshare 0x20000000", REFUSED),
    row("namespace", "unshare: ipc", "call unshare 0x08000000", REFUSED),
    row("namespace", "unshare: uts", "call unshare 0x04000000", REFUSED),
    row("namespace", "unshare: cgroup", "call unshare 0x02000000", REFUSED),
    row("namespace", "unshare: time", "call unshare 0x00000080", REFUSED),
    row("namespace", "clone: user", "call clone 0x10000011 0 0 0 0", REFUSED),
    row("namespace", "clone: user, with high bits", "call clone 0x110000011 0 0 0 0", REFUSED),
    row("namespace", "clone: mount", "call clone 0x00020011 0 0 0 0", REFUSED),
    row("namespace", "clone: network", "call clone 0x40000011 0 0 0 0", REFUSED),
    row("namespace", "clone: pid", "call clone 0x20000011 0 0 0 0", REFUSED),
    row("namespace", "clone: ipc", "call clone 0x08000011 0 0 0 0", REFUSED),
    row("namespace", "clone: uts", "call clone 0x04000011 0 0 0 0", REFUSED),
    row("namespace", "clone: cgroup", "call clone 0x02000011 0 0 0 0", REFUSED),
    row(
        "namespace",
        "clone3: user",
        "call clone3 x:0000001000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000 64",
        UNKNOWN,
    ),
    row("namespace", "setns", "call setns -1 0", REFUSED),
    row("namespace", "mount", "call mount s:none s:/tmp s:tmpfs 0 0", REFUSED),
    row("namespace", "bind mount", "call mount s:/etc s:/tmp s:none 0x1000 0", REFUSED),
    row("namespace", "remount for writing", "call mount s:none s:/usr s:none 0x1020 0", REFUSED),
    row("namespace", "umount", "call umount2 s:/proc 2", REFUSED),
    row("namespace", "pivot_root", "call pivot_root s:/tmp s:/tmp", REFUSED),
    row("namespace", "chroot", "call chroot s:/tmp", REFUSED),
    row("namespace", "open_tree", "call open_tree -100 s:/ 1", REFUSED),
    row("namespace", "open_tree_attr", "call 467 -100 s:/ 1 0 0", REFUSED),
    row("namespace", "move_mount", "call move_mount -100 s:/tmp -100 s:/tmp 0", REFUSED),
    row("namespace", "fsopen", "call fsopen s:tmpfs 0", REFUSED),
    row("namespace", "fsconfig", "call fsconfig -1 0 0 0 0", REFUSED),
    row("namespace", "fsmount", "call fsmount -1 0 0", REFUSED),
    row("namespace", "fspick", "call fspick -100 s:/ 0", REFUSED),
    row("namespace", "mount_setattr", "call mount_setattr -100 s:/usr 0 z:32 32", REFUSED),
    row("namespace", "statmount", "call 457 z:64 z:512 512 0", REFUSED),
    row("namespace", "listmount", "call 458 z:64 z:512 64 0", REFUSED),
    // Kernel code.
    row("kernel", "bpf", "call bpf 0 z:120 120", REFUSED),
    row("kernel", "perf_event_open", "call perf_event_open z:128 0 -1 -1 0", REFUSED),
    row("kernel", "init_module", "call init_module z:16 16 s:x", REFUSED),
    row("kernel", "finit_module", "call finit_module -1 s:x 0", REFUSED),
    row("kernel", "delete_module", "call delete_module s:nothing 0", REFUSED),
    row("kernel", "kexec_load", "call kexec_load 0 0 0 0", REFUSED),
    row("kernel", "io_uring_setup", "call io_uring_setup 1 z:120", UNKNOWN),
    row("kernel", "io_uring_enter", "call io_uring_enter -1 0 0 0 0 0", UNKNOWN),
    row("kernel", "io_uring_register", "call io_uring_register -1 0 0 0", UNKNOWN),
    row("kernel", "userfaultfd", "call userfaultfd 1", REFUSED),
    row("kernel", "keyctl: the session's keyring", "call keyctl 0 -3 0", REFUSED),
    row("kernel", "add_key", "call add_key s:user s:x s:y 1 -3", REFUSED),
    row("kernel", "request_key", "call request_key s:user s:x 0 0", REFUSED),
    row("kernel", "move_pages", "call move_pages 0 0 0 0 0 0", REFUSED),
    row("kernel", "migrate_pages", "call migrate_pages 0 0 0 0", REFUSED),
    row("kernel", "remap_file_pages", "call remap_file_pages 0 0 0 0 0", REFUSED),
    row("kernel", "personality: no address randomization for read", "call personality 0x0400000", REFUSED),
    row("kernel", "personality: 32 bits", "call personality 8", REFUSED),
    row("kernel", "a listener for system calls", "call seccomp 1 8 z:16", REFUSED),
    row("kernel", "a call of 32-bit programs", "i386 20", "SIGSYS|ENOSYS"),
    row("kernel", "a call of the x32 kind", "x32 getpid", "SIGSYS|ENOSYS"),
    row("kernel", "a call that nobody knows", "call 1000", UNKNOWN),
    // The host's state.
    row("host", "settimeofday", "call settimeofday z:16 0", REFUSED),
    row("host", "clock_settime", "call clock_settime 0 z:16", REFUSED),
    row("host", "adjtimex", "call adjtimex z:256", REFUSED),
    row("host", "clock_adjtime", "call clock_adjtime 0 z:256", REFUSED),
    row("host", "reboot", "call reboot 0 0 0 0", REFUSED),
    row("host", "swapon", "call swapon s:/tmp 0", REFUSED),
    row("host", "swapoff", "call swapoff s:/tmp", REFUSED),
    row("host", "acct", "call acct 0", REFUSED),
    row("host", "quotactl", "call quotactl 0 0 0 0", REFUSED),
    row("host", "quotactl_fd", "call quotactl_fd 0 0 0 0", REFUSED),
    row("host", "the kernel's log", "call syslog 3 z:100 100", REFUSED),
    row("host", "sethostname", "call sethostname s:x 1", REFUSED),
    row("host", "setdomainname", "call setdomainname s:x 1", REFUSED),
    row("host", "vhangup", "call vhangup", REFUSED),
    row("host", "name_to_handle_at", "call name_to_handle_at -100 s:/ z:128 z:8 0", REFUSED),
    row("host", "open_by_handle_at", "call open_by_handle_at -1 z:16 0", REFUSED),
    row("host", "fanotify_init", "call fanotify_init 0 0", REFUSED),
    row("host", "fanotify_mark", "call fanotify_mark -1 0 0 0 0", REFUSED),
    row("host", "settings of the kernel", "kernel-settings", "none"),
    row("host", "where core dumps go", "append /proc/sys/kernel/core_pattern", "EACCES|EROFS|ENOENT|EPERM"),
    row("host", "the buttons of sysrq", "append /proc/sysrq-trigger", "EACCES|EROFS|ENOENT|EPERM"),
    row(
        "host",
        "namespaces allowed again",
        "append /proc/sys/user/max_user_namespaces",
        "EACCES|EROFS|ENOENT|EPERM",
    ),
    row("host", "the kernel's memory", "read /proc/kcore", "EACCES|EPERM|ENOENT|none"),
    row("host", "the kernel's keys", "read /proc/keys", "EACCES|EPERM|ENOENT|none"),
    row("host", "sysfs", "list /sys", "ENOENT|none"),
    row("host", "control groups", "list /sys/fs/cgroup", "ENOENT"),
    row("host", "a disk", "exists /dev/vda", "ENOENT"),
    row("host", "virtual machines", "exists /dev/kvm", "ENOENT"),
    row("host", "tunnels", "exists /dev/net/tun", "ENOENT"),
    row("host", "the kernel's messages", "exists /dev/kmsg", "ENOENT"),
    row("host", "mounts that honour set-user-id", "set-user-id-mounts", "none"),
    row("host", "sockets, FIFOs, devices", "special", "none"),
    // Sockets.
    row("socket", "AF_VSOCK", "call socket 40 1 0", REFUSED),
    row("socket", "AF_PACKET", "call socket 17 3 0", REFUSED),
    row("socket", "AF_ALG", "call socket 38 5 0", REFUSED),
    row("socket", "AF_KEY", "call socket 15 3 2", REFUSED),
    row("socket", "AF_XDP", "call socket 44 3 0", REFUSED),
    row("socket", "AF_BLUETOOTH", "call socket 31 3 0", REFUSED),
    row("socket", "AF_CAN", "call socket 29 3 1", REFUSED),
    row("socket", "AF_TIPC", "call socket 30 1 0", REFUSED),
    row("socket", "AF_RXRPC", "call socket 33 2 2", REFUSED),
    row("socket", "AF_SMC", "call socket 43 1 0", REFUSED),
    row("socket", "AF_QIPCRTR", "call socket 42 2 0", REFUSED),
    row("socket", "AF_NFC", "call socket 39 5 0", REFUSED),
    row("socket", "AF_KCM", "call socket 41 2 0", REFUSED),
    row("socket", "AF_VSOCK, with high bits", "call socket 0x100000028 1 0", REFUSED),
    row("socket", "a pair of AF_TIPC", "call socketpair 30 1 0 z:8", REFUSED),
    row("socket", "raw IPv4", "call socket 2 3 1", REFUSED),
    row("socket", "raw IPv4 that closes on exec", "call socket 2 0x80003 1", REFUSED),
    row("socket", "raw IPv6", "call socket 10 3 58", REFUSED),
    row("socket", "SOCK_PACKET", "call socket 2 10 0x0300", REFUSED),
    row("socket", "netfilter's netlink", "call socket 16 3 12", REFUSED),
    row("socket", "audit's netlink", "call socket 16 3 9", REFUSED),
    row("socket", "udev's netlink", "call socket 16 3 15", REFUSED),
    row("socket", "sock_diag's netlink", "call socket 16 3 4", REFUSED),
    // Terminals and file systems.
    row("ioctl", "typing into a terminal", "call ioctl 0 0x5412 s:x", REFUSED),
    row("ioctl", "typing into a terminal, with high bits", "call ioctl 0 0x100005412 s:x", REFUSED),
    row("ioctl", "the console's selection", "call ioctl 0 0x541c x:02", REFUSED),
    row("ioctl", "a line discipline", "call ioctl 0 0x5423 z:8", REFUSED),
    row("ioctl", "freezing a file system", "call ioctl 0 0xc0045877 0", REFUSED),
    // `ws` itself.
    row("control", "the control socket, by its path", "unix {control}", "ENOENT"),
    row("control", "the control socket, through init", "unix /proc/1/root{control}", "EACCES|EPERM|ENOENT"),
    row("control", "the directory of the control socket", "list {runtime}", "ENOENT"),
    row("control", "the state directory", "list {state}", "ENOENT"),
    row("control", "the program of ws", "append {ws}", "ENOENT"),
    row("control", "abstract sockets of ws", "abstract-any ws", "none"),
    row("control", "the workspace file", "append {project}/workspace.yaml", "ENOENT|EROFS|EACCES"),
    row("control", "a new workspace file", "create {project}/ws.yaml", "EROFS|EACCES|EPERM"),
    row("control", "a new override file", "create {project}/workspace.override.yaml", "EROFS|EACCES|EPERM"),
];

/// Calls that x86-64 has and other architectures do not.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[Row] = &[
    row("kernel", "modify_ldt", "call 154 0 0 0", REFUSED),
    row("kernel", "uselib", "call 134 s:/tmp/x", REFUSED),
    row("kernel", "_sysctl", "call 156 z:64", REFUSED),
    row("kernel", "ustat", "call 136 0 z:64", REFUSED),
    row("kernel", "sysfs", "call 139 3", REFUSED),
    row("kernel", "create_module", "call 174 s:x 1", REFUSED),
    row("kernel", "get_kernel_syms", "call 177 0", REFUSED),
    row("kernel", "query_module", "call 178 0 0 0 0 0", REFUSED),
    row("kernel", "nfsservctl", "call 180 0 0 0", REFUSED),
    row("kernel", "lookup_dcookie", "call 212 0 z:64 64", REFUSED),
    row("kernel", "kexec_file_load", "call 320 -1 -1 0 0 0", REFUSED),
    row("host", "iopl", "call 172 3", REFUSED),
    row("host", "ioperm", "call 173 0 1 1", REFUSED),
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[Row] = &[];

fn a_service_cannot_get_out(mode: Mode) {
    requires!(mode, userns, netns, nft, seccomp, landlock);
    let mut stack = Stack::new(mode, "services: {}");
    stack.directory("data");
    let yaml = STACK.replace("{token}", &stack.token);
    stack.write("workspace.yaml", &format!("name: {}\n{yaml}", stack.token));
    stack.up();

    let processes = stack.processes();
    let named = |name: &str| processes.iter().find(|process| process.comm == name).map(|process| process.pid);
    let supervisor = processes.iter().find(|process| process.cmdline.contains("__supervise"));
    let supervisor = supervisor.map(|process| process.pid).expect("a supervisor");
    let control = ws_e2e::leak::listing(&stack.runtime);
    let control = control.iter().find(|path| {
        fs::metadata(path).is_ok_and(|meta| std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type()))
    });
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let mut values: BTreeMap<&str, String> = BTreeMap::from([
        ("supervisor", supervisor.to_string()),
        ("sibling", stack.pid("sibling").to_string()),
        ("test", std::process::id().to_string()),
        ("canary", format!("canary-{}", stack.token)),
        ("sibling_canary", format!("{}-sibling", stack.token)),
        ("control", text(control.expect("the control socket"))),
        ("runtime", text(&stack.runtime)),
        ("state", text(&stack.state)),
        ("project", text(&stack.project)),
        ("ws", text(&stack.project.with_file_name("b").join("ws"))),
    ]);
    for (value, name) in [("spawner", "ws-spawner"), ("launcher", "ws-launcher"), ("init", "ws-init")] {
        let pid = named(name).unwrap_or_else(|| panic!("no `{name}` among {processes:#?}"));
        values.insert(value, pid.to_string());
    }
    let core_pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();

    let mut rows = ATTEMPTS.to_vec();
    rows.extend(OLD_CALLS);
    if !needs::met(mode, &["compat32"]) {
        // A kernel that runs no such program refuses otherwise.
        rows.retain(|row| !row.command.starts_with("i386"));
    }
    let tried = try_all(&stack, "evil", &rows, &values);
    show(&table(mode, &tried));
    assert_right(mode, &tried);

    // What the main processes and their inits are, as the host sees it.
    for process in
        processes.iter().filter(|process| ["ws-init", "ws-e2e-serve"].contains(&process.comm.as_str()))
    {
        let text = fs::read_to_string(format!("/proc/{}/status", process.pid)).expect("its status");
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.map_or_else(|| panic!("no {name}: {text}"), str::trim).to_owned()
        };
        assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"), "{process:?}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(u64::from_str_radix(&field(set), 16), Ok(0), "{set} of {process:?}");
        }
        if mode == Mode::Root {
            assert!(
                field("Uid")
                    .split_whitespace()
                    .all(|uid| uid.parse::<u32>().is_ok_and(|uid| uid > 1_000_000))
            );
            assert_eq!(field("Groups"), "", "{process:?}");
        }
    }
    if mode == Mode::Root {
        let users: std::collections::BTreeSet<u32> = processes
            .iter()
            .filter(|process| process.comm == "ws-e2e-serve")
            .map(|process| process.uid)
            .collect();
        assert_eq!(users.len(), 2, "each service has a user of its own on the host: {users:?}");
    }

    // Whoever was shot at is there still, and was not started anew.
    for row in stack.ps() {
        assert!(row.ready && row.restarts == 0, "{row:?}");
    }
    let now = stack.processes();
    for process in &processes {
        assert!(now.iter().any(|other| other.pid == process.pid), "{process:?} is gone");
    }
    assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), core_pattern);
    stack.down();
}
