//! What the watcher tells, on real files.

mod changes;
mod editors;
mod hostile;
mod support;
