//! What the judge says: each row an observation and what follows from it.

use std::time::Duration;

use ws_core::plan::{Decoy, PolicyPlan, RulePlan, RuleSource, default_action};
use ws_core::policy::learn::{Learned, learn};
use ws_core::policy::{History, Life, Observation, Told, Verdict, judge};
use ws_model::{
    Accept, ConfigPath, Evidence, FileAct, Mechanism, NetworkAct, PolicyAction, Posture, ServiceName,
    ViolationClass,
};

use crate::support::{svc, world};

const NOTHING: Verdict = Verdict { action: PolicyAction::Off, told: None };

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// `db:5432`
fn tried(to: &str) -> Evidence {
    let (name, port) = to.split_once(':').expect("a name and a port");
    let destination = name.parse().ok();
    Evidence::Network {
        act: NetworkAct::Sent,
        protocol: "tcp".to_owned(),
        name: destination.is_none().then(|| name.to_owned()),
        destination: destination.or_else(|| "10.77.0.9".parse().ok()),
        port: Some(port.parse().expect("a port")),
        lookup: None,
    }
}

fn syscall(name: &str) -> Evidence {
    Evidence::Syscall { name: name.to_owned(), detail: None, answer: "EPERM".to_owned() }
}

fn decoy(path: &str) -> Evidence {
    Evidence::Decoy { path: path.to_owned(), act: FileAct::Opened }
}

fn memory() -> Evidence {
    Evidence::Memory { limit_bytes: Some(64 << 20) }
}

fn seen(evidence: Evidence) -> Observation {
    Observation {
        service: ServiceName::new("api").expect("a name"),
        generation: Some(1),
        mechanism: match evidence.class() {
            ViolationClass::Network => Mechanism::Nflog,
            ViolationClass::Memory => Mechanism::MemoryEvents,
            ViolationClass::Pids => Mechanism::PidsEvents,
            ViolationClass::Cpu => Mechanism::CpuStat,
            ViolationClass::Syscalls => Mechanism::Seccomp,
            ViolationClass::Decoys | ViolationClass::Filesystem => Mechanism::Inotify,
            ViolationClass::Processes => Mechanism::Exec,
            ViolationClass::Logs => Mechanism::Pipe,
        },
        evidence,
        process: None,
        count: 1,
        lost: 0,
        certain: true,
    }
}

fn rule(action: PolicyAction) -> RulePlan {
    RulePlan { action, after: 1, within: None, from: RuleSource::Default(Posture::Default) }
}

/// The defaults, with this done about one class.
fn policy(class: ViolationClass, action: PolicyAction) -> PolicyPlan {
    let mut policy = PolicyPlan::default();
    for class in ViolationClass::ALL {
        policy.rules.insert(class, rule(default_action(class, Posture::Default)));
    }
    policy.rules.insert(class, rule(action));
    policy
}

fn told(verdict: &Verdict) -> &Told {
    verdict.told.as_ref().expect("something is told")
}

#[test]
fn an_action_is_taken_of_a_run_that_goes_on_and_what_is_over_is_told() {
    use Life::{Condemned, Earlier, Over, Runs};
    use PolicyAction::{Kill, Off, Report, Restart, Stop};
    for (wanted, life, done) in [
        (Off, Runs, Off),
        (Report, Runs, Report),
        (Restart, Runs, Restart),
        (Kill, Runs, Kill),
        (Stop, Runs, Stop),
        // It did it and was gone: it is not to come again.
        (Kill, Over, Kill),
        (Stop, Over, Stop),
        (Restart, Over, Report),
        (Kill, Earlier, Report),
        (Stop, Earlier, Report),
        (Kill, Condemned, Report),
        (Off, Over, Off),
    ] {
        let policy = policy(ViolationClass::Network, wanted);
        let verdict = judge(&policy, &mut History::default(), &seen(tried("db:5432")), life, at(0));
        assert_eq!(verdict.action, done, "{wanted} {life:?}");
        assert_eq!(verdict.told.is_some(), done != Off, "{wanted} {life:?}");
        let less = verdict.told.is_some_and(|told| told.unless.is_some());
        assert_eq!(less, done == Report && wanted > Report && life != Condemned, "{wanted} {life:?}");
    }
}

#[test]
fn what_is_done_by_default_is_what_is_documented() {
    use PolicyAction::{Kill, Report, Restart};
    for (class, usual, strict) in [
        (ViolationClass::Network, Report, Kill),
        (ViolationClass::Memory, Restart, Kill),
        (ViolationClass::Pids, Report, Report),
        (ViolationClass::Cpu, Report, Report),
        (ViolationClass::Syscalls, Report, Kill),
        (ViolationClass::Decoys, Kill, Kill),
        (ViolationClass::Processes, Report, Kill),
        (ViolationClass::Filesystem, Report, Report),
        (ViolationClass::Logs, Report, Report),
    ] {
        assert_eq!(default_action(class, Posture::Default), usual, "{class}");
        assert_eq!(default_action(class, Posture::Strict), strict, "{class}");
    }
}

#[test]
fn who_it_was_must_be_certain_for_more_than_a_word() {
    for action in [PolicyAction::Restart, PolicyAction::Kill, PolicyAction::Stop] {
        let policy = policy(ViolationClass::Network, action);
        let mut history = History::default();
        let forged = Observation { certain: false, mechanism: Mechanism::Router, ..seen(tried("db:1")) };
        for _ in 0..100 {
            let verdict = judge(&policy, &mut history, &forged, Life::Runs, at(0));
            assert_eq!(verdict.action, PolicyAction::Report);
        }
        let verdict = judge(&policy, &mut History::default(), &forged, Life::Runs, at(0));
        assert_eq!(told(&verdict).unless.as_deref(), Some("it is not certain that it was api"));
    }
}

#[test]
fn a_threshold_counts_what_comes_within_its_time() {
    let mut limited = policy(ViolationClass::Network, PolicyAction::Kill);
    let rule = limited.rules.get_mut(&ViolationClass::Network).expect("a rule");
    rule.after = 3;
    rule.within = Some(Duration::from_secs(10));
    let mut history = History::default();
    let mut action = |ms: u64, count: u64, generation: u64| {
        let seen = Observation { count, generation: Some(generation), ..seen(tried("db:5432")) };
        judge(&limited, &mut history, &seen, Life::Runs, at(ms)).action.as_str()
    };
    assert_eq!(action(0, 1, 1), "report");
    assert_eq!(action(1_000, 1, 1), "report");
    // The first one is forgotten by now.
    assert_eq!(action(10_500, 1, 1), "report");
    assert_eq!(action(10_900, 1, 1), "kill");
    // Another run begins anew.
    assert_eq!(action(11_000, 1, 2), "report");
    assert_eq!(action(11_000, 1, 2), "report");
    assert_eq!(action(11_000, 1, 3), "report");
    // Those that come together count each.
    assert_eq!(action(12_000, 500, 4), "kill");
}

#[test]
fn before_its_threshold_it_is_told_how_far_it_is() {
    let mut limited = policy(ViolationClass::Syscalls, PolicyAction::Kill);
    limited.rules.get_mut(&ViolationClass::Syscalls).expect("a rule").after = 2;
    let mut history = History::default();
    let first = judge(&limited, &mut history, &seen(syscall("mount")), Life::Runs, at(0));
    assert_eq!(told(&first).unless.as_deref(), Some("kill from the 2nd on, this is 1"));
    let uncertain = Observation { certain: false, ..seen(syscall("mount")) };
    assert_eq!(judge(&limited, &mut history, &uncertain, Life::Runs, at(1)).action, PolicyAction::Report);
    // Any time later, and by another name: the class counts. What was not certain did not.
    let second = judge(&limited, &mut history, &seen(syscall("bpf")), Life::Runs, at(9_000_000));
    assert_eq!(second.action, PolicyAction::Kill);
}

#[test]
fn what_is_accepted_is_not_told() {
    let accepting = |class: ViolationClass, to: Option<&str>| {
        let mut policy = policy(class, PolicyAction::Kill);
        let accept = Accept { class, to: to.map(str::to_owned), why: "known".to_owned() };
        assert_eq!(accept.check(), Ok(()));
        policy.accept.push((accept, ConfigPath::root()));
        policy
    };
    for (class, to, evidence, silent) in [
        (ViolationClass::Network, Some("db:5432"), tried("db:5432"), true),
        (ViolationClass::Network, Some("db:5432"), tried("db:5433"), false),
        (ViolationClass::Network, Some("db"), tried("db:5433"), true),
        (ViolationClass::Network, Some("db:*"), tried("db:5433"), true),
        (ViolationClass::Network, Some("*:53"), tried("1.1.1.1:53"), true),
        (ViolationClass::Network, Some("*:53"), tried("1.1.1.1:54"), false),
        (ViolationClass::Network, Some("169.254.169.254"), tried("169.254.169.254:80"), true),
        (ViolationClass::Network, Some("169.254.0.0/16:80"), tried("169.254.169.254:80"), true),
        (ViolationClass::Network, Some("169.254.0.0/16"), tried("169.253.0.1:80"), false),
        (ViolationClass::Network, Some("0.0.0.0/0"), tried("8.8.8.8:80"), true),
        (ViolationClass::Network, None, tried("8.8.8.8:80"), true),
        (ViolationClass::Network, Some("db"), syscall("mount"), false),
        (ViolationClass::Syscalls, Some("mount"), syscall("mount"), true),
        (ViolationClass::Syscalls, Some("mount"), syscall("mount_setattr"), false),
        (ViolationClass::Decoys, Some("/root/.aws/*"), decoy("/root/.aws/credentials"), true),
        (ViolationClass::Decoys, Some("/root/.aws/*"), decoy("/root/.ssh/id_rsa"), false),
        (ViolationClass::Memory, None, memory(), true),
    ] {
        let verdict =
            judge(&accepting(class, to), &mut History::default(), &seen(evidence.clone()), Life::Runs, at(0));
        assert_eq!(verdict == NOTHING, silent, "{class} {to:?} {evidence}");
    }
}

#[test]
fn an_acceptance_that_can_never_be_met_is_refused() {
    let check = |class, to: &str| Accept { class, to: Some(to.to_owned()), why: String::new() }.check();
    assert!(check(ViolationClass::Network, "db:http").is_err());
    assert!(check(ViolationClass::Network, "db:0").is_err());
    assert!(check(ViolationClass::Network, ":80").is_err());
    assert!(check(ViolationClass::Memory, "db").is_err());
    assert!(check(ViolationClass::Syscalls, "").is_err());
    assert_eq!(check(ViolationClass::Network, "[fe80::1]:80"), Ok(()));
}

#[test]
fn a_decoy_has_a_rule_of_its_own() {
    let mut policy = policy(ViolationClass::Decoys, PolicyAction::Kill);
    let of = |path: &str, action| Decoy { path: path.into(), contents: "".into(), rule: rule(action) };
    policy.decoys =
        vec![of("/root/.ssh/id_rsa", PolicyAction::Kill), of("/root/.aws/credentials", PolicyAction::Report)];
    let action =
        |path: &str| judge(&policy, &mut History::default(), &seen(decoy(path)), Life::Runs, at(0)).action;
    assert_eq!(action("/root/.ssh/id_rsa"), PolicyAction::Kill);
    assert_eq!(action("/root/.aws/credentials"), PolicyAction::Report);
}

#[test]
fn a_program_that_may_be_executed_is_no_violation() {
    let mut policy = policy(ViolationClass::Processes, PolicyAction::Kill);
    policy.processes = Some(vec!["node".to_owned()]);
    let action = |path: &str| {
        let evidence = Evidence::Process { executable: path.to_owned() };
        judge(&policy, &mut History::default(), &seen(evidence), Life::Runs, at(0)).action
    };
    assert_eq!(action("/usr/bin/node"), PolicyAction::Off);
    assert_eq!(action("/usr/bin/curl"), PolicyAction::Kill);
}

#[test]
fn what_repeats_is_counted_and_told_ever_more_rarely() {
    let policy = policy(ViolationClass::Network, PolicyAction::Report);
    let mut history = History::default();
    let mut told_at = Vec::new();
    let mut sum = 0;
    // Ten a second for two minutes.
    for ms in (0..120_000).step_by(100) {
        let verdict = judge(&policy, &mut history, &seen(tried("db:5432")), Life::Runs, at(ms));
        if let Some(told) = verdict.told {
            sum += told.count;
            told_at.push(ms / 1000);
        }
    }
    assert_eq!(told_at, [0, 1, 3, 7, 15, 31, 63]);
    for told in history.rest(at(120_000)) {
        sum += told.count;
        assert_eq!(told.over, at(120_000 - 63_100), "since the first that was not told");
    }
    assert_eq!(sum, 1200, "none is left out and none told twice");
    assert_eq!(history.due(), None);
}

#[test]
fn what_is_not_told_at_once_is_told_when_it_is_due() {
    let policy = policy(ViolationClass::Network, PolicyAction::Report);
    let mut history = History::default();
    let mut judge_at = |ms| judge(&policy, &mut history, &seen(tried("db:5432")), Life::Runs, at(ms)).told;
    assert!(judge_at(0).is_some());
    assert!(judge_at(10).is_none());
    assert!(judge_at(20).is_none());
    assert_eq!(history.due(), Some(at(1000)));
    assert!(history.overdue(at(999)).is_empty());
    let told = history.overdue(at(1000));
    assert_eq!((told.len(), told[0].count, told[0].over), (1, 2, at(990)));
    assert_eq!(history.due(), None, "an idle service wakes nobody");
    // After a long quiet time it is news again.
    let again = judge(&policy, &mut history, &seen(tried("db:5432")), Life::Runs, at(600_000)).told;
    assert_eq!(again.map(|told| told.count), Some(1));
}

#[test]
fn a_scan_of_all_ports_is_told_in_bounds_and_hides_no_other_class() {
    let policy = policy(ViolationClass::Network, PolicyAction::Report);
    let mut history = History::default();
    let (mut events, mut count) = (0, 0);
    for port in 1..=65_535_u64 {
        // In three seconds.
        let now = at(port * 3_000 / 65_535);
        let evidence = tried(&format!("10.77.0.1:{port}"));
        if let Some(told) = judge(&policy, &mut history, &seen(evidence), Life::Runs, now).told {
            events += 1;
            count += told.count;
        }
    }
    let mount = judge(&policy, &mut history, &seen(syscall("mount")), Life::Runs, at(3_000));
    assert_eq!(told(&mount).count, 1);
    count += history.rest(at(3_000)).iter().map(|told| told.count).sum::<u64>();
    assert_eq!(count, 65_535);
    assert!(events < 80, "{events} events");
    let size = format!("{history:?}").len();
    assert!(size < 100_000, "{size} bytes are remembered");
}

#[test]
fn what_was_lost_is_told() {
    let policy = policy(ViolationClass::Network, PolicyAction::Kill);
    let flood = Observation { count: 256, lost: 99_744, ..seen(tried("db:5432")) };
    let verdict = judge(&policy, &mut History::default(), &flood, Life::Runs, at(0));
    assert_eq!(told(&verdict).lost, 99_744);
    assert_eq!(verdict.action, PolicyAction::Kill);
    // Only a counter moved: nothing is known, so nothing is reached.
    let mut limited = policy;
    limited.rules.get_mut(&ViolationClass::Network).expect("a rule").after = 3;
    let mut history = History::default();
    let only_lost = Observation { count: 0, lost: 7, ..seen(tried("db:5432")) };
    let verdict = judge(&limited, &mut history, &only_lost, Life::Runs, at(0));
    assert_eq!((verdict.action, told(&verdict).lost, told(&verdict).count), (PolicyAction::Report, 7, 0));
}

#[test]
fn memory_is_told_once_whether_its_group_or_its_end_says_it_first() {
    let policy = policy(ViolationClass::Memory, PolicyAction::Restart);
    let by = |mechanism| Observation { mechanism, ..seen(memory()) };
    // The group first, then the end of the run.
    let mut history = History::default();
    let first = judge(&policy, &mut history, &by(Mechanism::MemoryEvents), Life::Runs, at(0));
    assert_eq!((first.action, first.told.is_some()), (PolicyAction::Restart, true));
    let end = judge(&policy, &mut history, &by(Mechanism::Exit), Life::Over, at(5));
    assert_eq!((end.action, end.told), (PolicyAction::Restart, None));
    // The end first.
    let mut history = History::default();
    let end = judge(&policy, &mut history, &by(Mechanism::Exit), Life::Over, at(0));
    assert_eq!((end.action, end.told.is_some()), (PolicyAction::Restart, true));
    let late = judge(&policy, &mut history, &by(Mechanism::MemoryEvents), Life::Over, at(5));
    assert_eq!(late, NOTHING);
    // The next run is another matter.
    let next = Observation { generation: Some(2), ..by(Mechanism::MemoryEvents) };
    let next = judge(&policy, &mut history, &next, Life::Runs, at(100_000));
    assert_eq!((next.action, next.told.is_some()), (PolicyAction::Restart, true));
}

#[test]
fn a_deed_is_told_at_once_with_all_that_led_to_it() {
    let mut limited = policy(ViolationClass::Network, PolicyAction::Kill);
    limited.rules.get_mut(&ViolationClass::Network).expect("a rule").after = 5;
    let mut history = History::default();
    let mut last = NOTHING;
    for ms in 0..5 {
        last = judge(&limited, &mut history, &seen(tried("db:5432")), Life::Runs, at(ms));
    }
    assert_eq!((last.action, told(&last).count), (PolicyAction::Kill, 4), "the first was told by itself");
    assert_eq!(history.due(), None);
}

// ---- what would have sufficed

fn row(service: &str, evidence: Evidence) -> ws_model::ViolationRow {
    let at = ws_model::Timestamp { unix_ms: 0 };
    ws_model::ViolationRow {
        seq: 1,
        at,
        service: ServiceName::new(service).expect("a name"),
        class: evidence.class(),
        mechanism: Mechanism::Nflog,
        evidence,
        action: PolicyAction::Report,
        count: 1,
        events_lost: 0,
        first_at: at,
        last_at: at,
        process: None,
        rule: "default".to_owned(),
        unless: None,
        suggestion: None,
    }
}

#[test]
fn what_is_learnt_is_the_least_that_would_have_sufficed() {
    let api = svc("api").memory(64).with(|service| service.replicas = 2);
    let plan = world([api, svc("db").expose("5432 5433"), svc("web").build("make")]).plan();
    let limit = |limit| Evidence::Memory { limit_bytes: Some(limit) };
    let executed = Evidence::Process { executable: "/usr/bin/git".to_owned() };
    let rows = [
        // Two replicas, one link; twice the same.
        row("api-1", tried("db:5432")),
        row("api-2", tried("db:5432")),
        row("api-1", tried("api-2:80")),
        row("api-1", limit(64 << 20)),
        row("api-2", limit(32 << 20)),
        row("db", Evidence::Pids { limit: 10 }),
        row("db", executed),
        row("db", tried("8.8.8.8:53")),
        row("db", syscall("mount")),
        row("db", decoy("/root/.ssh/id_rsa")),
        row("web-build", tried("db:5432")),
    ];
    let learned = learn(&plan, &rows);
    let wishes: Vec<String> = learned.wishes.iter().map(ToString::to_string).collect();
    assert_eq!(
        wishes,
        [
            "api: link to db:5432/tcp",
            "api: limits.memory: 128M",
            "db: limits.pids: 20",
            "db: may execute /usr/bin/git"
        ]
    );
    assert_eq!(learned.left.len(), 5, "{:#?}", learned.left);
    assert!(learned.left.iter().any(|text| text.contains("8.8.8.8:53") && text.contains("`external`")));
    assert_eq!(learn(&plan, &[]), Learned::default());
}
