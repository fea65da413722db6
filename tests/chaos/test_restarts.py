"""Three hundred restarts in a row."""

from __future__ import annotations

import os

import pytest

from tests.actors.restarts import kill_many_times
from tests.conftest import Running

TIMES = int(os.environ.get("N", "300"))


@pytest.mark.chaos
@pytest.mark.timeout(1800)
async def test_restarts_in_a_row(running: Running) -> None:
    """Without one hung child, and with as many descriptors in the supervisor as before."""
    outcome = await kill_many_times(running, TIMES)
    median, longest = outcome.seconds[TIMES // 2], outcome.seconds[-1]
    print(f"{TIMES} restarts: median {1000 * median:.1f} ms, longest {1000 * longest:.1f} ms; descriptors {outcome.after}")
    assert outcome.after <= outcome.before
