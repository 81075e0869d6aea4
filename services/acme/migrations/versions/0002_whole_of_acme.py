"""Authorizations serve several orders; profiles, external accounts, renewal, incidents, rate limits and replicas.

Going back keeps each authorization with the first order it serves, and deletes those that serve none.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_ADDED = {
    "accounts": (sa.Column("terms", sa.Text), sa.Column("eab_kid", sa.Text)),
    "orders": (
        sa.Column("profile", sa.Text, nullable=False, server_default="server"),
        sa.Column("not_before", sa.BigInteger),
        sa.Column("not_after", sa.BigInteger),
        sa.Column("replaces", sa.Text),
    ),
    "challenges": (sa.Column("perspectives", sa.Text),),
    "certificates": (
        sa.Column("cert_id", sa.Text),
        sa.Column("not_before", sa.BigInteger),
        sa.Column("alternates", sa.Text),
        sa.Column("replaced_by", sa.Text),
        sa.Column("issued_at", sa.BigInteger),
    ),
}
_FIRST_SERVED = (
    "SELECT {} FROM order_authorizations WHERE authorization_id = authorizations.id ORDER BY order_id, position LIMIT 1"
)


def upgrade() -> None:
    for table, columns in _ADDED.items():
        for column in columns:
            op.add_column(table, column)
    op.create_index("accounts_of_external_account", "accounts", ["eab_kid"])
    op.create_index("accounts_in_time", "accounts", ["created_at", "id"])
    op.create_index("orders_in_time", "orders", ["account_id", "created_at", "id"])
    op.create_index("certificates_by_cert_id", "certificates", ["cert_id"], unique=True)
    op.create_index("certificates_by_serial", "certificates", ["serial"])
    _part_authorizations_from_orders()
    _create_external_accounts()
    _create_rate_limits()
    _create_incidents()
    _create_shared_state()


def _part_authorizations_from_orders() -> None:
    op.create_table(
        "order_authorizations",
        sa.Column("order_id", sa.Text, sa.ForeignKey("orders.id"), primary_key=True),
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("authorization_id", sa.Text, sa.ForeignKey("authorizations.id"), nullable=False),
    )
    op.execute("INSERT INTO order_authorizations SELECT order_id, position, id FROM authorizations")
    op.create_index("orders_of_authorization", "order_authorizations", ["authorization_id"])
    op.drop_index("authorizations_of_order", "authorizations")
    with op.batch_alter_table("authorizations") as batch:
        batch.drop_column("order_id")
        batch.drop_column("position")
    op.create_index("authorizations_by_name", "authorizations", ["account_id", "type", "value", "status", "expires"])
    op.create_index("authorizations_by_expiry", "authorizations", ["expires"])


def _create_external_accounts() -> None:
    op.create_table(
        "eab_keys",
        sa.Column("kid", sa.Text, primary_key=True),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("identifiers", sa.Text, nullable=False),
        sa.Column("profiles", sa.Text, nullable=False),
        sa.Column("max_accounts", sa.BigInteger),
        sa.Column("accounts", sa.BigInteger, nullable=False),
        sa.Column("not_after", sa.BigInteger),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("revoked_at", sa.BigInteger),
        sa.Column("secret_check", sa.Text, nullable=False),
    )


def _create_rate_limits() -> None:
    op.create_table(
        "rate_limits",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("full_at", sa.BigInteger, nullable=False),
    )
    op.create_index("rate_limits_by_time", "rate_limits", ["full_at"])
    op.create_table(
        "rate_limit_overrides",
        sa.Column("subject", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("burst", sa.BigInteger, nullable=False),
        sa.Column("seconds", sa.BigInteger, nullable=False),
    )


def _create_incidents() -> None:
    op.create_table(
        "incidents",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("opened_at", sa.BigInteger, nullable=False),
        sa.Column("opened_by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("explanation_url", sa.Text, nullable=False),
        sa.Column("window_start", sa.BigInteger, nullable=False),
        sa.Column("window_end", sa.BigInteger, nullable=False),
        sa.Column("closed_at", sa.BigInteger),
    )
    op.create_table(
        "incident_certificates",
        sa.Column("incident_id", sa.Text, sa.ForeignKey("incidents.id"), primary_key=True),
        sa.Column("certificate_id", sa.Text, sa.ForeignKey("certificates.id"), primary_key=True),
    )
    op.create_index("incidents_of_certificate", "incident_certificates", ["certificate_id"])
    op.create_table(
        "positions",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
    )


def _create_shared_state() -> None:
    op.create_table(
        "shared_secrets",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "used_nonces",
        sa.Column("nonce", sa.Text, primary_key=True),
        sa.Column("expires", sa.BigInteger, nullable=False),
    )
    op.create_index("used_nonces_by_expiry", "used_nonces", ["expires"])


def downgrade() -> None:
    for table in (
        "used_nonces",
        "shared_secrets",
        "positions",
        "incident_certificates",
        "incidents",
        "rate_limit_overrides",
        "rate_limits",
        "eab_keys",
    ):
        op.drop_table(table)
    _join_authorizations_to_orders()
    op.drop_index("certificates_by_serial", "certificates")
    op.drop_index("certificates_by_cert_id", "certificates")
    op.drop_index("orders_in_time", "orders")
    op.drop_index("accounts_in_time", "accounts")
    op.drop_index("accounts_of_external_account", "accounts")
    for table, columns in _ADDED.items():
        for column in columns:
            op.drop_column(table, column.name)


def _join_authorizations_to_orders() -> None:
    op.drop_index("authorizations_by_expiry", "authorizations")
    op.drop_index("authorizations_by_name", "authorizations")
    for name, kind in (("order_id", sa.Text), ("position", sa.Integer)):
        op.add_column("authorizations", sa.Column(name, kind))
        op.execute(f"UPDATE authorizations SET {name} = ({_FIRST_SERVED.format(name)})")  # noqa: S608 - constants
    unserved = "SELECT id FROM authorizations WHERE order_id IS NULL"
    op.execute(f"DELETE FROM challenges WHERE authorization_id IN ({unserved})")  # noqa: S608 - a constant
    op.drop_table("order_authorizations")
    op.execute("DELETE FROM authorizations WHERE order_id IS NULL")
    with op.batch_alter_table("authorizations") as batch:
        batch.alter_column("order_id", nullable=False)
        batch.alter_column("position", nullable=False)
        batch.create_foreign_key("authorizations_order_id_fkey", "orders", ["order_id"], ["id"])
    op.create_index("authorizations_of_order", "authorizations", ["order_id"])
