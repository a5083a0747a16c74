//! Unknown keys, and what to write in the place of those that Compose has and we do not.

use crate::codes;
use crate::raw::read::Cx;
use crate::raw::reload::BuildRaw;
use crate::raw::{FileRaw, LimitsRaw, ServiceRaw};
use crate::report::{error, nearest, shown};
use crate::yaml::Entry;

/// Reports a key that a mapping does not have.
pub(crate) fn unknown_key(entry: &Entry, what: &str, known: &[&'static str], cx: &mut Cx<'_>) {
    let (key, span) = (entry.key.text.as_str(), entry.key.span);
    let issue = error(codes::UNKNOWN_KEY, span, format!("{what} has no key `{}`", shown(key)));
    let before = cx.report.files.setting_before(span).to_owned();
    cx.report.push_with(issue, |issue| {
        if let Some(help) = instead(what, key) {
            return issue.help(help);
        }
        let normal = key.to_ascii_lowercase().replace('-', "_");
        if let Some(word) = nearest(&normal, known.iter().copied()) {
            return issue.help(format!("did you mean `{word}`?")).fix(span, word);
        }
        // A key that stands one level too high or too low.
        if what == "the workspace" && ServiceRaw::KEYS.contains(&key) {
            return issue.help(format!("`{key}` belongs to a service, or into `defaults`"));
        }
        if what == "a service" && FileRaw::KEYS.contains(&key) {
            return issue.help(format!("`{key}` belongs to the workspace, at the left margin"));
        }
        if what == "a service" && LimitsRaw::KEYS.contains(&key) {
            return issue.help(format!("write `limits: {{ {key}: … }}`"));
        }
        let all = known.iter().map(|key| format!("`{before}{key}`")).collect::<Vec<_>>().join(", ");
        issue.help(format!("the keys of {what} are {all}"))
    });
}

/// The long form of a key that was given a short one which it does not have.
pub(crate) fn long_form(key: &str) -> Option<&'static str> {
    Some(match key {
        "network" => "write `network: { subnet: 10.77.0.0/16 }`",
        "volumes" => "write `volumes: { data: {} }`",
        "secrets" => "write `secrets: { key: { file: path } }`",
        "services" => "write `services: { api: { command: ./api } }`",
        "build" => "write `build: { command: make }`",
        "builds" => "write `builds: { app: { command: make, inputs: [src], outputs: [\"out/*\"] } }`",
        "fetch" => "write `fetch: { command: cargo fetch --locked, inputs: [Cargo.lock] }`",
        "watch" => {
            "write `watch: { debounce: 50ms, ignore: [\"*.log\"] }`; what is watched for a service, its own `watch` says"
        }
        "startup" => "write `startup: { tcp: \":8080\", within: 5m }`",
        "ready" => "write `ready: { tcp: \":8080\" }`, or `ready: notify`",
        "liveness" => "write `liveness: { http: \":8080/healthz\" }`",
        "external" => "write `external: { orders: \"host:3000\" }`",
        "requires" => "write `requires: { node: \">=20\" }`",
        "logs" => "write `logs: { max_size: 10M, max_files: 3 }`",
        "headers" => "write `headers: { Host: shop.example }`",
        "restart" => "write `restart: { policy: on-failure }`",
        "stop" => "write `stop: { signal: SIGTERM, grace: 10s }`",
        "limits" => "write `limits: { memory: 512M }`",
        "environment" => "write `environment: { NAME: value }`",
        "depends_on" => "write `depends_on: [db]`",
        _ => return None,
    })
}

/// What to write in the place of a key that other tools have.
fn instead(what: &str, key: &str) -> Option<&'static str> {
    match what {
        "the workspace" => workspace(key),
        "a service" | "defaults" => service(key),
        "a build" => build(key),
        "a build by name" => build_by_name(key),
        "a fetch" => fetch(key),
        "an entry of `watch`" => watch_entry(key),
        "`watch` of the workspace" => watching(key),
        "an entry of `listen`" => listen(key),
        "an action" => Some("write `{ signal: SIGHUP }`, or one of `rebuild`, `restart`, `none`"),
        "a probe" => probe(key),
        "an http probe" => http(key),
        "a hook" => hook(key),
        "a stop" => stop(key),
        "`logs`" => logs(key),
        "`limits`" => limits(key),
        "a restart policy" => restart(key),
        "a mount" => mount(key),
        "a volume" => volume(key),
        "a secret" => secret(key),
        "a link" => link(key),
        "a network" => Some("a workspace has one private network; only its `subnet` can be chosen"),
        _ => None,
    }
}

fn workspace(key: &str) -> Option<&'static str> {
    Some(match key {
        "version" => "leave it out: the format has no versions",
        "networks" => {
            "leave it out: every service has a network of its own, and its `links` say what it may reach"
        }
        "configs" => "leave it out: services see the project read-only; `reads` shows them more",
        "secret" => "did you mean `secrets`?",
        "build" => "write `builds: { app: { command: make } }`, or `build` in a service",
        "develop" | "watching" | "watcher" => {
            "write `watch: { debounce: 50ms, ignore: [\"*.log\"] }`; what is watched for a service, its own `watch` says"
        }
        "jobs" | "build_jobs" | "max_builds" => "write `parallel_builds: 4`",
        "limits" => {
            "limits of the whole workspace are not in this version of ws; `defaults: { limits: … }` sets them for each service"
        }
        "exports" | "posture" => "this key is not in this version of ws",
        "includes" | "imports" | "import" => "write `include: [path/workspace.yaml]`",
        "external_services" | "externals" => "write `external: { orders: \"host:3000\" }`",
        "require" | "tools" | "requirements" => "write `requires: { node: \">=20\" }`",
        _ if key.starts_with("x-") => {
            "put common settings into `defaults`; an anchor (`&name`) can stand where it is used first"
        }
        _ => return None,
    })
}

fn service(key: &str) -> Option<&'static str> {
    Some(match key {
        "image" => "there are no images: write the program to run, `command: [program, argument]`",
        "args" => "put the arguments into `command`: `command: [program, argument]`",
        "entrypoint" | "cmd" | "exec" | "run" => {
            "write program and arguments as `command: [program, argument]`"
        }
        "env" | "environments" => "write `environment: { NAME: value }`",
        "networks" | "network" => {
            "leave it out, and write `links: [\"db:5432\"]` for what the service may reach"
        }
        "network_mode" => {
            "leave it out: every service has a network of its own; `links` says what it may reach"
        }
        "healthcheck" | "health_check" | "health" => {
            "write `ready: { exec: [program, argument], interval: 5s, within: 60s }`, or `http`, `tcp`, `grpc`, `log`, \
             `notify`; `liveness` restarts a service that stops to answer"
        }
        "readiness" | "readiness_probe" => "write `ready: { tcp: \":5432\" }`",
        "liveness_probe" | "livenessProbe" | "watchdog" => {
            "write `liveness: { http: \":8080/healthz\", interval: 10s, failures: 3 }`"
        }
        "startup_probe" | "startupProbe" | "start_period" => {
            "write `startup: { http: \":8080/healthz\", within: 5m }`"
        }
        "deploy" => {
            "write `replicas: 3`, `limits: { cpus: 1.5, memory: 512M }` and `restart: { policy: on-failure, max: 10 }`"
        }
        "resources" => "write `limits: { cpus: 1.5, memory: 512M }`",
        "container_name" | "hostname" | "domainname" => {
            "leave it out: the name of the service is its host name"
        }
        "extends" => "put what services have in common into `defaults`",
        "external_links" => {
            "write `external: { orders: \"host:3000\" }` at the left margin, and `links: [orders]` here"
        }
        "dns" | "dns_search" | "dns_opt" | "extra_hosts" => {
            "leave it out: ws answers for the names of the workspace"
        }
        "mem_limit" | "mem_reservation" | "memswap_limit" => "write `limits: { memory: 512M }`",
        "cpu_count" | "cpu_percent" | "cpu_shares" | "cpu_quota" | "cpu_period" | "cpuset" => {
            "write `limits: { cpus: 1.5 }`"
        }
        "pids_limit" => "write `limits: { pids: 128 }`",
        "ulimits" => "write `limits: { files: 4096 }`",
        "shm_size" => "write `limits: { tmp: 256M }`: it holds /dev/shm too",
        "stop_signal" => "write `stop: { signal: SIGTERM }`",
        "stop_grace_period" | "stop_timeout" => "write `stop: { grace: 10s }`",
        "stop_command" => "write `stop: { command: [program, argument] }`",
        "user" | "group_add" | "userns_mode" => {
            "leave it out: every service runs as a user that is not root and has no rights on the host"
        }
        "privileged"
        | "cap_add"
        | "cap_drop"
        | "security_opt"
        | "devices"
        | "device_cgroup_rules"
        | "sysctls" => "leave it out: services have no capabilities and no devices",
        "read_only" => "leave it out: the project is read-only; `writable` lists what is not",
        "working-dir" | "workdir" | "cwd" | "dir" | "directory" => "write `working_dir: path`",
        "volume" | "mounts" => "write `volumes: [\"name:/data\", \"./dir:/data\"]`",
        "configs" => "services see the project read-only; `reads` shows them more",
        "logging" | "log_driver" | "log_opt" => {
            "write `logs: { max_size: 10M, max_files: 3 }`: ws keeps the output, and `ws logs` shows it"
        }
        "labels" | "annotations" | "label_file" => "leave it out: services have no labels",
        "stdin_open" => "write `stdin: open`",
        "interactive" | "terminal" | "pty" => "write `tty: true`",
        "init" => "leave it out: an init runs in every service",
        "ipc" | "pid" | "uts" | "cgroup" | "cgroup_parent" | "runtime" | "platform" | "isolation" => {
            "leave it out: every service has namespaces of its own"
        }
        "pull_policy" => "leave it out: there are no images",
        "scale" | "instances" => "write `replicas: 3`",
        "develop" => {
            "write `watch: [{ path: src, action: restart, ignore: [\"*.tmp\"] }]` in the service itself; nothing is \
             copied, services see the tree"
        }
        "debounce" | "gitignore" | "poll" => "write `watch: { debounce: 50ms }` at the left margin",
        "outputs" | "fetch" => "it belongs to the build: `build: { command: make, outputs: [\"out/*\"] }`",
        "sources" | "source" => "write `watch: [src]`, or for a task `inputs: [src]`",
        "sockets" | "socket" | "listen_fds" => "write `listen: [8080]`",
        "poststart" | "after_start" => "write `post_start: [./warm-up]`",
        "prestart" | "before_start" => "write `pre_start: [./prepare]`",
        "prestop" | "before_stop" => "write `pre_stop: [./drain]`",
        "post_stop" => "there is no hook after the stop: write a task, or `pre_stop: [./drain]`",
        "success_codes" | "exit_codes" | "success_exit_status" => "write `success_exit_codes: [143]`",
        "posture" | "accept" => "write it into `policy`",
        "egress" | "use" | "toolchains" => "this key is not in this version of ws",
        "restart_policy" => "write `restart: { policy: on-failure, max: 10 }`",
        "depends" | "after" | "needs" | "requires" => {
            "write `depends_on: [db]`, or `links: [\"db:5432\"]` to reach it too"
        }
        "publish" => "write `ports: [\"8080:8080\"]`",
        _ => return None,
    })
}

fn build(key: &str) -> Option<&'static str> {
    Some(match key {
        "context" | "dockerfile" | "dockerfile_inline" | "args" | "target" | "cache_from" | "image"
        | "tags" => {
            "there are no images: write the command that builds the program, `build: { command: make }`"
        }
        "egress" => "this key is not in this version of ws: builds have no network, and neither has `fetch`",
        "run" | "cmd" => "write `command`",
        "use" | "uses" => {
            "to use one of `builds`, write `build: NAME`, or `build: { name: NAME, uses: [out/api] }`"
        }
        "links" | "ports" | "secrets" | "expose" | "listen" => {
            "leave it out: builds have no network and no secrets"
        }
        "depends_on" | "needs" | "requires" => {
            "write `after: [NAME]` for other builds that must be done before"
        }
        "watch" | "sources" => "write `inputs: [src]`: they are watched",
        "cache" | "caches" => "write `volumes: [\"NAME:/where/it/is/seen\"]`",
        "env" => "write `environment: { NAME: value }`",
        "dir" | "cwd" | "workdir" => "write `working_dir: path`",
        _ => return None,
    })
}

fn build_by_name(key: &str) -> Option<&'static str> {
    Some(match key {
        "outputs" | "use" => "write `uses: [out/api]` for what the service uses of what it makes",
        _ if BuildRaw::KEYS.contains(&key) => {
            "it belongs to the build itself, in `builds`; a build of this service alone has no `name`"
        }
        _ => return None,
    })
}

fn fetch(key: &str) -> Option<&'static str> {
    Some(match key {
        "egress" => "this key is not in this version of ws: `fetch` has no network yet",
        "run" | "cmd" => "write `command`",
        "outputs" | "environment" | "working_dir" | "limits" | "volumes" => {
            "it belongs to the build, beside `fetch`"
        }
        _ => return None,
    })
}

fn watch_entry(key: &str) -> Option<&'static str> {
    Some(match key {
        "target" | "initial_sync" => "leave it out: nothing is copied, services see the tree itself",
        "include" => "put it into `path`, which can be a glob: `path: \"src/**/*.js\"`",
        "exec" => {
            "leave it out: `{ signal: SIGHUP }` tells the program, and `pre_start` runs a command at each start"
        }
        "signal" => "write `action: { signal: SIGHUP }`",
        "paths" | "files" => "write an entry for each: `watch: [src, conf]`",
        "exclude" => "write `ignore: [\"*.tmp\"]`",
        "debounce" | "gitignore" | "poll" => "write `watch: { debounce: 50ms }` at the left margin",
        _ => return None,
    })
}

fn watching(key: &str) -> Option<&'static str> {
    Some(match key {
        "path" | "paths" | "action" => {
            "it belongs to `watch` of a service: `watch: [{ path: src, action: restart }]`"
        }
        "delay" | "delay_ms" => "write `debounce: 50ms`",
        "exclude" => "write `ignore: [\"*.log\"]`",
        "interval" => "write `poll: 1s`",
        _ => return None,
    })
}

fn listen(key: &str) -> Option<&'static str> {
    Some(match key {
        "host" | "address" | "bind" => {
            "leave it out: it is on the service's own address; `ports` publishes it"
        }
        "fdname" | "fd_name" => "write `name: http`",
        "protocol" => "leave it out: it is TCP",
        _ => return None,
    })
}

fn probe(key: &str) -> Option<&'static str> {
    Some(match key {
        "test" | "command" | "cmd" => "write `exec: [program, argument]`",
        "retries" | "failure_threshold" => "write `failures: 3`",
        "start_period" | "initial_delay" => {
            "write `within: 60s`: until then it may fail as often as it likes"
        }
        "period" => "write `interval: 5s`",
        "disable" => "leave the probe out",
        "url" | "path" | "http_get" => "write `http: \":8080/healthz\"`",
        "headers" | "status" | "body" => {
            "it belongs to `http`: `http: { url: \":8080/healthz\", status: [200], headers: { Host: shop.example } }`"
        }
        "port" => "write `tcp: \":5432\"`",
        "pattern" | "regex" => "write `log: \"regular expression\"`",
        "sd_notify" | "systemd" => "write `notify: true`",
        _ => return None,
    })
}

fn http(key: &str) -> Option<&'static str> {
    Some(match key {
        "port" | "path" | "host" | "scheme" => "write `url: \":8080/healthz\"`",
        "method" => "leave it out: it is a GET",
        "header" => "write `headers: { Host: shop.example }`",
        "statuses" | "status_code" | "codes" => "write `status: [200, \"300-399\"]`",
        "interval" | "start_interval" | "timeout" | "within" | "failures" => {
            "it belongs beside `http`: `ready: { http: { url: \":8080/healthz\" }, within: 60s }`"
        }
        _ => return None,
    })
}

fn hook(key: &str) -> Option<&'static str> {
    Some(match key {
        "user" | "privileged" => "leave it out: a hook runs as the service does",
        "working_dir" | "environment" => "leave it out: a hook has those of the service",
        "exec" | "run" | "cmd" | "args" => "write `command: [program, argument]`",
        _ => return None,
    })
}

fn stop(key: &str) -> Option<&'static str> {
    Some(match key {
        "timeout" | "grace_period" | "within" => "write `grace: 10s`",
        "exec" | "run" | "cmd" => "write `command: [program, argument]`",
        "pre_stop" => "it belongs to the service: `pre_stop: [./drain]`",
        _ => return None,
    })
}

fn logs(key: &str) -> Option<&'static str> {
    Some(match key {
        "driver" => "leave it out: ws keeps the output in files of its own",
        "options" => {
            "write `max_size` and `max_files` into `logs` itself: `logs: { max_size: 10M, max_files: 3 }`"
        }
        "max-size" | "size" => "write `max_size: 10M`",
        "max-file" | "max_file" | "max-files" | "files" => "write `max_files: 3`",
        "retention" | "age" | "keep" => "write `max_age: 7d`",
        _ => return None,
    })
}

fn limits(key: &str) -> Option<&'static str> {
    Some(match key {
        "cpu" => "did you mean `cpus`?",
        "mem" | "ram" => "did you mean `memory`?",
        "nofile" => "write `files`",
        "nproc" | "processes" => "write `pids`",
        "io" | "cpuset" | "high" => "this limit is not in this version of ws",
        _ => return None,
    })
}

fn restart(key: &str) -> Option<&'static str> {
    Some(match key {
        "condition" => "write `policy: on-failure`",
        "max_attempts" | "retries" => "write `max: 10`",
        "delay" | "window" => "write `backoff: 200ms..30s`",
        _ => return None,
    })
}

fn mount(key: &str) -> Option<&'static str> {
    Some(match key {
        "type" => "leave it out: a source with a slash is a directory, any other a volume",
        "bind" | "volume" | "consistency" => "leave it out: mounts have no options but `read_only`",
        "tmpfs" => "write an entry of `tmpfs`",
        "readonly" | "ro" => "write `read_only: true`",
        _ => return None,
    })
}

fn volume(key: &str) -> Option<&'static str> {
    Some(match key {
        "driver" | "driver_opts" | "external" | "labels" | "name" => {
            "leave it out: a volume is a directory that ws keeps for this copy of the workspace"
        }
        _ => return None,
    })
}

fn secret(key: &str) -> Option<&'static str> {
    Some(match key {
        "external" | "name" | "labels" | "driver" => "write `file: path` or `environment: VARIABLE`",
        "command" => "secrets from a command are not in this version of ws: `file` and `environment` are",
        "env" => "write `environment: VARIABLE`",
        _ => return None,
    })
}

fn link(key: &str) -> Option<&'static str> {
    Some(match key {
        "at" => "forwarding from the service's own localhost is not in this version of ws",
        "alias" | "as" => "a service has no other names than its own",
        "service" | "target" => "write `to: db`",
        _ => return None,
    })
}
