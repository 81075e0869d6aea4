"""Renewal information (RFC 9773): when to renew, what an order replaces, and the CA's revocations."""
