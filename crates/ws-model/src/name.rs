//! Names that were checked once: below the file's reader nobody looks at their characters again.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest name of a service, task, volume or secret, in bytes.
///
/// 63 is the longest label of a host name (RFC 1035, 2.3.4), and a service's name is one.
pub const MAX_LEN: usize = 63;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameError {
    /// The text is empty.
    Empty,
    /// The text has more than [`MAX_LEN`] bytes.
    TooLong,
    /// The text has a character that names do not have, or starts with `-` or `_`.
    BadCharacter(char),
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "a name cannot be empty"),
            Self::TooLong => write!(f, "a name has at most {MAX_LEN} characters"),
            Self::BadCharacter(c) => {
                write!(f, "`{}` cannot stand here: names are `[a-z0-9][a-z0-9_-]*`", c.escape_debug())
            }
        }
    }
}

impl std::error::Error for NameError {}

fn check(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    for (i, c) in text.chars().enumerate() {
        let good = c.is_ascii_lowercase() || c.is_ascii_digit() || (i > 0 && (c == '-' || c == '_'));
        if !good {
            return Err(NameError::BadCharacter(c));
        }
    }
    if text.len() > MAX_LEN { Err(NameError::TooLong) } else { Ok(()) }
}

macro_rules! name {
    ($(#[$doc:meta])* $Name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schemars(extend("pattern" = "^[a-z0-9][a-z0-9_-]{0,62}$"))]
        pub struct $Name(String);

        impl $Name {
            /// Checks `text` and keeps it.
            ///
            /// # Errors
            /// When `text` is not `[a-z0-9][a-z0-9_-]{0,62}`.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                check(&text)?;
                Ok(Self(text))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $Name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $Name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $Name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $Name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$Name> for String {
            fn from(name: $Name) -> String {
                name.0
            }
        }

        impl std::str::FromStr for $Name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }
    };
}

name! {
    /// The name of a workspace.
    WorkspaceName
}
name! {
    /// The name of a service or task: also its host name inside the workspace.
    ServiceName
}
name! {
    /// The name of a volume of the workspace.
    VolumeName
}
name! {
    /// The name of a secret of the workspace.
    SecretName
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_once() {
        let long = "a".repeat(64);
        let cases = [
            ("api", Ok(())),
            ("0-a_b", Ok(())),
            ("", Err(NameError::Empty)),
            ("-a", Err(NameError::BadCharacter('-'))),
            ("Api", Err(NameError::BadCharacter('A'))),
            ("a.b", Err(NameError::BadCharacter('.'))),
            (long.as_str(), Err(NameError::TooLong)),
        ];
        for (text, expected) in cases {
            assert_eq!(ServiceName::new(text).map(|_| ()), expected, "{text:?}");
        }
    }
}
