//! Plans that take the place of the one that runs, and what is watched: with a planner and a watcher that do what a
//! test wants.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use ws_client::{ClientError, EventQuery, WaitFor, WatchQuery};
use ws_core::engine::{FileChange, Generation, Input};
use ws_core::files::{Files, Moment, News, NewsSink};
use ws_core::plan::{ExternalPlan, LinkRule, Plan};
use ws_model::wire::{PlanFilesRequest, SetRequest, WatchReport, WatchedPath, WatchedUnit};
use ws_model::{
    ConfigPath, EventKind, ExternalHost, PlanEffect, PortProto, Protocol, SecretName, ServiceName, Subnet,
    Trigger, WatchAction,
};
use ws_supervisor::{ExplainWatch, PlanRefused, PlanRequest, Planned, Planner};

use crate::stack::{Does, Options, Part, REFUSED_GRACE, Stack, name, plan, until, within};

const SHOP: [Part; 2] = [Part("api", Does::Run, &["db"]), Part("db", Does::Run, &[])];

/// What the planner is asked and says, and what the watcher is.
struct World {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    answer: Result<Plan, String>,
    secrets: BTreeMap<SecretName, Vec<u8>>,
    plan_files: Vec<PathBuf>,
    /// Plans are made only while this is so.
    open: bool,
    asked: Vec<PlanRequest>,
    /// How many services each plan had that was carried out.
    adopted: Vec<usize>,
    /// Services and files of each plan that is followed.
    followed: Vec<(usize, Vec<PathBuf>)>,
    looked: Vec<(ServiceName, Generation, Moment)>,
    sink: Option<NewsSink>,
}

struct Fake(Arc<World>);

impl Planner for Fake {
    fn plan(&mut self, request: PlanRequest, _running: &Plan) -> Result<Planned, PlanRefused> {
        let mut state = self.0.state.lock().unwrap();
        state.asked.push(request);
        let state = self.0.changed.wait_while(state, |state| !state.open).unwrap();
        let plan_files = state.plan_files.clone();
        let plan = state.answer.clone().map_err(|text| PlanRefused { text, plan_files })?;
        Ok(Planned { plan, secrets: state.secrets.clone(), plan_files: state.plan_files.clone() })
    }

    fn adopted(&mut self, plan: &Plan) {
        self.0.state.lock().unwrap().adopted.push(plan.services.len());
    }
}

impl Files for Fake {
    fn follow(&mut self, plan: Arc<Plan>, plan_files: Vec<PathBuf>) {
        self.0.state.lock().unwrap().followed.push((plan.services.len(), plan_files));
    }

    fn fingerprint(&mut self, service: &ServiceName, generation: Generation, moment: Moment) {
        self.0.state.lock().unwrap().looked.push((service.clone(), generation, moment));
        let service = service.clone();
        self.0.news(News::Happened(match moment {
            Moment::Before => Input::Checked { service, generation, result: Ok(Some(BTreeMap::new())) },
            Moment::After => Input::Recorded { service, generation, result: Ok(BTreeMap::new()) },
        }));
    }
}

impl ExplainWatch for Fake {
    fn overview(&self, plan: &Plan) -> WatchReport {
        let unit = |service: &ServiceName| WatchedUnit {
            service: service.clone(),
            roots: Vec::new(),
            directories: 1,
            files: 2,
        };
        WatchReport { units: plan.services.keys().map(unit).collect(), paths: Vec::new() }
    }

    fn explain(&self, _plan: &Plan, path: &Path) -> WatchedPath {
        WatchedPath { path: path.display().to_string(), plan_file: false, units: Vec::new() }
    }
}

fn workspace_file() -> PathBuf {
    PathBuf::from("/src/shop/workspace.yaml")
}

impl World {
    fn new() -> Arc<Self> {
        let state = State {
            answer: Ok(plan(&SHOP)),
            secrets: BTreeMap::new(),
            plan_files: vec![workspace_file()],
            open: true,
            asked: Vec::new(),
            adopted: Vec::new(),
            followed: Vec::new(),
            looked: Vec::new(),
            sink: None,
        };
        Arc::new(Self { state: Mutex::new(state), changed: Condvar::new() })
    }

    fn options(self: &Arc<Self>) -> Options {
        let world = Arc::clone(self);
        Options {
            planner: Some(Box::new(Fake(Arc::clone(self)))),
            files: Some(Box::new(move |sink| {
                world.state.lock().unwrap().sink = Some(sink);
                Box::new(Fake(world))
            })),
            explain_watch: Some(Arc::new(Fake(Arc::clone(self)))),
            ..Options::default()
        }
    }

    fn says(&self, answer: Result<Plan, &str>) {
        self.state.lock().unwrap().answer = answer.map_err(ToOwned::to_owned);
    }

    fn open(&self, open: bool) {
        self.state.lock().unwrap().open = open;
        self.changed.notify_all();
    }

    fn news(&self, news: News) {
        let sink = self.state.lock().unwrap().sink.clone().unwrap();
        sink(news);
    }

    fn file_changed(&self) {
        self.news(News::PlanFiles { changed: vec![workspace_file()] });
    }

    fn asked(&self) -> usize {
        self.state.lock().unwrap().asked.len()
    }
}

/// The shop with one service more.
fn with_mail() -> Plan {
    plan(&[SHOP.as_slice(), &[Part("mail", Does::Run, &[])]].concat())
}

/// The shop in which `api` stops faster: nothing is started again for it.
fn with_grace() -> Plan {
    let mut plan = plan(&SHOP);
    plan.services.get_mut(&name("api")).unwrap().stop.grace = Duration::from_millis(51);
    plan
}

/// The shop in which `api` may reach `db`.
fn with_link() -> Plan {
    let mut plan = plan(&SHOP);
    let rule = LinkRule {
        to: name("db"),
        address: Stack::address(1),
        port: PortProto { port: 5432, protocol: Protocol::Tcp },
        at: ConfigPath::default(),
    };
    plan.services.get_mut(&name("api")).unwrap().links.push(rule);
    plan
}

/// Waits until something is told after the event with this number.
async fn told<T>(stack: &Stack, since: u64, what: impl Fn(&EventKind) -> Option<T>) -> (u64, T) {
    let mut events = stack.client.events(EventQuery { since, follow: true }).await.unwrap();
    within(async {
        loop {
            let event = events.next().await.expect("it goes on").unwrap();
            if let Some(found) = what(&event.kind) {
                return (event.seq, found);
            }
        }
    })
    .await
}

fn applied(kind: &EventKind) -> Option<()> {
    matches!(kind, EventKind::PlanApplied { .. }).then_some(())
}

fn changed(kind: &EventKind) -> Option<bool> {
    match kind {
        EventKind::PlanChanged { applied, .. } => Some(*applied),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_changed_is_carried_out() {
    let world = World::new();
    let stack = Stack::start_with(&SHOP, world.options()).await;
    stack.client.up(&[]).await.unwrap();
    within(stack.client.wait_until(&[], WaitFor::Ready)).await.unwrap();
    world.says(Ok(with_grace()));
    world.file_changed();
    let (seq, lines) = told(&stack, 0, |kind| match kind {
        EventKind::PlanChanged { lines, applied: true } => Some(lines.clone()),
        _ => None,
    })
    .await;
    assert_eq!((lines.len(), lines[0].effect), (1, PlanEffect::Live), "{lines:?}");
    assert_eq!(lines[0].service, Some(name("api")));
    told(&stack, seq, applied).await;
    until(|| world.state.lock().unwrap().adopted == [2]).await;
    {
        let state = world.state.lock().unwrap();
        assert_eq!(state.asked, [PlanRequest::Files { env: None }]);
        assert_eq!(state.followed, vec![(2, vec![workspace_file()]); 2], "what is followed is what runs");
    }
    stack.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_plan_adds_and_removes_comes_and_goes() {
    let world = World::new();
    let stack = Stack::start_with(&SHOP, world.options()).await;
    stack.client.up(&[]).await.unwrap();
    within(stack.client.wait_until(&[], WaitFor::Ready)).await.unwrap();
    let published =
        Input::Published { service: name("api"), host: [127, 0, 0, 1].into(), host_port: 4321, port: 80 };
    stack.inbox.send(published).unwrap();
    told(&stack, 0, |kind| matches!(kind, EventKind::Published { .. }).then_some(())).await;

    world.says(Ok(with_mail()));
    let applying = stack.client.apply(&PlanFilesRequest::default()).await.unwrap();
    assert_eq!(applying.starts, [name("mail")]);
    told(&stack, applying.seq, applied).await;
    within(stack.client.wait_until(&[name("mail")], WaitFor::Ready)).await.unwrap();
    assert_eq!(stack.seen.lock().unwrap().added, [name("mail")]);

    let mut without = plan(&SHOP);
    without.services.remove(&name("api"));
    world.says(Ok(without));
    let applying = stack.client.apply(&PlanFilesRequest::default()).await.unwrap();
    let (_, errors) = told(&stack, applying.seq, |kind| match kind {
        EventKind::PlanApplied { errors } => Some(errors.clone()),
        _ => None,
    })
    .await;
    assert_eq!(errors, [""; 0]);
    let rows = stack.client.services().await.unwrap();
    assert_eq!(rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["db"]);
    assert!(stack.seen.lock().unwrap().added.is_empty());

    // One of that name that comes later has nothing of the one that went.
    world.says(Ok(plan(&SHOP)));
    let applying = stack.client.apply(&PlanFilesRequest::default()).await.unwrap();
    told(&stack, applying.seq, applied).await;
    within(stack.client.wait_until(&[name("api")], WaitFor::Ready)).await.unwrap();
    assert!(stack.client.services().await.unwrap()[0].ports.is_empty());
    stack.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_host_could_not_do_is_told_and_still_different() {
    let world = World::new();
    let stack = Stack::start_with(&SHOP, world.options()).await;
    stack.client.up(&[]).await.unwrap();
    within(stack.client.wait_until(&[], WaitFor::Ready)).await.unwrap();
    let mut refused = plan(&SHOP);
    refused.services.get_mut(&name("api")).unwrap().stop.grace = REFUSED_GRACE;
    world.says(Ok(refused));
    for _ in 0..2 {
        let applying = stack.client.apply(&PlanFilesRequest::default()).await.unwrap();
        assert_eq!(applying.lines.len(), 1);
        let (_, errors) = told(&stack, applying.seq, |kind| match kind {
            EventKind::PlanApplied { errors } => Some(errors.clone()),
            _ => None,
        })
        .await;
        assert_eq!(errors, ["api: there is no memory controller"]);
    }
    world.says(Ok(plan(&SHOP)));
    assert_eq!(stack.client.plan(&PlanFilesRequest::default()).await.unwrap().lines, []);
    stack.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_says_the_same_changes_nothing() {
    let world = World::new();
    let stack = Stack::start_with(&SHOP, world.options()).await;
    let before = stack.events(0).await.len();
    world.file_changed();
    until(|| world.state.lock().unwrap().adopted.len() == 1).await;
    assert_eq!(stack.events(0).await.len(), before);
    // What it is made of may be something else all the same.
    world.state.lock().unwrap().plan_files.push(PathBuf::from("/src/shop/more.yaml"));
    world.file_changed();
    until(|| world.state.lock().unwrap().followed.last().unwrap().1.len() == 2).await;
    assert_eq!(stack.events(0).await.len(), before);
    stack.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_file_is_told_once_and_changes_nothing() {
    let world = World::new();
    let stack = Stack::start_with(&SHOP, world.options()).await;
    world.says(Err("error[WS0001]: no such key"));
    // A file that it includes from now on, and that may mend it.
    world.state.lock().unwrap().plan_files.push(PathBuf::from("/src/shop/more.yaml"));
    let refused = |kind: &EventKind| match kind {
        EventKind::PlanRefused { text } => Some(text.clone()),
        _ => None,
    };
    for round in 1..=3 {
        world.file_changed();
        until(|| world.asked() == round).await;
    }
    let (seq, text) = told(&stack, 0, refused).await;
    assert_eq!(text, "error[WS0001]: no such key");
    assert_eq!(world.state.lock().unwrap().followed.last().unwrap().1.len(), 2);
    match stack.client.apply(&PlanFilesRequest::default()).await {
        Err(ClientError::Api { status: 422, error }) => {
            assert_eq!(error.help.as_deref(), Some("error[WS0001]: no such key"));
        }
        other => panic!("{other:?}"),
    }
    let difference = stack.client.plan(&PlanFilesRequest::default()).await.unwrap();
    assert_eq!(difference.error.as_deref(), Some("error[WS0001]: no such key"));
    assert_eq!(stack.events(seq).await, [], "the same is told once");
    assert_eq!(world.state.lock().unwrap().adopted.len(), 0);
    // Whoever reads that it is broken reads as well that it is not any more.
    world.says(Ok(plan(&SHOP)));
    world.file_changed();
    told(&stack, seq, |kind| {
        matches!(kind, EventKind::Notice { text } if text.contains("says again what runs")).then_some(())
    })
    .await;
    stack.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_rights_wait_until_somebody_asks() {
    let world = World::new();
    let stack = Stack::start_with(&SHOP, world.options()).await;
    world.says(Ok(with_link()));
    world.file_changed();
    let (seq, held) = told(&stack, 0, changed).await;
    assert!(!held);
    world.file_changed();
    until(|| world.asked() == 2).await;
    let difference = stack.client.plan(&PlanFilesRequest::default()).await.unwrap();
    assert!(difference.widens && !difference.needs_down, "{difference:?}");
    assert!(
        difference.lines.iter().any(|line| line.text.contains("db:5432") && line.widens),
        "{difference:?}"
    );
    assert_eq!(stack.events(seq).await, [], "it is told once, and looking changes nothing");
    let environment = Some(BTreeMap::from([("A".to_owned(), "b".to_owned())]));
    let applying = stack.client.apply(&PlanFilesRequest { environment: environment.clone() }).await.unwrap();
    assert_eq!((applying.lines, applying.starts), (difference.lines, vec![]));
    let (_, carried_out) = told(&stack, applying.seq, changed).await;
    assert!(carried_out);
    told(&stack, applying.seq, applied).await;
    assert_eq!(world.state.lock().unwrap().asked.last(), Some(&PlanRequest::Files { env: environment }));
    // What runs is that now.
    let nothing = stack.client.apply(&PlanFilesRequest::default()).await.unwrap();
    assert_eq!(nothing.lines, []);
    // Less needs nobody.
    world.says(Ok(plan(&SHOP)));
    world.file_changed();
    assert!(told(&stack, nothing.seq, changed).await.1);
    stack.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_rights_are_given_at_once_where_that_was_agreed() {
    let world = World::new();
    let options = Options { apply_widening: true, ..world.options() };
    let stack = Stack::start_with(&SHOP, options).await;
    world.says(Ok(with_link()));
    world.file_changed();
    assert!(told(&stack, 0, changed).await.1);
    stack.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_a_stack_that_is_down_is_only_told() {
    let world = World::new();
    let stack = Stack::start_with(&SHOP, world.options()).await;
    world.says(Ok(Plan { root: PathBuf::from("/src/other"), ..plan(&SHOP) }));
    world.file_changed();
    let (_, held) = told(&stack, 0, changed).await;
    assert!(!held);
    match stack.client.apply(&PlanFilesRequest::default()).await {
        Err(ClientError::Api { status: 409, error }) => {
            assert!(error.error.contains("/src/other"), "{error:?}");
            assert!(error.help.unwrap().contains("ws down"));
        }
        other => panic!("{other:?}"),
    }
    assert!(stack.client.plan(&PlanFilesRequest::default()).await.unwrap().needs_down);
    stack.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_read_once_more_however_often_they_changed_meanwhile() {
    let world = World::new();
    world.open(false);
    let stack = Stack::start_with(&SHOP, world.options()).await;
    world.file_changed();
    until(|| world.asked() == 1).await;
    for _ in 0..100 {
        world.file_changed();
    }
    // Requests of others go on while a plan is made.
    assert_eq!(stack.client.services().await.unwrap().len(), 2);
    stack.client.up(&[]).await.unwrap();
    within(stack.client.wait_until(&[], WaitFor::Ready)).await.unwrap();
    world.says(Ok(with_grace()));
    world.open(true);
    told(&stack, 0, applied).await;
    // Those who ask are answered after whatever waited before them.
    stack.client.plan(&PlanFilesRequest::default()).await.unwrap();
    assert_eq!(world.asked(), 3, "one that ran, one that waited, and ours");
    stack.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_are_set_as_if_the_file_said_so() {
    let world = World::new();
    let stack = Stack::start_with(&SHOP, world.options()).await;
    world.says(Ok(with_link()));
    let settings = BTreeMap::from([("stop.grace".to_owned(), "51ms".to_owned())]);
    let request = SetRequest { service: name("api"), settings: settings.clone() };
    let applying = stack.client.set(&request).await.unwrap();
    // It was asked for, rights included.
    assert_eq!((applying.lines.len(), applying.starts.len()), (1, 0), "{applying:?}");
    told(&stack, applying.seq, applied).await;
    assert_eq!(world.state.lock().unwrap().asked, [PlanRequest::Set { service: name("api"), settings }]);

    world.says(Err("`a` takes a number"));
    match stack.client.set(&request).await {
        Err(ClientError::Api { status: 422, error }) => {
            assert_eq!(error.error, "`api` cannot be set so");
            assert_eq!(error.help.as_deref(), Some("`a` takes a number"));
        }
        other => panic!("{other:?}"),
    }
    let nobody = SetRequest { service: name("nobody"), ..request.clone() };
    assert!(matches!(stack.client.set(&nobody).await, Err(ClientError::Api { status: 404, .. })));
    let nothing = SetRequest { settings: BTreeMap::new(), ..request };
    assert!(matches!(stack.client.set(&nothing).await, Err(ClientError::Api { status: 400, .. })));
    assert_eq!(world.asked(), 2, "what makes no sense is not planned");
    stack.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_elsewhere_comes_first_and_secrets_with_it() {
    let world = World::new();
    let key = SecretName::new("key").unwrap();
    let options = Options { secrets: BTreeMap::from([(key.clone(), b"old".to_vec())]), ..world.options() };
    let stack = Stack::start_with(&SHOP, options).await;
    let elsewhere = |called: &str| ExternalPlan {
        name: name(called),
        address: Subnet::DEFAULT.host(40),
        port: 3000,
        host: ExternalHost::Address([127, 0, 0, 1].into()),
    };
    world.says(Ok(Plan { external: vec![elsewhere("nowhere")], ..plan(&SHOP) }));
    match stack.client.apply(&PlanFilesRequest::default()).await {
        Err(ClientError::Api { status: 409, error }) => {
            assert!(error.error.contains("no route"), "{error:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(world.state.lock().unwrap().adopted.len(), 0, "it is as it was");

    let secrets = BTreeMap::from([(key, b"new".to_vec())]);
    world.state.lock().unwrap().secrets.clone_from(&secrets);
    world.says(Ok(Plan { external: vec![elsewhere("orders")], ..plan(&SHOP) }));
    let applying = stack.client.apply(&PlanFilesRequest::default()).await.unwrap();
    told(&stack, 0, |kind| {
        matches!(kind, EventKind::Notice { text } if text.contains("`key` changed")).then_some(())
    })
    .await;
    told(&stack, applying.seq, applied).await;
    {
        let seen = stack.seen.lock().unwrap();
        assert_eq!(seen.external, [vec![elsewhere("orders")]]);
        assert_eq!(seen.secrets, [secrets]);
    }
    stack.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stack_that_goes_down_adopts_nothing() {
    let world = World::new();
    world.open(false);
    let stack = Stack::start_with(&[Part("db", Does::Stubborn, &[])], world.options()).await;
    stack.client.up(&[]).await.unwrap();
    within(stack.client.wait_until(&[], WaitFor::Ready)).await.unwrap();
    let client = stack.client.clone();
    let applying = tokio::spawn(async move { client.apply(&PlanFilesRequest::default()).await });
    until(|| world.asked() == 1).await;
    let client = stack.client.clone();
    let waiting = tokio::spawn(async move { client.plan(&PlanFilesRequest::default()).await });
    stack.client.down(ws_model::wire::DownRequest::default()).await.unwrap();
    for refused in [within(applying).await.unwrap().map(drop), within(waiting).await.unwrap().map(drop)] {
        assert!(matches!(refused, Err(ClientError::Api { status: 409, .. })), "{refused:?}");
    }
    world.open(true);
    let now = ws_model::wire::DownRequest { now: true, ..ws_model::wire::DownRequest::default() };
    stack.client.down(now).await.unwrap();
    stack.ended().await;
    assert_eq!(world.state.lock().unwrap().adopted.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_change_are_acted_upon() {
    let world = World::new();
    let stack = Stack::start_with(&SHOP, world.options()).await;
    stack.client.up(&[]).await.unwrap();
    within(stack.client.wait_until(&[], WaitFor::Ready)).await.unwrap();
    let trigger = Trigger { files: vec!["src/main.rs".to_owned()], more: 0 };
    let change = FileChange { service: name("api"), action: WatchAction::Restart, trigger: trigger.clone() };
    world.news(News::Happened(Input::FilesChanged { changes: vec![change] }));
    let (seq, reloaded) = told(&stack, 0, |kind| match kind {
        EventKind::Reloaded { trigger, .. } => Some(trigger.clone()),
        _ => None,
    })
    .await;
    assert_eq!(reloaded, trigger);
    assert_eq!(stack.client.services().await.unwrap()[0].restarts, 1);
    world.news(News::Notice { service: Some(name("api")), text: "there are no watches left".to_owned() });
    told(&stack, seq, |kind| matches!(kind, EventKind::Notice { .. }).then_some(())).await;
    stack.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn builds_are_looked_at_by_the_watcher() {
    let world = World::new();
    let mut with_build = plan(&SHOP);
    let build = with_build.services.get_mut(&name("db")).unwrap();
    build.kind = ws_model::ServiceKind::Build;
    build.makes = Some(ws_core::plan::Makes {
        inputs: ws_core::plan::FileSet { include: Vec::new(), ignore: Vec::new(), sources_only: true },
        outputs: None,
        recipe: String::new(),
    });
    let wait = &mut with_build.services.get_mut(&name("api")).unwrap().waits[0];
    wait.condition = ws_model::Condition::Completed;
    let stack = Stack::start_planned(with_build, &SHOP, world.options()).await;
    stack.client.up(&[name("api")]).await.unwrap();
    within(stack.client.wait_until(&[name("api")], WaitFor::Ready)).await.unwrap();
    let looked = world.state.lock().unwrap().looked.clone();
    assert_eq!(
        looked.iter().map(|(unit, _, moment)| (unit.as_str(), *moment)).collect::<Vec<_>>(),
        [("db", Moment::Before)]
    );
    // It was found to be fresh, so it did not run.
    assert!(!stack.seen.lock().unwrap().running.contains_key(&name("db")));
    stack.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_watched_can_be_asked() {
    let world = World::new();
    let stack = Stack::start_with(&SHOP, world.options()).await;
    let report = stack.client.watch(&WatchQuery::default()).await.unwrap();
    assert_eq!(report.units.iter().map(|unit| unit.service.as_str()).collect::<Vec<_>>(), ["api", "db"]);
    let paths = vec!["workspace.yaml".to_owned(), "src/a b.rs".to_owned()];
    let report = stack.client.watch(&WatchQuery { paths }).await.unwrap();
    let paths: Vec<_> = report.paths.iter().map(|path| (path.path.as_str(), path.plan_file)).collect();
    assert_eq!(paths, [("/src/shop/workspace.yaml", true), ("/src/shop/src/a b.rs", false)]);
    // What was carried out is what is explained.
    world.says(Ok(with_mail()));
    stack.client.apply(&PlanFilesRequest::default()).await.unwrap();
    assert_eq!(stack.client.watch(&WatchQuery::default()).await.unwrap().units.len(), 3);
    stack.down().await;
}

#[tokio::test]
async fn a_supervisor_without_a_planner_says_so() {
    let stack = Stack::start(&SHOP).await;
    let request =
        SetRequest { service: name("api"), settings: BTreeMap::from([("hold".to_owned(), "1s".to_owned())]) };
    let refused = [
        stack.client.plan(&PlanFilesRequest::default()).await.map(drop),
        stack.client.apply(&PlanFilesRequest::default()).await.map(drop),
        stack.client.set(&request).await.map(drop),
        stack.client.watch(&WatchQuery::default()).await.map(drop),
    ];
    for answer in refused {
        assert!(matches!(answer, Err(ClientError::Api { status: 501, .. })), "{answer:?}");
    }
    stack.down().await;
}
