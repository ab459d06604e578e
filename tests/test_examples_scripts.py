"""Every script in examples/ has a test that runs it; here are those whose output is enough to look at."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))

Run = Callable[..., str]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs a script as ``python examples/NAME.py ARGUMENTS`` would, in an empty folder, and returns what it printed."""
    matplotlib.use("Agg")
    monkeypatch.setenv("OVONIC_CACHE", str(tmp_path / "cache"))

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        monkeypatch.chdir(tmp_path)
        status = None
        try:
            runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
        except SystemExit as end:
            status = end.code
        assert not status
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_script_has_a_test(name: str) -> None:
    """By its name, as a string in a test; and it says at its top how it is run."""
    named = re.compile(rf"[\"'/]{name}(\.py)?[\"']")
    assert [path for path in (ROOT / "tests").rglob("test_*.py") if named.search(path.read_text())]
    assert f"python examples/{name}.py" in (ROOT / "examples" / f"{name}.py").read_text()


def test_spread_of_chips(script: Run) -> None:
    said = script("spread_of_chips", "--chips", "2", "--tasks", "4")
    line = r"^  (aihwkit tiles|crossbar) +(wrong|margin) +mean ([\d.]+).* by ([\d.]+).* \[([\d.]+), ([\d.]+)\], p = "
    rows = re.findall(line, said, re.MULTILINE)
    assert [row[:2] for row in rows] == [(n, w) for n in ("aihwkit tiles", "crossbar") for w in ("wrong", "margin")]
    assert all(float(low) <= float(sd) <= float(high) for *_, sd, low, high in rows)
    tiles, crossbar = (float(row[2]) for row in rows[1::2])
    assert tiles == pytest.approx(crossbar, rel=0.1)


def test_add_a_toolchain(script: Run) -> None:
    """Registered, judged, and gone again; the page shows what it prints."""
    from ovonic.adapters.toolchains import plugins

    said = script("add_a_toolchain", "--networks", "60")
    assert re.search(r"60 random networks: \d+ exact, \d+ refused by name, 0 diverged", said)
    features = re.search(r"features: (\d+) exact, (\d+) lossy, (\d+) refused, 0 WRONG", said)
    assert features is not None
    assert int(features[1]) > 20
    assert "population" not in plugins()
    page = (ROOT / "docs" / "adding_a_toolchain.md").read_text()
    for line in said.splitlines():
        if "random networks" not in line and "|dv|" not in line:
            assert line in page


@pytest.mark.parametrize("wrong", ["late", "pause", "drop"])
def test_the_suite_catches_a_wrong_adapter(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter that forgets one thing that it promised is told WRONG by the features it gets wrong."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import add_a_toolchain as example  # type: ignore[import-not-found]

    from ovonic.adapters.toolchains import register, unregister
    from ovonic.validation.feature_networks import FEATURES, bases_of, feature
    from ovonic.validation.toolchain_support import Kind, support

    right = example._group

    def forgetful(layer: object, empty: object) -> object:
        group = right(layer, empty)
        if group is not None:
            setattr(group, wrong, 0)
        return group

    monkeypatch.setattr(example, "_group", forgetful)
    register("forgetful", example)
    try:
        places = [(g, n) for g, n in FEATURES if g in ("Reset", "Refractoriness")]
        kinds = [support("forgetful", feature(g, n, bases_of(g)[0])).kind for g, n in places]
    finally:
        unregister("forgetful")
    assert Kind.WRONG in kinds


def test_by_alphabet(script: Run, drawing_png: Callable[..., bytes], tmp_path: Path) -> None:
    """Two alphabets of six characters, and one with too few."""
    for alphabet, characters in {"Ar": 6, "Bol": 6, "Cyrl": 2}.items():
        for c in range(1, characters + 1):
            folder = tmp_path / "set" / alphabet / f"character{c:02}"
            folder.mkdir(parents=True)
            for d in range(1, 12):
                (folder / f"{c:04}_{d:02}.png").write_bytes(drawing_png([len(alphabet), c, d]))
    said = script("by_alphabet", str(tmp_path / "set"), "--tasks", "2", "--bits", "4")
    assert said.count("nearest class mean") == 2
    assert re.search(r"Cyrl +2 characters: too few for 5 ways", said)
    assert re.search(r"mean of alphabets +\d+\.\d\d %   4 bit", said)


def test_glyph_sheet(script: Run, tmp_path: Path) -> None:
    script("glyph_sheet", "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.size[0] > 1000
        assert len(image.convert("L").getcolors() or []) > 2


@pytest.mark.slow
def test_robot_lesson(script: Run, tmp_path: Path) -> None:
    said = script("robot_lesson", "lesson", "--weights", "robot-q16", "--index", "3")
    losses = [float(x) for x in re.findall(r"loss (\S+)", said)]
    assert losses[1] < 0.2 * losses[0]
    assert {"path.png", "arm.gif"} <= {path.name for path in (tmp_path / "lesson").iterdir()}


@pytest.mark.slow
def test_toolchain_table(script: Run) -> None:
    """One column, of files, which needs no toolchain."""
    said = script("toolchain_table", "--columns", "nir")
    assert "| | NIR, contract |" in said
    assert "WRONG" not in said
