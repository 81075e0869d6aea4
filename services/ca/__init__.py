"""The CA: issuance, revocation and status. It holds issuing keys, never a root key at run time."""
