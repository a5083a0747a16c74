//! The supervisor's own process: the other end of [`crate::launch`].
//!
//! One thread until the spawner was forked: nothing before that may start one. What was checked by the
//! command that started us is checked again here, from the same text: this process trusts only that.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncBufReadExt;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use ws_core::host::Host;
use ws_core::plan::{self, Plan};
use ws_linux::HostConfig;
use ws_model::{Problem, exit};
use ws_spec::{Diagnostic, Parsed, SpanMap, Style};
use ws_supervisor::state_dir::{self, Acquired, InstanceLock, Record};
use ws_supervisor::{Config, Lifeline, LogLimits, LogStore, Supervisor};

use crate::error::Failure;
use crate::instances::cleared_text;
use crate::launch::{Order, RELEASE, Report};
use crate::machine::{self, Seed};
use crate::replan::{self, Replanner};
use crate::units::now;
use crate::{addresses, own_dirs, watching};

/// Its work is to wait: two threads let a slow request not delay the loop.
const THREADS: usize = 2;

/// How long tasks may go on that nobody waits for, at the very end.
const LINGER: Duration = Duration::from_millis(200);

/// Reads the order, starts the host, supervises until the stack is down.
pub fn main() -> ExitCode {
    // A session of its own: what is typed at the client's terminal is not for us. It fails only for the
    // leader of a group, which has what it wants.
    let _ = nix::unistd::setsid();
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!(%failure, "could not supervise");
            ExitCode::from(failure.code)
        }
    }
}

fn start() -> Result<(), Failure> {
    // Whatever else the client had open would stay open as long as the stack is up.
    let closed = ws_sys::process::close_from(3);
    let seed = machine::seed();
    let stdin = io::stdin().as_fd().try_clone_to_owned();
    let prepared =
        closed.and(stdin).map_err(|error| Failure::failed("could not set descriptors up").because(&error));
    let guarded = prepared.and_then(|stdin| {
        let (order, guard) = read_order(stdin)?;
        log_to_stderr();
        Ok((seed?, order, guard))
    });
    let begun = guarded.and_then(|(seed, order, guard)| match begin(&order)? {
        Some(begun) => Ok(Some((seed, order, guard, begun))),
        None => Ok(None),
    });
    match begun {
        Ok(Some((seed, order, guard, begun))) => supervise(seed, order, guard, begun),
        Ok(None) => {
            tell(&Report::Taken);
            Ok(())
        }
        Err(failure) => {
            tell(&Report::of_failure(&failure));
            Err(failure)
        }
    }
}

fn read_order(stdin: OwnedFd) -> Result<(Order, OwnedFd), Failure> {
    let wrong = |error: &(dyn std::error::Error + 'static)| {
        Failure::usage("the supervisor is started by `ws up`, which tells it what to do").because(error)
    };
    // The client sends nothing after the line before it has our report, so nothing is lost in the buffer.
    let mut reader = BufReader::new(File::from(stdin));
    let mut line = String::new();
    reader.read_line(&mut line).map_err(|error| wrong(&error))?;
    let order = serde_json::from_str(&line).map_err(|error| wrong(&error))?;
    Ok((order, reader.into_inner().into()))
}

fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("WS_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    // It fails only when there is one already.
    let _ =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(io::stderr).try_init();
}

/// The client may be gone: then nobody listens, and the guard says the same.
fn tell(report: &Report) {
    let mut line = serde_json::to_vec(report).unwrap_or_default();
    line.push(b'\n');
    let mut out = io::stdout().lock();
    let _ = out.write_all(&line).and_then(|()| out.flush());
}

/// What is known before the host is made.
struct Begun {
    plan: Plan,
    plan_files: Vec<PathBuf>,
    spans: SpanMap,
    lock: InstanceLock,
    notices: Vec<String>,
}

/// Plans and takes the instance; nothing when a supervisor of it runs.
fn begin(order: &Order) -> Result<Option<Begun>, Failure> {
    let (plan, plan_files, spans) = plan(order)?;
    let (lock, crashed) = match state_dir::acquire(&order.runtime, &order.instance)? {
        Acquired::Locked { lock, crashed } => (lock, crashed),
        Acquired::Busy(_) => return Ok(None),
    };
    let mut notices = order.notices.clone();
    if let Some(record) = &crashed {
        notices.push(cleared_text(record, &machine::clear_leftovers(&order.instance)));
    }
    // Before anything is made: whoever finds it without its lock knows that something may be left. Without
    // one nothing is cleared, because it may be another's: an instance of this name that keeps its lock
    // elsewhere (`WS_RUNTIME_DIR`).
    lock.write_record(&Record {
        instance: order.instance.clone(),
        root: plan.root.display().to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        boot_id: state_dir::boot_id(),
        started_at: now(),
        attached: order.attached,
    })?;
    if let Err(error) = addresses::write(&order.state, &plan) {
        notices.push(format!("the addresses of services could not be kept for the next run: {error}"));
    }
    Ok(Some(Begun { plan, plan_files, spans, lock, notices }))
}

fn plan(order: &Order) -> Result<(Plan, Vec<PathBuf>, SpanMap), Failure> {
    let Parsed { workspace, spans, diagnostics } = ws_spec::parse(&order.sources);
    let failure = |diagnostics: &[Diagnostic]| {
        let mut failure = Failure::usage("the workspace was changed in the moment of its start");
        failure.diagnostics = render(order, diagnostics);
        failure
    };
    let Some(workspace) = workspace else { return Err(failure(&diagnostics)) };
    let options = plan::Options {
        previous: addresses::read(&order.state),
        accept: order.accept,
        no_build: order.no_build,
        no_watch: order.no_watch,
    };
    match plan::resolve(&workspace, &machine::facts(&workspace), &options) {
        Ok(plan) => {
            own_dirs::check(&plan, [&order.runtime, &order.state])?;
            let plan_files = replan::watched_files(order.no_watch, &order.sources, &workspace);
            Ok((plan, plan_files, spans))
        }
        Err(problems) => {
            let diagnostics: Vec<Diagnostic> =
                problems.iter().map(|p| ws_spec::diagnose(&spans, p)).collect();
            Err(failure(&diagnostics))
        }
    }
}

fn render(order: &Order, diagnostics: &[Diagnostic]) -> String {
    ws_spec::render(diagnostics, &order.sources, Style { color: order.colour, width: order.width })
}

fn supervise(seed: Seed, order: Order, guard: OwnedFd, begun: Begun) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("ws")
        .enable_all()
        .build()
        .map_err(|error| Failure::failed("could not start the asynchronous runtime").because(&error));
    let ended = runtime.map(|runtime| {
        let ended = runtime.block_on(run(seed, order, guard, begun));
        runtime.shutdown_timeout(LINGER);
        ended
    });
    // Until it listens, nobody else has told the client.
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(failure)) | Err(failure) => {
            tell(&Report::of_failure(&failure));
            Err(failure)
        }
    }
}

async fn run(seed: Seed, order: Order, guard: OwnedFd, begun: Begun) -> Result<(), Failure> {
    let Begun { plan, plan_files, spans, lock, notices } = begun;
    let (inputs, arrived) = mpsc::unbounded_channel();
    let inbox = Arc::new(move |input| {
        // It fails when the loop has ended: then nothing is to be done about the input.
        let _ = inputs.send(input);
    });
    let prepared = async {
        let logs = LogStore::open(&order.state, LogLimits::default()).map_err(|error| {
            Failure::failed(format!("could not open the logs in `{}`", order.state.display())).because(&error)
        })?;
        let logs = Arc::new(logs);
        let lifeline = lifeline(guard)?;
        let config = HostConfig {
            instance: order.instance.clone(),
            state_dir: order.state.clone(),
            secrets: order.secrets.clone(),
        };
        let mut host = seed.host(plan.clone(), config, inbox, Arc::clone(&logs) as _).await?;
        if let Err(problems) = plan::check_standing(&plan, &host.standing()) {
            let (tell, done) = oneshot::channel();
            host.tear_down(Box::new(move |errors| drop(tell.send(errors))));
            for error in done.await.unwrap_or_default() {
                tracing::warn!(%error, "tearing down after a refused start");
            }
            return Err(below(&order, &spans, &problems));
        }
        Ok((host, logs, lifeline))
    };
    let (host, logs, lifeline) = match prepared.await {
        Ok(prepared) => prepared,
        Err(failure) => {
            // The failure is what there is to tell; what stays is cleared by the next command.
            let _ = lock.remove();
            return Err(failure);
        }
    };
    let volumes = order.state.clone();
    let planner = Replanner::new(&order);
    let records = order.state.clone();
    let told = notices.clone();
    let config = Config {
        instance: order.instance,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        lock,
        state_dir: order.state,
        peer_check: Arc::new(machine::check_peer),
        attached: order.attached,
        lifeline: Some(lifeline),
        remove_volumes: Box::new(move || match machine::remove_volumes(&volumes) {
            Ok(_) => Vec::new(),
            Err(failure) => vec![failure.to_string()],
        }),
        on_listening: Box::new(move || {
            tell(&Report::Started { notices: told });
            let_go_of_the_client();
        }),
        notices,
        planner: Some(Box::new(planner)),
        files: Some(Box::new(move |sink| watching::watcher(records, sink))),
        explain_watch: Some(Arc::new(watching::Explain)),
        plan_files,
        secrets: order.secrets,
        apply_widening: order.yes,
        signals: true,
    };
    let result = Supervisor::run(config, plan, Box::new(host), arrived, logs)
        .await
        .map_err(|error| Failure::failed("the supervisor could not begin").because(&error))?;
    for error in result.errors {
        tracing::warn!(%error, "left behind");
    }
    Ok(())
}

/// What is enforced is less than what is required.
fn below(order: &Order, spans: &SpanMap, problems: &[Problem]) -> Failure {
    let mut failure = Failure::new(exit::MACHINE, "this machine cannot enforce what the workspace asks for");
    // All services lack the same most of the time: one is shown.
    let first: Vec<Diagnostic> = problems.iter().take(1).map(|p| ws_spec::diagnose(spans, p)).collect();
    failure.diagnostics = render(order, &first);
    match problems.len().saturating_sub(1) {
        0 => failure,
        1 => failure.hint("the same holds for one more service"),
        more => failure.hint(format!("the same holds for {more} more services")),
    }
}

/// Resolves when the command that started us is gone without having released us.
fn lifeline(guard: OwnedFd) -> Result<Lifeline, Failure> {
    let guard = pipe::Receiver::from_owned_fd(guard).map_err(|error| {
        Failure::failed("could not watch the command that started the supervisor").because(&error)
    })?;
    Ok(Box::pin(async move {
        let mut lines = tokio::io::BufReader::new(guard).lines();
        if let Ok(Some(line)) = lines.next_line().await
            && line == RELEASE
        {
            std::future::pending::<()>().await;
        }
    }))
}

/// The pipes to the client are replaced: whoever waits for their end (a shell's `$(ws up -d)`) goes on.
fn let_go_of_the_client() {
    let replaced = File::options().read(true).write(true).open("/dev/null").and_then(|null| {
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        Ok(())
    });
    if let Err(error) = replaced {
        tracing::warn!(%error, "the pipes to the client stay open");
    }
}
