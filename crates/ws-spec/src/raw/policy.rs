//! What is done about violations, as it is written.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use ws_model::{PolicyAction, Posture, ViolationClass};

use super::Count;
use super::forms::words;
use super::read::{At, Cx, List, Merge, Read, long_only, number_text, place_of, record, scalar_text, word};
use super::scalar::{Size, Time, named};
use crate::codes;
use crate::report::{error, shown};
use crate::yaml::{Node, Value};

/// The most that makes sense: all processors of a large machine.
const MAX_PERCENT: u64 = 100_000;

words! {
    /// How strict the defaults are.
    PostureWord(Posture) as "Posture" { "default" => Posture::Default, "strict" => Posture::Strict }

    /// What is done about a violation.
    PolicyActionWord(PolicyAction) as "PolicyAction" {
        "off" => PolicyAction::Off,
        "report" => PolicyAction::Report,
        "restart" => PolicyAction::Restart,
        "kill" => PolicyAction::Kill,
        "stop" => PolicyAction::Stop,
    }

    /// A class of violations.
    ClassWord(ViolationClass) as "ViolationClass" {
        "network" => ViolationClass::Network,
        "memory" => ViolationClass::Memory,
        "pids" => ViolationClass::Pids,
        "cpu" => ViolationClass::Cpu,
        "syscalls" => ViolationClass::Syscalls,
        "decoys" => ViolationClass::Decoys,
        "processes" => ViolationClass::Processes,
        "filesystem" => ViolationClass::Filesystem,
        "logs" => ViolationClass::Logs,
    }
}

record! {
    /// What is done about violations: things that a service tried and the kernel refused, and limits that it ran into.
    /// Each class takes an action, or a mapping: `network: kill`, `network: { action: kill, after: 3, within: 10s }`.
    ///
    /// Actions are `off` (it is not looked for), `report`, `restart` (the run is killed and counts as a failure, and
    /// `restart` of the service decides), `kill` (it is killed at once and stays down) and `stop` (the workspace goes down
    /// as well, with exit code 4). A service says more than the workspace, and that more than the posture.
    #[schemars(rename = "Policy")]
    PolicyRaw: "`policy`" {
        /// How strict the defaults are: with `strict`, what a program does not do by mistake ends it. Default: `default`.
        posture: PostureWord,
        /// Packets to where no link leads, or with an address that is not its own, and raw sockets. Default: `report`;
        /// strict: `kill`.
        network: RuleRaw,
        /// More memory than `limits.memory`: the kernel killed something of it. Default: `restart`; strict: `kill`.
        memory: RuleRaw,
        /// More processes than `limits.pids`. Default: `report`.
        pids: RuleRaw,
        /// More processor time than a share, for a while: `{ over: 90%, for: 10s, action: kill }`. Off until it is set.
        cpu: CpuRuleRaw,
        /// System calls that no service needs: mount, ptrace of others, bpf, keyctl, unshare and the like. They are
        /// always refused. Default: `report`; strict: `kill`.
        syscalls: RuleRaw,
        /// Files in the private home that are there only to be touched by who looks for secrets. Default: `kill` for those
        /// that nothing opens unasked (ssh and gpg keys, browser and wallet stores), `report` for those that libraries
        /// look at by themselves (`.aws`, `.kube`, `.docker`, gcloud); strict: `kill`. What is said here is said of all.
        decoys: RuleRaw,
        /// Programs that are executed and are not among those that may: `{ allow: [node, /usr/bin/git], action: kill }`.
        /// Off until it is set; then `report`, strict: `kill`.
        processes: ProcessesRaw,
        /// Writes where nothing is declared writable, where that can be seen. Default: `report`.
        filesystem: RuleRaw,
        /// More output than a rate: `{ over: 10M, action: report }` in a second. Default: `report` over `10M`.
        logs: LogRuleRaw,
        /// What is known and not told: `[{ class: network, to: "169.254.169.254:80", why: "the SDK looks for a role" }]`.
        accept: List<AcceptRaw>,
    }
}
long_only!(PolicyRaw);

record! {
    /// What is done about a class of violations, in its long form.
    #[schemars(rename = "PolicyRuleLong")]
    RuleLong: "a rule of `policy`" {
        /// What is done. Default: what the workspace says, or the posture.
        action: PolicyActionWord,
        /// From how many on; until then they are only told. Default: 1.
        after: Count,
        /// Within what time they count together. Default: in the whole life of a run.
        within: Time,
    }
}

record! {
    /// What is done about processor time, in its long form.
    #[schemars(rename = "PolicyCpuLong")]
    CpuLong: "`cpu` of `policy`" {
        /// What is done. Default: `report`.
        action: PolicyActionWord,
        /// How much is too much, of one processor: `90%`; of two, `180%`.
        over: Percent,
        /// For how long, on the whole: from `1s` to `1h`. Default: `10s`.
        r#for: Time,
        /// From how many on; until then they are only told. Default: 1.
        after: Count,
        /// Within what time they count together. Default: in the whole life of a run.
        within: Time,
    }
}

record! {
    /// Which programs may be executed, in its long form.
    #[schemars(rename = "PolicyProcessesLong")]
    ProcessesLong: "`processes` of `policy`" {
        /// The programs, beside those that the file itself names: a name (in any directory of `PATH`), an absolute path
        /// inside, or the beginning of one with `*` at its end.
        allow: List<String>,
        /// What is done about others. Default: `report`; strict: `kill`.
        action: PolicyActionWord,
        /// From how many on; until then they are only told. Default: 1.
        after: Count,
        /// Within what time they count together. Default: in the whole life of a run.
        within: Time,
    }
}

record! {
    /// What is done about output, in its long form.
    #[schemars(rename = "PolicyLogsLong")]
    LogsLong: "`logs` of `policy`" {
        /// What is done. Default: `report`.
        action: PolicyActionWord,
        /// How much in a second is too much: at least `1K`. Default: `10M`.
        over: Size,
        /// From how many on; until then they are only told. Default: 1.
        after: Count,
        /// Within what time they count together. Default: in the whole life of a run.
        within: Time,
    }
}

/// A record that can be written as its action alone.
macro_rules! action_or_long {
    ($($(#[$meta:meta])* $Name:ident($Long:ident) as $schema:literal, $example:literal;)*) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, Default)]
        pub(crate) struct $Name(pub(crate) $Long);

        impl Read for $Name {
            fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
                match &node.value {
                    Value::Map(_) => $Long::read_long(node, cx).map(Self),
                    Value::Seq(_) | Value::Null => {
                        let issue = cx.wrong_type(node, "an action, or a mapping");
                        cx.push(issue.help(concat!("write `", $example, "`")));
                        None
                    }
                    Value::Text(_) | Value::Bool(_) | Value::Number(_) => {
                        let action = PolicyActionWord::read_at(node, node.span, cx)?;
                        Some(Self($Long { action: Some(action), ..$Long::default() }))
                    }
                }
            }
        }
        // What stands beside an action belongs to it, so a rule is taken as a whole.
        impl Merge for $Name {}

        impl JsonSchema for $Name {
            fn schema_name() -> Cow<'static, str> {
                $schema.into()
            }
            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                let short = generator.subschema_for::<PolicyActionWord>();
                let long = generator.subschema_for::<$Long>();
                json_schema!({ "anyOf": [short, long] })
            }
        }
    )* };
}

action_or_long! {
    /// What is done about a class.
    RuleRaw(RuleLong) as "PolicyRule", "{ action: kill, after: 3, within: 10s }";
    /// What is done about processor time.
    CpuRuleRaw(CpuLong) as "PolicyCpu", "{ over: 90%, for: 10s, action: kill }";
    /// What is done about programs.
    ProcessesRaw(ProcessesLong) as "PolicyProcesses", "{ allow: [node, /usr/bin/git], action: kill }";
    /// What is done about output.
    LogRuleRaw(LogsLong) as "PolicyLogs", "{ over: 10M, action: report }";
}

/// Per cent of one processor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Percent(pub(crate) u64);

impl Read for Percent {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let Some(text) = scalar_text(node) else {
            let issue = cx.wrong_type(node, "a share such as `90%`");
            cx.push(issue);
            return None;
        };
        let number = text.trim().strip_suffix('%').map(str::trim_end);
        let Some(number) = number else {
            let message = format!("{} is not a share of a processor", named(&text));
            let issue = error(codes::OUT_OF_RANGE, node.span, message);
            let better = number_text(node).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            cx.push(match better {
                Some(number) => issue.help("say of what").fix(node.span, format!("{number}%")),
                None => issue.help("write `90%`"),
            });
            return None;
        };
        match number.parse() {
            Ok(percent @ 1..=MAX_PERCENT) => Some(Self(percent)),
            Ok(_) | Err(_) => {
                let message = format!("{} is not a share of a processor", named(&text));
                cx.push(
                    error(codes::OUT_OF_RANGE, node.span, message)
                        .label(format!("a whole number from 1% to {MAX_PERCENT}%")),
                );
                None
            }
        }
    }
}
impl Merge for Percent {}

impl JsonSchema for Percent {
    fn schema_name() -> Cow<'static, str> {
        "Percent".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]{1,6} *%$|\\$" })
    }
}

/// An entry of `accept`.
#[derive(Debug, Clone)]
pub(crate) struct AcceptRaw {
    pub(crate) class: At<ClassWord>,
    pub(crate) to: Option<At<String>>,
    pub(crate) why: At<String>,
}

record! {
    /// Violations that are known and not told.
    #[schemars(rename = "AcceptLong")]
    AcceptLong: "an entry of `accept`" {
        /// Their class.
        class: ClassWord,
        /// What they are about. Of `network`: `db:5432`, `169.254.169.254`, `10.0.0.0/8:443`, `"*:53"`, or a name that was
        /// looked up; of `syscalls` the name of one; of `decoys`, `filesystem` and `processes` a path. `*` at the end stands
        /// for anything. Default: everything of that class.
        to: String,
        /// The reason, for whoever reads this later.
        why: String,
    }
}

impl Read for AcceptRaw {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        const EXAMPLE: &str =
            "write `{ class: network, to: \"169.254.169.254:80\", why: \"the SDK looks for a role\" }`";
        let Value::Map(_) = node.value else {
            let issue = cx.wrong_type(node, "mappings");
            cx.push(issue.help(EXAMPLE));
            return None;
        };
        let long = AcceptLong::read_long(node, cx)?;
        for (key, is_there) in [("class", long.class.is_some()), ("why", long.why.is_some())] {
            if !is_there && !long.unread.contains(&key) {
                let message = format!("an entry of `{}` needs a `{key}`", shown(cx.key()));
                cx.push(error(codes::MISSING_KEY, place_of(node), message).help(EXAMPLE));
                return None;
            }
        }
        if long.unread.contains(&"to") {
            return None;
        }
        Some(Self { class: long.class?, to: long.to, why: long.why? })
    }
}
impl Merge for AcceptRaw {}

impl JsonSchema for AcceptRaw {
    fn schema_name() -> Cow<'static, str> {
        "Accept".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = AcceptLong::json_schema(generator);
        schema.insert("required".to_owned(), serde_json::json!(["class", "why"]));
        schema
    }
}
