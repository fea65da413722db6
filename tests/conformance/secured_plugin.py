"""A pytest plugin that puts our system base in the place of Thespian's, for Thespian's own tests.

Loaded by `run.py` with ``-p``, never by our own tests. Thespian finds a base by importing a module of its name;
the plugin lays one of ours under that name. The lists are widened here, and only here, to the classes that
Thespian's tests send and create: a test-only object, which production has no switch for.
"""

import enum
import importlib
import os
import sys
import types
from typing import Any

import thespian.system
from thespian.system.sourceLoader import SourceHashFinder

from supervisors.wire.control_codec import AllowList
from supervisors.wire.control_plane import ControlPlane, install
from supervisors.wire.sealing import Rejected, Rejection
from supervisors.wire.system_base import SecuredSystemBase

BASE = "thespian.system.multiprocTCPBase"


class WideList(AllowList):
    """Every class of Thespian's own modules, of its tests, and of the sources that its tests load."""

    def message(self, name: str) -> type:
        try:
            return super().message(name)
        except Rejected:
            return self._import(name)

    value = message

    def check_actor(self, name: object) -> None:
        """Any actor may be created."""

    @staticmethod
    def _import(name: str) -> type:
        module, _, qualified = name.partition(":")
        loaded_source = any(
            isinstance(finder, SourceHashFinder) and module.startswith(finder.hashRoot()) for finder in sys.meta_path
        )
        if not module.startswith("thespian.") and not loaded_source:
            raise Rejected(Rejection.REFUSED_CLASS)
        found: Any = importlib.import_module(module)
        for part in qualified.split("."):
            found = getattr(found, part)
        if not isinstance(found, type) or issubclass(found, enum.Enum):
            raise Rejected(Rejection.REFUSED_CLASS)
        return found


def pytest_configure() -> None:
    """Called by pytest before it collects."""
    install(
        ControlPlane(
            key=os.urandom(32),
            admin_port=1900,  # Thespian's default; its tests name their own ports
            allow=WideList(),
            max_frame=256 << 20,
            max_items=1 << 28,
        )
    )
    module = types.ModuleType(BASE)
    module.__dict__["ActorSystemBase"] = SecuredSystemBase
    sys.modules[BASE] = module
    vars(thespian.system)["multiprocTCPBase"] = module
