"""The command line's habits: quick help, one-line errors, exit statuses, whole result files."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
import typer

from ovonic import __main__ as cli
from ovonic.commands import common
from ovonic.models.errors import ConfigError, DataError


def _ovonic(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ovonic", *arguments], capture_output=True, text=True, timeout=120)


def _one_line(error: str) -> str:
    assert error.endswith("\n")
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    return error.strip()


def test_version_and_help() -> None:
    assert _ovonic("--version").stdout == "ovonic 0.1.0\n"
    help_text = _ovonic("--help")
    assert help_text.returncode == 0
    for command in ("doctor", "fewshot", "reproduce", "weights"):
        assert command in help_text.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["fewshot", "--help"], ["doctor", "--help"], ["--version"], []])
def test_help_imports_neither_torch_nor_numpy(arguments: Sequence[str]) -> None:
    program = (
        "import sys; from ovonic.__main__ import main\n"
        "status = main(sys.argv[1:])\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'PIL', 'safetensors'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == (0 if arguments else 2)
    assert "AssertionError" not in done.stderr
    assert done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["doctr"], "Did you mean 'doctor'?"),
        (["doctor", "--jsn", "x"], "No such option: --jsn. Did you mean '--json'? (ovonic doctor --help)"),
        (["doctor", "--zzzz"], "No such option: --zzzz. (ovonic doctor --help)"),
        (["doctor", "--timeout", "soon"], "'--timeout'"),
        (["doctor", "--json"], "--json"),
        (["doctor", "snntorc"], "did you mean 'snntorch'?"),
        (["weights", "lst"], "Did you mean 'list'?"),
        (["fewshot", "evaluate", "--weights", "no-such-weights"], "no-such-weights: neither a file nor"),
    ],
)
def test_bad_usage_is_one_line_and_2(
    arguments: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert message in _one_line(captured.err)
    assert not captured.out


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (DataError("photo.png: not an image\nsecond line"), 2, "error: photo.png: not an image second line"),
        (ConfigError("shots 0"), 2, "error: shots 0"),
        (FileNotFoundError(2, "No such file or directory", "a/b"), 2, "error: a/b: No such file or directory"),
        (PermissionError(13, "Permission denied", "a/b"), 2, "error: a/b: Permission denied"),
        (KeyboardInterrupt("checkpoint kept in runs/a"), 130, "interrupted: checkpoint kept in runs/a"),
        (KeyboardInterrupt(), 130, "interrupted: what was finished is kept"),
        (ZeroDivisionError("division by zero"), 1, "error: a defect of Ovonic: ZeroDivisionError: division by zero"),
        (typer.Exit(3), 3, None),
    ],
)
def test_every_failure_is_one_line(
    error: BaseException,
    status: int,
    line: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    app = typer.Typer(cls=cli._Group)

    @app.command()
    def fail() -> None:
        raise error

    @app.command()
    def other() -> None:
        pass

    monkeypatch.setattr(cli, "app", app)
    assert cli.main(["fail"]) == status
    written = capsys.readouterr().err
    assert line is None or _one_line(written).startswith(line)


def test_a_defect_shows_its_traceback_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer(cls=cli._Group)
    app.command()(lambda: 1 / 0)
    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setenv("OVONIC_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        cli.main([])


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_ends_with_130(tmp_path: Path) -> None:
    program = (
        "import pathlib, signal, sys, time, ovonic.__main__ as cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background shell starts its jobs without
        "@cli.app.command()\n"
        "def wait(ready: pathlib.Path):\n  ready.touch(); time.sleep(60)\n"
        "sys.exit(cli.main(['wait', sys.argv[1]]))"
    )
    ready = tmp_path / "ready"
    with subprocess.Popen([sys.executable, "-c", program, str(ready)], stderr=subprocess.PIPE, text=True) as process:
        for _ in range(600):
            if ready.exists():
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert _one_line(error).startswith("interrupted: ")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_the_first_ctrl_c_asks_and_the_second_stops() -> None:
    before = signal.getsignal(signal.SIGINT)
    with common.interruptible() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
@pytest.mark.parametrize("arguments", [["--help"], ["weights", "list"], ["weights", "list", "--json", "-"]])
def test_a_reader_that_leaves_is_no_traceback(arguments: Sequence[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "ovonic", *arguments], stdout=write, stderr=subprocess.PIPE, text=True, timeout=120
    )
    os.close(write)
    assert done.returncode == 1
    assert not done.stderr


def test_weights_list_writes_the_same_to_a_file_and_to_standard_output(tmp_path: Path) -> None:
    to_file = _ovonic("weights", "list", "--json", str(tmp_path / "w.json"))
    printed = _ovonic("weights", "list", "--json", "-")
    assert to_file.returncode == printed.returncode == 0
    assert "size" in to_file.stdout
    result = json.loads(printed.stdout)
    assert result == json.loads((tmp_path / "w.json").read_text())
    row = {"name", "kind", "norm", "precision", "trained_on", "size", "card"}
    schema = {
        "type": "object",
        "required": ["schema", "versions", "config", "weights"],
        "properties": {
            "schema": {"const": "ovonic/weights-list/1"},
            "versions": {"required": ["ovonic", "python", "torch", "numpy"]},
            "weights": {"items": {"required": sorted(row), "maxProperties": len(row)}},
        },
    }
    jsonschema.validate(result, schema)


def test_a_result_file_in_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = _ovonic("weights", "list", "--json", str(tmp_path / "file" / "w.json"))
    assert done.returncode == 2
    assert str(tmp_path / "file") in _one_line(done.stderr)


@dataclasses.dataclass
class _Config:
    folder: Path
    rates: tuple[float, ...]


def test_write_json_turns_everything_into_json(tmp_path: Path) -> None:
    result = {
        "accuracy": np.float32(0.5),
        "per_update": torch.tensor([0.25, 0.5]),
        "counts": np.array([[1, 2]]),
        "worst": float("nan"),
        "best": np.float64("inf"),
        5: [np.int64(3), {"a": (1, None, True)}],
    }
    common.write_json(tmp_path / "r.json", "test", result, {"spec": _Config(Path("a"), (0.5, 1.0))}, {"ovonic": "1"})
    assert json.loads((tmp_path / "r.json").read_text()) == {
        "schema": "ovonic/test/1",
        "versions": {"ovonic": "1"},
        "config": {"spec": {"folder": "a", "rates": [0.5, 1.0]}},
        "accuracy": 0.5,
        "per_update": [0.25, 0.5],
        "counts": [[1, 2]],
        "worst": None,
        "best": None,
        "5": [3, {"a": [1, None, True]}],
    }


def test_versions_name_what_is_used() -> None:
    found = common.versions("typer", "no-such-distribution")
    assert found.keys() == {"ovonic", "python", "torch", "numpy", "typer", "no-such-distribution"}
    assert found["no-such-distribution"] == "absent"
    assert found["numpy"] == np.__version__


@pytest.mark.parametrize("name", ["gpu", "cpu:1", "cuda:", "cuda:x", "cuda:99", "meta", ""])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    if name == "cuda:" and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ConfigError, match=f"--device {name}"):
        common.parse_device(name)
    assert common.parse_device("cpu") == torch.device("cpu")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", _Terminal())
    with common.progress("training", 4, done=1) as advance:
        advance(loss=0.123456, phase="warm")
        advance(2)
    assert "training" in sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "loss 0.1235  phase warm" in sys.stderr.getvalue()  # type: ignore[attr-defined]


def test_progress_is_a_line_now_and_then_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 10.0, 40.0, 41.0, 80.0])
    monkeypatch.setattr(common.time, "monotonic", lambda: next(clock))
    with common.progress("training", 10, done=2) as advance:
        for _ in range(4):
            advance(loss=0.5)
    assert capsys.readouterr().err.splitlines() == [
        "training: 4/10, about 0:02:00 left  loss 0.5",
        "training: 6/10, about 0:01:20 left  loss 0.5",
    ]


def test_quiet_progress_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", _Terminal())
    with common.progress("training", 2, quiet=True) as advance:
        advance(loss=1.0)
    assert not sys.stderr.getvalue()  # type: ignore[attr-defined]
