//! Why services are as they are: `ws why`, and what is said when they did not become what was wanted.

use std::collections::VecDeque;

use futures_util::StreamExt;
use ws_client::{Client, LogQuery};
use ws_model::wire::{LogLine, ServiceStatus, Why, WhyLink};
use ws_model::{Phase, Reason, ServiceName, Timestamp, exit};

use crate::args::Format;
use crate::error::Failure;
use crate::render::report::{self, Case, LAST_LINES};
use crate::view::{Row, View};
use crate::{Context, access, instances, names, runtime};

/// `ws why`
///
/// # Errors
/// When nothing runs, or a service does not exist.
pub fn why(context: &Context, typed: &[String]) -> Result<u8, Failure> {
    let ui = &context.ui;
    let (rows, chains) = runtime()?.block_on(async {
        let (client, _) = instances::connected(context).await?;
        let rows = client.services().await?;
        let mut chains = Vec::new();
        for name in names::services(typed, &rows)? {
            chains.push(client.why(&name).await?);
        }
        Ok::<_, Failure>((rows, chains))
    })?;
    match ui.format {
        // One service, one document; of several a list.
        Format::Json => match chains.as_slice() {
            [one] => ui.json(one)?,
            several => ui.json::<[Why]>(several)?,
        },
        Format::Text => {
            for why in &chains {
                let row = why.chain.first().and_then(|link| rows.iter().find(|row| row.name == link.service));
                ui.data(&report::tree(&why.chain, row))?;
            }
            for name in typed {
                ui.data(&access::who(context, name))?;
            }
        }
    }
    Ok(exit::OK)
}

/// Says why services are not what was wanted: the cause down to its root, the probe's last error, the last
/// lines since `since`. What has failed at the root of it is told as well, named or not.
pub async fn report(
    context: &Context,
    client: &Client,
    services: &[ServiceName],
    view: &View,
    since: Option<Timestamp>,
) {
    let rows: Vec<ServiceStatus> = client.services().await.unwrap_or_default();
    let mut told: Vec<ServiceName> = Vec::new();
    let mut to_tell: VecDeque<ServiceName> = services.iter().cloned().collect();
    while let Some(service) = to_tell.pop_front() {
        let service = &service;
        let Some(row) = view.services.get(service).filter(|_| !told.contains(service)) else { continue };
        told.push(service.clone());
        let chain = match client.why(service).await {
            Ok(why) => why.chain,
            // An older supervisor, or one that ends: what is known here.
            Err(_) => {
                let (phase, cause) = (row.phase, row.cause.clone());
                vec![WhyLink { service: service.clone(), phase, cause, started: None }]
            }
        };
        let innocent = row.cause.reason == Reason::DependencyFailed || row.phase == Phase::Waiting;
        if innocent
            && let Some(root) = chain.last().map(|link| &link.service)
            && view.services.get(root).is_some_and(Row::is_lost)
        {
            to_tell.push_back(root.clone());
        }
        let log = if innocent { Vec::new() } else { last_lines(client, service, LAST_LINES, since).await };
        let probe_error =
            rows.iter().find(|row| row.name == *service).and_then(|row| row.probe_error.clone());
        let case = Case { service: service.clone(), kind: row.kind, chain, probe_error, log };
        context.ui.say(report::case(&case).trim_end_matches('\n'));
    }
}

/// The last lines of a service; none when they cannot be had: what they are shown beside is worth more.
pub async fn last_lines(
    client: &Client,
    service: &ServiceName,
    count: u64,
    since: Option<Timestamp>,
) -> Vec<LogLine> {
    let query = LogQuery { services: vec![service.clone()], tail: Some(count), since, ..LogQuery::default() };
    let Ok(lines) = client.logs(&query).await else { return Vec::new() };
    lines.filter_map(|line| std::future::ready(line.ok())).collect().await
}
