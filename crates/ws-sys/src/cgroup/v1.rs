//! Limits and counters of the v1 controllers.
//!
//! Limits go through `cgroups-rs`, whose controllers take the directory that they work in: nothing but
//! that directory is touched. Reading back is done here, so that a limit is not believed by the code that
//! set it. Its statistics are used where they read one file; its memory statistics read nine and panic
//! on a surprise, its OOM notification owns a thread each: both are done here.

use std::error::Error as _;
use std::io;
use std::path::{Path, PathBuf};

use cgroups_rs::fs::MaxValue;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;

use super::v2::cpu_quota;
use super::{Error, Result, files};

/// The file that must be there and writable for a limit of memory, processor time, processes.
pub(super) const MEMORY_LIMIT: &str = "memory.limit_in_bytes";
pub(super) const CPU_LIMIT: &str = "cpu.cfs_quota_us";
pub(super) const PIDS_LIMIT: &str = "pids.max";
const MEMSW_LIMIT: &str = "memory.memsw.limit_in_bytes";
const CPU_PERIOD: &str = "cpu.cfs_period_us";

/// What an unlimited counter of memory reads as: `LONG_MAX` in whole pages.
fn unlimited_memory() -> u64 {
    let page = page_size();
    (i64::MAX as u64) / page * page
}

pub(super) fn page_size() -> u64 {
    // SAFETY: `sysconf` takes no pointer and changes nothing.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).ok().filter(|size| *size > 0).unwrap_or(4096)
}

/// Sets the limit of memory and, where swap is accounted, of memory with swap to the same: no swap.
pub(super) fn set_memory(dir: &Path, limit: Option<u64>) -> Result<()> {
    let controller = MemController::new(dir.to_owned(), dir.to_owned(), false);
    let value = limit.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
    let expected = limit.map_or(unlimited_memory(), |bytes| {
        let page = page_size();
        bytes.min(unlimited_memory()) / page * page
    });
    let with_swap = dir.join(MEMSW_LIMIT).exists();
    let memory = || {
        controller.set_limit(value).map_err(|e| failed(dir, MEMORY_LIMIT, value, &e))?;
        files::must_read(dir, MEMORY_LIMIT, &value.to_string(), &expected.to_string())
    };
    let memory_and_swap = || {
        controller.set_memswap_limit(value).map_err(|e| failed(dir, MEMSW_LIMIT, value, &e))?;
        files::must_read(dir, MEMSW_LIMIT, &value.to_string(), &expected.to_string())
    };
    if !with_swap {
        memory()?;
        // Swap cannot be counted: at least none is chosen freely.
        return if limit.is_some() && dir.join("memory.swappiness").exists() {
            files::keep(dir, "memory.swappiness", "0", "0")
        } else {
            Ok(())
        };
    }
    // Memory with swap can never be below memory alone: the greater is moved first when it grows.
    let grows = expected > files::read_number(dir, MEMSW_LIMIT)?;
    if grows {
        memory_and_swap()?;
        memory()
    } else {
        memory()?;
        memory_and_swap()
    }
}

/// Sets the share of processor time.
pub(super) fn set_cpu(dir: &Path, milli: Option<u32>) -> Result<()> {
    let controller = CpuController::new(dir.to_owned(), dir.to_owned(), false);
    let Some(milli) = milli else {
        controller.set_cfs_quota(-1).map_err(|e| failed(dir, CPU_LIMIT, -1, &e))?;
        return files::must_read(dir, CPU_LIMIT, "-1", "-1");
    };
    let (quota, period) = cpu_quota(milli);
    let period_text = period.to_string();
    if files::read(dir, CPU_PERIOD)? != period_text {
        controller.set_cfs_period(period).map_err(|e| failed(dir, CPU_PERIOD, period, &e))?;
        files::must_read(dir, CPU_PERIOD, &period_text, &period_text)?;
    }
    let quota_text = quota.to_string();
    let quota = i64::try_from(quota).unwrap_or(i64::MAX);
    controller.set_cfs_quota(quota).map_err(|e| failed(dir, CPU_LIMIT, quota, &e))?;
    files::must_read(dir, CPU_LIMIT, &quota_text, &quota_text)
}

/// Sets the limit of processes and threads.
pub(super) fn set_pids(dir: &Path, limit: Option<u64>) -> Result<()> {
    let controller = PidController::new(dir.to_owned(), dir.to_owned(), false);
    let value = match limit {
        Some(n) => MaxValue::Value(i64::try_from(n).unwrap_or(i64::MAX)),
        None => MaxValue::Max,
    };
    let text = value.to_string();
    controller.set_pid_max(value).map_err(|e| failed(dir, PIDS_LIMIT, &text, &e))?;
    files::must_read(dir, PIDS_LIMIT, &text, &text)
}

/// How often a fork was refused for the limit.
pub(super) fn pids_refused(dir: &Path) -> Result<u64> {
    let controller = PidController::new(dir.to_owned(), dir.to_owned(), false);
    controller.get_pid_events().map_err(|e| read_failed(dir.join("pids.events"), &e))
}

/// How often the kernel killed a process of the group for lack of memory.
pub(super) fn oom_kills(dir: &Path) -> Result<u64> {
    files::read_keyed(dir, "memory.oom_control", "oom_kill")
}

/// Periods in which the group was held back, and for how many nanoseconds.
pub(super) fn throttled(dir: &Path) -> Result<(u64, u64)> {
    let stat = CpuController::new(dir.to_owned(), dir.to_owned(), false).cpu().stat;
    let number = |key: &str| {
        files::keyed(&stat, key)
            .ok_or_else(|| Error::Format { path: dir.join("cpu.stat"), wanted: key.to_owned() })
    };
    Ok((number("nr_throttled")?, number("throttled_time")?))
}

fn failed(dir: &Path, file: &str, value: impl ToString, error: &cgroups_rs::fs::error::Error) -> Error {
    Error::Write { path: dir.join(file), value: value.to_string(), source: io_cause(error) }
}

fn read_failed(path: PathBuf, error: &cgroups_rs::fs::error::Error) -> Error {
    Error::Read { path, source: io_cause(error) }
}

/// The operating system's error inside of the package's, whose own text would repeat the path.
fn io_cause(error: &cgroups_rs::fs::error::Error) -> io::Error {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    match cause.and_then(io::Error::raw_os_error) {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::other(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A directory with these files; a plain file system keeps whatever is written, as the kernel does
    /// for values that it takes as they are.
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
    fn memory_is_limited_with_and_without_swap_accounting() {
        let page = page_size();
        let dir = fake(&[(MEMORY_LIMIT, "0"), (MEMSW_LIMIT, "9223372036854771712")]);
        set_memory(dir.path(), Some(64 * page)).unwrap();
        assert_eq!(text(&dir, MEMORY_LIMIT), (64 * page).to_string());
        assert_eq!(text(&dir, MEMSW_LIMIT), (64 * page).to_string());

        let dir = fake(&[(MEMORY_LIMIT, "0"), ("memory.swappiness", "60")]);
        set_memory(dir.path(), Some(64 * page)).unwrap();
        assert_eq!(text(&dir, "memory.swappiness"), "0");
        assert!(!dir.path().join(MEMSW_LIMIT).exists());
    }

    #[test]
    fn a_limit_that_does_not_read_back_is_an_error() {
        // The kernel would read half a page as none; a plain file reads what was written.
        let dir = fake(&[(MEMORY_LIMIT, "0"), (MEMSW_LIMIT, "0")]);
        let error = set_memory(dir.path(), Some(page_size() + 1)).unwrap_err();
        assert!(matches!(error, Error::NotKept { .. }), "{error}");
    }

    #[test]
    fn cpu_and_pids_are_written_as_v1_wants_them() {
        let dir = fake(&[(CPU_LIMIT, "-1"), (CPU_PERIOD, "100000"), (PIDS_LIMIT, "max")]);
        set_cpu(dir.path(), Some(1500)).unwrap();
        assert_eq!((text(&dir, CPU_LIMIT).as_str(), text(&dir, CPU_PERIOD).as_str()), ("150000", "100000"));
        set_cpu(dir.path(), Some(5)).unwrap();
        assert_eq!((text(&dir, CPU_LIMIT).as_str(), text(&dir, CPU_PERIOD).as_str()), ("5000", "1000000"));
        set_cpu(dir.path(), None).unwrap();
        assert_eq!(text(&dir, CPU_LIMIT), "-1");
        set_pids(dir.path(), Some(130)).unwrap();
        assert_eq!(text(&dir, PIDS_LIMIT), "130");
        set_pids(dir.path(), None).unwrap();
        assert_eq!(text(&dir, PIDS_LIMIT), "max");
    }

    #[test]
    fn counters_are_parsed() {
        let dir = fake(&[
            ("pids.events", "max 7\n"),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
            ("cpu.stat", "nr_periods 9\nnr_throttled 4\nthrottled_time 5000\n"),
        ]);
        assert_eq!(pids_refused(dir.path()).unwrap(), 7);
        assert_eq!(oom_kills(dir.path()).unwrap(), 3);
        assert_eq!(throttled(dir.path()).unwrap(), (4, 5000));
        let empty = fake(&[]);
        let error = pids_refused(empty.path()).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().downcast_ref::<io::Error>().unwrap();
        assert_eq!(cause.kind(), io::ErrorKind::NotFound, "{error}");
    }
}
