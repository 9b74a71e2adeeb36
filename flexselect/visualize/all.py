"""All pictures of one question."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from flexselect.analysis.every_layer import layer_states
from flexselect.scoring.reference_layer import ReferenceLayerScorer
from flexselect.scoring.selection import select
from flexselect.session import VideoSession
from flexselect.structures.prompt import Selection
from flexselect.visualize.frames import heat_map, kept_tokens, timeline
from flexselect.visualize.layers import states_by_layer
from flexselect.visualize.look import look_at
from flexselect.visualize.overlay import overlay
from flexselect.visualize.side_by_side import side_by_side


def draw_all(
    folder: str | Path, session: VideoSession, question: str, selection: Selection, title: str = "", units: int = 12
) -> list[Path]:
    """Draw kept tokens, timeline, overlay and hidden states; a heat map, but not of a control; a selector's teacher.

    Args:
        folder: where to; created when missing.
        session: the video.
        question: as it was asked.
        selection: what was kept for it.
        title: written above the pictures; the question if it is empty.
        units: how many units are drawn.

    Returns:
        The files.
    """
    folder, title = Path(folder), title or question
    folder.mkdir(parents=True, exist_ok=True)
    look = look_at(session, selection)
    names = ("kept_tokens.png", "timeline.png", "overlay.mp4", "states_by_layer.png")
    files = [folder / name for name in names]
    kept_tokens(files[0], look, title, units)
    timeline(files[1], look, title)
    overlay(files[2], look)
    states_by_layer(files[3], *states_of(session, question, selection), title)
    if look.scored:
        files.append(folder / "heat_map.png")
        heat_map(files[-1], look, title, units)
    if session.engine.scorer is not None and session.engine.scorer.teacher is not None:
        files.append(folder / "teacher_and_selector.png")
        teacher = look_at(session, teacher_selection(session, question, selection))
        side_by_side(files[-1], teacher, look, ("teacher", "selector"), title)
    return files


def states_of(session: VideoSession, question: str, selection: Selection) -> tuple[Tensor, dict[str, Tensor]]:
    """Hidden states of the frame set that the best token is in, with its question as a clip of its own.

    Returns:
        See `layer_states`: tokens that are dropped, text, and kept.
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
    """What the layer that the selector was trained to rank like keeps of each frame set, as many tokens as it has.

    The layer is the family's default where the selector does not say which it was.
    """
    engine = session.engine
    layer, reduction = (engine.scorer and engine.scorer.teacher) or (None, "max")
    if layer is None or layer >= engine.family.num_layers:
        layer = engine.family.default_reference_layer
    teacher, query = ReferenceLayerScorer(engine.lm, layer, reduction), engine.lm.prompter.query_ids(question)
    kept, sets = selection.kept.cpu(), [tokens.cpu() for tokens in selection.sets]
    scores = teacher.score_many(session.encode(), [query], sets)[0].cpu()
    return select(scores, sets, [int(torch.isin(tokens, kept).sum()) for tokens in sets])
