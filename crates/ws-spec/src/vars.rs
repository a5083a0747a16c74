//! Variables in values: `${NAME}` and its forms, and where their values come from.
//!
//! The forms and their meaning are Compose's: `${A}`, `${A:-x}` and `${A-x}` (default when unset or
//! empty, when unset), `${A:+x}` and `${A+x}` (x when set and not empty, when set), `${A:?message}` and
//! `${A?message}` (an error when unset or empty, when unset), `$$` for a dollar sign. Defaults may have
//! variables of their own. A bare `$NAME` is an error here: half of its readers expect a value, the
//! other half the characters, and either silence is a trap.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The deepest nesting of `${A:-${B:-…}}`.
const MAX_DEPTH: usize = 16;
/// The most bytes that all replacements of a file together may make.
pub(crate) const MAX_EXPANSION: usize = 8 * 1024 * 1024;

/// A variable that was replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Use {
    pub(crate) name: String,
    pub(crate) from: Source,
}

/// Where the value of a variable came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// The caller's environment.
    Environment,
    /// A line of an env file.
    File(PathBuf, usize),
    /// The text that stands behind `:-`, `-`, `:+` or `+`.
    Inline,
    /// Nowhere: it is empty.
    Unset,
}

/// The variables that values may use.
#[derive(Debug, Clone, Default)]
pub(crate) struct Variables<'a> {
    environment: Option<&'a BTreeMap<String, String>>,
    /// First come, first served.
    files: BTreeMap<String, (String, PathBuf, usize)>,
}

impl<'a> Variables<'a> {
    /// The caller's environment: it wins over every file.
    pub(crate) fn new(environment: &'a BTreeMap<String, String>) -> Self {
        Self { environment: Some(environment), files: BTreeMap::new() }
    }

    /// Adds what an env file sets, below everything that was added before.
    pub(crate) fn add_below(&mut self, path: &Path, entries: impl IntoIterator<Item = crate::dotenv::Entry>) {
        // Within one file the last one wins.
        let entries: BTreeMap<String, (String, usize)> =
            entries.into_iter().map(|entry| (entry.name, (entry.value, entry.line))).collect();
        for (name, (value, line)) in entries {
            self.files.entry(name).or_insert_with(|| (value, path.to_owned(), line));
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<(Cow<'_, str>, Source)> {
        if let Some(value) = self.environment.and_then(|environment| environment.get(name)) {
            return Some((Cow::Borrowed(value), Source::Environment));
        }
        let (value, file, line) = self.files.get(name)?;
        Some((Cow::Borrowed(value), Source::File(file.clone(), *line)))
    }

    /// The names that are set, for suggestions.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let environment = self.environment.into_iter().flat_map(|environment| environment.keys());
        environment.chain(self.files.keys()).map(String::as_str)
    }
}

/// What is wrong with a text's variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Not one of the forms.
    Malformed { at: Range<usize>, message: String },
    /// `$NAME` without braces.
    Bare { at: Range<usize>, name: String },
    /// `${NAME:?message}` of a variable that is not set.
    Required { at: Range<usize>, name: String, message: String },
    /// A variable that is not set, and no default: it is empty.
    Unset { at: Range<usize>, name: String },
    /// The replacements are longer than is allowed.
    TooLong { at: Range<usize> },
}

/// A text whose variables are replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Expanded {
    pub(crate) text: String,
    pub(crate) uses: Vec<Use>,
    pub(crate) faults: Vec<Fault>,
}

/// The value of a variable, and where it came from.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<(Cow<'a, str>, Source)>;

/// Replaces the variables of a text. `budget` is what is left of [`MAX_EXPANSION`].
pub(crate) fn expand(text: &str, lookup: Lookup<'_>, budget: &mut usize) -> Expanded {
    let mut expander = Expander { text, lookup, budget, uses: Vec::new(), faults: Vec::new() };
    let expanded = expander.stretch(0..text.len(), 0);
    Expanded { text: expanded.unwrap_or_default(), uses: expander.uses, faults: expander.faults }
}

struct Expander<'t, 'v> {
    text: &'t str,
    lookup: Lookup<'v>,
    budget: &'t mut usize,
    uses: Vec<Use>,
    faults: Vec<Fault>,
}

impl Expander<'_, '_> {
    /// `None` when the budget is used up: then there is no point in going on.
    fn stretch(&mut self, range: Range<usize>, depth: usize) -> Option<String> {
        let mut out = String::new();
        let mut at = range.start;
        while at < range.end {
            let rest = &self.text[at..range.end];
            let Some(dollar) = rest.find('$') else {
                self.append(&mut out, rest, at..range.end)?;
                break;
            };
            self.append(&mut out, &rest[..dollar], at..range.end)?;
            at += dollar;
            let rest = &self.text[at..range.end];
            if rest.starts_with("$$") {
                self.append(&mut out, "$", at..at + 2)?;
                at += 2;
            } else if rest.starts_with("${") {
                let Some(len) = braced_len(rest) else {
                    let message = "`${` without its `}`".to_owned();
                    self.faults.push(Fault::Malformed { at: at..range.end, message });
                    break;
                };
                let value = self.braced(at..at + len, depth)?;
                out.push_str(&value);
                at += len;
            } else {
                let name = name_len(&rest[1..]);
                if name > 0 {
                    let name = &rest[1..=name];
                    self.faults.push(Fault::Bare { at: at..at + 1 + name.len(), name: name.to_owned() });
                    at += 1 + name.len();
                } else {
                    self.append(&mut out, "$", at..at + 1)?;
                    at += 1;
                }
            }
        }
        Some(out)
    }

    /// One `${…}`.
    fn braced(&mut self, range: Range<usize>, depth: usize) -> Option<String> {
        let inner = range.start + 2..range.end - 1;
        let body = &self.text[inner.clone()];
        let name = &body[..name_len(body)];
        let rest = &body[name.len()..];
        let malformed = |message: String| Fault::Malformed { at: range.clone(), message };
        if name.is_empty() {
            let message = "`${` takes the name of a variable: letters, digits and `_`, not a digit first";
            self.faults.push(malformed(message.to_owned()));
            return Some(String::new());
        }
        if depth >= MAX_DEPTH {
            self.faults.push(malformed(format!("variables are nested more than {MAX_DEPTH} deep")));
            return Some(String::new());
        }
        let operator =
            [":-", ":?", ":+", "-", "?", "+"].into_iter().find(|operator| rest.starts_with(operator));
        let Some(operator) = operator.or((rest.is_empty()).then_some("")) else {
            let message = format!(
                "`{}` cannot follow the name of a variable: it is one of `:-`, `-`, `:?`, `?`, `:+`, `+`",
                crate::report::shown(rest)
            );
            self.faults.push(malformed(message));
            return Some(String::new());
        };
        let argument = inner.start + name.len() + operator.len()..inner.end;
        let empty_counts_as_unset = operator.starts_with(':');
        let found = (self.lookup)(name).filter(|(value, _)| !(empty_counts_as_unset && value.is_empty()));
        let is_alternative = operator.ends_with('+');
        match (found, operator) {
            (Some((value, source)), _) if !is_alternative => {
                self.note(name, source);
                let mut out = String::new();
                self.append(&mut out, &value, range)?;
                Some(out)
            }
            (Some((_, source)), _) => {
                self.note(name, source);
                self.stretch(argument, depth + 1)
            }
            (None, ":-" | "-") => {
                self.note(name, Source::Inline);
                self.stretch(argument, depth + 1)
            }
            (None, ":?" | "?") => {
                let message = self.stretch(argument, depth + 1)?;
                self.faults.push(Fault::Required { at: range, name: name.to_owned(), message });
                Some(String::new())
            }
            (None, operator) => {
                if operator.is_empty() {
                    self.faults.push(Fault::Unset { at: range, name: name.to_owned() });
                }
                self.note(name, Source::Unset);
                Some(String::new())
            }
        }
    }

    fn note(&mut self, name: &str, from: Source) {
        let one = Use { name: name.to_owned(), from };
        if !self.uses.contains(&one) {
            self.uses.push(one);
        }
    }

    fn append(&mut self, out: &mut String, text: &str, at: Range<usize>) -> Option<()> {
        match self.budget.checked_sub(text.len()) {
            Some(left) => {
                *self.budget = left;
                out.push_str(text);
                Some(())
            }
            None => {
                self.faults.push(Fault::TooLong { at });
                None
            }
        }
    }
}

/// The length of the name at the start of a text; 0 when none is there.
pub(crate) fn name_len(text: &str) -> usize {
    let good = |(i, byte): (usize, u8)| {
        byte == b'_' || byte.is_ascii_alphabetic() || (i > 0 && byte.is_ascii_digit())
    };
    text.bytes().enumerate().take_while(|pair| good(*pair)).count()
}

/// The length of the `${…}` at the start of a text, with what is nested in it.
fn braced_len(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"$$") {
            at += 2;
        } else if bytes[at..].starts_with(b"${") {
            depth += 1;
            at += 2;
        } else {
            if bytes[at] == b'}' {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            at += 1;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Expanded {
        let environment = BTreeMap::from([
            ("A".to_owned(), "a".to_owned()),
            ("EMPTY".to_owned(), String::new()),
            ("LONG_1".to_owned(), "x$A".to_owned()),
        ]);
        let variables = Variables::new(&environment);
        let mut budget = 1000;
        expand(text, &|name| variables.get(name), &mut budget)
    }

    #[test]
    fn the_forms_mean_what_compose_says() {
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("${A}", "a"),
            ("x${A}y${A}", "xaya"),
            ("$$A $${A}", "$A ${A}"),
            ("$$$$", "$$"),
            ("a$ b$1 c$", "a$ b$1 c$"),
            ("$(date)", "$(date)"),
            ("${A:-x}${A-x}", "aa"),
            ("${NO:-x}${NO-x}", "xx"),
            ("${EMPTY:-x}${EMPTY-x}", "x"),
            ("${NO:-${A}}", "a"),
            ("${NO:-${NO:-${NO:-deep}}}", "deep"),
            ("${NO:-}", ""),
            ("${A:+x}${A+x}", "xx"),
            ("${NO:+x}${NO+x}", ""),
            ("${EMPTY:+x}${EMPTY+x}", "x"),
            ("${A:?m}${A?m}${EMPTY?m}", "aa"),
            ("${LONG_1}", "x$A"),
            ("${NO:-{a}}", "{a}"),
            ("ü${A}ü", "üaü"),
        ] {
            let out = run(text);
            assert_eq!(out.text, expected, "{text}");
            assert_eq!(out.faults, [], "{text}");
        }
    }

    #[test]
    fn faults_have_places() {
        for (text, range) in [
            ("x${NO}", 1..6),
            ("x$A", 1..3),
            ("x${A", 1..4),
            ("${}", 0..3),
            ("${1A}", 0..5),
            ("${A!b}", 0..6),
            ("${ A}", 0..5),
            ("a ${NO:?set it}", 2..15),
            ("${EMPTY:?set it}", 0..16),
        ] {
            let out = run(text);
            let at = match &out.faults[..] {
                [
                    Fault::Malformed { at, .. }
                    | Fault::Bare { at, .. }
                    | Fault::Required { at, .. }
                    | Fault::Unset { at, .. },
                ] => at.clone(),
                other => panic!("{text}: {other:?}"),
            };
            assert_eq!(at, range, "{text}");
        }
    }

    #[test]
    fn work_is_bounded() {
        let nested = format!("{}x{}", "${NO:-".repeat(100), "}".repeat(100));
        assert!(matches!(&run(&nested).faults[..], [Fault::Malformed { .. }]));
        assert!(matches!(&run(&"${A}".repeat(2000)).faults[..], [Fault::TooLong { .. }]));
    }

    #[test]
    fn the_environment_wins_and_the_first_file_comes_next() {
        let environment = BTreeMap::from([("A".to_owned(), "shell".to_owned())]);
        let mut variables = Variables::new(&environment);
        let entry = |name: &str, value: &str, line| crate::dotenv::Entry {
            name: name.into(),
            value: value.into(),
            line,
            uses: Vec::new(),
        };
        variables.add_below(Path::new("/1"), [entry("A", "1", 1), entry("B", "1", 2), entry("B", "2", 3)]);
        variables.add_below(Path::new("/2"), [entry("B", "9", 1), entry("C", "9", 2)]);
        assert_eq!(variables.get("A"), Some(("shell".into(), Source::Environment)));
        assert_eq!(variables.get("B"), Some(("2".into(), Source::File("/1".into(), 3))));
        assert_eq!(variables.get("C"), Some(("9".into(), Source::File("/2".into(), 2))));
        assert_eq!(variables.get("D"), None);
    }
}
