"""All pictures of one question."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from flexselect.analysis.every_layer import layer_states
from flexselect.attention.layers import attention_layers
from flexselect.scoring.reference_layer import ReferenceLayerScorer
from flexselect.scoring.selection import select
from flexselect.session import VideoSession
from flexselect.structures.prompt import Selection
from flexselect.visualize.frames import heat_map, kept_tokens, timeline
from flexselect.visualize.layers import states_by_layer
from flexselect.visualize.overlay import overlay
from flexselect.visualize.side_by_side import side_by_side
from flexselect.visualize.token_map import map_tokens


def draw_all(
    folder: str | Path, session: VideoSession, question: str, selection: Selection, title: str = "", units: int = 12
) -> list[Path]:
    """Draw all pictures of a question.

    These are kept tokens, timeline, overlay and hidden states; a heat map, except for controls; and a comparison with
    the teacher, if the selector has one. The hidden states and the comparison need all features in full, so they are
    left out where a session looks twice.

    Args:
        folder: output folder; created if missing.
        session: the session of the video.
        question: the question as asked.
        selection: the selection for the question.
        title: title of the pictures; empty: the question.
        units: number of units to draw.

    Returns:
        The files that were written.
    """
    folder, title = Path(folder), title or question
    folder.mkdir(parents=True, exist_ok=True)
    token_map = map_tokens(session, selection)
    names = ("kept_tokens.png", "timeline.png", "overlay.mp4")
    files = [folder / name for name in names]
    kept_tokens(token_map, title, units).savefig(files[0])
    timeline(token_map, title).savefig(files[1])
    overlay(files[2], token_map, title)
    if session.looks is None:
        files.append(folder / "states_by_layer.png")
        states_by_layer(*hidden_states(session, question, selection), title).savefig(files[-1])
    if token_map.scored:
        files.append(folder / "heat_map.png")
        heat_map(token_map, title, units).savefig(files[-1])
    if session.looks is None and session.engine.scorer is not None and session.engine.scorer.teacher is not None:
        files.append(folder / "teacher_and_selector.png")
        teacher = map_tokens(session, teacher_selection(session, question, selection))
        side_by_side(teacher, token_map, ("teacher", "selector"), title).savefig(files[-1])
    return files


def hidden_states(session: VideoSession, question: str, selection: Selection) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute hidden states of the frame set with the best token, followed by the question.

    Returns:
        See `layer_states`: the groups are dropped tokens, text, and kept tokens.
    """
    lm, encoded = session.engine.lm, session.encode()
    best = int(selection.scores.argmax())
    tokens = next(tokens for tokens in selection.sets if bool((tokens == best).any())).cpu()
    part = encoded.select_units((tokens[:: encoded.tokens_per_unit] // encoded.tokens_per_unit).tolist())
    query = lm.prompter.query_ids(question)
    visual = part.layout(query, lm.visual_id).visual
    kept = visual.clone()
    kept[visual] = torch.isin(tokens, selection.kept.cpu())
    groups = {"dropped": visual & ~kept, "text": ~visual, "kept": kept}
    return layer_states(lm.decoder, lm.assemble(part, query, None, "original"), groups)


def teacher_selection(session: VideoSession, question: str, selection: Selection) -> Selection:
    """Select tokens by the teacher's layer: from each frame set as many as the selector kept.

    If the selector does not record the teacher's layer, this is the family's default layer.
    """
    engine = session.engine
    layer, reduction = (engine.scorer and engine.scorer.teacher) or (None, "max")
    if layer not in attention_layers(engine.lm.decoder.config):
        layer = engine.family.default_reference_layer
    teacher, query = ReferenceLayerScorer(engine.lm, layer, reduction), engine.lm.prompter.query_ids(question)
    kept, sets = selection.kept.cpu(), [tokens.cpu() for tokens in selection.sets]
    scores = teacher.score_many(session.encode(), [query], sets)[0].cpu()
    return select(scores, sets, [int(torch.isin(tokens, kept).sum()) for tokens in sets])
