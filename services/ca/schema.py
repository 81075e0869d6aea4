"""The CA's tables. Times are Unix seconds, serials lower-case hex without leading zeros."""

from typing import Final

import sqlalchemy as sa

from services.chassis.database import audit_tables
from services.chassis.tlog import tlog_tables

metadata: Final = sa.MetaData()

# A serial exists here before anything is signed under it; reserved in batches, so some are never used.
serials: Final = sa.Table(
    "serials",
    metadata,
    sa.Column("serial", sa.Text, primary_key=True),
    sa.Column("reserved_at", sa.BigInteger, nullable=False),
)

# The ledger. A row is an intent until `certificate` is set, and never changes afterwards.
certificates: Final = sa.Table(
    "certificates",
    metadata,
    sa.Column("serial", sa.Text, sa.ForeignKey("serials.serial"), primary_key=True),
    sa.Column("issuer", sa.Text, nullable=False),
    sa.Column("profile", sa.Text, nullable=False),
    sa.Column("caller", sa.Text, nullable=False),
    sa.Column("idempotency_key", sa.Text, nullable=False),
    sa.Column("request_hash", sa.LargeBinary, nullable=False),
    sa.Column("key_hash", sa.LargeBinary, nullable=False),
    sa.Column("not_before", sa.BigInteger, nullable=False),
    sa.Column("not_after", sa.BigInteger, nullable=False),
    sa.Column("recorded_at", sa.BigInteger, nullable=False),
    sa.Column("tbs", sa.LargeBinary, nullable=False),
    sa.Column("certificate", sa.LargeBinary),
    sa.UniqueConstraint("caller", "idempotency_key", name="uq_certificates_idempotency"),
)
sa.Index(
    "ix_certificates_intents",
    certificates.c.recorded_at,
    sqlite_where=certificates.c.certificate.is_(None),
    postgresql_where=certificates.c.certificate.is_(None),
)

# `sequence` orders the feed; `entry` is the DER of the CRL entry, encoded once.
revocations: Final = sa.Table(
    "revocations",
    metadata,
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("serial", sa.Text, sa.ForeignKey("certificates.serial"), nullable=False, unique=True),
    sa.Column("issuer", sa.Text, nullable=False),
    sa.Column("revoked_at", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("not_after", sa.BigInteger, nullable=False),
    sa.Column("entry", sa.LargeBinary, nullable=False),
)

# SHA-256 of the SubjectPublicKeyInfo of every key that was reported compromised: never certified again.
blocked_keys: Final = sa.Table(
    "blocked_keys",
    metadata,
    sa.Column("key_hash", sa.LargeBinary, primary_key=True),
    sa.Column("blocked_at", sa.BigInteger, nullable=False),
)

# The newest CRL of each issuer, root or issuing.
crls: Final = sa.Table(
    "crls",
    metadata,
    sa.Column("issuer", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("this_update", sa.BigInteger, nullable=False),
    sa.Column("next_update", sa.BigInteger, nullable=False),
    sa.Column("der", sa.LargeBinary, nullable=False),
)

# The Certificate Transparency log: what was about to be issued by profiles with `sct`.
ct_tables: Final = tlog_tables(metadata, "ct")

audit_tables(metadata)
