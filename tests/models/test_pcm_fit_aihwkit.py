"""A fit to what aihwkit's own noise objects draw gives aihwkit's coefficients.

PCMLikeNoiseModel, 3,000 devices, 10 reads. Each coefficient is one comparison with an interval of 5 standard errors:
false alarm 6e-7 each, 4e-6 in all; it would detect a departure of 3 % in the read noise or of 10 % in the spread of
programming at 12 uS. aihwkit draws targets above 0 with the same normal, clamped at 0, which is out of reach here.
"""

import numpy as np
import pytest
import torch

from ovonic.models.device_regressions import OverTime
from ovonic.models.fit_statistics import Parameter
from ovonic.models.pcm_fit import fit_over_time

pytestmark = pytest.mark.toolchain


def within(parameter: Parameter, truth: float, errors: float = 5.0) -> bool:
    half = (parameter.high - parameter.low) / 2
    return abs(parameter.value - truth) <= errors / 1.959964 * half


def test_coefficients_of_pcmlike() -> None:
    noise = pytest.importorskip("aihwkit.inference.noise.pcm").PCMLikeNoiseModel(g_max=25.0)
    torch.manual_seed(5)
    n, times = 3000, noise.t_0 * np.geomspace(1, 1e5, 10)
    target = torch.linspace(2.5, 25, 15).repeat(n // 15)
    g_prog = noise.apply_programming_noise_to_conductance(target)
    nu = noise.generate_drift_coefficients(target)
    reads = [noise.apply_drift_noise_to_conductance(g_prog, nu, float(t - noise.t_0)) for t in times]
    g = torch.stack(reads, 1).flatten().double().numpy()
    names = tuple(map(str, range(n)))
    data = OverTime(names, np.repeat(np.arange(n), 10), np.tile(times, n), g, target.double().numpy())
    fit = fit_over_time(data, g_max_us=25.0, t_0_s=noise.t_0, t_read_s=noise.t_read, knots=6)
    assert within(fit.parameters["q_scale"], 0.0088)
    assert within(fit.parameters["q_power"], 0.65)
    for k, coefficient in enumerate((0.26348, 1.9650, -1.1731)):
        assert within(fit.parameters[f"prog_coeff[{k}]"], coefficient)
    assert within(fit.parameters["nu_mean at w = 1"], 0.049)
    assert within(fit.parameters["nu_sigma at w = 1"], 0.008)
    assert fit.model.programming_sigma(torch.tensor([12.0])).item() == pytest.approx(0.9362, rel=0.1)
    assert fit.warnings == []
