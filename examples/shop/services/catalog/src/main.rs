//! The shop's products, as customers see them: searched, filtered and priced for reading.

use std::process::ExitCode;

use axum::extract::{Path, Query, State};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use shop_kit::{Answer, Peer, variable};

/// A product in the store's words.
#[derive(Debug, Clone, Deserialize)]
struct Stored {
    sku: String,
    name: String,
    price_cents: u32,
    stock: u32,
}

/// A product in the customer's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Product {
    sku: String,
    name: String,
    price_cents: u32,
    price: String,
    stock: u32,
    available: bool,
}

/// What a customer looks for.
#[derive(Debug, Default, Deserialize)]
struct Search {
    /// A word in the name, whatever its case.
    q: Option<String>,
    /// The highest price.
    max_cents: Option<u32>,
    /// Only what can be had now.
    #[serde(default)]
    available: bool,
}

fn main() -> ExitCode {
    shop_kit::run("catalog", async {
        Ok(Router::new()
            .route("/products", get(list))
            .route("/products/{sku}", get(one))
            .with_state(Peer::new(variable("STORE", "store:8080"))))
    })
}

async fn list(State(store): State<Peer>, Query(search): Query<Search>) -> Answer<Vec<Product>> {
    let stored: Vec<Stored> = store.get("/products").await?;
    Ok(Json(stored.into_iter().map(Product::from).filter(|product| search.finds(product)).collect()))
}

async fn one(State(store): State<Peer>, Path(sku): Path<String>) -> Answer<Product> {
    let stored: Stored = store.get(&format!("/products/{sku}")).await?;
    Ok(Json(stored.into()))
}

impl Search {
    fn finds(&self, product: &Product) -> bool {
        let named = self.q.as_ref().is_none_or(|q| product.name.to_lowercase().contains(&q.to_lowercase()));
        let affordable = self.max_cents.is_none_or(|max| product.price_cents <= max);
        named && affordable && (product.available || !self.available)
    }
}

impl From<Stored> for Product {
    fn from(stored: Stored) -> Self {
        let (euros, cents) = (stored.price_cents / 100, stored.price_cents % 100);
        Self {
            price: format!("{euros}.{cents:02} EUR"),
            available: stored.stock > 0,
            sku: stored.sku,
            name: stored.name,
            price_cents: stored.price_cents,
            stock: stored.stock,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(name: &str, price_cents: u32, stock: u32) -> Product {
        Stored { sku: "x".into(), name: name.into(), price_cents, stock }.into()
    }

    #[test]
    fn prices_are_readable() {
        assert_eq!(product("tea", 1205, 1).price, "12.05 EUR");
    }

    #[test]
    fn a_search_needs_every_condition() {
        let tea = product("Green tea", 450, 0);
        assert!(Search::default().finds(&tea));
        assert!(Search { q: Some("TEA".into()), max_cents: Some(450), available: false }.finds(&tea));
        assert!(!Search { q: Some("coffee".into()), ..Search::default() }.finds(&tea));
        assert!(!Search { max_cents: Some(449), ..Search::default() }.finds(&tea));
        assert!(!Search { available: true, ..Search::default() }.finds(&tea));
    }
}
