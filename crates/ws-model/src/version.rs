//! Versions of programs, and what the file asks of them: `>=20`, `15`, `>=3.11, <4`, `*`.

use std::fmt;

/// The most numbers of a version.
const MAX_PARTS: usize = 6;

/// A version: numbers with dots between them. What follows them (`-rc1`, `+build`) is not compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(Vec<u64>);

impl Version {
    /// The version in what a program prints when it is asked for it: the first number with a dot in it
    /// (`v20.11.1`, `Python 3.11.7`, `go version go1.22.1 linux/amd64`), else the first number.
    #[must_use]
    pub fn find_in(output: &str) -> Option<Self> {
        let mut whole = None;
        let mut rest = output;
        while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
            let end = rest[start..].find(|c: char| !c.is_ascii_digit() && c != '.');
            let number = &rest[start..end.map_or(rest.len(), |end| start + end)];
            rest = &rest[start + number.len()..];
            let Some(version) = Self::parse(number.trim_end_matches('.')) else { continue };
            if version.0.len() > 1 {
                return Some(version);
            }
            whole = whole.or(Some(version));
        }
        whole
    }

    fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('.').collect();
        if parts.len() > MAX_PARTS {
            return None;
        }
        let number =
            |part: &&str| part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok())?;
        parts.iter().map(number).collect::<Option<_>>().map(Self)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(u64::to_string).collect();
        f.pad(&parts.join("."))
    }
}

/// How a version compares to the one of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    AtLeast,
    Above,
    Equal,
    Below,
    AtMost,
}

/// What a version must satisfy: conditions with commas between them, all of which must hold.
///
/// A condition is one of `>=`, `>`, `=`, `<`, `<=` and a version, a version alone (the same as `=`), or `*`, which
/// every version satisfies. Only the numbers that the condition has are compared: `15` and `=15` are every 15.x,
/// `>15` begins with 16, and `<=15` includes 15.9.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRange(Vec<(Operator, Version)>);

impl VersionRange {
    /// Reads a range.
    ///
    /// # Errors
    /// The condition that is none, as it is written (empty where one is missing).
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut conditions = Vec::new();
        for condition in text.split(',').map(str::trim) {
            if condition == "*" {
                continue;
            }
            let operators = [
                (">=", Operator::AtLeast),
                ("<=", Operator::AtMost),
                (">", Operator::Above),
                ("<", Operator::Below),
                ("=", Operator::Equal),
                ("", Operator::Equal),
            ];
            let parsed = operators.into_iter().find_map(|(sign, operator)| {
                Some((operator, Version::parse(condition.strip_prefix(sign)?.trim_start())?))
            });
            conditions.push(parsed.ok_or_else(|| condition.to_owned())?);
        }
        Ok(Self(conditions))
    }

    /// Whether a version satisfies all of it.
    #[must_use]
    pub fn allows(&self, version: &Version) -> bool {
        self.0.iter().all(|(operator, wanted)| {
            let present = version.0.iter().copied().chain(std::iter::repeat(0)).take(wanted.0.len());
            let order = present.cmp(wanted.0.iter().copied());
            match operator {
                Operator::AtLeast => order.is_ge(),
                Operator::Above => order.is_gt(),
                Operator::Equal => order.is_eq(),
                Operator::Below => order.is_lt(),
                Operator::AtMost => order.is_le(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_print() {
        for (output, expected) in [
            ("v20.11.1\n", Some("20.11.1")),
            ("Python 3.11.7", Some("3.11.7")),
            ("go version go1.22.1 linux/amd64", Some("1.22.1")),
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", Some("15.18")),
            ("cargo 1.95.0 (f2d3ce0bd 2026-03-21)", Some("1.95.0")),
            ("javac 17", Some("17")),
            ("tool 5 of 2.1.", Some("2.1")),
            ("1.2.3.4.5.6.7 and 8", Some("8")),
            ("99999999999999999999", None),
            ("no number", None),
            ("", None),
        ] {
            assert_eq!(Version::find_in(output).map(|it| it.to_string()).as_deref(), expected, "{output}");
        }
    }

    #[test]
    fn only_the_numbers_that_are_written_are_compared() {
        for (range, yes, no) in [
            (">=20", vec!["20", "20.0.1", "21.3"], vec!["19.9"]),
            ("15", vec!["15", "15.18"], vec!["14.9", "16", "150"]),
            ("=3.11", vec!["3.11", "3.11.7"], vec!["3.12", "3.1", "3"]),
            (">15", vec!["16"], vec!["15.9", "15"]),
            ("<=15", vec!["15.9", "14"], vec!["16"]),
            (">=3.11, <4", vec!["3.11", "3.99"], vec!["3.10", "4.0"]),
            ("> 1.2 ,< 1.4", vec!["1.3.9"], vec!["1.2.5", "1.4"]),
            ("*", vec!["0", "99.1"], vec![]),
            ("*, >2", vec!["3"], vec!["2"]),
        ] {
            let parsed = VersionRange::parse(range).unwrap();
            for (versions, expected) in [(yes, true), (no, false)] {
                for version in versions {
                    assert_eq!(
                        parsed.allows(&Version::parse(version).unwrap()),
                        expected,
                        "{version} in {range}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_no_range_is_told() {
        for (text, condition) in [
            ("", ""),
            (">=", ">="),
            ("^1.2", "^1.2"),
            ("~1", "~1"),
            ("20.x", "20.x"),
            ("1..2", "1..2"),
            (">=1, ", ""),
            (">=1 <2", ">=1 <2"),
            ("=>1", "=>1"),
            ("v1", "v1"),
            ("-1", "-1"),
            ("1.2.3.4.5.6.7", "1.2.3.4.5.6.7"),
            ("99999999999999999999", "99999999999999999999"),
        ] {
            assert_eq!(VersionRange::parse(text), Err(condition.to_owned()), "{text}");
        }
    }
}
