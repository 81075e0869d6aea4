"""What was issued since an incident was opened is found by when it was issued."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_index("certificates_in_time", "certificates", ["issued_at", "account_id"])


def downgrade() -> None:
    op.drop_index("certificates_in_time", "certificates")
