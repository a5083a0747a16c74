//! The table of `ws ps` and of `ws ls`.

use ws_model::wire::{InstanceRow, InstanceState, PublishedPort, ServiceStatus};
use ws_model::{Phase, Timestamp};

use crate::render::log::safe;
use crate::render::{Cell, phase_style, table};
use crate::ui::{BAD, DIM, GOOD};
use crate::units::{human_bytes, human_since};

/// How much the table shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shape {
    /// At most so many columns.
    pub width: Option<usize>,
    /// Also process ids, numbers of processes and limits.
    pub wide: bool,
}

/// A column of the table.
struct Column {
    header: &'static str,
    /// Those with a higher number are left out first where there is no room; 0 never is.
    rank: u8,
    cell: fn(&ServiceStatus, Timestamp) -> Cell,
}

/// The least that is left for the cause, in characters.
const CAUSE_ROOM: usize = 20;

/// The services as a table. Where there is no room for all columns, those are left out that say least.
#[must_use]
pub fn services(rows: &[ServiceStatus], now: Timestamp, shape: &Shape) -> String {
    let mut columns = columns(rows, shape);
    if let Some(width) = shape.width {
        while used(&columns, rows, now) + CAUSE_ROOM > width
            && let Some(least) = columns.iter().map(|column| column.rank).max().filter(|rank| *rank > 0)
        {
            columns.retain(|column| column.rank < least);
        }
    }
    let header: Vec<&str> = columns.iter().map(|column| column.header).collect();
    let cells: Vec<Vec<Cell>> =
        rows.iter().map(|row| columns.iter().map(|column| (column.cell)(row, now)).collect()).collect();
    table(&header, &cells, shape.width)
}

/// What the columns before the last one take.
fn used(columns: &[Column], rows: &[ServiceStatus], now: Timestamp) -> usize {
    let width = |column: &Column| {
        let cells = rows.iter().map(|row| (column.cell)(row, now).width());
        cells.chain([column.header.len()]).max().unwrap_or(0) + 2
    };
    columns.iter().take(columns.len().saturating_sub(1)).map(width).sum()
}

fn columns(rows: &[ServiceStatus], shape: &Shape) -> Vec<Column> {
    fn number(n: Option<u32>) -> Cell {
        Cell::plain(n.map(|n| n.to_string()).unwrap_or_default())
    }
    fn bytes(n: Option<u64>) -> Cell {
        Cell::plain(n.map(human_bytes).unwrap_or_default())
    }
    let memory = shape.wide || rows.iter().any(|row| row.memory_bytes.is_some());
    let column = |header, rank, cell| Column { header, rank, cell };
    let all = [
        (true, column("SERVICE", 0, |row, _| Cell::plain(row.name.as_str()))),
        (true, column("PHASE", 0, |row, _| Cell::new(phase(row), phase_style(row.phase)))),
        (true, column("ADDRESS", 2, |row, _| Cell::plain(row.address.clone()))),
        (true, column("PORTS", 1, |row, _| Cell::plain(ports(&row.ports)))),
        (true, column("UPTIME", 0, |row, now| Cell::plain(uptime(row, now)))),
        (
            true,
            column("LEVEL", 3, |row, _| {
                Cell::plain(row.level.map(|level| level.to_string()).unwrap_or_default())
            }),
        ),
        (shape.wide, column("PID", 0, |row, _| number(row.pid))),
        (shape.wide, column("PIDS", 0, |row, _| number(row.pids))),
        (
            memory,
            // Of what has ended the kernel still keeps files that it read, and takes that away when somebody needs it.
            column("MEMORY", 4, |row, _| bytes(row.memory_bytes.filter(|_| !row.phase.is_settled_down()))),
        ),
        (shape.wide, column("LIMIT", 0, |row, _| bytes(row.memory_limit_bytes))),
        (true, column("CAUSE", 0, |row, _| Cell::plain(cause(row)))),
    ];
    all.into_iter().filter(|(shown, _)| *shown).map(|(_, column)| column).collect()
}

fn phase(row: &ServiceStatus) -> String {
    match (row.phase, row.exit_code) {
        (Phase::Exited, Some(code)) => format!("exited({code})"),
        (phase, _) => phase.to_string(),
    }
}

/// Why it is so, how often it was restarted, what its probe says when it is not ready, and what it says of
/// itself.
fn cause(row: &ServiceStatus) -> String {
    let mut text = match row.restarts {
        0 => row.cause.clone(),
        1 => format!("{} (restarted once)", row.cause),
        n => format!("{} (restarted {n} times)", row.cause),
    };
    let error = row.probe_error.as_deref().filter(|error| !row.ready && !row.cause.contains(error));
    if let Some(error) = error {
        text += &format!("; last probe: {error}");
    }
    if let Some(status) = row.status.as_deref().filter(|status| !status.is_empty()) {
        text += &format!(" · says: {status}");
    }
    // Parts of it are the service's own words.
    safe(&text)
}

fn uptime(row: &ServiceStatus, now: Timestamp) -> String {
    match row.phase {
        Phase::Running | Phase::Ready | Phase::Unhealthy | Phase::Stopping => {
            row.started_at.map(|at| human_since(at, now)).unwrap_or_default()
        }
        Phase::Pending
        | Phase::Waiting
        | Phase::Building
        | Phase::Starting
        | Phase::Stopped
        | Phase::Exited
        | Phase::Failed
        | Phase::Backoff
        | Phase::Violated => String::new(),
    }
}

/// Published ports: `127.0.0.1:8080->80/tcp`.
#[must_use]
pub fn ports(ports: &[PublishedPort]) -> String {
    let one = |port: &PublishedPort| format!("{}->{}/{}", endpoint(port), port.port, port.protocol);
    ports.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Where a port is published: `127.0.0.1:8080`, `[::1]:8080`.
#[must_use]
pub fn endpoint(port: &PublishedPort) -> String {
    if port.host.contains(':') {
        format!("[{}]:{}", port.host, port.host_port)
    } else {
        format!("{}:{}", port.host, port.host_port)
    }
}

/// What is missing for the next level, for under the table: a line for each set of services that lack
/// the same.
#[must_use]
pub fn missing(rows: &[ServiceStatus]) -> Vec<String> {
    let mut groups: Vec<(&[String], Vec<String>)> = Vec::new();
    for row in rows.iter().filter(|row| !row.missing.is_empty()) {
        match groups.iter_mut().find(|(missing, _)| *missing == row.missing.as_slice()) {
            Some((_, services)) => services.push(row.name.to_string()),
            None => groups.push((&row.missing, vec![row.name.to_string()])),
        }
    }
    let all = rows.len();
    groups
        .into_iter()
        .map(|(missing, services)| {
            let who = if services.len() == all {
                "not enforced".to_owned()
            } else {
                format!("not enforced for {}", services.join(", "))
            };
            format!("{who}: {}", missing.join("; "))
        })
        .collect()
}

/// The instances as a table.
#[must_use]
pub fn instances(rows: &[InstanceRow], now: Timestamp, width: Option<usize>) -> String {
    let cells: Vec<Vec<Cell>> = rows
        .iter()
        .map(|row| {
            let state = match row.state {
                InstanceState::Running => Cell::new("running", GOOD),
                InstanceState::Crashed => Cell::new("crashed", BAD),
                InstanceState::Stopped => Cell::new("stopped", DIM),
            };
            vec![
                Cell::plain(row.instance.as_str()),
                state,
                Cell::plain(
                    row.ready
                        .zip(row.services)
                        .map(|(ready, services)| format!("{ready}/{services}"))
                        .unwrap_or_default(),
                ),
                Cell::plain(row.started_at.map(|at| human_since(at, now)).unwrap_or_default()),
                Cell::plain(row.pid.map(|pid| pid.to_string()).unwrap_or_default()),
                Cell::plain(row.root.clone().unwrap_or_default()),
            ]
        })
        .collect();
    table(&["INSTANCE", "STATE", "READY", "UPTIME", "PID", "ROOT"], &cells, width)
}

#[cfg(test)]
pub(crate) mod tests {
    use ws_model::{InstanceId, Level, Protocol, Reason, ServiceKind, ServiceName};

    use super::*;

    pub(crate) fn status(name: &str, phase: Phase, reason: Reason, cause: &str) -> ServiceStatus {
        ServiceStatus {
            service: ServiceName::new(name).unwrap(),
            name: ServiceName::new(name).unwrap(),
            service_kind: ServiceKind::Service,
            replica: 1,
            phase,
            reason,
            cause: cause.to_owned(),
            ready: phase == Phase::Ready,
            pid: None,
            address: "10.77.3.4".to_owned(),
            ports: Vec::new(),
            restarts: 0,
            exit_code: None,
            signal: None,
            level: None,
            missing: Vec::new(),
            undetected: Vec::new(),
            memory_bytes: None,
            cpu_usec: None,
            pids: None,
            memory_limit_bytes: None,
            status: None,
            probe_error: None,
            started_at: None,
        }
    }

    fn stack() -> Vec<ServiceStatus> {
        let port = |host: &str, host_port, port| PublishedPort {
            host: host.to_owned(),
            host_port,
            port,
            protocol: Protocol::Tcp,
        };
        vec![
            ServiceStatus {
                level: Some(Level::Limited),
                missing: vec!["memory limits: no memory controller".to_owned()],
                started_at: Some(Timestamp { unix_ms: 1000 }),
                ports: vec![port("127.0.0.1", 8080, 80), port("::1", 8443, 443)],
                ..status("gateway", Phase::Ready, Reason::ProbeOk, "http 200 from :80/healthz")
            },
            ServiceStatus {
                service_kind: ServiceKind::Task,
                exit_code: Some(0),
                ready: true,
                ..status("migrate", Phase::Exited, Reason::Exit, "finished")
            },
            ServiceStatus {
                restarts: 3,
                exit_code: Some(1),
                ..status("orders", Phase::Backoff, Reason::Exit, "exited with 1; next try in 800 ms")
            },
        ]
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn the_table_of_services() {
        let text = services(&stack(), Timestamp { unix_ms: 191_000 }, &Shape::default());
        insta::assert_snapshot!(plain(&text), @r#"
        SERVICE  PHASE      ADDRESS    PORTS                                        UPTIME  LEVEL    CAUSE
        gateway  ready      10.77.3.4  127.0.0.1:8080->80/tcp, [::1]:8443->443/tcp  3m 10s  limited  http 200 from :80/healthz
        migrate  exited(0)  10.77.3.4  -                                            -       -        finished
        orders   backoff    10.77.3.4  -                                            -       -        exited with 1; next try in 800 ms (restarted 3 times)
        "#);
    }

    #[test]
    fn memory_is_shown_where_it_is_known() {
        let mut rows = stack();
        rows[0].memory_bytes = Some(12_900_000);
        let text = |width| {
            let shape = Shape { width: Some(width), wide: false };
            plain(&services(&rows, Timestamp { unix_ms: 2000 }, &shape))
        };
        insta::assert_snapshot!(text(130), @r#"
        SERVICE  PHASE      ADDRESS    PORTS                                        UPTIME  LEVEL    MEMORY  CAUSE
        gateway  ready      10.77.3.4  127.0.0.1:8080->80/tcp, [::1]:8443->443/tcp  1.0 s   limited  12M     http 200 from :80/healthz
        migrate  exited(0)  10.77.3.4  -                                            -       -        -       finished
        orders   backoff    10.77.3.4  -                                            -       -        -       exited with 1; next try in 8…
        "#);
    }

    #[test]
    fn what_says_least_makes_room_for_the_cause() {
        let mut rows = stack();
        rows[0].memory_bytes = Some(12_900_000);
        rows[0].ports.truncate(1);
        for width in [110, 80, 60, 40] {
            let text =
                services(&rows, Timestamp { unix_ms: 2000 }, &Shape { width: Some(width), wide: false });
            assert!(
                plain(&text).lines().all(|line| line.chars().count() <= width.max(48)),
                "{width}:\n{text}"
            );
        }
        let shape = Shape { width: Some(80), wide: false };
        insta::assert_snapshot!(plain(&services(&rows, Timestamp { unix_ms: 2000 }, &shape)), @r#"
        SERVICE  PHASE      PORTS                   UPTIME  CAUSE
        gateway  ready      127.0.0.1:8080->80/tcp  1.0 s   http 200 from :80/healthz
        migrate  exited(0)  -                       -       finished
        orders   backoff    -                       -       exited with 1; next try in …
        "#);
    }

    #[test]
    fn the_wide_table_has_numbers_and_every_word() {
        let mut rows = stack();
        rows.truncate(1);
        rows[0].pid = Some(4711);
        rows[0].pids = Some(12);
        rows[0].memory_bytes = Some(12_900_000);
        rows[0].memory_limit_bytes = Some(64 << 20);
        rows[0].status = Some("serving 3 clients\x1b[2J".to_owned());
        let late = ServiceStatus {
            name: ServiceName::new("api-2").unwrap(),
            replica: 2,
            probe_error: Some("http 503 from :80/healthz".to_owned()),
            ..status("api", Phase::Running, Reason::Executed, "started, not ready yet")
        };
        rows.push(late);
        let text = services(&rows, Timestamp { unix_ms: 2000 }, &Shape { width: None, wide: true });
        insta::assert_snapshot!(plain(&text), @r#"
        SERVICE  PHASE    ADDRESS    PORTS                                        UPTIME  LEVEL    PID   PIDS  MEMORY  LIMIT  CAUSE
        gateway  ready    10.77.3.4  127.0.0.1:8080->80/tcp, [::1]:8443->443/tcp  1.0 s   limited  4711  12    12M     64M    http 200 from :80/healthz · says: serving 3 clients
        api-2    running  10.77.3.4  -                                            -       -        -     -     -       -      started, not ready yet; last probe: http 503 from :80/healthz
        "#);
    }

    #[test]
    fn what_is_missing_is_said_once_for_all_who_lack_it() {
        let mut rows = stack();
        assert_eq!(missing(&rows), ["not enforced for gateway: memory limits: no memory controller"]);
        for row in &mut rows {
            row.missing = vec!["a".to_owned(), "b".to_owned()];
        }
        assert_eq!(missing(&rows), ["not enforced: a; b"]);
    }

    #[test]
    fn the_table_of_instances() {
        let row = |name: &str, state, pid: Option<u32>| InstanceRow {
            root: pid.map(|_| "/home/ann/shop".to_owned()),
            pid,
            ready: pid.map(|_| 3),
            services: pid.map(|_| 4),
            started_at: pid.map(|_| Timestamp { unix_ms: 1000 }),
            ..InstanceRow::new(InstanceId::from_dir_name(name).unwrap(), state)
        };
        let rows = [
            row("shop-1a2b3c4d", InstanceState::Running, Some(4711)),
            row("shop-1a2b3c4d-ci", InstanceState::Crashed, None),
            row("blog-00ff00ff", InstanceState::Stopped, None),
        ];
        insta::assert_snapshot!(plain(&instances(&rows, Timestamp { unix_ms: 191_000 }, None)), @r#"
        INSTANCE          STATE    READY  UPTIME  PID   ROOT
        shop-1a2b3c4d     running  3/4    3m 10s  4711  /home/ann/shop
        shop-1a2b3c4d-ci  crashed  -      -       -     -
        blog-00ff00ff     stopped  -      -       -     -
        "#);
    }
}
