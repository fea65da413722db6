"""`python -m supervisors.node TREE`: run a node from a command line, or from a host (with `--embedded`).

The process gets a run token into its environment by executing itself once more: only what stood there at an exec is
visible to others in `/proc`, and by it every process of this node is known. The token begins with the pid, which an exec
keeps: so one that was inherited, from a node that this node's shell descends from, is never taken for its own.
"""

from __future__ import annotations

import argparse
import importlib
import os
import secrets
import sys
from contextlib import suppress
from typing import Any

from supervisors.errors import BadSpec, NodeError, SupervisorsError
from supervisors.node.preload import import_all
from supervisors.process.procfs import RUN_TOKEN

__all__ = ["main"]

_BAD_USAGE = 2
_INTERRUPTED = 130


def main(arguments: list[str]) -> int:
    """Parse, make the configuration, run the node. Returns the exit status: 0 stopped in order, 1 failed, 2 bad usage."""
    parser = argparse.ArgumentParser(prog="python -m supervisors.node", description="Run a supervision tree as a node.")
    parser.add_argument("tree", nargs="?", help="package.module:NAME of a Supervisor")
    parser.add_argument("--name", default="local", help="the node's name; clients attach by it (default: %(default)s)")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="MODULE", help="a module whose classes may become servers"
    )
    parser.add_argument(
        "--preload", action="append", default=[], metavar="MODULE", help="a module to import before anything is forked"
    )
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    parser.add_argument("--stop-timeout", type=float, default=30.0, metavar="SECONDS")
    parser.add_argument("--embedded", type=int, metavar="FD", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.embedded is not None:
        return _embedded(options.embedded)
    if options.tree is None:
        parser.error("name a tree: package.module:NAME of a Supervisor")
    own = f"{os.getpid()}."
    if not os.environ.get(RUN_TOKEN, "").startswith(own):
        os.environ[RUN_TOKEN] = own + secrets.token_hex(16)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - ourselves
    try:
        return _standalone(options)
    except (NodeError, BadSpec) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)  # noqa: T201 - a command line's way to say so
        return _BAD_USAGE
    except KeyboardInterrupt:  # while it still imported; later on the node has a handler
        return _INTERRUPTED


def _embedded(notify: int) -> int:
    """Configured through standard input by the host, which hears through `notify` what came of it."""
    from supervisors.exits import Crash
    from supervisors.node.zygote import Zygote
    from supervisors.wire.codec import pack, unpack

    os.set_inheritable(notify, False)

    def tell(report: dict[str, Any]) -> None:
        data = pack(report)
        with suppress(OSError):  # a host that has gone: the node finds that out by itself
            os.write(notify, len(data).to_bytes(4, "big") + data)

    data = sys.stdin.buffer.read()
    if not data:
        return 1  # the host has gone before it said what it wants
    try:
        message = unpack(data)
        # First what the configuration's own values are made of, then the configuration.
        import_all(message["path"], message["main"], message["modules"])
        config = unpack(message["config"])
    except SupervisorsError as error:
        tell({"failed": Crash(type(error).__name__, str(error))})
        return 1
    return Zygote(config, tell).run()


def _standalone(options: argparse.Namespace) -> int:
    from supervisors.node.config import NodeConfig
    from supervisors.node.zygote import Zygote
    from supervisors.rundir import named
    from supervisors.spec import modules_of

    tree = _load(options.tree)
    import_all([], None, [*modules_of(tree), *options.allow, *options.preload])
    config = NodeConfig(
        tree=tree,
        directory=str(named(options.name)),
        name=options.name,
        allowed=frozenset(options.allow),
        log_level=options.log_level,
        stop_timeout=options.stop_timeout,
    )
    return Zygote(config, lambda _report: None).run()


def _load(path: str) -> Any:
    """The supervisor of an import path. Raises `NodeError` with one sentence that says what is wrong with it."""
    from supervisors.spec import Supervisor

    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute.isidentifier():
        raise NodeError(f"{path!r} names no tree; name it as package.module:NAME")
    sys.path.insert(0, "")
    import_all([], None, [module_name])
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except AttributeError:
        raise NodeError(f"{module_name} has nothing called {attribute}; name the tree as package.module:NAME") from None
    if not isinstance(found, Supervisor):
        raise NodeError(f"{path} is a {type(found).__name__}, not a Supervisor")
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
