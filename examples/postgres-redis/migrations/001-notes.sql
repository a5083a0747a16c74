CREATE TABLE notes (
    id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    text text NOT NULL CHECK (length(text) BETWEEN 1 AND 1000),
    at   timestamptz NOT NULL DEFAULT now()
);
