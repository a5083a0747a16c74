//! The shop's database: stock and orders in SQLite.
//!
//! [`db`] is every question that is asked of it, [`migrate`] brings its tables up to date. Neither
//! knows HTTP.

pub mod db;
pub mod migrate;
