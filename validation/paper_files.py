"""Result files of our commands as one result, in which the paper's rows look for their numbers.

    fewshot/.. robot/.. gradients/.. simulators/..   as ``ovonic reproduce`` writes them (gradients also from
                                                     ``ovonic validate eprop``)
    hardware/conditions/NAME    ``ovonic validate hardware``, each condition under its name, with its size and seed
    evaluations/NAME            ``ovonic fewshot evaluate`` and ``ovonic robot evaluate``, see ``evaluation_name``
    cost/fewshot, cost/robot    ``ovonic crossbar cost``
    chips/SOURCE-DEVICES        ``ovonic crossbar inspect``
    measured/NAME               ``ovonic validate paper --measure NAME``

Where two files hold the same place, the one of more chips times tasks stays, and the later one among equals. A file
with a checksum (``adapters.sealed_json``) is read only if that fits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ovonic.adapters.sealed_json import SEAL, read_sealed
from ovonic.models.errors import DataError

__all__ = ["READ", "by_name", "evaluation_name", "gather", "load", "result_files", "written"]

Result = dict[str, Any]

HEAD = ("schema", "versions", "written", SEAL)
"""What a file says of itself."""


def gather(sources: Iterable[str | Path]) -> Result:
    """Read files, or all ``.json`` files of folders, into one result; ``sources`` in it says what was read.

    A folder without such a file stands for the folders in it.

    Raises: DataError: a file that cannot be read, or that none of the commands in ``READ`` wrote.
    """
    result: Result = {"sources": []}
    for path, name in result_files(sources):
        found = load(path)
        schema = str(found["schema"])
        config = found.get("config") if isinstance(found.get("config"), Mapping) else {}
        try:
            for place, value in READ[schema](found):
                _put(result, place, value)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DataError(
                f"{path}: says {schema}, but lacks what such a result holds ({error!r}): write it anew"
            ) from error
        command = (config or {}).get("command") or found.get("command") or ""
        said = str(command).encode(errors="replace").decode()
        result["sources"].append({"file": name, "schema": schema, "written": written(found, path), "command": said})
    return result


def result_files(sources: Iterable[str | Path]) -> Iterator[tuple[Path, str]]:
    """Every file of ``sources``, and its name with that of the folder that it was found in.

    Raises: DataError: a folder without any.
    """
    for source in map(Path, sources):
        if source.is_dir():
            inside = sorted(source.glob("*.json")) or sorted(source.glob("*/*.json"))
            if not inside:
                raise DataError(f"{source}: no .json file in this folder: give result files or their folder")
            yield from ((path, f"{path.resolve().parent.name}/{path.name}") for path in inside)
        else:
            yield source, source.name


def load(path: Path) -> Result:
    """A result as it was written.

    Raises: DataError: no file, no JSON, of a schema that the table cannot use, or edited since it was sealed.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}): give a result file of ours") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no JSON ({error}): give what a command wrote with --json") from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if not isinstance(schema, str) or schema not in READ:
        known = ", ".join(sorted(schema.removeprefix("ovonic/").rsplit("/", 1)[0] for schema in READ))
        said = "names no schema" if schema is None else f"has the schema {schema!r}"
        raise DataError(f"{path}: {said}, which the paper's table cannot use; it takes the results of {known}")
    return read_sealed(path) if SEAL in found else dict(found)


def written(found: Mapping[str, Any], path: Path) -> str:
    """The day of a result: as it says itself, or of its file."""
    said = found.get("written")
    return said if isinstance(said, str) else datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat()


def by_name(text: str) -> str:
    """A text with the user's data files by name alone, without their folders."""
    return re.sub(r"[^\s]*/([\w.-]+\.(?:zip|npz|pickle))\b", r"\1", text)


def _put(result: Result, place: str, value: Any) -> None:
    *above, last = place.split("/")
    for step in above:
        result = result.setdefault(step, {})
    if last not in result or _size(value) >= _size(result[last]):
        result[last] = value


def _size(value: Any) -> float:
    """Chips times tasks of a report; 0 where it has none."""
    if not isinstance(value, Mapping):
        return 0.0
    tasks = value.get("tasks", value.get("trajectories", 0))
    chips = value["hardware"].get("chips") if isinstance(value.get("hardware"), Mapping) else value.get("chips")
    count = chips.get("n", 1) if isinstance(chips, Mapping) else 1
    return float(tasks) * float(count) if isinstance(tasks, int | float) else 0.0


def _reproduced(found: Result) -> Iterator[tuple[str, Any]]:
    for part in ("fewshot", "robot", "gradients", "simulators"):
        for name, value in (found.get(part) or {}).items():
            yield f"{part}/{name}", value
    size = {"size": found.get("config", {}).get("size"), "seed": found.get("config", {}).get("seed")}
    for name, report in ((found.get("hardware") or {}).get("conditions") or {}).items():
        yield f"hardware/conditions/{name}", dict(report) | {"config": size}


def _condition(found: Result) -> Iterator[tuple[str, Any]]:
    from ovonic.validation.hardware_conditions import Condition

    name = Condition(**found["config"]["condition"]).name
    yield f"hardware/conditions/{name}", {k: v for k, v in found.items() if k not in HEAD}


def _study(found: Result) -> Iterator[tuple[str, Any]]:
    size = {name: found["config"][name] for name in ("size", "seed")}
    for name, report in found["conditions"].items():
        yield f"hardware/conditions/{name}", dict(report) | {"config": size}


def _eprop(found: Result) -> Iterator[tuple[str, Any]]:
    network = found["config"]["network"]
    where = "references" if network == "random" else f"natural/{_stem(network)}"
    for name, row in found["references"].items():
        yield f"gradients/{where}/{name}", row
    if sweep := found["bptt"]["sweep"]:
        yield "gradients/bptt", {"cosine": min(b["cosine"] for b in sweep)}


def _evaluation(found: Result) -> Iterator[tuple[str, Any]]:
    yield f"evaluations/{evaluation_name(found['schema'], found['config'])}", found


def _cost(found: Result) -> Iterator[tuple[str, Any]]:
    names = ("counts", "estimates", "meta_training_j", "scratch_j", "break_even", "costs")
    yield f"cost/{found['config']['experiment']}", {name: found[name] for name in names}


def _chip(found: Result) -> Iterator[tuple[str, Any]]:
    layers = {layer["name"].removesuffix(".weight").replace(".", "_"): layer for layer in found["layers"]}
    name = f"{_stem(found['provenance']['source'])}-{found['device']['name']}"
    yield f"chips/{name}", dict(found) | {"layers": layers, "arrays": len(found["arrays"])}


def _measured(found: Result) -> Iterator[tuple[str, Any]]:
    for name, value in found["measured"].items():
        for weights, report in value.items() if name == "still" else [("", value)]:
            yield f"measured/{name}/{weights}".rstrip("/"), report


READ: dict[str, Callable[[Result], Iterator[tuple[str, Any]]]] = {
    "ovonic/reproduce/1": _reproduced,
    "ovonic/validate-hardware-condition/1": _condition,
    "ovonic/validate-hardware/1": _study,
    "ovonic/validate-eprop/1": _eprop,
    "ovonic/validate-paper/1": _measured,
    "ovonic/fewshot-evaluate/1": _evaluation,
    "ovonic/robot-evaluate/1": _evaluation,
    "ovonic/crossbar-cost/1": _cost,
    "ovonic/crossbar-inspect/1": _chip,
}
"""Schemas that are read, and what puts a file's numbers into place."""


def evaluation_name(schema: str, config: Mapping[str, Any]) -> str:
    """Under which name an evaluation stands: weights, data or family, task or rounding, hardware.

    For example ``fewshot-32bit-omniglot-5w5s-software`` and ``robot-q16-consistent-0.0625-stochastic-crossbar-pcm-0s``
    (then ``-global`` or ``-column`` for the compensation of drift); settings other than the usual follow.
    """
    parts = [_stem(config["weights"]["source"])]
    hardware = config.get("hardware", "software")
    more: list[str] = []
    if schema == "ovonic/fewshot-evaluate/1":
        episode, bits = config["episode"], config["precision"]["bits"]
        parts += [config["data"].split(":")[0].split("+")[0], f"{episode['n_way']}w{episode['k_shot']}s"]
        usual = {"norm": "support", "updates": 4, "adapt_on": "device"}
        more += [
            str(config[name]) + ("updates" if name == "updates" else "")
            for name, value in usual.items()
            if config.get(name, value) != value
        ]
        more += [f"{bits}bit"] if bits != config["weights"].get("precision", 32) else []
    else:
        inner = config["inner"]
        parts += [config["family"]]
        parts += ["unrounded"] if inner["step"] is None else [f"{inner['step']:g}", inner["rounding"]]
        more += [f"{inner['updates']}updates"] if inner["updates"] != 1 else []
    parts.append(hardware)
    if hardware != "software":
        chip = config["chip"]
        seconds = config.get("read_time_s", chip.get("read_time_s", 0.0))
        parts += [config["noise_model"], f"{seconds:.0f}s"]
        compensation = (chip.get("periphery") or {}).get("compensation")
        parts += [compensation] if compensation not in (None, "none") else []
    return "-".join([*parts, *more])


def _stem(source: str) -> str:
    """A file's name without ending, a shipped name as it is."""
    return Path(source).stem
