"""External accounts (RFC 8555 §7.3.4): keys that operators hand out, and what accounts bound to them may order."""
