"""The PKCS#11 back end: SoftHSM2, YubiHSM2, NSS softokn, any Cryptoki 2.40 or later (PKCS#11 v3.2, OASIS).

From the bottom up:

cryptoki    the four C calls that python-pkcs11 does not make as a service needs them
module      one loaded module per process, with its locks on; counted, closed for a moment while it starts anew
token       the token by label or serial, one login, a session for each thread; what revives them
mechanisms  what a token can do, and how each scheme asks for it
keys        templates that let no key out, search, public keys
evidence    what the module says of how a key is held
operations  create, import, load, sign, destroy: what runs in the threads
backend     the asynchronous face
"""

import importlib.util

from pkicore.clock import Clock
from services.signer_hsm.backends import Backend
from services.signer_hsm.backends.settings import Pkcs11Settings
from services.signer_hsm.errors import MisconfiguredError


async def open_backend(settings: Pkcs11Settings, *, clock: Clock) -> Backend:
    """Load the module and log in; call it after the process has forked.

    A token that is absent, or that refuses the PIN, does not keep the service from starting: the back end says so in
    its health and in each answer. What can never work is an error at once.

    Raises:
        MisconfiguredError: python-pkcs11, the module or the PIN is missing, or others may read the PIN's file.
    """
    if importlib.util.find_spec("pkcs11") is None:
        raise MisconfiguredError("python-pkcs11 is not installed; install pqcpki[pkcs11]")
    from services.signer_hsm.backends.pkcs11.backend import Pkcs11Backend

    return await Pkcs11Backend.open(settings, clock=clock)
