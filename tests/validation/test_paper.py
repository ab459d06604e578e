"""The paper's table: rows decidable or excused, thresholds in code, every branch of a verdict, real commands."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shlex
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from ovonic import __main__ as cli
from ovonic.adapters.sealed_json import write_sealed
from ovonic.models.errors import ConfigError, DataError
from ovonic.tasks.characters import CharacterSet
from ovonic.tasks.datasets import load_characters
from ovonic.validation import paper_measurements as measurements
from ovonic.validation.paper import ROWS, TITLES, _numbers, counts, paper_rows, paper_section
from ovonic.validation.paper_files import READ, evaluation_name, gather
from ovonic.validation.paper_kept import cut_down, keep
from ovonic.validation.paper_page import paper_page
from ovonic.validation.paper_row import KINDS, Check, PaperRow, Place, judge, shown
from ovonic.validation.report import At, Section, Table, html_report, look_up, write_report

PAGE = Path(__file__).parents[2] / "docs" / "paper.md"
RESULTS = PAGE.parent / "results"
COMMAND = "ovonic validate paper --from docs/results --markdown docs/paper.md"
CHECKS = [(row, check, place) for row in ROWS for check in row.checks for place in check.places]


def _holding(*numbers: tuple[str, Any]) -> dict[str, Any]:
    """A result with these values at these places."""
    result: dict[str, Any] = {}
    for path, value in numbers:
        *above, last = path.split("/")
        here = result
        for step in above:
            here = here.setdefault(step, {})
        here[last] = value
    return result


def _row(check: Check) -> PaperRow:
    return PaperRow("key", "Fig. 0", "claim", "says", (check,))


def _check(relation: Any = "<=", threshold: float = 1.0, place: Place | None = None) -> Check:
    return Check("number", (place or Place("a/b", "ovonic doctor"),), relation, threshold, "number")


def test_keys_are_unique_and_every_kind_has_rows() -> None:
    keys = [row.key for row in ROWS]
    assert len(set(keys)) == len(keys)
    assert {row.kind for row in ROWS} == set(KINDS) == set(TITLES)


def test_every_panel_of_every_figure_is_there() -> None:
    panels = {row.key for row in ROWS if row.kind == "panel"}
    asked = {1: "abcde", 2: "abcdefgh", 3: "abcde", 4: "abcd", 5: "ab"}
    assert panels == {f"fig{figure}{letter}" for figure, letters in asked.items() for letter in letters}


def test_every_row_says_what_where_and_is_decided_or_excused() -> None:
    for row in ROWS:
        assert row.says.endswith((".", ")")), row.key
        assert row.where, row.key
        assert row.checks or row.why_not or row.test, row.key
        assert not (row.undone and (row.checks or not row.why_not)), row.key
        assert not row.why_not.endswith("."), row.key
        for check in row.checks:
            assert check.places, row.key
            assert check.relation in ("<=", ">=")


@pytest.mark.parametrize(
    ("value", "relation", "verdict"),
    [
        (0.9, "<=", "holds"),
        (1.1, "<=", "does not hold"),
        (0.9, ">=", "does not hold"),
        (1.1, ">=", "holds"),
        (1.0, "<=", "holds"),
        (1.0, ">=", "holds"),
        (3, ">=", "holds"),
        ({"mean": 0.8, "ci95": 0.1}, "<=", "holds"),
        ({"mean": 0.95, "ci95": 0.1}, "<=", "close"),
        ({"mean": 1.2, "ci95": 0.1}, "<=", "does not hold"),
        ({"mean": 1.2, "ci95": 0.1}, ">=", "holds"),
        ({"mean": 1.05, "ci95": 0.1}, ">=", "close"),
        ({"mean": 0.8, "ci95": 0.1}, ">=", "does not hold"),
        ({"mean": 0.8, "ci95": None}, "<=", "holds"),
        ({"mean": 1.2, "ci95": 0.1, "median": 0.9, "p95": 3.0}, "<=", "does not hold"),
        ({"ratio": 0.9, "low": 0.8, "high": 1.0}, "<=", "holds"),
        ({"ratio": 0.9, "low": 0.8, "high": 1.01}, "<=", "close"),
        ({"ratio": 0.9, "low": 0.8, "high": None}, "<=", "close"),
        ({"ratio": 2.0, "low": 1.5, "high": None}, "<=", "does not hold"),
        ({"ratio": 2.0, "low": 1.5, "high": None}, ">=", "holds"),
        ({"median": 1.5, "low": 1.2, "high": 2.0}, "<=", "does not hold"),
        ({"typical": 0.5, "low": 0.1, "high": 2.0}, "<=", "close"),
        ({"ratio": None, "low": None, "high": None}, "<=", "not measured in this run"),
        (None, "<=", "not measured in this run"),
        ("text", "<=", "not measured in this run"),
        (True, "<=", "not measured in this run"),
        ([1.0], "<=", "not measured in this run"),
        ({"other": 1.0}, "<=", "not measured in this run"),
    ],
)
def test_verdict_of_one_check(value: Any, relation: Any, verdict: str) -> None:
    found, readings = judge(_row(_check(relation)), _holding(("a/b", value)))
    assert found == verdict
    assert readings[0].verdict == verdict


def test_verdict_of_a_row() -> None:
    first, second = _check(place=Place("a/x", "ovonic doctor")), _check(place=Place("a/y", "ovonic doctor"))
    row = PaperRow("key", "Fig. 0", "claim", "says", (first, second), why_not="the rest")
    for x, y, verdict in (
        (0.5, 0.5, "holds"),
        (0.5, 2.0, "in part"),
        (2.0, 2.0, "does not hold"),
        (0.5, None, "holds"),
        (None, 2.0, "does not hold"),
        (None, None, "not measured in this run"),
        ({"mean": 1.0, "ci95": 0.5}, {"mean": 1.0, "ci95": 0.5}, "close"),
        ({"mean": 1.0, "ci95": 0.5}, 0.5, "in part"),
    ):
        assert judge(row, _holding(("a/x", x), ("a/y", y)))[0] == verdict
    assert judge(PaperRow("key", "Fig. 0", "claim", "says", why_not="needs a chip"), {}) == ("not checkable", ())
    undone = PaperRow("key", "Fig. 0", "claim", "says", why_not="no third loop", undone=True)
    assert judge(undone, {}) == ("not done", ())
    assert judge(PaperRow("key", "Fig. 0", "claim", "says", test="a.py::test_b"), {}) == ("tested", ())
    with pytest.raises(ConfigError, match="row key: needs a check"):
        PaperRow("key", "Fig. 0", "claim", "says")


def test_what_is_not_done_and_what_is_tested() -> None:
    verdicts = {row.key: judge(row, {})[0] for row in ROWS}
    named = {
        verdict: {key for key, found in verdicts.items() if found == verdict} for verdict in ("not done", "tested")
    }
    cifar = {"fig3a", "fig3c", "fig3d", "fig3e"}
    assert named["not done"] == cifar | {"try_local_rules", "try_middle_loop", "try_larger", "limit_four_phases"}
    assert named["tested"] == {"fig4b", "eq12", "eq19", "eq21"}


@pytest.mark.parametrize("row", [row for row in ROWS if row.test], ids=lambda row: row.key)
def test_tests_that_are_named_are_there(row: PaperRow) -> None:
    file, _, name = row.test.partition("::")
    assert re.search(rf"^def {name}\(", (PAGE.parents[1] / file).read_text(), re.M)
    assert row.tested_by == f"pytest {file} -k {name}"


@pytest.mark.parametrize(
    ("row", "check", "place"), CHECKS, ids=[f"{r.key}-{r.checks.index(c)}-{c.places.index(p)}" for r, c, p in CHECKS]
)
def test_a_changed_number_turns_the_verdict(row: PaperRow, check: Check, place: Place) -> None:
    """Each check of each row, at each of its places, alone: on one side of the threshold and on the other."""
    verdicts = []
    for side in (-1, 1):
        value = check.threshold + side * (abs(check.threshold) / 2 + 1e-3)
        numbers = [(place.path, value)]
        if place.over:
            numbers = [(place.path, 2.0 * value), (place.over, 2.0)]
        if place.minus:
            numbers = [(place.path, value + 3.0), (place.minus, 3.0)]
        _, readings = judge(row, _holding(*numbers))
        (reading,) = (r for r in readings if r.check is check)
        assert reading.place == place
        assert reading.value == pytest.approx(value)
        assert reading.command == place.command
        verdicts.append(reading.verdict)
    assert verdicts == (["holds", "does not hold"] if check.relation == "<=" else ["does not hold", "holds"])


def test_places_are_taken_in_order() -> None:
    check = Check("n", (Place("a", "ovonic a"), Place("b", "ovonic b")), "<=", 1.0, "number")
    both, second = judge(_row(check), {"a": 0.5, "b": 2.0})[1][0], judge(_row(check), {"b": 2.0})[1][0]
    assert (both.value, both.command) == (0.5, "ovonic a")
    assert (second.value, second.command) == (2.0, "ovonic b")
    assert judge(_row(check), {})[1][0].command == "ovonic a"


def test_quotients_and_differences() -> None:
    over = _check(place=Place("e/energy_j", "ovonic doctor", over="f/energy_j"))
    energies = _holding(
        ("e/energy_j", {"low": 1.0, "typical": 2.0, "high": 4.0}),
        ("f/energy_j", {"low": 2.0, "typical": 4.0, "high": 8.0}),
    )
    reading = judge(_row(over), energies)[1][0]
    assert (reading.value, reading.low, reading.high) == (0.5, 0.125, 2.0)
    assert reading.verdict == "close"
    plain = _check(place=Place("x", "ovonic doctor", over="y"))
    assert judge(_row(plain), {"x": 1.0, "y": 0})[0] == "not measured in this run"
    assert judge(_row(plain), {"x": {"mean": 1.0, "ci95": 0.1}, "y": {"mean": 2.0, "ci95": 0.1}})[1][0].low is None
    with pytest.raises(ConfigError, match="not both"):
        Place("x", "ovonic doctor", over="y", minus="z")


@pytest.mark.parametrize(
    "value", ["x", True, [1], 10**400, math.nan, math.inf, {"low": 1}, {"mean": "x", "ci95": 1}, {"mean": [1]}]
)
def test_what_is_no_finite_number_is_not_measured(value: Any) -> None:
    for place in (Place("x", "ovonic doctor"), Place("x", "ovonic doctor", over="y"), Place("y", "o", minus="x")):
        verdict, (reading,) = judge(_row(_check(place=place)), {"x": value, "y": {"mean": 1.0, "ci95": 0.1}})
        assert (verdict, reading.value) == ("not measured in this run", None)
    ends = {"ratio": 1.0, "low": "x", "high": 10**400}
    (reading,) = judge(_row(_check(place=Place("x", "ovonic doctor"))), {"x": ends})[1]
    assert (reading.value, reading.low, reading.high) == (1.0, None, None)


def test_conditions_of_unlike_size_are_not_compared() -> None:
    place = Place("hardware/conditions/a/error", "ovonic doctor", over="hardware/conditions/b/error")
    same = {"size": {"chips": 5, "tasks": 100}, "seed": 1}
    result = _holding(("hardware/conditions/a", {"error": 1.0, "config": same}))
    result["hardware"]["conditions"]["b"] = {"error": 2.0, "config": same}
    assert judge(_row(_check(place=place)), result)[0] == "holds"
    result["hardware"]["conditions"]["b"] = {"error": 2.0, "config": same | {"size": {"chips": 5, "tasks": 200}}}
    assert judge(_row(_check(place=place)), result)[0] == "not measured in this run"
    result["hardware"]["conditions"]["b"] = {"error": 2.0, "config": same | {"seed": 2}}
    assert judge(_row(_check(place=place)), result)[0] == "not measured in this run"
    place = Place("evaluations/a/accuracy", "ovonic doctor", minus="evaluations/b/accuracy")
    for tasks, chips, seed, verdict in (
        (100, 5, 0, "holds"),
        (200, 5, 0, "not measured in this run"),
        (100, 4, 0, "not measured in this run"),
        (100, 5, 1, "not measured in this run"),
    ):
        evaluations = {"a": {"tasks": 100, "chips": {"n": 5}, "accuracy": 0.9, "config": {"seed": 0}}}
        evaluations["b"] = {"tasks": tasks, "chips": {"n": chips}, "accuracy": 0.8, "config": {"seed": seed}}
        assert judge(_row(_check(place=place)), {"evaluations": evaluations})[0] == verdict


@pytest.mark.parametrize("command", sorted({place.command for _, _, place in CHECKS}))
def test_commands_parse_with_the_real_command_line(command: str) -> None:
    name, *words = shlex.split(command)
    assert name == "ovonic"
    found: Any = typer.main.get_command(cli.app)
    while hasattr(found, "commands"):
        assert words, command
        assert words[0] in found.commands, command
        found = found.commands[words.pop(0)]
    found.make_context(command, words)


def test_conditions_named_in_rows_are_conditions_of_the_study_that_the_command_runs() -> None:
    from ovonic.validation.hardware_studies import study

    seen = 0
    for _, _, place in CHECKS:
        if not place.command.startswith("ovonic validate hardware"):
            continue
        words = shlex.split(place.command)
        name = words[words.index("--study") + 1] if "--study" in words else "headline"
        weights = [words[i + 1] for i, word in enumerate(words) if word == "-w"]
        if any(not w.startswith(("fewshot", "robot")) for w in weights):
            continue  # of weights that a user trains
        names = {condition.name for condition in study(name, weights)}
        for path in filter(None, (place.path, place.over, place.minus)):
            assert path.split("/")[2] in names, place
            seen += 1
    assert seen > 30


def test_section_is_a_chapter_of_the_report_and_its_numbers_are_the_results() -> None:
    ratio = {"ratio": 1.065, "low": 1.033, "high": 1.09}
    result = _holding(
        ("hardware/conditions/fewshot-32bit-noise-blind-pcm-0s-5w5s/ratio", ratio),
        ("robot/float/tip_rmse_mm/after", {"mean": 27.9, "ci95": 1.7, "median": 25.2, "p95": 48.6}),
        ("cost/fewshot/break_even/scratch/deployments", {"low": 0.0, "typical": 1900.0, "high": 3.8e6}),
    )
    page = html_report([paper_section(result)], result)
    assert 'data-path="hardware/conditions/fewshot-32bit-noise-blind-pcm-0s-5w5s/ratio/ratio"' in page
    assert 'data-path="robot/float/tip_rmse_mm/after/mean"' in page
    assert "not measured in this run: ovonic validate paper --measure scratch" in page
    assert ">close (1 of 4)<" in page or ">holds (1 of 4)<" in page
    assert page.count('<th scope="row">') >= len(ROWS)
    for title in ("Checked by a test of this library", "Not done here", "Not checkable in simulation"):
        assert title in page
    assert "pytest tests/test_shipped_robots.py -k test_a_shipped_robot_has_the_papers_sizes" in page
    empty = html_report([paper_section({})], {})
    assert "holds: " not in empty.split("</h2>")[1].split("</p>")[1]
    assert all(row.says.split(".")[0].split("'")[0] in empty for row in ROWS)


class Data(HTMLParser):
    """Attributes and text of every ``data`` element, and the text of the page without them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[dict[str, str | None], str]] = []
        self.rest = ""
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag == "data" or self.inside
        self.found += [(dict(attrs), "")] if tag == "data" else []

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "data"

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.found[-1] = (self.found[-1][0], self.found[-1][1] + data)
        else:
            self.rest += data


def test_every_number_of_the_section_can_be_computed_from_the_json(tmp_path: Path) -> None:
    """Also those of two places: on the real results, with all that the page says of where its numbers stand."""
    measured = gather([RESULTS])
    page, saved = write_report(tmp_path, [paper_section(measured)], measured)
    data, kept = Data(page.read_text()), json.loads(saved.read_text())
    middles = set()
    for attrs, text in data.found:
        path, over, minus = (attrs.get(f"data-{name}") for name in ("path", "over", "minus"))
        value = look_up(kept, str(path))
        if over:
            value /= look_up(kept, over)
        if minus:
            value -= look_up(kept, minus)
        assert float(str(attrs["value"])) == value, path
        shown = float(text.replace("−", "-"))
        digits = len(text.partition("e")[0].partition(".")[2])
        near = [
            abs(shown - scale * value) <= max(0.5000001 * 10**-digits, 0.0005 * abs(scale * value))
            for scale in (1, 100)
        ]
        assert any(near), (path, text)
        middles.add((value, path, over, minus))
    assert {bool(over) for _, _, over, _ in middles} == {bool(minus) for *_, minus in middles} == {True, False}
    for verdict in paper_rows(measured):
        for reading in verdict.readings:
            place = reading.place
            assert place is not None
            kind = bool(place.over), bool(place.minus)
            assert any(
                value == reading.value and str(path).startswith(place.path) and (bool(over), bool(minus)) == kind
                for value, path, over, minus in middles
            ), (verdict.row.key, reading.check.name)
    assert not re.search(r"not measured in this run:", data.rest)


def test_a_number_of_two_places_follows_the_result() -> None:
    place = Place("a/energy_j", "ovonic doctor", over="b/energy_j")
    result = _holding(
        ("a/energy_j", {"low": 1.0, "typical": 2.0, "high": 4.0}),
        ("b/energy_j", {"low": 2.0, "typical": 4.0, "high": 8.0}),
    )
    (reading,) = judge(_row(_check(place=place)), result)[1]
    middle, _, low, _, high, _ = _numbers(reading, result)
    assert (middle, low, high) == (
        At("a/energy_j/typical", "number", "b/energy_j/typical"),
        At("a/energy_j/low", "number", "b/energy_j/high"),
        At("a/energy_j/high", "number", "b/energy_j/low"),
    )
    section = Section("S", tables=[Table("T", ("a", "b"), [["n", (middle, low, high)]])])
    page = html_report([Section.from_json(json.loads(json.dumps(section.to_json())))], result)
    values = [(a["value"], a["data-path"], a["data-over"]) for a, _ in Data(page).found]
    assert values[0] == ("0.5", "a/energy_j/typical", "b/energy_j/typical")
    assert [value for value, *_ in values] == ["0.5", "0.125", "2.0"]
    with pytest.raises(ConfigError, match="not both"):
        At("a", over="b", minus="c")


def _files(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """One result of each kind, cut down to what is read."""
    condition = {"experiment": "robot", "weights": "robot-q16"}
    size = {"size": {"chips": 2, "tasks": 3}, "seed": 5}
    yield (
        "reproduce",
        {"robot": {"float": {"loss": 1.0}}, "hardware": {"conditions": {"c": {"error": 1.0}}}, "config": {}},
    )
    yield "validate-hardware-condition", {"config": {"condition": condition, **size}, "error": 0.5}
    yield "validate-hardware", {"config": size, "conditions": {"d": {"error": 2.0}}}
    yield (
        "validate-eprop",
        {"config": {"network": "robot-q16"}, "references": {"nest": {"worst": 1e-16}}, "bptt": {"sweep": []}},
    )
    yield "validate-paper", {"measured": {"delta": {"worst": 0.0}, "still": {"robot-q16": {"omega": 0.3}}}}
    yield (
        "crossbar-cost",
        {"config": {"experiment": "robot"}}
        | {name: {} for name in ("counts", "estimates", "meta_training_j", "scratch_j", "break_even", "costs")},
    )
    yield (
        "crossbar-inspect",
        {
            "provenance": {"source": "a/few.safetensors"},
            "device": {"name": "pcm"},
            "layers": [{"name": "convs.0.weight", "error_now": 1.0}],
            "arrays": [{}, {}],
        },
    )
    weights = {"source": "fewshot-4bit", "precision": 4}
    episode = {"n_way": 5, "k_shot": 5}
    yield (
        "fewshot-evaluate",
        {
            "config": {
                "weights": weights,
                "data": "omniglot:a.zip+b.zip",
                "episode": episode,
                "precision": {"bits": 4},
            },
            "accuracy": {"mean": 0.97, "ci95": 0.01},
        },
    )
    inner = {"step": 0.0625, "rounding": "stochastic", "updates": 1}
    chip = {"read_time_s": 2592000.0, "periphery": {"compensation": "column"}}
    yield (
        "robot-evaluate",
        {
            "config": {
                "weights": {"source": "robot-q16"},
                "family": "consistent",
                "inner": inner,
                "hardware": "crossbar",
                "noise_model": "pcm",
                "chip": chip,
            }
        },
    )


def test_files_of_every_command_are_put_in_place(tmp_path: Path) -> None:
    for name, content in _files(tmp_path):
        (tmp_path / f"{name}.json").write_text(json.dumps({"schema": f"ovonic/{name}/1"} | content))
    assert {f"ovonic/{path.stem}/1" for path in tmp_path.glob("*.json")} == set(READ)
    result = gather([tmp_path])
    assert result["robot"]["float"]["loss"] == 1.0
    assert set(result["hardware"]["conditions"]) == {"c", "d", "robot-q16-pcm-0s"}
    assert result["hardware"]["conditions"]["robot-q16-pcm-0s"]["error"] == 0.5
    assert result["gradients"]["natural"]["robot-q16"]["nest"]["worst"] == 1e-16
    assert result["measured"] == {"delta": {"worst": 0.0}, "still": {"robot-q16": {"omega": 0.3}}}
    assert result["chips"]["few-pcm"]["layers"]["convs_0"]["error_now"] == 1.0
    assert result["chips"]["few-pcm"]["arrays"] == 2
    assert set(result["evaluations"]) == {
        "fewshot-4bit-omniglot-5w5s-software",
        "robot-q16-consistent-0.0625-stochastic-crossbar-pcm-2592000s-column",
    }
    assert len(result["sources"]) == len(READ)


def test_the_larger_of_two_measurements_stays(tmp_path: Path) -> None:
    for name, tasks, error in (("a", 10, 1.0), ("b", 1000, 2.0), ("c", 100, 3.0)):
        content = {"config": {"size": {"chips": 2, "tasks": tasks}, "seed": 0}}
        content |= {"conditions": {"x": {"error": error, "tasks": tasks, "chips": {"n": 2}}}}
        (tmp_path / f"{name}.json").write_text(json.dumps({"schema": "ovonic/validate-hardware/1"} | content))
    assert gather([tmp_path])["hardware"]["conditions"]["x"]["error"] == 2.0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[1]", "names no schema"),
        ('{"a": 1}', "names no schema"),
        ('{"schema": 3}', "has the schema 3"),
        ('{"schema": "ovonic/compare/1"}', "has the schema 'ovonic/compare/1', which the paper's table cannot use"),
        ('{"seed": ' + "9" * 5000 + "}", "is no JSON"),
        (
            '{"schema": "ovonic/validate-hardware-condition/1", "config": {"condition": {"experiment": "robot", '
            '"weights": "x", "read_time_s": 1' + "0" * 400 + "}}}",
            "OverflowError",
        ),
        ('{"schema": "ovonic/validate-hardware/1"}', "lacks what such a result holds (KeyError('config'))"),
        ('{"schema": "ovonic/validate-eprop/1", "config": 3}', "lacks what such a result holds"),
        ('{"schema": "ovonic/reproduce/1", "fewshot": [1]}', "lacks what such a result holds"),
    ],
)
def test_wrong_files_are_refused_by_name(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "wrong.json"
    file.write_text(content)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        gather([file])
    assert str(caught.value).startswith(str(file))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: cannot be read"):
        gather([tmp_path / "none.json"])
    with pytest.raises(DataError, match=r"no \.json file in this folder"):
        gather([tmp_path])


def test_evaluations_of_unusual_settings_have_names_of_their_own() -> None:
    config: dict[str, Any] = {
        "weights": {"source": "x/cnn.npz", "precision": 32},
        "data": "glyphs:0-19:seed0",
        "episode": {"n_way": 20, "k_shot": 1},
        "precision": {"bits": 4},
        "norm": "transductive",
        "updates": 2,
    }
    name = evaluation_name("ovonic/fewshot-evaluate/1", config)
    assert name == "cnn-glyphs-20w1s-software-transductive-2updates-4bit"


def test_page_has_every_row_and_numbers_its_commands() -> None:
    verdicts = paper_rows({})
    page = paper_page(
        verdicts,
        [{"file": "a.json", "written": "2026-11-26", "command": "ovonic x -d a/b.zip"}],
        "ovonic validate paper",
    )
    for row in ROWS:
        assert f"| {row.where} | {row.says} |".replace("|  |", "") in page, row.key
    commands = {check.places[0].command for row in ROWS for check in row.checks}
    assert all(f". `{command}`\n" in page for command in commands)
    assert "| a.json | 2026-11-26 | `ovonic x -d b.zip` |" in page
    assert sum(counts(verdicts).values()) == len(ROWS)


def _page(results: Path) -> str:
    found = gather([results])
    return paper_page(paper_rows(found), found["sources"], COMMAND)


def test_docs_page_is_made_of_the_results_beside_it_line_by_line() -> None:
    assert _page(RESULTS).splitlines() == PAGE.read_text().splitlines()


def test_another_number_in_a_kept_result_changes_the_page_and_an_edited_one_is_refused(tmp_path: Path) -> None:
    shutil.copytree(RESULTS, tmp_path / "results")
    file = tmp_path / "results" / "hardware-headline" / "robot-q16-pcm-0s.json"
    content = json.loads(file.read_text())
    content["ratio"] = {"ratio": 1.2, "low": 1.1, "high": 1.24}
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"robot-q16-pcm-0s\.json: damaged or edited"):
        _page(tmp_path / "results")
    del content["sha256"]
    write_sealed(file, content)
    changed = [
        line
        for line, before in zip(_page(tmp_path / "results").splitlines(), PAGE.read_text().splitlines(), strict=True)
        if line != before
    ]
    (line,) = changed
    assert "arm: loss over the best software's, devices pcm: **1.200 [1.100, 1.240]**" in line
    assert "our margin, fixed before the runs: holds" in line


def test_kept_results_are_small_sealed_dated_and_name_no_place_of_a_machine() -> None:
    files = sorted(RESULTS.rglob("*.json"))
    assert len(files) > 50
    assert sum(file.stat().st_size for file in files) < 1.5e6
    for file in files:
        text = file.read_text()
        assert not re.search(r"\.\./|(?<![\w.])/\w|\\\\|/\.", text), file
        content = json.loads(text)
        assert {"schema", "versions", "config", "written", "sha256"} <= set(content), file
        assert content["config"]["command"].startswith("ovonic "), file


def test_what_is_kept_reads_as_what_it_was_kept_from(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    for name, content in _files(tmp_path):
        (tmp_path / "from" / f"{name}.json").write_text(json.dumps({"schema": f"ovonic/{name}/1"} | content))
    kept = keep([tmp_path / "from"], tmp_path / "kept")
    assert {path.parent for path in kept} == {tmp_path / "kept" / "from"}
    before, after = gather([tmp_path / "from"]), gather([tmp_path / "kept"])
    assert before["sources"] == after["sources"]
    assert before["sources"][0]["file"] == "from/crossbar-cost.json"
    assert {name: value for name, value in after.items() if name not in ("evaluations", "chips")} == {
        name: value for name, value in before.items() if name not in ("evaluations", "chips")
    }
    assert set(after["evaluations"]) == set(before["evaluations"])


def test_cut_down_leaves_out_lists_of_every_episode_and_the_folders_of_data() -> None:
    command = "ovonic x -d ../some/where/a.zip --data /else/b.zip -w runs/c.safetensors"
    assert cut_down(
        {"chips": {"n": 2, "losses": [1, 2]}, "episodes": 3, "bptt": {"episodes": {"a": 1}}, "errors": [1]}
        | {"config": {"command": command}, "layers": [{"errors": [1], "name": "a"}]}
    ) == {
        "chips": {"n": 2},
        "episodes": 3,
        "bptt": {"episodes": {"a": 1}},
        "config": {"command": "ovonic x -d a.zip --data b.zip -w runs/c.safetensors"},
        "layers": [{"name": "a"}],
    }


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.97682, "percent", "97.68 %"),
        (-0.0035, "points", "-0.35 points"),
        (1.0651, "ratio", "1.065"),
        (1234.5, "ratio", "1.23e+03"),
        (0.001234, "ratio", "0.00123"),
        (39.58, "mm", "39.6 mm"),
        (341824, "devices", "341,824"),
        (0.0, "number", "0"),
    ],
)
def test_numbers_as_text(value: float, unit: Any, text: str) -> None:
    assert shown(value, unit) == text


def test_delta_rule_is_the_gradient_and_another_rule_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measurements.delta_rule(5, 0)["worst"] < 1e-12
    true = measurements.cross_entropy_gradient
    monkeypatch.setattr(measurements, "cross_entropy_gradient", lambda *args: 1.001 * true(*args))
    assert measurements.delta_rule(5, 0)["worst"] > 1e-4


def test_printed_kinematics_agree_but_for_two_misprints() -> None:
    found = measurements.kinematics(200, 0)
    assert max(found["x"], found["z"], found["y_mended"]) < 1e-12
    assert found["y"] > 0.1
    turned = torch.tensor([[0.7, 0.0, 0.0, 0.0]], dtype=torch.float64)
    straight = torch.zeros(1, 4, dtype=torch.float64)
    reach = [measurements.printed_kinematics(t, mended=True)[0, :2].norm() for t in (turned, straight)]
    assert reach[0] == pytest.approx(reach[1])  # the base turns, the reach stays


@pytest.fixture(scope="module")
def characters() -> CharacterSet:
    return load_characters(["glyphs"], "test", glyph_alphabets=2)


def test_from_scratch_fits_the_support_and_lacks_on_queries(
    characters: CharacterSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurements, "SCRATCH_STEPS", (0, 8))
    done: list[int] = []
    found = measurements.from_scratch(characters, 2, 0, done.append)
    assert found["support"][0]["mean"] == pytest.approx(0.2)
    assert found["support"][1]["mean"] > 0.9
    assert found["query"][1]["mean"] < found["meta_trained"]["mean"]
    assert found["lacks"]["step"] in (0, 8)
    assert sum(done) == 2


def test_outer_loss_of_both_precisions_on_the_same_tasks(characters: CharacterSet) -> None:
    done: list[int] = []
    found = measurements.outer_loss(characters, 16, 0, done.append)
    assert found["bit4"]["mean"] - found["bit32"]["mean"] == pytest.approx(found["more"]["mean"])
    assert 0.02 < found["bit32"]["mean"] < 1.0
    assert sum(done) == 32


def test_stillness_of_an_arm_that_does_not_move_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    from ovonic.tasks.robot import resolve_robot

    robot = resolve_robot("robot-q16")
    mute = dataclasses.replace(robot, pair=robot.pair._replace(trainee=_without_readout(robot.pair.trainee)))
    monkeypatch.setattr(measurements, "resolve_robot", lambda _: mute)
    found = measurements.stillness("mute", 2, 0)
    assert found["omega"] == 0.0
    assert found["way"] == 0.0


def _without_readout(network: Any) -> Any:
    from ovonic.models.layers import Linear

    name = [n for n, layer in network.layers.items() if isinstance(layer, Linear)][-1]
    layer = network.layers[name]
    return dataclasses.replace(
        network, layers={**network.layers, name: dataclasses.replace(layer, weight=0 * layer.weight)}
    )
