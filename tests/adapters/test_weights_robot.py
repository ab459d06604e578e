"""Weight files of the robot's networks: what is written comes back, and what lies is refused by name."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from ovonic.adapters.weights import (
    ROBOT,
    describe,
    from_fields,
    load_weights,
    resolve_fewshot,
    save_fewshot,
    save_weights,
)
from ovonic.adapters.weights_robot import load_robot, save_robot
from ovonic.models.errors import WeightsError
from ovonic.models.fewshot_cnn import CNNConfig, FewshotCNN
from ovonic.models.natural_eprop import InnerLoop, NaturalEProp
from ovonic.models.natural_eprop_networks import NaturalEPropConfig, Pair, initial_pair

SMALL = NaturalEPropConfig(clock=2, target=3, trainee=4, outputs=1, lsg_lif=3, lsg_alif=2)
INNER = InnerLoop(2e-4, None, "stochastic", 3)
CODE = {"low_m": [0.0, 1.0, 2.5], "bits": 1}
TRAINING = {"command": "ovonic robot train", "seed": 3, "steps": 7}


def _float32(pair: Pair) -> Pair:
    return Pair(*(n.with_weights({k: w.astype(np.float32) for k, w in n.weights().items()}) for n in pair))


@pytest.fixture
def pair() -> Pair:
    return _float32(initial_pair(SMALL, 5))


@pytest.fixture
def parts(tmp_path: Path, pair: Pair) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and description of a sound file."""
    save_robot(tmp_path / "sound", SMALL, pair, INNER, CODE, TRAINING)
    return safetensors.numpy.load_file(tmp_path / "sound"), describe(tmp_path / "sound")


def test_what_is_saved_comes_back(tmp_path: Path, pair: Pair) -> None:
    save_robot(tmp_path / "w", SMALL, pair, INNER, CODE, TRAINING)
    config, again, inner, code, provenance = load_robot(tmp_path / "w")
    assert (config, again, inner, code) == (SMALL, pair, INNER, CODE)
    assert provenance["seed"] == 3
    assert provenance["source"] == str(tmp_path / "w")
    assert len(provenance["sha256"]) == 64
    weights = load_weights(tmp_path / "w")
    assert (weights.kind, weights.config) == (ROBOT, dataclasses.asdict(SMALL))
    assert weights.more == {"inner": dataclasses.asdict(INNER), "code": CODE}


def test_tensors_are_named_as_the_parameters(tmp_path: Path, pair: Pair) -> None:
    save_robot(tmp_path / "w", SMALL, pair, INNER, CODE, TRAINING)
    module = NaturalEProp(pair)
    module.load_state_dict({k: torch.from_numpy(w) for k, w in load_weights(tmp_path / "w").tensors.items()})
    assert module.describe() == pair


LIES: dict[str, tuple[Callable[[dict[str, Any], dict[str, Any]], Any], str]] = {
    "missing tensor": (lambda t, d: t.pop("lsg.lsg/recurrence"), "'lsg.lsg/recurrence' is missing"),
    "extra tensor": (lambda t, d: t.update(spy=np.zeros(1, np.float32)), "'spy' does not belong to a robot"),
    "turned": (lambda t, d: t.update({"trainee.out/weight": t["trainee.out/weight"].T.copy()}), r"\[1, 4\].*\[4, 1\]"),
    "type": (lambda t, d: t.update({"lsg.in/weight": t["lsg.in/weight"].astype(np.float64)}), "type F64"),
    "NaN": (lambda t, d: t["trainee.trainee/recurrence"].fill(np.nan), "'trainee.trainee/recurrence': holds NaN"),
    "unknown kind": (lambda t, d: d.update(kind="robot"), "kind 'robot': this Ovonic knows .*'robot-natural-eprop'"),
    "kind that is no text": (lambda t, d: d.update(kind=["robot"]), "kind"),
    "another kind": (lambda t, d: d.update(kind="fewshot-cnn"), "unknown configuration 'clock'|where 'robot"),
    "no code": (lambda t, d: d.pop("code"), "no object 'code'"),
    "no inner loop": (lambda t, d: d.update(inner=None), "no object 'inner'"),
    "unknown inner loop": (lambda t, d: d["inner"].update(rat=1), "unknown inner loop 'rat': did you mean 'rate'"),
    "missing inner loop": (lambda t, d: d["inner"].pop("updates"), "inner loop lacks updates"),
    "inner loop of text": (lambda t, d: d["inner"].update(step="1/16"), r"step '1/16': expected float \| None"),
    "inner loop that is none": (lambda t, d: d["inner"].update(rounding="up"), "inner loop rounding 'up'"),
    "misspelt size": (lambda t, d: d["network"].update(lsg_lfi=3), "did you mean 'lsg_lif'"),
    "half a neuron": (lambda t, d: d["network"].update(trainee=4.5), "trainee 4.5: expected int"),
    "another size": (lambda t, d: d["network"].update(lsg_lif=4), r"lsg\..*shape"),
    "enormous size": (lambda t, d: d["network"].update(lsg_lif=10**12), "shape"),
    "no neurons": (lambda t, d: d["network"].update(lsg_lif=0, lsg_alif=0), "needs neurons"),
    "threshold below zero": (lambda t, d: d["network"].update(lsg_threshold=-1), "lsg_threshold -1"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_by_name_and_not_written(
    tmp_path: Path, parts: tuple[dict[str, Any], dict[str, Any]], lie: str
) -> None:
    tensors, description = parts
    change, message = LIES[lie]
    change(tensors, description)
    (tmp_path / "w").write_bytes(safetensors.numpy.save(tensors, metadata={"ovonic": json.dumps(description)}))
    with pytest.raises(WeightsError, match=message) as error:
        load_robot(tmp_path / "w")
    assert str(tmp_path / "w") in str(error.value)
    if lie != "type":  # what is written is always float32
        with pytest.raises(WeightsError, match=message):
            save_weights(tmp_path / "lie", tensors, description)
        assert not (tmp_path / "lie").exists()


def test_kinds_are_not_mistaken_for_each_other(tmp_path: Path, pair: Pair) -> None:
    save_robot(tmp_path / "robot", SMALL, pair, INNER, CODE, TRAINING)
    save_fewshot(tmp_path / "cnn", FewshotCNN(CNNConfig(n_way=3, channels=2, updates=2)), TRAINING)
    with pytest.raises(WeightsError, match=r"robot: weights of the kind 'robot-natural-eprop' where 'fewshot-cnn'"):
        resolve_fewshot(tmp_path / "robot")
    with pytest.raises(WeightsError, match=r"cnn: weights of the kind 'fewshot-cnn' where 'robot-natural-eprop'"):
        load_robot(tmp_path / "cnn")


def test_both_kinds_are_listed_without_torch(tmp_path: Path, pair: Pair) -> None:
    save_robot(tmp_path / "robot-test.safetensors", SMALL, pair, INNER, CODE, TRAINING)
    script = f"""
import sys, pathlib
from ovonic.adapters import weights
files = weights.shipped() | {{"robot-test": pathlib.Path({str(tmp_path / "robot-test.safetensors")!r})}}
weights.shipped = lambda: files
from ovonic.commands.weights import list_weights
list_weights(json=pathlib.Path("-"))
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kinds = {row["name"]: row["kind"] for row in json.loads(done.stdout)["weights"]}
    assert kinds["robot-test"] == ROBOT
    assert kinds["fewshot-32bit"] == "fewshot-cnn"


@dataclasses.dataclass
class _Fields:
    corner: tuple[float, float]
    wraps: bool
    step: float | None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"corner": [1, 2.5], "wraps": True, "step": None}, ""),
        ({"corner": [1, 2.5, 3], "wraps": True, "step": 1}, "corner"),
        ({"corner": [1, "2"], "wraps": True, "step": 1}, "corner"),
        ({"corner": [1, float("nan")], "wraps": True, "step": 1}, "corner"),
        ({"corner": 1, "wraps": True, "step": 1}, "corner"),
        ({"corner": [1, 2], "wraps": 1, "step": 1}, "wraps 1: expected bool"),
        ({"corner": [1, 2], "wraps": True, "step": True}, "step True: expected float"),
        ({"corner": [1, 2], "wraps": True}, "lacks step"),
    ],
)
def test_fields_are_of_their_types(values: dict[str, Any], message: str) -> None:
    if not message:
        assert from_fields("f", values, _Fields) == _Fields((1, 2.5), True, None)
        return
    with pytest.raises(WeightsError, match=f"f: .*{message}"):
        from_fields("f", values, _Fields, "part")


@pytest.mark.shared
def test_published_checkpoints(shared: Path) -> None:
    for name in ("robot_checkpoint.npz", "robot-pretrained-weights.pickle"):
        config, pair, inner, code, provenance = load_robot(shared / "published" / name)
        assert (config, inner, code) == (NaturalEPropConfig(), InnerLoop(), None)
        assert pair.lsg.shapes["lsg"] == (800,)
        assert "Ortner" in provenance["origin"]
    with pytest.raises(WeightsError, match="holds kernel1"):
        load_robot(shared / "published" / "cnn_checkpoint.npz")
    with pytest.raises(WeightsError, match="W_in_lsg"):
        resolve_fewshot(shared / "published" / "robot_checkpoint.npz")
