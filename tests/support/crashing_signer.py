"""Does a fixed sequence of acts at signer-hsm's domain, and dies by SIGKILL around one of its commits.

Usage: crashing_signer.py DATABASE_URL DEVICE_DIRECTORY [before|after NTH]

The device is a directory, so that its keys and what it signed outlive the process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Literal, cast

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from pkicore.algorithms import PrivateKey
from services.signer_hsm.client import SignerClient
from services.signer_hsm.wire import KeyDescription, LifeCycleRequest, NewKeyRequest, SignAnswer, SignRequest
from tests.support.signer_world import ADMIN, CA, MemoryDevice, SignerWorld

Act = Callable[[SignerClient, SignerClient], Awaitable[KeyDescription | SignAnswer]]
ACTS: dict[str, Act] = {
    "create": lambda admin, _: admin.create(NewKeyRequest("ca", "k", "ecdsa-p256", "create")),
    "sign": lambda _, ca: ca.sign_request("ca.k", SignRequest("digest", (bytes(32),), idempotency_key="sign")),
    "rotate": lambda admin, _: admin.rotate("ca.k", LifeCycleRequest("rotate")),
    "disable": lambda admin, _: admin.disable("ca.k", LifeCycleRequest("disable")),
    "enable": lambda admin, _: admin.enable("ca.k", LifeCycleRequest("enable")),
    "destroy": lambda admin, _: admin.destroy("ca.k", LifeCycleRequest("destroy")),
}


class KeyFiles(MutableMapping[str, PrivateKey]):
    """Keys in files, for a device that outlives its process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __getitem__(self, label: str) -> PrivateKey:
        """A key."""
        try:
            return cast("PrivateKey", load_der_private_key((self._directory / f"{label}.der").read_bytes(), None))
        except FileNotFoundError as error:
            raise KeyError(label) from error

    def __setitem__(self, label: str, key: PrivateKey) -> None:
        """Keep a key."""
        der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        (self._directory / f"{label}.der").write_bytes(der)

    def __delitem__(self, label: str) -> None:
        """Drop a key."""
        try:
            (self._directory / f"{label}.der").unlink()
        except FileNotFoundError as error:
            raise KeyError(label) from error

    def __iter__(self) -> Iterator[str]:
        """The labels."""
        return (file.stem for file in sorted(self._directory.glob("*.der")))

    def __len__(self) -> int:
        """How many."""
        return sum(1 for _ in self)


def device_in(directory: Path) -> MemoryDevice:
    """The device whose keys are in this directory; it notes each signature in the file `signed`."""
    (directory / "signed").touch()
    device = MemoryDevice(keys=cast("dict[str, PrivateKey]", KeyFiles(directory)))

    async def note() -> None:
        with (directory / "signed").open("a") as lines:
            lines.write("signed\n")

    device.after["sign"] = note
    return device


async def main(url: str, directory: Path, moment: str, nth: int) -> None:
    """Do the acts; die where it was said."""
    left = nth

    def observe(at: Literal["before", "after"], label: str) -> None:
        nonlocal left
        if at == "before":
            sys.stdout.write(label + "\n")
        if at == moment and label != "policy":
            left -= 1
            if left == 0:
                sys.stdout.flush()
                os.kill(os.getpid(), signal.SIGKILL)

    world = await SignerWorld.open(url, device=device_in(directory), observer=observe)
    for act in ACTS.values():
        await act(world.client(ADMIN), world.client(CA))
    await world.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), *(sys.argv[3], int(sys.argv[4])) if sys.argv[3:] else ("", 0)))
