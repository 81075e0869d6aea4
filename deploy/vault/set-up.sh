#!/bin/sh
# Transit, the policies and the AppRole of signer-hsm, in a Vault or OpenBao that is initialised and unsealed.
#
#   set-up.sh DIRECTORY [sign|keys|import]
#
# DIRECTORY gets role-id and secret-id (0600). The second word says how much the service may do: sign only, also make
# and remove keys (the default), or also import them. Run it again to widen or narrow that, or for a new secret id.
# The CLI's usual variables (VAULT_ADDR and VAULT_TOKEN, or BAO_...) say where and who.
set -eu

directory=${1:?usage: set-up.sh DIRECTORY [sign|keys|import]}
level=${2:-keys}
policies=$(dirname -- "$0")/policies
cli=${CLI:-$(command -v bao || command -v vault)}

case $level in
sign) granted=signer-hsm-sign ;;
keys) granted=signer-hsm-sign,signer-hsm-keys ;;
import) granted=signer-hsm-sign,signer-hsm-keys,signer-hsm-import ;;
*)
    echo "the second word is sign, keys or import, not $level" >&2
    exit 2
    ;;
esac

mounted() { "$cli" "$1" list -format=json | grep -q "^ *\"$2/\""; }

mounted secrets transit || "$cli" secrets enable transit
mounted auth approle || "$cli" auth enable approle

for policy in signer-hsm-sign signer-hsm-keys signer-hsm-import key-admin; do
    "$cli" policy write "$policy" "$policies/$policy.hcl"
done

# The audit log then has the service's own request id beside Vault's, in clear.
"$cli" write sys/config/auditing/request-headers/X-Request-Id hmac=false

"$cli" write auth/approle/role/signer-hsm \
    token_policies="$granted" token_no_default_policy=true token_type=service \
    token_ttl=1h token_max_ttl=24h secret_id_ttl=2160h secret_id_num_uses=0 \
    token_bound_cidrs="${TOKEN_CIDRS:-}" secret_id_bound_cidrs="${TOKEN_CIDRS:-}"

umask 077
mkdir -p "$directory"
"$cli" read -field=role_id auth/approle/role/signer-hsm/role-id >"$directory/role-id"
"$cli" write -force -field=secret_id auth/approle/role/signer-hsm/secret-id >"$directory/secret-id.new"
mv "$directory/secret-id.new" "$directory/secret-id"
echo "signer-hsm may now: $granted; its files are in $directory"
