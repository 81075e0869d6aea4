"""Certificates, pure: bytes and a clock in, values or exceptions out; no socket, no SQL, no key."""
