#!/usr/bin/env bash
# One command to test: installs what it needs, then lint, types, import contracts, unit, contract, integration and end-to-end tests.
# Arguments go to pytest, for instance: ./test.sh tests/unit -k crl
set -euo pipefail
cd "$(dirname "$0")"
. .ci/prepare.sh

# What the tests use from Debian, as COMMAND-OR-FILE:PACKAGE. Without root, the tests that need one say "not run: NAME missing".
DEBIAN="openssl:openssl certtool:gnutls-bin git:git /usr/lib/postgresql:postgresql softhsm2-util:softhsm2 /usr/share/doc/libnspr4:libnspr4
    lego:lego uacme:uacme dehydrated:dehydrated curl:curl haproxy:haproxy"

install_debian_packages() {
    local pair missing=()
    for pair in $DEBIAN; do
        { command -v "${pair%%:*}" || [ -e "${pair%%:*}" ]; } >/dev/null || missing+=("${pair##*:}")
    done
    [ ${#missing[@]} -eq 0 ] && return
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        say "Not installed, and this user cannot install: ${missing[*]}"
        return
    fi
    say "Installing ${missing[*]} ..."
    DEBIAN_FRONTEND=noninteractive apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
}

step() {
    local begin=$SECONDS status
    say ""
    say "== $1"
    shift
    "$@" || status=$?
    say "   ($((SECONDS - begin)) s)"
    return "${status:-0}"
}

# join PID LOG: waits for what ran beside, and shows what it said.
join() {
    wait "$1" && cat "$2" && return
    cat "$2" >&2
    exit 1
}

beside=$(mktemp -d)
trap 'rm -rf "$beside"' EXIT

install_debian_packages
require openssl openssl
require git git
# Installing and typing use one processor each; so certbot is installed beside the project, and mypy has company too.
prepare_certbot > "$beside/certbot" 2>&1 &
certbot=$!
prepare_venv dev
step "mypy" .venv/bin/mypy > "$beside/mypy" 2>&1 &
mypy=$!
step "ruff check" .venv/bin/ruff check .
step "ruff format" .venv/bin/ruff format --check .
step "import contracts" .venv/bin/lint-imports
.ci/fetch_nss_softokn.sh || say "not run: NSS softokn missing, so no ML-DSA through PKCS#11 (the reason stands above)"
.ci/fetch_promtool.sh || say "not run: promtool missing, so no alert rule is rung (the reason stands above)"
join $certbot "$beside/certbot"
# In the order of the tree: the end-to-end tests, few and long, must not be left for last. They wait as much as they work,
# so two processors have three at a time; mypy goes on beside them, and both are heard.
tests=0
step "tests" .venv/bin/pytest -n 3 --dist loadscope --no-loadscope-reorder "$@" || tests=$?
join $mypy "$beside/mypy"
exit $tests
