"""The ACME server (RFC 8555): accounts, orders and validation; it asks the CA to issue and holds no CA key."""
