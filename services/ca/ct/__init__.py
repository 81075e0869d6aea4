"""The CA's own Certificate Transparency log (RFC 6962), in the CA's database, served as tiles below /ct.

A certificate of a profile with `sct = true` is entered before it is signed, so that none exists that the log has not
seen; what is entered and then not issued is the price. Entries are MerkleTreeLeaf structures (RFC 6962 §3.4).
"""
