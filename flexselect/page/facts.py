"""Facts about an answer and a video, as the page shows them."""

from __future__ import annotations

from flexselect.session import VideoSession
from flexselect.structures.answer import Answer
from flexselect.visualize.style import length_text


def question_seconds(answer: Answer) -> float:
    """Return the seconds of a question, without those of its video."""
    return sum(answer.timings.get(stage, 0.0) for stage in ("score", "prefill", "generate"))


def answer_facts(answer: Answer) -> str:
    """Format tokens and seconds of an answer."""
    parts = ", ".join(f"{s} {answer.timings[s]:.3f}" for s in ("score", "prefill", "generate") if s in answer.timings)
    tokens = f"{answer.num_kept_tokens:,} of {answer.num_visual_tokens:,} visual tokens shown"
    return f"{tokens}  \n{question_seconds(answer):.3f} s: {parts}"


def video_facts(session: VideoSession) -> str:
    """Format length, tokens and seconds of a video."""
    encoded, timings = session.encode(), session.timings
    length = "" if encoded.length is None else f"{length_text(encoded.length)} long, "
    seconds = ", ".join(f"{stage} {timings[stage]:.1f} s" for stage in ("decode", "encode") if stage in timings)
    size = sum(session.num_bytes.values()) / 1e6
    doubts = "".join(f"  \ndoubtful: {escape_markdown(warning)}" for warning in session.warnings)
    kept = f"{encoded.num_units:,} units, {encoded.num_tokens:,} visual tokens; {seconds}; {size:.1f} MB kept"
    return f"{length}{kept}{doubts}"


def escape_markdown(text: str) -> str:
    """Escape all characters with a meaning in Markdown."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]()#+-.!|<>~" else c for c in text)
