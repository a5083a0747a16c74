//! What a service may do in a directory that is watched and that it writes: it must hold up and mislead nobody.

use std::os::unix::fs::symlink;
use std::path::Path;

use ws_core::files::Moment;
use ws_core::plan::{Bind, BindSource, Plan};
use ws_model::WatchAction;

use crate::support::{Project, files, name, pattern, plan, rule, sources, watch};

/// The service writes there.
fn writes(plan: &mut Plan, service: &str, path: &Path) {
    plan.services.get_mut(&name(service)).unwrap().view.binds.push(Bind {
        source: BindSource::Host(path.into()),
        target: path.into(),
        writable: true,
        directory: true,
        create: false,
        owner_mapped: false,
    });
}

#[test]
fn nobody_waits_for_what_is_no_file() {
    let project = Project::with(&[("src/a", ""), ("own/a", "")]);
    // Each of these would be waited for, or read without an end.
    project.sh("mkfifo own/.gitignore own/pipe; mkdir own/x own/y own/z; mkfifo own/x/.git");
    project
        .sh("ln -s /dev/zero own/y/.git; ln -s /dev/zero own/y/.gitignore; truncate -s 1T own/z/.gitignore");
    project.sh("mkdir -p own/w/.git/info; mkfifo own/w/.git/commondir own/w/.git/info/exclude");
    project.write("src/a", "1");
    let told = project.next();
    assert!(told.contains("src/a"), "{told}");
    project.sh("rm own/z/.gitignore; touch own/w/.gitignore");
    let _ = project.watcher.settle();
    let explained = ws_watch::explain(&project.plan(), Path::new("own/y/file"));
    assert_eq!(explained.units.len(), 1);
}

#[test]
fn a_link_that_a_service_makes_leads_nowhere_else() {
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::write(elsewhere.path().join("secret"), "1").unwrap();
    let mut project = Project::new();
    for (path, text) in [("own/a", ""), ("src/a", ""), ("linked/x", "")] {
        project.write(path, text);
    }
    let mut plan = plan(&project.root);
    let named = ["own/link", "own/file", "own/inside", "mine"];
    watch(&mut plan, "api", vec![rule(files(&project.root, &named), WatchAction::Restart)]);
    writes(&mut plan, "api", &project.path("own"));
    symlink(elsewhere.path(), project.path("own/link")).unwrap();
    symlink(elsewhere.path().join("secret"), project.path("own/file")).unwrap();
    symlink("../linked", project.path("own/inside")).unwrap();
    // Whoever made this one is no service.
    symlink(elsewhere.path(), project.path("mine")).unwrap();
    let makes = |plan: &mut Plan, what: &str| {
        let unit = plan.services.get_mut(&name("api")).unwrap();
        let inputs = files(&project.root, &[what]);
        unit.makes = Some(ws_core::plan::Makes { inputs, outputs: None, recipe: String::new() });
    };
    let seen = |overview: &[ws_watch::UnitOverview]| overview[0].files;
    assert_eq!(seen(&ws_watch::overview(&plan)), 3, "own/file, own/inside/x, mine/secret");
    makes(&mut plan, "own/link");
    project.follow(plan.clone());
    std::fs::write(elsewhere.path().join("secret"), "2").unwrap();
    assert_eq!(project.next(), "api restart: mine/secret");
    project.write("linked/x", "1");
    assert_eq!(project.next(), "api restart: own/inside/x");

    // The same for what builds are made of.
    let digest = |project: &mut Project| {
        project.fingerprint("api", Moment::Before).unwrap();
        project.fingerprint("api", Moment::After).unwrap();
        project.fingerprint("api", Moment::Before).unwrap()
    };
    assert!(digest(&mut project).is_some());
    std::fs::write(elsewhere.path().join("secret"), "3").unwrap();
    assert!(project.fingerprint("api", Moment::Before).unwrap().is_some(), "it is not looked into");
    assert_eq!(project.next(), "api restart: mine/secret");
}

#[test]
fn who_makes_files_without_end_holds_up_himself() {
    let mut project = Project::new();
    project.write("own/a", "");
    project.write("src/a", "");
    let mut plan = plan(&project.root);
    watch(&mut plan, "noisy", vec![rule(sources(&project.root, &["own"], &[]), WatchAction::Restart)]);
    watch(&mut plan, "api", vec![rule(sources(&project.root, &["src"], &[]), WatchAction::Restart)]);
    writes(&mut plan, "noisy", &project.path("own"));
    plan.watching.debounce = std::time::Duration::from_millis(200);
    project.follow(plan);
    let own = project.path("own");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let names = (0_u64..).take_while(|_| !stop.load(std::sync::atomic::Ordering::Relaxed));
            for n in names {
                std::fs::write(own.join(format!("f{n}")), "").unwrap();
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        });
        std::thread::sleep(std::time::Duration::from_millis(100));
        let since = std::time::Instant::now();
        project.write("src/a", "1");
        let told = project.next();
        let took = since.elapsed();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(told.contains("api restart: src/a"), "{told}");
        // Without the difference it would be a minute.
        assert!(took < std::time::Duration::from_secs(20), "{took:?}");
    });
}

#[test]
fn records_that_are_none_are_no_records() {
    let mut project = Project::new();
    project.write("src/a", "");
    let mut plan = plan(&project.root);
    watch(&mut plan, "api", vec![rule(sources(&project.root, &["src"], &[]), WatchAction::Restart)]);
    let unit = plan.services.get_mut(&name("api")).unwrap();
    let inputs = ws_core::plan::FileSet {
        include: vec![pattern(&project.root, "src")],
        ignore: Vec::new(),
        sources_only: true,
    };
    unit.makes = Some(ws_core::plan::Makes { inputs, outputs: None, recipe: String::new() });
    project.follow(plan);
    let records = project.state.join("builds.json");
    for spoiled in
        ["", "{", "[]", "{\"version\":99,\"builds\":{}}", "{\"version\":1,\"builds\":{\"api\":{}}}", "\0\0\0"]
    {
        assert_eq!(project.fingerprint("api", Moment::Before), Ok(None));
        project.fingerprint("api", Moment::After).unwrap();
        assert!(project.fingerprint("api", Moment::Before).unwrap().is_some(), "it is fresh");
        std::fs::write(&records, spoiled).unwrap();
        std::fs::write(project.state.join("contents"), spoiled).unwrap();
        assert_eq!(project.fingerprint("api", Moment::Before), Ok(None), "{spoiled}");
    }
    // Nor is it waited for, or filled.
    std::fs::remove_file(&records).unwrap();
    project.sh(&format!("mkfifo {0} {0}.new", records.display()));
    assert_eq!(project.fingerprint("api", Moment::Before), Ok(None));
}
