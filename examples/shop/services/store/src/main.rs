//! The shop's database behind HTTP: the only service that touches the file.

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Path as Part, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use shop_kit::{Answer, Problem, variable};
use shop_store::db::{Database, Error, Order, Product};

#[derive(Debug, Deserialize)]
struct Reservation {
    sku: String,
    quantity: u32,
}

#[derive(Debug, Deserialize)]
struct Settlement {
    charge: Option<String>,
}

type Shared = Arc<Mutex<Database>>;

fn main() -> ExitCode {
    shop_kit::run("store", async {
        let path = variable("DATABASE", "/var/lib/shop/shop.db");
        let database = Database::open(Path::new(&path)).map_err(|e| format!("could not open {path}: {e}"))?;
        Ok(Router::new()
            .route("/products", get(products))
            .route("/products/{sku}", get(product))
            .route("/orders", post(reserve))
            .route("/orders/{id}", get(order))
            .route("/orders/{id}/settle", post(settle))
            .with_state(Arc::new(Mutex::new(database))))
    })
}

/// Asks the database on a thread where waiting for the disk holds nobody up.
async fn ask<T, F>(database: Shared, question: F) -> Result<T, Problem>
where
    T: Send + 'static,
    F: FnOnce(&mut Database) -> Result<T, Error> + Send + 'static,
{
    let answer = tokio::task::spawn_blocking(move || {
        question(&mut database.lock().unwrap_or_else(PoisonError::into_inner))
    });
    answer.await.map_err(|e| Problem::internal(&e))?.map_err(|error| match &error {
        Error::NoProduct(_) | Error::NoOrder(_) => Problem::not_found(error.to_string()),
        Error::SoldOut { .. } | Error::Settled { .. } => Problem::conflict(error.to_string()),
        Error::Database(source) => Problem::internal(source),
    })
}

async fn products(State(database): State<Shared>) -> Answer<Vec<Product>> {
    ask(database, |db| db.products()).await.map(Json)
}

async fn product(State(database): State<Shared>, Part(sku): Part<String>) -> Answer<Product> {
    ask(database, move |db| db.product(&sku)).await.map(Json)
}

async fn order(State(database): State<Shared>, Part(id): Part<i64>) -> Answer<Order> {
    ask(database, move |db| db.order(id)).await.map(Json)
}

async fn reserve(
    State(database): State<Shared>,
    Json(wanted): Json<Reservation>,
) -> Result<Response, Problem> {
    let order = ask(database, move |db| db.reserve(&wanted.sku, wanted.quantity)).await?;
    Ok((StatusCode::CREATED, Json(order)).into_response())
}

async fn settle(
    State(database): State<Shared>,
    Part(id): Part<i64>,
    Json(settlement): Json<Settlement>,
) -> Answer<Order> {
    ask(database, move |db| db.settle(id, settlement.charge.as_deref())).await.map(Json)
}
