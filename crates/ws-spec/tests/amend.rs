//! Rights that are written into a file: what becomes of the text, and that nothing else does.

use std::collections::BTreeMap;

use ws_model::{ByteSize, Need, PortProto, Protocol, ServiceName, Wish};
use ws_spec::{Amended, Sources, amend, patch};

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

fn link(service: &str, to: &str, port: u16) -> Wish {
    let port = PortProto { port, protocol: Protocol::Tcp };
    let to = ServiceName::new(to).unwrap();
    Wish { service: ServiceName::new(service).unwrap(), need: Need::Link { to, port } }
}

fn wish(service: &str, need: Need) -> Wish {
    Wish { service: ServiceName::new(service).unwrap(), need }
}

/// The text with these rights; fails when one of them could not be written.
#[track_caller]
fn amended(text: &str, wishes: &[Wish]) -> String {
    let Amended { sources, left, .. } = amend(&sources(text), wishes).expect("the file is good");
    assert_eq!(left, [], "all can be written");
    String::from_utf8(sources.text.as_bytes().to_vec()).unwrap()
}

const DB: &str = "  db: { command: ./db }\n  cache: { command: ./cache }\n";

/// A service `api` as it is written, and as it is with a link to `db:5432`.
#[track_caller]
fn check(before: &str, after: &str) {
    let text = |api: &str| format!("# our stack\nservices:\n{api}{DB}");
    assert_eq!(amended(&text(before), &[link("api", "db", 5432)]), text(after));
}

#[test]
fn a_link_is_written_as_the_file_is() {
    // No links yet.
    check(
        "  # the api\n  api:\n    command: ./api # it is\n    restart: always\n",
        "  # the api\n  api:\n    command: ./api # it is\n    links: [\"db:5432\"]\n    restart: always\n",
    );
    check("  api: { command: ./api }\n", "  api: { command: ./api, links: [\"db:5432\"] }\n");
    check("  api: {command: ./api}\n", "  api: {command: ./api, links: [\"db:5432\"]}\n");
    check("  api: { command: ./api, }\n", "  api: { command: ./api, links: [\"db:5432\"] }\n");
    // A list in brackets.
    check(
        "  api:\n    links: [ \"cache:6379\" ] # all\n    command: ./api\n",
        "  api:\n    links: [ \"cache:6379\", \"db:5432\" ] # all\n    command: ./api\n",
    );
    check("  api: { command: ./api, links: [] }\n", "  api: { command: ./api, links: [\"db:5432\"] }\n");
    check(
        "  api:\n    command: ./api\n    links: [\n      \"cache:6379\", # hot\n    ]\n",
        "  api:\n    command: ./api\n    links: [\"db:5432\", \n      \"cache:6379\", # hot\n    ]\n",
    );
    check(
        "  api:\n    command: ./api\n    links:\n      [\"cache:6379\",\n       \"cache:6380\"]\n",
        "  api:\n    command: ./api\n    links:\n      [\"cache:6379\",\n       \"cache:6380\", \"db:5432\"]\n",
    );
    // A list with dashes.
    check(
        "  api:\n    links:\n      # hot\n      - cache:6379   # and fast\n    command: ./api\n",
        "  api:\n    links:\n      # hot\n      - cache:6379   # and fast\n      - \"db:5432\"\n    command: ./api\n",
    );
    check(
        "  api:\n    links:\n    - to: cache\n      ports: [6379]\n    command: ./api\n",
        "  api:\n    links:\n    - \"db:5432\"\n    - to: cache\n      ports: [6379]\n    command: ./api\n",
    );
    // Nothing behind the key.
    check(
        "  api:\n    links:\n    command: ./api\n",
        "  api:\n    links: [\"db:5432\"]\n    command: ./api\n",
    );
    // A program of several lines.
    check(
        "  api:\n    command:\n      - ./api\n      - --port\n    environment: { A: \"}\" }\n",
        "  api:\n    command:\n      - ./api\n      - --port\n    environment: { A: \"}\" }\n    links: [\"db:5432\"]\n",
    );
    check(
        "  api:\n    shell: true\n    command: |\n      ./api\n      # not a comment\n",
        "  api:\n    shell: true\n    command: |\n      ./api\n      # not a comment\n    links: [\"db:5432\"]\n",
    );
    check(
        "  api:\n    command:\n      - ./api\n",
        "  api:\n    links: [\"db:5432\"]\n    command:\n      - ./api\n",
    );
    // A file that does not end with a line's end.
    let text = format!("services:\n{DB}  api:\n    command: [./api, \"[\"]");
    let with = format!("{text}\n    links: [\"db:5432\"]");
    assert_eq!(amended(&text, &[link("api", "db", 5432)]), with);
}

#[test]
fn limits_and_programs_are_written_below_their_keys() {
    let memory = |mib| wish("api", Need::Memory(ByteSize::mib(mib)));
    let pids = |count| wish("api", Need::Pids(count));
    let program = |text: &str| wish("api", Need::Program(text.to_owned()));
    let text = "services:\n  api:\n    command: ./api\n    limits: { memory: 64M } # little\n";
    assert_eq!(
        amended(text, &[memory(128), pids(100)]),
        "services:\n  api:\n    command: ./api\n    limits: { memory: 128M, pids: 100 } # little\n"
    );
    let text = "services:\n  api:\n    command: ./api\n    limits:\n      memory: \"64M\"\n      pids: 10\n";
    assert_eq!(
        amended(text, &[memory(128), pids(20)]),
        "services:\n  api:\n    command: ./api\n    limits:\n      memory: \"128M\"\n      pids: 20\n"
    );
    let text = "services:\n  api: { command: ./api }\n";
    assert_eq!(
        amended(text, &[pids(5000)]),
        "services:\n  api: { command: ./api, limits: { pids: 5000 } }\n"
    );
    // It has no limit, or a higher one.
    assert_eq!(amended(text, &[memory(64)]), text);
    let text = "services:\n  api:\n    command: ./api\n    policy: { processes: { allow: [node] } }\n";
    assert_eq!(
        amended(text, &[program("/usr/bin/git"), program("node")]),
        "services:\n  api:\n    command: ./api\n    policy: { processes: { allow: [node, \"/usr/bin/git\"] } }\n"
    );
}

#[test]
fn several_rights_keep_the_order_of_the_file() {
    let text = "services:\n  web: { command: ./web, links: [\"api:80\"] }\n  api: { command: ./api }\n";
    let text = format!("{text}{DB}");
    let wishes =
        [link("api", "db", 5432), link("api", "cache", 6379), link("web", "api", 80), link("web", "db", 1)];
    assert_eq!(
        amended(&text, &wishes),
        format!(
            "services:\n  web: {{ command: ./web, links: [\"api:80\", \"db:1\"] }}\n  api: {{ command: ./api, links: \
             [\"db:5432\", \"cache:6379\"] }}\n{DB}"
        )
    );
}

#[test]
fn what_cannot_be_written_without_giving_more_is_left() {
    // Those of a default, and those that two services share, are not only this one's.
    for text in [
        format!("defaults: {{ links: [\"cache:1\"] }}\nservices:\n  api: {{ command: ./api }}\n{DB}"),
        format!(
            "services:\n  web: {{ command: ./web, links: &all [\"cache:1\"] }}\n  api: {{ command: ./api, links: *all }}\n{DB}"
        ),
    ] {
        let Amended { sources, files, left } = amend(&sources(&text), &[link("api", "db", 5432)]).unwrap();
        assert_eq!((left.len(), files.len()), (1, 0), "{text}");
        assert_eq!(sources.text.as_bytes(), text.as_bytes());
    }
    let text = format!("services:\n  api: {{ command: ./api }}\n{DB}");
    let left = |wish: Wish| amend(&sources(&text), &[wish]).unwrap().left.remove(0).1;
    assert_eq!(left(link("nobody", "db", 1)), "the file has no such service");
    assert_eq!(left(link("api", "nobody", 1)), "there is no service `nobody`");
    assert!(left(wish("api", Need::Program("git".to_owned()))).contains("list of programs"));
    assert!(amend(&self::sources("services: {"), &[]).is_none());
}

#[test]
fn an_included_file_is_changed_where_its_service_is() {
    let mut sources = sources("include: [db/workspace.yaml]\nservices:\n  api: { command: ./api }\n");
    let db = "services:\n  # data\n  db: { command: ./db }\n";
    sources.files = BTreeMap::from([("/p/db/workspace.yaml".into(), Some(db.to_owned()))]);
    let amended = amend(&sources, &[link("db", "api", 80)]).unwrap();
    let [(file, before, after)] = amended.files.as_slice() else { panic!("{:?}", amended.files) };
    assert_eq!((file.to_str(), before.as_str()), (Some("/p/db/workspace.yaml"), db));
    assert_eq!(after, "services:\n  # data\n  db: { command: ./db, links: [\"api:80\"] }\n");
}

#[test]
fn a_patch_shows_what_is_different_with_its_surroundings() {
    let before: String = (1..=20).map(|n| format!("{n}\n")).collect();
    let after = before.replace("5\n6\n", "5\nfive\n6\n").replace("\n18\n", "\neighteen\n");
    assert_eq!(
        patch("w.yaml", &before, &after),
        "--- a/w.yaml\n+++ b/w.yaml\n@@ -3,6 +3,7 @@\n 3\n 4\n 5\n+five\n 6\n 7\n 8\n@@ -15,6 +16,6 @@\n 15\n 16\n 17\n-18\n\
         +eighteen\n 19\n 20\n"
    );
    assert_eq!(patch("w", &before, &before), "");
    assert_eq!(
        patch("w", "a", "b\n"),
        "--- a/w\n+++ b/w\n@@ -1,1 +1,1 @@\n-a\n\\ No newline at end of file\n+b\n"
    );
}
