"""The SQL of the ledger's searches, refusals and counts; what issuance writes is in `services.ca.store`."""
