# Sourced by demo.sh and test.sh: checks what the machine must bring, and makes the project's virtual environment in .venv.
# shellcheck shell=bash

# Dozens of processes of ours are started, each after the other's compiled modules: let them be kept.
unset PYTHONDONTWRITEBYTECODE

say() { printf '%s\n' "$*"; }

fail() {
    printf '\n%s\n' "$*" >&2
    exit 1
}

# The first interpreter of at least 3.11 that has the venv module.
find_python() {
    local candidate
    for candidate in python3.11 python3.12 python3.13 python3.14 python3; do
        if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s' "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer with its venv module is missing. Install it with: apt-get install python3 python3-venv"
}

require() {
    command -v "$1" >/dev/null || fail "$1 is missing. Install it with: apt-get install $2"
}

# prepare_venv EXTRA: installs the project with that extra, and again only when pyproject.toml or the interpreter changed.
prepare_venv() {
    local extra=$1 python stamp
    python=$(find_python)
    stamp="$extra $("$python" -V 2>&1) $(sha256sum pyproject.toml | cut -d' ' -f1) $PWD"
    if [ -x .venv/bin/python ] && [ "$(cat .venv/pqcpki-stamp 2>/dev/null)" = "$stamp" ]; then
        return
    fi
    # `dev` holds everything that `all` does: a machine that has run the tests needs no second installation.
    if [ "$extra" = all ] && [ "$(cat .venv/pqcpki-stamp 2>/dev/null)" = "${stamp/#all/dev}" ]; then
        return
    fi
    # An environment that is another folder's, linked to here, would from then on hold this folder's code for both.
    if [ -L .venv ] || { [ -e .venv/lib ] && [ "$(readlink -f .venv/lib)" != "$(pwd -P)/.venv/lib" ]; }; then
        fail ".venv is another folder's environment, which is not touched. Remove the link; an environment of this folder is made then."
    fi
    say "Installing pqcpki into .venv (about a minute, once) ..."
    # An interrupted installation, or an interpreter that is gone, leaves a folder without a working pip.
    .venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$extra]"
    printf '%s' "$stamp" > .venv/pqcpki-stamp
}

# prepare_certbot: a certbot of its own, outside the project's environment, as a user would have it.
CERTBOT_VERSION=5.8.0
CERTBOT_VENV=.cache/certbot-$CERTBOT_VERSION
prepare_certbot() {
    # It is run, not only looked for: a clone that was moved, or an interrupted installation, leaves one that cannot.
    "$CERTBOT_VENV/bin/certbot" --version >/dev/null 2>&1 && return
    local python
    python=$(find_python)
    mkdir -p .cache
    say "Installing certbot $CERTBOT_VERSION into $CERTBOT_VENV ..."
    "$python" -m venv --clear "$CERTBOT_VENV"
    "$CERTBOT_VENV/bin/python" -m pip install --quiet --disable-pip-version-check "certbot==$CERTBOT_VERSION" || {
        rm -rf "$CERTBOT_VENV"
        fail "certbot could not be installed from PyPI; is the package index reachable?"
    }
}
