"""The verb `serve`: a web page to try a model, and an endpoint for OpenAI's clients. Needs the extra `serve`."""

from __future__ import annotations

import logging
import os
import socket
from importlib import import_module
from pathlib import Path
from typing import Any

from flexselect.engine.answer_engines import find_answer_engine
from flexselect.families import family_of
from flexselect.loading.placement import free_bytes
from flexselect.options import Options, check_names
from flexselect.page.modes import Modes
from flexselect.page.page import Page, list_videos
from flexselect.pipeline import FlexSelect
from flexselect.scoring.factory import check_trained
from flexselect.serving.access import LOCAL_HOSTS
from flexselect.session import SHARE
from flexselect.storage.run_settings import UsageError
from flexselect.storage.video_paths import is_folder

log = logging.getLogger(__name__)

KEY_VARIABLE = "FLEXSELECT_API_KEY"
PACKAGES = ("fastapi", "uvicorn", "httpcore", "prometheus_client", "gradio.themes")


def serve(
    path: str,
    selector: str | None = None,
    videos: str | None = None,
    fps: float | None = None,
    max_frames: int | None = None,
    max_new_tokens: int = 64,
    max_upload_mb: int = 2048,
    host: str = "127.0.0.1",
    port: int = 7860,
    api_key: str | None = None,
    no_auth: bool = False,
    media_root: str | None = None,
    allow_remote: bool = False,
    max_request_mb: int = 64,
    max_waiting: int = 64,
    max_per_client: int = 32,
    cache_gb: float | None = None,
    cache_cpu_gb: float | None = None,
    cache_disk_gb: float = 0.0,
    **options: Any,
) -> None:
    """Serve a web page to try a model, and an endpoint for OpenAI's clients, until it is interrupted.

    Args:
        path: local folder or hub id of the VideoLLM.
        selector: folder or hub id of a trained selector; None: there is no lite mode.
        videos: a folder of videos to choose from on the page, besides uploads; None: uploads only.
        fps: frames sampled per second; None: the family's default.
        max_frames: the maximum number of frames per video; None: the family's default.
        max_new_tokens: the maximum length of an answer, in tokens, if a request names none.
        max_upload_mb: the maximum size of a video in MB, uploaded or fetched.
        host: address of the server; by default only this machine can reach it. Others need `api_key` or `no_auth`.
        port: port of the server; 0: any free port.
        api_key: key that requests must have, and the page's password; None: the environment's FLEXSELECT_API_KEY, if
            set.
        no_auth: let anyone who reaches `host` upload and ask, without a key.
        media_root: a folder of videos that requests may name as file: addresses; None: none.
        allow_remote: let requests name videos on the public internet, by https addresses; they are fetched.
        max_request_mb: the maximum size of a request in MB, with videos that it contains.
        max_waiting: the number of requests that may wait or be answered; others are told to come again.
        max_per_client: the same for one client (an IP address).
        cache_gb: room for encoded videos on the model's GPU, in GB; None: a quarter of the free memory.
        cache_cpu_gb: room for encoded videos in the CPU's memory; None: a quarter of the free memory.
        cache_disk_gb: room for encoded videos in temporary files.
        options: see `flexselect.options.Options`; reference layer and reduction apply to the training-free mode.

    Raises:
        UsageError: if a package is missing, the port is taken, or other machines could ask without a key.
    """
    check_packages()
    list_videos(videos)
    api_key = api_key or os.environ.get(KEY_VARIABLE) or None
    check_host(host, api_key, no_auth)
    check_port(host, port)
    if media_root is not None and not is_folder(Path(media_root)):
        raise UsageError(f"{media_root}: no such folder; --media_root takes a folder with videos")
    numbers = {"max_request_mb": max_request_mb, "max_waiting": max_waiting, "max_per_client": max_per_client}
    for name, value in {**numbers, "max_upload_mb": max_upload_mb, "max_new_tokens": max_new_tokens}.items():
        if value < 1:
            raise UsageError(f"{name} must be at least 1, got {value}")
    modes = load_modes(path, selector, fps, max_frames, **options)
    from flexselect.serving.server import Address, Limits, run

    root = None if media_root is None else Path(media_root)
    room = rooms(modes, cache_gb, cache_cpu_gb, cache_disk_gb)
    limits = Limits(max_upload_mb, max_request_mb, max_waiting, max_per_client, max_new_tokens)
    page = Page(modes, videos, max_new_tokens, Path(path).name)
    run(page, limits, room, Address(host, port, api_key, no_auth), root, allow_remote)


def check_packages() -> None:
    """Refuse to start without the packages of the extra `serve`.

    Raises:
        UsageError: naming the first package that is missing.
    """
    for package in PACKAGES:
        try:
            import_module(package)
        except ImportError as error:
            raise UsageError(f"serve needs {package}: pip install 'flexselect[serve]'") from error


def check_host(host: str, api_key: str | None, no_auth: bool) -> None:
    """Refuse to let other machines ask without a key, unless that is said.

    Raises:
        UsageError: if `host` is not this machine, and there is neither a key nor `no_auth`.
    """
    if host in LOCAL_HOSTS or api_key is not None:
        return
    if not no_auth:
        reason = "give --api_key KEY, or --no_auth true if anyone who reaches it may upload videos and ask"
        raise UsageError(f"other machines can reach {host}: {reason}")
    log.warning("anyone who reaches %s can upload videos and use this model; there is no password", host)


def load_modes(path: str, selector: str | None, fps: float | None, max_frames: int | None, **options: Any) -> Modes:
    """Check all options, then load the model.

    Args:
        path: local folder or hub id of the VideoLLM.
        selector: folder or hub id of a trained selector; None: there is no lite mode.
        fps: frames sampled per second; None: the family's default.
        max_frames: the maximum number of frames per video; None: the family's default.
        options: see `flexselect.options.Options`.

    Raises:
        UsageError: for a wrong option.
    """
    numbers = {"fps": fps, "max_frames": max_frames}
    try:
        check_names(Options, options, "serve", set_by=("selector", "scoring_only"))
        chosen = Options(selector="self", scoring_only=False, **options)
        family = family_of(path, **{name: value for name, value in numbers.items() if value is not None})
        if chosen.cost is not None:
            raise ValueError("serve keeps what it encoded for all questions, and cannot look twice: leave out cost")
        find_answer_engine(chosen, family)
        if selector is not None:
            check_trained(selector)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    return Modes(FlexSelect.from_pretrained(family, **vars(chosen)), selector)


def rooms(modes: Modes, gpu: float | None, cpu: float | None, disk: float) -> dict[str, int]:
    """Return the bytes for encoded videos by place, from the nearest: the model's device, the CPU, the disk.

    Args:
        modes: the loaded model.
        gpu: GB on its GPU; None: a quarter of what is free.
        cpu: GB of the CPU's memory; None: a quarter of what is free.
        disk: GB on the disk.
    """
    room = dict.fromkeys((str(modes.encoder.lm.device), "cpu"), 0)
    for place, gb in zip(room, (gpu, cpu) if len(room) > 1 else (cpu,)):
        room[place] = int(SHARE * free_bytes(place) if gb is None else gb * 1e9)
    return {**room, "disk": int(disk * 1e9)}


def check_port(host: str, port: int) -> None:
    """Refuse a port that cannot be used, before a model is loaded.

    Raises:
        UsageError: if the port is taken or not permitted.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"port {port} cannot be used: give another --port, from 1 to 65535, or 0 for any")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = error.strerror or error
            raise UsageError(f"port {port} cannot be used ({reason}): give another --port, or 0 for any") from error
