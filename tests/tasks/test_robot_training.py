"""Meta-training of the robot learns, repeats itself bit for bit, and survives kills; it refuses by name."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from safetensors import safe_open
from typer.testing import CliRunner

from ovonic.adapters.checkpoints import save_checkpoint
from ovonic.commands.common import parse_step
from ovonic.commands.robot_train import train
from ovonic.models.errors import ConfigError, DivergenceError, OvonicError, WeightsError
from ovonic.models.fewshot_cnn import CNNConfig, FewshotCNN
from ovonic.models.natural_eprop import InnerLoop, NaturalEProp
from ovonic.models.natural_eprop_networks import NaturalEPropConfig
from ovonic.models.outer_loss import Objective
from ovonic.tasks import robot_training
from ovonic.tasks.episodes import EpisodeSpec
from ovonic.tasks.fewshot_training import TrainingConfig, TrainingState
from ovonic.tasks.robot import Robot, kinematics, movement_errors, resolve_robot, starting_robot
from ovonic.tasks.robot_run import read_metrics, training_run
from ovonic.tasks.robot_training import RobotTrainingConfig, RobotTrainingState, robot_train
from ovonic.tasks.trajectories import PUBLISHED_CODE, CoordinateCode, TrajectorySpec, sample_trajectories

NETWORK = NaturalEPropConfig(trainee=20, lsg_lif=20, lsg_alif=10, dt_ms=10.0)
TINY = RobotTrainingConfig(
    NETWORK,
    InnerLoop(1e-2, 1 / 16, "stochastic"),
    steps=12,
    batch=3,
    warmup=2,
    clip=0.1,
    log_every=5,
    validate_every=6,
    validation_trajectories=4,
)
PROVENANCE = {"command": "test", "versions": {}}


def _equal(a: Robot, b: Robot) -> bool:
    return a.pair == b.pair


def _stop_after(steps: int) -> Any:
    done: list[int] = []

    def stop() -> bool:
        done.append(1)
        return len(done) == steps

    return stop


def test_learns_to_teach() -> None:
    """120 small steps: one lesson takes away half of the loss on movements never seen; it took none before."""
    config = RobotTrainingConfig(
        NaturalEPropConfig(trainee=30, lsg_lif=40, lsg_alif=0, dt_ms=10.0),
        InnerLoop(0.5, None),
        steps=120,
        batch=12,
        lr=2e-2,
        average=0.9,
        validation_trajectories=40,
        validate_every=120,
    )
    state = RobotTrainingState(config)
    batch = sample_trajectories(config.movements, 1, range(40))

    def gains(net: NaturalEProp) -> Any:
        with torch.no_grad():
            lesson = net(batch.clock, batch.lsg_input, config.inner)
        return movement_errors(lesson.after, batch).loss / movement_errors(lesson.before, batch).loss

    before = gains(state.average).median()
    after = gains(robot_train(state).module()).median()
    assert before > 0.9
    assert after < 0.6
    first, last = state.history[0], state.history[-1]
    assert last["loss"] < 0.7 * first["loss"]
    assert state.validation[-1]["loss"]["mean"] < 0.14


def test_a_step_is_adam_on_the_outer_gradient() -> None:
    """One step by hand: the movements, the loss, clipping and Adam's first step, which is lr sign(g) but for eps."""
    config = replace(TINY, inner=InnerLoop(1e-2, None), steps=1, average=0.0, warmup=0, decay=0.0)
    state = RobotTrainingState(config)
    start = [p.detach().clone() for p in state.net.parameters()]
    seen: list[dict[str, float]] = []
    robot_train(state, on_step=lambda _, shown: seen.append(shown))
    batch = sample_trajectories(TrajectorySpec(dt_ms=10.0), 0, range(2**32, 2**32 + 3))
    net = RobotTrainingState(config).net
    lesson = net(batch.clock, batch.lsg_input, config.inner)
    mse_omega = (lesson.after - batch.omega).square().mean()
    mse_xyz = (kinematics(batch.spec)(lesson.after) - batch.path).square().mean()
    assert lesson.lsg is not None
    trainee = torch.stack([trial["trainee"].spikes for trial in lesson.trials]).mean((0, 1, 2))
    lsg = lesson.lsg["lsg"].spikes.mean((0, 1))
    rates = ((trainee - 0.2).square().sum() + (lsg - 0.1).square().sum()) / 4
    loss = mse_omega / 2 + mse_xyz / 2 + rates
    loss.backward()
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    norm = torch.sqrt(sum((g.square().sum() for g in gradients), torch.zeros(())))
    due = {"loss": loss, "task": loss - rates, "mse_omega": mse_omega, "mse_xyz": mse_xyz, "rates": rates}
    due |= {"trainee_hz": 100 * trainee.mean(), "lsg_hz": 100 * lsg.mean(), "gradient": norm}
    assert seen[0] == pytest.approx({name: value.item() for name, value in due.items()}, rel=1e-4)
    for now, then, g in zip(state.net.parameters(), start, gradients, strict=True):
        clipped = g * min(1.0, 0.1 / norm.item())
        assert torch.allclose(now - then, -config.lr * clipped / (clipped.abs() + 1e-7), atol=2e-6)
    assert all(torch.equal(*pair) for pair in zip(state.net.parameters(), state.average.parameters(), strict=True))


def test_same_seed_same_weights_other_seed_other_weights() -> None:
    config = replace(TINY, steps=3)
    assert _equal(robot_train(RobotTrainingState(config)), robot_train(RobotTrainingState(config)))
    other = replace(config, seed=1)
    assert not _equal(robot_train(RobotTrainingState(config)), robot_train(RobotTrainingState(other)))
    start = robot_train(RobotTrainingState(config))
    continued = [robot_train(RobotTrainingState(c, start)) for c in (config, other)]
    assert not _equal(*continued)


@pytest.mark.parametrize("step", [1, 5, 11])
def test_resumed_run_equals_uninterrupted(tmp_path: Path, step: int) -> None:
    whole, _ = training_run(TINY, tmp_path / "whole", provenance=PROVENANCE)
    with pytest.raises(KeyboardInterrupt):
        training_run(TINY, tmp_path / "parts", provenance=PROVENANCE, stop=_stop_after(step))
    assert not (tmp_path / "parts/weights.safetensors").exists()
    began = []
    resumed, _ = training_run(
        TINY, tmp_path / "parts", provenance=PROVENANCE, resume=True, on_start=lambda state: began.append(state.step)
    )
    assert began == [step]
    assert _equal(whole, resumed)
    assert read_metrics(tmp_path / "whole") == read_metrics(tmp_path / "parts")
    whole_file, resumed_file = (tmp_path / f"{name}/weights.safetensors" for name in ("whole", "parts"))
    assert whole_file.read_bytes() == resumed_file.read_bytes()


def test_killed_between_checkpoints(tmp_path: Path) -> None:
    """A run that dies at step 8, its last checkpoint of step 6, and begins again from what lies in the folder."""
    whole, _ = training_run(TINY, tmp_path / "whole", provenance=PROVENANCE)

    def die(state: RobotTrainingState, shown: dict[str, float]) -> None:
        if state.step == 8:
            raise MemoryError

    with pytest.raises(MemoryError):
        training_run(TINY, tmp_path / "killed", provenance=PROVENANCE, on_step=die, save_every=3)
    began = []
    resumed, _ = training_run(
        TINY, tmp_path / "killed", provenance=PROVENANCE, resume=True, on_start=lambda state: began.append(state.step)
    )
    assert began == [6]
    assert _equal(whole, resumed)
    assert read_metrics(tmp_path / "whole") == read_metrics(tmp_path / "killed")


def test_metrics_and_weights_tell_of_the_run(tmp_path: Path) -> None:
    robot, state = training_run(TINY, tmp_path, provenance=PROVENANCE)
    metrics = read_metrics(tmp_path)
    assert [h["step"] for h in metrics["history"]] == [5, 10, 12]
    assert [v["step"] for v in metrics["validation"]] == [6, 12]
    assert all(np.isfinite(value) for h in metrics["history"] for value in h.values())
    loaded = resolve_robot(tmp_path / "weights.safetensors")
    assert (loaded.config, loaded.inner, loaded.code) == (NETWORK, TINY.inner, CoordinateCode())
    p = loaded.provenance
    assert (p["command"], p["steps"], p["seed"]) == ("test", 12, 0)
    assert p["validation"] == state.validation[-1]
    assert p["training"]["network"] == dataclasses.asdict(NETWORK)
    assert p["weights"] == sum(weight.numel() for weight in robot.module().parameters())
    for kept, average in zip(loaded.module().parameters(), state.average.parameters(), strict=True):
        assert torch.equal(kept, average)


def test_history_holds_means() -> None:
    seen: list[float] = []
    state = RobotTrainingState(TINY)
    robot_train(state, on_step=lambda _, shown: seen.append(shown["loss"]))
    due = [np.mean(seen[:5]), np.mean(seen[5:10]), np.mean(seen[10:])]
    assert [h["loss"] for h in state.history] == pytest.approx(due, rel=1e-12)


def test_training_validation_and_evaluation_share_no_movement(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[int, set[int]] = {}

    def spy(spec: TrajectorySpec, seed: int, indices: Sequence[int]) -> Any:
        drawn.setdefault(min(indices) >> 31, set()).update(indices)
        return sample_trajectories(spec, seed, list(indices))

    monkeypatch.setattr(robot_training, "sample_trajectories", spy)
    robot_train(RobotTrainingState(TINY))
    assert drawn == {1: set(range(2**31, 2**31 + 4)), 2: set(range(2**32, 2**32 + 12 * 3))}
    with pytest.raises(ConfigError, match="would be trained on"):
        replace(TINY, validation_trajectories=2**31 + 1)


def test_another_run_is_not_resumed(tmp_path: Path) -> None:
    config = replace(TINY, steps=1)
    training_run(config, tmp_path, provenance=PROVENANCE)
    with pytest.raises(ConfigError, match="--resume"):
        training_run(config, tmp_path, provenance=PROVENANCE)
    with pytest.raises(ConfigError, match=r"training.lr: 0.0015 there, 0.01 asked"):
        training_run(replace(config, lr=0.01), tmp_path, provenance=PROVENANCE, resume=True)
    with pytest.raises(ConfigError, match=r"init: None there"):
        training_run(config, tmp_path, init=tmp_path / "weights.safetensors", provenance=PROVENANCE, resume=True)
    with pytest.raises(ConfigError, match=r"training.backend: None there, 'norse' asked"):
        training_run(replace(config, backend="norse"), tmp_path, provenance=PROVENANCE, resume=True)
    checkpoint = tmp_path / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="not a whole checkpoint"):
        training_run(config, tmp_path, provenance=PROVENANCE, resume=True)


def test_starts_from_weights_of_its_own_sizes_alone(tmp_path: Path) -> None:
    config = replace(TINY, steps=1)
    training_run(config, tmp_path / "first", provenance=PROVENANCE)
    start = tmp_path / "first/weights.safetensors"
    states: list[RobotTrainingState] = []

    def note(state: RobotTrainingState) -> None:
        states.append(state)
        assert state.net.describe() == resolve_robot(start).pair

    training_run(config, tmp_path / "second", init=start, provenance=PROVENANCE, on_start=note)
    assert states
    larger = replace(config, network=replace(NETWORK, trainee=21, lsg_alif=9))
    with pytest.raises(ConfigError, match=r"trainee 20 there, 21 asked for; lsg_alif 10 there, 9 asked for"):
        training_run(larger, tmp_path / "third", init=start, provenance=PROVENANCE)
    with pytest.raises(ConfigError, match="code"):
        RobotTrainingState(replace(config, code=PUBLISHED_CODE), resolve_robot(start))


def test_divergence_to_nan_names_step_and_checkpoint(tmp_path: Path) -> None:
    """Step 3 is told of once the next gradient with its weights was finite: what spoils them then is seen at step 4."""

    def poison(state: RobotTrainingState, shown: dict[str, float]) -> None:
        if state.step == 3:
            state.net.lsg.weights()["in.weight"].data[0] = float("nan")
            state.net.trainee.weights()["out.weight"].data[0] = float("nan")

    with pytest.raises(DivergenceError, match=r"at step 4: .*nan.*kept here"):
        robot_train(RobotTrainingState(TINY), on_step=poison, save=lambda _: tmp_path / "kept here", save_every=1)


def test_a_gradient_that_is_not_finite_is_divergence() -> None:
    state = RobotTrainingState(TINY)
    state.net.lsg.weights()["in.weight"].register_hook(lambda g: g * float("inf"))
    with pytest.raises(DivergenceError, match=r"at step 0: .*gradient (inf|nan).*checkpoint: none"):
        robot_train(state)


def test_an_average_that_is_not_finite_is_divergence() -> None:
    def poison(state: RobotTrainingState, shown: dict[str, float]) -> None:
        state.average.trainee.weights()["out.weight"].data[0] = float("nan")

    with pytest.raises(DivergenceError, match="at step 6: the averaged networks"):
        robot_train(RobotTrainingState(TINY), on_step=poison)


def test_divergence_to_large_losses_keeps_the_last_sound_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-out blown up once step 4 is kept: five steps later the run ends, and resumes from step 4, which is sound.

    A checkpoint that diverges at once, as one from elsewhere may, is not called good.
    """
    monkeypatch.setattr(robot_training, "PATIENCE", 5)

    def blow_up(state: RobotTrainingState, shown: dict[str, float]) -> None:
        if state.step == 4:
            state.net.trainee.weights()["out.weight"].data.mul_(1e3)

    out = tmp_path / "run"
    with pytest.raises(DivergenceError, match=r"at step 9: for 5 steps .* over 10 times .*run/checkpoint"):
        training_run(TINY, out, provenance=PROVENANCE, on_step=blow_up, save_every=1)
    shutil.copytree(out, tmp_path / "copy")
    began = []
    training_run(TINY, out, provenance=PROVENANCE, resume=True, on_start=lambda state: began.append(state.step))
    assert began == [4]
    with pytest.raises(DivergenceError, match=r"at step 4: .*Last good checkpoint: none"):
        training_run(
            TINY,
            tmp_path / "copy",
            provenance=PROVENANCE,
            resume=True,
            on_start=lambda state: state.net.trainee.weights()["out.weight"].data.fill_(float("nan")),
        )


def _numbers_of(out: Path) -> tuple[int, dict[str, Any], dict[str, torch.Tensor]]:
    """A checkpoint's step, its run, its tensors."""
    with safe_open(out / "checkpoint.safetensors", framework="pt") as file:
        said = json.loads(file.metadata()["ovonic"])
        return said["progress"]["step"], said["config"], {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("save_every", [1, 2, 3])
def test_the_checkpoint_that_is_named_trains_on_as_advised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_every: int
) -> None:
    """A rate that becomes absurd after step 4: the weights of step 5 are never written, those of the last sound
    boundary are, and the very command of the message goes on from them with finite losses."""
    out, sound = tmp_path / "a run", 4 - 4 % save_every
    steady = RobotTrainingConfig.rate
    with monkeypatch.context() as patch:
        patch.setattr(RobotTrainingConfig, "rate", lambda self, step: 1e30 if step == 4 else steady(self, step))
        failed = _command(
            str(out), "--steps", "8", "--save-every", str(save_every), "--lr", "0.02", "--quantise", "none"
        )
    assert isinstance(failed.exception, DivergenceError)
    said = str(failed.exception)
    assert said.startswith("meta-training diverged at step 5: ")
    step, _, tensors = _numbers_of(out)
    assert step == sound
    advised = shlex.split(said[said.index("ovonic robot train") :])
    assert advised == f"ovonic|robot|train|NEWDIR|--init|{out}/checkpoint.safetensors|--lr|0.0015".split("|")
    went_on = _command(str(tmp_path / "next"), *advised[4:], "--steps", "3", "--log-every", "1", "--quantise", "none")
    assert went_on.exit_code == 0, went_on.output
    history = read_metrics(tmp_path / "next")["history"]
    assert [h["step"] for h in history] == [1, 2, 3]
    assert all(np.isfinite(h["loss"]) and h["loss"] < 10 for h in history)
    began = starting_robot(out / "checkpoint.safetensors").module().state_dict()
    assert all(torch.equal(w, tensors[f"net.{name}"]) for name, w in began.items())
    assert any(not torch.equal(w, tensors[f"average.{name}"]) for name, w in began.items())


def test_a_run_that_blows_up_at_once_names_no_checkpoint(tmp_path: Path) -> None:
    failed = _command(str(tmp_path / "run"), "--steps", "5", "--lr", "1e30", "--save-every", "1")
    assert isinstance(failed.exception, DivergenceError)
    assert "Last good checkpoint: none. Start anew" in str(failed.exception)
    assert str(failed.exception).endswith("ovonic robot train NEWDIR --lr 0.0015")
    assert not (tmp_path / "run/checkpoint.safetensors").exists()


def test_a_stop_keeps_its_step_only_where_it_is_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RobotTrainingConfig, "rate", lambda self, step: 1e30 if step == 4 else self.lr)
    with pytest.raises(DivergenceError, match=r"at step 5: .*run/checkpoint"):
        training_run(TINY, tmp_path / "run", provenance=PROVENANCE, stop=_stop_after(5), save_every=2)
    assert _numbers_of(tmp_path / "run")[0] == 4


def test_a_step_is_told_of_once_its_checkpoint_is_there(tmp_path: Path) -> None:
    """So that no more steps than before are lost of those that were reported."""
    kept: list[tuple[int, int]] = []

    def note(state: RobotTrainingState, shown: dict[str, float]) -> None:
        kept.append((state.step, _numbers_of(tmp_path)[0] if state.step > 2 else 0))

    training_run(TINY, tmp_path, provenance=PROVENANCE, on_step=note, save_every=3)
    assert kept == [(s, s - s % 3) for s in range(1, 13)]


def test_starts_from_a_checkpoint_of_its_own_experiment_alone(tmp_path: Path) -> None:
    network = CNNConfig(3, 8, updates=2)
    state = TrainingState(TrainingConfig(network=network, episode=EpisodeSpec(3)), FewshotCNN(network))
    other, hostile = tmp_path / "other.safetensors", tmp_path / "hostile.safetensors"
    save_checkpoint(other, state.tensors(), {"training": dataclasses.asdict(state.config)}, state.progress())
    with pytest.raises(WeightsError, match="checkpoint of another experiment"):
        starting_robot(other)
    training_run(replace(TINY, steps=1), tmp_path / "run", provenance=PROVENANCE)
    _, config, tensors = _numbers_of(tmp_path / "run")
    save_checkpoint(hostile, tensors | {"net.lsg.in/weight": tensors["net.lsg.in/weight"].fill_(torch.nan)}, config, {})
    with pytest.raises(WeightsError, match=r"hostile.*lsg.in/weight'.*NaN"):
        starting_robot(hostile)
    save_checkpoint(hostile, tensors | {"net.lsg.in/weight": torch.zeros(2, 2)}, config, {})
    with pytest.raises(WeightsError, match=r"lsg.in/weight'.*shape \[2, 2\]"):
        starting_robot(hostile)


def test_rate_rises_stays_and_falls() -> None:
    config = replace(TINY, steps=100, warmup=10, decay=0.4, lr=2.0)
    assert [config.rate(s) for s in (0, 4, 9, 59)] == pytest.approx([0.2, 1.0, 2.0, 2.0])
    assert config.rate(80) == pytest.approx(1.0)
    assert 0 < config.rate(99) < 0.01
    assert replace(config, warmup=0, decay=0.0).rate(0) == replace(config, decay=0.0).rate(99) == 2.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("batch", 0),
        ("log_every", 0),
        ("warmup", -1),
        ("seed", -1),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("clip", 0.0),
        ("clip", float("inf")),
        ("average", 1.0),
        ("decay", 1.5),
        ("network", replace(NETWORK, clock=4)),
        ("network", replace(NETWORK, target=47)),
        ("code", CoordinateCode(bits=8)),
    ],
)
def test_what_means_nothing_is_refused(field: str, value: Any) -> None:
    named = "clock|target" if field in ("network", "code") else field
    with pytest.raises(ConfigError, match=named):
        replace(TINY, **{field: value})


def _command(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(train)
    sizes = "--lsg-lif 20 --lsg-alif 10 --trainee 20 --batch 2 --validation-trajectories 2"
    return CliRunner().invoke(app, [*arguments, *sizes.split()])


def test_command_trains_and_resumes(tmp_path: Path) -> None:
    out = tmp_path / "run"
    line = "--steps 2 --warmup 1 --clip 1 --quantise 1/8 --rounding stochastic --no-path-gradient --updates 2"
    options = line.split()
    done = _command(str(out), *options, "--json", str(tmp_path / "r.json"), "--quiet")
    assert done.exit_code == 0, done.output
    assert "tip error" in done.output
    robot = resolve_robot(out / "weights.safetensors")
    assert robot.inner == InnerLoop(1e-4, 0.125, "stochastic", 2)
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["schema"] == "ovonic/robot-train/1"
    assert result["config"]["training"]["objective"] == dataclasses.asdict(Objective(path_gradient=False))
    assert result["validation"][-1]["tip_rmse_mm"]["median"] > 0
    again = _command(str(out), *options, "--resume")
    assert again.exit_code == 0
    assert "resuming" in again.output
    assert isinstance(_command(str(out), *options).exception, ConfigError)
    after = _command(str(tmp_path / "next"), "--init", str(out / "weights.safetensors"), "--steps", "1")
    assert after.exit_code == 0, after.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--quantise coarse", "--quantise coarse: give a step"),
        ("--quantise 0", "--quantise 0: give a step"),
        ("--rounding up", "rounding 'up'"),
        ("--quantise none --rounding stochastic", "--rounding stochastic: --quantise none does not round"),
        ("--device tpu", "choose cpu"),
        ("--init fewshot-32bit", "'fewshot-cnn' where 'robot-natural-eprop' is needed"),
        ("--lr 0", "lr 0.0"),
    ],
)
def test_command_refuses_by_name(tmp_path: Path, options: str, message: str) -> None:
    error = _command(str(tmp_path / "run"), *options.split()).exception
    assert isinstance(error, OvonicError)
    assert message in str(error)
    assert not (tmp_path / "run").exists()


def test_steps_of_rounding() -> None:
    assert [parse_step(text) for text in ("none", "1/16", "0.0625", "2")] == [None, 0.0625, 0.0625, 2.0]
