"""Who may call which endpoint changes with its file, and never because a file is broken."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from pkicore.identity import SpiffeId
from services.chassis.errors import ForbiddenError, PolicyError
from services.signer_hsm.caller_policy_file import CallerPolicyFile
from services.signer_hsm.metrics import SignerMetrics

SHOP = SpiffeId.parse("spiffe://pqcpki.internal/workload/shop")


def policy(*endpoints: str) -> str:
    """A policy under which the shop may call these."""
    return f'[[allow]]\ncaller = "{SHOP}"\nservice = "signer-hsm"\nendpoints = {list(endpoints)}\n'


class Followed:
    """A policy file that is followed, and what it says."""

    def __init__(self, path: Path) -> None:
        """With a policy under which the shop may ask for health."""
        self.path = path
        self.registry = CollectorRegistry()
        path.write_text(policy("GET /health"))
        self.file = CallerPolicyFile(path, SignerMetrics(self.registry))

    async def write(self, content: bytes) -> None:
        """Change the file, and look until it has settled."""
        before = self.path.stat().st_mtime_ns if self.path.exists() else 0
        self.path.write_bytes(content)
        os.utime(self.path, ns=(before + 1_000_000, before + 1_000_000))
        await self.looks(2)

    async def looks(self, times: int) -> None:
        """Look at the file so often."""
        for _ in range(times):
            await self.file.look()

    def allows(self, method: str, path: str) -> bool:
        """Whether the shop may call that now."""
        try:
            self.file.authorize(SimpleNamespace(spiffe_id=SHOP), "signer-hsm", method, path)
        except ForbiddenError:
            return False
        return True

    @property
    def in_force(self) -> float | None:
        """What the metric says."""
        return self.registry.get_sample_value("signer_policy_in_force", {"file": "callers"})


@pytest.fixture
def followed(tmp_path: Path) -> Followed:
    """A policy file."""
    return Followed(tmp_path / "policy.toml")


async def test_a_changed_policy_comes_into_force(followed: Followed) -> None:
    """What is granted can be called and what is taken away cannot, without a restart."""
    assert (followed.allows("GET", "/health"), followed.allows("POST", "/sign"), followed.in_force) == (True, False, 1)
    await followed.write(policy("POST /sign").encode())
    assert (followed.allows("GET", "/health"), followed.allows("POST", "/sign"), followed.in_force) == (False, True, 1)


@pytest.mark.parametrize(
    "content", [b"no TOML =", b"[[deny]]\n", policy("SIGN /x").encode(), b"\xff", b"#" * (5 << 20)]
)
async def test_a_broken_file_leaves_the_old_one(followed: Followed, content: bytes) -> None:
    """It is told by the metric until the file makes sense again; so is a file that has gone, or become a pipe."""
    await followed.write(content)
    assert (followed.allows("GET", "/health"), followed.in_force) == (True, 0)
    followed.path.unlink()
    await followed.looks(2)
    assert (followed.allows("GET", "/health"), followed.in_force) == (True, 0)
    os.mkfifo(followed.path)
    await followed.looks(2)
    assert (followed.allows("GET", "/health"), followed.in_force) == (True, 0)
    followed.path.unlink()
    await followed.write(policy("GET /health", "POST /sign").encode())
    assert (followed.allows("POST", "/sign"), followed.in_force) == (True, 1)


async def test_half_a_file_is_waited_out(followed: Followed) -> None:
    """A file that is being written makes sense in the middle, even empty; it counts when it has not changed since."""
    text = policy("GET /health", "POST /sign")
    for octets in (0, len(text) // 2):
        followed.path.write_text(text[:octets])
        await followed.looks(1)
        assert followed.allows("GET", "/health")
    followed.path.write_text(text)
    await followed.looks(1)
    assert not followed.allows("POST", "/sign")
    await followed.looks(1)
    assert followed.allows("POST", "/sign")


@pytest.mark.parametrize("content", [None, b"no TOML ="])
def test_no_start_without_a_policy(tmp_path: Path, content: bytes | None) -> None:
    """At the start there is no policy before it to keep."""
    if content is not None:
        (tmp_path / "policy.toml").write_bytes(content)
    with pytest.raises(PolicyError):
        CallerPolicyFile(tmp_path / "policy.toml", SignerMetrics(CollectorRegistry()))
