#!/bin/sh
# Talks to the shop as a customer does, through its front door, and fails at the first wrong answer.
# Use: ./check.sh [URL]
set -eu
shop=${1:-http://127.0.0.1:${SHOP_PORT:-8080}}
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

# expect STATUS WHAT CURL-ARGUMENTS...: one request; its answer is left in $answer.
expect() {
    wanted=$1 what=$2
    shift 2
    status=$(curl -sS --max-time 20 -o "$answer" -w '%{http_code}' -H 'content-type: application/json' "$@")
    if [ "$status" != "$wanted" ]; then
        echo "FAILED  $what: $status instead of $wanted: $(cat "$answer")" >&2
        exit 1
    fi
    echo "ok      $what: $status"
}
# contains TEXT: the last answer has it.
contains() {
    if ! grep -qF "$1" "$answer"; then
        echo "FAILED  the answer has no $1: $(cat "$answer")" >&2
        exit 1
    fi
}
# number KEY: the first number of that name in the last answer.
number() { sed -n "s/^[^:]*.*\"$1\":\([0-9][0-9]*\).*/\1/p" "$answer"; }
order() { echo "{\"sku\": \"$1\", \"quantity\": $2, \"card\": \"$3\"}"; }

good=4242424242424242
declined=4000000000000002

expect 200 'the front door answers' "$shop/healthz"
expect 200 'the products are listed' "$shop/products"
contains '"sku":"tea"'
expect 200 'a search finds the coffee' "$shop/products?q=coffee"
contains '"sku":"coffee"'
expect 404 'an unknown product' "$shop/products/nothing"

expect 200 'the tea before' "$shop/products/tea"
before=$(number stock)
expect 201 'an order is taken' -d "$(order tea 2 $good)" "$shop/orders"
contains '"status":"paid"'
contains '"total_cents":900'
id=$(number id)
expect 200 'the order is kept' "$shop/orders/$id"
contains '"status":"paid"'
expect 200 'the tea after' "$shop/products/tea"
after=$(number stock)
[ "$after" -eq $((before - 2)) ] || { echo "FAILED  the stock went from $before to $after" >&2; exit 1; }

expect 402 'a declined card' -d "$(order tea 1 $declined)" "$shop/orders"
expect 200 'it took no tea' "$shop/products/tea"
[ "$(number stock)" -eq "$after" ] || { echo "FAILED  a declined order kept its stock" >&2; exit 1; }
expect 409 'more teapots than there are' -d "$(order pot 100 $good)" "$shop/orders"
expect 409 'a cup, which is sold out' -d "$(order cup 1 $good)" "$shop/orders"
expect 404 'an order of nothing' -d "$(order nothing 1 $good)" "$shop/orders"
expect 404 'an unknown order' "$shop/orders/999999999"
expect 422 'no quantity' -d "$(order tea 0 $good)" "$shop/orders"
expect 422 'no card number' -d "$(order tea 1 1234)" "$shop/orders"
expect 404 'nothing else is routed: payments' -X POST "$shop/charges"
echo 'the shop is open'
