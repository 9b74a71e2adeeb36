"""The lmms-eval model: `lmms-eval eval --model flexselect --model_args pretrained=DIR,selector=self ...`."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.protocol import ChatMessages
from tqdm import tqdm

from flexselect import FlexSelect
from flexselect.pipeline import VideoSession
from flexselect.storage.json_lines import append_line
from flexselect.validation import raise_if_lost
from flexselect_lmms.arguments import answers_file, check_identity, check_names, options

log = logging.getLogger(__name__)


class FlexSelectLMMS(lmms):
    """FlexSelect as a chat model of lmms-eval: requests with one video each, greedy answers.

    Args:
        pretrained: folder or hub id of the VideoLLM.
        batch_size: must be 1; lmms-eval passes it.
        max_batch_size: unused; lmms-eval passes it.
        device: device of the model; None: this process's GPU, else the CPU.
        weights: hash of model and selector, checked against the loaded weights, so that lmms-eval's response cache,
            which compares these arguments, is right. `python -m flexselect_lmms` prints it.
        answers: file that gets a line of JSON for each answer, with its moments, as lmms-eval's own files have no place
            for them; the second process appends `-1` to its name, and so on. Answers from the cache are not written.
        arguments: options of `FlexSelect.from_pretrained` and numbers of the family, such as selector, budget,
            reference_layer, reduction, fps, max_frames; the names of the released scripts work too.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        weights: str | None = None,
        answers: str | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        if str(batch_size) != "1":
            log.warning("questions are answered one by one: batch_size=%s has no effect", batch_size)
        self._rank, self._world_size = (int(os.environ.get(name, i)) for i, name in enumerate(("RANK", "WORLD_SIZE")))
        local = int(os.environ.get("LOCAL_RANK", 0))
        if device is None or (device == "cuda" and self._world_size > 1):
            device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self._answers = None if answers is None else answers_file(answers, self._rank)
        chosen = options(arguments)
        check_names(pretrained, chosen)
        check_identity(weights, pretrained, chosen.get("selector"))
        self.flexselect = FlexSelect.from_pretrained(pretrained, device=self.device, **chosen)

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer requests in order; each video is opened once for all its questions."""
        parsed = [_parse_request(self.task_dict, request) for request in requests]
        order = sorted(range(len(parsed)), key=lambda i: parsed[i][0])
        answers: dict[int, GenerationResult] = {}
        path, session = "", None
        for i in tqdm(order, desc="FlexSelect", disable=self.rank != 0):
            video, question, max_new_tokens = parsed[i]
            if video != path:
                path, session = video, self._open(video)
            answers[i] = self._answer(session, question, max_new_tokens, _origin(requests[i]))
        return [answers[i] for i in range(len(requests))]

    def _open(self, video: str) -> VideoSession | None:
        try:
            return self.flexselect.open(video)
        except (ValueError, OSError, RuntimeError) as error:  # one bad video must not stop the run
            raise_if_lost(error)
            log.error("%s; its questions are answered with nothing", error)
            return None

    def _answer(
        self, session: VideoSession | None, question: str, max_new_tokens: int, origin: dict[str, Any]
    ) -> GenerationResult:
        if session is None:
            return GenerationResult("")
        try:
            answer = session.ask(question, max_new_tokens)
        except (ValueError, RuntimeError) as error:
            raise_if_lost(error)
            log.error("%s; answered with nothing", error)
            return GenerationResult("")
        if self._answers is not None:
            append_line(self._answers, {**origin, "video": str(session.video), **answer.to_dict()})
        return GenerationResult(answer.text, TokenCounts(input_tokens=answer.num_kept_tokens))

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not supported: FlexSelect answers in words."""
        raise NotImplementedError("FlexSelect answers questions; it has no task of likelihoods")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not supported: FlexSelect answers one question at a time."""
        raise NotImplementedError("FlexSelect answers one question at a time; it has no task of several rounds")


def _origin(request: Instance) -> dict[str, Any]:
    """Return task and document of a request, as in lmms-eval's samples."""
    *_, doc_id, task, _ = request.args
    return {"task": task, "doc_id": doc_id}


def _parse_request(tasks: Any, request: Instance) -> tuple[str, str, int]:
    """Return video, question and maximum length of a request.

    Raises:
        ValueError: if it does not have exactly one video, or asks for sampling.
    """
    _, doc_to_messages, generation, doc_id, task, split = request.args
    messages = ChatMessages(messages=doc_to_messages(tasks[task][split][doc_id]))
    images, videos, audios = messages.extract_media()
    if len(videos) != 1 or images or audios:
        content = f"{len(videos)} videos, {len(images)} images, {len(audios)} sounds"
        raise ValueError(f"{task} has {content} per question; FlexSelect answers questions about one video")
    if generation.get("do_sample") or (generation.get("temperature") or 0) > 0:
        raise ValueError(f"{task} wants sampled answers ({generation}); FlexSelect answers greedily")
    text = "".join(part.text for message in messages.messages for part in message.content if part.type == "text")
    return str(videos[0]), text, int(generation.get("max_new_tokens", 16))
