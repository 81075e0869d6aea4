"""The first schema: serials, ledger, revocations, blocked keys, CRLs and the audit log."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    _ledger()
    _status()
    _audit()


def _ledger() -> None:
    op.create_table(
        "serials",
        sa.Column("serial", sa.Text, primary_key=True),
        sa.Column("reserved_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "certificates",
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
    open_intents = sa.text("certificate IS NULL")
    op.create_index(
        "ix_certificates_intents",
        "certificates",
        ["recorded_at"],
        sqlite_where=open_intents,
        postgresql_where=open_intents,
    )


def _status() -> None:
    op.create_table(
        "revocations",
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("serial", sa.Text, sa.ForeignKey("certificates.serial"), nullable=False, unique=True),
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("revoked_at", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("not_after", sa.BigInteger, nullable=False),
        sa.Column("entry", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "blocked_keys",
        sa.Column("key_hash", sa.LargeBinary, primary_key=True),
        sa.Column("blocked_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "crls",
        sa.Column("issuer", sa.Text, primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("this_update", sa.BigInteger, nullable=False),
        sa.Column("next_update", sa.BigInteger, nullable=False),
        sa.Column("der", sa.LargeBinary, nullable=False),
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
    for table in ("audit_head", "audit_log", "crls", "blocked_keys", "revocations", "certificates", "serials"):
        op.drop_table(table)
