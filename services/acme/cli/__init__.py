"""The commands of `ztca` that manage the ACME server."""
