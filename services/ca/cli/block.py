"""`ztca block`: keys that are never certified again, as a private key that became known."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from services.ca.block_list.wire import COMPROMISED, BlockAnswer, BlockedKey, BlockRequest, IssuedByRoot
from services.ca.cli.connection import connected
from services.ca.cli.key_file import key_hash_of
from services.ca.cli.output import directory_option, failing_cleanly, json_option, tell

_SHOWN: Final = 20  # serials in a text for people; --json has them all


@click.group()
def block() -> None:
    """Keys that are never certified again."""


@block.command()
@click.argument("key")
@directory_option
@click.option("--reason", default=COMPROMISED, show_default=True, help="Why, for people.")
@json_option
def add(key: str, directory: Path, reason: str, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Block KEY, and revoke every certificate that it has, for keyCompromise.

    Certificates of CAs are revoked by their root: they are named, with the command that does it.

    KEY is a file with a certificate, a certificate request, a public key or a private key, or the SHA-256 (hex) of a
    SubjectPublicKeyInfo. Needs a running deployment (`ztca up`). It may be repeated.
    """
    with failing_cleanly():
        answer = asyncio.run(_add(directory, BlockRequest(key_hash_of(key), reason)))
        tell(as_json, as_json_of(answer), *told(answer))


def as_json_of(answer: BlockAnswer) -> dict[str, object]:
    """What `--json` says."""
    unrevoked = [{"serial": item.serial, "root": item.root, "revoke_with": _advice(item)} for item in answer.unrevoked]
    value = {"key_hash": answer.key_hash, "is_new": answer.is_new, "serials": list(answer.serials)}
    return value | {"unrevoked": unrevoked}


def told(answer: BlockAnswer) -> list[str]:
    """The lines for people."""
    said = "is blocked" if answer.is_new else "was blocked before"
    lines = [f"The key {answer.key_hash} {said}; certificates revoked now: {len(answer.serials)}."]
    lines += [f"  {serial}" for serial in answer.serials[:_SHOWN]]
    more = len(answer.serials) - _SHOWN
    lines += [f"  and {more} more"] if more > 0 else []
    return lines + _not_revoked(answer)


def _advice(item: IssuedByRoot) -> str:
    return f"ztca ca root-crl --root {item.root} --revoke {item.serial} --reason keyCompromise"


def _not_revoked(answer: BlockAnswer) -> list[str]:
    if not answer.unrevoked:
        return []
    head = "Not revoked, since a root issued them; a CA of this deployment that has the key issues nothing any more:"
    return [head, *(f"  {item.serial}: `{_advice(item)}`" for item in answer.unrevoked)]


async def _add(directory: Path, request: BlockRequest) -> BlockAnswer:
    async with connected(directory) as ca:
        return await ca.block_key(request)


@block.command("list")
@directory_option
@json_option
def list_keys(directory: Path, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Show the keys that are blocked, in the order of their hashes."""
    with failing_cleanly():
        keys = asyncio.run(_list(directory))
        fields = [
            {"key_hash": key.key_hash, "blocked_at": key.blocked_at, "reason": key.reason, "blocked_by": key.blocked_by}
            for key in keys
        ]
        tell(as_json, {"keys": fields}, *(_line(key) for key in keys) if keys else ("No key is blocked.",))


def _line(key: BlockedKey) -> str:
    at = datetime.fromtimestamp(key.blocked_at, UTC)
    return f"{key.key_hash}  {at:%Y-%m-%dT%H:%M:%SZ}  {key.reason}  {key.blocked_by or '-'}"


async def _list(directory: Path) -> list[BlockedKey]:
    async with connected(directory) as ca:
        page = await ca.blocked_keys()
        keys = [*page.keys]
        while page.after is not None:
            page = await ca.blocked_keys(page.after)
            keys += page.keys
        return keys


@block.command()
@click.argument("key")
@directory_option
@json_option
def remove(key: str, directory: Path, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Let KEY be certified again; what was revoked stays revoked. KEY is as for `ztca block add`."""
    with failing_cleanly():
        key_hash = key_hash_of(key).hex()
        asyncio.run(_remove(directory, key_hash))
        tell(as_json, {"key_hash": key_hash}, f"The key {key_hash} is not blocked any more.")


async def _remove(directory: Path, key_hash: str) -> None:
    async with connected(directory) as ca:
        await ca.unblock_key(key_hash)
