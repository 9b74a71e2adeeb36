"""Facts about an answer and a video, as the page shows them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from flexselect.session import VideoSession
from flexselect.structures.answer import Answer, Moment, Verification
from flexselect.visualize.report import best_along, mean_along
from flexselect.visualize.style import clock_time, length_text
from flexselect.visualize.token_map import TokenMap

JUMP = (  # the length of a file is sure only when it can play
    "const v = document.getElementById('player'), at = {}; if (v) {{ const go = () => {{ v.currentTime = at; }}; go();"
    " if (v.readyState < 3) v.addEventListener('canplay', go, {{ once: true }}); v.scrollIntoView(false); }}"
)
BUTTON = "margin: .2em .4em .2em 0; padding: .1em .5em; border: 1px solid; border-radius: 4px"
WIDTH, HEIGHT = 600, 60  # of a timeline's own units
BOX = "this.getBoundingClientRect()"
PLAYER = '<video id="player" controls preload="metadata" style="width: 100%; max-height: 50vh" src="{}"></video>'


def question_seconds(answer: Answer) -> float:
    """Return the seconds of a question, without those of its video."""
    return sum(answer.timings.get(stage, 0.0) for stage in ("score", "prefill", "generate"))


def timeline_html(token_map: TokenMap, offset: float) -> str:
    """Draw kept tokens and best scores along the video as SVG; a click sets the player's time."""
    kept = mean_along(token_map.kept_by_unit, token_map.edges)
    best = best_along(token_map.best, token_map.edges)
    width = WIDTH / len(kept)
    bars = "".join(
        f'<rect x="{i * width:.2f}" y="{HEIGHT - HEIGHT * value / (max(kept) or 1):.2f}" width="{width:.2f}"'
        f' height="{HEIGHT * value / (max(kept) or 1):.2f}" fill="gray"/>'
        for i, value in enumerate(kept)
    )
    points = " ".join(
        f"{(i + 0.5) * width:.2f},{HEIGHT - HEIGHT * v / (max(best) or 1):.2f}" for i, v in enumerate(best)
    )
    line = f'<polyline fill="none" stroke="#d55e00" points="{points}"/>' if token_map.scored else ""
    start, end = token_map.edges[0] + offset, token_map.edges[-1] + offset
    place = f"{start} + (event.clientX - {BOX}.left) / {BOX}.width * {end - start}"
    click = f'onclick="{JUMP.format(place)}" style="width: 100%; height: 3em; cursor: pointer"'
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="tokens along the video"'
    return f'<svg class="along" {box} {click}>{bars}{line}</svg>'


def answer_facts(answer: Answer, offset: float = 0.0) -> str:
    """Format tokens, seconds and moments of an answer as HTML; a click on a moment sets the player's time.

    Args:
        answer: the answer.
        offset: see `player_offset`.
    """
    parts = ", ".join(f"{s} {answer.timings[s]:.3f}" for s in ("score", "prefill", "generate") if s in answer.timings)
    tokens = f"{answer.num_kept_tokens:,} of {answer.num_visual_tokens:,} visual tokens shown"
    seconds = f"{question_seconds(answer):.3f} s: {parts}"
    buttons = "".join(
        f'<button class="moment" style="{BUTTON}" onclick="{JUMP.format(moment.start + offset)}">'
        f"{clock_time(moment.start)}–{clock_time(moment.end)} · {_worth(moment)}</button>"
        for moment in answer.cited
    )
    proof = "" if answer.verification is None else f"<div>{_proof(answer.verification)}</div>"
    return f"{tokens}<br>{seconds}<div>{buttons}</div>{proof}"


def _worth(moment: Moment) -> str:
    """Say how much a moment is worth: what it gives by itself if it was verified, else its share."""
    return f"{100 * moment.share:.0f} %" if moment.alone is None else f"alone {moment.alone:.2f}"


def _proof(proof: Verification) -> str:
    which = "it" if proof.cited == 1 else f"the first {proof.cited}"
    answer = "another answer" if proof.changed else "the same answer"
    return f"without {which} the model gives {answer} (support {proof.support:.2f})"


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
