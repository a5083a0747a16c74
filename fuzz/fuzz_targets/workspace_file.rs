//! Any bytes as a workspace file: never a panic, never unbounded work, and a workspace exactly when there
//! is no error. The cases of the tests are a good corpus:
//!
//! ```sh
//! cargo +nightly fuzz run workspace_file fuzz/corpus/workspace_file tests/cases -- -max_len=4096
//! ```
#![no_main]

use libfuzzer_sys::fuzz_target;
use ws_spec::{Sources, Style, config, files_needed, parse, render, to_json};

fuzz_target!(|bytes: &[u8]| {
    let mut sources = Sources {
        file: "/p/workspace.yaml".into(),
        root: "/p".into(),
        text: bytes.to_vec().into(),
        dot_env: Some(("/p/.env".into(), "A=1\nB='x'\nC=${A:-y}\n".to_owned())),
        home: "/home/me".into(),
        profiles: vec!["dev".to_owned()],
        default_name: "p".to_owned(),
        ..Sources::default()
    };
    // The file's own bytes serve as an env file too, and as every file that is included, until there are too many.
    loop {
        let needed = files_needed(&sources);
        if needed.is_empty() {
            break;
        }
        for path in needed {
            sources.files.insert(path, String::from_utf8(bytes.to_vec()).ok());
        }
        assert!(sources.files.len() < 100_000, "files are asked for without end");
    }
    let parsed = parse(&sources);
    let has_errors = parsed.diagnostics.iter().any(|it| it.severity == ws_spec::Severity::Error);
    assert_eq!(parsed.workspace.is_some(), !has_errors);
    let _drawn = render(&parsed.diagnostics, &sources, Style::PLAIN);
    let _json = to_json(&parsed.diagnostics);
    if let Some(workspace) = parsed.workspace {
        let text = config(&workspace, &parsed.spans, true);
        let again =
            Sources { text: text.as_str().into(), dot_env: None, files: Default::default(), ..sources };
        let reread = parse(&again).workspace.expect("what `ws config` prints can be read");
        assert_eq!(reread.services, workspace.services);
        assert_eq!((reread.builds, reread.watching), (workspace.builds, workspace.watching));
    }
});
