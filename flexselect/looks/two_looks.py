"""One video that is looked at twice: the whole of it once and cheaply, then for each question what stands out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from flexselect.engine.answering import Request
from flexselect.engine.clock import Clock
from flexselect.engine.costs import cost_of_selecting
from flexselect.engine.engine import Engine
from flexselect.evidence.moments import prominence
from flexselect.looks.first_look import Source, stream_of_clip
from flexselect.looks.merged import merge, still_shown
from flexselect.looks.regions import View, look_at, places_of
from flexselect.scoring.factory import make_scorer
from flexselect.structures.cost import add_costs
from flexselect.structures.frames import FrameStream
from flexselect.structures.prompt import EncodedVideo, Selection, VideoClip

CONTEXT = 8  # one token in this many of an answer's budget is of the first look


class TwoLooks:
    """The looks at one video, and the units that were seen in full so far.

    Args:
        engine: the model, whose options say what the looks may cost.
        source: the video's frames, resized for the full look.
        progress: whether to show a progress bar if a look takes long; None: on a terminal only.
    """

    def __init__(self, engine: Engine, source: FrameStream | VideoClip, progress: bool | None = None) -> None:
        options = engine.options
        assert options.cost is not None
        stream = stream_of_clip(source) if isinstance(source, VideoClip) else source
        self.engine, self.progress = engine, progress
        sizes = options.first_look_shrink, options.second_look_area
        self.source = Source(stream, engine.lm, options.cost, options.first_look_share, *sizes)
        self.most_bytes = options.second_look_gb * 1e9
        # features of each unit or region, then its selector features if there are any; the latest used last
        self.parts: OrderedDict[View, tuple[Tensor, ...]] = OrderedDict()

    @cached_property
    def scout(self) -> Engine:
        """The engine that scores the first look, which may have a reference layer of its own."""
        options = self.engine.options.of_first_look
        if options is self.engine.options:
            return self.engine
        return self.engine.with_scorer(make_scorer(self.engine.lm, options))

    @property
    def num_bytes(self) -> int:
        """Bytes of the units that were seen in full."""
        return sum(map(_bytes, self.parts.values()))

    @cached_property
    def full(self) -> VideoClip:
        """The shape of the full look, without pixels."""
        return self.source.full_clip()

    @classmethod
    def at(cls, engine: Engine, source: FrameStream | VideoClip | None, progress: bool | None) -> TwoLooks:
        """Make the looks at a video.

        Raises:
            ValueError: if there are only features of the video.
        """
        if source is None:
            raise ValueError("looking twice (cost) needs the video itself, not features of it: open the file")
        return cls(engine, source, progress)

    def first(self, clock: Clock) -> EncodedVideo:
        """Look at the whole video: its features at a low rate and resolution."""
        first = self.engine.encode_source(self.source.first(), clock, self.progress)
        per_unit = self.engine.family.frames_per_unit
        if self.source.area < 1 and self._region == self.full.grid[1:]:
            reason = "the tower takes frames of one size only" if self._side is None else "lower first_look_shrink"
            warning = f"the second look takes whole frames, not second_look_area of them: {reason}"
            first.about.warnings.extend([] if warning in first.about.warnings else [warning])
        return replace(first, seconds=None if first.seconds is None else first.seconds[::per_unit])

    def sampling(self, first: EncodedVideo) -> dict[str, Any]:
        """Return how the video was sampled, see `EncodedVideo.sampling`: the full look, and the first one.

        How many frames the full look would decode is left out: `Cost` has those of both looks.
        """
        whole = replace(first, grid=self.full.grid, seconds=self.full.seconds).sampling
        whole = {name: value for name, value in whole.items() if not name.startswith("decoded")}
        return {**whole, "first_look": {"every": self.source.plan.every, "grid": list(first.grid)}}

    def again(self, request: Request, budget: int | None = None) -> Request:
        """Look again at what stands out for a question.

        Args:
            request: the question, with the features and scores of the first look.
            budget: K; None: the model's.

        Returns:
            The question with a `SparseVideo` and a selection from both looks.
        """
        seen, plan = request.selection, self.source.plan
        assert seen is not None
        clock = Clock(self.engine.gpus, request.timings)
        distance, _ = prominence(seen, len(plan.coarse))
        units, size, full = plan.choose(distance.tolist()), self._region, self.full.grid[1:]
        views = look_at(units, seen.scores, plan.coarse, request.encoded.grid[1:], full, size)
        fine = self._in_full(views, request.encoded, clock)
        with clock("score"):
            most = self.engine.budget if budget is None else budget
            context = still_shown(seen, units, plan, max(most // CONTEXT, most - fine.num_tokens))
            chosen = self.engine.select_encoded(fine, [request.query_ids], None, max(1, most - len(context)))[0]
            places = places_of(views, full[1], size)
            video, selection = merge(request.encoded, seen, fine, chosen, units, places, plan, self.full, context)
        cost = cost_of_selecting(self.engine.family, self.engine.scorer, fine, request.query_ids, chosen)
        both = add_costs([request.cost, cost])
        return replace(request, encoded=video, selection=selection, timings=clock.timings, cost=both)

    def select(self, encoded: EncodedVideo, query_ids: Tensor, seen: Selection, budget: int | None) -> Selection:
        """Return the selection of `again` alone; `encoded` and `seen` are of the first look."""
        selection = self.again(Request(encoded, query_ids, seen, {}), budget).selection
        assert selection is not None
        return selection

    @property
    def _region(self) -> tuple[int, int]:
        """Rows and columns of tokens of what the second look takes of a unit."""
        (height, width), side = self.source.region, self._side
        return self.full.grid[1:] if side is None else (height // side, width // side)

    @property
    def _side(self) -> int | None:
        """Pixels that a token is wide; None: the tower takes frames of one size only."""
        return self.engine.lm.prompter.token_side

    def _in_full(self, views: Sequence[View], first: EncodedVideo, clock: Clock) -> EncodedVideo:
        """Return what is seen in full, as a video of its own; encode what was not seen yet."""
        encoded = self._encoded(views, clock)
        self._keep(views, encoded)
        features, *others = encoded
        stream, delimiters = self.source.second(views), self.full.delimiters
        return replace(
            first,
            features=features,
            selector_features=others[0] if others else None,
            grid=(len(views), *self._region),
            delimiters=tuple(delimiters[view.unit] for view in views) if delimiters else (),
            seconds=stream.seconds,
            about=stream.about,
            tower_input=(stream.num_frames, *self.source.region),
        )

    def _encoded(self, views: Sequence[View], clock: Clock) -> list[Tensor]:
        """Return the features of some views, then their selector features if there are any: [V, D] each.

        Those that were not kept are encoded.
        """
        new, seen = [view for view in views if view not in self.parts], list[Tensor]()
        if new:
            encoded = self.engine.encode_source(self.source.second(new), clock, self.progress)
            seen = [tensor for tensor in (encoded.features, encoded.selector_features) if tensor is not None]
        if len(new) == len(views):
            return seen
        parts = {**self.parts, **dict(zip(new, _by_unit(seen, len(new))))}
        return [torch.cat(tensors) for tensors in zip(*(parts[view] for view in views))]

    def _keep(self, views: Sequence[View], encoded: Sequence[Tensor]) -> None:
        """Keep what was seen for later questions, as many as fit; those that were not used for longest make room.

        Args:
            views: what a question needed.
            encoded: their features, see `_encoded`.
        """
        room = int(self.most_bytes * len(views) // _bytes(encoded))
        new = {view for view in views[:room] if view not in self.parts}
        for view in views[:room]:
            if view not in new:
                self.parts.move_to_end(view)
        while len(self.parts) > room - len(new):
            self.parts.popitem(last=False)
        for view, part in zip(views, _by_unit(encoded, len(views))):
            if view in new:
                self.parts[view] = tuple(tensor.clone() for tensor in part)  # not a view of all


def _by_unit(tensors: Sequence[Tensor], count: int) -> Iterator[tuple[Tensor, ...]]:
    """Divide tensors of equally long units into the parts of each."""
    return zip(*(tensor.chunk(count) for tensor in tensors))


def _bytes(part: Sequence[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in part)
