"""The tables of signer-hsm. Times are Unix seconds; what is JSON is a text."""

from typing import Final

import sqlalchemy as sa

from services.chassis.database import audit_tables

metadata: Final = sa.MetaData()

# One row, counted up by every change of a key, so that other processes see that there is something new.
changes: Final = sa.Table(
    "changes",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("counter", sa.BigInteger, nullable=False),
)

# `current` is the version that signs where none is named, 0 before there is one; `changed` the counter at its change.
keys: Final = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("backend", sa.Text, nullable=False),
    sa.Column("algorithm", sa.Text, nullable=False),
    sa.Column("current", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("changed", sa.BigInteger, nullable=False),
)
sa.Index("ix_keys_changed", keys.c.changed)

# A row is an intent while its state is `creating`: committed before the back end is asked, and found again by label.
# `imported_key` is SHA-256 of the public key of a private key that is being brought in.
key_versions: Final = sa.Table(
    "key_versions",
    metadata,
    sa.Column("key", sa.Text, sa.ForeignKey("keys.id"), primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("handle", sa.Text),
    sa.Column("public_key", sa.LargeBinary),
    sa.Column("imported_key", sa.LargeBinary),
    sa.Column("kinds", sa.Text, nullable=False),
    sa.Column("schemes", sa.Text, nullable=False),
    sa.Column("evidence", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("destruction", sa.Text),
    sa.Column("attestation", sa.Text),
)

# What a caller has asked for under an idempotency key: pending, done, or unknown for ever. `answer` holds signatures.
idempotency: Final = sa.Table(
    "idempotency",
    metadata,
    sa.Column("caller", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("idempotency_key", sa.Text, primary_key=True),
    sa.Column("request_hash", sa.LargeBinary, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("answer", sa.LargeBinary),
    sa.Column("at", sa.BigInteger, nullable=False),
)
sa.Index("ix_idempotency_at", idempotency.c.at)

# Who has agreed to which life-cycle act; `binding` is the act's hash (`services.signer_hsm.policy.approvals`).
approvals: Final = sa.Table(
    "approvals",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("act", sa.Text, nullable=False),
    sa.Column("version", sa.BigInteger),
    sa.Column("binding", sa.Text, nullable=False),
    sa.Column("approver", sa.Text, nullable=False),
    sa.Column("approved_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("policy_sha256", sa.Text, nullable=False),
    sa.Column("rule", sa.Text, nullable=False),
    sa.Column("consumed_at", sa.BigInteger),
)
sa.Index("ix_approvals_tenant", approvals.c.tenant, approvals.c.expires_at)

# Every key policy that was in force; a lower version never follows a higher one.
policies: Final = sa.Table(
    "policies",
    metadata,
    sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
)

audit_tables(metadata)
