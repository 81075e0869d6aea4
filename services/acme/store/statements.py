"""The SQL of the ACME server, by name; each is compiled once when the store opens.

Reads for a client name the account they are for; each change of state names the state it leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Insert,
    Select,
    Table,
    Text,
    bindparam,
    case,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from services.acme.schema import (
    accounts,
    authorizations,
    certificates,
    challenges,
    order_authorizations,
    orders,
    rate_limits,
)

UNFINISHED: Final = ("pending", "ready")
_CURVES: Final = {"P-256": "ecdsa-p256", "P-384": "ecdsa-p384", "P-521": "ecdsa-p521", "Ed25519": "ed25519"}
REUSABLE_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # names of one order, so that there are few statements

_ACCOUNT: Final[BindParameter[Any]] = bindparam("account")
_ORDER: Final[BindParameter[Any]] = bindparam("order")
_NOW: Final[BindParameter[Any]] = bindparam("now")
_CHALLENGE_AND_AUTHORIZATION: Final = select(
    challenges,
    authorizations.c.account_id,
    authorizations.c.type.label("identifier_type"),
    authorizations.c.value,
    authorizations.c.wildcard,
    authorizations.c.status.label("authorization_status"),
    authorizations.c.expires,
).join_from(challenges, authorizations, challenges.c.authorization_id == authorizations.c.id)

# In the same statement, so that a challenge that is tried costs no query more.
_FAILURES_FULL_AT: Final = (
    select(rate_limits.c.full_at)
    .where(
        rate_limits.c.key  # as services.acme.rate_limits.rate_limits names it
        == literal("failed:")
        .concat(authorizations.c.account_id)
        .concat(literal(":"))
        .concat(authorizations.c.type)
        .concat(literal(":"))
        .concat(authorizations.c.value)
    )
    .correlate(authorizations)
    .scalar_subquery()
    .label("failures_full_at")
)
# Not the column itself: SQLite would look through all pending orders by their index instead of the one that is served.
_ORDER_STATUS: Final = orders.c.status.concat("")
# Likewise: through all challenges that were ever met, instead of those of the names that are asked for.
_CHALLENGE_STATUS: Final = challenges.c.status.concat("")
_SERVED: Final = select(order_authorizations.c.order_id).where(
    order_authorizations.c.authorization_id == bindparam("authorization")
)
_ROOM: Final = bindparam("most", type_=BigInteger)
_OF_VALID_ACCOUNT: Final = exists().where(accounts.c.id == bindparam("account_id"), accounts.c.status == "valid")
SERVES: Final = exists().where(order_authorizations.c.authorization_id == authorizations.c.id)
_UNMET: Final = (  # an authorization of the order in question that does not hold
    select(order_authorizations.c.order_id)
    .join_from(order_authorizations, authorizations, order_authorizations.c.authorization_id == authorizations.c.id)
    .where(
        order_authorizations.c.order_id == orders.c.id,
        or_(authorizations.c.status != "valid", authorizations.c.expires <= _NOW),
    )
    .correlate(orders)
    .exists()
)


def _reusable(size: int) -> Select[Any]:
    """An account's valid authorizations of up to `size` names, by how they were validated."""
    values = [bindparam(f"value_{number}", type_=Text) for number in range(size)]
    return (
        select(authorizations, challenges.c.type.label("method"), challenges.c.validated_at)
        .join_from(authorizations, challenges, challenges.c.authorization_id == authorizations.c.id)
        .where(
            authorizations.c.account_id == _ACCOUNT,
            authorizations.c.type.in_(("dns", "ip")),
            authorizations.c.value.in_(values),
            authorizations.c.status == "valid",
            authorizations.c.expires > bindparam("until"),
            _CHALLENGE_STATUS == "valid",
            challenges.c.validated_at > bindparam("since"),
        )
        .order_by(challenges.c.validated_at.desc())
    )


def _insert_while_room(table: Table, held: Select[Any]) -> Insert:
    """A row for a valid account, where fewer than `most` are `held`."""
    count = select(func.count()).select_from(held.limit(_ROOM).subquery()).scalar_subquery()
    values = [bindparam(column.name, type_=column.type) for column in table.columns]
    new = select(*values).where(_OF_VALID_ACCOUNT, count < _ROOM)
    return insert(table).from_select([column.name for column in table.columns], new)


# What a stored key (its public members, as JSON without blanks) says of its algorithm.
_ALGORITHM: Final = case(
    *((accounts.c.jwk.contains(f'"crv":"{curve}"'), name) for curve, name in _CURVES.items()),
    *((accounts.c.jwk.contains(f'"alg":"{alg}"'), alg.lower()) for alg in ("ML-DSA-44", "ML-DSA-65", "ML-DSA-87")),
    (accounts.c.jwk.contains('"kty":"RSA"'), "rsa"),
    else_="other",
).label("algorithm")
_VALID_ACCOUNTS: Final = select(_ALGORITHM).where(accounts.c.status == "valid").subquery()

STATEMENTS: Final[Mapping[str, Any]] = {
    "accounts_by_algorithm": select(_VALID_ACCOUNTS.c.algorithm, func.count().label("count")).group_by(
        _VALID_ACCOUNTS.c.algorithm
    ),
    "account": select(accounts).where(accounts.c.id == bindparam("id")),
    "account_by_thumbprint": select(accounts).where(accounts.c.thumbprint == bindparam("thumbprint")),
    "insert_account": insert(accounts),
    "update_contacts": update(accounts)
    .where(accounts.c.id == _ACCOUNT, accounts.c.status == "valid")
    .values(contacts=bindparam("new_contacts")),
    "deactivate_account": update(accounts)
    .where(accounts.c.id == _ACCOUNT, accounts.c.status == "valid")
    .values(status="deactivated"),
    "end_orders": update(orders)
    .where(orders.c.account_id == _ACCOUNT, orders.c.status.in_(UNFINISHED))
    .values(status="invalid"),
    "end_authorizations": update(authorizations)
    .where(authorizations.c.account_id == _ACCOUNT, authorizations.c.status.in_(("pending", "valid")))
    .values(status="deactivated"),
    "order": select(orders).where(orders.c.id == bindparam("id"), orders.c.account_id == _ACCOUNT),
    "order_by_id": select(orders).where(orders.c.id == bindparam("id")),
    "processing_orders": select(orders).where(orders.c.status == "processing"),
    "order_ids": select(orders.c.id, orders.c.created_at)
    .where(
        orders.c.account_id == _ACCOUNT,
        orders.c.status != "invalid",
        or_(orders.c.status.not_in(UNFINISHED), orders.c.expires > _NOW),
        orders.c.created_at <= bindparam("before"),  # where the index is entered; the rest is about its first second
        or_(orders.c.created_at < bindparam("before"), orders.c.id < bindparam("beyond")),
    )
    .order_by(orders.c.created_at.desc(), orders.c.id.desc())
    .limit(bindparam("most")),
    "insert_order": _insert_while_room(
        orders,
        select(orders.c.id).where(
            orders.c.account_id == bindparam("account_id"),
            orders.c.status.in_(UNFINISHED),
            orders.c.expires > _NOW,
        ),
    ),
    "insert_authorization_ahead": _insert_while_room(
        authorizations,
        select(authorizations.c.id).where(
            authorizations.c.account_id == bindparam("account_id"),
            authorizations.c.status == "pending",
            authorizations.c.expires > _NOW,
            ~SERVES,
        ),
    ),
    "start_processing": update(orders)
    .where(
        orders.c.id == _ORDER,
        orders.c.account_id == _ACCOUNT,
        orders.c.status == "ready",
        orders.c.expires > _NOW,
        ~_UNMET,
        ~exists().where(accounts.c.thumbprint == bindparam("key")),
    )
    .values(
        status="processing",
        csr=bindparam("new_csr"),
        not_after=func.coalesce(orders.c.not_after, bindparam("own_end", type_=BigInteger)),
    ),
    "complete_order": update(orders)
    .where(orders.c.id == _ORDER, orders.c.status == "processing")
    .values(status="valid", certificate_id=bindparam("certificate")),
    "fail_order": update(orders)
    .where(orders.c.id == _ORDER, orders.c.status == "processing")
    .values(status="invalid", error=bindparam("problem")),
    # So that of two proofs for one order, stored by two replicas at once, the second sees the first.
    "lock_orders": update(orders).where(orders.c.id.in_(_SERVED), _ORDER_STATUS == "pending").values(status="pending"),
    "ready_orders": update(orders)
    .where(orders.c.id.in_(_SERVED), _ORDER_STATUS == "pending", ~_UNMET)
    .values(status="ready"),
    "end_orders_served": update(orders)
    .where(orders.c.id.in_(_SERVED), _ORDER_STATUS.in_(UNFINISHED))
    .values(status="invalid", error=bindparam("problem")),
    "insert_order_authorization": insert(order_authorizations),
    "hold_authorization": update(authorizations)
    .where(
        authorizations.c.id == bindparam("authorization"),
        authorizations.c.account_id == _ACCOUNT,
        authorizations.c.status == "valid",
        authorizations.c.expires > _NOW,
    )
    .values(status="valid"),
    "authorization_ids": select(order_authorizations.c.authorization_id)
    .where(order_authorizations.c.order_id == _ORDER)
    .order_by(order_authorizations.c.position),
    "authorized_names": select(authorizations.c.type, authorizations.c.value, authorizations.c.wildcard)
    .where(authorizations.c.account_id == _ACCOUNT, authorizations.c.status == "valid", authorizations.c.expires > _NOW)
    .distinct(),
    "insert_authorization": insert(authorizations),
    "settle_authorization": update(authorizations)
    .where(
        authorizations.c.id == bindparam("authorization"),
        authorizations.c.status == "pending",
        authorizations.c.expires > _NOW,
    )
    .values(status=bindparam("outcome")),
    "deactivate_authorization": update(authorizations)
    .where(authorizations.c.id == bindparam("authorization"), authorizations.c.status.in_(("pending", "valid")))
    .values(status="deactivated"),
    "insert_challenge": insert(challenges),
    "authorization_and_challenges": _CHALLENGE_AND_AUTHORIZATION.where(
        authorizations.c.id == bindparam("id"), authorizations.c.account_id == _ACCOUNT
    ).order_by(challenges.c.type.desc()),
    "challenge": _CHALLENGE_AND_AUTHORIZATION.add_columns(_FAILURES_FULL_AT).where(
        challenges.c.id == bindparam("id"), authorizations.c.account_id == _ACCOUNT
    ),
    "processing_challenges": _CHALLENGE_AND_AUTHORIZATION.where(
        challenges.c.status == "processing", authorizations.c.status == "pending"
    ),
    "proofs": select(
        challenges.c.type.label("method"),
        challenges.c.validated_at,
        challenges.c.perspectives,
        authorizations.c.type,
        authorizations.c.value,
        authorizations.c.wildcard,
    )
    .join_from(order_authorizations, authorizations, order_authorizations.c.authorization_id == authorizations.c.id)
    .join(challenges, challenges.c.authorization_id == authorizations.c.id)
    .where(order_authorizations.c.order_id == _ORDER, challenges.c.status == "valid")
    .order_by(order_authorizations.c.position),
    "challenge_processing": update(challenges)
    .where(challenges.c.id == bindparam("challenge"), challenges.c.status == "pending")
    .values(status="processing"),
    "accept_challenge": update(challenges)
    .where(challenges.c.id == bindparam("challenge"), challenges.c.status.in_(("pending", "processing")))
    .values(status="valid", validated_at=_NOW, perspectives=bindparam("answers")),
    "reject_challenge": update(challenges)
    .where(challenges.c.id == bindparam("challenge"), challenges.c.status.in_(("pending", "processing")))
    .values(status="invalid", error=bindparam("problem"), perspectives=bindparam("answers")),
    "insert_certificate": insert(certificates),
    "certificate": select(certificates).where(
        certificates.c.id == bindparam("id"), certificates.c.account_id == _ACCOUNT
    ),
    "certificate_by_fingerprint": select(certificates, orders.c.identifiers)
    .join_from(certificates, orders, certificates.c.order_id == orders.c.id)
    .where(certificates.c.fingerprint == bindparam("fingerprint")),
    "mark_revoked": update(certificates)
    .where(certificates.c.id == bindparam("certificate"), certificates.c.revoked_at.is_(None))
    .values(revoked_at=_NOW),
    **{f"reusable_{size}": _reusable(size) for size in REUSABLE_SIZES},
}
