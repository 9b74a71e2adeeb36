"""The application: `/v1/chat/completions`, `/v1/models`, `/health`, `/metrics`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from flexselect.serving.chat import Chat, VideoPart, read_chat
from flexselect.serving.counters import Counters
from flexselect.serving.jobs import Job, Outcome
from flexselect.serving.places import Place, Places
from flexselect.serving.refusals import RefusedError, bad, internal
from flexselect.serving.replies import Reply, event, to_json
from flexselect.serving.videos.media import Media, MediaDoor
from flexselect.serving.videos.video_store import GONE, VideoStore

log = logging.getLogger(__name__)

CLIENT_LEFT = 499  # status in the counters; nobody receives it
LOOKS = 0.2  # seconds between two looks at whether a client is still there
BODY_SECONDS = 60.0  # until a request's body must have come
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
FETCHES = 8  # videos that are fetched or hashed at a time


class Answering(StreamingResponse):
    """A streamed reply that frees its request's place, however it ends."""

    def __init__(self, content: AsyncIterator[bytes], leave: Callable[[], None]) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self.leave = leave

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.leave()


@dataclass
class Visit:
    """One request, from its place in the queue to its video; `leave` frees all that it holds."""

    endpoint: Endpoint
    place: Place
    began: float
    status: int = CLIENT_LEFT
    media: Media | None = None
    key: Any = None  # of the video in the store
    job: Job | None = None
    future: Future[None] | None = None

    def leave(self) -> None:
        """Free everything; the job stops if it still runs."""
        if self.job is not None:
            self.job.left = True
        self.place.leave()
        if self.key is not None:
            self.endpoint.store.release(self.key)
            self.key = None
        if self.media is not None:
            if self.future is None or self.future.cancel() or self.future.done():
                self.media.close()
            else:
                self.future.add_done_callback(partial(_close, self.media))
        self.endpoint.counters.requests.labels(str(self.status)).inc()
        self.endpoint.counters.seconds.observe(time.monotonic() - self.began)


class Endpoint:
    """The endpoint of one model, which one request uses at a time; with an answer engine, others meanwhile wait for it.

    Args:
        name: the model's name.
        store: the encoded videos.
        door: opens the videos that requests name.
        places: how many requests are taken in.
        max_new_tokens: the maximum length of an answer if the request names none.
        max_body: the largest request, in bytes.
    """

    def __init__(
        self, name: str, store: VideoStore, door: MediaDoor, places: Places, max_new_tokens: int, max_body: int
    ) -> None:
        self.name, self.store, self.door, self.places = name, store, door, places
        self.max_new_tokens, self.max_body = max_new_tokens, max_body
        self.counters = Counters(places, store)
        self.answering = ThreadPoolExecutor(store.modes.at_once, "answer")
        self.fetching = ThreadPoolExecutor(FETCHES, "fetch")
        self.began = int(time.time())

    def app(self) -> FastAPI:
        """Build the application."""
        app = FastAPI(title="FlexSelect", docs_url=None, redoc_url=None, openapi_url=None)
        app.add_api_route("/v1/chat/completions", self.chat, methods=["POST"], response_model=None)
        app.add_api_route("/v1/models", self.models, response_model=None)
        app.add_api_route("/v1/models/{name:path}", self.model, response_model=None)
        app.add_api_route("/health", self.health, response_model=None)
        app.add_api_route("/metrics", self.metrics, response_model=None)
        app.add_api_route("/v1/{path:path}", self.unknown, methods=list(METHODS), response_model=None)
        return app

    def close(self) -> None:
        """Stop: requests that wait are not answered any more."""
        self.store.closed = True
        self.answering.shutdown(wait=False, cancel_futures=True)
        self.fetching.shutdown(wait=False, cancel_futures=True)

    async def health(self) -> Response:
        """Say that the server is there, and whether it could answer the last question that it was asked."""
        if self.store.modes.lost:
            return Response(to_json({"status": "what runs the language model is gone"}), 503, None, "application/json")
        return _json({"status": "ok"})

    async def metrics(self) -> Response:
        """Return the counters."""
        return Response(self.counters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def models(self) -> Response:
        """List the model."""
        return _json({"object": "list", "data": [self._model]})

    async def model(self, name: str) -> Response:
        """Describe the model."""
        if name != self.name:
            return _refused(RefusedError(404, f"there is no model {ascii(name)[:80]}", "model", "model_not_found"))
        return _json(self._model)

    async def unknown(self, path: str) -> Response:
        """Refuse an address that there is not, in OpenAI's form."""
        reason = f"there is no {ascii(path)[:80]} here by this method: POST /v1/chat/completions, GET /v1/models"
        return _refused(RefusedError(404, reason, None, "unknown_url"))

    @property
    def _model(self) -> dict[str, Any]:
        return {"id": self.name, "object": "model", "created": self.began, "owned_by": "flexselect"}

    async def chat(self, request: Request) -> Response:
        """Answer one question."""
        began = time.monotonic()
        try:
            place = self.places.take(request.client.host if request.client else "")
        except RefusedError as error:
            self.counters.requests.labels(str(error.status)).inc()
            return _refused(error)
        visit, response = Visit(self, place, began), None
        try:
            response = await self._answered(request, visit)
        except RefusedError as error:
            visit.status = error.status
            response = _refused(error)
        except ClientDisconnect:
            response = Response(status_code=CLIENT_LEFT)
        except Exception as error:
            log.exception("a request failed")
            visit.status = 500
            response = _refused(internal(error))
        finally:
            if not isinstance(response, Answering):
                visit.leave()
        return response

    async def _answered(self, request: Request, visit: Visit) -> Response:
        loop = asyncio.get_running_loop()
        body = await self._body(request)
        names = (self.name, self.max_new_tokens, self.store.modes.selectors)
        chat = await loop.run_in_executor(self.fetching, read_chat, body, *names)
        del body
        await loop.run_in_executor(self.fetching, self._open, chat, visit)
        assert visit.media is not None
        if visit.media.source is not None:  # a data: URL may be large, and is not needed any more
            chat = replace(chat, video=VideoPart((), chat.video.uuid))
        piece = await self._first(request, chat, visit)
        reply, job = Reply(chat, self.name), visit.job
        assert job is not None
        if chat.stream:
            return Answering(self._events(piece, job, reply, visit), visit.leave)
        while isinstance(piece, str):
            piece = await self._next(request, job)
        visit.status = 200
        return _json(reply.whole(self._counted(piece)))

    async def _body(self, request: Request) -> bytes:
        """Read the request's body.

        Raises:
            RefusedError: if it is no JSON, too large, or too slow.
        """
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RefusedError(415, "the request must have Content-Type: application/json")
        body = bytearray()

        async def read() -> None:
            async for chunk in request.stream():
                body.extend(chunk)
                if len(body) > self.max_body:
                    raise RefusedError(413, f"the request is larger than {self.max_body / 1e6:,.0f} MB")

        try:
            await asyncio.wait_for(read(), BODY_SECONDS)
        except asyncio.TimeoutError as error:
            raise RefusedError(408, f"the request did not come within {BODY_SECONDS:g} seconds") from error
        return bytes(body)

    def _open(self, chat: Chat, visit: Visit) -> None:
        """Hold the video in the store; fetch it if it is not there."""
        key = self.door.known(chat.video)
        if key is not None:
            visit.key = key, chat.reading
            coming = self.store.hold(visit.key)
            if self.store.has(visit.key) or (coming and not chat.video.urls):
                visit.media = Media(key, None)
                return
        if not chat.video.urls:
            raise bad("no video was sent with this uuid: send its url too", "messages", GONE)
        visit.media = self.door.open(chat.video)
        previous, visit.key = visit.key, (visit.media.key, chat.reading)
        self.store.hold(visit.key)
        if previous is not None:
            self.store.release(previous)

    async def _first(self, request: Request, chat: Chat, visit: Visit) -> str | Outcome:
        """Start the job and wait for the first piece of its answer.

        A video that was here when the request came may be gone when its turn comes; then it is fetched after all.
        """
        for is_last in (False, True):
            assert visit.media is not None
            visit.job = Job(chat, visit.media, self.store)
            visit.future = self.answering.submit(visit.job.run)
            try:
                return await self._next(request, visit.job)
            except RefusedError as error:
                if is_last or error.code != GONE or not chat.video.urls:
                    raise
            visit.media = await asyncio.get_running_loop().run_in_executor(self.fetching, self.door.open, chat.video)
        raise AssertionError("the second answer is returned or raised")

    async def _next(self, request: Request, job: Job) -> str | Outcome:
        """Wait for the next piece of an answer, while the client is there."""
        waiting = asyncio.ensure_future(job.pieces.get())
        try:
            while not waiting.done():
                await asyncio.wait({waiting}, timeout=LOOKS)
                if not waiting.done() and await request.is_disconnected():
                    raise ClientDisconnect
        finally:
            waiting.cancel()
        piece = waiting.result()
        if isinstance(piece, RefusedError):
            raise piece
        return piece

    def _counted(self, outcome: Any) -> Outcome:
        self.counters.add(outcome.answer, outcome.reused, outcome.text_tokens)
        return outcome

    async def _events(self, piece: Any, job: Job, reply: Reply, visit: Visit) -> AsyncIterator[bytes]:
        """Yield the events of a streamed reply, of which the first piece has come."""
        yield reply.chunk({"role": "assistant", "content": ""})
        while isinstance(piece, str):
            yield reply.chunk({"content": piece})
            piece = await job.pieces.get()
        if isinstance(piece, RefusedError):
            visit.status = piece.status
            yield event(piece.body)
            return
        visit.status = 200
        for last in reply.end(self._counted(piece)):
            yield last


def _close(media: Media, _: Any) -> None:
    media.close()


def _json(value: dict[str, Any]) -> Response:
    return Response(to_json(value), media_type="application/json")


def _refused(error: RefusedError) -> Response:
    return Response(to_json(error.body), error.status, error.headers, "application/json")
