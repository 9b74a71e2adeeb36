"""Fetch a video from another machine, without becoming a door into this one's network.

An address is resolved once, its addresses must be public, and the connection goes to the very address that was checked.
Redirects go through the same checks. Nothing is taken from the environment: no proxies, no credentials.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpcore

from flexselect.serving.refusals import RefusedError, bad

REDIRECTS = 3
TYPES = ("video/", "application/octet-stream", "binary/octet-stream", "image/gif", "image/webp")
EMBEDDED = [  # IPv6 addresses that stand for IPv4 ones
    ipaddress.ip_network(network)
    for network in ("::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")
]


def is_public(address: str) -> bool:
    """Return whether an IP address is on the public internet, and no IPv6 address that stands for an IPv4 one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    return ip.is_global and not ip.is_multicast and not any(ip in net for net in EMBEDDED)


class _Timed(httpcore.NetworkStream):
    """A connection that ends at a deadline, however slowly the other side sends."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self.stream, self.deadline = stream, deadline

    def _left(self, timeout: float | None) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the time is up")
        return left if timeout is None else min(left, timeout)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self.stream.read(max_bytes, self._left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.stream.write(buffer, self._left(timeout))

    def close(self) -> None:
        self.stream.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Timed(self.stream.start_tls(ssl_context, server_hostname, self._left(timeout)), self.deadline)

    def get_extra_info(self, info: str) -> Any:
        return self.stream.get_extra_info(info)


class _Pinned(httpcore.NetworkBackend):
    """Connects to an address that was checked, instead of asking for the name again."""

    def __init__(self, allowed: Callable[[str], bool], deadline: float) -> None:
        self.allowed, self.deadline = allowed, deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise bad("the host of the video's address is unknown", "messages", "fetch_failed") from error
        addresses = list(dict.fromkeys(str(row[4][0]) for row in rows))
        if not addresses or not all(map(self.allowed, addresses)):
            reason = "the video's address is not public: only https addresses on the public internet are fetched"
            raise bad(reason, "messages", "address_refused")
        stream = httpcore.SyncBackend().connect_tcp(addresses[0], port, timeout, local_address, socket_options)
        return _Timed(stream, self.deadline)


class Remote:
    """Fetches videos over https.

    Args:
        max_bytes: the largest video.
        seconds: the longest time that a video may take.
        schemes: allowed schemes. This and the next arguments are for tests; the defaults are the safe ones.
        allowed: which IP addresses may be connected to.
        ssl_context: for https; None: the usual authorities.
    """

    def __init__(
        self,
        max_bytes: int,
        seconds: float = 120.0,
        schemes: tuple[str, ...] = ("https",),
        allowed: Callable[[str], bool] = is_public,
        ssl_context: Any = None,
    ) -> None:
        self.max_bytes, self.seconds, self.schemes = max_bytes, seconds, schemes
        self.allowed, self.ssl_context = allowed, ssl_context

    def chunks(self, url: str) -> Iterator[bytes]:
        """Yield the bytes of a video, a few at a time.

        Raises:
            RefusedError: if the address is not allowed, or what comes is too large, too slow, or no video.
        """
        deadline = time.monotonic() + self.seconds
        try:
            for _ in range(REDIRECTS + 1):
                self._check(url)
                backend = _Pinned(self.allowed, deadline)
                with httpcore.ConnectionPool(self.ssl_context, network_backend=backend) as pool:
                    target = yield from self._answer(pool, url)
                if target is None:
                    return
                url = urljoin(url, target)
        except (httpcore.TimeoutException, TimeoutError) as error:
            raise bad(f"the video did not come within {self.seconds:g} seconds", "messages", "fetch_failed") from error
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError, UnicodeError, ValueError) as error:
            reason = f"the video could not be fetched ({type(error).__name__})"
            raise bad(reason, "messages", "fetch_failed") from error
        raise bad(f"the video's address leads to more than {REDIRECTS} redirects", "messages", "fetch_failed")

    def _check(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in self.schemes:
            raise bad(f"a video is fetched over {' or '.join(self.schemes)} only", "messages", "address_refused")
        if not parts.hostname or parts.username is not None or parts.password is not None:
            raise bad("the video's address must have a host, and no user name", "messages", "address_refused")

    def _answer(self, pool: httpcore.ConnectionPool, url: str) -> Generator[bytes, None, str | None]:
        """Yield the body of one answer; return where a redirect leads, or None."""
        headers = [("Host", urlsplit(url).netloc), ("Accept", "video/*"), ("Accept-Encoding", "identity")]
        timeouts = {"connect": 10.0, "read": 20.0, "write": 10.0, "pool": 10.0}
        with pool.stream("GET", url, headers=headers, extensions={"timeout": timeouts}) as response:
            fields = {name.lower(): value for name, value in response.headers}
            if response.status in (301, 302, 303, 307, 308) and b"location" in fields:
                return fields[b"location"].decode("ascii")
            if response.status != 200:
                raise bad(f"the video's address answers with status {response.status}", "messages", "fetch_failed")
            kind = fields.get(b"content-type", b"application/octet-stream").decode("latin-1").strip().lower()
            if not kind.startswith(TYPES):
                raise bad(f"the video's address answers with {kind[:60]!a}, no video", "messages", "no_video")
            length = fields.get(b"content-length", b"0")
            check_size(int(length) if length.isdigit() else 0, self.max_bytes)
            size = 0
            for chunk in response.iter_stream():
                size += len(chunk)
                check_size(size, self.max_bytes)
                yield chunk
        return None


def check_size(size: int, most: int) -> None:
    """Refuse a video that is too large.

    Raises:
        RefusedError: naming the limit.
    """
    if size > most:
        raise RefusedError(413, f"the video is larger than {most / 1e6:,.0f} MB", "messages", "too_large")
