"""Reliability from the command line, beside the shorter runs of the tests.

python tests/reliability fuzz READER.. --runs 100000 --engine atheris --seed 0 --json FOLDER
python tests/reliability table FOLDER
python tests/reliability kill --kills 50 --seed 0 --json FILE
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

COMPILED = [f"ovonic.models.{name}_kernels" for name in ("engine", "noise", "array", "array_trial")]
"""What Numba compiles, and cannot where it is instrumented."""

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
    kill = commands.add_parser("kill", help="kill training and writing at random moments")
    kill.add_argument("--kills", type=int, default=50, help="of each run and of writing (default 50)")
    kill.add_argument("--seed", type=int, default=0)
    kill.add_argument("--only", nargs="+", metavar="RUN", help="fewshot, robot-ovonic, .., writing; default all")
    kill.add_argument("--json", type=Path, metavar="FILE")
    table = commands.add_parser("table", help="sum up the results of fuzz --json FOLDER")
    table.add_argument("folder", type=Path)
    same = commands.add_parser("same-seed", help="the results of commands for OMP_NUM_THREADS threads")
    same.add_argument("folder", type=Path)
    same.add_argument("--repeats", type=int, default=1)
    same.add_argument("--only", action="append", help="these commands, instead of all")
    args = parser.parse_args()
    if args.command == "same-seed":
        from reliability.same_seed import COMMANDS, write_results

        write_results(args.folder, args.repeats, args.only or tuple(COMMANDS))
        return 0
    return {"fuzz": _fuzz, "kill": _kill, "table": _table}[args.command](args)


def _kill(args: argparse.Namespace) -> int:
    warnings.simplefilter("ignore")
    import torch
    from reliability.killing import RUNS, kill_training, kill_writing

    torch.set_num_threads(1)
    results = []
    for name in args.only or (*RUNS, "writing"):
        begun = time.monotonic()
        found = kill_writing(args.kills, args.seed) if name == "writing" else kill_training(name, args.kills, args.seed)
        results.append(found | {"seconds": round(time.monotonic() - begun, 1)})
        print(json.dumps(results[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    return int(any(result["wrong"] for result in results))


def _fuzz(args: argparse.Namespace) -> int:
    warnings.simplefilter("ignore")
    instrument = contextlib.nullcontext()
    if args.engine == "atheris":
        import atheris  # type: ignore[import-untyped]

        instrument = atheris.instrument_imports(INSTRUMENTED, COMPILED, enable_loader_override=False)
    with instrument:
        from reliability.fuzzing import fuzz
        from reliability.targets import TARGETS

        _warm(TARGETS)
    if args.readers == ["list"]:
        print("\n".join(TARGETS))
        return 0
    wrong = 0
    for name in TARGETS if args.readers == ["all"] else args.readers:
        file = args.json / f"{name}-{args.engine}-{args.seed}.json" if args.json else None
        if file and file.exists():
            print(f"{file} is there: left as it is", file=sys.stderr)
            continue
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
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(result, indent=1) + "\n")
    return int(wrong > 0)


def _table(args: argparse.Namespace) -> int:
    """One line for each reader: its inputs over all results of a folder."""
    found: dict[str, list[dict]] = {}  # type: ignore[type-arg]
    for file in sorted(args.folder.glob("*-*-*.json")):
        result = json.loads(file.read_text())
        found.setdefault(result["reader"], []).append(result)
    print("| reader | inputs (atheris + Hypothesis) | read | refused | wrong | s | CPU s | peak, MB | edges |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, results in sorted(found.items()):
        by = {
            engine: sum(r["inputs"] for r in results if r["engine"] == engine) for engine in ("atheris", "hypothesis")
        }
        sums = [sum(r[key] for r in results) for key in ("accepted", "refused", "wrong", "seconds", "cpu_seconds")]
        peak, edges = max(r["peak_mb"] for r in results), max((r["edges"] or 0) for r in results)
        inputs = f"{sum(by.values()):,} ({by['atheris']:,} + {by['hypothesis']:,})"
        numbers = f"{sums[0]:,} | {sums[1]:,} | {sums[2]} | {sums[3]:.0f} | {sums[4]:.0f} | {peak} | {edges}"
        print(f"| {name} | {inputs} | {numbers} |")
    return 0


def _warm(targets: dict) -> None:  # type: ignore[type-arg]
    """Import all that readers import when they are called: once, and under the instruments of atheris."""
    import importlib

    for module in (
        "adapters.published_robot", "adapters.crossbar_imports", "adapters.measurements", "adapters.cost_files",
        "adapters.fitted_models", "tasks.omniglot", "tasks.pictures", "tasks.recordings", "tasks.robot",
        "commands.compare", "tasks.fewshot_run", "adapters.samples", "adapters.state_dicts", "adapters.torch_files",
        "validation.paper", "validation.paper_files", "validation.paper_page",
    ):  # fmt: skip
        importlib.import_module(f"ovonic.{module}")


if __name__ == "__main__":
    sys.exit(main())
