"""A link that is not reliable: a proxy between callers and a server, which does to frames what no Unix socket does.

`async with faulty(ref, Faults(drop=0.01, double=0.01), seed=1) as route: await route.ref.call(...)`. What it does is
decided frame by frame, by a seeded generator: the same frames in the same order meet the same faults. Used in the event
loop of the ref, which may belong to any client or `Host`.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import struct
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from supervisors.errors import BadSpec
from supervisors.exchange import Exchange
from supervisors.rundir import base_directory
from supervisors.wire.frame_decoder import HEADER_SIZE

if TYPE_CHECKING:
    from types import TracebackType

    from supervisors.exits import ExitReason
    from supervisors.ref import Ref
    from supervisors.wire.vocabulary import Address

__all__ = ["FaultProxy", "Faults", "Route", "faulty"]

_CHUNK = 256 * 1024
_size_of = struct.Struct(">2xI").unpack_from  # where a frame's header has the length of its body


@dataclass(frozen=True, slots=True)
class Faults:
    """How many of the frames meet each fault, 0 to 1, in both directions and independently of each other."""

    drop: float = 0.0
    delay: float = 0.0
    """held back, so that later ones overtake it"""
    double: float = 0.0
    """sent twice"""
    garble: float = 0.0
    """some bytes of its body are others"""
    flip: float = 0.0
    """one byte is another, anywhere in it, its length included"""
    seconds: tuple[float, float] = (0.001, 0.03)
    """that a delayed frame is held back, from and to"""

    def __post_init__(self) -> None:
        for rate in (self.drop, self.delay, self.double, self.garble, self.flip):
            if not 0 <= rate <= 1:
                raise BadSpec("faults", f"{rate!r} is no rate: 0 to 1")


class FaultProxy:
    """Listens at `path` and passes every connection on to `target`, with faults. `faults` may be changed at any time."""

    def __init__(self, target: str, path: str, faults: Faults, seed: int = 0) -> None:
        self.faults = faults
        self.tally: Counter[str] = Counter()
        """frames by what was done to them: `frames`, `drop`, `delay`, `double`, `garble`, `flip`"""
        self._target = target
        self._path = path
        self._random = random.Random(seed)  # noqa: S311 - repeatable, no secret
        self._server: asyncio.Server | None = None
        self._pairs: set[asyncio.Task[None]] = set()
        self._delayed: set[asyncio.TimerHandle] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._pair, self._path, backlog=512)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for handle in self._delayed:
            handle.cancel()
        for pair in self._pairs:
            pair.cancel()
        await asyncio.gather(*self._pairs, return_exceptions=True)

    async def _pair(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from accept to end: what ends on one side ends on the other."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - it is one
        self._pairs.add(task)
        writers = [writer]
        try:
            other_reader, other_writer = await asyncio.open_unix_connection(self._target)
            writers.append(other_writer)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass_on(reader, other_writer))
                both.create_task(self._pass_on(other_reader, writer))
        except* OSError:
            pass  # one side has gone, or nobody is there
        finally:
            self._pairs.discard(task)
            for each in writers:
                each.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        waiting = bytearray()
        while data := await reader.read(_CHUNK):
            waiting += data
            while len(waiting) >= HEADER_SIZE:
                end = HEADER_SIZE + _size_of(waiting)[0]
                if len(waiting) < end:
                    break
                self._send(writer, bytes(waiting[:end]))
                del waiting[:end]
            await writer.drain()
        raise ConnectionResetError

    def _send(self, writer: asyncio.StreamWriter, frame: bytes) -> None:
        faults, chance = self.faults, self._random.random
        self.tally["frames"] += 1
        if chance() < faults.drop:
            self.tally["drop"] += 1
            return
        if chance() < faults.garble:
            self.tally["garble"] += 1
            frame = self._changed(frame, HEADER_SIZE, self._random.randint(1, 8))
        if chance() < faults.flip:
            self.tally["flip"] += 1
            frame = self._changed(frame, 0, 1)
        copies = 1
        if chance() < faults.double:
            self.tally["double"] += 1
            copies = 2
        for _ in range(copies):
            if chance() < faults.delay:
                self.tally["delay"] += 1
                self._send_later(writer, frame)
            else:
                writer.write(frame)

    def _send_later(self, writer: asyncio.StreamWriter, frame: bytes) -> None:
        def send() -> None:
            self._delayed.discard(handle)
            if not writer.is_closing():
                writer.write(frame)

        handle = asyncio.get_running_loop().call_later(self._random.uniform(*self.faults.seconds), send)
        self._delayed.add(handle)

    def _changed(self, frame: bytes, first: int, count: int) -> bytes:
        changed = bytearray(frame)
        for _ in range(count):
            changed[self._random.randrange(first, len(frame))] ^= self._random.randint(1, 255)
        return bytes(changed)


class Route:
    """The way through a proxy to one server; to each of its processes, when it is restarted. Made by `faulty`."""

    def __init__(self, ref: Ref, faults: Faults, seed: int, directory: Path) -> None:
        self._detour = _Detour(ref._exchange, directory, faults, seed)
        self.ref: Ref = self._detour.ref(ref.name)
        """as the ref it was made from, but by this way"""

    @property
    def faults(self) -> Faults:
        """What the proxy does from now on; may be set."""
        return self._detour.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._detour.faults = faults
        for proxy in self._detour.proxies.values():
            proxy.faults = faults

    @property
    def tally(self) -> Counter[str]:
        """Frames by what was done to them, see `FaultProxy.tally`."""
        return sum((proxy.tally for proxy in self._detour.proxies.values()), Counter())

    async def close(self) -> None:
        """End the proxies and the links through them."""
        await self._detour.close()
        for proxy in self._detour.proxies.values():
            await proxy.__aexit__(None, None, None)


@asynccontextmanager
async def faulty(ref: Ref, faults: Faults, *, seed: int = 0) -> AsyncIterator[Route]:
    """A way to the server of `ref` on which frames meet these faults. Looking up its name meets none."""
    directory = Path(tempfile.mkdtemp(prefix="sup-f-", dir=base_directory()))
    route = Route(ref, faults, seed, directory)
    try:
        yield route
    finally:
        with suppress(OSError):
            await route.close()
        shutil.rmtree(directory, ignore_errors=True)


class _Detour(Exchange):
    """Resolves as another exchange does, to a proxy before the server."""

    def __init__(self, straight: Exchange, directory: Path, faults: Faults, seed: int) -> None:
        super().__init__(directory)
        self.faults = faults
        self.proxies: dict[str, FaultProxy] = {}
        self._straight = straight
        self._seed = seed

    async def resolve(self, name: str, timeout: float, deadline: float) -> Address:
        address = await self._straight.resolve(name, timeout, deadline)
        path = str(self.directory / Path(address.path).name)
        if path not in self.proxies:
            proxy = self.proxies[path] = FaultProxy(address.path, path, self.faults, self._seed + len(self.proxies))
            await proxy.__aenter__()
        return replace(address, path=path)

    async def await_down(self, address: Address, timeout: float, deadline: float) -> ExitReason:
        straight = str(Path(address.door).parent / Path(address.path).name)
        return await self._straight.await_down(replace(address, path=straight), timeout, deadline)
