"""A module that starts a thread when it is imported; a tree of it cannot boot."""

from __future__ import annotations

import threading

from supervisors import Supervisor, child
from tests.servers import Probe

__all__ = ["TREE", "Threaded"]


class Threaded(Probe):
    """In the module with the thread."""


TREE = Supervisor("app", (child(Threaded),))
threading.Thread(target=threading.Event().wait, name="the culprit", daemon=True).start()
