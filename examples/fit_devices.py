"""Measure, fit, use: a device model from a CSV of conductances, here simulated in place of a lab's.

    python examples/fit_devices.py [FOLDER]

Writes measurements.csv, device_model.json and the figure, prints the goodness of fit, and programs one array of cells
with the fitted devices. With measurements of your own, skip ``measure`` (docs/measurements.md has the format).
"""

import sys
from pathlib import Path

import numpy as np
import torch

from ovonic.adapters.fitted_models import device_model_from, save_fit
from ovonic.adapters.measurements import read_measurements
from ovonic.models.crossbar import advance, program, weights
from ovonic.models.device_regressions import OverTime
from ovonic.models.pcm import device_model
from ovonic.models.pcm_fit import fit_over_time
from ovonic.models.splitting import SPLITS, conductances
from ovonic.validation.figure_style import save
from ovonic.validation.fit_figures import fit_figure

DAY_S = 86_400.0


def measure(path: Path, devices: int = 600) -> None:
    """Stand-in for a lab: devices of the model ``pcm``, read twelve times from 20 s to a day after programming."""
    generator = torch.Generator().manual_seed(1)
    truth = device_model("pcm")
    target = torch.linspace(2.5, 25, 10).repeat(devices // 10)
    g_prog, nu = truth.program(target, generator), truth.draw_nu(target, generator)
    with path.open("w") as file:
        file.write("device,time_s,g_us,g_target_us\n")
        for time_s in np.geomspace(20, DAY_S, 12):
            g = truth.read(g_prog, nu, float(time_s) - truth.t_0_s, generator)
            for k in range(len(target)):
                file.write(f"d{k},{time_s:.6g},{g[k]:.6g},{target[k]:.6g}\n")


def main(folder: Path) -> None:
    """Fit, report, and use the model."""
    folder.mkdir(parents=True, exist_ok=True)
    measure(folder / "measurements.csv")

    data = read_measurements(folder / "measurements.csv")
    assert isinstance(data, OverTime)
    fit = fit_over_time(data, g_max_us=25.0, name="my devices")
    save_fit(folder / "device_model.json", fit)
    save(fit_figure(data, fit), folder / "fit.png")
    for test in fit.tests:
        print(f"{test.name}: chi2/dof {test.chi2_per_dof:.2f}, p {test.p_value:.2g}")
    print("contradicted by the data:", "; ".join(fit.warnings) or "nothing")

    model = device_model_from(folder / "device_model.json")
    wanted = torch.empty(64, 64).uniform_(-1, 1, generator=torch.Generator().manual_seed(2))
    target = conductances(wanted, model.g_max_us, SPLITS["fill"])
    array = program(model, target, generator=torch.Generator().manual_seed(3))
    for name, age_s in (("first read", 0.0), ("a day later", DAY_S)):
        array = advance(array, model, now_s=age_s, generator=torch.Generator().manual_seed(4))
        error = (weights(array, model.g_max_us) - wanted).square().mean().sqrt()
        print(f"{name}: error of weights {float(error):.4f} of full scale (root mean square)")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("fit_devices"))
