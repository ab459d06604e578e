"""``ovonic crossbar fit``: a device model from measurements of one's own devices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovonic.commands.common import JsonFile, command_line, file_to_write, folder_to_write, versions, write_json
from ovonic.models.errors import ConfigError

if TYPE_CHECKING:
    from ovonic.models.pcm_fit import Fit

__all__ = ["fit"]


def fit(
    measurements: Annotated[Path, typer.Argument(help="CSV: device, time_s or pulse, g_us, perhaps g_target_us.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The device model, JSON.", callback=file_to_write)
    ] = Path("device_model.json"),
    name: Annotated[str, typer.Option(help="Name of the model.")] = "fitted",
    g_max: Annotated[
        float | None, typer.Option(metavar="US", help="Full scale of a device (default: the largest target).")
    ] = None,
    t_0: Annotated[
        float | None, typer.Option(metavar="S", help="Time of the first read (default: the earliest).")
    ] = None,
    t_read: Annotated[float, typer.Option(metavar="S", help="Duration of a read.")] = 250e-9,
    degree: Annotated[int, typer.Option(min=0, max=6, help="Polynomial of the programming error.")] = 2,
    knots: Annotated[int, typer.Option(min=1, max=12, help="Knots of the drift exponent, at the most.")] = 5,
    onto: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Pulses: keep drift and read noise of this model.")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw data, fit and residuals.", callback=folder_to_write)
    ] = None,
    json: JsonFile = None,
) -> None:
    """Fit a device model to conductance over time or over pulses, and say how well it describes the data."""
    from ovonic.adapters.fitted_models import device_model_from, save_fit
    from ovonic.adapters.measurements import read_measurements
    from ovonic.models.device_regressions import OverTime
    from ovonic.models.pcm_fit import fit_over_time
    from ovonic.models.pulse_fit import fit_over_pulses

    if not name.isprintable() or not 0 < len(name) <= 100:
        raise ConfigError(f"--name {name[:40]!r}: 1 to 100 printable characters are due")
    data = read_measurements(measurements)
    if isinstance(data, OverTime):
        if onto is not None:
            raise ConfigError("--onto is for measurements over pulses; these are over time")
        made = fit_over_time(data, g_max_us=g_max, t_0_s=t_0, t_read_s=t_read, degree=degree, knots=knots, name=name)
    else:
        base = None if onto is None else device_model_from(onto)
        made = fit_over_pulses(data, g_max_us=g_max, degree=degree, onto=base, name=name)
    save_fit(out, made, command=command_line(), measurements=str(measurements), versions=versions("scipy"))
    if str(json) != "-":
        _print(made, out)
    write_json(
        json,
        "crossbar-fit",
        {"model": made.model, "fit": made.report()},
        {"measurements": measurements, "out": out, "command": command_line()},
        versions("scipy"),
    )
    if figures:
        from ovonic.validation.figure_style import save
        from ovonic.validation.fit_figures import fit_figure

        path = save(fit_figure(data, made), figures / f"{measurements.stem}_fit.png", command=command_line())
        if str(json) != "-":
            typer.echo(str(path))


def _print(made: Fit, out: Path) -> None:
    typer.echo(f"{made.n_samples} measurements of {made.n_devices} devices; fitted to {made.n_used}")
    for why, n in made.left_out.items():
        if n:
            typer.echo(f"  left out: {n} ({why})")
    for name, p in made.parameters.items():
        typer.echo(f"  {name:<28}{p.value:>11.4g}  [{p.low:.4g}, {p.high:.4g}]")
    for what, share in made.r_squared.items():
        typer.echo(f"  R², {what:<36}{share:.3f}")
    for test in made.tests:
        typer.echo(f"  {test.name:<30} χ²/dof {test.chi2_per_dof:.2f} ({test.dof}), p {test.p_value:.2g}")
    for warning in made.warnings:
        typer.echo(f"warning: {warning}")
    typer.echo(str(out))
