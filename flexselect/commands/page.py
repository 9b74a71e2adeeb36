"""A page to try a model on: choose a video, ask, and see the modes side by side. Needs gradio, extra `serve`."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flexselect.commands.modes import DENSE, Modes
from flexselect.options import Options
from flexselect.pipeline import FlexSelect
from flexselect.session import VideoSession
from flexselect.storage.run_settings import UsageError
from flexselect.storage.video_paths import VIDEO_ENDINGS, is_folder
from flexselect.structures.prompt import Answer
from flexselect.visualize.style import clock_time

log = logging.getLogger(__name__)

VIDEOS = list(VIDEO_ENDINGS)
HERE = ("127.0.0.1", "localhost", "::1")
SESSIONS = 8  # browsers whose video is kept; features of an hour are about a gigabyte
ONE: dict[str, Any] = {  # there is one model: one after another, and for this page alone
    "concurrency_limit": 1,
    "concurrency_id": "model",
    "api_visibility": "private",
}
HISTORY = ["video", "question", "mode", "answer", "tokens shown", "seconds"]


def serve(
    path: str,
    selector: str | None = None,
    videos: str | None = None,
    fps: float | None = None,
    max_frames: int | None = None,
    max_new_tokens: int = 64,
    max_upload_mb: int = 2048,
    host: str = "127.0.0.1",
    port: int = 7860,
    **options: Any,
) -> None:
    """Serve a page on which a model is tried, until it is interrupted.

    Args:
        path: the VideoLLM, local folder or hub id.
        selector: a trained selector, folder or hub id; None: the page has no lite mode.
        videos: a folder whose videos can be chosen, beside uploading one.
        fps: sampling; None: the family's default.
        max_frames: sampling; None: the family's default.
        max_new_tokens: the most of an answer.
        max_upload_mb: a larger upload is refused.
        host: where the page is; by default only this machine reaches it. Whoever reaches it may upload and ask.
        port: of the page; 0: any that is free.
        options: see `flexselect.options.Options`; the reference layer and reduction are of the training-free mode.

    Raises:
        UsageError: without gradio, or for a port that is taken.
    """
    try:
        from gradio.themes import Default
    except ImportError as error:
        raise UsageError("the page needs gradio: pip install 'flexselect[serve]'") from error
    choices = list_videos(videos)
    check_port(host, port)
    if host not in HERE:
        log.warning("whoever reaches %s:%d can upload videos and use this model; there is no password", host, port)
    try:
        chosen = Options(selector="self", scoring_only=False, **options)
    except ValueError as error:
        raise UsageError(str(error)) from error
    sampling: dict[str, Any] = {"fps": fps, "max_frames": max_frames}
    numbers = {name: value for name, value in sampling.items() if value is not None}
    fs = FlexSelect.from_pretrained(path, **vars(chosen), **numbers)
    blocks = Page(Modes(fs, selector), choices, max_new_tokens, Path(path).name).build()
    _, address, _ = blocks.launch(
        server_name=host,
        server_port=port or None,
        max_file_size=f"{max_upload_mb}mb",
        state_session_capacity=SESSIONS,
        theme=Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),  # nothing fetched
        footer_links=[],
        share=False,
        quiet=True,
        prevent_thread_lock=True,
    )
    log.warning("the page is at %s; Ctrl-C ends it", address)
    blocks.block_thread()


def check_port(host: str, port: int) -> None:
    """Before a model is loaded for nothing.

    Raises:
        UsageError: if the port is taken, or is not ours to have.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError as error:
            reason = error.strerror or error
            raise UsageError(f"port {port} cannot be had ({reason}): give another --port, or 0 for any") from error


def list_videos(folder: str | None) -> dict[str, Path]:
    """The videos that can be chosen, by name.

    Raises:
        UsageError: for a folder that is none.
    """
    if folder is None:
        return {}
    if not is_folder(Path(folder)):
        raise UsageError(f"{folder}: no such folder; --videos takes one with videos")
    return {file.name: file for file in sorted(Path(folder).iterdir()) if file.suffix.lower() in VIDEOS}


class Page:
    """What is on the page, and what happens on it.

    Args:
        modes: the model.
        videos: those that can be chosen, by name.
        max_new_tokens: the most of an answer.
        name: of the model.
    """

    def __init__(self, modes: Modes, videos: dict[str, Path], max_new_tokens: int, name: str) -> None:
        self.modes, self.videos, self.max_new_tokens, self.name = modes, videos, max_new_tokens, name

    def build(self) -> Any:
        """Lay it out: a `gradio.Blocks`."""
        import gradio as gr

        with gr.Blocks(title=f"FlexSelect: {self.name}", analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
            gr.Markdown(f"# FlexSelect\nAsk {self.name} about a video; see which of its visual tokens were shown.")
            sessions, asked = gr.State({}, time_to_live=3600), gr.State([])
            with gr.Row():
                with gr.Column(scale=2):
                    chosen = gr.Dropdown(list(self.videos), value=None, label="A video", visible=bool(self.videos))
                    file = gr.File(label="or upload one", file_types=VIDEOS, height=120)
                    status = gr.Markdown("No video yet.")
                with gr.Column(scale=3):
                    question = gr.Textbox(label="Question", placeholder="What colour is the circle?")
                    modes = gr.CheckboxGroup(list(self.modes.ways), value=list(self.modes.ways), label="Modes")
                    budget = gr.Slider(
                        1, 2 * self.modes.budget, self.modes.budget, step=1, label="Budget: tokens shown"
                    )
                    button = gr.Button("Ask", variant="primary", interactive=False)
            shown = [part for mode in self.columns(gr) for part in mode]
            table = gr.Dataframe(headers=HISTORY, label="Asked so far", interactive=False, wrap=True)
            busy = {**ONE, "show_progress_on": [status]}  # one bar, not one on every part
            given, found = [sessions, asked, question, modes, budget], [*shown, asked, table]
            gr.on([button.click, question.submit], self.ask, given, found, **ONE, show_progress_on=[table])

            bar = gr.Progress(track_tqdm=True)

            def take(video: str | None, progress: Any = bar) -> Iterator[list[Any]]:  # gradio looks for such a default
                yield from self.take(video, progress)

            taken = [sessions, status, budget, button, *shown]
            chosen.select(take, [chosen], taken, trigger_mode="always_last", **busy)  # input comes twice
            chosen.select(None, None, file, js="() => null")  # the other way to choose is empty then
            file.upload(take, [file], taken, **busy)
            file.upload(None, None, chosen, js="() => null")
        return blocks

    def columns(self, gr: Any) -> Iterator[list[Any]]:
        """A column a mode: answer, facts, and two pictures."""
        with gr.Row():
            for mode in self.modes.ways:
                with gr.Column(min_width=280):
                    yield [
                        gr.Textbox(label=mode, interactive=False),
                        gr.Markdown(),
                        *(
                            gr.Image(show_label=False, interactive=False, buttons=["fullscreen"], visible=mode != DENSE)
                            for _ in range(2)
                        ),
                    ]

    def take(self, video: str | None, progress: Any) -> Iterator[list[Any]]:
        """Decode and encode a video that was chosen or uploaded; `progress` follows the bar of the encoding."""
        import gradio as gr

        if video is None:
            return
        nothing = [None] * (4 * len(self.modes.ways))
        path = self.videos.get(video, Path(video))
        yield [{}, f"Decoding and encoding {path.name} ...", gr.skip(), gr.Button(interactive=False), *nothing]
        progress(0, desc=f"indexing {path.name}")
        try:
            sessions = self.modes.open(path)
        except (ValueError, RuntimeError, OSError) as error:
            reason = str(error).replace(str(path), path.name)
            yield [{}, f"**{escaped(reason)}**", gr.skip(), gr.skip(), *nothing]
            return
        session = next(iter(sessions.values()))
        total = session.encode().num_tokens
        slider = gr.Slider(maximum=total, value=min(self.modes.budget, total))
        status = f"**{escaped(path.name)}**: {described(session)}"
        yield [sessions, status, slider, gr.Button(interactive=True), *nothing]

    def ask(
        self, sessions: dict[str, VideoSession], asked: list[list[Any]], question: str, modes: list[str], budget: int
    ) -> Iterator[list[Any]]:
        """Ask in one mode after another; each answer is shown when it is there."""
        import gradio as gr

        if not sessions:
            raise gr.Error("choose or upload a video first", print_exception=False)
        if not question.strip() or not modes:
            raise gr.Error("write a question, and choose a mode", print_exception=False)
        parts: list[Any] = [None] * (4 * len(self.modes.ways))
        for place, (mode, session) in enumerate(sessions.items()):
            if mode not in modes:
                continue
            try:
                found = self.modes.ask(session, question, int(budget), self.max_new_tokens)
            except (ValueError, RuntimeError, OSError) as error:
                raise gr.Error(f"{mode}: {error}", print_exception=False) from error
            answer = found.answer
            parts[4 * place : 4 * place + 2] = [answer.text, facts(answer)]
            parts[4 * place + 2 : 4 * place + 2 + len(found.pictures)] = found.pictures
            name = Path(str(session.video)).name
            asked = [*asked, [name, question, mode, answer.text, answer.num_kept_tokens, round(spent(answer), 3)]]
            yield [*parts, asked, asked[::-1]]


def spent(answer: Answer) -> float:
    """Seconds of a question itself, without what its video took."""
    return sum(answer.timings.get(stage, 0.0) for stage in ("score", "prefill", "generate"))


def facts(answer: Answer) -> str:
    """Tokens and seconds of an answer."""
    parts = ", ".join(f"{s} {answer.timings[s]:.3f}" for s in ("score", "prefill", "generate") if s in answer.timings)
    tokens = f"{answer.num_kept_tokens:,} of {answer.num_visual_tokens:,} visual tokens shown"
    return f"{tokens}  \n{spent(answer):.3f} s: {parts}"


def described(session: VideoSession) -> str:
    """What was made of a video, in words."""
    encoded, took = session.encode(), session.timings
    length = "" if encoded.length is None else f"{clock_time(round(encoded.length))} long, "
    seconds = ", ".join(f"{stage} {took[stage]:.1f} s" for stage in ("decode", "encode") if stage in took)
    size = sum(session.num_bytes.values()) / 1e6
    doubts = "".join(f"  \ndoubtful: {escaped(warning)}" for warning in session.warnings)
    kept = f"{encoded.num_units:,} units, {encoded.num_tokens:,} visual tokens; {seconds}; {size:.1f} MB kept"
    return f"{length}{kept}{doubts}"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]()#+-.!|<>~" else c for c in text)
