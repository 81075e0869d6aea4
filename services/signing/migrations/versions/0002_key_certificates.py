"""Certificates of keys that stay, requests for the next ones; a count of log entries that belong to a record."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "key_certificates",
        sa.Column("key_id", sa.Text, primary_key=True),
        sa.Column("sha256", sa.Text, primary_key=True),
        sa.Column("not_after", sa.BigInteger, nullable=False),
        sa.Column("chain", sa.LargeBinary, nullable=False),
        sa.Column("recorded_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "certificate_requests",
        sa.Column("key_id", sa.Text, primary_key=True),
        sa.Column("renews", sa.Text, primary_key=True),
        sa.Column("csr", sa.LargeBinary, nullable=False),
        sa.Column("requested_at", sa.BigInteger, nullable=False),
    )
    op.execute("INSERT INTO counters (name, value) SELECT 'recorded-log-entries', coalesce(max(size), 0) FROM log_head")


def downgrade() -> None:
    op.execute("DELETE FROM counters WHERE name = 'recorded-log-entries'")
    op.drop_table("certificate_requests")
    op.drop_table("key_certificates")
