import itertools
import stat
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pkicore.algorithms import ALGORITHMS, PrivateKey, algorithm_of, generate_private_key
from pkicore.errors import MalformedError
from pkicore.mtls.credentials import CredentialsSource, load_credentials
from pkicore.x509.csr import UnverifiedCsr
from services.chassis.identity import IdentityFiles, IdentityRenewer
from tests.support.clock import ManualClock

LIFE = timedelta(days=30)
NAME = x509.UniformResourceIdentifier("spiffe://pqcpki.internal/service/bakery")


class Rotations(list[str]):
    """Hears of attempts."""

    def rotation(self, result: str) -> None:
        """Keeps the result."""
        self.append(result)


class Issuer:
    """A CA that signs whatever a good CSR asks for, and counts."""

    def __init__(self, clock: ManualClock, algorithm: str) -> None:
        self.clock = clock
        self.key = generate_private_key(ALGORITHMS[algorithm])
        self.requests = 0

    async def issue(self, csr: bytes) -> bytes:
        """Certifies the CSR's key and names."""
        self.requests += 1
        request = UnverifiedCsr.parse(csr).verify()
        return self.certificate(request.public_key, [x509.UniformResourceIdentifier(uri) for uri in request.names.uri])

    def certificate(self, public_key: object, names: list[x509.UniformResourceIdentifier]) -> bytes:
        """A certificate from now on."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bakers")]))
            .public_key(public_key)  # type: ignore[arg-type] # whatever key the test has
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.clock.now())
            .not_valid_after(self.clock.now() + LIFE)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
        )
        digest = algorithm_of(self.key.public_key()).signature_hash
        return builder.sign(self.key, digest).public_bytes(Encoding.PEM)  # type: ignore[arg-type] # the table's hashes


def pkcs8(key: PrivateKey) -> bytes:
    """A key as the files hold it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still."""
    return ManualClock()


@pytest.fixture(params=["ecdsa-p256", "ml-dsa-65"])
def issuer(request: pytest.FixtureRequest, clock: ManualClock) -> Issuer:
    """A classical and a post-quantum issuer in turn."""
    return Issuer(clock, request.param)


@pytest.fixture
def files(tmp_path: Path, issuer: Issuer) -> IdentityFiles:
    """A directory as the ceremony leaves it: two plain files."""
    key = generate_private_key(algorithm_of(issuer.key.public_key()))
    (tmp_path / "cert.pem").write_bytes(issuer.certificate(key.public_key(), [NAME]))
    (tmp_path / "key.pem").write_bytes(pkcs8(key))
    (tmp_path / "key.pem").chmod(0o600)
    return IdentityFiles(tmp_path)


def renewer_of(
    files: IdentityFiles, issue: Callable[[bytes], Awaitable[bytes]], clock: ManualClock
) -> tuple[IdentityRenewer, Rotations]:
    """A renewer and what it reports."""
    rotations = Rotations()
    return IdentityRenewer(files, issue, clock, rotations), rotations


async def test_nothing_happens_before_two_thirds_of_the_life(
    files: IdentityFiles, issuer: Issuer, clock: ManualClock
) -> None:
    """Renewal is due at two thirds, a twentieth of the life earlier or later."""
    renewer, _ = renewer_of(files, issuer.issue, clock)
    assert abs(renewer.due() - (clock.now() + LIFE * 2 / 3)) <= LIFE / 20
    clock.advance(LIFE * 0.6)
    assert not await renewer.renew_if_due()
    assert issuer.requests == 0


async def test_a_renewal_replaces_key_and_certificate_together(
    files: IdentityFiles, issuer: Issuer, clock: ManualClock
) -> None:
    """The new pair fits, has the same names and algorithm, and the key is its owner's alone."""
    before = load_credentials(files.certificate_file, files.key_file)
    renewer, rotations = renewer_of(files, issuer.issue, clock)
    clock.advance(LIFE * 0.75)
    assert await renewer.renew_if_due()
    after = load_credentials(files.certificate_file, files.key_file)
    assert after.certificate.public_key() != before.certificate.public_key()
    assert algorithm_of(after.certificate.public_key()) == algorithm_of(before.certificate.public_key())
    assert after.certificate.extensions[0].value == before.certificate.extensions[0].value
    assert stat.S_IMODE(files.key_file.stat().st_mode) == 0o600
    assert rotations == ["success"]
    assert not await renewer.renew_if_due()


async def test_a_listener_that_watches_the_files_sees_the_new_pair(
    files: IdentityFiles, issuer: Issuer, clock: ManualClock
) -> None:
    """The transport's own watcher follows the links."""
    errors: list[Exception] = []
    source = CredentialsSource(files.certificate_file, files.key_file, errors.append)
    first = source.current().certificate.serial_number
    renewer, _ = renewer_of(files, issuer.issue, clock)
    for _ in range(2):
        await renewer.renew()
        source.reload()
        assert source.current().certificate.serial_number != first
        first = source.current().certificate.serial_number
    assert errors == []


async def test_two_versions_are_kept(files: IdentityFiles, issuer: Issuer, clock: ManualClock) -> None:
    """The pair in force and the one before it; older keys are gone from the disk."""
    renewer, _ = renewer_of(files, issuer.issue, clock)
    for _ in range(4):
        await renewer.renew()
        clock.advance(timedelta(seconds=1))
    assert len(list((files.key_file.parent / "versions").iterdir())) == 2


async def test_a_failing_issuer_leaves_the_pair_in_force(files: IdentityFiles, clock: ManualClock) -> None:
    """The failure is counted and raised; the next attempt may succeed."""
    before = files.certificate_file.read_bytes(), files.key_file.read_bytes()

    async def down(_: bytes) -> bytes:
        raise ConnectionRefusedError("the CA is down")

    renewer, rotations = renewer_of(files, down, clock)
    clock.advance(LIFE * 0.75)
    with pytest.raises(ConnectionRefusedError):
        await renewer.renew_if_due()
    assert rotations == ["failure"]
    assert (files.certificate_file.read_bytes(), files.key_file.read_bytes()) == before


async def test_an_answer_for_another_key_or_name_is_refused(
    files: IdentityFiles, issuer: Issuer, clock: ManualClock
) -> None:
    """A confused or hostile issuer cannot put a pair in force that does not work or is somebody else."""
    before = files.certificate_file.read_bytes()

    async def another_key(_: bytes) -> bytes:
        return issuer.certificate(generate_private_key(ALGORITHMS["ecdsa-p256"]).public_key(), [NAME])

    async def another_name(csr: bytes) -> bytes:
        name = x509.UniformResourceIdentifier("spiffe://pqcpki.internal/service/mill")
        return issuer.certificate(UnverifiedCsr.parse(csr).verify().public_key, [name])

    async def expired(csr: bytes) -> bytes:
        clock.advance(-2 * LIFE)
        try:
            return await issuer.issue(csr)
        finally:
            clock.advance(2 * LIFE)

    for issue, sentence in ((another_key, "another key"), (another_name, "other names"), (expired, "has expired")):
        renewer, _ = renewer_of(files, issue, clock)
        with pytest.raises(MalformedError, match=sentence):
            await renewer.renew()
    assert files.certificate_file.read_bytes() == before


async def test_a_first_pair_is_installed_where_nothing_was(tmp_path: Path, issuer: Issuer, clock: ManualClock) -> None:
    """A service without a certificate installs its first one by the same call."""
    files = IdentityFiles(tmp_path / "public", "chain.pem", "key.pem")
    key = generate_private_key(algorithm_of(issuer.key.public_key()))
    files.install(issuer.certificate(key.public_key(), [NAME]), pkcs8(key), clock.now())
    credentials = load_credentials(tmp_path / "public/chain.pem", tmp_path / "public/key.pem")
    assert credentials.certificate.public_key() == key.public_key()


def test_at_every_step_of_an_installation_the_files_are_a_pair(
    files: IdentityFiles, issuer: Issuer, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever change of the file system a crash comes after, key and certificate belong together."""
    seen = itertools.count()
    replace = Path.replace

    def checked(path: Path, target: Path) -> Path:
        done = replace(path, target)
        load_credentials(files.certificate_file, files.key_file)
        next(seen)
        return done

    monkeypatch.setattr(Path, "replace", checked)
    for _ in range(2):
        key = generate_private_key(algorithm_of(issuer.key.public_key()))
        files.install(issuer.certificate(key.public_key(), [NAME]), pkcs8(key), clock.now())
    assert next(seen) == 5
