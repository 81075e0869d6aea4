# For a person who looks after the keys and must never sign with them: reads and lists, may stop a key for good,
# may withdraw the service's credentials. Give it to no machine.

path "transit/keys" {
  capabilities = ["list"]
}

path "transit/keys/+" {
  capabilities = ["read", "delete"]
}

path "transit/keys/+/config" {
  capabilities = ["create", "update"]
  allowed_parameters = {
    "deletion_allowed"       = []
    "min_decryption_version" = []
    "min_encryption_version" = []
  }
}

path "auth/approle/role/signer-hsm" {
  capabilities = ["read"]
}

path "auth/approle/role/signer-hsm/secret-id" {
  capabilities = ["create", "update"]
}

path "auth/approle/role/signer-hsm/secret-id-accessor/destroy" {
  capabilities = ["create", "update"]
}

path "transit/sign/*" {
  capabilities = ["deny"]
}
