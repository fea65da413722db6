"""A counter under a supervisor: the smallest whole thing. Run it: python examples/counter.py."""

import asyncio

from supervisors import Refused, Server, Supervisor, child, embed


class Counter(Server):
    async def init(self, start: int = 0) -> None:
        self.value = start

    async def handle_call(self, message: object) -> int:
        match message:
            case "get":
                return self.value
            case ("add", int(amount)):
                self.value += amount
                return self.value
        raise Refused(f"a counter knows 'get' and ('add', n), not {message!r}")


TREE = Supervisor("app", (child(Counter, name="counter", args=(40,)),))


async def main() -> None:
    async with embed(TREE) as client:
        counter = client.ref("counter")
        print("the counter says", await counter.call(("add", 2)))


if __name__ == "__main__":
    asyncio.run(main())
