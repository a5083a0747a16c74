//! The workspace files that we show people: those of `examples/` and the one in the README. Each is
//! complete, and the reader finds nothing wrong with it, not even a warning.

use std::path::{Path, PathBuf};

use ws_spec::{Sources, Style};

use crate::{Failure, relative, tidy};

/// Reports everything that is wrong with them.
pub(crate) fn check(root: &Path) -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    for example in tidy::entries(&root.join("examples"))? {
        if !example.is_dir() {
            continue;
        }
        for wanted in ["workspace.yaml", "run", "check.sh"] {
            if !example.join(wanted).is_file() {
                found.push(format!("{}: has no {wanted}", relative(root, &example)));
            }
        }
        let file = example.join("workspace.yaml");
        if file.is_file() {
            found.extend(problems(&file, tidy::read(&file)?));
        }
    }
    match readme(&tidy::read(&root.join("README.md"))?) {
        Some(text) => found.extend(problems(&root.join("README.md"), text)),
        None => found.push("README.md: shows no workspace file".to_owned()),
    }
    Ok(found)
}

/// The first YAML of the README.
fn readme(text: &str) -> Option<String> {
    let (_, after) = text.split_once("```yaml\n")?;
    let (yaml, _) = after.split_once("```")?;
    Some(yaml.to_owned())
}

/// What the reader says about a text, as a person would see it.
fn problems(file: &Path, text: String) -> Vec<String> {
    let root = file.parent().unwrap_or(Path::new("/")).to_owned();
    let sources = Sources {
        file: file.to_owned(),
        text: text.into(),
        home: PathBuf::from("/nonexistent"),
        default_name: root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        root,
        ..Sources::default()
    };
    let parsed = ws_spec::parse(&sources);
    if !parsed.diagnostics.is_empty() {
        return vec![ws_spec::render(&parsed.diagnostics, &sources, Style::PLAIN)];
    }
    match parsed.workspace {
        Some(_) => Vec::new(),
        None => vec![format!("{}: is no workspace", file.display())],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_show_is_good() {
        let found = check(&crate::root()).unwrap();
        assert!(found.is_empty(), "{}", found.join("\n"));
    }

    #[test]
    fn a_bad_file_is_noticed() {
        let found = problems(Path::new("/p/workspace.yaml"), "services: { a: { comand: x } }\n".to_owned());
        assert!(found.len() == 1 && found[0].contains("comand"), "{found:?}");
    }
}
