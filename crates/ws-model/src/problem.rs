//! What is wrong with a workspace, as data: found by the reader of the file and by the planner alike,
//! rendered in one place (`ws-spec`), which knows where in the text a [`ConfigPath`] stands.

use std::fmt;

/// A place in the workspace, independent of text: `services.api.links[1].to`.
///
/// The planner never sees YAML; it reports one of these, and the reader's span map turns it into a
/// file, a line and a column.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ConfigPath(Vec<Segment>);

/// One step of a [`ConfigPath`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Segment {
    /// Into the value of a mapping's key.
    Key(String),
    /// Into an element of a sequence.
    Index(usize),
}

impl ConfigPath {
    /// The whole file.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// The path of a service.
    #[must_use]
    pub fn service(name: impl AsRef<str>) -> Self {
        Self::root().key("services").key(name)
    }

    /// Reads what [`Display`](fmt::Display) writes; `None` when it is none. Keys with a dot or bracket cannot be told
    /// apart from several, and names have none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut path = Self::root();
        for part in text.split('.') {
            let (key, indexes) = part.split_at(part.find('[').unwrap_or(part.len()));
            if key.is_empty() {
                return None;
            }
            path = path.key(key);
            for index in indexes.split_terminator(']') {
                path = path.index(index.strip_prefix('[')?.parse().ok()?);
            }
        }
        Some(path)
    }

    /// One step into a mapping.
    #[must_use]
    pub fn key(&self, key: impl AsRef<str>) -> Self {
        let mut path = self.clone();
        path.0.push(Segment::Key(key.as_ref().to_owned()));
        path
    }

    /// One step into a sequence.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        let mut path = self.clone();
        path.0.push(Segment::Index(index));
        path
    }

    /// One step out, or `None` at the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let (_, rest) = self.0.split_last()?;
        Some(Self(rest.to_vec()))
    }

    /// The steps from the root.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }
}

impl fmt::Display for ConfigPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Key(key) if i == 0 => write!(f, "{key}")?,
                Segment::Key(key) => write!(f, ".{key}")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing starts while it stands.
    Error,
    /// It is told, and does not stop anything.
    Warning,
}

/// A problem of the workspace, with its place as a path.
///
/// Wording: lower case, no full stop, backticks around what the user typed. The message says what is
/// wrong, the label points, the help says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// A stable code, `WS0123`: `ws explain CODE` and editors refer to it.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// Where.
    pub at: ConfigPath,
    /// Whether the mapping's key is meant, and not its value.
    pub on_key: bool,
    /// What the underline says; empty for a bare underline.
    pub label: String,
    /// Other places that belong to it, each with its own label (the other end of a cycle, the first
    /// of two duplicates).
    pub related: Vec<(ConfigPath, String)>,
    /// What to do about it, a line each.
    pub help: Vec<String>,
    /// A text that put in the place of `at` would mend it.
    pub replacement: Option<String>,
}

impl Problem {
    /// An error without label or help.
    #[must_use]
    pub fn error(code: &'static str, at: ConfigPath, message: impl Into<String>) -> Self {
        Self {
            code,
            severity: Severity::Error,
            message: message.into(),
            at,
            on_key: false,
            label: String::new(),
            related: Vec::new(),
            help: Vec::new(),
            replacement: None,
        }
    }

    /// A warning without label or help.
    #[must_use]
    pub fn warning(code: &'static str, at: ConfigPath, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, at, message) }
    }

    /// Sets the label of the underline.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Underlines the key and not its value.
    #[must_use]
    pub fn on_key(mut self) -> Self {
        self.on_key = true;
        self
    }

    /// Adds a related place.
    #[must_use]
    pub fn related(mut self, at: ConfigPath, label: impl Into<String>) -> Self {
        self.related.push((at, label.into()));
        self
    }

    /// Adds a line of help.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    /// Sets the text that would mend it.
    #[must_use]
    pub fn replacement(mut self, text: impl Into<String>) -> Self {
        self.replacement = Some(text.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_like_the_file() {
        let at = ConfigPath::service("api").key("links").index(1).key("to");
        assert_eq!(at.to_string(), "services.api.links[1].to");
        assert_eq!(at.parent().unwrap().to_string(), "services.api.links[1]");
    }
}
