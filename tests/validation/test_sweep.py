"""Grids expand to what is typed, points are known by what they depend on, and tables hold what came out."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovonic.adapters.sealed_json import write_sealed
from ovonic.models.errors import ConfigError, DataError
from ovonic.validation.sweep import SCHEMA, Point, leaves, parse_axis, points, read_record, table, to_csv

VERSIONS = {"ovonic": "1", "torch": "2"}


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("chips=2,4", "chips", ("2", "4")),
        ("--noise-model=pcm, hermes", "noise-model", ("pcm", "hermes")),
        ("seed=0..3,10", "seed", ("0", "1", "2", "3", "10")),
        ("x=-1..1", "x", ("-1", "0", "1")),
        ('toolchains="engine,norse",nest', "toolchains", ("engine,norse", "nest")),
        ("quantise=1/16,none", "quantise", ("1/16", "none")),
        ("weights=runs/a=b.safetensors", "weights", ("runs/a=b.safetensors",)),
    ],
)
def test_an_axis_is_read(text: str, name: str, values: tuple[str, ...]) -> None:
    assert parse_axis(text) == (name, values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chips", "give OPTION=VALUE"),
        ("=2", "give OPTION=VALUE"),
        ("a b=2", "give OPTION=VALUE"),
        ("chips=", "chips has no value"),
        ("chips=2,,4", "an empty value"),
        ("chips=2,4,2", "chips has 2 more than once"),
        ("seed=0..3,2", "seed has 2 more than once"),
        ("seed=4..0", "counts upwards"),
        ("seed=0..99999999", "at most 100,000"),
        ('x="a,b', "double quotes"),
    ],
)
def test_a_mistyped_axis_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_axis(text)


def test_points_are_the_product_in_order() -> None:
    grid = {"noise-model": ["pcm", "hermes"], "chips": ["2", "4"]}
    made = points(["robot", "evaluate", "--figures", "figures/{point}"], grid)
    assert [p.name for p in made] == [f"noise-model={m},chips={c}" for m in ("pcm", "hermes") for c in (2, 4)]
    typed = ("robot", "evaluate", "--figures", "figures/noise-model=pcm,chips=4", "--noise-model=pcm", "--chips=4")
    assert made[1].arguments == typed


def test_flags_are_typed_or_left_out() -> None:
    flags = {"published": ("--published", ""), "mirror": ("--mirror", "--no-mirror")}
    made = points(["a"], {"published": ["yes", "no"], "mirror": ["yes", "no"]}, flags)
    due = [("--published", "--mirror"), ("--published", "--no-mirror"), ("--mirror",), ("--no-mirror",)]
    assert [p.arguments[1:] for p in made] == due
    with pytest.raises(ConfigError, match="'true': --published is a flag"):
        points(["a"], {"published": ["true"]}, flags)


@given(st.lists(st.text(max_size=150), min_size=2, max_size=6, unique=True))
def test_names_are_fit_for_files_and_tell_points_apart(values: list[str]) -> None:
    names = [Point({"weights": value}, ()).name for value in values]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 100 and "/" not in name and "\0" not in name and name.isprintable() for name in names)


def test_a_point_is_known_by_arguments_versions_and_files(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"1")
    point = Point({}, ("robot", "evaluate", "--weights=w.safetensors", "--data", "w.safetensors", "--chips=2"))
    first = point.identity(VERSIONS, tmp_path)
    assert list(first["files"]) == ["w.safetensors"]
    assert json.loads(json.dumps(first)) == first == point.identity(VERSIONS, tmp_path)
    (tmp_path / "w.safetensors").write_bytes(b"2")
    changed = point.identity(VERSIONS, tmp_path)
    others = [point.identity({**VERSIONS, "torch": "3"}, tmp_path), Point({}, ("robot",)).identity(VERSIONS, tmp_path)]
    assert all(first != other != changed for other in [changed, *others] if other is not changed)
    assert first != changed


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "[" * 10_000, '{"schema": "another/1"}', f'{{"schema": "{SCHEMA}"}}']
)
def test_what_is_no_record_counts_as_missing(tmp_path: Path, text: str) -> None:
    file = tmp_path / "point.json"
    file.write_text(text)
    assert read_record(file) is None
    assert read_record(tmp_path / "absent") is None


def test_a_record_of_another_schema_or_an_edited_one_counts_as_missing(tmp_path: Path) -> None:
    file = tmp_path / "point.json"
    record = {"schema": SCHEMA, "identity": {}, "status": 0, "error": None, "result": {"loss": 0.5}}
    write_sealed(file, record)
    assert read_record(file) == record
    file.write_text(file.read_text().replace("0.5", "0.4"))
    assert read_record(file) is None
    for other in ({"schema": "another/1"}, {"status": "0"}, {"error": 1}, {"result": [1]}, {"identity": None}):
        write_sealed(file, record | other)
        assert read_record(file) is None


RESULT = {
    "schema": "ovonic/x/1",
    "versions": {"torch": "2"},
    "config": {"weights": "w"},
    "loss": {"mean": 0.25, "ci95": None},
    "held": True,
    "validation": [{"accuracy": 0.5}, {"accuracy": 0.75}],
    "empty": [],
}


def test_leaves_are_the_scalars_by_path() -> None:
    found = dict(leaves(RESULT))
    assert found["loss.mean"] == 0.25
    assert found["validation.0.accuracy"] == 0.5
    assert found["validation.1.accuracy"] == found["validation.-1.accuracy"] == 0.75
    assert not any(isinstance(value, dict | list) for value in found.values())
    assert dict(leaves(3.0)) == {"": 3.0}


def _found(*records: dict[str, Any]) -> list[tuple[Point, dict[str, Any]]]:
    return [(Point({"chips": str(i)}, ()), {"status": 0, "error": None} | record) for i, record in enumerate(records)]


def test_a_table_has_a_row_a_point() -> None:
    failed = {"status": 2, "error": 'no, really: "bad"', "result": None}
    more = {"result": {"loss": {"mean": 0.5}, "extra": 1}}
    columns, rows = table({"chips": ["0", "1", "2"]}, _found({"result": RESULT}, failed, more))
    assert columns == ["chips", "status", "error", "loss.mean", "loss.ci95", "held", "extra"]
    assert rows[0] == {"chips": "0", "status": 0, "error": None, "loss.mean": 0.25, "loss.ci95": None} | {
        "held": True,
        "extra": None,
    }
    read = list(csv.DictReader(io.StringIO(to_csv(columns, rows))))
    assert [row["chips"] for row in read] == ["0", "1", "2"]
    assert [row["loss.mean"] for row in read] == ["0.25", "", "0.5"]
    assert read[1]["error"] == failed["error"]
    assert [row["extra"] for row in read] == ["", "", "1"]


def test_chosen_columns_stand_in_the_order_of_their_patterns() -> None:
    columns, rows = table({"chips": ["0"]}, _found({"result": RESULT}), ["validation.-1.*", "loss.mean", "config.*"])
    assert columns == ["chips", "status", "error", "validation.-1.accuracy", "loss.mean", "config.weights"]
    assert [rows[0][name] for name in columns[3:]] == [0.75, 0.25, "w"]
    with pytest.raises(DataError, match=r"--columns los.mean: .* did you mean 'loss.mean'"):
        table({"chips": ["0"]}, _found({"result": RESULT}), ["los.mean"])
    many = _found({"result": {"zone": {str(i): i for i in range(300)}, "best": {"of": 1.0, "at": 2.0}}})
    with pytest.raises(DataError, match=r"choose one of 'best.*or one of 297 others") as far:
        table({"chips": ["0"]}, many, ["best.somewhere.typo*"])
    assert len(str(far.value)) < 200
    nothing = _found({"status": 2, "error": "x", "result": None})
    assert table({"chips": ["0"]}, nothing, ["los.mean"])[0] == ["chips", "status", "error"]


def test_a_result_named_as_an_option_keeps_its_column() -> None:
    columns, rows = table({"chips": ["0"]}, _found({"result": {"chips": 7, "status": "x"}}))
    assert columns == ["--chips", "--status", "error", "chips", "status"]
    assert [rows[0][name] for name in columns] == ["0", 0, None, 7, "x"]
