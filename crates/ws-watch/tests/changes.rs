//! Changes of all kinds.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use ws_core::files::Files;
use ws_model::{Poll, WatchAction};

use crate::support::{Project, files, pattern, plan, rule, sources, watch};

#[test]
fn a_touch_a_mode_and_what_is_taken_back_are_none() {
    let project = Project::with(&[("a", "one"), ("b", "two")]);
    project.sh("touch a");
    project.nothing();
    project.sh("chmod 600 a");
    project.nothing();
    project.sh("cat a >/dev/null; ls -R . >/dev/null");
    project.nothing();
    // Quick enough for one batch: but were it two, they would be told.
    project.sh("printf x > a; printf one > a");
    project.nothing();
    project.sh("mv a c; mv c a");
    project.nothing();
    project.sh("printf new > d; rm d");
    project.nothing();
}

#[test]
fn the_executable_bit_is_one() {
    let project = Project::with(&[("run.sh", "#!/bin/sh\n")]);
    project.sh("chmod +x run.sh");
    project.only("api restart: run.sh");
    project.sh("chmod a-x run.sh");
    project.only("api restart: run.sh");
}

#[test]
fn files_come_and_go() {
    let project = Project::with(&[("src/a", "")]);
    project.write("src/b", "");
    project.only("api restart: src/b");
    project.sh("rm src/a");
    project.only("api restart: src/a");
    project.sh("mv src/b src/c");
    project.only("api restart: src/b src/c");
}

#[test]
fn new_directories_with_files_at_once() {
    let project = Project::with(&[]);
    project.sh("mkdir -p a/b/c; echo x > a/b/c/file; mkdir -p a/d/e/f; echo y > a/d/e/f/g");
    project.only("api restart: a/b/c/file a/d/e/f/g");
    // They are watched from then on.
    project.write("a/b/c/file", "other");
    project.only("api restart: a/b/c/file");
    project.write("a/d/e/new", "");
    project.only("api restart: a/d/e/new");
}

#[test]
fn trees_are_moved_out_and_in() {
    let project = Project::with(&[("a/b/one", "1"), ("a/two", "2")]);
    let elsewhere = tempfile::tempdir().unwrap();
    let out = elsewhere.path().join("a");
    fs::rename(project.path("a"), &out).unwrap();
    project.only("api restart: a/b/one a/two");
    fs::write(out.join("two"), "changed elsewhere").unwrap();
    project.nothing();
    fs::rename(&out, project.path("z")).unwrap();
    project.only("api restart: z/b/one z/two");
    project.write("z/b/one", "other");
    project.only("api restart: z/b/one");
    // Within the tree.
    fs::rename(project.path("z"), project.path("y")).unwrap();
    project.only("api restart: y/b/one y/two z/b/one z/two");
    project.write("y/b/one", "again");
    project.only("api restart: y/b/one");
    // Away and back: the same files as before.
    project.sh("mv y x; mv x y");
    project.nothing();
    project.write("y/two", "again");
    project.only("api restart: y/two");
}

#[test]
fn a_tree_takes_the_place_of_another() {
    let project = Project::with(&[("a/same", "1"), ("a/other", "2")]);
    project.sh("mkdir b; printf 1 > b/same; printf 3 > b/other; mv a c; mv b a; rm -r c");
    project.only("api restart: a/other");
    project.write("a/same", "new");
    project.only("api restart: a/same");
    project.sh("rm -r a; mkdir a; printf new > a/same; printf 3 > a/other");
    project.nothing();
    project.write("a/same", "newer");
    project.only("api restart: a/same");
}

#[test]
fn a_file_becomes_a_directory_and_back() {
    let project = Project::with(&[("a", "1")]);
    project.sh("rm a; mkdir a; echo x > a/b");
    project.only("api restart: a a/b");
    project.sh("rm -r a; printf 1 > a");
    project.only("api restart: a a/b");
}

#[test]
fn links_in_a_tree_are_what_they_say() {
    let project = Project::with(&[("a", "1"), ("out/x", "1")]);
    symlink("a", project.path("link")).unwrap();
    project.only("api restart: link");
    project.sh("ln -sfn b link");
    project.only("api restart: link");
    symlink(project.path("out"), project.path("tree")).unwrap();
    project.only("api restart: tree");
    // It is told where it is, and not through the link.
    project.write("out/x", "2");
    project.only("api restart: out/x");
}

#[test]
fn links_that_a_rule_names_are_followed() {
    let mut project = Project::new();
    let elsewhere = tempfile::tempdir().unwrap();
    for (path, text) in [("one/src/a", "1"), ("two/src/a", "2"), ("two/src/b", "2")] {
        project.write(&format!("releases/{path}"), text);
    }
    fs::write(elsewhere.path().join("conf"), "1").unwrap();
    symlink("releases/one", project.path("current")).unwrap();
    symlink(elsewhere.path().join("conf"), project.path("conf")).unwrap();
    let mut plan = plan(&project.root);
    let set = sources(&project.root, &["current/src", "conf", "sign-0", "sign-1"], &[]);
    watch(&mut plan, "api", vec![rule(set, WatchAction::Restart)]);
    project.follow(plan);
    project.write("releases/one/src/a", "other");
    assert_eq!(project.next(), "api restart: current/src/a");
    project.sh("ln -s releases/two next; mv -T next current");
    assert_eq!(project.next(), "api restart: current/src/a current/src/b");
    project.write("releases/two/src/b", "other");
    assert_eq!(project.next(), "api restart: current/src/b");
    fs::write(elsewhere.path().join("conf"), "2").unwrap();
    assert_eq!(project.next(), "api restart: conf");
    fs::write(elsewhere.path().join("new"), "3").unwrap();
    fs::rename(elsewhere.path().join("new"), elsewhere.path().join("conf")).unwrap();
    assert_eq!(project.next(), "api restart: conf");
    project.write("releases/one/src/a", "not any more");
    project.write("sign-0", "");
    assert_eq!(project.next(), "api restart: sign-0");
}

#[test]
fn configuration_as_kubernetes_mounts_it() {
    let mut project = Project::new();
    project.write("conf/..1/app.toml", "1");
    project.write("conf/..2/app.toml", "2");
    project.sh("ln -s ..1 conf/..data; ln -s ..data/app.toml conf/app.toml");
    let mut plan = plan(&project.root);
    let set = sources(&project.root, &["conf/app.toml"], &[]);
    watch(&mut plan, "api", vec![rule(set, WatchAction::Signal(1))]);
    project.follow(plan);
    project.sh("ln -s ..2 conf/..tmp; mv -T conf/..tmp conf/..data; rm -r conf/..1");
    assert_eq!(project.next(), "api signal 1: conf/app.toml");
}

#[test]
fn a_file_that_may_not_be_read_is_still_watched() {
    let project = Project::with(&[("a", "1")]);
    fs::set_permissions(project.path("a"), fs::Permissions::from_mode(0o000)).unwrap();
    // Root reads it all the same, then it is nothing new; else it is not what it was.
    let _ = project.watcher.settle();
    fs::remove_file(project.path("a")).unwrap();
    let mut told = project.next();
    if told == "api restart: a" {
        project.write("b", "");
        told = project.next();
        if told == "api restart: a" {
            told = project.next();
        }
        assert_eq!(told, "api restart: b");
    }
}

#[test]
fn a_pipe_and_a_socket_are_no_files() {
    let project = Project::with(&[]);
    project.sh("mkfifo pipe");
    let _socket = std::os::unix::net::UnixListener::bind(project.path("socket")).unwrap();
    project.nothing();
}

#[test]
fn a_root_that_is_not_there_yet_and_goes_and_comes() {
    let mut project = Project::new();
    let mut plan = plan(&project.root);
    let set = sources(&project.root, &["gen/out/src", "conf/deep/a.toml"], &[]);
    watch(&mut plan, "api", vec![rule(set, WatchAction::Restart)]);
    project.follow(plan);
    for text in ["1", "2"] {
        project.write("gen/out/src/x/y", text);
        assert_eq!(project.next(), "api restart: gen/out/src/x/y");
        project.write("conf/deep/a.toml", text);
        assert_eq!(project.next(), "api restart: conf/deep/a.toml");
        project.write("gen/out/src/x/z", text);
        assert_eq!(project.next(), "api restart: gen/out/src/x/z");
        project.sh("rm -r gen conf");
        assert_eq!(project.next(), "api restart: conf/deep/a.toml gen/out/src/x/y gen/out/src/x/z");
    }
}

#[test]
fn the_project_itself_goes_and_comes() {
    let project = Project::with(&[("a", "1")]);
    let away = project.root.with_extension("away");
    fs::rename(&project.root, &away).unwrap();
    assert_eq!(project.next(), "api restart: a");
    fs::rename(&away, &project.root).unwrap();
    assert_eq!(project.next(), "api restart: a");
    project.write("a", "2");
    project.only("api restart: a");
    fs::remove_dir_all(&project.root).unwrap();
    assert!(project.next().starts_with("api restart: a"));
    project.write("a", "3");
    assert_eq!(project.next(), "api restart: a");
}

#[test]
fn what_git_ignores_and_what_changes_that() {
    let project = Project::with(&[
        (".gitignore", "*.log\n/out/\n"),
        ("src/a", ""),
        ("out/x", ""),
        ("src/sub/.gitignore", "gen\n"),
        ("target/debug/x", ""),
        ("node_modules/x/y", ""),
    ]);
    project.sh("echo x > a.log; echo x > src/b.log; echo x > out/y; echo x > src/sub/gen");
    project.sh("echo x > target/debug/y; echo x > node_modules/z; mkdir -p x/node_modules/a; echo x > x/node_modules/a/b");
    project.nothing();
    // What is not ignored any more is watched, and no change by itself.
    project.write(".gitignore", "*.log\n");
    project.nothing();
    project.write("out/x", "new");
    project.only("api restart: out/x");
    project.write(".gitignore", "*.log\nsrc\n");
    project.nothing();
    project.write("src/a", "new");
    project.nothing();
    project.sh("rm .gitignore");
    project.nothing();
    project.write("src/a", "newer");
    project.only("api restart: src/a");
    project.write("b.log", "x");
    project.only("api restart: b.log");
    // A new file in a directory.
    project.write("src/.gitignore", "*.gen\n");
    project.nothing();
    project.write("src/x.gen", "");
    project.nothing();
}

#[test]
fn rules_in_order_and_files_that_are_named() {
    let mut project = Project::new();
    project.write(".gitignore", "*.env\nlocal/\n");
    let root = project.root.clone();
    let mut plan = plan(&root);
    watch(
        &mut plan,
        "api",
        vec![
            rule(sources(&root, &["docs"], &[]), WatchAction::None),
            rule(sources(&root, &["conf/*.toml"], &[]), WatchAction::Signal(1)),
            rule(sources(&root, &["my.env", "local"], &[]), WatchAction::Restart),
            rule(sources(&root, &["src/**/*.rs", "docs"], &["src/gen", "**/skip"]), WatchAction::Rebuild),
        ],
    );
    watch(&mut plan, "web", vec![rule(sources(&root, &["."], &["src"]), WatchAction::Restart)]);
    plan.watching.ignore = vec![pattern(&root, "**/*.never")];
    project.follow(plan);
    project.write("docs/a", "");
    assert_eq!(project.next(), "web restart: docs/a");
    project.write("conf/a.toml", "");
    assert_eq!(project.next(), "api signal 1: conf/a.toml; web restart: conf/a.toml");
    project.write("my.env", "");
    assert_eq!(project.next(), "api restart: my.env");
    project.write("local/x", "");
    assert_eq!(project.next(), "api restart: local/x");
    project.sh("mkdir -p src/gen src/x/skip; touch src/gen/a.rs src/x/skip/b.rs src/x/c.txt src/d.never src/x/e.rs src/f.rs");
    assert_eq!(project.next(), "api rebuild: src/f.rs src/x/e.rs");
    project.sh("for n in 1 2 3 4 5 6 7 8; do echo > src/$n.rs; done");
    assert_eq!(project.next(), "api rebuild: src/1.rs src/2.rs src/3.rs src/4.rs src/5.rs +3");
}

#[test]
fn outputs_that_are_watched_are_no_sources() {
    let mut project = Project::new();
    project.write(".gitignore", "target\n");
    let mut plan = plan(&project.root);
    let set = files(&project.root, &["target/debug/*"]);
    watch(&mut plan, "api", vec![rule(set, WatchAction::Restart)]);
    project.follow(plan);
    project.write("target/debug/api", "");
    assert_eq!(project.next(), "api restart: target/debug/api");
}

#[test]
fn another_plan_loses_nothing() {
    let mut project = Project::new();
    for path in ["a/x", "b/x", "c/x"] {
        project.write(path, "1");
    }
    let root = project.root.clone();
    let with = |tops: &[&str]| {
        let mut plan = plan(&root);
        watch(&mut plan, "api", vec![rule(sources(&root, tops, &[]), WatchAction::Restart)]);
        plan
    };
    project.follow(with(&["a", "b"]));
    // Told before, and between, two plans; the second has no `b`, the third has it again.
    project.write("a/x", "2");
    project.write("a/new", "");
    project.write("b/x", "2");
    project.watcher.follow(with(&["a", "c"]).into(), Vec::new());
    assert_eq!(project.next(), "api restart: a/new a/x");
    project.write("c/x", "2");
    project.watcher.follow(with(&["a", "b", "c"]).into(), Vec::new());
    assert_eq!(project.next(), "api restart: c/x");
    let _ = project.watcher.settle();
    project.write("b/x", "3");
    assert_eq!(project.next(), "api restart: b/x");
    // The same again is nothing to do.
    project.follow(with(&["a", "b", "c"]));
    project.write("b/x", "4");
    assert_eq!(project.next(), "api restart: b/x");
}

#[test]
fn files_of_the_plan() {
    let mut project = Project::new();
    project.write("workspace.yaml", "1");
    project.write("more/included.yaml", "1");
    let outside = tempfile::tempdir().unwrap();
    let env = outside.path().canonicalize().unwrap().join("common.env");
    let plan = project.plan();
    let plan_files = vec![project.path("workspace.yaml"), project.path("more/included.yaml"), env.clone()];
    project.follow_with(plan.clone(), plan_files.clone());
    // They may have changed since they were read.
    project.only("plan: ");
    project.follow_with(plan.clone(), plan_files[..2].to_vec());
    project.nothing();
    project.follow_with(plan, plan_files);
    project.only("plan: ");
    project.write("workspace.yaml.new", "2");
    // Not one more than the plan itself: it is no source.
    fs::rename(project.path("workspace.yaml.new"), project.path("workspace.yaml")).unwrap();
    assert_eq!(project.next(), "plan: workspace.yaml");
    project.sh("touch workspace.yaml; rm more/included.yaml");
    assert_eq!(project.next(), "plan: included.yaml");
    project.write("more/included.yaml", "1");
    assert_eq!(project.next(), "plan: included.yaml");
    fs::write(&env, "A=1").unwrap();
    assert_eq!(project.next(), "plan: common.env");
    fs::write(env.with_file_name("two.env"), "A=2").unwrap();
    fs::remove_file(&env).unwrap();
    assert_eq!(project.next(), "plan: common.env");
    symlink("two.env", &env).unwrap();
    assert_eq!(project.next(), "plan: common.env");
    project.write("a", "");
    assert_eq!(project.next(), "api restart: a");
}

#[test]
fn polling_sees_the_same() {
    let mut project = Project::new();
    project.write("src/a", "1");
    project.write("workspace.yaml", "1");
    project.write(".gitignore", "*.log\n");
    let mut plan = project.plan();
    plan.watching.poll = Poll::Every(Duration::from_millis(20));
    let plan_files = vec![project.path("workspace.yaml")];
    project.follow_with(plan, plan_files);
    project.only("plan: ");
    assert!(project.watcher.settle().polling);
    project.write("src/a", "2");
    project.only("api restart: src/a");
    project.sh("touch src/a");
    project.nothing();
    project.write("src/b/c", "2");
    project.only("api restart: src/b/c");
    project.sh("mv src/b src/d");
    project.only("api restart: src/b/c src/d/c");
    project.write("workspace.yaml", "2");
    project.only("plan: workspace.yaml");
    project.write("x.log", "");
    project.nothing();
    project.write(".gitignore", "");
    project.nothing();
    project.write("x.log", "2");
    project.only("api restart: x.log");
    // Every write leaves a trace, however quickly it follows on another of the same size.
    for n in 10..30 {
        project.write("src/a", &format!("{n}"));
        assert_eq!(project.next(), "api restart: src/a");
    }
}

/// A repository with two commits that differ in 5,000 files.
fn repository(project: &Project) {
    project.sh(
        "git init -q -b main .; git config user.name t; git config user.email t@example.org; git config gc.auto 0
         for d in $(seq 50); do mkdir -p src/d$d; for f in $(seq 80); do echo one > src/d$d/f$f; done; done
         mkdir -p old/x; for f in $(seq 500); do echo $f > old/x/f$f; done
         git add -A; git commit -qm one; git branch one
         find src -type f | while read f; do echo two > $f; done
         rm -r old; mkdir -p new/y/z; for f in $(seq 500); do echo n$f > new/y/z/f$f; done
         git add -A; git commit -qm two; git branch two",
    );
}

#[test]
fn a_checkout_of_thousands_of_files_is_one_batch() {
    let mut project = Project::new();
    repository(&project);
    let plan = project.plan();
    project.follow(plan);
    for (to, first) in [("one", "new/y/z/f1"), ("two", "new/y/z/f1"), ("one", "new/y/z/f1")] {
        project.sh(&format!("git checkout -q {to}"));
        let told = project.next();
        assert!(told.starts_with(&format!("api restart: {first} ")), "{told}");
        assert!(told.ends_with(" +4995"), "{told}");
        project.nothing();
        project.sh("rm -f sign-*");
        assert!(project.next().starts_with("api restart: sign-"));
    }
    // All the while, nothing but git knows that the index is locked.
    project.write("src/d1/f1", "mine");
    assert_eq!(project.next(), "api restart: src/d1/f1");
    project.sh("git stash -q");
    project.only("api restart: src/d1/f1");
    project.sh("git stash pop -q");
    project.only("api restart: src/d1/f1");
    project.sh("git status >/dev/null; git log >/dev/null; git add src; git commit -qm three");
    project.nothing();
}

#[test]
fn nothing_is_quiet_while_git_works() {
    let mut project = Project::new();
    project.sh("git init -q .");
    project.write("a", "");
    project.write("b", "");
    let plan = project.plan();
    project.follow(plan);
    project.write(".git/index.lock", "");
    project.write("a", "1");
    // Long past the debounce, and not told: else it would come before the other.
    std::thread::sleep(Duration::from_millis(700));
    project.write("b", "1");
    project.sh("rm .git/index.lock");
    project.only("api restart: a b");
}

#[test]
fn a_file_that_is_written_without_end_holds_up_nobody() {
    let project = Project::with(&[("log", "")]);
    let file = project.path("log");
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let writer = std::thread::spawn(move || {
        let mut n = 0;
        while stopped.recv_timeout(Duration::from_millis(5)).is_err() {
            n += 1;
            fs::write(&file, format!("{n}")).unwrap();
        }
    });
    project.write("src", "1");
    let told = project.next();
    assert!(told == "api restart: log src" || told == "api restart: src", "{told}");
    stop.send(()).unwrap();
    writer.join().unwrap();
}

#[test]
fn a_log_that_is_ignored_holds_up_nothing() {
    let project = Project::with(&[(".gitignore", "*.log\n")]);
    let file = project.path("my.log");
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let writer = std::thread::spawn(move || {
        while stopped.recv_timeout(Duration::from_millis(5)).is_err() {
            fs::write(&file, "x").unwrap();
        }
    });
    project.write("src", "1");
    project.only("api restart: src");
    stop.send(()).unwrap();
    writer.join().unwrap();
}
