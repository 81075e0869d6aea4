"""Orders (RFC 8555 §7.4): from newOrder to the certificate."""
