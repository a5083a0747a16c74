CREATE TABLE products (
    sku         TEXT PRIMARY KEY,
    name        TEXT NOT NULL,
    price_cents INTEGER NOT NULL CHECK (price_cents > 0),
    stock       INTEGER NOT NULL CHECK (stock >= 0)
) STRICT;

CREATE TABLE orders (
    id          INTEGER PRIMARY KEY,
    sku         TEXT NOT NULL REFERENCES products (sku),
    quantity    INTEGER NOT NULL CHECK (quantity > 0),
    total_cents INTEGER NOT NULL,
    status      TEXT NOT NULL CHECK (status IN ('reserved', 'paid', 'cancelled')),
    charge      TEXT,
    created_at  TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
) STRICT;
