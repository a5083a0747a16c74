//! The promised shapes, as documents for `schemas/`: generated from the types themselves.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};
use ws_model::wire::{
    API_VERSION, Accepted, ApiError, Applying, DownRequest, EXEC_PROTOCOL, ExecRequest, ExecResult, Info,
    InstanceRow, KillRequest, LogLine, PlanDifference, PlanFilesRequest, RunRequest, SEQ_HEADER,
    ServiceStatus, ServicesRequest, SetRequest, StatsSample, UpRequest, WatchReport, Why,
};
use ws_model::{Event, ViolationRow};

/// Every document: its name in `schemas/` and its content.
///
/// - `event.schema.json`: a line of `ws events --json` and of `GET /v1/events`;
/// - `log.schema.json`: a line of `ws logs --json` and of `GET /v1/logs`;
/// - `stats.schema.json`: a line of `ws stats --json` and of `GET /v1/stats`;
/// - `ps.schema.json`: `ws ps --json` and `GET /v1/services`;
/// - `ls.schema.json`: `ws ls --json`;
/// - `difference.schema.json`: `ws apply --dry-run --json` and `GET /v1/plan`;
/// - `apply.schema.json`: `ws apply --json`, `ws set --json` and what `POST /v1/apply` answers;
/// - `watch.schema.json`: `ws watch --json` and `GET /v1/watch`;
/// - `violations.schema.json`: `ws violations --json` and `GET /v1/violations`;
/// - `control.openapi.json`: the control API.
#[must_use]
pub fn schemas() -> Vec<(&'static str, Value)> {
    vec![
        ("event.schema.json", document::<Event>("A line of `ws events --json`")),
        ("log.schema.json", document::<LogLine>("A line of `ws logs --json`")),
        ("stats.schema.json", document::<StatsSample>("A line of `ws stats --json`")),
        ("ps.schema.json", document::<Vec<ServiceStatus>>("What `ws ps --json` prints")),
        ("ls.schema.json", document::<Vec<InstanceRow>>("What `ws ls --json` prints")),
        ("difference.schema.json", document::<PlanDifference>("What `ws apply --dry-run --json` prints")),
        ("apply.schema.json", document::<Applying>("What `ws apply --json` and `ws set --json` print")),
        ("watch.schema.json", document::<WatchReport>("What `ws watch --json` prints")),
        ("violations.schema.json", document::<Vec<ViolationRow>>("What `ws violations --json` prints")),
        ("control.openapi.json", openapi()),
    ]
}

fn document<T: JsonSchema>(title: &str) -> Value {
    // For what is written: a value that can be absent is there all the same, as null.
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let mut schema = generator.into_root_schema_for::<T>();
    schema.insert("title".to_owned(), title.into());
    schema.to_value()
}

/// What a path takes.
#[derive(Clone, Copy)]
enum Takes {
    Nothing,
    /// A body of this schema; it may be empty.
    Body(fn(&mut SchemaGenerator) -> Value),
    /// A query string of these parameters: name, schema, whether it may come again, description.
    Query(&'static [(&'static str, &'static str, bool, &'static str)]),
    /// An upgrade of the connection.
    Upgrade,
}

/// What a path gives.
#[derive(Clone, Copy)]
enum Gives {
    Json(fn(&mut SchemaGenerator) -> Value),
    Lines(fn(&mut SchemaGenerator) -> Value),
    Nothing,
    Upgrade,
}

struct Endpoint {
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    takes: Takes,
    gives: Gives,
}

const fn post(
    path: &'static str,
    summary: &'static str,
    takes: fn(&mut SchemaGenerator) -> Value,
) -> Endpoint {
    Endpoint { method: "post", path, summary, takes: Takes::Body(takes), gives: Gives::Json(of::<Accepted>) }
}

const fn get(path: &'static str, summary: &'static str, gives: Gives) -> Endpoint {
    Endpoint { method: "get", path, summary, takes: Takes::Nothing, gives }
}

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().to_value()
}

/// Every path of the API, without its version.
const ENDPOINTS: &[Endpoint] = &[
    get("/info", "Who the supervisor is.", Gives::Json(of::<Info>)),
    get("/services", "The state of every service.", Gives::Json(of::<Vec<ServiceStatus>>)),
    Endpoint {
        takes: Takes::Query(&[("service", "string", true, "of which services; without it of all")]),
        ..get(
            "/violations",
            "How services broke their policies in this life of the stack, a row for each kind.",
            Gives::Json(of::<Vec<ViolationRow>>),
        )
    },
    get("/why/{service}", "Why a service is in its phase.", Gives::Json(of::<Why>)),
    Endpoint {
        takes: Takes::Query(&[
            ("since", "integer", false, "only events with a greater number"),
            ("follow", "boolean", false, "go on with new events until the supervisor ends"),
        ]),
        ..get("/events", "Events, one a line.", Gives::Lines(of::<Event>))
    },
    Endpoint {
        takes: Takes::Query(&[
            ("service", "string", true, "of which services; without it of all"),
            (
                "tail",
                "integer",
                false,
                "at most this many of the newest lines of each service, after all else",
            ),
            ("after", "integer", false, "only lines with a greater number: goes on where a stream broke off"),
            ("since", "date-time", false, "only lines that arrived at this time or later"),
            (
                "until",
                "date-time",
                false,
                "only lines that arrived at this time or earlier; a follower ends then",
            ),
            ("grep", "string", false, "only lines in which this regular expression matches somewhere"),
            ("invert", "boolean", false, "only lines in which `grep` does not match"),
            ("follow", "boolean", false, "go on with new lines until the supervisor ends"),
        ]),
        ..get("/logs", "The output of services, one line a line.", Gives::Lines(of::<LogLine>))
    },
    Endpoint {
        takes: Takes::Query(&[
            ("service", "string", true, "of which services; without it of all that use something"),
            (
                "interval_ms",
                "integer",
                false,
                "milliseconds between two looks, from 100 to 3600000; 1000 without it",
            ),
            ("follow", "boolean", false, "a look at once and after each interval, until the supervisor ends"),
        ]),
        ..get("/stats", "What services use, one sample of a service a line.", Gives::Lines(of::<StatsSample>))
    },
    get(
        "/plan",
        "What is different between what runs and what the files say now, read with the variables that the stack has.",
        Gives::Json(of::<PlanDifference>),
    ),
    Endpoint {
        gives: Gives::Json(of::<PlanDifference>),
        ..post("/plan", "The same, read with other variables.", of::<PlanFilesRequest>)
    },
    Endpoint {
        gives: Gives::Json(of::<Applying>),
        ..post(
            "/apply",
            "Carries out what the files say now, also where that gives a service more rights. Refused with status 422              when they have errors (`help` has the diagnostics), with 409 when it cannot be carried out while the stack              runs.",
            of::<PlanFilesRequest>,
        )
    },
    Endpoint {
        gives: Gives::Json(of::<Applying>),
        ..post(
            "/set",
            "Other settings for a service, carried out at once; refused as `apply` is.",
            of::<SetRequest>,
        )
    },
    Endpoint {
        takes: Takes::Query(&[(
            "path",
            "string",
            true,
            "explain this path instead, relative to the project or absolute; at most 256",
        )]),
        ..get(
            "/watch",
            "What is watched for each unit, or how paths stand to that.",
            Gives::Json(of::<WatchReport>),
        )
    },
    get(
        "/hold",
        "Owns the stack: when this connection ends, the stack goes down. Sends nothing; ends with the supervisor.",
        Gives::Nothing,
    ),
    post("/up", "Starts services (all, when none is named) and what they need.", of::<UpRequest>),
    post("/start", "The same as `up`.", of::<ServicesRequest>),
    post("/stop", "Stops services (all, when none is named).", of::<ServicesRequest>),
    post(
        "/restart",
        "Stops services (all, when none is named) and starts them again.",
        of::<ServicesRequest>,
    ),
    post(
        "/kill",
        "Kills services (all, when none is named) at once, or sends their main processes a signal.",
        of::<KillRequest>,
    ),
    post(
        "/down",
        "Stops everything and ends the supervisor: followed streams end when it has.",
        of::<DownRequest>,
    ),
    Endpoint {
        method: "post",
        path: "/exec/{service}",
        summary: "Runs a command inside a service's sandbox. The connection is upgraded to frames: a byte of kind, \
                  four bytes of length (big endian), data. The client begins with a frame of kind 5, an \
                  `ExecRequest` as JSON, then sends 0 (standard input; empty: its end) and 4 (columns and rows of \
                  the terminal, two bytes each). The supervisor sends 1 (standard output), 2 (standard error) and \
                  at the end 3, an `ExecResult` as JSON. When the connection ends before, the command is killed.",
        takes: Takes::Upgrade,
        gives: Gives::Upgrade,
    },
    Endpoint {
        method: "post",
        path: "/run/{service}",
        summary: "Runs a one-off of a service: in a sandbox of its own that is like the service's, without its published \
                  ports, after what the service depends on was brought up. The connection is upgraded as that of \
                  `exec`; the first frame is a `RunRequest`. When the connection ends before the one-off, it is \
                  stopped. Its row has the name `<service>-run-<number>`.",
        takes: Takes::Upgrade,
        gives: Gives::Upgrade,
    },
];

fn openapi() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let mut generator = settings.into_generator();
    let mut paths: Map<String, Value> = Map::new();
    for endpoint in ENDPOINTS {
        let path = format!("/{API_VERSION}{}", endpoint.path);
        let operation = endpoint.describe(&mut generator);
        let methods = paths.entry(path).or_insert_with(|| json!({}));
        methods[endpoint.method] = operation;
    }
    // Sent as data of frames, so no path leads to them.
    generator.subschema_for::<ExecRequest>();
    generator.subschema_for::<RunRequest>();
    generator.subschema_for::<ExecResult>();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Control API of a ws supervisor",
            "version": API_VERSION,
            "description": "HTTP/1.1 over the unix socket `control.sock` in the runtime directory of an instance, for \
                            the user who owns it. Bodies have at most 1 MiB.",
        },
        "paths": paths,
        "components": { "schemas": generator.take_definitions(true) },
    })
}

impl Endpoint {
    fn describe(&self, generator: &mut SchemaGenerator) -> Value {
        let mut operation = json!({ "summary": self.summary });
        let mut parameters = Vec::new();
        if self.path.ends_with("{service}") {
            parameters.push(json!({
                "name": "service", "in": "path", "required": true, "schema": { "type": "string" },
            }));
        }
        match self.takes {
            Takes::Nothing => {}
            Takes::Body(schema) => {
                let content = json!({ "application/json": { "schema": schema(generator) } });
                let required = self.path == "/set";
                operation["requestBody"] = json!({ "required": required, "content": content });
            }
            Takes::Query(query) => {
                parameters.extend(query.iter().map(|(name, kind, repeated, description)| {
                    let one = match *kind {
                        "date-time" => json!({ "type": "string", "format": "date-time" }),
                        kind => json!({ "type": kind }),
                    };
                    let schema = if *repeated { json!({ "type": "array", "items": one }) } else { one };
                    json!({ "name": name, "in": "query", "description": description, "schema": schema })
                }));
            }
            Takes::Upgrade => parameters.push(json!({
                "name": "upgrade", "in": "header", "required": true, "schema": { "const": EXEC_PROTOCOL },
            })),
        }
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        let (status, good) = match self.gives {
            Gives::Json(schema) => {
                let content = json!({ "application/json": { "schema": schema(generator) } });
                ("200", json!({ "description": "Done.", "content": content }))
            }
            Gives::Lines(schema) => {
                let content = json!({ "application/x-ndjson": { "schema": schema(generator) } });
                ("200", json!({ "description": "One value a line.", "content": content }))
            }
            Gives::Nothing => ("200", json!({ "description": "Held." })),
            Gives::Upgrade => ("101", json!({ "description": "Frames from here on." })),
        };
        let mut good = good;
        if self.path == "/services" {
            good["headers"] = json!({ SEQ_HEADER: {
                "description": "the number of the last event that the rows include",
                "schema": { "type": "integer" },
            }});
        }
        let content = json!({ "application/json": { "schema": of::<ApiError>(generator) } });
        operation["responses"] = json!({
            status: good,
            "default": { "description": "Refused.", "content": content },
        });
        operation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_somewhere() {
        for (name, document) in schemas() {
            let mut references = Vec::new();
            collect(&document, &mut references);
            for reference in references {
                let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{name}: {reference}"));
                assert!(document.pointer(pointer).is_some(), "{name}: {reference}");
            }
        }
    }

    fn collect(value: &Value, references: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    references.push(reference.clone());
                }
                map.values().for_each(|value| collect(value, references));
            }
            Value::Array(values) => values.iter().for_each(|value| collect(value, references)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn documents_are_the_same_each_time() {
        assert_eq!(schemas(), schemas());
    }
}
