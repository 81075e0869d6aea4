"""Searches of the ledger read an index and nothing beside it; refusals say which rule they broke.

Names are found by octets that sort as domains and paths are nested, on every engine and under every collation. The
table of 0003, which no release ever had, held them as text.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_ADDED = {
    "certificates": (
        sa.Column("names", sa.Text, nullable=False, server_default="{}"),
        sa.Column("algorithm", sa.Text, nullable=False, server_default=""),
    ),
    "refusals": (sa.Column("rule", sa.Text, nullable=False, server_default=""),),
    "revocations": (sa.Column("revoked_by", sa.Text, nullable=False, server_default=""),),
}
_FORMER = {
    "ix_certificates_key": ["key_hash"],
    "ix_certificates_expiry": ["not_after"],
    "ix_certificates_account": ["account", "recorded_at"],
}
_INDEXES = {
    "ix_certificates_recorded": ["recorded_at", "serial"],
    "ix_certificates_key": ["key_hash", "recorded_at", "serial"],
    "ix_certificates_account": ["account", "recorded_at", "serial"],
    "ix_certificates_profile": ["profile", "recorded_at", "serial"],
    "ix_certificates_issuer": ["issuer", "not_after", "serial"],
    "ix_certificates_ends": ["not_after", "serial", "profile", "issuer", "algorithm", "recorded_at"],
}


def upgrade() -> None:
    for table, columns in _ADDED.items():
        for column in columns:
            op.add_column(table, column)
    for name in _FORMER:
        op.drop_index(name, "certificates")
    for name, of in _INDEXES.items():
        op.create_index(name, "certificates", of)
    _index_intents("recorded_at", "serial")
    op.drop_table("certificate_names")
    op.create_table(
        "certificate_names",
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("path", sa.LargeBinary, primary_key=True),
        sa.Column("recorded_at", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("serial", sa.Text, sa.ForeignKey("certificates.serial"), primary_key=True),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("certificate_names")
    op.create_table(
        "certificate_names",
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("serial", sa.Text, sa.ForeignKey("certificates.serial"), primary_key=True),
    )
    _index_intents("recorded_at")
    for name in _INDEXES:
        op.drop_index(name, "certificates")
    for name, of in _FORMER.items():
        op.create_index(name, "certificates", of)
    for table, columns in _ADDED.items():
        for column in columns:
            op.drop_column(table, column.name)


def _index_intents(*of: str) -> None:
    op.drop_index("ix_certificates_intents", "certificates")
    unfinished = sa.text("certificate IS NULL")
    op.create_index(
        "ix_certificates_intents", "certificates", list(of), sqlite_where=unfinished, postgresql_where=unfinished
    )
