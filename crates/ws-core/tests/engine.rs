//! How the engine behaves, as scenarios: each line is what happens and, after `->`, what is done and
//! told.
//!
//! Done: `+db` start, `*db` start its build, `TERM db` and the like, `KILL db`, `?db` probe whether it is ready
//! (`?db/startup`, `?db/live`), `-?db` stop that, `>db/post_start` run a hook. Told: `db=ready` a phase, `db!` a
//! notice, `db!network:report` a violation, `db"busy"` what it says of itself, `READY` and `FAILED [cause]` of the workspace.

use std::collections::BTreeMap;
use std::time::Duration;

use ws_core::engine::{
    Effect, Engine, FileChange, Hook, Input, Notified, Outcome, Outputs, ProbeRole, Step, Tick,
};
use ws_core::files::Digest;
use ws_core::plan::{Bind, BindSource, Plan, ServicePlan};
use ws_model::{
    EventKind, ExitReason, ProbeKind, RestartPolicy, ServiceName, Trigger, WatchAction, event::signal_name,
};

use crate::support::{ROOT, Svc, name, shared, svc, task, world};

/// Plays a scenario; shows the whole of it as it really went when a line differs.
#[track_caller]
pub(crate) fn check(services: impl IntoIterator<Item = Svc>, script: &str) {
    check_plan(world(services).plan(), script);
}

/// As [`check`]; what is named `…-run-…` is not of the plan, it comes with `add`.
#[track_caller]
pub(crate) fn check_plan(mut plan: Plan, script: &str) {
    let (later, services) = plan.services.into_iter().partition(|(name, _)| name.as_str().contains("-run-"));
    plan.services = services;
    let stage = Stage { engine: Engine::new(plan), later, plans: BTreeMap::new(), now: Duration::ZERO };
    play_on(stage, script);
}

/// As [`check`], with plans that are adopted: `adopt two`.
#[track_caller]
fn check_plans<const N: usize>(first: Plan, plans: [(&str, Plan); N], script: &str) {
    let plans = plans.into_iter().map(|(name, plan)| (name.to_owned(), plan)).collect();
    let stage = Stage { engine: Engine::new(first), later: BTreeMap::new(), plans, now: Duration::ZERO };
    play_on(stage, script);
}

#[track_caller]
fn play_on(mut stage: Stage, script: &str) {
    let mut went = String::new();
    let mut expected = String::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (input, wanted) = line.split_once("->").unwrap_or((line, ""));
        let result = stage.play(input.trim());
        went += format!("{} -> {result}", input.trim()).trim_end();
        went.push('\n');
        expected += format!("{} -> {}", input.trim(), wanted.trim()).trim_end();
        expected.push('\n');
    }
    assert!(went == expected, "\nexpected:\n{expected}\nwent:\n{went}");
}

/// `api=1 web=2`: what each uses of what was made, as the first byte of a digest.
fn outputs(words: &[&str]) -> Outputs {
    let one = |word: &&str| {
        let (user, digest) = word.split_once('=').unwrap();
        (name(user), Digest([digest.parse().unwrap(); 32]))
    };
    words.iter().map(one).collect()
}

struct Stage {
    engine: Engine,
    later: BTreeMap<ServiceName, ServicePlan>,
    plans: BTreeMap<String, Plan>,
    now: Tick,
}

impl Stage {
    fn play(&mut self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap();
        let rest: Vec<&str> = words.collect();
        let services = || -> Vec<ServiceName> { rest.iter().map(|word| name(word)).collect() };
        let input = match first {
            "up" => Input::Up { services: services() },
            "stop" => Input::Stop { services: services() },
            "restart" => Input::Restart { services: services() },
            "kill" => Input::Kill { services: services() },
            "down" => Input::Down { now: rest == ["now"] },
            "add" => Input::Add { service: Box::new(self.later[&name(rest[0])].clone()) },
            "adopt" => Input::Adopt { plan: Box::new(self.plans[rest[0]].clone()) },
            "remove" => Input::Remove { service: name(rest[0]) },
            "changed" => Input::FilesChanged {
                changes: vec![FileChange {
                    service: name(rest[0]),
                    action: match rest[1] {
                        "rebuild" => WatchAction::Rebuild,
                        "restart" => WatchAction::Restart,
                        "hup" => WatchAction::Signal(1),
                        other => panic!("no such action: {other}"),
                    },
                    trigger: Trigger { files: rest[2..].iter().map(ToString::to_string).collect(), more: 0 },
                }],
            },
            "host-lost" => Input::HostLost { error: rest.join(" ") },
            "after" => return self.pass(rest[0]),
            "why" => return self.engine.explain(&name(rest[0])).join(" | "),
            "who" => return self.who(),
            "is-changing" => return self.engine.is_changing().to_string(),
            "has" => return self.has(rest[0]).to_string(),
            "is-down" => return self.engine.is_down().to_string(),
            "status" => return self.status(rest[0]),
            service => self.news(service, &rest),
        };
        let outcome = self.engine.step(input, self.now);
        show(&outcome, &self.engine)
    }

    /// `db ok`, `db~1 exited 0`
    fn news(&self, service: &str, words: &[&str]) -> Input {
        let (service, generation) = match service.split_once('~') {
            Some((service, generation)) => (name(service), generation.parse().unwrap()),
            None => {
                let service = name(service);
                let status = self.engine.status().into_iter().find(|status| status.service == service);
                (service, status.unwrap().generation)
            }
        };
        let text = words[1..].join(" ");
        let number = || -> i32 { text.parse().unwrap() };
        match words[0] {
            "executed" => Input::Executed { service, generation, pid: Some(7) },
            "needed" => Input::Checked { service, generation, result: Ok(None) },
            "fresh" => Input::Checked { service, generation, result: Ok(Some(outputs(&words[1..]))) },
            "unknown" => Input::Checked { service, generation, result: Err(text) },
            "made" => Input::Recorded { service, generation, result: Ok(outputs(&words[1..])) },
            "switched" => Input::Switched { service, generation },
            "placed" => Input::Placed { service, result: Ok(()) },
            "unplaced" => Input::Placed { service, result: Err(text) },
            "displaced" => Input::Displaced { service, errors: Vec::new() },
            "updated" => Input::Updated { service, result: Ok(()) },
            "refused" => Input::Updated { service, result: Err(text) },
            "startfail" => Input::StartFailed { service, generation, error: text, hopeless: false },
            "hopeless" => Input::StartFailed { service, generation, error: text, hopeless: true },
            "exited" => Input::Exited { service, generation, exit: ExitReason::Code(number()), oom: false },
            "killed" => Input::Exited { service, generation, exit: ExitReason::Signal(number()), oom: false },
            "oom" => Input::Exited { service, generation, exit: ExitReason::Signal(9), oom: true },
            "ok" | "miss" => Input::Probed {
                service,
                generation,
                probe: match words.get(1) {
                    None => ProbeRole::Ready,
                    Some(&"startup") => ProbeRole::Startup,
                    Some(&"live") => ProbeRole::Live,
                    Some(other) => panic!("no such probe: {other}"),
                },
                result: match words[0] {
                    "ok" => Ok("answered".to_owned()),
                    _ => Err("refused".to_owned()),
                },
            },
            "did" | "failed" => Input::HookEnded {
                service,
                generation,
                hook: match words[1] {
                    "post_start" => Hook::PostStart,
                    "pre_stop" => Hook::PreStop,
                    "stop" => Hook::Stop,
                    other => panic!("no such hook: {other}"),
                },
                result: if words[0] == "did" { Ok(()) } else { Err("`x` exited with 1".to_owned()) },
            },
            "says" => Input::Notified {
                service,
                generation,
                news: match words[1] {
                    "READY" => Notified::Ready,
                    "RELOADING" => Notified::Reloading,
                    "STOPPING" => Notified::Stopping,
                    "STATUS" => Notified::Status(words[2..].join(" ")),
                    "EXTEND" => Notified::ExtendTimeout(duration(words[2])),
                    "WATCHDOG" => Notified::Watchdog,
                    "TRIGGER" => Notified::WatchdogTrigger,
                    other => panic!("nobody says {other}"),
                },
            },
            _ => crate::violations::seen(service, generation, words),
        }
    }

    /// Lets time pass, from deadline to deadline.
    fn pass(&mut self, time: &str) -> String {
        let end = self.now + duration(time);
        let mut all = Outcome::default();
        while let Some(deadline) = self.engine.next_deadline().filter(|deadline| *deadline <= end) {
            self.now = self.now.max(deadline);
            let outcome = self.engine.step(Input::Tick, self.now);
            all.effects.extend(outcome.effects);
            all.events.extend(outcome.events);
        }
        self.now = end;
        show(&all, &self.engine)
    }

    /// Whether the engine's plan is this one.
    fn has(&self, plan: &str) -> bool {
        *self.engine.plan() == self.plans[plan]
    }

    fn who(&self) -> String {
        let names = self.engine.status().into_iter().map(|status| status.service.to_string());
        names.collect::<Vec<_>>().join(" ")
    }

    fn status(&self, service: &str) -> String {
        let status = self.engine.status().into_iter().find(|status| status.service == name(service)).unwrap();
        let ready = if status.ready { " ready" } else { "" };
        let exit = status.exit.map(|exit| format!(" {exit}")).unwrap_or_default();
        let says = status.status.map(|words| format!(" {words:?}")).unwrap_or_default();
        let probe = status.probe_error.map(|error| format!(" probe={error}")).unwrap_or_default();
        format!(
            "{}{ready} restarts={}{exit}{says}{probe} because {}",
            status.phase,
            status.restarts,
            status.cause.reason.as_str()
        )
    }
}

/// `200ms`, `5s`
fn duration(text: &str) -> Duration {
    match text.strip_suffix("ms") {
        Some(ms) => Duration::from_millis(ms.parse().unwrap()),
        None => Duration::from_secs(text.strip_suffix('s').unwrap().parse().unwrap()),
    }
}

fn probed(service: &str, probe: ProbeRole) -> String {
    match probe {
        ProbeRole::Startup => format!("?{service}/startup"),
        ProbeRole::Ready => format!("?{service}"),
        ProbeRole::Live => format!("?{service}/live"),
    }
}

/// A run that is not in charge has its number with its name.
fn show(outcome: &Outcome, engine: &Engine) -> String {
    let status = engine.status();
    let run = |service: &ServiceName, generation: u64| {
        let in_charge = status.iter().find(|status| status.service == *service);
        match in_charge.is_none_or(|status| status.generation == generation) {
            true => service.to_string(),
            false => format!("{service}~{generation}"),
        }
    };
    let effects = outcome.effects.iter().map(|effect| match effect {
        Effect::Start { service, step: Step::Main, .. } => format!("+{service}"),
        Effect::Start { service, step: Step::Build, .. } => format!("*{service}"),
        Effect::Signal { service, signal, generation } => {
            format!("{} {}", signal_name(*signal).trim_start_matches("SIG"), run(service, *generation))
        }
        Effect::Kill { service, generation } => format!("KILL {}", run(service, *generation)),
        Effect::StartProbe { service, probe, generation } => probed(&run(service, *generation), *probe),
        Effect::StopProbe { service, probe, generation } => {
            format!("-{}", probed(&run(service, *generation), *probe))
        }
        Effect::StartBeside { service, generation } => format!("++{service}~{generation}"),
        Effect::Switch { service, generation } => format!("={service}~{generation}"),
        Effect::Hold { service } => format!("hold {service}"),
        Effect::Release { service } => format!("release {service}"),
        Effect::Fingerprint { service, moment, .. } => format!("{moment:?} {service}"),
        Effect::Place { service } => format!("place {}", service.name),
        Effect::Displace { service } => format!("displace {service}"),
        Effect::Update { service } => format!("update {}", service.name),
        Effect::RunHook { service, hook, generation } => {
            let hook = match hook {
                Hook::PostStart => "post_start",
                Hook::PreStop => "pre_stop",
                Hook::Stop => "stop",
            };
            format!(">{}/{hook}", run(service, *generation))
        }
    });
    let events = outcome.events.iter().map(|(service, event)| match (service, event) {
        (Some(service), EventKind::Phase { phase, .. }) => format!("{service}={phase}"),
        (Some(service), EventKind::FilesChanged { trigger, action }) => {
            format!("{service}~{}:{trigger}", action.as_str())
        }
        (Some(service), EventKind::Reloaded { action, result, .. }) => {
            format!("{service}~{}:{result:?}", action.as_str())
        }
        (Some(service), EventKind::Notice { .. }) => format!("{service}!"),
        (Some(service), EventKind::Violation(it)) => crate::violations::show(service, it),
        (Some(service), EventKind::Status { text }) => format!("{service}{text:?}"),
        (None, EventKind::Notice { .. }) => "!".to_owned(),
        (None, EventKind::WorkspaceReady { .. }) => "READY".to_owned(),
        (None, EventKind::WorkspaceFailed { cause }) => format!("FAILED [{cause}]"),
        (service, event) => panic!("an event without a place: {service:?} {event:?}"),
    });
    effects.chain(events).collect::<Vec<_>>().join(" ")
}

fn db() -> Svc {
    svc("db").tcp(5432)
}

/// With a probe, and waiting for a database that is ready.
fn api() -> Svc {
    svc("api").tcp(80).links("db:5432")
}

// ---- start

#[test]
fn a_service_without_a_probe_is_ready_when_it_is_executed() {
    check(
        [svc("web")],
        "up           -> +web web=starting
         web executed -> web=ready READY",
    );
}

#[test]
fn a_service_with_a_probe_is_ready_when_the_probe_succeeds() {
    check(
        [db()],
        "up          -> +db db=starting
         db executed -> ?db db=running
         db miss     ->
         db ok       -> db=ready READY",
    );
}

#[test]
fn a_task_is_ready_when_it_finished() {
    check(
        [task("migrate")],
        "up               -> +migrate migrate=starting
         migrate executed -> migrate=running
         migrate exited 0 -> migrate=exited READY
         status migrate   -> exited ready restarts=0 exited with 0 because exit",
    );
}

#[test]
fn a_task_with_a_probe_can_be_ready_while_it_runs() {
    check(
        [task("seed").tcp(1), svc("web").after("seed:ready")],
        "up            -> +seed seed=starting web=waiting
         seed executed -> ?seed seed=running
         seed ok       -> +web seed=ready web=starting",
    );
}

#[test]
fn services_that_wait_for_nothing_start_together() {
    check([svc("a"), svc("b"), svc("c")], "up -> +a +b +c a=starting b=starting c=starting");
}

#[test]
fn a_dependent_waits_until_ready() {
    check(
        [db(), api()],
        "up          -> +db api=waiting db=starting
         db executed -> ?db db=running
         db ok       -> +api db=ready api=starting",
    );
}

#[test]
fn a_dependent_waits_until_started() {
    check(
        [svc("db"), svc("api").links("db:5432")],
        "up          -> +db api=waiting db=starting
         db executed -> +api db=ready api=starting",
    );
}

#[test]
fn a_dependent_waits_until_started_and_no_longer() {
    check(
        [db(), svc("api").after("db:started")],
        "up          -> +db api=waiting db=starting
         db executed -> ?db +api db=running api=starting",
    );
}

#[test]
fn a_dependent_waits_until_completed() {
    check(
        [task("migrate"), svc("api").after("migrate")],
        "up               -> +migrate api=waiting migrate=starting
         migrate executed -> migrate=running
         migrate exited 0 -> +api migrate=exited api=starting",
    );
}

#[test]
fn a_service_that_others_wait_for_until_it_completed_is_like_a_task() {
    check(
        [svc("init"), svc("api").after("init:completed")],
        "up            -> +init api=waiting init=starting
         init executed -> init=ready
         init exited 0 -> +api init=exited api=starting
         api executed  -> api=ready READY
         status init   -> exited ready restarts=0 exited with 0 because exit
         up            -> READY",
    );
}

#[test]
fn what_is_waited_for_is_told_again_when_it_becomes_less() {
    check(
        [svc("a"), svc("b"), svc("web").after("a b")],
        "up         -> +a +b a=starting b=starting web=waiting
         why web    -> web: waiting: waits for a (started), b (started) | a: starting: was asked for | b: starting: was asked for
         b executed -> b=ready web=waiting
         why web    -> web: waiting: waits for a (started) | a: starting: was asked for
         a executed -> +web a=ready web=starting
         why web    -> web: starting: a is started, b is started",
    );
}

#[test]
fn only_what_is_asked_for_and_what_it_needs_starts() {
    check(
        [db(), api(), svc("web").after("api"), svc("other")],
        "up api      -> +db api=waiting db=starting
         db executed -> ?db db=running
         db ok       -> +api db=ready api=starting
         api executed -> ?api api=running
         api ok      -> api=ready READY
         status web  -> pending restarts=0 because requested",
    );
}

#[test]
fn an_empty_workspace_is_ready_at_once() {
    check([], "up -> READY");
}

#[test]
fn up_of_what_is_up_says_ready_and_does_nothing() {
    check(
        [svc("web"), task("migrate")],
        "up               -> +migrate +web migrate=starting web=starting
         web executed     -> web=ready
         migrate executed -> migrate=running
         migrate exited 0 -> migrate=exited READY
         up               -> READY",
    );
}

#[test]
fn up_while_it_comes_up_adds_nothing() {
    check(
        [svc("web")],
        "up           -> +web web=starting
         up           ->
         web executed -> web=ready READY",
    );
}

#[test]
fn each_up_is_answered() {
    check(
        [svc("a"), svc("b")],
        "up a       -> +a a=starting
         up b       -> +b b=starting
         b executed -> b=ready READY
         a executed -> a=ready READY",
    );
}

// ---- builds

#[test]
fn a_build_comes_before_the_start() {
    check(
        [svc("api").build("make")],
        "up                   -> Before api-build api=waiting api-build=building
         api-build needed     -> +api-build
         api-build executed   -> api-build=building
         api-build exited 0   -> After api-build api-build=building
         api-build made api=1 -> +api api-build=exited api=starting
         api executed         -> api=ready READY",
    );
}

#[test]
fn what_is_fresh_is_not_built() {
    check(
        [svc("api").build("make")],
        "up                    -> Before api-build api=waiting api-build=building
         api-build fresh api=1 -> +api api-build=exited api=starting
         status api-build      -> exited ready restarts=0 because fresh",
    );
}

#[test]
fn a_build_runs_when_nobody_can_tell_whether_it_must() {
    check(
        [svc("api").build("make")],
        "up                           -> Before api-build api=waiting api-build=building
         api-build unknown no such file -> +api-build api-build!",
    );
}

#[test]
fn a_build_goes_on_beside_the_start_of_what_its_service_waits_for() {
    check(
        [db(), api().build("make")],
        "up                   -> Before api-build +db api=waiting api-build=building db=starting
         api-build needed     -> +api-build
         api-build exited 0   -> After api-build api-build=building
         api-build made api=1 -> api-build=exited api=waiting
         db executed          -> ?db db=running
         db ok                -> +api db=ready api=starting",
    );
}

#[test]
fn a_build_waits_for_what_must_be_completed() {
    check(
        [task("codegen"), svc("api").build("make").after("codegen")],
        "up               -> +codegen api=waiting api-build=waiting codegen=starting
         codegen executed -> codegen=running
         codegen exited 0 -> Before api-build codegen=exited api=waiting api-build=building",
    );
}

#[test]
fn a_failed_build_fails_the_service_without_another_try() {
    check(
        [svc("api").build("make").policy(RestartPolicy::Always), svc("web").after("api")],
        "up                 -> Before api-build api=waiting api-build=building web=waiting
         api-build needed   -> +api-build
         api-build exited 2 -> api-build=failed api=failed web=failed FAILED [api-build failed: exited with 2]
         status api-build   -> failed restarts=0 exited with 2 because build_failed
         status api         -> failed restarts=0 because dependency_failed
         after 100s         ->",
    );
}

#[test]
fn a_build_that_cannot_start_fails_the_service() {
    check(
        [svc("api").build("make")],
        "up                            -> Before api-build api=waiting api-build=building
         api-build needed              -> +api-build
         api-build startfail no `make` -> api-build=failed api=failed FAILED [api-build failed: could not start: no `make`]",
    );
}

#[test]
fn a_crash_does_not_build_again() {
    check(
        [svc("api").build("make")],
        "up                    -> Before api-build api=waiting api-build=building
         api-build fresh api=1 -> +api api-build=exited api=starting
         api executed          -> api=ready READY
         api exited 1          -> api=backoff
         after 1s              -> +api api=starting",
    );
}

#[test]
fn up_after_a_failed_build_builds_again() {
    check(
        [svc("api").build("make")],
        "up                 -> Before api-build api=waiting api-build=building
         api-build needed   -> +api-build
         api-build exited 2 -> api-build=failed api=failed FAILED [api-build failed: exited with 2]
         up                 -> Before api-build api=waiting api-build=building",
    );
}

#[test]
fn a_restart_on_request_looks_whether_it_must_build_again() {
    check(
        [svc("api").build("make")],
        "up                    -> Before api-build api=waiting api-build=building
         api-build fresh api=1 -> +api api-build=exited api=starting
         api executed          -> api=ready READY
         restart api           -> TERM api Before api-build api=stopping api-build=building
         api-build fresh api=1 -> api-build=exited
         api exited 0          -> +api api=starting",
    );
}

#[test]
fn only_what_is_another_is_started_again() {
    check(
        [shared("api"), shared("web")],
        "up                                  -> Before all-build all-build=building api=waiting web=waiting
         all-build fresh api=1 web=1         -> +api +web all-build=exited api=starting web=starting
         api executed                        -> api=ready
         web executed                        -> web=ready READY
         changed all-build rebuild src/a.rs  -> Before all-build all-build~rebuild:src/a.rs all-build=building
         all-build needed                    -> +all-build
         all-build exited 0                  -> After all-build all-build=building
         all-build made api=2 web=1          -> TERM api all-build=exited api=stopping
         api exited 0                        -> +api api=starting
         api executed                        -> api=ready api~rebuild:Done
         changed all-build rebuild src/b.rs  -> Before all-build all-build~rebuild:src/b.rs all-build=building
         all-build needed                    -> +all-build
         all-build exited 0                  -> After all-build all-build=building
         all-build made api=2 web=1          -> all-build=exited all-build~rebuild:Unchanged",
    );
}

#[test]
fn a_failed_build_disturbs_nobody_who_runs() {
    check(
        [svc("api").build("make")],
        "up                                 -> Before api-build api=waiting api-build=building
         api-build fresh api=1              -> +api api-build=exited api=starting
         api executed                       -> api=ready READY
         changed api-build rebuild src/a.rs -> Before api-build api-build~rebuild:src/a.rs api-build=building
         api-build needed                   -> +api-build
         api-build exited 1                 -> api-build=failed api-build~rebuild:Failed
         changed api-build rebuild src/a.rs -> Before api-build api-build~rebuild:src/a.rs api-build=building
         api-build needed                   -> +api-build
         api-build exited 0                 -> After api-build api-build=building
         api-build made api=2               -> TERM api api-build=exited api=stopping",
    );
}

#[test]
fn a_change_in_the_middle_of_a_build_starts_it_over() {
    check(
        [svc("api").build("make")],
        "up                                 -> Before api-build api=waiting api-build=building
         changed api-build rebuild src/a.rs -> Before api-build api-build~rebuild:src/a.rs api-build=building
         api-build~1 needed                 ->
         api-build~2 needed                 -> +api-build
         changed api-build rebuild src/b.rs -> KILL api-build api-build~rebuild:src/b.rs api-build=stopping
         api-build killed 9                 -> Before api-build api-build=building
         api-build needed                   -> +api-build
         api-build exited 0                 -> After api-build api-build=building
         changed api-build rebuild src/c.rs -> Before api-build api-build~rebuild:src/c.rs api-build=building
         api-build~3 made api=1             ->
         api-build fresh api=2              -> +api api-build=exited api-build~rebuild:Unchanged api=starting",
    );
}

// ---- files that change

#[test]
fn a_changed_file_restarts_whoever_is_wanted_in_any_phase() {
    check(
        [svc("api"), svc("web"), svc("off")],
        "up api web                  -> +api +web api=starting web=starting
         api executed                -> api=ready
         web exited 1                -> web=backoff
         changed api restart a.py    -> TERM api api~restart:a.py api=stopping
         changed api restart b.py    -> api~restart:b.py
         api exited 0                -> +api api=starting
         api executed                -> api=ready api~restart:Done
         changed web restart a.py    -> +web web~restart:a.py web=starting
         web executed                -> web=ready web~restart:Done READY
         changed off restart a.py    ->
         changed api hup conf        -> HUP api api~signal:conf api~signal:Done
         stop api                    -> TERM api api=stopping
         changed api restart a.py    ->
         api exited 0                -> api=stopped
         changed api restart a.py    ->",
    );
}

#[test]
fn what_changes_its_own_files_is_found_out() {
    let mut script = String::from("up -> +api api=starting\n api executed -> api=ready READY\n");
    for round in 1..=10 {
        let notice = if round == 10 { "api! " } else { "" };
        script += &format!(
            "changed api restart x -> TERM api {notice}api~restart:x api=stopping
             api exited 0 -> +api api=starting
             api executed -> api=ready api~restart:Done\n"
        );
    }
    script += "changed api restart x ->\n after 5s ->\n after 5s -> TERM api api~restart:x api=stopping\n";
    let mut plan = world([svc("api")]).plan();
    let api = plan.services.values_mut().next().expect("it is there");
    api.view.binds.push(Bind {
        source: BindSource::Host(ROOT.into()),
        target: ROOT.into(),
        writable: true,
        directory: true,
        create: false,
        owner_mapped: false,
    });
    check_plan(plan, &script);
}

#[test]
fn who_saves_what_nobody_inside_can_write_may_do_so_as_often_as_he_likes() {
    let mut script = String::from("up -> +api api=starting\n api executed -> api=ready READY\n");
    for _ in 0..30 {
        script += "changed api restart x -> TERM api api~restart:x api=stopping
             api exited 0 -> +api api=starting
             api executed -> api=ready api~restart:Done\n";
    }
    check([svc("api")], &script);
}

// ---- readiness

#[test]
fn three_misses_in_a_row_make_it_unhealthy_and_one_success_ready_again() {
    check(
        [db()],
        "up          -> +db db=starting
         db executed -> ?db db=running
         db ok       -> db=ready READY
         db miss     ->
         db miss     ->
         db ok       ->
         db miss     ->
         db miss     ->
         db miss     -> db=unhealthy
         db miss     ->
         why db      -> db: unhealthy: not ready any more: refused
         db ok       -> db=ready",
    );
}

#[test]
fn a_dependent_is_not_disturbed_by_what_happens_later() {
    check(
        [db(), api()],
        "up           -> +db api=waiting db=starting
         db executed  -> ?db db=running
         db ok        -> +api db=ready api=starting
         api executed -> ?api api=running
         api ok       -> api=ready READY
         db miss      ->
         db miss      ->
         db miss      -> db=unhealthy
         db exited 1  -> db=backoff
         after 1s     -> +db db=starting
         status api   -> ready ready restarts=0 because probe_ok",
    );
}

#[test]
fn a_service_that_is_not_ready_in_time_is_killed_and_tried_again() {
    check(
        [db()],
        "up           -> +db db=starting
         db executed  -> ?db db=running
         db miss      ->
         after 59s    ->
         after 1s     -> KILL db db=stopping
         why db       -> db: stopping: was not ready within 60 s: refused
         db killed 9  -> db=backoff
         status db    -> backoff restarts=0 was killed by SIGKILL probe=refused because ready_timeout
         after 1s     -> +db db=starting
         status db    -> starting restarts=1 was killed by SIGKILL because ready_timeout",
    );
}

#[test]
fn a_service_that_is_ready_in_time_has_no_deadline() {
    check(
        [db()],
        "up           -> +db db=starting
         db executed  -> ?db db=running
         after 59s    ->
         db ok        -> db=ready READY
         after 1000s  ->",
    );
}

#[test]
fn success_after_the_deadline_comes_too_late() {
    check(
        [db()],
        "up           -> +db db=starting
         db executed  -> ?db db=running
         after 60s    -> KILL db db=stopping
         db ok        ->",
    );
}

#[test]
fn why_names_the_last_word_of_the_probe() {
    check(
        [db(), api()],
        "up          -> +db api=waiting db=starting
         db executed -> ?db db=running
         db miss     ->
         why api     -> api: waiting: waits for db (ready) | db: running: not ready yet: refused",
    );
}

// ---- ends and restarts

#[test]
fn a_failure_is_tried_again_after_a_pause() {
    check(
        [svc("web")],
        "up           -> +web web=starting
         web executed -> web=ready READY
         web exited 1 -> web=backoff
         status web   -> backoff restarts=0 exited with 1 because exit
         after 150ms  ->
         after 100ms  -> +web web=starting
         web executed -> web=ready
         status web   -> ready ready restarts=1 exited with 1 because probe_ok",
    );
}

#[test]
fn the_pauses_become_longer() {
    check(
        [svc("web").with(|s| s.restart.max = None)],
        "up           -> +web web=starting
         web exited 1 -> web=backoff
         after 221ms  -> +web web=starting
         web exited 1 -> web=backoff
         after 359ms  ->
         after 90ms   -> +web web=starting
         web exited 1 -> web=backoff
         after 719ms  ->
         after 170ms  -> +web web=starting
         web exited 1 -> web=backoff
         after 1439ms ->
         after 330ms  -> +web web=starting",
    );
}

#[test]
fn too_many_restarts_in_a_row_are_a_crash_loop() {
    check(
        [svc("web")],
        "up           -> +web web=starting
         web exited 1 -> web=backoff
         after 30s    -> +web web=starting
         web exited 1 -> web=backoff
         after 30s    -> +web web=starting
         web exited 1 -> web=backoff
         after 30s    -> +web web=starting
         web exited 1 -> web=failed FAILED [web failed: exited with 1, and 3 restarts in a row did not help]
         status web   -> failed restarts=3 exited with 1 because crash_loop
         after 100s   ->",
    );
}

#[test]
fn a_stable_run_gives_the_restarts_back() {
    let crash = "web exited 1 -> web=backoff
                 after 1s     -> +web web=starting
                 web executed -> web=ready
                 after 30s    ->";
    let script = format!(
        "up -> +web web=starting
         web executed -> web=ready READY
         {crash}\n{crash}\n{crash}\n{crash}\n{crash}"
    );
    check([svc("web")], &script);
}

#[test]
fn a_run_that_is_unhealthy_is_not_stable() {
    let crash = "web exited 1 -> web=backoff
                 after 5s     -> +web web=starting
                 web executed -> ?web web=running
                 web ok       -> web=ready
                 web miss     ->
                 web miss     ->
                 web miss     -> web=unhealthy
                 after 100s   ->";
    let script = format!(
        "up -> +web web=starting
         web executed -> ?web web=running
         web ok -> web=ready READY
         {crash}\n{crash}\n{crash}
         web exited 1 -> web=failed"
    );
    check([svc("web").tcp(80)], &script);
}

#[test]
fn without_a_policy_a_failure_is_final() {
    check(
        [svc("web").policy(RestartPolicy::No)],
        "up           -> +web web=starting
         web executed -> web=ready READY
         web exited 1 -> web=failed
         after 100s   ->",
    );
}

#[test]
fn a_service_that_exits_with_0_is_flagged_and_stays_down() {
    check(
        [svc("web")],
        "up           -> +web web=starting
         web executed -> web=ready READY
         web exited 0 -> web=exited web!
         status web   -> exited restarts=0 exited with 0 because exit
         after 100s   ->",
    );
}

#[test]
fn always_means_after_an_exit_with_0_too() {
    check(
        [svc("web").policy(RestartPolicy::Always)],
        "up           -> +web web=starting
         web executed -> web=ready READY
         web exited 0 -> web=backoff
         after 1s     -> +web web=starting",
    );
}

#[test]
fn always_does_not_run_a_finished_task_again() {
    check(
        [task("migrate").policy(RestartPolicy::Always)],
        "up               -> +migrate migrate=starting
         migrate exited 0 -> migrate=exited READY
         after 100s       ->",
    );
}

#[test]
fn a_task_that_fails_is_tried_again_only_when_its_policy_says_so() {
    check(
        [task("a"), task("b").policy(RestartPolicy::OnFailure)],
        "up         -> +a +b a=starting b=starting
         b exited 1 -> b=backoff
         a exited 1 -> a=failed FAILED [a failed: exited with 1]
         after 1s   -> +b b=starting",
    );
}

#[test]
fn a_failed_start_falls_under_the_policy() {
    check(
        [svc("web")],
        "up                          -> +web web=starting
         web startfail no such file  -> web=backoff
         why web                     -> web: backoff: could not start: no such file (restart 1 of 3)
         after 1s                    -> +web web=starting",
    );
}

#[test]
fn a_failed_start_without_a_policy_is_final() {
    check(
        [svc("web").policy(RestartPolicy::No)],
        "up                         -> +web web=starting
         web startfail no such file -> web=failed FAILED [web failed: could not start: no such file]
         status web                 -> failed restarts=0 because start_failed",
    );
}

#[test]
fn out_of_memory_is_told_as_such() {
    check(
        [svc("web")],
        "up           -> +web web=starting
         web executed -> web=ready READY
         web oom      -> web!memory:restart web=backoff
         status web   -> backoff restarts=0 was killed by SIGKILL because oom",
    );
}

#[test]
fn a_restart_waits_for_its_dependencies_again() {
    check(
        [db(), api()],
        "up           -> +db api=waiting db=starting
         db executed  -> ?db db=running
         db ok        -> +api db=ready api=starting
         api executed -> ?api api=running
         api ok       -> api=ready READY
         db exited 1  -> db=backoff
         api exited 1 -> api=backoff
         after 1s     -> +db db=starting api=waiting
         db executed  -> ?db db=running
         db ok        -> +api db=ready api=starting",
    );
}

#[test]
fn zero_restarts_means_none() {
    check(
        [svc("web").with(|s| s.restart.max = Some(0))],
        "up           -> +web web=starting
         web executed -> web=ready READY
         web exited 1 -> web=failed
         status web   -> failed restarts=0 exited with 1 because exit",
    );
}

// ---- dependencies that fail

#[test]
fn a_failure_goes_through_to_all_that_wait_with_the_root_cause() {
    check(
        [
            task("migrate"),
            svc("api").after("migrate"),
            svc("web").after("api"),
            svc("edge").after("web"),
        ],
        "up               -> +migrate api=waiting edge=waiting migrate=starting web=waiting
         migrate exited 3 -> migrate=failed api=failed web=failed edge=failed FAILED [migrate failed: exited with 3]
         status edge      -> failed restarts=0 because dependency_failed
         why edge         -> edge: failed: web cannot start: migrate failed: exited with 3 | web: failed: api cannot start: migrate failed: exited with 3 | api: failed: migrate failed: exited with 3 | migrate: failed: exited with 3",
    );
}

#[test]
fn a_service_in_backoff_is_waited_for() {
    check(
        [db(), api()],
        "up          -> +db api=waiting db=starting
         db exited 1 -> db=backoff
         after 1s    -> +db db=starting
         db executed -> ?db db=running
         db ok       -> +api db=ready api=starting",
    );
}

#[test]
fn a_service_that_exits_with_0_before_it_is_ready_fails_its_dependents() {
    check(
        [db(), api()],
        "up          -> +db api=waiting db=starting
         db executed -> ?db db=running
         db exited 0 -> db=exited db! api=failed FAILED [db exited with 0 by itself]
         why api     -> api: failed: db exited with 0 by itself | db: exited: exited with 0 by itself",
    );
}

#[test]
fn a_dependency_that_is_stopped_fails_those_that_still_wait() {
    check(
        [db(), api()],
        "up          -> +db api=waiting db=starting
         db executed -> ?db db=running
         stop db     -> -?db TERM db db=stopping
         db exited 0 -> db=stopped api=failed FAILED [db was stopped]",
    );
}

#[test]
fn dependents_recover_when_the_cause_is_asked_for_again() {
    check(
        [task("migrate"), svc("api").after("migrate"), svc("web").after("api")],
        "up               -> +migrate api=waiting migrate=starting web=waiting
         migrate exited 3 -> migrate=failed api=failed web=failed FAILED [migrate failed: exited with 3]
         up migrate       -> +migrate api=waiting migrate=starting web=waiting
         migrate exited 0 -> +api migrate=exited api=starting READY
         api executed     -> +web api=ready web=starting",
    );
}

#[test]
fn dependents_that_were_stopped_do_not_recover() {
    check(
        [task("migrate"), svc("api").after("migrate")],
        "up               -> +migrate api=waiting migrate=starting
         migrate exited 3 -> migrate=failed api=failed FAILED [migrate failed: exited with 3]
         stop api         -> api=stopped
         up migrate       -> +migrate migrate=starting
         migrate exited 0 -> migrate=exited READY
         status api       -> stopped restarts=0 because requested",
    );
}

#[test]
fn an_optional_dependency_is_waited_for() {
    check(
        [db(), svc("api").after("db?")],
        "up          -> +db api=waiting db=starting
         db executed -> ?db db=running
         db ok       -> +api db=ready api=starting",
    );
}

#[test]
fn an_optional_dependency_that_fails_is_dropped() {
    check(
        [db().policy(RestartPolicy::No), svc("api").after("db?")],
        "up api       -> +db api=waiting db=starting
         db exited 1  -> +api db=failed api=starting
         api executed -> api=ready READY",
    );
}

#[test]
fn a_restart_of_a_service_whose_dependency_was_stopped_fails() {
    check(
        [svc("db"), svc("api").links("db:1")],
        "up           -> +db api=waiting db=starting
         db executed  -> +api db=ready api=starting
         api executed -> api=ready READY
         stop db      -> TERM db db=stopping
         db exited 0  -> db=stopped
         api exited 1 -> api=backoff
         after 1s     -> api=failed
         why api      -> api: failed: db was stopped | db: stopped: was asked to stop",
    );
}

// ---- stop

/// db ← api ← web, all up.
const THREE_UP: &str = "up -> +db api=waiting db=starting web=waiting
    db executed  -> +api db=ready api=starting
    api executed -> +web api=ready web=starting
    web executed -> web=ready READY
";

fn three() -> [Svc; 3] {
    [svc("db"), svc("api").links("db:1"), svc("web").links("api:1")]
}

#[track_caller]
fn check_three(script: &str) {
    check(three(), &format!("{THREE_UP}{script}"));
}

#[test]
fn down_stops_in_reverse_order() {
    check_three(
        "down         -> TERM web api=stopping db=stopping web=stopping
         why db       -> db: stopping: the workspace goes down, after api | api: stopping: the workspace goes down, after web | web: stopping: the workspace goes down
         web killed 15 -> TERM api web=stopped
         api killed 15 -> TERM db api=stopped
         is-down      -> false
         db killed 15 -> db=stopped
         is-down      -> true
         status db    -> stopped restarts=0 was killed by SIGTERM because shutdown",
    );
}

#[test]
fn what_does_not_stop_in_time_is_killed() {
    check_three(
        "down        -> TERM web api=stopping db=stopping web=stopping
         after 9s    ->
         after 1s    -> KILL web web=stopping
         web killed 9 -> TERM api web=stopped
         status web  -> stopped restarts=0 was killed by SIGKILL because grace_exceeded
         why web     -> web: stopped: did not stop within 10 s and was killed",
    );
}

#[test]
fn down_now_kills_all_at_once() {
    check_three(
        "down now     -> KILL api KILL db KILL web api=stopping db=stopping web=stopping
         db killed 9  -> db=stopped
         web killed 9 -> web=stopped
         api killed 9 -> api=stopped
         is-down      -> true",
    );
}

#[test]
fn a_host_that_lost_its_ground_takes_everything_down_and_says_why() {
    check_three(
        "host-lost gone -> KILL api KILL db KILL web FAILED [gone] api=stopping db=stopping web=stopping
         host-lost gone ->
         up             -> ! FAILED [the workspace goes down]
         db killed 9    -> db=stopped
         web killed 9   -> web=stopped
         api killed 9   -> api=stopped
         is-down        -> true",
    );
}

#[test]
fn a_second_down_can_be_less_patient() {
    check_three(
        "down         -> TERM web api=stopping db=stopping web=stopping
         down         ->
         down now     -> KILL api KILL db KILL web api=stopping db=stopping web=stopping
         down now     ->
         web killed 9 -> web=stopped",
    );
}

#[test]
fn down_ends_even_if_the_host_does_not_answer() {
    check(
        [svc("web")],
        "up           -> +web web=starting
         web executed -> web=ready READY
         down         -> TERM web web=stopping
         after 10s    -> KILL web web=stopping
         after 10s    -> web=failed
         is-down      -> true
         why web      -> web: failed: was killed and did not end within 10 s",
    );
}

#[test]
fn down_kills_what_is_being_started_or_built() {
    check(
        [svc("api").build("make"), svc("db"), svc("web").after("db")],
        "up                     -> Before api-build +db api=waiting api-build=building db=starting web=waiting
         api-build needed       -> +api-build
         down                   -> KILL api-build KILL db FAILED [the workspace goes down] api=stopped api-build=stopping db=stopping web=stopped
         db executed            ->
         db killed 9            -> db=stopped
         api-build startfail was killed -> api-build=stopped
         is-down                -> true",
    );
}

#[test]
fn down_ends_pauses() {
    check(
        [svc("web")],
        "up           -> +web web=starting
         web exited 1 -> web=backoff
         down         -> FAILED [the workspace goes down] web=stopped
         is-down      -> true
         after 100s   ->",
    );
}

#[test]
fn nothing_starts_after_down() {
    check(
        [svc("web")],
        "down    ->
         is-down -> true
         up      -> ! FAILED [the workspace goes down]
         restart -> !
         is-down -> true",
    );
}

#[test]
fn an_end_by_itself_during_down_is_no_failure() {
    check_three(
        "down         -> TERM web api=stopping db=stopping web=stopping
         db exited 1  -> db=stopped
         web exited 0 -> TERM api web=stopped
         api exited 0 -> api=stopped
         is-down      -> true",
    );
}

#[test]
fn stop_of_one_leaves_the_others_alone() {
    check_three(
        "stop db     -> TERM db db=stopping
         db exited 0 -> db=stopped
         status api  -> ready ready restarts=0 because probe_ok
         status db   -> stopped restarts=0 exited with 0 because requested",
    );
}

#[test]
fn stop_of_several_goes_in_reverse_order() {
    check_three(
        "stop db api  -> TERM api api=stopping db=stopping
         api exited 0 -> TERM db api=stopped
         db exited 0  -> db=stopped",
    );
}

#[test]
fn stop_without_a_name_stops_all_and_up_starts_again() {
    check_three(
        "stop         -> TERM web api=stopping db=stopping web=stopping
         web exited 0 -> TERM api web=stopped
         api exited 0 -> TERM db api=stopped
         db exited 0  -> db=stopped
         is-down      -> false
         up db        -> +db db=starting
         db executed  -> db=ready READY",
    );
}

#[test]
fn stop_sends_the_declared_signal() {
    check(
        [svc("db").with(|s| s.stop.signal = 2)],
        "up          -> +db db=starting
         db executed -> db=ready READY
         stop        -> INT db db=stopping",
    );
}

#[test]
fn stop_is_idempotent() {
    check(
        [svc("db")],
        "stop        ->
         up          -> +db db=starting
         db executed -> db=ready READY
         stop        -> TERM db db=stopping
         stop        ->
         db exited 0 -> db=stopped
         stop        ->",
    );
}

#[test]
fn stop_while_the_policy_pauses() {
    check(
        [svc("db")],
        "up          -> +db db=starting
         db exited 1 -> db=backoff
         stop db     -> db=stopped FAILED [db was stopped]
         after 100s  ->",
    );
}

#[test]
fn stop_while_it_is_killed_for_not_being_ready() {
    check(
        [db()],
        "up          -> +db db=starting
         db executed -> ?db db=running
         after 60s   -> KILL db db=stopping
         stop db     ->
         db killed 9 -> db=stopped FAILED [db was stopped]
         after 100s  ->",
    );
}

#[test]
fn kill_does_not_wait_and_does_not_restart() {
    check_three(
        "kill db      -> KILL db db=stopping
         db killed 9  -> db=stopped
         after 100s   ->
         status db    -> stopped restarts=0 was killed by SIGKILL because requested",
    );
}

#[test]
fn up_of_what_is_being_stopped_starts_it_again_afterwards() {
    check(
        [svc("db")],
        "up          -> +db db=starting
         db executed -> db=ready READY
         stop        -> TERM db db=stopping
         up          ->
         db exited 0 -> +db db=starting
         db executed -> db=ready READY",
    );
}

// ---- restart on request

#[test]
fn restart_stops_and_starts() {
    check(
        [svc("web")],
        "up           -> +web web=starting
         web executed -> web=ready READY
         restart web  -> TERM web web=stopping
         web exited 0 -> +web web=starting
         why web      -> web: starting: was asked to restart
         web executed -> web=ready
         status web   -> ready ready restarts=1 exited with 0 because probe_ok",
    );
}

#[test]
fn restarts_on_request_are_not_crashes() {
    let again = "restart web  -> TERM web web=stopping
                 web exited 1 -> +web web=starting
                 web executed -> web=ready";
    let script = format!(
        "up -> +web web=starting
         web executed -> web=ready READY
         {again}\n{again}\n{again}\n{again}\n{again}
         web exited 1 -> web=backoff"
    );
    check([svc("web")], &script);
}

#[test]
fn restart_of_all_goes_down_in_reverse_and_up_in_order() {
    check_three(
        "restart      -> TERM web api=stopping db=stopping web=stopping
         web exited 0 -> TERM api web=waiting
         api exited 0 -> TERM db api=waiting
         db exited 0  -> +db db=starting
         db executed  -> +api db=ready api=starting
         api executed -> +web api=ready web=starting",
    );
}

#[test]
fn restart_of_a_dependency_leaves_its_dependents_alone() {
    check_three(
        "restart db  -> TERM db db=stopping
         db exited 0 -> +db db=starting
         status web  -> ready ready restarts=0 because probe_ok",
    );
}

#[test]
fn restart_cuts_a_pause_short() {
    check(
        [svc("web")],
        "up           -> +web web=starting
         web exited 1 -> web=backoff
         restart web  -> +web web=starting",
    );
}

#[test]
fn restart_of_what_failed_starts_it_and_what_it_needs() {
    check(
        [svc("db").policy(RestartPolicy::No), svc("api").links("db:1")],
        "up          -> +db api=waiting db=starting
         db exited 1 -> db=failed api=failed FAILED [db failed: exited with 1]
         restart api -> +db api=waiting db=starting
         db executed -> +api db=ready api=starting",
    );
}

#[test]
fn restart_of_all_does_not_start_what_nobody_asked_for_nor_finished_tasks() {
    check(
        [svc("a"), svc("b"), task("migrate")],
        "up a migrate     -> +a +migrate a=starting migrate=starting
         a executed       -> a=ready
         migrate exited 0 -> migrate=exited READY
         restart          -> TERM a a=stopping",
    );
}

#[test]
fn stop_takes_a_restart_back() {
    check(
        [svc("web")],
        "up           -> +web web=starting
         web executed -> web=ready READY
         restart web  -> TERM web web=stopping
         stop web     ->
         web exited 0 -> web=stopped",
    );
}

#[test]
fn a_run_that_did_not_end_is_not_started_again_beside_itself() {
    check(
        [svc("web")],
        "up           -> +web web=starting
         web executed -> web=ready READY
         restart web  -> TERM web web=stopping
         after 10s    -> KILL web web=stopping
         after 10s    -> web=failed
         up           -> web! FAILED [web failed: was killed and did not end within 10 s]
         web killed 9 ->
         up           -> +web web=starting",
    );
}

// ---- tasks

#[test]
fn a_finished_task_runs_again_when_it_is_named() {
    check(
        [task("migrate"), svc("api").after("migrate")],
        "up               -> +migrate api=waiting migrate=starting
         migrate exited 0 -> +api migrate=exited api=starting
         api executed     -> api=ready READY
         up api           -> READY
         up migrate       -> +migrate migrate=starting
         migrate exited 0 -> migrate=exited READY
         restart migrate  -> +migrate migrate=starting",
    );
}

#[test]
fn a_failed_task_runs_again_with_every_up() {
    check(
        [task("migrate")],
        "up               -> +migrate migrate=starting
         migrate exited 1 -> migrate=failed FAILED [migrate failed: exited with 1]
         up               -> +migrate migrate=starting",
    );
}

#[test]
fn exited_services_start_again_with_up() {
    check(
        [svc("web")],
        "up           -> +web web=starting
         web exited 0 -> web=exited web! FAILED [web exited with 0 by itself]
         up           -> +web web=starting",
    );
}

// ---- the workspace

#[test]
fn the_workspace_fails_once_with_all_causes() {
    check(
        [task("a"), task("b"), svc("web").after("a b")],
        "up         -> +a +b a=starting b=starting web=waiting
         a exited 1 -> a=failed web=failed FAILED [a failed: exited with 1]
         b exited 1 -> b=failed",
    );
}

#[test]
fn a_stop_while_coming_up_ends_the_wait() {
    check(
        [db()],
        "up          -> +db db=starting
         db executed -> ?db db=running
         stop        -> -?db TERM db db=stopping
         db exited 0 -> db=stopped FAILED [db was stopped]",
    );
}

#[test]
fn what_is_not_asked_for_does_not_fail_the_workspace() {
    check(
        [svc("web"), task("other")],
        "up other       -> +other other=starting
         up web         -> +web web=starting
         other exited 1 -> other=failed FAILED [other failed: exited with 1]
         web executed   -> web=ready READY",
    );
}

// ---- startup and liveness

/// All three probes; those of readiness and life go by the same port.
fn full() -> Svc {
    db().startup(ProbeKind::Tcp { port: 1 }).liveness(ProbeKind::Tcp { port: 2 })
}

const FULL_UP: &str = "up -> +db db=starting
    db executed   -> ?db/startup db=running
    db ok startup -> -?db/startup ?db
    db ok         -> ?db/live db=ready READY
";

#[track_caller]
fn check_full(script: &str) {
    check([full()], &format!("{FULL_UP}{script}"));
}

#[test]
fn startup_gates_ready_and_ready_gates_liveness() {
    check_full(
        "db ok         ->
         db ok live    ->
         db ok startup ->",
    );
}

#[test]
fn startup_may_fail_as_often_as_it_likes_within_its_time() {
    check(
        [full()],
        "up              -> +db db=starting
         db executed     -> ?db/startup db=running
         db miss startup ->
         db miss startup ->
         db miss startup ->
         db miss startup ->
         db ok           ->
         why db          -> db: running: not ready yet: refused
         after 59s       ->
         db ok startup   -> -?db/startup ?db
         status db       -> running restarts=0 because executed
         after 59s       ->
         after 1s        -> KILL db db=stopping
         why db          -> db: stopping: was not ready within 60 s",
    );
}

#[test]
fn a_service_that_does_not_start_up_in_time_is_killed_and_tried_again() {
    check(
        [full()],
        "up              -> +db db=starting
         db executed     -> ?db/startup db=running
         db miss startup ->
         after 60s       -> KILL db db=stopping
         why db          -> db: stopping: did not start up within 60 s: refused
         db killed 9     -> db=backoff
         status db       -> backoff restarts=0 was killed by SIGKILL probe=refused because ready_timeout",
    );
}

#[test]
fn without_a_ready_probe_it_is_ready_once_it_has_started_up() {
    check(
        [svc("db").startup(ProbeKind::Tcp { port: 1 }), svc("api").after("db:ready")],
        "up            -> +db api=waiting db=starting
         db executed   -> ?db/startup db=running
         db ok startup -> -?db/startup +api db=ready api=starting",
    );
}

#[test]
fn it_is_started_before_it_has_started_up() {
    check(
        [full(), svc("api").after("db:started")],
        "up          -> +db api=waiting db=starting
         db executed -> ?db/startup +api db=running api=starting",
    );
}

#[test]
fn a_service_without_life_is_stopped_and_its_policy_decides() {
    check_full(
        "db miss live ->
         db miss live ->
         status db    -> ready ready restarts=0 probe=refused because probe_ok
         why db       -> db: ready: answered; since then its liveness probe failed: refused
         db miss live -> -?db -?db/live TERM db db=stopping
         why db       -> db: stopping: did not answer its liveness probe 3 times in a row: refused
         db killed 15 -> db=backoff
         status db    -> backoff restarts=0 was killed by SIGTERM probe=refused because liveness_failed
         after 1s     -> +db db=starting
         why db       -> db: starting: starts again, as it did not answer its liveness probe 3 times in a row: refused
         db executed  -> ?db/startup db=running
         status db    -> running restarts=1 was killed by SIGTERM because executed",
    );
}

#[test]
fn a_success_starts_the_count_anew() {
    check_full(
        "db miss live ->
         db miss live ->
         db ok live   ->
         status db    -> ready ready restarts=0 because probe_ok
         db miss live ->
         db miss live ->",
    );
}

#[test]
fn the_number_of_failures_is_that_of_the_probe() {
    let one = |svc: Svc| {
        svc.with(|service| {
            for probe in [&mut service.ready, &mut service.liveness].into_iter().flatten() {
                probe.failures = 1;
            }
        })
    };
    check(
        [one(full())],
        &format!(
            "{FULL_UP}
             db miss      -> db=unhealthy
             db ok        -> db=ready
             db miss live -> -?db -?db/live TERM db db=stopping
             why db       -> db: stopping: did not answer its liveness probe: refused"
        ),
    );
}

#[test]
fn without_life_and_deaf_it_is_killed_and_still_without_life() {
    check_full(
        "db miss live ->
         db miss live ->
         db miss live -> -?db -?db/live TERM db db=stopping
         after 10s    -> KILL db db=stopping
         db killed 9  -> db=backoff
         why db       -> db: backoff: did not answer its liveness probe 3 times in a row: refused; did not stop within 10 s and was killed (restart 1 of 3)",
    );
}

#[test]
fn without_life_and_without_a_policy_it_has_failed() {
    check(
        [full().policy(RestartPolicy::No), svc("late").after("db")],
        "up db         -> +db db=starting
         db executed   -> ?db/startup db=running
         db ok startup -> -?db/startup ?db
         db ok         -> ?db/live db=ready READY
         db miss live  ->
         db miss live  ->
         db miss live  -> -?db -?db/live TERM db db=stopping
         db exited 0   -> db=failed
         status db     -> failed restarts=0 exited with 0 probe=refused because liveness_failed",
    );
}

#[test]
fn life_counts_from_exec_where_nothing_else_is_asked() {
    check(
        [svc("web").liveness(ProbeKind::Tcp { port: 1 }), task("job").liveness(ProbeKind::Tcp { port: 1 })],
        "up           -> +job +web job=starting web=starting
         web executed -> ?web/live web=ready
         job executed -> ?job/live job=running
         job exited 0 -> job=exited READY",
    );
}

#[test]
fn a_day_of_health_gives_the_restarts_back_whatever_ends_it() {
    let day = "db executed   -> ?db/startup db=running
               db ok startup -> -?db/startup ?db
               db ok         -> ?db/live db=ready
               after 86400s  ->
               db miss       ->
               db miss       ->
               db miss       -> db=unhealthy
               db miss live  ->
               db miss live  ->
               db miss live  -> -?db -?db/live TERM db db=stopping
               db exited 0   -> db=backoff
               after 1s      -> +db db=starting";
    let script = format!(
        "{FULL_UP}db exited 1 -> db=backoff\nafter 1s -> +db db=starting\n{day}\n{day}\n{day}\n{day}\n{day}"
    );
    check([full()], &script);
}

#[test]
fn who_comes_late_waits_for_a_service_that_is_not_ready_for_a_moment() {
    check(
        [db(), api()],
        "up db       -> +db db=starting
         db executed -> ?db db=running
         db ok       -> db=ready READY
         db miss     ->
         db miss     ->
         db miss     -> db=unhealthy
         up api      -> api=waiting
         why api     -> api: waiting: waits for db (ready) | db: unhealthy: not ready any more: refused
         db ok       -> +api db=ready api=starting",
    );
}

// ---- what a run says of itself

fn notifier() -> Svc {
    svc("db").probe(ProbeKind::Notify)
}

const NOTIFIER_UP: &str = "up -> +db db=starting
    db executed   -> db=running
    db says READY -> db=ready READY
";

#[track_caller]
fn check_notifier(script: &str) {
    check([notifier()], &format!("{NOTIFIER_UP}{script}"));
}

#[test]
fn it_is_ready_when_it_says_so() {
    check_notifier("db says READY ->");
}

#[test]
fn it_may_say_so_before_its_exec_is_known() {
    check(
        [notifier()],
        "up            -> +db db=starting
         db says READY ->
         db executed   -> db=ready READY",
    );
}

#[test]
fn it_must_say_so_in_time() {
    check(
        [notifier()],
        "up            -> +db db=starting
         db executed   -> db=running
         after 60s     -> KILL db db=stopping
         why db        -> db: stopping: was not ready within 60 s
         db says READY ->",
    );
}

#[test]
fn it_may_say_that_it_has_started_up() {
    check(
        [db().startup(ProbeKind::Notify)],
        "up            -> +db db=starting
         db executed   -> db=running
         db says READY -> ?db
         db ok         -> db=ready READY",
    );
}

#[test]
fn one_word_is_enough_for_started_up_and_ready() {
    check(
        [notifier().startup(ProbeKind::Notify)],
        "up            -> +db db=starting
         db executed   -> db=running
         db says READY -> db=ready READY",
    );
}

#[test]
fn while_it_reloads_it_is_not_ready() {
    check_notifier(
        "db says RELOADING -> db=unhealthy
         why db            -> db: unhealthy: reloads, and has not said yet that it is ready again
         after 1000s       ->
         db says READY     -> db=ready",
    );
}

#[test]
fn while_it_reloads_no_probe_makes_it_ready() {
    check(
        [db().liveness(ProbeKind::Notify)],
        "up                -> +db db=starting
         db executed       -> ?db db=running
         db ok             -> db=ready READY
         db says RELOADING -> db=unhealthy
         db ok             ->
         db miss           ->
         why db            -> db: unhealthy: reloads, and has not said yet that it is ready again
         db says READY     -> db=ready
         db says RELOADING -> db=unhealthy
         db miss           ->
         db miss           ->
         db says READY     ->
         why db            -> db: unhealthy: not ready any more: refused
         db ok             -> db=ready",
    );
}

#[test]
fn reloading_before_it_was_ready_takes_its_word_back() {
    check(
        [notifier().post_start("warm")],
        "up                -> +db db=starting
         db executed       -> >db/post_start db=running
         db says READY     ->
         db says RELOADING ->
         db did post_start ->
         db says READY     -> db=ready READY",
    );
}

#[test]
fn one_that_says_that_it_stops_is_not_ready() {
    check_notifier(
        "db says STOPPING -> db=unhealthy
         why db           -> db: unhealthy: said that it stops
         db exited 1      -> db=backoff",
    );
}

#[test]
fn its_words_are_kept_and_told_at_most_once_a_second() {
    check_notifier(
        "db says STATUS loads -> db\"loads\"
         db says STATUS loads ->
         db says STATUS 1 %   ->
         db says STATUS 2 %   ->
         status db            -> ready ready restarts=0 \"2 %\" because probe_ok
         after 999ms          ->
         after 1ms            -> db\"2 %\"
         after 10s            ->
         db says STATUS 3 %   -> db\"3 %\"
         db says STATUS 4 %   ->
         db says STATUS 3 %   ->
         after 10s            ->
         db says STATUS       -> db\"\"
         status db            -> ready ready restarts=0 because probe_ok",
    );
}

#[test]
fn its_words_end_with_its_run() {
    check_notifier(
        "db says STATUS 1 % -> db\"1 %\"
         db says STATUS 2 % ->
         stop               -> TERM db db=stopping
         status db          -> stopping restarts=0 \"2 %\" because requested
         db exited 0        -> db=stopped
         status db          -> stopped restarts=0 exited with 0 because requested
         after 10s          ->
         db says STATUS 3 % ->",
    );
}

#[test]
fn a_start_can_be_extended() {
    check(
        [notifier()],
        "up                 -> +db db=starting
         db executed        -> db=running
         after 50s          ->
         db says EXTEND 30s ->
         after 29s          ->
         db says EXTEND 5s  ->
         after 4s           ->
         after 1s           -> KILL db db=stopping
         why db             -> db: stopping: was not ready within 84 s",
    );
}

#[test]
fn a_start_can_not_be_extended_for_ever() {
    check(
        [notifier()],
        "up                    -> +db db=starting
         db executed           -> db=running
         db says EXTEND 86400s ->
         after 3659s           ->
         after 1s              -> KILL db db=stopping",
    );
}

#[test]
fn an_extension_never_makes_it_shorter() {
    check(
        [notifier()],
        "up                -> +db db=starting
         db executed       -> db=running
         db says EXTEND 1s ->
         after 59s         ->
         db says READY     -> db=ready READY
         db says EXTEND 1s ->
         after 1000s       ->",
    );
}

#[test]
fn a_stop_can_be_extended_but_not_for_ever() {
    check_notifier(
        "stop                  -> TERM db db=stopping
         after 9s              ->
         db says EXTEND 20s    ->
         after 19s             ->
         db says EXTEND 86400s ->
         after 581s            ->
         after 1s              -> KILL db db=stopping
         why db                -> db: stopping: did not stop within 610 s and was killed",
    );
}

fn watched() -> Svc {
    notifier().liveness(ProbeKind::Notify).with(|service| {
        service.liveness.as_mut().unwrap().interval = Duration::from_secs(5);
    })
}

#[test]
fn a_watchdog_must_be_told() {
    check(
        [watched()],
        "up               -> +db db=starting
         db executed      -> db=running
         after 30s        ->
         db says READY    -> db=ready READY
         after 4s         ->
         db says WATCHDOG ->
         after 4s         ->
         db says WATCHDOG ->
         after 4s         ->
         after 1s         -> TERM db db=stopping
         why db           -> db: stopping: did not tell its watchdog within 5 s
         after 9s         ->
         db killed 6      -> db=backoff
         status db        -> backoff restarts=0 was killed by SIGABRT because liveness_failed",
    );
}

#[test]
fn what_came_in_time_and_is_read_late_still_counts() {
    let mut engine = Engine::new(world([watched()]).plan());
    let says = |news| Input::Notified { service: name("db"), generation: 1, news };
    let _ = engine.step(Input::Up { services: vec![] }, Duration::ZERO);
    let executed = Input::Executed { service: name("db"), generation: 1, pid: None };
    let _ = engine.step(executed, Duration::ZERO);
    let _ = engine.step(says(Notified::Ready), Duration::ZERO);
    let late = Duration::from_secs(100);
    // Of somebody else, and after the deadline of this one.
    let _ = engine.step(Input::Up { services: vec![] }, late);
    let _ = engine.step(says(Notified::Watchdog), late);
    assert_eq!(engine.step(Input::Tick, late), Outcome::default());
    assert_eq!(engine.next_deadline(), Some(late + Duration::from_secs(5)));
}

#[test]
fn a_watchdog_is_not_told_when_it_stops() {
    check(
        [watched()],
        "up            -> +db db=starting
         db executed   -> db=running
         db says READY -> db=ready READY
         stop          -> TERM db db=stopping
         after 9s      ->
         db exited 0   -> db=stopped",
    );
}

#[test]
fn a_run_may_give_itself_up() {
    check(
        [watched()],
        "up              -> +db db=starting
         db executed     -> db=running
         db says TRIGGER -> TERM db db=stopping
         why db          -> db: stopping: asked to be taken for dead (WATCHDOG=trigger)
         db exited 0     -> db=backoff",
    );
}

#[test]
fn words_of_older_runs_are_not_heard() {
    check_notifier(
        "db exited 1           -> db=backoff
         db says READY         ->
         after 1s              -> +db db=starting
         db executed           -> db=running
         db~1 says READY       ->
         db~1 says STATUS x    ->
         db~1 says TRIGGER     ->
         db~1 did post_start   ->
         db says READY         -> db=ready",
    );
}

// ---- hooks

#[test]
fn post_start_comes_before_ready_and_before_all_probes() {
    check(
        [db().post_start("warm"), svc("api").after("db:started")],
        "up                -> +db api=waiting db=starting
         db executed       -> >db/post_start db=running
         db ok             ->
         db did post_start -> ?db +api api=starting
         db did post_start ->
         db ok             -> db=ready",
    );
}

#[test]
fn post_start_comes_before_ready_without_a_probe() {
    check(
        [svc("db").post_start("warm"), svc("api").links("db:1")],
        "up                -> +db api=waiting db=starting
         db executed       -> >db/post_start db=running
         why api           -> api: waiting: waits for db (started) | db: running: started, its post_start runs
         db did post_start -> +api db=ready api=starting",
    );
}

#[test]
fn the_time_to_be_ready_begins_after_post_start() {
    check(
        [db().post_start("warm")],
        "up                -> +db db=starting
         db executed       -> >db/post_start db=running
         after 50s         ->
         db did post_start -> ?db
         after 59s         ->
         after 1s          -> KILL db db=stopping",
    );
}

#[test]
fn a_post_start_that_fails_ends_the_run_and_the_policy_decides() {
    check(
        [svc("db").post_start("warm"), svc("api").links("db:1")],
        "up                   -> +db api=waiting db=starting
         db executed          -> >db/post_start db=running
         db failed post_start -> TERM db db=stopping
         db exited 0          -> db=backoff
         status db            -> backoff restarts=0 exited with 0 because hook_failed
         why db               -> db: backoff: could not complete its start: post_start `x` exited with 1 (restart 1 of 3)
         after 1s             -> +db db=starting
         db executed          -> >db/post_start db=running",
    );
}

#[test]
fn a_post_start_that_fails_for_good_fails_those_that_wait() {
    check(
        [svc("db").post_start("warm").policy(RestartPolicy::No), svc("api").links("db:1")],
        "up                   -> +db api=waiting db=starting
         db executed          -> >db/post_start db=running
         db failed post_start -> TERM db db=stopping
         db exited 0          -> db=failed api=failed FAILED [db failed: could not complete its start: post_start `x` exited with 1]",
    );
}

#[test]
fn a_post_start_of_which_the_host_does_not_tell_is_not_waited_for() {
    check(
        [svc("db").post_start("warm")],
        "up          -> +db db=starting
         db executed -> >db/post_start db=running
         after 69s   ->
         after 1s    -> KILL db db=stopping
         why db      -> db: stopping: could not complete its start: its post_start did not end within 70 s",
    );
}

#[test]
fn a_task_that_is_faster_than_its_post_start_is_finished() {
    check(
        [task("job").post_start("warm")],
        "up                 -> +job job=starting
         job executed       -> >job/post_start job=running
         job exited 0       -> job=exited READY
         job did post_start ->",
    );
}

#[test]
fn pre_stop_comes_before_the_signal() {
    check(
        [svc("db").pre_stop("drain")],
        "up              -> +db db=starting
         db executed     -> db=ready READY
         stop            -> >db/pre_stop db=stopping
         db did stop     ->
         db did pre_stop -> TERM db
         db did pre_stop ->
         db exited 0     -> db=stopped",
    );
}

#[test]
fn a_stop_command_replaces_the_signal_which_follows_when_it_did_not_help() {
    check(
        [svc("db").stop_command("quit")],
        "up          -> +db db=starting
         db executed -> db=ready READY
         stop        -> >db/stop db=stopping
         db did stop -> TERM db
         db exited 0 -> db=stopped
         up          -> +db db=starting
         db executed -> db=ready READY
         restart     -> >db/stop db=stopping
         db exited 0 -> +db db=starting
         db did stop ->",
    );
}

#[test]
fn hooks_of_a_stop_come_in_order_and_their_failure_holds_nothing_up() {
    check(
        [svc("db").pre_stop("drain").stop_command("quit")],
        "up                 -> +db db=starting
         db executed        -> db=ready READY
         stop               -> >db/pre_stop db=stopping
         db failed pre_stop -> >db/stop db!
         db failed stop     -> TERM db db!
         db exited 0        -> db=stopped",
    );
}

#[test]
fn the_grace_runs_from_the_beginning_of_the_stop() {
    check(
        [svc("db").pre_stop("drain").stop_command("quit")],
        "up              -> +db db=starting
         db executed     -> db=ready READY
         stop            -> >db/pre_stop db=stopping
         after 4s        ->
         db did pre_stop -> >db/stop
         after 4s        ->
         db did stop     -> TERM db
         after 1s        ->
         after 1s        -> KILL db db=stopping
         why db          -> db: stopping: did not stop within 10 s and was killed",
    );
}

#[test]
fn a_hook_that_takes_the_whole_grace_is_named() {
    check(
        [svc("a").pre_stop("drain"), svc("b").stop_command("quit")],
        "up         -> +a +b a=starting b=starting
         a executed -> a=ready
         b executed -> b=ready READY
         stop       -> >a/pre_stop >b/stop a=stopping b=stopping
         after 10s  -> KILL a KILL b a=stopping b=stopping
         why a      -> a: stopping: was killed, as its pre_stop did not end within 10 s
         why b      -> b: stopping: was killed, as its stop command did not end within 10 s",
    );
}

#[test]
fn killing_skips_hooks() {
    check(
        [svc("a").pre_stop("drain").stop_command("quit"), svc("b").pre_stop("drain")],
        "up             -> +a +b a=starting b=starting
         a executed     -> a=ready
         b executed     -> b=ready READY
         kill a         -> KILL a a=stopping
         stop b         -> >b/pre_stop b=stopping
         down now       -> KILL b b=stopping
         b did pre_stop ->
         b killed 9     -> b=stopped
         a killed 9     -> a=stopped
         is-down        -> true",
    );
}

#[test]
fn a_run_without_life_gets_its_hooks() {
    check(
        [full().pre_stop("drain")],
        &format!(
            "{FULL_UP}
             db miss live    ->
             db miss live    ->
             db miss live    -> -?db -?db/live >db/pre_stop db=stopping
             db did pre_stop -> TERM db
             db exited 0     -> db=backoff"
        ),
    );
}

#[test]
fn hooks_of_a_stop_wait_for_what_is_stopped_before() {
    check(
        [svc("db").pre_stop("drain"), svc("api").pre_stop("drain").links("db:1")],
        "up               -> +db api=waiting db=starting
         db executed      -> +api db=ready api=starting
         api executed     -> api=ready READY
         down             -> >api/pre_stop api=stopping db=stopping
         why db           -> db: stopping: the workspace goes down, after api | api: stopping: the workspace goes down
         api did pre_stop -> TERM api
         after 8s         ->
         api exited 0     -> >db/pre_stop api=stopped
         why db           -> db: stopping: the workspace goes down
         after 8s         ->
         db did pre_stop  -> TERM db
         db exited 0      -> db=stopped",
    );
}

// ---- exit codes

fn forgiving(svc: Svc) -> Svc {
    svc.with(|service| service.success_exit_codes = vec![3, 143])
}

#[test]
fn a_task_may_succeed_with_other_codes() {
    check(
        [forgiving(task("job")), svc("api").after("job")],
        "up           -> +job api=waiting job=starting
         job executed -> job=running
         job exited 3 -> +api job=exited api=starting
         status job   -> exited ready restarts=0 exited with 3 because exit
         why job      -> job: exited: finished with 3",
    );
}

#[test]
fn a_signal_counts_as_128_and_its_number() {
    check(
        [forgiving(svc("web"))],
        "up            -> +web web=starting
         web executed  -> web=ready READY
         web killed 15 -> web=exited web!
         why web       -> web: exited: was killed by SIGTERM by itself
         up            -> +web web=starting
         web exited 1  -> web=backoff",
    );
}

#[test]
fn always_means_after_a_success_too() {
    check(
        [forgiving(svc("web")).policy(RestartPolicy::Always)],
        "up           -> +web web=starting
         web executed -> web=ready READY
         web exited 3 -> web=backoff",
    );
}

#[test]
fn a_stop_on_request_is_a_stop_whatever_the_code() {
    check(
        [forgiving(svc("web"))],
        "up            -> +web web=starting
         web executed  -> web=ready READY
         stop          -> TERM web web=stopping
         web exited 1  -> web=stopped
         up            -> +web web=starting
         web executed  -> web=ready READY
         stop          -> TERM web web=stopping
         web killed 15 -> web=stopped",
    );
}

#[test]
fn a_build_succeeds_with_0_alone() {
    check(
        [forgiving(svc("web")).build("make")],
        "up                 -> Before web-build web=waiting web-build=building
         web-build needed   -> +web-build
         web-build exited 3 -> web-build=failed web=failed FAILED [web-build failed: exited with 3]",
    );
}

#[test]
fn out_of_memory_is_no_success() {
    check(
        [svc("web").with(|service| service.success_exit_codes = vec![137])],
        "up           -> +web web=starting
         web executed -> web=ready READY
         web oom      -> web!memory:restart web=backoff",
    );
}

// ---- what is bound to another service

/// db ← api (bound) ← web (bound) ← edge (not bound), all up.
fn bound() -> [Svc; 4] {
    [svc("db"), svc("api").after("db!"), svc("web").after("api!"), svc("edge").after("web")]
}

const BOUND_UP: &str = "up -> +db api=waiting db=starting edge=waiting web=waiting
    db executed   -> +api db=ready api=starting
    api executed  -> +web api=ready web=starting
    web executed  -> +edge web=ready edge=starting
    edge executed -> edge=ready READY
";

#[track_caller]
fn check_bound(script: &str) {
    check(bound(), &format!("{BOUND_UP}{script}"));
}

#[test]
fn what_is_bound_ends_with_the_run_that_crashed_and_starts_after_the_next() {
    check_bound(
        "db exited 1  -> TERM web db=backoff api=stopping web=stopping
         why api      -> api: stopping: db is started again, after web | web: stopping: api is started again
         status api   -> stopping restarts=0 because dependency_restarted
         web exited 0 -> TERM api web=waiting
         after 1s     -> +db db=starting
         api exited 0 -> api=waiting
         db executed  -> +api db=ready api=starting
         why api      -> api: starting: db is started again
         api executed -> +web api=ready web=starting
         web executed -> web=ready
         status web   -> ready ready restarts=1 exited with 0 because probe_ok
         status edge  -> ready ready restarts=0 because probe_ok",
    );
}

#[test]
fn on_a_requested_restart_what_is_bound_stops_before_and_starts_after() {
    check_bound(
        "restart db   -> TERM web api=stopping db=stopping web=stopping
         web exited 0 -> TERM api web=waiting
         api exited 0 -> TERM db api=waiting
         db exited 0  -> +db db=starting
         db executed  -> +api db=ready api=starting
         api executed -> +web api=ready web=starting
         web executed -> web=ready",
    );
}

#[test]
fn a_restart_in_the_middle_leaves_what_is_below() {
    check_bound(
        "restart api  -> TERM web api=stopping web=stopping
         web exited 0 -> TERM api web=waiting
         api exited 0 -> +api api=starting
         api executed -> +web api=ready web=starting
         status db    -> ready ready restarts=0 because probe_ok",
    );
}

#[test]
fn what_is_bound_survives_a_stop_and_ends_at_the_next_start() {
    check_bound(
        "stop db      -> TERM db db=stopping
         db exited 0  -> db=stopped
         status api   -> ready ready restarts=0 because probe_ok
         up db        -> +db TERM web api=stopping db=starting web=stopping
         web exited 0 -> TERM api web=waiting
         db executed  -> db=ready READY
         api exited 0 -> +api api=starting",
    );
}

#[test]
fn what_is_bound_fails_with_what_failed_for_good() {
    check(
        [svc("db").policy(RestartPolicy::No), svc("api").after("db!"), svc("web").after("api!")],
        "up           -> +db api=waiting db=starting web=waiting
         db executed  -> +api db=ready api=starting
         api executed -> +web api=ready web=starting
         web executed -> web=ready READY
         db exited 1  -> TERM web db=failed api=stopping web=stopping
         why api      -> api: stopping: db failed: exited with 1, after web | web: stopping: api is started again
         web exited 0 -> TERM api web=waiting
         api exited 0 -> api=failed web=failed
         why web      -> web: failed: api cannot start: db failed: exited with 1 | api: failed: db failed: exited with 1 | db: failed: exited with 1
         status api   -> failed restarts=1 exited with 0 because dependency_failed
         up db        -> +db api=waiting db=starting web=waiting
         db executed  -> +api db=ready api=starting READY",
    );
}

#[test]
fn what_is_bound_is_told_before_when_the_life_of_another_is_gone() {
    check(
        [full(), svc("api").after("db:ready!")],
        "up            -> +db api=waiting db=starting
         db executed   -> ?db/startup db=running
         db ok startup -> -?db/startup ?db
         db ok         -> ?db/live +api db=ready api=starting
         api executed  -> api=ready READY
         db miss live  ->
         db miss live  ->
         db miss live  -> -?db -?db/live TERM db db=stopping
         db exited 0   -> TERM api db=backoff api=stopping
         api exited 0  -> api=waiting
         after 1s      -> +db db=starting
         db executed   -> ?db/startup db=running
         db ok startup -> -?db/startup ?db
         db ok         -> ?db/live +api db=ready api=starting",
    );
}

#[test]
fn what_is_bound_and_is_being_started_is_begun_anew() {
    check(
        [svc("db"), svc("api").after("db!")],
        "up           -> +db api=waiting db=starting
         db executed  -> +api db=ready api=starting
         db exited 1  -> KILL api db=backoff api=stopping
         api startfail killed -> api=waiting
         after 1s     -> +db db=starting
         db executed  -> +api db=ready api=starting
         api executed -> api=ready READY",
    );
}

/// Found by the simulator: what is about to end with a run that is replaced is not there for those that start in the
/// same step, whatever the order of names.
#[test]
fn nothing_starts_beside_what_ends_in_the_same_step() {
    check(
        [task("seed"), svc("db").after("seed!"), task("admin").after("db:ready")],
        "up              -> +seed admin=waiting db=waiting seed=starting
         seed executed   -> seed=running
         seed exited 0   -> +db seed=exited db=starting
         db executed     -> +admin db=ready admin=starting
         admin executed  -> admin=running
         admin exited 0  -> admin=exited READY
         up seed admin   -> TERM db +seed admin=waiting db=stopping seed=starting",
    );
}

#[test]
fn the_first_start_of_an_optional_dependency_disturbs_nobody() {
    check(
        [svc("db").policy(RestartPolicy::No), svc("api").after("db:started?!")],
        "up api            -> +db api=waiting db=starting
         db startfail gone -> +api db=failed api=starting
         api executed      -> api=ready READY
         up db             -> +db db=starting
         db executed       -> db=ready READY
         db exited 1       -> db=failed
         status api        -> ready ready restarts=0 because probe_ok
         up db             -> +db db=starting
         db executed       -> db=ready READY
         restart db        -> TERM db db=stopping
         db exited 0       -> +db db=starting
         db executed       -> db=ready
         restart api       -> TERM api api=stopping
         api exited 0      -> +api api=starting
         api executed      -> api=ready
         db exited 1       -> db=failed
         status api        -> ready ready restarts=1 exited with 0 because probe_ok
         up db             -> TERM api +db api=stopping db=starting",
    );
}

#[test]
fn a_task_that_runs_again_replaces_what_it_made() {
    check(
        [task("seed"), svc("api").after("seed!")],
        "up            -> +seed api=waiting seed=starting
         seed executed -> seed=running
         seed exited 0 -> +api seed=exited api=starting
         api executed  -> api=ready READY
         up seed       -> TERM api +seed api=stopping seed=starting
         api exited 0  -> api=waiting
         seed executed -> seed=running
         seed exited 0 -> +api seed=exited api=starting READY",
    );
}

#[test]
fn what_is_bound_to_a_task_that_is_to_run_again_stops_in_order() {
    check(
        [svc("db"), task("seed"), svc("api").after("db seed!")],
        "up              -> +db +seed api=waiting db=starting seed=starting
         db executed     -> db=ready api=waiting
         seed exited 0   -> +api seed=exited api=starting
         api executed    -> api=ready READY
         restart db seed -> TERM api +seed api=stopping db=stopping seed=starting
         why db          -> db: stopping: was asked to restart, after api | api: stopping: seed is started again
         api exited 0    -> TERM db api=waiting",
    );
}

#[test]
fn what_is_bound_and_being_stopped_stays_stopped() {
    check_bound(
        "stop api     -> TERM api api=stopping
         db exited 1  -> db=backoff
         api exited 0 -> api=stopped
         after 1s     -> +db db=starting
         db executed  -> db=ready
         status api   -> stopped restarts=0 exited with 0 because requested",
    );
}

#[test]
fn failures_of_what_it_is_bound_to_are_not_its_own() {
    let again = "db exited 1  -> TERM api db=backoff api=stopping
                 api exited 1 -> api=waiting
                 after 60s    -> +db db=starting
                 db executed  -> +api db=ready api=starting
                 api executed -> api=ready";
    let script = format!(
        "up -> +db api=waiting db=starting
         db executed -> +api db=ready api=starting
         api executed -> api=ready READY
         {again}\n{again}\n{again}\n{again}\n{again}
         api exited 1 -> api=backoff"
    );
    check([svc("db").with(|s| s.restart.max = None), svc("api").after("db!")], &script);
}

#[test]
fn down_in_the_middle_of_it_ends_all() {
    check_bound(
        "db exited 1   -> TERM web db=backoff api=stopping web=stopping
         down          -> TERM edge db=stopped edge=stopping
         web exited 0  -> TERM api web=stopped
         edge exited 0 -> edge=stopped
         api exited 0  -> api=stopped
         is-down       -> true",
    );
}

// ---- in a loop

#[test]
fn from_the_third_failure_on_it_is_a_loop() {
    check(
        [svc("web").with(|s| s.restart.max = None)],
        "up            -> +web web=starting
         web killed 11 -> web=backoff
         status web    -> backoff restarts=0 was killed by SIGSEGV because exit
         after 30s     -> +web web=starting
         web killed 11 -> web=backoff
         status web    -> backoff restarts=1 was killed by SIGSEGV because exit
         after 30s     -> +web web=starting
         web killed 11 -> web=backoff
         status web    -> backoff restarts=2 was killed by SIGSEGV because crash_loop
         why web       -> web: backoff: was killed by SIGSEGV (memory that is not its own), 3 failures in a row (restart 3)
         after 30s     -> +web web=starting
         web exited 1  -> web=backoff
         why web       -> web: backoff: exited with 1, 4 failures in a row (restart 4)",
    );
}

#[test]
fn a_start_that_can_never_succeed_is_not_tried_again() {
    check(
        [svc("db").policy(RestartPolicy::Always), svc("api").after("db!")],
        "up                             -> +db api=waiting db=starting
         db executed                    -> +api db=ready api=starting
         api executed                   -> api=ready READY
         db killed 9                    -> TERM api db=backoff api=stopping
         api exited 0                   -> api=waiting
         after 1s                       -> +db db=starting
         db hopeless no launcher        -> db=failed api=failed
         why api                        -> api: failed: db failed: could not start: no launcher | db: failed: could not start: no launcher
         after 100s                     ->",
    );
}

// ---- services that come later

/// A database, and a command that somebody runs with it.
fn with_a_run() -> [Svc; 3] {
    [db(), svc("other"), task("api-run-1").after("db:ready")]
}

#[test]
fn what_is_added_starts_with_what_it_needs() {
    check(
        with_a_run(),
        "add api-run-1         ->
         who                   -> api-run-1 db other
         up api-run-1          -> +db db=starting api-run-1=waiting
         why api-run-1         -> api-run-1: waiting: waits for db (ready) | db: starting: was asked for
         db executed           -> ?db db=running
         db ok                 -> +api-run-1 db=ready api-run-1=starting
         remove api-run-1      ->
         who                   -> api-run-1 db other
         api-run-1 executed    -> api-run-1=running
         api-run-1 exited 4    -> api-run-1=failed FAILED [api-run-1 failed: exited with 4]
         remove db             ->
         remove api-run-1      ->
         who                   -> db other
         api-run-1~1 exited 0  ->
         add api-run-1         ->
         api-run-1~1 executed  ->
         status api-run-1      -> pending restarts=0 because requested
         up api-run-1          -> +api-run-1 api-run-1=starting
         api-run-1~1 exited 0  ->
         api-run-1 exited 0    -> api-run-1=exited READY",
    );
}

#[test]
fn what_is_added_goes_down_with_the_rest_and_before_what_it_needs() {
    check(
        with_a_run(),
        "add api-run-1      ->
         up api-run-1       -> +db db=starting api-run-1=waiting
         db executed        -> ?db db=running
         db ok              -> +api-run-1 db=ready api-run-1=starting
         api-run-1 executed -> api-run-1=running
         stop db            -> -?db TERM db db=stopping
         down               -> TERM api-run-1 FAILED [the workspace goes down] api-run-1=stopping
         api-run-1 killed 15 -> api-run-1=stopped
         db exited 0        -> db=stopped
         is-down            -> true",
    );
}

#[test]
fn up_and_restart_of_all_do_not_mean_what_was_added() {
    check(
        with_a_run(),
        "add api-run-1      ->
         up                 -> +db +other db=starting other=starting
         other executed     -> other=ready
         db executed        -> ?db db=running
         db ok              -> db=ready READY
         up api-run-1       -> +api-run-1 api-run-1=starting
         api-run-1 executed -> api-run-1=running
         restart            -> -?db TERM db TERM other db=stopping other=stopping
         stop               -> TERM api-run-1 api-run-1=stopping
         api-run-1 exited 0 -> api-run-1=stopped FAILED [api-run-1 was stopped]",
    );
}

#[test]
fn thousands_come_and_go_and_leave_nothing() {
    let mut plan =
        world([db(), svc("api").links("db:1"), task("x-run-1").after("db"), task("y-run-1").after("db")])
            .plan();
    let runs: Vec<ServicePlan> =
        ["x-run-1", "y-run-1"].into_iter().map(|run| plan.services.remove(&name(run)).unwrap()).collect();
    let mut engine = Engine::new(plan);
    let fresh = format!("{engine:?}").len();
    for i in 0..2000_u32 {
        // Two at a time, that go in the order in which they came, so that numbers move.
        let mut service = runs[0].clone();
        service.name = name(&format!("x-run-{i}"));
        let _ = engine.step(Input::Add { service: Box::new(service) }, Duration::ZERO);
        if let Some(last) = i.checked_sub(1) {
            let _ = engine.step(Input::Remove { service: name(&format!("x-run-{last}")) }, Duration::ZERO);
        }
        assert_eq!(engine.status().len(), 3);
    }
    let _ = engine.step(Input::Remove { service: name("x-run-1999") }, Duration::ZERO);
    assert_eq!(format!("{engine:?}").len(), fresh);
}

// ---- replicas

/// api-1 and api-2 are `api` in the file.
fn replicas() -> Plan {
    let mut plan = world([
        svc("db"),
        svc("api-1").after("db"),
        svc("api-2").after("db"),
        svc("web").after("api-1 api-2"),
    ])
    .plan();
    for (number, replica) in [(1, "api-1"), (2, "api-2")] {
        let service = plan.services.get_mut(&name(replica)).unwrap();
        service.declared = name("api");
        service.replica = number;
    }
    plan
}

#[test]
fn the_name_of_the_file_means_every_replica() {
    check_plan(
        replicas(),
        "up api          -> +db api-1=waiting api-2=waiting db=starting
         why api         -> api-1: waiting: waits for db (started) | db: starting: was asked for | api-2: waiting: waits for db (started)
         db executed     -> +api-1 +api-2 db=ready api-1=starting api-2=starting
         api-1 executed  -> api-1=ready
         api-2 executed  -> api-2=ready READY
         restart api     -> TERM api-1 TERM api-2 api-1=stopping api-2=stopping
         api-1 exited 0  -> +api-1 api-1=starting
         api-2 exited 0  -> +api-2 api-2=starting
         api-1 executed  -> api-1=ready
         api-2 executed  -> api-2=ready
         stop api-2      -> TERM api-2 api-2=stopping
         api-2 exited 0  -> api-2=stopped
         kill api        -> KILL api-1 api-1=stopping",
    );
}

#[test]
fn what_depends_on_replicas_waits_for_each() {
    check_plan(
        replicas(),
        "up web         -> +db api-1=waiting api-2=waiting db=starting web=waiting
         db executed    -> +api-1 +api-2 db=ready api-1=starting api-2=starting
         api-1 executed -> api-1=ready web=waiting
         api-2 executed -> +web api-2=ready web=starting",
    );
}

// ---- late and unknown news

#[test]
fn news_of_older_runs_are_ignored() {
    check(
        [db()],
        "up            -> +db db=starting
         db executed   -> ?db db=running
         db exited 1   -> db=backoff
         after 1s      -> +db db=starting
         db~1 exited 0 ->
         db~1 ok       ->
         db~1 executed ->
         db~1 startfail late ->
         db executed   -> ?db db=running
         db~1 ok       ->
         db~1 miss     ->
         db ok         -> db=ready READY",
    );
}

#[test]
fn news_in_the_wrong_moment_are_ignored() {
    check(
        [db()],
        "db executed  ->
         db exited 0  ->
         db ok        ->
         up           -> +db db=starting
         db ok        ->
         db executed  -> ?db db=running
         db executed  ->
         db ok        -> db=ready READY
         db exited 1  -> db=backoff
         db exited 1  ->
         db ok        ->",
    );
}

#[test]
fn news_of_unknown_services_are_ignored() {
    let mut engine = Engine::new(world([svc("web")]).plan());
    let input =
        Input::Exited { service: name("nobody"), generation: 1, exit: ExitReason::Code(0), oom: false };
    assert_eq!(engine.step(input, Duration::ZERO), Outcome::default());
    assert!(engine.why(&name("nobody")).is_empty());
}

#[test]
fn a_published_port_is_passed_on() {
    let mut engine = Engine::new(world([svc("web")]).plan());
    let host = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    let input = Input::Published { service: name("web"), host, host_port: 8080, port: 80 };
    let outcome = engine.step(input, Duration::ZERO);
    let event = EventKind::Published { host: "127.0.0.1".to_owned(), host_port: 8080, port: 80 };
    assert_eq!(outcome.events, [(Some(name("web")), event)]);
}

// ---- values

#[test]
fn a_pause_is_told_and_within_a_tenth() {
    for service in ["a", "b", "c", "d", "e", "f"] {
        let engine = Engine::new(world([svc(service)]).plan());
        let mut stage = Stage { engine, later: BTreeMap::new(), plans: BTreeMap::new(), now: Duration::ZERO };
        stage.play("up");
        let exited = stage.news(service, &["exited", "1"]);
        let outcome = stage.engine.step(exited, Duration::from_secs(1));
        let [(_, EventKind::Phase { retry_in_ms: Some(retry), exit, .. })] = outcome.events.as_slice() else {
            panic!("{outcome:?}");
        };
        assert!((180..=220).contains(retry), "{retry}");
        assert_eq!(*exit, Some(ExitReason::Code(1)));
        let deadline = stage.engine.next_deadline().unwrap();
        assert_eq!(u64::try_from((deadline - Duration::from_secs(1)).as_millis()).unwrap(), *retry);
    }
}

#[test]
fn the_time_to_ready_is_told() {
    let mut engine = Engine::new(world([svc("web")]).plan());
    let _ = engine.step(Input::Up { services: vec![] }, Duration::from_secs(5));
    let executed = Input::Executed { service: name("web"), generation: 1, pid: None };
    let outcome = engine.step(executed, Duration::from_millis(8200));
    assert!(outcome.events.contains(&(None, EventKind::WorkspaceReady { after_ms: 3200 })), "{outcome:?}");
    assert_eq!(engine.status()[0].running_since, Some(Duration::from_millis(8200)));
}

// ---- published ports

fn web() -> Svc {
    svc("web").ports("8080:80").tcp(80)
}

#[test]
fn connections_to_published_ports_wait_while_a_run_is_replaced() {
    check(
        [web()],
        "up           -> +web web=starting
         web executed -> ?web web=running
         web ok       -> web=ready READY
         restart      -> hold web -?web TERM web web=stopping
         web exited 0 -> +web web=starting
         web executed -> ?web web=running
         web ok       -> release web web=ready",
    );
}

#[test]
fn connections_wait_for_the_pause_after_a_crash_and_not_when_it_is_stopped_then() {
    check(
        [web()],
        "up           -> +web web=starting
         web executed -> ?web web=running
         web ok       -> web=ready READY
         web exited 1 -> hold web web=backoff
         stop         -> release web web=stopped",
    );
}

#[test]
fn nothing_is_held_before_a_first_run_or_when_none_follows() {
    check(
        [web().policy(RestartPolicy::No)],
        "up           -> +web web=starting
         web startfail no -> web=failed FAILED [web failed: could not start: no]
         up           -> +web web=starting
         web executed -> ?web web=running
         web exited 1 -> web=failed FAILED [web failed: exited with 1]",
    );
}

// ---- another plan

fn plan(services: impl IntoIterator<Item = Svc>) -> Plan {
    world(services).plan()
}

/// With one command more in its environment: another run.
fn edited(svc: Svc) -> Svc {
    svc.env("EDITED", "1")
}

/// At another place: it sees something else, and nobody else does.
fn moved(svc: Svc) -> Svc {
    svc.tmpfs("scratch")
}

#[test]
fn the_same_plan_touches_nobody() {
    check_plans(
        plan([db(), api()]),
        [("same", plan([db(), api()]))],
        "up          -> +db api=waiting db=starting
         adopt same  ->
         is-changing -> false
         db executed -> ?db db=running",
    );
}

#[test]
fn a_live_change_leaves_the_run_alone() {
    check_plans(
        plan([db()]),
        [("more", plan([db().memory(64)]))],
        "up          -> +db db=starting
         db executed -> ?db db=running
         db ok       -> db=ready READY
         adopt more  -> update db
         is-changing -> true
         has more    -> false
         db updated  ->
         is-changing -> false
         has more    -> true
         status db   -> ready ready restarts=0 because probe_ok",
    );
}

#[test]
fn an_update_that_fails_leaves_all_as_it_was_and_is_tried_again() {
    check_plans(
        plan([db().policy(RestartPolicy::No)]),
        [("two", plan([edited(db())])), ("one", plan([db().policy(RestartPolicy::No)]))],
        "up              -> +db db=starting
         db executed     -> ?db db=running
         db ok           -> db=ready READY
         adopt two       -> update db
         db refused EBUSY -> db!
         is-changing     -> false
         has one         -> true
         status db       -> ready ready restarts=0 because probe_ok
         adopt two       -> update db
         db updated      -> -?db TERM db db=stopping
         has two         -> true
         db exited 0     -> +db db=starting
         db executed     -> ?db db=running
         db exited 1     -> db=backoff",
    );
}

#[test]
fn another_policy_and_other_success_codes_count_from_then_on() {
    check_plans(
        plan([svc("a").policy(RestartPolicy::No), task("b")]),
        [("two", plan([svc("a"), task("b").with(|it| it.success_exit_codes = vec![3])]))],
        "up         -> +a +b a=starting b=starting
         a executed -> a=ready
         b executed -> b=running
         adopt two  -> update a update b
         a updated  ->
         b updated  ->
         b exited 3 -> b=exited READY
         a exited 1 -> a=backoff",
    );
}

#[test]
fn another_stop_is_how_it_is_stopped() {
    check_plans(
        plan([svc("a")]),
        [("two", plan([svc("a").pre_stop("bye").with(|it| it.stop.signal = 2)]))],
        "up             -> +a a=starting
         a executed     -> a=ready READY
         adopt two      -> update a
         a updated      ->
         stop           -> >a/pre_stop a=stopping
         a did pre_stop -> INT a",
    );
}

#[test]
fn a_ready_run_is_ready_until_its_new_probe_says_otherwise() {
    check_plans(
        plan([db()]),
        [("other", plan([db().tcp(5433)])), ("none", plan([svc("db")]))],
        "up          -> +db db=starting
         db executed -> ?db db=running
         db ok       -> db=ready READY
         db miss     ->
         db miss     ->
         adopt other -> update db
         db updated  -> -?db ?db
         db miss     ->
         db miss     ->
         db miss     -> db=unhealthy
         adopt none  -> update db
         db updated  -> -?db db=ready",
    );
}

#[test]
fn a_run_that_is_not_ready_yet_has_the_time_of_its_new_probe() {
    check_plans(
        plan([db()]),
        [("other", plan([db().tcp(5433)])), ("none", plan([svc("db")]))],
        "up          -> +db db=starting
         db executed -> ?db db=running
         after 50s   ->
         adopt other -> update db
         db updated  -> -?db ?db
         after 50s   ->
         adopt none  -> update db
         db updated  -> -?db db=ready READY",
    );
}

#[test]
fn a_startup_probe_that_goes_lets_the_ready_probe_decide() {
    check_plans(
        plan([db().startup(ProbeKind::Tcp { port: 1 })]),
        [("two", plan([db()]))],
        "up          -> +db db=starting
         db executed -> ?db/startup db=running
         adopt two   -> update db
         db updated  -> -?db/startup ?db
         db ok       -> db=ready READY",
    );
}

#[test]
fn liveness_that_is_another_is_asked_anew() {
    check_plans(
        plan([svc("db").liveness(ProbeKind::Tcp { port: 1 })]),
        [("other", plan([svc("db").liveness(ProbeKind::Tcp { port: 2 })])), ("none", plan([svc("db")]))],
        "up           -> +db db=starting
         db executed  -> ?db/live db=ready READY
         db miss live ->
         db miss live ->
         adopt other  -> update db
         db updated   -> -?db/live ?db/live
         db miss live ->
         db miss live ->
         adopt none   -> update db
         db updated   -> -?db/live
         db miss live ->
         after 100s   ->",
    );
}

#[test]
fn another_command_is_another_run_in_order() {
    check_plans(
        plan([db(), api()]),
        [("two", plan([edited(db()), edited(api())]))],
        "up           -> +db api=waiting db=starting
         db executed  -> ?db db=running
         db ok        -> +api db=ready api=starting
         api executed -> ?api api=running
         api ok       -> api=ready READY
         adopt two    -> update api update db
         db updated   ->
         api updated  -> -?api -?db TERM api api=stopping db=stopping
         why api      -> api: stopping: its plan is another: environment.EDITED: set
         api exited 0 -> TERM db api=waiting
         is-changing  -> false
         db exited 0  -> +db db=starting
         db executed  -> ?db db=running
         db ok        -> +api db=ready api=starting
         status db    -> ready ready restarts=1 exited with 0 because probe_ok",
    );
}

#[test]
fn what_does_not_run_does_not_start_because_of_a_change() {
    check_plans(
        plan([svc("a"), svc("b"), task("c"), svc("d")]),
        [("two", plan([edited(svc("a")), edited(svc("b")), edited(task("c")), svc("d")]))],
        "up b c     -> +b +c b=starting c=starting
         b executed -> b=ready
         c executed -> c=running
         c exited 0 -> c=exited READY
         stop b     -> TERM b b=stopping
         b exited 0 -> b=stopped
         adopt two  -> update a update b update c
         a updated  ->
         b updated  ->
         c updated  ->
         has two    -> true
         status a   -> pending restarts=0 because requested
         status b   -> stopped restarts=0 exited with 0 because requested
         status c   -> exited ready restarts=0 exited with 0 because exit",
    );
}

#[test]
fn what_failed_or_backs_off_is_tried_again_at_once() {
    check_plans(
        plan([svc("a").policy(RestartPolicy::No), svc("b"), svc("c").after("a"), svc("d").tcp(1)]),
        [(
            "two",
            plan([
                edited(svc("a").policy(RestartPolicy::No)),
                edited(svc("b")),
                svc("c").after("a"),
                svc("d").tcp(2),
            ]),
        )],
        "up a b c    -> +a +b a=starting b=starting c=waiting
         a exited 1  -> a=failed c=failed FAILED [a failed: exited with 1]
         b exited 1  -> b=backoff
         adopt two   -> update a update b update d
         a updated   ->
         d updated   ->
         b updated   -> +a +b a=starting b=starting c=waiting
         why a       -> a: starting: its plan is another: environment.EDITED: set
         a executed  -> +c a=ready c=starting
         after 100s  ->
         status d    -> pending restarts=0 because requested",
    );
}

#[test]
fn what_was_not_ready_in_time_is_tried_again_with_another_probe_and_not_when_a_name_came() {
    let db = || db().policy(RestartPolicy::No);
    check_plans(
        plan([db()]),
        [("name", plan([db(), svc("web")])), ("probe", plan([db().tcp(1), svc("web")]))],
        "up          -> +db db=starting
         db executed -> ?db db=running
         after 61s   -> KILL db db=stopping
         db killed 9 -> db=failed FAILED [db failed: was not ready within 60 s]
         adopt name  -> update db place web web=waiting
         db updated  ->
         web placed  -> +web web=starting
         adopt probe -> update db
         db updated  -> +db db=starting",
    );
}

#[test]
fn a_start_waits_for_the_plan_that_it_is_of() {
    check_plans(
        plan([svc("a").policy(RestartPolicy::Always)]),
        [("two", plan([edited(svc("a")).policy(RestartPolicy::Always)]))],
        "up          -> +a a=starting
         a executed  -> a=ready READY
         adopt two   -> update a
         a exited 0  -> a=backoff
         after 1s    -> a=waiting
         why a       -> a: waiting: waits until its new plan is carried out
         a updated   -> +a a=starting",
    );
}

#[test]
fn a_change_in_the_middle_of_a_start_or_an_end_ends_well() {
    check_plans(
        plan([svc("a"), svc("b"), svc("c").grace(5)]),
        [("two", plan([edited(svc("a")), edited(svc("b")), edited(svc("c").grace(5))]))],
        "up          -> +a +b +c a=starting b=starting c=starting
         b executed  -> b=ready
         c executed  -> c=ready
         restart b   -> TERM b b=stopping
         stop c      -> TERM c c=stopping
         adopt two   -> update a update b update c
         a updated   ->
         b updated   ->
         c updated   -> KILL a a=stopping
         a startfail killed -> +a a=starting
         b exited 0  -> +b b=starting
         c exited 0  -> c=stopped FAILED [c was stopped]",
    );
}

#[test]
fn what_sees_something_else_gets_another_place() {
    check_plans(
        plan([db(), api(), svc("other")]),
        [("two", plan([moved(db()), api(), svc("other")]))],
        "up             -> +db +other api=waiting db=starting other=starting
         other executed -> other=ready
         db executed    -> ?db db=running
         db ok          -> +api db=ready api=starting
         api executed   -> ?api api=running
         api ok         -> api=ready READY
         adopt two      -> -?db TERM db db=stopping
         why db         -> db: stopping: its plan is another: no longer sees ./scratch, tmpfs at ./scratch (256M)
         db exited 0    -> displace db db=waiting
         has two        -> false
         db displaced   -> place db
         has two        -> true
         why db         -> db: waiting: waits for its place
         db placed      -> +db db=starting
         is-changing    -> false
         status db      -> starting restarts=1 exited with 0 because plan_changed
         status api     -> ready ready restarts=0 because probe_ok",
    );
}

#[test]
fn what_gets_another_place_and_does_not_run_stays_down() {
    check_plans(
        plan([svc("a"), task("b")]),
        [("two", plan([moved(svc("a")), moved(task("b"))]))],
        "up b         -> +b b=starting
         b executed   -> b=running
         b exited 0   -> b=exited READY
         adopt two    -> displace a displace b
         b displaced  -> place b
         a displaced  -> place a
         a placed     ->
         up a         -> +a a=starting
         b placed     ->
         status b     -> exited ready restarts=0 exited with 0 because exit
         is-changing  -> false",
    );
}

#[test]
fn connections_wait_at_the_next_place() {
    check_plans(
        plan([web()]),
        [("two", plan([moved(web())]))],
        "up            -> +web web=starting
         web executed  -> ?web web=running
         web ok        -> web=ready READY
         adopt two     -> hold web -?web TERM web web=stopping
         web exited 0  -> release web displace web web=waiting
         web displaced -> place web
         web placed    -> hold web +web web=starting
         web executed  -> ?web web=running
         web ok        -> release web web=ready",
    );
}

#[test]
fn a_place_that_cannot_be_made_fails_its_unit_until_somebody_asks() {
    check_plans(
        plan([svc("a"), svc("b").after("a!")]),
        [
            ("two", plan([moved(svc("a")), svc("b").after("a!")])),
            ("gone", plan([svc("b")])),
        ],
        "up             -> +a a=starting b=waiting
         a executed     -> +b a=ready b=starting
         b executed     -> b=ready READY
         adopt two      -> TERM b a=stopping b=stopping
         b exited 0     -> TERM a b=waiting
         a exited 0     -> displace a a=waiting
         a displaced    -> place a
         a unplaced no cgroup -> a=failed b=failed
         why b          -> b: failed: a failed: could not start: its place could not be made: no cgroup | a: failed: could not start: its place could not be made: no cgroup
         is-changing    -> false
         restart a      -> place a a=waiting b=waiting
         a unplaced no cgroup -> a=failed b=failed
         adopt two      -> place a a=waiting b=waiting
         a unplaced no cgroup -> a=failed b=failed
         up             -> place a a=waiting b=waiting
         a placed       -> +a a=starting
         a executed     -> +b a=ready b=starting
         b executed     -> b=ready READY",
    );
}

#[test]
fn what_has_no_place_goes_without_a_word_to_the_host() {
    check_plans(
        plan([svc("a")]),
        [("two", plan([svc("a"), svc("b")])), ("one", plan([svc("a")]))],
        "adopt two   -> update a place b
         a updated   ->
         b unplaced no cgroup -> b=failed
         adopt two   -> place b
         b unplaced no cgroup -> b=failed
         adopt one   -> update a
         a updated   ->
         who         -> a
         has one     -> true",
    );
}

#[test]
fn what_comes_is_wanted_when_everything_was() {
    check_plans(
        plan([db()]),
        [("two", plan([db(), api()]))],
        "up           -> +db db=starting
         db executed  -> ?db db=running
         db ok        -> db=ready READY
         adopt two    -> update db place api api=waiting
         api placed   -> +api api=starting
         db updated   ->
         api executed -> ?api api=running
         api ok       -> api=ready
         who          -> api db
         up           -> READY",
    );
}

#[test]
fn what_comes_waits_for_its_place_and_for_what_it_needs() {
    check_plans(
        plan([svc("a")]),
        [("two", plan([svc("a"), db(), api()]))],
        "up          -> +a a=starting
         adopt two   -> update a place api place db api=waiting db=waiting
         a updated   ->
         api placed  -> api=waiting
         a executed  -> a=ready READY
         db placed   -> +db db=starting
         db executed -> ?db db=running
         db ok       -> +api db=ready api=starting",
    );
}

#[test]
fn what_comes_stays_away_unless_it_is_needed() {
    check_plans(
        plan([svc("a"), svc("b")]),
        [("two", plan([svc("a").after("c"), svc("b"), svc("c"), svc("d")]))],
        "up a        -> +a a=starting
         a executed  -> a=ready READY
         adopt two   -> update a update b place c place d
         c placed    ->
         d placed    ->
         b updated   ->
         a updated   -> +c c=starting
         status d    -> pending restarts=0 because requested
         status a    -> ready ready restarts=0 because probe_ok
         up d        -> +d d=starting",
    );
}

#[test]
fn a_further_replica_is_wanted_with_its_siblings() {
    let replicas = |count: u32| plan([svc("web"), svc("db").with(|it| it.replicas = count)]);
    check_plans(
        replicas(2),
        [("three", replicas(3)), ("two", replicas(2))],
        "up db         -> +db-1 +db-2 db-1=starting db-2=starting
         db-1 executed -> db-1=ready
         db-2 executed -> db-2=ready READY
         adopt three   -> update db-1 update db-2 update web place db-3 db-3=waiting
         db-3 placed   -> +db-3 db-3=starting
         db-3 executed -> db-3=ready
         db-1 updated  ->
         db-2 updated  ->
         web updated   ->
         adopt two     -> update db-1 update db-2 update web
         db-1 updated  ->
         db-2 updated  ->
         web updated   -> TERM db-3 db-3=stopping
         db-3 exited 0 -> displace db-3 db-3=stopped
         db-3 displaced ->
         who           -> db-1 db-2 web",
    );
}

#[test]
fn what_goes_stops_in_reverse_order_and_leaves_nothing() {
    check_plans(
        plan([db(), api(), svc("web").after("api"), svc("zed").after("api")]),
        [("two", plan([svc("zed")]))],
        "up            -> +db api=waiting db=starting web=waiting zed=waiting
         db executed   -> ?db db=running
         db ok         -> +api db=ready api=starting
         api executed  -> ?api api=running
         api ok        -> +web +zed api=ready web=starting zed=starting
         web executed  -> web=ready
         adopt two     -> update zed
         zed executed  -> zed=ready READY
         zed updated   -> -?api -?db TERM web api=stopping db=stopping web=stopping
         why api       -> api: stopping: is not in the workspace any more, after web | web: stopping: is not in the workspace any more
         web exited 0  -> displace web TERM api web=stopped
         web displaced ->
         up            -> READY
         up db         -> READY
         restart api   ->
         api exited 0  -> displace api TERM db api=stopped
         db exited 0   -> displace db db=stopped
         is-changing   -> true
         db displaced  ->
         who           -> api zed
         api displaced ->
         is-changing   -> false
         who           -> zed
         has two       -> true
         db~1 exited 0 ->
         down          -> TERM zed zed=stopping
         zed exited 0  -> zed=stopped
         is-down       -> true",
    );
}

#[test]
fn nobody_waits_for_what_is_gone() {
    check_plans(
        plan([db(), api(), svc("c").after("no"), svc("no").policy(RestartPolicy::No)]),
        [("two", plan([svc("api").tcp(80), svc("c")]))],
        "up           -> +db +no api=waiting c=waiting db=starting no=starting
         no exited 1  -> no=failed c=failed FAILED [no failed: exited with 1]
         adopt two    -> update api update c api=waiting c=waiting
         api updated  -> +api api=starting
         c updated    -> KILL db displace no +c db=stopping c=starting
         no displaced ->
         db startfail killed -> displace db db=stopped
         db displaced ->
         api executed -> ?api api=running
         api ok       -> api=ready",
    );
}

#[test]
fn an_up_that_is_not_answered_goes_on_without_what_is_gone() {
    check_plans(
        plan([svc("a"), db(), svc("x"), svc("y")]),
        [("two", plan([svc("a"), svc("y"), svc("z")]))],
        "up           -> +a +db +x +y a=starting db=starting x=starting y=starting
         a executed   -> a=ready
         x executed   -> x=ready
         db executed  -> ?db db=running
         adopt two    -> update a update y place z z=waiting
         a updated    ->
         y updated    -> -?db TERM db TERM x db=stopping x=stopping
         db exited 0  -> displace db db=stopped
         db displaced ->
         x exited 0   -> displace x x=stopped
         x displaced  ->
         y executed   -> y=ready READY
         z placed     -> +z z=starting",
    );
}

#[test]
fn a_name_that_comes_back_is_not_taken_for_the_one_before() {
    check_plans(
        plan([svc("a"), svc("b")]),
        [("one", plan([svc("a")])), ("two", plan([svc("a"), svc("b")]))],
        "up           -> +a +b a=starting b=starting
         a executed   -> a=ready
         b executed   -> b=ready READY
         adopt one    -> update a
         a updated    -> TERM b b=stopping
         b exited 0   -> displace b b=stopped
         b displaced  ->
         adopt two    -> update a place b b=waiting
         a updated    ->
         b placed     -> +b b=starting
         b~1 exited 0 ->
         b executed   -> b=ready
         b~1 executed ->
         b exited 1   -> b=backoff",
    );
}

#[test]
fn an_address_or_a_port_is_used_by_one_at_a_time() {
    // The service has another name now.
    check_plans(
        plan([svc("old").ports("8080:80"), svc("stays")]),
        [("two", plan([svc("new").ports("8080:80"), svc("stays")]))],
        "up            -> +old +stays old=starting stays=starting
         old executed  -> old=ready
         adopt two     -> update stays new=waiting
         stays updated -> TERM old old=stopping
         old exited 0  -> displace old old=stopped
         old displaced -> place new
         new placed    -> +new new=starting",
    );
    // Another service publishes it now.
    check_plans(
        plan([svc("a").ports("8080:80"), svc("b"), svc("c")]),
        [("two", plan([svc("a"), svc("b"), svc("c").ports("8080:80"), svc("d").ports("8081:80")]))],
        "adopt two   -> update a update b update c place d
         a updated   ->",
    );
    check_plans(
        plan([svc("a").ports("8080:80"), svc("b")]),
        [("two", plan([svc("b").ports("8080:80")]))],
        "adopt two   -> displace a
         a displaced -> update b
         b updated   ->
         is-changing -> false
         has two     -> true",
    );
}

#[test]
fn what_was_added_survives_another_plan() {
    let mut first = plan([db(), svc("other"), task("x-run-1").after("db")]);
    let run = first.services.remove(&name("x-run-1")).unwrap();
    let later = BTreeMap::from([(run.name.clone(), run)]);
    let plans = BTreeMap::from([("two".to_owned(), plan([svc("other"), svc("x-run-1")]))]);
    play_on(
        Stage { engine: Engine::new(first), later, plans, now: Duration::ZERO },
        "add x-run-1      ->
         up x-run-1       -> +db db=starting x-run-1=waiting
         adopt two        -> update other +x-run-1 x-run-1! x-run-1=starting
         other updated    -> KILL db db=stopping
         db startfail killed -> displace db db=stopped
         db displaced     ->
         who              -> other x-run-1
         x-run-1 executed -> x-run-1=running
         x-run-1 exited 0 -> x-run-1=exited READY
         remove x-run-1   ->
         adopt two        -> place x-run-1
         who              -> other x-run-1",
    );
}

#[test]
fn requests_in_the_middle_of_a_change_are_obeyed() {
    check_plans(
        plan([svc("a"), svc("b"), svc("c")]),
        [("two", plan([edited(svc("a")), moved(svc("b"))]))],
        "up           -> +a +b +c a=starting b=starting c=starting
         a executed   -> a=ready
         b executed   -> b=ready
         c executed   -> c=ready READY
         adopt two    -> update a
         stop a       -> TERM a a=stopping
         a exited 0   -> a=stopped
         a updated    -> TERM b TERM c b=stopping c=stopping
         kill c       -> KILL c c=stopping
         stop b       ->
         c killed 9   -> displace c c=stopped
         b exited 0   -> displace b b=stopped
         up a b       -> +a a=starting b=waiting
         b displaced  -> place b
         stop b       -> b=stopped FAILED [b was stopped]
         b placed     ->
         c displaced  ->
         is-changing  -> false",
    );
}

#[test]
fn a_crash_in_the_middle_of_a_change_ends_well() {
    check_plans(
        plan([svc("a"), svc("b"), svc("c")]),
        [("two", plan([edited(svc("a")), moved(svc("b"))]))],
        "up           -> +a +b +c a=starting b=starting c=starting
         a executed   -> a=ready
         b executed   -> b=ready
         c executed   -> c=ready READY
         adopt two    -> update a
         a exited 1   -> a=backoff
         b exited 1   -> b=backoff
         c exited 1   -> c=backoff
         after 1s     -> b=waiting a=waiting c=waiting
         a updated    -> displace b displace c +a c=stopped a=starting
         b displaced  -> place b
         c displaced  ->
         b placed     -> +b b=starting",
    );
}

#[test]
fn files_that_change_in_the_middle_of_a_change_end_well() {
    check_plans(
        plan([svc("a"), svc("b"), svc("c")]),
        [("two", plan([edited(svc("a")), moved(svc("b"))]))],
        "up           -> +a +b +c a=starting b=starting c=starting
         a executed   -> a=ready
         b executed   -> b=ready
         c executed   -> c=ready READY
         adopt two    -> update a
         changed a restart x -> TERM a a~restart:x a=stopping
         changed c restart x ->
         a exited 0   -> a=waiting
         a updated    -> +a TERM b TERM c a=starting b=stopping c=stopping
         changed b restart x -> b~restart:x
         b exited 0   -> displace b b=waiting
         b displaced  -> place b
         b placed     -> +b b=starting
         b executed   -> b=ready b~restart:Done
         a executed   -> a=ready a~restart:Done",
    );
}

#[test]
fn down_in_the_middle_of_a_change_waits_for_what_the_host_is_in_the_middle_of() {
    check_plans(
        plan([svc("a"), svc("b"), svc("c")]),
        [("two", plan([edited(svc("a")), moved(svc("b")), svc("d")])), ("three", plan([]))],
        "up           -> +a +b +c a=starting b=starting c=starting
         a executed   -> a=ready
         b executed   -> b=ready
         c executed   -> c=ready READY
         adopt two    -> update a place d d=waiting
         down         -> TERM a TERM b TERM c d=stopped a=stopping b=stopping c=stopping
         a exited 0   -> a=stopped
         b exited 0   -> b=stopped
         c exited 0   -> c=stopped
         is-down      -> false
         adopt three  ->
         d placed     ->
         is-down      -> false
         a refused no -> a!
         is-down      -> true
         is-changing  -> false
         after 100s   ->",
    );
}

#[test]
fn down_does_not_wait_for_ever_for_the_host() {
    check_plans(
        plan([svc("a")]),
        [("two", plan([moved(svc("a")), svc("d")]))],
        "adopt two    -> displace a place d
         down         ->
         is-down      -> false
         after 11s    ->
         is-down      -> true
         d placed     ->
         a displaced  ->
         is-down      -> true",
    );
}

#[test]
fn a_plan_that_comes_while_another_is_carried_out_comes_after_it() {
    check_plans(
        plan([svc("a")]),
        [
            ("two", plan([edited(svc("a"))])),
            ("three", plan([svc("a").run("other")])),
            ("four", plan([svc("a").memory(5)])),
        ],
        "up           -> +a a=starting
         adopt two    -> update a
         adopt three  ->
         adopt four   ->
         a executed   -> a=ready READY
         a updated    -> TERM a update a a=stopping
         a exited 0   -> a=waiting
         a updated    -> +a a=starting
         has four     -> true",
    );
}

#[test]
fn a_lost_run_goes_with_its_place() {
    check_plans(
        plan([svc("a"), svc("b")]),
        [("two", plan([moved(svc("a"))]))],
        "up          -> +a +b a=starting b=starting
         a executed  -> a=ready
         b executed  -> b=ready READY
         kill        -> KILL a KILL b a=stopping b=stopping
         after 11s   -> a=failed b=failed
         up          -> a! b! FAILED [a failed: was killed and did not end within 10 s, b failed: was killed and did not end within 10 s]
         adopt two   -> displace a displace b
         b displaced ->
         a displaced -> place a a=waiting
         a placed    -> +a a=starting",
    );
}

#[test]
fn a_build_comes_with_the_service_that_needs_it_and_goes_with_it() {
    check_plans(
        plan([svc("web")]),
        [("two", plan([svc("web"), svc("api").build("make")])), ("one", plan([svc("web")]))],
        "up                   -> +web web=starting
         web executed         -> web=ready READY
         adopt two            -> update web place api place api-build api=waiting api-build=waiting
         web updated          ->
         api placed           -> api=waiting
         api-build placed     -> Before api-build api-build=building
         api-build needed     -> +api-build
         api-build executed   -> api-build=building
         api-build exited 0   -> After api-build api-build=building
         api-build made api=1 -> +api api-build=exited api=starting
         adopt one            -> update web
         web updated          -> KILL api displace api-build api=stopping
         api-build displaced  ->
         api startfail killed -> displace api api=stopped
         api displaced        ->
         who                  -> web",
    );
}

#[test]
fn what_a_build_makes_is_looked_at_again_when_its_recipe_is_another() {
    check_plans(
        plan([svc("api").build("make")]),
        [("two", plan([svc("api").build("make all")]))],
        "up                    -> Before api-build api=waiting api-build=building
         api-build fresh api=1 -> +api api-build=exited api=starting
         api executed          -> api=ready READY
         adopt two             -> update api-build
         api-build updated     -> Before api-build api-build=building
         api-build needed      -> +api-build
         adopt two             ->
         api-build executed    -> api-build=building
         api-build exited 0    -> After api-build api-build=building
         api-build made api=1  -> api-build=exited
         status api            -> ready ready restarts=0 because probe_ok",
    );
}

#[test]
fn a_service_that_runs_from_a_build_from_now_on_gets_what_it_made() {
    check_plans(
        plan([svc("api")]),
        [("two", plan([svc("api").build("make")])), ("one", plan([svc("api")]))],
        "up                    -> +api api=starting
         api executed          -> api=ready READY
         adopt two             -> update api place api-build api-build=waiting
         api updated           ->
         api-build placed      -> Before api-build api-build=building
         api-build fresh api=1 -> TERM api api-build=exited api=stopping",
    );
}

#[test]
fn what_is_bound_ends_with_what_is_another_and_starts_after_it() {
    check_plans(
        plan([db(), svc("api").after("db:ready!")]),
        [("two", plan([edited(db()), svc("api").after("db:ready!")]))],
        "up           -> +db api=waiting db=starting
         db executed  -> ?db db=running
         db ok        -> +api db=ready api=starting
         api executed -> api=ready READY
         adopt two    -> update db
         db updated   -> -?db TERM api api=stopping db=stopping
         api exited 0 -> TERM db api=waiting
         db exited 0  -> +db db=starting
         db executed  -> ?db db=running
         db ok        -> +api db=ready api=starting",
    );
}

// ---- a new run beside the old one

/// Ready by its probe, and never away.
fn gapless() -> Svc {
    web().with(|it| it.reload = ws_model::Reload::Overlap)
}

const GAPLESS_IS_UP: &str = "up           -> +web web=starting
                             web executed -> ?web web=running
                             web ok       -> web=ready READY";

/// [`check`] of a service with `reload: overlap` that is ready.
#[track_caller]
fn check_overlap(services: impl IntoIterator<Item = Svc>, script: &str) {
    check(services, &format!("{GAPLESS_IS_UP}\n{script}"));
}

#[test]
fn a_new_run_is_ready_before_the_old_one_ends() {
    check_overlap(
        [gapless().pre_stop("drain")],
        "changed web restart x -> ++web~2 web~overlap:x
         web~2 executed        -> ?web~2
         status web            -> ready ready restarts=0 because probe_ok
         web~2 miss            ->
         web miss              ->
         web~2 ok              -> =web~2
         web~2 switched        -> -?web~1 >web~1/pre_stop web~overlap:Done
         status web            -> ready ready restarts=1 because probe_ok
         web~1 did pre_stop    -> TERM web~1
         web~1 exited 0        ->
         status web            -> ready ready restarts=1 because probe_ok
         web exited 1          -> hold web web=backoff",
    );
}

#[test]
fn a_new_run_that_fails_changes_nothing() {
    check_overlap(
        [gapless()],
        "changed web restart x    -> ++web~2 web~overlap:x
         web~2 startfail no bin   -> web~overlap:Failed
         changed web restart x    -> ++web~3 web~overlap:x
         web~3 executed           -> ?web~3
         web~3 exited 0           -> web~overlap:Failed
         after 100s               ->
         changed web restart x    -> ++web~4 web~overlap:x
         web~4 executed           -> ?web~4
         after 61s                -> KILL web~4 web~overlap:Failed
         web~4 killed 9           ->
         restart web              -> ++web~5
         web~5 executed           -> ?web~5
         web~5 exited 1           -> web~overlap:Failed
         status web               -> ready ready restarts=0 because probe_ok
         web~1 exited 1           -> hold web web=backoff",
    );
}

#[test]
fn hooks_and_liveness_of_a_new_run_count_too() {
    let watched = || gapless().post_start("warm").liveness(ProbeKind::Tcp { port: 1 });
    check(
        [watched()],
        "up                    -> +web web=starting
         web executed          -> >web/post_start web=running
         web did post_start    -> ?web
         web ok                -> ?web/live web=ready READY
         changed web restart x -> ++web~2 web~overlap:x
         web~2 executed        -> >web~2/post_start
         web~2 failed post_start -> KILL web~2 web~overlap:Failed
         web~2 killed 9        ->
         changed web restart x -> ++web~3 web~overlap:x
         web~3 executed        -> >web~3/post_start
         web~3 did post_start  -> ?web~3
         web~3 ok              -> ?web~3/live =web~3
         web~3 miss live       ->
         web~3 miss live       ->
         web~3 miss live       -> -?web~3 -?web~3/live KILL web~3 =web~1 web~overlap:Failed
         web~3 switched        ->
         web~1 switched        ->
         status web            -> ready ready restarts=0 because probe_ok",
    );
}

#[test]
fn a_change_in_the_middle_gives_the_beginning_run_up() {
    check_overlap(
        [gapless()],
        "changed web restart x -> ++web~2 web~overlap:x
         changed web restart y -> KILL web~2 web~overlap:y
         changed web restart z -> web~overlap:z
         web~2 startfail killed -> ++web~3
         web~3 executed        -> ?web~3
         web~3 ok              -> =web~3
         changed web restart x -> web~overlap:x
         web~3 switched        -> -?web~1 TERM web~1
         web~1 exited 0        -> ++web~4
         web~4 executed        -> ?web~4
         web~4 ok              -> =web~4
         web~4 switched        -> -?web~3 TERM web~3 web~overlap:Done
         after 9s              ->
         changed web restart x -> web~overlap:x
         after 2s              -> KILL web~3
         web~3 killed 9        -> ++web~5",
    );
}

#[test]
fn the_old_run_dies_before_the_new_one_is_ready() {
    check_overlap(
        [gapless()],
        "changed web restart x -> ++web~2 web~overlap:x
         web~1 exited 1        -> hold web web=starting
         why web               -> web: starting: exited with 1; run 2, which was to take its place, goes on
         web~2 executed        -> ?web web=running
         web ok                -> =web~2 release web web=ready web~overlap:Done
         web switched          ->
         status web            -> ready ready restarts=1 exited with 1 because probe_ok
         changed web restart x -> ++web~3 web~overlap:x
         web~3 executed        -> ?web~3
         web~2 exited 1        -> hold web web=running
         web~3 exited 1        -> web=backoff web~overlap:Failed",
    );
}

#[test]
fn the_old_run_dies_while_connections_go_over() {
    check_overlap(
        [gapless()],
        "changed web restart x -> ++web~2 web~overlap:x
         web~2 executed        -> ?web~2
         web~2 ok              -> =web~2
         web~1 exited 1        -> web~overlap:Done
         status web            -> ready ready restarts=1 exited with 1 because probe_ok
         web~2 switched        ->
         stop web              -> -?web TERM web web=stopping",
    );
}

#[test]
fn the_new_run_dies_while_connections_go_over() {
    check_overlap(
        [gapless()],
        "changed web restart x -> ++web~2 web~overlap:x
         web~2 executed        -> ?web~2
         web~2 ok              -> =web~2
         web~2 exited 1        -> =web~1 web~overlap:Failed
         web~2 switched        ->
         web~1 switched        ->
         status web            -> ready ready restarts=0 because probe_ok",
    );
}

#[test]
fn the_new_run_dies_while_the_old_one_goes() {
    let gone = "changed web restart x -> ++web~2 web~overlap:x
                web~2 executed        -> ?web~2
                web~2 ok              -> =web~2
                web~2 switched        -> -?web~1 TERM web~1 web~overlap:Done";
    check_overlap(
        [gapless()],
        &format!(
            "{gone}
             web~2 exited 1 -> hold web web=stopping
             status web     -> stopping restarts=1 exited with 1 because exit
             web~1 exited 0 -> web=backoff
             after 1s       -> +web web=starting"
        ),
    );
    check_overlap(
        [gapless()],
        &format!(
            "{gone}
             web~2 exited 0 -> web=stopping
             web~1 exited 1 -> web=exited web!
             status web     -> exited restarts=1 exited with 0 because exit"
        ),
    );
    check_overlap(
        [gapless()],
        &format!(
            "{gone}
             web~2 exited 0 -> web=stopping
             up             -> hold web
             web~1 exited 0 -> +web web=starting
             web~3 executed -> ?web web=running
             web ok         -> release web web=ready READY"
        ),
    );
}

#[test]
fn stop_and_down_end_both_runs() {
    check_overlap(
        [gapless()],
        "changed web restart x -> ++web~2 web~overlap:x
         web~2 executed        -> ?web~2
         stop web              -> KILL web~2 -?web TERM web web=stopping
         web~1 exited 0        ->
         status web            -> stopping restarts=0 exited with 0 because requested
         web~2 killed 9        -> web=stopped web~overlap:Superseded",
    );
    check_overlap(
        [gapless()],
        "changed web restart x -> ++web~2 web~overlap:x
         web~2 executed        -> ?web~2
         web~2 ok              -> =web~2
         web~2 switched        -> -?web~1 TERM web~1 web~overlap:Done
         down                  -> -?web TERM web web=stopping
         web~2 exited 0        ->
         is-down               -> false
         after 11s             -> KILL web~1 web=stopping
         web~1 killed 9        -> web=stopped
         is-down               -> true",
    );
    check_overlap(
        [gapless()],
        "changed web restart x -> ++web~2 web~overlap:x
         web~2 executed        -> ?web~2
         web~2 ok              -> =web~2
         web~2 switched        -> -?web~1 TERM web~1 web~overlap:Done
         kill web              -> KILL web~1 KILL web web=stopping
         after 11s             -> web=failed
         is-down               -> false
         web~1 killed 9        ->
         up                    -> web! FAILED [web failed: was killed and did not end within 10 s]
         web~2 killed 9        ->
         up                    -> +web web=starting",
    );
}

#[test]
fn a_restart_that_is_asked_for_has_no_gap_where_that_can_be() {
    check(
        [gapless(), svc("bound").after("web:ready!")],
        "up             -> +web bound=waiting web=starting
         web executed   -> ?web web=running
         web ok         -> +bound web=ready bound=starting
         bound executed -> bound=ready READY
         restart web    -> ++web~2
         web~2 executed -> ?web~2
         web~2 ok       -> =web~2
         web~2 switched -> -?web~1 TERM web~1 TERM bound web~overlap:Done bound=stopping
         bound exited 0 -> +bound bound=starting
         web~1 exited 0 ->
         web miss       ->
         web miss       ->
         web miss       -> web=unhealthy
         restart web    -> hold web -?web KILL bound bound=stopping web=stopping",
    );
}

#[test]
fn a_new_run_waits_for_what_the_service_waits_for() {
    check(
        [db().policy(RestartPolicy::No), gapless().after("db:ready")],
        "up                    -> +db db=starting web=waiting
         db executed           -> ?db db=running
         db ok                 -> +web db=ready web=starting
         web executed          -> ?web web=running
         web ok                -> web=ready READY
         restart db            -> -?db TERM db db=stopping
         changed web restart x -> web~overlap:x
         db exited 0           -> +db db=starting
         db executed           -> ?db db=running
         db ok                 -> ++web~2 db=ready
         web~2 startfail x     -> web~overlap:Failed
         db exited 1           -> db=failed
         changed web restart x -> web~overlap:x web~overlap:Failed
         status web            -> ready ready restarts=0 because probe_ok",
    );
}

#[test]
fn a_service_that_overlaps_follows_its_build_without_a_gap() {
    check(
        [gapless().build("make")],
        "up                    -> Before web-build web=waiting web-build=building
         web-build fresh web=1 -> +web web-build=exited web=starting
         web executed          -> ?web web=running
         web ok                -> web=ready READY
         changed web-build rebuild x -> Before web-build web-build~rebuild:x web-build=building
         web-build fresh web=2 -> ++web~2 web-build=exited
         web~2 executed        -> ?web~2
         changed web-build rebuild y -> Before web-build web-build~rebuild:y web-build=building
         web-build fresh web=2 -> web-build=exited web-build~rebuild:Unchanged
         web~2 exited 1        -> web~overlap:Failed
         changed web-build rebuild z -> Before web-build web-build~rebuild:z web-build=building
         web-build fresh web=1 -> web-build=exited web-build~rebuild:Unchanged",
    );
}

#[test]
fn a_lost_run_beside_lets_no_further_one_begin() {
    check_overlap(
        [gapless()],
        "changed web restart x -> ++web~2 web~overlap:x
         changed web restart y -> KILL web~2 web~overlap:y
         after 11s             -> web~overlap:Failed
         changed web restart z -> web~overlap:z web~overlap:Failed
         web exited 1          -> web=failed
         web~2 killed 9        ->
         up                    -> +web web=starting",
    );
}

#[test]
fn the_life_of_the_old_run_is_gone_in_the_middle() {
    check(
        [gapless().liveness(ProbeKind::Tcp { port: 1 }).policy(RestartPolicy::No)],
        "up                    -> +web web=starting
         web executed          -> ?web web=running
         web ok                -> ?web/live web=ready READY
         changed web restart x -> ++web~2 web~overlap:x
         web miss live         ->
         web miss live         ->
         web miss live         -> hold web -?web -?web/live TERM web web=stopping
         web~2 executed        -> ?web~2
         web~2 ok              -> ?web~2/live =web~2
         web~2 switched        -> release web web=ready web~overlap:Done
         web~1 exited 0        ->
         status web            -> ready ready restarts=1 because probe_ok",
    );
}

#[test]
fn another_plan_has_no_gap_either_and_meets_runs_that_begin() {
    check_plans(
        plan([gapless()]),
        [
            ("two", plan([edited(gapless())])),
            ("probe", plan([edited(gapless()).tcp(81)])),
            ("moved", plan([moved(edited(gapless()).tcp(81))])),
            ("none", plan([])),
        ],
        &format!(
            "{GAPLESS_IS_UP}
             adopt two       -> update web
             web updated     -> ++web~2
             web~2 executed  -> ?web~2
             adopt probe     -> update web
             web~2 miss      ->
             web updated     -> -?web ?web KILL web~2
             web~2 killed 9  -> ++web~3
             web~3 executed  -> ?web~3
             web~3 ok        -> =web~3
             web~3 switched  -> -?web~1 TERM web~1 web~overlap:Done
             status web      -> ready ready restarts=1 because probe_ok
             adopt moved     -> hold web -?web TERM web web=stopping
             web~3 exited 0  ->
             web~1 exited 0  -> release web displace web web=waiting
             web displaced   -> place web
             web placed      -> hold web +web web=starting
             web~4 executed  -> ?web web=running
             web ok          -> release web web=ready
             restart web     -> ++web~5
             adopt none      -> KILL web~5 -?web TERM web web=stopping
             web~5 startfail killed ->
             web~4 exited 0  -> displace web web=stopped
             web displaced   ->
             who             ->"
        ),
    );
}

#[test]
fn a_run_whose_next_one_failed_is_outdated_until_that_is_mended() {
    check_plans(
        plan([gapless()]),
        [("two", plan([edited(gapless())]))],
        &format!(
            "{GAPLESS_IS_UP}
             adopt two      -> update web
             web updated    -> ++web~2
             web~2 exited 1 -> web~overlap:Failed
             has two        -> true
             adopt two      -> ++web~3
             web~3 exited 1 -> web~overlap:Failed
             up             -> ++web~4 READY
             web~4 executed -> ?web~4
             web~4 ok       -> =web~4
             web~4 switched -> -?web~1 TERM web~1 web~overlap:Done
             web~1 exited 0 ->
             up             -> READY
             adopt two      ->"
        ),
    );
}

#[test]
fn an_overlap_that_is_no_more_wanted_is_a_restart() {
    check_plans(
        plan([gapless()]),
        [("plain", plan([web()]))],
        &format!(
            "{GAPLESS_IS_UP}
             restart web    -> ++web~2
             adopt plain    -> update web
             web updated    -> hold web KILL web~2 -?web TERM web web=stopping
             web~2 startfail killed ->
             web~1 exited 0 -> +web web=starting"
        ),
    );
}

#[test]
fn a_run_that_takes_over_is_bound_to_what_it_began_with() {
    check(
        [svc("db"), gapless().after("db:started!")],
        "up             -> +db db=starting web=waiting
         db executed    -> +web db=ready web=starting
         web executed   -> ?web web=running
         web ok         -> web=ready READY
         restart web    -> ++web~2
         web~2 executed -> ?web~2
         stop db        -> TERM db db=stopping
         web~2 ok       -> =web~2
         web~2 switched -> -?web~1 TERM web~1 web~overlap:Done
         web~1 exited 0 ->
         up db          ->
         db exited 0    -> hold web +db -?web TERM web db=starting web=stopping",
    );
}

#[test]
fn a_build_that_was_looked_at_waits_once_more_when_its_plan_is_another() {
    check_plans(
        plan([svc("api").build("make")]),
        [("two", plan([svc("api").build("make all")]))],
        "up                -> Before api-build api=waiting api-build=building
         adopt two         -> update api-build
         api-build needed  -> api-build=waiting
         api-build updated -> Before api-build api-build=building",
    );
}
