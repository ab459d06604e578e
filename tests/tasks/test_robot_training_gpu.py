"""Meta-training on a GPU; skipped where there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ovonic.models.natural_eprop import InnerLoop
from ovonic.models.natural_eprop_networks import NaturalEPropConfig
from ovonic.tasks import robot_training
from ovonic.tasks.robot_run import training_run
from ovonic.tasks.robot_training import RobotTrainingConfig, RobotTrainingState, robot_train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")

CONFIG = RobotTrainingConfig(
    network=NaturalEPropConfig(trainee=20, lsg_lif=12, lsg_alif=6),
    inner=InnerLoop(1e-3, None),
    steps=6,
    batch=4,
    lr=2e-3,
    clip=0.5,
    log_every=1,
    validate_every=6,
    validation_trajectories=4,
    device="cuda",
)


def _trained(config: RobotTrainingConfig) -> RobotTrainingState:
    state = RobotTrainingState(config)
    robot_train(state)
    return state


def test_a_replayed_run_is_one_that_launches_each_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CONFIG.replays
    replayed = _trained(CONFIG)
    monkeypatch.setattr(RobotTrainingConfig, "replays", False)
    launched = _trained(CONFIG)
    for ours, theirs in zip(replayed.net.parameters(), launched.net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    assert replayed.history[-1]["loss"] == pytest.approx(launched.history[-1]["loss"], rel=1e-5)


def test_the_same_run_twice() -> None:
    first, second = _trained(CONFIG), _trained(CONFIG)
    assert all(torch.equal(a, b) for a, b in zip(first.net.parameters(), second.net.parameters(), strict=True))


@pytest.mark.parametrize("step", [1, 3, 5])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_a_run_that_was_stopped_and_resumed_is_one_that_was_not(tmp_path: Path, step: int, rounding: str) -> None:
    """Bit for bit, replayed (nearest) and launched kernel by kernel (stochastic): weights, moments, metrics."""
    config = replace(CONFIG, inner=InnerLoop(1e-3, rounding=rounding))
    assert config.replays is (rounding == "nearest")
    provenance = {"command": "test", "versions": {}}
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == step

    _, whole = training_run(config, tmp_path / "whole", provenance=provenance)
    with pytest.raises(KeyboardInterrupt):
        training_run(config, tmp_path / "parts", provenance=provenance, stop=stop)
    began: list[int] = []
    _, resumed = training_run(
        config, tmp_path / "parts", provenance=provenance, resume=True, on_start=lambda state: began.append(state.step)
    )
    assert began == [step]
    due = whole.tensors()
    assert due.keys() == resumed.tensors().keys()
    assert all(torch.equal(due[name], tensor) for name, tensor in resumed.tensors().items())
    for name in ("weights.safetensors", "metrics.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_near_the_cpu() -> None:
    """The movements are the same, the sums run in another order."""
    gpu, cpu = _trained(CONFIG), _trained(replace(CONFIG, device="cpu"))
    assert gpu.history[0]["loss"] == pytest.approx(cpu.history[0]["loss"], rel=1e-4)
    assert gpu.history[-1]["loss"] == pytest.approx(cpu.history[-1]["loss"], rel=1e-2)


@pytest.mark.parametrize("change", [{"inner": InnerLoop(1e-3)}, {"inner": InnerLoop(1e-3, rounding="stochastic")}])
def test_rounded_updates(change: dict[str, InnerLoop]) -> None:
    config = replace(CONFIG, **change)  # type: ignore[arg-type]
    assert config.replays is (config.inner.rounding == "nearest")
    state = _trained(config)
    assert state.history[-1]["task"] < 10 * state.history[0]["task"]
    assert robot_training.NUMBERS[0] in state.history[-1]
