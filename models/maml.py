"""MAML with an adapting read-out: the inner loop on the dense layer, the outer gradient through it.

    inner:  W_{k+1} = Q(W_k - eta_k dL_s/dW),   L_s = mean cross-entropy of the support set, full batch, k = 0..K-1
    outer:  minimise the mean cross-entropy of the query sets under W_K, second order, over kernels, W_0 and (if asked)
            the rates eta

The convolutions do not adapt, so a task's features are computed once. Adapting the head alone is what Raghu et al.
2020 (ICLR, "Rapid learning or feature reuse?") call ANIL; MAML proper (Finn et al. 2017, ICML) adapts the whole
network: ``whole_network_loss``. The cross-entropy gradient of a linear read-out is known,

    dL/dW = (softmax(f W') - onehot)' f / S,

so the second order comes from differentiating that expression once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ovonic.models.errors import ConfigError
from ovonic.models.fewshot_cnn import FewshotCNN
from ovonic.models.quantise import ROUNDINGS, quantise
from ovonic.models.shared_draws import Source, common, samples_around
from ovonic.models.weight_noise import WeightNoise, noisy, weight_noise

__all__ = [
    "Precision",
    "Readout",
    "SoftwareReadout",
    "adapt",
    "cross_entropy_gradient",
    "head_loss",
    "meta_gradient",
    "whole_network_loss",
]


@dataclass(frozen=True)
class Precision:
    """How weights are kept in training and at test.

    Attributes:
        bits: 32 (no rounding) or 2..16; the grid of ``models.quantise``.
        rounding: ``"stochastic"`` or ``"nearest"``, at the start of a task and on every W + dW.
        readout_range: full scale of the read-out's grid, whose levels are the grid's times this: adapted read-out
            weights are small, and the array that holds them has a scale of its own (published: 1).
        weight_noise: standard deviation of Gaussian noise on every kernel, one draw a task, in units of the layer's
            largest |w|: the crude stand-in for programming error in noise-aware meta-training. 0 is none.
        noise_model: in its place, the error of this device model's devices at the first read, by name, each output
            channel at its own full scale (``models.weight_noise``).
    """

    bits: int = 32
    rounding: str = "stochastic"
    readout_range: float = 1.0
    weight_noise: float = 0.0
    noise_model: str | None = None

    def __post_init__(self) -> None:
        if self.bits != 32 and not 2 <= self.bits <= 16:
            raise ConfigError(f"bits {self.bits}: choose 32 (no rounding) or 2 to 16")
        if self.rounding not in ROUNDINGS:
            raise ConfigError(f"rounding {self.rounding!r}: choose one of {', '.join(ROUNDINGS)}")
        if not self.readout_range > 0:
            raise ConfigError(f"readout_range {self.readout_range}: must be positive")
        if self.weight_noise < 0:
            raise ConfigError(f"weight_noise {self.weight_noise}: must not be negative")
        _ = self.noise

    @property
    def noise(self) -> WeightNoise | None:
        """The noise on every kernel."""
        return weight_noise(self.weight_noise, self.noise_model)

    @property
    def varies_by_task(self) -> bool:
        """Whether each task sees its own draw of the kernels."""
        return self.noise is not None or (self.bits != 32 and self.rounding == "stochastic")

    def round(self, w: Tensor, generator: Source | None) -> Tensor:
        return quantise(w, self.bits, self.rounding, generator)

    def round_readout(self, w: Tensor, generator: Source | None) -> Tensor:
        return self.round(w / self.readout_range, generator) * self.readout_range if self.bits != 32 else w

    def kernel(self, w: Tensor, generator: Source | None) -> Tensor:
        """The kernel one task sees: rounded, then disturbed; gradients pass straight through."""
        w = self.round(w, generator)
        if self.noise is None:
            return w
        if self.noise_model is None:
            return noisy(w, self.noise, w.detach().abs().max(), generator)
        unrolled = w.flatten(1).T
        return noisy(unrolled, self.noise, unrolled.detach().abs().amax(0), generator).T.reshape(w.shape)


class Readout(Protocol):
    """A dense layer that can be read and re-programmed: software tensor, analog tile or crossbar."""

    def logits(self, features: Tensor) -> Tensor:
        """Read: [tasks, S, channels] -> [tasks, S, n_way]."""
        ...

    def updated(self, delta: Tensor) -> Self:
        """The read-out after adding ``delta`` [tasks, n_way, channels] to its target weights."""
        ...


@dataclass(frozen=True, eq=False)
class SoftwareReadout:
    """A read-out in software: ``w`` [tasks, n_way, channels]."""

    w: Tensor
    precision: Precision = field(default_factory=Precision)
    generator: Source | None = None

    @classmethod
    def of(
        cls,
        net: FewshotCNN,
        tasks: int,
        precision: Precision,
        generator: Source | None = None,
        n_way: int | None = None,
    ) -> SoftwareReadout:
        """The network's initial read-out for ``n_way`` classes (default: its own), rounded for each task."""
        w = net.initial_readout(n_way).expand(tasks, -1, -1)
        return cls(precision.round_readout(w, generator), precision, generator)

    def logits(self, features: Tensor) -> Tensor:
        return features @ self.w.transpose(1, 2)

    def updated(self, delta: Tensor) -> SoftwareReadout:
        w = self.precision.round_readout(self.w + delta, self.generator)
        return SoftwareReadout(w, self.precision, self.generator)


def cross_entropy_gradient(logits: Tensor, labels: Tensor, features: Tensor) -> Tensor:
    """Gradient of each task's mean cross-entropy to the read-out weights.

    Args:
        logits: [tasks, S, n_way]; labels: [tasks, S] int64; features: [tasks, S, channels].
    Returns: [tasks, n_way, channels].
    """
    error = torch.softmax(logits, dim=-1) - F.one_hot(labels, logits.shape[-1])
    return error.transpose(1, 2) @ features / features.shape[1]


def adapt[R: Readout](readout: R, support: Tensor, labels: Tensor, inner_lr: Tensor) -> list[R]:
    """Run the inner loop.

    Args:
        readout: the read-out before learning.
        support: features [tasks, S, channels]; labels: [tasks, S] int64.
        inner_lr: rate of each update, [updates].
    Returns: the read-out after 0, 1, .. updates, ``updates + 1`` of them.
    """
    states = [readout]
    for eta in inner_lr:
        delta = -eta * cross_entropy_gradient(states[-1].logits(support), labels, support)
        states.append(states[-1].updated(delta))
    return states


def head_loss(
    readout: SoftwareReadout, support: Tensor, support_labels: Tensor, query: Tensor, query_labels: Tensor, lr: Tensor
) -> tuple[Tensor, Tensor]:
    """Outer loss of the adapted read-out, and the logits it came from.

    Returns: mean cross-entropy over tasks and queries (scalar), query logits [tasks, Q, n_way].
    """
    logits = adapt(readout, support, support_labels, lr)[-1].logits(query)
    return F.cross_entropy(logits.flatten(0, 1), query_labels.flatten()), logits


def meta_gradient(
    net: FewshotCNN,
    support: Tensor,
    support_labels: Tensor,
    query: Tensor,
    query_labels: Tensor,
    *,
    precision: Precision | None = None,
    generator: Source | None = None,
) -> tuple[float, float]:
    """Add the outer gradient of a meta-batch to ``.grad`` of the network's parameters.

    Features are computed task by task, small enough to stay in cache; the inner loops of all tasks run as one batch;
    then each task's gradient goes back through its own features. Only ``norm="meta-batch"`` couples the tasks and needs
    them in one piece.

    Args:
        support: [tasks, S, 1, 28, 28]; query: [tasks, Q, 1, 28, 28]; labels: [tasks, S] and [tasks, Q] int64.
        precision: rounding and noise of the weights; each task has its own draw of the kernels.
        generator: of these draws; a ``Part`` where the tasks are a part of a batch (never with ``"meta-batch"``).
    Returns: the mean query loss and the query accuracy.
    """
    precision = precision or Precision()
    tasks = len(support)
    chunk = tasks if net.config.norm == "meta-batch" else 1
    shared = None if precision.varies_by_task else _leaves(net, precision, generator)
    before, after = (0, 0) if shared else samples_around(generator, tasks)
    pieces = []
    for _ in range(before):
        _leaves(net, precision, generator)
    for start in range(0, tasks, chunk):
        kernels = shared or _leaves(net, precision, generator)
        part = slice(start, start + chunk)
        pieces.append((kernels, net.features(support[part], query[part], weights=kernels)))
    for _ in range(after):
        _leaves(net, precision, generator)
    f_support = torch.cat([f[0].detach() for _, f in pieces]).requires_grad_()
    f_query = torch.cat([f[1].detach() for _, f in pieces]).requires_grad_()
    readout = SoftwareReadout.of(net, tasks, precision, generator)
    loss, logits = head_loss(readout, f_support, support_labels, f_query, query_labels, net.inner_lr)
    loss.backward()
    for i, (_, outputs) in enumerate(pieces):
        part = slice(i * chunk, i * chunk + chunk)
        torch.autograd.backward(outputs, (f_support.grad[part], f_query.grad[part]))  # type: ignore[index]
    for kernels in [shared] if shared else [k for k, _ in pieces]:
        for parameter, leaf in zip(net.conv_weights(), kernels, strict=True):
            assert leaf.grad is not None
            parameter.grad = leaf.grad.clone() if parameter.grad is None else parameter.grad.add_(leaf.grad)
    accuracy = (logits.argmax(-1) == query_labels).float().mean()
    return loss.item(), accuracy.item()


def _leaves(net: FewshotCNN, precision: Precision, generator: Source | None) -> list[Tensor]:
    with torch.no_grad():
        kernels = [precision.kernel(w, common(generator)) for w in net.conv_weights()]
    return [k.detach().contiguous(memory_format=torch.channels_last).requires_grad_() for k in kernels]


def whole_network_loss(
    net: FewshotCNN,
    support: Tensor,
    support_labels: Tensor,
    query: Tensor,
    query_labels: Tensor,
    *,
    precision: Precision | None = None,
    generator: Source | None = None,
    first_order: bool = False,
) -> tuple[Tensor, Tensor]:
    """MAML proper: kernels and read-out adapt alike, at the rates ``net.inner_lr``.

    Args: as ``meta_gradient``; first_order: drop the second derivatives (FOMAML).
    Returns: the mean outer loss (scalar, differentiable to the network's parameters); query logits [tasks, Q, n_way].
    Raises: ConfigError: ``norm="meta-batch"``, which couples tasks that adapt apart.
    """
    if net.config.norm == "meta-batch":
        raise ConfigError("norm 'meta-batch' couples tasks: whole-network MAML adapts each alone, use 'support'")
    precision = precision or Precision()
    draws = common(generator)
    before, after = samples_around(generator, len(support))
    all_logits = []
    _pass_over(net, precision, draws, before)
    for t in range(len(support)):
        weights = [precision.kernel(w, draws) for w in net.conv_weights()]
        readout = precision.round_readout(net.readout.weight, draws)
        weights.append(readout if readout.requires_grad else readout.detach().requires_grad_())
        images, unseen = support[t : t + 1], query[t : t + 1]
        for eta in net.inner_lr:
            kernels = weights[:-1]
            features, _ = net.features(
                images, unseen[:, :0], norm="support", weights=kernels, differentiable_twice=True
            )
            loss = F.cross_entropy(features[0] @ weights[-1].T, support_labels[t])
            gradients = torch.autograd.grad(loss, weights, create_graph=not first_order)
            *kernels, readout = (w - eta * g for w, g in zip(weights, gradients, strict=True))
            weights = [precision.round(kernel, draws) for kernel in kernels]
            weights.append(precision.round_readout(readout, draws))
        _, features = net.features(images, unseen, weights=weights[:-1], differentiable_twice=True)
        all_logits.append(features[0] @ weights[-1].T)
    _pass_over(net, precision, draws, after)
    logits = torch.stack(all_logits)
    return F.cross_entropy(logits.flatten(0, 1), query_labels.flatten()), logits


@torch.no_grad()
def _pass_over(net: FewshotCNN, precision: Precision, draws: torch.Generator | None, tasks: int) -> None:
    """Draw what ``whole_network_loss`` draws for so many tasks, and drop it."""
    for _ in range(tasks):
        for w in net.conv_weights():
            precision.kernel(w, draws)
        precision.round_readout(net.readout.weight, draws)
        for _ in net.inner_lr:
            for w in net.conv_weights():
                precision.round(w, draws)
            precision.round_readout(net.readout.weight, draws)
