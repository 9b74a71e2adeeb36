"""Let others use the model while one answer is waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from flexselect.engine.answer_engines import AnswerEngine, Generated, Prompt


class UnlockedEngine:
    """An answer engine of a model that is used under a lock, which is free while an answer is waited for.

    Args:
        engine: the engine.
        lock: held by whoever uses the model.
    """

    def __init__(self, engine: AnswerEngine, lock: threading.Lock) -> None:
        self.engine, self.lock = engine, lock

    def submit(self, prompt: Prompt, on_token: Callable[[int], None]) -> UnlockedFuture:
        """Begin to answer; see `AnswerEngine`."""
        return UnlockedFuture(self.engine.submit(prompt, on_token), self.lock)

    def close(self) -> None:
        """End it."""
        self.engine.close()


class UnlockedFuture(Future[Generated]):
    """A future that is waited for without the lock."""

    def __init__(self, future: Future[Generated], lock: threading.Lock) -> None:
        super().__init__()
        self.future, self.lock = future, lock

    def result(self, timeout: float | None = None) -> Generated:
        """Wait for the answer."""
        self.lock.release()
        try:
            return self.future.result(timeout)
        finally:
            self.lock.acquire()

    def cancel(self) -> bool:
        """Give the answer up."""
        return self.future.cancel()
