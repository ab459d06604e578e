"""Learning to learn on phase-change-memory crossbars.

    >>> import ovonic
    >>> ovonic.weights()
    >>> net = ovonic.load("fewshot-32bit")

Importing this costs nothing: torch, NumPy and the toolchains come in when something that needs them is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ovonic.models.fewshot_cnn import FewshotCNN

__all__ = ["__version__", "load", "weights"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("ovonic")
    raise AttributeError(f"module 'ovonic' has no attribute {name!r}")


def load(source: str | Path) -> FewshotCNN:
    """Load a trained network, ready to use.

    Args:
        source: a shipped name (``ovonic.weights()``), a safetensors file, or a published checkpoint (npz, pickle).
    Returns: the network in eval mode; ``net.config`` says what it is, ``net.provenance`` where its weights are from.
    Raises: WeightsError: nothing of that name, or a damaged or hostile file.
    """
    from ovonic.adapters.weights import resolve_fewshot

    net, provenance = resolve_fewshot(source)
    net.provenance = provenance
    return net


def weights() -> list[str]:
    """Names of the weights that ship with the package."""
    from ovonic.adapters.weights import shipped

    return list(shipped())
