"""Rows of annotations as people have them, in any common file, as they are written there."""

from datamodules.rows.files import read_rows
from datamodules.rows.row import Row

__all__ = ["Row", "read_rows"]
