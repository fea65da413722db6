"""Which ids have arrived on a connection: so that a doubled frame is executed once. Pure."""

from __future__ import annotations

__all__ = ["WINDOW", "Arrivals"]

WINDOW = 4096
"""How far behind the newest id a delayed frame may still arrive."""


class Arrivals:
    """The ids that one peer has used; it counts them up. In order, this costs one comparison."""

    __slots__ = ("_missing", "_next", "arrived", "doubles", "unknown")

    def __init__(self) -> None:
        self._next = 0
        self._missing: set[int] = set()
        self.arrived = 0
        self.doubles = 0
        self.unknown = 0

    @property
    def newest(self) -> int:
        """The greatest id that has arrived, 0 before the first."""
        return max(0, self._next - 1)

    def is_new(self, id_: int) -> bool:
        """Whether this id arrives for the first time; a double, or one too old to tell, is counted and refused."""
        if id_ == self._next:
            self._next += 1
        elif id_ > self._next:
            # A frame was lost or is delayed: its id may still come, as long as it is not too far behind.
            first = max(self._next, id_ - WINDOW)
            self._missing.update(range(first, id_))
            self._next = id_ + 1
            if len(self._missing) > WINDOW:
                oldest = self._next - WINDOW
                self._missing = {each for each in self._missing if each >= oldest}
        elif id_ in self._missing:
            self._missing.discard(id_)
        else:
            self.doubles += 1
            return False
        self.arrived += 1
        return True
