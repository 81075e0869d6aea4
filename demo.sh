#!/usr/bin/env bash
# The whole story in one command: a CA and an ACME server come up, certbot gets, checks and revokes a certificate.
#   ./demo.sh          runs the story and stops everything
#   ./demo.sh --stay   leaves the services up until Ctrl-C and prints how to reach them
# State lives in a fresh temporary folder; nothing needs root and nothing leaves this machine.
set -euo pipefail
cd "$(dirname "$0")"
. .ci/prepare.sh

NAME=demo.pqcpki.test
STAY=no
STATE=
DNS_PID=
UP_PID=

usage() { sed -n '2,5s/^# \{0,1\}//p' "$0"; }

case "${1:-}" in
    "") ;;
    --stay) STAY=yes ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac

step_number=0
step() {
    step_number=$((step_number + 1))
    printf '\n%2d. %s\n' "$step_number" "$*"
}
saw() { sed 's/^/      /'; }

cleanup() {
    trap - EXIT INT TERM
    for pid in $UP_PID $DNS_PID; do
        kill -TERM "$pid" 2>/dev/null || continue
        wait "$pid" 2>/dev/null || true
    done
    [ -z "$STATE" ] || rm -rf "$STATE"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

endpoint() { .venv/bin/ztca endpoints --dir "$STATE/pki" "$1"; }
fetch() { .venv/bin/python -c 'import sys, urllib.request; sys.stdout.buffer.write(urllib.request.urlopen(sys.argv[1], timeout=10).read())' "$1"; }
free_port() { .venv/bin/python -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# wait_for SECONDS PID FILE: until FILE exists, or PID has ended.
wait_for() {
    local deadline=$((SECONDS + $1))
    until [ -s "$3" ]; do
        kill -0 "$2" 2>/dev/null || return 1
        [ $SECONDS -lt $deadline ] || return 1
        sleep 0.1
    done
}

certbot() {
    REQUESTS_CA_BUNDLE=$(endpoint tls_ca_bundle) "$CERTBOT_VENV/bin/certbot" "$@" \
        --config-dir "$STATE/certbot/config" --work-dir "$STATE/certbot/work" --logs-dir "$STATE/certbot/logs" --non-interactive
}

# ocsp_status FILE: what the responder named in the certificate says of it. The answer's signature is verified.
ocsp_status() {
    openssl ocsp -issuer "$STATE/issuing.pem" -cert "$1" -CAfile "$STATE/tls-root.pem" -url "$(openssl x509 -in "$1" -noout -ocsp_uri)" -resp_text 2>&1 |
        grep -E '^(Response verify| +Cert Status| +Revocation (Time|Reason))' | sed 's/^ *//'
}

require openssl openssl
step "Installing what the demo needs"
prepare_venv all
prepare_certbot
STATE=$(mktemp -d "${TMPDIR:-/tmp}/pqcpki-demo.XXXXXX")
echo "State of this run: $STATE" | saw

step "The ceremony: roots (kept offline), issuing CAs and the identities of the services"
.venv/bin/ztca init --dir "$STATE/pki" | saw

step "The services come up: CA and ACME server, each a process of its own, with mutual TLS between them"
export PQCPKI_ACME_HTTP01_PORT PQCPKI_ACME_RESOLVER PQCPKI_ACME_ALLOWED_NETWORKS
PQCPKI_ACME_HTTP01_PORT=$(free_port)
# A name that no public DNS knows: a small DNS simulator on loopback answers for it, and the validator may dial loopback in this demo only.
printf '{"%s": {"A": ["127.0.0.1"]}}' "$NAME" > "$STATE/dns.json"
.venv/bin/python tests/support/dns_server.py --port 0 --records "$STATE/dns.json" > "$STATE/dns.port" &
DNS_PID=$!
wait_for 20 "$DNS_PID" "$STATE/dns.port" || fail "The DNS simulator did not start."
PQCPKI_ACME_RESOLVER=127.0.0.1:$(cat "$STATE/dns.port")
PQCPKI_ACME_ALLOWED_NETWORKS=127.0.0.0/8
.venv/bin/ztca up --dir "$STATE/pki" > "$STATE/up.log" 2>&1 &
UP_PID=$!
wait_for 300 "$UP_PID" "$STATE/pki/endpoints.json" || { cat "$STATE/up.log" >&2; fail "The services did not come up; their output is above."; }
saw < "$STATE/up.log"

step "How the two services speak: ztca probe shows the CA's internal listener through our own transport"
.venv/bin/ztca probe --dir "$STATE/pki" "$(endpoint ca_internal)" | saw

step "certbot gets a certificate for $NAME by http-01"
certbot certonly --server "$(endpoint acme_directory)" --standalone --http-01-port "$PQCPKI_ACME_HTTP01_PORT" --http-01-address 127.0.0.1 \
    --domain "$NAME" --agree-tos --register-unsafely-without-email 2>&1 | grep -vE '^(- - |Saving debug|NEXT STEPS|- The certificate will need|If you like Certbot| \* Donating|$)' | saw
LIVE=$STATE/certbot/config/live/$NAME
openssl x509 -in "$LIVE/cert.pem" -noout -subject -issuer -dates -ext subjectAltName | saw

step "openssl verifies the chain, with the CRLs of the root and of the issuing CA"
cp "$LIVE/chain.pem" "$STATE/issuing.pem"
cp "$(endpoint tls_ca_bundle)" "$STATE/tls-root.pem"
fetch_crls() {
    local issuer
    : > "$STATE/crls.pem"
    for issuer in root-ecdsa issuing-ecdsa; do
        fetch "$(endpoint crl_base)/$issuer" | openssl crl -inform DER >> "$STATE/crls.pem"
    done
}
fetch_crls
verify_chain() { openssl verify -crl_check_all -CRLfile "$STATE/crls.pem" -CAfile "$STATE/tls-root.pem" -untrusted "$STATE/issuing.pem" "$1" 2>&1; }
verify_chain "$LIVE/cert.pem" | saw

step "openssl asks the OCSP responder"
ocsp_status "$LIVE/cert.pem" | saw

step "The ACME listener staples an OCSP answer about itself"
acme_host=$(endpoint acme_directory | cut -d/ -f3)
openssl s_client -connect "$acme_host" -servername localhost -CAfile "$STATE/tls-root.pem" -status < /dev/null 2>/dev/null |
    grep -E 'OCSP Response Status|Cert Status|Verify return code' | sort -u | saw

step "certbot revokes it, with the reason keyCompromise"
cp "$LIVE/cert.pem" "$STATE/revoked.pem"
certbot revoke --server "$(endpoint acme_directory)" --cert-path "$LIVE/cert.pem" --reason keycompromise --no-delete-after-revoke 2>&1 | grep -E 'revoked|error' | saw

step "OCSP and the CRL say so at once"
ocsp_status "$STATE/revoked.pem" | saw
fetch_crls
openssl crl -in <(fetch "$(endpoint crl_base)/issuing-ecdsa" | openssl crl -inform DER) -noout -text | grep -A4 'Serial Number' | sed 's/^ *//' | saw
if verify_chain "$STATE/revoked.pem" > "$STATE/verify.txt"; then fail "openssl still accepts the revoked certificate."; fi
grep revoked "$STATE/verify.txt" | saw

step "A client with a certificate of ours is let in at the CA's internal listener ..."
.venv/bin/ztca issue --dir "$STATE/pki" demo-client --out "$STATE/client" | saw
probe_as_client() { .venv/bin/ztca probe --dir "$STATE/pki" --cert "$STATE/client/cert.pem" --key "$STATE/client/key.pem" "$(endpoint ca_internal)"; }
probe_as_client | saw

step "... and refused at the handshake as soon as it is revoked"
.venv/bin/ztca revoke --dir "$STATE/pki" --serial "$(openssl x509 -in "$STATE/client/cert.pem" -noout -serial 2>/dev/null | cut -d= -f2)" --reason keyCompromise | saw
refused=no
for _ in $(seq 60); do
    if ! probe_as_client > "$STATE/probe.txt" 2>&1; then refused=yes; break; fi
    sleep 1
done
saw < "$STATE/probe.txt"
[ $refused = yes ] || fail "The revoked client was still let in after a minute."

step "Every act is in the hash-chained audit logs, which verify"
.venv/bin/ztca audit verify "$STATE/pki" | saw

if [ $STAY = yes ]; then
    step "Staying up. Ctrl-C ends everything."
    {
        echo "ACME directory:  $(endpoint acme_directory)"
        echo "CA bundle:       $(endpoint tls_ca_bundle)"
        echo "All endpoints:   $STATE/pki/endpoints.json"
        echo "http-01 port:    $PQCPKI_ACME_HTTP01_PORT    (names in $STATE/dns.json resolve)"
        echo "Try:             REQUESTS_CA_BUNDLE=$(endpoint tls_ca_bundle) certbot certonly --server $(endpoint acme_directory) ..."
    } | saw
    wait "$UP_PID"
else
    step "Done. Stopping the services."
fi
