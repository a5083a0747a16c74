//! How many connections there may be at a time: of one process and of all, so that a program that loses its connections
//! locks out neither itself for ever nor anybody else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How many connections there may be.
const MAX_CONNECTIONS: usize = 128;

/// How many of them may be of one process.
const MAX_OF_PROCESS: usize = 64;

/// The connections that are there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slots {
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// By process id; those that the kernel does not name share one.
    of: BTreeMap<Option<i32>, usize>,
}

/// The place of a connection; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    process: Option<i32>,
    taken: Arc<Mutex<Taken>>,
}

impl Slots {
    /// A place for a connection of a process; the error says why there is none.
    pub(crate) fn take(&self, process: Option<i32>) -> Result<Slot, String> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.all >= MAX_CONNECTIONS {
            return Err(format!("there are {MAX_CONNECTIONS} connections already"));
        }
        let of = taken.of.entry(process).or_default();
        if *of >= MAX_OF_PROCESS {
            return Err(format!("there are {MAX_OF_PROCESS} connections of this process already"));
        }
        *of += 1;
        taken.all += 1;
        Ok(Slot { process, taken: Arc::clone(&self.taken) })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all = taken.all.saturating_sub(1);
        if let Some(of) = taken.of.get_mut(&self.process) {
            *of -= 1;
            if *of == 0 {
                taken.of.remove(&self.process);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_takes_half_at_most() {
        let slots = Slots::default();
        let take =
            |process, count| (0..count).map(|_| slots.take(Some(process)).unwrap()).collect::<Vec<_>>();
        let first = take(1, 64);
        assert!(slots.take(Some(1)).unwrap_err().contains("of this process"));
        let second = take(2, 63);
        let _third = take(3, 1);
        assert_eq!(slots.take(Some(2)).unwrap_err(), "there are 128 connections already");
        drop((first, second));
        let _again = take(1, 64);
        assert_eq!(slots.taken.lock().unwrap().of, BTreeMap::from([(Some(1), 64), (Some(3), 1)]));
    }
}
