"""Weights of torch modules: files of tensors are read, everything that would run code is refused with a remedy."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ovonic.adapters.state_dicts import linear_chain, load_into, read_state_dict
from ovonic.models.errors import ConfigError, WeightsError


class Marker(nn.Module):
    """What a file must not make: an object of a class of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.fc(x)
        return result


@pytest.fixture
def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, 2))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_a_chain_of_linear_layers_gives_what_the_module_gave(tmp_path: Path, mlp: nn.Sequential, suffix: str) -> None:
    path = tmp_path / f"mlp{suffix}"
    if suffix == ".safetensors":
        save_file(mlp.state_dict(), path)
    else:
        torch.save({"state_dict": mlp.state_dict()} if suffix == ".pth" else mlp.state_dict(), path)
    x = torch.rand(7, 3)
    chain = linear_chain(read_state_dict(path), "relu", str(path))
    assert torch.equal(chain(x), mlp(x))
    assert not torch.equal(linear_chain(read_state_dict(path), "tanh", str(path))(x), mlp(x))


def test_layers_ten_and_two_are_in_order() -> None:
    state = {f"{k}.weight": torch.full((1, 1), float(k)) for k in (10, 2, 0)}
    chain = linear_chain(state, "none", "x")
    assert [part.weight.item() for part in chain if isinstance(part, nn.Linear)] == [0, 2, 10]


def test_what_happens_between_layers_must_be_told(mlp: nn.Sequential) -> None:
    with pytest.raises(ConfigError, match=r"3 linear layers.*--activation none\|relu"):
        linear_chain(mlp.state_dict(), None, "mlp.pt")
    with pytest.raises(ConfigError, match="did you mean 'relu'"):
        linear_chain(mlp.state_dict(), "rely", "mlp.pt")


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"conv.weight": torch.zeros(2, 1, 3, 3)}, r"'conv.weight' of \(2, 1, 3, 3\) is not of a linear layer"),
        ({"a.weight": torch.zeros(2, 3), "norm.running_mean": torch.zeros(2)}, "'norm.running_mean'"),
        ({"a.weight": torch.zeros(2, 3), "b.weight": torch.zeros(2, 3)}, "'a.weight' gives 2, 'b.weight' takes 3"),
        ({"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(3)}, r"bias of \(3,\)"),
        ({}, "holds no weights"),
    ],
)
def test_other_weights_are_no_chain(state: dict[str, Any], said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        linear_chain(state, "relu", "x.pt")


def test_code_in_a_file_is_refused_with_a_remedy(tmp_path: Path, mlp: nn.Sequential) -> None:
    torch.save(Marker(), tmp_path / "whole.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(mlp, torch.zeros(1, 3)).save(tmp_path / "script.pt")
    torch.export.save(torch.export.export(mlp, (torch.zeros(1, 3),)), tmp_path / "program.pt2")
    for name, said in (
        ("whole.pt", "more than tensors"),
        ("script.pt", "TorchScript"),
        ("program.pt2", "exported program"),
    ):
        with pytest.raises(WeightsError, match=said) as caught:
            read_state_dict(tmp_path / name)
        assert "torch.save(module.state_dict(), FILE)" in str(caught.value)
        assert "--weights" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1, 2], "list, where tensors by name are due"),
        ({}, "where tensors by name are due"),
        ({"a": 3}, "'a' is a int"),
        ({"a": torch.tensor([1.0, float("nan")])}, "'a' holds numbers that are not finite"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, value: Any, said: str) -> None:
    torch.save(value, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=said):
        read_state_dict(tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors", "x.pt2"])
def test_damaged_files_are_refused(tmp_path: Path, mlp: nn.Sequential, name: str) -> None:
    torch.save(mlp.state_dict(), tmp_path / "whole")
    for content in (b"", b"hello" * 30, (tmp_path / "whole").read_bytes()[:-300]):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=name):
            read_state_dict(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_state_dict(tmp_path / "none.pt")
    (tmp_path / "x.onnx").touch()
    with pytest.raises(WeightsError, match="weights are read from"):
        read_state_dict(tmp_path / "x.onnx")


def test_weights_go_into_a_module_all_or_none(mlp: nn.Sequential) -> None:
    state = {name: torch.ones_like(w) for name, w in mlp.state_dict().items()}
    load_into(mlp, state, "w.pt")
    assert all(bool((w == 1).all()) for w in mlp.state_dict().values())
    for change, said in (
        ({"0.wight": state["0.weight"]}, "did you mean '0.weight'"),
        ({"0.weight": torch.zeros(3, 5)}, r"shape \(3, 5\) where \(5, 3\) is due"),
    ):
        with pytest.raises(WeightsError, match=said):
            load_into(mlp, state | change, "w.pt")
    with pytest.raises(WeightsError, match=r"no '4\.bias'"):
        load_into(mlp, {name: w for name, w in state.items() if name != "4.bias"}, "w.pt")
