"""`dspex bench`: measure ours and its peers in one run, in turns.

Exit status 0 when measured, met or not; 1 when it could not be measured; 2 for bad usage.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from typing import Any

import click

__all__ = ["command"]

BENCHES = {"actors": "supervisors.bench.actors", "recovery": "supervisors.bench.recovery"}


@click.command("bench", help="Measure ours and its peers in one run. NAME is one of: " + ", ".join(BENCHES) + ".")
@click.argument("name", type=click.Choice(list(BENCHES)), metavar="NAME")
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True, help="How many turns everybody gets.")
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), default=0.4, show_default=True, help="How long a turn is."
)
@click.option("--calls", type=click.IntRange(min=1), help="How many calls a turn has, instead of --seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def command(name: str, rounds: int, seconds: float, calls: int | None, as_json: bool) -> None:  # noqa: FBT001 - click's
    """Called by click, in the first thread."""
    import uvloop
    from rich.console import Console

    from supervisors.bench import BenchFailed, Effort
    from supervisors.errors import SupervisorsError

    module: Any = importlib.import_module(BENCHES[name])
    shown = Console(stderr=True)

    def tell(sentence: str) -> None:
        if sentence.startswith("notice") or shown.is_terminal:
            shown.print(sentence, end="\n" if sentence.startswith("notice") else "\r", highlight=False, soft_wrap=True)

    try:
        effort = Effort(rounds, seconds, calls)
    except ValueError as error:
        raise click.UsageError(f"--seconds and --rounds: {error}") from None
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            report = runner.run(module.run(effort, tell))
    except (BenchFailed, SupervisorsError, OSError) as error:
        click.echo(f"dspex bench {name}: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo(f"dspex bench {name}: interrupted; nothing is left running", err=True)
        sys.exit(130)
    if as_json:
        click.echo(report.to_json())
    else:
        report.print_table(Console())
