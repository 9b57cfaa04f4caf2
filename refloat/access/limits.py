"""How often somebody may try: a bucket of tries per key, refilled over time."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

_MOST_KEYS = 10_000  # the oldest are forgotten: a flood of addresses must not fill the memory


class Throttle:
    """`burst` tries at once, then one every `every` seconds, for each key. Safe in threads."""

    def __init__(self, burst: int, every: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst, self._every, self._clock = burst, every, clock
        self._used: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key: tries in use, at what time
        self._lock = threading.Lock()

    def wait_for(self, key: str) -> float:
        """Seconds until this key may try again; 0: now, and the try is counted."""
        with self._lock:
            at = self._clock()
            used, since = self._used.get(key, (0.0, at))
            used = max(0.0, used - (at - since) / self._every)
            if used + 1 > self._burst:
                self._used.move_to_end(key)  # who is held back is not forgotten for those who came later
                return (used + 1 - self._burst) * self._every
            self._used[key] = (used + 1, at)
            self._used.move_to_end(key)
            while len(self._used) > _MOST_KEYS:
                self._used.popitem(last=False)
            return 0.0

    def forgive(self, key: str) -> None:
        """After a success: earlier failures no longer count."""
        with self._lock:
            self._used.pop(key, None)
