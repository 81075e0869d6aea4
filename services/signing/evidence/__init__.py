"""Evidence of a release: one archive that an auditor checks with openssl and sha256sum, without asking this service.

1 every file that is served of its signatures, octet for octet, their records, the keys, the trusted root, the policies
that allowed them, the lines of the audit log about them, how long all of this is kept, and a short report ·
2 a manifest with the size and digest of each file · 3 a signature over the manifest, made like any other: by a policy
decision, on record, with a profile's keys · 4 the tar has the same octets whenever the same files go in: sorted names,
the time of the newest record, no owner · 5 the archive is on disk, and what it promises is committed, before anybody
can fetch it.
"""

from services.signing.evidence.verification import VerifiedArchive, verify_archive

__all__ = ["VerifiedArchive", "verify_archive"]
