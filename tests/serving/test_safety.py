"""Who may ask, what may be read, how much at a time, and what happens to clients that go away."""

import base64
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import cli
from datamodules.needles import write_needle_videos
from flexselect.serving.videos.video_store import VideoStore
from flexselect.structures.frames import ReadOptions
from tests.serving.servers import NAME, data_url, demo_modes, get, messages, post, served, until

pytest.importorskip("fastapi", reason="NOT CHECKED: the endpoint needs fastapi")

KEY = "a long key"
HEAD = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def modes():
    return demo_modes()


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    folder = tmp_path_factory.mktemp("root")
    write_needle_videos(folder, videos=1, patches=24, seed=5)
    return folder / "needles_000.mp4"


def ask(server, url, headers=None, **more):
    return post(server.url, {"model": NAME, "messages": messages(url, "What colour is the ring?"), **more}, headers)


# -- the key


def test_with_a_key_nothing_but_health_answers_without_it(modes, film):
    with served(modes, api_key=KEY) as server:
        basic = base64.b64encode(b"me:" + KEY.encode()).decode()
        for headers in (
            {},
            {"Authorization": "Bearer a long kez"},
            {"Authorization": "Basic !"},
            {"Authorization": ""},
        ):
            status, said, body = ask(server, data_url(film), headers)
            assert (status, body["error"]["code"]) == (401, "invalid_api_key")
            assert "www-authenticate" in {name.lower() for name in said}
            assert [get(server.url, path, headers)[0] for path in ("v1/models", "metrics", "")] == [401] * 3
        assert get(server.url, "health")[0] == 200
        for headers in ({"Authorization": f"Bearer {KEY}"}, {"Authorization": f"Basic {basic}"}):
            assert ask(server, data_url(film), headers)[0] == 200
            assert get(server.url, "metrics", headers)[0] == 200


def test_a_browser_asks_for_the_key_as_a_password(modes, browser):
    from flexselect.page.page import Page
    from flexselect.serving.server import Address, Limits, endpoint_of, guarded, listening, mount

    page, address = Page(modes, None, 8, NAME), Address("127.0.0.1", 0, KEY)
    with endpoint_of(page, Limits(), {"cpu": 10**8, "disk": 0}) as endpoint:
        app = endpoint.app()
        mount(page, app, 1)
        with listening(guarded(app, address), address) as (url, _):
            context = browser.new_context(http_credentials={"username": "me", "password": KEY})
            view = context.new_page()
            view.goto(url)
            view.get_by_role("button", name="Ask").click()
            view.get_by_text("Please choose or upload a video and write a question.").wait_for()
            context.close()
            assert get(url, "gradio_api/info")[0] == 401


def test_an_error_of_the_server_says_so_without_its_text(modes, film, monkeypatch):
    def broken(*_, **__):
        raise TypeError(f"in {film}")

    with served(modes) as server:
        monkeypatch.setattr("flexselect.session.VideoSession.ask", broken)
        said = [ask(server, data_url(film))]
        monkeypatch.setattr(server.endpoint.door, "known", broken)
        said.append(ask(server, data_url(film)))
        monkeypatch.undo()
        for status, _, body in said:
            assert status == 500 and body["error"]["message"] == "the server failed (TypeError); its log says where"
        assert ask(server, data_url(film))[0] == 200
        until(lambda: server.endpoint.places.taken == 0)


def test_other_machines_need_a_key_or_no_auth_said_aloud(monkeypatch, capsys):
    monkeypatch.delenv("FLEXSELECT_API_KEY", raising=False)
    words = ["serve", "--config", "configs/demo/serve.yaml", "--videos", "tests", "--host", "0.0.0.0"]
    assert cli.main(words) == cli.BAD_USAGE
    assert "other machines can reach 0.0.0.0: give --api_key KEY, or --no_auth true" in capsys.readouterr().err
    loaded = []

    def load(*_, **__):
        loaded.append(1)
        raise RuntimeError("not now")

    monkeypatch.setattr("flexselect.pipeline.FlexSelect.from_pretrained", load)
    assert cli.main([*words, "--port", "0", "--no_auth", "true"]) == cli.COULD_NOT_GO_ON and len(loaded) == 1
    assert cli.main([*words, "--port", "0", "--api_key", "1234"]) == cli.COULD_NOT_GO_ON and len(loaded) == 2
    monkeypatch.setenv("FLEXSELECT_API_KEY", "secret")
    assert cli.main([*words, "--port", "0"]) == cli.COULD_NOT_GO_ON and len(loaded) == 3


def test_without_a_key_a_page_of_the_web_cannot_ask_under_its_own_name(modes, film):
    with served(modes) as server:
        status, _, body = ask(server, data_url(film), {"Host": "evil.example"})
        assert (status, body["error"]["code"]) == (403, "wrong_host")
        assert ask(server, data_url(film), {"Host": "localhost:1"})[0] == 200
        status, _, _ = post(server.url, {"model": NAME}, {"Content-Type": "text/plain"})
        assert status == 415, "what a form of another page can send"


# -- local files


def test_local_files_come_from_the_media_root_alone(modes, film, tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "below").mkdir(parents=True)
    outside.mkdir()
    for copy in (root / "a film.mp4", root / "below" / "b.mp4", outside / "secret.mp4", tmp_path / "root.mp4"):
        copy.write_bytes(film.read_bytes())
    (root / "link.mp4").symlink_to(outside / "secret.mp4")
    (root / "folder").symlink_to(outside)
    (root / "circle").symlink_to(root / "circle")
    (root / "inside.mp4").symlink_to(root / "below" / "b.mp4")
    (root / "words.mp4").write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
    (root / "list.mp4").write_text("ffconcat version 1.0\nfile below/b.mp4\n")
    good = ["file:a%20film.mp4", f"file://{root}/below/b.mp4", "file:inside.mp4", f"file://localhost{root}/a film.mp4"]
    bad = [
        f"file://{outside}/secret.mp4",
        "file:../outside/secret.mp4",
        "file:%2e%2e/outside/secret.mp4",
        f"file://{root}/../outside/secret.mp4",
        f"{root}.mp4",
        "file:link.mp4",
        "file:folder/secret.mp4",
        "file:circle",
        "file:below",
        "file:",
        "file:none.mp4",
        "file:///etc/passwd",
        "file:///dev/zero",
        "file:///proc/self/environ",
        "file:a%00.mp4",
        "file:" + "a" * 5000,
        "file:\ud800.mp4",
    ]
    with served(modes, media_root=root) as server:
        assert [ask(server, url)[0] for url in good] == [200] * len(good)
        for url in bad:
            status, _, body = ask(server, url)
            assert (status, body["error"]["code"]) == (400, "no_such_file"), url
            assert body["error"]["message"] == "there is no such video below the server's media root", "always the same"
        for url in ("file:words.mp4", "file:list.mp4"):
            status, _, body = ask(server, url)
            assert (status, body["error"]["code"]) == (400, "no_video"), "a playlist would open other files"
    with served(modes) as server:
        for url in [*good, *bad]:
            assert ask(server, url)[2]["error"]["code"] == "local_off"


def test_no_answer_names_a_path(modes, film, tmp_path):
    """Broken videos are what errors talk about most."""
    whole = film.read_bytes()
    for name, data in (("cut", whole[: len(whole) // 3]), ("zeros", whole[:64] + bytes(5000)), ("head", whole[:40])):
        (tmp_path / f"{name}.mp4").write_bytes(data)
    with served(modes, media_root=tmp_path) as server:
        folder = str(server.endpoint.store.folder)
        for name in ("cut", "zeros", "head"):
            for url in (f"file:{name}.mp4", data_url(tmp_path / f"{name}.mp4")):
                status, _, body = ask(server, url)
                said = json.dumps(body)
                assert status == 400 and "the video" in said
                assert str(tmp_path) not in said and folder not in said and "/tmp" not in said
        until(lambda: not list(Path(folder).iterdir()))  # temporary files are deleted


# -- how much at a time


def test_sizes_are_limited(modes, film):
    with served(modes, max_request_mb=1, max_upload_mb=1) as server:
        status, _, body = post(server.url, b" " * 1_000_001)
        assert status == 413 and "larger than 1 MB" in body["error"]["message"]
        big = base64.b64encode(film.read_bytes()[:64] + bytes(700_000)).decode()
        assert ask(server, f"data:video/mp4;base64,{big}")[0] == 400, "below both limits: it is only broken"
    with served(modes, max_request_mb=8, max_upload_mb=1) as server:
        big = base64.b64encode(film.read_bytes()[:64] + bytes(1_200_000)).decode()
        status, _, body = ask(server, f"data:video/mp4;base64,{big}")
        assert (status, body["error"]["code"]) == (413, "too_large")


@pytest.fixture
def busy(modes):
    """A server whose model is held: requests wait until the lock is released."""
    with served(modes, max_waiting=4, max_per_client=3) as server:
        modes.lock.acquire()
        yield server
        if modes.lock.locked():
            modes.lock.release()


def test_a_full_queue_says_when_to_come_again(busy, modes, film):
    """One client may have 3 places of 4; the others are for others."""
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(ask, busy, data_url(film)) for _ in range(3)]
        until(lambda: busy.endpoint.places.taken == 3)
        status, headers, body = ask(busy, data_url(film))
        assert (status, body["error"]["code"]) == (429, "too_many_of_one_client")
        assert int({name.lower(): value for name, value in headers.items()}["retry-after"]) >= 1
        other = busy.endpoint.places.take("10.0.0.9")
        with pytest.raises(Exception, match="4 requests wait already") as refused:
            busy.endpoint.places.take("10.0.0.8")
        assert refused.value.code == "queue_full" and refused.value.status == 429
        other.leave()
        modes.lock.release()
        assert [future.result()[0] for future in waiting] == [200] * 3
    until(lambda: busy.endpoint.places.taken == 0 and not busy.endpoint.places.by_client)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_place(busy, modes, film, stream):
    body = json.dumps({"model": NAME, "messages": messages(data_url(film), "Why?"), "stream": stream}).encode()
    port = int(busy.url.rstrip("/").rpartition(":")[2])
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
    head = f"{HEAD}Content-Length: {len(body)}\r\n\r\n"
    for connection in sockets:
        connection.sendall(head.encode() + body)
    until(lambda: busy.endpoint.places.taken == 3)
    for connection in sockets:
        connection.close()
    until(lambda: busy.endpoint.places.taken == 0)
    assert ask_when_free(busy, modes, film) == 200
    assert not busy.endpoint.store._wanted
    until(lambda: not [file for file in busy.endpoint.store.folder.iterdir() if file.is_file()])


def ask_when_free(server, modes, film):
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(ask, server, data_url(film))
        until(lambda: server.endpoint.places.taken == 1)
        modes.lock.release()
        return future.result()[0]


def test_a_client_that_leaves_in_the_middle_stops_the_model(modes, film, monkeypatch):
    """It is told at the next token, not after the last."""
    tokens = []
    with served(modes) as server:
        engine = modes.engine("self")
        generate = type(engine.lm).generate

        def slow(self, inputs, max_new_tokens, on_token, *more, **named):
            def each(ids):
                tokens.append(1)
                time.sleep(0.05)
                on_token(ids)

            return generate(self, inputs, max_new_tokens, each, None, False)

        monkeypatch.setattr(type(engine.lm), "generate", slow)
        monkeypatch.setattr(engine.lm.model.generation_config, "eos_token_id", 447)
        monkeypatch.setattr("flexselect.running.greedy.end_ids", lambda *_: {447})
        body = json.dumps(
            {"model": NAME, "messages": messages(data_url(film), "Why?"), "stream": True, "max_tokens": 400}
        ).encode()
        port = int(server.url.rstrip("/").rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            head = f"{HEAD}Content-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            assert b"200 OK" in connection.recv(100)
        until(lambda: server.endpoint.places.taken == 0)
        until(lambda: not modes.lock.locked())
        assert 0 < len(tokens) < 200, "of 400"


def test_a_body_that_never_comes_is_given_up(modes, monkeypatch):
    monkeypatch.setattr("flexselect.serving.app.BODY_SECONDS", 0.3)
    with served(modes) as server:
        port = int(server.url.rstrip("/").rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(f"{HEAD}Content-Length: 100\r\n\r\n{{".encode())
            connection.settimeout(10)
            assert b" 408 " in connection.recv(200)
        until(lambda: server.endpoint.places.taken == 0)


# -- memory


def test_encoded_videos_stay_within_their_bounds(modes, tmp_path):
    """The least recently used go from memory to the disk and away; each still gives the same answer."""
    write_needle_videos(tmp_path, videos=6, patches=24, seed=11)
    with served(modes, media_root=tmp_path) as server:
        alone = [ask(server, f"file:needles_00{i}.mp4")[2]["choices"] for i in range(6)]
        store = server.endpoint.store
        one = store.bytes_in("cpu") // 6
        assert server.encodings == 6 and store.bytes_in("disk") == 0
    features = 24 * 9 * modes.encoder.lm.decoder.config.hidden_size * 4
    room = {"cpu": int(2.5 * one), "disk": int(14 * features)}
    with served(modes, media_root=tmp_path, room=room) as server:
        store = server.endpoint.store
        for i in [*range(6), *range(6), 5, 4, 5]:
            status, _, body = ask(server, f"file:needles_00{i}.mp4")
            assert status == 200 and body["choices"] == alone[i]
            assert store.bytes_in("cpu") <= room["cpu"] and store.bytes_in("disk") <= room["disk"]
        assert store.bytes_in("disk") > 0 and 6 <= server.encodings < 12
    with served(modes, media_root=tmp_path, room={"cpu": 0, "disk": 0}) as server:
        for i in (0, 0):
            assert ask(server, f"file:needles_00{i}.mp4")[2]["choices"] == alone[i]
        assert server.encodings == 2 and server.endpoint.store.bytes_in("cpu") == 0
    assert threading.active_count() < 60


def test_frames_are_taken_as_the_family_says(modes, tmp_path, monkeypatch):
    monkeypatch.setattr(modes.encoder.family, "sampling", "near")
    (video,) = write_needle_videos(tmp_path, videos=1, patches=24, seed=11).parent.glob("*.mp4")
    store, key = VideoStore(modes, {"cpu": 10**9, "disk": 0}, tmp_path), ("a video", ReadOptions())
    store.hold(key)
    session, _ = store.open(key, video, "self")
    expected = modes.encoder.open(video, progress=False).encode().about.facts
    assert session.encode().about.facts == expected and "moved" in expected


def test_a_video_that_was_dropped_meanwhile_is_fetched_after_all(modes, film):
    """It was there when the request came, and not when its turn came."""
    body = {"model": NAME, "messages": messages(data_url(film), "Why?", uuid="film")}
    with served(modes) as server:
        assert post(server.url, body)[0] == 200
        store = server.endpoint.store
        has = store.has
        store.has = lambda key: has(key) and not store.clear()
        assert post(server.url, body)[0] == 200 and server.encodings == 2
