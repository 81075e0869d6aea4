# What the life cycle of keys needs, beside signer-hsm-sign: create, remove.
# Leave it out where an administrator makes the keys by hand: the service then only signs.
# Parameters are listed one by one, so that no key can be made exportable, now or later.

path "transit/keys/+" {
  capabilities = ["create", "read", "update", "delete"]
  allowed_parameters = {
    "type"                   = []
    "parameter_set"          = []
    "derived"                = [false]
    "exportable"             = [false]
    "allow_plaintext_backup" = [false]
  }
}

path "transit/keys/+/config" {
  capabilities = ["create", "update"]
  allowed_parameters = {
    "deletion_allowed" = []
  }
}
