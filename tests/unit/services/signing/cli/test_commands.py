"""Each command of `pqcsign` against the whole service in memory; the way there is in test_connection.py."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from pathlib import Path
from typing import Final

import orjson
import pytest

from services.signing.cli.failures import FILES, REFUSED, UNAVAILABLE, USAGE
from services.signing.errors import SignerDownError
from tests.support.openssl import openssl
from tests.support.pqcsign_world import Cli
from tests.support.sboms import cyclonedx

pytestmark = pytest.mark.asyncio(loop_scope="session")

GITHUB: Final = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "acme/app",
    "GITHUB_REPOSITORY_ID": "74",
    "GITHUB_REPOSITORY_OWNER_ID": "65",
    "GITHUB_REF": "refs/tags/v1",
    "GITHUB_SHA": "c" * 40,
    "GITHUB_WORKFLOW_REF": "acme/app/.github/workflows/release.yml@refs/tags/v1",
    "GITHUB_RUN_ID": "5001",
    "GITHUB_RUN_ATTEMPT": "2",
    "GITHUB_EVENT_NAME": "push",
}


async def test_a_file_is_signed_and_verified_by_openssl_and_by_us(cli: Cli) -> None:
    """The default profile's files stand beside it; openssl and `pqcsign verify` believe them."""
    signed = await cli.read("sign", cli.app)
    key = await cli.key("acme.artefact-es256")
    assert cli.names() == {
        "app.bin", "app.bin.sig", "app.bin.sigstore.json", "app.bin.sigstore.jsonl", "app.bin.intoto.jsonl",
    }  # fmt: skip
    assert {Path(file).name for file in signed["files"]} == cli.names() - {"app.bin"}
    assert "Verified OK" in openssl("dgst", "-sha256", "-verify", key, "-signature", f"{cli.app}.sig", cli.app)
    policy = signed["record"]["policy"]["sha256"]
    assert (await cli.run("verify", cli.app, "--bundle", f"{cli.app}.sigstore.json", "--key", key)).exit_code == 0
    attested = ("--bundle", f"{cli.app}.intoto.jsonl", "--policy-sha256", policy)
    attesting = await cli.key("acme.attestation-es256")
    assert (await cli.run("verify", cli.app, *attested, "--key", attesting)).exit_code == 0
    assert (await cli.run("verify", cli.app, *attested, "--key", key)).exit_code == REFUSED


async def test_a_hybrid_with_sbom_and_provenance_is_verified_with_both_keys(cli: Cli) -> None:
    """The SBOM is uploaded, the provenance made of the CI job's environment; each is attested by both keys."""
    sbom = cli.home / "sbom.json"
    sbom.write_bytes(orjson.dumps(cyclonedx()))
    cli.environment = GITHUB
    words = ("--profile", "hybrid", "--sbom", sbom, "--provenance-from-ci", "--context", "ticket=REL-7")
    signed = await cli.read("sign", cli.app, *words)
    assert signed["record"]["sbom"]["format"] == "cyclonedx"
    assert signed["record"]["context"] == {"ticket": "REL-7"}
    keys = [word for name in ("es256", "mldsa65") for word in ("--key", await cli.key(f"acme.attestation-{name}"))]
    for bundle in ("intoto.jsonl", "sigstore.jsonl"):
        for predicate_type in ("https://cyclonedx.org/bom", "https://slsa.dev/provenance/v1"):
            demand = ("--bundle", f"{cli.app}.{bundle}", "--predicate-type", predicate_type)
            result = await cli.run("verify", cli.app, *demand, *keys)
            assert result.exit_code == 0, result.output


async def test_a_raw_signature_by_ml_dsa_is_made_of_the_file_here(cli: Cli) -> None:
    """With --key by itself, with a profile where --prepare-for names the key; ours verifies it over the file."""
    key = await cli.key("acme.artefact-mldsa65")
    await cli.read("sign", cli.app, "--key", "acme.artefact-mldsa65", "--format", "raw")
    by_key = ("verify", cli.app, "--signature", f"{cli.app}.sig", "--key", key)
    assert (await cli.run(*by_key)).exit_code == 0
    out = cli.home / "out"
    words = ("--profile", "hybrid", "--prepare-for", "acme.artefact-mldsa65", "--format", "raw", "--out", out)
    await cli.read("sign", cli.app, *words)
    assert cli.names(out) == {"app.bin.sig", "app.bin.ml-dsa-65.sig"}
    by_profile = ("verify", cli.app, "--signature", out / "app.bin.ml-dsa-65.sig", "--key", key)
    assert (await cli.run(*by_profile)).exit_code == 0


async def test_several_files_are_signed_together(cli: Cli) -> None:
    """One record; each has its own bundle, the attestations are of all."""
    other = cli.home / "app.deb"
    other.write_bytes(b"another")
    out = cli.home / "out"
    signed = await cli.read("sign", cli.app, other, "--out", out)
    assert len(signed["record"]["subjects"]) == 2
    assert "multiple.intoto.jsonl" in cli.names(out)
    keys = [await cli.key(f"acme.{name}-es256") for name in ("artefact", "attestation")]
    for file in (cli.app, other):
        bundles = (out / f"{file.name}.sigstore.json", out / "multiple.intoto.jsonl")
        for bundle, key in zip(bundles, keys, strict=True):
            assert (await cli.run("verify", file, "--bundle", bundle, "--key", key)).exit_code == 0
    two = await cli.run("sign", cli.app, other, "--key", "acme.artefact-mldsa65", "--format", "raw", "--force")
    assert (two.exit_code, "one file at a time" in two.stderr) == (USAGE, True)


async def test_a_service_that_signs_something_else_is_caught(cli: Cli) -> None:
    """What it answers must be about the digests that were sent; what makes no sense is said to make none."""
    digest = hashlib.sha256(cli.app.read_bytes()).hexdigest().encode()
    for forge, words in (
        (lambda body: body.replace(digest, b"0" * 64), "other digests than those that were sent"),
        (lambda _body: b"{}", "makes no sense"),
        (lambda _body: b"<html>", "makes no sense"),
    ):
        cli.forge = forge
        result = await cli.run("sign", cli.app)
        assert (result.exit_code, words in result.stderr) == (REFUSED, True), result.output
        assert cli.names() == {"app.bin"}


async def test_a_cms_signature_is_about_one_file(cli: Cli) -> None:
    """Several are refused before any of them is read."""
    done = await cli.run("sign", cli.app, cli.home / "nothing", "--format", "cms", "--format", "raw")
    assert (done.exit_code, "about one artefact" in done.stderr) == (USAGE, True)


async def test_nothing_is_signed_that_could_not_be_written(cli: Cli) -> None:
    """What is in the way is seen first; --force writes over it."""
    (cli.home / "app.bin.sig").write_bytes(b"old")
    result = await cli.run("sign", cli.app)
    assert (result.exit_code, "--force" in result.stderr) == (FILES, True)
    assert cli.world.signer.asked == 0
    await cli.read("sign", cli.app, "--force")
    assert (cli.home / "app.bin.sig").read_bytes() != b"old"


async def test_a_repetition_with_the_same_key_gets_the_same_record(cli: Cli) -> None:
    """And with another file it is refused."""
    words = ("--idempotency-key", "release-7", "--force")
    first = await cli.read("sign", cli.app, *words)
    assert (await cli.read("sign", cli.app, *words))["record"] == first["record"]
    cli.app.write_bytes(b"another")
    result = await cli.run("sign", cli.app, *words)
    assert (result.exit_code, "give another --idempotency-key" in result.stderr) == (REFUSED, True)


async def test_a_signer_that_is_away_is_a_reason_to_try_again(cli: Cli) -> None:
    """With the key that makes the repetition safe, also where none was given; nothing is written."""
    cli.world.signer.fault = SignerDownError("signer-hsm does not answer")
    result = await cli.run("sign", cli.app)
    assert (result.exit_code, "--idempotency-key pqcsign-" in result.stderr) == (UNAVAILABLE, True)
    assert cli.names() == {"app.bin"}


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("--profile", "none"), REFUSED),
        (("--key", "globex.artefact-es256"), REFUSED),
        (("--key", "acme.artefact-es256", "--profile", "default"), USAGE),
        (("--key", "acme.artefact-es256", "--oidc"), USAGE),
        (("--context", "nothing"), USAGE),
        (("--context", "resource_uri=no uri"), REFUSED),
        (("--idempotency-key", "ä"), USAGE),
        (("--provenance", "/none", "--provenance-from-ci"), USAGE),
        (("--provenance-from-ci",), USAGE),
        (("--provenance", "/none"), FILES),
        (("--sbom", "/none"), FILES),
        (("--format", "pdf"), USAGE),
        (("/none",), FILES),
    ],
)
async def test_each_mistake_has_its_exit_status(cli: Cli, words: tuple[str, ...], status: int) -> None:
    """One sentence on standard error, and no file."""
    result = await cli.run("sign", cli.app, *words)
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    assert cli.names() == {"app.bin"}


async def test_documents_that_are_none_are_refused_in_a_sentence(cli: Cli) -> None:
    """JSON that is no SBOM, and provenance of another artefact."""
    document = cli.home / "document.json"
    document.write_bytes(b'{"hello": "world"}')
    for option in ("--sbom", "--provenance"):
        result = await cli.run("sign", cli.app, option, document)
        assert (result.exit_code, len(result.stderr) < 500) == (REFUSED, True), result.output


async def test_a_record_is_shown_by_id_and_by_digest(cli: Cli) -> None:
    """With its files where they are asked for."""
    record = (await cli.read("sign", cli.app))["record"]
    shown = await cli.run("show", record["id"])
    digest = hashlib.sha256(cli.app.read_bytes()).hexdigest()
    assert digest in shown.stdout
    assert record["policy"]["sha256"] in shown.stdout
    out = cli.home / "again"
    await cli.read("show", record["id"], "--out", out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        name: (cli.home / name).read_bytes() for name in cli.names() - {"app.bin"}
    }
    found = await cli.read("show", "--digest", f"sha256:{digest}")
    assert [one["id"] for one in found["signatures"]] == [record["id"]]
    assert (await cli.read("show", "--digest", f"sha256:{'0' * 64}"))["signatures"] == []
    for words, status in (((), USAGE), (("x", "--digest", "y"), USAGE), (("unknown",), REFUSED)):
        assert (await cli.run("show", *words)).exit_code == status


async def test_every_page_of_a_search_is_shown_up_to_the_limit(cli: Cli) -> None:
    """The newest first."""
    made = []
    for _ in range(3):
        made.append((await cli.read("sign", cli.app, "--force", "--format", "raw"))["record"]["id"])
        cli.world.clock.advance(timedelta(seconds=1))
    digest = f"sha256:{hashlib.sha256(cli.app.read_bytes()).hexdigest()}"
    found = await cli.read("show", "--digest", digest, "--limit", "2")
    assert [one["id"] for one in found["signatures"]] == made[:0:-1]


async def test_an_api_key_is_made_used_listed_and_revoked(cli: Cli) -> None:
    """It goes into a file for its owner alone, and does what its scopes leave."""
    path = cli.home / "api-key"
    before = [key["id"] for key in (await cli.read("api-keys", "list"))["keys"]]
    made = await cli.read("api-keys", "create", "--action", "sign", "--action", "read", "--days", "7", "--out", path)
    text = path.read_text().strip()
    assert path.stat().st_mode & 0o777 == 0o600
    assert made["scopes"] == {"actions": ["read", "sign"]}
    signed = await cli.run("sign", cli.app, "--api-key-file", path, as_operator=False)
    assert signed.exit_code == 0, signed.output
    assert f"credential: --api-key-file {path}" in signed.stderr
    assert text not in signed.output
    denied = await cli.run("api-keys", "list", "--api-key-file", path, as_operator=False)
    assert (denied.exit_code, "403" in denied.stderr) == (REFUSED, True)
    assert {key["id"] for key in (await cli.read("api-keys", "list"))["keys"]} == {*before, made["id"]}
    taken = await cli.run("api-keys", "create", "--action", "sign", "--out", path)
    assert (taken.exit_code, path.read_text().strip()) == (FILES, text)
    await cli.read("api-keys", "revoke", made["id"])
    gone = await cli.run("sign", cli.app, "--api-key-file", path, "--force", as_operator=False)
    assert (gone.exit_code, "revoked" in gone.stderr) == (REFUSED, True)
    assert "revoked" in (await cli.run("api-keys", "list")).stdout


async def test_an_api_key_that_may_sign_gets_what_it_signed_and_nothing_else(cli: Cli) -> None:
    """The action sign is enough for `pqcsign sign`; a record of others is refused."""
    path = cli.home / "api-key"
    await cli.read("api-keys", "create", "--action", "sign", "--key", "a*", "--out", path)
    signed = await cli.run("sign", cli.app, "--api-key-file", path, as_operator=False)
    assert signed.exit_code == 0, signed.output
    assert "app.bin.sigstore.json" in cli.names()
    other = (await cli.read("sign", cli.app, "--force"))["record"]["id"]
    shown = await cli.run("show", other, "--api-key-file", path, as_operator=False)
    assert (shown.exit_code, "403" in shown.stderr) == (REFUSED, True)


async def test_files_that_cannot_be_written_after_all_are_fetched_later(cli: Cli) -> None:
    """It is signed then, and the way to the files is said; none of them stays."""
    (cli.home / "app.bin.intoto.jsonl").write_bytes(b"old")
    signed = await cli.run("sign", cli.app)
    assert (signed.exit_code, cli.names()) == (FILES, {"app.bin", "app.bin.intoto.jsonl"})
    assert "it is signed; `pqcsign show" in signed.stderr


async def test_an_api_key_that_is_printed_is_the_only_thing_on_standard_output(cli: Cli) -> None:
    """So that it can be piped into a secret store."""
    result = await cli.run("api-keys", "create", "--action", "sign")
    assert result.stdout.startswith("pqcsign_")
    assert len(result.stdout.splitlines()) == 1


async def test_without_a_credential_it_says_where_one_is_looked_for(cli: Cli) -> None:
    """And asks the service nothing."""
    result = await cli.run("sign", cli.app, as_operator=False)
    assert (result.exit_code, "pqcsign login" in result.stderr) == (USAGE, True)


async def test_what_is_wrong_on_the_command_line_is_said_before_what_is_in_the_way(cli: Cli) -> None:
    """An output that is there hides no mistake that can be seen without the service."""
    (cli.home / "app.bin.sig").write_bytes(b"old")
    for words, said in (
        (("--context", "nothing"), "--context is NAME=VALUE"),
        (("--context", "Ticket=1"), "the names in context"),
        (("--profile", "No Profile"), "profile must be"),
        (("--key", "nokey"), "key"),
    ):
        result = await cli.run("sign", cli.app, *words)
        assert (result.exit_code, said in result.stderr) == (USAGE, True), result.stderr
    assert cli.world.signer.asked == 0


async def test_a_directory_is_made_for_files_and_not_for_refusals(cli: Cli) -> None:
    """Neither by `sign` nor by `show`; one that is a file is seen before anything is signed."""
    out = cli.home / "deep" / "out"
    for words in (("sign", cli.app, "--profile", "none"), ("show", "0" * 26), ("sign", cli.home / "none")):
        assert (await cli.run(*words, "--out", out)).exit_code != 0
        assert not out.parent.exists()
    result = await cli.run("sign", cli.app, "--out", cli.app)
    assert (result.exit_code, cli.world.signer.asked) == (FILES, 0)
    await cli.read("sign", cli.app, "--out", out)
    assert "app.bin.sigstore.json" in cli.names(out)


async def test_each_of_several_files_has_its_own_timestamp(cli: Cli) -> None:
    """Of its own signature: openssl's and our verifier's."""
    other = cli.home / "app.deb"
    other.write_bytes(cli.app.read_bytes() + b"!")
    words = ("--profile", "all", "--format", "raw", "--format", "bundle")
    await cli.read("sign", cli.app, other, *words)
    stamps = {(cli.home / f"{name}.tsr").read_bytes() for name in ("app.bin", "app.deb")}
    assert (len(stamps), "multiple.tsr" in cli.names()) == (2, False)
    beside = ("--bundle", f"{other}.sigstore.json", "--signature", f"{other}.sig", *await cli.keys("es256"), *cli.root)
    assert (await cli.run("verify", other, *beside, "--timestamp", f"{other}.tsr")).exit_code == 0
    assert (await cli.run("verify", other, *beside, "--timestamp", f"{cli.app}.tsr")).exit_code == REFUSED
