//! The pure core of `ws`: every decision is made here, as data, without IO.
//!
//! [`plan::resolve`] turns a validated workspace and the observed [`plan::Facts`] into a [`plan::Plan`]
//! in which every name, address, path, mount and limit is decided. [`engine::Engine::step`] turns what
//! happened ([`engine::Input`]) into what to do ([`engine::Effect`]) and what to tell
//! ([`ws_model::EventKind`]).
//!
//! Reads no clock, file, environment or random number; has ordered maps only. So the same inputs give
//! the same transcript on any machine.

pub mod change;
pub mod engine;
pub mod files;
pub mod graph;
pub mod host;
pub mod plan;
pub mod policy;
mod text;
