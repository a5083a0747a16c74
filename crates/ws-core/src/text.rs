//! Small pieces of the sentences that causes, warnings and plans are made of.

use std::time::Duration;

use ws_model::ExternalHost;

use crate::plan::ExternalPlan;

/// How many of a list are named before the rest is counted.
const NAMED: usize = 3;

/// `200 ms`, `1.5 s`, `10 s`, `2 min`, `2 h`, `7 days`
pub(crate) fn duration(duration: Duration) -> String {
    const HOUR: u128 = 3_600_000;
    let millis = duration.as_millis();
    if millis < 1000 {
        format!("{millis} ms")
    } else if millis >= 48 * HOUR && millis.is_multiple_of(24 * HOUR) {
        format!("{} days", millis / (24 * HOUR))
    } else if millis >= 2 * HOUR && millis.is_multiple_of(HOUR) {
        format!("{} h", millis / HOUR)
    } else if millis >= 120_000 && millis.is_multiple_of(60_000) {
        format!("{} min", millis / 60_000)
    } else if millis.is_multiple_of(1000) {
        format!("{} s", millis / 1000)
    } else {
        format!("{}.{} s", millis / 1000, millis % 1000 / 100)
    }
}

/// "a, b, c and 2 more"
pub(crate) fn some(parts: &[String]) -> String {
    let (first, rest) = parts.split_at(parts.len().min(NAMED));
    match rest.len() {
        0 => first.join(", "),
        n => format!("{} and {n} more", first.join(", ")),
    }
}

/// "`a`, `b`, `c` and 2 more"
pub(crate) fn some_quoted<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    some(&names)
}

/// Where something external runs: `orders.example:443`; `host:3000` is this machine, as in the file.
pub(crate) fn elsewhere(external: &ExternalPlan) -> String {
    let port = external.port;
    match &external.host {
        ExternalHost::Loopback => format!("host:{port}"),
        ExternalHost::Address(address) => format!("{address}:{port}"),
        ExternalHost::Name(name) => format!("{name}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        for (millis, text) in [
            (0, "0 ms"),
            (200, "200 ms"),
            (1000, "1 s"),
            (1500, "1.5 s"),
            (60_000, "60 s"),
            (90_000, "90 s"),
            (120_000, "2 min"),
            (5_400_000, "90 min"),
            (7_200_000, "2 h"),
            (86_400_000, "24 h"),
            (604_800_000, "7 days"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn long_lists_are_counted() {
        let parts = ["a", "b", "c", "d", "e"].map(str::to_owned);
        assert_eq!(some(&parts[..3]), "a, b, c");
        assert_eq!(some(&parts), "a, b, c and 2 more");
    }
}
