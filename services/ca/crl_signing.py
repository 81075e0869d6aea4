"""A list signed by its issuer: whom it is for, and where it and its delta are."""

from collections.abc import Mapping, Sequence

from cryptography import x509

from pkicore.algorithms import known_public_key
from pkicore.clock import from_unix
from pkicore.crl import build_crl
from pkicore.errors import BadSignatureError
from pkicore.x509.tbs import delta_url
from services.ca.crl_entries import Spliced
from services.ca.crl_lists import CrlList
from services.ca.issuance import IssuingCa
from services.ca.revocation_store import StoredCrl


class ListSigner:
    """Signs lists and deltas of the given issuers; `lists` are all that there are, by path."""

    def __init__(self, cas: Mapping[str, IssuingCa], lists: Mapping[str, CrlList], former_base_url: str) -> None:
        self._cas = cas
        self._lists = lists
        self._former_base_url = former_base_url

    async def sign(self, item: CrlList, crl: StoredCrl, entries: Sequence[Spliced]) -> bytes:
        """The DER of a list with these entries; one with a base is a delta.

        Raises:
            KeyAccessError, BadSignatureError: it could not be signed.
        """
        ca = self._cas[item.issuer]
        urls = self._urls(item)
        return await build_crl(
            ca.issuer.certificate,
            ca.key,
            [part.octets for part in entries],
            number=crl.number,
            this_update=from_unix(crl.this_update),
            next_update=from_unix(crl.next_update),
            distribution_points=urls,
            scope="user",
            base_number=crl.base_number or None,
            freshest=() if crl.base_number else [delta_url(urls[0])],
        )

    def _urls(self, item: CrlList) -> list[str]:
        """A certificate takes a CRL only if its own CRL URL stands in it.

        So those of older certificates stay, and the complete list has those of the shards, too.
        """
        shards = [] if item.shard else [each.shard for each in self._lists.values() if each.issuer == item.issuer]
        issuer = self._cas[item.issuer].issuer
        ours = [issuer.shard_url(shard) for shard in sorted({item.shard, *shards})]
        former = self._former_base_url
        return ours + ([f"{former}/crl/{url.partition('/crl/')[2]}" for url in ours] if former else [])


def check_signature(crl: StoredCrl, issuer: x509.Certificate) -> None:
    """An issuer signed a stored list.

    Raises:
        BadSignatureError: it did not.
    """
    if not x509.load_der_x509_crl(crl.der).is_signature_valid(known_public_key(issuer.public_key())):
        raise BadSignatureError("its entries are others than its issuer signed")
