//! Hot reload and live change, on the real machine: what is edited is what is touched, once, and no request is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ws_e2e::web::{Asking, Load};
use ws_e2e::{Mode, Ran, Stack, both_ways, requires, show, wait_until};
use ws_model::wire::ServiceStatus;
use ws_model::{Event, EventKind, Phase, ReloadAction, ReloadResult};

both_ways! {
    a_save_is_one_restart
    a_save_without_a_change_is_none
    thousands_of_files_are_one_restart_each
    a_signal_instead_of_a_restart
    dependents_restart_when_asked_and_tasks_when_their_inputs_changed
    one_build_restarts_what_it_changed
    a_failed_build_leaves_the_old_program
    directories_of_outputs_are_made
    what_is_fresh_is_not_built_again
    a_change_in_the_middle_of_a_build_starts_it_over
    listening_sockets_lose_no_request
    an_overlap_loses_no_request
    a_bad_overlap_changes_nothing
    published_ports_wait_for_the_next_run
    an_edited_file_touches_what_it_names
    a_broken_file_changes_nothing
    rights_wait_for_apply
    settings_change_live
    the_plan_says_what_is_different
    edits_by_chance_end_like_a_fresh_start
}

/// How long anything of a test may take. Generous: it is there so that a test that hangs fails.
const SOON: Duration = Duration::from_secs(60);

/// Long enough that what should not happen would have: a multiple of the debounce, and never waited for success.
const QUIET: Duration = Duration::from_millis(700);

fn until(stack: &Stack, service: &str, what: &str, is: impl Fn(&ServiceStatus) -> bool) -> ServiceStatus {
    wait_until(SOON, &format!("{service}: {what}"), || {
        let row = stack.status(service);
        if is(&row) { Ok(row) } else { Err(format!("{row:#?}\n{}", stack.story())) }
    })
}

fn events(stack: &Stack) -> Vec<Event> {
    let out = stack.ws(&["events", "--json"]).ok();
    let event = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    out.lines().map(event).collect()
}

/// What was reloaded: who, by which files, what came of it.
fn reloads(stack: &Stack) -> Vec<(String, Vec<String>, ReloadAction, ReloadResult)> {
    let told = |event: Event| match event.kind {
        EventKind::Reloaded { trigger, action, result, .. } => {
            let service = event.service.map(|name| name.to_string()).unwrap_or_default();
            Some((service, trigger.files, action, result))
        }
        _ => None,
    };
    events(stack).into_iter().filter_map(told).collect()
}

/// Waits until so many reloads were told, and then whether more come.
fn settle(stack: &Stack, count: usize) {
    wait_until(SOON, &format!("{count} reloads"), || {
        let found = reloads(stack);
        if found.len() >= count { Ok(()) } else { Err(format!("{found:#?}\n{}", stack.story())) }
    });
    std::thread::sleep(QUIET);
    let found = reloads(stack);
    assert_eq!(found.len(), count, "{found:#?}\n{}", stack.story());
}

/// A service that stays, with what is added to it.
fn stays(more: &str) -> String {
    format!("{{ command: [bin/ws-e2e-serve], {more} }}")
}

fn ups(stack: &mut Stack) -> Ran {
    stack.watch();
    stack.ws(&["up", "-d", "--wait", "--wait-timeout", "60s"])
}

/// Takes it down. What is in the project was put there by the test, or by a build that it asked for.
fn taken_down(mut stack: Stack) {
    stack.watch();
    stack.down();
}

// ---- watching

fn a_save_is_one_restart(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(mode, &format!("services: {{ api: {} }}", stays("watch: [src]")));
    let file = stack.write("src/main.py", "0");
    let dir = file.parent().expect("it is in a directory").to_owned();
    let path = |name: &str| dir.join(name);
    stack.up();
    let set = |name: &str, text: &str| stack_write(&dir, name, text);
    let shift = |from: &str, to: &str| fs::rename(path(from), path(to)).expect("renaming a file");
    type Save<'a> = (&'static str, Box<dyn Fn() + 'a>);
    let saves: [Save<'_>; 10] = [
        ("nano: in place", Box::new(|| set("main.py", "1"))),
        (
            "vim: a backup beside, then in place",
            Box::new(|| {
                set(".main.py.swp", "swap");
                set("4913", "");
                fs::remove_file(path("4913")).expect("vim's probe");
                shift("main.py", "main.py~");
                set("main.py", "2");
                fs::remove_file(path("main.py~")).expect("vim's backup");
                fs::remove_file(path(".main.py.swp")).expect("vim's swap");
            }),
        ),
        (
            "VS Code: truncate and write",
            Box::new(|| {
                set("main.py", "");
                set("main.py", "3");
            }),
        ),
        (
            "VS Code: atomic",
            Box::new(|| {
                set("main.py.vsctmp", "4");
                shift("main.py.vsctmp", "main.py");
            }),
        ),
        (
            "JetBrains: safe write",
            Box::new(|| {
                set("main.py___jb_tmp___", "5");
                shift("main.py", "main.py___jb_old___");
                shift("main.py___jb_tmp___", "main.py");
                fs::remove_file(path("main.py___jb_old___")).expect("removing");
            }),
        ),
        (
            "Emacs: a lock, a backup, in place",
            Box::new(|| {
                std::os::unix::fs::symlink("somebody@somewhere.1", path(".#main.py")).expect("locking");
                fs::copy(path("main.py"), path("main.py~")).expect("backing up");
                set("main.py", "6");
                fs::remove_file(path(".#main.py")).expect("unlocking");
            }),
        ),
        (
            "sed -i",
            Box::new(|| {
                let status = Command::new("sed").args(["-i", "s/6/7/"]).arg(path("main.py")).status();
                assert!(status.expect("running sed").success());
            }),
        ),
        (
            "gedit: a hidden file, then renamed",
            Box::new(|| {
                set(".goutputstream-A1B2C3", "8");
                shift(".goutputstream-A1B2C3", "main.py");
            }),
        ),
        (
            "remove and write",
            Box::new(|| {
                fs::remove_file(path("main.py")).expect("removing");
                set("main.py", "9");
            }),
        ),
        (
            "in many small pieces",
            Box::new(|| {
                use std::io::Write as _;
                let mut file = fs::File::create(path("main.py")).expect("opening");
                for piece in 0..20 {
                    write!(file, "{piece}").expect("writing");
                }
            }),
        ),
    ];
    for (count, (editor, save)) in (1..).zip(&saves) {
        let before = stack.pid("api");
        save();
        settle(&stack, count);
        let (service, files, action, result) = reloads(&stack).pop().expect("it was counted");
        assert_eq!(
            (service.as_str(), action, result),
            ("api", ReloadAction::Restart, ReloadResult::Done),
            "{editor}"
        );
        assert_eq!(files, ["src/main.py"], "{editor}");
        assert_ne!(stack.pid("api"), before, "{editor}");
        assert_eq!(stack.status("api").restarts as usize, count, "{editor}");
    }
    drop(saves);
    let why = stack.ws(&["why", "api"]).ok();
    show(&why);
    taken_down(stack);
}

/// Writes a file of a directory, as whoever runs the test: the owner stays where it is there.
fn stack_write(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).expect("writing a file");
}

fn a_save_without_a_change_is_none(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(mode, &format!("services: {{ api: {} }}", stays("watch: [src]")));
    let file = stack.write("src/main.py", "the same");
    stack.write("src/.gitignore", "*.log\n");
    stack.up();
    let before = stack.pid("api");
    stack.write("src/main.py", "the same");
    let touched = Command::new("touch").arg(&file).status().expect("running touch");
    assert!(touched.success());
    stack.write("src/main.py", "another");
    stack.write("src/main.py", "the same");
    stack.write("src/debug.log", "ignored");
    stack.write("src/node_modules/x/index.js", "ignored");
    stack.write("src/main.py~", "ignored");
    fs::read(&file).expect("reading is no change");
    std::thread::sleep(QUIET);
    assert!(reloads(&stack).is_empty(), "{:#?}", reloads(&stack));
    assert_eq!(stack.pid("api"), before);
    stack.write("src/main.py", "another");
    settle(&stack, 1);
    taken_down(stack);
}

fn git(project: &Path, arguments: &[&str]) {
    let output = Command::new("git")
        .args(["-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "core.fsync=none"])
        .args(["-c", "gc.auto=0", "-c", "safe.directory=*"])
        .args(arguments)
        .current_dir(project)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .expect("running git");
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn thousands_of_files_are_one_restart_each(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let yaml = format!(
        "services: {{ api: {}, web: {}, db: {} }}",
        stays("watch: [one]"),
        stays("watch: [two]"),
        stays("watch: [three]")
    );
    let mut stack = Stack::new(mode, &yaml);
    let write = |text: &str| {
        for directory in ["one", "two"] {
            for n in 0..2_500 {
                let file = stack.project.join(format!("{directory}/d{}/f{n}.py", n / 50));
                fs::create_dir_all(file.parent().expect("it has one")).expect("making a directory");
                fs::write(file, format!("{text} {n}")).expect("writing a file");
            }
        }
    };
    git(&stack.project, &["init", "-q", "-b", "main"]);
    write("old");
    stack.write("three/x.py", "x");
    stack.write(".gitignore", "bin/\nworkspace.yaml\n");
    git(&stack.project, &["add", "."]);
    git(&stack.project, &["commit", "-qm", "old"]);
    write("new");
    git(&stack.project, &["commit", "-qam", "new"]);
    let chown = Command::new("chown")
        .args(["-R", &format!("{}:{}", stack.ids.0, stack.ids.1)])
        .arg(&stack.project)
        .status()
        .expect("running chown");
    assert!(chown.success());
    stack.up();
    let db = stack.pid("db");
    git(&stack.project, &["checkout", "-q", "HEAD~1"]);
    settle(&stack, 2);
    git(&stack.project, &["checkout", "-q", "main"]);
    settle(&stack, 4);
    for (service, files, action, result) in reloads(&stack) {
        assert!(service == "api" || service == "web", "{service}");
        assert!(!files.is_empty());
        assert_eq!((action, result), (ReloadAction::Restart, ReloadResult::Done));
    }
    assert_eq!((stack.status("api").restarts, stack.status("web").restarts), (2, 2));
    assert_eq!((stack.pid("db"), stack.status("db").restarts), (db, 0));
    taken_down(stack);
}

fn a_signal_instead_of_a_restart(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        "
services:
  proxy:
    command: [/bin/sh, -c, \"trap 'echo hung up' HUP; echo up; while :; do sleep 0.05; done\"]
    ready: { log: up }
    watch:
      - { path: conf, action: { signal: SIGHUP }, ignore: ['**/*.bak'] }
      - { path: conf/static, action: none }
",
    );
    stack.write("conf/a.conf", "a");
    stack.write("conf/static/x.html", "x");
    stack.up();
    let pid = stack.pid("proxy");
    stack.write("conf/static/x.html", "y");
    stack.write("conf/a.conf.bak", "a");
    std::thread::sleep(QUIET);
    stack.write("conf/a.conf", "b");
    settle(&stack, 1);
    wait_until(SOON, "the signal in the log", || {
        let log = stack.logs("proxy");
        if log.contains("hung up") { Ok(()) } else { Err(log) }
    });
    assert_eq!(stack.pid("proxy"), pid);
    let (_, files, action, _) = reloads(&stack).pop().expect("it was counted");
    assert_eq!((files, action), (vec!["conf/a.conf".to_owned()], ReloadAction::Signal));
    taken_down(stack);
}

fn dependents_restart_when_asked_and_tasks_when_their_inputs_changed(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let yaml = format!(
        "
services:
  schema: {{ kind: task, command: [/bin/sh, -c, 'echo migrated $(cat sql/a.sql)'], inputs: [sql] }}
  once: {{ kind: task, command: [/bin/echo, prepared] }}
  db: {{ command: [bin/ws-e2e-serve], watch: [db], depends_on: [schema, once] }}
  bound: {}
  free: {}
",
        stays("depends_on: { db: { condition: started, restart: true } }"),
        stays("depends_on: [db]"),
    );
    let mut stack = Stack::new(mode, &yaml);
    stack.write("db/x", "1");
    stack.write("sql/a.sql", "1");
    stack.up();
    let free = stack.pid("free");
    stack.write("db/x", "2");
    until(&stack, "bound", "started again", |row| row.restarts == 1 && row.ready);
    settle(&stack, 1);
    assert_eq!((stack.pid("free"), stack.status("free").restarts), (free, 0));
    let count = |service: &str, word: &str| stack.logs(service).matches(word).count();
    assert_eq!((count("schema", "migrated"), count("once", "prepared")), (1, 1));
    stack.write("sql/a.sql", "2");
    wait_until(SOON, "the task's second run", || {
        let log = stack.logs("schema");
        if log.contains("migrated 2") { Ok(()) } else { Err(log) }
    });
    assert_eq!(count("once", "prepared"), 1);
    assert_eq!(stack.status("db").restarts, 1);
    drop(stack.ws(&["restart", "db"]).ok());
    until(&stack, "db", "restarted by hand", |row| row.restarts == 2 && row.ready);
    assert_eq!((count("schema", "migrated"), count("once", "prepared")), (2, 1));
    taken_down(stack);
}

// ---- builds

/// Nine services of one build: a script that makes a program of each source that is another.
fn nine(stack: &Stack) -> String {
    let build = "#!/bin/sh
# As a compiler does: what did not change is not written again.
set -e
mkdir -p out
for source in src/*.sh; do
    name=$(basename \"$source\" .sh)
    grep -q BROKEN \"$source\" && { echo \"error: $source:1: it is BROKEN\" >&2; exit 101; }
    cmp -s \"$source\" \"out/$name\" || { cp \"$source\" \"out/$name.new\"; chmod +x \"out/$name.new\"; mv \"out/$name.new\" \"out/$name\"; }
done
echo built >> out/count
";
    let script = stack.write("build.sh", build);
    fs::set_permissions(script, fs::Permissions::from_mode(0o755)).expect("making it a program");
    let mut yaml = format!(
        "name: {}
builds:
  all: {{ command: ./build.sh, inputs: [src, build.sh], outputs: ['out/s*'] }}
services:
",
        stack.token
    );
    for n in 1..=9 {
        stack.write(&format!("src/s{n}.sh"), &program(n, "one"));
        yaml += &format!("  s{n}: {{ command: out/s{n}, build: all, ready: {{ log: serving }} }}\n");
    }
    yaml
}

fn program(n: u32, version: &str) -> String {
    format!("#!/bin/sh\necho serving {n} {version}\nexec sleep 100000\n")
}

fn built(stack: &Stack) -> usize {
    fs::read_to_string(stack.project.join("out/count")).unwrap_or_default().lines().count()
}

fn with_nine(mode: Mode) -> Stack {
    let mut stack = Stack::new(mode, "services: { x: { command: 'true' } }");
    let yaml = nine(&stack);
    stack.write("workspace.yaml", &yaml);
    // Made before anything is looked for that was left: what a build makes stays.
    stack.directory("out");
    stack.write("out/count", "");
    let ran = ups(&mut stack);
    assert_eq!(ran.code, 0, "{ran}\n{}", stack.story());
    stack
}

/// The outputs of the build stay, as those of a compiler: they are nothing that was left.
fn down(stack: Stack) {
    for entry in fs::read_dir(stack.project.join("out")).expect("it was built").flatten() {
        let _ = fs::remove_file(entry.path());
    }
    fs::write(stack.project.join("out/count"), "").expect("emptying it");
    taken_down(stack);
}

fn one_build_restarts_what_it_changed(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let stack = with_nine(mode);
    assert_eq!(built(&stack), 1, "{}", stack.story());
    let pids: Vec<i32> = (1..=9).map(|n| stack.pid(&format!("s{n}"))).collect();
    stack.write("src/s4.sh", &program(4, "two"));
    settle(&stack, 1);
    assert_eq!(built(&stack), 2);
    let (service, files, action, result) = reloads(&stack).pop().expect("it was counted");
    assert_eq!((service.as_str(), action, result), ("s4", ReloadAction::Rebuild, ReloadResult::Done));
    assert_eq!(files, ["src/s4.sh"]);
    assert!(stack.logs("s4").contains("serving 4 two"), "{}", stack.logs("s4"));
    for (n, pid) in (1..=9).zip(&pids) {
        let name = format!("s{n}");
        assert_eq!(stack.pid(&name) != *pid, n == 4, "{name}");
        assert_eq!(stack.status(&name).restarts, u32::from(n == 4), "{name}");
    }
    let why = stack.ws(&["why", "s4"]).ok();
    assert!(events(&stack).iter().any(|event| format!("{:?}", event.kind).contains("src/s4.sh")), "{why}");

    // What is built and is what was there restarts nobody.
    stack.write("src/notes.txt", "for people");
    settle(&stack, 2);
    let (service, _, _, result) = reloads(&stack).pop().expect("it was counted");
    assert_eq!((service.as_str(), result), ("all-build", ReloadResult::Unchanged));
    assert_eq!(built(&stack), 3);
    assert_eq!(stack.status("s1").restarts, 0);
    down(stack);
}

fn a_failed_build_leaves_the_old_program(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let stack = with_nine(mode);
    let pid = stack.pid("s1");
    stack.write("src/s1.sh", "BROKEN\n");
    settle(&stack, 1);
    let (service, _, _, result) = reloads(&stack).pop().expect("it was counted");
    assert_eq!((service.as_str(), result), ("all-build", ReloadResult::Failed));
    assert_eq!((stack.pid("s1"), stack.status("s1").phase), (pid, Phase::Ready));
    let log = stack.logs("s1");
    assert!(
        log.contains("src/s1.sh:1: it is BROKEN"),
        "the compiler's words are in the log of who uses it: {log}"
    );
    // Who is to start now cannot, and says why; it goes on by itself once that is mended.
    let ran = stack.ws(&["restart", "s2"]);
    assert_eq!(ran.code, 1, "{ran}");
    let failed = until(&stack, "s2", "failed for the build", |row| row.phase == Phase::Failed);
    assert!(failed.cause.contains("all-build"), "{failed:#?}");
    stack.write("src/s1.sh", &program(1, "mended"));
    until(&stack, "s2", "back", |row| row.ready);
    until(&stack, "s1", "another", |row| row.ready && row.restarts == 1);
    assert!(stack.logs("s1").contains("serving 1 mended"));
    assert_eq!(stack.status("s3").restarts, 0);
    down(stack);
}

fn directories_of_outputs_are_made(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        "
builds:
  all: { command: [/bin/sh, -c, 'cp src/text out/text'], inputs: [src], outputs: ['out/*'] }
services:
  api: { command: [/bin/sh, -c, 'echo runs $(cat out/text); exec sleep 100000'], build: all, ready: { log: runs } }
",
    );
    stack.write("src/text", "one");
    let out = stack.project.join("out");
    stack.up();
    let made = fs::metadata(&out).expect("it was made");
    assert_eq!((made.uid(), made.permissions().mode() & 0o777), (stack.ids.0, 0o755));
    // As somebody does who wants to begin anew.
    fs::remove_dir_all(&out).expect("removing what was made");
    stack.write("src/text", "two");
    settle(&stack, 1);
    assert!(stack.logs("api").contains("runs two"), "{}", stack.logs("api"));
    fs::remove_dir_all(&out).expect("removing what was made");
    taken_down(stack);
}

fn what_is_fresh_is_not_built_again(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = with_nine(mode);
    assert_eq!(built(&stack), 1);
    assert_eq!(stack.ws(&["down"]).code, 0);
    assert_eq!(ups(&mut stack).code, 0);
    assert_eq!(built(&stack), 1, "nothing changed: {}", stack.story());
    assert_eq!(stack.ws(&["down"]).code, 0);
    stack.write("src/s9.sh", &program(9, "two"));
    assert_eq!(ups(&mut stack).code, 0);
    assert_eq!(built(&stack), 2, "{}", stack.story());
    assert!(stack.logs("s9").contains("serving 9 two"));
    assert_eq!(stack.ws(&["down"]).code, 0);
    // What it made is gone.
    fs::remove_file(stack.project.join("out/s3")).expect("removing an output");
    assert_eq!(ups(&mut stack).code, 0);
    assert_eq!(built(&stack), 3, "{}", stack.story());
    assert_eq!(stack.ws(&["down"]).code, 0);
    stack.write("src/s9.sh", &program(9, "three"));
    stack.watch();
    let ran = stack.ws(&["up", "-d", "--wait", "--no-build"]);
    assert_eq!((ran.code, built(&stack)), (0, 3), "{ran}");
    down(stack);
}

fn a_change_in_the_middle_of_a_build_starts_it_over(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        "
services:
  api:
    working_dir: api
    command: [/bin/sh, -c, 'echo runs $(cat out/program); exec sleep 100000']
    ready: { log: runs }
    build:
      command: [/bin/sh, -c, 'echo begun >> log; was=$(cat src); i=0; while [ -e slow ] && [ $$i -lt 200 ]; do sleep 0.05; i=$$((i+1)); done; mkdir -p out; echo $$was > out/program; echo ended >> log']
      inputs: [src]
      outputs: ['out/*']
",
    );
    stack.write("api/src", "one");
    stack.directory("api/out");
    stack.write("api/out/program", "");
    stack.write("api/log", "");
    stack.up();
    assert!(stack.logs("api").contains("runs one"));
    let log = || fs::read_to_string(stack.project.join("api/log")).expect("it is there");
    let slow = stack.write("api/slow", "");
    stack.write("api/src", "two");
    wait_until(
        SOON,
        "the slow build",
        || if log().matches("begun").count() == 2 { Ok(()) } else { Err(log()) },
    );
    stack.write("api/src", "three");
    wait_until(SOON, "the build that starts over", || {
        if log().matches("begun").count() == 3 { Ok(()) } else { Err(log()) }
    });
    fs::remove_file(slow).expect("it was written");
    wait_until(SOON, "what was written last", || {
        let log = stack.logs("api");
        if log.contains("runs three") { Ok(()) } else { Err(log) }
    });
    std::thread::sleep(QUIET);
    assert_eq!(log().matches("begun").count(), 3, "{}", log());
    assert_eq!(log().matches("ended").count(), 2, "the one in the middle was ended: {}", log());
    assert!(!stack.logs("api").contains("runs two"));
    assert_eq!(stack.status("api").restarts, 1);
    taken_down(stack);
}

// ---- no request is lost

fn address(stack: &Stack, service: &str, port: &str) -> SocketAddr {
    stack.ws(&["port", service, port]).ok().trim().parse().expect("an address")
}

/// Reloads again and again under a load; gives what became of it.
fn under_load(stack: &Stack, reloads: usize, keep_alive: bool) -> Load {
    let asking = Asking::start(address(stack, "web", "8000"), 16, keep_alive);
    let first = stack.status("web").restarts as usize;
    for n in 1..=reloads {
        let answered = asking.answered();
        wait_until(SOON, "some answers", || {
            if asking.answered() > answered + 20 { Ok(()) } else { Err(stack.story()) }
        });
        stack.write("site/index.txt", &format!("version {keep_alive} {n}"));
        until(stack, "web", "reloaded", |row| row.restarts as usize == first + n && row.ready);
    }
    asking.stop()
}

fn web(more: &str) -> String {
    format!(
        "
services:
  web:
    command: [bin/ws-e2e-web, '8000', site/index.txt]
    ports: ['0:8000']
    watch: [site]
    ready: {{ http: ':8000/' }}
    {more}
"
    )
}

fn no_request_is_lost(mode: Mode, more: &str) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(mode, &web(more));
    stack.write("site/index.txt", "version 0");
    stack.up();
    for keep_alive in [false, true] {
        let load = under_load(&stack, 6, keep_alive);
        show(&format!(
            "{more}, keep-alive {keep_alive}: {} answered by {} runs",
            load.answered,
            load.by.len()
        ));
        assert_eq!((load.refused, load.lost), (0, 0), "{load:?}");
        assert!(load.by.len() >= 6, "the load saw the reloads: {load:?}");
    }
    taken_down(stack);
}

fn listening_sockets_lose_no_request(mode: Mode) {
    no_request_is_lost(mode, "listen: [8000]");
}

fn an_overlap_loses_no_request(mode: Mode) {
    no_request_is_lost(mode, "listen: [8000]\n    reload: overlap");
}

fn a_bad_overlap_changes_nothing(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        "
services:
  web:
    command: [/bin/sh, -c, 'grep -q BAD site/index.txt && exit 3; exec bin/ws-e2e-web 8000 site/index.txt']
    ports: ['0:8000']
    watch: [site]
    ready: { http: ':8000/' }
    listen: [8000]
    reload: overlap
",
    );
    stack.write("site/index.txt", "good");
    stack.up();
    let pid = stack.pid("web");
    let asking = Asking::start(address(&stack, "web", "8000"), 4, true);
    stack.write("site/index.txt", "BAD");
    settle(&stack, 1);
    let (_, _, action, result) = reloads(&stack).pop().expect("it was counted");
    assert_eq!((action, result), (ReloadAction::Overlap, ReloadResult::Failed));
    assert_eq!((stack.pid("web"), stack.status("web").phase), (pid, Phase::Ready));
    stack.write("site/index.txt", "better");
    settle(&stack, 2);
    wait_until(SOON, "the old run's end", || {
        if asking.answered() > 0 && stack.pid("web") != pid { Ok(()) } else { Err(stack.story()) }
    });
    let load = asking.stop();
    assert_eq!((load.refused, load.lost), (0, 0), "{load:?}");
    // One that is asked for is waited for like any other restart.
    let (pid, reloads_before) = (stack.pid("web"), reloads(&stack).len());
    drop(stack.ws(&["restart", "web"]).ok());
    assert_ne!(stack.pid("web"), pid);
    assert_eq!(reloads(&stack).len(), reloads_before + 1);
    taken_down(stack);
}

fn published_ports_wait_for_the_next_run(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(mode, &web("hold: 20s"));
    stack.write("site/index.txt", "version 0");
    stack.up();
    for keep_alive in [false, true] {
        let load = under_load(&stack, 6, keep_alive);
        show(&format!("through the published port, keep-alive {keep_alive}: {load:?}"));
        assert_eq!(load.refused, 0, "{load:?}");
        assert!(load.by.len() >= 6, "the load saw the reloads: {load:?}");
    }
    taken_down(stack);
}

// ---- the file

fn pids(stack: &Stack) -> BTreeMap<String, Option<u32>> {
    stack.ps().into_iter().map(|row| (row.name.to_string(), row.pid)).collect()
}

/// Waits until the supervisor has carried a change of the file out.
fn applied(stack: &Stack, count: usize) {
    wait_until(SOON, &format!("{count} changes of the file"), || {
        let found = events(stack);
        let is = |event: &&Event| matches!(event.kind, EventKind::PlanChanged { applied: true, .. });
        if found.iter().filter(is).count() >= count { Ok(()) } else { Err(stack.story()) }
    });
}

fn an_edited_file_touches_what_it_names(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(mode, "services: { x: { command: 'true' } }");
    let file = |services: &str| format!("name: {}\nservices:\n{services}", stack.token);
    let serve = |port: u16| format!("command: [bin/ws-e2e-serve, 'tcp:{port}'], ready: {{ tcp: ':{port}' }}");
    let before = file(&format!(
        "  db: {{ {db}, limits: {{ files: 1024 }}, hold: 5s }}
  cache: {{ {cache} }}
  api: {{ {api}, links: ['db:5000', 'cache:6000'], environment: {{ LOG: info }} }}
  worker: {{ {worker}, links: [db] }}
",
        db = serve(5000),
        cache = serve(6000),
        api = serve(7000),
        worker = serve(7500)
    ));
    // A link and a service go, a service comes, a probe and a hold change, an environment changes.
    let after = file(&format!(
        "  db: {{ {db}, limits: {{ files: 1024 }}, hold: 6s }}
  cache: {{ command: [bin/ws-e2e-serve, 'tcp:6000'], ready: {{ tcp: ':6000', interval: 1s }} }}
  api: {{ {api}, links: ['db:5000'], environment: {{ LOG: debug }} }}
  mail: {{ {mail} }}
",
        db = serve(5000),
        api = serve(7000),
        mail = serve(2500)
    ));
    stack.write("workspace.yaml", &before);
    stack.up();
    let old = pids(&stack);
    stack.write("workspace.yaml", &after);
    applied(&stack, 1);
    until(&stack, "mail", "ready", |row| row.ready);
    until(&stack, "api", "started again", |row| row.ready && row.restarts == 1);
    wait_until(SOON, "worker's end", || {
        if pids(&stack).contains_key("worker") { Err(stack.story()) } else { Ok(()) }
    });
    let new = pids(&stack);
    assert_eq!((old["db"], old["cache"]), (new["db"], new["cache"]), "they were not touched");
    assert_ne!(old["api"], new["api"]);
    assert!(stack.exec("api", &["/bin/sh", "-c", "echo $LOG"]).ok().contains("debug"));
    let reach = |to: &str| {
        let script = "import socket, sys\ntry:\n    socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)\n    print('reached')\nexcept OSError as e:\n    print('refused')";
        let (host, port) = to.split_once(':').expect("host and port");
        stack.exec("api", &["/usr/bin/python3", "-c", script, host, port]).ok().trim().to_owned()
    };
    assert_eq!((reach("db:5000").as_str(), reach("cache:6000").as_str()), ("reached", "refused"));
    // A name that came is known to those who were there.
    assert!(stack.exec("db", &["/usr/bin/getent", "hosts", "mail"]).ok().contains("mail"));
    let gone = stack.exec("db", &["/usr/bin/getent", "hosts", "worker"]);
    assert_ne!(gone.code, 0, "{gone}");
    taken_down(stack);
}

fn a_broken_file_changes_nothing(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(mode, &format!("services: {{ api: {} }}", stays("hold: 5s")));
    stack.up();
    let old = pids(&stack);
    let good = fs::read_to_string(stack.project.join("workspace.yaml")).expect("it is there");
    stack.write("workspace.yaml", &format!("{good}\n  web: {{ comand: x }}\n"));
    wait_until(SOON, "the diagnostics", || {
        let refused = events(&stack).into_iter().find_map(|event| match event.kind {
            EventKind::PlanRefused { text } => Some(text),
            _ => None,
        });
        refused.filter(|text| text.contains("workspace.yaml")).ok_or_else(|| stack.story())
    });
    let ran = stack.ws(&["apply"]);
    assert_eq!(ran.code, 2, "{ran}");
    assert!(ran.err.contains("workspace.yaml"), "{ran}");
    assert_eq!(pids(&stack), old);
    stack.write("workspace.yaml", &good.replace("hold: 5s", "hold: 6s"));
    applied(&stack, 1);
    assert_eq!(pids(&stack), old);
    fs::remove_file(stack.project.join("workspace.yaml")).expect("removing it");
    std::thread::sleep(QUIET);
    let pid = old["api"].expect("it runs");
    assert!(Path::new(&format!("/proc/{pid}")).exists(), "it goes on without a file");
    stack.write("workspace.yaml", &good);
    taken_down(stack);
}

fn rights_wait_for_apply(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let yaml = |links: &str| {
        format!(
            "services:\n  db: {{ command: [bin/ws-e2e-serve, 'tcp:5000'], ready: {{ tcp: ':5000' }} }}\n  api: {}\n",
            stays(&format!("links: [{links}]"))
        )
    };
    let mut stack = Stack::new(mode, &yaml(""));
    stack.up();
    let old = pids(&stack);
    let reaches = || {
        let script = "import socket\ntry:\n    socket.create_connection(('db', 5000), 3)\n    print('reached')\nexcept OSError as e:\n    print('refused')";
        stack.exec("api", &["/usr/bin/python3", "-c", script]).ok().trim() == "reached"
    };
    assert!(!reaches());
    stack.write("workspace.yaml", &format!("name: {}\n{}", stack.token, yaml("'db:5000'")));
    wait_until(SOON, "the held change", || {
        let held = |event: &Event| matches!(event.kind, EventKind::PlanChanged { applied: false, .. });
        if events(&stack).iter().any(held) { Ok(()) } else { Err(stack.story()) }
    });
    std::thread::sleep(QUIET);
    assert!(!reaches(), "a file alone gives no rights");
    let plan = stack.ws(&["apply", "--dry-run"]);
    assert_eq!(plan.code, 0, "{plan}");
    assert!(plan.out.contains("db:5000"), "{plan}");
    assert!(!reaches());
    let ran = stack.ws(&["apply"]);
    assert_eq!(ran.code, 0, "{ran}");
    assert!(reaches());
    assert_eq!(pids(&stack), old, "a link needs no restart");
    // Less is carried out by itself.
    stack.write("workspace.yaml", &format!("name: {}\n{}", stack.token, yaml("")));
    wait_until(SOON, "the link's end", || if reaches() { Err(stack.story()) } else { Ok(()) });
    assert_eq!(pids(&stack), old);
    taken_down(stack);
}

fn settings_change_live(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let limits =
        if mode == Mode::Root { "limits: { memory: 64M, pids: 50 }" } else { "limits: { files: 512 }" };
    let mut stack = Stack::new(mode, &format!("services: {{ api: {} }}", stays(limits)));
    if mode == Mode::Root {
        requires!(mode, cgroup);
    }
    stack.up();
    let pid = stack.pid("api");
    let ran = stack.ws(&["set", "api", "limits.nothing=1"]);
    assert_eq!(ran.code, 2, "{ran}");
    assert!(ran.err.contains("limits.memory"), "it says what there is: {ran}");
    if mode == Mode::Root {
        drop(stack.ws(&["set", "api", "limits.memory=96M"]).ok());
        assert_eq!(stack.status("api").memory_limit_bytes, Some(96 << 20));
        assert_eq!(stack.pid("api"), pid);
        // It stays over a reload of the file, until the stack is down.
        let text = fs::read_to_string(stack.project.join("workspace.yaml")).expect("it is there");
        stack.write("workspace.yaml", &text.replace("pids: 50", "pids: 40"));
        applied(&stack, 2);
        assert_eq!(stack.status("api").memory_limit_bytes, Some(96 << 20));
    }
    drop(stack.ws(&["set", "api", "hold=3s", "stop.grace=2s"]).ok());
    assert_eq!((stack.pid("api"), stack.status("api").restarts), (pid, 0));
    taken_down(stack);
}

fn the_plan_says_what_is_different(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack =
        Stack::new(mode, &format!("services: {{ api: {}, db: {} }}", stays("hold: 5s"), stays("hold: 5s")));
    stack.up();
    let text = fs::read_to_string(stack.project.join("workspace.yaml")).expect("it is there");
    // Without rights, so that it would be carried out: the file is looked at in the same moment.
    stack.write("workspace.yaml", &text.replace("db: {", "data: { links: [api:80], "));
    let ran = stack.ws(&["plan"]);
    assert_eq!(ran.code, 0, "{ran}");
    assert!(ran.out.contains("data") && ran.out.contains("db"), "{ran}");
    let watched = stack.ws(&["watch"]);
    assert_eq!(watched.code, 0, "{watched}");
    taken_down(stack);
}

/// A Cargo workspace of three services and a library, built in the sandbox by the toolchain of whoever runs the tests.
#[test]
fn a_cargo_workspace_restarts_what_was_linked_anew() {
    // The toolchain lies in root's home then, where no other user looks.
    let mode = if nix::unistd::geteuid().is_root() { Mode::Root } else { Mode::User };
    requires!(mode, userns, netns, nft, rustup);
    let home = ws_e2e::needs::rustup_home().expect("it was required");
    let (cargo, rustup) = (home.join(".cargo"), home.join(".rustup"));
    let mut yaml = format!(
        "
builds:
  rust:
    command: [{cargo}/bin/cargo, build, --offline, --quiet]
    environment: {{ CARGO_HOME: {cargo}, RUSTUP_HOME: {rustup}, CARGO_INCREMENTAL: '0' }}
    reads: [{cargo}/bin, {rustup}]
    inputs: [Cargo.toml, Cargo.lock, crates]
    outputs: ['target/debug/s?']
services:
",
        cargo = cargo.display(),
        rustup = rustup.display()
    );
    for n in 1..=3 {
        yaml +=
            &format!("  s{n}: {{ command: target/debug/s{n}, build: rust, ready: {{ log: serving }} }}\n");
    }
    let mut stack = Stack::new(mode, &yaml);
    stack.write("Cargo.toml", "[workspace]\nmembers = ['crates/*']\nresolver = '3'\n");
    let package = |name: &str, dependencies: &str| {
        format!(
            "[package]\nname = '{name}'\nversion = '0.0.0'\nedition = '2024'\n[dependencies]\n{dependencies}\n"
        )
    };
    stack.write("crates/kit/Cargo.toml", &package("kit", ""));
    let library = |word: &str| format!("pub fn word() -> &'static str {{ \"{word}\" }}\n");
    stack.write("crates/kit/src/lib.rs", &library("one"));
    let program = |word: &str| {
        format!(
            "fn main() {{ println!(\"serving {{}} {{}}\", {word}, file!()); loop {{ std::thread::park(); }} }}\n"
        )
    };
    for n in 1..=3 {
        // Two of them use the library.
        let (dependencies, word) =
            if n < 3 { ("kit = { path = '../kit' }", "kit::word()") } else { ("", "\"alone\"") };
        stack.write(&format!("crates/s{n}/Cargo.toml"), &package(&format!("s{n}"), dependencies));
        stack.write(&format!("crates/s{n}/src/main.rs"), &program(word));
    }
    let locked = Command::new(cargo.join("bin/cargo"))
        .args(["generate-lockfile", "--offline", "--quiet"])
        .current_dir(&stack.project)
        .status();
    assert!(locked.expect("running cargo").success());
    stack.directory("target");
    let ran = ups(&mut stack);
    assert_eq!(ran.code, 0, "{ran}\n{}", stack.story());
    let restarts = |stack: &Stack| [1, 2, 3].map(|n| stack.status(&format!("s{n}")).restarts);
    assert_eq!(restarts(&stack), [0, 0, 0]);
    stack.write("crates/s2/src/main.rs", &program("\"two\""));
    until(&stack, "s2", "started again", |row| row.ready && row.restarts == 1);
    settle(&stack, 1);
    assert_eq!(restarts(&stack), [0, 1, 0], "{}", stack.story());
    assert!(stack.logs("s2").contains("serving two"), "{}", stack.logs("s2"));
    // s2 does not use the library any more.
    stack.write("crates/kit/src/lib.rs", &library("three"));
    until(&stack, "s1", "started again", |row| row.ready && row.restarts == 1);
    settle(&stack, 2);
    assert_eq!(restarts(&stack), [1, 1, 0], "{}", stack.story());
    stack.write("crates/s3/src/main.rs", "fn main() { no_such_thing() }\n");
    settle(&stack, 3);
    let (service, files, _, result) = reloads(&stack).pop().expect("it was counted");
    assert_eq!((service.as_str(), result), ("rust-build", ReloadResult::Failed));
    assert_eq!(files, ["crates/s3/src/main.rs"]);
    assert_eq!(restarts(&stack), [1, 1, 0]);
    assert!(stack.logs("s3").contains("no_such_thing"), "{}", stack.logs("s3"));
    taken_down(stack);
}

// ---- edits by chance

/// A small stack as a test thinks of it: who there is, with what.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Drawn(BTreeMap<&'static str, DrawnService>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct DrawnService {
    /// A restart changes it.
    color: u32,
    /// It changes live.
    hold: u32,
    /// They change live.
    links: BTreeSet<&'static str>,
}

const NAMES: [&str; 5] = ["ada", "bob", "cyd", "dee", "eve"];

fn port_of(name: &str) -> u16 {
    5000 + u16::try_from(NAMES.iter().position(|known| *known == name).expect("it is one of them"))
        .expect("few")
}

/// Numbers that follow from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % end
    }

    fn one_of(&mut self, names: &[&'static str]) -> &'static str {
        names[usize::try_from(self.below(names.len() as u64)).expect("few")]
    }
}

impl Drawn {
    fn first() -> Self {
        let service = || DrawnService { color: 0, hold: 5, links: BTreeSet::new() };
        Self(["ada", "bob", "cyd"].into_iter().map(|name| (name, service())).collect())
    }

    /// Some changes of an editor, all saved at once.
    fn edited(&self, dice: &mut Dice) -> Self {
        let mut next = self.clone();
        for _ in 0..=dice.below(3) {
            let there: Vec<&'static str> = next.0.keys().copied().collect();
            match dice.below(6) {
                0 => {
                    let name = dice.one_of(&NAMES);
                    let color = u32::try_from(dice.below(100)).expect("small");
                    next.0.entry(name).or_insert(DrawnService { color, hold: 5, links: BTreeSet::new() });
                }
                1 if there.len() > 1 => {
                    let name = dice.one_of(&there);
                    next.0.remove(name);
                    for service in next.0.values_mut() {
                        service.links.remove(name);
                    }
                }
                2 => {
                    let color = u32::try_from(dice.below(100)).expect("small");
                    next.0.get_mut(dice.one_of(&there)).expect("it is there").color = color;
                }
                3 => {
                    let hold = 1 + u32::try_from(dice.below(9)).expect("small");
                    next.0.get_mut(dice.one_of(&there)).expect("it is there").hold = hold;
                }
                _ => {
                    let (from, to) = (dice.one_of(&there), dice.one_of(&there));
                    if from != to {
                        let links = &mut next.0.get_mut(from).expect("it is there").links;
                        if !links.remove(to) {
                            links.insert(to);
                        }
                    }
                }
            }
        }
        next
    }

    fn yaml(&self, token: &str) -> String {
        let service = |(name, service): (&&str, &DrawnService)| {
            let DrawnService { color, hold, links } = service;
            let port = port_of(name);
            // Order is not what this is about: a circle of links is none of starts.
            let links: Vec<String> =
                links.iter().map(|to| format!("{{ to: '{to}:{}', wait: false }}", port_of(to))).collect();
            let links = links.join(", ");
            format!(
                "  {name}: {{ command: [bin/ws-e2e-serve, 'tcp:{port}'], environment: {{ COLOR: '{color}' }}, \
                 hold: {hold}s, links: [{links}], ready: {{ tcp: ':{port}' }} }}\n"
            )
        };
        format!("name: {token}\nservices:\n{}", self.0.iter().map(service).collect::<String>())
    }
}

/// Whoever of these can be reached from a service, asked inside.
fn reached(stack: &Stack, from: &str, drawn: &Drawn) -> BTreeSet<&'static str> {
    let script = "
import socket, sys
for pair in sys.argv[1:]:
    host, port = pair.split(':')
    try:
        socket.create_connection((host, int(port)), 3).close()
        print(host)
    except OSError:
        pass";
    let others: Vec<&'static str> = drawn.0.keys().copied().filter(|name| *name != from).collect();
    let pairs: Vec<String> = others.iter().map(|name| format!("{name}:{}", port_of(name))).collect();
    let arguments = ["/usr/bin/python3", "-c", script].into_iter().chain(pairs.iter().map(String::as_str));
    let out = stack.exec(from, &arguments.collect::<Vec<_>>()).ok();
    others.into_iter().filter(|name| out.lines().any(|line| line == *name)).collect()
}

/// After any edits the stack is what a fresh start of the last file would be, and each of them touches only what it
/// names.
fn edits_by_chance_end_like_a_fresh_start(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let seed = match std::env::var("RELOAD_SEED") {
        Ok(seed) => seed.parse().expect("RELOAD_SEED is a number"),
        Err(_) => ws_e2e::stack::random(),
    };
    show(&format!("RELOAD_SEED={seed}"));
    let mut dice = Dice(seed);
    let mut stack = Stack::new(mode, "services: { x: { command: 'true' } }");
    let mut drawn = Drawn::first();
    stack.write("workspace.yaml", &drawn.yaml(&stack.token));
    stack.up();
    for round in 1..=8 {
        let next = drawn.edited(&mut dice);
        let before = pids(&stack);
        stack.write("workspace.yaml", &next.yaml(&stack.token));
        // Whoever is first, the watcher or this: afterwards it is carried out.
        drop(stack.ws(&["apply"]).ok());
        let told =
            || format!("RELOAD_SEED={seed}, round {round}: {drawn:#?}\nbecame {next:#?}\n{}", stack.story());
        wait_until(SOON, "everybody of the file, and nobody else", || {
            let rows = stack.ps();
            let is: BTreeSet<&str> = rows.iter().map(|row| row.name.as_str()).collect();
            let right = is == next.0.keys().copied().collect() && rows.iter().all(|row| row.ready);
            if right { Ok(()) } else { Err(told()) }
        });
        let after = pids(&stack);
        for (name, service) in &next.0 {
            let kept = drawn.0.get(name).is_some_and(|old| old.color == service.color);
            assert_eq!(before.get(*name) == after.get(*name), kept, "{name}: {}", told());
            let color = stack.exec(name, &["/bin/sh", "-c", "echo $COLOR"]).ok();
            assert_eq!(color.trim(), service.color.to_string(), "{name}: {}", told());
            assert_eq!(reached(&stack, name, &next), service.links, "{name}: {}", told());
        }
        drawn = next;
    }
    // Nothing is left to be carried out.
    let plan = stack.ws(&["apply", "--dry-run"]).ok();
    assert!(!NAMES.iter().any(|name| plan.contains(name)), "{plan}");
    taken_down(stack);
}
