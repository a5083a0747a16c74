//! What the caller hands in: texts and the environment. This crate opens no file and asks no system.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::settings::{self, Settings};

/// Everything that [`crate::parse`] reads. Serializable, so that another process can be handed exactly
/// what was checked here.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sources {
    /// The workspace file. Absolute.
    pub file: PathBuf,
    /// The project root: the file's directory, canonical.
    pub root: PathBuf,
    /// The file's contents.
    pub text: Text,
    /// The `.env` next to the file, where there is one.
    pub dot_env: Option<(PathBuf, String)>,
    /// What `--env-file` named, in order; a later one wins.
    pub cli_env_files: Vec<(PathBuf, String)>,
    /// The environment of the caller: for `${…}` and for variables that are passed through.
    pub environment: BTreeMap<String, String>,
    /// The contents of the files that [`crate::files_needed`] asks for; `None`: could not be read.
    pub files: BTreeMap<PathBuf, Option<String>>,
    /// Those of them whose path leads over a symbolic link, with the path without any. A workspace file is not
    /// included over one: whoever can change the link decides what runs.
    #[serde(default)]
    pub links: BTreeMap<PathBuf, PathBuf>,
    /// The caller's home, for `~`. Absolute.
    pub home: PathBuf,
    /// The profiles that are switched on; `*` is all of them.
    pub profiles: Vec<String>,
    /// The services that are asked for by their names: that switches their profiles on too. Other names are left
    /// to the caller.
    #[serde(default)]
    pub named: Vec<String>,
    /// Settings of services that are laid over what the file says, by service.
    #[serde(default)]
    pub settings: Settings,
    /// The name of the workspace when the file gives none: the directory's name. Characters that names
    /// do not have are replaced.
    pub default_name: String,
}

impl Sources {
    /// The text of a file among the sources, for showing it.
    pub(crate) fn text_of(&self, file: &Path) -> Option<Cow<'_, str>> {
        if file == self.file {
            return Some(String::from_utf8_lossy(self.text.as_bytes()));
        }
        let named = self.dot_env.iter().chain(&self.cli_env_files);
        if let Some((_, text)) = named.into_iter().find(|(path, _)| path == file) {
            return Some(Cow::Borrowed(text));
        }
        if settings::is_settings(file) {
            return settings::text_of(file, &self.settings).map(Cow::Owned);
        }
        self.files.get(file)?.as_deref().map(Cow::Borrowed)
    }
}

/// The contents of the workspace file: bytes, because that they are UTF-8 is for [`crate::parse`] to
/// check. Made from a `String` or from bytes with `into()`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Text(Vec<u8>);

impl Text {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<Vec<u8>> for Text {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Text({:?})", String::from_utf8_lossy(&self.0))
    }
}

impl Serialize for Text {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => to.serialize_str(text),
            Err(_) => to.collect_seq(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, or the bytes of one that is not UTF-8")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text::from(text))
            }
            fn visit_string<E: serde::de::Error>(self, text: String) -> Result<Text, E> {
                Ok(Text::from(text))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut bytes: A) -> Result<Text, A::Error> {
                let mut all = Vec::new();
                while let Some(byte) = bytes.next_element()? {
                    all.push(byte);
                }
                Ok(Text(all))
            }
        }
        from.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_survive_json() {
        for text in [Text::from("a: ü\n"), Text::from(vec![b'a', 0xff, 0])] {
            let sources = Sources {
                file: "/p/workspace.yaml".into(),
                text,
                files: BTreeMap::from([("/p/a.env".into(), None), ("/p/b.env".into(), Some("A=1".into()))]),
                dot_env: Some(("/p/.env".into(), "B=2".into())),
                ..Sources::default()
            };
            let json = serde_json::to_string(&sources).unwrap();
            assert_eq!(serde_json::from_str::<Sources>(&json).unwrap(), sources);
        }
    }
}
