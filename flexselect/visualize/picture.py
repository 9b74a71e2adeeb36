"""The figure that every picture is: notebooks show it, `savefig` writes it."""

from __future__ import annotations

import io

from matplotlib.figure import Figure
from PIL import Image


class Picture(Figure):
    """A matplotlib figure. The last line of a notebook's cell shows it, without pyplot."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()

    def image(self) -> Image.Image:
        """Return the picture as pixels."""
        return Image.open(io.BytesIO(self._repr_png_())).convert("RGB")
