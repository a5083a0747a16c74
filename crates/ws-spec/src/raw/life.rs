//! What belongs to the life of a service: hooks, exit codes.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::forms::CommandRaw;
use super::read::{At, Cx, Merge, Read, integer, number_text, place_of, record, scalar_text};
use super::scalar::Time;
use crate::codes;
use crate::report::{error, shown};
use crate::yaml::{Node, Value};

/// A command of a hook.
#[derive(Debug, Clone)]
pub(crate) struct HookRaw {
    pub(crate) command: At<CommandRaw>,
    pub(crate) shell: Option<At<bool>>,
    pub(crate) timeout: Option<At<Time>>,
    /// Whether it is not a mapping, which alone has a place for `shell`.
    pub(crate) is_short: bool,
}

record! {
    /// A command of a hook in its long form.
    #[schemars(rename = "Hook")]
    HookLong: "a hook" {
        /// What to run: a list of program and arguments, or a text.
        command: CommandRaw,
        /// Whether the text of `command` is run by `/bin/sh -c`. Default: false.
        shell: bool,
        /// How long it may take before it is killed and has failed. Default: `60s`.
        timeout: Time,
    }
}

impl Read for HookRaw {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let Value::Map(_) = node.value else {
            let command = CommandRaw::read_at(node, place_of(node), cx)?;
            return Some(Self { command, shell: None, timeout: None, is_short: true });
        };
        let long = HookLong::read_long(node, cx)?;
        match long.command {
            Some(command) => {
                Some(Self { command, shell: long.shell, timeout: long.timeout, is_short: false })
            }
            None => {
                if long.unread.is_empty() {
                    let message = format!("an entry of `{}` needs a `command`", shown(cx.key()));
                    let issue = error(codes::MISSING_KEY, place_of(node), message);
                    cx.push(issue.help("write `{ command: ./warm-up, timeout: 60s }`"));
                }
                None
            }
        }
    }
}
impl Merge for HookRaw {}

impl JsonSchema for HookRaw {
    fn schema_name() -> Cow<'static, str> {
        "HookCommand".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let command = generator.subschema_for::<CommandRaw>();
        let long = generator.subschema_for::<HookLong>();
        json_schema!({ "anyOf": [command, long] })
    }
}

macro_rules! bounded {
    ($($(#[$meta:meta])* $Name:ident: $what:literal, $least:literal to $most:literal;)*) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, JsonSchema)]
        #[schemars(transparent, inline)]
        pub(crate) struct $Name(#[schemars(range(min = $least, max = $most))] pub(crate) u32);

        impl Read for $Name {
            fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
                let number = integer(node, cx, $what, $least..=$most)?;
                u32::try_from(number).ok().map(Self)
            }
        }
        impl Merge for $Name {}
    )* };
}
bounded! {
    /// A number of copies of a service.
    Replicas: "a number of copies", 1 to 100;
    /// A number of files of output.
    FileCount: "a number of files", 1 to 1000;
    /// A number of builds.
    Parallel: "a number of builds", 1 to 1000;
}

/// An exit code; a signal is 128 and its number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExitCodeRaw(pub(crate) i32);

impl Read for ExitCodeRaw {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let Some(typed) = number_text(node).map(Cow::Borrowed).or_else(|| scalar_text(node)) else {
            let issue = cx.wrong_type(node, "exit codes such as `3` or `SIGTERM`");
            cx.push(issue);
            return None;
        };
        if let Some(signal) = ws_model::event::signal_number(&typed.to_ascii_uppercase()) {
            return Some(Self(128 + signal));
        }
        if let Some(code) = typed.parse::<i32>().ok().filter(|code| (0..=255).contains(code)) {
            return Some(Self(code));
        }
        let message = format!("`{}` is not an exit code", shown(&typed));
        let issue = error(codes::BAD_EXIT_CODE, node.span, message);
        let is_number = typed.trim_start_matches(['-', '+']).bytes().all(|byte| byte.is_ascii_digit());
        cx.push(if is_number {
            issue.label("from 0 to 255")
        } else {
            issue.help("write a number, or the name of a signal: `143`, `SIGTERM`")
        });
        None
    }
}
impl Merge for ExitCodeRaw {}

impl JsonSchema for ExitCodeRaw {
    fn schema_name() -> Cow<'static, str> {
        "ExitCode".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "integer", "minimum": 0, "maximum": 255 },
                { "type": "string" }
            ]
        })
    }
}
