"""Two processes of torchrun equal one: weights, checkpoints, draws; what would break it is seen; a lost one ends all.

Bounds on the largest difference relative to the largest entry of each tensor: 1e-12 in double precision, where only the
order of sums differs; 1e-5 in single precision after these few steps (over many, rounding alone drives runs apart).
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ovonic.commands.processes import launched
from ovonic.models.errors import ConfigError
from ovonic.models.fewshot_cnn import FewshotCNN
from ovonic.models.quantise import quantise
from ovonic.models.shared_draws import Part, normal, samples_around, uniform
from ovonic.tasks import data_parallel
from ovonic.tasks.data_parallel import ALONE, Processes, joined, world
from ovonic.tasks.fewshot_run import read_metrics
from ovonic.tasks.fewshot_training import TrainingState, meta_train
from ovonic.tasks.glyphs import glyph_alphabets

BOUNDS = {"64": 1e-12, "32": 1e-5}
CASES = Path(__file__).with_name("data_parallel_cases.py")


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("data_parallel_cases", CASES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


cases = _load()


def _torchrun(*arguments: str, processes: int = 2, **options: Any) -> subprocess.Popen[str]:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *launch, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def _difference(found: dict[str, Tensor], due: dict[str, Tensor], run: str) -> float:
    return max(float((found[f"{run}|{name}"] - w).abs().max() / w.abs().max()) for name, w in due.items())


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """Each process's weights after all trainings, and after all planted faults."""
    out = tmp_path_factory.mktemp("ranks")
    run = _torchrun(str(CASES), str(out))
    output, _ = run.communicate(timeout=900)
    assert run.returncode == 0, output
    return [load_file(out / f"rank{rank}.safetensors") for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(cases.TRAININGS))
def test_two_processes_equal_one(ranks: list[dict[str, Tensor]], name: str) -> None:
    for bits, dtype in (("64", torch.float64), ("32", torch.float32)):
        due = cases.weights(name, dtype)
        assert _difference(ranks[0], due, f"{name}|{bits}") < BOUNDS[bits]
        for key in due:
            assert torch.equal(*(rank[f"{name}|{bits}|{key}"] for rank in ranks))
        if bits == "64":
            for fault in (fault for fault, (_, training) in cases.FAULTS.items() if training == name):
                assert _difference(ranks[0], due, f"{fault}|64") > 1e3 * BOUNDS["64"], fault


def test_every_fault_is_tried_in_a_training() -> None:
    assert {training for _, training in cases.FAULTS.values()} <= set(cases.TRAININGS)


@pytest.mark.parametrize("draw", [uniform, normal])
@pytest.mark.parametrize("shape", [(6, 3), (6, 50, 7)])
def test_parts_draw_what_the_whole_draws(draw: Any, shape: tuple[int, ...]) -> None:
    whole = draw(torch.empty(shape), torch.Generator().manual_seed(5))
    rows = [2, 2, 2]
    parts = [
        draw(torch.empty(2, *shape[1:]), Part(torch.Generator().manual_seed(5), i, 3, lambda _: rows)) for i in range(3)
    ]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(draw(torch.empty(shape), torch.Generator().manual_seed(5)), whole)


def test_parts_may_have_different_numbers_of_rows() -> None:
    whole = normal(torch.empty(37, 1), torch.Generator().manual_seed(1))
    rows = [20, 0, 17]
    parts = [
        normal(torch.empty(n, 1), Part(torch.Generator().manual_seed(1), i, 3, lambda _: rows))
        for i, n in enumerate(rows)
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_rounding_of_a_part_is_that_of_the_whole() -> None:
    w = torch.rand(4, 5, generator=torch.Generator().manual_seed(0))
    whole = quantise(w, 4, "stochastic", torch.Generator().manual_seed(2))
    part = Part(torch.Generator().manual_seed(2), 1, 2, lambda n: [n, n])
    assert torch.equal(quantise(w[2:], 4, "stochastic", part), whole[2:])
    assert samples_around(part, 2) == (2, 0)
    assert samples_around(torch.Generator(), 2) == samples_around(None, 2) == (0, 0)


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_shares_are_the_batch_in_order(count: int) -> None:
    batch = range(100, 106)
    shares = [Processes(rank, count).share(batch) for rank in range(count)]
    assert [i for share in shares for i in share] == list(batch)
    assert {len(share) for share in shares} == {6 // count}


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tasks 5: 2 processes need a multiple of 2, e.g. 4"):
        Processes(0, 2).share(range(5), "tasks")
    with pytest.raises(ConfigError, match=r"batch 2: 3 processes need a multiple of 3, e.g. 3"):
        Processes(0, 3).share(range(2))


def test_one_process_is_left_as_it_is() -> None:
    generator, x = torch.Generator(), torch.ones(2, requires_grad=True)
    assert ALONE.first
    assert ALONE.source(generator) is generator
    assert ALONE.mean(x) is x
    assert ALONE.average({"loss": 0.1}) == {"loss": 0.1}
    assert (ALONE.any(True), ALONE.any(False), ALONE.gather(3), ALONE.from_first(b"x")) == (True, False, [3], b"x")
    with joined(ALONE) as processes:
        assert processes is ALONE
        assert not torch.distributed.is_initialized()


def test_the_world_is_what_torchrun_says(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
    for name, value in numbers.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert world() == ALONE
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert world() == Processes(3, 4, 1)


@pytest.mark.parametrize(("device", "seen"), [("cuda:0", 8), ("cuda", 1)])
def test_each_process_takes_a_gpu_of_its_own(device: str, seen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_parallel.torch.cuda, "device_count", lambda: seen)
    with pytest.raises(ConfigError, match=f"a GPU of its own, torch sees {seen}"), joined(Processes(1, 2, 1), device):
        pass


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for threads in /proc")
def test_no_thread_of_the_group_outlives_it(tmp_path: Path) -> None:
    """One that does is met by the end of the interpreter, which then now and then aborts."""
    script = tmp_path / "script.py"
    script.write_text(
        "import gc\n"
        "from pathlib import Path\n"
        "import torch\n"
        "from ovonic.tasks.data_parallel import joined, world\n"
        "def threads():\n"
        "    return sorted(f.read_text().strip() for f in Path('/proc/self/task').glob('*/comm'))\n"
        "with joined(world()) as processes:\n"
        "    torch.optim.Adam([torch.nn.Parameter(torch.ones(3))])\n"
        "    processes.gather(1)\n"
        "    inside = threads()\n"
        "gc.collect()\n"
        "if processes.first:\n"
        "    print('inside', any('gloo' in t for t in inside), 'after', any('gloo' in t for t in threads()))\n"
    )
    run = _torchrun(str(script))
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 0, output
    assert "inside True after False" in output


def test_a_norm_over_all_tasks_is_refused() -> None:
    config = replace(cases.FEWSHOT, network=replace(cases.FEWSHOT.network, norm="meta-batch"))
    state = TrainingState(config, FewshotCNN(config.network))
    with pytest.raises(ConfigError, match="'meta-batch' couples all tasks"):
        meta_train(state, None, glyph_alphabets(1000, 1), None, processes=Processes(0, 2))


FEWSHOT = "fewshot train {out} --glyph-alphabets 2 --way 3 --shot 2 --queries 2 --channels 8 --updates 2 --tasks 4 "
FEWSHOT += "--precision 4 --validation-tasks 4 --threads 1 --save-every 2 --quiet"
ROBOT = "robot train {out} --lsg-lif 20 --lsg-alif 10 --trainee 20 --batch 2 --validation-trajectories 2 --threads 1 "
ROBOT += "--rounding stochastic --save-every 2 --quiet"


def _command(line: str, out: Path, *more: str) -> list[str]:
    return ["-m", "ovonic", *line.format(out=out).split(), *more]


def _alone(line: str, out: Path, *more: str) -> dict[str, Tensor]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *_command(line, out, *more)], check=True, capture_output=True, env=environment)
    return load_file(out / "weights.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", [pytest.param(FEWSHOT, id="fewshot"), pytest.param(ROBOT, id="robot", marks=pytest.mark.long)]
)
def test_the_command_under_torchrun(line: str, tmp_path: Path) -> None:
    """One process: the same bits. Two: the same weights within the bound, and a resume by two is that of no stop."""
    alone = _alone(line, tmp_path / "alone", "--steps", "4")
    for name, processes in (("one", 1), ("two", 2)):
        run = _torchrun(*_command(line, tmp_path / name, "--steps", "4"), processes=processes)
        output, _ = run.communicate(timeout=900)
        assert run.returncode == 0, output
        assert output.count("weights.safetensors") == 1
        found = load_file(tmp_path / name / "weights.safetensors")
        if processes == 1:
            assert all(torch.equal(found[key], w) for key, w in alone.items())
        scale = {key: float(w.abs().max()) or 1.0 for key, w in alone.items()}
        assert max(float((found[key] - w).abs().max()) / scale[key] for key, w in alone.items()) < BOUNDS["32"]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_all_and_loses_nothing(tmp_path: Path, rank: int) -> None:
    """SIGKILL of either process: the other says so in one line and ends; the checkpoint is whole, and goes on."""
    out = tmp_path / "run"
    run = _torchrun(*_command(FEWSHOT, out, "--steps", "100000"))
    processes = _ranks(run.pid, out)
    os.kill(processes[rank], signal.SIGKILL)
    output, _ = run.communicate(timeout=300)
    assert run.returncode != 0
    assert f"error: process {1 - rank} of 2 lost another one" in output
    assert "the last checkpoint is kept" in output
    assert "a defect" not in output
    assert load_file(out / "checkpoint.safetensors")
    refused = subprocess.run(
        [sys.executable, *_command(FEWSHOT, out, "--steps", "100000", "--resume")], capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert "processes: 2 there, None asked for" in refused.stderr


def _ranks(torchrun: int, out: Path) -> dict[int, int]:
    """Process ids by rank, once there is a checkpoint."""
    deadline = time.monotonic() + 300
    while not (out / "checkpoint.safetensors").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split()
    found = {}
    for child in children:
        variables = Path(f"/proc/{child}/environ").read_text().split("\0")
        found |= {int(v.removeprefix("RANK=")): int(child) for v in variables if v.startswith("RANK=")}
    return found


@pytest.mark.slow
@pytest.mark.long
def test_an_interrupt_keeps_the_work(tmp_path: Path) -> None:
    """Ctrl-C under --processes: both stop after the same step, one of them says so, the status is 130.

    And then one process is killed: one line more, status 2, and the checkpoint is whole.
    """
    out = tmp_path / "run"
    line = _command(FEWSHOT, out, "--steps", "100000", "--save-every", "5", "--processes", "2", "--resume")
    run = _launched(line)
    assert set(_ranks(run.pid, out)) == {0, 1}
    run.send_signal(signal.SIGINT)
    output, _ = run.communicate(timeout=300)
    assert run.returncode == 130
    assert output.splitlines() == ["interrupted: what was finished is kept, nothing is half-written"]
    assert load_file(out / "checkpoint.safetensors")
    assert len(read_metrics(out)["history"]) >= 5
    (out / "checkpoint.safetensors").rename(tmp_path / "kept")
    run = _launched(line)
    os.kill(_ranks(run.pid, out)[1], signal.SIGKILL)
    output, _ = run.communicate(timeout=300)
    assert run.returncode == 2
    assert "error: process 1 of 2 was killed by SIGKILL; the last checkpoint is kept" in output
    assert load_file(out / "checkpoint.safetensors")


def _launched(line: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, *line], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_processes_are_checked_before_they_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with pytest.raises(ConfigError, match="tasks 5: 2 processes need a multiple of 2"):
        launched(2, 5, "tasks")
    assert not launched(None, 5, "tasks")
    assert not launched(1, 5, "tasks")
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert not launched(None, 8, "tasks")
    assert not launched(4, 8, "tasks")
    with pytest.raises(ConfigError, match="--processes 2: torchrun started 4"):
        launched(2, 8, "tasks")
