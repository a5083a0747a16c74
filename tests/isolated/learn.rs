//! `ws learn` on the examples: from a file without links to one with which the example's own check passes, and which has
//! no link more than the one that was written by hand.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use ws_e2e::{Mode, Stack, both_ways, requires, show, wait_until};

use crate::examples::{notes, shop, try_check};
use crate::policy::violations;

both_ways! {
    the_links_of_the_shop_are_found
    the_links_of_the_notes_are_found
}

/// How long it may take until nothing is missing.
const FOUND: Duration = Duration::from_secs(90);

fn file(stack: &Stack) -> String {
    fs::read_to_string(stack.project.join("workspace.yaml")).expect("the workspace file")
}

/// The links of each service, as they stand in the file: a line for each service.
fn links(stack: &Stack) -> BTreeMap<String, BTreeSet<String>> {
    let mut found = BTreeMap::new();
    let mut service = String::new();
    for line in file(stack).lines() {
        let word = line.trim_start();
        if line.len() - word.len() == 2
            && let Some((name, _)) = word.split_once(':')
        {
            name.clone_into(&mut service);
        }
        if let Some(links) = word.strip_prefix("links: [") {
            let links = links.split(']').next().unwrap_or(links).split(", ");
            found.insert(service.clone(), links.map(|link| link.trim_matches('"').to_owned()).collect());
        }
    }
    found
}

/// Without what is built: that is a matter of another test, and of sources that are not copied.
fn without_builds(text: &str) -> String {
    let (before, rest) = text.split_once("\nbuilds:\n").unwrap_or((text, ""));
    let (_, after) = rest.split_once("\ndefaults:\n").unwrap_or_default();
    let after = if after.is_empty() { String::new() } else { format!("\ndefaults:\n{after}") };
    format!("{before}{after}").replace("    build: programs\n", "")
}

fn is_found(mut stack: Stack, name: &str, service: &str, port: &str) {
    let by_hand = links(&stack);
    let written = without_builds(&file(&stack));
    let without: String = written
        .lines()
        .filter(|line| !line.trim_start().starts_with("links:"))
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(without.len() < written.len() && !by_hand.is_empty(), "{by_hand:?}");
    stack.write("workspace.yaml", &without);
    assert!(links(&stack).is_empty());
    stack.watch();
    // Whoever needs what he may not reach may fail.
    let up = |stack: &Stack, within: &str| {
        stack.ws(&["up", "-d", "--wait", "--no-watch", "--wait-timeout", within])
    };
    let _ = up(&stack, "3s");
    let mut rounds = 0;
    wait_until(FOUND, "the check of the example passes", || {
        let before = file(&stack);
        let ran = stack.ws(&["learn", "--write"]);
        assert_eq!(ran.code, 0, "{ran}");
        if file(&stack) != before {
            rounds += 1;
            let ran = stack.ws(&["apply"]);
            assert_eq!(ran.code, 0, "{ran}\n{}", stack.story());
            let _ = up(&stack, "3s");
        }
        try_check(&stack, name, service, port)
            .map_err(|problem| format!("{problem}\n{:#?}\n{}", violations(&stack), stack.story()))
    });
    // What the check tried last.
    assert_eq!(stack.ws(&["learn", "--write"]).code, 0);
    let learned = links(&stack);
    show(&format!("{name}, as {}: found in {rounds} rounds: {learned:?}", stack.mode));
    for (service, links) in &learned {
        let right = by_hand.get(service).cloned().unwrap_or_default();
        assert!(links.is_subset(&right), "{service}: {links:?} instead of {right:?}");
    }
    // Every comment is still there, and every line in its order.
    let now = file(&stack);
    let mut lines = now.lines();
    for line in without.lines() {
        assert!(lines.any(|found| found == line), "`{line}` is not where it was:\n{now}");
    }
    stack.down();
    // From the start, too.
    stack.watch();
    let ran = up(&stack, "60s");
    assert_eq!(ran.code, 0, "{ran}\n{}", stack.story());
    let checked = try_check(&stack, name, service, port);
    assert!(checked.is_ok(), "{checked:?}\n{}", stack.story());
    assert!(violations(&stack).is_empty(), "{:#?}", violations(&stack));
    stack.down();
}

fn the_links_of_the_shop_are_found(mode: Mode) {
    requires!(mode, userns, netns, nft);
    is_found(shop(mode), "shop", "gateway", "8080");
}

fn the_links_of_the_notes_are_found(mode: Mode) {
    requires!(mode, userns, netns, nft, postgres, redis);
    is_found(notes(mode), "postgres-redis", "api", "8000");
}
