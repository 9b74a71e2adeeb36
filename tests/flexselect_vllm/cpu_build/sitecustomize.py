"""Where torchvision's compiled operators do not load, declare their names: nothing here calls them.

Python imports this file at its start, in vLLM's own processes too; see `make test-vllm`.
"""

import importlib.util
import re
import sys
from pathlib import Path

FOUND = importlib.util.find_spec("torchvision")


def declare(folder: Path) -> None:
    """Load torchvision's operators as it does itself, else declare those that its Python files name."""
    import torch

    try:
        torch.ops.load_library(str(next(folder.glob("_C*.so"))))
    except (OSError, StopIteration):
        texts = [file.read_text(errors="ignore") for file in folder.rglob("*.py")]
        library = torch.library.Library("torchvision", "DEF")
        for operator in sorted({name for text in texts for name in re.findall(r"torchvision::(\w+)", text)}):
            library.define(f"{operator}(Tensor a) -> Tensor")
        sys.modules[__name__].LIBRARY = library  # it ends with its last name


if FOUND is not None and "pip" not in Path(sys.argv[0]).name:
    declare(Path(FOUND.submodule_search_locations[0]))
