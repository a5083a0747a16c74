#!/bin/sh
# Makes the database's files where there are none. Made beside their place and moved there when they
# are complete, so that a run that was killed half-way is no trap for the next.
set -eu
if [ -s "$PGDATA/PG_VERSION" ]; then
    echo "the files are there: version $(cat "$PGDATA/PG_VERSION")"
    exit 0
fi
rm -rf "$PGDATA.new"
"$PG_BIN/initdb" --pgdata="$PGDATA.new" --username=notes --pwfile=/run/secrets/db_password \
    --auth=scram-sha-256 --encoding=UTF8 --no-locale
echo "host all all $SUBNET scram-sha-256" >>"$PGDATA.new/pg_hba.conf"
mv "$PGDATA.new" "$PGDATA"
