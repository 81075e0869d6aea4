"""How far in the feed of revocations a CRL goes, and its delta's base: added, nothing taken away."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_ADDED = ("sequence", "base_sequence", "base_update")


def upgrade() -> None:
    for name in _ADDED:
        op.add_column("crls", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))


def downgrade() -> None:
    for name in _ADDED:
        op.drop_column("crls", name)
