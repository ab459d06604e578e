"""The published robot checkpoint becomes the two networks, or is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ovonic.adapters.published_robot import robot_from_published
from ovonic.models.errors import WeightsError
from ovonic.models.layers import Spiking
from ovonic.models.natural_eprop_networks import NaturalEPropConfig

SMALL = NaturalEPropConfig(clock=2, target=3, trainee=4, outputs=1, lsg_lif=3, lsg_alif=2)


def _arrays(**changed: np.ndarray | None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"W_in_lsg": (5, 5), "W_rec_lsg": (5, 5), "W_out_lsg": (5, 4)}
    shapes |= {"W_in_trainee": (2, 4), "W_rec_trainee": (4, 4), "W_out_trainee": (4, 1)}
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} | changed
    return {name: array for name, array in arrays.items() if array is not None}


def test_each_weight_has_its_place(tmp_path: Path) -> None:
    arrays = _arrays()
    np.savez(tmp_path / "robot.npz", **arrays)  # type: ignore[arg-type]
    lsg, trainee = robot_from_published(tmp_path / "robot.npz", SMALL)
    for network, name in ((lsg, "lsg"), (trainee, "trainee")):
        for ours, theirs in (("in.weight", "W_in"), (f"{name}.recurrence", "W_rec"), ("out.weight", "W_out")):
            assert np.array_equal(network.weights()[ours], arrays[f"{theirs}_{name}"])
    assert lsg.shapes["learning_signal"] == trainee.shapes["trainee"] == (4,)


@pytest.mark.parametrize(
    ("arrays", "config", "message"),
    [
        (_arrays(W_rec_lsg=None), SMALL, r"holds W_in_lsg, W_out_lsg, .*; expected W_in_lsg, W_rec_lsg"),
        (_arrays(kernel1=np.zeros((3, 3, 1, 3))), SMALL, r"holds .*kernel1; expected"),
        (_arrays(), None, r"robot.npz: lsg w_in: shape \(5, 5\) where \(53, 800\) \[in, out\] is due"),
        (_arrays(W_out_trainee=np.zeros((1, 4))), SMALL, r"trainee w_out: shape \(1, 4\) where \(4, 1\)"),
        (_arrays(W_in_trainee=np.full((2, 4), np.nan)), SMALL, r"'W_in_trainee' holds NaN"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], config: NaturalEPropConfig | None, message: str
) -> None:
    np.savez(tmp_path / "robot.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match=message):
        robot_from_published(tmp_path / "robot.npz", config)


@pytest.mark.shared
def test_the_published_files(shared: Path) -> None:
    pair = robot_from_published(shared / "published" / "robot_checkpoint.npz")
    assert pair == robot_from_published(shared / "published" / "robot-pretrained-weights.pickle")
    assert dict(pair.lsg.shapes) == {
        "clock_and_target": (53,),
        **{"in": (800,), "lsg": (800,), "out": (250,), "learning_signal": (250,)},
    }
    assert pair.trainee.shapes["omega"] == (2,)
    lsg = pair.lsg.layers["lsg"]
    assert isinstance(lsg, Spiking)
    assert lsg.dynamics.adaptation is not None
    assert np.count_nonzero(lsg.dynamics.adaptation.beta) == 240
    with pytest.raises(WeightsError, match=r"holds kernel1"):
        robot_from_published(shared / "published" / "cnn_checkpoint.npz")
