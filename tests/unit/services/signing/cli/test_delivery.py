"""Which files a record becomes, and that they are written all or not at all; the service is simulated in memory."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import httpx
import pytest

from pkicore.errors import MalformedError
from services.signing.cli.delivery import Plan, PlannedFile, deliver, refuse_taken
from services.signing.cli.failures import FILES, REFUSED, UNAVAILABLE, CommandError, advice_of, status_of
from services.signing.client import MAX_ANSWER, SigningClient, SigningClientError, SigningUnavailableError
from services.signing.statements import Subject
from services.signing.wire import MadeBundle, MadeSignature, PolicyUsed, SignatureRecord

BUNDLE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
DSSE: Final = "application/vnd.dsse.envelope.v1+json"
BASE: Final = "/v1/signatures/1"
SUBJECTS: Final = (Subject("app.bin", {"sha256": "a" * 64}), Subject("app.deb", {"sha256": "b" * 64}))


def record(*subjects: Subject) -> SignatureRecord:
    """A record as a hybrid profile makes it, with all formats."""
    names = {1: "", 2: "-2"}
    signatures = [
        MadeSignature("acme.key/1", algorithm, "raw", "der", subject.name, label.encode(), f"{BASE}/raw-{label}.sig")
        for subject in subjects
        for algorithm, label in (("ecdsa-p256", "es256"), ("ml-dsa-65", "ml-dsa-65"))
    ]
    signatures += [
        MadeSignature("acme.key/1", "ecdsa-p256", "jws", "jws", None, b"jws", f"{BASE}/detached-es256.jws"),
        MadeSignature("acme.key/1", "hybrid", "cms", "cms", subjects[0].name, b"cms", f"{BASE}/detached.p7s"),
        MadeSignature(
            "acme.key/1", "ecdsa-p256", "cms", "cms", subjects[0].name, b"c", f"{BASE}/detached-classical.p7s"
        ),
        MadeSignature("acme.key/1", "ecdsa-p256", "later", "later", None, b"?", f"{BASE}/later"),
    ]
    bundles = [
        MadeBundle("message", "ecdsa-p256", BUNDLE, f"{BASE}/message-es256{names[number]}.sigstore.json")
        for number, _ in enumerate(subjects, 1)
    ]
    for kind in ("vsa", "sbom"):
        bundles += [
            MadeBundle(kind, "hybrid", DSSE, f"{BASE}/{kind}.dsse.json"),
            MadeBundle(kind, "ecdsa-p256", DSSE, f"{BASE}/{kind}-es256.dsse.json"),
            MadeBundle(kind, "ecdsa-p256", BUNDLE, f"{BASE}/{kind}-es256.sigstore.json"),
        ]
    urls = {"self": BASE, "timestamp": f"{BASE}/timestamp.tsr", "sbom": f"{BASE}/sbom"}
    policy = PolicyUsed("c" * 64, 1, ("all",))
    return SignatureRecord("1", 0, "acme", "me", subjects, tuple(signatures), tuple(bundles), urls, policy)


def service(answer: Callable[[httpx.Request], httpx.Response]) -> SigningClient:
    """A service that answers like this."""
    transport = httpx.MockTransport(answer)
    return SigningClient(httpx.AsyncClient(transport=transport, base_url="https://signing.test"))


def contents(directory: Path) -> dict[str, bytes]:
    """Every file, by name."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def answered(status: int, body: bytes = b"", **headers: str) -> httpx.Response:
    """An answer that is read in pieces."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, headers=fields, stream=httpx.ByteStream(body))


def by_path(request: httpx.Request) -> httpx.Response:
    """Answers with the path that was asked for."""
    return answered(200, request.url.path.encode())


def test_files_of_one_artefact_stand_beside_it(tmp_path: Path) -> None:
    """The first key's under the names that verifiers look for, the others' with their algorithm, lines together."""
    path = tmp_path / "app.bin"
    planned = {file.path.name: file.sources for file in Plan(record(SUBJECTS[0]), None, {"app.bin": path}).files()}
    assert planned == {
        "app.bin.sig": (b"es256",),
        "app.bin.ml-dsa-65.sig": (b"ml-dsa-65",),
        "app.bin.jws": (b"jws",),
        "app.bin.p7s": (b"cms",),
        "app.bin.es256.p7s": (b"c",),
        "app.bin.sigstore.json": (f"{BASE}/message-es256.sigstore.json",),
        "app.bin.intoto.jsonl": (f"{BASE}/vsa.dsse.json", f"{BASE}/sbom.dsse.json"),
        "app.bin.es256.intoto.jsonl": (f"{BASE}/vsa-es256.dsse.json", f"{BASE}/sbom-es256.dsse.json"),
        "app.bin.sigstore.jsonl": (f"{BASE}/vsa-es256.sigstore.json", f"{BASE}/sbom-es256.sigstore.json"),
        "app.bin.tsr": (f"{BASE}/timestamp.tsr",),
    }


def test_what_speaks_for_a_signature_is_called_like_it(tmp_path: Path) -> None:
    """A time-stamp and a log entry of each; the record's own time-stamp is then one of these."""
    good = record(SUBJECTS[0])
    made = tuple(
        replace(one, timestamp=f"{BASE}/{number}.tsr", log_entry=f"{BASE}/{number}.json")
        for number, one in enumerate(good.signatures[:4])
    )
    files = Plan(replace(good, signatures=made), None, {"app.bin": tmp_path / "app.bin"}).files()
    planned = {file.path.name: file.sources for file in files}
    for number, name in enumerate(("app.bin", "app.bin.ml-dsa-65", "app.bin.jws", "app.bin.p7s")):
        assert planned[f"{name}.tsr"] == (f"{BASE}/{number}.tsr",)
        assert planned[f"{name}.log-entry.json"] == (f"{BASE}/{number}.json",)
    assert (BASE, "timestamp.tsr") not in {(BASE, str(source)) for sources in planned.values() for source in sources}


async def test_a_directory_that_was_made_goes_with_what_failed(tmp_path: Path) -> None:
    """And all above it that was made; what others put there stays."""
    planned = [PlannedFile(tmp_path / "a" / "b" / "one", ("/v1/one",))]
    with pytest.raises(SigningUnavailableError):
        await deliver(service(lambda _: answered(503)), planned, force=False)
    assert contents(tmp_path) == {}
    await deliver(service(by_path), planned, force=False)
    assert (tmp_path / "a" / "b" / "one").read_bytes() == b"/v1/one"


def test_of_several_artefacts_each_has_its_own_and_they_have_some_together(tmp_path: Path) -> None:
    """The second one's bundle is known by its number."""
    paths = {"app.bin": tmp_path / "a" / "app.bin", "app.deb": tmp_path / "b" / "app.deb"}
    planned = {file.path: file.sources for file in Plan(record(*SUBJECTS), None, paths).files()}
    assert planned[tmp_path / "b" / "app.deb.sigstore.json"] == (f"{BASE}/message-es256-2.sigstore.json",)
    assert planned[tmp_path / "b" / "app.deb.ml-dsa-65.sig"] == (b"ml-dsa-65",)
    assert len(planned[tmp_path / "a" / "multiple.intoto.jsonl"]) == 2
    out = {file.path for file in Plan(record(*SUBJECTS), tmp_path, paths).files()}
    assert {path.parent for path in out} == {tmp_path}


@pytest.mark.parametrize("name", ["../../etc/cron.d/x", "/etc/passwd", "a/b/app.bin"])
def test_a_record_cannot_choose_a_directory(tmp_path: Path, name: str) -> None:
    """Of an artefact's name that the service says, only the last part becomes a file's."""
    files = Plan(record(replace(SUBJECTS[0], name=name)), tmp_path, {}).files()
    assert {file.path.parent for file in files} == {tmp_path}


@pytest.mark.parametrize("name", ["..", "a/..", "x" * 201, "a\x1b[2J", "..\\x", "a\n"])
def test_a_record_cannot_choose_any_name(tmp_path: Path, name: str) -> None:
    """What would steer a terminal or leave the directory is refused."""
    with pytest.raises(MalformedError, match="no file may be called"):
        Plan(record(replace(SUBJECTS[0], name=name)), tmp_path, {}).files()


def test_a_record_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    """Two files of one name, a bundle about a third artefact, an algorithm that is a path."""
    good = record(SUBJECTS[0])
    twice = replace(good, signatures=(good.signatures[0],) * 3)
    third = MadeBundle("message", "ecdsa-p256", BUNDLE, f"{BASE}/message-es256-3.sigstore.json")
    path = MadeSignature("k", "../x", "raw", "der", "app.bin", b"", BASE)
    for wrong in (twice, replace(good, bundles=(third,)), replace(good, signatures=(path, path))):
        with pytest.raises(MalformedError):
            Plan(wrong, tmp_path, {}).files()


async def test_files_are_whole_readable_and_have_a_line_per_source(tmp_path: Path) -> None:
    """What the service has is fetched, what it said is taken."""
    planned = [
        PlannedFile(tmp_path / "app.sig", (b"octets\x00",)),
        PlannedFile(tmp_path / "app.intoto.jsonl", ("/v1/one", "/v1/two")),
    ]
    assert await deliver(service(by_path), planned, force=False) == [file.path for file in planned]
    assert (tmp_path / "app.sig").read_bytes() == b"octets\x00"
    assert (tmp_path / "app.intoto.jsonl").read_bytes() == b"/v1/one\n/v1/two\n"
    assert stat.S_IMODE((tmp_path / "app.sig").stat().st_mode) == 0o644
    assert len(contents(tmp_path)) == 2


async def test_nothing_is_written_over_and_nothing_is_half_done(tmp_path: Path) -> None:
    """Where the second of two files is there, the first does not appear either; --force replaces."""
    planned = [PlannedFile(tmp_path / name, (b"new",)) for name in ("one", "two")]
    (tmp_path / "two").write_bytes(b"old")
    with pytest.raises(CommandError, match="two is there already") as raised:
        await deliver(service(by_path), planned, force=False)
    assert raised.value.status == FILES
    assert contents(tmp_path) == {"two": b"old"}
    await deliver(service(by_path), planned, force=True)
    assert set(contents(tmp_path).values()) == {b"new"}


async def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """Neither without --force nor with it is something written through a link that lies there."""
    (tmp_path / "precious").write_bytes(b"old")
    (tmp_path / "app.sig").symlink_to(tmp_path / "precious")
    planned = [PlannedFile(tmp_path / "app.sig", (b"new",))]
    with pytest.raises(CommandError, match="is there already"):
        await deliver(service(by_path), planned, force=False)
    await deliver(service(by_path), planned, force=True)
    assert (tmp_path / "precious").read_bytes() == b"old"
    assert not (tmp_path / "app.sig").is_symlink()


async def test_a_service_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    """Neither the files before it nor anything temporary."""

    def answer(request: httpx.Request) -> httpx.Response:
        return by_path(request) if request.url.path == "/v1/one" else answered(503, retry_after="7")

    planned = [PlannedFile(tmp_path / "one", ("/v1/one",)), PlannedFile(tmp_path / "two", ("/v1/two",))]
    with pytest.raises(SigningUnavailableError, match="503") as raised:
        await deliver(service(answer), planned, force=False)
    assert (status_of(raised.value), advice_of(raised.value)) == (UNAVAILABLE, "try again in 7 s")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("url", ["https://evil.example.org/x", "//evil.example.org/x", "/other", "file:///etc/passwd"])
async def test_only_the_service_itself_is_asked(tmp_path: Path, url: str) -> None:
    """A URL in a record does not send the credential elsewhere."""
    with pytest.raises(MalformedError, match="not its own"):
        await deliver(service(by_path), [PlannedFile(tmp_path / "one", (url,))], force=False)


def test_what_is_in_the_way_is_seen_before_anything_is_signed(tmp_path: Path) -> None:
    """As far as the formats say what comes."""
    (tmp_path / "app.bin.sig").touch()
    with pytest.raises(CommandError, match=r"app\.bin\.sig is there"):
        refuse_taken([tmp_path / "app.bin"], None)
    refuse_taken([tmp_path / "app.bin"], ["jws"])
    refuse_taken([tmp_path / "other.bin"], None)


async def test_an_answer_is_bounded() -> None:
    """What is read whole is no longer than it may be."""

    def answer(_request: httpx.Request) -> httpx.Response:
        return answered(200, b"x" * (MAX_ANSWER + 1))

    with pytest.raises(MalformedError, match="more than"):
        await service(answer).public_key("acme.key")


@pytest.mark.parametrize(
    ("response", "status", "words"),
    [
        (answered(403, b'{"type": "urn:x", "detail": "no such luck"}'), REFUSED, "no such luck"),
        (answered(401, b"<html>"), REFUSED, "without a problem document"),
        (answered(302, location="https://evil.example.org"), REFUSED, "302"),
        (answered(429, b"[]"), UNAVAILABLE, "429"),
        (answered(500), UNAVAILABLE, "500"),
    ],
)
async def test_refusals_and_troubles_are_told_apart(response: httpx.Response, status: int, words: str) -> None:
    """CI tries the one again, and not the other."""
    with pytest.raises(SigningClientError, match=words) as raised:
        await service(lambda _: response).signature("1")
    assert status_of(raised.value) == status


async def test_a_service_that_is_away_is_a_reason_to_try_again() -> None:
    """So is one that hangs up."""

    def answer(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    with pytest.raises(SigningUnavailableError, match="connection refused") as raised:
        await service(answer).signature("1")
    assert status_of(raised.value) == UNAVAILABLE
