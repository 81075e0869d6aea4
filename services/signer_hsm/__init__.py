"""signer-hsm: the only door to keys. It signs digests, mu values and short messages, whatever they stand for."""
