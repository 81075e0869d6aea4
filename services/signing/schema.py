"""The tables of the signing service. Times are Unix seconds; JSON is a text; digests of files are hexadecimal."""

from typing import Final

import sqlalchemy as sa

from services.chassis.database import audit_tables
from services.chassis.tlog import tlog_tables

metadata: Final = sa.MetaData()

# One request that was signed; `record` is what the caller was answered. Ids grow with time.
signatures: Final = sa.Table(
    "signatures",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("record", sa.LargeBinary, nullable=False),
)
sa.Index("ix_signatures_tenant", signatures.c.tenant, signatures.c.id)

# What signatures are found by: `what` is a digest ("sha256:HEX") or a predicate type.
found_by: Final = sa.Table(
    "signature_index",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("what", sa.Text, primary_key=True),
    sa.Column("signature", sa.Text, primary_key=True),
)
sa.Index("ix_signature_index_signature", found_by.c.signature)

# What is served below a signature; `content` is empty where the octets are a file (`services.signing.objects`).
artefacts: Final = sa.Table(
    "artefacts",
    metadata,
    sa.Column("signature", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("media_type", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("content", sa.LargeBinary),
)
sa.Index(
    "ix_artefacts_object",
    artefacts.c.sha256,
    sqlite_where=artefacts.c.content.is_(None),
    postgresql_where=artefacts.c.content.is_(None),
)

# What was signed under an idempotency key.
idempotency: Final = sa.Table(
    "idempotency",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("caller", sa.Text, primary_key=True),
    sa.Column("idempotency_key", sa.Text, primary_key=True),
    sa.Column("request_hash", sa.LargeBinary, nullable=False),
    sa.Column("signature", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
)
sa.Index("ix_idempotency_at", idempotency.c.at)

# `made_by` is the API key that a key was made with, and is revoked with.
api_keys: Final = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("key_sha256", sa.LargeBinary, nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("revoked_at", sa.BigInteger),
    sa.Column("last_used_at", sa.BigInteger),
    sa.Column("made_by", sa.Text),
)
sa.Index("ix_api_keys_tenant", api_keys.c.tenant, api_keys.c.created_at)
sa.Index("ix_api_keys_made_by", api_keys.c.made_by)

# Every set of policies that was in force, with its texts by file name.
policies: Final = sa.Table(
    "policies",
    metadata,
    sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("files", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
)
sa.Index("ix_policies_sha256", policies.c.sha256)

# Receivers of a tenant's events; `events` is their types between commas, secrets are sealed.
webhooks: Final = sa.Table(
    "webhooks",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("events", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("secret", sa.LargeBinary, nullable=False),
    sa.Column("previous_secret", sa.LargeBinary),
    sa.Column("previous_until", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
)
sa.Index("ix_webhooks_tenant", webhooks.c.tenant)

# Events on their way: one row for each receiver, written in the commit of what happened. `claim` is who works on it.
deliveries: Final = sa.Table(
    "deliveries",
    metadata,
    sa.Column("event", sa.Text, primary_key=True),
    sa.Column("webhook", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempts", sa.BigInteger, nullable=False),
    sa.Column("due_at", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("last_status", sa.BigInteger),
    sa.Column("last_error", sa.Text),
    sa.Column("claim", sa.Text),
)
sa.Index("ix_deliveries_due", deliveries.c.webhook, deliveries.c.state, deliveries.c.due_at)
sa.Index("ix_deliveries_tenant", deliveries.c.tenant, deliveries.c.state, deliveries.c.created_at)

# One row: the salt of the key that secrets are sealed with.
sealing: Final = sa.Table(
    "sealing",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("salt", sa.LargeBinary, nullable=False),
)

# What keeps a signature beyond its tenant's rule: the date that evidence has promised (0: none), and a legal hold.
retention: Final = sa.Table(
    "retention",
    metadata,
    sa.Column("signature", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("promised_until", sa.BigInteger, nullable=False),
    sa.Column("held_at", sa.BigInteger),
    sa.Column("held_by", sa.Text),
    sa.Column("hold_reason", sa.Text),
)

# Archives of evidence: files that can be made again while their signatures are there.
evidence: Final = sa.Table(
    "evidence",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("manifest_signature", sa.Text, nullable=False),
    sa.Column("retained_until", sa.BigInteger),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
)
sa.Index("ix_evidence_tenant", evidence.c.tenant, evidence.c.id)
sa.Index("ix_evidence_created", evidence.c.created_at)

# Numbers that never repeat, handed out in blocks: `value` is the first that was not. One row is a plain count:
# `recorded-log-entries`, of entries of the log that belong to a record.
counters: Final = sa.Table(
    "counters",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)

# Every certificate of a key that stays, former ones too; `chain` is PEM, with the root.
key_certificates: Final = sa.Table(
    "key_certificates",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("sha256", sa.Text, primary_key=True),
    sa.Column("not_after", sa.BigInteger, nullable=False),
    sa.Column("chain", sa.LargeBinary, nullable=False),
    sa.Column("recorded_at", sa.BigInteger, nullable=False),
)

# With what the CA is asked for a certificate in place of the one with the serial `renews`; kept before it is asked.
certificate_requests: Final = sa.Table(
    "certificate_requests",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("renews", sa.Text, primary_key=True),
    sa.Column("csr", sa.LargeBinary, nullable=False),
    sa.Column("requested_at", sa.BigInteger, nullable=False),
)

# The transparency log: what was signed, for everybody to see.
log_tables: Final = tlog_tables(metadata, "log")

audit_log, audit_head = audit_tables(metadata)
