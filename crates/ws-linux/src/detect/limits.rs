//! Limits that a run ran into: memory, processes, processor time.
//!
//! The counters of the control group are the truth, and the kernel says when to look: version 2 modifies
//! `memory.events` and `pids.events` (one inotify instance for all services: a user has few), version 1 has an eventfd
//! for memory and nothing for processes. There the counter is looked at four times a second, and only while a run is
//! there whose file declares `limits.pids`: every service has a limit, and a supervisor that has nothing to do must not
//! wake up for it. Without a declared one it is looked at when the run ends.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use ws_core::plan::{CpuWindow, LimitsPlan, PolicyPlan, ServicePlan};
use ws_model::{Evidence, Mechanism, ViolationClass};
use ws_sys::aio::Readable;
use ws_sys::inotify::{self, News};

use super::{Reporter, Runs, Seen, new_instance};
use crate::cgroups::ServiceGroup;

/// How often version 1's count of refused processes is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often processor time is looked at.
const SAMPLE_EVERY: Duration = Duration::from_millis(500);

/// Whom to tell of which watch.
type Watches = Mutex<BTreeMap<i32, Arc<Notify>>>;

/// Says when files of control groups change: one for an instance. Has an instance of inotify from its first watch on:
/// where the controllers are of version 1, it never needs one.
#[derive(Debug, Default)]
pub(crate) struct Files {
    watches: Arc<Watches>,
    listening: Mutex<Option<Listening>>,
}

#[derive(Debug)]
struct Listening {
    instance: Arc<Readable>,
    task: JoinHandle<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A file that is watched until this is dropped.
#[derive(Debug)]
struct Watched {
    files: Arc<Files>,
    instance: Arc<Readable>,
    watch: i32,
    changed: Arc<Notify>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        lock(&self.files.watches).remove(&self.watch);
        inotify::forget(self.instance.as_fd(), self.watch);
    }
}

fn lock(watches: &Watches) -> std::sync::MutexGuard<'_, BTreeMap<i32, Arc<Notify>>> {
    watches.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Files {
    fn instance(&self) -> io::Result<Arc<Readable>> {
        let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Listening { instance, .. }) = &*listening {
            return Ok(Arc::clone(instance));
        }
        let instance = Arc::new(Readable::new(new_instance()?)?);
        let task = tokio::spawn(listen(Arc::clone(&instance), Arc::clone(&self.watches)));
        *listening = Some(Listening { instance: Arc::clone(&instance), task });
        Ok(instance)
    }

    fn watch(self: &Arc<Self>, file: &Path) -> io::Result<Watched> {
        let (instance, changed) = (self.instance()?, Arc::new(Notify::new()));
        // Held over both, or news could come before it is known whose they are.
        let mut watches = lock(&self.watches);
        let watch = inotify::watch_contents(instance.as_fd(), file)?;
        watches.insert(watch, Arc::clone(&changed));
        drop(watches);
        Ok(Watched { files: Arc::clone(self), instance, watch, changed })
    }
}

async fn listen(instance: Arc<Readable>, watches: Arc<Watches>) {
    let mut buffer = vec![MaybeUninit::uninit(); inotify::BUFFER];
    while let Ok(news) = instance.read_with(|fd| inotify::receive(fd, &mut buffer)).await {
        heard(&lock(&watches), &news);
    }
}

fn heard(watches: &BTreeMap<i32, Arc<Notify>>, news: &[News]) {
    for one in news {
        match one {
            News::Touched(watch, _) => {
                if let Some(changed) = watches.get(watch) {
                    changed.notify_one();
                }
            }
            News::Gone(_) => {}
            // Whoever waits looks at the counters: nothing is lost by it.
            News::Lost => watches.values().for_each(|changed| changed.notify_one()),
        }
    }
}

/// Watches the limits of a service while it has runs: of one that is there alone it tells which. Dropped with the last.
#[derive(Debug)]
pub(crate) struct Limits {
    watch: Arc<Watch>,
    tasks: Vec<JoinHandle<()>>,
    by_the_clock: Mutex<ByTheClock>,
}

/// What has to be looked at again and again; which of it may change while a run is there.
#[derive(Debug, Default)]
struct ByTheClock {
    cpu: Option<(CpuWindow, JoinHandle<()>)>,
    pids: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Watch {
    reporter: Reporter,
    runs: Arc<Runs>,
    group: Arc<ServiceGroup>,
    /// What is looked for, and what the limits are.
    wanted: Mutex<Wanted>,
    memory: Counter,
    pids: Counter,
}

#[derive(Debug, Clone, Copy)]
struct Wanted {
    memory: bool,
    pids: bool,
    cpu: Option<CpuWindow>,
    limit_bytes: Option<u64>,
    pids_limit: u32,
    pids_declared: bool,
}

impl Wanted {
    fn of(policy: &PolicyPlan, limits: &LimitsPlan) -> Self {
        Self {
            memory: policy.detects(ViolationClass::Memory),
            pids: policy.detects(ViolationClass::Pids),
            cpu: policy.cpu.filter(|_| policy.detects(ViolationClass::Cpu)),
            limit_bytes: limits.memory.map(|size| size.0),
            pids_limit: limits.pids,
            pids_declared: limits.pids_declared,
        }
    }
}

/// A counter of the kernel and how much of it is told.
#[derive(Debug)]
struct Counter(AtomicU64);

impl Counter {
    fn new(now: u64) -> Self {
        Self(AtomicU64::new(now))
    }

    /// What is new, each time told by one only.
    fn news(&self, now: u64) -> Option<u64> {
        let before = self.0.fetch_max(now, Ordering::AcqRel);
        now.checked_sub(before).filter(|new| *new > 0)
    }
}

impl Watch {
    fn wanted(&self) -> Wanted {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, count: u64, evidence: Evidence, mechanism: Mechanism) {
        self.reporter.tell(Seen { count, ..Seen::new(self.runs.only(), evidence, mechanism) });
    }

    fn look_at_memory(&self) {
        // What is not looked for counts as told.
        let Some(count) = self.memory.news(self.group.oom_kills()) else { return };
        let Wanted { memory: true, limit_bytes, .. } = self.wanted() else { return };
        let mechanism = match self.group.group().dies_as_a_whole() {
            true => Mechanism::MemoryEvents,
            false => Mechanism::OomControl,
        };
        self.tell(count, Evidence::Memory { limit_bytes }, mechanism);
    }

    fn look_at_pids(&self) {
        let Some(count) = self.pids.news(self.group.pids_refused()) else { return };
        let Wanted { pids: true, pids_limit: limit, .. } = self.wanted() else { return };
        self.tell(count, Evidence::Pids { limit }, Mechanism::PidsEvents);
    }
}

impl Limits {
    /// Begins to watch the limits of a service whose first run is about to start.
    pub(crate) fn watch(
        reporter: Reporter,
        runs: Arc<Runs>,
        group: &Arc<ServiceGroup>,
        plan: &ServicePlan,
        files: &Arc<Files>,
    ) -> Self {
        let wanted = Wanted::of(&plan.policy, &plan.limits);
        let watch = Arc::new(Watch {
            reporter,
            runs,
            group: Arc::clone(group),
            wanted: Mutex::new(wanted),
            memory: Counter::new(group.oom_kills()),
            pids: Counter::new(group.pids_refused()),
        });
        let mut tasks = Vec::new();
        // The rest of a run whose process was killed for its memory is killed whether it is told or not.
        let guard = Arc::clone(&watch);
        tasks.push(tokio::spawn(async move {
            if let Err(error) = guard.group.guard_oom(|| guard.look_at_memory()).await {
                tracing::warn!(%error, "watching for lack of memory");
            }
        }));
        if let Some(file) = group.group().memory_events() {
            tasks.extend(on_change(files, &file, Arc::clone(&watch), Watch::look_at_memory));
        }
        if let Some(file) = group.group().pids_events() {
            tasks.extend(on_change(files, &file, Arc::clone(&watch), Watch::look_at_pids));
        }
        let limits = Self { watch, tasks, by_the_clock: Mutex::default() };
        limits.wind(Some(wanted));
        limits
    }

    /// The plan is another one.
    pub(crate) fn update(&self, plan: &ServicePlan) {
        let wanted = Wanted::of(&plan.policy, &plan.limits);
        *self.watch.wanted.lock().unwrap_or_else(PoisonError::into_inner) = wanted;
        self.wind(Some(wanted));
    }

    /// Looks by the clock at what is wanted from now on, and at nothing else.
    fn wind(&self, wanted: Option<Wanted>) {
        let ByTheClock { cpu, pids } = &mut *self.by_the_clock.lock().unwrap_or_else(PoisonError::into_inner);
        let window = wanted.and_then(|wanted| wanted.cpu);
        if cpu.as_ref().map(|(window, _)| *window) != window {
            if let Some((_, task)) = cpu.take() {
                task.abort();
            }
            *cpu = window.map(|window| {
                let watch = Arc::clone(&self.watch);
                (window, tokio::spawn(async move { watch.sample(window).await }))
            });
        }
        let group = self.watch.group.group();
        let silent = group.pids_events().is_none() && group.pids_refused().is_ok_and(|count| count.is_some());
        if !wanted.is_some_and(|wanted| wanted.pids && wanted.pids_declared && silent) {
            if let Some(task) = pids.take() {
                task.abort();
            }
        } else if pids.is_none() {
            let watch = Arc::clone(&self.watch);
            *pids = Some(tokio::spawn(async move {
                loop {
                    sleep_to_the_next(LOOK_EVERY).await;
                    watch.look_at_pids();
                }
            }));
        }
    }

    /// Tells what is not told yet, of a run that has ended.
    pub(crate) fn settle(&self) {
        self.watch.look_at_memory();
        self.watch.look_at_pids();
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.wind(None);
    }
}

fn on_change(files: &Arc<Files>, file: &Path, watch: Arc<Watch>, look: fn(&Watch)) -> Option<JoinHandle<()>> {
    let watched = match files.watch(file) {
        Ok(watched) => watched,
        Err(error) => {
            tracing::warn!(%error, file = %file.display(), "watching a control group: its limits are told late");
            return None;
        }
    };
    Some(tokio::spawn(async move {
        loop {
            watched.changed.notified().await;
            look(&watch);
        }
    }))
}

/// Sleeps to a moment that is the same for all who sleep so, that they wake up together.
async fn sleep_to_the_next(step: Duration) {
    use std::sync::OnceLock;
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    let begin = *BEGIN.get_or_init(Instant::now);
    let passed = begin.elapsed().as_nanos() / step.as_nanos() + 1;
    let next = begin + step * u32::try_from(passed).unwrap_or(u32::MAX);
    tokio::time::sleep_until(next).await;
}

impl Watch {
    /// Looks at the processor time again and again. One that is over its share for the whole window is told, and the
    /// next window begins.
    async fn sample(&self, cpu: CpuWindow) {
        let mut share = Share::new(cpu);
        loop {
            let Some(used) = self.group.group().usage().cpu_usec else { return };
            if let Some((percent, over)) = share.add(Instant::now(), used) {
                let for_ms = u64::try_from(over.as_millis()).unwrap_or(u64::MAX);
                self.tell(1, Evidence::Cpu { percent, for_ms }, Mechanism::CpuStat);
            }
            sleep_to_the_next(SAMPLE_EVERY).await;
        }
    }
}

/// Processor time over a window that moves.
#[derive(Debug)]
struct Share {
    cpu: CpuWindow,
    /// When, and microseconds used until then; from the last one before the window on.
    samples: VecDeque<(Instant, u64)>,
}

impl Share {
    fn new(cpu: CpuWindow) -> Self {
        Self { cpu, samples: VecDeque::new() }
    }

    /// Adds a sample; the share in per cent of one processor and the time that it is of, when that is too much.
    fn add(&mut self, now: Instant, used: u64) -> Option<(u32, Duration)> {
        self.samples.push_back((now, used));
        while self.samples.get(1).is_some_and(|(when, _)| *when + self.cpu.window <= now) {
            self.samples.pop_front();
        }
        let (since, before) = self.samples.front().copied()?;
        let over = now - since;
        if over < self.cpu.window || over.is_zero() {
            return None;
        }
        let percent = u128::from(used.saturating_sub(before)) * 100 / over.as_micros().max(1);
        let percent = u32::try_from(percent).unwrap_or(u32::MAX);
        if percent < self.cpu.percent {
            return None;
        }
        self.samples.clear();
        self.samples.push_back((now, used));
        Some((percent, over))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_counts_over_the_whole_window_only() {
        let begin = Instant::now();
        let mut share = Share::new(CpuWindow { percent: 90, window: Duration::from_secs(5) });
        let mut used = 0;
        let mut told = Vec::new();
        // Half a second at a time: idle for 5 s, busy for 4 s, idle for 1 s, then busy on two processors.
        let busy = std::iter::repeat_n(0, 10)
            .chain(std::iter::repeat_n(500_000, 8))
            .chain(std::iter::repeat_n(0, 2))
            .chain(std::iter::repeat_n(1_000_000, 30));
        for (number, microseconds) in busy.enumerate() {
            used += microseconds;
            let now = begin + Duration::from_millis(500) * number as u32;
            told.extend(share.add(now, used).map(|(percent, over)| (number, percent, over.as_secs())));
            assert!(share.samples.len() <= 12, "it keeps a window and no more");
        }
        // Half a second of two processors and three and a half of one are 90 % of five; then a window each.
        assert_eq!(told, [(20, 90, 5), (30, 200, 5), (40, 200, 5)]);
    }

    #[test]
    fn a_counter_is_told_once() {
        let counter = Counter::new(7);
        let looks = [7, 9, 9, 8, 12].map(|now| counter.news(now));
        assert_eq!(looks, [None, Some(2), None, None, Some(3)]);
    }

    #[tokio::test]
    async fn whoever_watches_a_file_is_told_of_it_and_of_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let files = Arc::new(Files::default());
        let watch = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, "0").unwrap();
            (files.watch(&path).unwrap(), path)
        };
        let ((one, _), (other, path)) = (watch("memory.events"), watch("pids.events"));
        std::fs::write(&path, "1").unwrap();
        tokio::time::timeout(Duration::from_secs(20), other.changed.notified()).await.unwrap();
        assert!(tokio::time::timeout(Duration::ZERO, one.changed.notified()).await.is_err());
        // After a loss everybody looks.
        heard(&lock(&files.watches), &[News::Lost]);
        tokio::time::timeout(Duration::from_secs(20), one.changed.notified()).await.unwrap();
        drop((one, other));
        assert!(lock(&files.watches).is_empty());
    }
}
