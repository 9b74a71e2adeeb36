"""A web page to try a model: choose a video, ask, compare the modes. Needs gradio, extra `serve`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flexselect.evaluation.results import EMPTY
from flexselect.evidence.moments import player_offset
from flexselect.page.facts import answer_facts, escape_markdown, player, question_seconds, video_facts
from flexselect.page.modes import DENSE, Modes
from flexselect.session import VideoSession
from flexselect.storage.run_settings import UsageError
from flexselect.storage.video_paths import VIDEO_ENDINGS, is_folder

VIDEOS = list(VIDEO_ENDINGS)
SESSIONS = 8  # browsers whose video is kept; an hour's features take about a gigabyte
ONE_AT_A_TIME: dict[str, Any] = {  # there is one model, so requests run one after another, and only from this page
    "concurrency_limit": 1,
    "concurrency_id": "model",
    "api_visibility": "private",
}
HISTORY = ["question", "mode", "answer", "tokens shown", "seconds", "video"]  # a phone shows the first ones


def list_videos(folder: str | None) -> dict[str, Path]:
    """List the videos to choose from, by name.

    Raises:
        UsageError: if there is no such folder.
    """
    if folder is None:
        return {}
    if not is_folder(Path(folder)):
        raise UsageError(f"{folder}: no such folder; --videos takes a folder with videos")
    return {file.name: file for file in sorted(Path(folder).iterdir()) if file.suffix.lower() in VIDEOS}


class Page:
    """The page: its elements and their actions.

    Args:
        modes: the loaded model.
        videos: a folder of videos to choose from; None: uploads only.
        max_new_tokens: the maximum length of an answer, in tokens.
        name: name of the model.
    """

    def __init__(self, modes: Modes, videos: str | None, max_new_tokens: int, name: str) -> None:
        self.modes, self.videos, self.max_new_tokens, self.name = modes, videos, max_new_tokens, name

    def build(self) -> Any:
        """Build the page: a `gradio.Blocks`."""
        import gradio as gr

        with gr.Blocks(title=f"FlexSelect: {self.name}", analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
            gr.Markdown(f"# FlexSelect\nAsk {self.name} about a video; see which of its visual tokens were shown.")
            sessions, asked = gr.State({}, time_to_live=3600), gr.State([])
            with gr.Row():
                with gr.Column(scale=2):
                    chosen = gr.Dropdown([], value=None, label="A video", visible=self.videos is not None)
                    file = gr.File(label="or upload one", file_types=VIDEOS, height=120)
                    status, film = gr.Markdown("No video yet. Choose or upload one, then ask."), gr.HTML()
                with gr.Column(scale=3):
                    question = gr.Textbox(label="Question", placeholder="What colour is the circle?")
                    modes = gr.CheckboxGroup(list(self.modes.models), value=list(self.modes.models), label="Modes")
                    budget = gr.Slider(
                        1, 2 * self.modes.budget, self.modes.budget, step=1, label="Budget: tokens shown"
                    )
                    verify = gr.Checkbox(label="Verify: ask again without the moments that the answer comes from")
                    button = gr.Button("Ask", variant="primary")
            shown = [part for mode in self.columns(gr) for part in mode]
            table = gr.Dataframe(headers=HISTORY, label="Asked so far", interactive=False, wrap=True)
            busy = {**ONE_AT_A_TIME, "show_progress_on": [status]}  # one progress bar, not one per element
            inputs, outputs = [sessions, asked, question, modes, budget, verify], [*shown, asked, table]
            gr.on([button.click, question.submit], self.ask, inputs, outputs, **ONE_AT_A_TIME, show_progress_on=[table])

            bar = gr.Progress(track_tqdm=True)

            # gradio passes its progress bar only to a function with such a default argument
            def open_video(video: str | None, progress: Any = bar) -> Iterator[list[Any]]:
                yield from self.open_video(video, progress)

            for listing in (blocks.load, chosen.focus):  # so that files are seen that were added since
                listing(self.list_again, None, [chosen], show_progress="hidden", queue=False)
            opened = [sessions, status, film, budget, button, *shown]
            chosen.select(open_video, [chosen], opened, trigger_mode="always_last", **busy)  # `input` would fire twice
            chosen.select(None, None, file, js="() => null")  # clear the other way to choose
            file.upload(open_video, [file], opened, **busy)
            file.upload(None, None, chosen, js="() => null")
        return blocks

    def columns(self, gr: Any) -> Iterator[list[Any]]:
        """Build one column per mode: answer, facts, and two pictures."""
        with gr.Row():
            for mode in self.modes.models:
                with gr.Column(min_width=280):
                    yield [
                        gr.Textbox(label=mode, interactive=False),
                        gr.HTML(),
                        *(
                            gr.Image(show_label=False, interactive=False, buttons=["fullscreen"], visible=mode != DENSE)
                            for _ in range(2)
                        ),
                    ]

    def list_again(self) -> Any:
        """List the folder's videos as choices."""
        import gradio as gr

        return gr.Dropdown(list(list_videos(self.videos)))

    def open_video(self, video: str | None, progress: Any) -> Iterator[list[Any]]:
        """Decode and encode a chosen or uploaded video; `progress` shows the progress of the encoding."""
        import gradio as gr

        if video is None:
            return
        empty = [None] * (4 * len(self.modes.models))
        path = list_videos(self.videos).get(video, Path(video))
        wait = gr.Button(interactive=False)
        yield [{}, f"Decoding and encoding {path.name} ...", player(path), gr.skip(), wait, *empty]
        progress(0, desc=f"indexing {path.name}")
        try:
            with self.modes.lock:
                sessions = self.modes.open(path)
        except (ValueError, RuntimeError, OSError) as error:
            reason = str(error).replace(str(path), path.name)
            yield [{}, f"**{escape_markdown(reason)}**", "", gr.skip(), gr.Button(interactive=True), *empty]
            return
        session = next(iter(sessions.values()))
        total = session.encode().num_tokens
        slider = gr.Slider(maximum=total, value=min(self.modes.budget, total))
        status = f"**{escape_markdown(path.name)}**: {video_facts(session)}"
        yield [sessions, status, gr.skip(), slider, gr.Button(interactive=True), *empty]

    def ask(
        self,
        sessions: dict[str, VideoSession],
        asked: list[list[Any]],
        question: str,
        modes: list[str],
        budget: int,
        verify: bool,
    ) -> Iterator[list[Any]]:
        """Ask in one mode after another; yield each answer at once."""
        import gradio as gr

        present = {"choose or upload a video": sessions, "write a question": question.strip(), "choose a mode": modes}
        missing = [advice for advice, value in present.items() if not value]
        if missing:
            gr.Warning(f"Please {' and '.join(missing)}.")
            yield [gr.skip()] * (4 * len(self.modes.models) + 2)
            return
        parts: list[Any] = [None] * (4 * len(self.modes.models))
        for place, (mode, session) in enumerate(sessions.items()):
            if mode not in modes:
                continue
            try:
                with self.modes.lock:
                    shown = self.modes.ask(session, question, int(budget), self.max_new_tokens, verify)
            except (ValueError, RuntimeError, OSError) as error:
                gr.Warning(f"{mode}: {error}")  # an error would hide the table
                parts[4 * place] = f"refused: {error}"
                yield [*parts, gr.skip(), gr.skip()]
                continue
            answer = shown.answer
            parts[4 * place : 4 * place + 2] = [
                answer.text or EMPTY,
                answer_facts(answer, player_offset(session.sampling)) + shown.timeline,
            ]
            parts[4 * place + 2 : 4 * place + 2 + len(shown.pictures)] = shown.pictures
            name = Path(str(session.video)).name
            facts = answer.text or EMPTY, answer.num_kept_tokens, round(question_seconds(answer), 3)
            asked = [*asked, [question, mode, *facts, name]]
            yield [*parts, asked, asked[::-1]]
