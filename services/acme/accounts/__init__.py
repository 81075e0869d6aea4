"""Accounts (RFC 8555 §7.3): made, found, changed, closed; and whose keys are blocked."""
