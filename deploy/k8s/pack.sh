#!/bin/sh
# Packs what each service needs of a PKI, for a Secret of its own: OUT/<service>/state.tar.gz.
#   pack.sh DIR OUT     DIR as `ztca init` made it (at /var/lib/pqcpki/pki, for its settings name that place)
set -eu
dir=$1 out=$2
umask 077
mkdir -p "$out"
# Every replica of the ACME server must have the same secret of external accounts.
[ -s "$dir/acme/eab-secret" ] || head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=' > "$dir/acme/eab-secret"
for service in ca acme signer-hsm signing; do
    [ -d "$dir/$service" ] || continue
    mkdir -p "$out/$service"
    tar --sort=name --owner=0 --group=0 --numeric-owner --exclude=pgpass --exclude='*.sqlite3*' \
        --exclude=listeners.json --exclude=audit-archive -C "$dir" -czf "$out/$service/state.tar.gz" config trust secrets "$service"
    # A Secret holds a MiB at most.
    [ "$(wc -c < "$out/$service/state.tar.gz")" -lt 1000000 ] || { echo "$service: too large for a Secret" >&2; exit 1; }
done
