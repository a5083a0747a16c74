//! Scenarios as text: for people to write, for failing seeds to print, and the same both ways.
//!
//! ```text
//! # Line by line; what is not said is as it is by default.
//! service db
//!   ready within=30s
//!   restart on-failure max=3 pause=200ms..30s
//!   host start=10ms..50ms probe-fails=20%
//! task migrate
//!   after db ready restart optional
//! build make
//! service api
//!   uses make
//! plan
//! # The services of another one.
//! service db
//! at 0s up
//! at 5s exit db 1
//! at 10s changed make
//! at 20s adopt 1
//! at 60s settled
//! at 61s down
//! at 90s end
//! ```

use std::fmt::Write as _;
use std::time::Duration;

use ws_core::engine::{Notified, ProbeRole};
use ws_model::{Condition, ExitReason, RestartPolicy, ServiceKind, ServiceName};

use crate::scenario::{Habits, Happening, Scenario, Span, Unit, UnitProbe, UnitWait};

/// Reads a scenario.
///
/// # Errors
/// What is wrong, with its line.
pub fn parse(text: &str) -> Result<Scenario, String> {
    let mut scenario = Scenario {
        seed: 0,
        late: Duration::ZERO,
        stale: 0,
        services: Vec::new(),
        plans: Vec::new(),
        timeline: Vec::new(),
    };
    for (line, number) in text.lines().zip(1..) {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        line_of(&mut scenario, &words).map_err(|error| format!("line {number}: {error}"))?;
    }
    if let Some(pair) = scenario.timeline.windows(2).find(|pair| pair[0].0 > pair[1].0) {
        return Err(format!(
            "what happens is not in order of time: {} after {}",
            time(pair[1].0),
            time(pair[0].0)
        ));
    }
    for services in [&scenario.services].into_iter().chain(&scenario.plans) {
        for unit in services {
            if let Some(wait) = unit.waits.iter().find(|wait| find(services, &wait.on).is_none()) {
                return Err(format!("{} waits for {}, which is not there", unit.name, wait.on));
            }
        }
    }
    Ok(scenario)
}

fn find<'u>(services: &'u [Unit], name: &ServiceName) -> Option<&'u Unit> {
    services.iter().find(|unit| unit.name == *name)
}

fn line_of(scenario: &mut Scenario, words: &[&str]) -> Result<(), String> {
    let [first, rest @ ..] = words else { return Ok(()) };
    match (*first, rest) {
        ("seed", [number]) => scenario.seed = parsed(number)?,
        ("late", [by]) => scenario.late = parse_time(by)?,
        ("stale", [percent]) => scenario.stale = parse_percent(percent)?,
        ("plan", []) => scenario.plans.push(Vec::new()),
        ("service", [name]) => units(scenario).push(Unit::new(parse_name(name)?, ServiceKind::Service)),
        ("task", [name]) => units(scenario).push(Unit::new(parse_name(name)?, ServiceKind::Task)),
        ("build", [name]) => units(scenario).push(Unit::new(parse_name(name)?, ServiceKind::Build)),
        ("at", [at, what, rest @ ..]) => {
            scenario.timeline.push((parse_time(at)?, happening(what, rest)?));
        }
        (first, rest) => {
            let unit = units(scenario).last_mut().ok_or_else(|| format!("`{first}` before any service"))?;
            return unit_line(unit, first, rest);
        }
    }
    Ok(())
}

/// Those that are being described.
fn units(scenario: &mut Scenario) -> &mut Vec<Unit> {
    scenario.plans.last_mut().unwrap_or(&mut scenario.services)
}

fn unit_line(unit: &mut Unit, first: &str, rest: &[&str]) -> Result<(), String> {
    match (first, rest) {
        ("replica", [of, number]) => unit.replica_of = Some((parse_name(of)?, parsed(number)?)),
        ("version", [number]) => unit.version = parsed(number)?,
        ("view", [number]) => unit.view = parsed(number)?,
        ("limit", [number]) => unit.limit = parsed(number)?,
        ("port", [number]) => unit.port = Some(parsed(number)?),
        ("overlap", []) => unit.overlap = true,
        ("uses", [build]) => unit.use_build(parse_name(build)?),
        ("after", [on, words @ ..]) => {
            let mut wait =
                UnitWait { on: parse_name(on)?, condition: Condition::Ready, required: true, restart: false };
            for word in words {
                match *word {
                    "started" => wait.condition = Condition::Started,
                    "ready" => wait.condition = Condition::Ready,
                    "completed" => wait.condition = Condition::Completed,
                    "optional" => wait.required = false,
                    "restart" => wait.restart = true,
                    other => return Err(format!("`{other}` is no word of a wait")),
                }
            }
            unit.waits.push(wait);
        }
        ("startup", words) => unit.startup = Some(parse_probe(words)?),
        ("ready", words) => unit.ready = Some(parse_probe(words)?),
        ("live", words) => unit.live = Some(parse_probe(words)?),
        ("post_start", [timeout]) => unit.post_start = Some(parse_time(timeout)?),
        ("pre_stop", [timeout]) => unit.pre_stop = Some(parse_time(timeout)?),
        ("stop-command", []) => unit.stop_command = true,
        ("signal", [number]) => unit.signal = parsed(number)?,
        ("grace", [time]) => unit.grace = parse_time(time)?,
        ("success", codes) => {
            unit.success = codes.iter().map(|code| parsed(code)).collect::<Result<_, _>>()?;
        }
        ("restart", [policy, words @ ..]) => {
            unit.restart.policy = match *policy {
                "no" => RestartPolicy::No,
                "on-failure" => RestartPolicy::OnFailure,
                "always" => RestartPolicy::Always,
                other => return Err(format!("`{other}` is no restart policy")),
            };
            for word in words {
                match split(word)? {
                    ("max", "none") => unit.restart.max = None,
                    ("max", max) => unit.restart.max = Some(parsed(max)?),
                    ("pause", span) => {
                        let span = parse_span(span)?;
                        (unit.restart.backoff_min, unit.restart.backoff_max) = (span.from, span.to);
                    }
                    (other, _) => return Err(format!("`{other}` is no word of a restart policy")),
                }
            }
        }
        ("host", words) => {
            for word in words {
                let (key, value) = split(word)?;
                let (_, field) = fields(&mut unit.habits)
                    .into_iter()
                    .find(|(name, _)| *name == key)
                    .ok_or_else(|| format!("`{key}` is no habit"))?;
                match field {
                    Field::Span(span) => *span = parse_span(value)?,
                    Field::Percent(percent) => *percent = parse_percent(value)?,
                }
            }
        }
        (first, _) => return Err(format!("`{first}` cannot be understood")),
    }
    Ok(())
}

fn happening(what: &str, rest: &[&str]) -> Result<Happening, String> {
    let names = || rest.iter().map(|name| parse_name(name)).collect::<Result<Vec<_>, _>>();
    Ok(match (what, rest) {
        ("up", _) => Happening::Up(names()?),
        ("stop", _) => Happening::Stop(names()?),
        ("restart", _) => Happening::Restart(names()?),
        ("kill", _) => Happening::Kill(names()?),
        ("down", []) => Happening::Down { now: false },
        ("down", ["now"]) => Happening::Down { now: true },
        ("adopt", [number]) => Happening::Adopt(parsed(number)?),
        ("changed", [service]) => Happening::Changed(parse_name(service)?),
        ("fresh", []) => Happening::Fresh,
        ("run", [service]) => Happening::Run(parse_name(service)?),
        ("exit", [service, words @ ..]) => {
            let (exit, words) = match words {
                ["signal", number, words @ ..] => (ExitReason::Signal(parsed(number)?), words),
                [code, words @ ..] => (ExitReason::Code(parsed(code)?), words),
                [] => return Err("`exit` needs a code".to_owned()),
            };
            Happening::Exit(parse_name(service)?, exit, words == ["oom"])
        }
        ("probe", [service, role, how @ ("fails" | "works")]) => {
            let role = match *role {
                "startup" => ProbeRole::Startup,
                "ready" => ProbeRole::Ready,
                "live" => ProbeRole::Live,
                other => return Err(format!("`{other}` is no probe")),
            };
            Happening::Probe(parse_name(service)?, role, *how == "works")
        }
        ("notify", [service, word, words @ ..]) => {
            let news = match (*word, words) {
                ("READY", []) => Notified::Ready,
                ("RELOADING", []) => Notified::Reloading,
                ("STOPPING", []) => Notified::Stopping,
                ("WATCHDOG", []) => Notified::Watchdog,
                ("TRIGGER", []) => Notified::WatchdogTrigger,
                ("EXTEND", [by]) => Notified::ExtendTimeout(parse_time(by)?),
                ("STATUS", words) => Notified::Status(words.join(" ")),
                (other, _) => return Err(format!("`{other}` is nothing that can be told")),
            };
            Happening::Notify(parse_name(service)?, news)
        }
        ("host-lost", []) => Happening::HostLost,
        ("calm", []) => Happening::Calm,
        ("settled", []) => Happening::Settled,
        ("end", []) => Happening::End,
        (what, _) => return Err(format!("`{what}` is nothing that can happen")),
    })
}

fn parse_probe(words: &[&str]) -> Result<UnitProbe, String> {
    let mut probe = UnitProbe::default();
    for word in words {
        if *word == "notify" {
            probe.notify = true;
            continue;
        }
        match split(word)? {
            ("interval", value) => probe.interval = parse_time(value)?,
            ("within", value) => probe.within = parse_time(value)?,
            ("failures", value) => probe.failures = parsed(value)?,
            (other, _) => return Err(format!("`{other}` is no word of a probe")),
        }
    }
    Ok(probe)
}

fn split(word: &str) -> Result<(&str, &str), String> {
    word.split_once('=').ok_or_else(|| format!("`{word}` has no `=`"))
}

fn parse_name(text: &str) -> Result<ServiceName, String> {
    ServiceName::new(text).map_err(|error| error.to_string())
}

fn parsed<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{text}` is no number"))
}

fn parse_percent(text: &str) -> Result<u8, String> {
    parsed(text.strip_suffix('%').ok_or_else(|| format!("`{text}` has no `%`"))?)
}

fn parse_time(text: &str) -> Result<Duration, String> {
    match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(millis), _) => Ok(Duration::from_millis(parsed(millis)?)),
        (None, Some(seconds)) => Ok(Duration::from_secs(parsed(seconds)?)),
        (None, None) => Err(format!("`{text}` is no time: `5s`, `200ms`")),
    }
}

fn parse_span(text: &str) -> Result<Span, String> {
    let (from, to) = text.split_once("..").unwrap_or((text, text));
    Ok(Span { from: parse_time(from)?, to: parse_time(to)? })
}

/// A habit with its name.
enum Field<'h> {
    Span(&'h mut Span),
    Percent(&'h mut u8),
}

fn fields(habits: &mut Habits) -> Vec<(&'static str, Field<'_>)> {
    let Habits {
        start,
        start_fails,
        hopeless,
        life,
        dies,
        ends_badly,
        oom,
        stops,
        deaf,
        kill,
        undying,
        pace,
        probe_fails,
        hook,
        hook_fails,
        hook_hangs,
        talks,
        place,
        place_fails,
        update_fails,
    } = habits;
    vec![
        ("start", Field::Span(start)),
        ("start-fails", Field::Percent(start_fails)),
        ("hopeless", Field::Percent(hopeless)),
        ("life", Field::Span(life)),
        ("dies", Field::Percent(dies)),
        ("ends-badly", Field::Percent(ends_badly)),
        ("oom", Field::Percent(oom)),
        ("stops", Field::Span(stops)),
        ("deaf", Field::Percent(deaf)),
        ("kill", Field::Span(kill)),
        ("undying", Field::Percent(undying)),
        ("pace", Field::Span(pace)),
        ("probe-fails", Field::Percent(probe_fails)),
        ("hook", Field::Span(hook)),
        ("hook-fails", Field::Percent(hook_fails)),
        ("hook-hangs", Field::Percent(hook_hangs)),
        ("talks", Field::Percent(talks)),
        ("place", Field::Span(place)),
        ("place-fails", Field::Percent(place_fails)),
        ("update-fails", Field::Percent(update_fails)),
    ]
}

/// Writes a scenario, so that [`parse`] reads it.
#[must_use]
pub fn write(scenario: &Scenario) -> String {
    let mut text = String::new();
    if scenario.seed != 0 {
        let _ = writeln!(text, "seed {}", scenario.seed);
    }
    if !scenario.late.is_zero() {
        let _ = writeln!(text, "late {}", time(scenario.late));
    }
    if scenario.stale != 0 {
        let _ = writeln!(text, "stale {}%", scenario.stale);
    }
    for unit in &scenario.services {
        write_unit(&mut text, unit);
    }
    for services in &scenario.plans {
        text.push_str("plan\n");
        for unit in services {
            write_unit(&mut text, unit);
        }
    }
    for (at, happening) in &scenario.timeline {
        let _ = writeln!(text, "at {} {}", time(*at), said(happening));
    }
    text
}

fn write_unit(text: &mut String, unit: &Unit) {
    let kind = match unit.kind {
        ServiceKind::Service => "service",
        ServiceKind::Task => "task",
        ServiceKind::Build => "build",
    };
    let _ = writeln!(text, "{kind} {}", unit.name);
    let default = Unit::new(unit.name.clone(), unit.kind);
    if let Some((of, number)) = &unit.replica_of {
        let _ = writeln!(text, "  replica {of} {number}");
    }
    for (word, number) in [("version", unit.version), ("view", unit.view), ("limit", unit.limit)] {
        if number != 0 {
            let _ = writeln!(text, "  {word} {number}");
        }
    }
    if let Some(port) = unit.port {
        let _ = writeln!(text, "  port {port}");
    }
    if unit.overlap {
        text.push_str("  overlap\n");
    }
    for wait in &unit.waits {
        if unit.uses.contains(&wait.on) {
            let _ = writeln!(text, "  uses {}", wait.on);
            continue;
        }
        let optional = if wait.required { "" } else { " optional" };
        let restart = if wait.restart { " restart" } else { "" };
        let _ = writeln!(text, "  after {} {}{optional}{restart}", wait.on, wait.condition.as_str());
    }
    for (name, probe) in [("startup", &unit.startup), ("ready", &unit.ready), ("live", &unit.live)] {
        let Some(probe) = probe else { continue };
        let default = UnitProbe::default();
        let _ = write!(text, "  {name}{}", if probe.notify { " notify" } else { "" });
        if probe.interval != default.interval {
            let _ = write!(text, " interval={}", time(probe.interval));
        }
        if probe.within != default.within {
            let _ = write!(text, " within={}", time(probe.within));
        }
        if probe.failures != default.failures {
            let _ = write!(text, " failures={}", probe.failures);
        }
        text.push('\n');
    }
    if let Some(timeout) = unit.post_start {
        let _ = writeln!(text, "  post_start {}", time(timeout));
    }
    if let Some(timeout) = unit.pre_stop {
        let _ = writeln!(text, "  pre_stop {}", time(timeout));
    }
    if unit.stop_command {
        text.push_str("  stop-command\n");
    }
    if unit.signal != default.signal {
        let _ = writeln!(text, "  signal {}", unit.signal);
    }
    if unit.grace != default.grace {
        let _ = writeln!(text, "  grace {}", time(unit.grace));
    }
    if unit.restart != default.restart {
        let policy = match unit.restart.policy {
            RestartPolicy::No => "no",
            RestartPolicy::OnFailure => "on-failure",
            RestartPolicy::Always => "always",
        };
        let max = unit.restart.max.map_or_else(|| "none".to_owned(), |max| max.to_string());
        let (min, long) = (time(unit.restart.backoff_min), time(unit.restart.backoff_max));
        let _ = writeln!(text, "  restart {policy} max={max} pause={min}..{long}");
    }
    if !unit.success.is_empty() {
        let codes: Vec<String> = unit.success.iter().map(i32::to_string).collect();
        let _ = writeln!(text, "  success {}", codes.join(" "));
    }
    let mut habits = unit.habits.clone();
    let mut default = default.habits;
    let mut words = Vec::new();
    for ((name, field), (_, default)) in fields(&mut habits).into_iter().zip(fields(&mut default)) {
        match (field, default) {
            (Field::Span(span), Field::Span(default)) if span != default => {
                words.push(if span.from == span.to {
                    format!("{name}={}", time(span.from))
                } else {
                    format!("{name}={}..{}", time(span.from), time(span.to))
                });
            }
            (Field::Percent(percent), Field::Percent(default)) if percent != default => {
                words.push(format!("{name}={percent}%"));
            }
            (Field::Span(_) | Field::Percent(_), Field::Span(_) | Field::Percent(_)) => {}
        }
    }
    if !words.is_empty() {
        let _ = writeln!(text, "  host {}", words.join(" "));
    }
}

/// A happening as it is written.
#[must_use]
pub fn said(happening: &Happening) -> String {
    let named = |word: &str, services: &[ServiceName]| {
        services.iter().fold(word.to_owned(), |text, name| format!("{text} {name}"))
    };
    match happening {
        Happening::Up(services) => named("up", services),
        Happening::Stop(services) => named("stop", services),
        Happening::Restart(services) => named("restart", services),
        Happening::Kill(services) => named("kill", services),
        Happening::Down { now: false } => "down".to_owned(),
        Happening::Down { now: true } => "down now".to_owned(),
        Happening::Run(service) => format!("run {service}"),
        Happening::Adopt(number) => format!("adopt {number}"),
        Happening::Changed(service) => format!("changed {service}"),
        Happening::Exit(service, exit, oom) => {
            let oom = if *oom { " oom" } else { "" };
            match exit {
                ExitReason::Code(code) => format!("exit {service} {code}{oom}"),
                ExitReason::Signal(signal) => format!("exit {service} signal {signal}{oom}"),
            }
        }
        Happening::Probe(service, role, works) => {
            format!("probe {service} {} {}", role_name(*role), if *works { "works" } else { "fails" })
        }
        Happening::Notify(service, news) => format!("notify {service} {}", news_text(news)),
        Happening::HostLost => "host-lost".to_owned(),
        Happening::Calm => "calm".to_owned(),
        Happening::Settled => "settled".to_owned(),
        Happening::Fresh => "fresh".to_owned(),
        Happening::End => "end".to_owned(),
    }
}

/// What a program told of itself, as it is written.
#[must_use]
pub fn news_text(news: &Notified) -> String {
    match news {
        Notified::Ready => "READY".to_owned(),
        Notified::Reloading => "RELOADING".to_owned(),
        Notified::Stopping => "STOPPING".to_owned(),
        Notified::Status(text) => format!("STATUS {text}"),
        Notified::ExtendTimeout(by) => format!("EXTEND {}", time(*by)),
        Notified::Watchdog => "WATCHDOG".to_owned(),
        Notified::WatchdogTrigger => "TRIGGER".to_owned(),
    }
}

/// The word for a probe.
#[must_use]
pub fn role_name(role: ProbeRole) -> &'static str {
    match role {
        ProbeRole::Startup => "startup",
        ProbeRole::Ready => "ready",
        ProbeRole::Live => "live",
    }
}

fn time(time: Duration) -> String {
    let millis = time.as_millis();
    if millis.is_multiple_of(1000) { format!("{}s", millis / 1000) } else { format!("{millis}ms") }
}
