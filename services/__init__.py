"""The map of the suite: which service does what, and what it must never do.

| package              | on the wire | what it is for                                        | what it must never do                     |
|----------------------|-------------|-------------------------------------------------------|-------------------------------------------|
| `services.acme`      | acme        | RFC 8555 server: accounts, orders, validation         | hold a CA key, decide a certificate's content |
| `services.ca`        | ca          | issuance, revocation, CRL, OCSP, the `ztca` command   | fetch from the outside, hold a root key at run time |
| `services.chassis`   | -           | what every service stands on: settings, database, problems, logs, metrics, runner | know any service |

Services meet only through each other's `client` and `wire` modules; import-linter enforces it.
"""
