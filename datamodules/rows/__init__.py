"""Read rows of annotations from any common file format."""

from datamodules.rows.files import read_rows
from datamodules.rows.row import Row

__all__ = ["Row", "read_rows"]
