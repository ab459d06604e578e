"""The pages say what is there: links lead somewhere, files exist, commands parse, and so does every block of Python."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import pytest
import typer.main

from ovonic.__main__ import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "benchmarks").glob("*.md"))]
PLACEHOLDER = re.compile(r"\.{2,}|…|[A-Z][A-Z0-9_]*")
"""What stands for something in a command: dots, or a word in capitals."""

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.name}")


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and text of every block of code."""
    for found in re.finditer(r"^```(\w*)\n(.*?)^```", text, flags=re.S | re.M):
        yield found[1], found[2]


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ +(.+?)\s*$", prose(page.read_text()), re.M)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain)


@pages
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\[[^]]*\]\(([^)\s]+)\)", prose(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


@pages
def test_files_that_are_named_exist(page: Path) -> None:
    """``adapters/nir.py`` and the like, with or without ``examples/`` before it; ``*`` stands for several."""
    named = re.findall(
        r"[`\s(]((?:adapters|models|tasks|validation|tests|examples|docs|benchmarks|src)/[\w./*-]+\.(?:py|md|png|json))\b",
        page.read_text(),
    )
    assert not [name for name in named if not list(ROOT.glob(name))]


def test_the_index_has_every_page_and_every_example() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    for path in sorted((ROOT / "docs").glob("*.md")):
        assert path.name == "index.md" or f"({path.name}" in index, path.name
    for path in sorted((ROOT / "examples").glob("*.py")):
        assert f"`{path.name}`" in index, path.name


@pages
def test_python_parses(page: Path) -> None:
    for language, text in blocks(page.read_text()):
        if language == "python":
            ast.parse(text)


def imported(text: str) -> Iterator[tuple[str, str]]:
    """Module and name of every import from Ovonic."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ovonic"):
            yield from ((str(node.module), alias.name) for alias in node.names)


@pages
def test_what_python_imports_is_there(page: Path) -> None:
    import importlib

    for language, text in blocks(page.read_text()):
        if language == "python":
            for module, name in imported(text):
                found = importlib.import_module(module)
                assert hasattr(found, name) or importlib.import_module(f"{module}.{name}"), f"{module}.{name}"


# ------------------------------------------------------------------------------------------------------ commands


class Line(NamedTuple):
    """A command of a page; ``whole`` if it is a line of a block, not words in a sentence."""

    text: str
    whole: bool


def commands(text: str) -> Iterator[Line]:
    """Every ``ovonic ..`` of a page: lines of blocks, joined where they end in a backslash, and code in sentences."""
    for language, block in blocks(text):
        if language in ("", "bash", "sh", "console"):
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                if found := re.match(r"\s*(?:\$ )?(?:uv run )?(ovonic .*)", line):
                    yield Line(found[1], True)
    for words in re.findall(r"`(?:uv run )?(ovonic [^`]*)`", prose(text)):
        yield Line(re.sub(r"\s+", " ", words), False)


def problem(line: Line) -> str:
    """Why the command line would refuse these words; empty: it would not."""
    words = [word.strip("[]") for word in shlex.split(line.text, comments=True)[1:]]
    if "--" in words:  # a command whose options are another command
        at = words.index("--")
        inner = problem(Line(shlex.join(["ovonic", *words[at + 1 :]]), line.whole))
        return inner or problem(Line(shlex.join(["ovonic", *words[:at], "COMMAND"]), line.whole))
    command: Any = typer.main.get_command(app)
    context: Any = command.make_context("ovonic", [], resilient_parsing=True)
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        if re.fullmatch(r"[a-z]+(\|[a-z]+)+", words[0]):
            return "; ".join(filter(None, (problem(Line(f"ovonic {one}", False)) for one in words[0].split("|"))))
        if words[0] not in command.commands:
            return "" if PLACEHOLDER.fullmatch(words[0]) else f"no command {words[0]!r}"
        command = command.commands[words[0]]
        context = command.make_context(command.name, [], parent=context, resilient_parsing=True)
        words = words[1:]
    if hasattr(command, "commands"):
        return "" if not (line.whole and not words) else "a group alone does nothing"
    return _options(command, context, words, line.whole)


def _options(command: Any, context: Any, words: list[str], whole: bool) -> str:
    options = {flag: p for p in command.params for flag in (*p.opts, *p.secondary_opts) if flag.startswith("-")}
    free = []
    waiting = iter(words)
    for word in waiting:
        flag, equals, value = word.partition("=")
        if not word.startswith("-") or word == "-":
            free.append(word)
            continue
        if flag in context.help_option_names:
            continue
        if flag not in options:
            return f"no option {flag}"
        option = options[flag]
        if getattr(option, "is_flag", False) or getattr(option, "count", False):
            continue
        value = value if equals else next(waiting, "")
        if not value:
            if whole:
                return f"{flag} without a value"
            continue
        if not PLACEHOLDER.fullmatch(value) and (said := _refused(option, value)):
            return f"{flag} {value}: {said}"
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    free = [word for word in free if word not in ("...", "..", "OPTIONS")]
    if all(p.nargs != -1 for p in arguments) and len(free) > sum(p.nargs for p in arguments):
        return f"{len(free)} arguments where {len(arguments)} are due: {free}"
    if whole and len(free) < sum(p.required for p in arguments) and not {"...", "..", "OPTIONS"} & set(words):
        return f"{len(free)} arguments, {sum(p.required for p in arguments)} are required"
    return ""


def _refused(option: Any, value: str) -> str:
    """What a number or a choice is refused for; texts and files are not looked into."""
    declared = option.type_descriptor.annotation
    kinds = [kind for kind in get_args(declared) or (declared,) if kind is not type(None)]
    if get_origin(declared) is Literal:
        return "" if value in kinds else f"one of {kinds}"
    if not kinds or kinds[0] not in (int, float):
        return ""
    try:
        number = kinds[0](value)
    except ValueError as error:
        return str(error)
    low, high = option.min, option.max
    return "" if (low is None or number >= low) and (high is None or number <= high) else f"outside {low}..{high}"


@pages
def test_commands_parse(page: Path) -> None:
    wrong = [f"{line.text}: {said}" for line in commands(page.read_text()) if (said := problem(line))]
    assert not wrong


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ovonic compare random --toolchains norse --steps 100", ""),
        ("ovonic compare random --toolchain norse", "no option --toolchain"),
        ("ovonic compares random", "no command"),
        ("ovonic compare random --steps many", "--steps many"),
        ("ovonic compare random --steps 0", "outside 1..None"),
        ("ovonic compare random --steps", "without a value"),
        ("ovonic compare", "are required"),
        ("ovonic compare a b", "2 arguments where 1"),
        ("ovonic crossbar", "a group alone"),
        ("ovonic crossbar map robot-q16 --out layout.json  # says where", ""),
        ("ovonic sweep --grid chips=2,4 --out t.csv -- robot evaluate --weights robot-q16", ""),
        ("ovonic sweep --grid chips=2,4 --out t.csv -- robot evaluate --weight robot-q16", "no option --weight"),
        ("ovonic sweep --grids chips=2,4 --out t.csv -- robot evaluate", "no option --grids"),
    ],
)
def test_stale_commands_are_found(text: str, said: str) -> None:
    found = problem(Line(text, True))
    assert said in found
    assert bool(said) == bool(found)


def test_commands_of_a_page_are_found() -> None:
    text = "Say `ovonic doctor`.\n```\nuv run ovonic compare random \\\n    --steps 5\nls\n```\n```python\nx = 1\n```\n"
    assert list(commands(text)) == [Line("ovonic compare random --steps 5", True), Line("ovonic doctor", False)]
