"""`ztca acme request`: an ACME client (RFC 8555, RFC 9773) with keys of every kind, ML-DSA included.

It shares no code with the server but the formats of pkicore. What the server says is checked before it is used: URLs
are https, tokens are names of files, a certificate is for the key and the names that were asked for.
"""
