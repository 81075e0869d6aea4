"""One life of a certificate with Python's `acme` library, run by the Python of certbot's environment, where it is.

Usage: acme_library.py DIRECTORY CHALLENGES NAME OUT. It registers, orders by http-01 with answers in the folder
CHALLENGES, renews, revokes the second certificate, ends its account, and leaves `first.pem` and
`second.pem` in OUT.
"""

import sys
from pathlib import Path

from acme import challenges, client, crypto_util, messages
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from josepy import jwa, jwk


def account(directory_url: str) -> client.ClientV2:
    """A client with a fresh ES256 account."""
    key = jwk.JWKEC(key=ec.generate_private_key(ec.SECP256R1()))
    net = client.ClientNetwork(key, alg=jwa.ES256, user_agent="pqcpki-tests")
    acme = client.ClientV2(client.ClientV2.get_directory(directory_url, net), net)
    acme.new_account(messages.NewRegistration.from_data(email="admin@pqcpki.test", terms_of_service_agreed=True))
    return acme


def obtain(acme: client.ClientV2, folder: Path, name: str) -> str:
    """A certificate for the name, as PEM chain."""
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    order = acme.new_order(crypto_util.make_csr(key, domains=[name]))
    for authorization in order.authorizations:
        if authorization.body.status == messages.STATUS_VALID:
            continue
        body = next(item for item in authorization.body.challenges if isinstance(item.chall, challenges.HTTP01))
        response, answer = body.response_and_validation(acme.net.key)
        (folder / body.chall.encode("token")).write_text(answer)
        acme.answer_challenge(body, response)
    return str(acme.poll_and_finalize(order).fullchain_pem)


def main() -> None:
    """The whole life."""
    directory_url, folder, name, out = sys.argv[1], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    acme = account(directory_url)
    (out / "first.pem").write_text(obtain(acme, folder, name))
    second = obtain(acme, folder, name)
    (out / "second.pem").write_text(second)
    acme.revoke(x509.load_pem_x509_certificate(second.encode()), 1)
    acme.deactivate_registration(acme.query_registration(acme.net.account))


if __name__ == "__main__":
    main()
