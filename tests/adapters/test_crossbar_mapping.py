"""The paper's placements come out; any network and a user's own modules are placed, or refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ovonic
from ovonic.adapters.crossbar import Block, Layout
from ovonic.adapters.crossbar_mapping import cnn_layout, layout_of, lsg_layout, trainee_layout
from ovonic.adapters.crossbar_packing import Rectangle, cuts, pack
from ovonic.adapters.crossbar_sources import observed
from ovonic.adapters.crossbar_weights import clipped, roll, targets, unroll, weights_of
from ovonic.adapters.torch_layers import Hollow
from ovonic.models.dynamics import Dynamics
from ovonic.models.errors import ConfigError, UnsupportedDynamics
from ovonic.models.fewshot_cnn import CNNConfig, FewshotCNN
from ovonic.models.layers import Flatten, Input, Linear, Pool, Pooling, Readout, Recurrence, Spiking
from ovonic.models.lif import masked
from ovonic.models.natural_eprop_networks import initial_pair
from ovonic.models.network import Edge, Network
from ovonic.models.splitting import SPLITS

from .crossbar_cases import modules, networks, recurrent_network

PAIR = initial_pair()


class TestPaper:
    def test_the_cnn_lies_on_two_arrays(self) -> None:
        layout = cnn_layout(FewshotCNN())
        deep = [(f"convs.{k}.weight", 56 * (k - 1)) for k in (1, 2, 3)]
        halves = [Block(name, 252 * a, 252 * (a + 1), 0, 56, a, 0, column) for name, column in deep for a in (0, 1)]
        first, readout = (
            Block("convs.0.weight", 0, 9, 0, 56, 0, 0, 168),
            Block("readout.weight", 0, 56, 0, 5, 0, 0, 224),
        )
        assert layout.blocks == (first, *halves, readout)
        assert [layout.used(array)[1].stop for array in (0, 1)] == [229, 168]
        assert [layer.inputs for layer in layout.layers] == ["unsigned", *["signed"] * 4]
        assert [layer.input_range for layer in layout.layers] == [1.0, *[10.0] * 4]
        assert [cost.mvms for cost in layout.cost()] == [196, 2 * 49, 2 * 16, 2 * 4, 1]
        assert [cost.in_sequence for cost in layout.cost()] == [196, 49, 16, 4, 1]
        assert layout == layout_of(FewshotCNN(), w_max={x.name: x.w_max for x in layout.layers})

    def test_the_trainee_lies_on_one(self) -> None:
        layout = trainee_layout(PAIR.trainee)
        assert layout.blocks == (
            Block("in.weight", 0, 5, 0, 250, 0, 0, 0),
            Block("trainee.recurrence", 0, 250, 0, 250, 0, 5, 0),
            Block("out.weight", 0, 250, 0, 2, 0, 5, 250),
        )
        assert layout.used(0) == (slice(0, 255), slice(0, 252))
        assert all(layer.inputs == "binary" for layer in layout.layers)
        (cost,) = layout.cost(steps=249)
        assert (cost.mvms, cost.conversions) == (250, 250 * 252)

    def test_the_lsg_lies_on_twenty(self) -> None:
        layout = lsg_layout(PAIR.lsg)
        assert len(layout.arrays) == 20
        assert layout.n_weights == 53 * 800 + 800 * 800 + 800 * 250
        assert 0.67 < layout.fill < 0.68
        (cost,) = layout.cost(steps=249)
        assert (cost.mvms, cost.in_sequence) == (20 * 250, 250)
        assert "882400 weights on 20 arrays, 67.3% of 1310720 cells" in str(layout)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    networks(),
    st.integers(8, 64),
    st.integers(8, 64),
    st.sampled_from(sorted(SPLITS)),
    st.sampled_from(["layer", "column"]),
    st.sampled_from(["all", "rows", "none"]),
    st.booleans(),
)
def test_decoded_weights_equal_their_targets(
    network: Network, rows: int, columns: int, split: str, scale: str, together: str, parallel: bool
) -> None:
    layout = layout_of(network, rows=rows, columns=columns, scale=scale, together=together, parallel=parallel)
    weights = network.weights()
    g = targets(layout, weights, 25.0, split)
    for one, array in zip(g, layout.arrays, strict=True):
        assert one.shape == (4, array.rows, array.columns)
        assert one.min() >= 0
        assert one.max() <= 25.0 * (1 + 1e-15)
    decoded = weights_of(layout, g, 25.0)
    assert set(decoded) | set(layout.digital) == set(weights)
    for layer in layout.layers:
        due = torch.tensor(weights[layer.name])
        due = masked(due) if layer.masked_diagonal else due
        error = (decoded[layer.name] - due).abs().max()
        assert error <= 4 * torch.finfo(torch.float64).eps * max(layer.w_max)
    assert Layout.from_json(layout.to_json()) == layout
    assert sum(clipped(layout, weights).values()) == 0
    per_layer = sum(len(layout.reads(group)) for group in layout.groups)
    assert len(layout.arrays) <= len(layout.blocks)
    assert per_layer <= len(layout.blocks)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 30), st.integers(0, 3)), min_size=1, max_size=40))
def test_packed_rectangles_neither_overlap_nor_leave_their_array(sizes: list[tuple[int, int, int]]) -> None:
    rectangles = [Rectangle(height, width, apart or None) for height, width, apart in sizes]
    places = pack(rectangles, 40, 30)
    taken = np.zeros((1 + max(place.array for place in places), 40, 30), int)
    for r, place in zip(rectangles, places, strict=True):
        part = taken[place.array, place.row : place.row + r.height, place.column : place.column + r.width]
        assert part.shape == (r.height, r.width)
        part += 1
    assert taken.max() == 1
    apart = [(place.array, r.apart) for r, place in zip(rectangles, places, strict=True) if r.apart]
    assert len(set(apart)) == len(apart)
    assert pack(rectangles, 40, 30) == places


@pytest.mark.parametrize(
    ("size", "most", "parts"), [(504, 256, [252, 252]), (853, 256, [214, 213, 213, 213]), (9, 9, [9])]
)
def test_cuts_are_few_and_even(size: int, most: int, parts: list[int]) -> None:
    made = cuts(size, most)
    assert [part.stop - part.start for part in made] == parts
    assert [made[0].start, made[-1].stop] == [0, size]


class TestScales:
    def test_layers_that_feed_one_sum_share_theirs(self) -> None:
        network = recurrent_network()
        top = max(np.abs(network.weights()["in.weight"]).max(), 0.1)
        layout = trainee_layout(network, headroom=1.5)
        scales = {layer.name: layer.w_max for layer in layout.layers}
        assert scales["in.weight"] == scales["cells.recurrence"] == (pytest.approx(1.5 * top),)
        assert scales["out.weight"] == (pytest.approx(1.5 * np.abs(network.weights()["out.weight"]).max()),)

    def test_also_where_their_inputs_have_other_ranges(self) -> None:
        network = recurrent_network()
        layout = layout_of(network, inputs={"in.weight": "signed"}, input_ranges={"in.weight": 4.0}, scale="column")
        by_name = {layer.name: layer.scale() for layer in layout.layers}
        assert np.allclose(by_name["in.weight"], by_name["cells.recurrence"], rtol=1e-14)
        assert len(layout.reads(layout.groups[0])) == 1

    def test_read_apart_each_has_its_own(self) -> None:
        network = recurrent_network()
        layout = trainee_layout(network, together="rows")
        whole = trainee_layout(network)
        assert layout.blocks == whole.blocks
        assert layout.together == (("cells.recurrence", "out.weight"),)
        for layer in layout.layers:
            w = masked(torch.tensor(network.weights()[layer.name])) if layer.masked_diagonal else None
            top = np.abs(network.weights()[layer.name]).max() if w is None else float(w.abs().max())
            assert layer.w_max == (top,)

    def test_fixed_ones_clip_and_are_counted(self) -> None:
        module = nn.Linear(3, 2, bias=False)
        with torch.no_grad():
            module.weight.copy_(torch.tensor([[0.5, -2.0, 0.0], [1.0, 3.0, -0.25]]))
        layout = layout_of(module, w_max={"weight": [1.0, 2.0]})
        weights = {"weight": module.weight.detach()}
        assert clipped(layout, weights) == {"weight": 2}
        assert weights_of(layout, targets(layout, weights, 20.0), 20.0)["weight"].tolist() == [
            [0.5, -1.0, 0.0],
            [1.0, 2.0, -0.25],
        ]

    def test_of_nothing_but_zeros(self) -> None:
        module = nn.Linear(3, 2)
        nn.init.zeros_(module.weight)
        assert layout_of(module, scale="column").layers[0].w_max == (1.0, 1.0)


class TestInputs:
    def test_a_network_says_what_drives_a_layer(self) -> None:
        eye = np.eye(4)
        layers = {
            "x": Input((4,)),
            "a": Linear(eye),
            "s": Spiking(Dynamics(0.9, threshold=1.0)),
            "b": Linear(eye),
            "c": Linear(eye),
            "t": Spiking(Dynamics(0.9, threshold=1.0)),
            "d": Linear(np.ones((4, 1))),
            "y": Readout(0.9),
        }
        edges = [("x", "a"), ("a", "s"), ("s", "b"), ("b", "c"), ("c", "t"), ("t", "d"), ("s", "d"), ("d", "y")]
        layout = layout_of(Network(layers, tuple(Edge(*edge) for edge in edges)))
        inputs = {layer.name: (layer.inputs, layer.input_range) for layer in layout.layers}
        assert inputs == {
            "a.weight": ("signed", 1.0),
            "b.weight": ("binary", 1.0),
            "c.weight": ("signed", 1.0),
            "d.weight": ("unsigned", 2.0),
        }

    @pytest.mark.parametrize(
        ("how", "inputs", "full"),
        [(Pooling.MAX, "binary", 1.0), (Pooling.MEAN, "unsigned", 1.0), (Pooling.SUM, "unsigned", 4.0)],
    )
    def test_pooled_spikes(self, how: Pooling, inputs: str, full: float) -> None:
        layers = {
            "x": Input((1, 4, 4)),
            "s": Spiking(Dynamics(0.9, threshold=1.0)),
            "p": Pool(how, (2, 2)),
            "f": Flatten(),
            "w": Linear(np.ones((4, 3))),
            "y": Readout(0.9),
        }
        (layer,) = layout_of(Network.stack(layers)).layers
        assert (layer.inputs, layer.input_range) == (inputs, full)

    def test_a_module_shows_it_on_an_example(self) -> None:
        module = modules()
        x = torch.rand(2, 4, 12, 12)
        module(x)
        seen = observed(module, x)
        assert [(d.inputs, d.vectors) for d in seen.values()] == [("unsigned", 36), ("signed", 20), ("signed", 1)]
        assert seen["0.weight"].input_range == float(x.max())
        layout = layout_of(module, example=x)
        assert [layer.vectors for layer in layout.layers] == [36, 20, 1]
        assert module.training

    def test_steps_of_time_are_vectors(self) -> None:
        class Loop(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.w = nn.Linear(3, 3)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                for _ in range(7):
                    x = (self.w(x) > 0).float()
                return x

        (seen,) = observed(Loop(), torch.ones(5, 3)).values()
        assert (seen.inputs, seen.vectors) == ("binary", 7)


class TestModules:
    def test_nested_and_grouped(self) -> None:
        module = modules()
        module(torch.rand(2, 4, 12, 12))
        layout = layout_of(module, rows=16, columns=16)
        assert {layer.name: layer.shape for layer in layout.layers} == {
            "0.weight": (36, 6),
            "2.1.weight": (36, 5),
            "4.weight": (20, 7),
        }
        assert layout.digital == ("0.bias", "2.0.weight", "2.0.bias", "4.bias")
        weights = {name: p.detach() for name, p in module.named_parameters()}
        for name, w in weights_of(layout, targets(layout, weights, 25.0, "equal"), 25.0).items():
            assert torch.allclose(w, weights[name], atol=1e-7)

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.lists(st.integers(1, 3), min_size=1, max_size=2))
    def test_unrolled_as_unfold_orders_its_inputs(self, groups: int, n_in: int, n_out: int, window: list[int]) -> None:
        kind = nn.Conv1d if len(window) == 1 else nn.Conv2d
        conv = kind(groups * n_in, groups * n_out, tuple(window), groups=groups, bias=False).double()
        (layer,) = layout_of(conv).layers
        matrix = unroll(layer, conv.weight.detach())
        assert torch.equal(roll(layer, matrix), conv.weight.detach())
        x = torch.rand(2, groups * n_in, *window, dtype=torch.float64)
        assert torch.allclose(x.flatten(1) @ matrix, conv(x).flatten(1).detach(), atol=1e-12)

    def test_a_hollow_matrix_keeps_its_diagonal_free(self) -> None:
        module = nn.Linear(4, 4)
        nn.utils.parametrize.register_parametrization(module, "weight", Hollow())
        (layer,) = layout_of(module).layers
        assert layer.masked_diagonal

    @pytest.mark.parametrize(
        ("module", "message"),
        [
            (
                nn.Sequential(nn.Linear(2, 2), nn.GRU(2, 3)),
                r"layer '1': its weight_ih_l0 of \(9, 2\) is a weight matrix",
            ),
            (nn.Sequential(nn.Embedding(3, 2)), r"layer '0': its weight of \(3, 2\) is a weight matrix of a Embedding"),
            (nn.ConvTranspose2d(1, 1, 2), "layer 'ConvTranspose2d': its weight"),
            (nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")), "layer '0': padding_mode"),
            (nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), "layer '1': its weight is not initialised"),
        ],
    )
    def test_what_cannot_be_placed_is_refused_by_name(self, module: nn.Module, message: str) -> None:
        with pytest.raises(UnsupportedDynamics, match=message):
            layout_of(module)

    def test_shared_weights_are_refused(self) -> None:
        module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        module[1].weight = module[0].weight
        with pytest.raises(UnsupportedDynamics, match=r"layer '1': shares its weight with '0.weight'"):
            layout_of(module)

    @pytest.mark.toolchain
    def test_snntorch(self) -> None:
        snn = pytest.importorskip("snntorch")
        module = nn.Sequential(nn.Linear(6, 10), snn.RLeaky(0.9, linear_features=10), nn.Linear(10, 2), snn.Leaky(0.8))
        layout = layout_of(module)
        assert [layer.name for layer in layout.layers] == ["0.weight", "1.recurrent.weight", "2.weight"]
        assert "1.recurrent.bias" in layout.digital

    @pytest.mark.toolchain
    def test_norse(self) -> None:
        norse = pytest.importorskip("norse.torch")
        module = norse.SequentialState(
            nn.Conv2d(1, 3, 3), norse.LIFCell(), nn.Flatten(), nn.Linear(12, 2), norse.LICell()
        )
        assert [layer.shape for layer in layout_of(module).layers] == [(9, 3), (12, 2)]
        with pytest.raises(UnsupportedDynamics, match=r"layer '1': its input_weights of \(10, 6\) is a weight matrix"):
            layout_of(norse.SequentialState(nn.Linear(6, 6), norse.LIFRecurrentCell(6, 10)))


REFUSED = [
    ({"scale": "colum"}, "scale 'colum': did you mean 'column'"),
    ({"together": "al"}, "together 'al': did you mean 'all'"),
    ({"headroom": 0.0}, "headroom 0.0: must be positive"),
    ({"read_phases": 3}, "read_phases 3"),
    ({"w_max": {"in.wieght": 1.0}}, "w_max of 'in.wieght': did you mean 'in.weight'"),
    ({"w_max": {"in.weight": [1.0, 2.0]}}, r"w_max of 'in.weight': one positive number, or one a column \(14\)"),
    ({"w_max": {"in.weight": -1.0}}, "w_max of 'in.weight': one positive number"),
    ({"inputs": {"in.weight": "spikes"}}, "inputs of 'in.weight': 'spikes'"),
    ({"input_ranges": {"in": 2.0}}, "input_ranges of 'in'"),
    ({"rows": 0}, "rows 0: must be positive"),
    ({"input_ranges": {"in.weight": -2.0}}, "in.weight -2.0: must be positive"),
    ({"rows": 8, "columns": 8, "arrays": 3}, "arrays of 8 x 8 are needed, there are 3"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_options_are_checked(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        layout_of(recurrent_network(), **options)


def test_nothing_to_place() -> None:
    with pytest.raises(ConfigError, match="ReLU: holds no linear layer"):
        layout_of(nn.ReLU())
    with pytest.raises(ConfigError, match="network: holds no weight matrix"):
        layout_of(Network.stack({"x": Input((3,)), "y": Readout(0.9)}))


class TestTogether:
    def test_feeders_and_readers_of_each_recurrence(self) -> None:
        rng = np.random.default_rng(0)

        def cells(n: int) -> Spiking:
            return Spiking(Dynamics(0.9, threshold=1.0), Recurrence(rng.normal(size=(n, n))))

        layers = {
            "x": Input((3,)),
            "u": Input((2,)),
            "a": Linear(rng.normal(size=(3, 6))),
            "b": Linear(rng.normal(size=(2, 6))),
            "one": cells(6),
            "between": Linear(rng.normal(size=(6, 4))),
            "two": cells(4),
            "out": Linear(rng.normal(size=(4, 2))),
            "late": Linear(rng.normal(size=(4, 2))),
            "y": Readout(0.9),
        }
        edges = [Edge("x", "a"), Edge("u", "b"), Edge("a", "one"), Edge("b", "one"), Edge("one", "between")]
        edges += [
            Edge("between", "two"),
            Edge("two", "out"),
            Edge("two", "late", 1),
            Edge("out", "y"),
            Edge("late", "y"),
        ]
        layout = layout_of(Network(layers, tuple(edges)))
        assert {frozenset(group) for group in layout.groups} == {
            frozenset({"a.weight", "b.weight", "one.recurrence"}),
            frozenset({"between.weight", "two.recurrence", "out.weight"}),
            frozenset({"late.weight"}),
        }
        assert all(len(layout.reads(group)) == 1 for group in layout.groups)

    def test_one_to_one_recurrence_is_digital(self) -> None:
        layers = {
            "x": Input((3,)),
            "a": Linear(np.eye(3)),
            "s": Spiking(Dynamics(0.9, threshold=1.0), Recurrence(np.ones(3))),
        }
        layout = layout_of(Network.stack(layers))
        assert layout.digital == ("s.recurrence",)
        assert layout.groups == (("a.weight",),)


def test_copies_of_weights_become_copies_of_arrays() -> None:
    network = recurrent_network()
    layout = trainee_layout(network)
    weights = {name: torch.tensor(w) for name, w in network.weights().items()}
    many = weights | {"in.weight": torch.stack([weights["in.weight"] * k for k in (1.0, 0.5, -1.0)])}
    (g,) = targets(layout, many, 25.0)
    assert g.shape == (3, 4, 256, 256)
    decoded = weights_of(layout, [g], 25.0)
    assert torch.allclose(decoded["in.weight"], many["in.weight"])
    assert torch.equal(g[0], targets(layout, weights, 25.0)[0])
    with pytest.raises(ConfigError, match="array 'A0': copies"):
        targets(layout, many | {"out.weight": weights["out.weight"].expand(2, -1, -1)}, 25.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {}, "those of layer 'in.weight' are missing"),
        (lambda w: w | {"in.weight": torch.zeros(4, 14)}, r"layer 'in.weight': weights \(4, 14\)"),
        (lambda w: w | {"in.weight": torch.full((5, 14), torch.nan)}, "layer 'in.weight': its weights hold NaN"),
    ],
)
def test_weights_that_do_not_fit(change, message: str) -> None:
    network = recurrent_network()
    weights = {name: torch.tensor(w) for name, w in network.weights().items()}
    with pytest.raises(ConfigError, match=message):
        targets(trainee_layout(network), change(weights), 25.0)


def test_a_smaller_cnn_and_shipped_weights() -> None:
    small = cnn_layout(FewshotCNN(CNNConfig(channels=8, blocks=2)), rows=64, columns=64)
    assert [layer.vectors for layer in small.layers] == [196, 49, 1]
    net = ovonic.load("fewshot-32bit")
    layout = cnn_layout(net, scale="column")
    weights = {name: p.detach() for name, p in net.named_parameters()}
    decoded = weights_of(layout, targets(layout, weights, 25.0), 25.0)
    for layer in layout.layers:
        assert (decoded[layer.name] - weights[layer.name]).abs().max() <= 2**-23 * max(layer.w_max)
