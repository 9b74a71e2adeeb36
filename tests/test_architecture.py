"""The rooms, their arrows and the house limits."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {"flexselect": set(), "datamodules": {"flexselect"}, "lightning_modules": {"flexselect"}}
ROOMS["flexselect_lmms"] = {"flexselect", "datamodules"}  # the door for lmms-eval
OURS = {*ROOMS, "cli", "bench", "tests"}
FILES = [*sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py")), ROOT / "cli.py"]


def imported(source: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_between_rooms(room):
    for file in (ROOT / room).rglob("*.py"):
        foreign = imported(file.read_text()) & OURS - {room} - ROOMS[room]
        assert not foreign, f"{file} imports {foreign}"


def test_canary_a_wrong_arrow_is_seen():
    assert imported("def f():\n    from datamodules.video import probe") & OURS == {"datamodules"}


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return set(out.split())


def test_importing_flexselect_loads_no_trainer_decoder_or_data_sets():
    assert not {"lightning", "av", "datasets", "matplotlib", "peft"} & loaded_by("import flexselect")
    assert "av" in loaded_by("import datamodules.video"), "canary: it is seen when it is loaded"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_house_limits(file):
    source = file.read_text()
    assert len(source.splitlines()) <= 300
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert length <= 40, f"{node.name} has {length} lines"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, "a bare except"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("hasattr", "getattr_", "print"), f"line {node.lineno}"
