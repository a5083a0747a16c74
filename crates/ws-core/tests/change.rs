//! What it takes to come from one plan to another.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::collection::{btree_map, btree_set};
use proptest::prelude::*;
use ws_core::change::{Change, UnitChange, between};
use ws_core::plan::{BindSource, Exclude, FileSet, Makes, Plan, ServicePlan, Use, WatchRule};
use ws_model::{
    Borrowed, ByteSize, CommandLine, Condition, ConfigPath, External, ExternalHost, HookCommand, Level,
    Listen, MilliCpus, PathPattern, PlanEffect, Probe, ProbeKind, Protocol, Publish, Reload, Requirement,
    RestartPolicy, SecretName, SecretSource, Service, ServiceKind, Subnet, WatchAction,
};

use crate::support::{ROOT, Svc, World, name, path, shared, svc, task, world};

/// `api: link to db:5432/tcp [live, widens]`, a line each.
fn lines(change: &Change) -> Vec<String> {
    change
        .lines
        .iter()
        .map(|line| {
            let service = line.service.as_ref().map(|service| format!("{service}: ")).unwrap_or_default();
            let effect = match line.effect {
                PlanEffect::Add => "add",
                PlanEffect::Remove => "remove",
                PlanEffect::Restart => "restart",
                PlanEffect::Live => "live",
                PlanEffect::Down => "down",
            };
            let widens = if line.widens { ", widens" } else { "" };
            format!("{service}{} [{effect}{widens}]", line.text)
        })
        .collect()
}

/// `api=Live db=Replace`
fn units(change: &Change) -> String {
    let units: Vec<String> = change.units.iter().map(|(unit, change)| format!("{unit}={change:?}")).collect();
    units.join(" ")
}

/// What one file becomes, in units and in words.
#[track_caller]
fn check(from: &World, to: &World, expected_units: &str, expected: &[&str]) {
    let change = between(&from.plan(), &to.plan());
    assert_eq!(
        (units(&change).as_str(), lines(&change)),
        (expected_units, expected.iter().map(ToString::to_string).collect())
    );
}

/// The same two services, the first of which is changed.
#[track_caller]
fn check_service(change: impl FnOnce(Svc) -> Svc, kind: UnitChange, expected: &[&str]) {
    let api = || svc("api").dir("services/api").memory(512).links("db:5432");
    let from = world([api(), svc("db")]);
    let to = world([change(api()), svc("db")]);
    let difference = between(&from.plan(), &to.plan());
    assert_eq!(units(&difference), format!("api={kind:?}"));
    assert_eq!(lines(&difference), expected.iter().map(|line| format!("api: {line}")).collect::<Vec<_>>());
}

fn probe(kind: ProbeKind) -> Probe {
    Probe {
        kind,
        start_interval: Duration::from_millis(200),
        interval: Duration::from_millis(500),
        timeout: Duration::from_secs(2),
        within: Duration::from_secs(60),
        failures: 3,
    }
}

fn pattern(text: &str) -> PathPattern {
    PathPattern { base: path(""), pattern: text.to_owned() }
}

fn files(text: &str) -> FileSet {
    FileSet { include: vec![pattern(text)], ignore: Vec::new(), sources_only: true }
}

fn elsewhere(host: &str) -> External {
    External { host: ExternalHost::Name(host.to_owned()), port: 443 }
}

// ---- a service in the file

#[test]
fn nothing_is_nothing() {
    let world = world([svc("api").links("db:5432").writable("data"), svc("db"), shared("web")]);
    let change = between(&world.plan(), &world.plan());
    assert!(change.is_nothing() && !change.widens() && !change.needs_down());
}

#[test]
fn what_is_read_at_each_use_changes_live() {
    use UnitChange::Live;
    check_service(|api| api.links("db:5432,5433"), Live, &["link to db:5433/tcp [live, widens]"]);
    check_service(
        |api| api.links("db:5433"),
        Live,
        &["link to db:5433/tcp [live, widens]", "no link any more to db:5432/tcp [live]"],
    );
    check_service(|api| api.links("db:5432!"), Live, &["waits for: db (started) becomes nothing [live]"]);
    check_service(|api| api.memory(1024), Live, &["limits.memory: 512M becomes 1G [live, widens]"]);
    check_service(|api| api.memory(256), Live, &["limits.memory: 512M becomes 256M [live]"]);
    check_service(
        |api| api.with(|s| s.limits.cpus = Some(MilliCpus(500))),
        Live,
        &["limits.cpus: no limit becomes 0.5 [live]"],
    );
    check_service(
        |api| api.with(|s| s.limits.pids = Some(100)),
        Live,
        &["limits.pids: 4096 becomes 100 [live]"],
    );
    check_service(
        |api| api.ports("8080:80"),
        Live,
        &["published port 127.0.0.1:8080 to 80/tcp [live, widens]"],
    );
    check_service(|api| api.tcp(80), Live, &["ready: none becomes when tcp :80 answers, within 60 s [live]"]);
    check_service(
        |api| api.liveness(ProbeKind::Tcp { port: 80 }),
        Live,
        &[
            "liveness: none becomes while tcp :80 answers, asked every 500 ms, until 3 failures in a row [live]",
        ],
    );
    check_service(
        |api| api.policy(RestartPolicy::Always),
        Live,
        &["restart: on failure, at most 3 in a row, after 200 ms to 30 s becomes \
           always, at most 3 in a row, after 200 ms to 30 s [live]"],
    );
    check_service(
        |api| api.stop_command("halt"),
        Live,
        &["stop: SIGTERM, killed after 10 s becomes `halt`, then SIGTERM, killed after 10 s [live]"],
    );
    check_service(|api| api.pre_stop("drain"), Live, &["pre_stop: nothing becomes `drain` [live]"]);
    check_service(
        |api| api.with(|s| s.hold = Duration::from_secs(20)),
        Live,
        &["hold: 10 s becomes 20 s [live]"],
    );
}

#[test]
fn another_run_is_a_new_start_in_the_same_place() {
    use UnitChange::Restart;
    check_service(|api| api.run("serve --fast"), Restart, &["command: serve becomes serve --fast [restart]"]);
    check_service(|api| api.env("TOKEN", "private"), Restart, &["environment.TOKEN: set [restart]"]);
    check_service(|api| api.with(|s| s.tty = true), Restart, &["terminal: its own [restart]"]);
    check_service(
        |api| api.with(|s| s.stdin = ws_model::Stdin::Closed),
        Restart,
        &["stdin: open becomes closed [restart]"],
    );
}

#[test]
fn the_most_that_is_needed_is_what_is_done() {
    check_service(
        |api| api.memory(64).run("serve --fast").ports("1:1"),
        UnitChange::Restart,
        &[
            "command: serve becomes serve --fast [restart]",
            "published port 127.0.0.1:1 to 1/tcp [live, widens]",
            "limits.memory: 512M becomes 64M [live]",
        ],
    );
}

#[test]
fn another_place_is_a_replacement() {
    use UnitChange::Replace;
    check_service(
        |api| api.with(|s| s.limits.files = Some(1024)),
        Replace,
        &["limits.files: that of the caller becomes 1024 [restart]"],
    );
    check_service(
        |api| api.with(|s| s.limits.tmp = Some(ByteSize::mib(512))),
        Replace,
        &["limits.tmp: 256M becomes 512M [restart, widens]"],
    );
    check_service(
        |api| api.with(|s| s.listen = vec![Listen { port: 80, name: "http".to_owned() }]),
        Replace,
        &["listen: nothing becomes 80 (http) [restart]"],
    );
    check_service(|api| api.tmpfs("/cache"), Replace, &["tmpfs at /cache (256M) [restart, widens]"]);
    check_service(|api| api.reads("/srv"), Replace, &["sees /srv read-only [restart, widens]"]);
}

#[test]
fn an_environment_has_names_and_no_values() {
    let with = |pairs: &[(&str, &str)]| {
        world([pairs.iter().fold(svc("api"), |api, (key, value)| api.env(key, value))])
    };
    check(
        &with(&[("GONE", "hush-1"), ("OTHER", "hush-2"), ("SAME", "hush-3")]),
        &with(&[("NEW", "hush-4"), ("OTHER", "hush-5"), ("SAME", "hush-3")]),
        "api=Restart",
        &[
            "api: environment.GONE: no longer set [restart]",
            "api: environment.NEW: set [restart]",
            "api: environment.OTHER: another value [restart]",
        ],
    );
}

#[test]
fn a_variable_that_the_file_sets_is_no_limit() {
    let with = |mib: u64, value: &str| world([svc("api").memory(mib).env("WS_MEMORY_BYTES", value)]);
    check(
        &with(512, "1"),
        &with(512, "2"),
        "api=Restart",
        &["api: environment.WS_MEMORY_BYTES: another value [restart]"],
    );
}

// ---- who comes and goes

#[test]
fn a_service_comes_with_its_rights_and_goes() {
    let without = world([svc("db")]);
    let mut with = world([
        svc("db"),
        svc("api")
            .dir("services/api")
            .links("db:5432")
            .ports("8080:80")
            .secrets("key token=TOKEN")
            .volumes("cache:/c"),
    ]);
    with.volume("cache");
    with.secret("key", "secrets/key");
    with.secret("token", "secrets/token");
    let mut without = World { facts: with.facts.clone(), ..without };
    without.workspace.policy_inputs.clone_from(&with.workspace.policy_inputs);
    without.workspace.hidden.clone_from(&with.workspace.hidden);
    without.workspace.secrets.clone_from(&with.workspace.secrets);
    check(
        &without,
        &with,
        "api=Add db=Replace",
        &[
            "api: added [add]",
            "api: link to db:5432/tcp [add, widens]",
            "api: sees ./services/api read-write [add, widens]",
            "api: sees the volume cache read-write [add, widens]",
            "api: secret key in /run/secrets/key [add, widens]",
            "api: secret token as $TOKEN [add, widens]",
            "api: published port 127.0.0.1:8080 to 80/tcp [add, widens]",
            "db: no longer sees ./services/api, because it is written by api [restart]",
        ],
    );
    check(
        &with,
        &without,
        "api=Remove db=Replace",
        &[
            "api: removed [remove]",
            "db: sees ./services/api read-only, because it is not written any more by api [restart, widens]",
        ],
    );
}

#[test]
fn a_service_without_rights_of_its_own_widens_nothing_and_touches_nobody() {
    let db = || svc("db").reads("/srv");
    check(
        &world([db()]),
        &world([db(), svc("web"), task("seed")]),
        "db=Live seed=Add web=Add",
        &["seed: added (task) [add]", "web: added [add]"],
    );
}

#[test]
fn replicas_come_and_go_as_one_service() {
    let with = |count: u32| {
        world([
            svc("api").links("db:5432").with(|s| s.replicas = count),
            svc("web").links("api:80!"),
            svc("db"),
        ])
    };
    check(
        &with(2),
        &with(3),
        "api-1=Live api-2=Live api-3=Add db=Live web=Live",
        &["api: replicas: 2 becomes 3 [add]"],
    );
    check(
        &with(3),
        &with(2),
        "api-1=Live api-2=Live api-3=Remove db=Live web=Live",
        &["api: replicas: 3 becomes 2 [remove]"],
    );
    check(
        &with(1),
        &with(2),
        "api=Remove api-1=Add api-2=Add db=Live web=Live",
        &["api: replicas: 1 becomes 2 [restart]"],
    );
}

#[test]
fn what_all_replicas_say_is_said_once() {
    let with = |command: &str| world([svc("api").run(command).with(|s| s.replicas = 3)]);
    check(
        &with("serve"),
        &with("work"),
        "api-1=Restart api-2=Restart api-3=Restart",
        &["api: command: serve becomes work [restart]"],
    );
}

#[test]
fn a_right_that_comes_with_other_replicas_is_seen() {
    let from = world([svc("api"), svc("db")]);
    let to = world([svc("api").links("db:5432!").with(|s| s.replicas = 2), svc("db")]);
    check(
        &from,
        &to,
        "api=Remove api-1=Add api-2=Add db=Live",
        &["api: replicas: 1 becomes 2 [restart]", "api: link to db:5432/tcp [live, widens]"],
    );
}

#[test]
fn a_name_that_means_something_else_is_one_place() {
    let replicas = world([svc("api").with(|s| s.replicas = 2)]);
    let service = world([svc("api-1")]);
    for (from, to) in [(&replicas, &service), (&service, &replicas)] {
        let change = between(&from.plan(), &to.plan());
        assert_eq!(change.units[&name("api-1")], UnitChange::Replace, "{change:#?}");
    }
}

#[test]
fn a_renamed_service_goes_and_comes() {
    check(
        &world([svc("api").links("db:1!"), svc("db")]),
        &world([svc("api").links("store:1!"), svc("store")]),
        "api=Live db=Remove store=Add",
        &[
            "api: link to store:1/tcp [live, widens]",
            "api: no link any more to db:1/tcp [live]",
            "db: removed [remove]",
            "store: added [add]",
        ],
    );
}

// ---- files

#[test]
fn what_another_one_writes_is_not_seen_any_more() {
    check(
        &world([svc("api"), svc("db").reads("data")]),
        &world([svc("api"), svc("db").writable("data")]),
        "api=Replace db=Replace",
        &[
            "api: no longer sees ./data, because it is written by db [restart]",
            "db: sees ./data read-write [restart, widens]",
        ],
    );
}

#[test]
fn a_secret_that_is_one_no_more_is_seen() {
    let mut with = world([svc("api")]);
    with.secret("key", "secrets.txt");
    let mut without = with.clone();
    without.workspace.hidden.retain(|hidden| *hidden != path("secrets.txt"));
    without.workspace.policy_inputs.retain(|input| *input != path("secrets.txt"));
    without.workspace.secrets.clear();
    check(&with, &without, "api=Replace", &["api: sees ./secrets.txt read-only [restart, widens]"]);
    check(&without, &with, "api=Replace", &["api: no longer sees ./secrets.txt [restart]"]);
}

#[test]
fn the_same_files_in_another_place_are_no_right() {
    check(
        &world([svc("api").volumes("./conf:/etc/app:ro")]),
        &world([svc("api").volumes("./conf:/etc/web:ro")]),
        "api=Replace",
        &[
            "api: mounts ./conf at /etc/web read-only [restart]",
            "api: mounts ./conf at /etc/app read-only no longer [restart]",
        ],
    );
    // What lies in the project is seen anyway.
    let change =
        between(&world([svc("api")]).plan(), &world([svc("api").volumes("./conf:/etc/app:ro")]).plan());
    assert!(!change.widens() && change.units[&name("api")] == UnitChange::Replace, "{change:#?}");
}

#[test]
fn what_is_covered_by_a_mount_and_comes_out_is_a_right() {
    let from = world([svc("api").reads("/srv").tmpfs("/srv/private")]);
    let to = world([svc("api").reads("/srv")]);
    check(
        &from,
        &to,
        "api=Replace",
        &[
            "api: sees /srv/private read-only [restart, widens]",
            "api: tmpfs at /srv/private: no longer [restart]",
        ],
    );
    // The same under another name.
    let from = world([svc("api").volumes("/srv:/mnt:ro").tmpfs("/mnt/private")]);
    let to = world([svc("api").volumes("/srv:/mnt:ro")]);
    check(
        &from,
        &to,
        "api=Replace",
        &[
            "api: sees /srv/private read-only [restart, widens]",
            "api: tmpfs at /mnt/private: no longer [restart]",
        ],
    );
}

#[test]
fn volumes_are_rights_by_their_names() {
    let with = |text: &str| {
        let mut world = world([svc("api").volumes(text)]);
        world.volume("cache");
        world.volume("more");
        world
    };
    check(
        &with("cache:/a:ro more:/b"),
        &with("cache:/a"),
        "api=Replace",
        &[
            "api: sees the volume cache read-write [restart, widens]",
            "api: no longer sees the volume more [restart]",
        ],
    );
}

// ---- the workspace

#[test]
fn what_a_workspace_is_cannot_change_while_it_runs() {
    let from = world([svc("api")]);
    let mut to = from.clone();
    to.workspace.name = ws_model::WorkspaceName::new("shop2").unwrap();
    to.workspace.subnet = Subnet::new(Ipv4Addr::new(10, 9, 0, 0), 24).unwrap();
    let change = between(&from.plan(), &to.plan());
    assert!(change.needs_down());
    assert_eq!(
        lines(&change)[..2],
        ["name: shop becomes shop2 [down]", "network: 10.77.0.0/16 becomes 10.9.0.0/24 [down]"]
    );
    let mut moved = from.plan();
    moved.root = PathBuf::from("/elsewhere");
    assert_eq!(lines(&between(&from.plan(), &moved)), ["project: /home/me/shop becomes /elsewhere [down]"]);
}

#[test]
fn a_lower_level_widens() {
    let with = |level: Level| {
        let mut world = world([svc("api")]);
        world.workspace.enforcement = Some(level);
        world
    };
    check(&with(Level::Full), &with(Level::Limited), "", &["level: full becomes limited [live, widens]"]);
    check(&with(Level::Limited), &with(Level::Full), "", &["level: limited becomes full [live]"]);
}

#[test]
fn what_runs_elsewhere_is_a_right_of_those_who_reach_it() {
    let with = |host: Option<&str>| {
        let mut world = world([svc("api").with(|s| {
            s.links = host
                .iter()
                .map(|_| ws_model::Link {
                    to: name("orders"),
                    ports: ws_model::LinkPorts::Declared,
                    wait: false,
                })
                .collect();
        })]);
        world.workspace.external.extend(host.map(|host| (name("orders"), elsewhere(host))));
        world
    };
    check(
        &with(None),
        &with(Some("a.example")),
        "api=Live",
        &[
            "external orders: a.example:443 [live, widens]",
            "api: link to orders:443/tcp (is a.example:443) [live, widens]",
        ],
    );
    check(
        &with(Some("a.example")),
        &with(Some("b.example")),
        "",
        &["external orders: a.example:443 becomes b.example:443 [live, widens]"],
    );
    let change = between(&with(Some("a.example")).plan(), &with(None).plan());
    assert!(change.external && !change.widens(), "{change:#?}");
}

#[test]
fn the_rest_of_a_workspace_changes_live() {
    let from = world([svc("api")]);
    let mut to = from.clone();
    to.workspace.requires = vec![Requirement { program: "node".to_owned(), version: ">=20".to_owned() }];
    to.workspace.parallel_builds = Some(2);
    to.workspace.watching.debounce = Duration::from_millis(100);
    to.workspace.watching.ignore = vec![pattern("out")];
    to.workspace.watching.gitignore = false;
    to.workspace.watching.poll = ws_model::Poll::Every(Duration::from_secs(1));
    check(
        &from,
        &to,
        "",
        &[
            "requires: nothing becomes node >=20 [live]",
            "parallel_builds: 4 becomes 2 [live]",
            "watch.debounce: 50 ms becomes 100 ms [live]",
            "watch.ignore: nothing becomes out [live]",
            "watch.gitignore: true becomes false [live]",
            "watch.poll: auto becomes every 1 s [live]",
        ],
    );
}

// ---- builds

#[test]
fn a_build_of_other_files_is_looked_at_again() {
    let with = |inputs: &[&str]| {
        let mut world = world([shared("api"), shared("web")]);
        let all = world.workspace.builds.get_mut(&name("all")).unwrap();
        all.inputs = inputs.iter().map(|text| pattern(text)).collect();
        world
    };
    check(
        &with(&["src"]),
        &with(&["src", "Cargo.lock"]),
        "all-build=Restart",
        &["all-build: inputs: src becomes src, Cargo.lock [restart]"],
    );
}

#[test]
fn a_build_comes_and_goes_with_who_uses_it() {
    check(
        &world([svc("api")]),
        &world([shared("api")]),
        "all-build=Add api=Live",
        &[
            "all-build: added (build) [add]",
            "api: waits for: nothing becomes all-build (completed) [live]",
            "api: uses: nothing becomes all-build [live]",
        ],
    );
}

/// Each edit of the file that gives something, by itself and as far as a person can see it: none passes without being
/// called a right, and the way back is none.
#[test]
fn whatever_gives_something_is_a_right() {
    type Case = (&'static str, fn(&mut World));
    fn api(world: &mut World) -> &mut Service {
        world.workspace.services.get_mut(&name("api")).unwrap()
    }
    fn tell(world: &mut World, at: ConfigPath, what: Borrowed) {
        world.workspace.borrowed.entry(at).or_default().insert(what);
    }
    let cases: &[Case] = &[
        ("secret key: ./secrets/key becomes ./secrets/other [live, widens]", |world| {
            world.secret("key", "secrets/other");
        }),
        ("secret key: ./secrets/key becomes $KEY [live, widens]", |world| {
            let key = SecretName::new("key").unwrap();
            world.workspace.secrets.insert(key, SecretSource::Environment("KEY".to_owned()));
        }),
        ("api: is told ${AWS_KEY} [live, widens]", |world| {
            tell(world, ConfigPath::service("api"), Borrowed::Variable("AWS_KEY".to_owned()));
        }),
        ("api: is told ./prod.env [live, widens]", |world| {
            tell(world, ConfigPath::service("api"), Borrowed::EnvFile(path("prod.env")));
        }),
        ("api: its build is told ${AWS_KEY} [live, widens]", |world| {
            let at = ConfigPath::service("api").key("build");
            tell(world, at, Borrowed::Variable("AWS_KEY".to_owned()));
        }),
        ("builds.all is told /home/me/x.env [live, widens]", |world| {
            let at = ConfigPath::root().key("builds").key("all");
            tell(world, at, Borrowed::EnvFile(PathBuf::from("/home/me/x.env")));
        }),
        ("api: limits.memory: 512M becomes 600M [live, widens]", |world| {
            api(world).limits.memory = Some(ByteSize::mib(600));
        }),
        ("api: limits.pids: 4096 becomes 4097 [live, widens]", |world| {
            api(world).limits.pids = Some(4097);
        }),
    ];
    let before = || {
        let mut world = world([svc("api").memory(512).secrets("key"), svc("db")]);
        world.secret("key", "secrets/key");
        world.secret("unused", "secrets/unused");
        let db = ConfigPath::service("db");
        world.workspace.borrowed.insert(db, BTreeSet::from([Borrowed::Variable("AWS_KEY".to_owned())]));
        world
    };
    for (line, edit) in cases {
        let mut after = before();
        edit(&mut after);
        // Where a secret comes from is hidden from everybody, which is no right of its own.
        after.workspace.hidden.clone_from(&before().workspace.hidden);
        after.workspace.policy_inputs.clone_from(&before().workspace.policy_inputs);
        let change = between(&before().plan(), &after.plan());
        assert_eq!(lines(&change), [*line]);
        let back = between(&after.plan(), &before().plan());
        let both = line.starts_with("secret");
        assert_eq!(back.widens(), both, "{line}: {:?}", lines(&back));
    }
    // What nobody gets is no right.
    let mut after = before();
    after.secret("unused", "secrets/key");
    assert!(!between(&before().plan(), &after.plan()).widens());
}

// ---- every field of a unit

/// Each field of a unit by itself, as no file may make it alone: what it takes, and what is said.
#[test]
fn no_field_is_forgotten() {
    use UnitChange::{Live, Replace, Restart};
    type Case = (UnitChange, &'static str, fn(&mut ServicePlan));
    let cases: &[Case] = &[
        (Replace, "type: service becomes task [restart]", |s| s.kind = ServiceKind::Task),
        (Replace, "replica: 1 becomes 2 [restart]", |s| s.replica = 2),
        (Replace, "address: 10.77.154.32 becomes 10.77.9.9 [restart]", |s| {
            s.address = Ipv4Addr::new(10, 77, 9, 9);
        }),
        (Live, "", |s| s.links[0].at = ConfigPath::root()),
        (Live, "", |s| s.links[0].address = Ipv4Addr::new(10, 77, 9, 9)),
        (Live, "waits for: db (started) becomes db (ready) [live]", |s| {
            s.waits[0].condition = Condition::Ready;
        }),
        (Live, "inputs: not declared becomes src [live]", |s| {
            s.makes = Some(Makes { inputs: files("src"), outputs: None, recipe: String::new() });
        }),
        (Live, "uses: nothing becomes x-build [live]", |s| {
            s.uses = vec![Use { build: name("x-build"), files: None }];
        }),
        (Live, "watch: nothing becomes src (restart) [live]", |s| {
            s.watch =
                vec![WatchRule { files: files("src"), action: WatchAction::Restart, at: ConfigPath::root() }];
        }),
        (Live, "reload: restart becomes overlap [live]", |s| s.reload = Reload::Overlap),
        (Replace, "listen: nothing becomes 80 [restart]", |s| {
            s.listen = vec![Listen { port: 80, name: "80".to_owned() }];
        }),
        (Live, "hold: 10 s becomes 1 s [live]", |s| s.hold = Duration::from_secs(1)),
        (Restart, "command: serve becomes work [restart]", |s| s.run.argv = vec!["work".to_owned()]),
        (Restart, "working_dir: . becomes ./x [restart]", |s| s.run.cwd = path("x")),
        (Restart, "environment.HOME: another value [restart]", |s| s.run.env[0].1 = "/x".to_owned()),
        (Replace, "user: me (501:20), home /home/me becomes me (1:20), home /home/me [restart]", |s| {
            s.view.uid = 1;
        }),
        (Replace, "user: me (501:20), home /home/me becomes me (501:1), home /home/me [restart]", |s| {
            s.view.gid = 1;
        }),
        (Replace, "user: me (501:20), home /home/me becomes you (501:20), home /home/me [restart]", |s| {
            s.view.user = "you".to_owned();
        }),
        (Replace, "user: me (501:20), home /home/me becomes me (501:20), home /x [restart]", |s| {
            s.view.home = PathBuf::from("/x");
        }),
        (Replace, "what it sees of the system is another [restart]", |s| s.view.symlinks.clear()),
        (Replace, "what it sees of the system is another [restart]", |s| s.view.system.clear()),
        (Live, "", |s| {
            for (_, text) in s.view.files.iter_mut().filter(|(path, _)| path == Path::new("/etc/hosts")) {
                *text = "".into();
            }
        }),
        (Replace, "its files are laid out anew [restart]", |s| {
            for (_, text) in s.view.files.iter_mut().filter(|(path, _)| path == Path::new("/etc/passwd")) {
                *text = "".into();
            }
        }),
        (Replace, "its files are laid out anew [restart]", |s| s.view.scratch.clear()),
        (Replace, "limits.tmp: 256M becomes 1M [restart]", |s| s.view.scratch_size = ByteSize::mib(1)),
        (Replace, "no longer sees ./x [restart]", |s| {
            s.view.repo.as_mut().unwrap().exclude.push(Exclude::Name("x".to_owned()));
        }),
        (Replace, "no longer sees ./x.* [restart]", |s| {
            s.view.repo.as_mut().unwrap().exclude.push(Exclude::Prefix("x.".to_owned()));
        }),
        (Replace, "no longer sees . [restart]", |s| s.view.repo = None),
        (Replace, "sees ./data read-only [restart]", |s| s.view.binds[0].writable = false),
        (Replace, "its files are laid out anew [restart]", |s| s.view.binds[0].create = true),
        (Replace, "its files are laid out anew [restart]", |s| s.view.binds[0].owner_mapped = false),
        (Replace, "its files are laid out anew [restart]", |s| s.view.binds[0].directory = false),
        (Replace, "tmpfs at /c (1M) [restart, widens]", |s| {
            s.view.tmpfs.push((PathBuf::from("/c"), ByteSize::mib(1)));
        }),
        (Replace, "secret key in /run/secrets/key [restart, widens]", |s| {
            let key = SecretName::new("key").unwrap();
            s.view.secret_files.push((key, PathBuf::from("/run/secrets/key")));
        }),
        (Replace, "secret key as $KEY [restart, widens]", |s| {
            s.view.secret_env.push((SecretName::new("key").unwrap(), "KEY".to_owned()));
        }),
        (Live, "no link any more to db:5432/tcp [live]", |s| s.links.clear()),
        (Live, "published port 0.0.0.0:80 to 80/udp [live, widens]", |s| {
            let host = Ipv4Addr::UNSPECIFIED.into();
            s.publish = vec![Publish { host, host_port: Some(80), port: 80, protocol: Protocol::Udp }];
        }),
        (Live, "startup: none becomes when tcp :1 answers, within 60 s [live]", |s| {
            s.startup = Some(probe(ProbeKind::Tcp { port: 1 }));
        }),
        (Live, "ready: other details [live]", |s| s.ready.as_mut().unwrap().timeout = Duration::from_secs(9)),
        (Live, "liveness: none becomes while it says so every 500 ms (sd_notify, WATCHDOG=1) [live]", |s| {
            s.liveness = Some(probe(ProbeKind::Notify));
        }),
        (Live, "pre_start: nothing becomes `x` [live]", |s| {
            let command = CommandLine(vec!["x".to_owned()]);
            s.hooks.pre_start = vec![HookCommand { command, timeout: Duration::ZERO }];
        }),
        (Live, "post_start: nothing becomes `x` [live]", |s| {
            let command = CommandLine(vec!["x".to_owned()]);
            s.hooks.post_start = vec![HookCommand { command, timeout: Duration::ZERO }];
        }),
        (Live, "success_exit_codes: 0 becomes 0, 3 [live]", |s| s.success_exit_codes = vec![0, 3]),
        (Restart, "stdin: open becomes closed [restart]", |s| s.open_stdin = false),
        (Restart, "terminal: its own [restart]", |s| s.tty = true),
        (Live, "logs: the defaults becomes 2 full ones are kept [live]", |s| s.logs.max_files = Some(2)),
        (Live, "restart: on failure, at most 3 in a row, after 200 ms to 30 s becomes no [live]", |s| {
            s.restart.policy = RestartPolicy::No;
        }),
        (Live, "stop: SIGTERM, killed after 10 s becomes SIGINT, killed after 10 s [live]", |s| {
            s.stop.signal = 2;
        }),
        (Live, "limits.memory: no limit becomes 1M [live]", |s| s.limits.memory = Some(ByteSize::mib(1))),
        (Live, "limits.cpus: no limit becomes 2 [live]", |s| s.limits.cpus = Some(MilliCpus(2000))),
        (Live, "limits.pids: 4096 becomes 5000 [live, widens]", |s| s.limits.pids = 5000),
        (Live, "", |s| s.limits.pids_declared = true),
        (Replace, "limits.files: that of the caller becomes 9 [restart]", |s| s.limits.files = Some(9)),
    ];
    let before = world([svc("api").links("db:5432").writable("data").tcp(80), svc("db")]).plan();
    for (change, line, edit) in cases {
        let mut after = before.clone();
        edit(after.services.get_mut(&name("api")).unwrap());
        let found = between(&before, &after);
        let expected: Vec<String> = if line.is_empty() { Vec::new() } else { vec![format!("api: {line}")] };
        assert_eq!(lines(&found), expected);
        assert_eq!(units(&found), format!("api={change:?}"), "{line}");
        // And the other way round it is the same work, and no right twice.
        let back = between(&after, &before);
        assert_eq!(units(&back), format!("api={change:?}"), "{line}");
        assert!(!(found.widens() && back.widens()), "{line}: {back:#?}");
    }
}

// ---- any two files

/// A service of any file: links to others, directories, ports, limits, replicas, a build.
#[derive(Debug, Clone)]
struct Described {
    links: BTreeSet<String>,
    writable: BTreeSet<&'static str>,
    reads: BTreeSet<&'static str>,
    ports: BTreeSet<String>,
    memory: Option<u64>,
    replicas: u32,
    command: &'static str,
    shared_build: bool,
    is_task: bool,
}

/// Directories that lie in each other, in the project and elsewhere.
const DIRECTORIES: [&str; 6] = ["data", "data/deep", "conf", "/srv", "/srv/deep", "/srv/deep/er"];

fn any_service() -> impl Strategy<Value = Described> {
    let rights = (
        btree_set("[a-d]:[1-2]!", 0..3),
        btree_set(prop::sample::select(&DIRECTORIES[..]), 0..2),
        btree_set(prop::sample::select(&DIRECTORIES[..]), 0..3),
        btree_set("0:8[0-1]", 0..2),
        prop::option::of(1..4_u64),
    );
    let rest = (1..3_u32, prop::sample::select(&["serve", "work"][..]), any::<bool>(), any::<bool>());
    (rights, rest).prop_map(|((links, writable, reads, ports, memory), rest)| {
        let (replicas, command, shared_build, is_task) = rest;
        Described { links, writable, reads, ports, memory, replicas, command, shared_build, is_task }
    })
}

fn any_file() -> impl Strategy<Value = BTreeMap<String, Described>> {
    btree_map("[a-d]", any_service(), 1..4)
}

/// What one edit does to a service: one field becomes another, it comes as described, or goes.
fn any_edits() -> impl Strategy<Value = BTreeMap<String, (Described, u8)>> {
    btree_map("[a-d]", (any_service(), 0..11_u8), 0..3)
}

fn edited(
    file: &BTreeMap<String, Described>,
    edits: BTreeMap<String, (Described, u8)>,
) -> BTreeMap<String, Described> {
    let mut file = file.clone();
    for (text, (new, field)) in edits {
        let one = file.entry(text.clone()).or_insert_with(|| new.clone());
        match field {
            0 => one.links = new.links,
            1 => one.writable = new.writable,
            2 => one.reads = new.reads,
            3 => one.ports = new.ports,
            4 => one.memory = new.memory,
            5 => one.replicas = new.replicas,
            6 => one.command = new.command,
            7 => one.shared_build = new.shared_build,
            8 => one.is_task = new.is_task,
            9 => *one = new,
            _ => drop(file.remove(&text)),
        }
    }
    file
}

/// A file, where it has a plan: links to who is not there are left out first.
fn plan_of(file: &BTreeMap<String, Described>, running: Option<&Plan>) -> Option<Plan> {
    let services = file.iter().map(|(text, it)| {
        let is_there =
            |link: &&String| **link != *text && file.contains_key(&link[..1]) && link[..1] != text[..];
        let words = |texts: &BTreeSet<&str>| texts.iter().copied().collect::<Vec<_>>().join(" ");
        let links: Vec<&str> = it.links.iter().filter(is_there).map(String::as_str).collect();
        let ports: Vec<&str> = it.ports.iter().map(String::as_str).collect();
        let made = if it.is_task { task(text) } else { svc(text) };
        let made = if it.shared_build { shared(text).with(|s| s.kind = made.service.kind) } else { made };
        let made = made.links(&links.join(" ")).writable(&words(&it.writable)).reads(&words(&it.reads));
        let made = made.ports(&ports.join(" ")).run(it.command);
        let made = it.memory.iter().fold(made, |made, mib| made.memory(*mib));
        made.with(|s| s.replicas = it.replicas)
    });
    let mut world = world(services);
    // The same machine for all.
    DIRECTORIES.iter().for_each(|directory| world.directory(directory));
    world.workspace.enforcement = Some(Level::Limited);
    if let Some(running) = running {
        world.options.previous = running.addresses().map(|(name, address)| (name.clone(), address)).collect();
    }
    world.resolve().ok()
}

/// What a service may do, the long way: `(service, right, how much of it)`. For files every path is asked for that the
/// tests have, and one below and one above each.
fn rights(plan: &Plan) -> BTreeMap<(String, String), u64> {
    let mut rights = BTreeMap::new();
    for unit in plan.services.values() {
        let service = unit.declared.to_string();
        let mut grant = |right: String, much: u64| {
            rights.insert((service.clone(), right), much);
        };
        for link in &unit.links {
            grant(format!("{} {}", plan.services[&link.to].declared, link.port), 1);
        }
        for port in &unit.publish {
            grant(format!("{port:?}"), 1);
        }
        grant("memory".to_owned(), unit.limits.memory.map_or(u64::MAX, |memory| memory.0));
        let ways = DIRECTORIES.iter().flat_map(|text| [path(text), path(text).join("below")]);
        for file in ways.chain([path(""), path("README")]) {
            // Parents stand before children: the last one that covers it is what is seen.
            let mount = unit.view.binds.iter().rfind(|bind| file.starts_with(&bind.target));
            let much = match mount {
                Some(bind) if bind.source == BindSource::Hidden => 0,
                Some(bind) => 1 + u64::from(bind.writable),
                None => match (file.strip_prefix(ROOT), &unit.view.repo) {
                    (Ok(rest), Some(repo)) => {
                        let first = rest.components().next().map(|first| first.as_os_str().to_str().unwrap());
                        u64::from(first.is_none_or(|first| repo.shows(first)))
                    }
                    (_, _) => 0,
                },
            };
            if much > 0 {
                grant(file.display().to_string(), much);
            }
        }
    }
    rights
}

/// The services that may do more than before; one that was not there had no limit, and the project as anybody has it:
/// without what others write.
fn who_may_more(running: &Plan, wanted: &Plan) -> BTreeSet<String> {
    let (before, after) = (rights(running), rights(wanted));
    let was_there =
        |service: &String| running.services.values().any(|unit| unit.declared.as_str() == service);
    let others_write = |service: &String, file: &String| {
        if service.ends_with("-build") {
            return false;
        }
        let others = wanted.services.values().filter(|unit| unit.declared.as_str() != service);
        let mut binds =
            others.filter(|unit| unit.kind != ServiceKind::Build).flat_map(|unit| &unit.view.binds);
        binds.any(|bind| bind.writable && Path::new(file).starts_with(&bind.target))
    };
    let by_default = |service: &String, right: &String| match right.as_str() {
        "memory" => u64::MAX,
        file => u64::from(file.starts_with(ROOT) && !others_write(service, right)),
    };
    let more = after.into_iter().filter(|((service, right), much)| {
        let had = before.get(&(service.clone(), right.clone())).copied().unwrap_or(0);
        *much > if was_there(service) { had } else { by_default(service, right) }
    });
    more.map(|((service, _), _)| service).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn any_two_files(from in any_file(), edits in any_edits()) {
        let to = edited(&from, edits);
        let running = plan_of(&from, None);
        prop_assume!(running.is_some());
        let running = running.unwrap();
        let wanted = plan_of(&to, Some(&running));
        prop_assume!(wanted.is_some());
        let wanted = wanted.unwrap();
        prop_assert!(between(&running, &running).is_nothing());
        prop_assert!(between(&wanted, &wanted).is_nothing());
        let change = between(&running, &wanted);
        prop_assert!(!change.needs_down());

        // Whatever is not named is the same; whatever is named is what must be done to come there.
        let mut services = running.services.clone();
        for (unit, what) in &change.units {
            match what {
                UnitChange::Remove => prop_assert!(services.remove(unit).is_some()),
                UnitChange::Add => prop_assert!(services.insert(unit.clone(), wanted.services[unit].clone()).is_none()),
                UnitChange::Live | UnitChange::Restart | UnitChange::Replace => {
                    prop_assert!(services.insert(unit.clone(), wanted.services[unit].clone()).is_some());
                }
            }
        }
        prop_assert_eq!(&services, &wanted.services);

        // A run goes on only if it is the same from birth, and a place stays only if it is the same.
        for (unit, what) in &change.units {
            let (Some(old), Some(new)) = (running.services.get(unit), wanted.services.get(unit)) else { continue };
            if *what == UnitChange::Live {
                let own = |unit: &ServicePlan| {
                    let env = unit.run.env.iter().filter(|(key, _)| key != "WS_MEMORY_BYTES");
                    (unit.run.argv.clone(), env.cloned().collect::<Vec<_>>(), unit.run.cwd.clone(), unit.tty, unit.kind)
                };
                prop_assert_eq!(own(old), own(new));
            }
            if *what <= UnitChange::Restart {
                prop_assert_eq!(&old.view.binds, &new.view.binds);
                prop_assert_eq!(&old.view.repo, &new.view.repo);
                prop_assert_eq!((old.address, old.index), (new.address, new.index));
            }
            // And whoever is disturbed is told why.
            if *what > UnitChange::Live {
                let told = change.lines.iter().any(|line| {
                    line.effect == PlanEffect::Restart
                        && line.service.as_ref().is_some_and(|name| [unit, &new.declared].contains(&name))
                });
                prop_assert!(told, "{} is not told of:\n{:#?}", unit, lines(&change));
            }
        }

        // Rights, against those that are found the long way.
        let told: BTreeSet<String> =
            change.lines.iter().filter(|line| line.widens).flat_map(|line| &line.service).map(ToString::to_string).collect();
        prop_assert_eq!(told, who_may_more(&running, &wanted), "{:#?}", lines(&change));

        // No line is a right both ways.
        let back = between(&wanted, &running);
        for line in change.lines.iter().filter(|line| line.widens && line.effect != PlanEffect::Add) {
            prop_assert!(!back.lines.contains(line), "{line:?} is a right both ways");
        }
        // And nobody is told twice.
        let mut seen = BTreeSet::new();
        prop_assert!(lines(&change).into_iter().all(|line| seen.insert(line)));
    }
}
