//! What no compiler checks, and reviews forget: directions between crates, module docs, words that do
//! not belong here, examples that are not good. Also a test, so that it needs no step of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::{Failure, examples, relative};

/// Which crates of ours each crate may reach, directly or through others. What is not here, no rule
/// binds: `xtask` and the tests.
///
/// The picture in ARCHITECTURE.md, as data: the reader and the planner do not know each other, the
/// supervisor knows no Linux, and the Linux wrappers know nothing of `ws`.
const MAY_REACH: &[(&str, &[&str])] = &[
    ("ws-model", &[]),
    ("ws-sys", &[]),
    ("ws-spec", &["ws-model"]),
    ("ws-core", &["ws-model"]),
    ("ws-client", &["ws-model"]),
    ("ws-linux", &["ws-model", "ws-core", "ws-sys"]),
    ("ws-watch", &["ws-model", "ws-core"]),
    ("ws-supervisor", &["ws-model", "ws-core"]),
    ("ws-sim", &["ws-model", "ws-core", "ws-supervisor", "ws-client"]),
    (
        "ws-cli",
        &["ws-model", "ws-core", "ws-spec", "ws-sys", "ws-linux", "ws-watch", "ws-supervisor", "ws-client"],
    ),
];

/// The only crate that may contain `unsafe`; every other one takes the workspace's lints, which forbid it.
const UNSAFE: &str = "ws-sys";

/// Crates that read no clock, file, environment or random number: they get all that as values.
const PURE: &[&str] = &["ws-model", "ws-spec", "ws-core"];

/// What pure code does not say.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::env",
    "std::thread",
    "std::process",
    "std::os::unix::net",
    "TcpStream",
    "UdpSocket",
    "Instant::now",
    "SystemTime",
];

/// Where the same inputs must give the same transcript, nothing is in a random order either.
const ORDERED: &str = "ws-core";

/// What such code does not say.
const UNORDERED: &[&str] = &["HashMap", "HashSet"];

/// What no source says: macros that are for a moment, tests that do not run. In pieces, so that this
/// file does not say it either.
const IN_NO_SOURCE: &[&[&str]] =
    &[&["dbg", "!("], &["todo", "!("], &["unimplemented", "!("], &["#[", "ignore"]];

/// What no text says: paths of one machine, conflicts that were not resolved.
const IN_NO_TEXT: &[&[&str]] =
    &[&["/work", "/main"], &["/work", "/shared"], &["<<<<", "<<< "], &[">>>>", ">>> "]];

/// Reports everything that is untidy.
pub(crate) fn run(root: &Path) -> Result<(), Failure> {
    let files = files(root)?;
    let packages = packages(root)?;
    let mut found = directions(&packages);
    found.extend(lint_tables(root, &packages)?);
    for path in &files {
        found.extend(texts(root, path)?);
    }
    found.extend(examples::check(root)?);
    if found.is_empty() { Ok(()) } else { Err(format!("untidy:\n  {}", found.join("\n  "))) }
}

/// A member of the workspace.
struct Package {
    manifest: PathBuf,
    /// Members that its normal and build dependencies name.
    needs: Vec<String>,
}

/// The members of the workspace, as cargo reads them. Without their outside dependencies: that needs
/// no network.
fn packages(root: &Path) -> Result<BTreeMap<String, Package>, Failure> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root)
        .output()
        .map_err(|e| format!("could not run `cargo metadata`: {e}"))?;
    if !output.status.success() {
        return Err(format!("`cargo metadata` failed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .map_err(|e| format!("`cargo metadata` printed no JSON: {e}"))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let packages = list(&metadata["packages"]);
    let names: BTreeSet<String> = packages.iter().map(|package| text(&package["name"])).collect();
    Ok(packages
        .iter()
        .map(|package| {
            let needs = list(&package["dependencies"])
                .iter()
                .filter(|dependency| dependency["kind"] != "dev")
                .map(|dependency| text(&dependency["name"]))
                .filter(|name| names.contains(name))
                .collect();
            (text(&package["name"]), Package { manifest: text(&package["manifest_path"]).into(), needs })
        })
        .collect())
}

fn directions(packages: &BTreeMap<String, Package>) -> Vec<String> {
    let mut found = Vec::new();
    for (name, package) in packages {
        let in_crates = package.manifest.components().any(|part| part.as_os_str() == "crates");
        let allowed = MAY_REACH.iter().find(|(of, _)| of == name).map(|(_, allowed)| *allowed);
        let allowed = match allowed {
            Some(allowed) => allowed,
            None if in_crates => {
                found.push(format!("{name}: not in the table of directions: add it to `MAY_REACH`"));
                continue;
            }
            // Examples are users of the command: they reach no crate of it.
            None if name.starts_with("shop-") => &[],
            None => continue,
        };
        for path in reaches(packages, name) {
            let target = path.last().expect("a path has its start");
            if target.starts_with("ws-") && !allowed.contains(&target.as_str()) {
                found.push(format!("{name}: reaches {target}, which it may not: {}", path.join(" -> ")));
            }
        }
    }
    found
}

/// A shortest path to every member that `from` reaches.
fn reaches(packages: &BTreeMap<String, Package>, from: &str) -> Vec<Vec<String>> {
    let mut paths = vec![vec![from.to_owned()]];
    let mut seen = BTreeSet::from([from.to_owned()]);
    let mut next = 0;
    while let Some(path) = paths.get(next).cloned() {
        next += 1;
        let last = path.last().expect("a path has its start");
        for need in packages.get(last).map_or(&[][..], |package| &package.needs) {
            if seen.insert(need.clone()) {
                let mut longer = path.clone();
                longer.push(need.clone());
                paths.push(longer);
            }
        }
    }
    paths.remove(0);
    paths
}

/// Every member takes the lints of the workspace, which forbid `unsafe`; one has its own.
fn lint_tables(root: &Path, packages: &BTreeMap<String, Package>) -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    for (name, package) in packages {
        let manifest = read(&package.manifest)?;
        let takes = manifest.contains("[lints]\nworkspace = true");
        if takes == (name == UNSAFE) {
            let path = relative(root, &package.manifest);
            found.push(match takes {
                true => format!("{path}: this crate has lints of its own"),
                false => format!("{path}: `[lints] workspace = true` is missing"),
            });
        }
    }
    Ok(found)
}

fn texts(root: &Path, path: &Path) -> Result<Vec<String>, Failure> {
    let name = relative(root, path);
    let text = read(path)?;
    let mut found = Vec::new();
    let source = path.extension().is_some_and(|extension| extension == "rs");
    for pieces in IN_NO_TEXT.iter().chain(IN_NO_SOURCE.iter().filter(|_| source)) {
        let word = pieces.concat();
        for (number, _) in text.lines().enumerate().filter(|(_, line)| line.contains(&word)) {
            found.push(format!("{name}:{}: `{word}` does not belong here", number + 1));
        }
    }
    if source {
        if !text.starts_with("//!") {
            found.push(format!("{name}: no module docs at its top: say what it owns, what it never does"));
        }
        let is_in =
            |package: &str| name.starts_with(&format!("crates/{package}/src/")) && !is_test_module(&name);
        if PURE.iter().any(|pure| is_in(pure)) {
            found.extend(said(&name, &text, IMPURE, "in a pure crate"));
        }
        if is_in(ORDERED) {
            found.extend(said(&name, &text, UNORDERED, "has no order: use the ordered one"));
        }
    }
    Ok(found)
}

/// Tests may read files; they stand at a file's end, or in a file of their own.
fn is_test_module(name: &str) -> bool {
    name.ends_with("/tests.rs") || name.contains("/tests/")
}

/// Where code, comments and tests aside, says one of `words`.
fn said(name: &str, text: &str, words: &[&str], why: &str) -> Vec<String> {
    let code = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).enumerate();
    let mut found = Vec::new();
    for (number, line) in code.filter(|(_, line)| !line.trim_start().starts_with("//")) {
        for word in words.iter().filter(|word| line.contains(**word)) {
            found.push(format!("{name}:{}: `{word}` {why}", number + 1));
        }
    }
    found
}

/// Every text of ours: sources, documents, configuration.
fn files(root: &Path) -> Result<Vec<PathBuf>, Failure> {
    const TEXTS: &[&str] =
        &["rs", "toml", "md", "yaml", "yml", "sh", "py", "sql", "json", "snap", "stderr", "ws"];
    let mut files = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for path in entries(&directory)? {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let hidden =
                name.starts_with('.') && !matches!(name.as_str(), ".cargo" | ".ci" | ".config" | ".github");
            if hidden || path.is_symlink() || matches!(name.as_str(), "target" | "node_modules") {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| TEXTS.iter().any(|text| e == *text)) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// What is in a directory, in order.
pub(crate) fn entries(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |e| format!("could not read {}: {e}", directory.display());
    let mut paths = fs::read_dir(directory)
        .map_err(failed)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    paths.sort();
    Ok(paths)
}

/// A text; some test cases are not UTF-8 on purpose, and are read all the same.
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    let bytes = fs::read(path).map_err(|e| format!("could not read {}: {e}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &[&str])]) -> BTreeMap<String, Package> {
        edges
            .iter()
            .map(|(name, needs)| {
                let needs = needs.iter().map(|need| (*need).to_owned()).collect();
                ((*name).to_owned(), Package { manifest: format!("crates/{name}/Cargo.toml").into(), needs })
            })
            .collect()
    }

    #[test]
    fn the_tree_is_tidy() {
        run(&crate::root()).unwrap_or_else(|untidy| panic!("{untidy}"));
    }

    #[test]
    fn a_wrong_direction_is_told_with_its_path() {
        let packages = graph(&[("ws-spec", &["ws-model"]), ("ws-model", &["ws-sys"]), ("ws-sys", &[])]);
        let found = directions(&packages);
        assert_eq!(
            found,
            [
                "ws-model: reaches ws-sys, which it may not: ws-model -> ws-sys",
                "ws-spec: reaches ws-sys, which it may not: ws-spec -> ws-model -> ws-sys",
            ]
        );
    }

    #[test]
    fn a_new_crate_needs_its_row() {
        let found = directions(&graph(&[("ws-new", &[])]));
        assert!(found.len() == 1 && found[0].starts_with("ws-new: not in the table"), "{found:?}");
    }

    #[test]
    fn the_table_of_directions_is_closed() {
        for (name, allowed) in MAY_REACH {
            for needed in *allowed {
                let (_, theirs) = MAY_REACH.iter().find(|(of, _)| of == needed).unwrap();
                assert!(
                    theirs.iter().all(|t| allowed.contains(t)),
                    "{name} may reach {needed} but not all of its"
                );
            }
        }
    }

    #[test]
    fn pure_code_says_nothing_impure_outside_its_tests() {
        let text =
            "//! Docs on std::fs.\nuse std::fs;\nlet now = Instant::now();\n#[cfg(test)]\nuse std::env;\n";
        assert_eq!(
            said("a.rs", text, IMPURE, "in a pure crate"),
            ["a.rs:2: `std::fs` in a pure crate", "a.rs:3: `Instant::now` in a pure crate"]
        );
    }
}
