"""One request on a thread of its own, and the way of its pieces to the thread that speaks with clients."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from flexselect.running.greedy import end_ids
from flexselect.serving.chat import Chat
from flexselect.serving.refusals import RefusedError, bad, internal
from flexselect.serving.videos.media import Media
from flexselect.serving.videos.video_store import LeftError, VideoStore
from flexselect.session import VideoSession
from flexselect.structures.answer import Answer
from flexselect.validation import EngineLostError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """An answer, and what a reply says about it."""

    answer: Answer
    key: str  # hash of the video's content
    reused: bool  # whether the video had been encoded before
    text_tokens: int  # of the prompt
    finished: bool  # whether the answer ended by itself


class Job:
    """A request. `run` belongs to a thread that may wait, everything else to the event loop.

    Args:
        chat: the request.
        media: its video.
        store: the encoded videos.
    """

    def __init__(self, chat: Chat, media: Media, store: VideoStore) -> None:
        self.chat, self.media, self.store = chat, media, store
        self.left = False  # whether the client went away
        self.pieces: asyncio.Queue[str | Outcome | RefusedError] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def run(self) -> None:
        """Answer, unless the client has left."""
        try:
            if not (self.left or self.store.closed):
                with self.store.modes.lock:
                    self._tell(self._answer())
        except LeftError:
            log.debug("a client left before its answer")
        except Exception as error:
            self._tell(self._refusal(error))

    def _tell(self, piece: str | Outcome | RefusedError) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.pieces.put_nowait, piece)

    def _piece(self, text: str) -> None:
        if self.left or self.store.closed:
            raise LeftError
        if text:
            self._tell(text)

    def _answer(self) -> Outcome:
        chat = self.chat
        try:
            session, reused = self.store.open((self.media.key, chat.reading), self.media.source, chat.selector)
            answer = session.ask(
                chat.question,
                chat.max_new_tokens,
                budget=chat.budget,
                verify=chat.verify,
                history=chat.history,
                on_text=self._piece,
            )
        except torch.OutOfMemoryError:
            self.store.clear()
            raise
        finally:
            self.store.settle()
        self.store.modes.lost = False
        lm = session.engine.lm
        ends = end_ids(lm.model, lm.prompter.end_of_turn)
        assert answer.ids is not None
        finished = len(answer.ids) < chat.max_new_tokens or int(answer.ids[-1]) in ends
        return Outcome(answer, self.media.key, reused, _text_tokens(session, chat), finished)

    def _refusal(self, error: Exception) -> RefusedError:
        """Translate an error for the client, without a path of this machine."""
        if isinstance(error, RefusedError):
            return error
        if isinstance(error, EngineLostError):
            log.error("%s", error)
            self.store.modes.lost = True
            return RefusedError(
                503, "what runs the language model is gone: ask the server's operator to start it again"
            )
        if isinstance(error, torch.OutOfMemoryError):
            return RefusedError(503, "the machine has no memory for this: ask about a part of the video, or later")
        source = self.media.source
        text = str(error)[:500]
        if isinstance(source, Path):
            text = text.replace(f"{source}: ", "the video ").replace(str(source), "the video")
        if isinstance(error, ValueError):
            return bad(text)
        log.exception("a request failed")
        return internal(error)


def _text_tokens(session: VideoSession, chat: Chat) -> int:
    """Count the prompt's tokens that are text."""
    encoded, lm = session.encode(), session.engine.lm
    layout = encoded.layout(lm.prompter.query_ids(chat.question, chat.history), lm.visual_id)
    return int((~layout.visual).sum())
