//! What a [`PathPattern`] means: a file, a directory with all that is below it, or a glob.

use std::path::{Component, Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};
use ws_model::PathPattern;

/// A pattern that is ready to be matched with absolute paths.
#[derive(Debug, Clone)]
pub(crate) enum Pattern {
    /// This path and all that is below it.
    Literal(PathBuf),
    /// A glob.
    Glob(Box<GlobPattern>),
}

/// A glob that is ready to be matched.
#[derive(Debug, Clone)]
pub(crate) struct GlobPattern {
    /// Nothing outside of this directory matches: the base and the first parts of the glob that are no glob.
    root: PathBuf,
    /// What is matched, relative to `root`.
    matcher: GlobMatcher,
    /// A matcher for each part before the first `**`; `None` where parts cannot be told apart (`{a/b,c}`).
    parts: Option<Vec<GlobMatcher>>,
    /// Whether a `**` follows them: then what matches may be at any depth.
    deep: bool,
}

impl Pattern {
    /// The pattern, or why it is none.
    pub(crate) fn new(pattern: &PathPattern) -> Result<Self, String> {
        let text = pattern.pattern.as_str();
        if !is_glob(text) {
            return Ok(Self::Literal(normal(&pattern.base.join(text))));
        }
        let mut root = if text.starts_with('/') { PathBuf::from("/") } else { pattern.base.clone() };
        let mut rest = text.trim_start_matches('/');
        while let Some((first, others)) = rest.split_once('/')
            && !is_glob(first)
        {
            root.push(first);
            rest = others;
        }
        let matcher = compile(rest)?;
        let shallow: Vec<&str> = rest.split('/').take_while(|part| !part.contains("**")).collect();
        let deep = rest.contains("**");
        // Braces may hold slashes, then a part is not what is between two of them.
        let parts = if rest.contains('{') {
            None
        } else {
            Some(shallow.into_iter().map(compile).collect::<Result<_, _>>()?)
        };
        Ok(Self::Glob(Box::new(GlobPattern { root: normal(&root), matcher, parts, deep })))
    }

    /// The file or directory that nothing outside of matches.
    pub(crate) fn root(&self) -> &Path {
        match self {
            Self::Literal(path) => path,
            Self::Glob(glob) => &glob.root,
        }
    }

    /// Whether this very path is named, not by a glob and not by a directory that it is in.
    pub(crate) fn names(&self, path: &Path) -> bool {
        matches!(self, Self::Literal(named) if named == path)
    }

    /// Whether it means this file.
    pub(crate) fn matches(&self, path: &Path) -> bool {
        match self {
            Self::Literal(named) => path.starts_with(named),
            Self::Glob(glob) => path.strip_prefix(&glob.root).is_ok_and(|rest| glob.matcher.is_match(rest)),
        }
    }

    /// Whether it means this path or a directory that it is in: what is ignored is ignored with all that is below it.
    pub(crate) fn covers(&self, path: &Path) -> bool {
        match self {
            Self::Literal(_) => self.matches(path),
            Self::Glob(glob) => {
                path.ancestors().take_while(|above| *above != glob.root).any(|above| self.matches(above))
            }
        }
    }

    /// Whether something in this directory, at any depth, can be meant.
    pub(crate) fn may_be_in(&self, directory: &Path) -> bool {
        match self {
            Self::Literal(named) => directory.starts_with(named),
            Self::Glob(glob) => {
                let Ok(rest) = directory.strip_prefix(&glob.root) else { return false };
                let Some(parts) = &glob.parts else { return true };
                let depth = rest.components().count();
                if !glob.deep && depth >= parts.len() {
                    return false;
                }
                rest.components().zip(parts).all(|(part, matcher)| matcher.is_match(part))
            }
        }
    }
}

/// Whether it has one of the characters that make a glob.
fn is_glob(text: &str) -> bool {
    text.contains(['*', '?', '[', '{'])
}

fn compile(glob: &str) -> Result<GlobMatcher, String> {
    match GlobBuilder::new(glob).literal_separator(true).build() {
        Ok(glob) => Ok(glob.compile_matcher()),
        Err(error) => Err(format!("`{glob}` is not a glob: {}", error.kind())),
    }
}

/// Without `.` and `..`. Of the path as it is written: `a/../b` is `b` even when `a` is a link.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => out.push(part),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::new(&PathPattern { base: "/p".into(), pattern: text.into() }).unwrap()
    }

    #[test]
    fn a_literal_means_itself_and_all_below() {
        let src = pattern("src");
        assert!(src.matches(Path::new("/p/src")));
        assert!(src.matches(Path::new("/p/src/a/b.rs")));
        assert!(!src.matches(Path::new("/p/srcs")));
        assert!(src.names(Path::new("/p/src")));
        assert!(!src.names(Path::new("/p/src/a")));
        assert_eq!(pattern(".").root(), Path::new("/p"));
        assert_eq!(pattern("../q/./x").root(), Path::new("/q/x"));
        assert!(pattern(".").matches(Path::new("/p/any/thing")));
    }

    #[test]
    fn a_glob_must_match_the_whole_path() {
        let here = pattern("*.toml");
        assert!(here.matches(Path::new("/p/a.toml")));
        assert!(!here.matches(Path::new("/p/b/a.toml")), "`*` stops at a slash");
        let deep = pattern("src/**/*.rs");
        assert_eq!(deep.root(), Path::new("/p/src"));
        assert!(deep.matches(Path::new("/p/src/a.rs")), "`**` may be nothing");
        assert!(deep.matches(Path::new("/p/src/x/y/a.rs")));
        assert!(!deep.matches(Path::new("/p/src/a.rs/b")));
        let all = pattern("src/**");
        assert!(all.matches(Path::new("/p/src/x/y")));
        let either = pattern("{a/b,c}/*.rs");
        assert!(either.matches(Path::new("/p/a/b/x.rs")));
        assert!(either.matches(Path::new("/p/c/x.rs")));
        assert!(either.may_be_in(Path::new("/p/a/b")));
    }

    #[test]
    fn only_directories_that_can_hold_a_match_are_entered() {
        let here = pattern("*.toml");
        assert!(here.may_be_in(Path::new("/p")));
        assert!(!here.may_be_in(Path::new("/p/sub")));
        let services = pattern("services/*/src/**/*.rs");
        assert!(services.may_be_in(Path::new("/p/services")));
        assert!(services.may_be_in(Path::new("/p/services/api")));
        assert!(services.may_be_in(Path::new("/p/services/api/src/deep/er")));
        assert!(!services.may_be_in(Path::new("/p/services/api/docs")));
        assert!(!services.may_be_in(Path::new("/q")));
    }

    #[test]
    fn what_is_ignored_is_ignored_with_all_below() {
        let generated = pattern("**/generated");
        assert!(generated.covers(Path::new("/p/a/generated/x/y.rs")));
        assert!(generated.covers(Path::new("/p/generated")));
        assert!(!generated.covers(Path::new("/p/a/x.rs")));
    }

    #[test]
    fn a_bad_glob_is_an_error() {
        let bad = PathPattern { base: "/p".into(), pattern: "src/[a".into() };
        assert!(Pattern::new(&bad).unwrap_err().contains("[a"));
    }
}
