#!/bin/sh
# Renews the first identities that pods begin with, in a PKI on the operator's machine that reaches the running CA; then
# pack.sh, and the secret store. A running pod renews its own; one that starts needs a first one that has not ended (30 days).
#   renew-identities.sh DIR TRUST_DOMAIN     DIR with operator/, trust/, endpoints.json and the services' directories
set -eu
dir=$1 trust_domain=$2
umask 077
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
algorithm="-algorithm ML-DSA-65" # OpenSSL 3.5 or newer
openssl list -public-key-algorithms | grep -q ML-DSA-65 || algorithm="-algorithm EC -pkeyopt ec_paramgen_curve:P-256"
for service in ca acme signer-hsm signing; do
    [ -d "$dir/$service" ] || continue
    # shellcheck disable=SC2086 # options, not one word
    openssl genpkey $algorithm -out "$work/$service.key"
    openssl req -new -key "$work/$service.key" -subj / -out "$work/$service.csr" \
        -addext "subjectAltName=URI:spiffe://$trust_domain/service/$service"
    ztca certify --dir "$dir" --profile service --out "$work/$service.pem" "$work/$service.csr"
    rm -rf "$dir/$service/tls/internal"
    mkdir -p "$dir/$service/tls/internal"
    mv "$work/$service.key" "$dir/$service/tls/internal/key.pem"
    mv "$work/$service.pem" "$dir/$service/tls/internal/cert.pem"
done
