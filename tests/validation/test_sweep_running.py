"""Points run apart, are recorded as they finish, and are not run again; failures are rows, not the end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ovonic.__main__ import main
from ovonic.adapters.sealed_json import read_sealed
from ovonic.commands.common import versions
from ovonic.models.errors import ConfigError, ToolchainError
from ovonic.validation.sweep import Point, points
from ovonic.validation.sweep_running import ADDRESS, run_points

GRID = {"read-phases": ["1", "2", "3"], "updates": ["1", "2"]}
POINTS = points(["crossbar", "cost", "fewshot"], GRID)
"""Real points; three phases are refused by the command, when it runs."""


def _stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """What runs in place of Python: ``body`` in sh, with $file the result's path and $all the arguments."""
    script = folder / "python"
    head = '#!/bin/sh\nall="$*"\nwhile [ "$1" != --json ]; do shift; done\nfile=$2\n'
    script.write_text(f"{head}{body}\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


def _run(folder: Path, made: list[Point] = POINTS, **options: Any) -> tuple[list[dict[str, Any]], list[str]]:
    new: list[str] = []
    kept: list[int] = []
    records = run_points(
        made,
        folder,
        options.pop("versions", versions()),
        on_start=kept.append,
        on_record=lambda point, record: new.append(point.name),
        **options,
    )
    assert kept == [len(made) - len(new)]
    return records, new


def test_records_are_kept_and_failures_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    body = f'echo "$all" >> {log}\ncase "$all" in *phases=3*) echo "warning" >&2; echo "error: no 3" >&2; exit 2;; esac'
    _stand_in(tmp_path, monkeypatch, body + "\necho '{\"held\": true}' > $file")
    records, new = _run(tmp_path / "points", added=["--quiet"])
    assert new == [p.name for p in POINTS]
    assert [r["status"] for r in records] == [0, 0, 0, 0, 2, 2]
    assert [r["error"] for r in records] == [None] * 4 + ["no 3"] * 2
    assert [r["result"] for r in records] == [{"held": True}] * 4 + [None] * 2
    typed = log.read_text().splitlines()
    assert typed[0].startswith("-m ovonic crossbar cost fewshot --read-phases=1 --updates=1 --json /")
    assert typed[0].endswith(" --quiet")
    again, new = _run(tmp_path / "points")
    assert new == [p.name for p in POINTS[4:]]
    assert again == records


def test_other_versions_files_or_torn_records_are_computed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stand_in(tmp_path, monkeypatch, "echo '{\"x\": 1}' > $file")
    data, folder = tmp_path / "costs.toml", tmp_path / "points"
    data.write_text("a")
    made = points(["crossbar", "cost", "--costs", str(data)], {"updates": ["1", "2"]})
    assert len(_run(folder, made)[1]) == 2
    assert _run(folder, made)[1] == []
    record = folder / "updates=2.json"
    record.write_text(record.read_text()[:-20])
    assert _run(folder, made)[1] == ["updates=2"]
    data.write_text("b")
    assert len(_run(folder, made)[1]) == 2
    other = points(["crossbar", "cost", "--costs", str(data), "--queries", "3"], {"updates": ["1", "2"]})
    assert len(_run(folder, other)[1]) == 2


def test_a_worker_with_other_versions_computes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _stand_in(tmp_path, monkeypatch, "echo '{\"x\": 1}' > $file")
    records, _ = _run(tmp_path / "points", POINTS[:1], versions={**versions(), "torch": "1.0"})
    assert records[0]["status"] == 2
    assert records[0]["result"] is None
    assert "torch 2" in records[0]["error"]
    assert "where 1.0 is asked for" in records[0]["error"]


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ("kill -9 $$", -9, "killed by signal 9"),
        ("exit 0", 1, "wrote no result"),
        ("exit 3", 3, "ended with exit status 3"),
        ("echo '{\"x\": 1' > $file", 1, "wrote no result"),
    ],
)
def test_how_a_point_can_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, status: int, error: str
) -> None:
    _stand_in(tmp_path, monkeypatch, body)
    records, _ = _run(tmp_path / "points", POINTS[:1])
    assert (records[0]["status"], records[0]["error"], records[0]["result"]) == (status, error, None)


def test_a_failed_check_keeps_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _stand_in(tmp_path, monkeypatch, "echo '{\"x\": 1}' > $file; echo 'error: one diverged' >&2; exit 1")
    records, _ = _run(tmp_path / "points", POINTS[:1])
    assert (records[0]["status"], records[0]["error"], records[0]["result"]) == (1, "one diverged", {"x": 1})


def test_an_interrupted_point_ends_the_sweep_and_is_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stand_in(tmp_path, monkeypatch, 'case "$all" in *phases=2*) exit 130;; esac; echo \'{"x": 1}\' > $file')
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "points")
    assert sorted(f.name for f in (tmp_path / "points").iterdir()) == [
        "read-phases=1,updates=1.json",
        "read-phases=1,updates=2.json",
    ]


def test_workers_of_their_own_give_the_same_results(tmp_path: Path) -> None:
    """Real commands on two of loky's workers: what the command itself writes."""
    made = [POINTS[0], POINTS[5]]
    records, _ = _run(tmp_path / "points", made, jobs=2)
    assert [r["status"] for r in records] == [0, 2]
    assert records[1]["error"] == "--read-phases 3: choose 1, 2 or 4"
    assert records[0]["result"]["schema"] == "ovonic/crossbar-cost/1"
    assert records[0]["result"]["config"]["updates"] == 1
    assert read_sealed(tmp_path / "points/read-phases=1,updates=1.json") == records[0]
    assert main([*made[0].arguments, "--json", str(tmp_path / "own.json")]) == 0
    own = json.loads((tmp_path / "own.json").read_text())
    for result in (own, records[0]["result"]):
        del result["config"]["command"]  # names the file that is written
    assert own == records[0]["result"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "ray"}, "choose one of loky, dask"),
        ({"backend": "dask"}, "--scheduler ADDRESS go together"),
        ({"scheduler": "tcp://127.0.0.1:1"}, "--scheduler ADDRESS go together"),
        ({"backend": "dask", "scheduler": "foo"}, "--scheduler foo: no address; give host and port"),
        ({"backend": "dask", "scheduler": "tcp://foo"}, "--scheduler tcp://foo: no address"),
        ({"backend": "dask", "scheduler": "foo:port"}, "--scheduler foo:port: no address"),
        ({"backend": "dask", "scheduler": ""}, "--scheduler : no address"),
    ],
)
def test_backends_are_checked(tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _run(tmp_path, **options)


@pytest.mark.parametrize("address", ["host:8786", "tls://a-b.example:8786", "tcp://[::1]:80", "inproc://10.0.0.1/7/1"])
def test_addresses_of_schedulers(address: str) -> None:
    assert ADDRESS.fullmatch(address)


@pytest.mark.slow
@pytest.mark.toolchain
def test_a_dask_cluster_gives_the_same_records(tmp_path: Path) -> None:
    """A real cluster of two worker processes; and a scheduler that is not there."""
    distributed = pytest.importorskip("distributed")
    made = [POINTS[0], POINTS[3], POINTS[4]]
    settings = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**settings) as cluster:
        on_dask, new = _run(tmp_path / "dask", made, backend="dask", scheduler=cluster.scheduler_address)
        assert len(new) == 3
        kept, new = _run(tmp_path / "dask", made[:2], backend="dask", scheduler=cluster.scheduler_address)
        assert new == []
    here, _ = _run(tmp_path / "here", made)
    for a, b in zip(on_dask, here, strict=True):
        for record in (a, b):
            if record["result"]:
                del record["result"]["config"]["command"]  # holds the path of a scratch file
    assert on_dask == here
    assert kept[0]["status"] == 0
    with pytest.raises(ToolchainError, match="no Dask scheduler answers"):
        _run(tmp_path / "nowhere", made, backend="dask", scheduler="tcp://127.0.0.1:1")


def test_this_file_runs_what_a_shell_would() -> None:
    """The stand-ins end as sh does here; a missing sh would make every test above pass for a wrong reason."""
    assert subprocess.run(["/bin/sh", "-c", "exit 7"]).returncode == 7
