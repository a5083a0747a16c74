//! Workspace files with what `ws` says about them.
//!
//! `tests/cases/NAME.yaml` at the root of the repository is read as `/p/workspace.yaml`; beside it stand
//! `NAME.stderr`, what is drawn for people (absent: nothing), and, for a good file, `NAME.config`, what
//! `ws config --origins` prints. `NAME.env`, where there is one, is its `.env`; other files that it names
//! are looked up in `tests/cases/files`, where `x.link.yaml` stands for a symbolic link to `x.yaml`. A first line `# profiles: a b` switches profiles on, `# named: a b` names services.
//!
//! `BLESS=1 cargo test -p ws-spec` rewrites the expectations.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ws_model::Severity;
use ws_spec::{Parsed, Sources, Style, Text, config, files_needed, parse, render, schema, to_json};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn cases() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(repository().join("tests/cases"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    all.sort();
    all
}

fn sources_of(text: Text, dot_env: Option<String>, profiles: Vec<String>) -> Sources {
    let mut sources = Sources {
        file: "/p/workspace.yaml".into(),
        root: "/p".into(),
        text,
        dot_env: dot_env.map(|text| ("/p/.env".into(), text)),
        cli_env_files: Vec::new(),
        environment: BTreeMap::from([
            ("FROM_SHELL".to_owned(), "shell value".to_owned()),
            ("TOKEN".to_owned(), "shell token".to_owned()),
            ("EMPTY".to_owned(), String::new()),
        ]),
        files: BTreeMap::new(),
        links: BTreeMap::new(),
        home: "/home/me".into(),
        profiles,
        named: Vec::new(),
        default_name: "My Project".into(),
        ..Sources::default()
    };
    loop {
        let needed = files_needed(&sources);
        if needed.is_empty() {
            return sources;
        }
        for path in needed {
            let below = path.strip_prefix("/p").or(path.strip_prefix("/")).unwrap().to_owned();
            let text = std::fs::read_to_string(repository().join("tests/cases/files").join(below)).ok();
            // What is a link on a machine is named so here.
            if let Some(stem) = path.to_str().and_then(|path| path.strip_suffix(".link.yaml")) {
                sources.links.insert(path.clone(), format!("{stem}.yaml").into());
            }
            sources.files.insert(path, text);
        }
    }
}

fn sources_of_case(case: &Path) -> Sources {
    let bytes = std::fs::read(case).unwrap();
    let first = String::from_utf8_lossy(&bytes).lines().next().unwrap_or_default().to_owned();
    let profiles = first.strip_prefix("# profiles: ").unwrap_or_default();
    let profiles = profiles.split_whitespace().map(str::to_owned).collect();
    let mut sources =
        sources_of(bytes.into(), std::fs::read_to_string(case.with_extension("env")).ok(), profiles);
    let named = first.strip_prefix("# named: ").unwrap_or_default();
    sources.named = named.split_whitespace().map(str::to_owned).collect();
    sources
}

/// Compares with the file, or writes it. What is empty has no file.
fn expect(path: &Path, actual: &str, differences: &mut Vec<String>) {
    let expected = std::fs::read_to_string(path).unwrap_or_default();
    if expected == actual {
        return;
    }
    if std::env::var_os("BLESS").is_some() {
        if actual.is_empty() {
            std::fs::remove_file(path).unwrap();
        } else {
            std::fs::write(path, actual).unwrap();
        }
    } else {
        differences.push(format!("{}\n--- expected\n{expected}--- actual\n{actual}", path.display()));
    }
}

fn has_errors(parsed: &Parsed) -> bool {
    parsed.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
}

#[test]
fn every_case_says_what_is_expected() {
    let mut differences = Vec::new();
    let (mut good, mut bad) = (0, 0);
    for case in cases() {
        let sources = sources_of_case(&case);
        let parsed = parse(&sources);
        assert_eq!(parsed.workspace.is_none(), has_errors(&parsed), "{}", case.display());
        let drawn = render(&parsed.diagnostics, &sources, Style { color: false, width: 100 });
        expect(&case.with_extension("stderr"), &drawn, &mut differences);
        let resolved = parsed.workspace.as_ref().map(|workspace| config(workspace, &parsed.spans, true));
        expect(&case.with_extension("config"), resolved.as_deref().unwrap_or_default(), &mut differences);
        if resolved.is_some() { good += 1 } else { bad += 1 }
    }
    assert!(differences.is_empty(), "{}\n(BLESS=1 rewrites them)", differences.join("\n"));
    assert!(bad >= 45, "only {bad} bad files");
    assert!(good >= 5, "only {good} good files");
}

#[test]
fn the_resolved_file_means_the_same() {
    for case in cases() {
        let sources = sources_of_case(&case);
        let parsed = parse(&sources);
        let Some(mut first) = parsed.workspace else { continue };
        for origins in [false, true] {
            let text = config(&first, &parsed.spans, origins);
            let again =
                Sources { text: text.as_str().into(), environment: BTreeMap::new(), ..sources.clone() };
            let reparsed = parse(&again);
            let drawn = render(&reparsed.diagnostics, &again, Style::PLAIN);
            let mut second =
                reparsed.workspace.unwrap_or_else(|| panic!("{}:\n{text}\n{drawn}", case.display()));
            // Env files are not named any more: what they set stands in the services.
            for workspace in [&mut first, &mut second] {
                workspace.policy_inputs.clear();
                workspace.hidden.clear();
                // Nor variables: their values do.
                workspace.borrowed.clear();
            }
            assert_eq!(first, second, "{}:\n{text}", case.display());
        }
    }
}

#[test]
fn every_place_and_fix_is_inside_its_file() {
    for case in cases() {
        let sources = sources_of_case(&case);
        let parsed = parse(&sources);
        for diagnostic in &parsed.diagnostics {
            let fix = diagnostic.fix.iter().map(|fix| &fix.place);
            let related = diagnostic.related.iter().map(|(place, _)| place);
            for place in std::iter::once(&diagnostic.place).chain(related).chain(fix) {
                assert!(place.start <= place.end, "{}: {diagnostic:?}", case.display());
                let length = match sources.files.get(&place.file) {
                    _ if place.file == sources.file => Some(sources.text.as_bytes().len()),
                    Some(Some(text)) => Some(text.len()),
                    // `.env`
                    Some(None) | None => None,
                };
                assert!(length.is_none_or(|it| place.end <= it), "{}: {diagnostic:?}", case.display());
            }
            assert!(ws_spec::explain(diagnostic.code).is_some(), "{} is not explained", diagnostic.code);
            let sentence = !diagnostic.message.is_empty()
                && !diagnostic.message.ends_with('.')
                && !diagnostic.message.starts_with(char::is_uppercase);
            assert!(sentence, "{}: {:?}", case.display(), diagnostic.message);
        }
    }
}

/// A change that is offered mends its problem: afterwards that code is gone from that place.
#[test]
fn every_fix_mends_its_problem() {
    let mut tried = 0;
    for case in cases() {
        let sources = sources_of_case(&case);
        for diagnostic in parse(&sources).diagnostics {
            let Some(fix) = diagnostic.fix else { continue };
            let mut mended = sources.clone();
            if fix.place.file == sources.file {
                let mut text = String::from_utf8(sources.text.as_bytes().to_vec()).unwrap();
                text.replace_range(fix.place.start..fix.place.end, &fix.replacement);
                mended.text = text.as_str().into();
            } else {
                let text = mended.files.get_mut(&fix.place.file).and_then(Option::as_mut).unwrap();
                text.replace_range(fix.place.start..fix.place.end, &fix.replacement);
            }
            let still = parse(&mended).diagnostics;
            let same = |other: &ws_spec::Diagnostic| {
                other.code == diagnostic.code
                    && (&other.place.file, other.place.start)
                        == (&diagnostic.place.file, diagnostic.place.start)
                    && other.message == diagnostic.message
            };
            let message = &diagnostic.message;
            assert!(!still.iter().any(same), "{}: {message} with `{}`", case.display(), fix.replacement);
            tried += 1;
        }
    }
    assert!(tried >= 10, "only {tried} fixes");
}

#[test]
fn every_code_has_a_case() {
    let shown: std::collections::BTreeSet<&str> =
        cases().iter().flat_map(|case| parse(&sources_of_case(case)).diagnostics).map(|it| it.code).collect();
    // These are shown by tests of their own: their files are large.
    let elsewhere = ["WS0044"];
    // Those from WS0500 on are the planner's.
    for number in 1..=499 {
        let code = format!("WS{number:04}");
        if ws_spec::explain(&code).is_some() && !elsewhere.contains(&code.as_str()) {
            assert!(shown.contains(code.as_str()), "no case shows {code}");
        }
    }
}

#[test]
fn every_code_of_any_crate_is_explained() {
    let code = regex::Regex::new("\"(WS[0-9]{4})\"").unwrap();
    let mut found = 0;
    let mut open = vec![repository().join("crates")];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && path.components().any(|part| part.as_os_str() == "src")
        {
            for code in code.captures_iter(&std::fs::read_to_string(&path).unwrap()) {
                let code = &code[1];
                assert!(code == "WS9999" || ws_spec::explain(code).is_some(), "{code} in {}", path.display());
                found += 1;
            }
        }
    }
    assert!(found > 50);
}

#[test]
fn json_has_the_promised_shape() {
    let sources = sources_of("services:\n  api: { comand: ./api }\n".into(), None, Vec::new());
    let diagnostics = parse(&sources).diagnostics;
    let expected = serde_json::json!([
        {
            "code": "WS0009", "severity": "error", "message": "`api` has no `command`",
            "file": "/p/workspace.yaml",
            "line": 2, "column": 3, "end_line": 2, "end_column": 6, "start": 12, "end": 15,
            "label": "", "related": [],
            "help": ["write the program to run: `command: [program, argument]`"],
            "fix": null
        },
        {
            "code": "WS0006", "severity": "error", "message": "a service has no key `comand`",
            "file": "/p/workspace.yaml",
            "line": 2, "column": 10, "end_line": 2, "end_column": 16, "start": 19, "end": 25,
            "label": "", "related": [],
            "help": ["did you mean `command`?"],
            "fix": {
                "file": "/p/workspace.yaml",
                "line": 2, "column": 10, "end_line": 2, "end_column": 16, "start": 19, "end": 25,
                "replacement": "command"
            }
        }
    ]);
    assert_eq!(to_json(&diagnostics), expected);
}

#[test]
fn colours_are_decoration_only() {
    let sources = sources_of("services: { api: { comand: x } }\n".into(), None, Vec::new());
    let diagnostics = parse(&sources).diagnostics;
    let colored = render(&diagnostics, &sources, Style { color: true, width: 100 });
    let plain = render(&diagnostics, &sources, Style { color: false, width: 100 });
    assert!(colored.contains('\u{1b}') && !plain.contains('\u{1b}'));
    let escape = regex::Regex::new("\u{1b}\\[[0-9;]*m").unwrap();
    assert_eq!(escape.replace_all(&colored, ""), plain);
}

#[test]
fn the_examples_have_no_problems() {
    let mut seen = 0;
    for entry in std::fs::read_dir(repository().join("examples")).unwrap() {
        let root = entry.unwrap().path().canonicalize().unwrap();
        let file = root.join("workspace.yaml");
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        let mut sources = Sources {
            file,
            root,
            text: text.into(),
            home: "/home/me".into(),
            default_name: "example".into(),
            ..Sources::default()
        };
        for path in files_needed(&sources) {
            let text = std::fs::read_to_string(&path).ok();
            sources.files.insert(path, text);
        }
        let parsed = parse(&sources);
        let drawn = render(&parsed.diagnostics, &sources, Style::PLAIN);
        assert!(parsed.workspace.is_some(), "{drawn}");
        seen += 1;
    }
    assert!(seen > 0, "there are no examples");
}

#[test]
fn the_committed_schema_is_fresh() {
    let path = repository().join("schemas/workspace.schema.json");
    let mut differences = Vec::new();
    expect(&path, &format!("{:#}\n", schema()), &mut differences);
    assert!(differences.is_empty(), "{} is stale: BLESS=1 cargo test -p ws-spec rewrites it", path.display());
}
