"""A server that `vllm serve` runs on an engine folder."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import AsyncGenerator
from typing import Any

import torch
from torch import Tensor

from flexselect.engine.answer_engines import Prompt
from flexselect.families.base import VideoFamily
from flexselect.validation import EngineLostError
from flexselect_vllm.engine import Token, VllmEngine
from flexselect_vllm.folder import served_name
from flexselect_vllm.prompt import fields_of

KEY_VARIABLE = "VLLM_API_KEY"  # vLLM's own name


class VllmServer(VllmEngine):
    """The model at an address of OpenAI's kind.

    Args:
        family: the family; the server must have its checkpoint.
        url: address, such as http://localhost:8000/v1.

    Raises:
        ValueError: if nothing answers there, or it has other weights.
    """

    def __init__(self, family: VideoFamily, url: str) -> None:
        from openai import APIError, AsyncOpenAI, AuthenticationError, NotFoundError

        super().__init__()
        self.url, self.name = url, served_name(family)
        self._client = AsyncOpenAI(base_url=url, api_key=os.environ.get(KEY_VARIABLE) or "none")

        async def models() -> list[str]:
            return [model.id async for model in self._client.models.list()]

        try:
            names = self.run(models())
        except AuthenticationError as error:
            raise ValueError(f"the server at engine_url={url} asks for another key: set {KEY_VARIABLE}") from error
        except NotFoundError as error:
            raise ValueError(
                f"the server at engine_url={url} lists no models: its address should end in /v1"
            ) from error
        except APIError as error:
            raise ValueError(f"no server answers at engine_url={url}: {error}") from error
        if self.name not in names:
            raise ValueError(
                f"the server at engine_url={url} has {', '.join(names)}, not {self.name}: start it on the folder that "
                "`python -m flexselect_vllm MODEL FOLDER` writes for this checkpoint"
            )

    async def end(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def tokens(self, prompt: Prompt) -> AsyncGenerator[Token, None]:
        """Yield the new tokens of a prompt as they come."""
        from openai import APIConnectionError, APIError, BadRequestError, NotFoundError

        item = {name: encoded(tensor) for name, tensor in fields_of(prompt).items()}
        try:
            stream: Any = await self._client.chat.completions.create(
                model=self.name,
                messages=[{"role": "user", "content": [{"type": "video_embeds", "video_embeds": item}]}],  # type: ignore[list-item, misc]
                max_completion_tokens=prompt.max_new_tokens,
                temperature=0.0,
                logprobs=True,
                stream=True,
                extra_body={
                    "repetition_penalty": prompt.repetition_penalty,
                    "stop_token_ids": prompt.ends,
                    "ignore_eos": True,  # `ends` has all ids that end an answer
                    "return_token_ids": True,
                },
            )
            async for chunk in stream:
                for choice in chunk.choices:
                    ids = (choice.model_extra or {}).get("token_ids") or ()
                    likely = choice.logprobs.content if choice.logprobs and choice.logprobs.content else ()
                    for token, content in zip(ids, likely):
                        yield Token(token, content.logprob)
        except BadRequestError as error:
            raise ValueError(f"vLLM: {error}") from error
        except (APIConnectionError, NotFoundError) as error:
            raise EngineLostError(f"the server at engine_url={self.url} has gone: {error}") from error
        except APIError as error:
            raise RuntimeError(f"the server at engine_url={self.url} did not answer: {error}") from error


def encoded(tensor: Tensor) -> str:
    """Return a tensor as vLLM's server reads it: what `torch.save` writes, in base64."""
    file = io.BytesIO()
    torch.save(tensor.contiguous(), file)
    return base64.b64encode(file.getvalue()).decode()
