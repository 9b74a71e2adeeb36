"""The answer engine `vllm`: in a process of its own on this machine, or on a server."""

from __future__ import annotations

import asyncio
import atexit
import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from flexselect.engine.answer_engines import Generated, Prompt
from flexselect.families.base import VideoFamily
from flexselect.running.greedy import NewTokens
from flexselect_vllm.names import check_family


def check_engine(family: VideoFamily, url: str | None, options: dict[str, Any]) -> None:
    """Check what can be checked before weights are loaded.

    Raises:
        ValueError: for a family that is not answered for, a missing package or a wrong argument.
    """
    check_family(family)
    needed = "vllm" if url is None else "openai"
    if find_spec(needed) is None:
        other = "; or name a server with engine_url" if url is None else ""
        raise ValueError(f"engine=vllm needs the package {needed} here: pip install 'flexselect[vllm]'{other}")
    if url is not None and options:
        raise ValueError("engine_options are for vLLM on this machine; give those of a server to `vllm serve`")
    if url is not None and not url.startswith(("http://", "https://")):
        raise ValueError(f"engine_url must be an address like http://localhost:8000/v1, got {url}")


def open_engine(family: VideoFamily, url: str | None, options: dict[str, Any], dtype: str) -> VllmEngine:
    """Open vLLM on this machine, or a server at `url`; see `flexselect.engine.answer_engines`."""
    if url is None:
        from flexselect_vllm.here import VllmHere

        return VllmHere(family, options, dtype)
    from flexselect_vllm.server import VllmServer

    return VllmServer(family, url)


@dataclass(frozen=True)
class Token:
    """A new token, and the logarithm of its probability."""

    id: int
    log_probability: float


class VllmEngine(ABC):
    """Answers many prompts at a time, on an event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    @abstractmethod
    def tokens(self, prompt: Prompt) -> AsyncGenerator[Token, None]:
        """Yield the new tokens of a prompt as they come."""

    def submit(self, prompt: Prompt, on_token: Callable[[int], None]) -> Future[Generated]:
        """Begin to answer; see `AnswerEngine`."""
        return asyncio.run_coroutine_threadsafe(self._generate(prompt, on_token), self._loop)

    async def _generate(self, prompt: Prompt, on_token: Callable[[int], None]) -> Generated:
        began, first, ids, likely = time.perf_counter(), None, list[int](), 0.0
        async with aclosing(self.tokens(prompt)) as tokens:  # an error of `on_token` ends the request at once
            async for token in tokens:
                first = first or time.perf_counter()
                ids.append(token.id)
                likely += token.log_probability
                on_token(token.id)
        if math.isnan(likely):
            raise ValueError("the model's logits are NaN: use bfloat16 or float32, and check its weights")
        ended = time.perf_counter()
        first = first or ended
        return Generated(NewTokens(torch.tensor(ids, dtype=torch.long), likely), first - began, ended - first)

    def run(self, work: Any) -> Any:
        """Wait for a coroutine on the engine's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    @abstractmethod
    async def end(self) -> None:
        """End what runs elsewhere."""

    def close(self) -> None:
        """End the engine; prompts that run are given up."""
        atexit.unregister(self.close)
        if not self._loop.is_closed():
            self.run(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _end(self) -> None:
        await self.end()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
