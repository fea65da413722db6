"""What users test their own servers with.

- `Host`: servers in the test's own event loop, behind real links; no process, no node.
- `faulty`, `FaultProxy`, `Faults`: a link that drops, delays, doubles and garbles frames, at given rates and from a seed.
"""

from supervisors.testing.fault_proxy import FaultProxy, Faults, faulty
from supervisors.testing.host import Host, Hosted

__all__ = ["FaultProxy", "Faults", "Host", "Hosted", "faulty"]
