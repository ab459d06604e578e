"""Gradients by name reach the parameters that the readers read: a step of SGD is a step of the network's weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ovonic.adapters.norse import from_norse, to_norse
from ovonic.adapters.snntorch import from_snntorch, to_snntorch
from ovonic.adapters.torch_gradients import give_gradients
from ovonic.models.dynamics import Dynamics, Refractory
from ovonic.models.errors import ConfigError
from ovonic.models.layers import Input, Linear, Readout, Recurrence, Spiking
from ovonic.models.network import Network

pytestmark = pytest.mark.toolchain
snn = pytest.importorskip("snntorch", reason="needs snnTorch: pip install 'ovonic[snntorch]'")
norse = pytest.importorskip("norse.torch", reason="needs Norse: pip install 'ovonic[norse]'")


def _network(one_to_one: bool) -> Network:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=4) if one_to_one else rng.normal(size=(4, 4))
    return Network.stack(
        {
            "x": Input((3,)),
            "w": Linear(rng.normal(size=(3, 4)), rng.normal(size=4)),
            "train": Spiking(
                Dynamics(0.9, 0.7, refractory=Refractory(2)), Recurrence(weight, masked_diagonal=not one_to_one)
            ),
            "w_out": Linear(rng.normal(size=(4, 2))),
            "y": Readout(0.8),
        }
    )


def _snntorchs(one_to_one: bool) -> nn.Sequential:
    spiking = snn.RLeaky(0.9, all_to_all=False, V=torch.rand(4)) if one_to_one else snn.RLeaky(0.9, linear_features=4)
    if not one_to_one:
        spiking.recurrent.bias = None
    return nn.Sequential(nn.Linear(3, 4), spiking, nn.Linear(4, 2))


MAKERS: dict[str, tuple[Any, Any]] = {
    "snntorch's own": (lambda: _snntorchs(False), from_snntorch),
    "snntorch's own, one to one": (lambda: _snntorchs(True), from_snntorch),
    "to_snntorch": (lambda: to_snntorch(_network(False)), from_snntorch),
    "to_snntorch, one to one": (lambda: to_snntorch(_network(True)), from_snntorch),
    "norse's own": (
        lambda: norse.SequentialState(norse.LIFRecurrentCell(3, 4), nn.Linear(4, 2), norse.LICell()),
        from_norse,
    ),
    "to_norse": (lambda: to_norse(_network(False)), from_norse),
    "to_norse, one to one": (lambda: to_norse(_network(True)), from_norse),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_step_of_sgd_is_a_step_of_the_networks_weights(name: str) -> None:
    make, read = MAKERS[name]
    torch.manual_seed(0)
    module = make()
    before = read(module).weights()
    gradients = {part: torch.randn(array.shape, dtype=torch.float64) for part, array in before.items()}
    give_gradients(module, gradients)
    torch.optim.SGD(module.parameters(), 0.5).step()
    after = read(module)
    hollow = [f"{part}.recurrence" for part, layer in after.layers.items() if getattr(layer, "recurrence", None)]
    assert len(before) >= 3
    for part, array in after.weights().items():
        due = before[part] - 0.5 * gradients[part].numpy()
        if part in hollow and array.ndim == 2 and not np.diag(before[part]).any():
            np.fill_diagonal(due, np.diag(array))
        np.testing.assert_allclose(array, due, atol=1e-6)


def test_what_no_gradient_names_is_left() -> None:
    module = _snntorchs(False)
    give_gradients(module, {"0.weight": torch.ones(3, 4)})
    given = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert given == {"0.weight"}


@pytest.mark.parametrize(
    ("gradients", "said"),
    [
        ({"1.weight": torch.ones(3, 4)}, "gradient '1.weight': no such parameter"),
        ({"0.weight": torch.ones(4, 3)}, r"gradient '0.weight': \(3, 4\) for a parameter \(4, 3\)"),
    ],
)
def test_what_does_not_fit_is_refused(gradients: dict[str, Tensor], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        give_gradients(_snntorchs(False), gradients)
