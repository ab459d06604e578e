"""The few-shot CNN on a chip of any kind: which images are read when, and whose statistics normalise them.

The clock, in seconds. Programming of the whole chip ends at 0. Adaptation takes place at 0 too: its support reads are
the first reads after programming, which the drift law puts at t_0 (g = g_prog; accumulated read noise included), and
the time that a few updates take is neglected beside t_0. Queries are read at ``read_time_s`` after the last update,
when every device, old or re-programmed, has the age ``read_time_s``.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ovonic.models.device_readout import DeviceReadout
from ovonic.models.errors import ConfigError, nearest
from ovonic.models.fewshot_cnn import FewshotCNN

__all__ = ["STATISTICS", "FewshotChip"]

STATISTICS = ("recalibrated", "stored")


class FewshotChip(ABC):
    """One draw of all devices of the network: convolutions of any age. A kind of hardware gives the two methods below.

    Attributes: net: the network that was programmed; seed: of the chip's draws; readout: the dense layer's array as
        programmed, one task.
    """

    net: FewshotCNN
    seed: int
    readout: DeviceReadout

    @abstractmethod
    def convolutions(self, read_time_s: float = 0.0) -> FewshotCNN:
        """The network with this chip's convolutions ``read_time_s`` seconds after programming ended.

        Raises: ConfigError: a negative time.
        """

    @abstractmethod
    def reseeded(self, read_time_s: float, task: int) -> FewshotCNN:
        """The same, its read noise to be drawn from (chip, task, read time) from here on."""

    @torch.no_grad()
    def features(
        self,
        support: Tensor,
        query: Tensor,
        *,
        read_time_s: float = 0.0,
        norm: str | None = None,
        statistics: str = "recalibrated",
        first_task: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Embed support images at the first read after programming, and query images at ``read_time_s``.

        Args:
            support: [tasks, S, 1, 28, 28]; query: [tasks, Q, 1, 28, 28].
            norm: overrides the network's. ``support`` with a later query needs statistics of the support set:
            statistics: ``"recalibrated"``: the support images are kept and read again beside the queries, at their
                time; ``"stored"``: the numbers measured at adaptation are kept, while the signal drifts away from them.
            first_task: number of the first task: task i's read noise is drawn from (chip, i, read time), however the
                tasks are batched (``meta-batch`` couples them, so there from the batch).
        Returns: features of the support [tasks, S, channels] and of the query [tasks, Q, channels].
        """
        norm = norm or self.net.config.norm
        if statistics not in STATISTICS:
            raise ConfigError(f"statistics {statistics!r}: {nearest(statistics, STATISTICS)}")
        if norm == "meta-batch":
            merged = [x.reshape(1, -1, *x.shape[2:]) for x in (support, query)]
            embedded = self._task(merged[0], merged[1], read_time_s, "transductive", statistics, first_task)
            return tuple(f.reshape(*x.shape[:2], -1) for f, x in zip(embedded, (support, query), strict=True))  # type: ignore[return-value]
        pairs = [
            self._task(support[i : i + 1], query[i : i + 1], read_time_s, norm, statistics, first_task + i)
            for i in range(len(support))
        ]
        return torch.cat([pair[0] for pair in pairs]), torch.cat([pair[1] for pair in pairs])

    def _task(
        self, support: Tensor, query: Tensor, read_time_s: float, norm: str, statistics: str, task: int
    ) -> tuple[Tensor, Tensor]:
        first = self.reseeded(0.0, task)
        if read_time_s == 0:
            return first.features(support, query, norm=norm)
        later = self.reseeded(read_time_s, task)
        if norm == "support" and statistics == "stored":
            return _two_ages(first, later, support.shape[1]).features(support, query, norm=norm)
        nothing = support[:, :0]
        now = first.features(support, nothing, norm="support")[0]
        if norm == "support":
            return now, later.features(support, query, norm=norm)[1]
        return now, later.features(query, nothing, norm="support")[0]


class _TwoAges(nn.Module):
    """A convolution that reads the first ``n_support`` images at one age and the rest at another (one task)."""

    def __init__(self, first: nn.Module, later: nn.Module, n_support: int) -> None:
        super().__init__()
        self.first, self.later, self.n_support = first, later, n_support

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.first(x[: self.n_support]), self.later(x[self.n_support :])])


def _two_ages(first: FewshotCNN, later: FewshotCNN, n_support: int) -> FewshotCNN:
    mixed = copy.copy(first)
    mixed._modules = dict(first._modules)
    mixed.convs = nn.ModuleList(_TwoAges(a, b, n_support) for a, b in zip(first.convs, later.convs, strict=True))
    return mixed
