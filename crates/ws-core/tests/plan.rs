//! What a plan decides.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use layout::gv::{DotParser, GraphBuilder};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use ws_core::graph;
use ws_core::host::Standing;
use ws_core::plan::{
    self, BindSource, DEFAULT_PIDS, DEFAULT_TMP, ExternalPlan, OneOff, PathKind, Plan, Reach, ServicePlan,
    check_standing, closure, describe, directories_of_interest, lint, paths_of_interest, resolve, to_json,
};
use ws_model::{
    BuildRef, ByteSize, CommandLine, Condition, External, ExternalHost, HookCommand, Hooks, Level, Limits,
    Link, LinkPorts, Listen, LogRetention, MilliCpus, PathPattern, PortProto, Probe, ProbeKind, Problem,
    Protocol, Requirement, RestartPolicy, SecretName, SecretSource, ServiceKind, ServiceName, Severity,
    Subnet, VolumeName, WatchAction,
};

use crate::support::{ROOT, Svc, World, name, path, shared, svc, task, text_of, world};

/// The one error of a workspace that has no other.
#[track_caller]
fn only_error(world: &World) -> Problem {
    let mut errors: Vec<Problem> =
        world.problems().into_iter().filter(|problem| problem.severity == Severity::Error).collect();
    assert_eq!(errors.len(), 1, "{}", text_of(&errors));
    errors.remove(0)
}

/// The one warning of a workspace that can be planned.
#[track_caller]
fn only_warning(world: &World) -> Problem {
    let warnings = world.plan().warnings;
    assert_eq!(warnings.len(), 1, "{}", text_of(&warnings));
    warnings.into_iter().next().unwrap()
}

/// Mounts after the project as `writable services/api`, `hidden …`, `reads …`, in order.
fn mounts(plan: &Plan, service: &str) -> Vec<String> {
    let root = Path::new(ROOT);
    let short = |path: &Path| path.strip_prefix(root).unwrap_or(path).display().to_string();
    plan.services[service]
        .view
        .binds
        .iter()
        .map(|bind| {
            let mode = if bind.writable { "writes" } else { "reads" };
            match &bind.source {
                BindSource::Hidden => format!("hides {}", short(&bind.target)),
                BindSource::Host(source) if *source == bind.target => format!("{mode} {}", short(source)),
                BindSource::Host(source) => format!("{mode} {} at {}", short(source), short(&bind.target)),
                BindSource::Volume(volume) => format!("{mode} volume {volume} at {}", short(&bind.target)),
            }
        })
        .collect()
}

fn waits(service: &ServicePlan) -> Vec<String> {
    service
        .waits
        .iter()
        .map(|wait| {
            format!("{}:{}{}", wait.on, wait.condition.as_str(), if wait.required { "" } else { "?" })
        })
        .collect()
}

fn links(service: &ServicePlan) -> Vec<String> {
    service.links.iter().map(|link| format!("{}:{}", link.to, link.port)).collect()
}

fn env<'p>(plan: &'p Plan, service: &str, key: &str) -> Option<&'p str> {
    plan.services[service].run.env.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
}

fn file<'p>(plan: &'p Plan, service: &str, wanted: &str) -> &'p str {
    let files = &plan.services[service].view.files;
    &files.iter().find(|(path, _)| path == Path::new(wanted)).unwrap().1
}

// ---- order

#[test]
fn a_link_orders_the_start_until_ready_or_started() {
    let plan = world([svc("api").links("db:5432 cache:6379"), svc("db").tcp(5432), svc("cache")]).plan();
    assert_eq!(waits(&plan.services["api"]), ["cache:started", "db:ready"]);
    let waves: Vec<Vec<&str>> =
        plan.waves.iter().map(|wave| wave.iter().map(AsRef::as_ref).collect()).collect();
    assert_eq!(waves, [vec!["cache", "db"], vec!["api"]]);
}

#[test]
fn a_link_that_does_not_wait_orders_nothing() {
    let plan = world([svc("api").links("db:5432!"), svc("db").tcp(5432)]).plan();
    assert!(plan.services["api"].waits.is_empty());
    assert_eq!(links(&plan.services["api"]), ["db:5432/tcp"]);
}

#[test]
fn the_short_form_of_a_dependency_means_what_fits_its_target() {
    let plan =
        world([svc("api").after("db cache migrate"), svc("db").tcp(1), svc("cache"), task("migrate")]).plan();
    assert_eq!(waits(&plan.services["api"]), ["cache:started", "db:ready", "migrate:completed"]);
}

#[test]
fn a_dependency_says_more_than_a_link_to_the_same_service() {
    let plan = world([svc("api").links("db:5432").after("db:started?"), svc("db").tcp(5432)]).plan();
    assert_eq!(waits(&plan.services["api"]), ["db:started?"]);
    assert_eq!(plan.services["api"].waits[0].at.to_string(), "services.api.depends_on.db");
}

#[test]
fn an_optional_dependency_that_is_not_there_is_dropped() {
    let plan = world([svc("api").after("nobody?")]).plan();
    assert!(plan.services["api"].waits.is_empty());
}

#[test]
fn links_in_a_circle_order_nothing_and_are_named() {
    let world = world([
        svc("a").links("b:1"),
        svc("b").links("c:1"),
        svc("c").links("a:1").after("d"),
        svc("d"),
        svc("e").links("a:1"),
    ]);
    let plan = world.plan();
    assert!(plan.services["a"].waits.is_empty() && plan.services["b"].waits.is_empty());
    assert_eq!(waits(&plan.services["c"]), ["d:started"]);
    assert_eq!(waits(&plan.services["e"]), ["a:started"]);
    let warning = only_warning(&world);
    assert_eq!((warning.code, warning.label.as_str()), ("WS0520", "a → b → c → a"));
    assert_eq!(warning.at.to_string(), "services.a.links[0]");
    let related: Vec<String> = warning.related.iter().map(|(at, _)| at.to_string()).collect();
    assert_eq!(related, ["services.b.links[0]", "services.c.links[0]"]);
}

#[test]
fn in_a_circle_of_both_the_dependencies_still_order() {
    let world = world([svc("a").links("b:1"), svc("b").after("a")]);
    let plan = world.plan();
    assert!(plan.services["a"].waits.is_empty());
    assert_eq!(waits(&plan.services["b"]), ["a:started"]);
    assert_eq!(
        only_warning(&world).message,
        "`a`, `b` wait for each other, so no link among them orders a start"
    );
}

#[test]
fn a_circle_of_dependencies_is_an_error_with_every_edge() {
    let error = only_error(&world([
        svc("a").after("b"),
        svc("b").after("c"),
        svc("c").after("a"),
        svc("d").after("a"),
    ]));
    assert_eq!(error.code, "WS0521");
    assert_eq!(error.message, "these services depend on each other: a → b → c → a");
    assert_eq!(error.at.to_string(), "services.a.depends_on.b");
    let related: Vec<String> = error.related.iter().map(|(at, label)| format!("{at}: {label}")).collect();
    assert_eq!(
        related,
        ["services.b.depends_on.c: `b` waits for `c`", "services.c.depends_on.a: `c` waits for `a`"]
    );
}

#[test]
fn a_service_cannot_depend_on_itself() {
    let error = only_error(&world([svc("a").after("a")]));
    assert_eq!((error.code, error.message.as_str()), ("WS0521", "`a` depends on itself"));
}

#[test]
fn waiting_for_the_end_of_what_never_ends_is_an_error() {
    let error = only_error(&world([svc("a").after("b:completed"), svc("b").policy(RestartPolicy::Always)]));
    assert_eq!(error.code, "WS0523");
}

#[test]
fn the_closure_is_what_is_asked_for_and_what_it_needs() {
    let plan = world([svc("web").links("api:1"), svc("api").after("db?"), svc("db"), svc("other")]).plan();
    let names = |asked: &[&str]| -> Vec<String> {
        let asked: Vec<_> = asked.iter().map(|text| name(text)).collect();
        closure(&plan, &asked).iter().map(ToString::to_string).collect()
    };
    assert_eq!(names(&["web"]), ["api", "db", "web"]);
    assert_eq!(names(&["other"]), ["other"]);
    assert_eq!(names(&[]).len(), 4);
    assert_eq!(names(&["nobody"]), Vec::<String>::new());
}

// ---- links

#[test]
fn a_link_without_a_port_reaches_what_its_target_declares() {
    let db = svc("db").expose("9187 53/udp").ports("8080:80").tcp(5432);
    let db = db.with(|s| s.listen = vec![Listen { port: 90, name: "metrics".to_owned() }]);
    let plan = world([svc("api").links("db"), db]).plan();
    let rules = &plan.services["api"].links;
    let expected = ["db:53/udp", "db:80/tcp", "db:90/tcp", "db:5432/tcp", "db:9187/tcp"];
    assert_eq!(links(&plan.services["api"]), expected);
    assert!(rules.iter().all(|rule| rule.address == plan.services["db"].address));
}

#[test]
fn a_link_without_a_port_to_a_service_without_ports_is_an_error() {
    let error = only_error(&world([svc("api").links("db"), svc("db")]));
    assert_eq!(error.code, "WS0512");
    assert_eq!(
        error.help,
        ["name the port here: `db:PORT`", "or declare it at the other end: `expose: [PORT]` in `db`"]
    );
}

#[test]
fn each_port_is_granted_once() {
    let plan = world([svc("api").links("db:5432,5432 db"), svc("db").tcp(5432)]).plan();
    assert_eq!(links(&plan.services["api"]), ["db:5432/tcp"]);
    assert_eq!(plan.services["api"].links[0].at.to_string(), "services.api.links[0]");
}

#[test]
fn no_link_is_granted_back() {
    let plan = world([svc("api").links("db:5432"), svc("db")]).plan();
    assert!(plan.services["db"].links.is_empty());
}

#[test]
fn a_link_to_itself_is_no_link() {
    let world = world([svc("api").links("api:80")]);
    assert_eq!(only_warning(&world).code, "WS0513");
    assert!(world.plan().services["api"].links.is_empty());
    assert!(world.plan().services["api"].waits.is_empty());
}

#[test]
fn unknown_names_are_errors_with_a_suggestion_all_at_once() {
    let mut world = world([
        svc("api").links("cahce:1").after("bd").volumes("pgg:/x").secrets("kee"),
        svc("cache"),
        svc("db"),
    ]);
    world.volume("pg");
    world.secret("key", "secrets/key");
    let text = text_of(&world.problems());
    for expected in [
        "WS0510 at services.api.links[0]: link names a service that is not declared",
        "there is no service `cahce`",
        "did you mean `cache`?",
        "WS0511 at services.api.depends_on.bd",
        "WS0514 at services.api.volumes[0]",
        "did you mean `pg`?",
        "WS0515 at services.api.secrets[0]",
        "did you mean `key`?",
    ] {
        assert!(text.contains(expected), "{expected} is missing in:\n{text}");
    }
}

// ---- addresses

#[test]
fn addresses_and_what_follows_from_them_are_told_apart_and_stay() {
    let plan = world([svc("a"), svc("b"), svc("c")]).plan();
    let before = plan.services["b"].address;
    let more = world([svc("a"), svc("aa"), svc("b"), svc("c"), svc("d")]).plan();
    assert_eq!(more.services["b"].address, before);
    let service = &plan.services["b"];
    assert_eq!(plan.subnet.host(service.index), service.address);
    assert_eq!(service.mac[0] & 3, 2, "locally administered, and not a group");
    assert_eq!(service.mac[2..], service.address.octets());
}

#[test]
fn an_old_address_is_kept() {
    let mut world = world([svc("a"), svc("b")]);
    let old = Ipv4Addr::new(10, 77, 5, 5);
    world.options.previous = BTreeMap::from([(name("b"), old)]);
    assert_eq!(world.plan().services["b"].address, old);
}

#[test]
fn too_many_services_for_the_network_are_an_error() {
    let mut world = world(["a", "b", "c", "d", "e", "f"].map(svc));
    world.workspace.subnet = Subnet::new(Ipv4Addr::new(10, 0, 0, 0), 29).unwrap();
    assert_eq!(only_error(&world).code, "WS0501");
}

// ---- replicas

fn replicas(svc: Svc, count: u32) -> Svc {
    svc.with(|service| service.replicas = count)
}

#[test]
fn replicas_are_units_of_their_own_behind_one_name() {
    let plan = world([
        replicas(svc("api").dir("services/api").tcp(80).links("db:5432").memory(64), 3),
        svc("db"),
        svc("web").links("api"),
    ])
    .plan();
    let units: Vec<&str> = plan.services.keys().map(AsRef::as_ref).collect();
    assert_eq!(units, ["api-1", "api-2", "api-3", "db", "web"]);
    for (number, unit) in (1..).zip(["api-1", "api-2", "api-3"]) {
        let api = &plan.services[unit];
        assert_eq!((api.declared.as_str(), api.replica), ("api", number));
        assert_eq!(links(api), ["db:5432/tcp"]);
        assert_eq!(waits(api), ["db:started"]);
        assert_eq!(api.limits.memory, Some(ByteSize::mib(64)));
        assert_eq!(file(&plan, unit, "/etc/hostname"), format!("{unit}\n"));
        assert_eq!(env(&plan, unit, "WS_SERVICE"), Some("api"));
        assert_eq!(env(&plan, unit, "WS_REPLICA"), Some(number.to_string().as_str()));
        assert!(api.view.scratch.iter().any(|(path, _)| path == Path::new("/run/api")), "one path for all");
        // What they write they share.
        assert_eq!(mounts(&plan, unit), ["writes services/api"]);
    }
    assert_eq!(mounts(&plan, "db"), ["hides services/api"]);
    assert_eq!((plan.services["db"].declared.as_str(), plan.services["db"].replica), ("db", 1));

    let web = &plan.services["web"];
    assert_eq!(waits(web), ["api-1:ready", "api-2:ready", "api-3:ready"]);
    assert_eq!(links(web), ["api-1:80/tcp", "api-2:80/tcp", "api-3:80/tcp"]);
    for rule in &web.links {
        assert_eq!(rule.address, plan.services[&rule.to].address);
        assert_eq!(rule.at.to_string(), "services.web.links[0]");
        let line = format!("\n{} {} {}.shop api api.shop\n", rule.address, rule.to, rule.to);
        assert!(file(&plan, "web", "/etc/hosts").contains(&line), "{line}");
    }
    let waves: Vec<Vec<&str>> = plan.waves.iter().map(|wave| names(wave)).collect();
    assert_eq!(waves, [vec!["db"], vec!["api-1", "api-2", "api-3"], vec!["web"]]);
    assert_eq!(plan.channels.len(), 1, "of web, which has a link; replicas are one service");
    assert_eq!(
        (names(&plan.channels[0].writers), names(&plan.channels[0].readers)),
        (vec!["api"], vec!["web"])
    );
}

#[test]
fn a_name_stands_for_a_unit_or_for_all_replicas() {
    let plan = world([replicas(svc("api"), 11), svc("db")]).plan();
    let units =
        |name: &str| -> Vec<String> { plan.units(name).iter().map(|unit| unit.name.to_string()).collect() };
    assert_eq!(units("api").len(), 11);
    assert_eq!(units("api")[..2], ["api-1", "api-2"]);
    assert_eq!(units("api")[10], "api-11");
    assert_eq!(units("api-7"), ["api-7"]);
    assert_eq!(units("db"), ["db"]);
    assert!(units("api-12").is_empty());
}

#[test]
fn a_replica_keeps_its_address_when_there_are_more() {
    let addresses = |count| {
        let mut world = world([replicas(svc("api"), count)]);
        world.options.previous = BTreeMap::from([(name("api-2"), Ipv4Addr::new(10, 77, 9, 9))]);
        let plan = world.plan();
        plan.addresses().map(|(name, address)| (name.to_string(), address)).collect::<BTreeMap<_, _>>()
    };
    let (two, four) = (addresses(2), addresses(4));
    assert_eq!(two["api-2"], Ipv4Addr::new(10, 77, 9, 9));
    assert!(two.iter().all(|(name, address)| four[name] == *address));
}

#[test]
fn one_replica_is_the_service_itself() {
    assert_eq!(world([replicas(svc("api"), 1)]).plan(), world([svc("api")]).plan());
}

#[test]
fn replicas_have_one_build() {
    let plan = world([replicas(svc("api").build("make").after("db"), 2), svc("db")]).plan();
    assert_eq!(
        plan.services.keys().map(ServiceName::as_str).collect::<Vec<_>>(),
        ["api-1", "api-2", "api-build", "db"]
    );
    for unit in ["api-1", "api-2"] {
        assert_eq!(waits(&plan.services[unit]), ["api-build:completed", "db:started"]);
        assert_eq!(plan.services[unit].uses[0].build.as_str(), "api-build");
    }
    assert!(waits(&plan.services["api-build"]).is_empty());
}

#[test]
fn a_build_waits_for_what_is_completed_before_and_for_builds_below_it() {
    let plan = world([
        task("codegen"),
        svc("db").build("make"),
        svc("api").build("make").after("codegen db"),
        svc("a").build("make").links("b:1"),
        svc("b").build("make").links("a:1"),
    ])
    .plan();
    assert_eq!(waits(&plan.services["api-build"]), ["codegen:completed", "db-build:completed"]);
    let circle = [waits(&plan.services["a-build"]), waits(&plan.services["b-build"])];
    assert_eq!(circle.iter().map(Vec::len).sum::<usize>(), 1, "only one of them waits: {circle:?}");
}

#[test]
fn what_a_service_uses_of_a_build() {
    let mut world = world([
        shared("api").run("out/api"),
        shared("web").run("node out/web.js"),
        shared("one").run("out/one").with(|s| {
            let uses = vec![PathPattern { base: path(""), pattern: "out/more".to_owned() }];
            s.build = Some(BuildRef::Shared { name: name("all"), uses });
        }),
    ]);
    let pattern = |text: &str| PathPattern { base: path(""), pattern: text.to_owned() };
    let all = world.workspace.builds.get_mut(&name("all")).unwrap();
    all.inputs = vec![pattern("src")];
    all.outputs = vec![pattern("out/*")];
    let plan = world.plan();
    let of = |service: &str| plan.services[service].uses[0].files.as_ref().unwrap().include.clone();
    assert_eq!(of("api"), [PathPattern { base: path("out"), pattern: "api".to_owned() }]);
    assert_eq!(of("web"), [pattern("out/*")]);
    assert_eq!(of("one"), [pattern("out/more")]);
    let build = &plan.services["all-build"];
    assert_eq!(build.kind, ServiceKind::Build);
    let out = build.view.binds.iter().find(|bind| bind.target == path("out")).unwrap();
    assert!(out.writable && out.create, "it is not there yet");
    assert_eq!(build.watch[0].files.include, [pattern("src")]);
    assert_eq!(build.watch[0].action, WatchAction::Rebuild);
    assert!(!plan.services["api"].view.binds.iter().any(|bind| bind.writable));
    world.options.no_watch = true;
    assert!(world.plan().services.values().all(|service| service.watch.is_empty()));
    world.options.no_build = true;
    let plan = world.plan();
    assert!(
        plan.services.len() == 3 && plan.services.values().all(|s| s.uses.is_empty() && s.waits.is_empty())
    );
}

#[test]
fn the_name_of_a_build_is_nothing_elses() {
    let taken = only_error(&world([svc("api").build("make"), svc("api-build")]));
    assert_eq!((taken.code, taken.at.to_string()), ("WS0572", "services.api.build".to_owned()));
    let mut unknown = world([shared("api")]);
    unknown.workspace.builds.clear();
    assert_eq!(only_error(&unknown).code, "WS0570");
}

#[test]
fn the_name_of_a_replica_can_be_nothing_elses() {
    let error = only_error(&world([replicas(svc("api"), 2), svc("api-2")]));
    assert_eq!((error.code, error.at.to_string().as_str()), ("WS0504", "services.api.replicas"));
    assert_eq!(error.related[0].0.to_string(), "services.api-2");
    let mut world = world([replicas(svc("api").links("api-1"), 2)]);
    world.workspace.external.insert(name("api-1"), elsewhere(80));
    assert_eq!(only_error(&world).related[0].0.to_string(), "external.api-1");
    let long = "a".repeat(61);
    assert_eq!(only_error(&self::world([replicas(svc(&long), 10)])).code, "WS0505");
    self::world([replicas(svc(&long), 9)]).plan();
}

#[test]
fn replicas_cannot_share_a_port_of_the_host() {
    let error = only_error(&world([replicas(svc("api").ports("0:9000 8080:80"), 2)]));
    assert_eq!((error.code, error.at.to_string().as_str()), ("WS0516", "services.api.ports[1]"));
    assert_eq!(error.help, ["`\"0:80\"` picks a free one for each"]);
    let plan = world([replicas(svc("api").ports("0:80"), 2)]).plan();
    assert!(plan.services.values().all(|unit| unit.publish.len() == 1));
}

#[test]
fn replicas_write_one_volume_only_where_that_is_meant() {
    let mut world = world([replicas(svc("api").volumes("data:/data"), 2)]);
    world.volume("data");
    let error = only_error(&world);
    assert_eq!((error.code, error.at.to_string().as_str()), ("WS0517", "services.api.volumes[0]"));
    world.workspace.volumes.get_mut("data").unwrap().shared = true;
    assert_eq!(mounts(&world.plan(), "api-2"), ["writes volume data at /data"]);
    let mut world = self::world([replicas(svc("api").volumes("data:/data:ro"), 2)]);
    world.volume("data");
    world.plan();
}

#[test]
fn too_many_replicas_are_an_error_before_they_are_unfolded() {
    let error = only_error(&world([replicas(svc("api"), u32::MAX), replicas(svc("web"), u32::MAX)]));
    assert_eq!(error.code, "WS0501");
}

// ---- what runs elsewhere

fn elsewhere(port: u16) -> External {
    External { host: ExternalHost::Name("orders.example".to_owned()), port }
}

fn with_orders(services: impl IntoIterator<Item = Svc>) -> World {
    let mut world = world(services);
    world.workspace.external.insert(name("orders"), elsewhere(443));
    world
}

#[test]
fn a_link_leads_to_what_runs_elsewhere() {
    let world = with_orders([svc("api").links("orders"), svc("web").links("orders:443")]);
    let plan = world.plan();
    let [orders] = plan.external.as_slice() else { panic!("{:?}", plan.external) };
    assert_eq!((orders.name.as_str(), orders.port), ("orders", 443));
    assert!(plan.services.values().all(|unit| unit.address != orders.address));
    for service in ["api", "web"] {
        let unit = &plan.services[service];
        assert_eq!(links(unit), ["orders:443/tcp"]);
        assert_eq!(unit.links[0].address, orders.address);
        assert!(unit.waits.is_empty());
    }
    let line = format!("\n{} orders orders.shop\n", orders.address);
    assert!(file(&plan, "api", "/etc/hosts").contains(&line));
    assert!(plan.warnings.is_empty(), "{}", text_of(&plan.warnings));
}

#[test]
fn what_runs_elsewhere_keeps_its_address() {
    let mut world = with_orders([svc("api").links("orders")]);
    let old = Ipv4Addr::new(10, 77, 5, 5);
    world.options.previous = BTreeMap::from([(name("orders"), old)]);
    assert_eq!(world.plan().external[0].address, old);
}

#[test]
fn what_runs_elsewhere_has_one_port_one_name_and_no_start() {
    let error = only_error(&with_orders([svc("api").links("orders:80")]));
    assert_eq!(
        (error.code, error.message.as_str()),
        ("WS0518", "`orders` is reached on 443/tcp, not on 80/tcp")
    );
    let error = only_error(&with_orders([svc("api").links("orders:443/udp")]));
    assert_eq!(error.code, "WS0518");
    let error = only_error(&with_orders([svc("api").links("orders").after("orders?")]));
    assert_eq!((error.code, error.at.to_string().as_str()), ("WS0507", "services.api.depends_on.orders"));
    let error = only_error(&with_orders([svc("api").links("orders:443"), svc("orders")]));
    assert_eq!((error.code, error.at.to_string().as_str()), ("WS0506", "external.orders"));
    let error = only_error(&with_orders([svc("api").links("order orders")]));
    assert_eq!((error.code, error.help[0].as_str()), ("WS0510", "did you mean `orders`?"));
}

// ---- one-offs

#[derive(Default)]
struct Asked {
    number: u32,
    argv: Option<&'static str>,
    env: Vec<(String, String)>,
    cwd: Option<&'static str>,
    taken: BTreeMap<ServiceName, u32>,
}

fn one_off_of(plan: &Plan, service: &str, asked: &Asked) -> Result<ServicePlan, String> {
    plan::one_off(
        plan,
        &OneOff {
            service: &name(service),
            number: asked.number,
            argv: asked.argv.map(|text| text.split_whitespace().map(str::to_owned).collect()),
            env: &asked.env,
            cwd: asked.cwd.map(Path::new),
            tty: true,
            taken: &asked.taken,
        },
    )
}

#[test]
fn a_one_off_has_the_sandbox_and_the_dependencies_of_its_service_and_nothing_else() {
    let plan = shop().plan();
    let api = &plan.services["api"];
    let asked = Asked {
        number: 1,
        argv: Some("./manage.py shell"),
        env: vec![("DEBUG".to_owned(), "1".to_owned()), ("LANG".to_owned(), "C".to_owned())],
        ..Asked::default()
    };
    let run = one_off_of(&plan, "api", &asked).unwrap();
    assert_eq!((run.name.as_str(), run.declared.as_str()), ("api-run-1", "api"));
    assert!(run.is_one_off() && !api.is_one_off());
    assert_eq!((run.kind, run.tty), (ServiceKind::Task, true));
    assert_eq!((&run.waits, &run.links, &run.limits), (&api.waits, &api.links, &api.limits));
    assert_eq!(run.run.argv, ["/home/me/shop/services/api/manage.py", "shell"]);
    assert_eq!(run.run.cwd, api.run.cwd);
    let env = |key: &str| run.run.env.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
    assert_eq!((env("DEBUG"), env("LANG"), env("WS_SERVICE")), (Some("1"), Some("C"), Some("api")));
    assert_eq!(env("WS_REPLICA"), Some("0"), "it is none");
    assert!(run.run.env.is_sorted());
    assert_eq!(
        (&run.view.binds, &run.view.secret_files, &run.view.scratch),
        (&api.view.binds, &api.view.secret_files, &api.view.scratch)
    );
    assert!(run.publish.is_empty() && run.build.is_none() && run.hooks == Hooks::default());
    assert_eq!(
        (run.restart.policy, &run.startup, &run.ready, &run.liveness),
        (RestartPolicy::No, &None, &None, &None)
    );
    assert_eq!(plan.subnet.host(run.index), run.address);
    let contents =
        |wanted: &str| &run.view.files.iter().find(|(path, _)| path == Path::new(wanted)).unwrap().1;
    assert_eq!(**contents("/etc/hostname"), *"api-run-1\n");
    let hosts = contents("/etc/hosts");
    assert!(hosts.starts_with(file(&plan, "api", "/etc/hosts")));
    assert!(hosts.ends_with(&format!("\n{} api-run-1 api-run-1.shop\n", run.address)));
}

#[test]
fn a_one_off_can_run_the_services_own_command_or_elsewhere() {
    let plan = shop().plan();
    let own = one_off_of(&plan, "api", &Asked::default()).unwrap();
    assert_eq!(own.run.argv, plan.services["api"].run.argv);
    let asked = Asked { argv: Some("./x"), cwd: Some("../web"), ..Asked::default() };
    let elsewhere = one_off_of(&plan, "api", &asked).unwrap();
    assert_eq!(elsewhere.run.cwd, path("services/web"));
    assert_eq!(Path::new(&elsewhere.run.argv[0]), path("services/web/x"));
    let nothing = Asked { argv: Some(""), ..Asked::default() };
    assert_eq!(one_off_of(&plan, "api", &nothing).unwrap_err(), "there is no command to run");
    assert_eq!(one_off_of(&plan, "apj", &nothing).unwrap_err(), "there is no service `apj`");
}

#[test]
fn a_one_off_says_nothing_of_itself() {
    let notify = |service: Svc| service.with(|s| s.liveness = s.ready.clone());
    let plan = world([
        notify(svc("api").probe(ProbeKind::Notify)),
        svc("own").env("NOTIFY_SOCKET", "/run/own/mine"),
        replicas(svc("many").build("make"), 2),
    ])
    .plan();
    assert_eq!(env(&plan, "api", "NOTIFY_SOCKET"), Some("/run/notify"));
    assert_eq!(env(&plan, "api", "WATCHDOG_USEC"), Some("500000"));
    let has = |service: &str, key: &str| {
        let run = one_off_of(&plan, service, &Asked::default()).unwrap();
        run.run.env.iter().any(|(name, _)| name == key)
    };
    assert!(!has("api", "NOTIFY_SOCKET") && !has("api", "WATCHDOG_USEC"));
    assert!(has("own", "NOTIFY_SOCKET"), "what the file sets stays");
    assert_eq!(waits(&one_off_of(&plan, "many-2", &Asked::default()).unwrap()), ["many-build:completed"]);
}

#[test]
fn a_one_off_takes_a_free_name_and_address_or_none() {
    let long = "a".repeat(63);
    let plan = world([svc("api"), svc("api-run-1"), svc(&long)]).plan();
    let run = one_off_of(&plan, "api", &Asked { number: 1, ..Asked::default() }).unwrap();
    assert_eq!(run.name.as_str(), "api-run-2");
    let run = one_off_of(&plan, &long, &Asked { number: u32::MAX, ..Asked::default() }).unwrap();
    assert_eq!(run.name.as_str(), format!("{}-run-{}", "a".repeat(48), u32::MAX));

    let mut world = with_orders(["a", "b", "c"].map(|name| svc(name).links("orders")));
    world.workspace.subnet = Subnet::new(Ipv4Addr::new(10, 0, 0, 0), 29).unwrap();
    let plan = world.plan();
    let last = one_off_of(&plan, "a", &Asked::default()).unwrap();
    let taken = BTreeMap::from([(last.name, last.index)]);
    let error = one_off_of(&plan, "a", &Asked { taken, ..Asked::default() }).unwrap_err();
    assert!(error.starts_with("the network 10.0.0.0/29 has no address left for `a-run-1`"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    /// Whatever is unfolded, added and run beside it: no name, number or address is anybody else's.
    #[test]
    fn nothing_shares_a_name_or_an_address(
        declared in btree_map("[a-c](-[12])?", 1..4_u32, 1..6),
        externals in btree_set("[d-f]", 0..3),
        prefix in 24..=28_u8,
        numbers in vec(0..3_u32, 0..8),
    ) {
        let services = declared.iter().map(|(text, count)| {
            let service = replicas(svc(text), *count);
            externals.iter().fold(service, |service, to| {
                service.with(|s| s.links.push(Link { to: name(to), ports: LinkPorts::Declared, wait: true }))
            })
        });
        let mut world = world(services);
        world.workspace.subnet = Subnet::new(Ipv4Addr::new(10, 0, 0, 0), prefix).unwrap();
        world.workspace.external = externals.iter().map(|text| (name(text), elsewhere(80))).collect();
        let Ok(plan) = world.resolve() else {
            // Names that clash, and networks without room for all, are refused.
            return Ok(());
        };
        let units: u32 = declared.values().sum();
        prop_assert_eq!(plan.services.len(), units as usize);
        prop_assert_eq!(lint(&plan), Vec::<String>::new());
        let mut names: BTreeSet<ServiceName> = plan.addresses().map(|(name, _)| name.clone()).collect();
        let mut addresses: BTreeSet<Ipv4Addr> = plan.addresses().map(|(_, address)| address).collect();
        prop_assert_eq!(names.len(), units as usize + externals.len());
        prop_assert_eq!(addresses.len(), names.len());
        let mut taken = BTreeMap::new();
        for (number, service) in numbers.iter().zip(declared.keys().cycle()) {
            let asked = Asked { number: *number, taken: taken.clone(), ..Asked::default() };
            let Ok(run) = one_off_of(&plan, service, &asked) else {
                prop_assert_eq!(addresses.len(), plan.subnet.capacity() as usize, "refused with room left");
                break;
            };
            prop_assert!(!plan.services.values().any(|unit| unit.declared == run.name));
            taken.insert(run.name.clone(), run.index);
            prop_assert!(names.insert(run.name));
            prop_assert!(addresses.insert(run.address));
        }
    }
}

// ---- environment and command

#[test]
fn the_environment_is_what_the_sandbox_sets_and_the_services_own() {
    let plan =
        world([svc("api").env("LOG", "info").env("LANG", "de_DE.UTF-8").memory(512).build("make")]).plan();
    let api = &plan.services["api"];
    let text: Vec<String> = api.run.env.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(
        text,
        [
            "HOME=/home/me",
            "LANG=de_DE.UTF-8",
            "LOG=info",
            "LOGNAME=me",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "SHELL=/bin/sh",
            "USER=me",
            "WS_MEMORY_BYTES=536870912",
            "WS_REPLICA=1",
            "WS_SERVICE=api",
            "WS_WORKSPACE=shop",
        ]
    );
    // A service's limits never apply to its build.
    assert!(!plan.services["api-build"].run.env.iter().any(|(key, _)| key == "WS_MEMORY_BYTES"));
}

#[test]
fn a_command_with_a_slash_is_relative_to_the_working_directory() {
    let world = |command: &str| world([svc("api").dir("services/api").run(command)]).plan();
    let program = |command: &str| world(command).services["api"].run.argv[0].clone();
    assert_eq!(program("./run.sh --x"), "/home/me/shop/services/api/run.sh");
    assert_eq!(program("../../target/api"), "/home/me/shop/target/api");
    assert_eq!(program("/usr/bin/env"), "/usr/bin/env");
    assert_eq!(program("python3"), "python3");
    assert_eq!(world("a/b c/d").services["api"].run.argv[1], "c/d");
    assert_eq!(world("x").services["api"].run.cwd, path("services/api"));
}

#[test]
fn a_program_that_no_mount_shows_is_an_error() {
    for program in ["/snap/bin/x", "/tmp/x", "/home/me/bin/x"] {
        assert_eq!(only_error(&world([svc("api").run(program)])).code, "WS0543", "{program}");
    }
    let error = only_error(&world([svc("api").run("/home/me/.cargo/bin/api")]));
    assert_eq!((error.code, error.at.to_string().as_str()), ("WS0543", "services.api.command"));
    assert_eq!(error.help, ["let it: `reads: [\"/home/me/.cargo/bin\"]`"]);
}

#[test]
fn programs_are_found_through_links_of_the_system_and_in_what_is_mounted() {
    let mut world = world([
        svc("a").run("/bin/sh -c true"),
        svc("b").run("/opt/tool/run"),
        svc("c").run("/data/run").volumes("v:/data"),
        svc("d").run("/home/me/.local/bin/x").reads("/home/me/.local/bin"),
    ]);
    world.volume("v");
    assert!(world.resolve().is_ok());
}

// ---- the user and the system

#[test]
fn the_caller_is_the_user_inside() {
    let plan = world([svc("api")]).plan();
    let view = &plan.services["api"].view;
    assert_eq!(
        (view.uid, view.gid, view.user.as_str(), view.home.as_path()),
        (501, 20, "me", Path::new("/home/me"))
    );
    assert_eq!(
        file(&plan, "api", "/etc/passwd"),
        "root:x:0:0:root:/root:/usr/sbin/nologin\n\
         me:x:501:20:me:/home/me:/bin/sh\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    );
    assert_eq!(file(&plan, "api", "/etc/group"), "root:x:0:\nme:x:20:\nnogroup:x:65534:\n");
}

#[test]
fn root_is_an_ordinary_user_inside_with_its_own_home() {
    let mut world = world([svc("api")]);
    world.facts.uid = 0;
    world.facts.gid = 0;
    world.facts.user = "root".to_owned();
    world.facts.home = PathBuf::from("/root");
    let plan = world.plan();
    let view = &plan.services["api"].view;
    assert_eq!(
        (view.uid, view.gid, view.user.as_str(), view.home.as_path()),
        (1000, 1000, "ws", Path::new("/root"))
    );
    assert!(view.scratch.contains(&(PathBuf::from("/root"), 0o700)));
}

#[test]
fn a_home_or_name_that_cannot_be_used_is_replaced() {
    for (home, user, expected) in [
        ("/", "me", "/home/me"),
        ("/opt/app", "me", "/home/me"),
        ("", "me", "/home/me"),
        ("/nonexistent", "me", "/nonexistent"),
        ("/", "", "/home/ws"),
        ("/", "a:b", "/home/ws"),
    ] {
        let mut world = world([svc("api")]);
        world.facts.home = PathBuf::from(home);
        world.facts.user = user.to_owned();
        assert_eq!(world.plan().services["api"].view.home, Path::new(expected), "{home:?} {user:?}");
    }
}

#[test]
fn names_resolve_to_every_service() {
    let plan = world([svc("api"), svc("db")]).plan();
    let [api, db] = ["api", "db"].map(|name| plan.services[name].address);
    let hosts = file(&plan, "api", "/etc/hosts");
    assert!(hosts.contains(&format!("\n{api} api api.shop\n{db} db db.shop\n")), "{hosts}");
    assert_eq!(hosts, file(&plan, "db", "/etc/hosts"));
    assert_eq!(file(&plan, "db", "/etc/hostname"), "db\n");
    assert!(file(&plan, "db", "/etc/resolv.conf").starts_with("nameserver 10.77.0.1\n"));
}

#[test]
fn the_system_is_what_the_machine_has() {
    let plan = world([svc("api")]).plan();
    let view = &plan.services["api"].view;
    let system: Vec<&str> = view.system.iter().map(|bind| bind.target.to_str().unwrap()).collect();
    assert_eq!(system, ["/etc/python3.11", "/etc/services", "/etc/ssl", "/opt", "/usr"]);
    assert!(view.system.iter().all(|bind| !bind.writable && !bind.owner_mapped));
    assert!(!view.system[1].directory && view.system[2].directory);
    let links: Vec<(&str, &str)> =
        view.symlinks.iter().map(|(from, to)| (from.to_str().unwrap(), to.to_str().unwrap())).collect();
    assert_eq!(
        links,
        [("/bin", "usr/bin"), ("/etc/localtime", "/usr/share/zoneinfo/Etc/UTC"), ("/var/run", "/run")]
    );
}

#[test]
fn private_directories_come_parents_first() {
    let mut world = world([svc("api").secrets("key token=TOKEN")]);
    world.secret("key", "secrets/key");
    world
        .workspace
        .secrets
        .insert(SecretName::new("token").unwrap(), SecretSource::Environment("TOKEN".to_owned()));
    let plan = world.plan();
    let view = &plan.services["api"].view;
    let scratch: Vec<String> =
        view.scratch.iter().map(|(path, mode)| format!("{} {mode:o}", path.display())).collect();
    assert_eq!(
        scratch,
        [
            "/dev/shm 1777",
            "/home/me 700",
            "/run 755",
            "/run/api 755",
            "/run/secrets 500",
            "/tmp 1777",
            "/var/tmp 1777"
        ]
    );
    assert_eq!(view.secret_files, [(SecretName::new("key").unwrap(), PathBuf::from("/run/secrets/key"))]);
    assert_eq!(view.secret_env, [(SecretName::new("token").unwrap(), "TOKEN".to_owned())]);
    assert_eq!(env(&plan, "api", "TOKEN"), None, "secrets are not in the plan");
}

// ---- the project

#[test]
fn the_project_is_seen_without_what_decides_and_what_is_secret() {
    let mut world = world([svc("api")]);
    world.secret("key", "stripe.key");
    world.secret("pem", "secrets/tls/pem");
    let plan = world.plan();
    let repo = plan.services["api"].view.repo.as_ref().unwrap();
    assert_eq!(repo.root, Path::new(ROOT));
    for hidden in [".git", ".env", ".env.local", "workspace.yaml", "stripe.key", "secrets"] {
        assert!(!repo.shows(hidden), "{hidden}");
    }
    for seen in ["src", ".gitignore", ".envrc", "secrets.md"] {
        assert!(repo.shows(seen), "{seen}");
    }
}

#[test]
fn what_is_left_out_can_be_asked_for() {
    let mut world = world([svc("api").reads(".git .env.example")]);
    world.directory(".git");
    world.file(".env.example");
    assert_eq!(mounts(&world.plan(), "api"), ["reads .env.example", "reads .git"]);
}

#[test]
fn a_secret_among_what_is_seen_is_an_error_that_names_who_sees_it() {
    let mut world = world([svc("api"), svc("web")]);
    world.secret("key", "config/key");
    let error = only_error(&world);
    assert_eq!((error.code, error.at.to_string().as_str()), ("WS0535", "secrets.key"));
    assert_eq!(error.message, "the secret `key` (`config/key`) would be visible to `api`, `web`");
}

#[test]
fn an_env_file_among_what_is_seen_is_an_error() {
    let mut world = world([svc("api")]);
    world.workspace.hidden.push(path("services/api/.env"));
    world.file("services/api/.env");
    assert_eq!(only_error(&world).message, "the env file `services/api/.env` would be visible to `api`");
}

#[test]
fn a_secret_cannot_be_asked_for_with_its_directory() {
    for service in
        [svc("api").reads("secrets"), svc("api").reads("secrets/key"), svc("api").volumes("./secrets:/x:ro")]
    {
        let mut world = world([service]);
        world.directory("secrets");
        world.secret("key", "secrets/key");
        assert_eq!(only_error(&world).code, "WS0535");
    }
}

#[test]
fn a_secret_outside_of_the_project_is_seen_by_nobody() {
    let mut world = world([svc("api")]);
    world.secret("key", "/home/me/.keys/stripe");
    world.plan();
}

#[test]
fn a_secret_that_is_not_there_is_an_error_once() {
    let mut world = world([svc("api").secrets("key"), svc("web").secrets("key")]);
    world.secret("key", "secrets/key");
    world.missing("secrets/key");
    let error = only_error(&world);
    assert_eq!((error.code, error.at.to_string().as_str()), ("WS0530", "secrets.key"));
}

// ---- writing

#[test]
fn a_declared_working_directory_is_writable() {
    let plan = world([svc("api").dir("services/api"), svc("web")]).plan();
    assert_eq!(mounts(&plan, "api"), ["writes services/api"]);
    let bind = &plan.services["api"].view.binds[0];
    assert!(bind.owner_mapped && bind.directory);
}

#[test]
fn a_working_directory_that_is_not_declared_or_the_root_or_holds_policy_is_not() {
    let mut world = world([
        svc("a").dir("services/a").with(|s| s.working_dir_declared = false),
        svc("b").dir(""),
        svc("c").dir("infra"),
    ]);
    world.workspace.policy_inputs.push(path("infra/workspace.yaml"));
    let plan = world.plan();
    for service in ["a", "b", "c"] {
        assert!(mounts(&plan, service).is_empty(), "{service}");
    }
}

#[test]
fn writable_directories_come_parents_first_and_once() {
    let plan =
        world([svc("api").dir("services/api").writable("data services/api/tmp data/deep /srv/api")]).plan();
    assert_eq!(mounts(&plan, "api"), ["writes data", "writes services/api", "writes /srv/api"]);
}

#[test]
fn what_decides_is_never_writable() {
    for service in [svc("api").writable("."), svc("api").writable("infra"), svc("api").volumes("./infra:/x")]
    {
        let mut world = world([service]);
        world.workspace.policy_inputs.push(path("infra/workspace.yaml"));
        let error = only_error(&world);
        assert_eq!(error.code, "WS0533", "{}", error.message);
    }
}

#[test]
fn missing_directories_are_errors_with_the_command_that_makes_them() {
    let mut world =
        world([svc("api").dir("services/api").writable("data").reads("lib").volumes("./conf:/conf")]);
    for missing in ["services/api", "data", "lib", "conf"] {
        world.missing(missing);
    }
    let problems = world.problems();
    let text = text_of(&problems);
    assert_eq!(problems.len(), 4, "{text}");
    assert!(problems.iter().all(|problem| problem.code == "WS0530"), "{text}");
    assert!(
        text.contains("at services.api.writable[0]: `data` does not exist\n  help: make it: `mkdir -p data`"),
        "{text}"
    );
}

#[test]
fn links_are_not_followed() {
    let mut world = world([svc("api").writable("data"), svc("web").reads("current/lib")]);
    world.link("data", "/etc");
    world.link("current", "releases/7");
    let text = text_of(&world.problems());
    assert!(text.contains("`data` is a symbolic link to `/etc`"), "{text}");
    assert!(text.contains("name the path that it leads to: `releases/7/lib`"), "{text}");
}

#[test]
fn files_cannot_be_writable() {
    let mut world = world([svc("api").writable("data.db"), svc("web").volumes("./a.conf:/etc/a.conf")]);
    world.file("data.db");
    world.file("a.conf");
    let problems = world.problems();
    assert_eq!(
        problems.iter().map(|p| p.code).collect::<Vec<_>>(),
        ["WS0532", "WS0532"],
        "{}",
        text_of(&problems)
    );
}

#[test]
fn files_can_be_read() {
    let mut world = world([svc("api").reads("/etc/nginx/nginx.conf").volumes("./a.conf:/etc/a.conf:ro")]);
    world.file("/etc/nginx/nginx.conf");
    world.file("a.conf");
    let plan = world.plan();
    assert_eq!(mounts(&plan, "api"), ["reads a.conf at /etc/a.conf", "reads /etc/nginx/nginx.conf"]);
    let view = &plan.services["api"].view;
    assert!(view.binds.iter().all(|bind| !bind.directory));
    assert!(view.binds[0].owner_mapped && !view.binds[1].owner_mapped, "system paths are everybody's");
}

#[test]
fn reading_does_not_take_writing_away() {
    let plan = world([svc("api").writable("data").reads("data data/deep")]).plan();
    assert_eq!(mounts(&plan, "api"), ["writes data"]);
}

// ---- what others write

#[test]
fn another_services_directory_is_not_seen() {
    let plan =
        world([svc("api").dir("services/api"), svc("web").dir("services/web"), svc("db").writable("data")])
            .plan();
    assert_eq!(mounts(&plan, "api"), ["writes services/api", "hides services/web"]);
    assert_eq!(mounts(&plan, "db"), ["writes data", "hides services/api", "hides services/web"]);
    // At the top of the project it is left out, which needs no mount.
    assert!(!plan.services["api"].view.repo.as_ref().unwrap().shows("data"));
    assert!(plan.services["db"].view.repo.as_ref().unwrap().shows("data"));
    assert!(plan.channels.is_empty());
}

#[test]
fn a_link_shows_what_its_target_writes_and_is_told_as_a_channel() {
    let plan = world([
        svc("api").dir("services/api").links("db:1 web:1"),
        svc("web").dir("services/web"),
        svc("db").writable("data"),
    ])
    .plan();
    assert_eq!(mounts(&plan, "api"), ["writes services/api"]);
    assert!(plan.services["api"].view.repo.as_ref().unwrap().shows("data"));
    assert_eq!(mounts(&plan, "web"), ["hides services/api", "writes services/web"]);
    let channels: Vec<String> = plan
        .channels
        .iter()
        .map(|c| format!("{} {:?} {:?}", c.what, names(&c.writers), names(&c.readers)))
        .collect();
    assert_eq!(
        channels,
        [r#"/home/me/shop/data ["db"] ["api"]"#, r#"/home/me/shop/services/web ["web"] ["api"]"#]
    );
}

fn names(names: &[ws_model::ServiceName]) -> Vec<&str> {
    names.iter().map(AsRef::as_ref).collect()
}

#[test]
fn reads_show_what_another_one_writes() {
    let plan = world([
        svc("api").reads("services/web data"),
        svc("web").dir("services/web"),
        svc("db").writable("data"),
    ])
    .plan();
    assert_eq!(mounts(&plan, "api"), ["reads data", "reads services/web"]);
    assert_eq!(plan.channels.len(), 2);
}

#[test]
fn reading_a_part_is_a_channel_and_hides_the_rest() {
    let plan = world([svc("api").reads("services/web/public"), svc("web").dir("services/web")]).plan();
    assert_eq!(mounts(&plan, "api"), ["hides services/web", "reads services/web/public"]);
    assert_eq!(plan.channels.len(), 1);
}

#[test]
fn reading_a_directory_above_does_not_name_what_is_in_it() {
    let plan = world([
        svc("api").reads("services /srv").volumes("/srv:/x:ro"),
        svc("web").dir("services/web").writable("/srv/web"),
    ])
    .plan();
    assert_eq!(
        mounts(&plan, "api"),
        [
            "reads services",
            "hides services/web",
            "reads /srv",
            "hides /srv/web",
            "reads /srv at /x",
            "hides /x/web"
        ]
    );
    assert!(plan.channels.is_empty());
}

#[test]
fn a_shared_writable_directory_is_a_channel() {
    let plan =
        world([svc("a").writable("data"), svc("b").writable("data"), svc("c").writable("data/deep")]).plan();
    assert_eq!(mounts(&plan, "c"), ["writes data/deep"]);
    let channels: Vec<String> =
        plan.channels.iter().map(|c| format!("{} {:?}", c.what, names(&c.writers))).collect();
    assert_eq!(channels, [r#"/home/me/shop/data ["a", "b"]"#, r#"/home/me/shop/data/deep ["a", "b", "c"]"#]);
}

#[test]
fn a_writable_directory_in_the_system_is_hidden_from_others() {
    let plan = world([svc("a").writable("/opt/a/data"), svc("b")]).plan();
    assert_eq!(mounts(&plan, "b"), ["hides /opt/a/data"]);
}

#[test]
fn a_host_volume_that_is_written_is_hidden_from_others() {
    let plan = world([svc("a").volumes("./deep/data:/data"), svc("b")]).plan();
    assert_eq!(mounts(&plan, "a"), ["writes deep/data at /data"]);
    assert_eq!(mounts(&plan, "b"), ["hides deep/data"]);
}

#[test]
fn a_directory_inside_of_one_that_is_hidden_can_be_seen() {
    let plan =
        world([svc("a").dir("apps/a"), svc("b").dir("apps/a/b"), svc("c").links("b:1"), svc("d")]).plan();
    assert_eq!(mounts(&plan, "b"), ["hides apps/a", "writes apps/a/b"]);
    assert_eq!(mounts(&plan, "c"), ["hides apps/a", "reads apps/a/b"]);
    assert_eq!(mounts(&plan, "d"), ["hides apps/a"]);
}

#[test]
fn a_working_directory_that_another_one_writes_can_still_be_read() {
    let world = world([
        svc("a").dir("apps").links("b:1!"),
        svc("b").dir("apps/b").with(|s| s.working_dir_declared = false),
    ]);
    let plan = world.plan();
    assert_eq!(mounts(&plan, "b"), ["reads apps/b"]);
}

#[test]
fn many_directories_to_hide_cost_one_mount_and_what_is_beside_them() {
    let services = (0..40).map(|i| svc(&format!("s{i:02}")).dir(&format!("services/s{i:02}")));
    let mut world = world(services.chain([svc("linked").links("s00:1 s01:1")]));
    let one_by_one = world.plan();
    assert_eq!(one_by_one.services["s00"].view.binds.len(), 40);

    assert_eq!(directories_of_interest(&world.workspace), [path("services")]);
    let mut entries: BTreeMap<String, PathKind> =
        (0..40).map(|i| (format!("s{i:02}"), PathKind::Directory)).collect();
    entries.insert("lib".to_owned(), PathKind::Directory);
    entries.insert("README".to_owned(), PathKind::File);
    world.facts.entries.insert(path("services"), entries.clone());
    let plan = world.plan();
    assert_eq!(
        mounts(&plan, "s00"),
        ["hides services", "reads services/README", "reads services/lib", "writes services/s00"]
    );
    assert!(!plan.services["s00"].view.binds[1].directory);
    assert_eq!(
        mounts(&plan, "linked"),
        [
            "hides services",
            "reads services/README",
            "reads services/lib",
            "reads services/s00",
            "reads services/s01"
        ]
    );
    assert_eq!(plan.channels, one_by_one.channels);

    // A link among them cannot be bound.
    entries.insert("latest".to_owned(), PathKind::Symlink(PathBuf::from("s00")));
    world.facts.entries.insert(path("services"), entries);
    assert_eq!(world.plan(), one_by_one);
}

// ---- volumes

#[test]
fn volumes_are_mounted_where_they_are_wanted() {
    let mut world =
        world([svc("db").volumes("pg:/var/lib/pg ./conf:/etc/pg:ro"), svc("backup").volumes("pg:/pg:ro")]);
    world.volume("pg");
    world.volume("unused");
    let plan = world.plan();
    assert_eq!(mounts(&plan, "db"), ["reads conf at /etc/pg", "writes volume pg at /var/lib/pg"]);
    assert_eq!(plan.volumes, [VolumeName::new("pg").unwrap()]);
    assert_eq!(plan.channels.len(), 1);
    assert_eq!((plan.channels[0].what.as_str(), names(&plan.channels[0].readers)), ("pg", vec!["backup"]));
}

#[test]
fn two_things_cannot_be_mounted_at_one_place() {
    let mut world = world([svc("db").volumes("pg:/data ./conf:/data").tmpfs("/data")]);
    world.volume("pg");
    let problems = world.problems();
    assert_eq!(problems.iter().map(|p| p.code).collect::<Vec<_>>(), ["WS0542", "WS0542"]);
    assert_eq!(problems[0].related[0].0.to_string(), "services.db.volumes[0]");
}

#[test]
fn a_directory_named_twice_is_mounted_once() {
    let plan = world([svc("db").writable("data").volumes("./data")]).plan();
    assert_eq!(mounts(&plan, "db"), ["writes data"]);
}

#[test]
fn some_places_are_not_for_mounts() {
    for (target, code) in [
        ("/", "WS0541"),
        ("/home", "WS0541"),
        (ROOT, "WS0541"),
        ("/proc", "WS0541"),
        ("/proc/sys", "WS0541"),
        ("/sys/fs/cgroup", "WS0541"),
        ("/dev", "WS0541"),
        ("/dev/pts", "WS0541"),
        ("/etc", "WS0541"),
        ("/etc/passwd", "WS0541"),
        ("/etc/hostname", "WS0541"),
        ("/run", "WS0541"),
        ("/run/secrets", "WS0541"),
        ("/run/secrets/key", "WS0541"),
        ("/bin/tools", "WS0541"),
        ("/usr/share/nowhere", "WS0540"),
        ("/home/me/shop/src/nowhere", "WS0540"),
    ] {
        let mut world = world([svc("db").with(|service| {
            service.volumes = vec![ws_model::Mount {
                source: ws_model::MountSource::Volume(VolumeName::new("pg").unwrap()),
                target: PathBuf::from(target),
                read_only: false,
            }];
        })]);
        world.volume("pg");
        world.directory("src");
        assert_eq!(only_error(&world).code, code, "{target}");
    }
    for target in
        ["/data", "/tmp/x", "/run/postgresql", "/dev/shm/x", "/etc/nginx", "/var/lib/pg", "new", "src/there"]
    {
        let mut world = world([svc("db").volumes(&format!("pg:{target}"))]);
        world.volume("pg");
        world.directory("src/there");
        world.plan();
    }
}

#[test]
fn the_project_cannot_be_mounted_whole() {
    for service in [svc("a").reads("."), svc("a").reads("/home/me"), svc("a").reads("/home")] {
        assert_eq!(only_error(&world([service])).code, "WS0541");
    }
}

#[test]
fn a_working_directory_elsewhere_is_bound_or_private() {
    let mut world = world([
        svc("a").dir("/srv/app"),
        svc("b").dir("/var/lib/pg").volumes("pg:/var/lib/pg"),
        svc("c").dir("/tmp"),
        svc("d").dir("/usr/share/d"),
        svc("e").dir("/home/me/other"),
    ]);
    world.volume("pg");
    world.missing("/var/lib/pg");
    world.missing("/tmp");
    let plan = world.plan();
    assert_eq!(mounts(&plan, "a"), ["reads /srv/app"]);
    assert_eq!(mounts(&plan, "e"), ["reads /home/me/other"]);
    assert_eq!(mounts(&plan, "b"), ["writes volume pg at /var/lib/pg"]);
    assert!(mounts(&plan, "c").is_empty() && mounts(&plan, "d").is_empty());
}

#[test]
fn private_directories_have_a_size() {
    let tmp = |tmp| {
        let world = world([svc("a").tmpfs("/cache").with(|s| s.limits.tmp = tmp)]);
        let view = world.plan().services["a"].view.clone();
        (view.scratch_size, view.tmpfs)
    };
    assert_eq!(tmp(None), (DEFAULT_TMP, vec![(PathBuf::from("/cache"), DEFAULT_TMP)]));
    let small = ByteSize::mib(16);
    assert_eq!(tmp(Some(small)), (small, vec![(PathBuf::from("/cache"), small)]));
}

// ---- where the project is

#[test]
fn a_project_cannot_be_a_home_or_a_directory_of_the_system() {
    for root in ["/", "/home", "/home/me", "/usr", "/opt", "/tmp", "/proc/x", "/dev"] {
        let mut world = world([svc("a").with(|s| s.working_dir = PathBuf::from(root))]);
        world.workspace.root = PathBuf::from(root);
        world.facts.paths.insert(PathBuf::from(root), PathKind::Directory);
        world.workspace.policy_inputs.clear();
        let codes: Vec<&str> = world.problems().iter().map(|problem| problem.code).collect();
        assert!(codes.contains(&"WS0502"), "{root}: {codes:?}");
    }
}

#[test]
fn a_project_in_the_system_is_seen_only_through_its_own_view() {
    let root = Path::new("/opt/work/shop");
    let mut world = world([svc("a").with(|s| s.working_dir = root.to_path_buf())]);
    world.workspace.root = root.to_path_buf();
    world.workspace.policy_inputs = vec![root.join("workspace.yaml")];
    world.workspace.hidden = vec![root.join(".env")];
    world.facts.paths.insert(root.to_path_buf(), PathKind::Directory);
    assert_eq!(directories_of_interest(&world.workspace), [Path::new("/opt"), Path::new("/opt/work")]);
    let entries = |entries: &[(&str, PathKind)]| {
        entries.iter().map(|(name, kind)| ((*name).to_owned(), kind.clone())).collect::<BTreeMap<_, _>>()
    };
    world.facts.entries = BTreeMap::from([
        (
            PathBuf::from("/opt"),
            entries(&[
                ("node", PathKind::Directory),
                ("node-22", PathKind::Symlink(PathBuf::from("node"))),
                ("work", PathKind::Directory),
            ]),
        ),
        (
            PathBuf::from("/opt/work"),
            entries(&[
                ("other", PathKind::Directory),
                ("shop", PathKind::Directory),
                ("NOTES", PathKind::File),
            ]),
        ),
    ]);
    let plan = world.plan();
    let view = &plan.services["a"].view;
    let system: Vec<&Path> = view.system.iter().map(|bind| bind.target.as_path()).collect();
    let opt: Vec<&Path> = system.into_iter().filter(|path| path.starts_with("/opt")).collect();
    assert_eq!(opt, [Path::new("/opt/node"), Path::new("/opt/work/NOTES"), Path::new("/opt/work/other")]);
    assert!(view.symlinks.contains(&(PathBuf::from("/opt/node-22"), PathBuf::from("node"))));
}

// ---- limits and levels

#[test]
fn limits_have_defaults() {
    let plan = world([
        svc("a"),
        svc("b").with(|s| {
            s.limits = Limits {
                memory: Some(ByteSize::mib(64)),
                cpus: Some(MilliCpus(1500)),
                pids: Some(10),
                files: Some(1024),
                tmp: None,
            };
        }),
    ])
    .plan();
    let a = &plan.services["a"].limits;
    assert_eq!((a.memory, a.cpus, a.pids, a.pids_declared, a.files), (None, None, DEFAULT_PIDS, false, None));
    let b = &plan.services["b"].limits;
    assert_eq!((b.memory, b.pids, b.pids_declared), (Some(ByteSize::mib(64)), 10, true));
}

#[test]
fn the_level_follows_from_what_is_declared() {
    let level = |enforcement, memory: bool, accept| {
        let mut world = world([if memory { svc("api").memory(64) } else { svc("api") }]);
        world.workspace.enforcement = enforcement;
        world.options.accept = accept;
        let plan = world.plan();
        (plan.required, plan.required_because)
    };
    let text = |text: &str| text.to_owned();
    assert_eq!(level(None, false, None), (Level::Limited, text("no service declares `limits`")));
    assert_eq!(level(None, true, None), (Level::Standard, text("api declares `limits.memory`")));
    assert_eq!(level(Some(Level::Full), false, None), (Level::Full, text("`enforcement: full`")));
    assert_eq!(level(Some(Level::Limited), true, None), (Level::Limited, text("`enforcement: limited`")));
    assert_eq!(
        level(None, true, Some(Level::Limited)),
        (
            Level::Limited,
            text(
                "`limited` is accepted instead of standard, which the file asks for: api declares `limits.memory`"
            )
        )
    );
    assert_eq!(level(None, false, Some(Level::Full)).0, Level::Limited, "accepting more asks for nothing");
}

#[test]
fn what_stands_below_the_level_is_told_with_what_is_missing() {
    let plan = world([svc("api").memory(64), svc("db")]).plan();
    let standing = |level| Standing {
        level,
        missing: vec!["memory limits: no memory controller".to_owned()],
        undetected: Vec::new(),
    };
    let good =
        BTreeMap::from([(name("api"), standing(Level::Standard)), (name("db"), standing(Level::Full))]);
    assert_eq!(check_standing(&plan, &good), Ok(()));
    let bad =
        BTreeMap::from([(name("api"), standing(Level::Limited)), (name("db"), standing(Level::Standard))]);
    let problems = check_standing(&plan, &bad).unwrap_err();
    assert_eq!(
        text_of(&problems),
        "Error WS0560 at services.api: `api` can be held to level limited here, and standard is required\n  \
         ^ api declares `limits.memory`\n  \
         help: missing: memory limits: no memory controller\n  \
         help: to start with less: `ws up --accept limited`\n"
    );
    assert_eq!(check_standing(&plan, &BTreeMap::new()).unwrap_err().len(), 2, "what is not known is none");
}

// ---- habits

#[test]
fn values_that_name_what_is_not_linked_are_warned_of() {
    let url = "postgres://app@db:5432/shop";
    let warning = only_warning(&world([svc("api").env("DATABASE_URL", url), svc("db").expose("5432")]));
    assert_eq!(warning.message, "`DATABASE_URL` names `db:5432`, and `api` has no link to it");
    assert_eq!(warning.at.to_string(), "services.api.environment.DATABASE_URL");
    assert_eq!(warning.help, ["let it: `links: [\"db:5432\"]`"]);
    for links in ["db", "db:5432"] {
        let plan = world([svc("api").env("DATABASE_URL", url).links(links), svc("db").expose("5432")]).plan();
        assert!(plan.warnings.is_empty(), "{links}");
    }
    assert_eq!(only_warning(&world([svc("api").env("URL", url).links("db:1"), svc("db")])).code, "WS0550");
}

#[test]
fn values_that_name_replicas_and_what_runs_elsewhere_are_looked_at() {
    let warning = only_warning(&world([svc("web").env("API", "http://api-2:80"), replicas(svc("api"), 2)]));
    assert_eq!(warning.message, "`API` names `api-2:80`, and `web` has no link to it");
    assert_eq!(warning.help, ["let it: `links: [\"api:80\"]`"]);
    world([svc("web").env("API", "api:80 api-1:80").links("api:80"), replicas(svc("api"), 2)]).plan();

    let linked = svc("web").links("orders");
    let warning =
        only_warning(&with_orders([linked.clone(), svc("api").env("ORDERS", "https://orders:443/")]));
    assert_eq!((warning.code, warning.help[0].as_str()), ("WS0550", "let it: `links: [orders]`"));
    let warning = only_warning(&with_orders([linked.clone().env("ORDERS", "orders:80")]));
    assert_eq!(warning.help, ["`orders` is reached on 443 only"]);
    let warning = only_warning(&with_orders([linked.clone().env("ORDERS", "localhost:443")]));
    assert_eq!(warning.help, ["`orders` is `orders:443` there"]);
    assert!(with_orders([linked.env("ORDERS", "orders:443")]).plan().warnings.is_empty());
}

#[test]
fn every_probe_with_a_port_declares_it() {
    let plan = world([
        svc("api").links("db"),
        svc("db").tcp(1).with(|s| {
            s.startup = s.ready.clone();
            s.liveness = s.ready.clone();
            for (probe, port) in [(&mut s.startup, 2), (&mut s.liveness, 3)] {
                probe.as_mut().unwrap().kind = ProbeKind::Grpc { port, service: String::new() };
            }
        }),
    ])
    .plan();
    assert_eq!(links(&plan.services["api"]), ["db:1/tcp", "db:2/tcp", "db:3/tcp"]);
}

#[test]
fn localhost_is_the_service_itself() {
    let warning =
        only_warning(&world([svc("api").env("URL", "localhost:5432").links("db"), svc("db").tcp(5432)]));
    assert_eq!(warning.code, "WS0551");
    assert_eq!(warning.help, ["`db` is `db:5432` there"]);
    let own = world([svc("api").env("URL", "localhost:80").tcp(80), svc("db").tcp(80)]).plan();
    assert!(own.warnings.is_empty());
}

// ---- facts

#[test]
fn the_host_is_told_where_to_look() {
    let mut world = world([svc("api")
        .dir("services/api")
        .writable("data")
        .reads("/etc/nginx")
        .volumes("./deep/er/conf:/x")]);
    world.secret("key", "secrets/key");
    let paths: BTreeSet<PathBuf> = paths_of_interest(&world.workspace).into_iter().collect();
    for expected in [
        "",
        "services",
        "services/api",
        "data",
        "/etc/nginx",
        "/x",
        "deep",
        "deep/er",
        "deep/er/conf",
        "secrets/key",
        ".env",
    ] {
        assert!(paths.contains(&path(expected)), "{expected} in {paths:?}");
    }
    assert!(!paths.contains(Path::new("/etc")));
}

// ---- the plan as a whole

fn shop() -> World {
    let mut world = world([
        svc("db").tcp(5432).volumes("pg:/var/lib/pg").run("/usr/lib/pg/bin/postgres -D /var/lib/pg"),
        task("migrate").links("db").run("./migrate.sh 'now!'"),
        svc("api")
            .dir("services/api")
            .build("cargo build")
            .links("db cache:6379")
            .after("migrate")
            .ports("8080:80")
            .secrets("key")
            .tmpfs("/cache")
            .memory(512),
        svc("cache"),
        svc("web").dir("services/web").links("api:80").ports("0:3000"),
    ]);
    world.volume("pg");
    world.secret("key", "secrets/key");
    world
}

#[test]
fn a_plan_agrees_with_itself() {
    assert_eq!(lint(&shop().plan()), Vec::<String>::new());
}

fn external_plan(text: &str, address: Ipv4Addr) -> ExternalPlan {
    ExternalPlan { name: name(text), address, port: 80, host: ExternalHost::Loopback }
}

#[test]
fn a_plan_that_does_not_agree_with_itself_is_found_out() {
    type Spoil = fn(&mut Plan);
    let spoil = |change: Spoil| {
        let mut plan = shop().plan();
        change(&mut plan);
        lint(&plan)
    };
    let cases: [(&str, Spoil); 16] = [
        ("have the address", |plan| {
            let address = plan.services["db"].address;
            plan.services.get_mut("api").unwrap().address = address;
        }),
        ("have the index", |plan| {
            let index = plan.services["db"].index;
            plan.services.get_mut("api").unwrap().index = index;
        }),
        ("beyond the network", |plan| plan.services.get_mut("api").unwrap().index = 1 << 20),
        ("links to db at another address", |plan| {
            plan.services.get_mut("migrate").unwrap().links[0].address = Ipv4Addr::LOCALHOST;
        }),
        ("which is not there", |plan| {
            plan.services.remove("cache");
        }),
        ("is not in an earlier wave", |plan| plan.waves.reverse()),
        ("is in no wave", |plan| {
            plan.waves.pop();
        }),
        ("not parents first", |plan| plan.services.get_mut("api").unwrap().view.binds.reverse()),
        ("runs the relative", |plan| plan.services.get_mut("api").unwrap().run.argv = vec!["a/b".to_owned()]),
        ("runs nothing", |plan| plan.services.get_mut("api").unwrap().run.argv.clear()),
        ("is root inside", |plan| plan.services.get_mut("api").unwrap().view.uid = 0),
        ("which is not in the plan", |plan| plan.volumes.clear()),
        ("is called as no replica of web", |plan| {
            plan.services.get_mut("db").unwrap().declared = name("web");
        }),
        ("db is a service and external", |plan| plan.external.push(external_plan("db", Ipv4Addr::LOCALHOST))),
        ("orders and api have the address", |plan| {
            plan.external.push(external_plan("orders", plan.services["api"].address));
        }),
        ("443/tcp of orders, which is not its port", |plan| {
            plan.external.push(external_plan("orders", Ipv4Addr::LOCALHOST));
            let mut link = plan.services["web"].links[0].clone();
            link.to = name("orders");
            link.port.port = 443;
            plan.services.get_mut("web").unwrap().links.push(link);
        }),
    ];
    for (expected, change) in cases {
        let faults = spoil(change);
        assert!(faults.iter().any(|fault| fault.contains(expected)), "{expected}: {faults:?}");
    }
}

#[test]
fn the_plan_reads_well() {
    insta::assert_snapshot!(describe(&shop().plan()));
}

/// Everything that a plan can tell.
fn everything() -> World {
    let probe = |kind, failures| Probe {
        kind,
        start_interval: Duration::from_millis(200),
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(5),
        within: Duration::from_secs(60),
        failures,
    };
    let hook = |text: &str| HookCommand {
        command: CommandLine(text.split(' ').map(str::to_owned).collect()),
        timeout: Duration::from_secs(60),
    };
    let mut world = with_orders([
        replicas(svc("api").dir("services/api").build("make").links("db orders").ports("0:80"), 3).with(
            |s| {
                s.startup = Some(probe(ProbeKind::Tcp { port: 80 }, 3));
                s.ready = Some(probe(
                    ProbeKind::Http {
                        port: 80,
                        path: "/healthz".to_owned(),
                        headers: vec![("Authorization".to_owned(), "Bearer x".to_owned())],
                        status: vec![(200, 200), (300, 399)],
                        body: Some("^ok".to_owned()),
                    },
                    3,
                ));
                s.liveness = Some(probe(ProbeKind::Grpc { port: 81, service: "shop.Api".to_owned() }, 1));
                s.hooks.pre_start = vec![hook("./migrate"), hook("./warm up")];
                s.hooks.post_start = vec![hook("./register")];
                s.hooks.pre_stop = vec![hook("./drain")];
                s.stop.command = Some(CommandLine(vec!["./stop".to_owned(), "now please".to_owned()]));
                s.success_exit_codes = vec![143];
                s.logs = LogRetention {
                    max_size: Some(ByteSize::mib(10)),
                    max_files: Some(3),
                    max_age: Some(Duration::from_secs(7 * 24 * 3600)),
                };
            },
        ),
        svc("db").probe(ProbeKind::Notify).with(|s| {
            s.liveness = s.ready.clone();
            s.expose = vec![PortProto { port: 5432, protocol: Protocol::Tcp }];
            s.tty = true;
        }),
        task("seed").after("db api").with(|s| s.depends_on[0].restart = true),
        svc("web").links("api:80 api:81!"),
    ]);
    world.workspace.requires =
        vec![Requirement { program: "node".to_owned(), version: ">=20, <23".to_owned() }];
    world
}

#[test]
fn a_plan_of_everything_reads_well() {
    let plan = everything().plan();
    assert_eq!(lint(&plan), Vec::<String>::new());
    insta::assert_snapshot!(describe(&plan));
}

#[test]
fn a_graph_of_everything_reads_well() {
    let plan = everything().plan();
    insta::assert_snapshot!(format!(
        "{}\n{}\n{}",
        graph::render_text(&plan),
        graph::to_mermaid(&plan),
        graph::to_dot(&plan)
    ));
}

/// `ws graph --format svg` is drawn by a library that reads a part of the language.
#[test]
fn what_draws_can_read_the_graph() {
    for world in [shop(), everything()] {
        let plan = world.plan();
        let dot = graph::to_dot(&plan);
        let parsed = DotParser::new(&dot).process().unwrap();
        let mut builder = GraphBuilder::new();
        builder.visit_graph(&parsed);
        let declared: BTreeSet<_> = plan.services.values().map(|unit| &unit.declared).collect();
        assert_eq!(builder.get().num_nodes(), declared.len() + plan.external.len());
    }
}

#[test]
fn json_tells_of_replicas_and_of_what_runs_elsewhere() {
    let plan = everything().plan();
    let json = to_json(&plan);
    assert_eq!(json["requires"][0]["version"], ">=20, <23");
    assert_eq!(json["external"][0]["elsewhere"], "orders.example:443");
    let api = &json["services"][1];
    assert_eq!(
        (&api["service"], &api["declared"], &api["replica"]),
        (&"api-2".into(), &"api".into(), &2.into())
    );
    assert_eq!(api["hooks"]["pre_start"][1]["command"][1], "up");
    assert_eq!(api["hooks"]["pre_stop"][0]["timeout_ms"], 60_000);
    assert_eq!(api["stop"]["command"][1], "now please");
    assert_eq!(api["success_exit_codes"], serde_json::json!([0, 143]));
    assert_eq!(api["logs"]["max_bytes"], 10 << 20);
    assert!(!json.to_string().contains("Bearer"), "the values of headers may be private");

    let graph = graph::to_json(&plan);
    let nodes = graph["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), plan.services.len() + 1);
    let orders = nodes.iter().find(|node| node["type"] == "external").unwrap();
    assert_eq!((&orders["service"], &orders["wave"]), (&"orders".into(), &serde_json::Value::Null));
    let edges = graph["edges"].as_array().unwrap();
    assert!(
        edges.iter().any(|edge| edge["from"] == "api-3" && edge["to"] == "orders" && edge["wait"].is_null())
    );
}

#[test]
fn the_graph_reads_well() {
    insta::assert_snapshot!(graph::render_text(&shop().plan()));
}

#[test]
fn a_graph_of_circles_ends() {
    let plan = world([svc("a").links("b:1"), svc("b").links("a:1"), svc("c").links("c:1 a:1!")]).plan();
    assert_eq!(
        graph::render_text(&plan),
        "c\n└── a  reaches 1/tcp\n    └── b  reaches 1/tcp\n        └── a  reaches 1/tcp · see above\n"
    );
}

#[test]
fn the_graph_is_nodes_and_edges() {
    let graph = graph::to_json(&shop().plan());
    assert_eq!(graph["nodes"].as_array().unwrap().len(), 6);
    assert_eq!(graph["nodes"][0]["service"], "api");
    assert_eq!(graph["nodes"][0]["wave"], 3);
    let edge = graph["edges"]
        .as_array()
        .unwrap()
        .iter()
        .find(|edge| edge["from"] == "api" && edge["to"] == "db")
        .unwrap();
    assert_eq!(edge["wait"]["condition"], "ready");
    assert_eq!(edge["ports"][0]["port"], 5432);
    assert_eq!(edge["ports"][0]["protocol"], "tcp");
}

#[test]
fn the_plan_as_json_has_no_secret_and_plain_units() {
    let mut world = shop();
    world.options.accept = Some(Level::Limited);
    let json = to_json(&world.plan());
    assert_eq!(json["level"], "limited");
    let api = &json["services"][0];
    assert_eq!(api["service"], "api");
    assert_eq!(api["limits"]["memory_bytes"], 512 << 20);
    assert_eq!(api["stop"]["grace_ms"], 10_000);
    assert_eq!(api["secrets"][0]["file"], "/run/secrets/key");
    assert_eq!(api["waits"][0]["condition"], Condition::Completed.as_str());
    assert_eq!(json["waves"].as_array().unwrap().len(), 5);
}

#[test]
fn a_plan_is_the_same_every_time() {
    let world = shop();
    assert_eq!(world.plan(), world.plan());
}

#[test]
fn a_thousand_services_are_planned() {
    let services = (0..1000).map(|i| {
        let service = svc(&format!("s{i:04}")).dir(&format!("services/s{i:04}")).tcp(80);
        if i == 0 { service } else { service.links(&format!("s{:04}", i / 2)) }
    });
    let mut world = world(services);
    let entries = (0..1000).map(|i| (format!("s{i:04}"), PathKind::Directory)).collect();
    world.facts.entries.insert(path("services"), entries);
    let plan = resolve(&world.workspace, &world.facts, &world.options).unwrap();
    assert!(plan.services.values().all(|service| service.view.binds.len() <= 4));
    assert_eq!(plan.channels.len(), 500);
}

// ---- who may reach whom

#[test]
fn who_may_reach_whom_is_told_with_its_line() {
    let web = svc("web").links("api").with(|service| service.replicas = 2);
    let world = world([svc("db").expose("5432 5433"), svc("api").expose("80").links("db:5432"), web]);
    let plan = world.plan();
    let tcp = |port| Some(PortProto { port, protocol: Protocol::Tcp });
    let yes = |from: &str, to: &str, port| match plan::reach(&plan, from, to, port) {
        Some(Reach::Yes(rules)) => rules.iter().map(|rule| format!("{} {}", rule.port, rule.at)).collect(),
        _ => Vec::new(),
    };
    assert_eq!(yes("api", "db", tcp(5432)), ["5432/tcp services.api.links[0]"]);
    assert_eq!(yes("api", "db", None), ["5432/tcp services.api.links[0]"]);
    assert_eq!(yes("web", "api", tcp(80)), ["80/tcp services.web.links[0]"]);
    assert_eq!(yes("web-2", "api", tcp(80)), ["80/tcp services.web.links[0]"]);
    let Some(Reach::OtherPorts { by, suggestion }) = plan::reach(&plan, "api", "db", tcp(5433)) else {
        panic!("it may reach another port")
    };
    assert_eq!(
        (by.len(), suggestion.to_string()),
        (1, "add `links: [\"db:5433\"]` to `services.api`".into())
    );
    let no = |from: &str, to: &str| match plan::reach(&plan, from, to, tcp(80)) {
        Some(Reach::No { suggestion }) => suggestion.map(|it| it.add),
        other => panic!("{other:?}"),
    };
    assert_eq!(no("db", "web"), Some("links: [\"web:80\"]".to_owned()));
    // Nothing in the file leads there.
    assert_eq!(no("db", "example.com"), None);
    assert_eq!(plan::reach(&plan, "nobody", "db", None), None);
    assert_eq!(plan::reach(&plan, "web-1", "web-2", None), Some(Reach::Itself));
    let who: Vec<String> = plan::reached_by(&plan, "api")
        .into_iter()
        .map(|it| format!("{} {} {}", it.service, it.port, it.at))
        .collect();
    assert_eq!(who, ["web 80/tcp services.web.links[0]"], "once for all replicas");
    assert!(plan::reached_by(&plan, "web").is_empty());
}
