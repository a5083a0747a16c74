//! What a service says of itself (sd_notify(3)): the words of one datagram, and how many datagrams are heard.
//!
//! Pure. Everything comes from inside a sandbox: it is bounded, and made safe to print.

use std::time::{Duration, Instant};

use ws_core::engine::Notified;

/// The longest datagram that is looked at, in bytes; a longer one is no message of this protocol.
pub const MAX_DATAGRAM: usize = 4096;

/// How much of a status is kept, in characters.
pub const MAX_STATUS: usize = 200;

/// The longest that a timeout is extended by one message: what is meant is minutes, and sums of times stay sums.
const MAX_EXTENSION: Duration = Duration::from_secs(24 * 60 * 60);

/// What a datagram says: the assignments that are known, one a line, in their order.
///
/// Everything else that the protocol has (`MAINPID=`, `ERRNO=`, `BARRIER=1`, `FDSTORE=1`, …) and everything that it
/// has not is passed over. Each word counts once, its last value, at the place of its first.
#[must_use]
pub fn parse(datagram: &[u8]) -> Vec<Notified> {
    let mut all: Vec<Notified> = Vec::new();
    for line in datagram.split(|byte| *byte == b'\n') {
        let Some(news) = assignment(line) else { continue };
        let same = |known: &&mut Notified| std::mem::discriminant(&**known) == std::mem::discriminant(&news);
        match all.iter_mut().find(same) {
            Some(known) => *known = news,
            None => all.push(news),
        }
    }
    all
}

fn assignment(line: &[u8]) -> Option<Notified> {
    let at = line.iter().position(|byte| *byte == b'=')?;
    let (key, value) = line.split_at(at);
    let value = value.get(1..).unwrap_or_default();
    match (key, value) {
        (b"READY", b"1") => Some(Notified::Ready),
        (b"RELOADING", b"1") => Some(Notified::Reloading),
        (b"STOPPING", b"1") => Some(Notified::Stopping),
        (b"WATCHDOG", b"1") => Some(Notified::Watchdog),
        (b"WATCHDOG", b"trigger") => Some(Notified::WatchdogTrigger),
        (b"STATUS", text) => Some(Notified::Status(printable(text))),
        (b"EXTEND_TIMEOUT_USEC", text) => {
            let micros: u64 = std::str::from_utf8(text).ok()?.trim().parse().ok()?;
            // Nothing to extend by is no extension.
            (micros > 0).then(|| Notified::ExtendTimeout(Duration::from_micros(micros).min(MAX_EXTENSION)))
        }
        _ => None,
    }
}

/// One line without control characters, of bounded length; neither can it turn the direction of what is printed
/// after it.
fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let safe = |c: char| match c {
        c if c.is_control() => ' ',
        // Line and paragraph separators; marks, embeddings, overrides and isolates of direction.
        '\u{2028}' | '\u{2029}' => ' ',
        '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => ' ',
        c => c,
    };
    let safe: String = text.chars().map(safe).collect();
    let safe = safe.trim();
    let mut short: String = safe.chars().take(MAX_STATUS).collect();
    if short.len() < safe.len() {
        short.push('…');
    }
    short
}

/// How many datagrams are heard at once before it becomes slower.
const BURST: u32 = 32;

/// The time in which one more may be heard: twenty a second, far more than any watchdog sends.
const REFILL: Duration = Duration::from_millis(50);

/// Bounds how often a service is heard. What it says meanwhile waits in its socket, whose queue the kernel bounds, and
/// then in the service itself: nothing is kept here.
#[derive(Debug)]
pub struct Patience {
    left: u32,
    /// When `left` was right.
    at: Instant,
}

impl Patience {
    /// All of it.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { left: BURST, at: now }
    }

    /// Hears one more; or, when there have been too many, tells how long not to listen.
    ///
    /// # Errors
    /// The time to wait before the next one.
    pub fn hear(&mut self, now: Instant) -> Result<(), Duration> {
        let gone = now.saturating_duration_since(self.at);
        let earned = u32::try_from(gone.as_nanos() / REFILL.as_nanos()).unwrap_or(u32::MAX);
        if earned >= BURST - self.left {
            self.left = BURST;
            self.at = now;
        } else {
            self.left += earned;
            self.at += REFILL * earned;
        }
        if self.left == 0 {
            return Err((self.at + REFILL).saturating_duration_since(now));
        }
        self.left -= 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_words_of_the_protocol() {
        use Notified::{ExtendTimeout, Ready, Reloading, Status, Stopping, Watchdog, WatchdogTrigger};
        let status = |text: &str| Status(text.to_owned());
        let extend = |micros| ExtendTimeout(Duration::from_micros(micros));
        let table: &[(&[u8], &[Notified])] = &[
            (b"READY=1", &[Ready]),
            (b"READY=1\n", &[Ready]),
            (b"READY=0", &[]),
            (b"READY=", &[]),
            (b"READY", &[]),
            (b"ready=1", &[]),
            (b" READY=1", &[]),
            (b"", &[]),
            (b"\n\n\n", &[]),
            (b"=1", &[]),
            (b"RELOADING=1\nMONOTONIC_USEC=123456", &[Reloading]),
            (b"STOPPING=1", &[Stopping]),
            (b"WATCHDOG=1", &[Watchdog]),
            (b"WATCHDOG=trigger", &[WatchdogTrigger]),
            (b"WATCHDOG=2", &[]),
            (b"STATUS=Loading 3/7", &[status("Loading 3/7")]),
            (b"STATUS=a=b", &[status("a=b")]),
            (b"STATUS=", &[status("")]),
            (b"STATUS=one\nREADY=1\nSTATUS=two", &[status("two"), Ready]),
            (b"STATUS=\x1b[31mred\r\x07\0", &[status("[31mred")]),
            ("STATUS=a\u{202e}b\u{2028}c".as_bytes(), &[status("a b c")]),
            (b"STATUS=\xff\xfe", &[status("\u{fffd}\u{fffd}")]),
            (b"EXTEND_TIMEOUT_USEC=2500000", &[extend(2_500_000)]),
            (b"EXTEND_TIMEOUT_USEC=0", &[]),
            (b"EXTEND_TIMEOUT_USEC=-1", &[]),
            (b"EXTEND_TIMEOUT_USEC=1.5", &[]),
            (b"EXTEND_TIMEOUT_USEC=99999999999999999999", &[]),
            (b"EXTEND_TIMEOUT_USEC=18446744073709551615", &[ExtendTimeout(MAX_EXTENSION)]),
            (b"MAINPID=1\nERRNO=2\nBUSERROR=x\nFDSTORE=1\nBARRIER=1\nX_MINE=y", &[]),
            (b"READY=1\nREADY=1\nREADY=1", &[Ready]),
            (b"WATCHDOG=1\nWATCHDOG=trigger", &[Watchdog, WatchdogTrigger]),
        ];
        for (datagram, expected) in table {
            assert_eq!(parse(datagram), *expected, "{:?}", String::from_utf8_lossy(datagram));
        }
    }

    #[test]
    fn a_long_status_is_cut_between_characters() {
        let text = format!("STATUS={}", "ü".repeat(MAX_STATUS + 1));
        let expected = "ü".repeat(MAX_STATUS) + "…";
        assert_eq!(parse(text.as_bytes()), [Notified::Status(expected)]);
    }

    proptest! {
        #[test]
        fn whatever_is_sent_the_answer_is_small_and_can_be_printed(
            datagram in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..MAX_DATAGRAM),
                "((STATUS|READY|WATCHDOG|EXTEND_TIMEOUT_USEC|RELOADING)=[^=]{0,40}\n?){0,40}"
                    .prop_map(String::into_bytes),
            ]
        ) {
            let all = parse(&datagram);
            prop_assert!(all.len() <= 7);
            for news in all {
                match news {
                    Notified::Status(text) => {
                        prop_assert!(text.chars().count() <= MAX_STATUS + 1);
                        prop_assert!(!text.chars().any(char::is_control));
                    }
                    Notified::ExtendTimeout(time) => {
                        prop_assert!(time > Duration::ZERO && time <= MAX_EXTENSION);
                    }
                    Notified::Ready
                    | Notified::Reloading
                    | Notified::Stopping
                    | Notified::Watchdog
                    | Notified::WatchdogTrigger => {}
                }
            }
        }

        #[test]
        fn plain_words_are_told_as_they_are(text in "[ -<>-~]{0,100}") {
            prop_assert_eq!(
                parse(format!("STATUS={text}\nREADY=1").as_bytes()),
                [Notified::Status(text.trim().to_owned()), Notified::Ready]
            );
        }

        #[test]
        fn nobody_is_heard_more_often_than_is_said(steps in prop::collection::vec(0u64..200, 1..400)) {
            let begin = Instant::now();
            let (mut now, mut heard) = (begin, 0u128);
            let mut patience = Patience::new(begin);
            for step in steps {
                now += Duration::from_millis(step);
                match patience.hear(now) {
                    Ok(()) => heard += 1,
                    Err(wait) => {
                        prop_assert!(wait > Duration::ZERO && wait <= REFILL);
                        // Who waits as long as it says is heard.
                        now += wait;
                        prop_assert_eq!(patience.hear(now), Ok(()));
                        heard += 1;
                    }
                }
                let bound = u128::from(BURST) + (now - begin).as_nanos() / REFILL.as_nanos();
                prop_assert!(heard <= bound, "{} of {}", heard, bound);
            }
        }
    }
}
