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
        self.source = Source(stream, engine.lm, options.cost, options.first_look_share, options.first_look_shrink)
        self.most_bytes = options.second_look_gb * 1e9
        # features of each unit, then its selector features if there are any; the latest used last
        self.parts: OrderedDict[int, tuple[Tensor, ...]] = OrderedDict()

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
        units = plan.choose(distance.tolist())
        fine = self._in_full(units, request.encoded, clock)
        with clock("score"):
            most = self.engine.budget if budget is None else budget
            context = still_shown(seen, units, plan, most // CONTEXT)
            chosen = self.engine.select_encoded(fine, [request.query_ids], None, max(1, most - len(context)))[0]
            video, selection = merge(request.encoded, seen, fine, chosen, units, plan, self.full, context)
        cost = cost_of_selecting(self.engine.family, self.engine.scorer, fine, request.query_ids, chosen)
        both = add_costs([request.cost, cost])
        return replace(request, encoded=video, selection=selection, timings=clock.timings, cost=both)

    def select(self, encoded: EncodedVideo, query_ids: Tensor, seen: Selection, budget: int | None) -> Selection:
        """Return the selection of `again` alone; `encoded` and `seen` are of the first look."""
        selection = self.again(Request(encoded, query_ids, seen, {}), budget).selection
        assert selection is not None
        return selection

    def _in_full(self, units: Sequence[int], first: EncodedVideo, clock: Clock) -> EncodedVideo:
        """Return some units in full, as a video of their own; encode those that were not seen yet."""
        encoded = self._encoded(units, clock)
        self._keep(units, encoded)
        features, *others = encoded
        stream = self.source.second(units)
        return replace(
            first,
            features=features,
            selector_features=others[0] if others else None,
            grid=(len(units), *self.full.grid[1:]),
            delimiters=tuple(self.full.delimiters[unit] for unit in units) if self.full.delimiters else (),
            seconds=stream.seconds,
            about=stream.about,
            tower_input=(stream.num_frames, *self.full.pixels.shape[1:3]),
        )

    def _encoded(self, units: Sequence[int], clock: Clock) -> list[Tensor]:
        """Return the features of some units in full, then their selector features if there are any: [V, D] each.

        Those that were not kept are encoded.
        """
        new, seen = [unit for unit in units if unit not in self.parts], list[Tensor]()
        if new:
            encoded = self.engine.encode_source(self.source.second(new), clock, self.progress)
            seen = [tensor for tensor in (encoded.features, encoded.selector_features) if tensor is not None]
        if len(new) == len(units):
            return seen
        parts = {**self.parts, **dict(zip(new, _by_unit(seen, len(new))))}
        return [torch.cat(tensors) for tensors in zip(*(parts[unit] for unit in units))]

    def _keep(self, units: Sequence[int], encoded: Sequence[Tensor]) -> None:
        """Keep units for later questions, as many as fit; those that were not used for longest make room.

        Args:
            units: the units of a question.
            encoded: their features, see `_encoded`.
        """
        room = int(self.most_bytes * len(units) // _bytes(encoded))
        new = {unit for unit in units[:room] if unit not in self.parts}
        for unit in units[:room]:
            if unit not in new:
                self.parts.move_to_end(unit)
        while len(self.parts) > room - len(new):
            self.parts.popitem(last=False)
        for unit, part in zip(units, _by_unit(encoded, len(units))):
            if unit in new:
                self.parts[unit] = tuple(tensor.clone() for tensor in part)  # not a view of all


def _by_unit(tensors: Sequence[Tensor], count: int) -> Iterator[tuple[Tensor, ...]]:
    """Divide tensors of equally long units into the parts of each."""
    return zip(*(tensor.chunk(count) for tensor in tensors))


def _bytes(part: Sequence[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in part)
