"""Facts about an answer and a video, as the page shows them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from flexselect.session import VideoSession
from flexselect.structures.answer import Answer
from flexselect.visualize.style import clock_time, length_text

JUMP = "const v = document.getElementById('player'); if (v) {{ v.currentTime = {}; v.scrollIntoView(false); }}"
BUTTON = "margin: .2em .4em .2em 0; padding: .1em .5em; border: 1px solid; border-radius: 4px"
PLAYER = '<video id="player" controls preload="metadata" style="width: 100%; max-height: 50vh" src="{}"></video>'


def question_seconds(answer: Answer) -> float:
    """Return the seconds of a question, without those of its video."""
    return sum(answer.timings.get(stage, 0.0) for stage in ("score", "prefill", "generate"))


def answer_facts(answer: Answer) -> str:
    """Format tokens, seconds and moments of an answer as HTML; a click on a moment sets the player's time."""
    parts = ", ".join(f"{s} {answer.timings[s]:.3f}" for s in ("score", "prefill", "generate") if s in answer.timings)
    tokens = f"{answer.num_kept_tokens:,} of {answer.num_visual_tokens:,} visual tokens shown"
    seconds = f"{question_seconds(answer):.3f} s: {parts}"
    buttons = "".join(
        f'<button class="moment" style="{BUTTON}" onclick="{JUMP.format(moment.start)}">'
        f"{clock_time(moment.start)}–{clock_time(moment.end)}</button>"
        for moment in answer.moments
    )
    return f"{tokens}<br>{seconds}<div>{buttons}</div>"


def player(path: Path) -> str:
    """Return the HTML that plays a video, from its own file."""
    return PLAYER.format(f"/gradio_api/file={quote(str(path.resolve()))}")


def video_facts(session: VideoSession) -> str:
    """Format length, tokens and seconds of a video."""
    encoded, timings = session.encode(), session.timings
    length = "" if encoded.length is None else f"{length_text(encoded.length)} long, "
    seconds = ", ".join(f"{stage} {timings[stage]:.1f} s" for stage in ("decode", "encode") if stage in timings)
    size = sum(session.num_bytes.values()) / 1e6
    doubts = "".join(f"  \ndoubtful: {escape_markdown(warning)}" for warning in session.warnings)
    frames = (session.sampling or {}).get("frames")
    looked = "" if frames is None else f"{frames:,} frames, "
    kept = f"{looked}{encoded.num_tokens:,} visual tokens; {seconds}; {size:.1f} MB kept"
    return f"{length}{kept}{doubts}"


def escape_markdown(text: str) -> str:
    """Escape all characters with a meaning in Markdown."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]()#+-.!|<>~" else c for c in text)
