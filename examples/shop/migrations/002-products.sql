INSERT INTO products (sku, name, price_cents, stock) VALUES
    ('tea',    'Green tea, 100 g',    450, 100000),
    ('coffee', 'Coffee, 250 g',       890, 100000),
    ('pot',    'Cast-iron teapot',   5900, 3),
    ('cup',    'Porcelain cup',      1250, 0);
