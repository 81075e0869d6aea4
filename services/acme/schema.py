"""The ACME server's tables. Times are Unix seconds, JSON is text, ids are unguessable base64url text.

accounts 1─n orders 1─n authorizations 1─n challenges; an order that became valid has one certificate.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, LargeBinary, MetaData, Table, Text

from services.chassis.database import audit_tables

metadata = MetaData()
audit_tables(metadata)

accounts = Table(
    "accounts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("status", Text, nullable=False),  # valid, deactivated
    Column("thumbprint", Text, nullable=False, unique=True),  # RFC 7638
    Column("jwk", Text, nullable=False),
    Column("contacts", Text, nullable=False),  # JSON list of mailto URLs
    Column("terms_agreed_at", BigInteger),
    Column("created_at", BigInteger, nullable=False),
)

orders = Table(
    "orders",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account_id", Text, ForeignKey("accounts.id"), nullable=False),
    Column("status", Text, nullable=False),  # pending, ready, processing, valid, invalid
    Column("identifiers", Text, nullable=False),  # JSON list of {"type","value"}, as ordered
    Column("expires", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("csr", LargeBinary),  # DER, from finalize on
    Column("certificate_id", Text),
    Column("error", Text),  # JSON problem document of an invalid order
    Index("orders_of_account", "account_id", "status", "expires"),
    Index("orders_by_status", "status", "expires"),
)

authorizations = Table(
    "authorizations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("order_id", Text, ForeignKey("orders.id"), nullable=False),
    Column("account_id", Text, ForeignKey("accounts.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("type", Text, nullable=False),
    Column("value", Text, nullable=False),  # without the wildcard label
    Column("wildcard", Integer, nullable=False),  # 0 or 1
    Column("status", Text, nullable=False),  # pending, valid, invalid, deactivated
    Column("expires", BigInteger, nullable=False),
    Index("authorizations_of_order", "order_id"),
    Index("authorizations_of_account", "account_id", "status", "expires"),
)

challenges = Table(
    "challenges",
    metadata,
    Column("id", Text, primary_key=True),
    Column("authorization_id", Text, ForeignKey("authorizations.id"), nullable=False),
    Column("type", Text, nullable=False),
    Column("token", Text, nullable=False),
    Column("status", Text, nullable=False),  # pending, processing, valid, invalid
    Column("validated_at", BigInteger),
    Column("error", Text),  # JSON problem document
    Index("challenges_of_authorization", "authorization_id"),
    Index("challenges_by_status", "status"),
)

certificates = Table(
    "certificates",
    metadata,
    Column("id", Text, primary_key=True),
    Column("order_id", Text, ForeignKey("orders.id"), nullable=False, unique=True),
    Column("account_id", Text, ForeignKey("accounts.id"), nullable=False),
    Column("serial", Text, nullable=False),  # hex
    Column("fingerprint", Text, nullable=False, unique=True),  # SHA-256 of the DER, hex
    Column("chain", Text, nullable=False),  # PEM, leaf first
    Column("not_after", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
)
