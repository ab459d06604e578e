"""The chips that ``ovonic fewshot`` deploys on: their options, and from these to programs of chips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovonic.models.errors import ConfigError, nearest

if TYPE_CHECKING:
    from ovonic.adapters.crossbar_fewshot import FewshotCrossbar
    from ovonic.models.fewshot_cnn import FewshotCNN
    from ovonic.tasks.fewshot import Learner

__all__ = [
    "ActivationRange",
    "AdaptOn",
    "AdcRange",
    "ChipOptions",
    "Compensation",
    "DeviceSplit",
    "HardwareName",
    "NoiseModel",
    "NoiseScale",
    "ReadTime",
    "Reads",
    "Scale",
    "UpdateStep",
    "VerifyPulses",
    "ZeroTargets",
    "check_hardware",
]

HardwareName = Annotated[str, typer.Option(help="software, crossbar, or aihwkit: simulated PCM tiles of that package.")]
NoiseModel = Annotated[
    str,
    typer.Option(
        help="Devices: pcm, hermes or none; on the crossbar hermes-pair, published or a fitted model's JSON file too."
    ),
]
ReadTime = Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Age of the devices when queries are read.")]
UpdateStep = Annotated[
    float | None, typer.Option(help="Round each update on the hardware stochastically to multiples of this.")
]
AdaptOn = Annotated[
    str, typer.Option(help="Where tasks are learned: device, software (then programmed), or none (as programmed).")
]
DeviceSplit = Annotated[
    str, typer.Option(help="How a weight fills the two devices of its polarity: fill, equal; crossbar: set_and_tune.")
]
Scale = Annotated[str, typer.Option(help="What shares a full scale in the convolutions: column or layer.")]
ZeroTargets = Annotated[str | None, typer.Option(help="Devices of target 0: reset (exactly 0) or noisy.")]
Reads = Annotated[int, typer.Option(min=1, help="Products that are averaged in every read.")]
VerifyPulses = Annotated[
    int,
    typer.Option(
        "--verify", min=0, help="Program-and-verify with at most so many pulses a device; 0: one, unverified."
    ),
]
NoiseScale = Annotated[
    float, typer.Option(min=0, help="Factor on programming and read noise of the devices (not on drift or the ADC).")
]
AdcRange = Annotated[
    float, typer.Option(help="Full scale of the convolutions' ADCs, in currents of one row on a full device pair.")
]

Compensation = Annotated[str, typer.Option(help="Digital drift compensation: none, global or column.")]
ActivationRange = Annotated[
    float, typer.Option(help="Full scale of the DACs behind a norm, in standard deviations of what it gives.")
]

HARDWARE = ("software", "crossbar", "aihwkit")
TOLERANCE = 0.02
"""Error that program-and-verify accepts, in units of a device's full scale."""


@dataclass(frozen=True)
class ChipOptions:
    """The options of a chip, as given; None: the hardware's own default."""

    hardware: str = "software"
    noise_model: str = "pcm"
    device_split: str = "fill"
    scale: str = "column"
    zero_targets: str | None = None
    reads: int = 1
    verify: int = 0
    noise_scale: float = 1.0
    adc_range: float = 10.0
    activation_range: float = 10.0
    compensation: str = "none"

    def programs(
        self, net: FewshotCNN, readout_w_max: float | None, **how: Any
    ) -> tuple[object, list[Callable[[], Learner]]]:
        """What a chip is, and one call a chip that programs it; for software neither.

        Args: readout_w_max: full scale of the read-out, where the weights know it; how: as
            ``tasks.fewshot_hardware.aihwkit_chips`` takes it.
        Raises: ConfigError: an unknown choice, or an option that the hardware does not have.
        """
        check_hardware(self.hardware)
        if self.hardware == "software":
            self._refuse(ChipOptions(), "software has no devices")
            return None, []
        if self.hardware == "aihwkit":
            from ovonic.adapters.aihwkit_devices import Hardware
            from ovonic.tasks.fewshot_hardware import aihwkit_chips

            self._refuse(ChipOptions("aihwkit", self.noise_model, self.device_split), "use --hardware crossbar")
            tiles = Hardware(self.noise_model, split=self.device_split, readout_w_max=readout_w_max)
            return tiles, aihwkit_chips(net, tiles, **how)
        from ovonic.tasks.fewshot_crossbar import crossbar_chips

        chip = self.crossbar(readout_w_max)
        return chip, crossbar_chips(net, chip, **how)

    def crossbar(self, readout_w_max: float | None) -> FewshotCrossbar:
        """The crossbar's chip. Raises: ConfigError: an unknown choice."""
        from ovonic.adapters.crossbar_fewshot import FewshotCrossbar
        from ovonic.adapters.fitted_models import resolve_device_model
        from ovonic.models.periphery import Periphery
        from ovonic.models.verify import Verify

        changes: dict[str, Any] = {}
        if self.noise_scale != 1 and self.noise_model != "none":
            changes = {"prog_scale": self.noise_scale, "read_scale": self.noise_scale}
        if self.zero_targets is not None:
            changes["zero_targets"] = self.zero_targets
        model = resolve_device_model(self.noise_model, **changes)
        return FewshotCrossbar(
            model,
            Periphery(
                adc_range=self.adc_range,
                w_noise=self.noise_scale * Periphery.w_noise,
                compensation=None if self.compensation == "none" else self.compensation,
            ),
            split=self.device_split,
            verify=Verify(self.verify, TOLERANCE * model.g_max_us) if self.verify else None,
            scale=self.scale,
            activation_range=self.activation_range,
            readout_w_max=readout_w_max,
            reads=self.reads,
            readout_reads=self.reads,
        )

    def _refuse(self, default: ChipOptions, why: str) -> None:
        for name, value in vars(self).items():
            if name != "hardware" and value != getattr(default, name):
                raise ConfigError(f"--{name.replace('_', '-')} {value} with --hardware {self.hardware}: {why}")


def check_hardware(hardware: str) -> None:
    """Raises: ConfigError: a ``--hardware`` that does not exist."""
    if hardware not in HARDWARE:
        raise ConfigError(f"--hardware {hardware}: {nearest(hardware, HARDWARE)}")
