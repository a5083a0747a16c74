//! From a service's plan to what spawner, launcher and init are told: pure, tested without rights.
