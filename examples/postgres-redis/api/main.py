"""Notes over HTTP: kept in PostgreSQL, cached in Redis.

    GET    /healthz         both databases answer
    GET    /notes[?q=WORD]  the latest notes
    POST   /notes           {"text": "..."}
    GET    /notes/ID        one note; the header X-Cache says where it came from
    DELETE /notes/ID
"""

import json
import os
import re
import signal
import sys
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg2
import psycopg2.errors
import redis

PORT = 8000
MAX_BODY = 64 * 1024
CACHE_SECONDS = 60
PASSWORD = Path("/run/secrets/db_password").read_text(encoding="utf-8").strip()

cache = redis.Redis(host=os.environ["REDIS_HOST"], socket_connect_timeout=2, socket_timeout=2)


class Refused(Exception):
    """What the client did wrong."""

    def __init__(self, status, error):
        super().__init__(error)
        self.status = status


def query(sql, *parameters):
    """Runs one statement in a transaction of its own and returns its rows."""
    # PGHOST, PGUSER and PGDATABASE are read by libpq itself.
    with closing(psycopg2.connect(password=PASSWORD, connect_timeout=2)) as connection:
        with connection, connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchall()


def note(row):
    return {"id": row[0], "text": row[1], "at": row[2].isoformat()}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "notes"

    def do_GET(self):
        self.answer(self.get)

    def do_POST(self):
        self.answer(self.post)

    def do_DELETE(self):
        self.answer(self.delete)

    def get(self):
        url = urlsplit(self.path)
        if url.path == "/healthz":
            query("SELECT 1")
            cache.ping()
            return 200, {"status": "ok"}, {}
        if url.path == "/notes":
            word = parse_qs(url.query).get("q", [None])[0]
            rows = query(
                "SELECT id, text, at FROM notes"
                " WHERE %s::text IS NULL OR to_tsvector('simple', text) @@ plainto_tsquery('simple', %s)"
                " ORDER BY id DESC LIMIT 50",
                word,
                word,
            )
            return 200, [note(row) for row in rows], {}
        number = self.number(url.path)
        kept = cache.get(f"note:{number}")
        if kept is not None:
            return 200, json.loads(kept), {"X-Cache": "hit"}
        rows = query("SELECT id, text, at FROM notes WHERE id = %s", number)
        if not rows:
            raise Refused(404, f"there is no note {number}")
        found = note(rows[0])
        cache.set(f"note:{number}", json.dumps(found), ex=CACHE_SECONDS)
        return 200, found, {"X-Cache": "miss"}

    def post(self):
        if urlsplit(self.path).path != "/notes":
            raise Refused(404, "there is nothing here")
        length = int(self.headers.get("Content-Length") or 0)
        if length > MAX_BODY:
            self.close_connection = True
            raise Refused(413, "this is too long")
        try:
            text = json.loads(self.rfile.read(length))["text"]
        except (ValueError, KeyError, TypeError):
            raise Refused(400, 'the body must be {"text": "..."}') from None
        if not isinstance(text, str) or not 1 <= len(text) <= 1000:
            raise Refused(422, "a note has 1 to 1000 characters")
        rows = query("INSERT INTO notes (text) VALUES (%s) RETURNING id, text, at", text)
        return 201, note(rows[0]), {}

    def delete(self):
        number = self.number(urlsplit(self.path).path)
        rows = query("DELETE FROM notes WHERE id = %s RETURNING id", number)
        cache.delete(f"note:{number}")
        if not rows:
            raise Refused(404, f"there is no note {number}")
        return 200, {"deleted": number}, {}

    @staticmethod
    def number(path):
        match = re.fullmatch(r"/notes/([0-9]{1,18})", path)
        if match is None:
            raise Refused(404, "there is nothing here")
        return int(match[1])

    def answer(self, method):
        try:
            status, value, headers = method()
        except Refused as refused:
            status, value, headers = refused.status, {"error": str(refused)}, {}
        except (psycopg2.Error, redis.RedisError) as error:
            print(f"{self.command} {self.path}: {error}", file=sys.stderr, flush=True)
            status, value, headers = 503, {"error": "a database is not available"}, {}
        body = json.dumps(value).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, text in headers.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code="-", size="-"):
        """Says nothing about requests that went well; probes alone would fill the log."""


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = ThreadingHTTPServer(("0.0.0.0", PORT), Handler)
    server.daemon_threads = True
    print(f"listens on port {PORT}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
