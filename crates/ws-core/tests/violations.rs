//! What the engine does about violations, as scenarios of the module `engine`, and what the planner decides about them.
//!
//! `db tries api:80` sends to where no link leads, `db calls mount`, `db touches /home/ada/.ssh/id_rsa`, `db swells` is
//! killed for its memory by parts; a `?` at the end: it is not certain who it was.

use std::path::Path;
use std::time::Duration;

use ws_core::change::{UnitChange, between};
use ws_core::engine::{Generation, Input};
use ws_core::plan::{PolicyPlan, RuleSource};
use ws_core::policy::Observation;
use ws_model::{
    Accept, ByteSize, ConfigPath, Evidence, FileAct, Mechanism, NetworkAct, PolicyAction, PolicyRule,
    Posture, Reload, RestartPolicy, ServiceName, Violation, ViolationClass,
};

use crate::engine::{check, check_plan};
use crate::support::{Svc, name, path, svc, task, world};

/// What is seen, in words.
pub(crate) fn seen(service: ServiceName, generation: Generation, words: &[&str]) -> Input {
    let (certain, words) = match words {
        [words @ .., "?"] => (false, words),
        words => (true, words),
    };
    let what = words.get(1).copied().unwrap_or_default();
    let (evidence, mechanism) = match words[0] {
        "tries" => {
            let (host, port) = what.split_once(':').unwrap();
            let evidence = Evidence::Network {
                act: NetworkAct::Sent,
                protocol: "tcp".to_owned(),
                destination: host.parse().ok(),
                port: port.parse().ok(),
                name: host.parse::<std::net::IpAddr>().is_err().then(|| host.to_owned()),
                lookup: None,
            };
            (evidence, Mechanism::Nflog)
        }
        "looks-up" => {
            let evidence = Evidence::Network {
                act: NetworkAct::Sent,
                protocol: "udp".to_owned(),
                destination: "10.77.0.1".parse().ok(),
                port: Some(53),
                name: None,
                lookup: Some(what.to_owned()),
            };
            (evidence, Mechanism::Nflog)
        }
        "calls" => {
            let answer = "EPERM".to_owned();
            (Evidence::Syscall { name: what.to_owned(), detail: None, answer }, Mechanism::Seccomp)
        }
        "touches" => (Evidence::Decoy { path: what.to_owned(), act: FileAct::Opened }, Mechanism::Inotify),
        "swells" => (Evidence::Memory { limit_bytes: None }, Mechanism::MemoryEvents),
        other => panic!("no such news: {other}"),
    };
    let process = None;
    Input::Observed(Box::new(Observation {
        service,
        generation: Some(generation),
        evidence,
        mechanism,
        process,
        count: 1,
        lost: 0,
        certain,
    }))
}

/// `db!network:report`, `db!network:report*3`
pub(crate) fn show(service: &ServiceName, violation: &Violation) -> String {
    let count = if violation.count == 1 { String::new() } else { format!("*{}", violation.count) };
    format!("{service}!{}:{}{count}", violation.class, violation.action)
}

#[test]
fn what_is_only_told_disturbs_nobody() {
    check(
        [svc("db"), svc("web")],
        "up            -> +db +web db=starting web=starting
         db executed   -> db=ready
         web executed  -> web=ready READY
         web tries db:5432 -> web!network:report
         web tries db:5432 ->
         web tries db:5432 ->
         after 1s      -> web!network:report*2
         after 600s    ->
         web tries db:5432 -> web!network:report
         status web    -> ready ready restarts=0 because probe_ok",
    );
}

#[test]
fn a_resolver_that_asks_on_is_no_violation() {
    // Names without an IPv6 address in `/etc/hosts` are asked for; any other name is an attempt.
    check(
        [svc("db"), svc("web").about("network:kill").after("db")],
        "up            -> +db db=starting web=waiting
         db executed   -> +web db=ready web=starting
         web executed  -> web=ready READY
         web looks-up db ->
         web looks-up db.shop ->
         web looks-up web ->
         web looks-up db.example.org -> KILL web web!network:kill web=stopping",
    );
}

#[test]
fn who_is_killed_stays_down_and_its_siblings_do_not_notice() {
    check(
        [svc("db"), svc("web").about("network:kill").after("db!").policy(RestartPolicy::Always)],
        "up            -> +db db=starting web=waiting
         db executed   -> +web db=ready web=starting
         web executed  -> web=ready READY
         web tries db:5432 -> KILL web web!network:kill web=stopping
         web tries db:5432 ->
         web killed 9  -> web!network:report web=violated
         status web    -> violated restarts=0 was killed by SIGKILL because violation
         status db     -> ready ready restarts=0 because probe_ok
         why web       -> web: violated: tried db:5432 (tcp), and no link leads there
         after 600s    ->
         db exited 1   -> db=backoff
         after 10s     -> +db db=starting
         db executed   -> db=ready
         restart web   -> +web web=starting
         web executed  -> web=ready",
    );
}

#[test]
fn no_hook_runs_and_no_signal_is_sent_before_it_is_dead() {
    check(
        [svc("web").about("syscalls:kill").pre_stop("drain").stop_command("bye")],
        "up              -> +web web=starting
         web executed    -> web=ready READY
         web calls mount -> KILL web web!syscalls:kill web=stopping
         web killed 9    -> web=violated",
    );
}

#[test]
fn a_stop_that_goes_on_is_cut_short() {
    check(
        [svc("web").about("network:kill")],
        "up           -> +web web=starting
         web executed -> web=ready READY
         stop web     -> TERM web web=stopping
         web tries 10.0.0.1:25 -> KILL web web!network:kill web=stopping
         stop web     ->
         web killed 9 -> web=violated",
    );
}

#[test]
fn what_waits_on_one_that_is_killed_fails_with_it() {
    check(
        [svc("db").tcp(5432).about("network:kill"), svc("web").after("db!")],
        "up            -> +db db=starting web=waiting
         db executed   -> ?db db=running
         db tries 8.8.8.8:53 -> KILL db db!network:kill db=stopping
         db killed 9   -> db=violated web=failed FAILED [db broke its policy: it tried 8.8.8.8:53 (tcp), and no link leads there]
         why web       -> web: failed: db broke its policy: it tried 8.8.8.8:53 (tcp), and no link leads there | db: violated: tried 8.8.8.8:53 (tcp), and no link leads there",
    );
}

#[test]
fn one_that_did_it_and_was_gone_does_not_come_again() {
    check(
        [svc("web").about("network:kill").policy(RestartPolicy::Always)],
        "up            -> +web web=starting
         web executed  -> web=ready READY
         web exited 0  -> web=backoff
         web tries 8.8.8.8:53 -> web!network:kill web=violated
         after 600s    ->",
    );
    check(
        [task("job").about("network:kill"), svc("web").after("job")],
        "up            -> +job job=starting web=waiting
         job executed  -> job=running
         job exited 0  -> +web job=exited web=starting
         job tries 8.8.8.8:53 -> job!network:kill job=violated FAILED [job broke its policy: it tried 8.8.8.8:53 (tcp), and no link leads there]",
    );
}

#[test]
fn late_news_of_an_earlier_run_are_only_told() {
    check(
        [svc("web").about("network:kill")],
        "up             -> +web web=starting
         web executed   -> web=ready READY
         restart web    -> TERM web web=stopping
         web exited 0   -> +web web=starting
         web executed   -> web=ready
         web~1 tries 8.8.8.8:53 -> web!network:report
         stop web       -> TERM web web=stopping
         web exited 0   -> web=stopped
         web tries 8.8.8.8:54 -> web!network:report",
    );
}

#[test]
fn a_restart_is_a_failure_and_its_policy_decides() {
    check(
        [svc("web").about("network:restart")],
        "up            -> +web web=starting
         web executed  -> web=ready READY
         web tries 8.8.8.8:53 -> KILL web web!network:restart web=stopping
         web killed 9  -> web=backoff
         after 10s     -> +web web=starting
         web executed  -> web=ready",
    );
    check(
        [svc("web").about("network:restart").policy(RestartPolicy::No)],
        "up            -> +web web=starting
         web executed  -> web=ready READY
         web tries 8.8.8.8:53 -> KILL web web!network:restart web=stopping
         web killed 9  -> web=violated",
    );
}

#[test]
fn stop_takes_the_workspace_down() {
    check(
        [svc("db"), svc("web").about("decoys:stop").after("db"), task("job").after("web")],
        "up            -> +db db=starting job=waiting web=waiting
         db executed   -> +web db=ready web=starting
         web executed  -> +job web=ready job=starting
         web touches /home/ada/.ssh/id_rsa -> KILL web KILL job TERM db web!decoys:stop web=stopping FAILED [web opened the decoy /home/ada/.ssh/id_rsa, and its policy stops the workspace for it] job=stopping db=stopping
         web killed 9  -> web=violated
         job killed 9  -> job=stopped
         db exited 0   -> db=stopped
         is-down       -> true",
    );
}

#[test]
fn a_build_breaks_its_policy_like_a_service() {
    let mut world = world([svc("web").build("make")]);
    let rule = PolicyRule { action: Some(PolicyAction::Kill), ..PolicyRule::default() };
    world.workspace.policy.rules.insert(ViolationClass::Network, rule);
    check_plan(
        world.plan(),
        "up                   -> Before web-build web=waiting web-build=building
         web-build needed     -> +web-build
         web-build executed   -> web-build=building
         web-build tries 151.101.1.6:443 -> KILL web-build web-build!network:kill web-build=stopping
         web-build killed 9   -> web-build=violated web=failed FAILED [web-build broke its policy: it tried 151.101.1.6:443 (tcp), and no link leads there]",
    );
}

#[test]
fn who_it_was_is_not_certain() {
    check(
        [svc("web").about("network:kill")],
        "up            -> +web web=starting
         web executed  -> web=ready READY
         web tries 8.8.8.8:53 ? -> web!network:report",
    );
}

#[test]
fn too_much_memory_is_one_event_however_it_is_seen() {
    // The group first: what is left of the run is killed, and its restart policy decides.
    check(
        [svc("web").memory(64)],
        "up            -> +web web=starting
         web executed  -> web=ready READY
         web swells    -> KILL web web!memory:restart web=stopping
         web oom       -> web=backoff
         status web    -> backoff restarts=0 was killed by SIGKILL because oom",
    );
    // The end first.
    check(
        [svc("web").memory(64)],
        "up            -> +web web=starting
         web executed  -> web=ready READY
         web oom       -> web!memory:restart web=backoff
         web swells    ->",
    );
    check(
        [svc("web").memory(64).about("memory:kill")],
        "up            -> +web web=starting
         web executed  -> web=ready READY
         web oom       -> web!memory:kill web=violated
         status web    -> violated restarts=0 was killed by SIGKILL because violation",
    );
    check(
        [svc("web").memory(64).about("memory:stop"), svc("db")],
        "up            -> +db +web db=starting web=starting
         db executed   -> db=ready
         web executed  -> web=ready READY
         web oom       -> TERM db web!memory:stop web=violated FAILED [web needed more memory than its limit, 64M, and its policy stops the workspace for it] db=stopping",
    );
    // A part of it that is killed is told, and the rest goes on.
    check(
        [svc("web").memory(64).about("memory:report")],
        "up            -> +web web=starting
         web executed  -> web=ready READY
         web swells    -> web!memory:report
         web exited 0  -> web=exited web!",
    );
    check(
        [svc("web").memory(64).about("memory:off")],
        "up            -> +web web=starting
         web executed  -> web=ready READY
         web swells    ->
         web oom       -> web=backoff",
    );
}

#[test]
fn a_file_does_not_start_what_broke_its_policy() {
    check(
        [svc("web").about("network:kill")],
        "up            -> +web web=starting
         web executed  -> web=ready READY
         web tries 8.8.8.8:53 -> KILL web web!network:kill web=stopping
         changed web restart src/main.rs ->
         web killed 9  -> web=violated
         changed web restart src/main.rs ->
         up            -> +web web=starting",
    );
}

// ---- what is decided before

fn planned(service: Svc) -> PolicyPlan {
    world([service]).plan().services[&name("web")].policy.clone()
}

fn action(policy: &PolicyPlan, class: ViolationClass) -> PolicyAction {
    policy.rules[&class].action
}

#[test]
fn a_service_says_more_than_the_workspace_and_that_more_than_the_posture() {
    let rule = |action| PolicyRule { action: Some(action), ..PolicyRule::default() };
    let mut world = world([svc("web").about("network:off"), svc("db")]);
    world.workspace.policy.posture = Some(Posture::Strict);
    world.workspace.policy.rules.insert(ViolationClass::Network, rule(PolicyAction::Stop));
    world.workspace.policy.rules.insert(ViolationClass::Pids, rule(PolicyAction::Kill));
    let plan = world.plan();
    let (web, db) = (&plan.services[&name("web")].policy, &plan.services[&name("db")].policy);
    assert_eq!(action(web, ViolationClass::Network), PolicyAction::Off);
    assert_eq!(action(db, ViolationClass::Network), PolicyAction::Stop);
    assert_eq!(action(web, ViolationClass::Pids), PolicyAction::Kill);
    assert_eq!(action(web, ViolationClass::Syscalls), PolicyAction::Kill, "strict");
    let from = |policy: &PolicyPlan, class| policy.rules[&class].from.to_string();
    assert_eq!(from(web, ViolationClass::Network), "services.web.policy.network");
    assert_eq!(from(db, ViolationClass::Network), "policy.network");
    assert_eq!(from(db, ViolationClass::Syscalls), "default (strict)");
    assert!(!web.detects(ViolationClass::Network));
    assert!(db.detects(ViolationClass::Network));
}

#[test]
fn decoys_are_in_the_home_and_never_where_something_is_declared() {
    let policy = planned(svc("web"));
    let of = |policy: &PolicyPlan, below: &str| {
        let found = policy.decoys.iter().find(|decoy| decoy.path.ends_with(below));
        found.map(|decoy| decoy.rule.action)
    };
    assert_eq!(of(&policy, ".ssh/id_ed25519"), Some(PolicyAction::Kill));
    assert_eq!(of(&policy, ".aws/credentials"), Some(PolicyAction::Report), "SDKs look at it by themselves");
    for never in [".npmrc", ".netrc", ".gitconfig", "pip.conf"] {
        assert_eq!(of(&policy, never), None, "{never}");
    }
    // Said in the file, it is said of all.
    assert_eq!(of(&planned(svc("web").about("decoys:kill")), ".aws/credentials"), Some(PolicyAction::Kill));
    assert_eq!(of(&planned(svc("web").about("decoys:report")), ".ssh/id_rsa"), Some(PolicyAction::Report));
    assert!(planned(svc("web").about("decoys:off")).decoys.is_empty());
    let strict = svc("web").with(|service| service.policy.posture = Some(Posture::Strict));
    assert_eq!(of(&planned(strict), ".aws/credentials"), Some(PolicyAction::Kill));
    // What is mounted there is real.
    let home = policy.decoys[0].path.ancestors().nth(2).unwrap().to_owned();
    let mounted = svc("web").volumes(&format!("/srv/aws:{}", home.join(".aws").display()));
    let mounted = planned(mounted);
    assert_eq!(of(&mounted, ".aws/credentials"), None);
    assert_eq!(of(&mounted, ".ssh/id_rsa"), Some(PolicyAction::Kill));
    let below = planned(svc("web").volumes(&format!("/srv/keys:{}", home.join(".ssh/keys").display())));
    assert_eq!(of(&below, ".ssh/id_rsa"), None, "beside a mount nobody is to be surprised");
    let empty = planned(svc("web").tmpfs(&home.join(".config").display().to_string()));
    assert_eq!(of(&empty, ".config/gcloud/credentials.db"), None);
}

#[test]
fn the_programs_of_the_file_may_be_executed() {
    let service = svc("web").run("bin/server --port 80").pre_stop("drain now").with(|service| {
        service.policy.processes = Some(vec!["node".to_owned()]);
    });
    let policy = planned(service);
    assert!(policy.detects(ViolationClass::Processes));
    let may = |program: &Path| policy.may_execute(program);
    assert!(may(&path("bin/server")));
    assert!(may(Path::new("/usr/bin/drain")));
    assert!(may(Path::new("/usr/bin/node")));
    assert!(!may(Path::new("/usr/bin/curl")));
    assert!(!planned(svc("web")).detects(ViolationClass::Processes), "off until it is set");
}

#[test]
fn processor_time_is_looked_at_when_it_is_limited() {
    assert!(!planned(svc("web")).detects(ViolationClass::Cpu));
    let service = svc("web").with(|service| {
        let rule = PolicyRule { over: Some(90), ..PolicyRule::default() };
        service.policy.rules.insert(ViolationClass::Cpu, rule);
    });
    let policy = planned(service);
    assert!(policy.detects(ViolationClass::Cpu));
    assert_eq!(policy.cpu.map(|cpu| (cpu.percent, cpu.window.as_secs())), Some((90, 10)));
    let from = &policy.rules[&ViolationClass::Cpu].from;
    let at = ConfigPath::service("web").key("policy").key("cpu");
    assert_eq!(*from, RuleSource::File(at));
    assert_eq!(planned(svc("web")).log_rate, Some(ByteSize::mib(10).0));
}

// ---- two runs at once

fn overlapping(about: &str) -> Svc {
    svc("web").tcp(80).about(about).with(|service| service.reload = Reload::Overlap)
}

#[test]
fn whichever_run_it_was_both_are_killed() {
    check(
        [overlapping("network:kill")],
        "up             -> +web web=starting
         web executed   -> ?web web=running
         web ok         -> web=ready READY
         restart web    -> ++web~2
         web~2 executed -> ?web~2
         web~2 tries 8.8.8.8:53 -> KILL web~2 KILL web web!network:kill web=stopping
         web~1 killed 9 ->
         web~2 killed 9 -> web=violated",
    );
    check(
        [overlapping("network:kill")],
        "up             -> +web web=starting
         web executed   -> ?web web=running
         web ok         -> web=ready READY
         restart web    -> ++web~2
         web~1 tries 8.8.8.8:53 -> KILL web~2 KILL web web!network:kill web=stopping
         web~2 killed 9 ->
         web~1 killed 9 -> web=violated",
    );
}

#[test]
fn a_new_run_that_breaks_the_policy_does_not_take_the_place_of_the_old_one() {
    check(
        [overlapping("network:restart")],
        "up             -> +web web=starting
         web executed   -> ?web web=running
         web ok         -> web=ready READY
         restart web    -> ++web~2
         web~2 executed -> ?web~2
         web~2 tries 8.8.8.8:53 -> KILL web~2 web!network:restart web~overlap:Failed
         web~2 killed 9 ->
         status web     -> ready ready restarts=0 because probe_ok",
    );
    check(
        [overlapping("memory:kill").memory(64)],
        "up             -> +web web=starting
         web executed   -> ?web web=running
         web ok         -> web=ready READY
         restart web    -> ++web~2
         web~2 executed -> ?web~2
         web~2 oom      -> KILL web web!memory:kill web~overlap:Failed web=stopping
         web~1 killed 9 -> web=violated",
    );
}

// ---- another policy while it runs

/// What is different when the policy of the one service becomes another, and whether it is started again.
#[track_caller]
fn check_change(from: &str, to: &str, change: impl FnOnce(Svc) -> Svc, restart: bool, expected: &[&str]) {
    let plan = |service: Svc| world([service]).plan();
    let difference = between(&plan(svc("web").about(from)), &plan(change(svc("web").about(to))));
    let lines: Vec<String> = difference
        .lines
        .iter()
        .map(|line| format!("{}{}", line.text, if line.widens { " [widens]" } else { "" }))
        .collect();
    assert_eq!(lines, expected);
    let wanted = if restart { UnitChange::Restart } else { UnitChange::Live };
    assert!(difference.units.values().all(|unit| *unit == wanted), "{:?}", difference.units);
}

#[test]
fn a_policy_that_does_less_widens() {
    let same = |web: Svc| web;
    check_change(
        "network:kill",
        "network:report",
        same,
        false,
        &["policy network: kill becomes report [widens]"],
    );
    check_change("network:report", "network:stop", same, false, &["policy network: report becomes stop"]);
    // That it is said is no difference.
    check_change("", "network:report", same, false, &[]);
    check_change("decoys:kill", "decoys:off", same, true, &["policy decoys: kill becomes off [widens]"]);
    // The default is less for some of them.
    check_change("decoys:kill", "", same, false, &["policy decoys: less is done about some [widens]"]);
    let rule = |after, within| {
        move |mut web: Svc| {
            let rule = web.service.policy.rules.entry(ViolationClass::Network).or_default();
            (rule.after, rule.within) = (Some(after), Some(Duration::from_secs(within)));
            web
        }
    };
    check_change(
        "network:kill",
        "network:kill",
        rule(3, 10),
        false,
        &["policy network: kill becomes kill after 3 within 10 s [widens]"],
    );
    let limited = |percent| {
        move |mut web: Svc| {
            let rule = web.service.policy.rules.entry(ViolationClass::Cpu).or_default();
            rule.over = Some(percent);
            web
        }
    };
    check_change("", "", limited(90), false, &["policy cpu: any becomes over 90 % for 10 s"]);
    let programs = |mut web: Svc| {
        web.service.policy.processes = Some(vec!["node".to_owned()]);
        web
    };
    // Whether they are asked about is settled when a run starts.
    check_change("", "", programs, true, &["processes: any becomes node, serve"]);
    let accepting = |mut web: Svc| {
        let to = Some("db:5432".to_owned());
        web.service.policy.accept.push(Accept { class: ViolationClass::Network, to, why: "old".to_owned() });
        web
    };
    check_change("", "", accepting, false, &["accepted: network db:5432: old [widens]"]);
}

#[test]
fn a_new_service_that_is_watched_less_widens() {
    let with = |services: Vec<Svc>| world(services).plan();
    let change = between(&with(vec![svc("db")]), &with(vec![svc("db"), svc("web").about("network:off")]));
    let texts: Vec<&str> = change.lines.iter().map(|line| line.text.as_str()).collect();
    assert!(change.widens(), "{texts:?}");
    assert!(texts.iter().any(|text| text.contains("policy network: off")), "{texts:?}");
    let change = between(&with(vec![svc("db")]), &with(vec![svc("db"), svc("web").about("network:kill")]));
    assert!(!change.widens());
}
