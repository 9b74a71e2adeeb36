"""Draw the pictures of the documentation from the demo: run `make demo` first, then `python docs/figures.py`.

The screenshots need Chromium and playwright.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

DOCS = Path(__file__).parent
DEMO, OUT = Path("outputs/demo/videos"), Path("outputs/figures")
QUESTION = "What colour is the circle?"


def cli(*words: str) -> None:
    """Run a verb of the command line; exit if it fails."""
    process = subprocess.run([sys.executable, "cli.py", *words, "--trainer.enable_progress_bar", "false"])
    if process.returncode not in (0, 3):
        raise SystemExit(f"failed: {' '.join(words)}")


def keep(picture: Path, name: str) -> None:
    """Save a picture into docs/ with 256 colours, which takes a quarter of the size."""
    with Image.open(picture) as image:
        image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
            DOCS / name, optimize=True
        )


@contextmanager
def browser_page(width: int, height: int) -> Iterator[Any]:
    """Open a page in a browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": width, "height": height})
        browser.close()


def draw_pictures() -> None:
    """Save the pictures that `visualize` and `locate` draw."""
    video = str(DEMO / "needles_000.mp4")
    shutil.rmtree(OUT, ignore_errors=True)
    pictures = {"self": ("heat_map", "kept_tokens"), "lite": ("teacher_and_selector",)}
    for mode, names in pictures.items():
        question = ["--data.video", video, "--data.question", QUESTION, "--output_dir", str(OUT / mode)]
        cli("visualize", "--config", f"configs/demo/{mode}.yaml", *question)
        (folder,) = (OUT / mode / "pictures").iterdir()
        for name in names:
            keep(folder / f"{name}.png", f"{name}.png")
    clips = ["--data.units", "256", "--data.clips", "24", "--output_dir", str(OUT / "locate")]
    cli("locate", "--config", "configs/demo/locate.yaml", *clips)
    keep(OUT / "locate" / "locate.png", "recall_by_layer.png")
    keep(OUT / "locate" / "states_by_layer.png", "states_by_layer.png")


def screenshot_report() -> None:
    """Save a screenshot of a report; the budget is so small that some answers are wrong."""
    small_budget = ["--model.budget", "12", "--report", "--output_dir", str(OUT / "budget_12")]
    cli(
        "validate",
        "--config",
        "configs/demo/self.yaml",
        "--data.annotations",
        str(DEMO / "annotations.jsonl"),
        *small_budget,
    )
    with browser_page(1000, 1150) as page:
        page.goto((OUT / "budget_12" / "report.html").resolve().as_uri())
        page.get_by_role("button", name=re.compile("wrong")).click()
        page.locator("details:visible summary").first.click()
        page.wait_for_timeout(500)
        page.screenshot(path=OUT / "report.png")
    keep(OUT / "report.png", "report.png")


def screenshot_page() -> None:
    """Save a screenshot of the page of `serve` after a question."""
    words = [sys.executable, "cli.py", "serve", "--config", "configs/demo/serve.yaml", "--port", "0"]
    server = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        address = next(match[0] for line in server.stderr if (match := re.search(r"http://\S+?/(?=;)", line)))
        with browser_page(1200, 1650) as page:
            page.goto(address)
            page.get_by_label("A video").click()
            page.get_by_role("option", name="needles_000.mp4").click()
            page.get_by_text("visual tokens;").wait_for()
            page.get_by_label("Question").fill(QUESTION)
            page.get_by_role("button", name="Ask").click()
            page.locator("img[src*='/file=']").nth(3).wait_for()
            page.wait_for_timeout(1000)
            page.screenshot(path=OUT / "page.png")
    finally:
        server.terminate()
    keep(OUT / "page.png", "page.png")


if __name__ == "__main__":
    draw_pictures()
    screenshot_report()
    screenshot_page()
