"""What certificates are found by, who asked for them, refusals, and the shards of CRLs: added, nothing taken away."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_ADDED = {
    "certificates": (
        sa.Column("shard", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("account", sa.Text, nullable=False, server_default=""),
        sa.Column("requester", sa.Text, nullable=False, server_default="{}"),
    ),
    "revocations": (sa.Column("shard", sa.BigInteger, nullable=False, server_default="0"),),
    "blocked_keys": (
        sa.Column("reason", sa.Text, nullable=False, server_default="keyCompromise"),
        sa.Column("blocked_by", sa.Text, nullable=False, server_default=""),
    ),
    "crls": (sa.Column("base_number", sa.BigInteger, nullable=False, server_default="0"),),
}
_INDEXES = {
    "ix_certificates_key": ["key_hash"],
    "ix_certificates_expiry": ["not_after"],
    "ix_certificates_account": ["account", "recorded_at"],
}


def upgrade() -> None:
    for table, columns in _ADDED.items():
        for column in columns:
            op.add_column(table, column)
    for name, of in _INDEXES.items():
        op.create_index(name, "certificates", of)
    op.create_table(
        "certificate_names",
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("serial", sa.Text, sa.ForeignKey("certificates.serial"), primary_key=True),
    )
    op.create_table(
        "refusals",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("caller", sa.Text, nullable=False),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("profile", sa.Text, nullable=False),
        sa.Column("names", sa.Text, nullable=False),
        sa.Column("problem", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )


def downgrade() -> None:
    for table in ("refusals", "certificate_names"):
        op.drop_table(table)
    for name in _INDEXES:
        op.drop_index(name, "certificates")
    for table, columns in _ADDED.items():
        for column in columns:
            op.drop_column(table, column.name)
