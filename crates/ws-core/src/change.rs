//! The difference between two plans: what it takes to come from one to the other while the stack runs.
//!
//! [`between`] answers three questions at once, for an engine, for a person and for a policy:
//!
//! - What must be done to each unit ([`Change::units`]). As little as is enough: a unit that is not named is the same
//!   in everything that an executor reads.
//! - What is different, in words ([`Change::lines`]). What only follows from something else that is told (an address in
//!   `/etc/hosts`, the place of a line in the file) has no line of its own.
//! - Whether a service may do more than before ([`PlanLine::widens`]). A change that widens is carried out only when a
//!   person says so; so whatever is a right must be found here, and a difference that is a right in no case must not.
//!
//! # What is a right
//!
//! Links, with where they lead outside of the workspace; files and volumes, by what is really seen and not by which
//! mount shows it (the private module `access`); secrets, with where they come from; what the text of the file tells of
//! the user's (variables of the shell and of `.env`, env files: no service sees them otherwise); published ports; limits that are raised or go; what runs elsewhere; and
//! a lower level of enforcement; and a policy that sees or does less. A command, its environment and a hook are none by themselves: they can do no more than what the
//! rights of their service allow, and those are told. A further replica has the rights of its siblings.
//!
//! # What needs what
//!
//! A unit is started again where its processes would differ from birth ([`UnitChange::Restart`]), and gets another
//! place where what is made before them would ([`UnitChange::Replace`]). One exception is on purpose: `WS_MEMORY_BYTES`
//! follows `limits.memory`, which is live, so a run that goes on keeps the number that it was started with.

mod access;
mod policy;
mod words;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ws_model::{
    Borrowed, ByteSize, ConfigPath, MilliCpus, PlanEffect, PlanLine, PortProto, ServiceKind, ServiceName,
    VolumeName,
};

use crate::plan::{ExternalPlan, HOSTS, LimitsPlan, LinkRule, Plan, Run, ServicePlan, View};
use crate::text::{duration, elsewhere, some};
use access::{Access, Sight};
pub(crate) use policy::rule_words;
use words::{became, listed, listens, mount_text, place, rule_text, watching_lines};
use ws_model::problem::Segment;

/// What it takes to make a unit what another plan says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnitChange {
    /// Only what the engine and the host read anew at each use: links, limits, probes, ports, restart policy.
    Live,
    /// The same, and its run is another: it is started again in its place.
    Restart,
    /// What it sees is another, or where it is: it is stopped, gets another place, and is started again.
    Replace,
    /// It was not there.
    Add,
    /// It is not there any more.
    Remove,
}

impl UnitChange {
    fn effect(self) -> PlanEffect {
        match self {
            Self::Live => PlanEffect::Live,
            Self::Restart | Self::Replace => PlanEffect::Restart,
            Self::Add => PlanEffect::Add,
            Self::Remove => PlanEffect::Remove,
        }
    }
}

/// What is different between two plans.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// The units that are touched; the others are the same.
    pub units: BTreeMap<ServiceName, UnitChange>,
    /// Whether what runs elsewhere is another.
    pub external: bool,
    /// What is different, for people: the workspace first, then in order of services.
    pub lines: Vec<PlanLine>,
}

impl Change {
    /// Whether some service gets rights that it had not.
    #[must_use]
    pub fn widens(&self) -> bool {
        self.lines.iter().any(|line| line.widens)
    }

    /// Whether it cannot be carried out while the stack runs.
    #[must_use]
    pub fn needs_down(&self) -> bool {
        self.lines.iter().any(|line| line.effect == PlanEffect::Down)
    }

    /// Whether nothing is different.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.units.is_empty() && !self.external && self.lines.is_empty()
    }
}

/// What is different.
#[must_use]
pub fn between(running: &Plan, wanted: &Plan) -> Change {
    let mut change = Change::default();
    // Every field is named, so that one that is added is thought of here.
    let Plan {
        name,
        root,
        subnet,
        required,
        required_because: _, // the reason of `required`
        volumes: _,          // what services mount
        external,
        requires,
        secrets,
        borrowed,
        services,
        waves: _, // follows from what each unit waits for
        parallel_builds,
        watching,
        channels: _, // follows from what each unit sees
        warnings: _, // about the file, told when it is read
    } = wanted;
    let mut of_workspace = |text: String, effect: PlanEffect, widens: bool| {
        change.lines.push(PlanLine { service: None, text, effect, widens });
    };
    if *name != running.name {
        of_workspace(became("name", &running.name, name), PlanEffect::Down, false);
    }
    if *root != running.root {
        of_workspace(became("project", running.root.display(), root.display()), PlanEffect::Down, false);
    }
    if *subnet != running.subnet {
        of_workspace(became("network", running.subnet, subnet), PlanEffect::Down, false);
    }
    if *required != running.required {
        let widens = *required < running.required;
        of_workspace(became("level", running.required, required), PlanEffect::Live, widens);
    }
    if *requires != running.requires {
        let text = |plan: &Plan| {
            let texts = plan.requires.iter().map(|it| format!("{} {}", it.program, it.version));
            words::or_nothing(listed(texts))
        };
        of_workspace(became("requires", text(running), text(wanted)), PlanEffect::Live, false);
    }
    if *parallel_builds != running.parallel_builds {
        let text = |count: Option<u32>| count.map_or("4".to_owned(), |n| n.to_string());
        let text = became("parallel_builds", text(running.parallel_builds), text(*parallel_builds));
        of_workspace(text, PlanEffect::Live, false);
    }
    for text in watching_lines(wanted, &running.watching, watching) {
        of_workspace(text, PlanEffect::Live, false);
    }
    for (text, widens) in external_lines(running, wanted) {
        of_workspace(text, PlanEffect::Live, widens);
    }
    for (name, source) in secrets {
        // One that nobody had is a right of those who get it, which is told there.
        if let Some(before) = running.secrets.get(name).filter(|before| *before != source) {
            let what = format!("secret {name}");
            let (from, to) = (words::source(running, before), words::source(wanted, source));
            of_workspace(became(&what, from, to), PlanEffect::Live, true);
        }
    }
    change.external = *external != running.external;

    let declared: BTreeSet<&ServiceName> =
        running.services.values().chain(services.values()).map(|unit| &unit.declared).collect();
    let plans = Plans { running, wanted, wrote: Writers::of(running), write: Writers::of(wanted) };
    for name in declared {
        service(name, &plans, &mut change);
    }
    for (at, told) in borrowed {
        let before = running.borrowed.get(at);
        for one in told.iter().filter(|one| before.is_none_or(|before| !before.contains(*one))) {
            change.lines.push(borrowed_line(wanted, at, one));
        }
    }
    // A replica and a service can have each other's name after one another: for the lines one goes and one comes, but
    // there is one place.
    let moved = services.values().filter(|unit| {
        running.services.get(&unit.name).is_some_and(|before| before.declared != unit.declared)
    });
    change.units.extend(moved.map(|unit| (unit.name.clone(), UnitChange::Replace)));
    change
}

/// Both plans, and who writes what in each.
#[derive(Debug)]
struct Plans<'p> {
    running: &'p Plan,
    wanted: &'p Plan,
    wrote: Writers<'p>,
    write: Writers<'p>,
}

impl Plans<'_> {
    /// Why a unit sees a path that was kept from it because others write it.
    fn seen_because(&self, path: &Path, unit: &ServicePlan) -> Option<String> {
        let wrote = self.wrote.others(path, &unit.declared)?;
        let write = self.write.others(path, &unit.declared).unwrap_or_default();
        let (still, no_longer): (Vec<String>, Vec<String>) =
            wrote.into_iter().partition(|other| write.contains(other));
        if still.is_empty() {
            return Some(format!(", because it is not written any more by {}", some(&no_longer)));
        }
        let linked: BTreeSet<&str> =
            unit.links.iter().map(|link| self.wanted.declared(&link.to).as_str()).collect();
        let linked: Vec<String> = still.into_iter().filter(|other| linked.contains(other.as_str())).collect();
        (!linked.is_empty()).then(|| format!(", because it has a link to {}", some(&linked)))
    }
}

/// One difference of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Difference {
    text: String,
    change: UnitChange,
    widens: bool,
}

/// What is different about everything that is declared under one name.
fn service(name: &ServiceName, plans: &Plans<'_>, change: &mut Change) {
    let before = of_name(plans.running, name);
    let after = of_name(plans.wanted, name);
    let lines = &mut change.lines;
    let mut tell = |text: String, effect: PlanEffect, widens: bool| {
        lines.push(PlanLine { service: Some(name.clone()), text, effect, widens });
    };
    let (Some(first_before), Some(first_after)) = (before.values().next(), after.values().next()) else {
        for unit in before.keys() {
            change.units.insert((*unit).clone(), UnitChange::Remove);
        }
        if !before.is_empty() {
            tell("removed".to_owned(), PlanEffect::Remove, false);
        }
        for unit in after.keys() {
            change.units.insert((*unit).clone(), UnitChange::Add);
        }
        if let Some(unit) = after.values().next() {
            tell(added(unit, after.len()), PlanEffect::Add, false);
            for text in rights_of_a_new_one(unit, plans) {
                tell(text, PlanEffect::Add, true);
            }
        }
        return;
    };

    let kept: Vec<&ServiceName> = after.keys().copied().filter(|unit| before.contains_key(unit)).collect();
    if before.keys().ne(after.keys()) {
        let effect = match after.len().cmp(&before.len()) {
            _ if kept.is_empty() => PlanEffect::Restart,
            Ordering::Less => PlanEffect::Remove,
            Ordering::Equal | Ordering::Greater => PlanEffect::Add,
        };
        tell(became("replicas", before.len(), after.len()), effect, false);
        let gone = before.keys().filter(|unit| !after.contains_key(*unit));
        change.units.extend(gone.map(|unit| ((*unit).clone(), UnitChange::Remove)));
        let new = after.keys().filter(|unit| !before.contains_key(*unit));
        change.units.extend(new.map(|unit| ((*unit).clone(), UnitChange::Add)));
    }
    // Replicas are alike: what all of them say is said once, under the name in the file.
    let mut said: Vec<(Difference, Vec<&ServiceName>)> = Vec::new();
    let pairs: Vec<(&ServicePlan, &ServicePlan)> = if kept.is_empty() {
        vec![(first_before, first_after)]
    } else {
        kept.iter().map(|unit| (before[unit], after[unit])).collect()
    };
    for (old, new) in &pairs {
        if old == new {
            continue;
        }
        let differences = differences(old, new, plans);
        if !kept.is_empty() {
            let most = differences.iter().map(|one| one.change).max().unwrap_or(UnitChange::Live);
            change.units.insert(new.name.clone(), most);
        }
        for difference in differences.into_iter().filter(|one| !one.text.is_empty()) {
            match said.iter_mut().find(|(other, _)| *other == difference) {
                Some((_, units)) => units.push(&new.name),
                None => said.push((difference, vec![&new.name])),
            }
        }
    }
    let everyone = pairs.len();
    for (difference, units) in said {
        let names = if units.len() == everyone { vec![name] } else { units };
        for name in names {
            change.lines.push(PlanLine {
                service: Some(name.clone()),
                text: difference.text.clone(),
                effect: difference.change.effect(),
                widens: difference.widens,
            });
        }
    }
}

/// A part of the file is told something of the user's that it was not told before.
fn borrowed_line(plan: &Plan, at: &ConfigPath, what: &Borrowed) -> PlanLine {
    let what = match what {
        Borrowed::Variable(name) => format!("${{{name}}}"),
        Borrowed::EnvFile(path) => place(plan, path),
    };
    let of_service = match at.segments() {
        [Segment::Key(section), Segment::Key(name), below @ ..] if section == "services" => {
            ServiceName::new(name).ok().map(|name| (name, below.len()))
        }
        _ => None,
    };
    let (service, text) = match of_service {
        Some((service, 0)) => (Some(service), format!("is told {what}")),
        Some((service, _)) => (Some(service), format!("its build is told {what}")),
        None => (None, format!("{at} is told {what}")),
    };
    // What must be done for it is told with the environment or the command that has it.
    PlanLine { service, text, effect: PlanEffect::Live, widens: true }
}

/// The units that are declared under a name, by their own.
fn of_name<'p>(plan: &'p Plan, name: &ServiceName) -> BTreeMap<&'p ServiceName, &'p ServicePlan> {
    plan.services.iter().filter(|(_, unit)| unit.declared == *name).collect()
}

fn added(unit: &ServicePlan, count: usize) -> String {
    let kind = match unit.kind {
        ServiceKind::Service => "",
        ServiceKind::Task => " (task)",
        ServiceKind::Build => " (build)",
    };
    if count > 1 { format!("added{kind}, {count} replicas") } else { format!("added{kind}") }
}

/// What a service that was not there may do beside what every service may.
fn rights_of_a_new_one(unit: &ServicePlan, plans: &Plans<'_>) -> Vec<String> {
    let plan = plans.wanted;
    let mut rights: Vec<String> = links(unit, plan).into_iter().map(|link| link.text("link to ")).collect();
    let sight = Sight::of(&unit.view);
    for point in sight.points() {
        let access = sight.access(&point);
        // What others write is not shown to everybody, but to builds.
        let hidden = unit.kind != ServiceKind::Build && plans.write.others(&point, &unit.declared).is_some();
        let by_default = if hidden { Access::None } else { sight.by_default(&point) };
        if access > by_default {
            rights.push(sees(plan, &point, access));
        }
    }
    let volumes = access::volumes(&unit.view).into_iter();
    rights.extend(volumes.map(|(volume, access)| volume_text(volume, access)));
    rights.extend(secrets(&unit.view));
    rights.extend(unit.publish.iter().map(|port| format!("published port {}", words::published(port))));
    rights.extend(policy::rights(&unit.policy));
    rights
}

/// Everything that is different between two units that take each other's place. A text is empty where the difference
/// only follows from something else.
fn differences(old: &ServicePlan, new: &ServicePlan, plans: &Plans<'_>) -> Vec<Difference> {
    let (running, wanted) = (plans.running, plans.wanted);
    let mut found = Differences::default();
    // Every field is named, so that one that is added is thought of here.
    let ServicePlan {
        name: _,     // the same, unless the replicas of a service become one unit or the other way round
        declared: _, // the same
        replica,
        kind,
        index,
        address,
        mac,
        waits,
        build: _, // not set any more
        makes,
        uses,
        watch,
        reload,
        listen,
        hold,
        run,
        view: _,  // see `view_differences`
        links: _, // see `link_differences`
        publish,
        startup,
        ready,
        liveness,
        hooks,
        success_exit_codes,
        open_stdin,
        tty,
        logs,
        restart,
        stop,
        limits: _, // see `limit_differences`
        policy: of_policy,
    } = new;

    if *kind != old.kind {
        let word = |kind: ServiceKind| match kind {
            ServiceKind::Service => "service",
            ServiceKind::Task => "task",
            ServiceKind::Build => "build",
        };
        found.replace(became("type", word(old.kind), word(*kind)));
    }
    if *replica != old.replica && old.name == new.name {
        found.replace(became("replica", old.replica, replica));
    }
    if *address != old.address || *index != old.index || *mac != old.mac {
        let told = running.subnet == wanted.subnet && old.name == new.name;
        found.replace(if told { became("address", old.address, address) } else { String::new() });
    }
    run_differences(&old.run, run, (old, new), wanted, &mut found);
    if *open_stdin != old.open_stdin {
        let word = |open: bool| if open { "open" } else { "closed" };
        found.restart(became("stdin", word(old.open_stdin), word(*open_stdin)));
    }
    if *tty != old.tty {
        found.restart(format!("terminal: {}", if *tty { "its own" } else { "none" }));
    }
    view_differences(old, new, plans, &mut found);
    link_differences(old, new, plans, &mut found);
    for port in publish.iter().filter(|port| !old.publish.contains(port)) {
        found.right(format!("published port {}", words::published(port)));
    }
    for port in old.publish.iter().filter(|port| !publish.contains(port)) {
        found.live(format!("published port {}: no longer", words::published(port)));
    }
    if *listen != old.listen {
        found.replace(became("listen", listens(&old.listen), listens(listen)));
    }
    limit_differences(old, new, &mut found);
    policy::differences(&old.policy, of_policy, &mut found);

    if *waits != old.waits {
        let text = |plan: &Plan, unit: &ServicePlan| words::or_nothing(words::waits_for(plan, unit));
        let (from, to) = (text(running, old), text(wanted, new));
        found.live(if from == to { String::new() } else { became("waits for", from, to) });
    }
    if *makes != old.makes {
        // What a build is made of decides whether it must run: it is looked at again, which is all that being started
        // again means for one that is fresh.
        let change = if *kind == ServiceKind::Build { UnitChange::Restart } else { UnitChange::Live };
        for text in words::makes_lines(wanted, old.makes.as_ref(), makes.as_ref()) {
            found.add(text, change, false);
        }
        found.add(String::new(), change, false);
    }
    if *uses != old.uses {
        let names = |unit: &ServicePlan| listed(unit.uses.iter().map(|one| one.build.to_string()));
        let (from, to) = (names(old), names(new));
        found.live(if from == to {
            format!("uses other files of {to}")
        } else {
            became("uses", words::or_nothing(from), words::or_nothing(to))
        });
    }
    if *watch != old.watch {
        let follows = |unit: &ServicePlan| {
            let inputs = unit.makes.as_ref().map(|makes| &makes.inputs);
            unit.watch.iter().all(|rule| inputs == Some(&rule.files))
        };
        let text = |unit: &ServicePlan| listed(unit.watch.iter().map(|rule| rule_text(wanted, rule)));
        let (from, to) = (text(old), text(new));
        // What is watched for a build is what it is made of, which is told.
        found.live(if from == to || (follows(old) && follows(new)) {
            String::new()
        } else {
            became("watch", words::or_nothing(from), words::or_nothing(to))
        });
    }
    if *reload != old.reload {
        found.live(became("reload", words::reload(old.reload), words::reload(*reload)));
    }
    if *hold != old.hold {
        found.live(became("hold", duration(old.hold), duration(*hold)));
    }
    for (what, from, to) in [("startup", &old.startup, startup), ("ready", &old.ready, ready)] {
        if from != to {
            found.live(words::other(what, &words::probe(from.as_ref()), &words::probe(to.as_ref())));
        }
    }
    if *liveness != old.liveness {
        let text = |unit: &ServicePlan| words::liveness(unit.liveness.as_ref());
        found.live(words::other("liveness", &text(old), &text(new)));
    }
    for (what, from, to) in [
        ("pre_start", &old.hooks.pre_start, &hooks.pre_start),
        ("post_start", &old.hooks.post_start, &hooks.post_start),
        ("pre_stop", &old.hooks.pre_stop, &hooks.pre_stop),
    ] {
        if from != to {
            found.live(words::other(what, &words::hooks(from), &words::hooks(to)));
        }
    }
    if *success_exit_codes != old.success_exit_codes {
        let text = |codes: &[i32]| listed(codes.iter().map(ToString::to_string));
        found.live(became("success_exit_codes", text(&old.success_exit_codes), text(success_exit_codes)));
    }
    if *logs != old.logs {
        found.live(words::other("logs", &words::logs(&old.logs), &words::logs(logs)));
    }
    if *restart != old.restart {
        found.live(words::other("restart", &words::restart(old), &words::restart(new)));
    }
    if *stop != old.stop {
        found.live(words::other("stop", &words::stop(old), &words::stop(new)));
    }
    found.all
}

#[derive(Debug, Default)]
struct Differences {
    all: Vec<Difference>,
}

impl Differences {
    fn add(&mut self, text: String, change: UnitChange, widens: bool) {
        self.all.push(Difference { text, change, widens });
    }

    fn live(&mut self, text: String) {
        self.add(text, UnitChange::Live, false);
    }

    /// More than it could before, without a new start.
    fn right(&mut self, text: String) {
        self.add(text, UnitChange::Live, true);
    }

    fn restart(&mut self, text: String) {
        self.add(text, UnitChange::Restart, false);
    }

    fn replace(&mut self, text: String) {
        self.add(text, UnitChange::Replace, false);
    }
}

/// What follows `limits.memory` ([`between`] says why it is left out).
const MEMORY_VARIABLE: &str = "WS_MEMORY_BYTES";

fn run_differences(
    from: &Run,
    to: &Run,
    (old, new): (&ServicePlan, &ServicePlan),
    plan: &Plan,
    found: &mut Differences,
) {
    let Run { argv, env, cwd } = to;
    if *argv != from.argv {
        found.restart(became("command", words::command(&from.argv), words::command(argv)));
    }
    if *cwd != from.cwd {
        found.restart(became("working_dir", place(plan, &from.cwd), place(plan, cwd)));
    }
    if *env != from.env {
        let follows = |unit: &ServicePlan, key: &str, value: &str| {
            key == MEMORY_VARIABLE && unit.limits.memory.is_some_and(|memory| memory.0.to_string() == value)
        };
        let own = |unit: &ServicePlan, key: &String, value: &String| !follows(unit, key, value);
        let before: BTreeMap<&String, &String> = from
            .env
            .iter()
            .filter(|(key, value)| own(old, key, value))
            .map(|(key, value)| (key, value))
            .collect();
        let after: BTreeMap<&String, &String> =
            env.iter().filter(|(key, value)| own(new, key, value)).map(|(key, value)| (key, value)).collect();
        let keys: BTreeSet<&&String> = before.keys().chain(after.keys()).collect();
        for key in keys {
            // Values may be private.
            let what = match (before.get(*key), after.get(*key)) {
                (None, _) => "set",
                (Some(_), None) => "no longer set",
                (Some(from), Some(to)) if from != to => "another value",
                (Some(_), Some(_)) => continue,
            };
            found.restart(format!("environment.{key}: {what}"));
        }
        found.live(String::new());
    }
}

fn limit_differences(old: &ServicePlan, new: &ServicePlan, found: &mut Differences) {
    let LimitsPlan { memory, cpus, pids, pids_declared, files } = &new.limits;
    let from = &old.limits;
    let none = "no limit";
    if *memory != from.memory {
        let text = |limit: Option<ByteSize>| limit.map_or(none.to_owned(), |limit| limit.to_string());
        let widens = more(from.memory.map(|size| size.0), memory.map(|size| size.0));
        found.add(became("limits.memory", text(from.memory), text(*memory)), UnitChange::Live, widens);
    }
    if *cpus != from.cpus {
        let text = |limit: Option<MilliCpus>| limit.map_or(none.to_owned(), |limit| limit.to_string());
        let widens = more(from.cpus.map(|cpus| cpus.0), cpus.map(|cpus| cpus.0));
        found.add(became("limits.cpus", text(from.cpus), text(*cpus)), UnitChange::Live, widens);
    }
    if *pids != from.pids {
        found.add(became("limits.pids", from.pids, pids), UnitChange::Live, *pids > from.pids);
    } else if *pids_declared != from.pids_declared {
        // The number is the same; who said it decides only which level is required.
        found.live(String::new());
    }
    if *files != from.files {
        let text =
            |limit: Option<u64>| limit.map_or("that of the caller".to_owned(), |limit| limit.to_string());
        let widens = more(from.files, *files);
        found.add(became("limits.files", text(from.files), text(*files)), UnitChange::Replace, widens);
    }
}

/// Whether a limit is raised or dropped.
fn more<T: Ord>(from: Option<T>, to: Option<T>) -> bool {
    match (from, to) {
        (Some(from), Some(to)) => to > from,
        (Some(_), None) => true,
        (None, _) => false,
    }
}

/// A link as a right: replicas of what it leads to are one, and what runs elsewhere is where it runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct LinkRight {
    to: ServiceName,
    port: PortProto,
    elsewhere: Option<String>,
}

impl LinkRight {
    fn text(&self, before: &str) -> String {
        let outside = self.elsewhere.as_ref().map(|at| format!(" (is {at})"));
        format!("{before}{}:{}{}", self.to, self.port, outside.unwrap_or_default())
    }
}

fn links(unit: &ServicePlan, plan: &Plan) -> BTreeSet<LinkRight> {
    let right = |link: &LinkRule| LinkRight {
        to: plan.declared(&link.to).clone(),
        port: link.port,
        elsewhere: plan.external.iter().find(|external| external.name == link.to).map(elsewhere),
    };
    unit.links.iter().map(right).collect()
}

fn link_differences(old: &ServicePlan, new: &ServicePlan, plans: &Plans<'_>, found: &mut Differences) {
    let (before, after) = (links(old, plans.running), links(new, plans.wanted));
    for link in after.difference(&before) {
        found.right(link.text("link to "));
    }
    for link in before.difference(&after) {
        found.live(link.text("no link any more to "));
    }
    if new.links != old.links {
        // Addresses follow from who is there, and places from the file.
        found.live(String::new());
    }
}

fn view_differences(old: &ServicePlan, new: &ServicePlan, plans: &Plans<'_>, found: &mut Differences) {
    if old.view == new.view {
        return;
    }
    let told = found.all.len();
    let View {
        uid,
        gid,
        user,
        home,
        symlinks,
        files,
        system,
        scratch,
        scratch_size,
        repo,
        binds,
        tmpfs,
        secret_files,
        secret_env,
    } = &new.view;
    let from = &old.view;
    if *files != from.files {
        let is_live = |path: &Path| path == Path::new(HOSTS);
        let rest = |files: &[(PathBuf, Arc<str>)]| -> Vec<_> {
            files.iter().filter(|(path, _)| !is_live(path)).cloned().collect()
        };
        let same = rest(files) == rest(&from.files);
        found.add(String::new(), if same { UnitChange::Live } else { UnitChange::Replace }, false);
        let only_names = View { files: files.clone(), ..from.clone() } == new.view;
        if same && only_names {
            return;
        }
    }
    let person =
        |view: &View| format!("{} ({}:{}), home {}", view.user, view.uid, view.gid, view.home.display());
    if (*uid, *gid, user, home) != (from.uid, from.gid, &from.user, &from.home) {
        found.replace(became("user", person(from), person(&new.view)));
    }
    if *symlinks != from.symlinks || *system != from.system {
        found.replace("what it sees of the system is another".to_owned());
    }
    if *scratch_size != from.scratch_size {
        let text = became("limits.tmp", from.scratch_size, scratch_size);
        found.add(text, UnitChange::Replace, *scratch_size > from.scratch_size);
    }
    if *binds != from.binds || *repo != from.repo || *tmpfs != from.tmpfs {
        file_differences(old, new, plans, found);
    }
    let (before, after) = (secrets(from), secrets(&new.view));
    for secret in after.difference(&before) {
        found.add(secret.clone(), UnitChange::Replace, true);
    }
    for secret in before.difference(&after) {
        found.replace(format!("{secret}: no longer"));
    }
    let rest =
        *scratch != from.scratch || *secret_files != from.secret_files || *secret_env != from.secret_env;
    let silent = found.all[told..].iter().all(|one| one.text.is_empty());
    if rest || silent {
        let renamed = old.name != new.name;
        found.replace(if silent && !renamed {
            "its files are laid out anew".to_owned()
        } else {
            String::new()
        });
    }
}

/// What is seen of the host and of volumes, and where.
fn file_differences(old: &ServicePlan, new: &ServicePlan, plans: &Plans<'_>, found: &mut Differences) {
    let wanted = plans.wanted;
    let (before, after) = (Sight::of(&old.view), Sight::of(&new.view));
    let points: BTreeSet<PathBuf> = before.points().into_iter().chain(after.points()).collect();
    let mut told = false;
    for point in points {
        let (had, has) = (before.access(&point), after.access(&point));
        if had == has {
            continue;
        }
        told = true;
        let why = match has {
            // Only what others write is taken away from those who do not.
            Access::None => plans.write.why(&point, &new.declared, ", because it is written by "),
            Access::Read | Access::Write if had == Access::None => plans.seen_because(&point, new),
            Access::Read | Access::Write => None,
        };
        let text = format!("{}{}", sees(wanted, &point, has), why.unwrap_or_default());
        found.add(text, UnitChange::Replace, has > had);
    }
    let (had, has) = (access::volumes(&old.view), access::volumes(&new.view));
    let names: BTreeSet<_> = had.keys().chain(has.keys()).copied().collect();
    for name in names {
        let (from, to) = (had.get(name).copied(), has.get(name).copied());
        let access = to.unwrap_or(Access::None);
        if from != to {
            told = true;
            let widens = access > from.unwrap_or(Access::None);
            found.add(volume_text(name, access), UnitChange::Replace, widens);
        }
    }
    let sizes = |view: &View| -> BTreeMap<PathBuf, ByteSize> { view.tmpfs.iter().cloned().collect() };
    let (had, has) = (sizes(&old.view), sizes(&new.view));
    let paths: BTreeSet<&PathBuf> = had.keys().chain(has.keys()).collect();
    for path in paths {
        let (from, to) = (had.get(path), has.get(path));
        if from != to {
            told = true;
            let text = match to {
                Some(size) => format!("tmpfs at {} ({size})", place(wanted, path)),
                None => format!("tmpfs at {}: no longer", place(wanted, path)),
            };
            found.add(text, UnitChange::Replace, to > from);
        }
    }
    if !told {
        // The same files in other places.
        let text = |unit: &ServicePlan| -> BTreeSet<String> {
            unit.view.binds.iter().map(|bind| mount_text(wanted, bind)).collect()
        };
        let (had, has) = (text(old), text(new));
        for mount in has.difference(&had) {
            found.replace(format!("mounts {mount}"));
        }
        for mount in had.difference(&has) {
            found.replace(format!("mounts {mount} no longer"));
        }
    }
}

/// `sees ./data read-write`
fn sees(plan: &Plan, path: &Path, access: Access) -> String {
    let place = place(plan, path);
    match access {
        Access::None => format!("no longer sees {place}"),
        Access::Read => format!("sees {place} read-only"),
        Access::Write => format!("sees {place} read-write"),
    }
}

fn volume_text(name: &VolumeName, access: Access) -> String {
    match access {
        Access::None => format!("no longer sees the volume {name}"),
        Access::Read => format!("sees the volume {name} read-only"),
        Access::Write => format!("sees the volume {name} read-write"),
    }
}

/// The secrets that are seen, as lines.
fn secrets(view: &View) -> BTreeSet<String> {
    let files = view.secret_files.iter().map(|(name, path)| format!("secret {name} in {}", path.display()));
    let variables = view.secret_env.iter().map(|(name, variable)| format!("secret {name} as ${variable}"));
    files.chain(variables).collect()
}

fn external_lines(running: &Plan, wanted: &Plan) -> Vec<(String, bool)> {
    let by_name = |plan: &Plan| -> BTreeMap<ServiceName, String> {
        let where_ = |external: &ExternalPlan| (external.name.clone(), elsewhere(external));
        plan.external.iter().map(where_).collect()
    };
    let (before, after) = (by_name(running), by_name(wanted));
    let names: BTreeSet<&ServiceName> = before.keys().chain(after.keys()).collect();
    let line = |name: &ServiceName| match (before.get(name), after.get(name)) {
        (from, to) if from == to => None,
        (None, Some(to)) => Some((format!("external {name}: {to}"), true)),
        (Some(from), Some(to)) => Some((became(&format!("external {name}"), from, to), true)),
        (_, None) => Some((format!("external {name}: removed"), false)),
    };
    names.into_iter().filter_map(line).collect()
}

/// Who writes which directory of the host. Not builds: what they make is for everybody to see.
#[derive(Debug)]
struct Writers<'p> {
    by_path: BTreeMap<&'p Path, BTreeSet<&'p ServiceName>>,
}

impl<'p> Writers<'p> {
    fn of(plan: &'p Plan) -> Self {
        let mut by_path: BTreeMap<&Path, BTreeSet<&ServiceName>> = BTreeMap::new();
        for unit in plan.services.values().filter(|unit| unit.kind != ServiceKind::Build) {
            for path in access::written(&unit.view) {
                by_path.entry(path).or_default().insert(&unit.declared);
            }
        }
        Self { by_path }
    }

    /// The others who write a path; `None` where there are none.
    fn others(&self, path: &Path, own: &ServiceName) -> Option<Vec<String>> {
        let all = path.ancestors().filter_map(|path| self.by_path.get(path)).flatten();
        let others: BTreeSet<String> = all.filter(|name| **name != own).map(ToString::to_string).collect();
        (!others.is_empty()).then(|| others.into_iter().collect())
    }

    /// The same as a phrase, after these words.
    fn why(&self, path: &Path, own: &ServiceName, words: &str) -> Option<String> {
        self.others(path, own).map(|others| format!("{words}{}", some(&others)))
    }
}
