"""What the core of issuance costs in this process: to-be-signed bytes, lint, signature (goal G5)."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import PublicKey
from pkicore.clock import Clock, SystemClock
from pkicore.x509.certificate import Signer
from pkicore.x509.lint import TbsLint
from pkicore.x509.names import Names
from pkicore.x509.profiles import Profile
from pkicore.x509.tbs import Issuer, random_serial, validity
from pkicore.x509.template import Templates
from tests.support.pki import PROFILES, MemoryKey, make_hierarchy

CORE: Final = 300  # certificates of a round of the core
CORE_ROUNDS: Final = 7


async def measure_core() -> dict[str, float]:
    """Microseconds of processor time of each step of the core, and certificates per raw signature (goal G5).

    The goal's figure is of bytes built and signed; the whole has lint and the verified signature in it, too.
    """
    clock = SystemClock()
    family = await make_hierarchy("ecdsa", clock)
    issuer, key = family.issuing, ec.generate_private_key(ec.SECP256R1()).public_key()
    core = Core(PROFILES["server"], issuer, family.issuing_key, Signer.of(issuer.certificate), clock)
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    rounds = [await core.measure(key, spki) for _ in range(CORE_ROUNDS)]
    used = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    raw, whole = used["raw signature"], used["build"] + used["lint"] + used["sign and verify"]
    return used | {"core": whole, "core_ratio": raw / whole, "build_and_sign_ratio": raw / (used["build"] + raw)}


@dataclass(frozen=True)
class Core:
    """Steps 4, 5, 7 and 8 of issuance over one issuer in memory."""

    profile: Profile
    issuer: Issuer
    key: MemoryKey
    signer: Signer
    clock: Clock
    templates: Templates = field(default_factory=Templates)
    lint: TbsLint = field(default_factory=TbsLint)

    async def measure(self, public_key: PublicKey, spki: bytes) -> dict[str, float]:
        """Microseconds of processor time per certificate, of each step and of a bare signature."""
        not_before, not_after = validity(self.profile, self.issuer, self.clock.now())
        made: list[bytes] = []
        used: dict[str, float] = {}

        @contextlib.contextmanager
        def timed(what: str) -> Iterator[None]:
            begin = time.process_time()
            yield
            used[what] = (time.process_time() - begin) / CORE * 1e6

        with timed("build"):
            for number in range(CORE):
                tbs = self.templates.build(
                    self.profile,
                    self.issuer,
                    serial=random_serial(),
                    not_before=not_before,
                    not_after=not_after,
                    public_key=public_key,
                    spki=spki,
                    common_name=None,
                    names=Names(dns=(f"h{number}.example.org",)),
                )
                made.append(tbs)
        with timed("lint"):
            for tbs in made:
                self.lint.lint(tbs, self.profile, self.issuer)
        with timed("sign and verify"):
            for tbs in made:
                await self.signer.certify(tbs, self.key)
        private_key, scheme = self.key.private_key, ec.ECDSA(hashes.SHA256())
        assert isinstance(private_key, ec.EllipticCurvePrivateKey)  # noqa: S101 -- else it is another figure
        with timed("raw signature"):
            for tbs in made:
                private_key.sign(tbs, scheme)
        return used
