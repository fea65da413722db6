"""The command `dspex`: one module per command, each imported only when it is called.

- `bench`: measure ours and its peers in one run
"""

from __future__ import annotations

import importlib
from typing import Final

import click

import dspex_actors

__all__ = ["COMMANDS", "main"]

COMMANDS: Final = ("bench",)
"""Each names a module of this package whose `command` it is."""


class _Lazy(click.Group):
    """Imports a command's module when it is asked for: `dspex --help` imports nothing that is slow."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{cmd_name}")
        return module.command  # type: ignore[no-any-return]


@click.group(cls=_Lazy)
@click.version_option(dspex_actors.__version__, prog_name="dspex", message="%(prog)s %(version)s")
def main() -> None:
    """OTP for Python AI services: supervised actors that carry language-model programs."""
