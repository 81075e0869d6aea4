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
    sa.Column("names", sa.Text, nullable=False, server_default="{}"),  # JSON, kind to list
    sa.Column("algorithm", sa.Text, nullable=False, server_default=""),  # of the certified key
    sa.UniqueConstraint("caller", "idempotency_key", name="uq_certificates_idempotency"),
)
sa.Index(
    "ix_certificates_intents",
    certificates.c.recorded_at,
    certificates.c.serial,
    sqlite_where=certificates.c.certificate.is_(None),
    postgresql_where=certificates.c.certificate.is_(None),
)
# Recorded before names were indexed: `services.ca.ledger.naming` empties this.
sa.Index(
    "ix_certificates_unnamed",
    certificates.c.serial,
    sqlite_where=sa.text("algorithm = ''"),
    postgresql_where=sa.text("algorithm = ''"),
)

# What the ledger is searched by, each with what its pages are ordered by.
for _name, _of in {
    "recorded": ("recorded_at", "serial"),
    "key": ("key_hash", "recorded_at", "serial"),
    "account": ("account", "recorded_at", "serial"),
    "profile": ("profile", "recorded_at", "serial"),
    "issuer": ("issuer", "not_after", "serial"),
    "ends": ("not_after", "serial", "profile", "issuer", "algorithm", "recorded_at"),
}.items():
    sa.Index(f"ix_certificates_{_name}", *(certificates.c[column] for column in _of))

# What a certificate is found by. `kind` is dns, ip, uri, email or common_name; `path` is the name so written that what
# is below a domain or a path follows it (`services.ca.ledger.names`).
certificate_names: Final = sa.Table(
    "certificate_names",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("path", sa.LargeBinary, primary_key=True),
    sa.Column("recorded_at", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("serial", sa.Text, sa.ForeignKey("certificates.serial"), primary_key=True),
    sqlite_with_rowid=False,
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
    sa.Column("rule", sa.Text, nullable=False, server_default=""),  # of services.ca.authorization; "" for other steps
    sa.Column("act", sa.Text, nullable=False, server_default="issue"),  # what was refused
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
    sa.Column("revoked_by", sa.Text, nullable=False, server_default=""),
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

# The newest CRL of each list: `issuer` is the path below /crl, so the issuer's id, ID/SHARD, or either with /delta. A
# large one lies here without its final entries, which are in `revocations` (`RevocationStore.crl` puts them in again).
crls: Final = sa.Table(
    "crls",
    metadata,
    sa.Column("issuer", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("this_update", sa.BigInteger, nullable=False),
    sa.Column("next_update", sa.BigInteger, nullable=False),
    sa.Column("der", sa.LargeBinary, nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False, server_default="0"),  # how far in the feed it goes
    # Of a delta: number, sequence and thisUpdate of the list that it builds on.
    sa.Column("base_number", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("base_sequence", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("base_update", sa.BigInteger, nullable=False, server_default="0"),
    # Entries of certificates that ended in an hour before this time are not in it (RFC 5280 §3.3).
    sa.Column("ended_before", sa.BigInteger, nullable=False, server_default="0"),
)

# The Certificate Transparency log: what was about to be issued by profiles with `sct`.
ct_tables: Final = tlog_tables(metadata, "ct")

audit_tables(metadata)
