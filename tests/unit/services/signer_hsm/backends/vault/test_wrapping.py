"""Keys on their way into Transit."""

import base64

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from pkicore.algorithms import ALGORITHMS, PublicKey, generate_private_key
from services.signer_hsm.backends.vault.wrapping import wrapped
from services.signer_hsm.errors import BadAnswerError

OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)


@pytest.fixture(scope="module")
def server_key() -> rsa.RSAPrivateKey:
    """The server's wrapping key."""
    return rsa.generate_private_key(65537, 4096)


def pem(public_key: PublicKey) -> str:
    """As the server shows it."""
    return public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize("name", ["ecdsa-p256", "ed25519", "rsa-2048"])
def test_the_server_unwraps_what_was_wrapped(server_key: rsa.RSAPrivateKey, name: str) -> None:
    """PKCS#8, under a fresh AES key each time."""
    private_key = generate_private_key(ALGORITHMS[name])
    keys = set()
    for _ in range(2):
        octets = base64.b64decode(wrapped(pem(server_key.public_key()), private_key))
        aes = server_key.decrypt(octets[:512], OAEP)
        keys.add(aes)
        assert len(aes) == 32
        found = load_der_private_key(aes_key_unwrap_with_padding(aes, octets[512:]), None)
        assert found.public_key() == private_key.public_key()
    assert len(keys) == 2


@pytest.mark.parametrize("bits", [1024, 2048, 3072])
def test_a_small_wrapping_key_is_refused(bits: int) -> None:
    """Whoever could put it in the answer's place could read the key."""
    small = rsa.generate_private_key(65537, bits).public_key()
    with pytest.raises(BadAnswerError):
        wrapped(pem(small), generate_private_key(ALGORITHMS["ecdsa-p256"]))


@pytest.mark.parametrize("text", [None, 7, "", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_what_is_no_wrapping_key(text: object) -> None:
    """Thrown away, as a key of another algorithm is."""
    private_key = generate_private_key(ALGORITHMS["ecdsa-p256"])
    with pytest.raises(BadAnswerError):
        wrapped(text, private_key)
    with pytest.raises(BadAnswerError):
        wrapped(pem(private_key.public_key()), private_key)
