"""Run the application: the endpoint, with the page mounted in it, on one port."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import uvicorn
from fastapi import FastAPI

from flexselect.page.page import SESSIONS, Page
from flexselect.serving.access import LOCAL_HOSTS, Access
from flexselect.serving.app import Endpoint
from flexselect.serving.places import Places
from flexselect.serving.videos.media import MediaDoor
from flexselect.serving.videos.remote import Remote
from flexselect.serving.videos.video_store import VideoStore

log = logging.getLogger(__name__)

CONNECTIONS = 1000  # at a time
LAST_SECONDS = 3  # that running requests get when the server ends


@dataclass(frozen=True)
class Address:
    """The address that the server listens at, and the key to ask."""

    host: str
    port: int = 0  # 0: any free port
    api_key: str | None = None
    no_auth: bool = False


@dataclass(frozen=True)
class Limits:
    """Bounds of requests; see `flexselect.serving.serve`."""

    max_upload_mb: int = 2048
    max_request_mb: int = 64
    max_waiting: int = 64
    max_per_client: int = 32
    max_new_tokens: int = 64


def run(
    page: Page, limits: Limits, room: dict[str, int], address: Address, media_root: Path | None, allow_remote: bool
) -> None:
    """Serve until the process is interrupted.

    Args:
        page: the page; its model answers all requests.
        limits: bounds of requests.
        room: bytes for encoded videos, see `VideoStore`.
        address: where to listen.
        media_root: the folder that local files are read from; None: no local files.
        allow_remote: whether to fetch addresses of other machines.
    """
    remote = Remote(limits.max_upload_mb * 10**6) if allow_remote else None
    with endpoint_of(page, limits, room, media_root, remote) as endpoint:
        app = endpoint.app()
        mount(page, app, limits.max_upload_mb)
        with listening(guarded(app, address), address) as (url, ended):
            log.warning("the page is at %s; OpenAI's clients use %sv1; Ctrl-C ends it", url, url)
            ended.wait()


@contextmanager
def endpoint_of(
    page: Page, limits: Limits, room: dict[str, int], media_root: Path | None = None, remote: Remote | None = None
) -> Iterator[Endpoint]:
    """Build the endpoint, and end it; see `run`. `remote` fetches addresses of other machines."""
    with TemporaryDirectory(prefix="flexselect-", ignore_cleanup_errors=True) as folder:
        store = VideoStore(page.modes, room, Path(folder))
        door = MediaDoor(Path(folder), media_root, remote, limits.max_upload_mb * 10**6)
        places = Places(limits.max_waiting, limits.max_per_client)
        max_body = limits.max_request_mb * 10**6
        endpoint = Endpoint(page.name, store, door, places, limits.max_new_tokens, max_body)
        try:
            yield endpoint
        finally:
            endpoint.close()


def mount(page: Page, app: FastAPI, max_upload_mb: int) -> None:
    """Add the page to the application, under all paths that are not the endpoint's."""
    import gradio
    from gradio.themes import Default

    blocks = page.build()
    blocks.state_session_capacity = SESSIONS
    gradio.mount_gradio_app(
        app,
        blocks,
        path="/",
        max_file_size=f"{max_upload_mb}mb",
        allowed_paths=[] if page.videos is None else [str(Path(page.videos).resolve())],  # played from where they lie
        theme=Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),  # no download
        footer_links=[],
        show_error=False,
        ssr_mode=False,
    )


def guarded(app: Any, address: Address) -> Access:
    """Let only those ask who may."""
    return Access(app, address.api_key, address.host in LOCAL_HOSTS and address.api_key is None)


@contextmanager
def listening(app: Any, address: Address) -> Iterator[tuple[str, threading.Event]]:
    """Run an application in a thread; yield its URL, and an event that is set if it ends by itself."""
    config = uvicorn.Config(
        app,
        host=address.host,
        port=address.port,
        log_level="error",
        access_log=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=LAST_SECONDS,
        ws="none",
        server_header=False,
    )
    server, ended = uvicorn.Server(config), threading.Event()

    def work() -> None:
        try:
            server.run()
        finally:
            ended.set()

    thread = threading.Thread(target=work, name="server", daemon=True)
    thread.start()
    while not server.started and not ended.wait(0.02):
        pass
    if not server.started:
        raise OSError(f"the server could not listen at {address.host}:{address.port}")
    try:
        host = f"[{address.host}]" if ":" in address.host else address.host
        yield f"http://{host}:{server.servers[0].sockets[0].getsockname()[1]}/", ended
    finally:
        server.should_exit = True
        thread.join(LAST_SECONDS + 5)
