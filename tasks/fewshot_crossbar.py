"""Few-shot learning on the crossbar: chips to program, one after the other."""

from __future__ import annotations

from collections.abc import Callable

from ovonic.adapters.crossbar_fewshot import CrossbarChip, FewshotCrossbar
from ovonic.models.fewshot_cnn import FewshotCNN
from ovonic.models.maml import Precision
from ovonic.models.seeds import derive_seed
from ovonic.tasks.fewshot import Learner
from ovonic.tasks.fewshot_chips import check_adapt_on, chip_learner, for_ways

__all__ = ["crossbar_chips"]


def crossbar_chips(
    net: FewshotCNN,
    hardware: FewshotCrossbar | None = None,
    *,
    chips: int,
    seed: int,
    n_way: int,
    read_time_s: float = 0.0,
    updates: int | None = None,
    precision: Precision | None = None,
    norm: str | None = None,
    update_step: float | None = None,
    adapt_on: str = "device",
    twin: Learner | None = None,
) -> list[Callable[[], Learner]]:
    """Chips 0 .. chips-1 of the stream ``seed``, each programmed when it is called.

    Args: hardware: what a chip is; all else as ``tasks.fewshot_hardware.aihwkit_chips``.
    Raises: ConfigError: unknown ``adapt_on``; a network that does not fit the arrays.
    """
    check_adapt_on(adapt_on)
    target = for_ways(net, n_way)

    def programmer(number: int) -> Callable[[], Learner]:
        def program() -> Learner:
            chip = CrossbarChip(
                target, hardware, seed=derive_seed(seed, "chip", number), precision=precision, update_step=update_step
            )
            return chip_learner(chip, updates=updates, norm=norm, read_time_s=read_time_s, adapt_on=adapt_on, twin=twin)

        return program

    return [programmer(number) for number in range(chips)]
