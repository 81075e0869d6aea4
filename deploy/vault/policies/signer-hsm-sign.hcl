# What signing needs: the keys' public halves, signatures, and the service's own token.
# Deny is the default: nothing here exports, backs up, encrypts, decrypts or lists other engines.

path "transit/keys/+" {
  capabilities = ["read"]
}

path "transit/sign/+" {
  capabilities = ["create", "update"]
}

# The "default" policy is not attached to this role; these two are all that is needed of it.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}
