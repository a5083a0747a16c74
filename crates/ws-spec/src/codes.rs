//! The codes of diagnostics, with their explanations. A code keeps its meaning for ever: one that is no
//! longer used is not given to something else.

macro_rules! codes {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        $( #[doc = $text] pub(crate) const $name: &str = $code; )*

        /// Every code with its explanation, in order.
        pub(crate) const ALL: &[(&str, &str)] = &[$(($code, $text)),*];
    };
}

codes! {
    SYNTAX = "WS0001", "\
The file is not YAML. The place is where reading stopped; the mistake is there or a little above: a \
bracket or quote that is not closed, a tab at the start of a line, a `:` inside a text that has no quotes.";
    TOO_COSTLY = "WS0002", "\
The file is larger, deeper or more repetitive than any workspace needs to be. The bounds (1 MiB, 32 levels, \
200000 values after aliases are followed) protect against files that are made to exhaust memory or time. \
Use `defaults` in place of many aliases.";
    NOT_TEXT = "WS0003", "\
The file is not UTF-8, or has a control character that YAML does not allow. Save it as UTF-8. A NUL is \
often the sign of a file in UTF-16.";
    DUPLICATE_KEY = "WS0004", "\
A name stands twice in one mapping, or a variable twice in one list. YAML gives such a file no meaning, and \
readers that take one of the two silently hide a mistake.";
    BAD_KEY = "WS0005", "\
The key of a mapping is a list, a mapping or nothing. Keys are texts. A value in braces such as `{{ name }}` \
needs quotes around it.";
    UNKNOWN_KEY = "WS0006", "\
A key that this mapping does not have. Nothing in the file is ever ignored: a key that is misspelt or not \
supported is an error, because it was written in the belief that it does something.";
    WRONG_TYPE = "WS0007", "\
A value has another type than its key takes: a list in the place of a text, a number in the place of a \
mapping. In YAML, `on`, `1.10` and `0x10` without quotes may be something else than they look like.";
    UNKNOWN_WORD = "WS0008", "\
The key takes one of a few words, and this is none of them.";
    MISSING_KEY = "WS0009", "\
A key that must be there is not: a workspace has `services`, a service has a `command`.";
    BAD_NAME = "WS0010", "\
Names of workspaces, services, volumes and secrets are lower case letters, digits, `-` and `_`, start with a \
letter or digit, and have at most 63 characters: a service's name is its host name.";
    BAD_SIZE = "WS0011", "\
A size is a number with K, M, G or T (powers of 1024), such as `512M` or `1.5G`, or a plain number of bytes.";
    BAD_DURATION = "WS0012", "\
A duration is one or more numbers with a unit, such as `500ms`, `10s`, `1m30s`, `2h`. A number without a unit \
is not taken: tools differ on whether it means seconds.";
    OUT_OF_RANGE = "WS0013", "\
A number is too small, too large, or not a whole number where one is needed.";
    BAD_SUBNET = "WS0014", "\
`network.subnet` is an IPv4 network with a prefix from /8 to /29, written with its first address: \
`10.77.0.0/16`. It is private to the workspace, so every workspace can use the same.";
    BAD_PORT = "WS0015", "\
Ports are from 1 to 65535. In `ports` the form is `host-port:port` or `address:host-port:port`, TCP only; in \
`links` it is `service:port` or `service:port/udp`.";
    BAD_PATTERN = "WS0016", "\
The pattern of a `log` probe is not a regular expression, or one that is too large. The syntax is that of \
Rust's regex: no back references and no look-around, so that matching takes linear time.";
    BAD_COMMAND = "WS0017", "\
A command is empty, or a quote in it is not closed.";
    NEEDS_SHELL = "WS0018", "\
A command has characters that only a shell understands (`&&`, `|`, `>`, `$(…)`, `;`, `NAME=value` in front), \
and `shell: true` is not set. Without a shell they would be handed to the program as arguments. Set \
`shell: true`, or put them in quotes if they are meant as arguments.";
    BAD_VARIABLE_NAME = "WS0019", "\
The name of an environment variable is empty, or has `=`, a blank or a control character in it.";
    VARIABLE_REQUIRED = "WS0020", "\
The file insists on a variable (`${NAME:?message}`), and it is not set. Set it in the environment, in a file \
that `--env-file` or `env_file` names, or in `.env` next to the workspace file.";
    BAD_VARIABLE = "WS0021", "\
A `$` that is not one of the forms `${NAME}`, `${NAME:-default}`, `${NAME-default}`, `${NAME:?message}`, \
`${NAME?message}`, `${NAME:+text}`, `${NAME+text}` and `$$`. A bare `$NAME` is not replaced, and not passed \
on either, because it is read both ways: write `${NAME}` for the value, `$$NAME` for the characters.";
    VARIABLE_UNSET = "WS0022", "\
A variable in `${…}` is not set and has no default: its place is left empty. Give it a default, \
`${NAME:-}` if empty is meant, or insist with `${NAME:?message}`.";
    ENV_FILE_UNREADABLE = "WS0023", "\
An env file cannot be read: it does not exist, or is not readable, or is not UTF-8. `{ path: …, required: \
false }` makes its absence fine.";
    ENV_FILE_LINE = "WS0024", "\
A line of an env file is not `NAME=value`, or a quote in it is not closed.";
    BAD_PATH = "WS0025", "\
A path is empty, or starts with the home of another user (`~name`).";
    BAD_TARGET = "WS0026", "\
A path inside a service must be absolute and without `..`: there is no directory that it could be relative to.";
    RESERVED_TARGET = "WS0027", "\
Nothing can be mounted at `/`, `/proc`, `/sys`, `/dev` and `/run/secrets`: ws makes them itself, and what a \
service sees there is part of its isolation.";
    DUPLICATE_TARGET = "WS0028", "\
Two mounts of one service have the same place inside: one of them would hide the other.";
    POLICY_WRITABLE = "WS0029", "\
A service could write a file that decides what runs and with which rights: the workspace file, an env file or \
the source of a secret. It could give itself more rights with the next start. Name the directories below that \
it really writes.";
    SECRET_VISIBLE = "WS0030", "\
A service could read the source of a secret or an env file at its own path, around the `secrets` that it was \
given. Name the directories that it really reads, or move the file.";
    UNKNOWN_SERVICE = "WS0031", "\
`links` or `depends_on` name a service that the file does not have.";
    SELF_REFERENCE = "WS0032", "\
A service links to itself or waits for itself, or a build does. A service reaches itself without a link, by \
`localhost`.";
    INACTIVE_SERVICE = "WS0033", "\
A service needs one that its profiles leave out. Switch the profile on with `--profile`, give both services \
the same profile, or write `required: false` in `depends_on`.";
    UNKNOWN_VOLUME = "WS0035", "\
A service mounts a volume that is not in the `volumes` of the workspace.";
    VOLUME_NOT_SHARED = "WS0036", "\
Two services mount one volume. What is in it would be a channel between them that no link shows, so it must \
be said: `volumes: { name: { shared: true } }`.";
    UNKNOWN_SECRET = "WS0037", "\
A service wants a secret that is not in the `secrets` of the workspace.";
    DUPLICATE_PORT = "WS0038", "\
Two services publish the same port of the host.";
    CONTRADICTION = "WS0039", "\
Two keys exclude each other, such as two kinds of probe in one `ready`, or `kind: task` with \
`restart: always`.";
    BAD_PROBE = "WS0040", "\
`http` of a probe is a port of the service and a path, `\":8080/healthz\"`; `tcp` is a port, `\":5432\"`. There \
is no host in it: the probe always goes to the service itself.";
    BAD_SIGNAL = "WS0041", "\
`stop.signal` is the name of a signal that asks a process to end: `SIGTERM`, `SIGINT`, `SIGQUIT`.";
    BAD_MOUNT = "WS0042", "\
An entry of `volumes` is `source:target` or `source:target:ro`; one of `tmpfs` is `/place` or \
`/place:size=64M`.";
    NUL = "WS0043", "\
A text has a NUL character. The kernel ends texts there, so no path, argument or variable can have one.";
    TOO_MANY = "WS0044", "\
There are more problems than are shown. Mend these first.";
    DUPLICATE_NAME = "WS0045", "\
Two files of the workspace have something of the same kind and name. Names are those of the whole workspace, and \
neither file overrides the other: rename one, or leave one out.";
    INCLUDE_UNREADABLE = "WS0046", "\
A file that `include` names cannot be read: it does not exist, is not readable, or is not UTF-8. Its path is \
relative to the directory of the file that includes it.";
    INCLUDE_CYCLE = "WS0047", "\
Files include each other in a circle. What two files both need belongs into a third one, which both may include: it \
is read once.";
    FIRST_FILE_ONLY = "WS0048", "\
`name`, `enforcement`, `network`, `watch`, `policy` and `parallel_builds` are of the workspace as a whole, so only its first \
file has them, not one that it includes.";
    BAD_EXIT_CODE = "WS0049", "\
`success_exit_codes` takes exit codes from 0 to 255, and names of signals: a program that a signal ended counts as \
128 and the signal's number, so `SIGTERM` is 143.";
    NAMES_WITHOUT_LINK = "WS0050", "\
The value of an environment variable names another service, and the service has no link to it: the connection \
will be refused. Add the link, or ignore the warning if the value is not an address.";
    NAMES_LOCALHOST = "WS0051", "\
The value of an environment variable names a port of the host's `localhost` that another service is published \
on. Inside a service, `localhost` is the service itself; the other one is reached by its name and its own port, \
with a link.";
    PASSED_UNSET = "WS0052", "\
A variable is passed through from the environment of ws, and it is not set there: the service will not have it.";
    UNKNOWN_PROFILE = "WS0053", "\
A profile was chosen that no service has.";
    READY_WITHOUT_PROBE = "WS0054", "\
`depends_on` waits until a service is ready, and it has no `ready`: it counts as ready as soon as its program \
runs, which is earlier than it can answer.";
    UNUSED = "WS0055", "\
A volume, a secret, a build or something external is declared, and no service uses it.";
    BAD_EXTERNAL = "WS0056", "\
An entry of `external` is a host and a TCP port: `\"host:3000\"` for a port of this machine, an IPv4 address, or a \
name that this machine can resolve. Services never connect there themselves: a link to its name lets them reach an \
address inside, from which ws connects on.";
    BAD_REQUIREMENT = "WS0057", "\
An entry of `requires` is the name of a program, without a path, and conditions on its version with commas between \
them: `>=20`, `>=3.11, <4`, `15` (every 15.x), `*` (any). Only the numbers that are written are compared.";
    REPLICAS = "WS0058", "\
What a service asks for cannot be had by several copies of it: a fixed port of the host is one, a volume is shared by \
all of them, and `api-2` is the name of a copy of `api`.";
    NOT_A_SERVICE = "WS0059", "\
A name of `external` is used as if it were a service. It can be linked to, on its one TCP port; ws neither starts it \
nor knows when it is ready, so nothing can depend on it, and no service can have its name.";
    INCLUDE_LINK = "WS0060", "\
A file that `include` names is a symbolic link, or lies behind one. Links are not followed there, because whoever can \
change the link decides what runs and with which rights; name the path that it leads to.";
    UNKNOWN_BUILD = "WS0061", "\
`build` of a service, or `after` of a build, names a build that is not in `builds` of the workspace. A command that \
builds only this service stands in it: `build: { command: make }`.";
    BAD_GLOB = "WS0062", "\
A path that has one of `*?[{` is a glob, and this one is none. `*` and `?` match within a name, `**` over \
directories, `[a-z]` one character, `{a,b}` one of several; `..` can stand in front of the first of them only. There is \
no `!` that takes something back.";
    OVERLAP_PORT = "WS0063", "\
With `reload: overlap`, the old run of a service and the new one are there at once, on one address, so they cannot \
both bind a port. A port that the service declares (`ports`, `expose`, a probe) must be in its `listen`: then ws holds \
the socket and passes it to both (sd_listen_fds), and the program must take it from there.";
    BAD_LISTEN = "WS0064", "\
An entry of `listen` is a TCP port, each once, or `{ port: 8080, name: http }`. Its name is printable ASCII without \
`:`, because `$LISTEN_FDNAMES` separates the names by that (sd_listen_fds).";
    BAD_OUTPUT = "WS0065", "\
The outputs of a build are everything in its `working_dir`, and so is what it is made of. What a build makes never \
counts as its input, so nothing would ever be a reason to build. Name what is made.";
    BAD_ACCEPT = "WS0066", "\
An entry of `policy.accept` says of which class the violations are, what they are about, and why they are fine: \
`{ class: network, to: \"169.254.169.254:80\", why: \"the SDK looks for a role\" }`. In `processes.allow` stand names, \
absolute paths inside, and beginnings of them with `*` at the end.";
}

/// The codes of the planner, which finds its problems in the finished workspace and on the machine.
const OF_THE_PLANNER: &[(&str, &str)] = &[
    (
        "WS0501",
        "The private network has fewer addresses than the workspace has services. Choose a larger one with \
        `network.subnet`.",
    ),
    (
        "WS0502",
        "The project root is a directory that cannot be shown to services: one that holds your home, or one \
        of the system. Put the workspace file into a directory of its own.",
    ),
    ("WS0503", "The path of the project is not UTF-8, or has a line break in it."),
    (
        "WS0504",
        "The replicas of a service are called `name-1`, `name-2` and so on, also as hosts inside, and something else \
        has one of these names.",
    ),
    (
        "WS0505",
        "The name of a service and the number of its replica are together longer than a host's name can be.",
    ),
    ("WS0506", "A service and something in `external` have the same name, and both would be hosts inside."),
    (
        "WS0507",
        "`depends_on` names something in `external`. It runs elsewhere, so its start cannot be waited for; a link \
        reaches it.",
    ),
    ("WS0510", "A link names a service that is not there, or is left out by its profiles."),
    ("WS0511", "`depends_on` names a service that is not there, or is left out by its profiles."),
    (
        "WS0512",
        "A link without a port means every port that its target declares in `expose`, `ports`, `listen` and its probes, and \
        the target declares none. Name the port in the link, or declare it at the target.",
    ),
    ("WS0513", "A service links to itself. It reaches its own ports without a link."),
    ("WS0514", "A service mounts a volume that is not declared."),
    ("WS0515", "A service wants a secret that is not declared."),
    (
        "WS0516",
        "A service with several replicas publishes a fixed port of the host, which only one of them could have. \
        `\"0:PORT\"` picks a free one for each.",
    ),
    (
        "WS0517",
        "Several replicas would write one volume, which is not declared to be shared. `shared: true` says that their \
        program is made for that.",
    ),
    (
        "WS0518",
        "A link names a port of something in `external` that is not the one it is declared with, and is the only one \
        that leads there.",
    ),
    (
        "WS0520",
        "Services wait for each other by links, so no link among them can order their starts: they start at the \
        same time. `wait: false` on one link gives the others their order back.",
    ),
    (
        "WS0521",
        "Services depend on each other in a circle by `depends_on`, so none of them could ever start.",
    ),
    (
        "WS0523",
        "A service waits until another one has completed, and that one is started again whenever it ends. Make it \
        a task.",
    ),
    ("WS0530", "A directory or file that the workspace names does not exist."),
    (
        "WS0531",
        "A path that the workspace names is a symbolic link. Links are not followed, because they could be changed \
        to lead anywhere; name the path that it leads to.",
    ),
    ("WS0532", "A file stands where a directory is needed, or a directory where a file is needed."),
    (
        "WS0533",
        "A directory that a service may write holds a file that decides what runs and with which rights.",
    ),
    (
        "WS0535",
        "The source of a secret, or an env file, lies in a directory that services see. Move it to the top of the \
        project, or into a directory that no service sees.",
    ),
    ("WS0536", "`reads` names a directory that holds your whole home, with all that is private in it."),
    ("WS0537", "`reads` names a directory of the running host. A socket in it is a way out of the sandbox."),
    (
        "WS0540",
        "There is nothing to mount on: the place lies in a directory that the service sees read-only, and does not \
        exist there.",
    ),
    ("WS0541", "A place inside a service cannot be mounted on, because ws makes it itself."),
    ("WS0542", "Two mounts of one service have the same place inside."),
    ("WS0543", "The program of a service lies where the service cannot see it. `reads` shows it."),
    (
        "WS0550",
        "The value of an environment variable names a port of another service, and no link leads there: the \
        connection will be refused.",
    ),
    (
        "WS0551",
        "The value of an environment variable names a port of `localhost` that another service has. Inside a \
        service, `localhost` is the service itself.",
    ),
    (
        "WS0560",
        "The machine can hold a service to a lower level of isolation only than the workspace asks for. What is \
        missing is listed; `--accept` starts it with less.",
    ),
    ("WS0570", "A service, or another build, names a build that the workspace does not have."),
    (
        "WS0571",
        "A build runs as `<name>-build`, and what fetches for it as `<name>-fetch`: names have at most 63 \
        characters.",
    ),
    (
        "WS0572",
        "A build runs as `<name>-build`, and what fetches for it as `<name>-fetch`: nothing else can have that \
        name.",
    ),
];

/// A text about a code of a diagnostic; `None` when there is no such code.
#[must_use]
pub fn explain(code: &str) -> Option<&'static str> {
    ALL.iter()
        .chain(OF_THE_PLANNER)
        .find(|(known, _)| known.eq_ignore_ascii_case(code))
        .map(|(_, text)| *text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_in_order_and_explained() {
        let all: Vec<_> = ALL.iter().chain(OF_THE_PLANNER).collect();
        assert!(all.is_sorted_by(|(a, _), (b, _)| a < b));
        for (code, text) in all {
            assert!(code.len() == 6 && code.starts_with("WS") && code[2..].parse::<u16>().is_ok(), "{code}");
            assert!(text.len() > 30 && !text.contains("  "), "{code}");
        }
        assert!(explain("ws0001").is_some());
        assert_eq!(explain("WS9999"), None);
    }
}
