"""Does each toolchain work on this machine? One real operation in each, in a process of its own.

Importing proves nothing: aihwkit imports beside a torch that its C++ tiles cannot use. So every check runs the
operation and compares the result with a closed form; and a crash, a missing symbol or chatter on standard output
costs only the line of the toolchain that did it. ``diagnose`` turns versions and an error text into a cure.
"""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from ovonic.models.errors import ConfigError, nearest

__all__ = ["CHECKS", "Check", "Finding", "check_names", "diagnose", "examine", "examine_all"]

TESTED = '"aihwkit==1.2.0" "torch==2.15.0" torchvision'


@dataclass(frozen=True)
class Check:
    """One toolchain: what it is called by Python and by pip, and what is run."""

    module: str
    distribution: str
    what: str
    run: Callable[[], None]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: of the toolchain; version: installed, None where pip knows none.
        verdict: ``"works"``, ``"broken"`` or ``"absent"``.
        what: the operation; seconds: wall time of the check with its imports.
        error: last line of the failure; cure: what to do about it.
    """

    name: str
    version: str | None
    verdict: str
    what: str
    seconds: float
    error: str | None = None
    cure: str | None = None


def _agree(name: str, got: float, expected: float, tolerance: float = 1e-6) -> None:
    if not abs(got - expected) <= tolerance:
        raise ArithmeticError(f"{name} is {got}, expected {expected} within {tolerance}")


def _torch() -> None:
    import torch

    a = torch.arange(6.0).reshape(2, 3).requires_grad_()
    b = torch.arange(12.0).reshape(3, 4)
    (a @ b).sum().backward()
    assert a.grad is not None
    _agree("gradient of a matrix product", float((a.grad - b.sum(1)).abs().max()), 0.0)


def _torchvision() -> None:
    import torch
    import torchvision

    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0], [2.0, 2.0, 3.0, 3.0]])
    kept = torchvision.ops.nms(boxes, torch.tensor([1.0, 0.5, 0.3]), 0.5)  # compiled: fails beside a foreign torch
    _agree("boxes kept of three", len(kept), 2)


def _aihwkit() -> None:
    import torch
    from aihwkit.inference import HermesNoiseModel, PCMLikeNoiseModel
    from aihwkit.nn import AnalogLinear
    from aihwkit.simulator.configs import InferenceRPUConfig, TorchInferenceRPUConfig

    w = torch.linspace(-1, 1, 64 * 32).sin().reshape(32, 64)
    x = torch.linspace(-1, 1, 16 * 64).cos().reshape(16, 64)
    exact = x @ w.T
    for config_class, noise in (
        (TorchInferenceRPUConfig, PCMLikeNoiseModel),
        (TorchInferenceRPUConfig, HermesNoiseModel),
        (InferenceRPUConfig, PCMLikeNoiseModel),
    ):
        kind = f"{config_class.__name__} with {noise.__name__}"
        try:
            config = config_class()
            config.noise_model = noise()
            layer = AnalogLinear(64, 32, bias=False, rpu_config=config)
            layer.set_weights(w)
            layer.eval()
            outputs = [layer(x)]
            layer.program_analog_weights()
            outputs.append(layer(x))
            layer.drift_analog_weights(86400.0)
            outputs.append(layer(x))
        except Exception as error:
            raise RuntimeError(f"{kind}: {error}") from error
        for step, y in zip(("forward", "after programming", "after a day's drift"), outputs, strict=True):
            _agree(f"{kind}: relative error {step}", float((y - exact).norm() / exact.norm()), 0.0, 0.5)
        if torch.equal(outputs[1], outputs[2]):
            raise ArithmeticError(f"{kind}: a day's drift changed nothing")


def _snntorch() -> None:
    import snntorch
    import torch

    spikes, membrane = snntorch.Leaky(beta=0.9, threshold=1.0)(torch.tensor([1.5, 0.2]), torch.tensor([0.0, 0.5]))
    for got, expected in zip([*spikes.tolist(), *membrane.tolist()], [1.0, 0.0, 1.5, 0.65], strict=True):
        _agree("spike or membrane of Leaky", got, expected)


def _norse() -> None:
    import norse.torch
    import torch

    _, state = norse.torch.LIFBoxCell()(torch.ones(1, 2))
    _agree("membrane of LIFBoxCell", state.v[0, 0].item(), 0.1)  # dt tau_mem_inv input = 0.001 x 100 x 1


def _brian2() -> None:
    import brian2

    brian2.prefs.codegen.target = "numpy"  # no compiler needed
    group = brian2.NeuronGroup(
        1, "dv/dt = -v / (20*ms) : 1", threshold="v > 1", reset="v -= 1", method="exact", name="ovonic_doctor"
    )
    group.v = 1.5
    brian2.Network(group).run(0.1 * brian2.ms)
    _agree("membrane after one step and a reset", float(group.v[0]), 1.5 * math.exp(-0.1 / 20) - 1, 1e-12)


def _nest() -> None:
    import nest

    nest.ResetKernel()
    parameters = {"E_L": 0.0, "V_m": 5.0, "V_th": 20.0, "V_reset": 0.0, "tau_m": 10.0}
    neuron = nest.Create("iaf_psc_delta", params=parameters)
    nest.Simulate(1.0)
    _agree("membrane after 1 ms", neuron.V_m, 5.0 * math.exp(-0.1), 1e-12)


def _braintrace() -> None:
    from typing import Any

    import brainstate
    import braintrace
    import jax.numpy as jnp

    class Leak(brainstate.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = brainstate.ParamState(jnp.full((1, 1), 0.5))

        def init_state(self, batch_size: int | None = None, **options: Any) -> None:
            self.v = brainstate.HiddenState(jnp.zeros((1, 1)))

        def update(self, x: Any) -> Any:
            self.v.value = self.v.value / 2 + braintrace.matmul(x, self.w.value)
            return self.v.value

    x = jnp.full((2, 1, 1), 3.0)
    learner: Any = braintrace.compile(Leak(), braintrace.EProp, x[0], batch_size=1)
    gradients = learner.etrace_grad(x, step_fn=lambda now: jnp.sum(learner(now)), reduction="sum")
    _agree("gradient of EProp over two steps", float(gradients["w",][0, 0]), 3 + (3 / 2 + 3))


CHECKS: dict[str, Check] = {
    "torch": Check("torch", "torch", "matrix product and its gradient", _torch),
    "torchvision": Check("torchvision", "torchvision", "compiled non-maximum suppression", _torchvision),
    "aihwkit": Check(
        "aihwkit", "aihwkit", "forward, program, drift: torch tile (PCMLike, Hermes) and C++ tile (PCMLike)", _aihwkit
    ),
    "snntorch": Check("snntorch", "snntorch", "one step of Leaky", _snntorch),
    "norse": Check("norse", "norse", "one step of LIFBoxCell", _norse),
    "brian2": Check("brian2", "brian2", "one step of a LIF neuron with a reset", _brian2),
    "nest": Check("nest", "nest-simulator", "1 ms of iaf_psc_delta", _nest),
    "braintrace": Check("braintrace", "braintrace", "two steps of EProp, in JAX", _braintrace),
}


def check_names(names: Iterable[str]) -> list[str]:
    """The given toolchains, each once.

    Raises: ConfigError: one is unknown.
    """
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        if name not in CHECKS:
            raise ConfigError(f"toolchain {name!r}: {nearest(name, CHECKS)}")
    return wanted


def examine_all(names: Sequence[str], timeout_s: float = 180.0) -> Iterator[Finding]:
    """Examine toolchains, two at a time, in the order given."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield from pool.map(lambda name: examine(name, timeout_s), names)


def examine(name: str, timeout_s: float = 180.0) -> Finding:
    """Run one toolchain's check in a process of its own and judge what came of it."""
    check = CHECKS[name]
    installed = _versions([check.distribution, "torch", "numpy"])
    own = installed.get(check.distribution)
    start = time.monotonic()
    if find_spec(check.module) is None:
        cure = diagnose(name, installed, f"No module named {check.module!r}")
        verdict = "broken" if name == "torch" else "absent"
        return Finding(name, own, verdict, "nothing: not installed", 0.0, cure=cure)
    failure = _run_apart(name, timeout_s)
    seconds = round(time.monotonic() - start, 2)
    if failure is None:
        return Finding(name, own, "works", check.what, seconds)
    last = [line.strip() for line in failure.splitlines() if line.strip()][-1][:500]
    return Finding(name, own, "broken", check.what, seconds, last, diagnose(name, installed, failure))


def _versions(distributions: Iterable[str]) -> dict[str, str]:
    found = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _run_apart(name: str, timeout_s: float) -> str | None:
    """Run ``_child(name)`` with this process's import path; return None, or the text of the failure."""
    program = "import sys; sys.path[:] = sys.argv[3:]; from ovonic.doctor import _child; _child(*sys.argv[1:3])"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        output = Path(folder, "output.txt")
        command = [sys.executable, "-P", "-c", program, name, str(report), *sys.path]
        with output.open("wb") as chatter:
            try:
                status = subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=chatter, stderr=chatter, timeout=timeout_s
                ).returncode
            except subprocess.TimeoutExpired:
                return f"timed out after {timeout_s:g} s"
        if report.exists():
            return json.loads(report.read_text())
        end = f"died of {signal.Signals(-status).name}" if status < 0 else f"ended early with exit status {status}"
        return f"{output.read_text(errors='replace')}\n{end}"


def _child(name: str, report: str) -> None:
    """The other side of ``_run_apart``: leave the verdict in a file, whatever the toolchain prints."""
    try:
        CHECKS[name].run()
        failure = None
    except Exception as error:
        causes, cause = [], error.__cause__ or error.__context__
        while cause is not None:
            causes.append(f"{type(cause).__name__}: {cause}")
            cause = cause.__cause__ or cause.__context__
        failure = "\n".join([*reversed(causes), f"{type(error).__name__}: {' '.join(str(error).split())}"])
    Path(report).write_text(json.dumps(failure))


def _release(version_text: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version_text or "")[:2])


def diagnose(toolchain: str, versions: Mapping[str, str], error_text: str) -> str:
    """Name the cure of a toolchain that failed.

    Args:
        toolchain: a key of ``CHECKS``.
        versions: by distribution (and ``"python"``), as far as they are known.
        error_text: what the failure said.
    Returns: one sentence with the command to run.
    """
    check = CHECKS[toolchain]
    extra = "omniglot" if toolchain == "torchvision" else toolchain
    again = f"pip install --force-reinstall --no-deps {check.distribution}"
    missing_itself = re.search(rf"No module named '{check.module}'", error_text)
    if missing_itself and toolchain == "torch":
        return "torch is part of every Ovonic: pip install --force-reinstall ovonic"
    if missing_itself and check.distribution not in versions:
        python = versions.get("python", "3.12")
        if toolchain == "aihwkit" and python not in ("3.12", "3.13"):
            return f"aihwkit 1.2.0 has wheels for Python 3.12 and 3.13 only, this is {python}: use one of them"
        return f'pip install "ovonic[{extra}]"'
    if "timed out" in error_text:
        return "try again on a quiet machine, or give it longer: ovonic doctor --timeout 600"
    if toolchain == "aihwkit":
        if _ABI.search(error_text) or "died of SIG" in error_text:
            pair = f"aihwkit {versions.get('aihwkit', '?')} and torch {versions.get('torch', '?')}"
            return f"{pair} do not fit (C++ tiles are bound to one torch ABI): pip install --upgrade {TESTED}"
        return f"install the tested pair: pip install --upgrade {TESTED}"
    if toolchain == "brian2":
        old = _release(versions.get("brian2")) < (2, 10) and _release(versions.get("numpy")) >= (2, 4)
        if "ptp" in error_text or old:
            which = f"Brian2 {versions.get('brian2', '?')} calls what numpy {versions.get('numpy', '?')} no longer has"
            return f'{which}: pip install --upgrade "brian2>=2.10.1" (Python 3.12 or newer)'
    if re.search(r"torchvision::|undefined symbol.*(torch|c10)", error_text):
        return f"torchvision belongs to another torch than {versions.get('torch', '?')}: pip install --upgrade {TESTED}"
    if re.search(r"numpy\.dtype size changed|compiled using NumPy 1|_ARRAY_API not found", error_text):
        return f"{check.distribution} was built for another numpy: pip install --upgrade {check.distribution}"
    if missing := re.search(r"No module named '([\w.]+)'", error_text):
        return f"it lacks the module {missing[1]!r}: pip install --force-reinstall {check.distribution}"
    return f"reinstall it and look again: {again}; ovonic doctor {toolchain}"


_ABI = re.compile(r"tensor does not have a device|must be a CPU tensor|Invalid weights dimensions|undefined symbol")
