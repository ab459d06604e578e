"""Every option that names what a command writes is tried before the work: one line, status 2, nothing written."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from ovonic.__main__ import app, main

FILES = {
    "--out": (
        "crossbar drift",
        "crossbar fit",
        "crossbar import",
        "crossbar map",
        "crossbar program",
        "fewshot curves",
        "robot adapt",
        "robot curves",
        "sweep",
    ),
    "--figure": ("crossbar inspect", "crossbar map"),
    "--arrays": ("crossbar inspect",),
    "--markdown": ("validate paper",),
}
FOLDERS = {
    "--figures": (
        "compare",
        "crossbar cost",
        "crossbar fit",
        "fewshot evaluate",
        "robot adapt",
        "robot evaluate",
        "validate eprop",
        "validate hardware",
    ),
    "--out": ("reproduce", "validate hardware", "validate model"),
    "--folder": ("sweep",),
    "--keep": ("validate paper",),
}
ARGUMENTS = {"fewshot train": "OUT", "robot train": "OUT", "fewshot download": "FOLDER"}


def _commands(found: Any, *path: str) -> Iterator[tuple[str, Any]]:
    if hasattr(found, "commands"):
        for name, inner in found.commands.items():
            yield from _commands(inner, *path, name)
    else:
        yield " ".join(path), found


ROOT = typer.main.get_command(app)
COMMANDS = dict(_commands(ROOT))
WITH_JSON = [name for name, command in COMMANDS.items() if any("--json" in p.opts for p in command.params)]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a regular file and a folder; the commands are built once."""
    monkeypatch.setattr(typer.main, "get_command", lambda _: ROOT)
    monkeypatch.chdir(tmp_path)
    Path("afile").write_text("kept")
    Path("adir").mkdir()
    return tmp_path


def _refused(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2, line
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: {said}"), error
    assert sorted(os.listdir()) == ["adir", "afile"]
    assert Path("afile").read_text() == "kept"


def test_the_options_that_write_are_all_here() -> None:
    """By name, whichever command has them: a new one is either in the lists above or reads what it names."""
    asked = {*FILES, *FOLDERS} - {"--folder", "--arrays"}
    found = {(n, opt) for n, c in COMMANDS.items() for p in c.params for opt in p.opts if opt in asked}
    listed = {(n, opt) for opt, names in itertools.chain(FILES.items(), FOLDERS.items()) for n in names}
    assert found == listed - {("sweep", "--folder"), ("crossbar inspect", "--arrays")}


@pytest.mark.parametrize("name", WITH_JSON)
def test_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    _refused(f"{name} --json afile/x.json", f"--json afile/x.json: {Path('afile').resolve()} is a file", capsys)
    _refused(f"{name} --json adir", "--json adir: a folder is there; name a file", capsys)


@pytest.mark.parametrize(("name", "option"), [(n, o) for o, names in FILES.items() for n in names])
def test_files(name: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    _refused(f"{name} {option} afile/new/x.png", f"{option} afile/new/x.png: {Path('afile').resolve()} is", capsys)
    _refused(f"{name} {option} adir", f"{option} adir: a folder is there; name a file", capsys)


@pytest.mark.parametrize(("name", "option"), [(n, o) for o, names in FOLDERS.items() for n in names])
def test_folders(name: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    _refused(f"{name} {option} afile", f"{option} afile: a file is there; name a folder", capsys)
    _refused(f"{name} {option} afile/new", f"{option} afile/new: {Path('afile').resolve()} is a file", capsys)


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS.items())
def test_arguments(name: str, argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    _refused(f"{name} afile", f"{argument} afile: a file is there; name a folder", capsys)


def test_a_folder_that_may_not_be_written_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "adir")
    said = f"--json adir/new/x.json: the folder {Path('adir').resolve()} may not be written to"
    _refused("robot evaluate --json adir/new/x.json", said, capsys)


def test_what_can_be_written_is(capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is there, folders to be made, standard output, a device."""
    for place in ("afile", "adir/new/x.json", "-", os.devnull):
        assert main(["weights", "list", "--json", place]) == 0, capsys.readouterr().err
    assert "robot-q16" in Path("afile").read_text()
    assert "robot-q16" in Path("adir/new/x.json").read_text()
