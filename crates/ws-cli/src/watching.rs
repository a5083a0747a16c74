//! What a supervisor knows of files: the real watcher, and its words for what is watched and why.

use std::path::{Path, PathBuf};

use ws_core::engine::{Generation, Input};
use ws_core::files::{Files, Moment, News, NewsSink};
use ws_core::plan::{Plan, WatchRule};
use ws_model::event::signal_name;
use ws_model::wire::{WatchReport, WatchSeen, WatchWhy, WatchedFor, WatchedPath, WatchedRoot, WatchedUnit};
use ws_model::{PathPattern, Poll, ServiceName, WatchAction};
use ws_supervisor::ExplainWatch;
use ws_watch::{For, Options, Seen, Watcher, Why};

use crate::units::human_duration;

/// Watches; keeps what is known of builds in the state directory.
#[must_use]
pub fn watcher(state: PathBuf, sink: NewsSink) -> Box<dyn Files> {
    match Watcher::new(Options::new(state), sink.clone()) {
        Ok(watcher) => Box::new(watcher),
        Err(error) => {
            let text = format!("files are not watched, and every build runs: {error}");
            sink(News::Notice { service: None, text });
            Box::new(Nobody(sink))
        }
    }
}

/// Watches nothing and knows nothing: every build runs.
struct Nobody(NewsSink);

impl Files for Nobody {
    fn follow(&mut self, _plan: std::sync::Arc<Plan>, _plan_files: Vec<PathBuf>) {}

    fn fingerprint(&mut self, service: &ServiceName, generation: Generation, moment: Moment) {
        let service = service.clone();
        (self.0)(News::Happened(match moment {
            Moment::Before => Input::Checked { service, generation, result: Ok(None) },
            Moment::After => {
                Input::Recorded { service, generation, result: Ok(std::collections::BTreeMap::new()) }
            }
        }));
    }
}

/// Explains what is watched.
#[derive(Debug, Clone, Copy)]
pub struct Explain;

impl ExplainWatch for Explain {
    fn overview(&self, plan: &Plan) -> WatchReport {
        let root = |(path, seen): (PathBuf, Seen)| {
            let (seen, text) = seen_words(seen, plan.watching.poll);
            WatchedRoot { path: place(plan, &path), seen, text }
        };
        let unit = |unit: ws_watch::UnitOverview| WatchedUnit {
            service: unit.unit,
            roots: unit.roots.into_iter().map(root).collect(),
            directories: unit.directories as u64,
            files: unit.files as u64,
        };
        WatchReport { units: ws_watch::overview(plan).into_iter().map(unit).collect(), paths: Vec::new() }
    }

    fn explain(&self, plan: &Plan, path: &Path) -> WatchedPath {
        let explained = ws_watch::explain(plan, path);
        let units = explained.units.into_iter().map(|of| for_unit(plan, of)).collect();
        WatchedPath { path: place(plan, &explained.path), plan_file: false, units }
    }
}

fn for_unit(plan: &Plan, For { unit, action, why }: For) -> WatchedFor {
    let rule = |number: usize| {
        let rules = plan.services.get(&unit).map(|unit| unit.watch.as_slice()).unwrap_or_default();
        rules
            .get(number)
            .map_or_else(|| format!("rule {}", number + 1), |rule| format!("`{}`", rule_text(plan, rule)))
    };
    let (why, text) = match why {
        Why::Rule(number) if action.is_none() => {
            (WatchWhy::Rule, format!("{} has the action `none`", rule(number)))
        }
        Why::Rule(number) => (WatchWhy::Rule, format!("{} is watched", rule(number))),
        Why::NoRule => (WatchWhy::NoRule, "it is in nothing that is watched for it".to_owned()),
        Why::Ignored(number) => {
            (WatchWhy::Ignored, format!("{} would mean it, and `ignore` leaves it out", rule(number)))
        }
        Why::Gitignored { at, file, line, pattern } => {
            let line = line.map(|line| format!(":{line}")).unwrap_or_default();
            let says = format!("`{pattern}` in {}{line}", place(plan, &file));
            let what = place(plan, &at);
            (WatchWhy::Gitignored, format!("git ignores `{what}` ({says}); to watch it, name it in `watch`"))
        }
        Why::Habit { at, what } => {
            (WatchWhy::Habit, format!("`{}` is {what}; to watch it, name it in `watch`", place(plan, &at)))
        }
    };
    WatchedFor { service: unit, action: action.and_then(action_word), why, text }
}

fn action_word(action: WatchAction) -> Option<String> {
    match action {
        WatchAction::Rebuild => Some("rebuild".to_owned()),
        WatchAction::Restart => Some("restart".to_owned()),
        WatchAction::Signal(signal) => Some(signal_name(signal)),
        WatchAction::None => None,
    }
}

fn rule_text(plan: &Plan, rule: &WatchRule) -> String {
    let patterns: Vec<String> =
        rule.files.include.iter().map(|pattern| pattern_text(plan, pattern)).collect();
    patterns.join(", ")
}

fn pattern_text(plan: &Plan, pattern: &PathPattern) -> String {
    if pattern.pattern == "." {
        place(plan, &pattern.base)
    } else {
        place(plan, &pattern.base.join(&pattern.pattern))
    }
}

/// Relative to the project where it is in it.
fn place(plan: &Plan, path: &Path) -> String {
    match path.strip_prefix(&plan.root) {
        Ok(rest) if rest.as_os_str().is_empty() => ".".to_owned(),
        Ok(rest) => rest.display().to_string(),
        Err(_) => path.display().to_string(),
    }
}

fn seen_words(seen: Seen, poll: Poll) -> (WatchSeen, String) {
    match seen {
        Seen::Told => (WatchSeen::Told, "told by the kernel".to_owned()),
        Seen::Polled => {
            let every = match poll {
                Poll::Every(pause) => format!(" every {}", human_duration(pause)),
                Poll::Auto | Poll::Never => String::new(),
            };
            (WatchSeen::Polled, format!("looked at{every}, as `watch.poll` says"))
        }
        Seen::Blind(kind) => {
            (WatchSeen::Polled, format!("looked at again and again: {kind} does not tell of all changes"))
        }
        Seen::Unseen(kind) => {
            let text = format!(
                "changes from elsewhere are not seen: {kind} does not tell, and `watch.poll` is `never`"
            );
            (WatchSeen::Unseen, text)
        }
        Seen::Absent => (WatchSeen::Absent, "not there yet".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_changes_are_seen_has_words() {
        let every = Poll::Every(std::time::Duration::from_secs(2));
        let cases = [
            (Seen::Told, WatchSeen::Told, "kernel"),
            (Seen::Polled, WatchSeen::Polled, "every 2.0 s"),
            (Seen::Blind("nfs"), WatchSeen::Polled, "nfs"),
            (Seen::Unseen("nfs"), WatchSeen::Unseen, "watch.poll"),
            (Seen::Absent, WatchSeen::Absent, "not there"),
        ];
        for (seen, word, part) in cases {
            let (is, text) = seen_words(seen, every);
            assert_eq!(is, word);
            assert!(text.contains(part), "{text}");
        }
    }
}
