"""Few-shot learning on aihwkit tiles: chips to program, one after the other."""

from __future__ import annotations

from collections.abc import Callable

from ovonic.adapters.aihwkit import Chip, Hardware
from ovonic.models.fewshot_cnn import FewshotCNN
from ovonic.models.maml import Precision
from ovonic.models.seeds import derive_seed
from ovonic.tasks.fewshot import Learner
from ovonic.tasks.fewshot_chips import check_adapt_on, chip_learner, for_ways

__all__ = ["aihwkit_chips"]


def aihwkit_chips(
    net: FewshotCNN,
    hardware: Hardware,
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

    Args:
        hardware: what a chip is; n_way: classes of the tasks to come.
        read_time_s: seconds since programming ended, at which queries are read.
        precision, norm, updates: as for the software twin; the kernels are rounded once a chip.
        update_step: round each update stochastically to multiples of this; None: every changed weight is programmed.
        adapt_on, twin: where learning takes place (``tasks.fewshot_chips``).
    Raises: ToolchainError: aihwkit is missing or broken. ConfigError: unknown ``adapt_on``.
    """
    check_adapt_on(adapt_on)
    target = for_ways(net, n_way)

    def programmer(number: int) -> Callable[[], Learner]:
        def program() -> Learner:
            chip = Chip(
                target, hardware, seed=derive_seed(seed, "chip", number), precision=precision, update_step=update_step
            )
            return chip_learner(chip, updates=updates, norm=norm, read_time_s=read_time_s, adapt_on=adapt_on, twin=twin)

        return program

    return [programmer(number) for number in range(chips)]
