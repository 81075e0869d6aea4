"""The map of the suite: which service does what, and what it must never do.

acme: RFC 8555 server: accounts, orders, validation. Never holds a CA key, never decides a certificate's content.
ca: issuance, revocation, CRL, OCSP, the `ztca` command. Never fetches from the outside, never holds a root key at run
time.
signer_hsm: the one door to keys: signatures, public keys, key life cycle; the `keyctl` command. Never knows what it
signs, never parses a certificate of its callers.
signing: signatures for artefacts, with SBOM, provenance, timestamp and log entry; the `pqcsign` command. Never signs
without a policy decision on record, never holds a key.
chassis: what every service stands on: settings, database, problems, logs, metrics, runner. Knows no service.

Services meet only through each other's `client` and `wire` modules; import-linter enforces it.
"""
