"""Who may ask: the key of the server, and the names that a browser may call it by."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from typing import Any
from urllib.parse import urlsplit

from flexselect.serving.refusals import RefusedError

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
OPEN = ("/health",)  # paths that need no key


class Access:
    """An ASGI middleware that lets a request through if it has the key.

    Programs send `Authorization: Bearer KEY`; browsers ask for a password, which is the key, under any user name.
    Without a key, a server on this machine only answers to the machine's own names, so that a page of the web cannot
    reach it under a name of its own.

    Args:
        app: the application.
        api_key: the key; None: everybody may ask.
        local_only: whether the server only answers to this machine's names.
    """

    def __init__(self, app: Any, api_key: str | None, local_only: bool) -> None:
        self.app, self.local_only = app, local_only
        self.api_key = None if api_key is None else api_key.encode()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Refuse or pass on a request."""
        refused = self._refusal(scope) if scope["type"] in ("http", "websocket") else None
        if refused is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            body = json.dumps(refused.body).encode()
            headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **refused.headers}
            rows = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
            await send({"type": "http.response.start", "status": refused.status, "headers": rows})
            await send({"type": "http.response.body", "body": body})

    def _refusal(self, scope: dict[str, Any]) -> RefusedError | None:
        headers = dict(scope["headers"])
        if self.local_only and _host(headers.get(b"host", b"")) not in LOCAL_HOSTS:
            return RefusedError(403, "this server answers to localhost only", code="wrong_host")
        if self.api_key is None or scope["path"] in OPEN:
            return None
        sent = _key(headers.get(b"authorization", b""))
        if hmac.compare_digest(sent, self.api_key):
            return None
        return RefusedError(401, "the key is missing or wrong: send Authorization: Bearer KEY", code="invalid_api_key")


def _host(value: bytes) -> str:
    try:
        return urlsplit(f"//{value.decode('latin-1')}").hostname or ""
    except ValueError:
        return ""


def _key(authorization: bytes) -> bytes:
    """Return the key of a header; empty if there is none."""
    kind, _, value = authorization.partition(b" ")
    if kind.lower() == b"bearer":
        return value.strip()
    if kind.lower() == b"basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""
