"""OTP for Python: servers and supervisors on Thespian processes, called over fast links, in a tree that leaves nothing behind.

What you use::

    Server                          the behaviour you subclass
    child, Supervisor               describe a tree
    embed, attach                   boot a node of your own, or find one; both give a Client
    Client, Ref                     reach servers by name
    sync                            the same without `await`
    errors, exits                   everything that can go wrong, and every way to end
    wire_type                       let your dataclasses, pydantic models and enums travel

The specification of supervision is `supervisors.supervisor`; the map of the modules:

- pure decisions: `spec`, `strategy`, `machine`, `exits`, `errors`
- behaviours: `server`, `mailbox`, `registry`
- ways in: `client`, `sync`, `ref`, `exchange`, `tree`, `rundir`
- `wire/`: the value codec, frames, links, the door of a supervisor, the secured Thespian system base
- `process/`: the law of processes
- `actors/`, `node/`: what runs inside a node; only these, and the system base, touch Thespian
"""

from supervisors import errors, exits, sync
from supervisors.client import Client, attach, embed
from supervisors.errors import (
    ActorDown,
    BadSpec,
    CallFailed,
    CallTimeout,
    NodeDown,
    NotRegistered,
    Overloaded,
    Refused,
    StartFailed,
    SupervisorsError,
    UnsupportedValue,
)
from supervisors.ref import Ref
from supervisors.server import Server
from supervisors.spec import ChildSpec, Restart, Strategy, Supervisor, child
from supervisors.wire.codec import wire_type
from supervisors.wire.vocabulary import Down

__all__ = [
    "ActorDown",
    "BadSpec",
    "CallFailed",
    "CallTimeout",
    "ChildSpec",
    "Client",
    "Down",
    "NodeDown",
    "NotRegistered",
    "Overloaded",
    "Ref",
    "Refused",
    "Restart",
    "Server",
    "StartFailed",
    "Strategy",
    "Supervisor",
    "SupervisorsError",
    "UnsupportedValue",
    "attach",
    "child",
    "embed",
    "errors",
    "exits",
    "sync",
    "wire_type",
]
