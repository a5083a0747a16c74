//! Somebody is killed at a random moment of `up`, of running, of a restart or of `down`: no process stays, and
//! the next command leaves everything clean.
//!
//! `CHAOS_ROUNDS` sets how often (20 by default), `CHAOS_SEED` starts from a given seed; the seed of every
//! round is printed. `cargo xtask chaos` runs many.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ws_e2e::leak::Process;
use ws_e2e::show;
use ws_e2e::stack::{Running, random};
use ws_e2e::wait::let_pass;
use ws_e2e::{Mode, Stack, both_ways, requires, wait_until};

both_ways! {
    the_supervisor_is_killed
    the_client_is_killed
    the_spawner_is_killed
    a_launcher_is_killed
    an_init_is_killed
    a_service_is_killed
    everybody_is_killed
}

const STACK: &str = "
volumes: { data: {} }
services:
  web:
    command: [bin/ws-e2e-serve, 'http:8080']
    ports: ['0:8080']
    links: ['api:7000']
    ready: { http: ':8080/' }
  api:
    command: [bin/ws-e2e-serve, 'tcp:7000']
    links: ['db:9000']
    ready: { tcp: ':7000' }
  db:
    command: [bin/ws-e2e-serve, 'tcp:9000']
    ready: { exec: [/bin/true] }
    volumes: ['data:/data']
    stop: { grace: 2s }
  prepare:
    kind: task
    command: [/bin/sh, -c, 'sleep 0.01']
  shell:
    command: [/bin/sh, -c, 'trap : TERM; sleep 1000 & while :; do wait; done']
    stop: { grace: 200ms }
    depends_on: [prepare]
";

/// How long after the beginning of what is disturbed the latest kill comes: it is over well before.
const LATEST: Duration = Duration::from_millis(400);

/// What goes on when somebody is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Up,
    Running,
    Restart,
    Down,
}

/// A small generator (xorshift*): the same seed gives the same rounds.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

/// Brings the stack to the moment that is to be disturbed: the `up` that may own it, and the command that is under
/// way.
fn begin(stack: &Stack, moment: Moment, detached: bool) -> (Running, Option<Running>) {
    let mut up = stack.start(if detached { &["up", "-d", "--wait"] } else { &["up"] });
    if moment == Moment::Up {
        return (up, None);
    }
    wait_until(Duration::from_secs(60), "everything is ready", || {
        let rows = stack.ps();
        let ready = !rows.is_empty() && rows.iter().all(|row| row.ready || row.service.as_str() == "shell");
        if ready { Ok(()) } else { Err(format!("{rows:#?}")) }
    });
    if detached {
        wait_until(Duration::from_secs(60), "the end of `up -d`", || {
            if up.has_ended() { Ok(()) } else { Err("it runs") }
        });
    }
    let command: Option<&[&str]> = match moment {
        Moment::Up | Moment::Running => None,
        Moment::Restart => Some(&["restart"]),
        Moment::Down => Some(&["down"]),
    };
    (up, command.map(|command| stack.start(command)))
}

/// Rounds of: a moment, a kill after a random time, a look, one more command, a look.
fn rounds(mode: Mode, whom: &str, choose: impl Fn(&Process) -> bool, all_end: bool) {
    requires!(mode, userns, netns, nft);
    let first = number("CHAOS_SEED").unwrap_or_else(|| random() | 1);
    let mut stack = Stack::new(mode, STACK);
    let mut hits = 0;
    for round in 0..number("CHAOS_ROUNDS").unwrap_or(20) {
        let seed = first.wrapping_add(round) | 1;
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let after = Duration::from_micros(dice.roll(u64::try_from(LATEST.as_micros()).expect("short")));
        // Half of them while it comes up: most of what can be left behind is made there.
        let moment = match dice.roll(8) {
            0 | 1 => Moment::Running,
            2 => Moment::Restart,
            3 => Moment::Down,
            _ => Moment::Up,
        };
        let the_client = whom == "the client";
        let detached = !the_client && dice.roll(2) == 0;
        show(&format!("round {round} as {mode}: CHAOS_SEED={seed}, {whom}, {moment:?}, after {after:?}"));
        stack.watch();
        let (up, under_way) = begin(&stack, moment, detached);
        let start = Instant::now();
        let_pass(after.saturating_sub(start.elapsed()));
        let mut chosen: Vec<Process> = stack
            .processes()
            .into_iter()
            .filter(|process| if the_client { process.pid == up.pid() } else { choose(process) })
            .collect();
        if matches!(whom, "a launcher" | "an init" | "a service") {
            let one = dice.roll(u64::try_from(chosen.len().max(1)).expect("few"));
            chosen = chosen.into_iter().skip(usize::try_from(one).expect("few")).take(1).collect();
        }
        hits += usize::from(!chosen.is_empty());
        for process in &chosen {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        let when = format!("after {whom} was killed {after:?} into {moment:?} (CHAOS_SEED={seed})");
        if let Some(under_way) = under_way {
            // Whatever it has to say: it ends.
            let _ = under_way.end();
        }
        if all_end && !chosen.is_empty() {
            // The command that waits for it ends by itself.
            let ran = up.end();
            let asked_to_end = moment == Moment::Down;
            assert!(ran.code != 0 || detached || asked_to_end, "{when}: {ran}");
            stack.assert_no_process(&when);
            let ran = stack.ws(&["ps", "--json"]);
            assert_eq!((ran.code, ran.out.trim()), (0, "[]"), "{when}: {ran}");
        } else {
            // A `down` that comes before `up` has begun has nothing to do.
            let mut up = up;
            wait_until(Duration::from_secs(60), &format!("the end of `up` {when}"), || {
                let ran = stack.ws(&["down"]);
                assert_eq!(ran.code, 0, "{when}: {ran}\n{}", stack.story());
                if up.has_ended() { Ok(()) } else { Err(stack.story()) }
            });
            let _ = up.end();
            let ran = stack.ws(&["down"]);
            assert_eq!(ran.code, 0, "{when}: {ran}");
        }
        stack.is_down();
        stack.assert_clean(&format!("{when} and one more command"));
    }
    assert!(hits > 0, "{whom} was never there to be killed");
    // And it goes up as if nothing had been.
    stack.up();
    stack.down();
}

fn the_supervisor_is_killed(mode: Mode) {
    rounds(mode, "the supervisor", |process| process.cmdline.contains("__supervise"), true);
}

fn the_client_is_killed(mode: Mode) {
    rounds(mode, "the client", |_| false, true);
}

fn the_spawner_is_killed(mode: Mode) {
    rounds(mode, "the spawner", |process| process.comm == "ws-spawner", true);
}

fn a_launcher_is_killed(mode: Mode) {
    rounds(mode, "a launcher", |process| process.comm == "ws-launcher", false);
}

fn an_init_is_killed(mode: Mode) {
    rounds(mode, "an init", |process| process.comm == "ws-init", false);
}

fn a_service_is_killed(mode: Mode) {
    rounds(mode, "a service", |process| process.comm == "ws-e2e-serve" || process.comm == "sh", false);
}

fn everybody_is_killed(mode: Mode) {
    rounds(mode, "everybody", |_| true, true);
}
