"""How much of what is scarce each client may hold. Policy alone: standard library only.

The threshold moves (Choudhury and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet
Switches", IEEE/ACM Transactions on Networking 6(2), 1998): a client may hold at most `ALPHA` times
what is free. One client alone has four fifths of the total, n clients that want everything have 4 /
(4n + 1) each, and something is always left for the next client.
"""

from collections.abc import Mapping

ALPHA = 4


def with_reserve(alone: int) -> int:
    """The total of which one client alone may hold so much."""
    return alone + -(-alone // ALPHA)


class Shares:
    """Who holds how much of one thing, `total` in all: `alone` of it for a client without others.

    A client that holds nothing may take whatever is free, so a share is never too small for one
    request.
    """

    def __init__(self, alone: int) -> None:
        self.total = with_reserve(alone)
        self.taken = 0
        self._held: dict[str, int] = {}

    @property
    def clients(self) -> int:
        """How many hold something."""
        return len(self._held)

    @property
    def by_client(self) -> Mapping[str, int]:
        """What each holds."""
        return self._held

    def held(self, client: str) -> int:
        """What a client holds."""
        return self._held.get(client, 0)

    def most(self, client: str) -> int:
        """What a client may hold now, by what the others leave."""
        return (self.total - self.taken + self.held(client)) * ALPHA // (ALPHA + 1)

    def fits(self, client: str, amount: int = 1) -> bool:
        """Whether a client may take so much more."""
        held = self._held.get(client, 0)
        return held + amount <= (self.most(client) if held else self.total - self.taken)

    def take(self, client: str, amount: int = 1) -> None:
        """Note what a client holds more; less, where the amount is negative."""
        self.taken += amount
        held = self.held(client) + amount
        if held:
            self._held[client] = held
        else:
            self._held.pop(client, None)
