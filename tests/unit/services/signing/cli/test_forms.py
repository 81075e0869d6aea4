"""Everything that `pqcsign sign` writes is verified by `pqcsign verify`, offline; nothing less than all of it is."""

from __future__ import annotations

import hashlib
from typing import Final

import pytest

from services.signing.cli.failures import FILES, REFUSED, USAGE
from tests.support.pqcsign_world import Cli

pytestmark = pytest.mark.asyncio(loop_scope="session")

CLASSICAL: Final = ("es256",)
BOTH: Final = ("es256", "mldsa65")
ATTESTING: Final = ("attestation-es256", "attestation-mldsa65")
ALL: Final = ("--profile", "all", "--prepare-for", "acme.artefact-mldsa65")
FORMATS: Final = ("raw", "dsse", "bundle", "jws", "cms", "composite")
FORMS: Final = [
    (("--signature", ".sig", "--bundle", ".sigstore.json"), CLASSICAL),
    (("--signature", ".sig", "--timestamp", ".tsr", "--log-entry", ".log-entry.json"), CLASSICAL),
    (("--signature", ".sig", "--signature", ".ml-dsa-65.sig", "--log-entry", ".log-entry.json"), BOTH),
    (("--signature", ".ml-dsa-65.sig", "--timestamp", ".ml-dsa-65.tsr", "--bundle", ".sigstore.json"), None),
    (("--signature", ".jws", "--timestamp", ".jws.tsr", "--log-entry", ".jws.log-entry.json"), ATTESTING[:1]),
    (("--signature", ".jws", "--signature", ".ml-dsa-65.jws", "--log-entry", ".jws.log-entry.json"), ATTESTING),
    (("--signature", ".p7s", "--log-entry", ".p7s.log-entry.json"), BOTH),
    (("--signature", ".classical.p7s", "--log-entry", ".p7s.log-entry.json"), CLASSICAL),
    (("--bundle", ".composite.dsse.json", "--bundle", ".sigstore.jsonl"), ATTESTING),
    (("--bundle", ".intoto.jsonl", "--bundle", ".sigstore.jsonl"), ATTESTING),
    (("--bundle", ".es256.intoto.jsonl", "--bundle", ".sigstore.jsonl"), None),
]
"""Files of one artefact, and the keys that verify them; None: these do not."""


async def signed(cli: Cli, *words: object) -> None:
    """Have the artefact signed in every form, by both keys."""
    formats = [word for name in FORMATS for word in ("--format", name)]
    await cli.read("sign", cli.app, *ALL, *formats, *words)


def beside(cli: Cli, words: tuple[str, ...]) -> list[object]:
    """The options, with the endings made whole."""
    return [f"{cli.app}{word}" if word.startswith(".") else word for word in words]


async def test_every_form_is_verified_with_its_keys_and_no_others(cli: Cli) -> None:
    """With the trusted root, so time and log entry are demanded too; another artefact or key is refused each time."""
    await signed(cli)
    for form, names in FORMS:
        words = beside(cli, form)
        keys = await cli.keys(*(names or CLASSICAL))
        result = await cli.run("verify", cli.app, *words, *keys, *cli.root)
        assert result.exit_code == (REFUSED if names is None else 0), (form, result.output)
    other = cli.home / "other.bin"
    other.write_bytes(b"something else")
    for form, names in FORMS:
        result = await cli.run("verify", other, *beside(cli, form), *await cli.keys(*(names or BOTH)), *cli.root)
        assert result.exit_code == REFUSED, (form, result.output)


async def test_what_is_hybrid_is_demanded_whole(cli: Cli) -> None:
    """One of its keys is not enough for what both have signed together, however good its own half is."""
    await signed(cli)
    for ending, option, names in (
        (".intoto.jsonl", "--bundle", ATTESTING),
        (".p7s", "--signature", BOTH),
        (".composite.dsse.json", "--bundle", ATTESTING),
    ):
        file = f"{cli.app}{ending}"
        assert (await cli.run("verify", cli.app, option, file, *await cli.keys(*names))).exit_code == 0, ending
        for name in names:
            result = await cli.run("verify", cli.app, option, file, *await cli.keys(name))
            assert (result.exit_code, result.stdout) == (REFUSED, ""), ending
            assert "believed whole" in result.stderr or "nobody who is expected" in result.stderr, result.stderr


async def test_a_digest_stands_for_the_artefact(cli: Cli) -> None:
    """Which is elsewhere; what ML-DSA signed of the file itself needs the file, and says so."""
    await signed(cli)
    content = cli.app.read_bytes()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()},sha512:{hashlib.sha512(content).hexdigest()}"
    both, classical = await cli.keys(*BOTH), await cli.keys(*CLASSICAL)
    attesting = await cli.keys(*ATTESTING)
    for words in (
        ("--bundle", f"{cli.app}.intoto.jsonl", *attesting),
        ("--bundle", f"{cli.app}.composite.dsse.json", *attesting),
        ("--signature", f"{cli.app}.p7s", *both),
        ("--signature", f"{cli.app}.jws", "--signature", f"{cli.app}.ml-dsa-65.jws", *attesting),
        ("--signature", f"{cli.app}.sig", *classical),
        ("--bundle", f"{cli.app}.sigstore.json", *classical),
    ):
        assert (await cli.run("verify", "--digest", digest, *words)).exit_code == 0, words
        assert (await cli.run("verify", "--digest", f"sha256:{'0' * 64}", *words)).exit_code == REFUSED
    quantum_safe = ("--signature", f"{cli.app}.ml-dsa-65.sig", *await cli.keys("mldsa65"))
    result = await cli.run("verify", "--digest", digest, *quantum_safe)
    assert (result.exit_code, "over the file" in result.stderr) == (REFUSED, True)


async def test_a_timestamp_or_log_entry_of_something_else_is_not_passed_over(cli: Cli) -> None:
    """Whoever gives one wants it to count."""
    await signed(cli)
    raw = ("--signature", f"{cli.app}.sig", "--bundle", f"{cli.app}.sigstore.json", *await cli.keys("es256"), *cli.root)
    for option, ending in (("--timestamp", ".jws.tsr"), ("--log-entry", ".jws.log-entry.json")):
        result = await cli.run("verify", cli.app, *raw, option, f"{cli.app}{ending}")
        assert (result.exit_code, "is about none of the signatures" in result.stderr) == (REFUSED, True), result.output
    nonsense = cli.home / "nonsense"
    nonsense.write_bytes(b"{}")
    for option in ("--timestamp", "--log-entry"):
        assert (await cli.run("verify", cli.app, *raw, option, nonsense)).exit_code == REFUSED


async def test_a_signature_that_was_changed_is_refused(cli: Cli) -> None:
    """One octet of each form, wherever it is."""
    await signed(cli)
    keys = await cli.keys(*BOTH)
    for ending, option in (
        (".p7s", "--signature"),
        (".composite.dsse.json", "--bundle"),
        (".intoto.jsonl", "--bundle"),
    ):
        path = cli.home / f"app.bin{ending}"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x01
        path.write_bytes(content)
        assert (await cli.run("verify", cli.app, option, path, *keys)).exit_code == REFUSED, ending


async def test_a_bundle_of_another_key_says_whose_it_is(cli: Cli) -> None:
    """Not just that a signature does not verify; envelopes do, too."""
    await signed(cli)
    keys = await cli.keys("mldsa65")
    for ending, said in ((".sigstore.json", "the bundle names the key"), (".es256.intoto.jsonl", "the envelope names")):
        result = await cli.run("verify", cli.app, "--bundle", f"{cli.app}{ending}", *keys)
        assert (result.exit_code, said in result.stderr) == (REFUSED, True), result.stderr


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ((), USAGE),
        (("{app}", "--digest", f"sha256:{'0' * 64}"), USAGE),
        (("--digest", f"sha256:{'0' * 64}"), USAGE),
        (("--digest", "sha256:0", "--bundle", "{app}"), USAGE),
        (("--digest", f"md5:{'0' * 32}", "--bundle", "{app}"), USAGE),
        (("{app}", "--timestamp", "{app}"), USAGE),
        (("{app}", "--signature", "{app}", "--timestamp", "{app}"), USAGE),
        (("{app}", "--signature", "{app}", "--certificate-chain", "{app}"), USAGE),
        (("{app}", "--signature", "{app}.none"), FILES),
    ],
)
async def test_what_makes_no_sense_is_wrong_usage(cli: Cli, words: tuple[str, ...], status: int) -> None:
    """Before a file is read."""
    given = [word.format(app=cli.app) for word in words]
    assert (await cli.run("verify", *given, *await cli.keys("es256"))).exit_code == status


async def test_a_jws_without_its_statement_names_the_file(cli: Cli) -> None:
    """It can be given by name."""
    await signed(cli)
    statement = (cli.home / "app.bin.intoto.json").rename(cli.home / "elsewhere.json")
    words = ("verify", cli.app, "--signature", f"{cli.app}.jws", *await cli.keys("attestation-es256"))
    result = await cli.run(*words)
    assert (result.exit_code, "app.bin.intoto.json" in result.stderr) == (FILES, True)
    assert (await cli.run(*words, "--statement", statement)).exit_code == 0


async def test_a_file_keeps_its_own_name(cli: Cli) -> None:
    """A colon in it stays, in the record and beside it: its bundle is found by its name."""
    odd = cli.home / "app.a:b"
    odd.write_bytes(b"odd" + cli.app.read_bytes())
    made = await cli.read("sign", odd)
    assert made["record"]["subjects"][0]["name"] == "app.a:b"
    assert "app.a:b.sigstore.json" in cli.names()
    assert (await cli.run("verify", odd, *await cli.keys("es256"))).exit_code == 0


async def test_names_that_come_to_one_file_are_refused(cli: Cli) -> None:
    """A colon becomes a hyphen, so these two would write over each other."""
    digest = f"sha256:{'ab' * 32}"
    words = ("--digest", digest, "--name", "x/app:1", "--digest", digest, "--name", "y/app-1")
    done = await cli.run("sign", *words)
    assert (done.exit_code, "same name" in done.stderr) == (USAGE, True)


async def test_images_are_signed_and_verified_by_digest(cli: Cli) -> None:
    """Several at once, and files beside them; each has its own files, called by the last part of its name."""
    image, other = (hashlib.sha256(name.encode() + cli.app.read_bytes()).hexdigest() for name in ("image", "other"))
    out = cli.home / "out"
    words = ("--digest", f"sha256:{image}", "--name", "registry.example.org/acme/app:1.2")
    more = ("--digest", f"sha256:{other.upper()}", "--name", "app.chart")
    made = await cli.read(
        "sign", cli.app, *words, *more, "--profile", "all", "--format", "raw", "--format", "bundle", "--out", out
    )
    assert [one["name"] for one in made["record"]["subjects"]] == [
        "app.bin", "registry.example.org/acme/app:1.2", "app.chart",
    ]  # fmt: skip
    endings = {".sig", ".tsr", ".log-entry.json", ".sigstore.json"}
    assert {f"app{one}{ending}" for one in (".bin", "-1.2", ".chart") for ending in endings} <= {
        path.name for path in out.iterdir()
    }
    keys = await cli.keys("es256")
    verified = ("verify", "--digest", f"sha256:{image}", *keys, *cli.root)
    files = (
        "--signature",
        out / "app-1.2.sig",
        "--timestamp",
        out / "app-1.2.tsr",
        "--log-entry",
        out / "app-1.2.log-entry.json",
    )
    assert (await cli.run(*verified, *files)).exit_code == 0
    assert (await cli.run(*verified, "--bundle", out / "app-1.2.sigstore.json")).exit_code == 0
    assert (await cli.run(*verified, "--bundle", out / "app.chart.sigstore.json")).exit_code == REFUSED


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--digest", f"sha256:{'0' * 64}"),
        ("--name", "app"),
        ("--digest", "sha256:0", "--name", "app"),
        ("--digest", f"sha512:{'0' * 128}", "--name", "app"),
        ("--digest", f"sha256:{'0' * 64}", "--name", "a/.."),
        ("--digest", f"sha256:{'0' * 64}", "--name", "a/app", "--digest", f"sha256:{'1' * 64}", "--name", "b/app"),
        ("--digest", f"sha256:{'0' * 64}", "--name", "app", "--prepare-for", "acme.artefact-mldsa65"),
        ("--digest", f"sha256:{'0' * 64}", "--name", "app", "--key", "acme.artefact-mldsa65", "--format", "raw"),
    ],
)
async def test_digests_that_make_no_sense_are_wrong_usage(cli: Cli, words: tuple[str, ...]) -> None:
    """One name for each, all different, and nothing that only a file can give."""
    result = await cli.run("sign", *words)
    assert (result.exit_code, cli.world.signer.asked) == (USAGE, 0), result.output
