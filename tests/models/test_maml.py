"""The inner loop and its outer gradient: by hand, by autograd, by finite differences, by torch.func, by ``higher``.

The reference network here (``_plain_features``) is written with nothing but torch's own operations and knows none of
the library's shortcuts: features once a task, the known gradient of the read-out, the written-out norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ovonic.models.errors import ConfigError
from ovonic.models.fewshot_cnn import NORMS, CNNConfig, FewshotCNN
from ovonic.models.maml import (
    Precision,
    SoftwareReadout,
    adapt,
    cross_entropy_gradient,
    head_loss,
    meta_gradient,
    whole_network_loss,
)

WAY, SHOTS, QUERIES, TASKS = 3, 2, 3, 2
Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def _net(norm: str = "support", channels: int = 5, seed: int = 0, **config: float) -> FewshotCNN:
    generator = torch.Generator().manual_seed(seed)
    net = FewshotCNN(CNNConfig(WAY, channels, norm=norm, **config), generator).double()  # type: ignore[arg-type]
    with torch.no_grad():
        net.readout.weight.normal_(0, 0.3, generator=generator)
        net.inner_lr.copy_(torch.linspace(0.05, 0.4, len(net.inner_lr)))
    net.inner_lr.requires_grad_()
    return net


def _batch(tasks: int = TASKS, seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(tasks, WAY * (SHOTS + QUERIES), 1, 28, 28, generator=generator, dtype=torch.float64)
    labels = [torch.arange(WAY).repeat_interleave(n).expand(tasks, -1) for n in (SHOTS, QUERIES)]
    return images[:, : WAY * SHOTS], labels[0], images[:, WAY * SHOTS :], labels[1]


def _parameters(net: FewshotCNN) -> list[Tensor]:
    return [*net.conv_weights(), net.readout.weight, net.inner_lr]


def _plain_features(kernels: Sequence[Tensor], x: Tensor, reference: Tensor | None = None, eps: float = 1e-3) -> Tensor:
    """Images [N, 1, 28, 28] -> [N, channels], with the statistics of ``reference`` (default: of themselves)."""
    reference = x if reference is None else reference
    for kernel in kernels:
        x, reference = (F.conv2d(v, kernel, stride=2, padding=1).relu() for v in (x, reference))
        mean = reference.mean((0, 2, 3), keepdim=True)
        deviation = (reference.var((0, 2, 3), correction=0, keepdim=True) + eps).sqrt()
        x, reference = (x - mean) / deviation, (reference - mean) / deviation
    return x.amax((2, 3))


def _plain_pair(kernels: Sequence[Tensor], support: Tensor, query: Tensor, norm: str) -> tuple[Tensor, Tensor]:
    """Features of all tasks' images, [tasks, S, channels] and [tasks, Q, channels]."""
    if norm == "meta-batch":
        sides = [_plain_features(kernels, x.flatten(0, 1)).unflatten(0, x.shape[:2]) for x in (support, query)]
        return sides[0], sides[1]
    references = support if norm == "support" else query
    return (
        torch.stack([_plain_features(kernels, s) for s in support]),
        torch.stack([_plain_features(kernels, q, r) for q, r in zip(query, references, strict=True)]),
    )


def _plain_loss(parameters: Sequence[Tensor], batch: Batch, norm: str) -> Tensor:
    """The outer loss by autograd alone: a create_graph inner loop on the read-out, task by task."""
    *kernels, w_0, rates = parameters
    support, query = _plain_pair(kernels, batch[0], batch[2], norm)
    losses = []
    for t in range(len(support)):
        w = w_0
        for eta in rates:
            (slope,) = torch.autograd.grad(F.cross_entropy(support[t] @ w.T, batch[1][t]), w, create_graph=True)
            w = w - eta * slope
        losses.append(F.cross_entropy(query[t] @ w.T, batch[3][t]))
    return torch.stack(losses).mean()


def _plain_whole(parameters: Sequence[Tensor], batch: Batch, norm: str) -> Tensor:
    """MAML proper through torch.func: kernels and read-out adapt."""
    *weights_0, rates = parameters

    def loss_of(weights: tuple[Tensor, ...], x: Tensor, reference: Tensor | None, labels: Tensor) -> Tensor:
        return F.cross_entropy(_plain_features(weights[:-1], x, reference) @ weights[-1].T, labels)

    losses = []
    for s, s_labels, q, q_labels in zip(*batch, strict=True):
        weights = tuple(weights_0)
        for eta in rates:
            slopes = torch.func.grad(loss_of)(weights, s, None, s_labels)
            weights = tuple(w - eta * g for w, g in zip(weights, slopes, strict=True))
        losses.append(loss_of(weights, q, s if norm == "support" else None, q_labels))
    return torch.stack(losses).mean()


def _directional(f: Callable[[list[Tensor]], float], at: list[Tensor], direction: list[Tensor], h: float) -> float:
    """Central difference of ``f``, of fourth order."""
    near, far = (
        f([p + k * h * d for p, d in zip(at, direction, strict=True)])
        - f([p - k * h * d for p, d in zip(at, direction, strict=True)])
        for k in (1, 2)
    )
    return (8 * near - far) / (12 * h)


def _directions(parameters: list[Tensor], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(p.shape, generator=generator, dtype=p.dtype) * p.detach().std() for p in parameters]


def _gradients(net: FewshotCNN) -> list[Tensor]:
    gradients = [p.grad for p in _parameters(net)]
    assert all(g is not None for g in gradients)
    return gradients  # type: ignore[return-value]


def _assert_equal(ours: Sequence[Tensor], theirs: Sequence[Tensor], tolerance: float = 1e-10) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()


# ---------------------------------------------------------------------------------------------- by hand


def test_one_update_by_hand() -> None:
    features, labels = torch.eye(2)[None], torch.tensor([[0, 1]])
    gradient = cross_entropy_gradient(torch.zeros(1, 2, 2), labels, features)  # (1/2 - onehot)' f / 2
    assert gradient.tolist() == [[[-0.25, 0.25], [0.25, -0.25]]]
    before, after = adapt(SoftwareReadout(torch.zeros(1, 2, 2)), features, labels, torch.ones(1))
    assert before.w.abs().max() == 0
    assert after.w.tolist() == [[[0.25, -0.25], [-0.25, 0.25]]]


def test_four_updates_and_the_second_order_by_hand() -> None:
    """By symmetry W = w [[1, -1], [-1, 1]], a logistic recursion: w' = w + s(-2w) / 2, L = ln(1 + exp(-2w)).

    w: 0, 1/4, 0.438770, 0.585614, 0.703931; dL/dw_0 = -2 s(-2 w_4) prod(1 - s(2 w_k) s(-2 w_k)).
    """
    w, slope = 0.0, 1.0
    for _ in range(4):
        p = 1 / (1 + math.exp(2 * w))
        slope *= 1 - p * (1 - p)
        w += p / 2
    assert w == pytest.approx(0.703931, abs=1e-6)
    w_0 = torch.zeros(1, 2, 2, dtype=torch.float64, requires_grad=True)
    features, labels = torch.eye(2, dtype=torch.float64)[None], torch.tensor([[0, 1]])
    loss, logits = head_loss(SoftwareReadout(w_0), features, labels, features, labels, torch.ones(4))
    (gradient,) = torch.autograd.grad(loss, w_0)
    sign = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(logits[0], w * sign, rtol=0, atol=1e-12)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-2 * w)), abs=1e-12)
    outer = -2 / (1 + math.exp(2 * w)) * slope
    torch.testing.assert_close(gradient[0], outer / 4 * sign, rtol=0, atol=1e-12)
    first_order = -2 / (1 + math.exp(2 * w)) / 4
    assert abs(gradient[0, 0, 0].item() - first_order) > 0.06  # the second order counts: -0.0366, not -0.0983


# ---------------------------------------------------------------------------------------- the inner loop


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(2, 5), st.integers(1, 4), st.integers(0, 10**6))
def test_cross_entropy_gradient_equals_autograd(tasks: int, s: int, way: int, channels: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(tasks, s, channels, generator=generator, dtype=torch.float64)
    w = torch.randn(tasks, way, channels, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(way, (tasks, s), generator=generator)
    logits = features @ w.transpose(1, 2)
    each = torch.stack([F.cross_entropy(x, y) for x, y in zip(logits, labels, strict=True)])
    (expected,) = torch.autograd.grad(each.sum(), w)
    torch.testing.assert_close(cross_entropy_gradient(logits.detach(), labels, features), expected, rtol=0, atol=1e-12)


def test_no_update_is_the_readout_itself() -> None:
    net, (support, labels, query, query_labels) = _net(), _batch()
    f_support, f_query = net.features(support, query)
    readout = SoftwareReadout.of(net, TASKS, Precision())
    assert adapt(readout, f_support, labels, net.inner_lr[:0]) == [readout]
    loss, logits = head_loss(readout, f_support, labels, f_query, query_labels, net.inner_lr[:0])
    torch.testing.assert_close(logits, f_query @ net.readout.weight.T)
    torch.testing.assert_close(
        loss, F.cross_entropy((f_query @ net.readout.weight.T).flatten(0, 1), query_labels.flatten())
    )


def test_tasks_adapt_apart() -> None:
    net, (support, labels, _, _) = _net(), _batch(3)
    f_support, _ = net.features(support, support)
    together = adapt(SoftwareReadout.of(net, 3, Precision()), f_support, labels, net.inner_lr)
    assert len(together) == 5
    for t in range(3):
        one = slice(t, t + 1)
        alone = adapt(SoftwareReadout.of(net, 1, Precision()), f_support[one], labels[one], net.inner_lr)
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a.w, b.w[one], rtol=0, atol=1e-14)


@pytest.mark.parametrize("norm", NORMS)
def test_renaming_the_classes_renames_the_logits_and_the_gradient(norm: str) -> None:
    """Swapping label k for pi(k), and the rows of W_0 likewise, changes nothing but the names."""
    support, s_labels, query, q_labels = _batch()
    rename = torch.tensor([2, 0, 1])
    net, renamed = _net(norm), _net(norm)
    with torch.no_grad():
        renamed.readout.weight[rename] = net.readout.weight
    loss, accuracy = meta_gradient(net, support, s_labels, query, q_labels)
    assert meta_gradient(renamed, support, rename[s_labels], query, rename[q_labels]) == pytest.approx((loss, accuracy))
    ours, theirs = _gradients(renamed), _gradients(net)
    _assert_equal([*ours[:4], ours[4][rename], ours[5]], theirs)


@pytest.mark.parametrize("norm", NORMS)
def test_order_of_support_and_query_does_not_matter(norm: str) -> None:
    support, s_labels, query, q_labels = _batch()
    s, q = torch.randperm(WAY * SHOTS), torch.randperm(WAY * QUERIES)
    net, shuffled = _net(norm), _net(norm)
    meta_gradient(net, support, s_labels, query, q_labels)
    meta_gradient(shuffled, support[:, s], s_labels[:, s], query[:, q], q_labels[:, q])
    _assert_equal(_gradients(shuffled), _gradients(net))


# ------------------------------------------------------------------------------------ the outer gradient


@pytest.mark.parametrize("norm", NORMS)
def test_meta_gradient_equals_plain_autograd(norm: str) -> None:
    net, batch = _net(norm), _batch()
    loss, accuracy = meta_gradient(net, *batch)
    expected = _plain_loss(_parameters(net), batch, norm)
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    assert (accuracy * TASKS * WAY * QUERIES) % 1 == pytest.approx(0, abs=1e-5)
    _assert_equal(_gradients(net), torch.autograd.grad(expected, _parameters(net)))


@pytest.mark.parametrize("norm", NORMS)
def test_meta_gradient_equals_finite_differences(norm: str) -> None:
    net, batch = _net(norm), _batch()
    meta_gradient(net, *batch)
    at = [p.detach().clone() for p in _parameters(net)]

    def loss_at(parameters: list[Tensor]) -> float:
        return _plain_loss([p.requires_grad_() for p in parameters], batch, norm).item()

    for seed in (1, 2):
        direction = _directions(at, seed)
        slope = sum(float((g * d).sum()) for g, d in zip(_gradients(net), direction, strict=True))
        assert _directional(loss_at, at, direction, 1e-6) == pytest.approx(slope, rel=1e-5)


def test_meta_gradient_equals_higher() -> None:
    """``higher`` (Grefenstette et al. 2019) adapts the read-out as a module with its own optimizer."""
    higher = pytest.importorskip("higher", reason="needs the package higher, of the development group")
    net, batch = _net(), _batch()
    net.inner_lr.requires_grad_(False).fill_(0.1)
    loss, _ = meta_gradient(net, *batch)
    expected = torch.zeros((), dtype=torch.float64)
    for s, s_labels, q, q_labels in zip(*batch, strict=True):
        f_support, f_query = (x[0] for x in _plain_pair(net.conv_weights(), s[None], q[None], "support"))
        optimizer = torch.optim.SGD(net.readout.parameters(), lr=0.1)
        with higher.innerloop_ctx(net.readout, optimizer, copy_initial_weights=False) as (readout, steps):
            for _ in range(4):
                steps.step(F.cross_entropy(readout(f_support), s_labels))
            expected = expected + F.cross_entropy(readout(f_query), q_labels) / TASKS
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    trained = _parameters(net)[:-1]
    gradients = [p.grad for p in trained]
    assert net.inner_lr.grad is None
    _assert_equal(gradients, torch.autograd.grad(expected, trained))  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", ["support", "transductive"])
def test_gradient_of_a_batch_is_the_mean_over_its_tasks_and_adds_up(norm: str) -> None:
    net, alone, batch = _net(norm), _net(norm), _batch(3)
    loss, accuracy = meta_gradient(net, *batch)
    singles = [meta_gradient(alone, *(x[t : t + 1] for x in batch)) for t in range(3)]
    assert (loss, accuracy) == pytest.approx(tuple(np.mean(singles, axis=0)), rel=1e-6)
    _assert_equal(_gradients(net), [g / 3 for g in _gradients(alone)])


def test_float32_gradient_is_close_to_float64() -> None:
    """Rounding of float32 moves the gradient by under 2e-3 of its largest entry (5e-5 as seen)."""
    double, batch = _net(), _batch()
    single = _net().float()
    meta_gradient(double, *batch)
    meta_gradient(single, batch[0].float(), batch[1], batch[2].float(), batch[3])
    _assert_equal([g.double() for g in _gradients(single)], _gradients(double), 2e-3)


# ------------------------------------------------------------------------------------------- precision


def _rounded(net: FewshotCNN, bits: int) -> list[Tensor]:
    n = 2 ** (bits - 1)
    return [(p.detach() * n).round().clamp(-n, n - 1).div(n).requires_grad_() for p in _parameters(net)[:-1]]


def test_four_bit_gradient_is_the_straight_through_one() -> None:
    """Nearest rounding: forward at the rounded weights, every rounding passes its gradient on."""
    net, batch = _net(), _batch()
    loss, _ = meta_gradient(net, *batch, precision=Precision(4, "nearest"))
    leaves = [*_rounded(net, 4), net.inner_lr]
    support, query = _plain_pair(leaves[:-2], batch[0], batch[2], "support")
    losses = []
    for t in range(TASKS):
        w = leaves[-2]
        for eta in net.inner_lr:
            (slope,) = torch.autograd.grad(F.cross_entropy(support[t] @ w.T, batch[1][t]), w, create_graph=True)
            target = w - eta * slope
            w = target + ((target * 8).round().clamp(-8, 7) / 8 - target).detach()
        losses.append(F.cross_entropy(query[t] @ w.T, batch[3][t]))
    expected = torch.stack(losses).mean()
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    _assert_equal(_gradients(net), torch.autograd.grad(expected, leaves))


@pytest.mark.parametrize(
    "precision", [Precision(4), Precision(weight_noise=0.05), Precision(4, "nearest", weight_noise=0.05)]
)
def test_a_generator_names_the_draw_and_each_task_has_its_own(precision: Precision) -> None:
    one = _batch(1)
    twice = tuple(torch.cat([x, x]) for x in one)

    def gradients(seed: int) -> tuple[float, list[Tensor]]:
        net = _net()
        loss, _ = meta_gradient(net, *twice, precision=precision, generator=torch.Generator().manual_seed(seed))
        return loss, _gradients(net)

    assert precision.varies_by_task
    (loss, first), (again, second), (other, _) = gradients(1), gradients(1), gradients(2)
    assert loss == again
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert loss != other
    net, generator = _net(), torch.Generator().manual_seed(1)
    kernels = [[precision.kernel(w, generator) for w in net.conv_weights()] for _ in range(2)]
    assert all(not torch.equal(a, b) for a, b in zip(*kernels, strict=True))


def test_weight_noise_has_the_stated_size() -> None:
    """n = 1e5 draws: the sample deviation is within 1.1 % (false alarm 1e-6), the mean within 5 sigma."""
    w = torch.zeros(100_000, dtype=torch.float64)
    w[0] = -2.0
    noise = Precision(weight_noise=0.1).kernel(w, torch.Generator().manual_seed(0)) - w
    assert noise.std().item() == pytest.approx(0.2, rel=0.011)
    assert abs(noise.mean().item()) < 5 * 0.2 / math.sqrt(len(w))


def test_sixteen_bits_approach_thirty_two() -> None:
    """The loss is off in proportion to the step of the grid, where no weight leaves it (|w| < 1)."""

    def loss(bits: int) -> float:
        net = _net()
        with torch.no_grad():
            net.inner_lr.fill_(0.02)
            for p in net.parameters():
                p.clamp_(-0.9, 0.9)
        return meta_gradient(net, *_batch(), precision=Precision(bits, "nearest"))[0]

    errors = {bits: abs(loss(bits) - loss(32)) for bits in (8, 16)}
    assert errors[16] < 3e-4 < errors[8] < 0.1, errors


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"bits": 1}, "bits 1"),
        ({"bits": 17}, "bits 17"),
        ({"rounding": "up"}, "rounding 'up'"),
        ({"weight_noise": -0.1}, "weight_noise"),
    ],
)
def test_bad_precision_is_refused(options: dict[str, object], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        Precision(**options)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------- whole-network MAML


@pytest.mark.parametrize("norm", ["support", "transductive"])
def test_whole_network_maml_equals_torch_func(norm: str) -> None:
    net, batch = _net(norm), _batch()
    loss, logits = whole_network_loss(net, *batch)
    expected = _plain_whole(_parameters(net), batch, norm)
    assert logits.shape == (TASKS, WAY * QUERIES, WAY)
    torch.testing.assert_close(loss, expected, rtol=1e-11, atol=0)
    gradients = torch.autograd.grad(loss, _parameters(net))
    _assert_equal(gradients, torch.autograd.grad(expected, _parameters(net)), 1e-9)


def test_whole_network_maml_equals_finite_differences() -> None:
    net, batch = _net(), _batch(1)
    gradients = torch.autograd.grad(whole_network_loss(net, *batch)[0], _parameters(net))
    at = [p.detach().clone() for p in _parameters(net)]

    def loss_at(parameters: list[Tensor]) -> float:
        with torch.no_grad():
            for p, value in zip(_parameters(net), parameters, strict=True):
                p.copy_(value)
        return whole_network_loss(net, *batch)[0].item()

    direction = _directions(at, 3)
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
    assert _directional(loss_at, at, direction, 1e-7) == pytest.approx(slope, rel=1e-4)


def test_first_order_maml_drops_the_second_derivatives_only() -> None:
    """FOMAML: the same adapted weights and loss, the outer gradient taken at them as if they were the initial ones."""
    net, batch = _net(), _batch(1)
    second, logits = whole_network_loss(net, *batch)
    first, same_logits = whole_network_loss(net, *batch, first_order=True)
    torch.testing.assert_close(same_logits, logits, rtol=0, atol=1e-12)
    adapted = [p.detach().requires_grad_() for p in _parameters(net)[:-1]]
    for eta in net.inner_lr.detach():
        features = _plain_features(adapted[:-1], batch[0][0])
        slopes = torch.autograd.grad(F.cross_entropy(features @ adapted[-1].T, batch[1][0]), adapted)
        adapted = [(w - eta * g).detach().requires_grad_() for w, g in zip(adapted, slopes, strict=True)]
    outer = F.cross_entropy(_plain_features(adapted[:-1], batch[2][0], batch[0][0]) @ adapted[-1].T, batch[3][0])
    trained = _parameters(net)[:-1]
    ours = torch.autograd.grad(first, trained)
    _assert_equal(ours, torch.autograd.grad(outer, adapted), 1e-9)
    with pytest.raises(AssertionError):
        _assert_equal(ours, torch.autograd.grad(second, trained), 1e-3)


def test_whole_network_maml_with_frozen_kernels_would_be_the_head_alone() -> None:
    """One update at rate 0 adapts nothing: both losses are the unadapted one."""
    net, batch = _net(), _batch()
    with torch.no_grad():
        net.inner_lr.zero_()
    loss, _ = whole_network_loss(net, *batch)
    assert meta_gradient(net, *batch)[0] == pytest.approx(loss.item(), rel=1e-12)


def test_whole_network_maml_rounds_every_update() -> None:
    net, batch = _net(), _batch(1)
    loss, _ = whole_network_loss(net, *batch, precision=Precision(4), generator=torch.Generator().manual_seed(0))
    again, _ = whole_network_loss(net, *batch, precision=Precision(4), generator=torch.Generator().manual_seed(0))
    other, _ = whole_network_loss(net, *batch, precision=Precision(4), generator=torch.Generator().manual_seed(1))
    assert loss == again != other
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, _parameters(net)))


def test_whole_network_maml_refuses_coupled_tasks() -> None:
    with pytest.raises(ConfigError, match="couples tasks"):
        whole_network_loss(_net("meta-batch"), *_batch())


# ----------------------------------------------------------------------------------- the published batch

GOLDEN_TOLERANCES = {
    # 2.5 times what the reference's float32 statistics cost (see test_fewshot_cnn), measured in float64: 7.4e-6,
    # 1.6e-4, 2.2e-4, 4.5e-7; gradients 5.7e-6, 5.0e-7, 4.7e-7, 1.3e-6, 3.9e-6 (at most 1.6e-4 of the largest entry)
    "readout_weights": 2e-5,
    "query_logits_after_k_updates": 4e-4,
    "support_logits_per_update": 5.5e-4,
    "readout_grad_per_update": 2e-4,
    "loss": 1.2e-6,
    "outer_grad_kernel1": 1.4e-5,
    "outer_grad_kernel2": 1.3e-6,
    "outer_grad_kernel3": 1.2e-6,
    "outer_grad_kernel4": 3.3e-6,
    "outer_grad_w_readout": 1e-5,
}


def _published_batch(folder: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """Everything of the golden batch that learning makes, by our code, in the published layout."""
    weights, file = np.load(folder / "cnn_checkpoint.npz"), np.load(folder / "cnn_golden.npz")
    net = FewshotCNN(CNNConfig(norm="meta-batch"))
    with torch.no_grad():
        for i, kernel in enumerate(net.conv_weights()):
            kernel.copy_(torch.from_numpy(np.ascontiguousarray(weights[f"kernel{i + 1}"].transpose(3, 2, 0, 1))))
        net.readout.weight.copy_(torch.from_numpy(np.ascontiguousarray(weights["w_readout"].T)))
    net.to(dtype)
    images, labels = (
        {k: torch.from_numpy(file[f"{k}_{what}"]) for k in ("support", "query")} for what in ("images", "labels")
    )
    support, query = (images[k].permute(0, 1, 4, 2, 3).to(dtype).contiguous() for k in ("support", "query"))
    with torch.no_grad():
        f_support, f_query = net.features(support, query)
        states = adapt(SoftwareReadout.of(net, 2, Precision()), f_support, labels["support"], net.inner_lr)
    seen = [s.logits(f_support) for s in states[:-1]]
    loss, accuracy = meta_gradient(net, support, labels["support"], query, labels["query"])
    assert accuracy == file["accuracy"]
    assert net.readout.weight.grad is not None
    return {
        "readout_weights": torch.stack([s.w for s in states]).transpose(2, 3).detach(),
        "query_logits_after_k_updates": torch.stack([s.logits(f_query) for s in states]).detach(),
        "support_logits_per_update": torch.stack(seen).detach(),
        "readout_grad_per_update": torch.stack(
            [cross_entropy_gradient(x, labels["support"], f_support) for x in seen]
        ).transpose(2, 3),
        "loss": torch.tensor(loss),
        "outer_grad_w_readout": net.readout.weight.grad.T,
    } | {
        f"outer_grad_kernel{i}": w.grad.permute(2, 3, 1, 0)
        for i, w in enumerate(net.conv_weights(), 1)
        if w.grad is not None
    }


@pytest.mark.shared
def test_golden_batch(shared: Path) -> None:
    file = np.load(shared / "published" / "cnn_golden.npz")
    single, double = (_published_batch(shared / "published", dtype) for dtype in (torch.float32, torch.float64))
    assert set(single) == set(GOLDEN_TOLERANCES)
    for name, tolerance in GOLDEN_TOLERANCES.items():
        reference = torch.from_numpy(np.asarray(file[name]))
        for ours in (single[name], double[name]):
            error = (ours - reference).abs().max().item()
            assert error <= tolerance, f"{name} ({ours.dtype}): {error:.2e} > {tolerance:.0e}"
        assert 5 * (single[name] - double[name]).abs().max() < (double[name] - reference).abs().max(), name


def test_few_bit_readouts_lie_on_a_grid_of_their_own_range() -> None:
    precision = Precision(4, readout_range=0.2)
    generator = torch.Generator().manual_seed(0)
    w = precision.round_readout(torch.linspace(-0.3, 0.3, 1001), generator)
    steps = w / (0.2 / 8)
    assert torch.allclose(steps, steps.round(), atol=1e-5)
    assert (w.min().item(), w.max().item()) == pytest.approx((-0.2, 0.2 * 7 / 8))
    untouched = torch.linspace(-3, 3, 7)
    assert torch.equal(Precision(32, readout_range=0.2).round_readout(untouched, None), untouched)
    with pytest.raises(ConfigError, match="readout_range"):
        Precision(4, readout_range=0.0)
