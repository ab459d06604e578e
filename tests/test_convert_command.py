"""``ovonic convert`` as a user meets it: what goes in, what comes out bit for bit, what is said, what is refused."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import typer

from ovonic import __main__ as cli
from ovonic.adapters.losses import CONSENTS, approximate_for, unsupported_by
from ovonic.adapters.nir import load_nir, load_pair, save_nir
from ovonic.adapters.nir_forms import FORMS
from ovonic.adapters.weights_robot import save_robot
from ovonic.commands import convert as command
from ovonic.models.dynamics import (
    Adaptation,
    Comparison,
    Dynamics,
    Refractory,
    ResetToValue,
    SubtractAdapted,
    SubtractThreshold,
)
from ovonic.models.errors import ConfigError, UnsupportedDynamics
from ovonic.models.layers import Input, Linear, Readout, Recurrence, Spiking
from ovonic.models.natural_eprop import InnerLoop
from ovonic.models.natural_eprop_networks import NaturalEPropConfig, initial_pair
from ovonic.models.network import Edge, Network

SMALL = NaturalEPropConfig(trainee=4, lsg_lif=3, lsg_alif=2)
CODE = {"low_m": [-1.0, -1.0, -0.6415], "span_m": 2.0, "bits": 16, "wraps": False}
EXACT = Dynamics(0.5, 1.0, reset=ResetToValue(0.0))
"""Dynamics that every reader of NIR can say."""

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run ``ovonic convert`` in an empty folder, errors and all."""
    app = typer.Typer(cls=cli._Group)
    app.command("convert")(command.convert)
    app.callback()(lambda: None)
    monkeypatch.setattr(cli, "app", app)
    monkeypatch.chdir(tmp_path)
    return lambda line: cli.main(["convert", *shlex.split(line)])


def network(dynamics: Dynamics = EXACT, recurrence: Recurrence | None = None) -> Network:
    rng = np.random.default_rng(0)
    layers = {"x": Input((2,)), "w": Linear(rng.normal(size=(2, 3))), "h": Spiking(dynamics, recurrence)}
    return Network.stack(layers)


def stranger(path: Path, net: Network) -> None:
    """A NIR file without Ovonic's contract."""
    save_nir(path, net)
    graph = nir.read(path)
    graph.metadata = {}
    nir.write(path, graph)


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    """The report by its labels."""
    lines: dict[str, list[str]] = {}
    for line in capsys.readouterr().out.splitlines():
        lines.setdefault(line[:8].strip(), []).append(line[8:])
    return lines


def test_a_nir_file_with_the_contract_comes_back(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_nir("a.nir", network(Dynamics(0.9, 0.7, refractory=Refractory(3)), Recurrence(np.eye(3), 2, True)))
    assert run("a.nir b.nir --json b.json") == 0
    assert load_nir("b.nir") == load_nir("a.nir")
    report = said(capsys)
    assert report["read"] == ["a.nir: NIR file, by its contract"]
    assert report["mended"] == report["lost"] == ["nothing"]
    assert report["checked"] == ["b.nir, read back, equals what was written"]
    result = json.loads((tmp_path / "b.json").read_text())
    assert result["schema"] == "ovonic/convert/1"
    assert result["read_back_equal"] is True
    assert result["networks"]["network"]["neurons"] == {"h": 3}


def test_a_stranger_is_read_under_what_is_told_and_mended_aloud(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger(tmp_path / "a.nir", network())
    for missing in ("", "--convention nir-exact"):
        assert run(f"a.nir b.nir {missing}") == 2
    error = capsys.readouterr().err
    assert "--convention" in error
    assert "--dt" in error
    assert not (tmp_path / "b.nir").exists()
    graph = nir.read("a.nir")
    graph.edges += [graph.edges[0]]
    nir.write("a.nir", graph)
    assert run("a.nir b.nir --convention nir-exact --dt 1") == 0
    report = said(capsys)
    assert report["read"] == ["a.nir: NIR file, by convention nir-exact, dt 1 ms"]
    assert len(report["mended"]) == 1
    assert "edge" in report["mended"][0]
    found = load_nir("b.nir").layers["h"]
    assert isinstance(found, Spiking)
    assert found.dynamics.decay == pytest.approx(0.5)
    assert found.dynamics.reset == ResetToValue(0.0)


def test_a_robots_networks_go_together_or_alone(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    pair = initial_pair(SMALL, 1)
    save_robot("r.safetensors", SMALL, pair, InnerLoop(), CODE, {})
    assert run("r.safetensors both.nir") == 0
    assert run("r.safetensors lsg.nir --part lsg") == 0
    assert run("both.nir again.nir --part trainee") == 0
    written = load_pair("both.nir")
    assert (written.lsg, written.trainee) == (load_nir("lsg.nir"), load_nir("again.nir"))
    weights = written.trainee.weights()
    for name, array in pair.trainee.weights().items():
        np.testing.assert_array_equal(weights[name], np.float32(array))
    capsys.readouterr()
    for line in ("both.nir x.nir --to nir-exact", "both.nir x.nir --part teacher", "lsg.nir x.nir --part lsg"):
        assert run(line) == 2
        assert "--part" in capsys.readouterr().err


def test_fewshot_weights_are_refused_by_name(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fewshot-32bit x.nir") == 2
    assert "FewshotCNN, norm" in capsys.readouterr().err
    assert not (tmp_path / "x.nir").exists()


def test_losses_are_named_and_only_those(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    lossy = Dynamics(0.5, 1.0, refractory=Refractory(2), reset=SubtractThreshold())
    save_nir("a.nir", network(lossy))
    assert run("a.nir b.nir --to nir-exact") == 2
    assert "Dynamics.refractory" in (error := capsys.readouterr().err)
    assert "Dynamics.reset" in error
    assert run("a.nir b.nir --to nir-exact --lossy reset") == 2
    error = capsys.readouterr().err
    assert "Dynamics.refractory" in error
    assert "Dynamics.reset" not in error
    assert run("a.nir b.nir --to nir-exact --lossy reset,refractory") == 0
    assert [line.split(":")[0] for line in sorted(said(capsys)["lost"])] == [
        "layer 'h', Dynamics.refractory",
        "layer 'h', Dynamics.reset",
    ]
    assert load_nir("b.nir") == network()
    assert run("a.nir c.nir --to nir-exact --lossy resets") == 2
    assert "did you mean 'reset'?" in capsys.readouterr().err


def test_a_network_that_is_all_said_loses_nothing(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    save_nir("a.nir", network(recurrence=Recurrence(np.ones((3, 3)))))
    for form in ("nir-exact", "snntorch-1.0"):
        assert run(f"a.nir {form}.nir --to {form} --lossy reset") == 0
        assert said(capsys)["lost"] == ["nothing"]
        assert load_nir(f"{form}.nir") == load_nir("a.nir")


BAD = {
    "a.nir a.nir": "--force",
    "a.nir b.txt": ".nir",
    "a.nir folder.nir": "a folder",
    "missing.nir b.nir": "missing.nir: No such file",
    "missing b.nir": "neither a file nor shipped weights",
    "user.py b.nir": "user.py:NAME",
    "a.nir b.nir --to nir-exct": "did you mean 'nir-exact'?",
    "a.nir b.nir --input-shape 3": "--input-shape: a NIR file leaves nothing open there",
    "a.nir b.nir --convention nir-exact": "leave convention out",
    "user.py:net b.nir --dt 1": "--dt: a Network leaves nothing open there",
    "user.py:net b.nir --input-shape 0": "--input-shape 0: give whole numbers",
    "user.py:nets b.nir": "defines no 'nets': did you mean 'net'?",
    "user.py:Plain b.nir": "the class Plain: give an instance",
    "user.py:number b.nir": "int, where",
    "user.py:linear b.nir": "no neurons of snnTorch or Norse",
    "broken.py:net b.nir": "raised, in line 2, ZeroDivisionError",
    "syntax.py:net b.nir": "raised, in line 1, SyntaxError",
    "leaves.py:net b.nir": "raised, in line 1, SystemExit: 3",
}

USER = """
import numpy as np
from dataclasses import dataclass
from torch import nn
from ovonic.models.layers import Input, Linear
from ovonic.models.network import Network
@dataclass
class Plain:
    x: int = 0
number, linear = 3, nn.Linear(2, 2)
net = Network.stack({"x": Input((2,)), "w": Linear(np.eye(2))})
print("chatter")
"""


@pytest.mark.parametrize("line", BAD)
def test_bad_input_costs_one_line_and_no_file(
    line: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_nir("a.nir", network())
    before = (tmp_path / "a.nir").read_bytes()
    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "broken.py").write_text("x = 0\n1 / x\n")
    (tmp_path / "syntax.py").write_text("def")
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)")
    (tmp_path / "folder.nir").mkdir()
    assert run(line) == 2
    captured = capsys.readouterr()
    (last,) = [text for text in captured.err.splitlines() if text != "chatter"]
    assert last.startswith("error: ")
    assert BAD[line] in last
    assert captured.out == ""
    assert (tmp_path / "a.nir").read_bytes() == before
    assert not (tmp_path / "b.nir").exists()


def test_a_users_file_is_run_quietly(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "user.py").write_text(USER)
    assert run("user.py:net b.nir --json -") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["source"]["kind"] == "Network"
    assert "chatter" in captured.err
    assert load_nir("b.nir").weights()["w.weight"].tolist() == [[1, 0], [0, 1]]
    assert run("user.py:net b.nir --force --quiet") == 0
    assert capsys.readouterr().out == ""


def test_another_network_read_back_fails(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_nir("a.nir", network())
    other = network(EXACT.replace(threshold=2.0))
    monkeypatch.setattr(command, "_write", lambda path, networks, form: save_nir(path, other))
    assert run("a.nir b.nir --json b.json") == 1
    captured = capsys.readouterr()
    assert "DIFFERS" in captured.out
    assert "another network" in captured.err
    assert json.loads(Path("b.json").read_text())["read_back_equal"] is False


TOOLS = {
    "snntorch": """
import snntorch as snn
from torch import nn
net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), snn.Leaky(beta=0.5, reset_mechanism="zero", reset_delay=False))
head = nn.Sequential(nn.Linear(4, 3), snn.Leaky(beta=0.5), nn.Linear(3, 2), snn.Leaky(beta=0.5, reset_mechanism="none"))
""",
    "norse": """
import norse.torch as norse
from torch import nn
net = norse.SequentialState(nn.Linear(4, 3), norse.LIFBoxCell(dt=0.002))
""",
    "brian2": """
from brian2 import *
dt = 0.5*ms
tau = 10*ms
g = NeuronGroup(3, "dv/dt = -v/tau : 1", threshold="v > 1", reset="v = 0", method="exact", name="g", dt=dt)
p = SpikeGeneratorGroup(2, [], []*ms, name="p", dt=dt)
s = Synapses(p, g, "w : 1", on_pre="v_post += w", name="s", dt=dt)
s.connect()
s.w = 0.5
net = Network(g, p, s)
""",
}


def _user_file(folder: Path, tool: str) -> None:
    pytest.importorskip(tool, reason=f"needs {tool}")
    (folder / "user.py").write_text(TOOLS[tool])


@pytest.mark.toolchain
def test_from_snntorch(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _user_file(tmp_path, "snntorch")
    assert run("user.py:net a.nir --input-shape 1,4 --dt 0.1") == 0
    found = load_nir("a.nir")
    assert (found.shapes[found.inputs[0]], found.dt_ms) == ((1, 4), 0.1)
    assert [type(layer).__name__ for layer in found.layers.values()] == ["Input", "Flatten", "Linear", "Spiking"]
    assert run("user.py:head b.nir --readouts 3") == 0
    assert load_nir("b.nir").readouts == ("3",)
    capsys.readouterr()
    assert run("user.py:head c.nir --convention nir-exact") == 2
    assert "--convention: a snnTorch module leaves nothing open there" in capsys.readouterr().err


@pytest.mark.toolchain
def test_from_norse(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _user_file(tmp_path, "norse")
    assert run("user.py:net a.nir") == 0
    found = load_nir("a.nir")
    layer = found.layers[found.spiking[0]]
    assert isinstance(layer, Spiking)
    assert found.dt_ms == 2.0
    assert layer.dynamics.decay == pytest.approx(0.8)
    assert said(capsys)["read"][0].startswith("user.py:net: Norse module")


@pytest.mark.toolchain
def test_from_brian2(run: Run, tmp_path: Path) -> None:
    """The file's own names, such as tau, are those of its equations."""
    _user_file(tmp_path, "brian2")
    assert run("user.py:net a.nir") == 0
    found = load_nir("a.nir")
    layer = found.layers["g"]
    assert isinstance(layer, Spiking)
    assert found.dt_ms == 0.5
    assert layer.dynamics.decay == pytest.approx(np.exp(-0.05))


# ------------------------------------------------------------------------------------------------ adapters.losses

ODD = Dynamics(
    0.5,
    1.0,
    rest=0.25,
    v_init=0.5,
    comparison=Comparison.GREATER_EQUAL,
    reset=SubtractAdapted(),
    refractory=Refractory(2, frozen=True),
    adaptation=Adaptation(0.5, 0.5),
)


@pytest.mark.parametrize("form", [name for name in FORMS if name])
def test_nothing_is_given_up_without_its_word(form: str) -> None:
    odd = network(ODD, Recurrence(np.ones((3, 3)), 2))
    words = {found.consent for found in unsupported_by(form, odd) if found.instead is not None}
    assert {"adaptation", "comparison", "refractory", "reset", "v_init"} <= words
    assert words <= set(CONSENTS)
    for word in words:
        with pytest.raises(UnsupportedDynamics, match=word):
            approximate_for(form, odd, set(CONSENTS) - {word})


ALONE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "adaptation": (
        {"adaptation": Adaptation(0.5, 0.5), "reset": ResetToValue(0.0)},
        {"adaptation": None},
    ),
    "refractory": ({"refractory": Refractory(2, frozen=True)}, {"refractory": Refractory()}),
    "comparison": ({"comparison": Comparison.GREATER_EQUAL}, {"comparison": Comparison.GREATER}),
    "reset": ({"reset": SubtractThreshold()}, {"reset": ResetToValue(0.0)}),
    "v_init": ({"v_init": 0.25}, {"v_init": 0.0}),
}


@pytest.mark.parametrize("word", ALONE)
@pytest.mark.parametrize("form", ["nir-exact", "snntorch-1.0"])
def test_a_word_gives_up_its_feature_alone(form: str, word: str) -> None:
    odd, plain = (network(EXACT.replace(**changes)) for changes in ALONE[word])
    changed, losses = approximate_for(form, odd, {word})
    assert changed == plain
    assert len(losses) == 1


def test_adapted_thresholds_are_no_longer_subtracted() -> None:
    adapting = network(EXACT.replace(adaptation=Adaptation(0.5, 0.5), reset=SubtractAdapted()))
    changed, losses = approximate_for("nir-exact", adapting, {"adaptation", "reset"})
    assert changed == network()
    assert len(losses) == 2


def test_a_read_out_starts_where_it_rests_and_gives_up_nothing_else() -> None:
    odd = Network.stack({"x": Input((2,)), "w": Linear(np.eye(2)), "out": Readout(0.5, 0.5, rest=0.25, v_init=1.0)})
    changed, (loss,) = approximate_for("nir-exact", odd, {"v_init"})
    assert changed == odd.replace(layers=dict(odd.layers) | {"out": Readout(0.5, 0.5, rest=0.25, v_init=0.25)})
    assert "starts where it rests" in loss


def test_what_has_no_nearest_layer_is_refused_whatever_is_given_up() -> None:
    late = network().replace(edges=(Edge("x", "w"), Edge("w", "h", 2)))
    with pytest.raises(UnsupportedDynamics, match=r"Edge\.delay"):
        approximate_for("snntorch-1.0", late, CONSENTS)
    low = network(Dynamics(0.5, -0.5, rest=-1.0, v_init=-1.0))
    with pytest.raises(UnsupportedDynamics, match=r"Dynamics\.reset"):
        approximate_for("nir-exact", low, CONSENTS)


def test_a_mistyped_form_or_word_is_an_error() -> None:
    form: Any = "nir-exakt"
    with pytest.raises(ConfigError, match="did you mean 'nir-exact'"):
        approximate_for(form, network(), ())
    with pytest.raises(ConfigError, match="did you mean 'refractory'"):
        approximate_for("nir-exact", network(), {"refractoriness"})
