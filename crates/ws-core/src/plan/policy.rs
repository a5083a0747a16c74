//! What is looked for in a service, and what is done about it: everything of the policy that can be decided before it runs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use ws_model::{
    Accept, ConfigPath, HookCommand, Policy, PolicyAction, PolicyRule, Posture, Probe, ProbeKind, Service,
    ServiceName, ViolationClass, Workspace,
};

use super::View;

/// How much output in a second is too much, when the file does not say.
///
/// More than a person or a build writes, and little enough that a loop which logs is seen before its disk is full.
pub const DEFAULT_LOG_RATE: u64 = 10 << 20;

/// For how long processor time must be over its share, when the file does not say.
pub const DEFAULT_CPU_WINDOW: Duration = Duration::from_secs(10);

/// What is looked for in a service, and what is done about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyPlan {
    /// How strict the defaults are.
    pub posture: Posture,
    /// What is done about each class; one that is not here is off.
    pub rules: BTreeMap<ViolationClass, RulePlan>,
    /// Files that are put into the private tmpfs of each run, only to be touched by who looks for secrets. Empty where
    /// they are off. None of them is where something else is.
    pub decoys: Vec<Decoy>,
    /// The programs that may be executed ([`may_execute`](Self::may_execute)); `None`: any, and nothing is looked for.
    pub processes: Option<Vec<String>>,
    /// The processor time that is too much; `None`: nothing is looked for.
    pub cpu: Option<CpuWindow>,
    /// The bytes of output in a second that are too much; `None`: nothing is looked for.
    pub log_rate: Option<u64>,
    /// What is not told, with where the file says so.
    pub accept: Vec<(Accept, ConfigPath)>,
}

/// What is done about a class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulePlan {
    /// What.
    pub action: PolicyAction,
    /// From how many on, at least 1; until then they are told.
    pub after: u32,
    /// Within what time they count together; `None`: in the whole life of a run.
    pub within: Option<Duration>,
    /// Who says so.
    pub from: RuleSource,
}

/// Who says what is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleSource {
    /// The file, here.
    File(ConfigPath),
    /// Nobody: it is the default of this posture.
    Default(Posture),
}

impl fmt::Display for RuleSource {
    /// `services.api.policy.network`, `default`, `default (strict)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(at) => at.fmt(f),
            Self::Default(Posture::Default) => f.write_str("default"),
            Self::Default(Posture::Strict) => f.write_str("default (strict)"),
        }
    }
}

/// A file that is there only to be touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoy {
    /// Its path inside, in the private tmpfs of the run. The directories above it are made, mode 0700, as the
    /// service's user, who owns the file as well; its mode is 0600. It can be read: an open that is refused is not seen.
    pub path: PathBuf,
    /// What is in it: no two services have the same.
    pub contents: Arc<str>,
    /// What is done when it is touched.
    pub rule: RulePlan,
}

/// Processor time that is too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuWindow {
    /// In per cent of one processor.
    pub percent: u32,
    /// When it is that on the whole over this time.
    pub window: Duration,
}

impl PolicyPlan {
    /// Whether violations of a class are looked for.
    #[must_use]
    pub fn detects(&self, class: ViolationClass) -> bool {
        let on = self.rules.get(&class).is_some_and(|rule| rule.action != PolicyAction::Off);
        match class {
            ViolationClass::Network
            | ViolationClass::Memory
            | ViolationClass::Pids
            | ViolationClass::Syscalls
            | ViolationClass::Filesystem => on,
            ViolationClass::Decoys => !self.decoys.is_empty(),
            ViolationClass::Cpu => on && self.cpu.is_some(),
            ViolationClass::Processes => on && self.processes.is_some(),
            ViolationClass::Logs => on && self.log_rate.is_some(),
        }
    }

    /// Whether a program may be executed: by its path inside, with links followed or not.
    #[must_use]
    pub fn may_execute(&self, program: &Path) -> bool {
        let Some(allowed) = &self.processes else { return true };
        allowed.iter().any(|allowed| {
            if allowed.contains('/') {
                wildcard(allowed, &program.to_string_lossy())
            } else {
                let in_path = program.parent().is_some_and(|parent| {
                    super::PATH.split(':').any(|directory| Path::new(directory) == parent)
                });
                let name = program.file_name().unwrap_or_default();
                in_path && wildcard(allowed, &name.to_string_lossy())
            }
        })
    }
}

/// Whether a text is what a pattern says; `*` at its end stands for anything.
pub(crate) fn wildcard(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => text.starts_with(start),
        None => text == pattern,
    }
}

/// What is done when nobody says otherwise.
#[must_use]
pub fn default_action(class: ViolationClass, posture: Posture) -> PolicyAction {
    match (class, posture) {
        // What is off until it is set: then it is told.
        (
            ViolationClass::Cpu | ViolationClass::Pids | ViolationClass::Filesystem | ViolationClass::Logs,
            _,
        )
        | (
            ViolationClass::Network | ViolationClass::Syscalls | ViolationClass::Processes,
            Posture::Default,
        ) => PolicyAction::Report,
        // The kernel killed something of it: the restart policy decides, as with any failure.
        (ViolationClass::Memory, Posture::Default) => PolicyAction::Restart,
        // Those that nothing opens unasked; see `PROBED` for the others.
        (ViolationClass::Decoys, _)
        | (
            ViolationClass::Network
            | ViolationClass::Memory
            | ViolationClass::Syscalls
            | ViolationClass::Processes,
            Posture::Strict,
        ) => PolicyAction::Kill,
    }
}

/// What a decoy pretends to be.
#[derive(Debug, Clone, Copy)]
enum Bait {
    SshKey,
    PgpKey,
    Wallet,
    Browser,
    Aws,
    Kube,
    Docker,
    Gcloud,
}

/// Below the home; nothing opens these unasked.
const QUIET: [(&str, Bait); 6] = [
    (".ssh/id_ed25519", Bait::SshKey),
    (".ssh/id_rsa", Bait::SshKey),
    (".gnupg/private-keys-v1.d/8F1C5D3A0B7E4926D1A4C7F05E92B8136A0D4CE7.key", Bait::PgpKey),
    (".mozilla/firefox/k3x9q2lm.default-release/logins.json", Bait::Browser),
    (".config/google-chrome/Default/Login Data", Bait::Browser),
    (".bitcoin/wallet.dat", Bait::Wallet),
];

/// Below the home; libraries and tools look at these by themselves. `.npmrc`, `.netrc`, `.gitconfig` and `pip.conf` are
/// never among them: those are opened by every second program.
const PROBED: [(&str, Bait); 4] = [
    (".aws/credentials", Bait::Aws),
    (".kube/config", Bait::Kube),
    (".docker/config.json", Bait::Docker),
    (".config/gcloud/credentials.db", Bait::Gcloud),
];

/// Decides the policy of a service.
pub(super) fn plan(workspace: &Workspace, name: &ServiceName, service: &Service, view: &View) -> PolicyPlan {
    let posture = service.policy.posture.or(workspace.policy.posture).unwrap_or_default();
    let at = ConfigPath::service(name);
    let rules: BTreeMap<ViolationClass, RulePlan> = ViolationClass::ALL
        .into_iter()
        .map(|class| (class, rule(class, posture, &service.policy, &at, &workspace.policy)))
        .collect();
    let setting = |class: ViolationClass, get: &dyn Fn(&PolicyRule) -> Option<u64>| {
        let of = |policy: &Policy| policy.rules.get(&class).and_then(get);
        of(&service.policy).or_else(|| of(&workspace.policy))
    };
    let is_on = |class: ViolationClass| rules[&class].action != PolicyAction::Off;
    let over = |rule: &PolicyRule| rule.over;
    let cpu = setting(ViolationClass::Cpu, &over).filter(|_| is_on(ViolationClass::Cpu)).map(|percent| {
        let lasting =
            |rule: &PolicyRule| rule.lasting.map(|it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX));
        CpuWindow {
            percent: u32::try_from(percent).unwrap_or(u32::MAX),
            window: setting(ViolationClass::Cpu, &lasting).map_or(DEFAULT_CPU_WINDOW, Duration::from_millis),
        }
    });
    let log_rate =
        is_on(ViolationClass::Logs).then(|| setting(ViolationClass::Logs, &over).unwrap_or(DEFAULT_LOG_RATE));
    let processes = service.policy.processes.as_ref().or(workspace.policy.processes.as_ref());
    let processes = processes.filter(|_| is_on(ViolationClass::Processes)).map(|declared| {
        let mut allowed = declared.clone();
        allowed.extend(own_programs(service));
        allowed.sort_unstable();
        allowed.dedup();
        allowed
    });
    let accept_of = |policy: &Policy, at: &ConfigPath| -> Vec<(Accept, ConfigPath)> {
        let at = at.key("policy").key("accept");
        policy.accept.iter().enumerate().map(|(i, accept)| (accept.clone(), at.index(i))).collect()
    };
    let mut accept = accept_of(&service.policy, &at);
    accept.extend(accept_of(&workspace.policy, &ConfigPath::root()));
    PolicyPlan {
        posture,
        decoys: decoys(workspace, name, view, posture, &rules[&ViolationClass::Decoys]),
        rules,
        processes,
        cpu,
        log_rate,
        accept,
    }
}

fn rule(
    class: ViolationClass,
    posture: Posture,
    own: &Policy,
    at: &ConfigPath,
    of_workspace: &Policy,
) -> RulePlan {
    let own = own.rules.get(&class);
    let shared = of_workspace.rules.get(&class);
    let place = |at: &ConfigPath| at.key("policy").key(class.as_str());
    // Where the action stands; what only has a threshold or a share does not say what is done.
    let action = |rule: Option<&PolicyRule>| rule.and_then(|rule| rule.action);
    let from = if own.is_some() {
        RuleSource::File(place(at))
    } else if shared.is_some() {
        RuleSource::File(place(&ConfigPath::root()))
    } else {
        RuleSource::Default(posture)
    };
    // A threshold belongs to the action that it stands beside.
    let threshold = own.or(shared);
    RulePlan {
        action: action(own).or_else(|| action(shared)).unwrap_or_else(|| default_action(class, posture)),
        after: threshold.and_then(|rule| rule.after).unwrap_or(1).max(1),
        within: threshold.and_then(|rule| rule.within),
        from,
    }
}

/// The programs that the file itself wants to be executed.
fn own_programs(service: &Service) -> Vec<String> {
    let hooks = &service.hooks;
    let commands = [&hooks.pre_start, &hooks.post_start, &hooks.pre_stop].into_iter().flatten();
    let commands = commands.map(|HookCommand { command, .. }| command);
    let probes = [&service.startup, &service.ready, &service.liveness].into_iter().flatten();
    let probed = probes.filter_map(|Probe { kind, .. }| match kind {
        ProbeKind::Exec(command) => Some(command),
        ProbeKind::Http { .. }
        | ProbeKind::Tcp { .. }
        | ProbeKind::Log { .. }
        | ProbeKind::Notify
        | ProbeKind::Grpc { .. } => None,
    });
    [&service.command]
        .into_iter()
        .chain(commands)
        .chain(probed)
        .chain(&service.stop.command)
        .filter_map(|command| super::absolute_program(&command.0, &service.working_dir).into_iter().next())
        .collect()
}

fn decoys(
    workspace: &Workspace,
    name: &ServiceName,
    view: &View,
    posture: Posture,
    rule: &RulePlan,
) -> Vec<Decoy> {
    if rule.action == PolicyAction::Off {
        return Vec::new();
    }
    let said = matches!(rule.from, RuleSource::File(_));
    let probed = match (said, posture) {
        (false, Posture::Default) => RulePlan { action: PolicyAction::Report, ..rule.clone() },
        (true, _) | (false, Posture::Strict) => rule.clone(),
    };
    let quiet = QUIET.iter().map(|bait| (bait, rule));
    let all = quiet.chain(PROBED.iter().map(|bait| (bait, &probed)));
    all.filter_map(|((below, bait), rule)| {
        let path = view.home.join(below);
        is_free(view, &path, below).then(|| Decoy {
            contents: contents(*bait, &format!("{} {name} {}", workspace.root.display(), path.display())),
            path,
            rule: rule.clone(),
        })
    })
    .collect()
}

/// Whether nothing that the file declares is there, above or beside it.
fn is_free(view: &View, path: &Path, below: &str) -> bool {
    let first = Path::new(below).components().next().map(|first| view.home.join(first));
    let taken =
        |target: &Path| path.starts_with(target) || first.as_ref().is_some_and(|it| target.starts_with(it));
    let binds = view.binds.iter().map(|bind| bind.target.as_path());
    let system = view.system.iter().map(|bind| bind.target.as_path());
    let tmpfs = view.tmpfs.iter().map(|(target, _)| target.as_path());
    let repo = view.repo.iter().map(|repo| repo.root.as_path());
    let files = view.files.iter().map(|(target, _)| target.as_path());
    // The home itself is in the private tmpfs.
    let scratch = view.scratch.iter().any(|(directory, _)| *directory == view.home);
    scratch && !binds.chain(system).chain(tmpfs).chain(repo).chain(files).any(taken)
}

/// What a decoy holds: looks like what it pretends to be, works for nothing, and is found again when it turns up
/// somewhere. As if it were not there for a library that looks at it: nothing in it is a default.
fn contents(bait: Bait, of: &str) -> Arc<str> {
    let word = |length: usize, part: u32| canary(of, part, length);
    let text = match bait {
        Bait::SshKey => {
            let lines: Vec<String> = (0..5).map(|line| canary(of, line, 70)).collect();
            format!(
                "-----BEGIN OPENSSH PRIVATE KEY-----\n\
                 b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW\n\
                 {}\n-----END OPENSSH PRIVATE KEY-----\n",
                lines.join("\n")
            )
        }
        Bait::PgpKey => format!(
            "Created: 20240311T091512\nKey: (private-key (ecc (curve Ed25519)(flags eddsa)(q #40{}#)(d #{}#)))\n",
            hex(of, 0),
            hex(of, 1)
        ),
        Bait::Wallet => format!("minversion 60000\nmkey {}{}\nname default\n", hex(of, 0), hex(of, 1)),
        Bait::Browser => format!(
            "{{\"nextId\":2,\"logins\":[{{\"id\":1,\"hostname\":\"https://accounts.internal.invalid\",\
             \"encryptedUsername\":\"{}\",\"encryptedPassword\":\"{}\"}}],\"version\":3}}\n",
            word(40, 0),
            word(56, 1)
        ),
        Bait::Aws => format!(
            "[production-backup]\naws_access_key_id = AKIA{}\naws_secret_access_key = {}\n",
            hex(of, 0)[..16].to_uppercase(),
            word(40, 1)
        ),
        Bait::Kube => format!(
            "apiVersion: v1\nkind: Config\nclusters: []\ncontexts: []\nusers:\n- name: admin\n  user:\n    token: {}\n",
            word(64, 0)
        ),
        Bait::Docker => {
            format!("{{\"auths\":{{\"registry.internal.invalid\":{{\"auth\":\"{}\"}}}}}}\n", word(48, 0))
        }
        Bait::Gcloud => format!("admin@internal.invalid {}\n", word(64, 0)),
    };
    text.into()
}

fn hash(of: &str, part: u32) -> [u8; 32] {
    Sha256::digest(format!("{of}\0{part}").as_bytes()).into()
}

fn hex(of: &str, part: u32) -> String {
    hash(of, part).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// So many letters and digits that nothing else has.
fn canary(of: &str, part: u32, length: usize) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let bytes = (0_u32..).flat_map(|more| hash(of, part.wrapping_mul(1000).wrapping_add(more)));
    bytes.map(|byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()])).take(length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoys_look_like_what_they_are_not_and_no_two_are_the_same() {
        let key = contents(Bait::SshKey, "api");
        assert!(key.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n"), "{key}");
        assert_eq!(key, contents(Bait::SshKey, "api"), "the same each time");
        assert_ne!(key, contents(Bait::SshKey, "db"));
        assert!(key.lines().all(|line| line.len() <= 70), "{key}");
        let docker = contents(Bait::Docker, "api");
        let docker: serde_json::Value = serde_json::from_str(&docker).expect("a file that tools can read");
        assert!(docker["auths"].is_object());
        // The default profile of the SDKs is not in it, so that they go on as without the file.
        assert!(!contents(Bait::Aws, "api").contains("[default]"));
        assert!(!contents(Bait::Kube, "api").contains("current-context"));
    }

    #[test]
    fn programs_are_allowed_by_path_by_name_and_by_their_beginning() {
        let allowed = ["node", "/app/bin/*", "python3*", "/usr/libexec/git"];
        let policy =
            PolicyPlan { processes: Some(allowed.map(str::to_owned).into()), ..PolicyPlan::default() };
        for (program, may) in [
            ("/usr/bin/node", true),
            ("/bin/node", true),
            ("/tmp/node", false),
            ("/app/bin/tool", true),
            ("/app/bi", false),
            ("/usr/bin/python3.11", true),
            ("/usr/libexec/git", true),
            ("/usr/libexec/git-remote", false),
            ("/usr/bin/curl", false),
        ] {
            assert_eq!(policy.may_execute(Path::new(program)), may, "{program}");
        }
        assert!(PolicyPlan::default().may_execute(Path::new("/usr/bin/curl")));
    }
}
