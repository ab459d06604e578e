"""The few-shot CNN: equal to numbers worked by hand, to a loop that does one image at a time, to the published batch.

Golden batch (``cnn_golden.npz``, TensorFlow 2.5.3, float32). Its batch means carry a relative error of up to 7e-5 (a
plain float32 sum of 9,800 rows), which the later blocks pass on: features differ by 8.2e-4 of 10 whether ours is
computed in float32 or float64, while our own float32 and float64 differ by 1e-5. With ITS statistics the norm agrees to
2e-6. So the tolerances are 2.5 times the reference's error, and the tests also show that it is the reference's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ovonic.models.errors import ConfigError
from ovonic.models.fewshot_cnn import NORMS, CNNConfig, FewshotCNN, relu_norm


def _net(norm: str = "support", channels: int = 6, n_way: int = 3, seed: int = 0) -> FewshotCNN:
    return FewshotCNN(CNNConfig(n_way, channels, norm=norm), torch.Generator().manual_seed(seed)).double()


def _images(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, 1, 28, 28, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _one_image_at_a_time(net: FewshotCNN, images: list[Tensor], reference: list[Tensor]) -> Tensor:
    """The slow, obvious network: features of ``images`` with the statistics of the list ``reference``."""
    for kernel in net.conv_weights():
        z, z_ref = (
            [F.conv2d(x[None], kernel, stride=2, padding=1)[0].relu() for x in xs] for xs in (images, reference)
        )
        pixels = torch.cat([x.flatten(1) for x in z_ref], dim=1)
        mean, deviation = pixels.mean(1), (pixels.var(1, correction=0) + net.config.norm_eps).sqrt()
        images, reference = ([(x - mean[:, None, None]) / deviation[:, None, None] for x in xs] for xs in (z, z_ref))
    return torch.stack([x.flatten(1).max(1).values for x in images])


# ---------------------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize(
    ("norm", "support", "query"),
    [
        # relu(1, 3): mean 2, var 1 -> (-1, 1), again and again; the query 5 -> 3 -> relu, (3 - .5) / .5 = 5 -> 9 -> 17
        ("support", [[-1.0, 1.0], [-1.0, 1.0]], [[17.0, -1.0], [17.0, -1.0]]),
        ("transductive", [[-1.0, 1.0], [-1.0, 1.0]], [[1.0, -1.0], [1.0, -1.0]]),
        # both tasks together hold the values 1, 3, 1, 3 and 5, -7, 5, -7: the same as each alone
        ("meta-batch", [[-1.0, 1.0], [-1.0, 1.0]], [[1.0, -1.0], [1.0, -1.0]]),
    ],
)
def test_constant_images_by_hand(norm: str, support: list[list[float]], query: list[list[float]]) -> None:
    net = FewshotCNN(CNNConfig(n_way=2, channels=1, norm=norm, norm_eps=0.0))
    with torch.no_grad():
        for kernel in net.conv_weights():
            kernel.zero_()[0, 0, 1, 1] = 1.0  # picks pixel (2i, 2j)
    x_support = torch.tensor([1.0, 3.0])[None, :, None, None, None].expand(2, 2, 1, 28, 28)
    x_query = torch.tensor([5.0, -7.0])[None, :, None, None, None].expand(2, 2, 1, 28, 28)
    for weights in (None, net.conv_weights()):
        f_support, f_query = net.features(x_support, x_query, weights=weights)
        assert f_support.squeeze(-1).tolist() == support
        assert f_query.squeeze(-1).tolist() == query


def test_shapes_of_the_published_network() -> None:
    net = FewshotCNN()
    assert [tuple(w.shape) for w in net.conv_weights()] == [(56, 1, 3, 3)] + [(56, 56, 3, 3)] * 3
    assert tuple(net.readout.weight.shape) == (5, 56)
    assert net.readout.bias is None
    assert net.inner_lr.tolist() == pytest.approx([0.1] * 4)
    assert not net.inner_lr.requires_grad
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == 9 * 56 + 3 * 9 * 56 * 56 + 5 * 56


# -------------------------------------------------------------------------------- against the slow loop


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("path", ["modules", "fused", "differentiable twice"])
def test_features_equal_the_slow_loop(norm: str, path: str) -> None:
    net, support, query = _net(norm), _images(3, 4), _images(3, 2, seed=2)
    weights = None if path == "modules" else net.conv_weights()
    f_support, f_query = net.features(
        support, query, weights=weights, differentiable_twice=path == "differentiable twice"
    )
    for t in range(3):
        s, q = ([*support.flatten(0, 1)], [*query.flatten(0, 1)]) if norm == "meta-batch" else (support[t], query[t])
        statistics = s if norm == "support" else q
        torch.testing.assert_close(f_support[t], _one_image_at_a_time(net, [*support[t]], [*s]), rtol=0, atol=1e-11)
        torch.testing.assert_close(
            f_query[t], _one_image_at_a_time(net, [*query[t]], [*statistics]), rtol=0, atol=1e-11
        )


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_of_the_three_paths_agree(norm: str) -> None:
    net, support, query = _net(norm), _images(2, 3), _images(2, 2, seed=2)
    generator = torch.Generator().manual_seed(0)
    g_support, g_query = (torch.randn(2, n, 6, generator=generator, dtype=torch.float64) for n in (3, 2))

    def gradient(weights: list[Tensor] | None, twice: bool) -> list[Tensor]:
        f_support, f_query = net.features(support, query, weights=weights, differentiable_twice=twice)
        return list(torch.autograd.grad((f_support * g_support).sum() + (f_query * g_query).sum(), net.conv_weights()))

    plain = gradient(net.conv_weights(), True)
    for weights in (None, net.conv_weights()):
        for ours, theirs in zip(gradient(weights, False), plain, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(NORMS),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 999),
)
def test_fast_path_equals_plain_operations(norm: str, tasks: int, s: int, q: int, channels: int, seed: int) -> None:
    net, support, query = (
        _net(norm, channels, seed=seed),
        _images(tasks, s, seed=seed),
        _images(tasks, q, seed=seed + 1),
    )
    results = []
    for twice in (False, True):
        features = torch.cat(
            net.features(support, query, weights=net.conv_weights(), differentiable_twice=twice), dim=1
        )
        g = torch.randn(features.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        results.append([features.detach(), *torch.autograd.grad(features, net.conv_weights(), g)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * max(1.0, float(theirs.abs().max())))


def test_equal_maxima_share_the_gradient() -> None:
    """Constant images under kernels of one tap: all positions of a map are equal, and each takes its part."""
    net, grey = _net(channels=3), torch.tensor([0.2, 0.9, 0.4, 0.7, 0.5], dtype=torch.float64)
    images = grey[None, :, None, None, None].expand(1, 5, 1, 28, 28)
    with torch.no_grad():
        for i, kernel in enumerate(net.conv_weights()):
            kernel.zero_()[:, :, 1, 1] = torch.randn(
                kernel.shape[:2], generator=torch.Generator().manual_seed(i), dtype=torch.float64
            )

    def gradient(twice: bool) -> list[Tensor]:
        weights = net.conv_weights()
        f_support, f_query = net.features(images[:, :3], images[:, 3:], weights=weights, differentiable_twice=twice)
        return list(torch.autograd.grad(f_support.square().sum() + 3 * f_query.sum(), weights))

    for ours, theirs in zip(gradient(False), gradient(True), strict=True):
        assert theirs.abs().max() > 1e-3
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8 * float(theirs.abs().max()))


@pytest.mark.parametrize("norm", NORMS)
def test_features_pass_gradcheck(norm: str) -> None:
    net, support, query = _net(norm, channels=2), _images(2, 2), _images(2, 1, seed=2)
    kernels = tuple(w.detach().clone().requires_grad_() for w in net.conv_weights())
    assert torch.autograd.gradcheck(lambda *k: net.features(support, query, weights=k), kernels, fast_mode=True)


def test_the_fast_path_refuses_a_second_derivative() -> None:
    net, kernels = _net(), [w.detach().clone().requires_grad_() for w in _net().conv_weights()]
    features, _ = net.features(_images(1, 3), _images(1, 2), weights=kernels)
    (slope,) = torch.autograd.grad(features.square().sum(), kernels[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


# ------------------------------------------------------------------------------- whose statistics, always


def test_support_norm_answers_a_query_alone_as_in_a_batch() -> None:
    net, support, query = _net("support"), _images(1, 4), _images(1, 5, seed=2)
    f_support, together = net.features(support, query)
    alone = torch.cat([net.features(support, query[:, i : i + 1])[1] for i in range(5)], dim=1)
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-11)
    torch.testing.assert_close(net.features(support, query[:, :1])[0], f_support, rtol=0, atol=1e-11)


def test_transductive_norm_depends_on_the_company_but_not_on_other_tasks() -> None:
    net, support, query = _net("transductive"), _images(2, 4), _images(2, 5, seed=2)
    f_support, f_query = net.features(support, query)
    assert (net.features(support, query[:, :3])[1] - f_query[:, :3]).abs().max() > 1e-2
    for t in (0, 1):
        one_support, one_query = net.features(support[t : t + 1], query[t : t + 1])
        torch.testing.assert_close(one_support, f_support[t : t + 1], rtol=0, atol=1e-11)
        torch.testing.assert_close(one_query, f_query[t : t + 1], rtol=0, atol=1e-11)


def test_meta_batch_norm_couples_tasks_and_equals_transductive_for_one() -> None:
    net, support, query = _net("meta-batch"), _images(2, 4), _images(2, 5, seed=2)
    f_support, f_query = net.features(support, query)
    other = torch.cat([support[:1], 1 - support[1:]])
    assert (net.features(other, query)[0][0] - f_support[0]).abs().max() > 1e-2
    for ours, theirs in zip(
        net.features(support[:1], query[:1]), net.features(support[:1], query[:1], norm="transductive"), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
    swapped = net.features(support.flip(0), query.flip(0))[1]
    torch.testing.assert_close(swapped.flip(0), f_query, rtol=0, atol=1e-11)


@pytest.mark.parametrize("norm", NORMS)
def test_permuting_images_permutes_features(norm: str) -> None:
    net, support, query = _net(norm), _images(1, 5), _images(1, 5, seed=2)
    order = torch.tensor([3, 0, 4, 1, 2])
    for permuted, original in zip(
        net.features(support[:, order], query[:, order]), net.features(support, query), strict=True
    ):
        torch.testing.assert_close(permuted, original[:, order], rtol=0, atol=1e-11)


# ------------------------------------------------------------------------------------- ReLU and norm


def test_relu_norm_by_hand() -> None:
    x = torch.tensor([-1.0, 2.0, 4.0, -9.0]).view(1, 4, 1, 1, 1)  # relu 0, 2 | 4, 0; the first two: mean 1, var 1
    assert relu_norm(x, 2, 0.0).flatten().tolist() == [-1.0, 1.0, 3.0, -1.0]


@pytest.mark.parametrize("n", [2, 3])
def test_relu_norm_passes_gradcheck_twice(n: int) -> None:
    x = torch.randn(2, 3, 2, 2, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.where(x.abs() < 1e-2, 0.1, x).requires_grad_()  # finite differences must not cross the kink
    assert torch.autograd.gradcheck(lambda v: relu_norm(v, n, 1e-3), (x,))
    assert torch.autograd.gradgradcheck(lambda v: relu_norm(v, n, 1e-3), (x,))


@pytest.mark.parametrize("contrast", [0.05, 0.01])
def test_faint_drawings_keep_their_features_in_float32(contrast: float) -> None:
    """A variance far below the squared mean: the fast path is at most 4 times as far from float64 as plain float32.

    E[r^2] - mean^2, where the two nearly cancel, is 5 to 10 times as far; two passes are 1 to 2 times.
    """
    net = FewshotCNN(CNNConfig(channels=32), torch.Generator().manual_seed(0))
    strokes = (_images(1, 40) > 0.1).double()
    support, query = (1 - contrast + contrast * strokes).split([20, 20], dim=1)

    def features(net: FewshotCNN, twice: bool, dtype: torch.dtype) -> Tensor:
        weights = [w.detach().to(dtype) for w in net.conv_weights()]
        both = net.features(support.to(dtype), query.to(dtype), weights=weights, differentiable_twice=twice)
        return torch.cat(both, dim=1)

    exact = features(net, True, torch.float64)
    fast, plain = ((features(net, twice, torch.float32) - exact).abs().max() for twice in (False, True))
    assert fast <= 4 * plain


@pytest.mark.parametrize("value", [0.0, -1.0, 1.0, 1e4])
def test_blank_images_stay_finite(value: float) -> None:
    net = FewshotCNN(CNNConfig(channels=4), torch.Generator().manual_seed(0))
    blank = torch.full((1, 5, 1, 28, 28), value)
    features = torch.cat(net.features(blank, blank, weights=net.conv_weights()), dim=1)
    assert features.isfinite().all()
    for gradient in torch.autograd.grad(features.sum(), net.conv_weights()):
        assert gradient.isfinite().all()


# --------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"norm": "suport"}, "norm 'suport'"),
        ({"n_way": 0}, "n_way 0"),
        ({"channels": 0}, "channels 0"),
        ({"blocks": 5}, "blocks 5"),
        ({"blocks": 0}, "blocks 0"),
        ({"updates": 0}, "updates 0"),
    ],
)
def test_bad_configurations_are_refused(options: dict[str, object], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        CNNConfig(**options)  # type: ignore[arg-type]


def test_unknown_norm_of_a_call_is_refused() -> None:
    with pytest.raises(ConfigError, match="choose one of support"):
        _net().features(_images(1, 2), _images(1, 2), norm="batch")


def test_the_generator_alone_decides_the_weights() -> None:
    torch.manual_seed(1)
    a = _net(seed=3)
    torch.manual_seed(2)
    b, c = _net(seed=3), _net(seed=4)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.conv_weights()[0], c.conv_weights()[0])


# ----------------------------------------------------------------------------------- the published batch

Golden = Callable[[str], Tensor]


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    file = np.load(shared / "published" / "cnn_golden.npz")
    return lambda name: torch.from_numpy(file[name])


@pytest.fixture(scope="module")
def published(shared: Path) -> FewshotCNN:
    file = np.load(shared / "published" / "cnn_checkpoint.npz")
    net = FewshotCNN(CNNConfig(norm="meta-batch"))
    with torch.no_grad():
        for i, kernel in enumerate(net.conv_weights()):
            kernel.copy_(torch.from_numpy(np.ascontiguousarray(file[f"kernel{i + 1}"].transpose(3, 2, 0, 1))))
        net.readout.weight.copy_(torch.from_numpy(np.ascontiguousarray(file["w_readout"].T)))
    return net


def _nchw(x: Tensor) -> Tensor:
    return x.flatten(0, 1).permute(0, 3, 1, 2).contiguous()


@pytest.mark.shared
def test_every_layer_of_the_golden_batch_from_the_one_before(golden: Golden, published: FewshotCNN) -> None:
    x = _nchw(golden("support_images"))
    for i, conv in enumerate(published.convs, start=1):
        pre, out = _nchw(golden(f"support_conv{i}_pre")), _nchw(golden(f"support_conv{i}_out"))
        torch.testing.assert_close(conv(x), pre, rtol=0, atol=5e-5)  # sums of 504 products up to 58
        mean, var = golden(f"support_bn{i}_mean"), golden(f"support_bn{i}_var")
        own = (pre.relu() - mean[:, None, None]) * torch.rsqrt(var + 1e-3)[:, None, None]
        torch.testing.assert_close(own, out, rtol=0, atol=5e-6)
        ours = relu_norm(pre[None].double(), len(pre), 1e-3)[0]  # the reference's statistics are the difference
        torch.testing.assert_close(ours.float(), out, rtol=0, atol=1.2e-3)
        own_var, own_mean = torch.var_mean(pre.relu().double(), dim=(0, 2, 3), correction=0)
        assert ((own_mean - mean).abs() / mean.abs().clamp_min(1e-6)).max() < 1.5e-4
        assert ((own_var - var).abs() / var).max() < 3e-4
        x = out


@pytest.mark.shared
def test_features_of_the_golden_batch(golden: Golden, published: FewshotCNN) -> None:
    support, query = (golden(f"{kind}_images").permute(0, 1, 4, 2, 3).contiguous() for kind in ("support", "query"))
    reference = golden("support_features")
    for weights in (None, published.conv_weights()):
        single = published.features(support, query, weights=weights)[0].detach()
        torch.testing.assert_close(single, reference, rtol=0, atol=2e-3)
    double = FewshotCNN(published.config).double()
    double.load_state_dict(published.state_dict())
    exact = double.features(support.double(), query.double(), weights=double.conv_weights())[0].detach()
    torch.testing.assert_close(exact.float(), reference, rtol=0, atol=2e-3)
    assert 10 * (single - exact).abs().max() < (reference - exact).abs().max()
