"""What every command shares: its options, its result file, its progress, its device, and Ctrl-C."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from ovonic.models.errors import ConfigError

if TYPE_CHECKING:
    import torch

__all__ = [
    "Advance",
    "Backend",
    "Device",
    "JsonFile",
    "Quiet",
    "Seed",
    "command_line",
    "file_to_write",
    "folder_to_write",
    "interruptible",
    "parse_device",
    "parse_step",
    "progress",
    "versions",
    "write_json",
]


def file_to_write(param: typer.CallbackParam, path: Path | None) -> Path | None:
    """Callback of an option that names a file to write: refuse, before any work, one that cannot be.

    Raises: ConfigError: a folder, or below what is no folder or may not be written to; option and path are named.
    """
    if path is not None and str(path) != "-":
        target = Path(os.path.realpath(path))
        if target.is_dir():
            raise ConfigError(f"{_named(param, path)}: a folder is there; name a file")
        if target.is_file() or not target.exists():  # a device or a pipe is written to as it is
            _check_folder(param, path, target.parent)
    return path


def folder_to_write(param: typer.CallbackParam, path: Path | None) -> Path | None:
    """The same of an option that names a folder to write into."""
    if path is not None:
        target = Path(os.path.realpath(path))
        if target.exists() and not target.is_dir():
            raise ConfigError(f"{_named(param, path)}: a file is there; name a folder")
        _check_folder(param, path, target)
    return path


def _check_folder(param: typer.CallbackParam, path: Path, folder: Path) -> None:
    there = next(above for above in (folder, *folder.parents) if above.exists())
    if not there.is_dir():
        raise ConfigError(f"{_named(param, path)}: {there} is a file, not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{_named(param, path)}: the folder {there} may not be written to")


def _named(param: typer.CallbackParam, path: Path) -> str:
    """An option, or an argument, and what was given."""
    return f"{param.opts[0] if param.opts[0].startswith('-') else str(param.name).upper()} {path}"


Seed = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of every random draw.")]
JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--json", metavar="FILE", help="Write the result as JSON; - for standard output.", callback=file_to_write
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")]
Device = Annotated[str, typer.Option("--device", metavar="cpu|cuda", help="Where torch computes.")]
Backend = Annotated[
    str, typer.Option("--backend", metavar="ovonic|snntorch|norse", help="Whose neurons both networks are made of.")
]

PLAIN_EVERY_S = 30.0


def command_line() -> str:
    """The command that is running, as it can be typed again."""
    return shlex.join(["ovonic", *sys.argv[1:]])


def parse_device(name: str) -> torch.device:
    """The torch device of ``--device``.

    Raises: ConfigError: no such device, or not on this machine.
    """
    import torch

    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()) or (kind == "cpu" and index):
        raise ConfigError(f"--device {name}: choose cpu, cuda or cuda:N")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"--device {name}: torch sees {torch.cuda.device_count()} CUDA devices here; use --device cpu"
        )
    return torch.device(name)


def parse_step(text: str) -> float | None:
    """The step of ``--quantise``: a number, a fraction, or none.

    Raises: ConfigError: anything else.
    """
    if text == "none":
        return None
    above, slash, below = text.partition("/")
    try:
        step = float(above) / (float(below) if slash else 1)
    except (ValueError, ZeroDivisionError):
        step = math.nan
    if not 0 < step < math.inf:
        raise ConfigError(f"--quantise {text}: give a step such as 0.0625 or 1/16, or none")
    return step


def versions(*distributions: str) -> dict[str, str]:
    """Versions of what a result depends on: ovonic, python, torch, numpy, and the ``distributions`` that were used."""
    found = {"ovonic": version("ovonic"), "python": platform.python_version()}
    for name in ("torch", "numpy", *distributions):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def write_json(
    path: Path | None,
    command: str,
    result: Mapping[str, Any],
    config: Mapping[str, Any],
    used: Mapping[str, str] | None = None,
) -> None:
    """Write the result of a command as one JSON object, in one piece; nothing without a ``path``.

    Args: path: the file, or ``-`` for standard output; all else: see ``json_result``.
    """
    if path is None:
        return
    text = json.dumps(json_result(command, result, config, used), indent=2, ensure_ascii=False) + "\n"
    if str(path) == "-":
        sys.stdout.write(text)
        return
    from ovonic.adapters.files import write_atomically

    write_atomically(path, text)


def json_result(
    command: str, result: Mapping[str, Any], config: Mapping[str, Any], used: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The result of a command as JSON has it.

    Args: command: for example ``"fewshot-evaluate"``; used: versions of what was used, by default ``versions()``.
    Returns: ``{"schema": "ovonic/<command>/1", "versions": .., "config": .., **result}``. NumPy and torch numbers and
        arrays, dataclasses and paths become JSON's own; a number that is not finite becomes null.
    """
    head = {"schema": f"ovonic/{command}/1", "versions": used or versions(), "config": config}
    found: dict[str, Any] = plain(head | dict(result))
    return found


def plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # NumPy and torch, scalar or array
        value = value.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


class Advance(Protocol):
    """Report ``steps`` more steps done, with numbers to show beside the bar."""

    def __call__(self, steps: int = 1, **shown: float | str) -> None: ...


@contextmanager
def progress(label: str, total: int, quiet: bool = False, done: int = 0) -> Iterator[Advance]:
    """Show how a long piece of work goes, on standard error: steps, time gone and left, and the numbers given.

    A terminal gets a bar; a file or a pipe gets a plain line every half minute; ``quiet`` gets nothing.

    Args:
        label: what is being done.
        total: steps in all; done: steps done before (a resumed run).
    """
    if quiet:
        yield lambda steps=1, **shown: None
    elif sys.stderr.isatty():
        with _bar(label, total, done) as advance:
            yield advance
    else:
        yield _plain_lines(label, total, done)


@contextmanager
def _bar(label: str, total: int, done: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[shown]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(label, total=total, completed=done, shown="")

        def advance(steps: int = 1, **shown: float | str) -> None:
            bars.update(task, advance=steps)
            if shown:
                bars.update(task, shown=_numbers(shown))

        yield advance


def _plain_lines(label: str, total: int, done: int) -> Advance:
    start = printed = time.monotonic()
    now_done = done

    def advance(steps: int = 1, **shown: float | str) -> None:
        nonlocal printed, now_done
        now_done += steps
        now = time.monotonic()
        if now - printed >= PLAIN_EVERY_S:
            printed = now
            left = (now - start) / max(now_done - done, 1) * (total - now_done)
            text = f"{label}: {now_done}/{total}, about {timedelta(seconds=round(left))} left"
            print("  ".join([text, _numbers(shown)]).rstrip(), file=sys.stderr, flush=True)

    return advance


def _numbers(shown: Mapping[str, float | str]) -> str:
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in shown.items()
    )


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a question answered after the step; a second one stops at once."""
    pressed: list[int] = []

    def note(signum: int, frame: object) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(signum)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
