"""Meta-training by several processes that share each batch: n of them equal one.

    batch of B samples            process i takes samples i B/n, .., (i + 1) B/n - 1, and draws what one process draws
    loss = mean_b l_b + R(mean_b r_b)    process i:  loss_i = mean of its l_b + R(rates over the whole batch)
    gradient = mean_i grad loss_i        rates averaged over the processes forward, passed straight through backward:
                                         dR/dw = R'(r) mean_i dr_i/dw, whatever R is

so that gradients, and with them Adam's moments and the weights, are those of one process but for rounding: the order
of sums. ``torchrun`` starts the processes and ends all when one is gone; ours is what happens in a step. Gradients are
averaged by an explicit all-reduce: both outer gradients are put together by hand (kernels of each task, an inner loop
that is differentiated), outside the single ``forward`` and ``backward`` that DistributedDataParallel hooks into.

Process 0 alone writes files, validates and shows progress. What decides how a run goes on (losses, a stop) is averaged
or shared in every step, so that all processes go on, or none.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ovonic.adapters.checkpoints import load_checkpoint
from ovonic.models.errors import ConfigError, OvonicError, ToolchainError
from ovonic.models.shared_draws import Part, Source

__all__ = ["ALONE", "Processes", "first_checkpoint", "joined", "world"]

PATIENCE = timedelta(hours=1)
"""How long a process waits for the others, for example while process 0 validates."""


@dataclass(frozen=True)
class Processes:
    """The processes of a training: this one's number, and how many there are.

    Attributes:
        rank: 0 .. count - 1; local_rank: the same among those of this machine, the number of its GPU.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes, validates and shows."""
        return self.rank == 0

    def share[T](self, batch: Sequence[T], what: str = "batch") -> Sequence[T]:
        """This process's equal share of a batch, in order.

        Raises: ConfigError: the batch cannot be shared equally.
        """
        if len(batch) % self.count:
            near = max(len(batch) - len(batch) % self.count, self.count)
            raise ConfigError(
                f"{what} {len(batch)}: {self.count} processes need a multiple of {self.count}, e.g. {near}"
            )
        size = len(batch) // self.count
        return batch[self.rank * size : (self.rank + 1) * size]

    def source(self, generator: torch.Generator) -> Source:
        """The generator of a whole batch's draws, as this process's share sees it."""
        return Part(generator, self.rank, self.count, self.gather) if self.count > 1 else generator

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Make every gradient the mean over the processes, in place; all processes end with the same bits."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        self._reduce(flat).div_(self.count)
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def mean(self, x: Tensor) -> Tensor:
        """The mean over the processes of a mean over samples; backward, the gradient passes to this one's as it is."""
        return x if self.count == 1 else _Mean.apply(x, self)

    def average(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """The means over the processes of numbers by name."""
        if self.count == 1:
            return dict(numbers)
        values = self._reduce(_wire(list(numbers.values()))) / self.count
        return dict(zip(numbers, values.tolist(), strict=True))

    def any(self, flag: bool) -> bool:
        """Whether any process says yes."""
        return flag if self.count == 1 else bool(self._reduce(_wire([float(flag)])).item())

    def wait(self) -> None:
        """Go on when all are here: what process 0 writes is written."""
        self.any(False)

    def gather(self, number: int) -> list[int]:
        """This number of every process, in order."""
        if self.count == 1:
            return [number]
        places = _wire([0.0] * self.count)
        places[self.rank] = number
        return [round(x) for x in self._reduce(places).tolist()]

    def from_first(self, data: bytes) -> bytes:
        """The bytes that process 0 gives, in every process."""
        if self.count == 1:
            return data
        (length, *_) = self.gather(len(data))
        buffer = torch.zeros(length, dtype=torch.uint8)
        if self.first and length:
            buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return self._from_first(buffer).cpu().numpy().tobytes() if length else b""

    def same(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors by those of process 0."""
        if self.count > 1:
            for tensor in tensors:
                tensor.data.copy_(self._from_first(tensor.data))

    def _reduce(self, x: Tensor) -> Tensor:
        with _others_are_there(self):
            dist.all_reduce(x)
        return x

    def _from_first(self, x: Tensor) -> Tensor:
        x = x.to(_place()).contiguous()
        with _others_are_there(self):
            dist.broadcast(x, 0)
        return x


ALONE = Processes()
"""A training by one process."""


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, processes: Processes) -> Tensor:
        return processes._reduce(x.clone(memory_format=torch.contiguous_format)).div_(processes.count)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def first_checkpoint(
    processes: Processes, path: Path, config: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The checkpoint ``path`` of the run ``config`` as process 0 finds it (other machines need not see the file).

    Returns: what ``load_checkpoint`` does, in every process; None where there is no file.
    Raises: what ``load_checkpoint`` does.
    """
    if processes.count == 1:
        return load_checkpoint(path, config) if path.exists() else None
    data = processes.from_first(path.read_bytes() if processes.first and path.exists() else b"")
    if not data:
        return None
    with TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(data)
        try:
            return load_checkpoint(copy, config)
        except OvonicError as error:
            raise type(error)(str(error).replace(str(copy), str(path))) from error


def world() -> Processes:
    """The processes that ``torchrun`` started, or this one alone."""
    if not dist.is_torchelastic_launched():
        return ALONE
    return Processes(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))


@contextmanager
def joined(processes: Processes, device: str = "cpu") -> Iterator[Processes]:
    """Connect the processes for the time of the block: by gloo on the CPU, by NCCL with a GPU each.

    Ctrl-C, which reaches all, ends all with exit status 130; process 0 alone says so.

    Raises: ConfigError: ``device`` names one GPU for all, or there are fewer GPUs than processes on this machine.
    """
    if processes.count == 1:
        yield processes
        return
    kind, _, index = device.partition(":")
    if kind == "cuda":
        seen = torch.cuda.device_count()
        if index or processes.local_rank >= seen:
            raise ConfigError(
                f"--device {device}: each of several processes takes a GPU of its own, torch sees {seen} here: give "
                "--device cuda, and at most as many processes a machine"
            )
        torch.cuda.set_device(processes.local_rank)
    # What torch imports later, with the first optimiser, has the group of its time of import as a default argument: it
    # would keep the group and its threads beyond their end, and the interpreter abort on them.
    importlib.import_module("torch.distributed.nn.functional")
    dist.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield processes
    except KeyboardInterrupt:
        if processes.first:
            raise
        raise SystemExit(130) from None
    finally:
        dist.destroy_process_group()


@contextmanager
def _others_are_there(processes: Processes) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        said = re.sub(r"^\[[^\]]*\]\s*", "", str(error).splitlines()[0])  # gloo's file and line
        raise ToolchainError(
            f"process {processes.rank} of {processes.count} lost another one, which was killed or says why itself "
            f"({said[:100]}); the last checkpoint is kept: start all again with --resume"
        ) from error


def _place() -> str:
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


def _wire(numbers: Sequence[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64, device=_place())
