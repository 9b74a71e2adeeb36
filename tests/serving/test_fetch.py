"""Fetching from other machines: against servers on loopback aliases, some of which count as public here."""

import http.server
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest

from flexselect.serving.refusals import RefusedError
from flexselect.serving.videos import remote as module
from flexselect.serving.videos.remote import Remote, is_public

PUBLIC, PRIVATE = "127.0.0.2", "127.0.0.3"
FILM = b"\x00\x00\x00\x18ftypisom" + bytes(5000)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append((self.path, self.headers["Host"]))
        kind, _, rest = self.path.strip("/").partition("/")
        if kind == "to":
            self.send_response(302)
            self.send_header("Location", rest)
            self.end_headers()
        elif kind == "status":
            self.send_error(int(rest))
        elif kind == "slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b"x")
                time.sleep(0.05)
        elif kind == "headers":
            for _ in range(100):
                self.wfile.write(b"H")
                time.sleep(0.05)
        else:
            self.send_response(200)
            self.send_header("Content-Type", {"page": "text/html"}.get(kind, "video/mp4"))
            if kind == "promised":
                self.send_header("Content-Length", "999999999")
            self.end_headers()
            self.wfile.write(FILM if kind != "large" else bytes(300_000))

    def log_message(self, *_):
        pass


@contextmanager
def site(address):
    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_):
            pass

    server = Server((address, 0), Handler)
    server.asked, server.daemon_threads = [], True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    server.url = f"http://{address}:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def sites():
    with ExitStack() as stack:
        yield [stack.enter_context(site(address)) for address in (PUBLIC, PRIVATE)]


def fetch(url, **options):
    options = {"schemes": ("http",), "allowed": lambda address: address == PUBLIC, "max_bytes": 100_000, **options}
    return b"".join(Remote(**options).chunks(url))


def refusal(url, **options):
    with pytest.raises(RefusedError) as refused:
        fetch(url, **options)
    return refused.value


def test_a_public_address_is_fetched_and_a_private_one_is_not_even_connected_to(sites):
    public, private = sites
    assert fetch(f"{public.url}/film") == FILM
    assert refusal(f"{private.url}/film").code == "address_refused" and not private.asked


def test_a_redirect_into_a_private_range_is_refused(sites):
    public, private = sites
    assert fetch(f"{public.url}/to/{public.url}/film") == FILM
    assert fetch(f"{public.url}/to//film") == FILM, "relative"
    for target in (f"{private.url}/film", "http://127.0.0.1:1/", "http://[::1]/", "file:///etc/passwd", "ftp://a/b"):
        assert refusal(f"{public.url}/to/{target}").code == "address_refused", target
    assert not private.asked
    loop = f"{public.url}/to//to//to//to//to//film"
    assert "more than 3 redirects" in refusal(loop).reason


def test_a_name_is_resolved_once(sites, monkeypatch):
    """A name server that says something else the second time changes nothing: the checked address is connected to."""
    public, private = sites
    said, real = [], module.socket.getaddrinfo

    def resolve(host, port, *more, **named):
        if host == PUBLIC:
            return real(host, port, *more, **named)
        said.append(host)
        address = PUBLIC if len(said) == 1 else PRIVATE
        return [(2, 1, 6, "", (address, port))]

    monkeypatch.setattr(module.socket, "getaddrinfo", resolve)
    assert fetch(f"http://films.example:{public.server_port}/film") == FILM
    assert said == ["films.example"] and not private.asked
    assert public.asked == [("/film", f"films.example:{public.server_port}")]


def test_a_name_with_one_private_address_is_refused(sites, monkeypatch):
    public, private = sites
    rows = [(2, 1, 6, "", (address, public.server_port)) for address in (PUBLIC, PRIVATE)]
    monkeypatch.setattr(module.socket, "getaddrinfo", lambda *_, **__: rows)
    assert refusal(f"http://films.example:{public.server_port}/film").code == "address_refused"
    assert not public.asked and not private.asked


def test_https_only_and_public_only_by_default(sites):
    public, _ = sites
    plain = Remote(100_000)
    for url in (
        f"{public.url}/film",
        f"https://{PUBLIC}:{public.server_port}/film",
        "https://localhost/",
        "https://[::1]/",
    ):
        with pytest.raises(RefusedError) as refused:
            list(plain.chunks(url))
        assert refused.value.code == "address_refused"
    assert not public.asked


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        *("0.0.0.0", "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "2001:db8::1", "::127.0.0.1"),
        *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:7f00:1::"),
    ],
)
def test_what_is_not_public(address):
    assert not is_public(address)


def test_canary_what_is_public():
    assert all(map(is_public, ("8.8.8.8", "1.1.1.1", "2606:4700::1111")))


@pytest.mark.parametrize(
    "url", ["http://u:p@127.0.0.2/", "http:///x", "http://", "http://127.0.0.2:99999/", "http://[::1", "http://a\x00b/"]
)
def test_addresses_that_are_none(url):
    assert refusal(url).status == 400


def test_sizes_types_and_times_are_limited(sites):
    public, _ = sites
    assert refusal(f"{public.url}/promised").status == 413
    assert refusal(f"{public.url}/large").status == 413
    assert refusal(f"{public.url}/page").code == "no_video"
    assert "status 404" in refusal(f"{public.url}/status/404").reason
    for kind in ("slow", "headers"):
        began = time.monotonic()
        assert "within 0.5 seconds" in refusal(f"{public.url}/{kind}", seconds=0.5).reason
        assert time.monotonic() - began < 3


def test_proxies_of_the_environment_are_not_used(sites, monkeypatch):
    public, private = sites
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, private.url)
    assert fetch(f"{public.url}/film") == FILM and not private.asked
