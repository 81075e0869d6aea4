"""The ACME server's tables. Times are Unix seconds, JSON is text, ids are unguessable base64url text.

accounts 1─n orders n─n authorizations 1─n challenges; an order that became valid has one certificate. An authorization
belongs to one account and serves any number of its orders: none yet, where it was made ahead of them (newAuthz).
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
    Column("terms", Text),  # URL of those that were agreed to
    Column("eab_kid", Text),
    Index("accounts_of_external_account", "eab_kid"),
    Index("accounts_in_time", "created_at", "id"),
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
    Column("profile", Text, nullable=False, server_default="server"),
    Column("not_before", BigInteger),
    Column("not_after", BigInteger),
    Column("replaces", Text),  # certID, RFC 9773 §4.1
    Index("orders_of_account", "account_id", "status", "expires"),
    Index("orders_by_status", "status", "expires"),
    Index("orders_in_time", "account_id", "created_at", "id"),
)

authorizations = Table(
    "authorizations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account_id", Text, ForeignKey("accounts.id"), nullable=False),
    Column("type", Text, nullable=False),
    Column("value", Text, nullable=False),  # without the wildcard label
    Column("wildcard", Integer, nullable=False),  # 0 or 1
    Column("status", Text, nullable=False),  # pending, valid, invalid, deactivated
    Column("expires", BigInteger, nullable=False),
    Index("authorizations_of_account", "account_id", "status", "expires"),
    Index("authorizations_by_name", "account_id", "type", "value", "status", "expires"),
    Index("authorizations_by_expiry", "expires"),
)

order_authorizations = Table(
    "order_authorizations",
    metadata,
    Column("order_id", Text, ForeignKey("orders.id"), primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),  # of the identifier in the order
    Column("authorization_id", Text, ForeignKey("authorizations.id"), nullable=False),
    Index("orders_of_authorization", "authorization_id"),
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
    Column("perspectives", Text),  # JSON list of {"perspective", "error", "detail"} of the attempt that decided
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
    Column("cert_id", Text),  # RFC 9773 §4.1
    Column("not_before", BigInteger),
    Column("alternates", Text),  # JSON list of PEM chains
    Column("replaced_by", Text),  # an order's id
    Column("issued_at", BigInteger),  # when its order became valid; NULL before there was this column
    Index("certificates_by_cert_id", "cert_id", unique=True),
    Index("certificates_by_serial", "serial"),
    Index("certificates_in_time", "issued_at", "account_id"),
)

eab_keys = Table(
    "eab_keys",
    metadata,
    Column("kid", Text, primary_key=True),
    Column("comment", Text, nullable=False),
    Column("identifiers", Text, nullable=False),  # JSON list of names that may be ordered; empty: any
    Column("profiles", Text, nullable=False),  # JSON list; empty: any
    Column("max_accounts", BigInteger),  # NULL: any number
    Column("accounts", BigInteger, nullable=False),  # made so far
    Column("not_after", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("revoked_at", BigInteger),
    Column("secret_check", Text, nullable=False),
)

rate_limits = Table(
    "rate_limits",
    metadata,
    Column("key", Text, primary_key=True),
    Column("full_at", BigInteger, nullable=False),  # Unix milliseconds at which the bucket is full again
    Index("rate_limits_by_time", "full_at"),
)

rate_limit_overrides = Table(
    "rate_limit_overrides",
    metadata,
    Column("subject", Text, primary_key=True),  # account:<id> or eab:<kid>
    Column("name", Text, primary_key=True),
    Column("burst", BigInteger, nullable=False),
    Column("seconds", BigInteger, nullable=False),
)

incidents = Table(
    "incidents",
    metadata,
    Column("id", Text, primary_key=True),
    Column("opened_at", BigInteger, nullable=False),
    Column("opened_by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("explanation_url", Text, nullable=False),
    Column("window_start", BigInteger, nullable=False),
    Column("window_end", BigInteger, nullable=False),
    Column("closed_at", BigInteger),
)

incident_certificates = Table(
    "incident_certificates",
    metadata,
    Column("incident_id", Text, ForeignKey("incidents.id"), primary_key=True),
    Column("certificate_id", Text, ForeignKey("certificates.id"), primary_key=True),
    Index("incidents_of_certificate", "certificate_id"),
)

positions = Table(  # how far somebody else's list has been read
    "positions",
    metadata,
    Column("name", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),
)

shared_secrets = Table(
    "shared_secrets",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

used_nonces = Table(
    "used_nonces",
    metadata,
    Column("nonce", Text, primary_key=True),
    Column("expires", BigInteger, nullable=False),
    Index("used_nonces_by_expiry", "expires"),
)
