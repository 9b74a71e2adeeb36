"""The endpoint of the demo's model, running in this process on a free port."""

import base64
import json
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from flexselect import FlexSelect
from flexselect.page.modes import Modes
from flexselect.page.page import Page
from flexselect.serving.server import Address, Limits, endpoint_of, guarded, listening

VIDEO_LLM, SELECTOR = "checkpoints/demo/video_llm", "checkpoints/demo/selector"
ROOM = {"cpu": 10**9, "disk": 10**9}
NAME = "video_llm"


def demo_modes(**options):
    fs = FlexSelect.from_pretrained(VIDEO_LLM, selector="self", dtype="float32", device="cpu", **options)
    return Modes(fs, SELECTOR)


@dataclass
class Served:
    url: str
    endpoint: Any
    modes: Any

    @property
    def encodings(self):
        return self.endpoint.store.encodings


@contextmanager
def served(modes, media_root=None, remote=None, room=None, api_key=None, host="127.0.0.1", **limits):
    page = Page(modes, None, 8, NAME)
    bounds = Limits(**{"max_waiting": 64, "max_per_client": 64, "max_new_tokens": 8, **limits})
    address = Address(host, 0, api_key, True)
    with (
        endpoint_of(page, bounds, dict(room or ROOM), media_root, remote) as endpoint,
        listening(guarded(endpoint.app(), address), address) as (url, _),
    ):
        yield Served(url, endpoint, modes)


def data_url(path):
    return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()


def video_part(url, **more):
    return {"type": "video_url", "video_url": {"url": url}, **more}


def messages(url, question, **more):
    return [{"role": "user", "content": [video_part(url, **more), {"type": "text", "text": question}]}]


def post(url, body, headers=None, path="v1/chat/completions", timeout=60):
    """Return status, headers and JSON of a request with plain urllib."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return response.status, dict(response.headers), json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), json.loads(error.read())


def get(url, path, headers=None):
    try:
        with urllib.request.urlopen(urllib.request.Request(url + path, headers=headers or {}), timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def counter(url, name):
    """Return the value of a counter of /metrics."""
    lines = [line for line in get(url, "metrics")[1].splitlines() if line.startswith(name + " ")]
    return float(lines[0].split()[-1])


def until(condition, seconds=20):
    """Wait for what a server does after its reply."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
