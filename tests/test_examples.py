"""The examples that take networks to other toolchains do what they say."""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from ovonic.adapters.toolchains import TOOLCHAINS
from ovonic.models.natural_eprop import InnerLoop
from ovonic.models.natural_eprop_networks import NaturalEPropConfig, initial_pair
from ovonic.models.simulation import run
from ovonic.tasks.robot import Robot, spec_for
from ovonic.tasks.trajectories import sample_trajectories

pytestmark = pytest.mark.toolchain


def _example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("toolchain", ["snntorch", "norse"])
def test_your_network_learns_by_eprop(toolchain: str) -> None:
    pytest.importorskip(toolchain, reason=f"needs {toolchain}: pip install 'ovonic[{toolchain}]'")
    losses = _example("eprop_on_your_network").losses(toolchain, 16)
    assert min(losses[-4:]) < 0.6 * losses[0]


@pytest.fixture(scope="module")
def robot() -> Robot:
    config = NaturalEPropConfig(trainee=30, lsg_lif=20, lsg_alif=10)
    return Robot(config, initial_pair(config, 1), InnerLoop(1e-2))


def test_the_taught_trainee_moves_the_arm_alike(robot: Robot, tmp_path: Path) -> None:
    example = _example("trainee_travels")
    movement = sample_trajectories(spec_for(robot), 3, [0], torch.float64)
    trainee = example.taught(robot, movement)
    lesson = robot.module(torch.float64)(movement.clock, movement.lsg_input, robot.inner)
    at_home = run(trainee, movement.clock)
    assert torch.equal(at_home["trainee"].spikes, lesson.trials[1]["trainee"].spikes)
    assert not torch.equal(at_home["trainee"].spikes, lesson.trials[0]["trainee"].spikes)
    present = [name for name in TOOLCHAINS if importlib.util.find_spec(name) is not None]
    if not present:
        pytest.skip("needs a toolchain: pip install 'ovonic[all]'")
    arrived = example.travel(trainee, movement, tmp_path / "trainee.nir", present)
    assert list(arrived) == present
    for name, found in arrived.items():
        assert not isinstance(found, str), found
        assert found.spikes == int(at_home["trainee"].spikes.sum()) > 50, name
        assert found.different == 0, name
        assert found.tip_mm < 1e-9, name


def test_another_network_is_told_apart(robot: Robot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read from the file is what runs: weights changed there show as spikes and millimetres."""
    pytest.importorskip("norse", reason="needs Norse: pip install 'ovonic[norse]'")
    example = _example("trainee_travels")
    movement = sample_trajectories(spec_for(robot), 3, [0], torch.float64)
    read = example.load_nir

    def other(file: Path) -> object:
        network = read(file)
        return network.with_weights({"in.weight": np.asarray(network.weights()["in.weight"]) * 1.1})

    monkeypatch.setattr(example, "load_nir", other)
    found = example.travel(robot.pair.trainee, movement, tmp_path / "trainee.nir", ["norse"])["norse"]
    assert found.different > 0
    assert found.tip_mm > 1


@pytest.mark.parametrize("network", ["torch", "snntorch"])
def test_a_network_of_your_own_is_deployed(network: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(network, reason=f"needs {network}: pip install 'ovonic[{network}]'")
    found = _example("deploy_your_network").main([network, "--chips", "2", "--updates", "100"])
    assert found["software"]["mean"] > 0.8
    assert abs(found["difference"]["mean"]) < 0.1
    assert "weights on 1 array," in capsys.readouterr().out


def test_bellecs_tasks_are_learned_as_by_nest() -> None:
    pytest.importorskip("nest", reason="needs NEST: pip install 'ovonic[nest]'")
    example = _example("bellec_tasks")
    for found in (example.pattern(4, neurons=12, steps=60), example.evidence(3, neurons=12, batch=2)):
        assert found.difference < 1e-10
        assert found.ours[-1] < found.ours[0]


def test_fresh_evidence_is_answered_as_by_nest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nest", reason="needs NEST: pip install 'ovonic[nest]'")
    example = _example("bellec_tasks")
    monkeypatch.setattr(example, "fresh_evidence", functools.partial(example.fresh_evidence, neurons=12, batch=2))
    monkeypatch.setattr(
        sys, "argv", ["bellec_tasks.py", "--fresh", "--updates", "12", "--figure", str(tmp_path / "found.png")]
    )
    example.main()
    said = capsys.readouterr().out
    assert "0 of 24 answers differ" in said
    assert said.count("% of unseen episodes right in the first 3 updates") == 2
    assert (tmp_path / "found.png").stat().st_size > 1000
