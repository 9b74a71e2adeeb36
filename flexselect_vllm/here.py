"""vLLM on this machine, in a process of its own."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from flexselect.engine.answer_engines import Prompt
from flexselect.families.base import VideoFamily
from flexselect.validation import EngineLostError
from flexselect_vllm.engine import Token, VllmEngine
from flexselect_vllm.folder import levels_of, write_engine_folder
from flexselect_vllm.plugin import register
from flexselect_vllm.prompt import ARGUMENTS, MODALITY, fields_of

LOGGING = {"VLLM_LOGGING_STREAM": "ext://sys.stderr", "VLLM_LOGGING_LEVEL": "WARNING"}  # standard output has answers
SPARE = 0.9  # of the GPU's free memory, for vLLM's weights and cache


class VllmHere(VllmEngine):
    """vLLM in a process of its own, with the language model of a family's checkpoint.

    Args:
        family: the family.
        options: arguments of vLLM's engine, such as `tensor_parallel_size`.
        dtype: data type of the weights.

    Raises:
        ValueError: for an argument that vLLM does not have.
        RuntimeError: if it does not start.
    """

    def __init__(self, family: VideoFamily, options: dict[str, Any], dtype: str) -> None:
        for name, value in LOGGING.items():
            os.environ.setdefault(name, value)
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        super().__init__()
        self._vllm: Any = None
        register()
        self._folder = TemporaryDirectory(prefix="flexselect-vllm-", ignore_cleanup_errors=True)
        folder = write_engine_folder(family, Path(self._folder.name))
        chosen = {**ARGUMENTS, "dtype": dtype, "skip_tokenizer_init": True, **memory_share(), **options}
        try:
            arguments = AsyncEngineArgs(model=str(folder), **chosen)
        except TypeError as error:
            raise ValueError(f"engine_options: vLLM has no such argument ({error})") from error

        async def start() -> Any:
            return AsyncLLM.from_engine_args(arguments)

        try:
            self._vllm = self.run(start())
        except Exception as error:  # of any kind, from its own process
            hint = 'a script needs `if __name__ == "__main__":` around its work, since vLLM starts a process of its own'
            raise RuntimeError(f"vLLM did not start ({error}): its messages above say why; {hint}") from error
        self._longest = self._vllm.model_config.max_model_len
        self._numbers = itertools.count()
        width = family.model_config.get_text_config().hidden_size * (1 + levels_of(family))
        nothing = torch.zeros(16, width, dtype=self._vllm.model_config.dtype)
        ids = torch.arange(16)
        warm_up = Prompt(nothing, ids[:, None].expand(-1, 3), ids, [], 1.0, 1)  # so that no question waits for it
        self.submit(warm_up, lambda token: None).result()

    async def tokens(self, prompt: Prompt) -> AsyncGenerator[Token, None]:
        """Yield the new tokens of a prompt as they come."""
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError

        sampling = SamplingParams(
            temperature=0.0,
            max_tokens=prompt.max_new_tokens,
            logprobs=0,
            repetition_penalty=prompt.repetition_penalty,
            stop_token_ids=prompt.ends,
            ignore_eos=True,  # `ends` has all ids that end an answer
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        length, new = len(prompt.ids), prompt.max_new_tokens
        if length + new > self._longest:
            raise ValueError(
                f"vLLM: the prompt has {length} tokens, with max_new_tokens={new} more than max_model_len="
                f"{self._longest}: raise that in engine_options, or lower the budget"
            )
        item = {"prompt_token_ids": [0], "multi_modal_data": {MODALITY: fields_of(prompt)}}
        try:
            async for output in self._vllm.generate(item, sampling, f"flexselect-{next(self._numbers)}"):
                completion = output.outputs[0]
                for token, likely in zip(completion.token_ids, completion.logprobs or ()):
                    yield Token(token, likely[token].logprob)
        except VLLMClientError as error:
            raise ValueError(f"vLLM: {error}") from error
        except EngineDeadError as error:
            raise EngineLostError(f"vLLM's process has ended; its messages say why ({error})") from error

    async def end(self) -> None:
        """End vLLM's process."""
        if self._vllm is not None:
            self._vllm.shutdown()
            self._vllm = None
        self._folder.cleanup()


def memory_share() -> dict[str, float]:
    """Return the share of a GPU's memory that vLLM may take, since this process holds weights there too."""
    if not torch.cuda.is_available():
        return {}
    free, total = torch.cuda.mem_get_info()
    return {"gpu_memory_utilization": round(SPARE * free / total, 3)}
