//! Somebody is killed at a random moment: no process stays, and the next command leaves everything clean.
//!
//! `CHAOS_ROUNDS` sets how often (20 by default), `CHAOS_SEED` starts from a given seed; the seed of every
//! round is printed.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ws_e2e::leak::Process;
use ws_e2e::show;
use ws_e2e::stack::random;
use ws_e2e::wait::let_pass;
use ws_e2e::{Mode, Stack, both_ways, requires, wait_until};

both_ways! {
    the_supervisor_is_killed
    the_client_is_killed
    the_spawner_is_killed
    a_launcher_is_killed
    an_init_is_killed
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

/// How long after the start of `up` the latest kill comes: the stack is up well before.
const LATEST: Duration = Duration::from_millis(400);

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

/// Rounds of: `up`, a kill after a random time, a look, one more command, a look.
fn rounds(mode: Mode, whom: &str, choose: impl Fn(&Process) -> bool, all_end: bool) {
    requires!(mode, userns, netns, nft);
    let first = number("CHAOS_SEED").unwrap_or_else(|| random() | 1);
    let mut stack = Stack::new(mode, STACK);
    let mut hits = 0;
    for round in 0..number("CHAOS_ROUNDS").unwrap_or(20) {
        let seed = first.wrapping_add(round) | 1;
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let after = Duration::from_micros(dice.roll(u64::try_from(LATEST.as_micros()).expect("short")));
        show(&format!("round {round} as {mode}: CHAOS_SEED={seed}, {whom} after {after:?}"));
        stack.watch();
        let detached = whom != "the client" && dice.roll(2) == 0;
        let start = Instant::now();
        let up = stack.start(if detached { &["up", "-d", "--wait"] } else { &["up"] });
        let_pass(after.saturating_sub(start.elapsed()));
        let mut chosen: Vec<Process> = stack
            .processes()
            .into_iter()
            .filter(|process| if whom == "the client" { process.pid == up.pid() } else { choose(process) })
            .collect();
        if whom == "a launcher" || whom == "an init" {
            let one = dice.roll(u64::try_from(chosen.len().max(1)).expect("few"));
            chosen = chosen.into_iter().skip(usize::try_from(one).expect("few")).take(1).collect();
        }
        hits += usize::from(!chosen.is_empty());
        for process in &chosen {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        let when = format!("after {whom} was killed {after:?} after the start (CHAOS_SEED={seed})");
        if all_end && !chosen.is_empty() {
            // The command that waits for it ends by itself.
            let ran = up.end();
            assert!(ran.code != 0 || detached, "{when}: {ran}");
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

fn everybody_is_killed(mode: Mode) {
    rounds(mode, "everybody", |_| true, true);
}
