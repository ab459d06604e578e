"""A recurrent network of your own, in snnTorch or in Norse, learns by e-prop: five lines, see ``learn``.

    uv run python examples/eprop_on_your_network.py snntorch
    uv run python examples/eprop_on_your_network.py norse --updates 200

The task is the pattern generation of Bellec et al. 2020: from frozen noise at its inputs the network makes a sum of
sines. No gradient goes back through time: the toolchain runs the network forward, e-prop learns from what it did.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ovonic.adapters import norse, snntorch
from ovonic.adapters.torch_gradients import give_gradients
from ovonic.models.eprop import eprop
from ovonic.models.learning_signals import learning_signals
from ovonic.models.network import Network
from ovonic.models.trace import Trace

INPUTS, NEURONS, STEPS = 20, 60, 200


def your_snntorch_network() -> nn.Module:
    import snntorch as snn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(INPUTS, NEURONS)
            self.hidden = snn.RLeaky(beta=0.95, linear_features=NEURONS)
            self.fc_out = nn.Linear(NEURONS, 1)
            self.out = snn.Leaky(beta=0.95, reset_mechanism="none")

        def forward(self, x: Tensor) -> Tensor:
            spikes, membrane = self.hidden.reset_mem()
            out, made = self.out.reset_mem(), []
            for now in x.unbind(1):
                spikes, membrane = self.hidden(self.fc(now), spikes, membrane)
                _, out = self.out(self.fc_out(spikes), out)
                made.append(out)
            return torch.stack(made, 1)

    return Net()


def your_norse_network() -> nn.Module:
    import norse.torch as n

    net = n.SequentialState(n.LIFRecurrentCell(INPUTS, NEURONS), nn.Linear(NEURONS, 1), n.LICell())
    with torch.no_grad():
        net[0].input_weights.mul_(40)
    return net


def learn(
    net: nn.Module,
    read: Callable[[nn.Module], Network],
    run: Callable[[Network, Tensor], Trace],
    x: Tensor,
    target: Tensor,
    optimizer: torch.optim.Optimizer,
) -> float:
    """One update; the loss before it."""
    network = read(net)
    trace = run(network, x)
    errors = {name: (y - target) / target.numel() for name, y in trace.readouts.items()}
    give_gradients(net, eprop(network, trace, learning_signals(network, errors), errors))
    optimizer.step()
    return float((trace.readout - target).square().mean() / 2)


def losses(toolchain: str, updates: int, seed: int = 0) -> list[float]:
    """The loss before each update."""
    torch.manual_seed(seed)
    x = (torch.rand(1, STEPS, INPUTS) < 0.1).float()
    t = torch.arange(STEPS) * (2 * torch.pi / STEPS)
    target = sum((k * t + k).sin() / 2 for k in (1, 2, 3)).view(1, STEPS, 1)  # type: ignore[union-attr]
    ways: dict[str, tuple[Callable[[], nn.Module], Any, Any]] = {
        "snntorch": (
            your_snntorch_network,
            lambda net: snntorch.from_snntorch(net, readouts=["out"], example=x),
            snntorch.run,
        ),
        "norse": (your_norse_network, norse.from_norse, norse.run),
    }
    make, read, run = ways[toolchain]
    net = make()
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    return [learn(net, read, run, x, target, optimizer) for _ in range(updates)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("toolchain", choices=["snntorch", "norse"])
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = losses(options.toolchain, options.updates, options.seed)
    for update in range(0, options.updates, max(options.updates // 10, 1)):
        print(f"update {update:4}   loss {found[update]:.4f}")
    print(f"update {options.updates - 1:4}   loss {found[-1]:.4f}")


if __name__ == "__main__":
    main()
