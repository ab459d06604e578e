"""A trained snnTorch network of your own, validated by one command: dynamics, gradients, hardware, in one report.

    uv run python examples/validate_your_model.py --out my-report
    uv run python examples/validate_your_model.py --out my-report --noise-model pcm,hermes --chips 20

It trains ``net`` to tell four patterns of noisy spike trains apart, writes its weights and labelled samples, and calls
``ovonic validate model`` on this very file. Options that it does not know go to that command.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import snntorch as snn
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ovonic.__main__ import main as ovonic

INPUTS, HIDDEN, CLASSES, STEPS = 40, 60, 4, 30


class Net(nn.Module):
    """Recurrent spiking neurons; what is read is the membrane of ``out``, which never spikes: --readouts out."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(INPUTS, HIDDEN)
        self.hidden = snn.RLeaky(beta=0.9, linear_features=HIDDEN)
        self.fc_out = nn.Linear(HIDDEN, CLASSES)
        self.out = snn.Leaky(beta=0.9, reset_mechanism="none")

    def forward(self, x: Tensor) -> Tensor:
        """Spikes [samples, steps, inputs] -> membranes [samples, steps, classes]."""
        spikes, membrane = self.hidden.reset_mem()
        out, made = self.out.reset_mem(), []
        for now in x.unbind(1):
            spikes, membrane = self.hidden(self.fc(now), spikes, membrane)
            _, out = self.out(self.fc_out(spikes), out)
            made.append(out)
        return torch.stack(made, 1)


net = Net()
"""What ``ovonic validate model examples/validate_your_model.py:net`` reads."""


def samples(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Spike trains [n, STEPS, INPUTS], whose rates are one of four patterns, and which it is [n]."""
    rates = 0.35 * torch.rand(CLASSES, INPUTS, generator=torch.Generator().manual_seed(7))
    labels = torch.randint(CLASSES, (n,), generator=generator)
    spikes = torch.rand(n, STEPS, INPUTS, generator=generator) < rates[labels].unsqueeze(1)
    return spikes.float(), labels


def train(updates: int, generator: torch.Generator) -> None:
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(updates):
        x, labels = samples(64, generator)
        optimiser.zero_grad()
        F.cross_entropy(net(x).mean(1), labels).backward()
        optimiser.step()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("my-report"))
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options, further = parser.parse_known_args(arguments)

    torch.manual_seed(options.seed)
    for part in (net.fc, net.fc_out, net.hidden.recurrent):
        part.reset_parameters()
    generator = torch.Generator().manual_seed(options.seed)
    train(options.updates, generator)
    x, labels = samples(options.samples, generator)

    options.out.mkdir(parents=True, exist_ok=True)
    weights, data = options.out / "weights.safetensors", options.out / "samples.npz"
    save_file(net.state_dict(), weights)
    np.savez(data, inputs=x.numpy(), labels=labels.numpy())
    command = ["validate", "model", f"{__file__}:net", "--weights", str(weights), "--data", str(data)]
    command += ["--readouts", "out", "--out", str(options.out), *further]
    print("ovonic", *command)
    return ovonic(command)


if __name__ == "__main__":
    raise SystemExit(main())
