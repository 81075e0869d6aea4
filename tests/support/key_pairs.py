"""One key pair of each algorithm, for tests that only need some: made when first asked for, since RSA takes long."""

from typing import Final

from pkicore.algorithms import ALGORITHMS, PrivateKey, generate_private_key


class _KeyPairs(dict[str, PrivateKey]):
    def __missing__(self, name: str) -> PrivateKey:
        return self.setdefault(name, generate_private_key(ALGORITHMS[name]))


KEYS: Final = _KeyPairs()
