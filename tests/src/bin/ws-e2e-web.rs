//! A web server for tests of hot reload: `ws-e2e-web PORT FILE [MS]` answers with the first line of a file, and
//! begins to serve that many milliseconds after its start.

use std::io;
use std::time::Duration;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, file, rest @ ..] = arguments.as_slice() else {
        return Err(io::Error::other("use: ws-e2e-web PORT FILE [MS]"));
    };
    let wrong = |error: &dyn std::fmt::Display| io::Error::other(format!("a number is wrong: {error}"));
    let port = port.parse().map_err(|error: std::num::ParseIntError| wrong(&error))?;
    let ms = rest.first().map_or(Ok(0), |ms| ms.parse()).map_err(|error| wrong(&error))?;
    let text = std::fs::read_to_string(file)?;
    let first = text.lines().next().unwrap_or_default();
    ws_e2e::web::serve(port, first, Duration::from_millis(ms))
}
