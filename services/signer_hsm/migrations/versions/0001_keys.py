"""The first schema: keys, their versions, idempotency, approvals, policies and the audit log."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    _keys()
    _requests()
    _audit()


def _keys() -> None:
    changes = op.create_table(
        "changes",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("counter", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(changes, [{"id": 1, "counter": 0}])
    op.create_table(
        "keys",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("backend", sa.Text, nullable=False),
        sa.Column("algorithm", sa.Text, nullable=False),
        sa.Column("current", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("changed", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_keys_changed", "keys", ["changed"])
    op.create_table(
        "key_versions",
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


def _requests() -> None:
    op.create_table(
        "idempotency",
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
    op.create_index("ix_idempotency_at", "idempotency", ["at"])
    op.create_table(
        "approvals",
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
    op.create_index("ix_approvals_tenant", "approvals", ["tenant", "expires_at"])
    op.create_table(
        "policies",
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )


def _audit() -> None:
    op.create_table(
        "audit_log",
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "audit_head",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    for table in (
        "audit_head",
        "audit_log",
        "policies",
        "approvals",
        "idempotency",
        "key_versions",
        "keys",
        "changes",
    ):
        op.drop_table(table)
