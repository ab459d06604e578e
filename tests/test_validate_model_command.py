"""``ovonic validate model`` as a user meets it: each kind of source end to end, a wrong description, bad input."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ovonic.__main__ import main
from ovonic.adapters.nir import load_nir, save_nir
from ovonic.models.dynamics import Dynamics, ResetToValue, SubtractThreshold
from ovonic.models.layers import Input, Linear, Spiking
from ovonic.models.network import Network
from ovonic.validation.report import look_up

SNN = """
import torch
from torch import nn
import snntorch as snn

torch.manual_seed(0)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 12)
        self.hidden = snn.RLeaky(beta=0.9, linear_features=12)
        self.fc_out = nn.Linear(12, 3)
        self.out = snn.Leaky(beta=0.8, reset_mechanism="none")
        with torch.no_grad():
            self.fc.weight.mul_(3)

    def after(self, t, spikes, membrane):
        return membrane

    def forward(self, x):
        spikes, membrane = self.hidden.reset_mem()
        out, made = self.out.reset_mem(), []
        for t, now in enumerate(x.unbind(1)):
            spikes, membrane = self.hidden(self.fc(now), spikes, membrane)
            membrane = self.after(t, spikes, membrane)
            _, out = self.out(self.fc_out(spikes), out)
            made.append(out)
        return torch.stack(made, 1)

class Late(Net):
    def after(self, t, spikes, membrane):
        return membrane * (1 - spikes) if t >= 15 else membrane

class Scaled(Net):
    def after(self, t, spikes, membrane):
        return 0.5 * membrane

class Mean(Net):
    def forward(self, x):
        return super().forward(x).mean(1)

class MeanScaled(Mean, Scaled):
    pass

net, late, scaled, unlike = Net(), Late(), MeanScaled(), 3
two = nn.Sequential(nn.Linear(6, 8), snn.Leaky(beta=0.9, threshold=0.2, init_hidden=True), nn.Linear(8, 4),
                    snn.Leaky(beta=0.9, threshold=0.1, init_hidden=True))
"""
NORSE = """
import norse.torch as n
import torch
from torch import nn

torch.manual_seed(0)
net = n.SequentialState(n.LIFRecurrentCell(6, 10), nn.Linear(10, 3), n.LICell())
with torch.no_grad():
    net[0].input_weights.mul_(40)
"""
TORCH = """
import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 3)).eval()
conv = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 4 * 4, 3)).eval()
gru = nn.Sequential(nn.GRU(6, 3))
"""
OWN = """
import numpy as np
from ovonic.models.dynamics import Dynamics
from ovonic.models.layers import Input, Linear, Spiking
from ovonic.models.network import Network

net = Network.stack({"x": Input((6,)), "w": Linear(np.ones((6, 12))), "h": Spiking(Dynamics(0.9, 1.0))})
"""
FAST = ["--chips", "2", "--samples", "3", "--steps", "40", "--references", "written-out,autograd", "--quiet"]

Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in a folder with the sources above; its status and its report."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("snn", SNN), ("norses", NORSE), ("plain", TORCH)):
        (tmp_path / f"{name}.py").write_text(text)
    rng = np.random.default_rng(0)
    x = (rng.random((5, 30, 6)) < 0.3).astype(float)
    np.savez("labelled.npz", inputs=x, labels=rng.integers(0, 3, 5))
    np.savez("aimed.npz", inputs=x, targets=rng.normal(size=(5, 30, 3)))
    np.savez("still.npz", inputs=rng.random((5, 6)), targets=rng.normal(size=(5, 3)))

    def command(*args: str, fast: bool = True) -> tuple[int, dict[str, Any]]:
        status = main(["validate", "model", *args, *(FAST if fast else [])])
        report = tmp_path / "ovonic-model" / "report.json"
        return status, json.loads(report.read_text()) if report.is_file() else {}

    return command


def network(reset: Any = SubtractThreshold()) -> Network:  # noqa: B008
    rng = np.random.default_rng(1)
    weights = Linear(rng.normal(0.3, 0.5, (6, 12)))
    return Network.stack({"x": Input((6,)), "w": weights, "h": Spiking(Dynamics(0.9, 1.0, reset=reset))})


def demand_numbers_of_json(folder: Path, report: dict[str, Any]) -> int:
    """Every number of the page with a place stands in the JSON there; how many there are."""
    page = (folder / "report.html").read_text()
    found = re.findall(r'<data value="([^"]*)" data-path="([^"]*)"', page)
    for value, path in found:
        there = look_up(report, html.unescape(path))
        assert float(value) == there, path
    assert not re.search(r'(src|href)="(?!data:|#|https://doi\.org/)', page)
    return len(found)


@pytest.mark.toolchain
def test_a_snntorch_file(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("snntorch", reason="needs snnTorch: pip install 'ovonic[snntorch]'")
    args = ["--readouts", "out", "--data", "labelled.npz", "--toolchains", "snntorch", "--json", "all.json"]
    status, report = run("snn.py:net", *args)
    assert status == 0
    assert report["schema"] == "ovonic/validate-model/1"
    assert json.loads(Path("all.json").read_text())["dynamics"] == report["dynamics"]
    dynamics, native = report["dynamics"], report["dynamics"]["native"]
    assert dynamics["counts"] == {"identical": 3, "different": 0, "undecidable": 0}
    assert native["verdict"] == "identical"
    assert native["equal_samples"] == native["samples"] == 5
    assert native["spikes"][0]["ours"] == native["spikes"][0]["theirs"] > 100
    assert [row["agrees"] for row in report["gradients"]["references"]] == [True, True]
    assert report["gradients"]["worst"] < 1e-13
    assert 0 < report["gradients"]["bptt"]["cosine"] <= 1
    conditions = report["hardware"]["conditions"]
    assert [c["read_time_s"] for c in conditions] == [0, 86400]
    assert [weight["name"] for weight in conditions[0]["weights"]] == [
        "fc.weight",
        "hidden.recurrence",
        "fc_out.weight",
    ]
    fresh, old = (c["weights"][0]["error"]["mean"] for c in conditions)
    assert 0.005 < fresh < old
    from ovonic.commands.convert_sources import defined

    module = defined(Path("snn.py"), "net").net
    held = np.load("labelled.npz")
    with torch.no_grad():
        classes = module(torch.from_numpy(held["inputs"]).float()).mean(1).argmax(1).numpy()
    assert conditions[0]["accuracy"]["software"]["mean"] == np.mean(classes == held["labels"])
    described = load_nir("ovonic-model/network.nir")
    assert described.readouts == ("out",)
    assert np.array_equal(np.load("ovonic-model/inputs.npz")["input"], held["inputs"][:2])
    assert demand_numbers_of_json(tmp_path / "ovonic-model", report) > 60
    assert [claim["held"] for claim in report["claims"]] == [True, True, True]
    assert "your module beside its description: identical" in capsys.readouterr().out


@pytest.mark.toolchain
def test_a_norse_file(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("norse", reason="needs Norse: pip install 'ovonic[norse]'")
    status, report = run("norses.py:net", "--toolchains", "norse", "--read-time", "0", "--noise-model", "hermes")
    assert status == 0
    assert report["dynamics"]["native"]["identical"]
    assert report["dynamics"]["native"]["samples"] == 3
    assert report["data"]["random"]
    assert len(report["hardware"]["conditions"]) == 1
    assert "random spikes, seed 0" in (tmp_path / "ovonic-model" / "report.html").read_text()
    assert demand_numbers_of_json(tmp_path / "ovonic-model", report) > 50


@pytest.mark.toolchain
def test_a_nir_file_that_says_another_reset_than_the_module_has(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("snntorch", reason="needs snnTorch: pip install 'ovonic[snntorch]'")
    from ovonic.adapters.snntorch import from_snntorch
    from ovonic.commands.convert_sources import defined

    right = from_snntorch(defined(Path("snn.py"), "net").net, readouts=("out",))
    hidden: Any = right.layers["hidden"]
    wrong = hidden.replace(dynamics=hidden.dynamics.replace(reset=ResetToValue(0.0)))
    save_nir("right.nir", right)
    save_nir("wrong.nir", right.replace(layers=dict(right.layers) | {"hidden": wrong}))
    args = ["--module", "snn.py:net", "--data", "aimed.npz", "--toolchains", "snntorch", "--skip", "gradients,hardware"]
    status, report = run("right.nir", *args)
    assert status == 0
    assert report["dynamics"]["native"]["identical"]
    assert report["hardware"] == report["gradients"] == {"skipped": True}
    status, report = run("wrong.nir", *args)
    assert status == 1
    native = report["dynamics"]["native"]
    assert native["verdict"] == "different"
    assert native["beyond_rounding"] > 0
    assert any("reset kind" in line for line in native["diagnosis"])
    assert report["dynamics"]["silent_divergences"] == 0
    assert "FAILED    your own module" in capsys.readouterr().out


@pytest.mark.toolchain
def test_a_custom_reset_that_no_reader_saw(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("snntorch", reason="needs snnTorch: pip install 'ovonic[snntorch]'")
    args = ["--readouts", "out", "--data", "labelled.npz", "--toolchains", "snntorch", "--skip", "gradients,hardware"]
    status, report = run("snn.py:late", *args)
    assert status == 1
    native = report["dynamics"]["native"]
    assert native["verdict"] == "different"
    assert native["first_divergence"]["step"] > 15
    assert report["dynamics"]["counts"]["different"] == 0
    demand_numbers_of_json(tmp_path / "ovonic-model", report)


@pytest.mark.toolchain
def test_what_cannot_be_described_still_gets_its_hardware(run: Run) -> None:
    pytest.importorskip("snntorch", reason="needs snnTorch: pip install 'ovonic[snntorch]'")
    status, report = run("snn.py:scaled", "--readouts", "out", "--data", "labelled.npz", "--read-time", "0")
    assert status == 0
    for part in ("dynamics", "gradients"):
        assert "layer 'hidden': its mem in step 2" in report[part]["not_applicable"]
    assert "accuracy" in report["hardware"]["conditions"][0]


@pytest.mark.toolchain
def test_several_spiking_layers_have_no_eprop_and_a_report(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("snntorch", reason="needs snnTorch: pip install 'ovonic[snntorch]'")
    status, report = run("snn.py:two", "--data", "labelled.npz", "--toolchains", "snntorch", "--read-time", "0")
    assert status == 0
    assert "2 spiking layers" in report["gradients"]["not_applicable"]
    assert report["dynamics"]["native"]["identical"]
    assert report["hardware"]["decide"] == "spikes 3"
    assert "2 spiking layers" in (tmp_path / "ovonic-model" / "report.html").read_text()


def test_a_torch_file_and_its_weights_alone(run: Run, tmp_path: Path) -> None:
    args = ["--data", "still.npz", "--noise-model", "none,pcm", "--read-time", "0"]
    status, report = run("plain.py:net", *args)
    assert status == 0
    assert "no spiking neurons" in report["dynamics"]["not_applicable"]
    silent, noisy = report["hardware"]["conditions"]
    assert silent["outputs"][0]["error"]["mean"] < noisy["outputs"][0]["error"]["mean"]
    assert silent["weights"][0]["error"]["mean"] < 1e-6
    assert set(noisy["mse"]) >= {"hardware", "software", "difference", "ratio"}
    assert demand_numbers_of_json(tmp_path / "ovonic-model", report) > 30
    from ovonic.commands.convert_sources import defined

    module = defined(Path("plain.py"), "net").net
    torch.save(module.state_dict(), "plain.pt")
    status, alone = run("plain.pt", "--activation", "relu", *args)
    assert status == 0
    assert alone["hardware"]["conditions"] == report["hardware"]["conditions"]
    torch.save({name: 0.5 * w for name, w in module.state_dict().items()}, "other.pt")
    status, other = run("plain.py:net", "--weights", "other.pt", *args)
    assert other["hardware"]["conditions"][1]["mse"]["software"] != noisy["mse"]["software"]


def test_a_convolution_and_samples_of_its_shape(run: Run) -> None:
    status, report = run("plain.py:conv", "--input-shape", "1,6,6", "--read-time", "0")
    assert status == 0
    assert [layer["name"] for layer in report["hardware"]["layers"]] == ["0.weight", "2.weight"]
    assert report["data"]["samples"] == 3


def test_a_table_of_one_sample(run: Run) -> None:
    save_nir("net.nir", network())
    np.savetxt("one.csv", np.random.default_rng(2).random((25, 6)), delimiter=",", header="a,b,c,d,e,f")
    status, report = run(
        "net.nir", "--data", "one.csv", "--toolchains", "snntorch", "--skip", "dynamics", "--read-time", "0"
    )
    assert status == 0
    assert (report["data"]["samples"], report["data"]["steps"]) == (1, 25)
    assert any("learning signals are given" in line for line in report["gradients"]["conventions"])
    assert report["hardware"]["layers"][0]["inputs"] == "unsigned"


def test_the_same_seed_gives_the_same_report(run: Run) -> None:
    save_nir("net.nir", network())
    args = ["--toolchains", "snntorch", "--skip", "dynamics,gradients", "--read-time", "0"]
    first, again, other = (run("net.nir", *args, "--seed", seed)[1]["hardware"] for seed in ("1", "1", "2"))
    assert first == again
    assert first["conditions"] != other["conditions"]


def test_bad_input_gets_one_line(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    (Path.cwd() / "own.py").write_text(OWN)
    torch.save(nn.Linear(2, 2), "whole.pt")
    x = np.zeros((2, 9, 6))
    np.savez("wide.npz", inputs=np.zeros((2, 9, 7)))
    np.savez("classes.npz", inputs=x, labels=np.array([0, 12]))
    np.savez("targets.npz", inputs=x, targets=np.zeros((2, 9, 1)))
    np.savez("named.npz", **{"inputs.y": x})
    np.savez("nan.npz", inputs=np.full((2, 9, 6), np.nan))
    np.savez("flat.npz", inputs=np.zeros((2, 5)))
    for args, said in (
        (["none.nir"], "none.nir"),
        (["plain.py"], "say which object"),
        (["plain.py:nett"], "did you mean 'net'"),
        (["snn.py:unlike"] if _has("snntorch") else ["plain.py:nett"], "int" if _has("snntorch") else "net"),
        (["whole.pt"], "more than tensors is pickled"),
        (["own.py:net", "--data", "none.npz"], "none.npz"),
        (["own.py:net", "--data", "wide.npz"], "layer 'w' reads 6 values in a step: [samples, steps, 6]"),
        (["own.py:net", "--data", "classes.npz"], "label 12, where spiking layer 'h' has classes 0 to 11"),
        (["own.py:net", "--data", "targets.npz"], "0 read-outs"),
        (["own.py:net", "--data", "named.npz"], "'y' is no input: choose one of 'x'"),
        (["own.py:net", "--data", "nan.npz"], "nan at [0, 0, 0]"),
        (["plain.py:net", "--data", "flat.npz"], "layer '0' takes 6 inputs and gets (2, 5)"),
        (["plain.py:net", "--readouts", "out"], "--readouts"),
        (["plain.py:conv"], "give --input-shape"),
        (["plain.py:gru", "--input-shape", "6"], "GRU"),
        (["plain.py:net", "--activation", "relu"], "--activation"),
        (["plain.py:net", "--weights", "whole.pt"], "--weights"),
        (["own.py:net", "--weights", "whole.pt"], "which own.py:net is not"),
        (["net.nir", "--weights", "whole.pt"], "FILE.py:NAME"),
        (["net.nir", "--module", "plain.py"], "--module plain.py: give FILE.py:NAME"),
        (["own.py:net", "--toolchains", "brain2"], "did you mean 'brian2'"),
        (["own.py:net", "--references", "nets"], "did you mean 'nest'"),
        (["own.py:net", "--noise-model", "pmc"], "did you mean 'pcm'"),
        (["own.py:net", "--read-time", "soon"], "--read-time soon"),
        (["own.py:net", "--skip", "hardwear"], "did you mean 'hardware'"),
        (["own.py:net", "--skip", "dynamics,gradients,hardware"], "leaves nothing to do"),
        (["own.py:net", "--decide", "mean", "--data", "labelled.npz"], "the network has no read-outs"),
        (["own.py:net", "--decide", "men"], "did you mean 'mean'"),
        (["random", "--dt", "2"], "--dt"),
        (["fewshot-32bit"], "ovonic fewshot evaluate"),
    ):
        status, _ = run(*args, fast=False)
        error = capsys.readouterr().err.strip()
        assert status == 2, (args, error)
        assert said in error, (args, error)
        assert error.count("\n") == 0 or error.splitlines()[-1].startswith("error: "), error
    assert not Path("ovonic-model/report.html").exists()


def _has(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None
