"""The published robot checkpoint -> learning-signal generator and trainee (Ortner et al. 2025).

    published name                              weight here, [in, out] in both
    W_in_lsg, W_rec_lsg, W_out_lsg              in.weight, lsg.recurrence, out.weight of the LSG
    W_in_trainee, W_rec_trainee, W_out_trainee  in.weight, trainee.recurrence, out.weight of the trainee

The file holds weights alone; what its neurons are (how many adapt, thresholds, time constants) is ``config``.
"""

from __future__ import annotations

from pathlib import Path

from ovonic.adapters.published import load_published
from ovonic.models.errors import ConfigError, WeightsError
from ovonic.models.natural_eprop_networks import NaturalEPropConfig, Pair, lsg_network, trainee_network

__all__ = ["robot_from_published"]

NAMES = tuple(f"W_{part}_{network}" for network in ("lsg", "trainee") for part in ("in", "rec", "out"))


def robot_from_published(path: str | Path, config: NaturalEPropConfig | None = None) -> Pair:
    """Build the two networks of a published robot checkpoint, an npz or a pickle.

    Args:
        config: sizes and dynamics; the default is the paper's.
    Raises: WeightsError: refused (``load_published``), not the arrays of a robot network, or not of these sizes.
    """
    arrays = load_published(path)
    if arrays.keys() != set(NAMES):
        raise WeightsError(f"{path}: holds {', '.join(arrays)}; expected {', '.join(NAMES)}")
    lsg, trainee = (
        (arrays[f"W_in_{network}"], arrays[f"W_rec_{network}"], arrays[f"W_out_{network}"])
        for network in ("lsg", "trainee")
    )
    try:
        return Pair(lsg_network(*lsg, config), trainee_network(*trainee, config))
    except ConfigError as error:
        raise WeightsError(f"{path}: {error}") from error
