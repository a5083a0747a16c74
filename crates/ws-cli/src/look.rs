//! The commands that only look: `ps`, `logs`, `events`, `port`.

use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use ws_client::{Client, ClientError, EventQuery, LogQuery, WatchQuery};
use ws_model::wire::{LogLine, ServiceStatus};
use ws_model::{ServiceName, exit};

use crate::args::Format;
use crate::error::{Failure, unless_ended};
use crate::render::log::Painter;
use crate::render::{event, ps, watch};
use crate::units::{Moment, now};
use crate::{Context, instances, live, names, runtime};

/// `ws ps`
///
/// # Errors
/// When a service does not exist or the supervisor does not answer.
pub fn ps(context: &Context, typed: &[String], wide: bool) -> Result<u8, Failure> {
    let ui = &context.ui;
    let rows = runtime()?.block_on(async {
        match instances::connect(context).await? {
            None => Ok(None),
            Some((client, place)) => match unless_ended(client.services().await)? {
                Some(rows) => Ok(Some(rows)),
                None => instances::gone(context, &place).await.map(|()| None),
            },
        }
    })?;
    let Some(mut rows) = rows else {
        match ui.format {
            Format::Json => ui.json::<[ServiceStatus]>(&[])?,
            Format::Text => ui.say("nothing runs here; `ws up` starts it"),
        }
        return Ok(exit::OK);
    };
    let wanted = names::services(typed, &rows)?;
    rows.retain(|row| wanted.is_empty() || wanted.contains(&row.name));
    match ui.format {
        Format::Json => ui.json(&rows)?,
        Format::Text => {
            let width = ui.out_width().filter(|_| !wide);
            ui.data(&ps::services(&rows, now(), &ps::Shape { width, wide }))?;
            for line in ps::missing(&rows) {
                ui.say(&line);
            }
        }
    }
    Ok(exit::OK)
}

/// `ws port`
///
/// # Errors
/// When nothing runs, or the port is not published.
pub fn port(context: &Context, typed: &str, port: u16) -> Result<u8, Failure> {
    let rows = runtime()?.block_on(async {
        let (client, _) = instances::connected(context).await?;
        services(&client).await
    })?;
    // Of a service with replicas: those of all of them.
    let units = names::services(&[typed.to_owned()], &rows)?;
    let published: Vec<_> =
        rows.iter().filter(|row| units.contains(&row.name)).flat_map(|row| &row.ports).collect();
    let places: Vec<_> = published.iter().filter(|published| published.port == port).collect();
    if places.is_empty() {
        let failure = Failure::failed(format!("port {port} of `{typed}` is not published"));
        let known: Vec<String> = published.iter().map(|published| published.port.to_string()).collect();
        return Err(if known.is_empty() {
            failure.hint(format!("publish it: `ports: [\"{port}:{port}\"]` in `{typed}`"))
        } else {
            failure.hint(format!("published are {}", crate::render::list(&known)))
        });
    }
    match context.ui.format {
        Format::Json => context.ui.json(&places)?,
        Format::Text => {
            for place in places {
                context.ui.line(&ps::endpoint(place))?;
            }
        }
    }
    Ok(exit::OK)
}

/// What `ws logs` was asked for.
#[derive(Debug, Clone, Copy)]
pub struct LogsWanted<'a> {
    /// Of which services; all without any.
    pub services: &'a [String],
    /// Whether to go on with new lines.
    pub follow: bool,
    /// Only so many of the last lines.
    pub tail: Option<usize>,
    /// Only lines since then.
    pub since: Option<Moment>,
    /// Only lines until then.
    pub until: Option<Moment>,
    /// Only lines in which this regular expression matches.
    pub grep: Option<&'a str>,
    /// Only those in which it does not.
    pub invert: bool,
    /// How lines look.
    pub style: LineStyle,
}

/// How `ws logs` shows lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LineStyle {
    /// Whether the time stands before each line.
    pub timestamps: bool,
    /// Whether the name of the service is left out.
    pub no_prefix: bool,
    /// Whether colours are left out, those of the services too.
    pub no_colour: bool,
}

/// `ws logs`
///
/// # Errors
/// When there are none, or a service does not exist.
pub fn logs(context: &Context, wanted: &LogsWanted<'_>) -> Result<u8, Failure> {
    let mut query = LogQuery {
        services: Vec::new(),
        tail: wanted.tail.map(|tail| u64::try_from(tail).unwrap_or(u64::MAX)),
        since: wanted.since.map(|since| since.resolve(now())),
        after: None,
        until: wanted.until.map(|until| until.resolve(now())),
        grep: wanted.grep.map(ToOwned::to_owned),
        invert: wanted.invert,
        follow: wanted.follow,
    };
    runtime()?.block_on(async {
        let Some((client, _)) = instances::connect(context).await? else {
            return logs_on_disk(context, wanted, query);
        };
        let rows = services(&client).await?;
        query.services = names::services(wanted.services, &rows)?;
        let known: Vec<ServiceName> = rows.into_iter().map(|row| row.name).collect();
        let painter =
            painter(context, wanted, if query.services.is_empty() { &known } else { &query.services });
        let lines = client.logs(&query).await?;
        let print = |line: LogLine| print_log(context, &painter, &line);
        stream(lines, print).await
    })
}

fn logs_on_disk(context: &Context, wanted: &LogsWanted<'_>, mut query: LogQuery) -> Result<u8, Failure> {
    let Some(place) = instances::locate(&context.settings)? else {
        return Err(instances::not_running(context));
    };
    let known = instances::services_with_logs(&place)?;
    if known.is_empty() {
        return Err(instances::not_running(context));
    }
    query.services = names::on_disk(wanted.services, &known)?;
    let painter = painter(context, wanted, if query.services.is_empty() { &known } else { &query.services });
    for line in instances::read_logs(&place, &query)? {
        print_log(context, &painter, &line)?;
    }
    if wanted.follow {
        context.ui.note("nothing runs here: these are the logs of the last run");
    }
    Ok(exit::OK)
}

fn painter(context: &Context, wanted: &LogsWanted<'_>, services: &[ServiceName]) -> Painter {
    let LineStyle { timestamps, no_prefix, no_colour } = wanted.style;
    let mut look = context.ui.look(timestamps);
    look.prefix = !no_prefix;
    look.plain = no_colour;
    look.colours &= !no_colour;
    Painter::new(services, look)
}

fn print_log(context: &Context, painter: &Painter, line: &LogLine) -> Result<(), Failure> {
    match context.ui.format {
        Format::Json => context.ui.json_line(line),
        Format::Text => context.ui.raw(&format!("{}\n", painter.line(line))),
    }
}

/// `ws watch`
///
/// # Errors
/// When nothing runs.
pub fn watch(context: &Context, paths: &[PathBuf]) -> Result<u8, Failure> {
    let paths = paths.iter().map(|path| real(&context.settings.start.join(path))).collect();
    let report = runtime()?.block_on(async {
        let (client, _) = instances::connected(context).await?;
        Ok::<_, Failure>(client.watch(&WatchQuery { paths }).await?)
    })?;
    let ui = &context.ui;
    match ui.format {
        Format::Json => ui.json(&report)?,
        Format::Text if !report.paths.is_empty() => ui.data(&watch::paths(&report))?,
        Format::Text if report.units.is_empty() => {
            ui.say("no files are watched for any service: none has `watch`, `build` or `inputs`, or `ws up --no-watch` began it");
        }
        Format::Text => ui.data(&watch::units(&report, ui.out_width()))?,
    }
    Ok(exit::OK)
}

/// A path as the supervisor knows it, without symbolic links on the way to it; it may not exist.
fn real(path: &Path) -> String {
    let found = path.ancestors().skip(1).find_map(|above| {
        let rest = path.strip_prefix(above).ok()?;
        Some(above.canonicalize().ok()?.join(rest))
    });
    found.as_deref().unwrap_or(path).display().to_string()
}

/// `ws events`
///
/// # Errors
/// When nothing runs, or a service does not exist.
pub fn events(context: &Context, typed: &[String], follow: bool, since: Option<u64>) -> Result<u8, Failure> {
    runtime()?.block_on(async {
        let (client, _) = instances::connected(context).await?;
        let known = services(&client).await?;
        let wanted = names::services(typed, &known)?;
        let events = client.events(EventQuery { since: since.unwrap_or(0), follow }).await?;
        let print = |event: ws_model::Event| {
            if !wanted.is_empty() && event.service.as_ref().is_none_or(|service| !wanted.contains(service)) {
                return Ok(());
            }
            match context.ui.format {
                Format::Json => context.ui.json_line(&event),
                Format::Text => context.ui.line(&event::line(&event)),
            }
        };
        stream(events, print).await
    })
}

/// Prints a stream until it ends or somebody interrupts.
pub(crate) async fn stream<T>(
    mut items: impl futures_util::Stream<Item = Result<T, ClientError>> + Unpin,
    mut print: impl FnMut(T) -> Result<(), Failure>,
) -> Result<u8, Failure> {
    let mut signals = live::Signals::listen()?;
    loop {
        tokio::select! {
            biased;
            _ = signals.next() => return Ok(exit::INTERRUPTED),
            item = items.next() => match item {
                Some(Ok(item)) => print(item)?,
                // A line that only a later version knows.
                Some(Err(ClientError::Protocol { .. })) => {}
                // The supervisor ended: so does what it tells.
                Some(Err(ClientError::Lost { .. })) | None => return Ok(exit::OK),
                Some(Err(error)) => return Err(error.into()),
            }
        }
    }
}

async fn services(client: &Client) -> Result<Vec<ServiceStatus>, Failure> {
    Ok(client.services().await?)
}
