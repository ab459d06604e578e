"""``ovonic compare`` and ``ovonic validate dynamics``: their results, figures, and what bad input gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image

import ovonic
from ovonic.__main__ import main
from ovonic.adapters import toolchains
from ovonic.adapters.nir import save_nir, save_pair
from ovonic.adapters.toolchains import Unsupported
from ovonic.models.dynamics import ResetToValue
from ovonic.models.engine import run_fast
from ovonic.models.errors import ConfigError, ToolchainError, UnsupportedDynamics
from ovonic.models.layers import Spiking
from ovonic.models.natural_eprop_networks import NaturalEPropConfig, initial_pair
from ovonic.models.network import Network
from ovonic.validation import comparison
from ovonic.validation.comparison import compare, poisson_inputs
from ovonic.validation.random_networks import random_network, recurrent_example

NUMBER = {"type": ["number", "null"]}
SCHEMA = {
    "type": "object",
    "required": ["schema", "versions", "config", "pairs", "refused", "rates_hz", "silent"],
    "properties": {
        "schema": {"const": "ovonic/compare/1"},
        "versions": {"type": "object", "additionalProperties": {"type": "string"}},
        "refused": {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}},
        "silent": {"type": "boolean"},
        "pairs": {
            "type": "array",
            "minItems": 1,
            "items": {
                "required": ["a", "b", "identical", "verdict", "jaccard", "first_divergence", "max_dv", "margin"],
                "properties": {
                    "identical": {"type": "boolean"},
                    "verdict": {"enum": ["identical", "different", "undecidable"]},
                    "jaccard": NUMBER,
                    "max_dv": NUMBER,
                    "margin": NUMBER,
                    "first_divergence": {
                        "type": ["object", "null"],
                        "required": ["sample", "step", "layer", "neuron", "membranes", "threshold"],
                    },
                },
            },
        },
    },
}


class _Zeroing:
    """A toolchain that resets to zero whatever it is told, in silence."""

    @staticmethod
    def unsupported(network: Network) -> list[Unsupported]:
        return []

    @staticmethod
    def run(network: Network, inputs: Any) -> Any:
        layers = dict(network.layers)
        for name in network.spiking:
            layer = layers[name]
            assert isinstance(layer, Spiking)
            layers[name] = layer.replace(dynamics=layer.dynamics.replace(reset=ResetToValue(0.0)))
        return run_fast(network.replace(layers=layers), inputs)


class _Refusing:
    @staticmethod
    def unsupported(network: Network) -> list[Unsupported]:
        return [Unsupported("hidden", "Dynamics.refractory", "it knows none", "leave it out")]

    @staticmethod
    def run(network: Network, inputs: Any) -> Any:
        raise UnsupportedDynamics("refused")


class _Missing:
    @staticmethod
    def run(network: Network, inputs: Any) -> Any:
        raise ToolchainError("not installed: pip install it")


@pytest.fixture
def some_toolchains(monkeypatch: pytest.MonkeyPatch) -> None:
    """snntorch zeroes, norse refuses, nest is missing."""
    known = {"snntorch": _Zeroing, "norse": _Refusing, "nest": _Missing}
    for module in (comparison, __import__("ovonic.validation.conformance", fromlist=["adapter"]), toolchains):
        monkeypatch.setattr(module, "adapter", known.__getitem__)
    monkeypatch.setattr(comparison, "TOOLCHAINS", tuple(known))


@pytest.mark.usefixtures("some_toolchains")
def test_the_result_of_a_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A divergence, a refusal, a missing toolchain: all in the result, and the exit status is 0."""
    out, figures = tmp_path / "c.json", tmp_path / "figures"
    files = ["--json", str(out), "--figures", str(figures)]
    assert main(["compare", "random", "--steps", "150", "--seed", "3", "-q", *files]) == 0
    result = json.loads(out.read_text())
    jsonschema.validate(result, SCHEMA)
    pairs = {(pair["a"], pair["b"]): pair for pair in result["pairs"]}
    assert set(pairs) == {("ovonic", "engine"), ("ovonic", "snntorch"), ("engine", "snntorch")}
    same, other = pairs["ovonic", "engine"], pairs["ovonic", "snntorch"]
    assert (same["identical"], same["verdict"], same["jaccard"]) == (True, "identical", 1)
    assert same["first_divergence"] is None
    assert same["certified"]
    assert same["spike_distance"]["mean"] == 0
    assert (other["identical"], other["verdict"]) == (False, "different")
    assert other["jaccard"] < 1
    where = other["first_divergence"]
    assert where["layer"] == "hidden"
    assert set(where["membranes"]) == {"ovonic", "snntorch"}
    assert where["threshold"] == 0.6
    assert other["spike_distance"]["mean"] > 0
    assert other["diagnosis"][0].startswith("reset kind: layer 'hidden', ResetToValue 0 (same step)")
    assert result["refused"] == {"norse": ["layer 'hidden', Dynamics.refractory: it knows none; leave it out"]}
    assert result["unavailable"] == {"nest": "not installed: pip install it"}
    assert result["silent"] is False
    assert result["rates_hz"]["ovonic"]["hidden"] > 1
    assert {"torch", "snntorch", "nest-simulator"} <= set(result["versions"])
    for name in ("verdicts", "rasters", "membranes"):
        assert Image.open(figures / f"{name}.png").size[0] > 1000
    printed = capsys.readouterr().out
    assert "different" in printed
    assert "norse refused" in printed
    assert "reset kind" in printed


@pytest.mark.usefixtures("some_toolchains")
def test_a_missing_toolchain_that_was_named_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "random", "--steps", "20", "--toolchains", "nest", "-q"]) == 2
    assert "not installed" in capsys.readouterr().err


def test_a_silent_network_is_undecidable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "TOOLCHAINS", ())
    out = tmp_path / "c.json"
    assert main(["compare", "random", "--rate", "0", "--steps", "50", "--json", str(out), "-q"]) == 0
    result = json.loads(out.read_text())
    assert result["silent"] is True
    assert {pair["verdict"] for pair in result["pairs"]} == {"undecidable"}
    assert result["pairs"][0]["jaccard"] is None


def test_a_nir_file_and_inputs_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "TOOLCHAINS", ())
    network = recurrent_example(1)
    save_nir(tmp_path / "net.nir", network)
    x = (np.random.default_rng(0).random((3, 60, 20)) < 0.15).astype(np.uint8)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    results = []
    for file in ("x.npy", "x.npz"):
        out = tmp_path / "c.json"
        inputs = ["--inputs", str(tmp_path / file), "--dtype", "f32", "--json", str(out), "-q"]
        assert main(["compare", str(tmp_path / "net.nir"), *inputs]) == 0
        results.append(json.loads(out.read_text()))
    assert results[0]["pairs"] == results[1]["pairs"]
    assert results[0]["config"]["samples"] == 3
    assert results[0]["config"]["steps"] == 60
    assert results[0]["config"]["rate"] is None


def test_both_networks_of_a_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "TOOLCHAINS", ())
    config = NaturalEPropConfig(trainee=20, lsg_lif=14, lsg_alif=6)
    pair = initial_pair(config, 1)
    save_pair(tmp_path / "pair.nir", pair)
    for part, layer in (("lsg", "lsg"), ("trainee", "trainee")):
        out = tmp_path / f"{part}.json"
        file = str(tmp_path / "pair.nir")
        assert main(["compare", file, "--part", part, "--steps", "40", "--json", str(out), "-q"]) == 0
        assert list(json.loads(out.read_text())["rates_hz"]["ovonic"]) == [layer]


@pytest.mark.shared
def test_published_robot_weights(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "TOOLCHAINS", ())
    out = tmp_path / "c.json"
    file = str(shared / "published" / "robot_checkpoint.npz")
    assert main(["compare", file, "--steps", "100", "--rate", "0.2", "--json", str(out), "-q"]) == 0
    result = json.loads(out.read_text())
    assert list(result["rates_hz"]["ovonic"]) == ["trainee"]
    assert result["pairs"][0]["verdict"] == "identical"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["random", "--toolchains", "snntorh"], "did you mean 'snntorch'?"),
        (["random", "--toolchains", "nest,"], "--toolchains nest,"),
        (["random", "--dtype", "f16"], "choose f64 or f32"),
        (["random", "--part", "lsg"], "has no parts"),
        (["random", "--convention", "nir-exact"], "no NIR file"),
        (["random", "--inputs", "no-such.npy"], "no-such.npy"),
        (["no-such-network"], "no-such-network"),
        (["no-such.nir"], "no-such.nir"),
        (["random", "--part", "arm"], "choose lsg or trainee"),
        (["random", "--rate", "2"], "--rate"),
    ],
)
def test_bad_input_is_one_line_and_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *arguments, "-q"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((5, 19))}, "where [samples,] steps"),
        ({"x": np.full((5, 20), np.nan)}, "finite"),
        ({"y": np.zeros((5, 20))}, "the network's inputs are ['x']"),
        ({"x": np.zeros((0, 20))}, "finite"),
        ({"x": np.array([["a"] * 20])}, "not numbers"),
        ({"x": np.array([[{}] * 20])}, "not numbers"),
    ],
)
def test_inputs_that_do_not_fit(
    arrays: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.npz"
    np.savez(file, **arrays)
    assert main(["compare", "random", "--inputs", str(file), "-q"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "bad.npz" in error


@pytest.mark.usefixtures("some_toolchains")
def test_from_python() -> None:
    found = ovonic.compare(recurrent_example(), ["snntorch"], steps=80, seed=1)
    assert set(found.traces) == {"ovonic", "engine", "snntorch"}
    assert found.report()["pairs"][1]["verdict"] == "different"
    with pytest.raises(ConfigError, match="did you mean 'norse'"):
        compare(recurrent_example(), ["nors"])
    with pytest.raises(ConfigError, match="rate 2"):
        poisson_inputs(recurrent_example(), 10, 2.0)


def test_random_inputs_are_of_their_rate_and_seed() -> None:
    network = random_network(3).network
    a, b, c = (poisson_inputs(network, 400, 0.2, 2, seed) for seed in (1, 1, 2))
    (x,) = a.values()
    assert x.shape[:2] == (2, 400)
    assert torch.equal(x, next(iter(b.values())))
    assert not torch.equal(x, next(iter(c.values())))
    assert 0.15 < x.mean() < 0.25


def test_validate_dynamics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "v.json"
    assert main(["validate", "dynamics", "--networks", "8", "--mutants", "2", "--json", str(out), "-q"]) == 0
    result = json.loads(out.read_text())
    assert result["schema"] == "ovonic/validate-dynamics/1"
    engine = result["toolchains"]["engine"]
    assert engine["exact"] + len(engine["undecidable"]) == 8
    assert engine["diverged"] == []
    assert result["mutants"]["score"] == 1
    assert result["mutants"]["survivors"] == []
    printed = capsys.readouterr().out
    assert "of 8 networks" in printed
    assert "mutants" in printed


@pytest.mark.usefixtures("some_toolchains")
def test_validate_dynamics_fails_where_a_toolchain_diverges(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "dynamics", "--networks", "12", "--toolchains", "snntorch", "-q"]) == 1
    assert "diverged:" in capsys.readouterr().out
