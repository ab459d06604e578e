"""The nearest layers for readers of NIR: what a network becomes where the caller gives up a feature by name.

    word of consent    the layer becomes one
    adaptation         whose threshold does not rise with its spikes
    refractory         that may spike in every step
    comparison         that spikes where v > threshold
    reset              whose spike sets the membrane to 0 in the same step
    v_reset            likewise
    rest               that decays to 0
    v_init             that starts where it rests
    delay              that feeds back after one step

Only what ``nir_forms`` says a reader does not do is given up, and only where the caller names it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from ovonic.adapters.nir_forms import FORMS
from ovonic.adapters.toolchains import Unsupported, approximate
from ovonic.models.dynamics import Comparison, Refractory, ResetToValue, SubtractAdapted, SubtractThreshold, When
from ovonic.models.errors import ConfigError, nearest
from ovonic.models.layers import Layer, Readout, Spiking
from ovonic.models.network import Network

__all__ = ["CONSENTS", "approximate_for", "unsupported_by"]


def approximate_for(
    convention: str | None, network: Network, lossy: Collection[str]
) -> tuple[Network, tuple[str, ...]]:
    """The nearest network that a form of ``nir_forms.FORMS`` says, giving up only what ``lossy`` names.

    Returns: the network to write, and a line for each loss; the network itself and nothing if all of it is said.
    Raises: UnsupportedDynamics: something else is not said. ConfigError: an unknown convention or word.
    """
    for word in lossy:
        if word not in CONSENTS:
            raise ConfigError(f"lossy {word!r}: {nearest(word, CONSENTS)}")
    if convention not in FORMS:
        raise ConfigError(f"convention {convention!r}: {nearest(str(convention), [name for name in FORMS if name])}")
    form = SimpleNamespace(__name__="NIR", unsupported=lambda network: unsupported_by(convention, network))
    return approximate(form, network, lossy)


def unsupported_by(convention: str | None, network: Network) -> list[Unsupported]:
    """What a form does not say, each with the nearest layer that it says in this respect, where there is one."""
    return [_with_nearest(found, network.layers.get(found.layer)) for found in FORMS[convention].unsupported(network)]


def _with_nearest(found: Unsupported, layer: Layer | None) -> Unsupported:
    if found.instead is not None or found.consent not in CONSENTS:
        return found
    try:
        near = CONSENTS[found.consent](layer)
    except ConfigError:  # a reset to 0 may lie above the threshold
        return found
    return found if near is None else replace(found, instead=near[0], loss=near[1])


Near = tuple[Layer, str] | None
"""A layer, and what differs then; None: there is none."""


def _changed(layer: Layer | None, loss: str, **changes: Any) -> Near:
    if isinstance(layer, Spiking):
        return layer.replace(dynamics=layer.dynamics.replace(**changes)), loss
    return (layer.replace(**changes), loss) if isinstance(layer, Readout) else None


def _adaptation(layer: Layer | None) -> Near:
    if not isinstance(layer, Spiking):
        return None
    changes: dict[str, Any] = {"adaptation": None}
    if isinstance(reset := layer.dynamics.reset, SubtractAdapted):
        changes["reset"] = SubtractThreshold(reset.when)
    return _changed(layer, "the threshold does not rise with its spikes", **changes)


def _refractory(layer: Layer | None) -> Near:
    return _changed(layer, "its neurons may spike in every step", refractory=Refractory())


def _comparison(layer: Layer | None) -> Near:
    return _changed(layer, "a membrane that just meets its threshold does not spike", comparison=Comparison.GREATER)


def _reset(layer: Layer | None) -> Near:
    loss = "a spike sets the membrane to 0 in the same step"
    return _changed(layer, loss, reset=ResetToValue(0.0, When.SAME_STEP))


def _rest(layer: Layer | None) -> Near:
    owner: Any = layer.dynamics if isinstance(layer, Spiking) else layer
    if not isinstance(layer, Spiking | Readout):
        return None
    at_rest = np.all(np.equal(owner.v_init, owner.rest))
    return _changed(layer, "the membrane decays to 0", rest=0.0, **({"v_init": 0.0} if at_rest else {}))


def _v_init(layer: Layer | None) -> Near:
    owner: Any = layer.dynamics if isinstance(layer, Spiking) else layer
    if not isinstance(layer, Spiking | Readout):
        return None
    start = 0.0 if np.all(np.equal(owner.decay, 1)) else owner.rest
    return _changed(layer, "the membrane starts where it rests", v_init=start)


def _delay(layer: Layer | None) -> Near:
    if not isinstance(layer, Spiking) or layer.recurrence is None:
        return None
    return layer.replace(recurrence=layer.recurrence.replace(delay=1)), "it feeds back after one step"


CONSENTS: dict[str, Callable[[Layer | None], Near]] = {
    "adaptation": _adaptation,
    "refractory": _refractory,
    "comparison": _comparison,
    "reset": _reset,
    "v_reset": _reset,
    "rest": _rest,
    "v_init": _v_init,
    "delay": _delay,
}
"""The words of consent."""
