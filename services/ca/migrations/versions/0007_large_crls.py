"""A large CRL lies in the database without its final entries; of which hours they are is added.

Going back puts the entries into their lists again, for the lists' numbers must not begin anew.
"""

from collections import defaultdict

import sqlalchemy as sa
from alembic import op

from pkicore.crl import entries_start, stated_size

revision = "0007"
down_revision = "0006"

_HOUR = 3600
_CRLS = sa.text("SELECT issuer, sequence, ended_before, der FROM crls")
_ENTRIES = sa.text(
    "SELECT shard, not_after, entry FROM revocations WHERE issuer = :issuer AND sequence <= :sequence"
    " AND reason NOT IN ('certificateHold', 'removeFromCRL') ORDER BY sequence"
)
_WHOLE = sa.text("UPDATE crls SET der = :der WHERE issuer = :issuer")


def upgrade() -> None:
    op.add_column("crls", sa.Column("ended_before", sa.BigInteger, nullable=False, server_default="0"))


def downgrade() -> None:
    connection = op.get_bind()
    for path, sequence, ended_before, stored in connection.execute(_CRLS).all():
        der = bytes(stored)
        if stated_size(der) != len(der):
            issuer, _, shard = path.partition("/")
            entries = defaultdict[tuple[int, int], list[bytes]](list)
            for of, not_after, entry in connection.execute(_ENTRIES, {"issuer": issuer, "sequence": sequence}):
                if shard in {"", str(of)} and (not_after // _HOUR + 1) * _HOUR > ended_before:
                    entries[of, not_after // _HOUR].append(bytes(entry))
            start = entries_start(der)
            final = (b"".join(entries[at]) for at in sorted(entries))
            whole = b"".join((der[:start], *final, der[start:]))
            connection.execute(_WHOLE, {"issuer": path, "der": whole})
    op.drop_column("crls", "ended_before")
