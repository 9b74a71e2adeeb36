"""How many requests are taken in at a time: a bounded queue, and a bound for each client."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter

from flexselect.serving.refusals import RefusedError

LONGEST_WAIT = 60  # seconds that a client is told to wait at most


class Place:
    """A request's place, from its arrival until `leave`, which may be called several times."""

    def __init__(self, places: Places, client: str) -> None:
        self.places, self.client = places, client
        self._since: float | None = time.monotonic()

    def leave(self) -> None:
        """Free the place."""
        with self.places.lock:
            if self._since is None:
                return
            spent, self._since = time.monotonic() - self._since, None
            self.places.seconds += 0.1 * (spent / max(1, self.places.taken) - self.places.seconds)
            self.places.taken -= 1
            self.places.by_client[self.client] -= 1
            if self.places.by_client[self.client] <= 0:
                del self.places.by_client[self.client]


class Places:
    """All places. Thread-safe.

    Args:
        most: requests that are answered or wait.
        per_client: of one client, which is an IP address.
    """

    def __init__(self, most: int, per_client: int) -> None:
        self.most, self.per_client = most, per_client
        self.taken, self.seconds = 0, 1.0  # requests now, and seconds that one takes by itself
        self.by_client: Counter[str] = Counter()
        self.lock = threading.Lock()

    def take(self, client: str) -> Place:
        """Take a place.

        Raises:
            RefusedError: status 429 if there is none; it says when to come again.
        """
        with self.lock:
            wait = min(LONGEST_WAIT, max(1, math.ceil(self.seconds * self.taken)))
            if self.taken >= self.most:
                reason = f"{self.taken} requests wait already: try again in {wait} s"
                raise RefusedError(429, reason, code="queue_full", retry_after=wait)
            if self.by_client[client] >= self.per_client:
                reason = f"{self.per_client} requests of this client wait already: try again in {wait} s"
                raise RefusedError(429, reason, code="too_many_of_one_client", retry_after=wait)
            self.taken += 1
            self.by_client[client] += 1
        return Place(self, client)
