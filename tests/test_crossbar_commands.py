"""``ovonic crossbar`` as a user meets it: each command run, what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ovonic import __main__ as cli
from ovonic.adapters.crossbar import Layout
from ovonic.adapters.crossbar_file import load_image
from ovonic.adapters.nir import load_nir, save_nir
from ovonic.commands.crossbar_common import parse_duration
from ovonic.models.errors import ConfigError
from ovonic.tasks.robot import resolve_robot

Run = Callable[..., int]


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with chips of both shipped networks, made by the commands themselves."""
    folder = tmp_path_factory.mktemp("chips")
    robot = f"crossbar program robot-q16 -q -o {folder}/robot.h5 --json {folder}/robot.json"
    few = f"crossbar program fewshot-32bit -q -o {folder}/few.h5 --noise-model hermes --verify 4 --tolerance 0.4 "
    assert cli.main(shlex.split(robot)) == 0
    assert cli.main(shlex.split(few + f"--json {folder}/few.json")) == 0
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run ``ovonic crossbar`` in an empty folder, errors and all."""
    monkeypatch.chdir(tmp_path)
    return lambda line: cli.main(["crossbar", *shlex.split(line)])


def result(path: Path | str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(Path(path).read_text())
    return loaded


def test_map_prints_the_papers_placements_and_writes_them(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("map robot-q16 --out robot.json --json r.json") == 0
    assert "255 x 252" in capsys.readouterr().out
    assert [a["cells_in_use"] for a in result("r.json")["arrays"]] == [255 * 252 - 5 * 2]
    assert result("r.json")["schema"] == "ovonic/crossbar-map/1"
    assert Layout.load(tmp_path / "robot.json").n_weights == 64_250
    assert run("map fewshot-32bit --json -") == 0
    cnn = json.loads(capsys.readouterr().out)
    assert len(cnn["arrays"]) == 2
    deep = {x["name"]: [b["in_stop"] - b["in_start"] for b in x["blocks"]] for x in cnn["layers"]}
    assert deep["convs.2.weight"] == [252, 252]
    assert run("map robot-q16 --part lsg --json l.json -q") == 0
    assert len(result("l.json")["arrays"]) == 20


def test_program_says_what_it_did_and_the_chip_holds_the_weights(chips: Path) -> None:
    robot, few = result(chips / "robot.json"), result(chips / "few.json")
    assert robot["schema"] == "ovonic/crossbar-program/1"
    assert robot["config"]["seed"] == 2025
    image = load_image(chips / "robot.h5")
    assert image.counters.as_dict() == robot["counters"]
    assert robot["counters"]["cells_programmed"] == 64_250 - 250, "the masked diagonal costs nothing"
    assert image.software is not None
    assert image.software.network == resolve_robot("robot-q16").pair.trainee
    errors = {layer["name"]: layer["programming_error"] for layer in robot["layers"]}
    assert 0.1 < errors["trainee.recurrence"] < 3
    assert few["verified"]
    assert few["counters"]["pulses"] > few["counters"]["devices_programmed"]
    assert all(layer["saturated"] == 0 for layer in few["layers"])
    assert load_image(chips / "few.h5").model.name == "hermes"


def test_the_same_seed_is_the_same_file(chips: Path, run: Run, tmp_path: Path) -> None:
    assert run("program robot-q16 -q -o a.h5") == 0
    assert run("program robot-q16 -q -o b.h5 --seed 1") == 0
    first, again, other = (load_image(p).states[0].g_prog for p in (chips / "robot.h5", "a.h5", "b.h5"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_inspect_prints_and_draws(chips: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"inspect {chips}/few.h5 --figure few.svg --json few.json") == 0
    said = capsys.readouterr()
    assert "hermes, 10.35 uS; split fill" in said.out
    assert "readout.weight" in said.out
    assert "few.svg: drawn" in said.err
    assert Path("few.svg").read_text().count("<path") > 10
    found = result("few.json")
    assert found["now_s"] == found["oldest_s"] == 0
    assert found["provenance"]["command"].startswith("ovonic")
    assert run(f"inspect {chips}/few.h5 --figure few.gif") == 2
    assert "figures are saved as" in capsys.readouterr().err


def test_drift_ages_the_chip_once_or_in_parts(chips: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"drift {chips}/robot.h5 --seconds 1month -o month.h5 --json m.json") == 0
    found = result("m.json")
    assert found["now_s"] == 30 * 86400
    left = {layer["name"]: layer["signal_left"] for layer in found["layers"]}
    assert 0.3 < left["trainee.recurrence"] < 0.8
    assert "30 d later" in capsys.readouterr().out
    assert run(f"drift {chips}/robot.h5 --seconds 1d -o day.h5 -q") == 0
    assert run("drift day.h5 --until 1month -o later.h5 -q --seed 5") == 0
    a, b = load_image("month.h5"), load_image("later.h5")
    assert a.now_s == b.now_s
    assert torch.equal(a.states[0].g_prog, b.states[0].g_prog)
    assert not torch.equal(a.states[0].g_read, b.states[0].g_read), "read noise is drawn at each read"
    assert b.provenance["before"]["before"]["source"] == "robot-q16"
    assert run("drift later.h5 --until 1d -o x.h5") == 2
    assert "clock shows 2.592e+06 s already" in capsys.readouterr().err


def test_export_and_import(chips: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cells.csv", "all.npz", "net.nir", "layout.json", "w.safetensors"):
        assert run(f"export {chips}/robot.h5 {name}") == 0
    read = load_nir("net.nir")
    asked = resolve_robot("robot-q16").pair.trainee
    difference = read.weights()["trainee.recurrence"] - asked.weights()["trainee.recurrence"]
    assert 0 < np.abs(difference - np.diag(np.diag(difference))).max() < 1
    assert read.layers["trainee"].dynamics == asked.layers["trainee"].dynamics  # type: ignore[attr-defined]
    assert run("import all.npz -o npz.h5 -q") == 0
    assert torch.equal(load_image("npz.h5").states[0].nu, load_image(chips / "robot.h5").states[0].nu)
    assert run("import cells.csv -o csv.h5 --layout layout.json --noise-model pcm -q") == 0
    old, new = (load_image(p).states[0].g_read for p in (chips / "robot.h5", "csv.h5"))
    masked = load_image("csv.h5").states[0].pulses == 1
    assert torch.equal(old[masked], new[masked])
    assert run(f"export {chips}/robot.h5 list.csv --programming --since {chips}/robot.h5") == 0
    assert "list.csv: 0 devices to program" in capsys.readouterr().err
    assert run(f"export {chips}/few.h5 few.nir") == 2
    assert "not a network" in capsys.readouterr().err
    assert run(f"export {chips}/few.h5 few.safetensors") == 0
    assert run("map few.safetensors --json m.json -q") == 0, "a file as any other weights"


def test_a_users_own_modules_and_networks(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("my.py").write_text(
        "import torch\n"
        "torch.manual_seed(0)\n"
        "net = torch.nn.Sequential(torch.nn.Linear(300, 20), torch.nn.ReLU(), torch.nn.Linear(20, 3))\n"
        "number = 3\n"
    )
    assert run("program my.py:net -o my.h5 --noise-model none --device-split equal") == 0
    said = capsys.readouterr().out
    assert "torch module Sequential on 2 arrays" in said
    assert "0.weight" in said
    assert run("export my.h5 my.safetensors -q") == 0
    from safetensors.torch import load_file

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(300, 20), torch.nn.ReLU(), torch.nn.Linear(20, 3))
    tensors = load_file("my.safetensors")
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(tensors[name], tensor, rtol=1e-5, atol=1e-7)
    save_nir("t.nir", resolve_robot("robot-q16").pair.trainee)
    assert run("map t.nir --rows 128 --columns 128 --scale column --out t.json -q") == 0
    assert run("program t.nir -o t.h5 --layout t.json --levels 16 --stuck-low 0.01 -q") == 0
    image = load_image("t.h5")
    assert image.faults.levels == 16
    share = (image.states[0].fault == 1).double().mean()
    assert 0.005 < share < 0.015


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("program robot-q17 -o a.h5", "did you mean 'robot-q16'"),
        ("program robot-q16", "Missing option '--out'"),
        ("program robot-q16 -o a.txt", "a.txt: is written as .h5 or .hdf5"),
        ("program robot-q16 -o folder", "folder: is written as"),
        ("program robot-q16 -o folder.h5", "folder.h5: a folder"),
        ("program robot-q16 -o there.h5", "there.h5: is there already: name another file, or overwrite it by --force"),
        ("program robot-q16 -o a.h5 --noise-model pmc", "--noise-model: device model 'pmc': did you mean 'pcm'"),
        ("program robot-q16 -o a.h5 --noise-model no.json", "no.json"),
        ("program robot-q16 -o a.h5 --noise-model text.json", "text.json: no JSON"),
        ("program robot-q16 -o a.h5 --device-split half", "split 'half'"),
        ("program robot-q16 -o a.h5 --tolerance 1", "means nothing without --verify N"),
        ("program robot-q16 -o a.h5 --verify 3 --tolerance -1", "tolerance_us -1.0: must be positive"),
        ("program robot-q16 -o a.h5 --read-phases 3", "read_phases 3"),
        ("program robot-q16 -o a.h5 --layout no.json", "--layout no.json: no such file"),
        ("program robot-q16 -o a.h5 --layout text.json", "text.json: not JSON"),
        ("program robot-q16 -o a.h5 --part lgs", "did you mean 'lsg'"),
        ("program fewshot-32bit -o a.h5 --part lsg", "--part lsg: fewshot-32bit is one network"),
        ("program my.py -o a.h5", "say which object of the file is the network"),
        ("program my.py:x -o a.h5", "int, where a torch module or an Ovonic Network is due"),
        ("program my.py:Net -o a.h5", "the class Net: give an instance of it"),
        ("program text.json -o a.h5", "text.json"),
        ("map robot-q16 --scale tile", "scale 'tile'"),
        ("map robot-q16 --part lsg --arrays 3", "arrays of 256 x 256 are needed, there are 3"),
        ("map robot-q16 --out a.txt", "a.txt: is written as .json"),
        ("inspect no.h5", "no.h5: No such file or directory"),
        ("inspect there.h5", "there.h5: no whole crossbar file"),
        ("drift there.h5 -o a.h5", "give one of --seconds and --until"),
        ("drift there.h5 -o a.h5 --seconds 1 --until 2", "give one of --seconds and --until"),
        ("drift there.h5 -o a.h5 --seconds 3parsec", "--seconds 3parsec: give seconds, or a number and one of"),
        ("export there.h5 a.xlsx", "a.xlsx: is written as .csv or"),
        ("export there.h5 a.npz --programming", "--programming: a.npz is no .csv"),
        ("export there.h5 a.csv --since b.h5", "means nothing without --programming"),
        ("import t.csv -o a.h5", "t.csv: a table says neither: add --layout FILE.json and --noise-model NAME"),
        ("import text.json -o a.h5", "text.json: an .npz or a .csv is due"),
        ("import t.npz -o a.h5", "t.npz: not a whole npz"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_2(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    Path("there.h5").write_bytes(b"not HDF5")
    Path("folder.h5").mkdir()
    Path("text.json").write_text("hello")
    Path("my.py").write_text("import torch\nx = 3\nclass Net(torch.nn.Module): pass\n")
    Path("t.csv").write_text("array,row\n")
    Path("t.npz").write_text("array,row\n")
    before = sorted(p.name for p in tmp_path.iterdir())
    assert run(line) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("error: ")
    assert message in said.err
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_force_overwrites_and_quiet_is_quiet(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Path("my.py").write_text("import torch\nnet = torch.nn.Linear(3, 2)\n")
    assert run("program my.py:net -o a.h5 -q") == 0
    before = Path("a.h5").read_bytes()
    assert run("program my.py:net -o a.h5 -q --seed 3 --force") == 0
    assert Path("a.h5").read_bytes() != before
    for line in ("inspect a.h5 -q", "drift a.h5 --seconds 1 -o b.h5 -q", "export a.h5 a.csv -q", "map my.py:net -q"):
        assert run(line) == 0
    said = capsys.readouterr()
    assert said.out == said.err == ""


def test_ctrl_c_leaves_what_was_there(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("my.py").write_text("import torch\nnet = torch.nn.Linear(3, 2)\n")
    assert run("program my.py:net -o a.h5 -q") == 0
    before = Path("a.h5").read_bytes()

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ovonic.models.chip.SimulatedChip.advance", interrupt)
    assert run("drift a.h5 --seconds 1d -o a.h5 --force") == 130
    assert Path("a.h5").read_bytes() == before
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3600", 3600), ("1.5h", 5400), ("1d", 86400), ("2 weeks", 1209600), ("1month", 2592000), ("1e-3 s", 1e-3),
     ("2 years", 63072000), ("5MIN", 300), ("0", 0)],
)  # fmt: skip
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration("--seconds", text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "d", "1x", "-1", "1.2.3", "nan", "1e999", "1 d 2"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ConfigError, match="--until"):
        parse_duration("--until", text)
