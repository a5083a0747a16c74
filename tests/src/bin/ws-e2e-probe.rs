//! Prints what this machine can do for the user who runs it, as JSON: `[[name, what, yes, text], …]`.
//!
//! A process of its own, since tests have threads.

use std::io::Write;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let rows: Vec<(String, String, bool, String)> = ws_sys::probe::capabilities(&directory)?
        .0
        .into_iter()
        .map(|ability| {
            let yes = ability.found.is_ok();
            let text = match ability.found {
                Ok(text) | Err(text) => text,
            };
            (ability.name, ability.what, yes, text)
        })
        .collect();
    let mut stdout = std::io::stdout();
    serde_json::to_writer(&mut stdout, &rows)?;
    stdout.write_all(b"\n")?;
    Ok(())
}
