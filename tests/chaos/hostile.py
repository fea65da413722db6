"""Bytes that no peer of ours would send, for every listening socket of a node."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from supervisors.wire import frames
from supervisors.wire.frame_decoder import header

__all__ = ["Touch", "crafted", "listening", "noise", "throw"]


class Touch:
    """Unpickled anywhere, it would make a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")


def listening(pids: list[int]) -> list[tuple[str, int] | str]:
    """Every TCP address and every Unix path on which these processes listen."""
    found: set[tuple[str, int] | str] = set()
    for pid in pids:
        for each in psutil.Process(pid).net_connections(kind="all"):
            address: Any = each.laddr  # of a Unix socket it is a str, which psutil's types do not say
            if each.status == psutil.CONN_LISTEN:
                found.add((address.ip, address.port))
            elif isinstance(address, str) and address.startswith("/") and os.path.exists(address):
                found.add(address)
    return sorted(found, key=str)


def crafted(marker: str, recorded: bytes = b"") -> list[bytes]:
    """Pickles, bombs, lies about lengths, wrong codes, replays."""
    evil = pickle.dumps(Touch(marker))
    bomb = b"\xdd\xff\xff\xff\xff" * 2000  # arrays of four billion arrays
    deep = b"\x91" * 100_000
    call = frames.encode_call(1, None, None, None, "hello")
    return [
        evil,
        b"%d>" % len(evil) + evil,
        b"99999999999>" + evil,
        b">" * 1000,
        header(evil) + evil,
        header(bomb) + bomb,
        header(deep) + deep,
        struct.pack(">HIII", 0xD5F0, 0xFFFFFFFF, 0, 0) + bytes(100_000),
        call[:-1],
        call * 3,
        call[: len(call) // 2] + os.urandom(7) + call,
        frames.encode_reply(1, "nobody asked"),
        frames.encode_cancel(999),
        frames.encode_credit(5, 2**32 - 1),
        recorded,
    ]


def noise(chance: random.Random) -> Iterator[bytes]:
    """Random bytes of random lengths, without an end."""
    while True:
        yield chance.randbytes(chance.choice((1, 10, 100, 5000)))


async def throw(address: tuple[str, int] | str, data: bytes) -> None:
    """Connect, send, and leave; what the peer answers or does is its business."""
    try:
        async with asyncio.timeout(2.0):
            if isinstance(address, str):
                _, writer = await asyncio.open_unix_connection(address)
            else:
                _, writer = await asyncio.open_connection(*address)
            writer.write(data)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
    except OSError:
        pass


def marker_of(directory: Path) -> Path:
    """The file that must never come to be."""
    return directory / "unpickled"
