"""Webhooks, evidence, holds, searches and policies as commands: for people, for programs, and what is refused."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from pathlib import Path

import orjson
import pytest

from pkicore.clock import unix
from services.signing.cli.failures import FILES, REFUSED, USAGE
from tests.support.deployment import free_port
from tests.support.pqcsign_world import Cli
from tests.support.sboms import cyclonedx

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def sign(cli: Cli, *words: object) -> str:
    """The id of a signature of the artefact."""
    record_id: str = (await cli.read("sign", cli.app, "--force", *words))["record"]["id"]
    return record_id


async def test_a_receiver_is_made_listed_rotated_and_deleted(cli: Cli) -> None:
    """Its secret is shown once, or goes into a file for its owner alone."""
    out = cli.home / "secret"
    made = await cli.read(
        "webhooks", "create", f"http://127.0.0.1:{free_port()}/hook", "--event", "signature.created", "--out", out
    )
    assert (out.stat().st_mode & 0o777, out.read_text().startswith("whsec_")) == (0o600, True)
    assert (made["events"], "secret" in made) == (["signature.created"], False)
    listed = await cli.run("webhooks", "list")
    assert made["id"] in listed.stdout
    assert "whsec_" not in listed.output
    rotated = await cli.run("webhooks", "rotate", made["id"])
    assert rotated.stdout.startswith("whsec_")
    assert (len(rotated.stdout.splitlines()), rotated.stdout != out.read_text()) == (1, True)
    taken = await cli.run("webhooks", "rotate", made["id"], "--out", out)
    assert (taken.exit_code, "is there already" in taken.stderr) == (FILES, True)
    await cli.read("webhooks", "delete", made["id"])
    assert (await cli.read("webhooks", "list"))["webhooks"] == []
    assert (await cli.run("webhooks", "list")).stdout.strip() == "There is none."
    gone = await cli.run("webhooks", "delete", made["id"])
    assert (gone.exit_code, "404" in gone.stderr) == (REFUSED, True)


@pytest.mark.parametrize("url", ["http://169.254.169.254/", "ftp://x", "no url"])
async def test_a_receiver_that_is_not_taken_is_refused_in_a_sentence(cli: Cli, url: str) -> None:
    """By the service, whose rules they are; nothing is written."""
    result = await cli.run("webhooks", "create", url, "--out", cli.home / "secret")
    assert (result.exit_code, (cli.home / "secret").exists()) == (REFUSED, False), result.output


async def test_dead_letters_are_seen_and_sent_again(cli: Cli) -> None:
    """What nobody takes is pending, then dead, then pending again."""
    made = await cli.read("webhooks", "create", f"http://127.0.0.1:{free_port()}/hook")
    await sign(cli)
    (pending,) = (await cli.read("webhooks", "deliveries", "--state", "pending"))["deliveries"]
    assert "There is none that is dead." in (await cli.run("webhooks", "deliveries")).stdout
    courier, clock = cli.service.aftercare.courier, cli.world.clock
    while left := (await cli.read("webhooks", "deliveries", "--state", "pending"))["deliveries"]:
        clock.advance(timedelta(seconds=max(0, left[0]["due_at"] - unix(clock.now()))))
        await courier.round()
        await courier.settled()
    (dead,) = (await cli.read("webhooks", "deliveries"))["deliveries"]
    assert dead in (await cli.read("webhooks", "deliveries", "--state", "all"))["deliveries"]
    assert (dead["event"], dead["state"], dead["attempts"] > 1) == (pending["event"], "dead", True)
    assert f"dead after {dead['attempts']} attempts" in (await cli.run("webhooks", "deliveries")).stdout
    await cli.read("webhooks", "redeliver", made["id"], dead["event"])
    assert len((await cli.read("webhooks", "deliveries", "--state", "pending"))["deliveries"]) == 1
    unknown = await cli.run("webhooks", "redeliver", made["id"], "evt_none")
    assert unknown.exit_code == REFUSED
    await cli.read("webhooks", "delete", made["id"])


async def test_evidence_is_made_fetched_and_verified_offline(cli: Cli) -> None:
    """By the log, or by keys that must have signed; an archive that was changed is refused."""
    record = await sign(cli, "--profile", "all", "--format", "raw", "--format", "bundle", "--format", "dsse")
    digest = hashlib.sha256(cli.app.read_bytes()).hexdigest()
    out = cli.home / "out"
    words = ("--digest", f"sha256:{digest}", "--profile", "witnessed", "--out", out)
    made = await cli.read("evidence", "create", "app-1.0", *words)
    archive = out / "app-1.0.tar"
    assert made["files"] == [str(archive)]
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == made["sha256"]
    verified = await cli.read("evidence", "verify", archive, *cli.root)
    assert (verified["release"], verified["tenant"], verified["signatures"]) == ("app-1.0", "acme", [record])
    both = await cli.keys("attestation-es256", "attestation-mldsa65")
    assert "verified" in (await cli.run("evidence", "verify", archive, *cli.root, *both)).stdout
    again = cli.home / "again.tar"
    await cli.read("evidence", "download", made["id"], "--out", again)
    assert again.read_bytes() == archive.read_bytes()
    assert made["id"] in (await cli.run("evidence", "list")).stdout
    assert made["sha256"] in (await cli.run("evidence", "show", made["id"])).stdout
    content = bytearray(archive.read_bytes())
    content[content.index(b'"subjects"')] ^= 0x01
    archive.write_bytes(content)
    refused = await cli.run("evidence", "verify", archive, *cli.root, *both)
    assert (refused.exit_code, "is not what the manifest says" in refused.stderr) == (REFUSED, True)


async def test_evidence_that_cannot_be_made_or_believed_is_refused(cli: Cli) -> None:
    """Each with the exit status of its reason, and nothing is left behind."""
    taken = cli.home / "app.tar"
    taken.write_bytes(b"no tar")
    other = await cli.keys("es256")
    for words, status in (
        (("create", "app"), USAGE),
        (("create", "app", "--digest", "sha256:0"), USAGE),
        (("create", "app", "--signature", "0" * 26), REFUSED),
        (("create", "../app", "--signature", "0" * 26, "--out", cli.home / "out"), REFUSED),
        (("create", "app", "--signature", "0" * 26, "--out", cli.home), FILES),
        (("download", "0" * 26, "--out", cli.home / "x.tar"), REFUSED),
        (("show", "0" * 26), REFUSED),
        (("verify", taken, *cli.root), REFUSED),
        (("verify", cli.home / "none.tar", *cli.root), FILES),
        (("verify", taken, *cli.root, *other, *other), USAGE),
    ):
        result = await cli.run("evidence", *words)
        assert result.exit_code == status, (words, result.output)
    assert not (cli.home / "out").exists()
    assert not (cli.home / "x.tar").exists()


async def test_an_archive_that_is_not_the_one_on_record_is_not_kept(cli: Cli) -> None:
    """Its octets are compared with the record's digest."""
    record = await sign(cli)
    made = await cli.read("evidence", "create", "app", "--signature", record)
    cli.forge = lambda body: body if body.startswith(b"{") else b"other octets"
    result = await cli.run("evidence", "download", made["id"], "--out", cli.home / "x.tar")
    assert (result.exit_code, "other octets" in result.stderr) == (REFUSED, True)
    assert not (cli.home / "x.tar").exists()


async def test_a_hold_is_laid_shown_and_lifted(cli: Cli) -> None:
    """With its reason; what evidence has promised is shown, too."""
    record = await sign(cli)
    assert "neither held nor promised" in (await cli.run("holds", "show", record)).stdout
    await cli.read("holds", "create", record, "--reason", "case 7")
    shown = await cli.read("holds", "show", record)
    assert (shown["hold_reason"], shown["held_at"] is not None) == ("case 7", True)
    assert "case 7" in (await cli.run("holds", "show", record)).stdout
    assert (await cli.run("holds", "create", record, "--reason", "case 8")).exit_code == REFUSED
    await cli.read("holds", "delete", record)
    await cli.read("evidence", "create", "app", "--signature", record)
    assert "promised by evidence until" in (await cli.run("holds", "show", record)).stdout
    unknown = await cli.run("holds", "create", "0" * 26, "--reason", "case 7")
    assert (unknown.exit_code, "404" in unknown.stderr) == (REFUSED, True)


async def test_records_are_searched_by_digest_and_by_attestation(cli: Cli) -> None:
    """Either alone, or both."""
    sbom = cli.home / "sbom.json"
    sbom.write_bytes(orjson.dumps(cyclonedx()))
    plain = await sign(cli)
    cli.world.clock.advance(timedelta(seconds=1))
    attested = await sign(cli, "--sbom", sbom)
    digest = ("--digest", f"sha256:{hashlib.sha256(cli.app.read_bytes()).hexdigest().upper()}")
    kind = ("--predicate-type", "https://cyclonedx.org/bom")
    for words, expected in (
        (digest, [attested, plain]),
        ((*digest, *kind), [attested]),
        ((*kind, "--limit", "1"), [attested]),
    ):
        found = await cli.read("show", *words)
        assert [one["id"] for one in found["signatures"]] == expected, words
    for wrong in (("--digest", "sha256:0"), ("--digest", "app"), (plain, *kind), ("--out", cli.home / "out")):
        result = await cli.run("show", *wrong)
        assert (result.exit_code, (cli.home / "out").exists()) == (USAGE, False), result.output


async def test_policies_are_shown_and_written(cli: Cli) -> None:
    """Those in force, and those that a record names by their hash."""
    shown = await cli.read("policy", "show")
    assert "second.cedar" in shown["files"]
    text = (await cli.run("policy", "show")).stdout
    assert f"sha256 {shown['sha256']}" in text
    assert "not-the-secret-key" in text
    out = cli.home / "policies"
    await cli.read("policy", "show", shown["sha256"], "--out", out)
    assert {path.name: path.read_text() for path in out.iterdir()} == shown["files"]
    assert (await cli.run("policy", "show", "--out", out)).exit_code == FILES
    assert (await cli.run("policy", "show", "0" * 64)).exit_code == REFUSED


async def test_a_caller_without_the_action_is_told_what_is_needed(cli: Cli) -> None:
    """An API key for signing manages nothing."""
    path: Path = cli.home / "api-key"
    await cli.read("api-keys", "create", "--action", "sign", "--out", path)
    for words in (("webhooks", "list"), ("webhooks", "deliveries"), ("evidence", "list"), ("holds", "show", "0" * 26)):
        result = await cli.run(*words, "--api-key-file", path, as_operator=False)
        assert (result.exit_code, "403" in result.stderr, "policy" in result.stderr) == (REFUSED, True, True), words
