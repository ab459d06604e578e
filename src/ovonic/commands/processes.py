"""``--processes N`` of the trainings: the processes of this machine, started and ended by torch's own launcher.

What ``torchrun --standalone --nproc-per-node N -m ovonic ..`` does, with our exit status: that of the process that
failed first, 130 after Ctrl-C.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
from typing import Annotated

import typer

from ovonic.models.errors import ConfigError, ToolchainError

__all__ = ["ProcessCount", "launched"]

ProcessCount = Annotated[
    int | None,
    typer.Option(
        "--processes", min=1, help="Share each step among so many processes here; torchrun for more machines."
    ),
]


def launched(count: int | None, batch: int, what: str) -> bool:
    """Run this very command by ``count`` processes that share its batches, to their end.

    Args: batch, what: samples a step, and the option that says so.
    Returns: whether that was done; False: go on, alone or as one of the processes.
    Raises: ConfigError: a batch that cannot be shared, or another number than torchrun's. ToolchainError: a process was
        killed. typer.Exit: one failed, or Ctrl-C.
    """
    from ovonic.tasks.data_parallel import Processes, world

    here = world()
    if os.environ.get("TORCHELASTIC_RUN_ID"):
        if count not in (None, here.count):
            raise ConfigError(f"--processes {count}: torchrun started {here.count}")
        return False
    if count is None or count == 1:
        return False
    Processes(0, count).share(range(batch), what)

    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.ERROR)  # the launcher's account of signals and exits: this process does nothing else
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=secrets.token_hex(8),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "ovonic", *sys.argv[1:])
    except SignalException as ended:
        raise typer.Exit(128 + int(ended.sigval)) from None
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if failure.exitcode > 0:
            raise typer.Exit(failure.exitcode) from None
        name = signal.Signals(-failure.exitcode).name
        raise ToolchainError(
            f"process {rank} of {count} was killed by {name}; the last checkpoint is kept: start again with --resume"
        ) from None
    return True
