"""The documentation says what is there: keys, files, commands, options, error messages."""

import ast
import importlib.util
import re
import textwrap
from functools import cache
from pathlib import Path

import pytest

from flexselect.commands.verbs import VERBS
from flexselect.families import family_of
from flexselect.scoring import factory
from flexselect.shipped import config_names
from tests import miniature, tiny

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
ROOMS = ("flexselect", "datamodules", "lightning_modules", "flexselect_lmms")
FOLDERS = (*ROOMS, "configs", "docs", "tests", "bench", "checkpoints")
YOURS = ("mine.yaml", "data/mybench", "FILE", "...")  # configs that a reader writes, or any
WRITTEN = ("use.yaml",)  # by `locate`
TO_WRITE = (
    "flexselect/scoring/recent.py",
    "datamodules/benchmarks/mybench.py",
    "configs/data/mybench.yaml",
)  # by who follows CONTRIBUTING.md
GAP = "…"  # what an error message says of the case at hand


@cache
def config_keys():
    spec = importlib.util.spec_from_file_location("config_keys", ROOT / "docs" / "config_keys.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def options() -> set[str]:
    """All keys, "model.budget" for one."""
    script = config_keys()
    return {
        row[0]
        for _, prefix, base in script.SECTIONS
        for cls in script.classes(base)
        for row in script.keys(cls, prefix)
    }


@cache
def messages() -> tuple[str, ...]:
    """Every string of the source, as it is said: what is filled in is a gap."""
    result = []
    for file in [ROOT / "cli.py", *(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))]:
        nodes = list(ast.walk(ast.parse(file.read_text())))
        docstrings = {node.value for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if node in docstrings:
                continue
            if isinstance(node, ast.JoinedStr):
                result.append("".join(p.value if isinstance(p, ast.Constant) else GAP for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                result.append(re.sub(r"%\.?\d*[sdf]|\{[\w.:]*\}", GAP, node.value))
    return tuple(result)


def spans(text: str) -> list[str]:
    """What stands in backticks, code blocks left out."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def expanded(path: str) -> list[str]:
    """`a/{b,c}.yaml` as both; `<name>` and `...` as any."""
    braces = re.search(r"\{([^{}]*)\}", path)
    if braces is None:
        return [re.sub(r"<[^>]*>|\.\.\.$", "*", path)]
    return [one for part in braces[1].split(",") for one in expanded(path.replace(braces[0], part, 1))]


def there(path: str, root: Path = ROOT) -> bool:
    """Whether it is in the repository; what a run wrote is not."""
    return all(
        any(file.relative_to(root).parts[0] not in ("outputs", ".venv") for file in root.glob(one))
        for one in expanded(path)
    )


def missing_links(page: Path, text: str) -> list[str]:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    return [target for target in targets if "://" not in target and not (page.parent / target).exists()]


def missing_files(text: str) -> list[str]:
    """Files of ours that backticks name; what a run writes is left out."""
    result = []
    for span in spans(text):
        words = [word.strip("(),.;:") for word in span.split()]
        result += [
            w.rstrip("/") for w in words if w.partition("/")[0] in FOLDERS and "/" in w and not w.endswith(".ckpt")
        ]
        if re.fullmatch(r"[\w-]+\.(py|yaml|sh)", span) and span not in WRITTEN:
            result.append(f"**/{span}")
    return [path for path in result if path not in TO_WRITE and not there(path)]


def bad_commands(text: str) -> list[str]:
    """Configs that are not there, and verbs that cli.py does not know."""
    text = text.replace("\\\n", " ")
    configs = re.findall(r"--config[ =]([^\s`)]+)", text)
    verbs = re.findall(r"python cli\.py ([a-z]+)", text)
    models = re.findall(r"cli\.py ask [^\n]*--model[ =]([^\s`)]+)", text)
    shipped = {*config_names(), "NAME"}
    return (
        [c for c in models if c not in shipped and "/" not in c and c != "DIR"]
        + [
            c
            for c in configs
            if not (c in YOURS or c in shipped or c.startswith("outputs/") or (c.startswith("configs/") and there(c)))
        ]
        + [verb for verb in verbs if verb not in VERBS]
    )


def unknown_options(text: str) -> list[str]:
    named = re.findall(r"--((?:family|model|data|writer)\.\w+)", text)
    return sorted({name for name in named if name.partition(".")[2] not in ("help", "init_args")} - options())


def unsaid(text: str) -> list[str]:
    """Quoted messages, bold and in backticks, that no string of the source contains."""
    quoted = re.findall(r"\*\*`([^`]+)`\*\*", text)
    return [quote for quote in quoted if len(quote.replace(GAP, "")) < 8 or not any(quote in m for m in messages())]


page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def test_the_page_of_keys_is_up_to_date(tmp_path, monkeypatch, capsys):
    script = config_keys()
    assert script.main(["--check"]) == 0, capsys.readouterr().err
    monkeypatch.setattr(script, "PAGE", tmp_path / "config_keys.md")
    assert script.main(["--check"]) == 1, "canary: a page that is not there"
    assert script.main([]) == 0 and script.main(["--check"]) == 0
    script.PAGE.write_text(script.PAGE.read_text().replace("`64`", "`65`"))
    assert script.main(["--check"]) == 1, "canary: a default that has changed"


def test_keys_follow_what_a_docstring_refers_to():
    script = config_keys()
    rows = {
        cls.__name__: dict((r[0], r) for r in script.keys(cls, "x")) for cls in script.classes(script.SECTIONS[1][2])
    }
    assert rows["VideoQA"]["x.budget"] == (
        "x.budget",
        "int | null",
        "`null`",
        "K, the number of visual tokens to keep; null: the family's default",
    )
    assert (
        "tokens (dense)" in rows["VideoQA"]["x.selector"][3]
        and "of an answer" in rows["VideoQA"]["x.max_new_tokens"][3]
    )
    assert not [row for of_class in rows.values() for row in of_class.values() if not row[3]], "a key without a meaning"


@page
def test_links_lead_somewhere(page):
    assert not missing_links(page, page.read_text())


@page
def test_files_are_there(page):
    assert not missing_files(page.read_text())


@page
def test_commands_name_configs_and_verbs_that_there_are(page):
    assert not bad_commands(page.read_text())


@page
def test_options_are_keys(page):
    assert not unknown_options(page.read_text())


@page
def test_python_can_be_read(page):
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        ast.parse(block)


def test_quoted_messages_are_in_the_source():
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    assert len(re.findall(r"\*\*`", text)) > 40, "messages are quoted, bold and in backticks"
    assert not unsaid(text)


def test_canary_what_is_wrong_is_seen():
    assert missing_links(ROOT / "README.md", "[a](docs/nothing.md) [b](docs/LOG.md) [c](https://x.org/y)") == [
        "docs/nothing.md"
    ]
    assert missing_files(
        "`configs/nothing.yaml`, `configs/{model,data}/self.yaml`, `nothing.py`, `bench/results/`"
    ) == [
        "configs/nothing.yaml",
        "configs/{model,data}/self.yaml",
        "**/nothing.py",
    ]
    assert not missing_files("`configs/model/{self,dense}.yaml` `configs/*_72b.yaml` `configs/data/<name>.yaml`")
    assert bad_commands("python cli.py predikt --config configs/nothing.yaml --config configs/model/self.yaml") == [
        "configs/nothing.yaml",
        "predikt",
    ]
    assert unknown_options("--model.bugdet 3 --model.budget 3 --data.root DIR") == ["model.bugdet"]
    good, bad, docstring = (
        "the file is empty; copy or download it again",
        "the file is emptied",
        "What is asked for, checked",
    )
    assert unsaid(f"**`{bad}`** **`{good}`** **`{GAP} {GAP}`** **`{docstring}`**") == [bad, f"{GAP} {GAP}", docstring]


def blocks(heading: str) -> list[str]:
    """The Python of a section of CONTRIBUTING.md."""
    section = (ROOT / "CONTRIBUTING.md").read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [textwrap.dedent(block) for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL)]


def test_the_scorer_of_contributing_does_what_it_says(load, monkeypatch):
    code, test = blocks("Add a scorer")
    present = {"tiny": tiny, "__name__": "recent"}
    exec(code, present)
    monkeypatch.setitem(factory.MODES, "recent", present["RecentScorer"])
    exec(test, present)
    present["test_recent_keeps_the_end_of_the_video"](load)


def test_the_benchmark_of_contributing_does_what_it_says(tmp_path, checkpoint):
    code, builder = blocks("Add a benchmark")
    present = {**vars(miniature), "__name__": "mybench"}
    exec(code, present)
    exec(builder, present)
    root = present["mybench"](tmp_path)
    questions = present["MyBench"](family_of(str(checkpoint)), str(root)).questions
    assert len({question.key for question in questions}) == 12 and len({question.video for question in questions}) == 3
    assert all(
        question.prompt.startswith(f"{question.question}\nA. {question.options[0]}\nB. ") for question in questions
    )
    assert all(
        question.is_right(question.answer) and question.groups == (("topic", "shapes"),) for question in questions
    )
