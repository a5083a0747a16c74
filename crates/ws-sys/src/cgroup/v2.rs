//! The files of the unified hierarchy.

use std::path::Path;

use super::v1::page_size;
use super::{Controller, Error, Result, files};

/// The file that must be there and writable for a limit of this kind.
pub(super) fn limit_file(controller: Controller) -> &'static str {
    match controller {
        Controller::Memory => "memory.max",
        Controller::Cpu => "cpu.max",
        Controller::Pids => "pids.max",
    }
}

/// Lets the children of `dir` have these controllers; gives those that they do not get, with the reason.
pub(super) fn enable(dir: &Path, wanted: &[Controller]) -> Vec<(Controller, String)> {
    let enabled = |controller: Controller| {
        let text = files::read(dir, "cgroup.subtree_control").unwrap_or_default();
        text.split_ascii_whitespace().any(|word| word == controller.as_str())
    };
    let mut refused = Vec::new();
    for &controller in wanted {
        if enabled(controller) {
            continue;
        }
        // One by one: the kernel takes all or nothing, and one that is missing must not cost the others.
        match files::write(dir, "cgroup.subtree_control", &format!("+{controller}")) {
            Ok(()) => {}
            Err(Error::Write { source, .. }) if source.raw_os_error() == Some(libc::EBUSY) => {
                refused.push((controller, format!("the cgroup {} has processes of its own", dir.display())));
            }
            Err(error) => refused.push((controller, with_cause(&error))),
        }
    }
    refused
}

/// An error and its cause as one phrase.
pub(super) fn with_cause(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Sets the limit of memory, forbids swap, and lets the kernel kill the group as a whole.
pub(super) fn set_memory(dir: &Path, limit: Option<u64>) -> Result<()> {
    let Some(bytes) = limit else {
        // Group kill and swap are left as they are: without a limit the group runs into none of its own.
        return files::keep(dir, "memory.max", "max", "max");
    };
    let page = page_size();
    if dir.join("memory.swap.max").exists() {
        files::keep(dir, "memory.swap.max", "0", "0")?;
    }
    if dir.join("memory.oom.group").exists() {
        files::keep(dir, "memory.oom.group", "1", "1")?;
    }
    files::keep(dir, "memory.max", &bytes.to_string(), &(bytes / page * page).to_string())
}

/// Sets the share of processor time.
pub(super) fn set_cpu(dir: &Path, milli: Option<u32>) -> Result<()> {
    let text = match milli {
        Some(milli) => {
            let (quota, period) = cpu_quota(milli);
            format!("{quota} {period}")
        }
        None => "max 100000".to_owned(),
    };
    files::keep(dir, "cpu.max", &text, &text)
}

/// Sets the limit of processes and threads.
pub(super) fn set_pids(dir: &Path, limit: Option<u64>) -> Result<()> {
    let text = limit.map_or_else(|| "max".to_owned(), |n| n.to_string());
    files::keep(dir, "pids.max", &text, &text)
}

/// How often a fork was refused for the limit.
pub(super) fn pids_refused(dir: &Path) -> Result<u64> {
    files::read_keyed(dir, "pids.events", "max")
}

/// How often the kernel killed a process of the group for lack of memory.
pub(super) fn oom_kills(dir: &Path) -> Result<u64> {
    files::read_keyed(dir, "memory.events", "oom_kill")
}

/// Processor time used, in microseconds.
pub(super) fn cpu_usec(dir: &Path) -> Result<u64> {
    files::read_keyed(dir, "cpu.stat", "usage_usec")
}

/// Periods in which the group was held back, and for how many microseconds.
pub(super) fn throttled(dir: &Path) -> Result<(u64, u64)> {
    Ok((
        files::read_keyed(dir, "cpu.stat", "nr_throttled")?,
        files::read_keyed(dir, "cpu.stat", "throttled_usec")?,
    ))
}

/// A flag of `cgroup.events`.
pub(super) fn event_flag(dir: &Path, flag: &str) -> Result<bool> {
    Ok(files::read_keyed(dir, "cgroup.events", flag)? != 0)
}

/// Quota and period in microseconds for a share in thousandths of a processor.
///
/// The kernel's default period is 100 ms and its smallest quota 1 ms: smaller shares take a longer period.
pub(super) fn cpu_quota(milli: u32) -> (u64, u64) {
    let milli = u64::from(milli.max(1));
    let period = if milli < 10 { 1_000_000 } else { 100_000 };
    (milli * period / 1000, period)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn fake(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn text(dir: &tempfile::TempDir, file: &str) -> String {
        fs::read_to_string(dir.path().join(file)).unwrap()
    }

    #[test]
    fn quotas_are_never_below_what_the_kernel_takes() {
        for (milli, expected) in [
            (0, (1000, 1_000_000)),
            (1, (1000, 1_000_000)),
            (9, (9000, 1_000_000)),
            (10, (1000, 100_000)),
            (1500, (150_000, 100_000)),
            (64_000, (6_400_000, 100_000)),
        ] {
            assert_eq!(cpu_quota(milli), expected, "{milli}");
        }
    }

    #[test]
    fn limits_are_written_as_v2_wants_them() {
        let max = [
            ("memory.max", "max"),
            ("memory.swap.max", "max"),
            ("memory.oom.group", "0"),
            ("cpu.max", "max 100000"),
            ("pids.max", "max"),
        ];
        let dir = fake(&max);
        set_memory(dir.path(), Some(512 << 20)).unwrap();
        set_cpu(dir.path(), Some(250)).unwrap();
        set_pids(dir.path(), Some(34)).unwrap();
        assert_eq!(text(&dir, "memory.max"), "536870912");
        assert_eq!(text(&dir, "memory.swap.max"), "0");
        assert_eq!(text(&dir, "memory.oom.group"), "1");
        assert_eq!(text(&dir, "cpu.max"), "25000 100000");
        assert_eq!(text(&dir, "pids.max"), "34");
    }

    #[test]
    fn lifting_a_limit_writes_max() {
        let dir = fake(&[("memory.max", ""), ("cpu.max", ""), ("pids.max", "")]);
        set_memory(dir.path(), None).unwrap();
        set_cpu(dir.path(), None).unwrap();
        set_pids(dir.path(), None).unwrap();
        assert_eq!(text(&dir, "memory.max"), "max");
        assert_eq!(text(&dir, "cpu.max"), "max 100000");
        assert_eq!(text(&dir, "pids.max"), "max");
    }

    #[test]
    fn a_limit_that_does_not_read_back_is_an_error() {
        let dir = fake(&[("memory.max", "")]);
        let error = set_memory(dir.path(), Some(page_size() + 1)).unwrap_err();
        assert!(matches!(&error, Error::NotKept { path, .. } if path.ends_with("memory.max")), "{error}");
    }

    #[test]
    fn events_are_parsed() {
        let dir = fake(&[
            ("memory.events", "low 0\nhigh 2\nmax 5\noom 2\noom_kill 3\noom_group_kill 1\n"),
            ("pids.events", "max 9\n"),
            ("cgroup.events", "populated 1\nfrozen 0\n"),
            (
                "cpu.stat",
                "usage_usec 1234\nuser_usec 1000\nnr_periods 2\nnr_throttled 1\nthrottled_usec 77\n",
            ),
        ]);
        assert_eq!(oom_kills(dir.path()).unwrap(), 3);
        assert_eq!(pids_refused(dir.path()).unwrap(), 9);
        assert!(event_flag(dir.path(), "populated").unwrap());
        assert!(!event_flag(dir.path(), "frozen").unwrap());
        assert_eq!(cpu_usec(dir.path()).unwrap(), 1234);
        assert_eq!(throttled(dir.path()).unwrap(), (1, 77));
    }

    #[test]
    fn controllers_are_enabled_one_by_one_and_only_when_they_are_not() {
        let dir = fake(&[("cgroup.subtree_control", "memory pids")]);
        assert_eq!(enable(dir.path(), &[Controller::Memory, Controller::Pids]), []);
        assert_eq!(text(&dir, "cgroup.subtree_control"), "memory pids");
        assert_eq!(enable(dir.path(), &[Controller::Cpu]), []);
        assert_eq!(text(&dir, "cgroup.subtree_control"), "+cpu");

        let refused = enable(fake(&[]).path(), &[Controller::Cpu]);
        assert!(
            matches!(refused.as_slice(), [(Controller::Cpu, why)] if why.contains("subtree_control")),
            "{refused:?}"
        );
    }
}
