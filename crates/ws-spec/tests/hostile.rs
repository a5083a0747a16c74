//! Files that are made to exhaust or to confuse: refused, in bounded time, with a message that says why.
//!
//! The bounds on time are generous: they tell linear work from the other kind, on any machine and without
//! optimisation.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use ws_model::Severity;
use ws_spec::{Parsed, Sources, Style, Text, config, files_needed, parse, render, to_json};

fn sources(text: impl Into<Text>) -> Sources {
    Sources {
        file: "/p/workspace.yaml".into(),
        root: "/p".into(),
        text: text.into(),
        home: "/home/me".into(),
        default_name: "p".into(),
        environment: BTreeMap::from([
            ("BIG".to_owned(), "x".repeat(100_000)),
            ("A".to_owned(), "a".to_owned()),
        ]),
        ..Sources::default()
    }
}

/// Everything that `ws check` does with a file.
fn check(sources: &Sources) -> (Parsed, String) {
    let _ = files_needed(sources);
    let parsed = parse(sources);
    let drawn = render(&parsed.diagnostics, sources, Style { color: true, width: 80 });
    let _ = to_json(&parsed.diagnostics);
    if let Some(workspace) = &parsed.workspace {
        let _ = config(workspace, &parsed.spans, false);
    }
    (parsed, drawn)
}

#[track_caller]
fn refused(text: impl Into<Text>, code: &str) {
    let sources = sources(text);
    let start = Instant::now();
    let (parsed, drawn) = check(&sources);
    let spent = start.elapsed();
    assert!(spent < Duration::from_secs(30), "took {spent:?}");
    assert!(parsed.workspace.is_none());
    let codes: Vec<_> = parsed.diagnostics.iter().map(|diagnostic| diagnostic.code).collect();
    assert!(codes.contains(&code), "{codes:?}");
    assert!(parsed.diagnostics.len() <= 101 && drawn.len() < 1_000_000, "{} bytes", drawn.len());
}

#[test]
fn an_alias_bomb() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let below = format!("*a{}", level - 1);
        text.push_str(&format!("a{level}: &a{level} [{}]\n", [below.as_str(); 9].join(", ")));
    }
    refused(text, "WS0002");
}

#[test]
fn a_long_text_that_is_repeated() {
    let text = format!("a: &a {}\nb: [{}]\n", "x".repeat(50_000), vec!["*a"; 5_000].join(", "));
    refused(text, "WS0002");
}

#[test]
fn merges_of_merges() {
    let mut text = "a0: &a0 { x: 1, y: 2 }\n".to_owned();
    for level in 1..60 {
        text.push_str(&format!(
            "a{level}: &a{level} {{ <<: [*a{0}, *a{0}, *a{0}], k{level}: *a{0} }}\n",
            level - 1
        ));
    }
    refused(text, "WS0002");
}

#[test]
fn deep_nesting() {
    refused("[".repeat(100_000), "WS0002");
    refused("{a: ".repeat(50_000), "WS0002");
    refused("- ".repeat(50_000), "WS0002");
    refused(
        (0..2_000).map(|depth| format!("{}a:\n", " ".repeat(depth.min(400)))).collect::<String>(),
        "WS0002",
    );
}

#[test]
fn too_many_bytes_and_values() {
    refused("x".repeat(2_000_000), "WS0002");
    refused(format!("services: [{}]", "1,".repeat(400_000)), "WS0002");
}

#[test]
fn bytes_that_are_not_text() {
    refused(vec![0xff; 100_000], "WS0003");
    refused("a\0".repeat(1000), "WS0003");
    refused("name: x\n".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>(), "WS0003");
    refused("a: \u{7f}", "WS0003");
}

#[test]
fn many_problems() {
    refused((0..20_000).map(|n| format!("k{n}: 1\n")).collect::<String>(), "WS0044");
    refused("a: 1\n".repeat(50_000), "WS0004");
    // Each name is compared with every other to find what was meant: not for each of them.
    let services: String =
        (0..9_000).map(|n| format!("  s{n}: {{ command: a, links: [t{n}, u{n}, v{n}] }}\n")).collect();
    refused(format!("services:\n{services}"), "WS0031");
}

#[test]
fn defaults_that_are_multiplied() {
    let variables: String = (0..20_000).map(|n| format!("    V{n}: x\n")).collect();
    let services: String = (0..9_000).map(|n| format!("  s{n}: {{ command: a }}\n")).collect();
    refused(format!("defaults:\n  environment:\n{variables}services:\n{services}"), "WS0002");
    refused(
        format!(
            "services:\n{}",
            (0..12_000).map(|n| format!("  s{n}: {{ command: a }}\n")).collect::<String>()
        ),
        "WS0002",
    );
}

#[test]
fn env_files_that_are_multiplied() {
    let services: String =
        (0..9_000).map(|n| format!("  s{n}: {{ command: a, env_file: big.env }}\n")).collect();
    let mut sources = sources(format!("services:\n{services}"));
    let lines: String = (0..20_000).map(|n| format!("V{n}=x\n")).collect();
    assert_eq!(files_needed(&sources), ["/p/big.env"].map(std::path::PathBuf::from));
    sources.files.insert("/p/big.env".into(), Some(lines));
    let (parsed, _) = check(&sources);
    assert!(parsed.diagnostics.iter().any(|diagnostic| diagnostic.code == "WS0002"));
}

#[test]
fn variables_that_grow() {
    refused(format!("name: \"{}\"\nservices: {{ a: {{ command: a }} }}", "${BIG}".repeat(10_000)), "WS0002");
    refused(
        format!("name: \"{}\"\nservices: {{ a: {{ command: a }} }}", "${BIG:+}".repeat(100_000)),
        "WS0010",
    );
    refused(
        format!("name: \"{}x{}\"\nservices: {{}}", "${NO:-".repeat(50_000), "}".repeat(50_000)),
        "WS0021",
    );
    refused(format!("name: \"{}\"\nservices: {{}}", "${".repeat(300_000)), "WS0021");
}

#[test]
fn patterns_that_are_costly() {
    refused("services: { a: { command: a, ready: { log: '(((\\w{1000}){1000}){1000}){1000}' } } }", "WS0016");
    let services: String = (0..9_000)
        .map(|n| format!("  s{n}: {{ command: a, ready: {{ log: '{n}\\w{{300}}' }} }}\n"))
        .collect();
    refused(format!("services:\n{services}"), "WS0002");
}

#[test]
fn copies_that_are_multiplied() {
    let services: String = (0..5_000).map(|n| format!("  s{n}: {{ command: a, replicas: 100 }}\n")).collect();
    refused(format!("services:\n{services}"), "WS0002");
    let services: String = (0..9_000).map(|n| format!("  s{n}: {{ command: a }}\n")).collect();
    refused(format!("defaults: {{ replicas: 2 }}\nservices:\n{services}"), "WS0002");
}

#[test]
fn bodies_that_are_costly() {
    let services: String = (0..9_000)
        .map(|n| {
            format!("  s{n}: {{ command: a, ready: {{ http: {{ url: 80, body: '{n}\\w{{300}}' }} }} }}\n")
        })
        .collect();
    refused(format!("services:\n{services}"), "WS0002");
}

#[test]
fn globs_that_are_costly() {
    refused(format!("services: {{ a: {{ command: a, watch: ['{}'] }} }}", "?".repeat(1_001)), "WS0002");
    refused(
        format!("services: {{ a: {{ command: a, watch: ['{}a{}'] }} }}", "{".repeat(400), "}".repeat(400)),
        "WS0002",
    );
    // Different ones, and one for each of many services.
    let globs: String = (0..3_000).map(|n| format!("'{n}*', ")).collect();
    refused(format!("services: {{ a: {{ command: a, watch: [{globs}] }} }}"), "WS0002");
    let globs: String = (0..50).map(|n| format!("'{n}*', ")).collect();
    let services: String = (0..3_000).map(|n| format!("  s{n}: {{ command: a }}\n")).collect();
    refused(format!("defaults: {{ watch: [{globs}] }}\nservices:\n{services}"), "WS0002");
    let builds: String = (0..500).map(|n| format!("  b{n}: {{ command: a, inputs: [{globs}] }}\n")).collect();
    refused(format!("builds:\n{builds}services: {{ a: {{ command: a, build: b1 }} }}"), "WS0002");
}

/// The largest globs that are taken can be compiled by whoever watches.
#[test]
fn globs_that_are_taken_can_be_compiled() {
    let largest = |part: &str| part.repeat(999 / part.len());
    let nested = format!("{}a{}", "{b,".repeat(8), "}".repeat(8));
    let parts = ["?", "*/", "**/", "[!a]", "{a,b}", "{?,*}", "[a-z]", "[!\u{e9}]", "a{,b}", &nested];
    for part in parts {
        let glob = largest(part);
        let text = format!("services: {{ a: {{ command: a, watch: ['x{glob}'] }} }}");
        let parsed = parse(&sources(text));
        let workspace = parsed.workspace.unwrap_or_else(|| panic!("{part}: {:?}", parsed.diagnostics));
        let path = &workspace.services["a"].watch.as_ref().unwrap()[0].path;
        let glob = globset::GlobBuilder::new(&path.pattern).literal_separator(true).build().unwrap();
        assert!(!glob.compile_matcher().is_match("y"), "{part}");
    }
}

#[test]
fn sockets_that_are_too_many() {
    let ports: Vec<String> = (1..=60_000).map(|port| port.to_string()).collect();
    refused(format!("services: {{ a: {{ command: a, listen: [{}] }} }}", ports.join(", ")), "WS0064");
}

#[test]
fn builds_that_wait_for_each_other() {
    let builds: String =
        (0..9_000).map(|n| format!("  b{n}: {{ command: a, after: [c{n}, d{n}, b{n}] }}\n")).collect();
    refused(format!("builds:\n{builds}services: {{ a: {{ command: a, build: b0 }} }}"), "WS0061");
}

/// Reads a workspace whose further files are made up as they are asked for, as `ws` does.
#[track_caller]
fn refused_with_files(text: &str, code: &str, make: impl Fn(&std::path::Path) -> Option<String>) {
    let mut sources = sources(text);
    let start = Instant::now();
    let mut rounds = 0;
    loop {
        let needed = files_needed(&sources);
        if needed.is_empty() {
            break;
        }
        rounds += 1;
        for path in needed {
            let text = make(&path);
            assert!(sources.files.insert(path, text).is_none(), "asked for twice");
        }
        assert!(sources.files.len() <= 1_500, "{} files are asked for", sources.files.len());
    }
    let (parsed, drawn) = check(&sources);
    let spent = start.elapsed();
    assert!(spent < Duration::from_secs(60) && rounds <= 20, "took {spent:?}, {rounds} rounds");
    assert!(parsed.workspace.is_none());
    let codes: Vec<_> = parsed.diagnostics.iter().map(|diagnostic| diagnostic.code).collect();
    assert!(codes.contains(&code), "{codes:?}");
    assert!(parsed.diagnostics.len() <= 101 && drawn.len() < 1_000_000, "{} bytes", drawn.len());
}

#[test]
fn files_that_include_without_end() {
    // Each one another one, a level deeper.
    refused_with_files("include: a/x.yaml\nservices: { a: { command: a } }", "WS0002", |_| {
        Some("include: a/x.yaml\n".to_owned())
    });
    // Each one two others.
    refused_with_files("include: [a/x.yaml, b/x.yaml]\nservices: { a: { command: a } }", "WS0002", |_| {
        Some("include: [a/x.yaml, b/x.yaml]\n".to_owned())
    });
    let many: Vec<String> = (0..500).map(|n| format!("f{n}.yaml")).collect();
    let text = format!("include: [{}]\nservices: {{ a: {{ command: a }} }}", many.join(", "));
    refused_with_files(&text, "WS0002", |_| Some("volumes: {}\n".to_owned()));
    refused_with_files(&text, "WS0046", |_| None);
    // Circles through others.
    refused_with_files("include: a.yaml\nservices: { a: { command: a } }", "WS0047", |path| {
        let next = if path.ends_with("a.yaml") { "b.yaml" } else { "a.yaml" };
        Some(format!("include: [{next}, workspace.yaml]\n"))
    });
}

#[test]
fn files_that_cost_too_much_together() {
    let many: Vec<String> = (0..100).map(|n| format!("f{n}.yaml")).collect();
    let text = format!("include: [{}]\nservices: {{ a: {{ command: a }} }}", many.join(", "));
    // Each is small enough alone: in bytes, in values behind aliases, in services, in the files that it names.
    refused_with_files(&text, "WS0002", |_| Some(format!("# {}\n", "x".repeat(100_000))));
    refused_with_files(&text, "WS0002", |_| {
        Some(format!("defaults: &a {{ command: [{}] }}\nx: [{}]\n", "x, ".repeat(500), "*a, ".repeat(200)))
    });
    refused_with_files(&text, "WS0002", |path| {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let services: String = (0..200).map(|n| format!("  {stem}-{n}: {{ command: a }}\n")).collect();
        Some(format!("services:\n{services}"))
    });
    refused_with_files(&text, "WS0002", |path| {
        if path.ends_with("big.env") {
            return Some(format!("A={}\n", "x".repeat(2_000)).repeat(500));
        }
        Some("env_file: big.env\n".to_owned())
    });
}

#[test]
fn a_terminal_cannot_be_driven() {
    let text = "services:\n  \"a\\x1b]0;owned\\x07\": { command: x }\n  b: { \"\\x1b[2J\": 1, command: x }\n";
    let sources = sources(text);
    let parsed = parse(&sources);
    let drawn = render(&parsed.diagnostics, &sources, Style::PLAIN);
    assert!(parsed.workspace.is_none() && !drawn.contains(['\u{1b}', '\u{7}']), "{drawn}");
}

const GOOD: &str = include_str!("../../../tests/cases/good_shop.yaml");
const DEFAULTS: &str = include_str!("../../../tests/cases/good_defaults.yaml");
const LIFE: &str = include_str!("../../../tests/cases/good_life.yaml");
const OUTSIDE: &str = include_str!("../../../tests/cases/good_outside.yaml");
const RELOAD: &str = include_str!("../../../tests/cases/good_reload.yaml");
const QUOTING: &str = include_str!("../../../tests/cases/good_quoting.yaml");

/// What holds for every input.
fn holds(bytes: Vec<u8>) -> Result<(), TestCaseError> {
    let sources = sources(bytes);
    let (parsed, _) = check(&sources);
    let has_errors = parsed.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
    prop_assert_eq!(parsed.workspace.is_some(), !has_errors);
    if let Some(workspace) = &parsed.workspace {
        let text = config(workspace, &parsed.spans, true);
        let again = Sources { text: text.as_str().into(), environment: BTreeMap::new(), ..sources.clone() };
        let reread = parse(&again).workspace;
        let read = |it: &ws_model::Workspace| {
            let reloading = (it.builds.clone(), it.parallel_builds, it.watching.clone());
            (it.services.clone(), it.external.clone(), it.requires.clone(), reloading)
        };
        prop_assert_eq!(reread.as_ref().map(read), Some(read(workspace)), "{}", text);
    }
    for diagnostic in &parsed.diagnostics {
        prop_assert!(diagnostic.place.start <= diagnostic.place.end);
        prop_assert!(diagnostic.place.line >= 1 && diagnostic.place.column >= 1);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        holds(bytes)?;
    }

    #[test]
    fn any_text_in_any_place_is_read_without_panic(
        key in "[a-z_]{1,12}",
        value in "[ -~üé→\\n]{0,40}",
        other in r#"[-:{}\[\],&*!|>'"%@#?a-z0-9 \n$]{0,40}"#,
    ) {
        holds(format!("services:\n  a:\n    command: x\n    {key}: {value}\n").into_bytes())?;
        holds(format!("services: {{ a: {{ command: {other}, {key}: [{other}] }} }}\n").into_bytes())?;
        holds(format!("services:\n  a: {{ command: x, {key}: {value:?} }}\n").into_bytes())?;
    }

    #[test]
    fn mutated_good_files_are_read_without_panic(
        which in 0..6_usize,
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), "[ -~\\n]{0,3}"), 1..6),
    ) {
        let mut text = [GOOD, DEFAULTS, QUOTING, LIFE, OUTSIDE, RELOAD][which].to_owned();
        for (from, to, insert) in edits {
            let (mut from, mut to) = (from.index(text.len() + 1), to.index(text.len() + 1));
            if from > to {
                std::mem::swap(&mut from, &mut to);
            }
            to = to.min(from + 8);
            while !text.is_char_boundary(from) { from -= 1; }
            while !text.is_char_boundary(to) { to += 1; }
            text.replace_range(from..to, &insert);
        }
        holds(text.into_bytes())?;
    }

    #[test]
    fn every_value_of_every_key_is_read_without_panic(
        key in proptest::sample::select(vec![
            "kind", "profiles", "command", "shell", "build", "working_dir", "writable", "reads", "environment",
            "env_file", "depends_on", "links", "expose", "ports", "volumes", "tmpfs", "secrets", "ready", "restart",
            "stop", "limits", "startup", "liveness", "pre_start", "post_start", "pre_stop", "replicas",
            "success_exit_codes", "stdin", "tty", "logs", "inputs", "watch", "reload", "listen", "hold",
        ]),
        value in proptest::sample::select(vec![
            "null", "true", "-1", "1e99", ".nan", "''", "x", "[]", "{}", "[[]]", "[{}]", "[null]", "[x, 1, ~]",
            "{ x: y }", "{ x: { y: z } }", "[{ x: y }]", "'a:b:c:d:e'", "'::'", "'/'", "'$$'", "'${A}'", "'~'", "'~/'",
            "{ command: [] }", "{ exec: '' }", "{ http: ':' }", "{ tcp: 0 }", "{ log: '*' }", "{ max: 0 }",
            "[{ to: 'x:1', ports: [] }]", "[{ target: '/..', source: '' }]", "{ memory: 0, cpus: 0 }", "0x10", "1_000",
            "notify", "{ notify: true }", "{ http: { url: 80, status: '1-2', headers: { '': x } } }", "{ grpc: ':1/' }",
            "{ http: { url: ':80', status: [200, '300-301'], headers: { A: b }, body: '^$' } }", "[[], [[]], {}]",
            "[{ command: x, shell: true, timeout: 1s }]", "{ command: x, shell: true }", "2", "[143, SIGKILL, 0]",
            "open", "closed", "{ max_size: 1M, max_files: 1, max_age: 1d }", "{ x: { restart: true } }",
            "{ command: x, inputs: ['*'], outputs: [a/b], ignore: [c], after: [x], fetch: { command: y } }",
            "{ name: x, uses: ['..', '/x', '~/y/*'] }", "[{ path: x, action: none, ignore: ['*.a', ./b] }]",
            "[{ path: '**', action: { signal: 1 } }]", "overlap", "[80, { port: 81, name: a }]", "5s", "['[', '{a', '../*/..']",
            "|\n      a\n      b\n", "2001-01-01", "!!binary gIA=", "&x [*x]",
        ]),
    ) {
        holds(format!("services:\n  a:\n    command: x\n    {key}: {value}\n  x: {{ command: y }}\n").into_bytes())?;
        holds(format!("defaults:\n    {key}: {value}\nservices:\n  x: {{ command: y }}\n").into_bytes())?;
    }

    #[test]
    fn every_value_of_builds_and_watching_is_read_without_panic(
        key in proptest::sample::select(vec![
            "command", "shell", "fetch", "inputs", "ignore", "outputs", "working_dir", "environment", "env_file", "writable",
            "reads", "volumes", "after", "limits", "debounce", "gitignore", "poll", "name", "uses",
        ]),
        value in proptest::sample::select(vec![
            "null", "true", "1", "''", "x", "[]", "{}", "[{}]", "[null]", "auto", "1s", "{ command: x, inputs: [y] }",
            "[a, ./b, ../c, /d, ~/e, ~, ., /, '*', '**', 'a/*/b', '../*', '~/*', '/*']", "[b]", "['./~a', './!b', 'a//./b/']",
            "[a/b, 'a/b*', ../c/d]", "{ A: b }", "['x:/y', './z:/y:ro', /a/b]", "{ pids: 5 }",
        ]),
        pattern in "[a-z.~!/*?{},\\[\\] -]{1,16}",
    ) {
        let builds = format!("builds: {{ b: {{ command: x, {key}: {value} }} }}\nvolumes: {{ x: {{ shared: true }} }}\n");
        holds(format!("{builds}services:\n  a: {{ command: x, build: b }}\n").into_bytes())?;
        holds(format!("watch: {{ {key}: {value} }}\nservices:\n  a: {{ command: x }}\n").into_bytes())?;
        holds(
            format!("{builds}services:\n  a: {{ command: x, working_dir: w/v, build: {{ command: y, {key}: {value} }} }}\n")
                .into_bytes(),
        )?;
        // A pattern means the same in what `ws config` prints.
        holds(
            format!(
                "watch: {{ ignore: [{pattern:?}] }}\nbuilds: {{ b: {{ command: x, inputs: [{pattern:?}], \
                 outputs: ['o/{{x,y}}', {pattern:?}] }} }}\nservices:\n  a: {{ command: x, working_dir: w/v, \
                 build: {{ name: b, uses: [{pattern:?}] }}, watch: [{{ path: {pattern:?}, ignore: [{pattern:?}] }}] }}\n"
            )
            .into_bytes(),
        )?;
    }

    #[test]
    fn every_value_of_what_is_outside_is_read_without_panic(
        name in "[ -~]{0,12}",
        value in "[ -~üé]{0,30}",
        parts in proptest::collection::vec(
            proptest::sample::select(vec![">", "<", "=", "1", ".", "20", ",", " ", "*", "host", ":", "[", "]", "/"]), 0..8,
        ),
    ) {
        let parts = parts.concat();
        for value in [&value, &parts] {
            holds(
                format!(
                    "external: {{ {name:?}: {value:?}, a: {value:?} }}\nrequires: {{ {name:?}: {value:?}, b: {value:?} }}\n\
                     include: [{value:?}]\nservices: {{ x: {{ command: y, links: [a] }} }}\n"
                )
                .into_bytes(),
            )?;
        }
    }

    #[test]
    fn mutated_files_that_are_included_are_read_without_panic(
        which in 0..3_usize,
        at in any::<prop::sample::Index>(),
        insert in "[ -~\\n]{0,6}",
    ) {
        let mut text = [LIFE, OUTSIDE, DEFAULTS][which].to_owned();
        let mut at = at.index(text.len() + 1);
        while !text.is_char_boundary(at) { at -= 1; }
        text.insert_str(at, &insert);
        holds(text.clone().into_bytes())?;
        let mut whole = sources("include: [sub/one.yaml, two.yaml]\nservices: { first: { command: a, replicas: 2 } }\n");
        whole.files.insert("/p/sub/one.yaml".into(), Some(text));
        whole.files.insert("/p/two.yaml".into(), Some(OUTSIDE.to_owned()));
        let (parsed, _) = check(&whole);
        let has_errors = parsed.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
        prop_assert_eq!(parsed.workspace.is_some(), !has_errors);
    }
}
