//! Takes an order: reserves stock in the store, has the card charged, and settles the order.
//!
//! Stock is reserved before the card is charged, so the last item is never sold twice; a card that is
//! not charged gives the stock back.

use std::process::ExitCode;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use shop_kit::{Answer, Peer, Problem, log, variable};

/// The most that one order may take of a product.
const MAX_QUANTITY: u32 = 100;

#[derive(Debug, Deserialize)]
struct NewOrder {
    sku: String,
    quantity: u32,
    card: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    id: i64,
    sku: String,
    quantity: u32,
    total_cents: i64,
    status: String,
    charge: Option<String>,
}

#[derive(Debug, Serialize)]
struct Reservation<'a> {
    sku: &'a str,
    quantity: u32,
}

#[derive(Debug, Serialize)]
struct ChargeRequest<'a> {
    reference: String,
    amount_cents: i64,
    card: &'a str,
}

#[derive(Debug, Deserialize)]
struct Charge {
    id: String,
}

/// How an order is settled: paid where there is a charge, cancelled where there is none.
#[derive(Debug, Serialize)]
struct Settlement {
    charge: Option<String>,
}

#[derive(Debug, Clone)]
struct Orders {
    store: Peer,
    payments: Peer,
}

fn main() -> ExitCode {
    shop_kit::run("orders", async {
        let path = variable("KEY_FILE", "/run/secrets/payments_key");
        let key =
            std::fs::read_to_string(&path).map_err(|e| format!("could not read the key from {path}: {e}"))?;
        let orders = Orders {
            store: Peer::new(variable("STORE", "store:8080")),
            payments: Peer::new(variable("PAYMENTS", "payments:8080")).with_key(key.trim()),
        };
        Ok(Router::new().route("/orders", post(create)).route("/orders/{id}", get(one)).with_state(orders))
    })
}

async fn create(State(orders): State<Orders>, Json(new): Json<NewOrder>) -> Result<Response, Problem> {
    let order = orders.take(&new).await?;
    Ok((StatusCode::CREATED, Json(order)).into_response())
}

async fn one(State(orders): State<Orders>, Path(id): Path<i64>) -> Answer<Order> {
    Ok(Json(orders.store.get(&format!("/orders/{id}")).await?))
}

impl Orders {
    async fn take(&self, new: &NewOrder) -> Result<Order, Problem> {
        if !(1..=MAX_QUANTITY).contains(&new.quantity) {
            return Err(Problem::invalid(format!("the quantity must be 1 to {MAX_QUANTITY}")));
        }
        let reservation = Reservation { sku: &new.sku, quantity: new.quantity };
        let order: Order = self.store.post("/orders", &reservation).await?;
        let request = ChargeRequest {
            reference: format!("order-{}", order.id),
            amount_cents: order.total_cents,
            card: &new.card,
        };
        match self.payments.post::<_, Charge>("/charges", &request).await {
            Ok(charge) => self.settle(order.id, Some(charge.id)).await,
            Err(refused) => {
                if let Err(problem) = self.settle(order.id, None).await {
                    log(&format!(
                        "order {} keeps its stock: it could not be cancelled: {}",
                        order.id, problem.error
                    ));
                }
                // That our key is not known is our fault, not the customer's.
                Err(match refused.status {
                    StatusCode::UNAUTHORIZED => {
                        Problem::new(StatusCode::BAD_GATEWAY, "payments does not know us")
                    }
                    _ => refused,
                })
            }
        }
    }

    async fn settle(&self, id: i64, charge: Option<String>) -> Result<Order, Problem> {
        self.store.post(&format!("/orders/{id}/settle"), &Settlement { charge }).await
    }
}
