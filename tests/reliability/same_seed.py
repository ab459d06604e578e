"""The results of every command that draws numbers, and of the draws alone, for one number of threads.

python tests/reliability same-seed FOLDER          with OMP_NUM_THREADS set; writes FOLDER/results.json
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ovonic.__main__ import main
from ovonic.models.chip import SimulatedChip
from ovonic.models.fewshot_cnn import CNNConfig, FewshotCNN
from ovonic.models.natural_eprop import InnerLoop
from ovonic.models.natural_eprop_networks import NaturalEPropConfig, initial_pair
from ovonic.models.pcm import device_model
from ovonic.models.periphery import Periphery
from ovonic.tasks.episodes import EpisodeSpec, sample_episodes
from ovonic.tasks.glyphs import glyph_alphabets
from ovonic.tasks.trajectories import CoordinateCode, TrajectorySpec, sample_trajectories

__all__ = ["COMMANDS", "DRAWS", "write_results"]

COMMANDS = {
    "fewshot train": "fewshot train {n} --glyph-alphabets 2 --channels 8 --tasks 2 --steps 2 --validation-tasks 2",
    "fewshot evaluate": "fewshot evaluate -w cnn.safetensors --tasks 3",
    "robot train": "robot train {n} --trainee 20 --lsg-lif 20 --lsg-alif 10 --steps 2 --batch 2 "
    "--validation-trajectories 2 --rounding stochastic",
    "robot evaluate": "robot evaluate -w robot.safetensors --trajectories 3 --rounding stochastic",
    "robot evaluate --hardware crossbar": "robot evaluate -w robot.safetensors --hardware crossbar --chips 1 "
    "--trajectories 2",
    "crossbar program": "crossbar program robot.safetensors --verify 2 --stuck-low 0.01 --out {n}.h5",
    "validate eprop": "validate eprop random --networks 1 --references written-out,autograd --steps 20",
}
"""Command lines; {n}: a name of the repetition's own."""

IGNORED = ("command", "versions", "threads", "out", "seconds", "sha256", "torch", "peak_mb", "cpu_s", "wall_s", "file")


def _draws() -> dict[str, Any]:
    """What a seed alone decides, whatever computes."""
    glyphs = glyph_alphabets(1000, 2, characters=6)
    episode = sample_episodes(glyphs, EpisodeSpec(3, 2, 2, rotate=True), 0, range(3))
    movements = sample_trajectories(TrajectorySpec(dt_ms=10.0), 0, range(4))
    chip = SimulatedChip(1, device_model("pcm"), Periphery(), seed=4, rows=64, columns=64)
    cells = torch.arange(64)
    chip.program(0, cells, cells, torch.full((4, 64), 5.0))
    chip.advance(100.0)
    return {
        "glyphs": [glyphs.images],
        "episodes": [v for v in vars(episode).values() if isinstance(v, torch.Tensor)],
        "movements": [movements.omega],
        "programmed chip": [chip.states[0].g_prog, chip.states[0].nu],
        "read chip": [chip.read(0)],
    }


DRAWS = ("glyphs", "episodes", "movements", "programmed chip", "read chip")


def write_results(folder: Path, repeats: int, commands: Sequence[str] = tuple(COMMANDS)) -> None:
    """Run the draws and ``commands`` ``repeats`` times in ``folder``; ``results.json`` gets a list of digests and
    results a name."""
    os.chdir(folder)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    _make_weights()
    found: dict[str, list[Any]] = {}
    for k in range(repeats):
        for name, tensors in _draws().items():
            data = b"".join(t.contiguous().numpy().tobytes() for t in tensors)
            found.setdefault(name, []).append(hashlib.sha256(data).hexdigest())
        for name in commands:
            line = COMMANDS[name]
            status = main([*shlex.split(line.format(n=f"run{k}")), "--seed", "3", "--quiet", "--json", "r.json"])
            if status not in (0, None):
                raise RuntimeError(f"{name}: exit status {status}")
            result = _bare(json.loads(Path("r.json").read_text()))
            made = _devices(Path(f"run{k}.h5")) if "--out" in line else []
            found.setdefault(name, []).append([result, *_weights(Path(f"run{k}")), *made])
    Path("results.json").write_text(json.dumps({"threads": torch.get_num_threads(), "found": found}))


def _devices(image: Path) -> list[str]:
    """The devices of a chip's image."""
    from ovonic.adapters.crossbar_file import load_image

    data = b"".join(t.numpy().tobytes() for state in load_image(image).states for t in state)
    return [hashlib.sha256(data).hexdigest()]


def _make_weights() -> None:
    from ovonic.adapters.weights import save_fewshot
    from ovonic.adapters.weights_robot import save_robot

    config = NaturalEPropConfig(trainee=20, lsg_lif=20, lsg_alif=10)
    code = dataclasses.asdict(CoordinateCode())
    save_robot("robot.safetensors", config, initial_pair(config, 1), InnerLoop(rate=1e-2), code, {"command": "x"})
    save_fewshot(
        "cnn.safetensors", FewshotCNN(CNNConfig(channels=8), torch.Generator().manual_seed(0)), {"command": "x"}
    )


def _weights(run: Path) -> list[str]:
    """The weights that a training left, once."""
    from safetensors.torch import load_file

    path = run / "weights.safetensors"
    if not path.exists():
        return []
    data = b"".join(tensor.numpy().tobytes() for _, tensor in sorted(load_file(path).items()))
    path.unlink()
    (run / "checkpoint.safetensors").unlink()
    return [hashlib.sha256(data).hexdigest()]


def _bare(value: Any) -> Any:
    """A result without names, times and versions."""
    if isinstance(value, dict):
        named = {key: inner for key, inner in value.items() if not (key == "weights" and isinstance(inner, str))}
        return {key: _bare(inner) for key, inner in named.items() if not any(word in key for word in IGNORED)}
    return [_bare(inner) for inner in value] if isinstance(value, list) else value
