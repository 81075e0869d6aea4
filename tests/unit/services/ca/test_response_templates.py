from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from pkicore.errors import KeyUnavailableError
from pkicore.keys.file import FileKey
from pkicore.ocsp import Responder, ResponseTemplate
from services.ca.response_templates import Templates
from tests.support.clock import ManualClock
from tests.support.pki import MemoryKey, make_hierarchy


class Changing:
    """A responder that comes, is renewed, and goes."""

    def __init__(self) -> None:
        self.current: Responder | None = None

    def of(self, issuer: str) -> Responder:
        """The one in force."""
        if self.current is None:
            raise KeyUnavailableError(f"{issuer} has none")
        return self.current


async def test_a_template_follows_its_responder() -> None:
    """Within a second it is there, another, and gone; the same responder keeps its own."""
    hierarchy, found = await make_hierarchy("ecdsa", ManualClock()), Changing()
    templates = Templates(found, 3600, timedelta())
    with ThreadPoolExecutor(1) as pool:
        assert templates.of("issuing", 1) is None
        seen = list[ResponseTemplate | None]()
        for second in (2, 3):
            made = await hierarchy.responder()
            assert isinstance(made.key, MemoryKey)
            key = FileKey("file:/responder.key", made.key.private_key, pool)
            found.current = Responder.of_own_key(made.certificate, key, made.issuer_certificate)
            assert templates.of("issuing", second - 1) is (seen[-1] if seen else None)
            seen.append(templates.of("issuing", second))
            assert seen[-1] is not None
        assert seen[0] is not seen[1]
        assert templates.of("issuing", 4) is seen[1]
    found.current = None
    assert templates.of("issuing", 5) is None


async def test_only_quick_keys_of_this_process_have_a_template() -> None:
    """A key elsewhere is verified after each signature, one that takes long would hold up everybody."""
    clock, found = ManualClock(), Changing()
    templates = Templates(found, 3600, timedelta())
    found.current = await (await make_hierarchy("ecdsa", clock)).responder()
    assert templates.of("issuing", 1) is None
    slow = await (await make_hierarchy("mldsa", clock)).responder()
    assert isinstance(slow.key, MemoryKey)
    with ThreadPoolExecutor(1) as pool:
        key = FileKey("file:/responder.key", slow.key.private_key, pool)
        found.current = Responder.of_own_key(slow.certificate, key, slow.issuer_certificate)
        assert templates.of("issuing", 2) is None
