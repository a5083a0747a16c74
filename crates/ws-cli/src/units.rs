//! Durations, times and sizes as people write and read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ws_model::Timestamp;

/// Reads `500ms`, `10s`, `1m30s`, `2h`, `1d`; a number alone is seconds.
///
/// # Errors
/// A sentence that says how it is written, when `text` is not a duration.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("`{text}` is not a duration: write `10s`, `1m30s`, `500ms` or a number of seconds");
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map(Duration::from_secs).map_err(|_| wrong());
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let unit_seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return Err(wrong()),
        };
        let part = Duration::try_from_secs_f64(number * unit_seconds).map_err(|_| wrong())?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = tail;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

/// A point in time that a user named: relative to now, or as such.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// So long before now.
    Ago(Duration),
    /// This one.
    At(Timestamp),
}

impl Moment {
    /// The point on the wall clock.
    #[must_use]
    pub fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(time) => time,
            Self::Ago(duration) => {
                let ms = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
                Timestamp { unix_ms: now.unix_ms.saturating_sub(ms) }
            }
        }
    }
}

/// Reads `10m` (that long ago) or `2026-05-01T10:00:00Z`.
///
/// # Errors
/// A sentence that says how it is written, when `text` is neither.
pub fn parse_moment(text: &str) -> Result<Moment, String> {
    if let Ok(duration) = parse_duration(text) {
        return Ok(Moment::Ago(duration));
    }
    Timestamp::try_from(text.to_owned()).map(Moment::At).map_err(|_| {
        format!("`{text}` is neither a duration (`10m`, `90s`) nor a time (`2026-05-01T10:00:00Z`)")
    })
}

/// The wall clock.
#[must_use]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { unix_ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX) }
}

/// A duration for reading, with two digits that matter: `80 ms`, `3.2 s`, `4m 10s`, `2h 5m`, `3d 4h`.
#[must_use]
pub fn human_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    let seconds = duration.as_secs();
    match seconds {
        _ if ms < 1000 => format!("{ms} ms"),
        0..60 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// The time between two points, for reading; none when the clock went backwards.
#[must_use]
pub fn human_since(from: Timestamp, now: Timestamp) -> String {
    let ms = u64::try_from(now.unix_ms.saturating_sub(from.unix_ms)).unwrap_or(0);
    human_duration(Duration::from_secs(ms / 1000).max(Duration::from_millis(ms.min(999))))
}

/// A number of bytes for reading: `812K`, `12.3M`, `1.5G`.
#[must_use]
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];
    for (size, unit) in UNITS {
        if bytes >= size {
            let tenths = bytes.saturating_mul(10) / size;
            return match tenths {
                0..100 if !tenths.is_multiple_of(10) => format!("{}.{}{unit}", tenths / 10, tenths % 10),
                _ => format!("{}{unit}", tenths / 10),
            };
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        let cases = [
            ("30", Some(30_000)),
            ("10s", Some(10_000)),
            ("1m30s", Some(90_000)),
            ("500ms", Some(500)),
            ("1.5h", Some(5_400_000)),
            ("2d", Some(172_800_000)),
            ("", None),
            ("s", None),
            ("10", Some(10_000)),
            ("10 s", None),
            ("10x", None),
            ("-1s", None),
            ("1m30", None),
            ("99999999999999999999d", None),
            ("1.2.3s", None),
        ];
        for (text, ms) in cases {
            assert_eq!(parse_duration(text).ok(), ms.map(Duration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn moments_are_durations_or_times() {
        assert_eq!(parse_moment("90s"), Ok(Moment::Ago(Duration::from_secs(90))));
        assert_eq!(parse_moment("1970-01-01T00:00:01Z"), Ok(Moment::At(Timestamp { unix_ms: 1000 })));
        assert!(parse_moment("yesterday").unwrap_err().contains("`yesterday`"));
        let now = Timestamp { unix_ms: 5000 };
        assert_eq!(Moment::Ago(Duration::from_secs(2)).resolve(now), Timestamp { unix_ms: 3000 });
    }

    #[test]
    fn durations_and_sizes_are_short() {
        let cases = [
            (80, "80 ms"),
            (3_249, "3.2 s"),
            (250_000, "4m 10s"),
            (7_500_000, "2h 5m"),
            (273_600_000, "3d 4h"),
        ];
        for (ms, text) in cases {
            assert_eq!(human_duration(Duration::from_millis(ms)), text);
        }
        for (bytes, text) in
            [(12, "12B"), (2048, "2K"), (1_600_000, "1.5M"), (200 << 20, "200M"), (3 << 30, "3G")]
        {
            assert_eq!(human_bytes(bytes), text);
        }
        assert_eq!(human_since(Timestamp { unix_ms: 9 }, Timestamp { unix_ms: 5 }), "0 ms");
    }
}
