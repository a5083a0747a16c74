//! Brings the tables up to date: every `NNN-name.sql` of a directory once, in order of its number.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, TransactionBehavior};

/// Why the tables are not up to date.
#[derive(Debug)]
pub enum Error {
    /// The directory or a file in it could not be read.
    Read(PathBuf, io::Error),
    /// A file's name has no number, or not the next one.
    Name(PathBuf, i64),
    /// A migration failed; the tables are as they were before it.
    Apply(PathBuf, rusqlite::Error),
    /// The database failed.
    Database(rusqlite::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path, error) => write!(f, "could not read {}: {error}", path.display()),
            Self::Name(path, next) => {
                write!(f, "{} should be called {next:03}-<what it does>.sql", path.display())
            }
            Self::Apply(path, error) => write!(f, "could not apply {}: {error}", path.display()),
            Self::Database(error) => write!(f, "the database failed: {error}"),
        }
    }
}

impl std::error::Error for Error {}

/// Applies what is new in `directory`, each file in a transaction, and returns the names of the files.
///
/// The number of the last one is SQLite's `user_version`, so a file that was applied stays as it is.
///
/// # Errors
/// At the first file that cannot be read or applied, or whose number is not the next.
pub fn run(connection: &mut Connection, directory: &Path) -> Result<Vec<String>, Error> {
    let unreadable = |error| Error::Read(directory.to_owned(), error);
    let mut files = fs::read_dir(directory)
        .map_err(unreadable)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(unreadable)?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "sql"));
    files.sort();

    let mut applied = Vec::new();
    for (path, number) in files.into_iter().zip(1_i64..) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.split('-').next().and_then(|digits| digits.parse().ok()) != Some(number) {
            return Err(Error::Name(path, number));
        }
        let sql = fs::read_to_string(&path).map_err(|e| Error::Read(path.clone(), e))?;
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(Error::Database)?;
        let version: i64 =
            transaction.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(Error::Database)?;
        if version >= number {
            continue;
        }
        transaction
            .execute_batch(&sql)
            .and_then(|()| transaction.pragma_update(None, "user_version", number))
            .and_then(|()| transaction.commit())
            .map_err(|e| Error::Apply(path, e))?;
        applied.push(name);
    }
    Ok(applied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_applied_is_not_applied_again() {
        let migrations = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations");
        let mut connection = Connection::open_in_memory().unwrap();
        let first = run(&mut connection, &migrations).unwrap();
        assert_eq!(first, ["001-tables.sql", "002-products.sql"]);
        assert_eq!(run(&mut connection, &migrations).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_missing_directory_is_named() {
        let mut connection = Connection::open_in_memory().unwrap();
        let error = run(&mut connection, Path::new("/nonexistent")).unwrap_err();
        assert!(error.to_string().starts_with("could not read /nonexistent: "), "{error}");
    }
}
