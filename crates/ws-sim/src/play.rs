//! A scenario against the engine: one step after the other, each judged.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use ws_core::engine::{Engine, Input, Tick};
use ws_model::ServiceName;

use crate::dice::Dice;
use crate::host::SimHost;
use crate::oracle::{Broken, Invariant, Oracle};
use crate::plan;
use crate::scenario::{Happening, Scenario, Span};
use crate::show;

/// More steps than any scenario needs that comes to rest.
const MOST_STEPS: u64 = 200_000;

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
}

impl<'s> Stage<'s> {
    fn new(scenario: &'s Scenario, write: bool) -> Self {
        Self {
            scenario,
            dice: Dice::new(scenario.seed),
            engine: Engine::new(plan::plan(scenario)),
            host: SimHost::new(scenario),
            oracle: Oracle::new(scenario),
            now: Duration::ZERO,
            steps: 0,
            quiet: true,
            transcript: write.then(String::new),
            next: VecDeque::new(),
            one_offs: Vec::new(),
            one_off_count: 0,
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
            Happening::Exit(..)
            | Happening::Probe(..)
            | Happening::Notify(..)
            | Happening::HostLost
            | Happening::Calm => match self.host.happen(happening, self.now) {
                Some(input) => input,
                None => return Ok(()),
            },
            Happening::Settled => {
                return if self.oracle.is_going_down() { Ok(()) } else { self.oracle.at_rest() };
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

    /// What `ws run` does: one more service, asked for, and taken away when it has ended.
    fn one_off(&mut self, of: &ServiceName) -> Result<(), Broken> {
        let unit = self.scenario.services.iter().find(|unit| unit.name == *of);
        let Some(unit) = unit.filter(|_| !self.oracle.is_going_down()) else { return Ok(()) };
        self.one_off_count += 1;
        let name = ServiceName::new(format!("{of}-run-{}", self.one_off_count));
        let unit = plan::one_off(unit, name.expect("it is a name"));
        self.host.add(unit.clone());
        self.oracle.add(&unit);
        let index = u32::try_from(self.scenario.services.len()).unwrap_or(0) + self.one_off_count;
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
