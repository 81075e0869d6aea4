"""The directory of policies is followed; what makes no sense never comes into force, and the last good set stays."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from services.chassis.errors import UnavailableError
from services.signing.callers import Caller
from services.signing.policy import AccessRequest, PolicyDirectory, PolicySchema, PolicySetError, run_directory_cases

READ = '@id("all-read") permit (principal, action == Action::"read", resource);\n'
SEARCH = '@id("all-search") permit (principal, action == Action::"search", resource);\n'
CASE = """\
[[cases]]
name = "reads"
action = "read"
expect = "allow"
policies = ["all-read"]
caller = { kind = "api-key", id = "a", tenant = "acme" }
"""
CALLER = Caller("api-key", "a", "acme")


class Archive:
    """Sets in memory, as the service's store keeps them; it can be out of order."""

    def __init__(self) -> None:
        self.sets: list[tuple[str, dict[str, str]]] = []
        self.down = False

    async def policy_in_force(self, sha256: str, files: Mapping[str, str]) -> int:
        """As PolicyArchive has it."""
        if self.down:
            raise UnavailableError("the disk is full")
        if not self.sets or self.sets[-1][0] != sha256:
            self.sets.append((sha256, dict(files)))
        return len(self.sets)


class World:
    """A directory that is followed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.archive = Archive()
        self.observed: list[bool] = []
        self.directory = PolicyDirectory(path, PolicySchema(), self.archive, self.observed.append)

    def write(self, name: str, text: str) -> None:
        """A file, new or changed."""
        (self.path / name).write_text(text)

    async def look(self, times: int = 2) -> None:
        """As the service does once a second."""
        for _ in range(times):
            await self.directory.look()

    def may(self, action: str) -> bool:
        """Whether the policies in force let the caller read or search."""
        return self.directory.policies.decide(
            AccessRequest(CALLER, "read" if action == "read" else "search", "acme")
        ).allowed


@pytest.fixture
async def world(tmp_path: Path) -> World:
    """One policy in force."""
    made = World(tmp_path)
    made.write("a.cedar", READ)
    await made.directory.load()
    return made


async def test_the_first_set_is_on_record(world: World) -> None:
    """With its texts, as version 1."""
    policies = world.directory.policies
    assert policies.version == 1
    assert world.archive.sets == [(policies.sha256, {"a.cedar": READ})]
    assert world.observed == [True]
    assert world.may("read")
    assert not world.may("search")


async def test_a_change_comes_into_force(world: World) -> None:
    """As the next version, when it was the same in two looks."""
    world.write("b.cedar", SEARCH)
    await world.look(1)
    assert not world.may("search")
    await world.look(1)
    assert world.may("search")
    assert world.directory.policies.version == 2
    await world.look(3)
    assert len(world.archive.sets) == 2


async def test_a_set_that_is_being_written_is_not_taken(world: World) -> None:
    """While it changes from look to look, the one before it holds."""
    for number in range(4):
        world.write("b.cedar", SEARCH + "\n" * number)
        await world.look(1)
        assert not world.may("search")
    await world.look(1)
    assert world.may("search")


@pytest.mark.parametrize(
    "text",
    [
        "permit (principal, action, resource",
        '@id("all") permit (principal, action, resource) when { context.nothing };',
        READ,
        "\x00",
    ],
)
async def test_what_makes_no_sense_does_not_come_into_force(world: World, text: str) -> None:
    """The last good set stays as a whole, also for what did not change; mended, the new one is taken."""
    before = world.directory.policies
    world.write("b.cedar", text)
    world.write("a.cedar", READ + SEARCH)
    await world.look()
    assert world.directory.policies is before
    assert world.observed == [True, False]
    await world.look()
    assert world.observed == [True, False]
    world.write("b.cedar", "")
    await world.look()
    assert world.observed == [True, False, True]
    assert world.may("search")


async def test_a_directory_that_goes_away(world: World) -> None:
    """An unmounted disk opens and closes nothing."""
    moved = world.path.rename(world.path.with_name("moved"))
    await world.look()
    assert world.may("read")
    assert world.observed == [True, False]
    moved.rename(world.path)
    world.write("b.cedar", SEARCH)
    await world.look()
    assert world.may("search")


async def test_a_link_that_is_put_there(world: World) -> None:
    """Nobody points the service at a text elsewhere."""
    elsewhere = world.path.with_name("elsewhere.txt")
    elsewhere.write_text(SEARCH)
    (world.path / "b.cedar").symlink_to(elsewhere)
    await world.look()
    assert not world.may("search")
    assert world.observed[-1] is False


async def test_all_policies_removed_is_a_set_too(world: World) -> None:
    """Whoever empties the directory closes the door."""
    (world.path / "a.cedar").unlink()
    await world.look()
    assert not world.may("read")
    assert world.directory.policies.version == 2


async def test_a_set_must_pass_its_cases(world: World) -> None:
    """A case that fails keeps the set out; one that passes lets it in, and is not part of the hash."""
    before = world.directory.policies
    world.write("a.cedar", SEARCH)
    world.write("a.test.toml", CASE)
    await world.look()
    assert world.directory.policies is before
    world.write("a.cedar", READ)
    await world.look()
    assert world.observed[-1] is True
    assert world.directory.policies.sha256 == before.sha256
    assert world.directory.policies.version == 1


async def test_cases_are_told_by_file(world: World) -> None:
    """As the command shows them."""
    world.write("a.test.toml", CASE)
    world.write("b.test.toml", CASE.replace("allow", "deny"))
    results = run_directory_cases(world.path, world.directory.policies)
    assert {file: [one.passed for one in of_file] for file, of_file in results.items()} == {
        "a.test.toml": [True],
        "b.test.toml": [False],
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.test.toml", "[[cases]"), ("a.test.json", "[]"), ("a.test.toml", CASE.replace("read", "destroy"))],
)
async def test_cases_that_make_no_sense_keep_a_set_out(tmp_path: Path, name: str, text: str) -> None:
    """They are not passed over."""
    world = World(tmp_path)
    world.write("a.cedar", READ)
    world.write(name, text)
    with pytest.raises(PolicySetError, match=name):
        await world.directory.load()


async def test_a_set_that_is_not_on_record_is_not_in_force(world: World) -> None:
    """It is tried again with each look until it is."""
    world.archive.down = True
    world.write("b.cedar", SEARCH)
    await world.look(3)
    assert not world.may("search")
    world.archive.down = False
    await world.look(1)
    assert world.may("search")
    assert world.directory.policies.version == 2


async def test_the_service_does_not_start_with_a_bad_set(tmp_path: Path) -> None:
    """Nor without a directory, and it never answers before it has loaded."""
    world = World(tmp_path / "policies")
    with pytest.raises(PolicySetError):
        await world.directory.load()
    with pytest.raises(RuntimeError):
        world.directory.policies.decide(AccessRequest(CALLER, "read", "acme"))
    world.path.mkdir()
    world.write("a.cedar", "permit")
    with pytest.raises(PolicySetError, match=r"a\.cedar:1"):
        await world.directory.load()


async def test_it_is_looked_at_for_ever(world: World) -> None:
    """As a background task, until it is cancelled."""
    task = asyncio.create_task(world.directory.run())
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
