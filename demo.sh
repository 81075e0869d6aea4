#!/usr/bin/env bash
# The whole story in one command: a PKI comes up, certbot gets, checks and revokes a certificate, and a release is signed,
# verified and found in the transparency log.
#   ./demo.sh          runs the story and stops everything
#   ./demo.sh --stay   leaves the services up until Ctrl-C and prints how to reach them
# State lives in a fresh temporary folder; nothing needs root and nothing leaves this machine.
set -euo pipefail
cd "$(dirname "$0")"
. .ci/prepare.sh

NAME=demo.pqcpki.test
STAY=no
STATE=
ENDPOINTS=
DNS_PID=
UP_PID=

usage() { sed -n '2,6s/^# \{0,1\}//p' "$0"; }

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

endpoint() { sed -n "s/^$1: *//p" <<< "$ENDPOINTS"; }
fetch() { .venv/bin/python -c 'import sys, urllib.request; sys.stdout.buffer.write(urllib.request.urlopen(sys.argv[1], timeout=10).read())' "$1"; }
free_port() { .venv/bin/python -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# wait_for SECONDS PID FILE [LOG]: until FILE exists, or PID has ended; lines of LOG are shown as they come.
wait_for() {
    local deadline=$((SECONDS + $1)) shown=0
    until [ -s "$3" ]; do
        kill -0 "$2" 2>/dev/null || return 1
        [ $SECONDS -lt $deadline ] || return 1
        sleep 0.1
        [ $# -lt 4 ] || show_more "$4"
    done
    [ $# -lt 4 ] || show_more "$4"
}
show_more() {
    local lines
    lines=$(wc -l < "$1")
    [ "$lines" -eq "$shown" ] || sed -n "$((shown + 1)),${lines}p" "$1" | saw
    shown=$lines
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
# Free ports, so that a deployment that is up on this machine is not in the way.
for listener in CA CA_HTTP CA_OPS ACME ACME_ADMIN ACME_OPS SIGNER_HSM SIGNER_HSM_OPS SIGNING SIGNING_OPS; do
    port=PQCPKI_${listener}_PORT
    export "$port=${!port:-0}"
done
.venv/bin/ztca init --dir "$STATE/pki" --signing | saw

step "The services come up: signer-hsm with the keys, CA, ACME server and signing service, with mutual TLS between them"
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
wait_for 300 "$UP_PID" "$STATE/pki/endpoints.json" "$STATE/up.log" || { cat "$STATE/up.log" >&2; fail "The services did not come up; their output is above."; }
ENDPOINTS=$(.venv/bin/ztca endpoints --dir "$STATE/pki")

step "How the services speak: ztca probe shows the CA's internal listener through our own transport"
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

step "A release, and an SBOM that names what this demo runs on"
RELEASE=$STATE/release/pqcpki.tar.gz
mkdir "$STATE/release"
tar -czf "$RELEASE" README.md LICENSE pyproject.toml libs services
.venv/bin/python - > "$STATE/release/pqcpki.cdx.json" << 'SBOM'
import json
from importlib.metadata import distributions

found = sorted({(one.metadata["Name"], one.version) for one in distributions()})
components = [{"type": "library", "name": name, "version": version} for name, version in found]
print(json.dumps({"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": components}))
SBOM
(cd "$STATE/release" && sha256sum -- *) | saw

step "pqcsign has both signed, classically and post-quantum; of the release only digests are sent"
.venv/bin/pqcsign sign "$RELEASE" --sbom "$STATE/release/pqcpki.cdx.json" --dir "$STATE/pki" 2>&1 | saw

step "pqcsign verifies them without asking anybody: both keys signed release and SBOM, and the log has each signature"
KEYS=$STATE/pki/trust/signing
.venv/bin/pqcsign trusted-root --dir "$STATE/pki" --out "$STATE/trusted_root.json" > /dev/null 2>&1
verify_release() {
    .venv/bin/pqcsign verify "$RELEASE" --bundle "$RELEASE.sigstore.jsonl" --bundle "$RELEASE.intoto.jsonl" --trusted-root "$STATE/trusted_root.json" \
        --key "$KEYS/default.attestation-es256.pem" --key "$KEYS/default.attestation-mldsa65.pem" --predicate-type https://cyclonedx.org/bom 2>&1
}
verify_release | saw

step "Plain openssl verifies the signature, and the time-stamp over it"
openssl_release() { openssl dgst -sha256 -verify "$KEYS/default.artefact-es256.pem" -signature "$RELEASE.sig" "$RELEASE" 2>&1; }
openssl_release | saw
openssl ts -verify -data "$RELEASE.sig" -in "$RELEASE.tsr" -CAfile "$STATE/tls-root.pem" 2>&1 | grep -v '^Using configuration' | saw
openssl ts -reply -in "$RELEASE.tsr" -text 2>/dev/null | grep -E '^(Time stamp|Serial number)' | saw

step "The proof that the log has it: from the entry, hash by hash, to the root that the log signed (RFC 9162)"
.venv/bin/python - "$RELEASE.sigstore.jsonl" << 'PROOF' | saw
import json
import sys
from base64 import b64decode
from hashlib import sha256

with open(sys.argv[1]) as bundles:
    entry = json.loads(next(bundles))["verificationMaterial"]["tlogEntries"][0]
proof = entry["inclusionProof"]
number, last = int(proof["logIndex"]), int(proof["treeSize"]) - 1
node = sha256(b"\0" + b64decode(entry["canonicalizedBody"])).digest()
print(f"entry {number} of {last + 1}: {node.hex()}")
for step in map(b64decode, proof["hashes"]):
    is_right = number & 1 or number == last
    while is_right and number and not number & 1:
        number, last = number >> 1, last >> 1
    node = sha256(b"\1" + (step + node if is_right else node + step)).digest()
    number, last = number >> 1, last >> 1
    print(f"  with {step.hex()[:16]}...:  {node.hex()}")
origin, size, root, _, signature = proof["checkpoint"]["envelope"].splitlines()
if last or b64decode(root) != node:
    sys.exit("the proof does not lead to the root")
print(f"is the root of the checkpoint: {origin}, {size} entries, {root}")
print(signature)
PROOF

step "One octet more, and nobody accepts the release"
printf x >> "$RELEASE"
if verify_release > "$STATE/verify.txt"; then fail "pqcsign still accepts the changed release."; fi
saw < "$STATE/verify.txt"
if openssl_release > "$STATE/verify.txt"; then fail "openssl still accepts the changed release."; fi
grep Verification "$STATE/verify.txt" | saw

step "Every act is in the hash-chained audit logs, which verify"
.venv/bin/ztca audit verify "$STATE/pki" | saw

if [ $STAY = yes ]; then
    step "Staying up. Ctrl-C ends everything."
    {
        echo "ACME directory:  $(endpoint acme_directory)"
        echo "Signing service: $(endpoint signing)    (.venv/bin/pqcsign sign FILE --dir $STATE/pki)"
        echo "CA bundle:       $(endpoint tls_ca_bundle)"
        echo "All endpoints:   $STATE/pki/endpoints.json"
        echo "http-01 port:    $PQCPKI_ACME_HTTP01_PORT    (names in $STATE/dns.json resolve)"
        echo "Try:             REQUESTS_CA_BUNDLE=$(endpoint tls_ca_bundle) certbot certonly --server $(endpoint acme_directory) ..."
    } | saw
    wait "$UP_PID"
fi
step "Done after $SECONDS s. Stopping the services."
