"""Learning to learn on phase-change-memory crossbars.

    >>> import ovonic
    >>> ovonic.weights()
    >>> net = ovonic.load("fewshot-32bit")
    >>> robot = ovonic.load("robot-q16")
    >>> ovonic.compare(robot.pair.trainee).report()
    >>> ovonic.deploy(your_module, data=inputs).accuracy(inputs, labels)

Importing this costs nothing: torch, NumPy and the toolchains come in when something that needs them is used.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from ovonic.adapters.crossbar import Layout
    from ovonic.models.device_model import DeviceModel
    from ovonic.models.fewshot_cnn import FewshotCNN
    from ovonic.models.network import Network
    from ovonic.tasks.deployment import Deployment
    from ovonic.tasks.robot import Robot
    from ovonic.validation.comparison import Comparison

__all__ = ["__version__", "compare", "deploy", "load", "weights"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("ovonic")
    raise AttributeError(f"module 'ovonic' has no attribute {name!r}")


def load(source: str | Path) -> FewshotCNN | Robot:
    """Load trained networks, ready to use.

    Args:
        source: a shipped name (``ovonic.weights()``), a safetensors file, or a published checkpoint (npz, pickle).
    Returns: a few-shot classifier as a torch module in eval mode, or the robot's pair of networks
        (``robot.module()`` is their torch module, ``robot.inner`` how a lesson goes). Of either, ``.config`` says what
        it is, ``.provenance`` where its weights are from.
    Raises: WeightsError: nothing of that name, or a damaged or hostile file.
    """
    from ovonic.adapters.published import is_published, load_published
    from ovonic.adapters.weights import ROBOT, describe, locate, resolve_fewshot

    path = locate(source)
    is_robot = "W_in_lsg" in load_published(path) if is_published(path) else describe(path)["kind"] == ROBOT
    if is_robot:
        from ovonic.tasks.robot import resolve_robot

        return resolve_robot(source)
    net, provenance = resolve_fewshot(source)
    net.provenance = provenance
    return net


def compare(network: Network, toolchains: str | Collection[str] = "all", **options: Any) -> Comparison:
    """Run a network on several toolchains and judge every pair of runs: identical, different or undecidable.

    Args:
        network: the description, for example ``load("robot-q16").pair.trainee``.
        toolchains: names, or ``"all"``, which passes over those that are not installed.
        options: ``inputs``, or ``steps``, ``rate``, ``samples`` and ``seed`` of random ones; ``dtype``; ``lossy``: see
            ``ovonic.validation.comparison.compare``.
    Returns: the traces, verdicts and refusals; ``.report()`` is plain data.
    Raises: ConfigError: an unknown toolchain or a bad input; ToolchainError: a toolchain that was named is missing.
    """
    from ovonic.validation.comparison import compare

    return compare(network, toolchains, **options)


def deploy(
    module: nn.Module, layout: Layout | None = None, noise_model: str | DeviceModel = "pcm", **options: Any
) -> Deployment:
    """Program your own trained module, of torch, snnTorch or Norse, into simulated phase-change memory.

    Args:
        module: whose weights belong to linear layers and convolutions; it stays as it is.
        layout: where they go; None: made from ``data``, an example input that also sets the converters' ranges.
        noise_model: ``"pcm"``, ``"hermes"``, ``"hermes-pair"``, ``"published"``, ``"none"``, or a device model.
        options: ``data``, ``chips`` (10), ``seed``, ``read_time_s``, ``input_ranges``, ``periphery`` and more: see
            ``ovonic.tasks.deployment.deploy``.
    Returns: the layout, each chip's copy of the module, ``.accuracy(inputs, labels)`` over chips beside software,
        ``.energy()``, ``.advance(seconds)``.
    Raises: UnsupportedDynamics: names a module whose weights cannot be placed. ConfigError: options that do not fit.
    """
    from ovonic.tasks.deployment import deploy

    return deploy(module, layout, noise_model, **options)


def weights() -> list[str]:
    """Names of the weights that ship with the package."""
    from ovonic.adapters.weights import shipped

    return list(shipped())
