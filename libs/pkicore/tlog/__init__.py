"""Transparency logs as tiles: Merkle trees (RFC 9162 §2.1), tiles, notes, checkpoints and cosignatures (C2SP).

Pure: hashes and bytes in, values or exceptions out. Who stores tiles, and where, is the caller's affair:

1. `Frontier.append` grows a log and says which tiles are new;
2. `inclusion_plan` and `consistency_plan` say which tiles a proof needs, and make the proof of them;
3. `verify_inclusion` and `verify_consistency` believe a proof, `verify_checkpoint` a root, or raise.
"""
