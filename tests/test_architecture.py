"""The rooms, their arrows and the house limits."""

import ast
import importlib
import re
import subprocess
import sys
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from flexselect.moved import MOVED

ROOT = Path(__file__).parents[1]
ROOMS = {"flexselect": set(), "datamodules": {"flexselect"}, "lightning_modules": {"flexselect"}}
ROOMS["flexselect_lmms"] = {"flexselect", "datamodules"}  # the door for lmms-eval
ROOMS["flexselect_vllm"] = {"flexselect"}  # answering through vLLM
OURS = {*ROOMS, "cli", "bench", "tests"}
FILES = [*sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py")), ROOT / "cli.py"]


@lru_cache(400)
def nodes(source: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse(source)))


def imported(source: str) -> set[str]:
    names = set()
    for node in nodes(source):
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


FLOORS = (  # from the lowest: an import only goes down
    {"nearest", "shipped"},
    {"structures", "attention", "ranking", "validation", "moved", "version"},
    {"storage", "options"},
    {"option_docs"},
    {"loading", "evaluation", "running"},
    {"families", "contracts"},
    {"selectors"},
    {"scoring"},
    {"engine", "training"},
    {"evidence"},
    {"looks"},
    {"session", "analysis"},
    {"pipeline", "visualize"},
    {"commands", "page", "__init__"},
    {"serving"},
)
MOST = 12  # files in a room


def rooms_imported(source: str) -> set[str]:
    """Modules of flexselect that a file imports, for type checkers alone or inside a function too: "scoring.lite"."""
    names = set()
    for node in nodes(source):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "flexselect":
            inside = node.module.partition(".")[2]
            names |= {inside} if inside else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("flexselect.")}
    return names


def floor(module: str) -> int:
    (result,) = [i for i, rooms in enumerate(FLOORS) if module.partition(".")[0] in rooms]
    return result


def modules() -> dict[str, Path]:
    """Files of flexselect by their import path inside it; a room's own file by the room's name."""
    files = sorted((ROOT / "flexselect").rglob("*.py"))
    paths = {".".join(file.relative_to(ROOT / "flexselect").with_suffix("").parts): file for file in files}
    return {name.removesuffix(".__init__"): file for name, file in paths.items()}


def up(module: str, source: str) -> set[str]:
    """What a module imports that is not on a lower floor, nor in its own room."""
    room = module.partition(".")[0]
    others = {name for name in rooms_imported(source) if name.partition(".")[0] != room}
    return {name for name in others if floor(name) >= floor(module)}


def test_no_import_is_relative():
    """They would not be seen here."""
    files = [file for folder in ("flexselect", *sorted(OURS)) for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    for file in files:
        levels = [node.level for node in nodes(file.read_text()) if isinstance(node, ast.ImportFrom)]
        assert not any(levels), file


@pytest.mark.parametrize("module", modules())
def test_an_import_only_goes_down(module):
    assert not up(module, modules()[module].read_text())


def test_canary_an_import_that_goes_up_is_seen():
    hidden = "if TYPE_CHECKING:\n    from flexselect.session import VideoSession"
    assert up("engine.engine", hidden) == {"session"} and not up("visualize.token_map", hidden)
    assert up("loading.weights", "def f():\n    import flexselect.evaluation.results") == {"evaluation.results"}


def circle(imports: dict[str, set[str]]) -> list[str]:
    """Modules that import one another in a circle; none where there is no circle."""
    try:
        list(TopologicalSorter(imports).static_order())
    except CycleError as error:
        return error.args[1]
    return []


def test_no_module_imports_itself_by_way_of_others():
    imports = {name: rooms_imported(file.read_text()) for name, file in modules().items()}
    assert not circle(imports)
    imports["engine.engine"].add("session")
    assert set(circle(imports)) >= {"engine.engine", "session"}, "canary"


@pytest.mark.parametrize("room", sorted({file.parent for file in modules().values()}), ids=lambda room: room.name)
def test_no_room_is_crowded(room):
    assert len(list(room.glob("*.py"))) <= MOST


def test_a_new_scorer_is_asked_for_no_type():
    """What others need to know of a scorer is a member of `Scorer`: nobody asks which one it is."""
    scorers = re.compile(r"isinstance\([^)]*Scorer\b")
    for file in FILES:
        assert not scorers.search(file.read_text()), file
    assert scorers.search("if isinstance(self.scorer, LiteScorer):"), "canary"


def test_the_example_family_of_the_first_version_imports_what_it_did():
    """The lines of docs/add_a_family.md in version 0.1."""
    for old in MOVED:
        sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning):
        from flexselect.families.loading import load_weights
        from flexselect.families.replaced import SideBySide, replaced
        from flexselect.prompt import VideoClip, VideoPrompt
    assert all(callable(value) for value in (load_weights, SideBySide, replaced, VideoClip, VideoPrompt))


def test_promised_import_paths_work_for_one_release():
    for old, news in MOVED.items():
        sys.modules.pop(old, None)
        with pytest.warns(DeprecationWarning, match=f"{old} is now {news[0]}"):
            moved = importlib.import_module(old)
        for new in news:
            names = [name for name in vars(importlib.import_module(new)) if not name.startswith("__")]
            assert len(names) > 1 and all(vars(moved)[name] is vars(sys.modules[new])[name] for name in names)


def test_importing_flexselect_loads_no_trainer_decoder_or_data_sets():
    code = "import sys, flexselect; print(*sys.modules); import datamodules.video; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    first, second = (set(line.split()) for line in run.stdout.splitlines())
    assert not {"lightning", "av", "datasets", "matplotlib", "peft"} & first
    assert "av" in second, "canary: it is seen when it is loaded"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_house_limits(file):
    source = file.read_text()
    assert len(source.splitlines()) <= 300
    for node in nodes(source):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert length <= 40, f"{node.name} has {length} lines"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, "a bare except"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("hasattr", "getattr", "print"), f"line {node.lineno}"


VAGUE = {"found", "given", "own", "its", "ours", "theirs"}  # as variables: name the thing
RIDDLE = re.compile(r"(Of|Its|Their|As|See|Those|The same|What|Where|Nothing)\b|.*\b(for one|theirs)\b")


def vague(source: str) -> list[str]:
    """Variables that name nothing, and first lines of docstrings that say nothing without their neighbours."""
    tree = ast.parse(source)
    stored = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    names = [f"line {node.lineno}: {node.id}" for node in stored if node.id in VAGUE]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
            first = (ast.get_docstring(node) or "").partition("\n")[0]
            names += [first] if RIDDLE.match(first) else []
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_words_say_what_is_meant(file):
    assert not vague(file.read_text())


def test_canary_vague_words_are_seen():
    assert vague('def f():\n    """As they are."""\n    found = 1\n') == ["line 3: found", "As they are."]
    assert vague('"""Load a file, a video for one."""') and not vague('"""Load a file."""\nresult = 1\n')
