#!/bin/sh
# Writes the pinned requirements of each image anew, with hashes; needs `uv` (pip install uv). Arguments go to uv: --upgrade, say.
set -eu
cd "$(dirname "$0")/../.."

compile() {
    out=$1
    shift
    uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-emit-index-url --no-annotate \
        --custom-compile-command deploy/requirements/compile.sh --output-file "deploy/requirements/$out.txt" "$@"
}

for service in ca acme signer-hsm signing; do
    compile "$service" pyproject.toml --extra "$service" --extra postgresql --extra tracing "$@"
done
compile build deploy/requirements/build.in "$@"
