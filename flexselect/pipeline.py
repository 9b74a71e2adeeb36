"""FlexSelect: load a VideoLLM, open a video once, ask it many questions. The method is in `engine/engine.py`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from typing_extensions import Unpack

from flexselect.engine.answering import Request
from flexselect.engine.clock import Clock
from flexselect.engine.engine import Engine
from flexselect.families import family_class, family_of, load_lm, numbers_of
from flexselect.families.base import VideoFamily
from flexselect.options import OptionNames, Options, names
from flexselect.scoring.factory import check_options, load_selector, make_scorer, reference_layer
from flexselect.session import VideoSession, in_words, load_session
from flexselect.storage.video_source import open_frame_stream
from flexselect.structures.frames import FrameStream, ReadOptions
from flexselect.structures.prompt import Answer, EncodedVideo, VideoClip
from flexselect.validation import check_known


class FlexSelect(Engine):
    """A VideoLLM that is shown only the visual tokens a question needs (FlexSelect, arXiv 2506.00993).

    Made by `from_pretrained`. What a loaded model can do, beside opening videos, is in `Engine`.
    """

    @classmethod
    def from_pretrained(
        cls, path: str | VideoFamily, selector: str | None = None, **options: Unpack[OptionNames]
    ) -> FlexSelect:
        """Load a VideoLLM; the family is found from its config.json.

        Args:
            path: local folder or hub id; or a family, where its numbers are set by hand.
            selector: None: all tokens (dense); "self": training-free; more in `flexselect.options.Options`.
            options: see `flexselect.options.Options`; and numbers of the family, such as `fps` and `max_frames` (see
                `flexselect.families`).

        Raises:
            FileNotFoundError: no checkpoint at `path`.
            ValueError: a foreign checkpoint, weights that do not fit, an option out of range, or one that is unknown.
        """
        known = names(Options)
        numbers = {name: value for name, value in options.items() if name not in known}
        given: dict[str, Any] = {name: value for name, value in options.items() if name in known}
        if isinstance(path, VideoFamily) and numbers:
            raise ValueError(f"{', '.join(numbers)}: a family has its numbers; give them where it is built")
        if not isinstance(path, VideoFamily):
            check_known(numbers, [*known, *numbers_of(family_class(path))], "FlexSelect.from_pretrained")
        chosen = Options(selector=selector, **given)
        family = path if isinstance(path, VideoFamily) else family_of(path, **numbers)
        check_options(family, chosen)
        lite = load_selector(chosen)  # the smaller one first: what is wrong with it is known sooner
        lm = load_lm(family, chosen, reference_layer(family, chosen) + 1 if chosen.scoring_only else None)
        return cls(lm, family, make_scorer(lm, chosen, lite), **vars(chosen))

    def open(
        self,
        video: str | Path | Tensor | np.ndarray,
        seconds: Tensor | Sequence[float] | None = None,
        keep: str = "features",
        keep_on: str | None = None,
        progress: bool | None = None,
        start: float | None = None,
        end: float | None = None,
        track: int | None = None,
        square_pixels: bool = True,
    ) -> VideoSession:
        """Do once what does not depend on the question: sample, decode, resize and encode.

        A file is decoded some frames at a time while the tower looks at those before: memory holds the features alone.

        Args:
            video: a video file; or frames uint8 [T, h, w, 3], taken as they are.
            seconds: when each frame is shown, float [T]; only with frames.
            keep: see `VideoSession.keeping`.
            keep_on: see there.
            progress: whether a bar is shown for a video that takes long; None: on a terminal.
            start: only what comes from this second on; of a file, as all that follow.
            end: only what comes before this second.
            track: among the file's video tracks, from 0; None: the one that players show.
            square_pixels: stretch pixels that are not square, as players do.

        Raises:
            ValueError: what the reader says of a file it cannot read, or frames of another form.
        """
        clock, reading = Clock(self.lm.device), ReadOptions(start, end, track, square_pixels)
        with clock("decode"):
            stream, where = open_frame_stream(video, seconds, reading, self.family.sample, self.lm.prompter.resize)
        session = VideoSession(self, stream, None, clock.timings, progress).keeping(keep, keep_on)
        session.video, session.options = where, reading
        if keep != "nothing":
            session.encode()
        return session

    def open_source(self, source: VideoClip | FrameStream, timings: dict[str, float] | None = None) -> VideoSession:
        """Take up a video whose frames come from elsewhere; it is encoded when that is needed.

        Args:
            source: a clip that was decoded, in a worker for one; or frames as they come.
            timings: seconds already spent on it, by stage.
        """
        return VideoSession(self, source, None, timings)

    def open_encoded(self, encoded: EncodedVideo, timings: dict[str, float] | None = None) -> VideoSession:
        """Take up a video that was encoded before, by this model; see `flexselect.storage.feature_cache`.

        Args:
            encoded: on any device.
            timings: seconds already spent on it, by stage.
        """
        return VideoSession(self, None, encoded.to(self.lm.device), timings)

    def load_session(self, file: str | Path, keep_on: str | None = None) -> VideoSession:
        """Take up what `VideoSession.save` wrote, with this model and selector; the video itself is not needed.

        Args:
            file: with keys and values too, they are taken up if the scorer is the same.
            keep_on: "cpu" leaves it all in the file, mapped into memory; None: features go to the model's device.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file that is broken, or of another model or sampling, naming what differs.
        """
        return load_session(self, Path(file), keep_on)

    def ask_all(self, asked: Sequence[tuple[VideoSession, str]], max_new_tokens: int = 64) -> list[Answer]:
        """Answer questions about several videos at once.

        Args:
            asked: pairs of a session and a question about its video.
            max_new_tokens: the most tokens of an answer.

        Returns:
            An answer per question, in their order: the same as from `VideoSession.ask`.

        Raises:
            ValueError: for an empty question, or a session of another model.
        """
        texts = [in_words(question) for _, question in asked]
        if any(session.engine is not self for session, _ in asked):
            raise ValueError("a question is about a session of another model: ask it with that model's `ask_all`")
        requests: dict[int, Request] = {}
        with ExitStack() as files:
            for session in dict.fromkeys(session for session, _ in asked):
                files.enter_context(session.naming_its_file())
                places = [i for i, (about, _) in enumerate(asked) if about is session]
                requests |= zip(places, session.requests([texts[i] for i in places]))
            return self.answer([requests[i] for i in range(len(asked))], max_new_tokens)
