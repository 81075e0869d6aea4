"""The ledger as operators see it: searches, pages, export, refusals, what ends soon, what is still classical."""
