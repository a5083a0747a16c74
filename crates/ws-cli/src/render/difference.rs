//! What is different between what runs and what the workspace file says, for people.

use std::collections::BTreeSet;

use ws_model::{PlanEffect, PlanLine, ServiceName};

use crate::render::log::safe;
use crate::render::{Cell, list, table};
use crate::ui::{BAD, BOLD, CARE, DIM, GOOD, paint};

/// More lines than this are left to `ws plan` where they come in the middle of something else.
const MOST_LINES: usize = 20;

/// A row for each difference.
#[must_use]
pub fn rows(lines: &[PlanLine], width: Option<usize>) -> String {
    let row = |line: &PlanLine| {
        let service = line.service.as_ref().map_or("", ServiceName::as_str);
        let text = safe(&line.text);
        vec![
            Cell::plain(service),
            Cell::new(effect(line.effect), style(line.effect)),
            Cell::new(if line.widens { "more" } else { "" }, CARE),
            Cell::plain(text),
        ]
    };
    let rows: Vec<Vec<Cell>> = lines.iter().map(row).collect();
    table(&["SERVICE", "WHAT HAPPENS", "RIGHTS", "WHAT IS DIFFERENT"], &rows, width)
}

fn effect(effect: PlanEffect) -> &'static str {
    match effect {
        PlanEffect::Add => "is added",
        PlanEffect::Remove => "is removed",
        PlanEffect::Restart => "starts again",
        PlanEffect::Live => "goes on",
        PlanEffect::Down => "needs `ws down`",
    }
}

fn style(effect: PlanEffect) -> anstyle::Style {
    match effect {
        PlanEffect::Add => GOOD,
        PlanEffect::Remove | PlanEffect::Restart => CARE,
        PlanEffect::Live => DIM,
        PlanEffect::Down => BAD,
    }
}

/// `1 is added, 1 starts again, 2 change and go on; 1 gets more rights`
#[must_use]
pub fn summary(lines: &[PlanLine]) -> String {
    let of = |is: &dyn Fn(&PlanLine) -> bool| -> BTreeSet<Option<&ServiceName>> {
        lines.iter().filter(|line| is(line)).map(|line| line.service.as_ref()).collect()
    };
    let with = |effect: PlanEffect| of(&move |line: &PlanLine| line.effect == effect);
    let (added, removed, again) =
        (with(PlanEffect::Add), with(PlanEffect::Remove), with(PlanEffect::Restart));
    let mut live = with(PlanEffect::Live);
    // What starts again does not go on, whatever else is different about it.
    live.retain(|service| !again.contains(service) && !added.contains(service) && !removed.contains(service));
    let mut parts = Vec::new();
    for (found, one, many) in [
        (added, "is added", "are added"),
        (removed, "is removed", "are removed"),
        (again, "starts again", "start again"),
        (live, "changes and goes on", "change and go on"),
        (with(PlanEffect::Down), "needs `ws down`", "need `ws down`"),
    ] {
        match found.len() {
            0 => {}
            1 => parts.push(format!("1 {one}")),
            n => parts.push(format!("{n} {many}")),
        }
    }
    let rights = match of(&|line: &PlanLine| line.widens).len() {
        0 => String::new(),
        1 => "; 1 gets more rights".to_owned(),
        n => format!("; {n} get more rights"),
    };
    format!("{}{rights}", list(&parts))
}

/// `1 difference`, `3 differences`
#[must_use]
pub fn count(lines: usize) -> String {
    if lines == 1 { "1 difference".to_owned() } else { format!("{lines} differences") }
}

/// The plan changed while somebody looks: a line, and one for each difference where there are several.
#[must_use]
pub fn told(lines: &[PlanLine], applied: bool) -> String {
    let down = lines.iter().any(|line| line.effect == PlanEffect::Down);
    let head = match (applied, down) {
        (true, _) => paint(BOLD, "the plan changed"),
        (false, true) => format!(
            "{}, which cannot be carried out while the stack runs (`ws down`, then `ws up`)",
            paint(CARE, "the workspace file changed")
        ),
        (false, false) => format!(
            "{} and waits for `ws apply`, as it gives more rights",
            paint(CARE, "the workspace file changed")
        ),
    };
    let one = |line: &PlanLine| {
        let service = line.service.as_ref().map(|service| format!("{service}: ")).unwrap_or_default();
        let rights = if line.widens { paint(CARE, " (more rights)") } else { String::new() };
        let happens = match line.effect {
            PlanEffect::Restart | PlanEffect::Live => {
                paint(style(line.effect), format_args!(" · {}", effect(line.effect)))
            }
            // The text says it, or the head.
            PlanEffect::Add | PlanEffect::Remove | PlanEffect::Down => String::new(),
        };
        format!("{service}{}{happens}{rights}", safe(&line.text))
    };
    match lines {
        [] => head,
        [line] => format!("{head}: {}", one(line)),
        several => {
            let mut out = format!("{head}: {}", summary(several));
            for line in several.iter().take(MOST_LINES) {
                out += &format!("\n  {}", one(line));
            }
            if several.len() > MOST_LINES {
                out += &format!("\n  … and {} more", several.len() - MOST_LINES);
            }
            out
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(service: &str, text: &str, effect: PlanEffect, widens: bool) -> PlanLine {
        PlanLine { service: ServiceName::new(service).ok(), text: text.to_owned(), effect, widens }
    }

    fn some() -> Vec<PlanLine> {
        vec![
            line("api", "environment LOG: info becomes debug", PlanEffect::Restart, false),
            line("api", "link to db:5432/tcp", PlanEffect::Live, true),
            line("db", "hold: 5s becomes 6s", PlanEffect::Live, false),
            line("mail", "added", PlanEffect::Add, false),
            line("worker", "removed", PlanEffect::Remove, false),
        ]
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn differences_are_rows() {
        insta::assert_snapshot!(plain(&rows(&some(), None)), @r"
        SERVICE  WHAT HAPPENS  RIGHTS  WHAT IS DIFFERENT
        api      starts again          environment LOG: info becomes debug
        api      goes on       more    link to db:5432/tcp
        db       goes on               hold: 5s becomes 6s
        mail     is added              added
        worker   is removed            removed
        ");
        assert_eq!(
            summary(&some()),
            "1 is added, 1 is removed, 1 starts again and 1 changes and goes on; 1 gets more rights"
        );
    }

    #[test]
    fn a_change_that_is_told_says_what_to_do() {
        let one = [line("db", "hold: 5s becomes 6s", PlanEffect::Live, false)];
        let rights = [line("api", "link to db:5432/tcp", PlanEffect::Live, true)];
        let down = [line("", "network: 10.77.0.0/16 becomes 10.78.0.0/16", PlanEffect::Down, false)];
        let many: Vec<PlanLine> =
            (0..25).map(|n| line(&format!("s{n}"), "added", PlanEffect::Add, false)).collect();
        let all = [
            told(&one, true),
            told(&some(), true),
            told(&rights, false),
            told(&some(), false),
            told(&down, false),
            told(&many, true),
        ];
        insta::assert_snapshot!(plain(&all.join("\n\n")), @r"
        the plan changed: db: hold: 5s becomes 6s · goes on

        the plan changed: 1 is added, 1 is removed, 1 starts again and 1 changes and goes on; 1 gets more rights
          api: environment LOG: info becomes debug · starts again
          api: link to db:5432/tcp · goes on (more rights)
          db: hold: 5s becomes 6s · goes on
          mail: added
          worker: removed

        the workspace file changed and waits for `ws apply`, as it gives more rights: api: link to db:5432/tcp · goes on (more rights)

        the workspace file changed and waits for `ws apply`, as it gives more rights: 1 is added, 1 is removed, 1 starts again and 1 changes and goes on; 1 gets more rights
          api: environment LOG: info becomes debug · starts again
          api: link to db:5432/tcp · goes on (more rights)
          db: hold: 5s becomes 6s · goes on
          mail: added
          worker: removed

        the workspace file changed, which cannot be carried out while the stack runs (`ws down`, then `ws up`): network: 10.77.0.0/16 becomes 10.78.0.0/16

        the plan changed: 25 are added
          s0: added
          s1: added
          s2: added
          s3: added
          s4: added
          s5: added
          s6: added
          s7: added
          s8: added
          s9: added
          s10: added
          s11: added
          s12: added
          s13: added
          s14: added
          s15: added
          s16: added
          s17: added
          s18: added
          s19: added
          … and 5 more
        ");
    }
}
