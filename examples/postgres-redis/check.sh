#!/bin/sh
# Uses the notes through the published port and fails at the first wrong answer: ./check.sh [URL]
set -eu
notes=${1:-http://127.0.0.1:${NOTES_PORT:-8000}}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# expect STATUS WHAT CURL-ARGUMENTS...: one request; its answer and headers are left in $work.
expect() {
    wanted=$1 what=$2
    shift 2
    status=$(curl -sS --max-time 20 -D "$work/headers" -o "$work/answer" -w '%{http_code}' "$@")
    if [ "$status" != "$wanted" ]; then
        echo "FAILED  $what: $status instead of $wanted: $(cat "$work/answer")" >&2
        exit 1
    fi
    echo "ok      $what: $status"
}
# contains FILE TEXT: the last answer, or its headers, have it.
contains() {
    if ! grep -qiF "$2" "$work/$1"; then
        echo "FAILED  the $1 has no $2: $(cat "$work/$1")" >&2
        exit 1
    fi
}

word="word$$"
expect 200 'both databases answer' "$notes/healthz"
expect 201 'a note is kept' -d "{\"text\": \"a note with $word\"}" "$notes/notes"
id=$(sed -n 's/.*"id": \([0-9][0-9]*\).*/\1/p' "$work/answer")
expect 200 'it is read from PostgreSQL' "$notes/notes/$id"
contains answer "a note with $word"
contains headers 'X-Cache: miss'
expect 200 'and then from Redis' "$notes/notes/$id"
contains answer "a note with $word"
contains headers 'X-Cache: hit'
expect 200 'it is found by its words' "$notes/notes?q=$word"
contains answer "\"id\": $id"
expect 200 'it is deleted' -X DELETE "$notes/notes/$id"
expect 404 'and gone, from the cache too' "$notes/notes/$id"
expect 404 'and not deleted twice' -X DELETE "$notes/notes/$id"
expect 400 'a body that is no note' -d 'nonsense' "$notes/notes"
expect 422 'a note without text' -d '{"text": ""}' "$notes/notes"
expect 404 'nothing else is here' "$notes/elsewhere"
echo 'the notes are open'
