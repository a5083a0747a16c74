//! The commands, one file each: what may be typed, with its help, and a `run` that calls the library.

pub mod check;
pub mod config;
pub mod down;
pub mod events;
pub mod exec;
pub mod explain;
pub mod gc;
pub mod graph;
pub mod logs;
pub mod ls;
pub mod plan;
pub mod port;
pub mod probe;
pub mod ps;
pub mod schema;
pub mod up;
pub mod version;
