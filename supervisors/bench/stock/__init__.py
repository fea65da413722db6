"""Stock Thespian, as it is published, in processes of its own: what our tree is compared with.

    actors      its actors
    driver      the process that starts its actor system and measures (`python -m supervisors.bench.stock.driver`)
    peer        the bench's end: starts the driver where nobody else reaches it, asks it, and ends it

It listens on every interface and unpickles what arrives there. So it gets a network namespace with nothing but a
loopback interface in it where the machine allows that, and the bench says so where it does not.
"""

__all__: list[str] = []
