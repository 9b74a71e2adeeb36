"""Counters of the server, in Prometheus's format."""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from flexselect.serving.places import Places
from flexselect.serving.videos.video_store import VideoStore
from flexselect.structures.answer import Answer

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


class Counters:
    """All counters of one server.

    Args:
        places: the server's places.
        store: its encoded videos.
    """

    def __init__(self, places: Places, store: VideoStore) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "flexselect_requests", "Chat requests, by HTTP status; 499: the client left", ["status"], registry=registry
        )
        self.seconds = Histogram(
            "flexselect_request_seconds", "Seconds of a chat request", buckets=SECONDS, registry=registry
        )
        self.stages = Counter(
            "flexselect_stage_seconds", "Seconds of the model, by stage", ["stage"], registry=registry
        )
        self.tokens = Counter(
            "flexselect_tokens", "Tokens: visual, kept of them, text, generated", ["kind"], registry=registry
        )
        self.reused = Counter(
            "flexselect_videos_reused", "Answers about a video that had been encoded before", registry=registry
        )
        encoded = Gauge("flexselect_videos_encoded", "Videos that were decoded and encoded", registry=registry)
        encoded.set_function(lambda: store.encodings)
        waiting = Gauge("flexselect_requests_in_progress", "Requests that wait or are answered", registry=registry)
        waiting.set_function(lambda: places.taken)
        kept = Gauge("flexselect_kept_bytes", "Bytes of encoded videos, by place", ["place"], registry=registry)
        for place in store.room:
            kept.labels(place).set_function(partial(store.bytes_in, place))

    def add(self, answer: Answer, reused: bool, text_tokens: int) -> None:
        """Count an answer."""
        self.reused.inc(int(reused))
        for stage, seconds in answer.timings.items():
            if not (reused and stage in ("decode", "encode")):  # these were spent once
                self.stages.labels(stage).inc(seconds)
        generated = 0 if answer.ids is None else len(answer.ids)
        counts = {"visual": answer.num_visual_tokens, "kept": answer.num_kept_tokens}
        for kind, count in {**counts, "text": text_tokens, "generated": generated}.items():
            self.tokens.labels(kind).inc(count)

    def text(self) -> bytes:
        """Return all counters as Prometheus reads them."""
        return generate_latest(self.registry)
