//! How editors save: exactly one batch each, with the file's own name, and none when nothing is new in it.

use std::fs;
use std::os::unix::fs::symlink;

use crate::support::Project;

/// Saves `main.rs` in some way, three times: with something new, with the same again, with something new again.
#[track_caller]
fn check(save: impl Fn(&Project, &str)) {
    let project = Project::with(&[("src/main.rs", "zero"), ("src/other.rs", "")]);
    save(&project, "one");
    project.only("api restart: src/main.rs");
    save(&project, "one");
    project.nothing();
    save(&project, "two");
    project.only("api restart: src/main.rs");
}

#[test]
fn in_place() {
    check(|project, text| project.write("src/main.rs", text));
}

#[test]
fn vim_writes_in_place_after_a_copy() {
    check(|project, text| {
        // `backupcopy=yes`: it tries the directory, copies, truncates and writes, and takes the copy away.
        project.write("src/.main.rs.swp", "swap");
        project.write("src/.main.rs.swx", "");
        project.sh("rm src/.main.rs.swx; touch src/4913; rm src/4913; cp -p src/main.rs src/main.rs~");
        project.write("src/main.rs", text);
        project.sh("rm src/main.rs~ src/.main.rs.swp");
    });
}

#[test]
fn vim_renames_and_writes_anew() {
    check(|project, text| {
        // `backupcopy=no`: the old one becomes the backup, and another is written under its name.
        project.write("src/.main.rs.swp", "swap");
        project.sh("touch src/4913; rm src/4913; mv src/main.rs src/main.rs~");
        project.write("src/main.rs", text);
        project.sh("rm src/main.rs~ src/.main.rs.swp");
    });
}

#[test]
fn vscode_truncates_and_writes() {
    check(|project, text| {
        let file = fs::File::options().write(true).truncate(true).open(project.path("src/main.rs")).unwrap();
        std::io::Write::write_all(&mut &file, text.as_bytes()).unwrap();
        file.sync_all().unwrap();
    });
}

#[test]
fn an_atomic_save_renames_over() {
    check(|project, text| {
        project.write("src/main.rs.1f2e.tmp", text);
        fs::rename(project.path("src/main.rs.1f2e.tmp"), project.path("src/main.rs")).unwrap();
    });
}

#[test]
fn an_atomic_save_under_a_name_that_nobody_knows() {
    check(|project, text| {
        project.write("src/.x-1f2e", text);
        fs::rename(project.path("src/.x-1f2e"), project.path("src/main.rs")).unwrap();
    });
}

#[test]
fn jetbrains_renames_twice() {
    check(|project, text| {
        project.write("src/main.rs___jb_tmp___", text);
        project.sh(
            "mv src/main.rs src/main.rs___jb_old___; mv src/main.rs___jb_tmp___ src/main.rs; rm src/main.rs___jb_old___",
        );
    });
}

#[test]
fn emacs_has_a_lock_and_a_backup() {
    check(|project, text| {
        symlink("user@host.1234:1", project.path("src/.#main.rs")).unwrap();
        project.write("src/#main.rs#", text);
        project.sh("mv src/main.rs src/main.rs~");
        project.write("src/main.rs", text);
        project.sh("rm 'src/#main.rs#' 'src/.#main.rs' src/main.rs~");
    });
}

#[test]
fn nano_writes_in_place_and_has_a_lock() {
    check(|project, text| {
        project.write("src/.main.rs.swp", "lock");
        project.write("src/main.rs", text);
        fs::remove_file(project.path("src/.main.rs.swp")).unwrap();
    });
}

#[test]
fn gnome_editors_write_beside_and_rename() {
    check(|project, text| {
        project.write("src/.goutputstream-ABCDEF", text);
        fs::rename(project.path("src/.goutputstream-ABCDEF"), project.path("src/main.rs")).unwrap();
    });
}

#[test]
fn sed_edits_in_place() {
    let project = Project::with(&[("src/main.rs", "zero")]);
    project.sh("sed -i s/zero/one/ src/main.rs");
    project.only("api restart: src/main.rs");
    project.sh("sed -i s/zero/one/ src/main.rs");
    project.nothing();
}

#[test]
fn a_file_that_is_named_survives_atomic_saves() {
    use crate::support::{plan, rule, sources, watch};
    use ws_model::WatchAction;
    let mut project = Project::new();
    project.write("conf/app.toml", "zero");
    project.write("conf/other.toml", "zero");
    let mut plan = plan(&project.root);
    watch(
        &mut plan,
        "api",
        vec![rule(sources(&project.root, &["conf/app.toml", "sign-0"], &[]), WatchAction::Signal(1))],
    );
    project.follow(plan);
    for text in ["one", "two", "three"] {
        project.write("conf/x", text);
        project.write("conf/other.toml", text);
        fs::rename(project.path("conf/x"), project.path("conf/app.toml")).unwrap();
        assert_eq!(project.next(), "api signal 1: conf/app.toml");
    }
    project.write("sign-0", "");
    assert_eq!(project.next(), "api signal 1: sign-0");
}
