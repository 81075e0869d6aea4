"""A command group whose modules are imported when they are used, since SQL, TLS and HTTP take a second to load."""

import importlib
from collections.abc import Mapping
from typing import Any

import click


class LazyGroup(click.Group):
    """A group over a table: command → module, its attribute, and the first sentence for `--help`.

    A module is one of `package`, or has a full name of its own: `services.acme.cli.eab`.
    """

    def __init__(self, *, package: str, table: Mapping[str, tuple[str, str, str]], **rest: Any) -> None:  # noqa: ANN401 - click's own arguments
        super().__init__(**rest)
        self._package = package
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the table's order."""
        del ctx
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now.

        Raises:
            ClickException: a library of an extra is not installed.
        """
        del ctx
        if cmd_name not in self._table:
            return None
        module, attribute, _ = self._table[cmd_name]
        try:
            command: click.Command = getattr(importlib.import_module(self._full_name(module)), attribute)
        except ModuleNotFoundError as error:
            raise click.ClickException(
                f"{cmd_name} needs the library {error.name}, which is not here: pip install 'pqcpki[all]'"
            ) from error
        return command

    def _full_name(self, module: str) -> str:
        return module if "." in module else f"{self._package}.{module}"

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table, without importing anything."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, sentence) for name, (_, _, sentence) in self._table.items()])
