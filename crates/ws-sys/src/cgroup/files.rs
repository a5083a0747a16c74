//! Reading and writing one control file, with the path in the error.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use super::{Error, Result};

/// Writes `value` in one call; the file must exist.
pub(super) fn write(dir: &Path, file: &str, value: &str) -> Result<()> {
    let path = dir.join(file);
    let result = fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(&path)
        .and_then(|mut f| f.write_all(value.as_bytes()));
    result.map_err(|source| Error::Write { path, value: value.to_owned(), source })
}

/// The whole text of a file, without the space around it.
pub(super) fn read(dir: &Path, file: &str) -> Result<String> {
    let path = dir.join(file);
    match fs::read_to_string(&path) {
        Ok(mut text) => {
            text.truncate(text.trim_end().len());
            Ok(text)
        }
        Err(source) => Err(Error::Read { path, source }),
    }
}

/// The number that a file consists of.
pub(super) fn read_number(dir: &Path, file: &str) -> Result<u64> {
    let text = read(dir, file)?;
    text.trim().parse().map_err(|_| Error::Format { path: dir.join(file), wanted: "number".into() })
}

/// The number behind `key` in lines of `key number`.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        if name == key { value.trim().parse().ok() } else { None }
    })
}

/// The number behind `key` in a file of `key number` lines.
pub(super) fn read_keyed(dir: &Path, file: &str, key: &str) -> Result<u64> {
    let text = read(dir, file)?;
    keyed(&text, key).ok_or_else(|| Error::Format { path: dir.join(file), wanted: key.to_owned() })
}

/// Whether the file can be opened for writing; says why not.
pub(super) fn writable(dir: &Path, file: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(dir.join(file)).map(drop)
}

/// Writes what must read back as `expected`.
pub(super) fn keep(dir: &Path, file: &str, value: &str, expected: &str) -> Result<()> {
    write(dir, file, value)?;
    must_read(dir, file, value, expected)
}

/// Fails when a file that was set to `wrote` does not read as `expected`.
pub(super) fn must_read(dir: &Path, file: &str, wrote: &str, expected: &str) -> Result<()> {
    let reads = read(dir, file)?;
    if reads == expected {
        return Ok(());
    }
    Err(Error::NotKept { path: dir.join(file), wrote: wrote.to_owned(), reads })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyed_lines_are_found_by_their_whole_key() {
        let text = "low 0\noom 3\noom_kill 12\nbad x";
        assert_eq!(keyed(text, "oom"), Some(3));
        assert_eq!(keyed(text, "oom_kill"), Some(12));
        assert_eq!(keyed(text, "bad"), None);
        assert_eq!(keyed(text, "absent"), None);
    }

    #[test]
    fn errors_name_the_file_and_keep_the_cause() {
        let dir = tempfile::tempdir().unwrap();
        let error = write(dir.path(), "memory.max", "1").unwrap_err();
        assert!(error.to_string().contains("memory.max"), "{error}");
        assert!(std::error::Error::source(&error).is_some());
        fs::write(dir.path().join("pids.max"), "7\n").unwrap();
        assert_eq!(read(dir.path(), "pids.max").unwrap(), "7");
        assert_eq!(read_number(dir.path(), "pids.max").unwrap(), 7);
        let error = must_read(dir.path(), "pids.max", "9", "9").unwrap_err();
        assert!(matches!(&error, Error::NotKept { reads, .. } if reads == "7"), "{error}");
    }
}
