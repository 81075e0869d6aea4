"""`ztca ca list`: every root and issuing CA, its state, its key and certificate, its CRL, its OCSP responder."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

from pkicore.algorithms import algorithm_of
from pkicore.clock import unix
from pkicore.errors import PkiError
from services.ca.hierarchy import read_certificate, responders_directory
from services.ca.layout import Layout
from services.ca.ledger.query import LedgerQuery
from services.ca.ledger.store.search import LedgerSearch
from services.ca.ledger.wire import LedgerEntry
from services.ca.new_issuer import split_name
from services.ca.responders import PROFILE
from services.ca.rollover import sha256
from services.ca.roots import CROSS, ISSUING
from services.ca.settings import CaSettings
from services.ca.store import CaStore
from services.chassis.database import Database


@dataclass(frozen=True)
class Listed:
    """A root, an issuing CA, or a CA of others below a root. Times are Unix seconds.

    Attributes:
        id: its name in settings and URLs; the serial (hex) of a CA of others.
        role: root or issuing; subordinate for a CA of others.
        family: of its key.
        state: see `services.ca.settings`; of a CA of others, what the ledger says of its certificate.
        algorithm: of its key.
        key: URI of an issuing CA's key; for a root, the file where its key would lie; empty for a CA of others.
        root: the root above; empty for a root.
        subject: its name.
        sha256: of its certificate.
        not_after: its end.
        crl: number and end of its newest CRL; None where there is none.
        responder_not_after: end of its OCSP responder's certificate; 0 where there is none.
        last_expiry: when the last certificate below it ends; 0 where there is none. A retired one answers until then.
        cross: ids of the cross-certificates of a root.
        revoked: whether it is on its root's CRL.
    """

    id: str
    role: str
    family: str
    state: str
    algorithm: str
    key: str
    root: str
    subject: str
    sha256: str
    not_after: int
    crl: Mapping[str, int] | None
    responder_not_after: int
    last_expiry: int
    cross: tuple[str, ...]
    revoked: bool

    def members(self, now: int) -> dict[str, Any]:
        """For JSON; `ocsp` and `crl_state` in words."""
        return {**asdict(self), "crl_state": self.crl_state(now), "ocsp": self.ocsp(now)}

    def crl_state(self, now: int) -> str:
        """current, ended or none."""
        return "none" if self.crl is None else "current" if self.crl["next_update"] > now else "ended"

    def ocsp(self, now: int) -> str:
        """answers, ended or none."""
        if self.role != "issuing" or not self.responder_not_after:
            return "none"
        return "answers" if self.responder_not_after > now else "ended"


async def listed(layout: Layout, settings: CaSettings, database: Database, now: int) -> list[Listed]:
    """Roots first, each in the order of the settings; then CAs of others that have not ended.

    Raises:
        PkiError: a certificate that the settings name cannot be read.
        DatabaseError: the ledger cannot be read.
    """
    store, found = CaStore(database), []
    for root in settings.roots:
        certificate = read_certificate(root.certificate)
        crosses = tuple(path.stem for path in root.cross)
        common = await _common(root.id, certificate, store)
        family = split_name(root.id)[0].removeprefix("root-")
        key = str(layout.root_key_of(root.id))
        found.append(Listed(**common, role="root", family=family, state=root.state, key=key, root="", cross=crosses))
    for item in settings.issuers:
        common = await _common(item.id, read_certificate(item.certificate), store)
        common["responder_not_after"] = _end(responders_directory(settings) / f"{item.id}.pem")
        found.append(
            Listed(
                **common, role="issuing", family=item.family, state=item.state, key=item.key, root=item.root, cross=()
            )
        )
    return found + [item for root in settings.roots async for item in _subordinates(root.id, database, now)]


async def _subordinates(root: str, database: Database, now: int) -> AsyncIterator[Listed]:
    """A root has issued few certificates: our issuing CAs', cross-certificates, and these."""
    search, query = LedgerSearch(database), LedgerQuery(issuer=root)
    while True:
        page = await search.page(query, now)
        for row in page.certificates:
            entry = None if row.profile in {ISSUING, CROSS} else await search.entry(row.serial, now)
            if entry is not None and entry.certificate is not None and entry.status != "expired":
                yield _subordinate(entry, x509.load_pem_x509_certificate(entry.certificate.encode()))
        if page.next is None:
            return
        query = query.following(page.next)


def _subordinate(entry: LedgerEntry, certificate: x509.Certificate) -> Listed:
    return Listed(
        id=entry.serial,
        role="subordinate",
        family=algorithm_of(certificate.public_key()).family,
        state=entry.status,
        algorithm=entry.algorithm,
        key="",
        root=entry.issuer,
        subject=certificate.subject.rfc4514_string(),
        sha256=sha256(certificate),
        not_after=entry.not_after,
        crl=None,
        responder_not_after=0,
        last_expiry=0,
        cross=(),
        revoked=entry.status == "revoked",
    )


async def _common(name: str, certificate: x509.Certificate, store: CaStore) -> dict[str, Any]:
    crl, row = await store.crl_row(name), await store.by_serial(certificate.serial_number)
    return {
        "id": name,
        "algorithm": algorithm_of(certificate.public_key()).name,
        "subject": certificate.subject.rfc4514_string(),
        "sha256": sha256(certificate),
        "not_after": unix(certificate.not_valid_after_utc),
        "crl": None if crl is None else {"number": crl.number, "next_update": crl.next_update},
        "responder_not_after": 0,
        "revoked": row is not None and row.revoked_at is not None,
        "last_expiry": await store.last_expiry(name, but=PROFILE),
    }


def _end(path: Path) -> int:
    try:
        return unix(read_certificate(path).not_valid_after_utc)
    except PkiError:
        return 0
