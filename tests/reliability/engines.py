"""Where inputs come from: Hypothesis (structured changes of valid files) or atheris (guided by coverage)."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from .mutate_bytes import MAX_INPUT
from .targets import Target

__all__ = ["ENGINES", "coverage", "run_atheris", "run_hypothesis"]

ENGINES = ("hypothesis", "atheris")
Give = Callable[[bytes], bool]


def run_hypothesis(
    target: Target, corpus: tuple[bytes, ...], give: Give, runs: int, seed_: int, shrink: bool = False
) -> None:
    """Give ``runs`` inputs.

    Args: shrink: every draw is Hypothesis' own, and a failing input is made small and raised; slower.
    """
    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)

    @seed(seed_)
    @settings(max_examples=runs, deadline=None, database=None, phases=phases, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=not shrink))
    def inner(rng: Random) -> None:
        right = give(target.made(rng, corpus))
        assert right or not shrink

    inner()


def run_atheris(target: Target, corpus: tuple[bytes, ...], give: Give, runs: int, seed_: int, folder: Path) -> None:
    """Give ``runs`` inputs and end the process, as libFuzzer does; what it says goes to ``folder/libfuzzer.txt``.

    The project's modules must have been imported under ``atheris.instrument_imports``.
    """
    import atheris  # type: ignore[import-untyped]

    seeds = folder / "corpus"
    seeds.mkdir(exist_ok=True)
    for k, data in enumerate(dict.fromkeys(corpus)):
        (seeds / f"seed{k}").write_bytes(data)

    def mutate(data: bytes, limit: int, number: int) -> bytes:
        rng = Random(number)
        kind = rng.randint(0, 9)
        if kind == 0:
            return bytes(atheris.Mutate(data, limit))
        return (target.made(rng, corpus) if kind <= 2 else target.mutate(rng, data))[:limit]

    log = os.open(folder / "libfuzzer.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    options = (
        "-timeout=120",
        "-rss_limit_mb=2048",
        f"-artifact_prefix={folder}/",
        "-handle_segv=0",
        "-handle_abrt=0",
        "-handle_bus=0",
        "-handle_fpe=0",
    )
    atheris.Setup(
        [sys.argv[0], str(seeds), f"-runs={runs}", f"-seed={seed_ + 1}", f"-max_len={MAX_INPUT}", *options],
        lambda data: give(data) and None,
        custom_mutator=mutate,
    )
    atheris.Fuzz()


def coverage(folder: Path) -> int | None:
    """Edges of instrumented code that libFuzzer saw last; None without it."""
    log = folder / "libfuzzer.txt"
    found = re.findall(r"cov: (\d+)", log.read_text(errors="replace")) if log.exists() else []
    return int(found[-1]) if found else None
