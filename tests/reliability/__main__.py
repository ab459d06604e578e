"""Reliability from the command line, beside the shorter runs of the tests.

    python tests/reliability fuzz READER.. --runs 100000 --engine hypothesis --seed 0 --json FOLDER
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

INSTRUMENTED = ["ovonic", "nir", "safetensors", "zipfile", "pickletools", "tomllib", "PIL"]


def main() -> int:
    """Returns: 0 where nothing was found, else 1."""
    parser = argparse.ArgumentParser(prog="python tests/reliability", description="Hostile files and kills.")
    commands = parser.add_subparsers(dest="command", required=True)
    fuzz = commands.add_parser("fuzz", help="give inputs to readers of files")
    fuzz.add_argument("readers", nargs="+", metavar="READER", help="names, or 'all', or 'list'")
    fuzz.add_argument("--runs", type=int, default=1000, help="inputs to each (default 1000)")
    fuzz.add_argument("--engine", choices=("hypothesis", "atheris"), default="hypothesis")
    fuzz.add_argument("--seed", type=int, default=0)
    fuzz.add_argument("--json", type=Path, metavar="FOLDER", help="where a result for each reader goes")
    return _fuzz(parser.parse_args())


def _fuzz(args: argparse.Namespace) -> int:
    warnings.simplefilter("ignore")
    instrument = contextlib.nullcontext()
    if args.engine == "atheris":
        import atheris  # type: ignore[import-untyped]

        instrument = atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False)
    with instrument:
        from reliability.fuzzing import fuzz
        from reliability.targets import TARGETS

        _warm(TARGETS)
    if args.readers == ["list"]:
        print("\n".join(TARGETS))
        return 0
    wrong = 0
    for name in TARGETS if args.readers == ["all"] else args.readers:
        shown = [time.monotonic()]

        def told(line: str, shown: list[float] = shown) -> None:
            if time.monotonic() - shown[0] > 10:
                shown[0] = time.monotonic()
                print(line, file=sys.stderr, flush=True)

        result = fuzz(TARGETS[name], args.runs, args.engine, args.seed, told)
        wrong += len(result["findings"])
        print(json.dumps({key: value for key, value in result.items() if key != "findings"}), flush=True)
        for finding in result["findings"]:
            print("   ", finding["what"], finding["where"], finding["says"][:200], flush=True)
        if args.json:
            args.json.mkdir(parents=True, exist_ok=True)
            (args.json / f"{name}-{args.engine}-{args.seed}.json").write_text(json.dumps(result, indent=1) + "\n")
    return int(wrong > 0)


def _warm(targets: dict) -> None:  # type: ignore[type-arg]
    """Import all that readers import when they are called, once and not in every worker."""
    import importlib

    for module in (
        "adapters.published_robot", "adapters.crossbar_imports", "adapters.measurements", "adapters.cost_files",
        "adapters.fitted_models", "tasks.omniglot", "tasks.pictures", "tasks.recordings", "tasks.robot", "commands.compare",
        "tasks.fewshot_run",
    ):  # fmt: skip
        importlib.import_module(f"ovonic.{module}")


if __name__ == "__main__":
    sys.exit(main())
