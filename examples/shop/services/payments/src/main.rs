//! Charges cards, for whoever knows its key: the part of the shop that a stranger must not reach.
//!
//! No money moves, but the rules are a payment provider's: a wrong number is refused, a card that the
//! bank declines costs nothing, and a reference that was charged already is not charged again.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::post;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use shop_kit::{Answer, Problem, variable};

/// A valid number whose bank always says no.
const DECLINED: &str = "4000000000000002";

#[derive(Debug, Deserialize)]
struct ChargeRequest {
    /// What the caller knows it by; charged once however often it is asked for.
    reference: String,
    amount_cents: u64,
    card: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Charge {
    id: String,
    reference: String,
    amount_cents: u64,
    /// The last four digits.
    card: String,
}

struct Payments {
    key: String,
    charges: Mutex<BTreeMap<String, Charge>>,
}

fn main() -> ExitCode {
    shop_kit::run("payments", async {
        let path = variable("KEY_FILE", "/run/secrets/payments_key");
        let key =
            std::fs::read_to_string(&path).map_err(|e| format!("could not read the key from {path}: {e}"))?;
        let key = key.trim().to_owned();
        if key.is_empty() {
            return Err(format!("the key in {path} is empty").into());
        }
        let payments = Payments { key, charges: Mutex::default() };
        Ok(Router::new().route("/charges", post(charge)).with_state(Arc::new(payments)))
    })
}

async fn charge(
    State(payments): State<Arc<Payments>>,
    headers: HeaderMap,
    Json(request): Json<ChargeRequest>,
) -> Answer<Charge> {
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    payments.charge(shown, request).map(Json)
}

impl Payments {
    fn charge(&self, authorization: &str, request: ChargeRequest) -> Result<Charge, Problem> {
        let shown = authorization.strip_prefix("Bearer ").unwrap_or_default();
        if !same(shown.as_bytes(), self.key.as_bytes()) {
            return Err(Problem::new(StatusCode::UNAUTHORIZED, "this key is not known"));
        }
        if !is_card_number(&request.card) {
            return Err(Problem::invalid("this is not a card number"));
        }
        if request.card == DECLINED {
            return Err(Problem::new(StatusCode::PAYMENT_REQUIRED, "the card was declined"));
        }
        let mut charges = self.charges.lock().unwrap_or_else(PoisonError::into_inner);
        let number = charges.len() + 1;
        let charge = charges.entry(request.reference).or_insert_with_key(|reference| Charge {
            id: format!("ch_{number}"),
            reference: reference.clone(),
            amount_cents: request.amount_cents,
            card: request.card[request.card.len() - 4..].to_owned(),
        });
        if charge.amount_cents != request.amount_cents {
            return Err(Problem::conflict("this reference was charged with another amount"));
        }
        Ok(charge.clone())
    }
}

/// Compares without telling by its duration where the first difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (x, y)| differ | (x ^ y)) == 0
}

/// 12 to 19 digits with a right check digit (ISO/IEC 7812-1, Luhn).
fn is_card_number(text: &str) -> bool {
    if !(12..=19).contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_digit()) {
        return false;
    }
    let sum: u32 = text
        .bytes()
        .rev()
        .enumerate()
        .map(|(i, byte)| {
            let digit = u32::from(byte - b'0');
            match i % 2 {
                0 => digit,
                _ => digit * 2 / 10 + digit * 2 % 10,
            }
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "4242424242424242";

    fn payments() -> Payments {
        Payments { key: "secret".into(), charges: Mutex::default() }
    }

    fn request(card: &str, amount_cents: u64) -> ChargeRequest {
        ChargeRequest { reference: "order-1".into(), amount_cents, card: card.into() }
    }

    #[test]
    fn nobody_charges_without_the_key() {
        for shown in ["", "secret", "Bearer ", "Bearer secre", "Bearer secret2", "Basic secret"] {
            let refused = payments().charge(shown, request(GOOD, 100)).unwrap_err();
            assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{shown:?}");
        }
    }

    #[test]
    fn cards_are_refused_for_their_own_reasons() {
        let status = |card| payments().charge("Bearer secret", request(card, 100)).unwrap_err().status;
        assert_eq!(status(DECLINED), StatusCode::PAYMENT_REQUIRED);
        assert_eq!(status("4242424242424241"), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(status("4242"), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(status("٤٢٤٢٤٢٤٢٤٢٤٢"), StatusCode::UNPROCESSABLE_ENTITY);
    }

    #[test]
    fn a_reference_is_charged_once() {
        let payments = payments();
        let first = payments.charge("Bearer secret", request(GOOD, 100)).unwrap();
        assert_eq!(first.card, "4242");
        assert_eq!(payments.charge("Bearer secret", request(GOOD, 100)).unwrap(), first);
        let other = payments.charge("Bearer secret", request(GOOD, 200)).unwrap_err();
        assert_eq!(other.status, StatusCode::CONFLICT);
    }
}
