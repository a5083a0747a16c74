//! The shop's front door: routes requests to catalog and orders, and knows nothing else.

use std::process::ExitCode;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::any;
use shop_kit::{Peer, Problem, variable};

fn main() -> ExitCode {
    shop_kit::run("gateway", async {
        let catalog = Peer::new(variable("CATALOG", "catalog:8080"));
        let orders = Peer::new(variable("ORDERS", "orders:8080"));
        let products = Router::new()
            .route("/products", any(forward))
            .route("/products/{*rest}", any(forward))
            .with_state(catalog);
        let orders = Router::new()
            .route("/orders", any(forward))
            .route("/orders/{*rest}", any(forward))
            .with_state(orders);
        Ok(products.merge(orders))
    })
}

async fn forward(State(peer): State<Peer>, request: Request<Body>) -> Result<Response, Problem> {
    peer.forward(request).await
}
