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
    sa.Column("shard", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("account", sa.Text, nullable=False, server_default=""),
    sa.Column("requester", sa.Text, nullable=False, server_default="{}"),
    sa.UniqueConstraint("caller", "idempotency_key", name="uq_certificates_idempotency"),
)
sa.Index(
    "ix_certificates_intents",
    certificates.c.recorded_at,
    sqlite_where=certificates.c.certificate.is_(None),
    postgresql_where=certificates.c.certificate.is_(None),
)

sa.Index("ix_certificates_key", certificates.c.key_hash)
sa.Index("ix_certificates_expiry", certificates.c.not_after)
sa.Index("ix_certificates_account", certificates.c.account, certificates.c.recorded_at)

# What a certificate is found by. `kind` is dns, ip, uri, email or common_name.
certificate_names: Final = sa.Table(
    "certificate_names",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("serial", sa.Text, sa.ForeignKey("certificates.serial"), primary_key=True),
)

# Requests that were not granted.
refusals: Final = sa.Table(
    "refusals",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # greater than those of earlier seconds
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("caller", sa.Text, nullable=False),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("profile", sa.Text, nullable=False),
    sa.Column("names", sa.Text, nullable=False),
    sa.Column("problem", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
)

# What last happened to a serial: `sequence` orders the feed, and a release of a hold moves its row to the feed's end as
# removeFromCRL. `entry` is the DER of the CRL entry, encoded once.
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
    sa.Column("shard", sa.BigInteger, nullable=False, server_default="0"),
)

# SHA-256 of the SubjectPublicKeyInfo of every key that is never certified again, and why.
blocked_keys: Final = sa.Table(
    "blocked_keys",
    metadata,
    sa.Column("key_hash", sa.LargeBinary, primary_key=True),
    sa.Column("blocked_at", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.Text, nullable=False, server_default="keyCompromise"),
    sa.Column("blocked_by", sa.Text, nullable=False, server_default=""),
)

# The newest CRL of each list: `issuer` is the path below /crl, so the issuer's id, ID/SHARD, or either with /delta.
crls: Final = sa.Table(
    "crls",
    metadata,
    sa.Column("issuer", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("this_update", sa.BigInteger, nullable=False),
    sa.Column("next_update", sa.BigInteger, nullable=False),
    sa.Column("der", sa.LargeBinary, nullable=False),
    sa.Column("base_number", sa.BigInteger, nullable=False, server_default="0"),  # of a delta: what it builds on
)

# The Certificate Transparency log: what was about to be issued by profiles with `sct`.
ct_tables: Final = tlog_tables(metadata, "ct")

audit_tables(metadata)
