//! Every question that is asked of the database, each one transaction.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use serde::Serialize;

/// A product and what is left of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Product {
    /// What it is called by.
    pub sku: String,
    /// What people call it.
    pub name: String,
    /// The price of one, in cents.
    pub price_cents: u32,
    /// How many are left.
    pub stock: u32,
}

/// An order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Order {
    /// Its number.
    pub id: i64,
    /// Of which product.
    pub sku: String,
    /// How many.
    pub quantity: u32,
    /// The price of all, in cents.
    pub total_cents: i64,
    /// `reserved`, then `paid` or `cancelled`.
    pub status: String,
    /// The charge that paid for it.
    pub charge: Option<String>,
}

/// Why a question has no answer.
#[derive(Debug)]
pub enum Error {
    /// There is no such product.
    NoProduct(String),
    /// There is no such order.
    NoOrder(i64),
    /// Too few are left.
    SoldOut {
        /// Of which product.
        sku: String,
        /// How many are left.
        left: u32,
    },
    /// The order was settled before.
    Settled {
        /// Which order.
        id: i64,
        /// How.
        status: String,
    },
    /// SQLite failed.
    Database(rusqlite::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoProduct(sku) => write!(f, "there is no product `{sku}`"),
            Self::NoOrder(id) => write!(f, "there is no order {id}"),
            Self::SoldOut { sku, left } => write!(f, "only {left} of `{sku}` are left"),
            Self::Settled { id, status } => write!(f, "order {id} is {status} already"),
            Self::Database(_) => write!(f, "the database failed"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Database(source) => Some(source),
            Self::NoProduct(_) | Self::NoOrder(_) | Self::SoldOut { .. } | Self::Settled { .. } => None,
        }
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

/// The database.
#[derive(Debug)]
pub struct Database(Connection);

impl Database {
    /// Opens the file at `path`; what a crash left half done is undone by SQLite.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(2))?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;",
        )?;
        Ok(Self(connection))
    }

    /// The connection, for migrations.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.0
    }

    /// All products, by name.
    ///
    /// # Errors
    /// When the database fails.
    pub fn products(&self) -> Result<Vec<Product>, Error> {
        let mut query =
            self.0.prepare_cached("SELECT sku, name, price_cents, stock FROM products ORDER BY name")?;
        let rows = query.query_map([], product)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// One product.
    ///
    /// # Errors
    /// When there is none, or the database fails.
    pub fn product(&self, sku: &str) -> Result<Product, Error> {
        let mut query =
            self.0.prepare_cached("SELECT sku, name, price_cents, stock FROM products WHERE sku = ?")?;
        query.query_row([sku], product).optional()?.ok_or_else(|| Error::NoProduct(sku.to_owned()))
    }

    /// One order.
    ///
    /// # Errors
    /// When there is none, or the database fails.
    pub fn order(&self, id: i64) -> Result<Order, Error> {
        let mut query = self.0.prepare_cached(
            "SELECT id, sku, quantity, total_cents, status, charge FROM orders WHERE id = ?",
        )?;
        query.query_row([id], order).optional()?.ok_or(Error::NoOrder(id))
    }

    /// Takes `quantity` of a product out of the stock, for an order that is not paid yet.
    ///
    /// # Errors
    /// When there is no such product, too few are left, or the database fails.
    pub fn reserve(&mut self, sku: &str, quantity: u32) -> Result<Order, Error> {
        let found = self.product(sku)?;
        let total = i64::from(found.price_cents) * i64::from(quantity);
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let taken = transaction.execute(
            "UPDATE products SET stock = stock - ?2 WHERE sku = ?1 AND stock >= ?2",
            params![sku, quantity],
        )?;
        if taken == 0 {
            return Err(Error::SoldOut { sku: found.sku, left: found.stock });
        }
        transaction.execute(
            "INSERT INTO orders (sku, quantity, total_cents, status) VALUES (?, ?, ?, 'reserved')",
            params![sku, quantity, total],
        )?;
        let id = transaction.last_insert_rowid();
        transaction.commit()?;
        self.order(id)
    }

    /// Ends a reservation: paid with this charge, or cancelled, which puts the stock back.
    ///
    /// # Errors
    /// When there is no such order, it was settled before, or the database fails.
    pub fn settle(&mut self, id: i64, charge: Option<&str>) -> Result<Order, Error> {
        let found = self.order(id)?;
        let status = if charge.is_some() { "paid" } else { "cancelled" };
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let settled = transaction.execute(
            "UPDATE orders SET status = ?, charge = ? WHERE id = ? AND status = 'reserved'",
            params![status, charge, id],
        )?;
        if settled == 0 {
            return Err(Error::Settled { id, status: found.status });
        }
        if charge.is_none() {
            transaction.execute(
                "UPDATE products SET stock = stock + ? WHERE sku = ?",
                params![found.quantity, found.sku],
            )?;
        }
        transaction.commit()?;
        self.order(id)
    }
}

fn product(row: &Row<'_>) -> rusqlite::Result<Product> {
    Ok(Product { sku: row.get(0)?, name: row.get(1)?, price_cents: row.get(2)?, stock: row.get(3)? })
}

fn order(row: &Row<'_>) -> rusqlite::Result<Order> {
    Ok(Order {
        id: row.get(0)?,
        sku: row.get(1)?,
        quantity: row.get(2)?,
        total_cents: row.get(3)?,
        status: row.get(4)?,
        charge: row.get(5)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate;

    fn database() -> Database {
        let mut database = Database::open(Path::new(":memory:")).unwrap();
        let migrations = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations");
        migrate::run(database.connection(), &migrations).unwrap();
        database
    }

    #[test]
    fn a_paid_order_takes_from_the_stock() {
        let mut database = database();
        let before = database.product("tea").unwrap();
        let order = database.reserve("tea", 2).unwrap();
        assert_eq!(order.total_cents, i64::from(before.price_cents) * 2);
        assert_eq!(order.status, "reserved");
        let paid = database.settle(order.id, Some("ch_1")).unwrap();
        assert_eq!((paid.status.as_str(), paid.charge.as_deref()), ("paid", Some("ch_1")));
        assert_eq!(database.product("tea").unwrap().stock, before.stock - 2);
    }

    #[test]
    fn a_cancelled_order_gives_the_stock_back_once() {
        let mut database = database();
        let before = database.product("tea").unwrap().stock;
        let order = database.reserve("tea", 5).unwrap();
        assert_eq!(database.settle(order.id, None).unwrap().status, "cancelled");
        assert_eq!(database.product("tea").unwrap().stock, before);
        assert!(matches!(database.settle(order.id, None), Err(Error::Settled { .. })));
        assert_eq!(database.product("tea").unwrap().stock, before);
    }

    #[test]
    fn more_than_there_is_cannot_be_had() {
        let mut database = database();
        let left = database.product("tea").unwrap().stock;
        assert!(
            matches!(database.reserve("tea", left + 1), Err(Error::SoldOut { left: told, .. }) if told == left)
        );
        assert_eq!(database.product("tea").unwrap().stock, left);
        assert!(matches!(database.reserve("nothing", 1), Err(Error::NoProduct(_))));
        assert!(matches!(database.order(99), Err(Error::NoOrder(99))));
    }
}
