"""The four calls that python-pkcs11 does not make as a service needs them, by ctypes on the same shared object.

It initialises a module as "one thread only" while it releases the GIL around every call: threads then crash the module.
Its login opens a session that leaks when somebody is logged in already. Functions are taken from the module's own list
(C_GetFunctionList), the one symbol that every module exports.
Source: PKCS#11 v3.2 §5.4 (C_Initialize), §5.6 (C_GetSessionInfo, C_Login), CK_FUNCTION_LIST in pkcs11t.h.
"""

import ctypes
from pathlib import Path
from typing import Final

from pkcs11 import Session

from services.signer_hsm.errors import MisconfiguredError

OK: Final = 0x0
NOT_INITIALIZED: Final = 0x190
USER_ALREADY_LOGGED_IN: Final = 0x100
MAY_PASS: Final = frozenset({0x2, 0x5, 0x6, 0x30, 0x31, 0x32, 0x50, 0xB0, 0xB1, 0xB3, 0xE0, NOT_INITIALIZED})
"""What a login can fail with that has nothing to do with the PIN: memory, device, session, token, a general failure.

Whatever else it fails with counts as a refusal of the PIN, which must not be repeated: devices differ in what they say.
"""

_OS_LOCKING_OK: Final = 0x2
_USER: Final = 1
_LOGGED_IN: Final = frozenset({1, 3})  # CKS_RO_USER_FUNCTIONS, CKS_RW_USER_FUNCTIONS
_ULONG: Final = ctypes.c_ulong


class _InitializeArguments(ctypes.Structure):
    _fields_ = (("mutexes", ctypes.c_void_p * 4), ("flags", _ULONG), ("reserved", ctypes.c_void_p))


class _SessionInfo(ctypes.Structure):
    _fields_ = (("slot", _ULONG), ("state", _ULONG), ("flags", _ULONG), ("device_error", _ULONG))


class _FunctionList(ctypes.Structure):
    _fields_ = (("version", ctypes.c_ubyte * 2), ("functions", ctypes.c_void_p * 20))


def _handle(session: Session) -> int:
    return int(session.handle)  # type: ignore[attr-defined]  # the library's type stubs leave it out


class Cryptoki:
    """A shared object's own function list.

    Raises:
        MisconfiguredError: the file cannot be loaded, or is no PKCS#11 module.
    """

    def __init__(self, path: Path) -> None:
        try:
            get_list = ctypes.CDLL(str(path)).C_GetFunctionList
        except (OSError, AttributeError) as error:
            raise MisconfiguredError(f"{path} cannot be loaded as a PKCS#11 module") from error
        functions = ctypes.POINTER(_FunctionList)()
        if get_list(ctypes.byref(functions)) != OK:
            raise MisconfiguredError(f"{path} does not give its function list")
        table = functions.contents.functions
        self._initialize = ctypes.CFUNCTYPE(_ULONG, ctypes.c_void_p)(table[0])
        self._finalize = ctypes.CFUNCTYPE(_ULONG, ctypes.c_void_p)(table[1])
        self._session_info = ctypes.CFUNCTYPE(_ULONG, _ULONG, ctypes.c_void_p)(table[15])
        self._login = ctypes.CFUNCTYPE(_ULONG, _ULONG, _ULONG, ctypes.c_char_p, _ULONG)(table[18])

    def initialize(self) -> int:
        """C_Initialize with CKF_OS_LOCKING_OK: the module takes the operating system's locks."""
        return int(self._initialize(ctypes.byref(_InitializeArguments(flags=_OS_LOCKING_OK))))

    def finalize(self) -> int:
        """C_Finalize."""
        return int(self._finalize(None))

    def login(self, session: Session, pin: bytes) -> int:
        """C_Login of the user; it counts for all sessions that this process has on the token."""
        return int(self._login(_handle(session), _USER, pin, len(pin)))

    def alive(self, session: Session) -> bool:
        """Whether the module still knows the session."""
        return int(self._session_info(_handle(session), ctypes.byref(_SessionInfo()))) == OK

    def logged_in(self, session: Session) -> bool:
        """Whether the module knows the session and the user is logged in."""
        info = _SessionInfo()
        return int(self._session_info(_handle(session), ctypes.byref(info))) == OK and info.state in _LOGGED_IN
