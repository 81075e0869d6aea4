"""Refusals say what was refused; certificates of before 0004, which have no names in the index, are found to get them.

`services.ca.ledger.naming` does that while the CA runs, for a large ledger would keep it from starting.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("refusals", sa.Column("act", sa.Text, nullable=False, server_default="issue"))
    unnamed = sa.text("algorithm = ''")
    op.create_index(
        "ix_certificates_unnamed", "certificates", ["serial"], sqlite_where=unnamed, postgresql_where=unnamed
    )


def downgrade() -> None:
    op.drop_index("ix_certificates_unnamed", "certificates")
    op.drop_column("refusals", "act")
