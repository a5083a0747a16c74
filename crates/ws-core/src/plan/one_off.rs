//! One-offs: a further run of a service's sandbox for another command, beside what the plan has.
//!
//! What `ws run` starts, and what people expect of it who know `docker compose run`: the files, links, secrets and
//! limits of the service, a name and an address of its own, what the service waits for brought up before; but no
//! published ports (they are the service's), no probes, hooks or restarts, and the end of the command is the end.
//! Nobody has a link to it, so nobody reaches it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ws_model::{Hooks, ProbeKind, Reload, RestartPolicy, ServiceKind, ServiceName, name::MAX_LEN};

use super::base::{HOSTS, hosts_line};
use super::{NOTIFY, Plan, ServicePlan, Wait, absolute_program, net, view};

/// The number in the place of a replica's.
const NO_REPLICA: u32 = 0;

/// What is asked of a one-off.
#[derive(Debug, Clone)]
pub struct OneOff<'a> {
    /// In whose sandbox: a service of the file, or one of its replicas.
    pub service: &'a ServiceName,
    /// Its number: part of its name. Where that name is taken, the next one that is free.
    pub number: u32,
    /// Program and arguments; absent: the service's own command. A relative program with a slash is relative to the
    /// current directory, as in the file.
    pub argv: Option<Vec<String>>,
    /// Added to the service's environment; what is in both is this.
    pub env: &'a [(String, String)],
    /// The current directory, relative to the service's; absent: the service's.
    pub cwd: Option<&'a Path>,
    /// Whether it runs on a terminal of its own.
    pub tty: bool,
    /// The one-offs that are there, with their indexes.
    pub taken: &'a BTreeMap<ServiceName, u32>,
}

/// A unit for a one-off: `<service>-run-<number>`, a task.
///
/// Its build is not run: the service's is, whenever that starts.
///
/// # Errors
/// A sentence: there is no such service, nothing to run, or no address left.
pub fn one_off(plan: &Plan, wanted: &OneOff<'_>) -> Result<ServicePlan, String> {
    let asked = wanted.service;
    let units = plan.units(asked.as_str());
    let Some(service) = units.first() else { return Err(format!("there is no service `{asked}`")) };
    let name = free_name(plan, &service.declared, wanted);

    let first = u32::from(plan.subnet.host(0));
    let used = plan.addresses().map(|(_, address)| u32::from(address) - first);
    let used: BTreeSet<u32> = used.chain(wanted.taken.values().copied()).collect();
    let pool = net::pool(plan.subnet, 0).map_err(|problem| problem.message)?;
    let index = net::free(&name, pool, &used).ok_or_else(|| {
        format!(
            "the network {} has no address left for `{name}`: give the workspace a larger one",
            plan.subnet
        )
    })?;
    let address = plan.subnet.host(index);

    let mut view = service.view.of_unit(&name);
    let own_line = hosts_line(address, [&name], &plan.name);
    for (_, contents) in view.files.iter_mut().filter(|(path, _)| path == Path::new(HOSTS)) {
        *contents = format!("{contents}{own_line}").into();
    }

    let mut run = service.run.clone();
    if let Some(cwd) = wanted.cwd {
        run.cwd = view::lexical(&run.cwd.join(cwd));
    }
    let own_command = wanted.argv.is_none();
    if let Some(argv) = &wanted.argv {
        run.argv = absolute_program(argv, &run.cwd);
    }
    if run.argv.first().is_none_or(String::is_empty) {
        return Err("there is no command to run".to_owned());
    }
    let probes = [&service.startup, &service.ready, &service.liveness];
    let notifies = probes.into_iter().flatten().any(|probe| probe.kind == ProbeKind::Notify);
    let env: BTreeMap<String, String> = run
        .env
        .into_iter()
        .filter(|(key, _)| !(notifies && NOTIFY.contains(&key.as_str())))
        // Else what the first replica alone does would be done twice.
        .chain([("WS_REPLICA".to_owned(), NO_REPLICA.to_string())])
        .chain(wanted.env.iter().cloned())
        .collect();
    run.env = env.into_iter().collect();

    // Not for its siblings' builds; and nobody would expect what he typed to be run a second time.
    let sibling =
        |wait: &&Wait| plan.services.get(&wait.on).is_some_and(|on| on.declared == service.declared);
    let waits = service.waits.iter().filter(|wait| !sibling(wait));
    let waits = waits.map(|wait| Wait { restart: false, ..wait.clone() }).collect();
    let mut restart = service.restart.clone();
    restart.policy = RestartPolicy::No;
    let mut stop = service.stop.clone();
    stop.command = None;
    Ok(ServicePlan {
        name,
        declared: service.declared.clone(),
        replica: NO_REPLICA,
        kind: ServiceKind::Task,
        index,
        address,
        mac: net::mac(address),
        waits,
        build: None,
        makes: None,
        uses: service.uses.clone(),
        watch: Vec::new(),
        reload: Reload::Restart,
        listen: Vec::new(),
        hold: service.hold,
        run,
        view,
        links: service.links.clone(),
        publish: Vec::new(),
        startup: None,
        ready: None,
        liveness: None,
        hooks: Hooks::default(),
        // Another command has other codes.
        success_exit_codes: if own_command { service.success_exit_codes.clone() } else { vec![0] },
        open_stdin: false,
        tty: wanted.tty,
        logs: service.logs,
        restart,
        stop,
        limits: service.limits.clone(),
        policy: service.policy.clone(),
    })
}

/// The first free name from the wanted number on; the service's part is shortened where all would be too long.
fn free_name(plan: &Plan, service: &ServiceName, wanted: &OneOff<'_>) -> ServiceName {
    let taken = |name: &ServiceName| {
        let declared = plan.services.values().any(|unit| unit.declared == *name);
        let external = plan.external.iter().any(|external| external.name == *name);
        declared || external || plan.services.contains_key(name) || wanted.taken.contains_key(name)
    };
    let numbers = (wanted.number..=u32::MAX).chain(0..wanted.number);
    let names = numbers.map(|number| {
        let end = format!("-run-{number}");
        let start = service.as_str();
        let start = &start[..start.len().min(MAX_LEN - end.len())];
        ServiceName::new(format!("{start}{end}"))
            .expect("a name that was cut, with characters of names after it")
    });
    names.into_iter().find(|name| !taken(name)).expect("there are more numbers than units")
}
