//! What one service sees of the project and of the host, and which directories are channels.
//!
//! The project is seen read-only entry by entry; what it may write and what it names itself is mounted
//! after that, parents before children. A directory that another service writes is left out (at the top
//! of the project) or hidden (below), unless it is linked to that service or names the directory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use ws_model::{
    ByteSize, ConfigPath, MountSource, Problem, SecretSource, SecretTarget, Service, ServiceKind,
    ServiceName, VolumeName, Workspace,
};

use crate::text::some_quoted;

use super::base::{Base, HOSTNAME, in_system};
use super::facts::{Facts, PathKind};
use super::{Bind, BindSource, Channel, DEFAULT_TMP, Exclude, RepoView, View, unknown_name};

/// Names at the top of the project that are left out, whole, when a secret or an env file lies in them.
const SECRET_DIRECTORIES: &[&str] = &["secrets", ".secrets"];

/// Builds the views of all services, one after the other, and knows what they have in common.
#[derive(Debug)]
pub(super) struct Views<'a> {
    workspace: &'a Workspace,
    facts: &'a Facts,
    base: &'a Base,
    /// Directories of the host that services write, with who declares them.
    claims: BTreeMap<PathBuf, Claim<'a>>,
    /// The claims that are entries of the project itself, by name.
    at_the_top: Vec<(String, Claim<'a>)>,
    /// The claims that the base view would show, because they lie below an entry of the project or in
    /// the system, by the directory that they are in.
    exposed: BTreeMap<PathBuf, Exposed>,
    /// The claims that a service names.
    owned: BTreeMap<&'a ServiceName, BTreeSet<PathBuf>>,
    /// The claims that a service can write.
    written: BTreeMap<&'a ServiceName, BTreeSet<PathBuf>>,
    /// Who sees a claim without being able to write it.
    readers: BTreeMap<PathBuf, BTreeSet<&'a ServiceName>>,
    /// Who would see a file that nobody may see.
    leaks: BTreeMap<PathBuf, BTreeSet<&'a ServiceName>>,
}

#[derive(Debug, Clone, Default)]
struct Claim<'a> {
    /// Who names exactly this directory.
    owners: BTreeSet<&'a ServiceName>,
    /// Who can write it: the owners, and those of the directories that it lies in.
    writers: BTreeSet<&'a ServiceName>,
}

/// The claims directly in one directory.
#[derive(Debug, Default)]
struct Exposed {
    paths: BTreeSet<PathBuf>,
    /// What else is in the directory, and whether each is a directory; `None` when that is not known or
    /// cannot be bound.
    others: Option<Vec<(PathBuf, bool)>>,
}

/// What stands at a path inside.
#[derive(Debug, Clone)]
pub(super) enum Top {
    /// Something of the service's own with something in it: a volume, a generated file, `/proc`.
    Own,
    /// A directory that is empty when a run starts.
    Empty,
    /// A mount of this path of the host.
    Host { source: PathBuf, writable: bool },
    /// The project's root.
    Repo,
}

/// What is seen at a path inside.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Nothing,
    Own,
    /// Below a directory that is empty when a run starts, or that directory.
    Empty,
    Host {
        path: PathBuf,
        writable: bool,
    },
}

/// The mounts of one view, for looking up what a path shows.
#[derive(Debug)]
struct Inside<'a> {
    /// What all views have in common.
    ground: &'a BTreeMap<PathBuf, Top>,
    /// What is the service's own.
    tops: BTreeMap<PathBuf, Top>,
    repo: &'a RepoView,
    symlinks: &'a [(PathBuf, PathBuf)],
}

impl Inside<'_> {
    fn see(&self, path: &Path) -> Seen {
        let path = self.resolve(path);
        let Some((at, top)) = path.ancestors().find_map(|above| self.mount(above)) else {
            return Seen::Nothing;
        };
        let rest = path.strip_prefix(at).unwrap_or(Path::new(""));
        match top {
            Top::Own => Seen::Own,
            Top::Empty => Seen::Empty,
            Top::Host { source, writable } => Seen::Host { path: join(source, rest), writable: *writable },
            Top::Repo => match rest.components().next() {
                None => Seen::Own,
                Some(Component::Normal(name)) if name.to_str().is_some_and(|name| self.repo.shows(name)) => {
                    Seen::Host { path: path.clone(), writable: false }
                }
                Some(_) => Seen::Nothing,
            },
        }
    }

    /// What is mounted exactly here.
    fn mount(&self, path: &Path) -> Option<(&PathBuf, &Top)> {
        self.tops.get_key_value(path).or_else(|| self.ground.get_key_value(path))
    }

    /// Whether `path` of the host is seen at `target`.
    fn shows(&self, target: &Path, path: &Path) -> bool {
        matches!(self.see(target), Seen::Host { path: seen, .. } if seen == path)
    }

    /// Follows the symbolic links of the read-only root.
    fn resolve(&self, path: &Path) -> PathBuf {
        let mut path = path.to_path_buf();
        // As many as there are links, so that a circle of them ends.
        for _ in self.symlinks {
            let hit = self.symlinks.iter().find(|(link, _)| path.starts_with(link));
            let Some((link, to)) = hit else { break };
            let rest = path.strip_prefix(link).unwrap_or(Path::new(""));
            path = lexical(&join(&link.parent().unwrap_or(Path::new("/")).join(to), rest));
        }
        path
    }
}

/// `a.join(b)` without the slash that joining nothing adds.
fn join(path: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { path.to_path_buf() } else { path.join(rest) }
}

/// An absolute path without `.` and `..`.
pub(super) fn lexical(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) | Component::Normal(_) => clean.push(part),
        }
    }
    clean
}

impl<'a> Views<'a> {
    /// Gathers who writes what.
    pub(super) fn new(workspace: &'a Workspace, facts: &'a Facts, base: &'a Base) -> Self {
        let mut claims: BTreeMap<PathBuf, Claim<'a>> = BTreeMap::new();
        // What a build makes is for everybody to see.
        let claimants = workspace.services.iter().filter(|(_, service)| service.kind != ServiceKind::Build);
        for (name, service) in claimants {
            let declared = service.writable.iter();
            let mounted = service.volumes.iter().filter(|mount| !mount.read_only).filter_map(|mount| {
                match &mount.source {
                    MountSource::Host(path) => Some(path),
                    MountSource::Volume(_) => None,
                }
            });
            for path in default_writable(workspace, service).into_iter().chain(declared).chain(mounted) {
                if facts.paths.get(path) == Some(&PathKind::Directory) && !workspace.root.starts_with(path) {
                    claims.entry(path.clone()).or_default().owners.insert(name);
                }
            }
        }
        let owners: BTreeMap<PathBuf, BTreeSet<&ServiceName>> =
            claims.iter().map(|(path, claim)| (path.clone(), claim.owners.clone())).collect();
        for (path, claim) in &mut claims {
            claim.writers =
                path.ancestors().filter_map(|above| owners.get(above)).flatten().copied().collect();
        }
        let mut exposed: BTreeMap<PathBuf, Exposed> = BTreeMap::new();
        for path in claims.keys() {
            let Some(parent) = path.parent() else { continue };
            let in_view = if path.starts_with(&workspace.root) {
                parent != workspace.root
            } else {
                base.system.iter().any(|bind| bind.directory && path.starts_with(&bind.target))
            };
            if in_view {
                exposed.entry(parent.to_path_buf()).or_default().paths.insert(path.clone());
            }
        }
        for (parent, claims) in &mut exposed {
            let Some(entries) = facts.entries.get(parent) else { continue };
            claims.others = entries
                .iter()
                .map(|(name, kind)| (parent.join(name), kind))
                .filter(|(path, _)| !claims.paths.contains(path))
                .map(|(path, kind)| match kind {
                    PathKind::Directory => Some((path, true)),
                    PathKind::File => Some((path, false)),
                    PathKind::Symlink(_) => None,
                })
                .collect();
        }
        let mut owned: BTreeMap<&ServiceName, BTreeSet<PathBuf>> = BTreeMap::new();
        let mut written: BTreeMap<&ServiceName, BTreeSet<PathBuf>> = BTreeMap::new();
        for (path, claim) in &claims {
            for name in &claim.owners {
                owned.entry(name).or_default().insert(path.clone());
            }
            for name in &claim.writers {
                written.entry(name).or_default().insert(path.clone());
            }
        }
        let at_the_top = claims
            .iter()
            .filter(|(path, _)| path.parent() == Some(&workspace.root))
            .filter_map(|(path, claim)| Some((file_name(path)?, claim.clone())))
            .collect();
        Self {
            workspace,
            facts,
            base,
            claims,
            at_the_top,
            exposed,
            owned,
            written,
            readers: BTreeMap::new(),
            leaks: BTreeMap::new(),
        }
    }

    /// The view of one service.
    pub(super) fn view(
        &mut self,
        name: &'a ServiceName,
        service: &'a Service,
        problems: &mut Vec<Problem>,
    ) -> View {
        let at = ConfigPath::service(name);
        let scratch_size = service.limits.tmp.unwrap_or(DEFAULT_TMP);
        let linked: BTreeSet<&ServiceName> = service.links.iter().map(|link| &link.to).collect();
        let repo = self.repo(name, &linked);

        let mut scratch = self.base.scratch.clone();
        scratch.push((Path::new("/run").join(name.as_str()), 0o755));
        let secrets = self.secrets(service, &at, problems);
        if !secrets.files.is_empty() {
            scratch.push((PathBuf::from(SECRETS), 0o500));
        }
        scratch.sort();
        scratch.dedup_by(|a, b| a.0 == b.0);

        let mut files = self.base.files.clone();
        files.push(hostname(name));
        files.sort();

        let mut mounts = Mounts { binds: BTreeMap::new(), tmpfs: BTreeMap::new() };
        self.add_writable(service, &at, &mut mounts, problems);
        self.add_reads(service, &at, &mut mounts, problems);
        self.add_volumes(service, &at, &mut mounts, problems);
        self.add_tmpfs(service, &at, scratch_size, &mut mounts, problems);

        let own = [Path::new("/run").join(name.as_str()), PathBuf::from(SECRETS)];
        let tops = own.into_iter().map(|path| (path, Top::Empty)).collect();
        let mut inside =
            Inside { ground: &self.base.ground, tops, repo: &repo, symlinks: &self.base.symlinks };
        self.check_mount_points(&mounts, &inside, problems);
        inside.tops.extend(mounts.binds.iter().map(|(path, (bind, _))| (path.clone(), top(bind))));
        inside.tops.extend(mounts.tmpfs.keys().map(|path| (path.clone(), Top::Empty)));

        // A build sees what services write: it is made of it, and they run what it makes.
        if service.kind != ServiceKind::Build {
            self.hide_others(name, &linked, &mut mounts, &mut inside);
        }
        self.add_working_dir(service, &at, &mut mounts, &mut inside, problems);
        self.look_for_leaks(name, &mounts, &inside);
        check_programs(service, &at, &inside, problems);

        View {
            uid: self.base.uid,
            gid: self.base.gid,
            user: self.base.user.clone(),
            home: self.base.home.clone(),
            symlinks: self.base.symlinks.clone(),
            files,
            system: self.base.system.clone(),
            scratch,
            scratch_size,
            binds: mounts.binds.into_values().map(|(bind, _)| bind).collect(),
            tmpfs: mounts.tmpfs.into_iter().map(|(path, (size, _))| (path, size)).collect(),
            repo: Some(repo),
            secret_files: secrets.files,
            secret_env: secrets.env,
        }
    }

    /// What of the project's top level is left out.
    fn repo(&self, name: &ServiceName, linked: &BTreeSet<&ServiceName>) -> RepoView {
        let root = &self.workspace.root;
        let mut exclude = BTreeSet::from([
            Exclude::Name(".git".to_owned()),
            Exclude::Name(".env".to_owned()),
            Exclude::Prefix(".env.".to_owned()),
        ]);
        for path in self.workspace.policy_inputs.iter().filter(|path| path.parent() == Some(root)) {
            exclude.extend(file_name(path).map(Exclude::Name));
        }
        for path in self.confidential() {
            let Ok(rest) = path.strip_prefix(root) else { continue };
            let mut parts = rest.components();
            let first = parts.next().and_then(|part| part.as_os_str().to_str());
            let nested = parts.next().is_some();
            if let Some(first) = first
                && (!nested || SECRET_DIRECTORIES.contains(&first))
            {
                exclude.insert(Exclude::Name(first.to_owned()));
            }
        }
        let builds =
            self.workspace.services.get(name).is_some_and(|service| service.kind == ServiceKind::Build);
        for (entry, claim) in self.at_the_top.iter().filter(|_| !builds) {
            if !claim.writers.contains(name) && claim.owners.is_disjoint(linked) {
                exclude.insert(Exclude::Name(entry.clone()));
            }
        }
        // A name that a rule by its beginning leaves out need not be named.
        let exclude = exclude
            .into_iter()
            .filter(|rule| !matches!(rule, Exclude::Name(name) if name.starts_with(".env.")))
            .collect();
        RepoView { root: root.clone(), exclude }
    }

    /// Files whose contents no service may see.
    fn confidential(&self) -> impl Iterator<Item = &'a Path> + use<'a> {
        let workspace = self.workspace;
        let secrets = workspace.secrets.values().filter_map(|source| match source {
            SecretSource::File(path) => Some(path.as_path()),
            SecretSource::Environment(_) => None,
        });
        workspace.hidden.iter().map(PathBuf::as_path).chain(secrets)
    }

    fn secrets(&self, service: &Service, at: &ConfigPath, problems: &mut Vec<Problem>) -> Secrets {
        let mut secrets = Secrets::default();
        for (i, used) in service.secrets.iter().enumerate() {
            let at = at.key("secrets").index(i);
            match self.workspace.secrets.get(&used.name) {
                None => {
                    let known = self.workspace.secrets.keys().map(AsRef::as_ref);
                    problems.push(unknown_name(
                        "WS0515",
                        at,
                        "`secrets`",
                        "secret",
                        used.name.as_str(),
                        known,
                    ));
                    continue;
                }
                Some(SecretSource::File(path)) => {
                    let source = ConfigPath::root().key("secrets").key(&used.name);
                    if !problems.iter().any(|problem| problem.at == source) {
                        self.standing(path, source, Want::File, problems);
                    }
                }
                Some(SecretSource::Environment(_)) => {}
            }
            match &used.target {
                SecretTarget::File => {
                    secrets.files.push((used.name.clone(), Path::new(SECRETS).join(used.name.as_str())));
                }
                SecretTarget::Env(variable) => secrets.env.push((used.name.clone(), variable.clone())),
            }
        }
        secrets
    }

    fn add_writable(
        &self,
        service: &'a Service,
        at: &ConfigPath,
        mounts: &mut Mounts,
        problems: &mut Vec<Problem>,
    ) {
        let mut dirs: BTreeMap<&Path, ConfigPath> = BTreeMap::new();
        if let Some(path) = default_writable(self.workspace, service)
            && self.facts.paths.get(path) == Some(&PathKind::Directory)
        {
            dirs.insert(path, at.key("working_dir"));
        }
        for (i, path) in service.writable.iter().enumerate() {
            let at = at.key("writable").index(i);
            if self.standing(path, at.clone(), Want::Directory, problems).is_some()
                && self.may_be_written(path, &at, problems)
            {
                dirs.entry(path).or_insert(at);
            }
        }
        let mut made = BTreeSet::new();
        for (i, path) in service.makes.iter().enumerate() {
            let at = at.key("outputs").index(i);
            let missing = !self.facts.paths.contains_key(path);
            let stands = missing || self.standing(path, at.clone(), Want::Directory, problems).is_some();
            if stands && self.may_be_written(path, &at, problems) {
                if missing {
                    made.insert(path.as_path());
                }
                dirs.entry(path).or_insert(at);
            }
        }
        for (path, at) in &dirs {
            let covered = path.ancestors().skip(1).any(|above| dirs.contains_key(above));
            if !covered && self.target_is_free(path, at, problems) {
                let bind = Bind { create: made.contains(path), ..host_bind(path, path, true, true) };
                mounts.bind(bind, at.clone(), problems);
            }
        }
    }

    /// Whether a directory holds nothing that decides what runs.
    fn may_be_written(&self, path: &Path, at: &ConfigPath, problems: &mut Vec<Problem>) -> bool {
        let Some(input) = self.workspace.policy_inputs.iter().find(|input| input.starts_with(path)) else {
            return true;
        };
        problems.push(
            Problem::error(
                "WS0533",
                at.clone(),
                format!("`{}` cannot be writable: it holds `{}`", self.shown(path), self.shown(input)),
            )
            .label("a service could change what runs and with which rights")
            .help("name the directories below it that need it"),
        );
        false
    }

    fn add_reads(
        &self,
        service: &Service,
        at: &ConfigPath,
        mounts: &mut Mounts,
        problems: &mut Vec<Problem>,
    ) {
        for (i, path) in service.reads.iter().enumerate() {
            let at = at.key("reads").index(i);
            let Some(directory) = self.standing(path, at.clone(), Want::Any, problems) else { continue };
            // It may be written already, and that includes reading.
            let written =
                path.ancestors().any(|above| mounts.binds.get(above).is_some_and(|(bind, _)| bind.writable));
            if written || mounts.binds.contains_key(path) || !self.target_is_free(path, &at, problems) {
                continue;
            }
            if self.base.home.starts_with(path) {
                problems.push(
                    Problem::warning(
                        "WS0536",
                        at.clone(),
                        format!("`{}` holds your whole home", path.display()),
                    )
                    .help("name what is needed below it"),
                );
            }
            if ["/run", "/var/run"].iter().any(|tree| path.starts_with(tree)) {
                problems.push(
                    Problem::warning(
                        "WS0537",
                        at.clone(),
                        format!("`{}` belongs to the running host", path.display()),
                    )
                    .help("a socket of the host is a way out of the sandbox, whatever the links say"),
                );
            }
            mounts.bind(host_bind(path, path, false, directory), at, problems);
        }
    }

    fn add_volumes(
        &self,
        service: &Service,
        at: &ConfigPath,
        mounts: &mut Mounts,
        problems: &mut Vec<Problem>,
    ) {
        for (i, mount) in service.volumes.iter().enumerate() {
            let at = at.key("volumes").index(i);
            let bind = match &mount.source {
                MountSource::Volume(volume) => {
                    if !self.workspace.volumes.contains_key(volume) {
                        let known = self.workspace.volumes.keys().map(AsRef::as_ref);
                        problems.push(unknown_name(
                            "WS0514",
                            at,
                            "`volumes`",
                            "volume",
                            volume.as_str(),
                            known,
                        ));
                        continue;
                    }
                    Bind {
                        source: BindSource::Volume(volume.clone()),
                        target: mount.target.clone(),
                        writable: !mount.read_only,
                        directory: true,
                        create: false,
                        owner_mapped: true,
                    }
                }
                MountSource::Host(path) => {
                    let Some(directory) = self.standing(path, at.clone(), Want::Any, problems) else {
                        continue;
                    };
                    if !mount.read_only && !directory {
                        problems.push(
                            Problem::error(
                                "WS0532",
                                at,
                                format!("`{}` is a file, not a directory", self.shown(path)),
                            )
                            .label("cannot be mounted to be written")
                            .help("programs replace a file instead of writing to it: mount its directory"),
                        );
                        continue;
                    }
                    if !mount.read_only && !self.may_be_written(path, &at, problems) {
                        continue;
                    }
                    host_bind(path, &mount.target, !mount.read_only, directory)
                }
            };
            if self.target_is_free(&bind.target, &at, problems) {
                // The same directory in `writable` or `reads` and here: this says more.
                if mounts.binds.get(&bind.target).is_some_and(|(old, _)| old.source == bind.source) {
                    mounts.binds.remove(&bind.target);
                }
                mounts.bind(bind, at, problems);
            }
        }
    }

    fn add_tmpfs(
        &self,
        service: &Service,
        at: &ConfigPath,
        size: ByteSize,
        mounts: &mut Mounts,
        problems: &mut Vec<Problem>,
    ) {
        for (i, tmpfs) in service.tmpfs.iter().enumerate() {
            let at = at.key("tmpfs").index(i);
            if self.target_is_free(&tmpfs.target, &at, problems)
                && mounts.is_free(&tmpfs.target, &at, problems)
            {
                mounts.tmpfs.insert(tmpfs.target.clone(), (tmpfs.size.unwrap_or(size), at));
            }
        }
    }

    /// The working directory must be there; outside of everything that is seen, it is bound read-only.
    fn add_working_dir(
        &self,
        service: &Service,
        at: &ConfigPath,
        mounts: &mut Mounts,
        inside: &mut Inside<'_>,
        problems: &mut Vec<Problem>,
    ) {
        let path = &service.working_dir;
        let at = at.key("working_dir");
        match inside.see(path) {
            // The project itself, or what fills the volume has to make it.
            Seen::Own => {}
            // Made with the mount.
            Seen::Empty if inside.mount(path).is_some() => {}
            Seen::Host { .. } => {
                self.standing(path, at, Want::Directory, problems);
            }
            Seen::Nothing | Seen::Empty => {
                if self.standing(path, at.clone(), Want::Directory, problems).is_some()
                    && self.target_is_free(path, &at, problems)
                {
                    let bind = host_bind(path, path, false, true);
                    inside.tops.insert(path.clone(), top(&bind));
                    mounts.bind(bind, at, problems);
                }
            }
        }
    }

    /// Hides what others write, and notes what this service sees of it.
    fn hide_others(
        &mut self,
        name: &'a ServiceName,
        linked: &BTreeSet<&ServiceName>,
        mounts: &mut Mounts,
        inside: &mut Inside<'_>,
    ) {
        let none = BTreeSet::new();
        let mut granted: BTreeSet<PathBuf> = self.written.get(name).unwrap_or(&none).clone();
        for other in linked {
            granted.extend(self.owned.get(other).unwrap_or(&none).iter().cloned());
        }
        // Whoever mounts exactly this directory names it.
        granted
            .extend(mounts.sources().filter(|path| self.claims.contains_key(*path)).map(Path::to_path_buf));

        let mut hidden: BTreeSet<PathBuf> = BTreeSet::new();
        let mut seen: BTreeSet<PathBuf> = granted.clone();
        for (parent, claims) in &self.exposed {
            let may = granted.iter().filter(|path| path.parent() == Some(parent)).count();
            let may_not = claims.paths.len() - may;
            match &claims.others {
                // Where one directory holds many that must be hidden, it is cheaper to hide it whole and
                // to bind what else is in it. Not where a mount of the service's own would go with it.
                Some(others)
                    if others.len() + may + 1 < may_not
                        && inside.mount(parent).is_none()
                        && inside.see(parent) == (Seen::Host { path: parent.clone(), writable: false }) =>
                {
                    hidden.insert(parent.clone());
                    for (path, directory) in others {
                        mounts.add(
                            host_bind(path, path, false, *directory),
                            inside,
                            ConfigPath::service(name),
                        );
                    }
                }
                Some(_) | None => {
                    let others = claims.paths.difference(&granted).filter(|path| inside.shows(path, path));
                    hidden.extend(others.cloned());
                }
            }
        }
        // What this service mounts itself can hold directories of others as well.
        for (bind, _) in mounts.binds.values() {
            let BindSource::Host(source) = &bind.source else { continue };
            for (path, _) in
                self.claims.range(source.clone()..).take_while(|(path, _)| path.starts_with(source))
            {
                let target = join(&bind.target, path.strip_prefix(source).unwrap_or(Path::new("")));
                if !granted.contains(path) && inside.shows(&target, path) {
                    hidden.insert(target);
                }
            }
        }
        for target in &hidden {
            if !target.ancestors().skip(1).any(|above| hidden.contains(above)) {
                mounts.add(hidden_bind(target), inside, ConfigPath::service(name));
            }
        }
        // A directory that may be seen can lie in one that may not.
        for path in &granted {
            let exposed = path.parent().is_some_and(|parent| self.exposed.contains_key(parent));
            let taken_away = path.ancestors().skip(1).any(|above| hidden.contains(above))
                || (exposed && inside.see(path) == Seen::Nothing);
            if taken_away {
                mounts.add(host_bind(path, path, false, true), inside, ConfigPath::service(name));
            }
        }

        for source in mounts.sources() {
            seen.extend(
                source.ancestors().filter(|above| self.claims.contains_key(*above)).map(Path::to_path_buf),
            );
        }
        for path in seen {
            let within = |source: &Path| source.starts_with(&path);
            if !self.claims[&path].writers.contains(name)
                && (inside.shows(&path, &path) || mounts.sources().any(within))
            {
                self.readers.entry(path).or_default().insert(name);
            }
        }
    }

    fn look_for_leaks(&mut self, name: &'a ServiceName, mounts: &Mounts, inside: &Inside<'_>) {
        for path in self.confidential() {
            let mounted = mounts.binds.values().any(|(bind, _)| match &bind.source {
                BindSource::Host(source) => {
                    path.strip_prefix(source).is_ok_and(|rest| inside.shows(&join(&bind.target, rest), path))
                }
                BindSource::Volume(_) | BindSource::Hidden => false,
            });
            if mounted || inside.shows(path, path) {
                self.leaks.entry(path.to_path_buf()).or_default().insert(name);
            }
        }
    }

    /// Mount points below what the host shows must exist there: nothing can be made in it.
    fn check_mount_points(&self, mounts: &Mounts, inside: &Inside<'_>, problems: &mut Vec<Problem>) {
        let binds = mounts.binds.iter().map(|(path, (_, at))| (path, at));
        let tmpfs = mounts.tmpfs.iter().map(|(path, (_, at))| (path, at));
        for (target, at) in binds.chain(tmpfs) {
            let Seen::Host { path, .. } = inside.see(target) else { continue };
            if mounts.binds.get(target).is_some_and(|(bind, _)| bind.create) {
                continue;
            }
            let top_level = path.parent() == Some(&self.workspace.root);
            let missing_top =
                path.strip_prefix(&self.workspace.root).ok().and_then(|rest| rest.components().next());
            let made = missing_top.is_some_and(|first| {
                first
                    .as_os_str()
                    .to_str()
                    .is_some_and(|first| !self.facts.root_entries.iter().any(|e| e == first))
            });
            if self.facts.paths.contains_key(&path)
                || made
                || (top_level && self.facts.root_entries.is_empty())
            {
                continue;
            }
            problems.push(
                Problem::error(
                    "WS0540",
                    at.clone(),
                    format!("there is no `{}` to mount on", self.shown(target)),
                )
                .help("nothing can be made in a directory that is seen read-only")
                .help(format!("make it: `mkdir -p {}`, or choose another path", self.shown(target))),
            );
        }
    }

    /// Whether something may be mounted at a path inside.
    fn target_is_free(&self, target: &Path, at: &ConfigPath, problems: &mut Vec<Problem>) -> bool {
        let root = &self.workspace.root;
        let shown = target.display();
        let (message, help) = if root.starts_with(target) {
            let help = if target == root {
                "the project is visible already; name the entry below it that is missed"
            } else {
                "name what is needed in it, not the whole directory"
            };
            (format!("`{shown}` would cover the project"), help)
        } else if ["/proc", "/sys"].iter().any(|tree| target.starts_with(tree))
            || (target.starts_with("/dev") && target.strip_prefix("/dev/shm").is_err())
        {
            (format!("nothing can be mounted at `{shown}`: it belongs to the sandbox"), "choose another path")
        } else if target == Path::new("/etc") {
            ("`/etc` is made by `ws`".to_owned(), "name what is needed in it, as `/etc/nginx`")
        } else if target.starts_with(HOSTNAME)
            || self.base.files.iter().any(|(file, _)| target.starts_with(file))
        {
            (format!("`{shown}` is made by `ws`"), "the users, names and addresses inside are not the host's")
        } else if target.starts_with(SECRETS) || target == Path::new("/run") {
            (format!("nothing can be mounted at `{shown}`: secrets are below it"), "choose another path")
        } else if let Some((link, to)) = self.base.symlinks.iter().find(|(link, _)| target.starts_with(link))
        {
            let help = "name the path that it leads to";
            (format!("`{}` is a symbolic link to `{}`", link.display(), to.display()), help)
        } else {
            return true;
        };
        problems.push(Problem::error("WS0541", at.clone(), message).help(help));
        false
    }

    /// What stands at a path of the host that the file names; says whether it is a directory.
    fn standing(&self, path: &Path, at: ConfigPath, want: Want, problems: &mut Vec<Problem>) -> Option<bool> {
        let shown = self.shown(path);
        let link = path
            .ancestors()
            .take_while(|above| {
                *above == path || (above.starts_with(&self.workspace.root) && *above != self.workspace.root)
            })
            .filter_map(|above| match self.facts.paths.get(above) {
                Some(PathKind::Symlink(to)) => Some((above, to)),
                Some(PathKind::Directory | PathKind::File) | None => None,
            })
            .last();
        if let Some((link, to)) = link {
            let rest = path.strip_prefix(link).unwrap_or(Path::new(""));
            let real = lexical(&join(&link.parent().unwrap_or(Path::new("/")).join(to), rest));
            problems.push(
                Problem::error(
                    "WS0531",
                    at,
                    format!("`{}` is a symbolic link to `{}`", self.shown(link), to.display()),
                )
                .label("links are not followed: they could be changed to lead anywhere")
                .help(format!("name the path that it leads to: `{}`", self.shown(&real))),
            );
            return None;
        }
        match (self.facts.paths.get(path), want) {
            (Some(PathKind::Directory), Want::Directory | Want::Any) => Some(true),
            (Some(PathKind::File), Want::File | Want::Any) => Some(false),
            (Some(PathKind::Directory), Want::File) => {
                problems.push(Problem::error("WS0532", at, format!("`{shown}` is a directory, not a file")));
                None
            }
            (Some(PathKind::File), Want::Directory) => {
                problems.push(
                    Problem::error("WS0532", at, format!("`{shown}` is a file, not a directory"))
                        .help("name the directory that it is in"),
                );
                None
            }
            (Some(PathKind::Symlink(_)), _) => None,
            (None, want) => {
                let mut problem = Problem::error("WS0530", at, format!("`{shown}` does not exist"));
                if want != Want::File {
                    problem = problem.help(format!("make it: `mkdir -p {shown}`"));
                }
                problems.push(problem.help(format!("the whole path is `{}`", path.display())));
                None
            }
        }
    }

    /// A path as people write it: relative to the project where it lies in it.
    fn shown(&self, path: &Path) -> String {
        shown(&self.workspace.root, path)
    }

    /// Reports the files that must not be seen and are.
    pub(super) fn report_leaks(&self, problems: &mut Vec<Problem>) {
        for (path, services) in &self.leaks {
            let secret = self.workspace.secrets.iter().find_map(|(name, source)| match source {
                SecretSource::File(file) if file == path => Some(name),
                SecretSource::File(_) | SecretSource::Environment(_) => None,
            });
            let shown = self.shown(path);
            let (at, what) = match secret {
                Some(name) => {
                    (ConfigPath::root().key("secrets").key(name), format!("the secret `{name}` (`{shown}`)"))
                }
                None => (ConfigPath::root().key("env_file"), format!("the env file `{shown}`")),
            };
            let who = some_quoted(services.iter().map(|name| name.as_str()));
            let dir = SECRET_DIRECTORIES[0];
            problems.push(
                Problem::error("WS0535", at, format!("{what} would be visible to {who}"))
                    .label("lies in a directory that services see")
                    .help(format!("move it into `{dir}/` at the top of the project, which no service sees then"))
                    .help("or to the top of the project itself: single files that hold secrets are left out there"),
            );
        }
    }

    /// The directories and volumes through which services can reach each other past the links.
    pub(super) fn channels(&self) -> Vec<Channel> {
        let nobody = BTreeSet::new();
        let mut channels = Vec::new();
        for (path, claim) in &self.claims {
            let readers = self.readers.get(path).unwrap_or(&nobody);
            channels.extend(channel(path.display().to_string(), &claim.writers, readers));
        }
        let mut volumes: BTreeMap<&VolumeName, [BTreeSet<&ServiceName>; 2]> = BTreeMap::new();
        for (name, service) in &self.workspace.services {
            for mount in &service.volumes {
                match &mount.source {
                    MountSource::Volume(volume) => {
                        let [writers, readers] = volumes.entry(volume).or_default();
                        if mount.read_only {
                            readers.insert(name)
                        } else {
                            writers.insert(name)
                        };
                    }
                    MountSource::Host(_) => {}
                }
            }
        }
        for (volume, [writers, readers]) in &volumes {
            let readers = readers.difference(writers).copied().collect();
            channels.extend(channel(volume.to_string(), writers, &readers));
        }
        channels
    }
}

fn channel(
    what: String,
    writers: &BTreeSet<&ServiceName>,
    readers: &BTreeSet<&ServiceName>,
) -> Option<Channel> {
    let owned = |names: &BTreeSet<&ServiceName>| names.iter().map(|name| (*name).clone()).collect();
    (!writers.is_empty() && writers.len() + readers.len() > 1).then(|| Channel {
        what,
        writers: owned(writers),
        readers: owned(readers),
    })
}

/// Where secrets that are files are found.
const SECRETS: &str = "/run/secrets";

#[derive(Debug, Default)]
struct Secrets {
    files: Vec<(ws_model::SecretName, PathBuf)>,
    env: Vec<(ws_model::SecretName, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    Directory,
    File,
    Any,
}

/// The mounts of one service by their target, each with the place that asks for it.
#[derive(Debug)]
struct Mounts {
    binds: BTreeMap<PathBuf, (Bind, ConfigPath)>,
    tmpfs: BTreeMap<PathBuf, (ByteSize, ConfigPath)>,
}

impl Mounts {
    fn bind(&mut self, bind: Bind, at: ConfigPath, problems: &mut Vec<Problem>) {
        if self.is_free(&bind.target, &at, problems) {
            self.binds.insert(bind.target.clone(), (bind, at));
        }
    }

    /// A mount that follows from others: it is there already, or it is free.
    fn add(&mut self, bind: Bind, inside: &mut Inside<'_>, at: ConfigPath) {
        if !self.binds.contains_key(&bind.target) && !self.tmpfs.contains_key(&bind.target) {
            inside.tops.insert(bind.target.clone(), top(&bind));
            self.binds.insert(bind.target.clone(), (bind, at));
        }
    }

    /// The paths of the host that are mounted.
    fn sources(&self) -> impl Iterator<Item = &Path> {
        self.binds.values().filter_map(|(bind, _)| match &bind.source {
            BindSource::Host(path) => Some(path.as_path()),
            BindSource::Volume(_) | BindSource::Hidden => None,
        })
    }

    fn is_free(&self, target: &Path, at: &ConfigPath, problems: &mut Vec<Problem>) -> bool {
        let bound = self.binds.get(target).map(|(_, at)| at);
        let Some(first) = bound.or_else(|| self.tmpfs.get(target).map(|(_, at)| at)) else { return true };
        problems.push(
            Problem::error("WS0542", at.clone(), format!("two things are mounted at `{}`", target.display()))
                .related(first.clone(), "the first is here"),
        );
        false
    }
}

/// The file with the name of a unit.
fn hostname(unit: &ServiceName) -> (PathBuf, Arc<str>) {
    (PathBuf::from(HOSTNAME), format!("{unit}\n").into())
}

impl View {
    /// The same view for another unit: only the name is its own.
    pub(super) fn of_unit(&self, unit: &ServiceName) -> Self {
        let mut view = self.clone();
        let (path, contents) = hostname(unit);
        for file in view.files.iter_mut().filter(|file| file.0 == path) {
            file.1 = Arc::clone(&contents);
        }
        view
    }
}

fn host_bind(source: &Path, target: &Path, writable: bool, directory: bool) -> Bind {
    Bind {
        source: BindSource::Host(source.to_path_buf()),
        target: target.to_path_buf(),
        writable,
        directory,
        create: false,
        owner_mapped: writable || !in_system(source),
    }
}

fn hidden_bind(target: &Path) -> Bind {
    Bind {
        source: BindSource::Hidden,
        target: target.to_path_buf(),
        writable: false,
        directory: true,
        create: false,
        owner_mapped: false,
    }
}

pub(super) fn top(bind: &Bind) -> Top {
    match &bind.source {
        BindSource::Host(source) => Top::Host { source: source.clone(), writable: bind.writable },
        BindSource::Volume(_) => Top::Own,
        BindSource::Hidden => Top::Empty,
    }
}

fn file_name(path: &Path) -> Option<String> {
    path.file_name().and_then(|name| name.to_str()).map(str::to_owned)
}

/// The working directory, where it is writable without being named in `writable`.
fn default_writable<'a>(workspace: &Workspace, service: &'a Service) -> Option<&'a PathBuf> {
    let dir = &service.working_dir;
    let proper = service.working_dir_declared && dir.starts_with(&workspace.root) && *dir != workspace.root;
    let harmless =
        !workspace.policy_inputs.iter().chain(&workspace.hidden).any(|input| input.starts_with(dir));
    (proper && harmless).then_some(dir)
}

/// A program by its path that no mount shows can never be executed.
fn check_programs(service: &Service, at: &ConfigPath, inside: &Inside<'_>, problems: &mut Vec<Problem>) {
    let Some(program) = service.command.0.first().filter(|program| program.contains('/')) else { return };
    let path = lexical(&service.working_dir.join(program));
    if matches!(inside.see(&path), Seen::Nothing | Seen::Empty) {
        let dir = path.parent().unwrap_or(&path);
        problems.push(
            Problem::error("WS0543", at.key("command"), format!("the service cannot see `{program}`"))
                .label(format!("is `{}`", path.display()))
                .help(format!("let it: `reads: [\"{}\"]`", dir.display())),
        );
    }
}

/// A path as people write it: relative to the project where it lies in it.
pub(super) fn shown(root: &Path, path: &Path) -> String {
    match path.strip_prefix(root) {
        Ok(rest) if rest.as_os_str().is_empty() => ".".to_owned(),
        Ok(rest) => rest.display().to_string(),
        Err(_) => path.display().to_string(),
    }
}
