//! Hot reload in the file: what the model becomes, and where problems of the planner are shown.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ws_model::{
    Borrowed, Build, BuildRef, ConfigPath, Fetch, Listen, PathPattern, Poll, Problem, Reload, Service,
    ServiceName, WatchAction, WatchEntry, Watching, Workspace,
};
use ws_spec::{Parsed, Sources, Style, diagnose, files_needed, parse, render};

fn sources(text: &str) -> Sources {
    Sources {
        file: "/p/workspace.yaml".into(),
        root: "/p".into(),
        text: text.into(),
        home: "/home/me".into(),
        default_name: "p".into(),
        ..Sources::default()
    }
}

#[track_caller]
fn read(sources: &Sources) -> (Workspace, Parsed) {
    let parsed = parse(sources);
    let drawn = render(&parsed.diagnostics, sources, Style::PLAIN);
    let workspace = parsed.workspace.clone().unwrap_or_else(|| panic!("{drawn}"));
    assert_eq!(drawn, "", "no warnings");
    (workspace, parsed)
}

#[track_caller]
fn good(text: &str) -> Workspace {
    read(&sources(text)).0
}

fn name(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

fn at(base: &str, pattern: &str) -> PathPattern {
    PathPattern { base: base.into(), pattern: pattern.into() }
}

#[track_caller]
fn own_build(service: &Service) -> &Build {
    match &service.build {
        Some(BuildRef::Own(build)) => build,
        other => panic!("{other:?}"),
    }
}

/// The files of the end-to-end tests.
#[test]
fn the_files_of_real_stacks_are_read() {
    let stays = |more: &str| format!("{{ command: [bin/ws-e2e-serve], {more} }}");
    let watch =
        good(&format!("services: {{ api: {}, web: {} }}", stays("watch: [src]"), stays("watch: [two]")));
    let restart =
        |path: &str| WatchEntry { path: at("/p", path), ignore: Vec::new(), action: WatchAction::Restart };
    assert_eq!(watch.services["api"].watch, Some(vec![restart("src")]));
    assert_eq!(watch.services["web"].watch, Some(vec![restart("two")]));

    let signal = good(
        "
services:
  proxy:
    command: [/bin/sh, -c, \"trap 'echo hung up' HUP; echo up; while :; do sleep 0.05; done\"]
    ready: { log: up }
    watch:
      - { path: conf, action: { signal: SIGHUP }, ignore: ['**/*.bak'] }
      - { path: conf/static, action: none }
",
    );
    let entries = [
        WatchEntry {
            path: at("/p", "conf"),
            ignore: vec![at("/p", "**/*.bak")],
            action: WatchAction::Signal(1),
        },
        WatchEntry { path: at("/p", "conf/static"), ignore: Vec::new(), action: WatchAction::None },
    ];
    assert_eq!(signal.services["proxy"].watch.as_deref(), Some(&entries[..]));

    let tasks = good(&format!(
        "
services:
  schema: {{ kind: task, command: [/bin/sh, -c, 'echo migrated $(cat sql/a.sql)'], inputs: [sql] }}
  once: {{ kind: task, command: [/bin/echo, prepared] }}
  db: {{ command: [bin/ws-e2e-serve], watch: [db], depends_on: [schema, once] }}
  bound: {}
  free: {}
",
        stays("depends_on: { db: { condition: started, restart: true } }"),
        stays("depends_on: [db]"),
    ));
    assert_eq!(tasks.services["schema"].inputs, Some(vec![at("/p", "sql")]));
    assert_eq!((&tasks.services["once"].inputs, &tasks.services["free"].watch), (&None, &None));

    let mut nine = "
name: x
builds:
  all: { command: ./build.sh, inputs: [src, build.sh], outputs: ['out/s*'] }
services:
"
    .to_owned();
    for n in 1..=9 {
        nine += &format!("  s{n}: {{ command: out/s{n}, build: all, ready: {{ log: serving }} }}\n");
    }
    let nine = good(&nine);
    let all = &nine.builds["all"];
    assert_eq!(all.inputs, [at("/p", "src"), at("/p", "build.sh")]);
    assert_eq!(all.outputs, [at("/p", "out/s*")]);
    assert_eq!((all.working_dir.as_path(), all.working_dir_declared), ("/p".as_ref(), false));
    let shared = BuildRef::Shared { name: name("all"), uses: Vec::new() };
    assert_eq!(nine.services["s9"].build, Some(shared));

    let slow = good(
        "
services:
  api:
    working_dir: api
    command: [/bin/sh, -c, 'echo runs $(cat out/program); exec sleep 100000']
    ready: { log: runs }
    build:
      command: [/bin/sh, -c, 'echo begun >> log; was=$(cat src); i=0; while [ -e slow ] && [ $$i -lt 200 ]; do sleep 0.05; i=$$((i+1)); done; mkdir -p out; echo $$was > out/program; echo ended >> log']
      inputs: [src]
      outputs: ['out/*']
",
    );
    let build = own_build(&slow.services["api"]);
    assert_eq!(
        (&build.inputs[..], &build.outputs[..]),
        (&[at("/p/api", "src")][..], &[at("/p/api", "out/*")][..])
    );
    assert_eq!((build.working_dir.as_path(), build.working_dir_declared), ("/p/api".as_ref(), true));

    let web = |more: &str| {
        good(&format!(
            "
services:
  web:
    command: [bin/ws-e2e-web, '8000', site/index.txt]
    ports: ['0:8000']
    watch: [site]
    ready: {{ http: ':8000/' }}
    {more}
"
        ))
        .services["web"]
            .clone()
    };
    let held = web("listen: [8000]");
    let socket = Listen { port: 8000, name: "8000".to_owned() };
    assert_eq!((&held.listen[..], held.reload), (&[socket][..], Reload::Restart));
    assert_eq!(held.hold, Duration::from_secs(10), "the default");
    assert_eq!(web("listen: [8000]\n    reload: overlap").reload, Reload::Overlap);
    assert_eq!(web("hold: 20s").hold, Duration::from_secs(20));

    // A change of the file, with what it is changed to.
    for hold in ["hold: 5s", "hold: 6s"] {
        good(&format!(
            "
services:
  db: {{ command: [bin/ws-e2e-serve, 'tcp:5000'], ready: {{ tcp: ':5000' }}, limits: {{ files: 1024 }}, {hold} }}
  cache: {{ command: [bin/ws-e2e-serve, 'tcp:6000'], ready: {{ tcp: ':6000', interval: 1s }} }}
  api: {{ command: [x], links: ['db:5000', 'cache:6000'], environment: {{ LOG: info }} }}
  mail: {{ command: [x], links: [db] }}
"
        ));
    }
    // Those of the bench.
    good(
        "name: bench\nservices:\n  api: { command: [./xtask, __stamp, run/stamp], writable: [run], watch: [src] }\n",
    );
    for more in [
        "listen: [8000], ready: { http: ':8000/' }",
        "listen: [8000], reload: overlap, ready: { http: ':8000/' }",
    ] {
        good(&format!(
            "name: bench\nservices:\n  web: {{ command: [./xtask, __web, '8000', site/text], watch: [site], \
             ports: ['0:8000'], {more} }}\n"
        ));
    }
}

#[test]
fn a_build_of_a_service_has_what_the_service_has() {
    let workspace = good(
        "
volumes: { cache: {} }
services:
  api:
    command: out/api
    working_dir: api
    writable: [data]
    reads: [/srv/tools]
    environment: { A: service, B: service }
    volumes: ['cache:/cache:ro', './shared']
    limits: { memory: 64M }
    links: [db]
    build:
      command: make
      fetch: { command: 'curl x | tar x', shell: true, inputs: [lock] }
      writable: [data, tmp]
      environment: { B: build }
      volumes: ['cache:/cache']
      limits: { pids: 10 }
  db: { command: db, expose: [1] }
",
    );
    let service = &workspace.services["api"];
    let build = own_build(service);
    assert_eq!(build.working_dir, service.working_dir);
    assert_eq!(build.writable, ["/p/data", "/p/tmp"].map(PathBuf::from));
    assert_eq!(build.reads, ["/srv/tools"].map(PathBuf::from));
    let environment =
        [("A", "service"), ("B", "build")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(build.environment, BTreeMap::from(environment));
    assert_eq!(service.environment["B"], "service");
    let read_only: Vec<_> =
        build.volumes.iter().map(|one| (one.target.to_str().unwrap(), one.read_only)).collect();
    assert_eq!(read_only, [("/p/shared", false), ("/cache", false)], "what it mounts itself stands in");
    assert_eq!((build.limits.memory, build.limits.pids), (None, Some(10)));
    let command = ["/bin/sh", "-c", "curl x | tar x"].map(str::to_owned).to_vec();
    let fetch = Fetch { command: ws_model::CommandLine(command), inputs: vec![at("/p/api", "lock")] };
    assert_eq!(build.fetch, Some(fetch));

    // As it was: a command alone, with a directory of its own or without.
    let workspace = good("services: { a: { command: a, build: { command: make } } }");
    let build = own_build(&workspace.services["a"]);
    assert_eq!((build.working_dir.as_path(), build.working_dir_declared), ("/p".as_ref(), false));
    assert!(build.inputs.is_empty() && build.outputs.is_empty() && build.fetch.is_none());
    let workspace =
        good("services: { a: { command: a, build: { command: make, working_dir: b, inputs: [c] } } }");
    let build = own_build(&workspace.services["a"]);
    assert_eq!((build.working_dir.as_path(), build.working_dir_declared), ("/p/b".as_ref(), true));
    assert_eq!(build.inputs, [at("/p/b", "c")]);
}

#[test]
fn outputs_in_a_directory_of_their_own() {
    let outputs = |list: &str| {
        let text =
            format!("services: {{ a: {{ command: a, build: {{ command: make, outputs: {list} }} }} }}");
        own_build(&good(&text).services["a"]).outputs.clone()
    };
    assert_eq!(outputs("[dist/]"), [at("/p", "dist/**")]);
    assert_eq!(
        outputs("[~/x/, /opt/y/, 'a/*/']"),
        [at("/home/me/x", "**"), at("/opt/y", "**"), at("/p", "a/*/**")]
    );
    assert_eq!(outputs("[./out/app, 'out/*']"), [at("/p", "out/app"), at("/p", "out/*")]);
    // At the top they would need a right to write the file itself.
    for list in ["[dist]", "['*.so']", "[./]", "['**']", "[../p/]"] {
        let text =
            format!("services: {{ a: {{ command: a, build: {{ command: make, outputs: {list} }} }} }}");
        assert!(parse(&sources(&text)).workspace.is_none(), "{list}");
    }
}

#[test]
fn a_build_is_used_by_its_name() {
    let workspace = good(
        "
builds:
  tools: { command: a, after: [base] }
  base: { command: b, working_dir: base, ignore: ['*.md', ./docs, a/b] }
services:
  a: { command: a, build: tools, watch: [src, { path: x, action: restart }] }
  b: { command: b, working_dir: b, build: { name: tools, uses: [../out/b, 'lib/*.so'] }, watch: [] }
",
    );
    let shared = |uses| Some(BuildRef::Shared { name: name("tools"), uses });
    assert_eq!(workspace.services["a"].build, shared(Vec::new()));
    assert_eq!(workspace.services["b"].build, shared(vec![at("/p", "out/b"), at("/p/b", "lib/*.so")]));
    assert_eq!(workspace.builds["tools"].after, [name("base")]);
    assert_eq!(
        workspace.builds["base"].ignore,
        [at("/p/base", "**/*.md"), at("/p/base", "docs"), at("/p/base", "a/b")]
    );
    let actions = workspace.services["a"].watch.iter().flatten().map(|entry| entry.action);
    assert_eq!(actions.collect::<Vec<_>>(), [WatchAction::Rebuild, WatchAction::Restart]);
    assert_eq!(workspace.services["b"].watch, Some(Vec::new()));
}

#[test]
fn the_workspace_says_how_it_is_watched() {
    assert_eq!(good("services: { a: { command: a } }").watching, Watching::default());
    let workspace = good(
        "
parallel_builds: 3
watch: { debounce: 10ms, ignore: ['*.log', ./docs], gitignore: false, poll: 2s }
services: { a: { command: a } }
",
    );
    let watching = Watching {
        debounce: Duration::from_millis(10),
        ignore: vec![at("/p", "**/*.log"), at("/p", "docs")],
        gitignore: false,
        poll: Poll::Every(Duration::from_secs(2)),
    };
    assert_eq!((workspace.watching, workspace.parallel_builds), (watching, Some(3)));
    for (word, poll) in [("auto", Poll::Auto), ("never", Poll::Never)] {
        let workspace = good(&format!("watch: {{ poll: {word} }}\nservices: {{ a: {{ command: a }} }}"));
        assert_eq!(workspace.watching.poll, poll);
    }
}

#[test]
fn env_files_of_builds_are_read_and_kept_from_services() {
    let mut sources = sources(
        "
builds: { b: { command: b, env_file: [one.env] } }
services: { a: { command: a, build: { command: c, env_file: sub/two.env } }, c: { command: c, build: b } }
",
    );
    let needed = files_needed(&sources);
    assert_eq!(needed, ["/p/one.env", "/p/sub/two.env"].map(PathBuf::from));
    for path in needed {
        let text = format!("FROM={}\n", path.display());
        sources.files.insert(path, Some(text));
    }
    let (workspace, _) = read(&sources);
    assert_eq!(workspace.builds["b"].environment["FROM"], "/p/one.env");
    assert_eq!(own_build(&workspace.services["a"]).environment["FROM"], "/p/sub/two.env");
    assert!(workspace.services["a"].environment.is_empty());
    assert_eq!(workspace.hidden, ["/p/one.env", "/p/sub/two.env"].map(PathBuf::from));
}

#[test]
fn variables_and_profiles_mean_in_builds_what_they_mean_elsewhere() {
    let mut sources = sources(
        "
builds: { b: { command: '${MAKE:-make} all', inputs: ['${DIR}/src'], outputs: ['out/${DIR}-*'] } }
services:
  a: { command: a, build: b }
  c: { command: c, profiles: [more], build: { command: x }, watch: ['${DIR}'] }
",
    );
    sources.environment.insert("DIR".to_owned(), "lib".to_owned());
    let (workspace, _) = read(&sources);
    assert_eq!(workspace.builds["b"].command.0, ["make", "all"]);
    assert_eq!(workspace.builds["b"].inputs, [at("/p", "lib/src")]);
    assert_eq!(workspace.builds["b"].outputs, [at("/p", "out/lib-*")]);
    assert_eq!(workspace.services.len(), 1);
    sources.profiles.push("more".to_owned());
    let (workspace, _) = read(&sources);
    assert_eq!(workspace.services["c"].watch.as_ref().unwrap()[0].path, at("/p", "lib"));
}

/// What the text tells a service of what is the user's is known, so that a change of the file cannot add to it unseen.
#[test]
fn what_is_told_of_the_users_is_known_by_its_name() {
    let text = "\
env_file: [top.env]
defaults: { environment: { REGION: \"${REGION:-eu}\" } }
services:
  api:
    command: [serve, \"--key=${KEY:-none}\"]
    environment: [TOKEN, PLAIN=1, \"URL=${FROM_TOP}\"]
    env_file: [api.env]
    ports: [\"${PORT:-8080}:80\"]
    ready: { http: { url: \":80/\", headers: { A: \"${HEADER:-x}\" } } }
    build: { command: [make, \"${FLAGS:-x}\"], env_file: [build.env] }
  web: { command: serve, environment: { PASSED: } }
builds:
  rust: { command: [make, \"${TARGET:-x}\"] }
";
    let mut sources = sources(text);
    for (file, text) in [
        ("/p/top.env", "FROM_TOP=${DEEP}/x"),
        ("/p/api.env", "A=${IN_FILE}\nB='${NOT}'"),
        ("/p/build.env", ""),
    ] {
        sources.files.insert(file.into(), Some(text.to_owned()));
    }
    for name in ["DEEP", "IN_FILE", "TOKEN", "PASSED"] {
        sources.environment.insert(name.to_owned(), "x".to_owned());
    }
    let parsed = parse(&sources);
    let workspace = parsed.workspace.unwrap_or_else(|| panic!("{:#?}", parsed.diagnostics));
    let told = |at: &ConfigPath| {
        let told = workspace.borrowed[at].iter().map(|one| match one {
            Borrowed::Variable(name) => format!("${name}"),
            Borrowed::EnvFile(path) => path.display().to_string(),
        });
        told.collect::<Vec<_>>().join(" ")
    };
    let service = |service: &str| ConfigPath::service(name(service));
    assert_eq!(
        told(&service("api")),
        "$DEEP $FROM_TOP $HEADER $IN_FILE $KEY $REGION $TOKEN /p/api.env",
        "not $PORT, which nobody in it sees"
    );
    assert_eq!(
        told(&service("api").key("build")),
        "$DEEP $FLAGS $FROM_TOP $IN_FILE $REGION $TOKEN /p/api.env /p/build.env"
    );
    assert_eq!(told(&service("web")), "$PASSED $REGION");
    assert_eq!(told(&ConfigPath::root().key("builds").key("rust")), "$TARGET");
    assert_eq!(workspace.borrowed.len(), 4);
}

#[test]
fn problems_of_the_planner_are_shown_in_the_file() {
    let text = "\
builds:
  rust:
    command: cargo build
    fetch: { command: cargo fetch }
    after: [tools]
  tools: { command: make }
defaults: { watch: [conf] }
services:
  api: { command: a, build: rust, watch: [src, { path: x }] }
  web: { command: a, build: { command: b, after: [rust, tools] } }
  job: { kind: task, command: a, inputs: [sql, seeds] }
";
    let (_, parsed) = read(&sources(text));
    let root = ConfigPath::root();
    let service = |service: &str| ConfigPath::service(name(service));
    let rust = root.key("builds").key("rust");
    for (path, line, column) in [
        (root.key("builds").key("tools"), 6, 3),
        (rust.clone(), 2, 3),
        (rust.key("command"), 3, 14),
        (rust.key("fetch"), 4, 5),
        (rust.key("fetch").key("command"), 4, 23),
        (rust.key("after").index(0), 5, 13),
        // What it does not say itself is shown at the build.
        (rust.key("working_dir"), 2, 3),
        (service("api").key("build"), 9, 29),
        (service("api").key("watch").index(0), 9, 43),
        (service("api").key("watch").index(1), 9, 48),
        (service("web").key("build").key("after").index(1), 10, 57),
        (service("web").key("watch").index(0), 7, 21),
        (service("job").key("inputs"), 11, 34),
        (service("job").key("inputs").index(1), 11, 48),
    ] {
        let problem = Problem::error("WS0570", path.clone(), "a problem");
        let place = diagnose(&parsed.spans, &problem).place;
        assert_eq!((place.line, place.column), (line, column), "{path}");
    }
}

#[test]
fn what_the_readme_shows_is_read() {
    let readme = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let (_, section) = readme.split_once("## Hot reload\n").unwrap();
    let block = section.split("```").nth(1).and_then(|block| block.strip_prefix("yaml\n")).unwrap();
    let workspace = good(block);
    assert!(!workspace.builds.is_empty() && !workspace.services.is_empty());
}
