//! A service's life: listen, answer, stop on SIGTERM.

use std::future::Future;
use std::io::{self, Write};
use std::process::ExitCode;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::Problem;

/// Where every service of the shop listens: each has an address of its own, so all can have the same
/// port.
const LISTEN: &str = "0.0.0.0:8080";

/// Serves what `routes` makes until SIGTERM or SIGINT, with `/healthz` added.
///
/// One thread, and a few more while the database is asked: a service of the shop is small.
pub fn run<F>(name: &str, routes: F) -> ExitCode
where
    F: Future<Output = Result<Router, Box<dyn std::error::Error>>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build();
    match runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(serve(name, routes))) {
        Ok(()) => {
            log(&format!("{name} stopped"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            log(&format!("{name}: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn serve<F>(name: &str, routes: F) -> Result<(), Box<dyn std::error::Error>>
where
    F: Future<Output = Result<Router, Box<dyn std::error::Error>>>,
{
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let app = routes
        .await?
        .route("/healthz", get(async || "ok\n"))
        .fallback(async || Problem::not_found("there is nothing here"));
    let listen = variable("LISTEN", LISTEN);
    let listener =
        TcpListener::bind(&listen).await.map_err(|e| format!("could not listen on {listen}: {e}"))?;
    log(&format!("{name} listens on {}", listener.local_addr()?));
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await?;
    Ok(())
}

/// The environment variable `name`, or `default` where it is not set.
pub fn variable(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// Writes a line to standard error. Where that is gone there is nobody to tell.
pub fn log(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
