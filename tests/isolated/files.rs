//! Files: what a service sees, what it can write, what it leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ws_e2e::attack::{Row, Tried, assert_right, row, table, try_all};
use ws_e2e::show;
use ws_e2e::{Mode, Ran, Stack, both_ways, needs, requires, wait_until};

both_ways! {
    a_service_sees_and_writes_what_the_plan_says
    no_file_with_rights_is_left
    what_is_hidden_stays_hidden_when_the_host_replaces_it
    a_tree_that_would_show_a_secret_is_refused
}

const STACK: &str = "
volumes: { mine: {}, theirs: {} }
secrets: { token: { file: secrets/token } }
services:
  evil:
    command: ['{project}/bin/ws-e2e-serve', 'tcp:7000']
    ready: { tcp: ':7000' }
    working_dir: svc/evil
    writable: [data]
    reads: [/etc/hostname-of-nobody-else]
    volumes: ['mine:/vol', './shared:/shared:ro']
    tmpfs: [/scratch]
  other:
    command: ['{project}/bin/ws-e2e-serve', 'tcp:7000', 'unix:/tmp/socket', 'unix:{project}/otherdata/socket']
    ready: { tcp: ':7000' }
    working_dir: svc/other
    writable: [otherdata]
    volumes: ['theirs:/theirs']
    secrets: [token]
";

/// A project with something of everything, and a stack of two services that is up.
fn project(mode: Mode) -> Stack {
    let mut stack = Stack::new(mode, "services: {}");
    for dir in ["svc/evil", "svc/other", "data/sgid", "otherdata", "shared", "deep/er/still"] {
        stack.directory(dir);
    }
    for (name, text) in [
        ("notes.txt", "anybody may read this"),
        ("deep/er/still/notes.txt", "this too"),
        ("shared/read-me", "and this"),
        ("data/old", "was here before"),
        ("svc/other/diary", "not for evil"),
        ("otherdata/diary", "not for evil"),
        (".env", "SECRET=env"),
        (".env.production", "SECRET=production"),
        (".git/config", "[secret]"),
        ("secrets/token", "the-token"),
    ] {
        stack.write(name, text);
    }
    fs::set_permissions(stack.project.join("data/sgid"), fs::Permissions::from_mode(0o2775)).unwrap();
    // Not one of the names that the service has a decoy for.
    fs::create_dir(stack.home.join(".ssh")).unwrap();
    fs::write(stack.home.join(".ssh/id_ecdsa"), "a key").unwrap();
    let yaml = STACK
        .replace("{project}", &stack.project.to_string_lossy())
        .replace("    reads: [/etc/hostname-of-nobody-else]\n", "");
    stack.write("workspace.yaml", &format!("name: {}\n{yaml}", stack.token));
    stack.up();
    stack
}

fn values(stack: &Stack) -> BTreeMap<&'static str, String> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let user = nix::unistd::User::from_uid(stack.ids.0.into()).ok().flatten();
    let plan: serde_json::Value = serde_json::from_str(&stack.ws(&["plan", "--json"]).ok()).unwrap();
    let evil =
        plan["services"].as_array().unwrap().iter().find(|service| service["service"] == "evil").unwrap();
    BTreeMap::from([
        ("project", text(&stack.project)),
        ("home", text(&stack.home)),
        ("state", text(&stack.state)),
        ("users_home", user.map_or_else(|| "/nobody-here".to_owned(), |user| text(&user.dir))),
        ("home_inside", evil["user"]["home"].as_str().unwrap().to_owned()),
    ])
}

const HIDDEN: &str = "ENOENT";
const READ_ONLY: &str = "EROFS";

const ATTEMPTS: &[Row] = &[
    // What may be had.
    row("may", "read the project", "read {project}/notes.txt", "did"),
    row("may", "read deep in the project", "read {project}/deep/er/still/notes.txt", "did"),
    row("may", "write what is declared writable", "create {project}/data/new", "did"),
    row("may", "change a file that was there", "append {project}/data/old", "did"),
    row("may", "write the working directory", "create {project}/svc/evil/new", "did"),
    row("may", "write a volume", "create /vol/new", "did"),
    row("may", "write a tmpfs", "create /scratch/new", "did"),
    row("may", "write /tmp", "create /tmp/new", "did"),
    row("may", "write /var/tmp", "create /var/tmp/new", "did"),
    row("may", "write /dev/shm", "create /dev/shm/new", "did"),
    row("may", "write /run/<service>", "create /run/evil/new", "did"),
    row("may", "write its home", "create {home_inside}/new", "did"),
    row("may", "read a read-only volume", "read /shared/read-me", "did"),
    row("may", "read its own passwd", "read /etc/passwd", "did"),
    // What is others'.
    row("read", "a key in the user's home", "read {home}/.ssh/id_ecdsa", HIDDEN),
    row("read", "the user's home by the user database", "list {users_home}/.ssh", HIDDEN),
    row("read", "root's home", "read /root/.bashrc", "ENOENT|EACCES"),
    row("read", "the env file", "read {project}/.env", HIDDEN),
    row("read", "another env file", "read {project}/.env.production", HIDDEN),
    row("read", "the repository's configuration", "read {project}/.git/config", HIDDEN),
    row("read", "a secret of another service, at its source", "read {project}/secrets/token", HIDDEN),
    row("read", "a secret of another service, where it is mounted", "read /run/secrets/token", HIDDEN),
    row("read", "another's volume, where it is mounted there", "list /theirs", HIDDEN),
    row("read", "another's volume, on the host", "list {state}", HIDDEN),
    row("read", "another's writable directory", "read {project}/otherdata/diary", HIDDEN),
    row("read", "another's working directory", "read {project}/svc/other/diary", HIDDEN),
    row("read", "another's socket in /tmp", "unix /tmp/socket", HIDDEN),
    row("read", "another's socket in its writable directory", "unix {project}/otherdata/socket", HIDDEN),
    row("read", "the workspace file", "read {project}/workspace.yaml", HIDDEN),
    row("read", "passwords", "read /etc/shadow", HIDDEN),
    row("read", "logs of the machine", "list /var/log", HIDDEN),
    row("read", "the state of the machine", "list /var/lib", "ENOENT|none"),
    row("read", "other homes", "list /home", "ENOENT|none|did"),
    row("read", "kernels", "list /boot", HIDDEN),
    row("read", "media", "list /mnt", HIDDEN),
    row("read", "the host's root, through init", "list /proc/1/root/", "EACCES|EPERM|ENOENT"),
    row("read", "the host's root, upwards", "read {project}/../../../../etc/shadow", HIDDEN),
    row("read", "its own secrets directory, as it has none", "list /run/secrets", "ENOENT|none"),
    row("read", "devices and sockets of the sibling", "special", "none"),
    // Writing elsewhere.
    row("write", "a file of the project", "append {project}/notes.txt", READ_ONLY),
    row("write", "a file deep in the project", "append {project}/deep/er/still/notes.txt", READ_ONLY),
    row("write", "a new file at the top of the project", "create {project}/new", READ_ONLY),
    row("write", "a new file deep in the project", "create {project}/deep/er/new", READ_ONLY),
    row("write", "a new env file", "create {project}/.env", READ_ONLY),
    row("write", "a new repository", "create {project}/.git", READ_ONLY),
    row("write", "removing a file of the project", "remove {project}/notes.txt", "EROFS|EBUSY"),
    row("write", "a read-only volume", "create /shared/new", READ_ONLY),
    row("write", "a file of a read-only volume", "append /shared/read-me", READ_ONLY),
    row(
        "write",
        "a helper that runs on the host",
        "append {project}/bin/ws-e2e-serve",
        "EROFS|ETXTBSY|EACCES",
    ),
    row("write", "a program of the system", "create /usr/bin/new", "EROFS|EACCES"),
    row("write", "the generated passwd", "append /etc/passwd", "EROFS|EACCES"),
    row("write", "the root", "create /new", "EROFS|EACCES"),
    row(
        "write",
        "moving away its writable directory",
        "rename {project}/data {project}/data2",
        "EROFS|EBUSY",
    ),
    row(
        "write",
        "moving a file out of its writable directory",
        "rename {project}/data/old {project}/old",
        "EXDEV|EROFS",
    ),
    row(
        "write",
        "moving a file over another's",
        "rename {project}/data/old {project}/notes.txt",
        "EXDEV|EROFS|EBUSY",
    ),
    row("write", "anywhere but where the plan says", "writable {own}", "none"),
    // Links.
    row(
        "link",
        "a hard link to a program with rights",
        "hard-link /usr/bin/passwd {project}/data/hard",
        "EXDEV|EPERM|ENOENT",
    ),
    row(
        "link",
        "a hard link to a file of the project",
        "hard-link {project}/notes.txt {project}/data/hard",
        "EXDEV",
    ),
    row("link", "a hard link from a volume into the tree", "hard-link /vol/new {project}/data/hard", "EXDEV"),
    row("link", "a symbolic link to passwd", "through-link /etc/passwd {project}/data/soft", "EROFS|EACCES"),
    row(
        "link",
        "a symbolic link to the user's key",
        "through-link {home}/.ssh/id_ecdsa {project}/data/soft",
        HIDDEN,
    ),
    row("link", "a symbolic link to the env file", "through-link ../.env {project}/data/soft", HIDDEN),
    row(
        "link",
        "a symbolic link to a file of the project",
        "through-link ../notes.txt {project}/data/soft",
        READ_ONLY,
    ),
    row(
        "link",
        "a symbolic link upwards",
        "through-link ../../../../../../etc/shadow {project}/data/soft",
        HIDDEN,
    ),
    row(
        "link",
        "a symbolic link through /proc",
        "through-link /proc/1/root/etc/passwd {project}/data/soft",
        "EACCES|EPERM|ENOENT",
    ),
    row("link", "giving a file away", "give-away {project}/data/new", "EPERM|EINVAL"),
];

/// What the plan lists as writable for a service, and what every service has.
fn planned(stack: &Stack, service: &str) -> BTreeSet<PathBuf> {
    let out = stack.ws(&["plan", "--json"]).ok();
    let plan: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"));
    let services = plan["services"].as_array().expect("services");
    let one = services.iter().find(|one| one["service"] == service).expect("the service");
    let path = |value: &serde_json::Value| PathBuf::from(value.as_str().expect("a path"));
    let mounts = one["mounts"].as_array().expect("mounts").iter();
    let mut own: BTreeSet<PathBuf> =
        mounts.filter(|mount| mount["writable"] == true).map(|mount| path(&mount["target"])).collect();
    own.extend(one["tmpfs"].as_array().expect("tmpfs").iter().map(|tmpfs| path(&tmpfs["target"])));
    own.insert(path(&one["user"]["home"]));
    own.extend(["/tmp", "/var/tmp", "/run", "/dev/shm"].map(PathBuf::from));
    own
}

fn a_service_sees_and_writes_what_the_plan_says(mode: Mode) {
    requires!(mode, userns, netns, nft);
    if mode == Mode::Root {
        requires!(mode, idmap);
    }
    let mut stack = project(mode);
    let own = planned(&stack, "evil");
    for path in ["data", "svc/evil"] {
        assert!(own.contains(&stack.project.join(path)), "the plan lists `{path}`: {own:?}");
    }
    // The walk goes into /tmp: the project is below it, and what else is there is the service's own.
    let mut values = values(&stack);
    let mut words: Vec<String> = own.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    words.sort();
    let rows = expand(ATTEMPTS, &words.join(" "));
    values.insert("own", String::new());
    let tried = try_all(&stack, "evil", &rows, &values);
    show(&table(mode, &tried));
    assert_right(mode, &tried);

    // What was written into the tree belongs to whom the tree belongs to, and is an ordinary file.
    for name in ["data/new", "svc/evil/new"] {
        let meta = fs::metadata(stack.project.join(name)).expect("it was written on the host");
        assert_eq!((meta.uid(), meta.gid()), stack.ids, "{name} belongs to the tree's owner");
        assert_eq!(meta.mode() & 0o7777, 0o644, "{name}");
        fs::remove_file(stack.project.join(name)).unwrap();
    }
    assert_eq!(fs::read_to_string(stack.project.join("notes.txt")).unwrap(), "anybody may read this");
    let secret = stack.exec("other", &["/bin/cat", "/run/secrets/token"]);
    assert_eq!(secret.ok(), "the-token", "who may have the secret has it");
    let etc = stack.exec("evil", &["/bin/cat", "/etc/passwd"]).ok();
    assert!(
        !etc.lines().any(|line| line.contains(":0:0:") && line.contains("/root")) || etc.lines().count() < 5,
        "{etc}"
    );
    let _ = fs::remove_file(stack.project.join("otherdata/socket"));
    stack.down();
}

/// The list of own places is many words.
fn expand(rows: &[Row], own: &str) -> Vec<Row> {
    rows.iter()
        .map(|row| match row.command.strip_suffix("{own}") {
            Some(head) => Row { command: Box::leak(format!("{head}{own}").into_boxed_str()), ..*row },
            None => *row,
        })
        .collect()
}

const WAYS: [&str; 19] = [
    "openat",
    "openat-high-bits",
    "openat2",
    "mkdirat",
    "mknodat",
    "mknodat-device",
    "chmod-group",
    "fchmod",
    "fchmodat",
    "fchmodat2",
    "fchmodat-of-link",
    "chmod-by-descriptor",
    "tmpfile",
    "tmpfile-chmod",
    "capability",
    "inherited",
    "inherited-chmod",
    "io-uring",
    #[cfg(target_arch = "x86_64")]
    "open",
];
#[cfg(target_arch = "x86_64")]
const OLD_WAYS: &[&str] = &["creat", "mkdir", "mknod", "chmod"];
#[cfg(not(target_arch = "x86_64"))]
const OLD_WAYS: &[&str] = &[];

/// No system call leaves a file that runs with somebody's rights, wherever a service can write.
fn no_file_with_rights_is_left(mode: Mode) {
    requires!(mode, userns, netns, nft, seccomp);
    let mut stack = project(mode);
    let mut rows = Vec::new();
    for place in ["{project}/data", "{project}/data/sgid", "/vol", "/tmp", "/scratch"] {
        for how in WAYS.iter().chain(OLD_WAYS) {
            let right = match *how {
                "openat2" | "io-uring" => "ENOSYS",
                _ => "EPERM",
            };
            let command: &'static str = Box::leak(format!("setid {how} {place}").into_boxed_str());
            rows.push(Row { group: "set-id", what: command, command, right });
        }
    }
    let tried: Vec<Tried> = try_all(&stack, "evil", &rows, &values(&stack));
    show(&table(mode, &tried));
    assert_right(mode, &tried);

    // Seen from the host. The directory that had the bit before may hand it to directories, not to files.
    let mut found = Vec::new();
    for dir in [&stack.project, &stack.state] {
        for path in ws_e2e::leak::listing(dir) {
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            if meta.mode() & 0o6000 != 0 && path != stack.project.join("data/sgid") {
                found.push(path);
            }
        }
    }
    assert!(found.is_empty(), "files with rights: {found:?}");
    let _ = fs::remove_file(stack.project.join("otherdata/socket"));
    stack.down();
}

fn inside(stack: &Stack, service: &str, script: &str) -> Ran {
    stack.exec(service, &["/bin/sh", "-c", script])
}

/// Editors, `git checkout` and build tools replace files and directories by others of the same name: what is
/// hidden from a service must not come out by that.
fn what_is_hidden_stays_hidden_when_the_host_replaces_it(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = project(mode);
    let p = stack.project.clone();
    let sees = |path: &str| {
        let path = p.join(path);
        let ran = inside(&stack, "evil", &format!("cat '{}'", path.display()));
        if ran.code == 0 { Some(ran.out) } else { None }
    };
    let mut seen = Vec::new();
    let mut look = |what: &str, path: &str| {
        if let Some(text) = sees(path) {
            seen.push(format!("{what}: {path}: {text}"));
        }
    };
    assert_eq!(sees("notes.txt").as_deref(), Some("anybody may read this"));

    // An editor saves: a new file takes the name.
    for name in [".env", "secrets/token"] {
        stack.write(&format!("{name}.tmp"), "SECRET=new");
        fs::rename(p.join(format!("{name}.tmp")), p.join(name)).unwrap();
        look("saved by an editor", name);
    }
    // A file of a kind that is never shown comes up, and an old one is renamed.
    stack.write(".env.local", "SECRET=local");
    look("a new env file", ".env.local");
    fs::rename(p.join(".env.production"), p.join(".env.staging")).unwrap();
    look("a renamed env file", ".env.staging");
    // A directory is removed and made again, as by `git checkout`.
    for name in [".git", "otherdata", "svc/other"] {
        fs::remove_dir_all(p.join(name)).unwrap();
        stack.write(&format!("{name}/config"), "not for evil");
        look("removed and made again", &format!("{name}/config"));
    }
    // A directory is moved away, and another one takes its place.
    for name in ["otherdata", "svc/other"] {
        fs::rename(p.join(name), p.join(format!("{name}-old"))).unwrap();
        stack.write(&format!("{name}/config"), "not for evil");
        look("moved away", &format!("{name}-old/config"));
        look("put in its place", &format!("{name}/config"));
    }
    assert!(seen.is_empty(), "{mode}: a service sees what was hidden:\n{}", seen.join("\n"));

    // The next run sees what is there then, without what is hidden by its name.
    let before = stack.status("evil");
    let pid = nix::unistd::Pid::from_raw(before.pid.expect("a process").cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    wait_until(Duration::from_secs(20), "the next run", || {
        let row = stack.status("evil");
        if row.ready && row.restarts > before.restarts { Ok(()) } else { Err(format!("{row:?}")) }
    });
    for name in [".env", ".env.local", ".env.staging", ".git/config", "otherdata/config", "svc/other/config"]
    {
        assert_eq!(sees(name), None, "{mode}: the next run sees `{name}`");
    }
    assert_eq!(sees("notes.txt").as_deref(), Some("anybody may read this"));
    let ran = inside(&stack, "evil", "echo x > new && rm new");
    assert_eq!(ran.code, 0, "its own directory beside one that is hidden: {ran}");
    // What was replaced is the test's doing.
    stack.watch();
    stack.down();
}

/// A directory that a service sees whole cannot have a secret in it: a mask there would not last.
fn a_tree_that_would_show_a_secret_is_refused(mode: Mode) {
    let stack = Stack::new(
        mode,
        "
secrets: { token: { file: config/token } }
services:
  api: { command: [bin/ws-e2e-serve], secrets: [token] }
",
    );
    stack.write("config/token", "x");
    let ran = stack.ws(&["up", "-d", "--wait"]);
    assert_eq!(ran.code, 2, "{ran}");
    assert!(ran.err.contains("config/token"), "{ran}");

    for writable in ["..", ".", "{runtime}", "{state}", "{state}/of-another"] {
        let stack = Stack::new(mode, "services: {}");
        let of_another = stack.state.join("of-another");
        fs::create_dir(&of_another).unwrap();
        chown(&of_another, Some(stack.ids.0), Some(stack.ids.1)).unwrap();
        let writable = writable
            .replace("{runtime}", &stack.runtime.to_string_lossy())
            .replace("{state}", &stack.state.to_string_lossy());
        let yaml = format!(
            "name: {}\nservices:\n  api:\n    command: [bin/ws-e2e-serve]\n    writable: ['{writable}']\n",
            stack.token
        );
        stack.write("workspace.yaml", &yaml);
        let ran = stack.ws(&["up", "-d", "--wait"]);
        assert_eq!(
            ran.code, 2,
            "a service may not write `{writable}`, which holds what decides its rights: {ran}"
        );
    }
}

/// As root, a tree may belong to anybody: what a service writes belongs to that one, too.
#[test]
fn files_belong_to_the_owner_of_the_tree() {
    let mode = Mode::Root;
    requires!(mode, root, userns, netns, nft, idmap);
    if !needs::met(mode, &["idmap"]) {
        return;
    }
    const OWNER: (u32, u32) = (4242, 4343);
    let mut stack = Stack::new(
        mode,
        "
services:
  api: { command: [bin/ws-e2e-serve, 'tcp:7000'], ready: { tcp: ':7000' }, writable: [data] }
",
    );
    stack.write("data/old", "x");
    fs::set_permissions(stack.project.join("data/old"), fs::Permissions::from_mode(0o600)).unwrap();
    let give = |path: &Path| chown(path, Some(OWNER.0), Some(OWNER.1)).unwrap();
    give(&stack.project);
    for path in ws_e2e::leak::listing(&stack.project) {
        give(&path);
    }
    // 0700, as home directories are: only its owner could read it.
    fs::set_permissions(&stack.project, fs::Permissions::from_mode(0o700)).unwrap();
    stack.up();
    let ran = inside(
        &stack,
        "api",
        "cd data && id -u && cat old && echo y >> old && mkdir -p a/b && echo z > a/b/c",
    );
    assert_eq!(ran.code, 0, "{ran}");
    for name in ["data/old", "data/a", "data/a/b", "data/a/b/c"] {
        let meta = fs::metadata(stack.project.join(name)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), OWNER, "{name}");
    }
    fs::remove_dir_all(stack.project.join("data/a")).unwrap();
    stack.down();
}
