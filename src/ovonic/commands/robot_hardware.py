"""``ovonic robot evaluate --hardware crossbar``: lessons on simulated phase-change memory, beside the software twin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovonic.commands.common import progress, versions, write_json
from ovonic.commands.fewshot_chips import TOLERANCE, Compensation, NoiseScale, VerifyPulses
from ovonic.models.errors import ConfigError, nearest

if TYPE_CHECKING:
    from ovonic.models.device_model import DeviceModel
    from ovonic.models.natural_eprop import Engine, InnerLoop
    from ovonic.tasks.robot import Robot
    from ovonic.tasks.robot_crossbar import CrossbarSettings

__all__ = [
    "AdaptOn",
    "AdcRange",
    "ChipOptions",
    "Chips",
    "Compensation",
    "DeviceSplit",
    "HardwareName",
    "NoiseModel",
    "NoiseScale",
    "ReadTime",
    "Reads",
    "Scale",
    "VerifyPulses",
    "ZeroTargets",
    "check_hardware",
    "evaluate_hardware",
]

HardwareName = Annotated[
    str,
    typer.Option(
        help="software, or the trainee on a simulated PCM array: crossbar, or aihwkit: on that package's devices."
    ),
]
NoiseModel = Annotated[
    str, typer.Option(help="Devices: pcm, hermes, hermes-pair, published, none, or a fitted model's JSON file.")
]
ReadTime = Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Age of the devices in the last trial.")]
Chips = Annotated[int, typer.Option(min=1, help="Draws of all devices; each meets every movement.")]
AdaptOn = Annotated[
    str, typer.Option(help="Whose trial teaches: device, software (then programmed), or none (no update).")
]
DeviceSplit = Annotated[
    str, typer.Option(help="How a weight fills the two devices of its polarity: fill, equal or set_and_tune.")
]
ZeroTargets = Annotated[
    str, typer.Option(help="A device whose target is 0: reset (0 uS), or noisy (drawn like any other, as in aihwkit).")
]
Scale = Annotated[str, typer.Option(help="What shares a full scale: column (of each block), layer or array.")]
Reads = Annotated[int, typer.Option(min=1, help="Conversions that are averaged in every read.")]
AdcRange = Annotated[
    float, typer.Option(help="Full scale of the ADC, in currents of one row on a device pair at full scale.")
]

HARDWARE = ("software", "crossbar", "aihwkit")


@dataclass(frozen=True)
class ChipOptions:
    """The options of a chip, as given."""

    noise_model: str = "pcm"
    read_time: float = 0.0
    chips: int = 30
    adapt_on: str = "device"
    device_split: str = "fill"
    zero_targets: str = "reset"
    scale: str = "column"
    reads: int = 1
    verify: int = 0
    noise_scale: float = 1.0
    compensation: str = "none"
    adc_range: float = 10.0

    def settings(self) -> CrossbarSettings:
        """What they say.

        Raises: ConfigError: an unknown choice.
        """
        from ovonic.models.periphery import Periphery
        from ovonic.models.splitting import split_named
        from ovonic.models.verify import Verify
        from ovonic.tasks.robot_crossbar import CrossbarSettings

        split_named(self.device_split)
        model = self._model()
        periphery = Periphery(
            adc_range=self.adc_range,
            w_noise=self.noise_scale * Periphery.w_noise,
            compensation=None if self.compensation == "none" else self.compensation,
        )
        verify = Verify(self.verify, TOLERANCE * model.g_max_us) if self.verify else None
        return CrossbarSettings(
            model, periphery, self.device_split, self.scale, self.read_time, self.adapt_on, self.reads, verify
        )

    def refuse_in_software(self) -> None:
        """Raises: ConfigError: an option was given that only chips have."""
        for name, value in vars(self).items():
            if value != getattr(ChipOptions(), name):
                option = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{option} {value}: software has no devices: add --hardware crossbar")

    def _model(self) -> DeviceModel:
        from ovonic.adapters.fitted_models import resolve_device_model

        changes: dict[str, Any] = {}
        if self.noise_model != "none":
            changes = {
                "prog_scale": self.noise_scale,
                "read_scale": self.noise_scale,
                "zero_targets": self.zero_targets,
            }
        return resolve_device_model(self.noise_model, **changes)


def check_hardware(hardware: str) -> None:
    """Raises: ConfigError: a ``--hardware`` that does not exist."""
    if hardware not in HARDWARE:
        raise ConfigError(f"--hardware {hardware}: {nearest(hardware, HARDWARE)}")


def evaluate_hardware(
    robot: Robot,
    inner: InnerLoop,
    hardware: str,
    options: ChipOptions,
    how: Mapping[str, Any],
    trajectories: int,
    engine: Engine,
    title: str,
    json: Path | None,
    quiet: bool,
) -> None:
    """Give lessons on chips, print what came of them and write it.

    Args:
        hardware: ``crossbar`` or ``aihwkit``.
        how: ``seed`` and ``family`` of the movements, and what else the result's ``config`` shall say.
    """
    from ovonic.tasks.robot import spec_for
    from ovonic.tasks.robot_aihwkit import TraineeTiles
    from ovonic.tasks.robot_crossbar import TraineeChip
    from ovonic.tasks.robot_crossbar_evaluation import evaluate_on_chips

    settings, seed = options.settings(), how["seed"]
    spec = spec_for(robot, how["family"] == "published")
    with progress(f"evaluating on {options.chips} chips", trajectories * options.chips, quiet) as advance:
        evaluation = evaluate_on_chips(
            robot,
            spec,
            trajectories,
            inner,
            settings,
            options.chips,
            seed,
            on_batch=advance,
            engine=engine,
            make=TraineeChip if hardware == "crossbar" else TraineeTiles,
        )
    report = evaluation.report()
    if str(json) != "-":
        _print(title, report)
    config = {
        "weights": robot.provenance,
        "network": robot.config,
        "inner": inner,
        "movements": spec,
        "hardware": hardware,
        "noise_model": options.noise_model,
        "noise_scale": options.noise_scale,
        "chip": settings,
        **how,
    }
    write_json(json, "robot-evaluate", report, config, versions("scipy", *["aihwkit"] * (hardware == "aihwkit")))


def _print(title: str, report: Mapping[str, Any]) -> None:
    """What was measured, for people."""
    from rich.console import Console
    from rich.table import Table

    hardware, software = report["hardware"], report["software"]
    table = Table("", "loss", "median", "tip, median", "p95")
    rows = {
        "chips, no update": hardware["controls"]["no_update"],
        "chips, after": {"loss": hardware["loss"], "tip_rmse_mm": hardware["tip_rmse_mm"]["after"]},
        "software twin": {"loss": software["loss"], "tip_rmse_mm": software["tip_rmse_mm"]["after"]},
    }
    for name, found in rows.items():
        loss, tip = found["loss"], found["tip_rmse_mm"]
        half = "" if loss["ci95"] is None else f" +- {loss['ci95']:.5f}"
        table.add_row(
            name,
            f"{loss['mean']:.5f}{half}",
            f"{loss['median']:.5f}",
            f"{tip['median']:.0f} mm",
            f"{tip['p95']:.0f} mm",
        )
    typer.echo(title)
    Console().print(table)
    ratio, chips = hardware["loss_ratio"], hardware["chips"]
    if ratio["ratio"] is not None:
        high = "inf" if ratio["high"] is None else f"{ratio['high']:.3f}"
        typer.echo(f"loss, hardware / software: {ratio['ratio']:.3f} [{ratio['low']:.3f}, {high}]")
    spread = "" if chips["sd"] is None else f"sd {chips['sd']:.5f}, "
    saturated = hardware["per_lesson"]["saturated"]
    typer.echo(
        f"{chips['n']} chips: {spread}worst {chips['worst']:.5f}; a lesson re-programs "
        f"{report['devices_reprogrammed']:.0f} devices in {report['cells_reprogrammed']:.0f} cells, "
        f"{saturated:.1f} targets beyond full scale"
    )
