"""To-be-signed bytes by splicing: what all certificates of a kind share is encoded once, by cryptography's builder.

A kind is a profile, an issuer with the shard of its CRL, a key algorithm, and whether there are names. Its template is
learnt from the first certificate of the kind, as `build_tbs` makes it, and is kept where it yields that certificate's
bytes. Serial, period, subject, key, key identifier and names are each certificate's own; claims are the builder's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

from pkicore.algorithms import PublicKey, algorithm_of
from pkicore.encoding import (
    BIT_STRING,
    DerReader,
    explicit,
    extension,
    integer,
    object_identifier,
    octet_string,
    sequence,
    tlv,
    x509_time,
)
from pkicore.x509.names import Names
from pkicore.x509.profiles import Profile
from pkicore.x509.tbs import Issuer, build_tbs, common_name_of

_KEY_IDENTIFIER: Final = "2.5.29.14"
_ALTERNATIVE_NAMES: Final = "2.5.29.17"
_IDENTIFIER_HEAD: Final = extension(_KEY_IDENTIFIER, octet_string(bytes(20)))[:-20]
_SET: Final = 0x31
_UTF8_STRING: Final = 0x0C
_DNS, _IP, _URI, _EMAIL = 0x82, 0x87, 0x86, 0x81  # GeneralName (RFC 5280 §4.2.1.6)
_COMMON_NAME: Final = object_identifier("2.5.4.3")
_NO_CLAIMS: Final[Mapping[str, str]] = MappingProxyType({})
_NO_NAME: Final = sequence()
_TURNS: Final = tuple(map(object_identifier, (_KEY_IDENTIFIER, _ALTERNATIVE_NAMES)))

_Kind: TypeAlias = tuple[str, str, str, int, bool]


class Own(NamedTuple):
    """What a certificate has of its own; `spki` is its key in DER."""

    serial: int
    not_before: datetime
    not_after: datetime
    spki: bytes
    common_name: str | None
    names: Names


@dataclass(frozen=True)
class Template:
    """The elements of a kind, each in DER, around those that differ.

    Attributes:
        profile: of the kind.
        issuer: of the kind, this very object: another reading of the settings may give the same id other URLs.
        key_head: the octets of a key in DER before its bits.
        version: the first field.
        middle: signature algorithm and issuer.
        before: extensions before the subject's key identifier.
        between: those between that and the names.
        after: those after the names.
    """

    profile: Profile
    issuer: Issuer
    key_head: bytes
    version: bytes
    middle: bytes
    before: bytes
    between: bytes
    after: bytes

    @classmethod
    def learn(cls, tbs: bytes, profile: Profile, issuer: Issuer, own: Own) -> Template | None:
        """The template of these bytes, which were built for `own`; None where splicing would make others of it."""
        version, _, signature, name, _, _, _, wrapper = DerReader(tbs).enter().read_elements()
        before, between, after = _parts(DerReader(wrapper).enter(wrapper[0]).enter().read_elements(), own)
        key_head = own.spki.removesuffix(_bits_of(own.spki))
        made = cls(profile, issuer, key_head, version, signature + name, before, between, after)
        return made if made.fill(own) == tbs else None

    def fill(self, own: Own) -> bytes:
        """A TBSCertificate (RFC 5280 §4.1)."""
        names = own.names
        alternatives = b"" if names.is_empty else _alternative_names(names, critical=own.common_name is None)
        bits = own.spki[len(self.key_head) :] if own.spki.startswith(self.key_head) else _bits_of(own.spki)
        extensions = sequence(self.before, _key_identifier(bits), self.between, alternatives, self.after)
        return sequence(
            self.version,
            integer(own.serial),
            self.middle,
            _period(own.not_before, own.not_after),
            _subject(own.common_name),
            own.spki,
            explicit(3, extensions),
        )


class Templates:
    """The templates of one process, learnt as they are needed."""

    def __init__(self) -> None:
        self._known: dict[_Kind, Template] = {}

    def build(  # noqa: PLR0913 - the fields of a certificate, each by its name
        self,
        profile: Profile,
        issuer: Issuer,
        *,
        serial: int,
        not_before: datetime,
        not_after: datetime,
        public_key: PublicKey,
        spki: bytes,
        common_name: str | None,
        names: Names,
        claims: Mapping[str, str] = _NO_CLAIMS,
    ) -> bytes:
        """As `build_tbs`, from a template where there is one; `spki` is the public key in DER.

        Whoever asks has held the names against the profile, and lints the bytes.

        Raises:
            ProfileError: the common name does not fit the profile; for the first of a kind as `build_tbs`.
            IdentityError: for the first of a kind as `build_tbs`.
        """
        own = Own(serial, not_before, not_after, spki, common_name_of(profile, common_name, names), names)
        kind = profile.name, issuer.id, algorithm_of(public_key).name, issuer.shard_of(serial), names.is_empty
        template = self._known.get(kind)
        if template is not None and template.profile is profile and template.issuer is issuer and not claims:
            return template.fill(own)
        tbs = build_tbs(
            profile,
            issuer,
            serial=serial,
            not_before=not_before,
            not_after=not_after,
            public_key=public_key,
            common_name=common_name,
            names=names,
            claims=claims,
        )
        learnt = None if claims else Template.learn(tbs, profile, issuer, own)
        if learnt is not None:
            self._known[kind] = learnt
        return tbs


def _parts(extensions: Sequence[bytes], own: Own) -> tuple[bytes, bytes, bytes]:
    """What stands before the key identifier, between it and the names, and after them."""
    found: tuple[list[bytes], list[bytes], list[bytes]] = ([], [], [])
    part = 0
    last = 1 if own.names.is_empty else 2
    for der in extensions:
        if part < last and DerReader(der).enter().read_element() == _TURNS[part]:
            part += 1
        else:
            found[part].append(der)
    before, between, after = (b"".join(one) for one in found)
    return before, between, after


@lru_cache(maxsize=64)  # of a second, all certificates of a profile have the same
def _period(not_before: datetime, not_after: datetime) -> bytes:
    return sequence(x509_time(not_before), x509_time(not_after))


def _subject(common_name: str | None) -> bytes:
    if common_name is None:
        return _NO_NAME
    return sequence(tlv(_SET, sequence(_COMMON_NAME, tlv(_UTF8_STRING, common_name.encode()))))


def _bits_of(spki: bytes) -> bytes:
    fields = DerReader(spki).enter()
    fields.read_element()
    return fields.read(BIT_STRING)[1:]


def _key_identifier(bits: bytes) -> bytes:
    """The SHA-1 of the key's bits (RFC 5280 §4.2.1.2)."""
    return _IDENTIFIER_HEAD + hashlib.sha1(bits, usedforsecurity=False).digest()


def _alternative_names(names: Names, *, critical: bool) -> bytes:
    encoded = [tlv(_DNS, name.encode()) for name in names.dns]
    encoded += [tlv(_IP, address.packed) for address in names.ip]
    encoded += [tlv(_URI, uri.encode()) for uri in names.uri]
    encoded += [tlv(_EMAIL, mailbox.encode()) for mailbox in names.email]
    return extension(_ALTERNATIVE_NAMES, sequence(*encoded), critical=critical)
