"""Webhooks, evidence and holds over the service's own endpoints: real database, signer-hsm, log and time-stamps."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pkicore.dsse import key_id
from services.signing.evidence import verify_archive
from services.signing.trusted_root import TrustedRoot
from services.signing.verification import VerificationError
from services.signing.wire import SignatureRecord
from tests.support.aftercare_world import Service, aftercare_world, trusted_root
from tests.support.signing_world import GLOBEX, OPERATOR, request
from tests.support.webhook_receiver import WebhookReceiver, is_signed

ENDPOINTS = [
    ("POST", "/v1/webhooks"),
    ("GET", "/v1/webhooks"),
    ("POST", "/v1/webhooks/wh_1/rotate"),
    ("DELETE", "/v1/webhooks/wh_1"),
    ("GET", "/v1/webhook-deliveries"),
    ("POST", "/v1/webhook-deliveries/wh_1/evt_1"),
    ("POST", "/v1/evidence"),
    ("GET", "/v1/evidence"),
    ("GET", "/v1/evidence/0"),
    ("GET", "/v1/evidence/0/archive"),
    ("GET", "/v1/holds/0"),
    ("PUT", "/v1/holds/0"),
    ("DELETE", "/v1/holds/0"),
]
REFUSED: list[tuple[str, str, object, int]] = [
    ("POST", "/v1/webhooks", {"url": "http://169.254.169.254/", "events": ["signature.created"]}, 400),
    ("POST", "/v1/webhooks", {"url": "https://hook.test/", "events": ["x"]}, 400),
    ("POST", "/v1/webhooks", {"url": "https://hook.test/"}, 400),
    ("POST", "/v1/webhooks", [], 400),
    ("GET", "/v1/webhook-deliveries?state=gone", None, 400),
    ("GET", "/v1/webhook-deliveries?after=x", None, 400),
    ("POST", "/v1/webhooks/wh_1/rotate", None, 404),
    ("POST", "/v1/evidence", {"name": "../x", "signatures": ["0" * 26], "profile": "default"}, 400),
    ("POST", "/v1/evidence", {"name": "x", "signatures": ["0" * 26], "profile": "default"}, 404),
    ("GET", "/v1/evidence?after=%27", None, 400),
    ("GET", "/v1/evidence/..%2f..%2fpassphrase/archive", None, 404),
    ("PUT", "/v1/holds/0", {"reason": "case 7"}, 404),
    ("PUT", "/v1/holds/0", {}, 400),
    ("DELETE", "/v1/holds/0", None, 404),
]


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """The service, with a log and a time-stamping authority."""
    async with aftercare_world(tmp_path) as made:
        yield made


async def test_signature_is_told_to_a_receiver(service: Service) -> None:
    """A receiver that was registered over the API hears of a signature, signed with the secret it was shown."""
    async with WebhookReceiver() as receiver:
        wanted = {"url": f"http://127.0.0.1:{receiver.port}/hook", "events": ["signature.created"]}
        made = await service.ask("POST", "/v1/webhooks", wanted)
        assert made.status_code == 201
        assert made.headers["cache-control"] == "no-store"
        record = await service.world.sign(request(b"artefact"))
        await service.aftercare.courier.round()
        await service.aftercare.courier.settled()
        (got,) = receiver.received
        assert is_signed(got, made.json()["secret"])
        assert record.id in got.body.decode()
        listed = (await service.ask("GET", "/v1/webhooks")).json()["webhooks"]
        assert [one["url"] for one in listed] == [wanted["url"]]
        assert "secret" not in str(listed)


async def test_dead_letters_are_seen_and_sent_again(service: Service) -> None:
    """A delivery to a receiver that is gone is listed as dead, and delivered once that is back."""
    async with WebhookReceiver() as receiver:
        receiver.answer(410)
        url = f"http://127.0.0.1:{receiver.port}/"
        made = (await service.ask("POST", "/v1/webhooks", {"url": url, "events": ["signature.created"]})).json()
        await service.world.sign(request(b"artefact"))
        await service.aftercare.courier.round()
        await service.aftercare.courier.settled()
        page = (await service.ask("GET", "/v1/webhook-deliveries?state=dead")).json()
        assert (await service.ask("GET", "/v1/webhook-deliveries")).json() == page
        (dead,) = page["deliveries"]
        assert (dead["last_status"], page["next"]) == (410, None)
        receiver.answer(200)
        rotated = await service.ask("POST", f"/v1/webhooks/{made['id']}/rotate")
        assert rotated.json()["secret"] != made["secret"]
        again = f"/v1/webhook-deliveries/{made['id']}/{dead['event']}"
        assert (await service.ask("POST", again, peer=GLOBEX)).status_code == 404
        assert (await service.ask("POST", again)).status_code == 202
        await service.aftercare.courier.round()
        await service.aftercare.courier.settled()
        delivered = await service.ask("GET", "/v1/webhook-deliveries?state=delivered")
        assert len(delivered.json()["deliveries"]) == 1
        assert (await service.ask("GET", "/v1/webhook-deliveries")).json() == delivered.json()
        assert (await service.ask("DELETE", f"/v1/webhooks/{made['id']}")).status_code == 204


async def exported(service: Service, directory: Path) -> tuple[SignatureRecord, Path]:
    """A witnessed release, and the archive of its evidence as it was fetched."""
    record = await service.world.sign(request(b"artefact", profile="witnessed"))
    wanted = {"name": "app-1.0", "signatures": [record.id], "profile": "witnessed"}
    made = await service.ask("POST", "/v1/evidence", wanted)
    assert made.status_code == 201, made.text
    assert (await service.ask("GET", made.headers["location"])).json() == made.json()
    assert [one["id"] for one in (await service.ask("GET", "/v1/evidence")).json()["evidence"]] == [made.json()["id"]]
    fetched = await service.ask("GET", made.json()["urls"]["archive"])
    assert fetched.headers["content-type"] == "application/x-tar"
    assert hashlib.sha256(fetched.content).hexdigest() == made.json()["sha256"]
    path = directory / "app-1.0.tar"
    path.write_bytes(fetched.content)
    return record, path


async def test_evidence_of_a_witnessed_release(service: Service, tmp_path: Path) -> None:
    """Plain openssl verifies signatures and time-stamps by the archive's own commands, and nothing that was changed."""
    record, path = await exported(service, tmp_path)
    with tarfile.open(path) as archive:
        names = set(archive.getnames())
        archive.extractall(tmp_path / "out", filter="data")
    place = f"app-1.0/signatures/{record.id}"
    assert {f"{place}/timestamp.tsr", f"{place}/log-entry.json", "app-1.0/trusted_root.json"} < names
    assert {"app-1.0/keys/acme.artefact-es256.1.pem", "app-1.0/keys/acme.artefact-mldsa65.1.pem"} < names
    root = tmp_path / "out/app-1.0"
    (root / record.subjects[0].name).write_bytes(b"artefact")
    commands = [block.partition("```")[0] for block in (root / "VERIFY.md").read_text().split("```sh\n")[1:6]]
    printed = [await asyncio.to_thread(_shell, block, root) for block in commands]
    assert printed[1] == printed[2] == "Verified OK\n"
    stamped = commands[3].splitlines()
    assert printed[3] == "Verification: OK\n" * len(stamped)
    assert {"raw-es256.sig", "vsa.dsse.json"} == {
        name for name in ("raw-es256.sig", "vsa.dsse.json") if name in commands[3]
    }
    signature = root / f"signatures/{record.id}/raw-es256.sig"
    signature.write_bytes(signature.read_bytes()[:-1] + b"?")
    for block in (commands[0], commands[2], commands[3]):
        with pytest.raises(subprocess.CalledProcessError):
            await asyncio.to_thread(_shell, block, root)


async def test_archive_is_believed_by_the_log_alone(service: Service, tmp_path: Path) -> None:
    """Its manifest is in the trusted log, its bundles have entries and time-stamps; another root believes none."""
    record, path = await exported(service, tmp_path)
    found = verify_archive(path, await trusted_root(service.world))
    key = await service.world.public_key("acme.attestation-es256")
    assert (found.release, found.tenant, found.signatures) == ("app-1.0", "acme", (record.id,))
    assert found.signed_by == (key_id(key),)
    assert found.log_index is not None
    assert (found.bundles, found.unverified) == (3, ())
    assert found.audit_lines >= 2
    with pytest.raises(VerificationError):
        verify_archive(path, TrustedRoot())


async def test_other_tenants_have_no_part_in_it(service: Service) -> None:
    """Another tenant's signature, archive, webhook and hold look like none."""
    record = await service.world.sign(request(b"artefact"))
    wanted = {"name": "x", "signatures": [record.id], "profile": "default"}
    made = (await service.ask("POST", "/v1/evidence", wanted)).json()
    assert (await service.ask("POST", "/v1/evidence", wanted, GLOBEX)).status_code == 404
    for path in (made["urls"]["self"], made["urls"]["archive"]):
        assert (await service.ask("GET", path, peer=GLOBEX)).status_code == 404
    assert (await service.ask("GET", "/v1/evidence", peer=GLOBEX)).json() == {"evidence": [], "next": None}
    hold = {"reason": "case 7"}
    assert (await service.ask("PUT", f"/v1/holds/{record.id}", hold, GLOBEX)).status_code == 403


async def test_key_that_may_sign_may_nothing_of_this(service: Service) -> None:
    """Each endpoint asks the policy and the credential's scopes; without any credential it is closed."""
    async with service.http(api_key=await service.world.api_key()) as weak, service.http(None) as nobody:
        for method, path in ENDPOINTS:
            assert (await weak.request(method, path, json={})).status_code == 403, path
            assert (await nobody.request(method, path, json={})).status_code == 401, path
            service.world.monotonic[0] += 1  # refusals of one second are few


async def test_refusals_are_precise(service: Service) -> None:
    """What makes no sense is 400, what is not there 404, each a problem document."""
    for method, path, body, status in REFUSED:
        answer = await service.ask(method, path, body)
        assert answer.status_code == status, f"{path}: {answer.text}"
        assert answer.headers["content-type"] == "application/problem+json"


async def test_unknown_profile_signs_no_manifest(service: Service) -> None:
    """An archive whose manifest cannot be signed is not made."""
    record = await service.world.sign(request(b"artefact"))
    wanted = {"name": "x", "signatures": [record.id], "profile": "nobodys"}
    assert (await service.ask("POST", "/v1/evidence", wanted)).status_code == 404
    assert (await service.ask("GET", "/v1/evidence")).json()["evidence"] == []


async def test_hold_is_laid_and_lifted(service: Service) -> None:
    """A held signature outlasts its rule; the acts are on record with who did them and why."""
    record = await service.world.sign(request(b"artefact"))
    path = f"/v1/holds/{record.id}"
    assert (await service.ask("PUT", path, {"reason": "case 7"})).status_code == 204
    held = (await service.ask("GET", path)).json()
    assert (held["hold_reason"], held["held_by"]) == ("case 7", f"mtls {OPERATOR}")
    assert (await service.ask("DELETE", path)).status_code == 204
    assert (await service.ask("GET", path)).json()["held_at"] is None
    assert [one["id"] for one in await service.world.audit("signature.held", "signature.released")] == [record.id] * 2


def _shell(block: str, directory: Path) -> str:
    command = ["bash", "-eu", "-c", block]
    return subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True, timeout=20).stdout
