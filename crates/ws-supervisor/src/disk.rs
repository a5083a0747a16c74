//! Files of lines that are kept within bounds: appended to, rotated, read from either end.
//!
//! A file `x` is followed by its older parts `x.1`, `x.2` and so on, each complete lines only. Lines
//! that were cut by a crash or a full disk are closed off or taken back, so that a reader meets at most
//! one that it cannot parse.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;

/// The greatest number that a line or an event is believed to have: every reader of JSON knows it exactly (RFC 8259,
/// section 6), and one that stands in a damaged file cannot make ours overflow.
pub(crate) const MAX_SEQ: u64 = 1 << 53;

/// How much is kept of a file of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// A part that would grow beyond this many bytes is finished and a new one begun.
    pub(crate) part_bytes: u64,
    /// How many finished parts are kept.
    pub(crate) parts: u32,
    /// Finished parts that were last written to longer ago go.
    pub(crate) max_age: Option<Duration>,
}

/// A file of lines that is appended to.
#[derive(Debug)]
pub(crate) struct RotatingFile {
    path: PathBuf,
    bounds: Bounds,
    open: Option<(File, u64)>,
}

impl RotatingFile {
    pub(crate) fn new(path: PathBuf, bounds: Bounds) -> Self {
        Self { path, bounds, open: None }
    }

    /// Says how much is kept from now on.
    pub(crate) fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// Appends whole lines: all of them or, after an error, none. Only what is longer than a part is spread over
    /// several: then those stay that were filled before the error, and are there twice when all is appended again.
    pub(crate) fn append(&mut self, mut lines: &[u8]) -> io::Result<()> {
        let most = usize::try_from(self.bounds.part_bytes).unwrap_or(usize::MAX);
        while !lines.is_empty() {
            let fits = whole_lines(lines, most);
            let (now, later) = lines.split_at(fits);
            self.append_to_one_part(now)?;
            lines = later;
        }
        Ok(())
    }

    fn append_to_one_part(&mut self, lines: &[u8]) -> io::Result<()> {
        // Somebody has removed the file, or the directory with it: what goes there is lost without an error.
        if let Some((file, _)) = &self.open
            && file.metadata()?.nlink() == 0
        {
            self.open = None;
        }
        let added = u64::try_from(lines.len()).unwrap_or(u64::MAX);
        let (_, size) = self.opened()?;
        if *size > 0 && size.saturating_add(added) > self.bounds.part_bytes {
            self.open = None;
            rotate(&self.path, self.bounds.parts)?;
            remove_old_parts(&self.path, self.bounds);
        }
        let (file, size) = self.opened()?;
        if let Err(error) = file.write_all(lines) {
            // A line that is cut would be glued to the next one. If this fails too, opening repairs it.
            let _ = file.set_len(*size);
            self.open = None;
            return Err(error);
        }
        *size += added;
        Ok(())
    }

    /// The present part and its size.
    fn opened(&mut self) -> io::Result<&mut (File, u64)> {
        match &mut self.open {
            Some(open) => Ok(open),
            none => Ok(none.insert(open_to_append(&self.path)?)),
        }
    }

    /// Gives its descriptor back until the next append.
    pub(crate) fn close(&mut self) {
        self.open = None;
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }
}

fn open_to_append(path: &Path) -> io::Result<(File, u64)> {
    let mut file = options().read(true).append(true).create(true).mode(0o600).open(path)?;
    let mut size = file.metadata()?.len();
    if size > 0 {
        let mut last = [0];
        file.read_exact_at(&mut last, size - 1)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
            size += 1;
        }
    }
    Ok((file, size))
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    // Flags fit into the type that the kernel takes them in.
    options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

/// Makes the file if it is not there.
pub(crate) fn touch(path: &Path) -> io::Result<()> {
    open_to_append(path).map(drop)
}

/// How many bytes of `lines` are the whole lines that fit into `most` bytes, and at least one line.
fn whole_lines(lines: &[u8], most: usize) -> usize {
    if lines.len() <= most {
        return lines.len();
    }
    let end_of = |found: Option<usize>| found.map(|at| at + 1);
    end_of(lines[..most].iter().rposition(|byte| *byte == b'\n'))
        .or_else(|| end_of(lines.iter().position(|byte| *byte == b'\n')))
        .unwrap_or(lines.len())
}

fn rotate(path: &Path, parts: u32) -> io::Result<()> {
    for n in (0..parts).rev() {
        match std::fs::rename(part(path, n), part(path, n + 1)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    if parts == 0 { std::fs::remove_file(path) } else { Ok(()) }
}

/// Removes finished parts that are too many or too old. One that cannot be removed stays: the next rotation tries
/// again.
pub(crate) fn remove_old_parts(path: &Path, bounds: Bounds) {
    let now = SystemTime::now();
    let too_old = |part: &Path| {
        let written = std::fs::symlink_metadata(part).and_then(|metadata| metadata.modified());
        // A clock that was set back makes none older.
        let age = written.ok().and_then(|written| now.duration_since(written).ok());
        bounds.max_age.is_some_and(|max| age.is_some_and(|age| age > max))
    };
    for (n, part) in existing_parts(path).filter(|(n, _)| *n > 0) {
        if n > bounds.parts || too_old(&part) {
            let _ = std::fs::remove_file(part);
        }
    }
}

/// The parts that are there, newest first. Ends at two in a row that are not: one may just be renamed, or was too old.
fn existing_parts(path: &Path) -> impl Iterator<Item = (u32, PathBuf)> {
    let mut absent = 0;
    (0..)
        .map(|n| (n, part(path, n)))
        .map_while(move |(n, part)| {
            let there = part.symlink_metadata().is_ok();
            absent = if there || n == 0 { 0 } else { absent + 1 };
            (absent < 2).then_some(there.then_some((n, part)))
        })
        .flatten()
}

fn part(path: &Path, n: u32) -> PathBuf {
    if n == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

/// The parts of a file of lines, as they are at one moment.
#[derive(Debug)]
pub(crate) struct Parts {
    /// The newest first.
    files: Vec<File>,
}

impl Parts {
    /// Opens all parts that are there. The newest is opened first: when a rotation comes in between, a
    /// part may be met twice, and none is missed.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut files = Vec::new();
        for (_, part) in existing_parts(path) {
            match options().read(true).open(part) {
                Ok(file) => files.push(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { files })
    }

    /// Every line without its end, oldest first. What cannot be read is left out.
    pub(crate) fn lines(self) -> impl Iterator<Item = Vec<u8>> {
        self.files.into_iter().rev().flat_map(|file| {
            let mut reader = BufReader::with_capacity(64 << 10, file);
            std::iter::from_fn(move || {
                let mut line = Vec::new();
                let read = reader.read_until(b'\n', &mut line).unwrap_or(0);
                if line.last() == Some(&b'\n') {
                    line.pop();
                }
                (read > 0).then_some(line)
            })
        })
    }

    /// Every line without its end, newest first. What cannot be read is left out.
    pub(crate) fn lines_backwards(self) -> impl Iterator<Item = Vec<u8>> {
        self.files.into_iter().flat_map(Backwards::new)
    }
}

/// The lines of one file, last first.
struct Backwards {
    file: File,
    /// Everything before this offset has not been read.
    unread: u64,
    /// What was read and not given out yet.
    buffer: Vec<u8>,
}

impl Backwards {
    fn new(mut file: File) -> Self {
        let unread = file.seek(SeekFrom::End(0)).unwrap_or(0);
        Self { file, unread, buffer: Vec::new() }
    }

    /// Puts the block before the buffer; false at the beginning of the file.
    fn read_block(&mut self) -> bool {
        const BLOCK: u64 = 64 << 10;
        let len = self.unread.min(BLOCK);
        let mut block = vec![0; usize::try_from(len).unwrap_or(0)];
        if block.is_empty() || self.file.read_exact_at(&mut block, self.unread - len).is_err() {
            return false;
        }
        self.unread -= len;
        block.append(&mut self.buffer);
        self.buffer = block;
        true
    }
}

impl Iterator for Backwards {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if self.buffer.is_empty() && !self.read_block() {
            return None;
        }
        if self.buffer.last() == Some(&b'\n') {
            self.buffer.pop();
        }
        let mut searched = 0;
        loop {
            let unsearched = self.buffer.len() - searched;
            if let Some(newline) = self.buffer[..unsearched].iter().rposition(|byte| *byte == b'\n') {
                return Some(self.buffer.split_off(newline + 1));
            }
            searched = self.buffer.len();
            if !self.read_block() {
                return Some(std::mem::take(&mut self.buffer));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { part_bytes: 100, parts: 2, max_age: None };

    fn forwards(path: &Path) -> Vec<String> {
        Parts::open(path).unwrap().lines().map(|line| String::from_utf8(line).unwrap()).collect()
    }

    fn backwards(path: &Path) -> Vec<String> {
        let lines = Parts::open(path).unwrap().lines_backwards();
        lines.map(|line| String::from_utf8(line).unwrap()).collect()
    }

    #[test]
    fn lines_are_read_from_both_ends_across_parts() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.log");
        let mut file = RotatingFile::new(path.clone(), BOUNDS);
        let mut expected: Vec<String> = (0..18).map(|n| format!("line number {n}")).collect();
        for line in &expected {
            file.append(format!("{line}\n").as_bytes()).unwrap();
        }
        assert_eq!(forwards(&path), expected);
        expected.reverse();
        assert_eq!(backwards(&path), expected);
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 3);
    }

    #[test]
    fn more_than_a_part_is_spread_over_parts_in_whole_lines() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.log");
        let mut file = RotatingFile::new(path.clone(), BOUNDS);
        let lines: Vec<String> = (0..40).map(|n| format!("line number {n:02}")).collect();
        file.append(b"before\n").unwrap();
        file.append(format!("{}\n", lines.join("\n")).as_bytes()).unwrap();
        for entry in std::fs::read_dir(temp.path()).unwrap() {
            assert!(entry.unwrap().metadata().unwrap().len() <= BOUNDS.part_bytes);
        }
        let kept = forwards(&path);
        assert!(kept.len() > 10 && lines.ends_with(&kept), "{kept:?}");
        // A line that is longer than a part has one of its own.
        let long = "x".repeat(300);
        file.append(format!("{long}\nend\n").as_bytes()).unwrap();
        assert_eq!(forwards(&path)[forwards(&path).len() - 2..], [long, "end".to_owned()]);
    }

    #[test]
    fn a_file_that_was_closed_between_is_finished_too() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.log");
        let mut file = RotatingFile::new(path.clone(), BOUNDS);
        for n in 0..100 {
            file.append(format!("line number {n}\n").as_bytes()).unwrap();
            file.close();
        }
        let size = |path: &Path| std::fs::metadata(path).unwrap().len();
        assert!(size(&path) <= BOUNDS.part_bytes && size(&part(&path, 1)) <= BOUNDS.part_bytes);
    }

    #[test]
    fn the_oldest_part_is_given_up() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.log");
        let mut file = RotatingFile::new(path.clone(), BOUNDS);
        for n in 0..1000 {
            file.append(format!("{n}\n").as_bytes()).unwrap();
        }
        let lines = forwards(&path);
        assert_eq!(lines.last().unwrap(), "999");
        let total: u64 = (0..=2).map(|n| std::fs::metadata(part(&path, n)).unwrap().len()).sum();
        assert!(total <= 300, "{total}");
        let first: u32 = lines[0].parse().unwrap();
        assert_eq!(lines.len(), usize::try_from(1000 - first).unwrap(), "no line in between is missing");
    }

    #[test]
    fn long_lines_and_empty_lines_are_read_backwards() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.log");
        let long = "y".repeat(200_000);
        std::fs::write(&path, format!("a\n\n{long}\n\nb")).unwrap();
        assert_eq!(backwards(&path), ["b", "", long.as_str(), "", "a"]);
    }

    #[test]
    fn a_cut_line_is_closed_off() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.log");
        std::fs::write(&path, "whole\nha").unwrap();
        let mut file = RotatingFile::new(path.clone(), BOUNDS);
        file.append(b"next\n").unwrap();
        assert_eq!(forwards(&path), ["whole", "ha", "next"]);
    }

    #[test]
    fn a_full_disk_leaves_no_half_line() {
        // `/dev/full` takes nothing; a link to it stands for a disk that is full, so follow it by hand.
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.log");
        let mut file = RotatingFile::new(path.clone(), BOUNDS);
        file.append(b"one\n").unwrap();
        let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
        file.open = Some((full, 4));
        assert!(file.append(b"two\n").is_err());
        file.append(b"three\n").unwrap();
        assert_eq!(forwards(&path), ["one", "three"]);
    }

    #[test]
    fn symbolic_links_are_not_written_through() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.log");
        std::os::unix::fs::symlink(temp.path().join("victim"), &path).unwrap();
        assert!(RotatingFile::new(path, BOUNDS).append(b"x\n").is_err());
        assert!(!temp.path().join("victim").exists());
    }
}
