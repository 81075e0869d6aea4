"""The block list: keys that are never certified again, and whose certificates are revoked.

A key is known by the SHA-256 of its SubjectPublicKeyInfo. It comes here when a certificate is revoked for
keyCompromise, or by an operator's word; issuance looks at the list in the statement that records an intent
(`services.ca.store`).
"""
