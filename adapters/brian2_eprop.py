"""One episode of e-prop with eligibility traces computed inside Brian2, by Brian2's own equations.

The network is the one of ``adapters.brian2``. Beside it stand, for the neurons j of the spiking layer, a NeuronGroup
``learner`` that reads their membrane and threshold and has the slope psi and the learning signal L; and for every
matrix of weights, Synapses from what it reads to the learner, one a weight, with the variables

    zbar  = alpha zbar + gain arrived         arrived: raised by each presynaptic spike (by its value, of an input)
    elig  = psi_post (zbar - beta epsb)       the eligibility e[t]
    epsb  = decay_b epsb + c elig             c = 1, or decay_b where a fresh spike decays too
    ebar  = kappa ebar + elig
    G     = G + L_post ebar                   of read-outs: zbar = kappa zbar + gain arrived,
                                              G + err_post zbar

L_post is ``summed``: feedback times the error of the read-outs, err = gate (y - target), in Brian2 too. With given
learning signals there is no filter by a read-out: ebar = elig. What is read at the end is G, one number a synapse.

In a step: inputs and spikes arrive, membranes move (the layer's slot ``groups``), psi and e (right after, before the
spike is tested), read-outs move, err, L, G (``end``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovonic.adapters import brian2
from ovonic.adapters.brian2_building import Built, build
from ovonic.adapters.eprop_wiring import EpropEpisode, misplaced, targets_by_name, wiring
from ovonic.adapters.toolchains import Unsupported, refuse
from ovonic.models.dynamics import NoReset, SubtractThreshold
from ovonic.models.errors import ConfigError
from ovonic.models.lif import silence
from ovonic.models.network import Network
from ovonic.models.simulation import inputs_by_name
from ovonic.models.surrogates import PUBLISHED_SLOPE, ArcTan, Boxcar, FastSigmoid, Sigmoid, Surrogate, Triangular
from ovonic.models.trace import LayerTrace, Trace

__all__ = ["run_eprop", "unsupported"]

Array = NDArray[Any]


def unsupported(network: Network, surrogate: Surrogate = PUBLISHED_SLOPE) -> list[Unsupported]:
    """What these equations do not say."""
    if found := list(misplaced(network)):
        return found
    return [*brian2.unsupported(network), *_of_layers(network, surrogate)]


def _of_layers(network: Network, surrogate: Surrogate) -> Iterator[Unsupported]:
    hidden = wiring(network).hidden
    d = network.layers[hidden].dynamics  # type: ignore[attr-defined]
    if d.synapse is not None:
        yield Unsupported(hidden, "Dynamics.synapse", "these traces have no synaptic current", "leave it out")
    if not isinstance(d.reset, SubtractThreshold | NoReset):
        yield Unsupported(hidden, "Dynamics.reset", "these traces do not notice a reset", "use SubtractThreshold()")
    if d.refractory.frozen:
        yield Unsupported(hidden, "Dynamics.refractory", "these traces do not freeze", "use frozen=False")
    if not isinstance(surrogate, Triangular | ArcTan | FastSigmoid | Boxcar | Sigmoid):
        yield Unsupported(hidden, f"surrogate {type(surrogate).__name__}", "it is not written here", "use Triangular")
    for name in network.readouts:
        if network.layers[name].synapse is not None:  # type: ignore[attr-defined]
            yield Unsupported(name, "Readout.synapse", "these traces have one filter a read-out", "leave it out")
    decays = [np.ravel(network.layers[name].decay) for name in network.readouts]  # type: ignore[attr-defined]
    if decays and np.ptp(np.concatenate(decays)):
        reason = "a synapse has one filtered trace, the read-outs' decays differ"
        yield Unsupported(", ".join(network.readouts), "Readout.decay", reason, "give all read-outs one decay")


def run_eprop(
    network: Network,
    inputs: Tensor | Mapping[str, Tensor],
    targets: Mapping[str, Tensor] | None = None,
    *,
    signal: Tensor | None = None,
    window: int | None = None,
    feedback: Mapping[str, Tensor] | None = None,
    surrogate: Surrogate = PUBLISHED_SLOPE,
) -> EpropEpisode:
    """Run an episode from the initial state in Brian2 and read the gradient that its synapses computed.

    Args:
        network: see ``unsupported``. inputs: [B, T, in] of float64; by name where there are several.
        targets: of every read-out, [B, T, O]; the loss is 1/2 sum (y - target)^2 over samples, steps and components.
        signal: learning signals instead, L of the spiking layer, [B, T, N]; then read-outs do not learn.
        window: the last steps, which alone have an error; None is all.
        feedback: Linear's name -> B, [out, neurons]; None is symmetric.
        surrogate: slope of a spike.
    Raises: UnsupportedDynamics: see ``unsupported``. ConfigError: a bad input, target, signal or option.
        ToolchainError: no Brian2.
    """
    refuse("Brian2's e-prop", unsupported(network, surrogate))
    given = {name: x.detach() for name, x in inputs_by_name(network, inputs).items()}
    first = next(iter(given.values()))
    batch, steps = first.shape[:2]
    wired = wiring(network)
    (n,) = network.shapes[wired.hidden]
    if (targets is None) == (signal is None):
        raise ConfigError("run_eprop: give either targets or a signal")
    if signal is not None and tuple(signal.shape) != (batch, steps, n):
        raise ConfigError(f"signal: shape {tuple(signal.shape)} where {(batch, steps, n)} is due")
    if window is not None and not 1 <= window <= steps:
        raise ConfigError(f"window {window}: must lie in 1..{steps}, the steps of the episode")
    due = {} if targets is None else targets_by_name(network, targets, first)
    with brian2.loaded("numpy") as b2:
        built = build(b2, network, given, np.dtype(np.float64))
        made = _Learning(b2, network, built, batch, surrogate, signal is None)
        if signal is None:
            made.errors(due, steps, window or steps, feedback or {})
        else:
            made.told(signal.detach())
        monitors = made.monitors()
        built.net.run(steps * built.clock.dt, namespace={})
        gradients = {name: torch.from_numpy(made.read(name)).to(first) for name in made.plastic}
        seen = {key: torch.from_numpy(array).to(first) for key, array in made.seen(monitors, steps).items()}
    d: Any = network.layers[wired.hidden].dynamics  # type: ignore[attr-defined]
    silent = d.refractory.silent_steps
    z = seen["z"]
    layer = LayerTrace(z, seen["v"], silence(z, silent) if np.any(silent) else None, seen.get("b"))
    readouts = {name: seen[name] for name in network.readouts}
    return EpropEpisode(gradients, Trace({wired.hidden: layer}, readouts, given, network.dt_ms))


class _Learning:
    """What is added to a built network: the learner, and the synapses that learn."""

    def __init__(
        self, b2: Any, network: Network, built: Built, batch: int, surrogate: Surrogate, filtered: bool
    ) -> None:
        self.b2, self.network, self.net, self.groups, self.clock = b2, network, built.net, built.groups, built.clock
        self.wired, self.batch, self.filtered = wiring(network), batch, filtered
        self.layer: Any = network.layers[self.wired.hidden]
        self.plastic: dict[str, tuple[Any, tuple[int, ...]]] = {}
        self.hidden = self.groups[self.wired.hidden]
        self.learner = self._learner(surrogate)
        for linear, source in self.wired.into:
            shape = network.layers[linear].weight.shape  # type: ignore[attr-defined]
            self._synapses(f"{linear}.weight", self.groups[source], "y_pre", 0, shape)
        recurrence = self.layer.recurrence  # type: ignore[attr-defined]
        if recurrence is not None:
            name = f"{self.wired.hidden}.recurrence"
            self._synapses(name, self.hidden, "1", recurrence.delay - 1, recurrence.weight.shape)

    def _learner(self, surrogate: Surrogate) -> Any:
        """psi and L of every neuron, from variables of the network's own."""
        d = self.layer.dynamics
        adapts = d.adaptation is not None
        lines = ["v : 1 (linked)", "may_fire : boolean (linked)", "threshold : 1 (constant)", "psi : 1"]
        lines += [f"{word} : 1 (constant)" for word in ("scale", "decay", "gain", "kappa")]
        parts = [f"L_{linear}" for linear, _ in self.wired.out] if self.filtered else []
        lines += [f"{part} : 1" for part in parts]
        lines.append(f"L = {' + '.join(parts)} : 1" if parts else "L : 1")
        if adapts:
            lines += ["b : 1 (linked)", *(f"{word} : 1 (constant)" for word in ("beta", "decay_b", "fresh"))]
        if not np.any(d.refractory.silent_steps):
            lines.remove("may_fire : boolean (linked)")
        group = self.b2.NeuronGroup(
            len(self.hidden), "\n".join(lines), clock=self.clock, name="eprop_learner", dtype=np.float64, namespace={}
        )
        level = "(threshold + beta*b)" if adapts else "threshold"
        open_ = "*int(may_fire)" if np.any(d.refractory.silent_steps) else ""
        update = f"psi = {_slope(surrogate, f'(v - {level})')}{open_}"
        slot = self.hidden.thresholder["spike"].when
        group.run_regularly(update, clock=self.clock, when=f"before_{slot}", order=0, name="eprop_slope")
        group.v = self.b2.linked_var(self.hidden, "v")
        if open_:
            group.may_fire = self.b2.linked_var(self.hidden, "not_refractory")
        values = {"threshold": d.threshold, "scale": np.subtract(d.threshold, d.rest), "decay": d.decay, "gain": d.gain}
        values["kappa"] = self.kappa if self.filtered else 0.0
        if adapts:
            group.b = self.b2.linked_var(self.hidden, "b")
            fresh = d.adaptation.decay if d.adaptation.fresh_spike_decays else 1.0
            values |= {"beta": d.adaptation.beta, "decay_b": d.adaptation.decay, "fresh": fresh}
        self._set(group, values)
        self._add(group)
        return group

    @property
    def kappa(self) -> float:
        return float(np.ravel(self.network.layers[self.wired.out[0][1]].decay)[0])  # type: ignore[attr-defined]

    def _synapses(self, name: str, source: Any, arriving: str, delay: int, shape: tuple[int, ...]) -> None:
        adapts = self.layer.dynamics.adaptation is not None
        variables = ["arrived", "zbar", "elig", "ebar", "G"] + ["epsb"] * adapts
        label = "eprop_" + name.replace(".", "_")
        made = self.b2.Synapses(
            source,
            self.learner,
            "\n".join(f"{word} : 1" for word in variables),
            on_pre=f"arrived += {arriving}",
            delay=delay * self.clock.dt,
            clock=self.clock,
            dtype=dict.fromkeys(variables, np.float64),
            namespace={},
            name=label,
        )
        slot = self.hidden.thresholder["spike"].when
        made.pre.when = slot.replace("thresholds", "synapses")
        self._connect(made, shape, len(source), len(self.learner))
        trace = ["zbar = decay_post*zbar + gain_post*arrived", "arrived = 0"]
        if adapts:
            trace += ["elig = psi_post*(zbar - beta_post*epsb)", "epsb = decay_b_post*epsb + fresh_post*elig"]
        else:
            trace.append("elig = psi_post*zbar")
        trace.append("ebar = kappa_post*ebar + elig")
        when = {"clock": self.clock, "when": f"before_{slot}", "order": 1}
        made.run_regularly("\n".join(trace), name=f"{label}_trace", **when)
        made.run_regularly("G += L_post*ebar", clock=self.clock, when="end", order=3, name=f"{label}_gradient")
        self._add(made)
        self.plastic[name] = made, shape

    def told(self, signal: Tensor) -> None:
        """The learner is told L from outside."""
        values = signal.cpu().numpy().swapaxes(0, 1).reshape(signal.shape[1], -1)
        self.learner.namespace["signal"] = self.b2.TimedArray(values, self.clock.dt, name="eprop_signal")
        self.learner.run_regularly("L = signal(t, i)", clock=self.clock, when="end", order=0, name="eprop_told")

    def errors(self, targets: Mapping[str, Tensor], steps: int, window: int, feedback: Mapping[str, Tensor]) -> None:
        """The read-outs have errors, which feed back, and their own weights learn."""
        for name, target in targets.items():
            size = self.batch * self.network.shapes[name][0]
            values = target.cpu().numpy().swapaxes(0, 1).reshape(steps, -1)
            lines = "y : 1 (linked)\nerr : 1\ndecay : 1 (constant)\ngain : 1 (constant)"
            space = {"wanted": self.b2.TimedArray(values, self.clock.dt, name=f"eprop_{name}_target")}
            critic = self.b2.NeuronGroup(
                size, lines, clock=self.clock, name=f"eprop_{name}", dtype=np.float64, namespace=space
            )
            critic.y = self.b2.linked_var(self.groups[name], "v")
            layer: Any = self.network.layers[name]
            self._set(critic, {"decay": layer.decay, "gain": layer.gain})
            gate = f"int(t_in_timesteps >= {steps - window})"
            critic.run_regularly(
                f"err = {gate}*(y - wanted(t, i))", clock=self.clock, when="end", order=0, name=f"eprop_{name}_error"
            )
            self._add(critic)
            for linear, readout in self.wired.out:
                if readout == name:
                    self._readout(linear, name, critic, feedback.get(linear))

    def _readout(self, linear: str, name: str, critic: Any, given: Tensor | None) -> None:
        w = self.network.layers[linear].weight  # type: ignore[attr-defined]
        gain = np.broadcast_to(self.network.layers[name].gain, self.network.shapes[name])  # type: ignore[attr-defined]
        b = (w.T if given is None else given.cpu().numpy()) * gain[:, None]
        words = f"B : 1 (constant)\nL_{linear}_post = B*err_pre : 1 (summed)"
        back = self.b2.Synapses(
            critic, self.learner, words, clock=self.clock, dtype=np.float64, namespace={}, name=f"eprop_{linear}_back"
        )
        self._connect(back, b.shape, len(critic), len(self.learner))
        back.B = np.tile(b.ravel(), self.batch)
        updater = back.summed_updaters[f"L_{linear}_post"]
        updater.when, updater.order = "end", 1
        self._add(back)
        label = f"eprop_{linear}_weight"
        made = self.b2.Synapses(
            self.hidden,
            critic,
            "arrived : 1\nzbar : 1\nG : 1",
            on_pre="arrived += 1",
            clock=self.clock,
            dtype=np.float64,
            namespace={},
            name=label,
        )
        made.pre.when, made.pre.order = "end", -1
        self._connect(made, w.shape, len(self.hidden), len(critic))
        text = "zbar = decay_post*zbar + gain_post*arrived\narrived = 0\nG += err_post*zbar"
        made.run_regularly(text, clock=self.clock, when="end", order=3, name=f"{label}_gradient")
        self._add(made)
        self.plastic[f"{linear}.weight"] = made, w.shape

    def _add(self, made: Any) -> None:
        self.net.add(made)
        made._network = self.net.id

    def _set(self, group: Any, values: Mapping[str, Any]) -> None:
        size = len(group) // self.batch
        for name, value in values.items():
            group.variables[name].set_value(np.tile(np.broadcast_to(value, (size,)), self.batch))

    def _connect(self, synapses: Any, shape: tuple[int, ...], sources: int, targets: int) -> None:
        """All to all within each sample, by row and column; one to one for weights [n]."""
        if len(shape) == 1:
            i, j = np.tile(np.arange(sources), (2, 1))
        else:
            cells = np.indices((sources // self.batch, targets // self.batch)).reshape(2, 1, -1)
            step = np.array([sources // self.batch, targets // self.batch])[:, None, None]
            i, j = (cells + step * np.arange(self.batch)[:, None]).reshape(2, -1)
        synapses.connect(i=i, j=j)

    def read(self, name: str) -> Array:
        """G of the weights of that name, summed over samples; zero where a masked diagonal has no effect."""
        made, shape = self.plastic[name]
        gradient = np.array(made.variables["G"].get_value()).reshape(self.batch, *shape).sum(0)
        recurrence = self.layer.recurrence
        if name.endswith(".recurrence") and recurrence is not None and recurrence.masked_diagonal:
            np.fill_diagonal(gradient, 0.0)
        return gradient

    def monitors(self) -> dict[str, Any]:
        """What is watched of the run: membranes before their resets, adaptation, spikes, read-outs."""
        watched = {}
        for name in (self.wired.hidden, *self.network.readouts):
            group = self.groups[name]
            adapts = name == self.wired.hidden and self.layer.dynamics.adaptation is not None
            when = f"after_{group.state_updater.when}"
            record = ["v", "b"] if adapts else ["v"]
            watched[name] = self.b2.StateMonitor(group, record, True, when=when, name=f"eprop_{name}_seen")
        watched["z"] = self.b2.SpikeMonitor(self.hidden, name="eprop_spikes")
        self.net.add(*watched.values())
        return watched

    def seen(self, watched: Mapping[str, Any], steps: int) -> dict[str, Array]:
        """Spikes z, membrane v, adaptation b, and the read-outs by name, [B, T, N]."""

        def taken(name: str, variable: str) -> Array:
            array = np.array(watched[name].variables[variable].get_value())
            return array.reshape(steps, self.batch, -1).swapaxes(0, 1)

        found = {name: taken(name, "v") for name in self.network.readouts}
        found["v"] = taken(self.wired.hidden, "v")
        if self.layer.dynamics.adaptation is not None:
            found["b"] = taken(self.wired.hidden, "b")
        z = np.zeros((steps, len(self.hidden)))
        monitor = watched["z"]
        z[np.round(np.asarray(monitor.t_) / self.clock.dt_).astype(int), np.asarray(monitor.i)] = 1
        found["z"] = z.reshape(steps, self.batch, -1).swapaxes(0, 1)
        return found


def _slope(surrogate: Surrogate, x: str) -> str:
    """The slope at x, in Brian2's words; ``scale`` is the threshold above rest."""
    if isinstance(surrogate, Triangular):
        return f"{surrogate.height!r}*clip(1 - abs({x}/scale), 0, inf)/scale"
    if isinstance(surrogate, Boxcar):
        return f"int(abs({x}) <= {surrogate.width!r}*scale)*{surrogate.height!r}/scale"
    if isinstance(surrogate, ArcTan):
        return f"{surrogate.alpha / 2!r}/(1 + (pi/2*{surrogate.alpha!r}*{x})**2)"
    if isinstance(surrogate, FastSigmoid):
        return f"1/(1 + {surrogate.slope!r}*abs({x}))**2"
    assert isinstance(surrogate, Sigmoid)
    s = f"(1/(1 + exp(-{surrogate.slope!r}*{x})))"
    return f"{surrogate.slope!r}*{s}*(1 - {s})"
