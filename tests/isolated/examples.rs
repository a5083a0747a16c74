//! The examples, as a reader finds them: up, used by their own `check.sh`, and down with nothing left.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use ws_e2e::{Mode, Stack, both_ways, requires};

both_ways! {
    the_shop_sells
    the_notes_are_kept
}

/// The repository.
fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is a directory of the repository").to_owned()
}

/// Copies a file or a directory into the project, for its user.
fn copy(stack: &Stack, from: &Path, to: &str) {
    if from.is_dir() {
        stack.directory(to);
        for entry in fs::read_dir(from).expect("listing a directory of an example") {
            let entry = entry.expect("reading an entry");
            let name = entry.file_name().into_string().expect("the examples' names are text");
            copy(stack, &entry.path(), &format!("{to}/{name}"));
        }
        return;
    }
    let place = stack.project.join(to);
    fs::copy(from, &place).unwrap_or_else(|error| panic!("copying {}: {error}", from.display()));
    chown(&place, Some(stack.ids.0), Some(stack.ids.1)).expect("giving it away");
}

/// The project of an example with these entries of it, and the variables that its file asks for.
fn example(mode: Mode, name: &str, entries: &[&str], variables: &str) -> Stack {
    let directory = repository().join("examples").join(name);
    let text = fs::read_to_string(directory.join("workspace.yaml")).expect("reading the example's file");
    // Under the name by which the fixture finds what is left of it.
    let (before, after) = text.split_once("\nname: ").expect("the example has a name");
    let (_, rest) = after.split_once('\n').expect("and something after it");
    let stack = Stack::new(mode, "services: { x: { command: 'true' } }");
    stack.write("workspace.yaml", &format!("{before}\nname: {}\n{rest}", stack.token));
    stack.write(".env", variables);
    for entry in entries {
        copy(&stack, &directory.join(entry), entry);
    }
    stack
}

/// Runs the example's own check against its published port.
fn check(stack: &Stack, name: &str, service: &str, port: &str) {
    if let Err(problem) = try_check(stack, name, service, port) {
        panic!("{problem}\n{}", stack.story());
    }
}

/// The same; gives what is wrong.
pub(crate) fn try_check(stack: &Stack, name: &str, service: &str, port: &str) -> Result<(), String> {
    let address = stack.ws(&["port", service, port]).ok();
    let script = repository().join("examples").join(name).join("check.sh");
    let output = Command::new("/bin/sh")
        .arg(script)
        .arg(format!("http://{}", address.trim()))
        .output()
        .expect("running the example's check");
    let text = String::from_utf8_lossy(&output.stdout);
    let problem = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{text}{problem}")) }
}

/// The shop, with the programs that are built already.
pub(crate) fn shop(mode: Mode) -> Stack {
    let stack = example(mode, "shop", &["migrations", "secrets"], "SHOP_BIN=programs\nSHOP_PORT=0\n");
    stack.directory("programs");
    let built = ws_e2e::stack::helper("ws-e2e-ws").with_file_name("");
    for program in ["gateway", "catalog", "orders", "payments", "store", "migrate"] {
        let program = format!("shop-{program}");
        let from = built.join(&program);
        assert!(from.is_file(), "{} is not built: `cargo build --workspace` first", from.display());
        copy(&stack, &from, &format!("programs/{program}"));
        let place = stack.project.join("programs").join(&program);
        fs::set_permissions(place, fs::Permissions::from_mode(0o755)).expect("making it a program");
    }
    stack
}

fn the_shop_sells(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = shop(mode);
    // From what is built here: the compiler lies in a home where not everybody looks.
    let up = |stack: &mut Stack| {
        stack.watch();
        let ran = stack.ws(&["up", "-d", "--wait", "--no-build", "--wait-timeout", "60s"]);
        assert_eq!(ran.code, 0, "{ran}\n{}", stack.story());
    };
    up(&mut stack);
    let rows = stack.ps();
    assert_eq!(rows.len(), 6, "{rows:?}");
    assert!(rows.iter().all(|row| row.ready), "{rows:?}");
    check(&stack, "shop", "gateway", "8080");
    stack.down();
    // What was sold stays sold: the volume is kept.
    up(&mut stack);
    check(&stack, "shop", "gateway", "8080");
    stack.down();
}

/// The notes, with the newest PostgreSQL that is here.
pub(crate) fn notes(mode: Mode) -> Stack {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .expect("it was required")
        .map(|entry| entry.expect("reading an entry").path().join("bin"))
        .collect();
    versions.sort();
    let newest = versions.pop().expect("it was required");
    let variables = format!("PG_BIN={}\nNOTES_PORT=0\n", newest.display());
    let entries = ["api", "initdb.sh", "migrate.sh", "migrations", "secrets"];
    example(mode, "postgres-redis", &entries, &variables)
}

fn the_notes_are_kept(mode: Mode) {
    requires!(mode, userns, netns, nft, postgres, redis);
    let mut stack = notes(mode);
    stack.up();
    assert!(stack.ps().iter().all(|row| row.ready), "{:?}", stack.ps());
    check(&stack, "postgres-redis", "api", "8000");
    let add = "import urllib.request as u; u.urlopen(u.Request('http://127.0.0.1:8000/notes', b'{\"text\": \"kept\"}', {'content-type': 'application/json'}))";
    assert_eq!(stack.exec("api", &["/usr/bin/python3", "-c", add]).ok(), "");
    stack.down();
    stack.up();
    let read = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/notes').read().decode())";
    let notes = stack.exec("api", &["/usr/bin/python3", "-c", read]).ok();
    assert!(notes.contains("kept"), "{notes}");
    stack.down();
}
