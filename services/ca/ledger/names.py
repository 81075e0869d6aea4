"""Names as the ledger's index has them: octets that sort as domains and paths are nested.

| kind               | name                | path                |
|--------------------|---------------------|---------------------|
| dns                | www.example.org     | org.example.www     |
| email              | a@example.org       | org.example@a       |
| uri                | spiffe://td/w/1     | spiffe://td/w/1     |
| ip, common_name    | as it is            | as it is            |

What is below a domain, a path or a mail domain is one range of such octets, under every collation of text.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, Literal, TypeAlias

from pkicore.encoding import canonical_json
from pkicore.errors import BadCsrError, MalformedError
from pkicore.x509.names import Names, canonical_dns

Kind: TypeAlias = Literal["dns", "ip", "uri", "email", "common_name"]

MAX_PATH: Final = 1024  # octets; an index entry of PostgreSQL holds no more than 2,700
_ANY_HOST, _ANY_MAILBOX, _ANY_PATH = "*.", "*@", "/*"


@dataclass(frozen=True, slots=True)
class NamePattern:
    """What to look for: one name, or with `below` every name under one."""

    kind: Kind
    path: bytes
    below: bool = False

    @property
    def end(self) -> bytes:
        """The first octets behind all that begin with `path`."""
        return self.path[:-1] + bytes([self.path[-1] + 1])

    def matches(self, path: bytes) -> bool:
        """Whether a name of this kind is meant, by its path."""
        return self.path <= path < self.end if self.below else path == self.path

    @classmethod
    def parse(cls, text: str) -> "NamePattern":
        """What is meant by a name as people write it.

        `*.example.org` is everything below example.org (the wildcard itself, too), `spiffe://td/w/*` all that is below
        that path, `*@example.org` every mailbox there. Other characters have no special meaning.

        Raises:
            MalformedError: no name of any kind.
        """
        try:
            return _pattern(text)
        except BadCsrError as error:
            raise MalformedError(f"{error}; give a DNS name, an address, a URI, a mailbox, or *.DOMAIN") from error


def path_of(kind: str, name: str) -> bytes:
    """The octets of a canonical name."""
    if kind == "dns":
        name = _reversed(name)
    elif kind == "email":
        local, _, host = name.rpartition("@")
        name = f"{_reversed(host)}@{local}"
    return name.encode("utf-8", "surrogatepass")[:MAX_PATH]


def names_text(found: Iterable[tuple[str, str]]) -> str:
    """Kinds and names as a row of the ledger has them: a JSON object, kind to list."""
    by_kind: dict[str, list[str]] = {}
    for kind, name in found:
        by_kind.setdefault(kind, []).append(name)
    return canonical_json(by_kind).decode()


def _pattern(text: str) -> NamePattern:
    if "://" in text:
        below = text.endswith(_ANY_PATH)
        (uri,) = Names.build(uri=[text.removesuffix("*")]).uri
        return NamePattern("uri", path_of("uri", uri), below)
    if text.startswith(_ANY_MAILBOX):
        return NamePattern("email", path_of("email", f"@{canonical_dns(text.removeprefix(_ANY_MAILBOX))}"), below=True)
    if "@" in text:
        (mailbox,) = Names.build(email=[text]).email
        return NamePattern("email", path_of("email", mailbox))
    if text.startswith(_ANY_HOST):
        return NamePattern("dns", path_of("dns", canonical_dns(text.removeprefix(_ANY_HOST))) + b".", below=True)
    if _is_address(text):
        (address,) = Names.build(ip=[text]).ip
        return NamePattern("ip", path_of("ip", str(address)))
    return NamePattern("dns", path_of("dns", canonical_dns(text)))


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _reversed(host: str) -> str:
    return ".".join(reversed(host.split(".")))
