"""What a node imports, once, before anything is forked: every server has it at once, and all share its pages.

Called in the node's only thread. An import that starts a thread is found later, before the first fork.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from supervisors.errors import NodeError
from supervisors.spec import MAIN_MODULE

__all__ = ["import_all"]


def import_all(path: Iterable[str], main: str | None, modules: Iterable[str]) -> None:
    """Extend `sys.path`, then import the host's script (if any) and the modules. Raises `NodeError` naming what fails."""
    for entry in path:
        if entry not in sys.path:
            sys.path.append(entry)
    if main is not None:
        _import_main(main)
    for name in sorted(set(modules) - {MAIN_MODULE}):
        with _named(name):
            importlib.import_module(name)


def _import_main(path: str) -> None:
    """Import the host's script under another name, so that its classes are found; what stands under `__main__` does not run."""
    spec = importlib.util.spec_from_file_location(MAIN_MODULE, path)
    if spec is None or spec.loader is None:
        raise NodeError(f"{path} cannot be imported; move its servers to a module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[MAIN_MODULE] = module
    with _named(path):
        spec.loader.exec_module(module)


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Whatever an import raises becomes one sentence that says whose import it was. A module may also call `sys.exit`."""
    try:
        yield
    except NodeError:
        raise
    except (Exception, SystemExit) as error:
        raise NodeError(f"{what} does not import: {type(error).__name__}: {error}") from error
