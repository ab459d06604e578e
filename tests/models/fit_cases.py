"""Measurements made by device models, for the tests of fits."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ovonic.models.device_model import DeviceModel
from ovonic.models.device_regressions import OverTime
from ovonic.models.pulse_fit import OverPulses

TIMES = 12
LAST = 1e5
"""Times of a device, from t_0 on in equal ratios, and the last of them in units of t_0."""

Drift = Callable[[Tensor, Tensor, float], Tensor]


def over_time(
    model: DeviceModel,
    seed: int,
    *,
    n: int = 600,
    targets: int = 12,
    least: float = 0.1,
    times: int = TIMES,
    drift: Drift | None = None,
    program: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    noise: Callable[[Tensor, float], Tensor] | None = None,
    nu: Callable[[Tensor, torch.Generator], Tensor] | None = None,
) -> OverTime:
    """Measure ``n`` devices of ``model`` at ``targets`` targets from ``least`` g_max to g_max, with parts exchanged.

    Args: drift: of (g_prog, nu, age) in place of the model's; program, nu: of (target, generator); noise: relative
        sigma of (g_prog, age).
    """
    generator = torch.Generator().manual_seed(seed)
    choice = torch.randint(targets, (n,), generator=generator)
    target = (torch.linspace(least, 1, targets, dtype=torch.float64) * model.g_max_us)[choice]
    g_prog = (program or model.program)(target, generator)
    exponents = (nu or model.draw_nu)(target, generator)
    columns = []
    time_s = model.t_0_s * np.geomspace(1, LAST, times)
    for t in time_s:
        age = float(t - model.t_0_s)
        g = (drift or model.drift)(g_prog, exponents, age)
        sigma = (noise or model.read_sigma)(g_prog, age)
        columns.append((g + g * sigma * torch.randn(n, generator=generator, dtype=torch.float64)).clamp(min=0))
    g_us = torch.stack(columns, 1).flatten().numpy()
    names = tuple(f"d{k}" for k in range(n))
    return OverTime(names, np.repeat(np.arange(n), times), np.tile(time_s, n), g_us, target.numpy())


def over_pulses(
    seed: int, *, n: int = 200, pulses: int = 20, spread: float = 0.0, a: float = 2.0, b: float = -0.1
) -> OverPulses:
    """Devices that step by N(a + b g, (.2 + .02 g)^2) a pulse; ``spread``: of a factor on a, each device its own."""
    rng = np.random.default_rng(seed)
    g = np.zeros((n, pulses + 1))
    own = 1 + spread * rng.standard_normal(n)
    for k in range(pulses):
        g[:, k + 1] = g[:, k] + a * own + b * g[:, k] + (0.2 + 0.02 * g[:, k]) * rng.standard_normal(n)
    pulse = np.tile(np.arange(pulses + 1), n)
    names = tuple(f"d{k}" for k in range(n))
    return OverPulses(names, np.repeat(np.arange(n), pulses + 1), pulse, np.maximum(g, 0).ravel())
