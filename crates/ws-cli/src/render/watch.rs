//! What is watched, and why a file is not, for people.

use std::collections::BTreeMap;

use ws_model::wire::{WatchReport, WatchSeen, WatchedFor, WatchedPath, WatchedUnit};

use crate::render::log::safe;
use crate::render::{Cell, table};
use crate::ui::{BAD, BOLD, CARE, DIM, GOOD, paint};

/// A row for each unit and each way in which its changes are seen.
#[must_use]
pub fn units(report: &WatchReport, width: Option<usize>) -> String {
    let rows: Vec<Vec<Cell>> = report.units.iter().flat_map(unit).collect();
    table(&["SERVICE", "FILES", "HOW", "WHERE"], &rows, width)
}

fn unit(unit: &WatchedUnit) -> Vec<Vec<Cell>> {
    // In the order of the first root of each way.
    let mut ways: Vec<(&str, WatchSeen, Vec<String>)> = Vec::new();
    for root in &unit.roots {
        let path = safe(&root.path);
        match ways.iter_mut().find(|(text, ..)| *text == root.text) {
            Some((_, _, paths)) => paths.push(path),
            None => ways.push((&root.text, root.seen, vec![path])),
        }
    }
    let row = |(number, (text, seen, paths)): (usize, (&str, WatchSeen, Vec<String>))| {
        let first = number == 0;
        let style = match seen {
            WatchSeen::Told => anstyle::Style::new(),
            WatchSeen::Polled => CARE,
            WatchSeen::Unseen => BAD,
            WatchSeen::Absent => DIM,
        };
        vec![
            Cell::new(if first { unit.service.as_str() } else { "" }, anstyle::Style::new()),
            Cell::new(if first { unit.files.to_string() } else { String::new() }, anstyle::Style::new()),
            Cell::new(text, style),
            Cell::plain(paths.join(", ")),
        ]
    };
    ways.into_iter().enumerate().map(row).collect()
}

/// What would be done if these files changed. Units that say the same are told together.
#[must_use]
pub fn paths(report: &WatchReport) -> String {
    report.paths.iter().map(path).collect()
}

fn path(path: &WatchedPath) -> String {
    let mut out = format!("{}\n", paint(BOLD, safe(&path.path)));
    if path.plan_file {
        out += &format!("  {}\n", paint(GOOD, "the plan is made of it: when it changes, it is planned anew"));
    }
    let mut said: BTreeMap<(bool, String), Vec<&str>> = BTreeMap::new();
    for of in &path.units {
        said.entry((of.action.is_none(), sentence(of))).or_default().push(of.service.as_str());
    }
    for ((_, sentence), units) in said {
        out += &format!("  {}: {sentence}\n", units.join(", "));
    }
    if path.units.is_empty() && !path.plan_file {
        out += "  no files are watched for any service\n";
    }
    out
}

fn sentence(of: &WatchedFor) -> String {
    let text = safe(&of.text);
    match &of.action {
        Some(action) => format!("{}: {text}", paint(GOOD, action)),
        None => format!("{}: {text}", paint(DIM, "not watched")),
    }
}

#[cfg(test)]
mod tests {
    use ws_model::ServiceName;
    use ws_model::wire::{WatchWhy, WatchedRoot};

    use super::*;

    fn name(name: &str) -> ServiceName {
        ServiceName::new(name).unwrap()
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn what_is_watched_is_a_table() {
        let root = |path: &str, seen, text: &str| WatchedRoot { path: path.into(), seen, text: text.into() };
        let unit =
            |service: &str, roots| WatchedUnit { service: name(service), roots, directories: 3, files: 12 };
        let told = |path: &str| root(path, WatchSeen::Told, "told by the kernel");
        let report = WatchReport {
            units: vec![
                unit(
                    "api",
                    vec![told("src"), told("Cargo.toml"), root("gen", WatchSeen::Absent, "not there yet")],
                ),
                unit("web", vec![told("web/src")]),
            ],
            paths: Vec::new(),
        };
        insta::assert_snapshot!(plain(&units(&report, None)), @r"
        SERVICE  FILES  HOW                 WHERE
        api      12     told by the kernel  src, Cargo.toml
                        not there yet       gen
        web      12     told by the kernel  web/src
        ");
    }

    #[test]
    fn a_path_says_why() {
        let of = |service: &str, action: Option<&str>, why, text: &str| WatchedFor {
            service: name(service),
            action: action.map(ToOwned::to_owned),
            why,
            text: text.to_owned(),
        };
        let rule = "`src` is watched";
        let git = "git ignores `src/a.log` (`*.log` in .gitignore:1)";
        let report = WatchReport {
            units: Vec::new(),
            paths: vec![
                WatchedPath {
                    path: "src/a.rs".into(),
                    plan_file: false,
                    units: vec![
                        of("web", None, WatchWhy::NoRule, "nothing means it"),
                        of("api", Some("restart"), WatchWhy::Rule, rule),
                        of("job", Some("restart"), WatchWhy::Rule, rule),
                    ],
                },
                WatchedPath {
                    path: "src/a.log".into(),
                    plan_file: false,
                    units: vec![of("api", None, WatchWhy::Gitignored, git)],
                },
                WatchedPath { path: "workspace.yaml".into(), plan_file: true, units: Vec::new() },
                WatchedPath { path: "x".into(), plan_file: false, units: Vec::new() },
            ],
        };
        insta::assert_snapshot!(plain(&paths(&report)), @r"
        src/a.rs
          api, job: restart: `src` is watched
          web: not watched: nothing means it
        src/a.log
          api: not watched: git ignores `src/a.log` (`*.log` in .gitignore:1)
        workspace.yaml
          the plan is made of it: when it changes, it is planned anew
        x
          no files are watched for any service
        ");
    }
}
