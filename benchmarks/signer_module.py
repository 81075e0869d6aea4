"""A PKCS#11 module's own rate: C_Sign through ctypes from N threads, with nothing between Python and the module.

It is the yardstick of `signer.py`: ctypes releases the GIL for the whole call, the module is told to lock
(CKF_OS_LOCKING_OK), sessions and key handles are found once. Configuration comes as JSON on standard input, the result
goes as JSON to standard output.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

ULONG = ctypes.c_ulong
CKF_OS_LOCKING_OK: Final = 2
CKF_RW_SERIAL: Final = 6
CKU_USER: Final = 1
CKO_PRIVATE_KEY: Final = 3
CKA_CLASS: Final = 0
CKA_LABEL: Final = 3
MECHANISMS: Final = {"ecdsa": 0x1041, "rsa": 0x1}
SHA256_INFO: Final = bytes.fromhex("3031300d060960864801650304020105000420")
LABEL_BYTES: Final = 32
SIGNATURE_BYTES: Final = 1024


class InitializeArguments(ctypes.Structure):
    """CK_C_INITIALIZE_ARGS."""

    _fields_ = (("hooks", ctypes.c_void_p * 4), ("flags", ULONG), ("reserved", ctypes.c_void_p))


class Attribute(ctypes.Structure):
    """CK_ATTRIBUTE."""

    _fields_ = (("type", ULONG), ("value", ctypes.c_void_p), ("length", ULONG))


class Mechanism(ctypes.Structure):
    """CK_MECHANISM."""

    _fields_ = (("mechanism", ULONG), ("parameter", ctypes.c_void_p), ("length", ULONG))


class TokenInfo(ctypes.Structure):
    """CK_TOKEN_INFO; only the label is read."""

    _fields_ = (("label", ctypes.c_char * LABEL_BYTES), ("rest", ctypes.c_char * 1024))


@dataclass(frozen=True)
class Module:
    """A loaded module."""

    library: ctypes.CDLL

    def call(self, function: str, *arguments: Any) -> None:  # noqa: ANN401 -- whatever C takes
        """Call a Cryptoki function.

        Raises:
            SystemExit: it did not answer CKR_OK.
        """
        status = getattr(self.library, function)(*arguments)
        if status:
            raise SystemExit(f"{function}: {status:#x}")

    def slot_of(self, label: str) -> int:
        """The slot with the token of this label.

        Raises:
            SystemExit: there is none.
        """
        count = ULONG()
        self.call("C_GetSlotList", ctypes.c_ubyte(1), None, ctypes.byref(count))
        slots = (ULONG * count.value)()
        self.call("C_GetSlotList", ctypes.c_ubyte(1), slots, ctypes.byref(count))
        for slot in slots:
            info = TokenInfo()
            self.call("C_GetTokenInfo", ULONG(slot), ctypes.byref(info))
            if bytes(info)[:LABEL_BYTES].decode().strip() == label:
                return int(slot)
        raise SystemExit(f"there is no token {label}")

    def session(self, slot: int) -> ULONG:
        """An open session."""
        handle = ULONG()
        self.call("C_OpenSession", ULONG(slot), ULONG(CKF_RW_SERIAL), None, None, ctypes.byref(handle))
        return handle

    def private_key(self, session: ULONG, label: bytes) -> ULONG:
        """The handle of the private key with this label.

        Raises:
            SystemExit: there is none.
        """
        kind = ULONG(CKO_PRIVATE_KEY)
        text = ctypes.create_string_buffer(label, len(label))
        template = (Attribute * 2)(
            Attribute(CKA_CLASS, ctypes.cast(ctypes.byref(kind), ctypes.c_void_p), ctypes.sizeof(kind)),
            Attribute(CKA_LABEL, ctypes.cast(text, ctypes.c_void_p), len(label)),
        )
        self.call("C_FindObjectsInit", session, template, ULONG(2))
        found, count = ULONG(), ULONG()
        self.call("C_FindObjects", session, ctypes.byref(found), ULONG(1), ctypes.byref(count))
        self.call("C_FindObjectsFinal", session)
        if not count.value:
            raise SystemExit(f"there is no private key {label.decode()}")
        return found


def load(path: str) -> Module:
    """Load and initialise a module, with locking."""
    module = Module(ctypes.CDLL(path))
    arguments = InitializeArguments(flags=CKF_OS_LOCKING_OK)
    module.call("C_Initialize", ctypes.byref(arguments))
    return module


def sign_until(module: Module, slot: int, config: Mapping[str, Any], end: float, counts: list[int]) -> None:
    """Sign on a session of this thread until `end`, then add the number of signatures to `counts`."""
    session = module.session(slot)
    key = module.private_key(session, config["label"].encode())
    digest = b"\x5a" * 32
    data = SHA256_INFO + digest if config["family"] == "rsa" else digest
    mechanism = Mechanism(MECHANISMS[config["family"]], None, 0)
    signature = ctypes.create_string_buffer(SIGNATURE_BYTES)
    length = ULONG()
    begin_sign, sign = module.library.C_SignInit, module.library.C_Sign
    pointer, size = ctypes.byref(mechanism), ctypes.byref(length)
    done = 0
    while time.perf_counter() < end:
        length.value = SIGNATURE_BYTES
        if begin_sign(session, pointer, key) or sign(session, data, ULONG(len(data)), signature, size):
            raise SystemExit("the module does not sign")
        done += 1
    counts.append(done)


def main() -> None:
    """Measure one key from several threads."""
    config = json.load(sys.stdin)
    if config.get("cpus"):
        os.sched_setaffinity(0, config["cpus"])
    os.environ.update(config.get("environment", {}))
    module = load(config["module"])
    slot = module.slot_of(config["token"])
    login = module.session(slot)
    pin = config["pin"].encode()
    module.call("C_Login", login, ULONG(CKU_USER), pin, ULONG(len(pin)))
    counts: list[int] = []
    begin = time.perf_counter()
    end = begin + config["seconds"]
    threads = [
        threading.Thread(target=sign_until, args=(module, slot, config, end, counts)) for _ in range(config["threads"])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"signatures_per_second": sum(counts) / (time.perf_counter() - begin)}))


if __name__ == "__main__":
    main()
