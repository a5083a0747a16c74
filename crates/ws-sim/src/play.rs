//! A scenario against the engine: one step after the other, each judged.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use ws_core::engine::{Engine, EngineStatus, Input, Tick};
use ws_model::ServiceName;

use crate::dice::Dice;
use crate::host::SimHost;
use crate::oracle::{Broken, Invariant, Oracle};
use crate::plan;
use crate::scenario::{Habits, Happening, Scenario, Span, Unit};
use crate::show;

/// More steps than any scenario needs that comes to rest.
const MOST_STEPS: u64 = 200_000;

/// How long a first `up` takes at most when all goes well.
const FRESH_WITHIN: Duration = Duration::from_secs(900);

/// What came of a scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Played {
    /// How many inputs the engine took.
    pub steps: u64,
    /// What did not hold; it ended there.
    pub broken: Option<(Tick, Broken)>,
    /// What happened, where that was asked for.
    pub transcript: String,
}

/// Plays a scenario to its end, or until something does not hold. `write` keeps a transcript; writing takes most of
/// the time.
#[must_use]
pub fn play(scenario: &Scenario, write: bool) -> Played {
    let mut stage = Stage::new(scenario, write);
    // The engine asserts some things itself. What is left of the stage after a panic is only read.
    let result = catch_unwind(AssertUnwindSafe(|| stage.run())).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "something panicked".to_owned());
        Err(Broken { invariant: Invariant::Panic, text })
    });
    Played {
        steps: stage.steps,
        broken: result.err().map(|broken| (stage.now, broken)),
        transcript: stage.transcript.unwrap_or_default(),
    }
}

/// Plays it twice, and says whether that made a difference.
#[must_use]
pub fn play_twice(scenario: &Scenario) -> Played {
    let (one, two) = (play(scenario, true), play(scenario, true));
    if one == two {
        return one;
    }
    let mut lines = one.transcript.lines().zip(two.transcript.lines());
    let (a, b) = lines.find(|(a, b)| a != b).unwrap_or(("the end", "more"));
    let broken = Broken { invariant: Invariant::Same, text: format!("`{a}` became `{b}` the second time") };
    Played { broken: Some((Duration::ZERO, broken)), ..two }
}

/// Whether a command runs once under this name; one whose end the host never told stays.
fn is_one_off(service: &ServiceName) -> bool {
    service.as_str().contains("-run-")
}

struct Stage<'s> {
    scenario: &'s Scenario,
    dice: Dice,
    engine: Engine,
    host: SimHost,
    oracle: Oracle,
    now: Tick,
    steps: u64,
    /// Whether nothing came of the last step.
    quiet: bool,
    transcript: Option<String>,
    /// What is to be told before anything else.
    next: VecDeque<Input>,
    /// Services of one run that are there.
    one_offs: Vec<ServiceName>,
    one_off_count: u32,
    /// A plan that waits until another one is carried out.
    due: Option<usize>,
    /// The plan that was adopted last.
    adopted: usize,
}

impl<'s> Stage<'s> {
    fn new(scenario: &'s Scenario, write: bool) -> Self {
        Self {
            scenario,
            dice: Dice::new(scenario.seed),
            engine: Engine::new(plan::plan(scenario, 0)),
            host: SimHost::new(scenario),
            oracle: Oracle::new(scenario),
            now: Duration::ZERO,
            steps: 0,
            quiet: true,
            transcript: write.then(String::new),
            next: VecDeque::new(),
            one_offs: Vec::new(),
            one_off_count: 0,
            due: None,
            adopted: 0,
        }
    }

    fn run(&mut self) -> Result<(), Broken> {
        for (at, happening) in &self.scenario.timeline {
            self.play_until(*at)?;
            self.happens(happening)?;
        }
        Ok(())
    }

    /// Lets happen what is due, and ticks when the engine asks for it.
    fn play_until(&mut self, end: Tick) -> Result<(), Broken> {
        loop {
            if let Some(input) = self.next.pop_front() {
                self.step(&input)?;
                continue;
            }
            if let Some(number) = self.due.take_if(|_| !self.engine.is_changing()) {
                self.adopt(number)?;
                continue;
            }
            let told = self.host.next();
            let tick = self.engine.next_deadline().map(|deadline| {
                let late = Span { from: Duration::ZERO, to: self.scenario.late };
                let millis = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
                (deadline + self.dice.of("late", millis).time(late)).max(self.now)
            });
            let Some(next) = told.into_iter().chain(tick).min().filter(|next| *next <= end) else {
                self.now = self.now.max(end);
                return Ok(());
            };
            self.now = self.now.max(next);
            if told.is_some_and(|at| at <= next) {
                if let Some(input) = self.host.tell(self.now) {
                    self.step(&input)?;
                }
            } else {
                self.step(&Input::Tick)?;
                // One deadline may follow from another, but never from nothing.
                let deadline = self.engine.next_deadline().filter(|at| *at <= self.now);
                if let Some(deadline) = deadline.filter(|_| self.quiet) {
                    let text = format!("a tick at {:?} did not meet the deadline {deadline:?}", self.now);
                    return Err(Broken { invariant: Invariant::Deadline, text });
                }
            }
        }
    }

    fn happens(&mut self, happening: &Happening) -> Result<(), Broken> {
        let input = match happening {
            Happening::Up(services) => Input::Up { services: services.clone() },
            Happening::Stop(services) => Input::Stop { services: services.clone() },
            Happening::Restart(services) => Input::Restart { services: services.clone() },
            Happening::Kill(services) => Input::Kill { services: services.clone() },
            Happening::Down { now } => Input::Down { now: *now },
            Happening::Run(service) => return self.one_off(service),
            Happening::Adopt(number) => {
                self.due = Some(*number);
                return Ok(());
            }
            Happening::Exit(..)
            | Happening::Changed(_)
            | Happening::Probe(..)
            | Happening::Notify(..)
            | Happening::HostLost
            | Happening::Calm => match self.host.happen(happening, self.now) {
                Some(input) => input,
                None => return Ok(()),
            },
            Happening::Settled => {
                return if self.oracle.is_going_down() { Ok(()) } else { self.at_rest() };
            }
            Happening::Fresh => {
                return if self.oracle.is_going_down() { Ok(()) } else { self.as_fresh() };
            }
            Happening::End => {
                return if self.oracle.is_going_down() {
                    self.oracle.all_gone(&self.engine, self.now)
                } else {
                    Ok(())
                };
            }
        };
        self.step(&input)
    }

    fn adopt(&mut self, number: usize) -> Result<(), Broken> {
        if !self.oracle.is_going_down() {
            self.adopted = number;
        }
        self.oracle.adopt(self.scenario.plan(number));
        self.step(&Input::Adopt { plan: Box::new(plan::plan(self.scenario, number)) })
    }

    fn at_rest(&self) -> Result<(), Broken> {
        if self.engine.is_changing() {
            let text = "the host has answered, and a plan is still being carried out".to_owned();
            return Err(Broken { invariant: Invariant::Adopts, text });
        }
        self.oracle.at_rest()
    }

    /// Who is there, in which phase, at which place, and of which plan are those that run.
    fn state(&self) -> Vec<(String, Option<Unit>)> {
        let phases = self.engine.status().into_iter().filter(|it| !is_one_off(&it.service));
        let state = |status: EngineStatus| {
            let runs: Vec<String> = (self.host.runs_of(&status.service))
                .map(|run| format!("version {} view {}", run.version, run.view))
                .collect();
            let place = self
                .host
                .places()
                .get(&status.service)
                .map(|unit| Unit { habits: Habits::default(), ..unit.clone() });
            (format!("{} is {} with {runs:?}", status.service, status.phase), place)
        };
        phases.map(state).collect()
    }

    /// Whether all is as after a first `up` of the last plan.
    fn as_fresh(&self) -> Result<(), Broken> {
        let differ = |text: String| Err(Broken { invariant: Invariant::Fresh, text });
        let wanted = plan::plan(self.scenario, self.adopted);
        let mut plan = self.engine.plan().clone();
        plan.services.retain(|name, _| !is_one_off(name));
        if plan != wanted {
            return differ("the engine has another plan than the one that was adopted last".to_owned());
        }
        let fresh = Scenario {
            services: self.scenario.plan(self.adopted).to_vec(),
            // What a program is does not depend on who is there.
            plans: (0..=self.scenario.plans.len()).map(|n| self.scenario.plan(n).to_vec()).collect(),
            timeline: vec![
                (Duration::ZERO, Happening::Calm),
                (Duration::ZERO, Happening::Up(Vec::new())),
                (FRESH_WITHIN, Happening::Settled),
            ],
            ..self.scenario.clone()
        };
        let mut other = Stage::new(&fresh, false);
        other.run()?;
        let (this, other) = (self.state(), other.state());
        match this.iter().zip(&other).find(|(this, other)| this != other) {
            Some(((this, place), (other, wanted))) => {
                let place = if place == wanted { "" } else { " (and at another place)" };
                differ(format!("{this}{place}, and after a first `up` {other}"))
            }
            None if this.len() != other.len() => {
                differ(format!("there are {this:?}, and should be {other:?}"))
            }
            None => Ok(()),
        }
    }

    /// What `ws run` does: one more service, asked for, and taken away when it has ended.
    fn one_off(&mut self, of: &ServiceName) -> Result<(), Broken> {
        // Of something that goes nobody begins a further one.
        let unit = self.host.places().get(of).filter(|_| self.oracle.is_there(of)).cloned();
        let Some(unit) = unit.filter(|_| !self.oracle.is_going_down()) else { return Ok(()) };
        self.one_off_count += 1;
        let name = ServiceName::new(format!("{of}-run-{}", self.one_off_count));
        let unit = plan::one_off(&unit, name.expect("it is a name"));
        self.host.add(unit.clone());
        self.oracle.add(&unit);
        let index = self.scenario.number(&unit.name) + self.one_off_count;
        self.one_offs.push(unit.name.clone());
        self.step(&Input::Add { service: Box::new(plan::service(&unit, index)) })?;
        self.step(&Input::Up { services: vec![unit.name] })
    }

    fn step(&mut self, input: &Input) -> Result<(), Broken> {
        self.steps += 1;
        if self.steps > MOST_STEPS {
            let text = format!("after {MOST_STEPS} steps there is no end in sight");
            return Err(Broken { invariant: Invariant::Rest, text });
        }
        let outcome = self.engine.step(input.clone(), self.now);
        if let Some(transcript) = &mut self.transcript {
            show::step(transcript, self.now, input, &outcome);
        }
        self.quiet = outcome.effects.is_empty() && outcome.events.is_empty();
        let judged = self.oracle.judge(input, &outcome, &self.engine, self.now);
        for effect in &outcome.effects {
            self.host.submit(effect, self.now);
        }
        if let Input::Remove { service } = input
            && !self.engine.plan().services.contains_key(service)
        {
            self.host.remove(service);
            self.oracle.remove(service);
        }
        let oracle = &self.oracle;
        let next = &mut self.next;
        self.one_offs.retain(|service| {
            let ended = oracle.is_settled(service);
            if ended {
                next.push_back(Input::Remove { service: service.clone() });
            }
            !ended
        });
        judged
    }
}
