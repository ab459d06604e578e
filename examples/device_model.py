"""Add a device model of your own, and see what it does to the weights of an array.

    python examples/device_model.py

The model here is a projected phase-change device: a conducting liner beside the phase-change material carries the read
current, so that drift and noise of the amorphous part hardly count. Its numbers are assumed, of the size that such
devices are reported with; put your own in their place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ovonic.models import crossbar
from ovonic.models.device_model import DeviceModel, PowerLawDevices
from ovonic.models.pcm import device_model
from ovonic.models.splitting import conductances

TIMES = {"first read": 0.0, "hour": 3.6e3, "month": 2.6e6, "year": 3.2e7}


@dataclass(frozen=True)
class Projected(PowerLawDevices):
    """sigma_prog = .2 + .8 x - .4 x^2 uS, x = g / g_max; nu = .005 +- .002; q = .002."""

    name: str = "projected"
    g_max_us: float = 20.0
    t_0_s: float = 20.0
    t_read_s: float = 250e-9
    prog_coeff: tuple[float, ...] = (0.2, 0.8, -0.4)
    prog_reference_us: float = 20.0

    def fitted_nu(self, g_target: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(g_target, 0.005), torch.full_like(g_target, 0.002)

    def fitted_q(self, g_prog: Tensor) -> Tensor:
        return torch.full_like(g_prog, 0.002)


def errors(model: DeviceModel, rows: int = 256, seed: int = 1) -> dict[str, tuple[float, float]]:
    """Gain of the weights and their RMS error once it is divided out, in units of full scale, at each of ``TIMES``."""
    generator = torch.Generator().manual_seed(seed)
    w = (0.3 * torch.randn(rows, rows, generator=generator)).clamp(-1, 1)
    state = crossbar.program(model, conductances(w, model.g_max_us), generator=generator)
    found = {}
    for name, now_s in TIMES.items():
        state = crossbar.advance(state, model, now_s=now_s, generator=generator)
        read = crossbar.weights(state, model.g_max_us)
        gain = float((read * w).sum() / w.square().sum())
        found[name] = (gain, float((read / gain - w).square().mean().sqrt()))
    return found


def main() -> None:
    models = [*map(device_model, ("pcm", "hermes", "hermes-pair", "published", "none")), Projected()]
    print("gain of the weights, and RMS error in % of full scale once it is divided out; w ~ N(0, .3)\n")
    print(f"{'':12}" + "".join(f"{name:>18}" for name in TIMES))
    for model in models:
        cells = (f"{gain:10.3f} {100 * error:6.2f}%" for gain, error in errors(model).values())
        print(f"{model.name:12}" + "".join(cells))


if __name__ == "__main__":
    main()
