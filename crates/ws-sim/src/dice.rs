//! Chance that can be repeated, and that stays the same for one thing when another one is taken away.

use std::time::Duration;

use crate::scenario::Span;

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014): small, seeded,
/// and the same everywhere. Nothing here needs a better one.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Dice that fall in the way of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Other dice, which belong to this thing: they fall the same whatever was thrown before for others.
    #[must_use]
    pub fn of(&self, thing: &str, number: u64) -> Self {
        let mut dice = Self(self.0 ^ number.wrapping_mul(0xff51_afd7_ed55_8ccd));
        for byte in thing.bytes() {
            dice.0 ^= u64::from(byte);
            dice.0 = dice.next();
        }
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// True in `n` of a hundred.
    pub fn percent(&mut self, n: u8) -> bool {
        // Thrown in any case, so that a change of the percentage changes nothing that comes after.
        self.below(100) < u64::from(n)
    }

    /// A time of the span, in whole milliseconds.
    pub fn time(&mut self, span: Span) -> Duration {
        let (from, to) = (span.from.as_millis(), span.to.as_millis());
        let width = u64::try_from(to.saturating_sub(from)).unwrap_or(0);
        let from = u64::try_from(from).unwrap_or(u64::MAX);
        Duration::from_millis(from.saturating_add(self.below(width + 1)))
    }

    /// One of these, of which there is one at least.
    pub fn choose<T: Copy>(&mut self, of: &[T]) -> T {
        let at = usize::try_from(self.below(of.len() as u64)).unwrap_or(0);
        of[at]
    }
}
