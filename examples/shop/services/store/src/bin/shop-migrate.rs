//! Brings the shop's tables up to date: `shop-migrate DATABASE DIRECTORY`.

use std::path::Path;
use std::process::ExitCode;

use shop_kit::log;
use shop_store::db::Database;
use shop_store::migrate;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [database, directory] = arguments.as_slice() else {
        log("use: shop-migrate DATABASE DIRECTORY");
        return ExitCode::from(2);
    };
    match apply(Path::new(database), Path::new(directory)) {
        Ok(applied) if applied.is_empty() => {
            log("the tables are up to date");
            ExitCode::SUCCESS
        }
        Ok(applied) => {
            log(&format!("applied {}", applied.join(", ")));
            ExitCode::SUCCESS
        }
        Err(error) => {
            log(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn apply(database: &Path, directory: &Path) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let mut database = Database::open(database)?;
    Ok(migrate::run(database.connection(), directory)?)
}
