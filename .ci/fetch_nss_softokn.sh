#!/usr/bin/env bash
# Brings NSS softokn, a PKCS#11 module with ML-DSA, into .cache/nss-softokn: Debian's own package of a newer suite, fetched
# from the mirror that this machine's apt uses, unpacked and not installed. Nothing of the system is changed.
# It may fail (no Debian, no network, an older C library): then the tests that need it say "not run: NSS softokn missing".
set -euo pipefail
cd "$(dirname "$0")/.."
suite=forky
home=$PWD/.cache/nss-softokn
work=$home.work

# In this order they find each other, and not older ones of the system; libnspr4 and libsqlite3-0 are the system's.
loads() {
    python3 - "$1" <<'EOF'
import ctypes, sys
for name in ("libnssutil3", "libsoftokn3", "libfreeblpriv3"):
    ctypes.CDLL(f"{sys.argv[1]}/{name}.so", ctypes.RTLD_GLOBAL)
EOF
}

# The machine's own Debian mirror, another suite of it.
write_source() {
    eval "$(apt-config shell list Dir::Etc::sourcelist/f parts Dir::Etc::sourceparts/d)"
    awk 'BEGIN { RS = ""; ORS = "\n\n" } /URIs:[^\n]*\/debian\/?\n/' "${parts%/}"/*.sources 2>/dev/null |
        sed "s/^Suites:.*/Suites: $suite/; s/^Components:.*/Components: main/" > "$work/newer.sources" || true
    [ -s "$work/newer.sources" ] && return
    cat "$list" "${parts%/}"/*.list 2>/dev/null | grep -E '^deb .*/debian/? ' | head -1 |
        sed -E "s#^(deb (\[[^]]*\] )?[^ ]+) .*#\1 $suite main#" > "$work/newer.list" || true
    [ -s "$work/newer.list" ]
}

fetch() {
    rm -rf "$work"
    mkdir -p "$work/lists/partial" "$work/deb"
    write_source || { echo "no Debian mirror in apt's sources"; return 1; }
    local source options
    source=$(find "$work" -name 'newer.*' -size +0 | head -1)
    options=(-qq "-oDir::State::Lists=$work/lists" "-oDir::Etc::sourcelist=$source" -oDir::Etc::sourceparts=/dev/null
        -oDir::Cache::pkgcache= -oDir::Cache::srcpkgcache= -oAPT::Sandbox::User=root -oDebug::NoLocking=1
        -oAcquire::Retries=1 -oAcquire::http::Timeout=20)
    apt-get "${options[@]}" update
    (cd "$work/deb" && apt-get "${options[@]}" download libnss3)
    dpkg -x "$work"/deb/libnss3_*.deb "$work/root"
    mkdir "$work/lib"
    find "$work/root/usr/lib" -name '*.so' -exec cp {} "$work/lib" \;
    loads "$work/lib"
    rm -rf "$home"
    mv "$work/lib" "$home"
    rm -rf "$work"
}

[ -e "$home/libsoftokn3.so" ] && loads "$home" 2>/dev/null && exit
command -v apt-get >/dev/null && command -v dpkg >/dev/null || { echo "this is no Debian"; exit 1; }
mkdir -p .cache
fetch
