#!/usr/bin/env bash
# One command to test: installs what it needs, then lint, types, import contracts, unit, contract, integration and end-to-end tests.
# Arguments go to pytest, for instance: ./test.sh tests/unit -k crl
set -euo pipefail
cd "$(dirname "$0")"
. .ci/prepare.sh

# What the tests use from Debian, as COMMAND-OR-FILE:PACKAGE. Without root, the tests that need one say "not run: NAME missing".
DEBIAN="openssl:openssl git:git /usr/lib/postgresql:postgresql softhsm2-util:softhsm2 /usr/share/doc/libnspr4:libnspr4"

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
    local begin=$SECONDS
    say ""
    say "== $1"
    shift
    "$@"
    say "   ($((SECONDS - begin)) s)"
}

install_debian_packages
require openssl openssl
require git git
prepare_venv dev
step "ruff check" .venv/bin/ruff check .
step "ruff format" .venv/bin/ruff format --check .
step "mypy" .venv/bin/mypy
step "import contracts" .venv/bin/lint-imports
prepare_certbot
.ci/fetch_nss_softokn.sh || say "not run: NSS softokn missing, so no ML-DSA through PKCS#11 (the reason stands above)"
# In the order of the tree: the end-to-end tests, few and long, must not be left for last.
step "tests" .venv/bin/pytest -n 2 --dist loadscope --no-loadscope-reorder "$@"
