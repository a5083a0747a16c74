#!/bin/sh
# Creates the database where there is none, then applies every migration once, each in a transaction.
set -eu
PGPASSWORD=$(cat /run/secrets/db_password)
PGOPTIONS='-c client_min_messages=warning'
export PGPASSWORD PGOPTIONS
psql() { "$PG_BIN/psql" --no-psqlrc --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1 "$@"; }

exists=$(psql --dbname=postgres --command="SELECT 1 FROM pg_database WHERE datname = '$PGDATABASE'")
[ "$exists" = 1 ] || psql --dbname=postgres --command="CREATE DATABASE $PGDATABASE"

psql --command='CREATE TABLE IF NOT EXISTS migrations (name text PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())'
for file in migrations/*.sql; do
    name=$(basename "$file")
    applied=$(psql --command="SELECT 1 FROM migrations WHERE name = '$name'")
    [ "$applied" = 1 ] && continue
    psql --single-transaction --file="$file" --command="INSERT INTO migrations (name) VALUES ('$name')"
    echo "applied $name"
done
echo "the tables are up to date"
