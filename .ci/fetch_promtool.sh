#!/usr/bin/env bash
# Brings promtool, which tests alert rules, into .cache/prometheus: Debian's prometheus package, downloaded and unpacked,
# and not installed, since that would start a server. Nothing of the system is changed.
# It may fail (no Debian, no network): then the tests that need it say "not run: promtool missing".
set -euo pipefail
cd "$(dirname "$0")/.."
home=$PWD/.cache/prometheus

command -v promtool >/dev/null && exit
"$home/promtool" --version >/dev/null 2>&1 && exit
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || { echo "this is no Debian"; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
options=(-qq -oAPT::Sandbox::User=root -oAcquire::Retries=1 -oAcquire::http::Timeout=20)
download() { (cd "$work" && apt-get "${options[@]}" download prometheus); }
download 2>/dev/null || { apt-get "${options[@]}" update && download; }
dpkg-deb --fsys-tarfile "$work"/prometheus_*.deb | tar -x -C "$work" ./usr/bin/promtool
"$work/usr/bin/promtool" --version >/dev/null 2>&1
mkdir -p "$home"
mv "$work/usr/bin/promtool" "$home/promtool"
