# Only while existing keys are moved into Transit (`allow_import = true`); take it away afterwards.

path "transit/wrapping_key" {
  capabilities = ["read"]
}

path "transit/keys/+/import" {
  capabilities = ["create", "update"]
  allowed_parameters = {
    "ciphertext"             = []
    "hash_function"          = ["SHA256"]
    "type"                   = []
    "allow_rotation"         = [false]
    "exportable"             = [false]
    "allow_plaintext_backup" = [false]
  }
}
