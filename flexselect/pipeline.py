"""FlexSelect: load a VideoLLM, open a video once, ask many questions about it. The method is in `engine/engine.py`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from inspect import signature
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor
from typing_extensions import Unpack

from flexselect.engine.answer_engines import find_answer_engine
from flexselect.engine.answering import Request
from flexselect.engine.clock import Clock
from flexselect.engine.engine import Engine
from flexselect.engine.kept_data import KeptData
from flexselect.evaluation.questions import question_text
from flexselect.evidence.answers import answer_with_moments
from flexselect.families import load_lm, open_family
from flexselect.families.base import VideoFamily
from flexselect.option_docs import show_options
from flexselect.options import OptionNames, Options, option_names
from flexselect.scoring.factory import check_options, load_selector, make_scorer, reference_layer
from flexselect.session import VideoSession
from flexselect.storage.encoded_file import read_encoded
from flexselect.storage.run_settings import describe_differences
from flexselect.storage.video_source import open_frame_stream
from flexselect.structures.answer import Answer
from flexselect.structures.frames import FrameStream, ReadOptions
from flexselect.structures.prompt import EncodedVideo, VideoClip
from flexselect.validation import OWN_ENGINE, Frames, check_place


class FlexSelect(Engine):
    """A VideoLLM that is shown only the visual tokens a question needs (FlexSelect, arXiv 2506.00993).

    Load it with `from_pretrained`. Scoring, selecting and answering are in `Engine`.
    """

    @classmethod
    @show_options(Options)
    def from_pretrained(
        cls, path: str | VideoFamily, selector: str | None = None, **options: Unpack[OptionNames]
    ) -> FlexSelect:
        """Load a VideoLLM; the family is found from its config.json.

        Args:
            path: local folder or hub id of a checkpoint; or a family object, to set its numbers yourself.
            selector: None: all tokens (dense); "self": training-free; more under Options.
            options: see Options; also numbers of the family, such as `fps` and `max_frames` (see
                `flexselect.families`).

        Raises:
            FileNotFoundError: no checkpoint at `path`.
            ValueError: an unknown checkpoint, weights that do not fit, an unknown option, or a value out of range.
        """
        known = option_names(Options)
        numbers = {name: value for name, value in options.items() if name not in known}
        values: dict[str, Any] = {name: value for name, value in options.items() if name in known}
        for name in numbers.keys() & signature(cls.open).parameters.keys():
            raise ValueError(f"{name} is an option of open, not of from_pretrained: fs.open(video, {name}=...)")
        family = open_family(path, numbers, known, "FlexSelect.from_pretrained")
        checked = Options(selector=selector, **values)
        check_options(family, checked)
        lite = load_selector(family, checked)  # before the large model: a wrong selector is refused sooner
        open_engine = find_answer_engine(checked, family)
        lm = load_lm(family, checked, layers_needed(family, checked))
        fs = cls(lm, family, make_scorer(lm, checked, lite), **vars(checked))
        fs.answer_engine = None if open_engine is None else open_engine(family)
        return fs

    def __repr__(self) -> str:
        options = self.options
        most = "" if options.budget_mass is None else "at most "
        budget = "all tokens" if options.selector is None else f"{most}{self.budget} tokens"
        return f"FlexSelect({self.family.path}, selector={options.selector!r}, {budget})"

    def open(
        self,
        video: str | Path | Frames,
        seconds: Tensor | Iterable[float] | None = None,
        keep: str = "auto",
        keep_on: str | None = None,
        progress: bool | None = None,
        start: float | str | None = None,
        end: float | str | None = None,
        track: int | None = None,
        square_pixels: bool = True,
        reader: str = "pyav",
        video_start: float | str | None = None,
        video_end: float | str | None = None,
    ) -> VideoSession:
        """Open a video: sample, decode, resize and encode it, once for all questions.

        A file is decoded a few frames at a time while the tower encodes earlier ones, so memory holds only features.

        Args:
            video: a video file; or frames uint8 [T, h, w, 3], which are not sampled, also as a list or generator of
                arrays [h, w, 3] or PIL images.
            seconds: when each frame is shown, float [T]; only with frames.
            keep: what is kept between questions, see `VideoSession.keeping`.
            keep_on: device or "disk" that holds the kept data, see `VideoSession.keeping`.
            progress: whether to show a progress bar if the video takes long; None: on a terminal only.
            start: read the file from this second on, or from a time such as "2:40". This and the following options are
                for files only.
            end: read the file up to this second.
            track: number among the file's video tracks, from 0; None: the one that players show.
            square_pixels: stretch pixels that are not square, as players do.
            reader: what decodes the file: "pyav", "decord", "torchcodec", or a reader of another package.
            video_start: another name of `start`, as in Qwen's utilities.
            video_end: another name of `end`.

        Raises:
            ValueError: if there is no such reader, the file cannot be read, or the frames have another shape or dtype.
        """
        how: dict[str, Any] = {"track": track, "square_pixels": square_pixels, "reader": reader}
        clock, reading = Clock(self.gpus), ReadOptions.of(start, end, video_start, video_end, **how)
        with clock("decode"):
            rules = self.family.reading(reading), self.family.sample, self.lm.prompter.resize
            stream, origin = open_frame_stream(video, seconds, *rules)
        session = VideoSession(self, stream, None, clock.timings, progress).keeping(keep, keep_on)
        session.video, session.options = origin, reading
        if keep != "nothing":
            session.encode()
        return session

    def open_source(
        self,
        source: VideoClip | FrameStream,
        timings: dict[str, float] | None = None,
        progress: bool | None = None,
    ) -> VideoSession:
        """Open a video that something else decodes; it is encoded on first use.

        Args:
            source: a decoded clip, for example from a DataLoader worker; or a stream of frames.
            timings: seconds already spent on the video, by stage.
            progress: see `open`.
        """
        return VideoSession(self, source, None, timings, progress)

    def open_encoded(self, encoded: EncodedVideo, timings: dict[str, float] | None = None) -> VideoSession:
        """Open a video that this model encoded before; see `flexselect.storage.feature_cache`.

        Args:
            encoded: the encoded video, on any device.
            timings: seconds already spent on the video, by stage.
        """
        return VideoSession(self, None, encoded.to(self.lm.device), timings)

    def load_session(self, file: str | Path, keep_on: str | None = None) -> VideoSession:
        """Load a session that `VideoSession.save` wrote with the same model and sampling; the video is not needed.

        Args:
            file: the session file. Its keys and values are used if the scorer is the same.
            keep_on: "cpu" leaves everything in the file, mapped into memory; None: features go to the model's device.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is damaged, or from another model or sampling; the message names what differs.
        """
        return load_session(self, Path(file), keep_on)

    def ask_all(self, asked: Sequence[tuple[VideoSession, str]], max_new_tokens: int = 64) -> list[Answer]:
        """Answer questions about several videos at once.

        Args:
            asked: pairs of a session and a question about its video.
            max_new_tokens: the maximum length of an answer, in tokens.

        Returns:
            One answer per question, in order; the same answers as from `VideoSession.ask`, but for rounding: in
            bfloat16 a batch may run other kernels.

        Raises:
            ValueError: for an empty question, or a session of another model.
        """
        if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in asked):
            raise ValueError(
                "ask_all of a model takes pairs of a session and a question; a session has its own ask_all"
            )
        texts = [question_text(question) for _, question in asked]
        if any(session.engine is not self for session, _ in asked):
            raise ValueError("a question is about a session of another model: ask it with that model's `ask_all`")
        requests: dict[int, Request] = {}
        with ExitStack() as files:
            for session in dict.fromkeys(session for session, _ in asked):
                files.enter_context(session.name_file_in_errors())
                indices = [i for i, (other, _) in enumerate(asked) if other is session]
                requests |= zip(indices, session.requests([texts[i] for i in indices]))
            return answer_with_moments(self, [requests[i] for i in range(len(asked))], max_new_tokens)


def layers_needed(family: VideoFamily, options: Options) -> int | None:
    """Return how many decoder layers must be loaded; None: all.

    With an answer engine, only those up to the reference layer score; without training-free scoring, one is enough.
    """
    if not options.scoring_only and options.engine == OWN_ENGINE:
        return None
    return 1 if options.selector != "self" else reference_layer(family, options) + 1


def load_session(engine: Engine, file: Path, keep_on: str | None) -> VideoSession:
    """Read a session file; see `FlexSelect.load_session`."""
    check_place(keep_on)
    if file.is_dir():
        raise ValueError(f"{file} is a folder, not a session file")
    try:
        encoded, saved, states = read_encoded(file, engine.lm.prompter.prefix_ids)
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{file} holds no session, or is cut short ({error}): save it again") from error
    scored, expected = saved.pop("scored", None), engine.provenance
    same_scorer = scored == expected.pop("scored")
    if engine.scorer is None or engine.scorer.projection is None:  # selector features are not used
        saved["selector"] = None
    differences = describe_differences(saved, expected)
    if differences:
        raise ValueError(f"{file} was saved by another model ({differences}): open the video again")
    session = VideoSession(engine, None, encoded if keep_on is not None else encoded.to(engine.lm.device))
    session.place, session.saved_in = KeptData(keep_on), file
    return session.restore(states) if states and same_scorer else session
