"""A network of your own on phase-change memory: train it in torch or in snnTorch, then three lines, see ``main``.

    uv run python examples/deploy_your_network.py torch
    uv run python examples/deploy_your_network.py snntorch --noise-model hermes --chips 20 --read-time 86400

The task: tell ten random patterns of 8 x 8 pixels apart, under noise. Nothing in training knows of
the hardware. The layout says where each weight lies and what drives it, spikes or analog values, and how large.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ovonic

PIXELS, HIDDEN, CLASSES, STEPS = 64, 100, 10, 15


def your_torch_network() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 12, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(12 * 16, CLASSES),
    )


def your_snntorch_network() -> nn.Module:
    import snntorch as snn

    class Net(nn.Module):
        """Pixels as currents for some steps; the class whose neuron's potential is largest on average."""

        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(PIXELS, HIDDEN)
            self.hidden = snn.Leaky(beta=0.9)
            self.fc_out = nn.Linear(HIDDEN, CLASSES)
            self.out = snn.Leaky(beta=0.9, reset_mechanism="none")

        def forward(self, x: Tensor) -> Tensor:
            membrane, out = self.hidden.init_leaky(), self.out.init_leaky()
            total = torch.zeros(())
            for _ in range(STEPS):
                spikes, membrane = self.hidden(self.fc(x), membrane)
                _, out = self.out(self.fc_out(spikes), out)
                total = total + out
            return total / STEPS

    return Net()


NETWORKS = {"torch": your_torch_network, "snntorch": your_snntorch_network}


def pictures(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noisy patterns [n, 64] in 0..1, and their classes [n]."""
    patterns = torch.rand(CLASSES, PIXELS, generator=torch.Generator().manual_seed(7))
    labels = torch.randint(CLASSES, (n,), generator=generator)
    noise = torch.randn(n, PIXELS, generator=generator)
    return (patterns[labels] + 0.5 * noise).clamp(0.0, 1.0), labels


def train(net: nn.Module, updates: int, generator: torch.Generator) -> None:
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(updates):
        inputs, labels = pictures(100, generator)
        optimiser.zero_grad()
        F.cross_entropy(net(inputs), labels).backward()
        optimiser.step()


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--noise-model", default="pcm")
    parser.add_argument("--chips", type=int, default=10)
    parser.add_argument("--read-time", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    net = NETWORKS[options.network]()
    train(net, options.updates, generator)
    seen, (inputs, labels) = pictures(200, generator)[0], pictures(1000, generator)

    deployed = ovonic.deploy(net, None, options.noise_model, data=seen, chips=options.chips, seed=options.seed)
    deployed.advance(options.read_time)
    found = deployed.accuracy(inputs, labels)

    print(deployed.layout)
    for name in ("software", "accuracy", "difference"):
        print(f"{name:10} {100 * found[name]['mean']:6.2f} +- {100 * found[name]['ci95']:.2f} %")
    energy = deployed.energy()["inference"].energy_j
    print(f"a sample   {1e9 * energy.typical:.3g} nJ on the arrays ({1e9 * energy.low:.2g} to {1e9 * energy.high:.2g})")
    return found


if __name__ == "__main__":
    main()
