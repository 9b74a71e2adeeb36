"""The endpoint, asked by the real OpenAI client: answers, requests' options, turns, sessions."""

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

import cli
from datamodules.needles import write_needle_videos
from tests.serving.servers import NAME, counter, data_url, demo_modes, get, messages, post, served, until, video_part

openai = pytest.importorskip("openai", reason="NOT CHECKED: OpenAI's client is not here")
pytest.importorskip("fastapi", reason="NOT CHECKED: the endpoint needs fastapi")

COLOUR = "What colour is the {}?"


@pytest.fixture(scope="module")
def needles(tmp_path_factory):
    """Four videos with eight questions each."""
    folder = tmp_path_factory.mktemp("needles")
    annotations = write_needle_videos(folder, videos=4, patches=48, seed=2026)
    return folder, [json.loads(line) for line in annotations.read_text().splitlines()]


@pytest.fixture(scope="module")
def server(needles):
    with served(demo_modes(), media_root=needles[0]) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url + "v1", api_key="none", max_retries=0, timeout=60)


def ask(client, url, question, **more):
    return client.chat.completions.create(model=NAME, messages=messages(url, question), temperature=0, **more)


def streamed(client, url, question, **more):
    """Return text, the last chunk with facts, and the usage."""
    text, facts, usage = "", None, None
    options = {"stream": True, "stream_options": {"include_usage": True}}
    for chunk in ask(client, url, question, **options, **more):
        usage = chunk.usage or usage
        facts = (chunk.model_extra or {}).get("flexselect", facts)
        for choice in chunk.choices:
            text += choice.delta.content or ""
    return text, facts, usage


def predictions(folder, tmp_path, mode):
    words = [
        "predict",
        "--config",
        f"configs/demo/{mode}.yaml",
        "--data.annotations",
        str(folder / "annotations.jsonl"),
    ]
    assert cli.main([*words, "--model.max_new_tokens", "8", "--output_dir", str(tmp_path)]) == 0
    return [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("mode", "selector"),
    [
        pytest.param("dense", "none", marks=pytest.mark.slow),
        pytest.param("self", "self", marks=pytest.mark.slow),
        ("lite", "lite"),
    ],
)
def test_answers_are_those_of_predict(client, needles, tmp_path, mode, selector):
    """Whole and streamed, with moments, tokens and likelihood; for a benchmark's questions with options too."""
    folder, rows = needles
    expected = predictions(folder, tmp_path, mode)
    assert len(expected) == len(rows) == 32
    for row in expected[:12]:
        question = next(r for r in rows if r["id"] == row["id"])
        text = question["question"]
        if question["options"]:
            listed = [f"{letter}. {option}" for letter, option in zip("ABCD", question["options"])]
            text = "\n".join([text, *listed, "Answer with the option's letter from the given choices directly."])
        more = {"max_tokens": 8, "extra_body": {"selector": selector}}
        url = data_url(folder / row["video"])
        whole = ask(client, url, text, **more)
        pieces, facts, usage = streamed(client, url, text, **more)
        assert whole.choices[0].message.content == pieces == row["answer"]
        for said in (whole.model_extra["flexselect"], facts):
            assert [said[name] for name in ("num_kept_tokens", "moments", "likelihood", "cost")] == [
                row["num_kept_tokens"],
                row["moments"],
                row["likelihood"],
                row["cost"],
            ]
            assert set(said["timings"]) == set(row["timings"]) and said["selector"] == selector
        assert (
            whole.usage == usage
            and usage.prompt_tokens - usage.prompt_tokens_details.text_tokens == row["num_kept_tokens"]
        )
        assert (
            whole.choices[0].finish_reason == "stop"
            and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
        )


def test_ten_follow_ups_cost_one_decode(server, client, needles, tmp_path):
    write_needle_videos(tmp_path, videos=1, patches=24, seed=77)
    url, before = data_url(tmp_path / "needles_000.mp4"), server.encodings
    assert counter(server.url, "flexselect_videos_encoded") == before
    first = ask(client, url, COLOUR.format("ring")).model_extra["flexselect"]
    assert not first["reused"]
    for number in range(10):
        facts = ask(client, url, COLOUR.format(("circle", "square")[number % 2]), extra_body={"budget": 5 + number})
        assert facts.model_extra["flexselect"]["reused"]
        assert facts.model_extra["flexselect"]["num_kept_tokens"] == 5 + number
    for selector in ("none", "self", "uniform", "random"):
        ask(client, url, "Why?", extra_body={"selector": selector})
    assert server.encodings == before + 1 == counter(server.url, "flexselect_videos_encoded")


def test_requests_on_a_video_that_is_being_encoded_wait_for_it(server, needles, tmp_path):
    write_needle_videos(tmp_path, videos=1, patches=64, seed=78)
    url, before = data_url(tmp_path / "needles_000.mp4"), server.encodings
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(post, server.url, {"model": NAME, "messages": messages(url, "Why?")}) for _ in range(8)]
    assert [future.result()[0] for future in asked] == [200] * 8
    assert server.encodings == before + 1


def test_a_part_of_a_video_is_another_video(server, client, needles):
    url = data_url(needles[0] / "needles_001.mp4")
    whole = ask(client, url, "Why?").model_extra["flexselect"]
    half = ask(client, url, "Why?", extra_body={"start": "0:10", "end": 20.5}).model_extra["flexselect"]
    assert half["num_visual_tokens"] < 0.3 * whole["num_visual_tokens"]
    assert all(moment["start"] >= 9.9 and moment["end"] <= 21 for moment in half["moments"])


def test_verify_proves_the_moments(client, needles):
    facts = ask(client, data_url(needles[0] / "needles_000.mp4"), COLOUR.format("circle"), extra_body={"verify": True})
    proof = facts.model_extra["flexselect"]["verification"]
    assert 0 <= proof["support"] <= 1 and "alone" in facts.model_extra["flexselect"]["moments"][0]


def test_a_video_by_its_uuid_is_sent_once(server, client, needles):
    folder, _ = needles
    part = video_part(data_url(folder / "needles_002.mp4"), uuid="my talk")
    text = {"type": "text", "text": COLOUR.format("ring")}

    def create(*parts):
        return client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": [*parts]}])

    first = create(part, text)
    again = create({"type": "video_url", "video_url": None, "uuid": "my talk"}, text)
    assert first.choices[0].message.content == again.choices[0].message.content
    assert again.model_extra["flexselect"]["reused"]
    with pytest.raises(openai.BadRequestError, match="no video was sent with this uuid") as refused:
        create({"type": "video_url", "uuid": "another"}, text)
    assert refused.value.code == "unknown_uuid"


def test_frames_are_a_video(client, needles):
    """As clients send it that know pictures only, for example lmms-eval's."""
    import av

    with av.open(str(needles[0] / "needles_000.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)][:40]
    parts = []
    for frame in frames:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "PNG")
        url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        parts.append({"type": "image_url", "image_url": {"url": url}})
    parts.append({"type": "text", "text": COLOUR.format("ring")})
    answer = client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": parts}])
    assert answer.model_extra["flexselect"]["num_visual_tokens"] == 20 * 9
    assert answer.choices[0].message.content


def picture(width, height, kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, kind)
    url = f"data:image/{kind.lower()};base64," + base64.b64encode(file.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([picture(84, 84), picture(84, 56)], "frame 1 has another size than frame 0"),
        ([picture(84, 84)] * 20, "the frames have more than 100,000 pixels together"),
        ([picture(84, 84), {"type": "image_url", "image_url": {"url": "https://a/b.png"}}], "must be a data: URL"),
        ([picture(84, 84), {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}], "is no picture"),
        ([picture(84, 84, "GIF")], "frame 0 is no picture (JPEG, PNG or WebP)"),
        ([picture(84, 84), video_part("data:video/mp4;base64,AAAA")], "the messages have 1 videos and 1 frames"),
        ([video_part("https://" + "a" * 9000)], "is longer than 8,192 characters"),
    ],
)
def test_frames_that_are_no_video(server, parts, reason, monkeypatch):
    monkeypatch.setattr("flexselect.serving.videos.media.MOST_PIXELS", 100_000)
    content = [*parts, {"type": "text", "text": "Why?"}]
    status, _, body = post(server.url, {"messages": [{"role": "user", "content": content}]})
    assert status == 400 and reason in body["error"]["message"]


def test_turns_are_part_of_the_question(server, client, needles):
    """The endpoint's conversation is the session's history, word for word."""
    folder, rows = needles
    url, shape = data_url(folder / "needles_000.mp4"), rows[0]["needle"]["shape"]
    turns = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [video_part(url), {"type": "text", "text": f"Is there a {shape}?"}]},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "And what colour is it?"},
    ]
    said = client.chat.completions.create(model=NAME, messages=turns)
    session = server.modes.engine("lite").open(folder / "needles_000.mp4", progress=False)
    history = [(f"Be short.\nIs there a {shape}?", "yes")]
    direct = session.ask("And what colour is it?", 8, history=history)
    assert said.choices[0].message.content == direct.text
    assert said.model_extra["flexselect"]["moments"] == direct.to_dict()["moments"]
    assert "system message" in said.model_extra["flexselect"]["warnings"][0]
    assert said.usage.prompt_tokens_details.text_tokens > 40


def test_the_video_may_come_again_with_every_turn(client, needles):
    part = video_part(data_url(needles[0] / "needles_000.mp4"))
    turns = [{"role": "user", "content": [part, {"type": "text", "text": "Is there a ring?"}]}]
    turns += [{"role": "assistant", "content": "no"}]
    turns += [{"role": "user", "content": [part, {"type": "text", "text": "Why?"}]}]
    assert client.chat.completions.create(model=NAME, messages=turns).choices[0].message.content


def test_an_answer_that_is_cut_off_says_so(client, needles):
    answer = ask(client, data_url(needles[0] / "needles_000.mp4"), COLOUR.format("ring"), max_tokens=1)
    assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 1
    assert "cut off at max_new_tokens=1" in answer.model_extra["flexselect"]["warnings"][0]


WRONG = [
    ({"selector": "best"}, "selector must be one of lite, self, none, uniform, random, got 'best'", "selector"),
    ({"selector": "none", "budget": 4}, 'a budget has no effect with selector "none"', "budget"),
    ({"selector": "uniform", "verify": True}, "verify needs scores that point to moments", "verify"),
    ({"budget": 0}, "budget must be from 1 to 1,000,000,000, got 0", "budget"),
    ({"budget": True}, "budget must be int, got True", "budget"),
    ({"budgit": 4}, "there is no field 'budgit'; did you mean budget?", "budgit"),
    ({"start": 9, "end": 3}, "a part of a video needs 0 <= start < end in seconds, got start 9.0, end 3.0", "start"),
    ({"start": "soon"}, "start must be seconds, or hours:minutes:seconds, got 'soon'", "start"),
    ({"start": 1e6}, "has no second 1e+06: it is 24.0 seconds long", None),
    ({"temperature": 0.7}, "temperature can only be 0: answers are greedy", "temperature"),
    ({"n": 2}, "n can only be 1", "n"),
    ({"tools": [{"type": "function"}]}, "tools can only be", "tools"),
    ({"max_tokens": 10**9}, "max_tokens must be from 1 to 8,192", "max_tokens"),
    ({"stream": "yes"}, "stream must be bool, got 'yes'", "stream"),
]


@pytest.mark.parametrize(("extra", "reason", "param"), WRONG)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_impossible_is_a_400_with_the_reason(server, needles, extra, reason, param, stream, tmp_path_factory):
    url = data_url(needles[0] / "needles_003.mp4")
    body = {"model": NAME, "messages": messages(url, "Why?"), "stream": stream, **extra}
    status, _, answer = post(server.url, body)
    assert status == 400 and answer["error"]["type"] == "invalid_request_error"
    if "24.0 seconds" in reason:
        reason = "has no second 1e+06"
    assert reason in answer["error"]["message"] and answer["error"]["param"] == param


def test_what_has_no_effect_is_said(client, needles):
    """Fields of other servers that say which frames are read; lmms-eval sends one."""
    more = {"media_io_kwargs": {"video": {"num_frames": 10}}}
    facts = ask(client, data_url(needles[0] / "needles_000.mp4"), "Why?", seed=3, extra_body=more).flexselect
    assert facts["warnings"][0] == "media_io_kwargs has no effect: the server's options say which frames are read"


def test_several_videos_are_refused(client, needles):
    parts = [video_part(data_url(needles[0] / f"needles_00{i}.mp4")) for i in range(2)]
    with pytest.raises(openai.BadRequestError, match="a question is about one video; the messages have 2 videos"):
        client.chat.completions.create(
            model=NAME, messages=[{"role": "user", "content": [*parts, {"type": "text", "text": "Why?"}]}]
        )


def test_models_health_and_an_unknown_model(server, client):
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "flexselect"
    assert json.loads(get(server.url, "health")[1]) == {"status": "ok"}
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt'"):
        client.chat.completions.create(model="gpt", messages=messages("x", "y"))
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt")


def test_32_clients_on_4_videos(server, needles):
    """All are answered, each with its own answer; every video is encoded once."""
    folder, rows = needles
    questions = [(row["video"], row["question"]) for row in rows if not row["options"]]
    expected = {}
    for video in {video for video, _ in questions}:
        session = server.modes.engine("lite").open(folder / video, progress=False)
        expected |= {(v, q): session.ask(q, 8).text for v, q in questions if v == video}
    asked = (questions * 8)[:128]

    def one(index):
        client = openai.OpenAI(base_url=server.url + "v1", api_key="none", max_retries=0, timeout=120)
        answers = []
        for video, question in asked[index::32]:
            url, stream = f"file:{video}", index % 2 == 0
            text = (
                streamed(client, url, question)[0] if stream else ask(client, url, question).choices[0].message.content
            )
            answers.append((text, expected[video, question]))
        return answers

    before = server.encodings
    with ThreadPoolExecutor(32) as pool:
        answers = [pair for pairs in pool.map(one, range(32)) for pair in pairs]
    assert len(answers) == 128 and all(text == right for text, right in answers)
    assert len(set(expected.values())) > 4, "canary: a mixed-up answer is seen"
    assert server.encodings - before <= 4
    until(lambda: server.endpoint.places.taken == 0)
