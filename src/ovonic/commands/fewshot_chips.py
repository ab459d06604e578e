"""The chips that ``ovonic fewshot`` deploys on: from the options of a command to programs of chips."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ovonic.models.errors import ConfigError, nearest

if TYPE_CHECKING:
    from ovonic.models.fewshot_cnn import FewshotCNN
    from ovonic.tasks.fewshot import Learner

__all__ = ["check_hardware", "programs_of"]

HARDWARE = ("software", "aihwkit")


def check_hardware(hardware: str) -> None:
    """Raises: ConfigError: a ``--hardware`` that does not exist."""
    if hardware not in HARDWARE:
        raise ConfigError(f"--hardware {hardware}: {nearest(hardware, HARDWARE)}")


def programs_of(
    hardware: str,
    net: FewshotCNN,
    provenance: Mapping[str, Any],
    *,
    noise_model: str,
    device_split: str,
    **how: Any,
) -> tuple[object, list[Callable[[], Learner]]]:
    """What a chip is, and one call a chip that programs it; for software neither.

    Args: how: as ``tasks.fewshot_hardware.aihwkit_chips`` takes it.
    """
    if hardware == "software":
        return None, []
    from ovonic.adapters.aihwkit_devices import Hardware
    from ovonic.adapters.weights import readout_w_max
    from ovonic.tasks.fewshot_hardware import aihwkit_chips

    chip = Hardware(noise_model, split=device_split, readout_w_max=readout_w_max(provenance))
    return chip, aihwkit_chips(net, chip, **how)
