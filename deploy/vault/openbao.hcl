# OpenBao for signer-hsm; HashiCorp Vault reads the same but for `audit` (see README.md).
# Same host: listen on the loopback. Separate host: the address that the signer's host reaches, and a firewall in front.

ui           = false
api_addr     = "https://127.0.0.1:8200"
cluster_addr = "https://127.0.0.1:8201"

storage "raft" {
  path    = "/var/lib/openbao/data"
  node_id = "one"
}

listener "tcp" {
  address         = "127.0.0.1:8200"
  tls_cert_file   = "/etc/openbao/tls/server.pem"
  tls_key_file    = "/etc/openbao/tls/server.key"
  tls_min_version = "tls12"
}

# Every request and answer, secrets hashed. If it cannot be written, the server answers nothing: give it its own disk.
audit "file" "signer" {
  description = "requests of signer-hsm and of administrators"
  options {
    file_path = "/var/log/openbao/audit.log"
    mode      = "0600"
  }
}
