"""Weight files: what is written comes back, and what lies is refused by name."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

import ovonic
from ovonic.adapters.weights import (
    FEWSHOT,
    describe,
    fewshot_from,
    fewshot_tensors,
    load_weights,
    resolve_fewshot,
    save_fewshot,
    save_weights,
    shipped,
)
from ovonic.models.errors import WeightsError
from ovonic.models.fewshot_cnn import CNNConfig, FewshotCNN

TRAINING = {"command": "ovonic fewshot train", "seed": 3, "data": ["glyphs"], "steps": 7, "precision": 4}


@pytest.fixture
def net() -> FewshotCNN:
    net = FewshotCNN(CNNConfig(n_way=3, channels=2, updates=2), torch.Generator().manual_seed(0))
    with torch.no_grad():
        net.readout.weight.copy_(torch.arange(6.0).reshape(3, 2))
    return net


def test_what_is_saved_comes_back(tmp_path: Path, net: FewshotCNN) -> None:
    save_fewshot(tmp_path / "w", net, TRAINING)
    weights = load_weights(tmp_path / "w")
    assert (weights.kind, weights.training, weights.path) == ("fewshot-cnn", TRAINING, tmp_path / "w")
    assert weights.config == dataclasses.asdict(net.config)
    copy = fewshot_from(weights)
    assert copy.config == net.config
    assert not copy.training
    for name, tensor in net.state_dict().items():
        assert torch.equal(copy.state_dict()[name], tensor)
    assert describe(tmp_path / "w")["training"] == TRAINING


def test_saving_twice_gives_the_same_bytes(tmp_path: Path, net: FewshotCNN) -> None:
    for name in ("a", "b"):
        save_fewshot(tmp_path / name, net, TRAINING)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_load_gives_a_ready_network_with_its_provenance(tmp_path: Path, net: FewshotCNN) -> None:
    save_fewshot(tmp_path / "w", net, TRAINING)
    loaded = ovonic.load(tmp_path / "w")
    assert loaded.config == net.config
    assert not loaded.training
    provenance: Any = loaded.provenance
    assert provenance["seed"] == 3
    assert provenance["source"] == str(tmp_path / "w")
    assert len(provenance["sha256"]) == 64


def test_resolve_reads_whatever_the_suffix_says(tmp_path: Path, net: FewshotCNN) -> None:
    save_fewshot(tmp_path / "w.npz", net, TRAINING)
    assert torch.equal(resolve_fewshot(tmp_path / "w.npz")[0].readout.weight, net.readout.weight)
    kernels = {f"kernel{i + 1}": w.detach().numpy().transpose(2, 3, 1, 0) for i, w in enumerate(net.conv_weights())}
    with (tmp_path / "w.safetensors").open("wb") as file:
        np.savez(file, w_readout=net.readout.weight.detach().numpy().T, **kernels)  # type: ignore[arg-type]
    published, provenance = resolve_fewshot(str(tmp_path / "w.safetensors"))
    assert torch.equal(published.convs[2].weight, net.convs[2].weight)  # type: ignore[arg-type]
    assert published.config.norm == "transductive"
    assert "Ortner" in provenance["origin"]


def _rewritten(
    path: Path, tensors: dict[str, Any], description: Any, change: Callable[[dict[str, Any], dict[str, Any]], Any]
) -> None:
    change(tensors, description)
    path.write_bytes(safetensors.numpy.save(tensors, metadata={"ovonic": json.dumps(description)}))


LIES: dict[str, tuple[Callable[[dict[str, Any], dict[str, Any]], Any], str]] = {
    "missing tensor": (lambda t, d: t.pop("readout.weight"), r"'readout\.weight' is missing"),
    "extra tensor": (lambda t, d: t.update(spy=np.zeros(1, np.float32)), "'spy' does not belong"),
    "shape": (lambda t, d: t.update({"readout.weight": np.zeros((4, 2), np.float32)}), r"shape \[4, 2\].*\[3, 2\]"),
    "type": (lambda t, d: t.update(inner_lr=np.zeros(2)), "'inner_lr': type F64"),
    "integers": (lambda t, d: t.update(inner_lr=np.zeros(2, np.int32)), "'inner_lr': type I32"),
    "NaN": (lambda t, d: t["convs.1.weight"].fill(np.nan), r"'convs\.1\.weight': holds NaN"),
    "infinity": (lambda t, d: t["inner_lr"].fill(np.inf), "'inner_lr': holds NaN or infinity"),
    "unknown kind": (lambda t, d: d.update(kind="robot"), "kind 'robot'"),
    "unknown format": (lambda t, d: d.update(format=2), "format 2"),
    "no network": (lambda t, d: d.pop("network"), "no object 'network'"),
    "training that is no object": (lambda t, d: d.update(training=[1]), "no object 'training'"),
    "unknown configuration": (lambda t, d: d["network"].update(chanels=2), "did you mean 'channels'"),
    "missing configuration": (lambda t, d: d["network"].pop("norm"), "lacks norm"),
    "text for a number": (lambda t, d: d["network"].update(channels="2"), "expected int"),
    "truth for a number": (lambda t, d: d["network"].update(blocks=True), "expected int"),
    "a config that is none": (lambda t, d: d["network"].update(norm="layer"), "norm 'layer'"),
    "negative size": (lambda t, d: d["network"].update(channels=-1), "channels -1"),
    "enormous size": (lambda t, d: d["network"].update(channels=10**9), "shape"),
    "configuration of another size": (lambda t, d: d["network"].update(updates=5), "inner_lr"),
    "infinite rate": (lambda t, d: d["network"].update(inner_lr=float("inf")), "not JSON|expected"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_lies_is_refused_by_name(tmp_path: Path, net: FewshotCNN, lie: str) -> None:
    change, message = LIES[lie]
    description = {"format": 1, "kind": "fewshot-cnn", "network": dataclasses.asdict(net.config), "training": {}}
    tensors = {name: array.copy() for name, array in fewshot_tensors(net).items()}
    _rewritten(tmp_path / "w", tensors, description, change)
    with pytest.raises(WeightsError, match=message) as error:
        load_weights(tmp_path / "w")
    assert str(tmp_path / "w") in str(error.value)


@pytest.mark.parametrize("lie", ["missing tensor", "extra tensor", "shape", "NaN", "unknown kind"])
def test_a_lie_is_not_written_either(tmp_path: Path, net: FewshotCNN, lie: str) -> None:
    description = {"kind": "fewshot-cnn", "network": dataclasses.asdict(net.config), "training": {}}
    tensors = {name: array.copy() for name, array in fewshot_tensors(net).items()}
    LIES[lie][0](tensors, description)
    with pytest.raises(WeightsError, match=LIES[lie][1]):
        save_weights(tmp_path / "w", tensors, description)
    assert not (tmp_path / "w").exists()


def _header(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


HOSTILE = {
    "empty": b"",
    "absurd header size": struct.pack("<Q", 2**62) + b"{}",
    "header over the end": struct.pack("<Q", 1000) + b"{}",
    "no JSON": _header(b"{]"),
    "offsets over the end": _header(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(4)),
    "overlapping tensors": _header(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        bytes(4),
    ),
    "overflowing shape": _header(
        b'{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,0]}}'
    ),
    "no metadata": safetensors.numpy.save({"a": np.zeros(1, np.float32)}),
    "metadata that is no JSON": safetensors.numpy.save({}, metadata={"ovonic": "{]"}),
    "metadata that is a list": safetensors.numpy.save({}, metadata={"ovonic": "[]"}),
    "deep metadata": safetensors.numpy.save({}, metadata={"ovonic": "[" * 100_000}),
    "metadata with NaN": safetensors.numpy.save({}, metadata={"ovonic": '{"format": NaN}'}),
    "text": b"these are no weights at all",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_damaged_or_hostile_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "w.safetensors").write_bytes(HOSTILE[name])
    for load in (load_weights, resolve_fewshot, describe):
        with pytest.raises(WeightsError, match=r"w\.safetensors"):
            load(tmp_path / "w.safetensors")


def test_a_file_cut_anywhere_is_refused(tmp_path: Path, net: FewshotCNN) -> None:
    save_fewshot(tmp_path / "w", net, TRAINING)
    data = (tmp_path / "w").read_bytes()
    for length in range(0, len(data), 29):
        (tmp_path / "w").write_bytes(data[:length])
        with pytest.raises(WeightsError):
            load_weights(tmp_path / "w")


def test_a_wrong_name_gets_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "ovonic.adapters.weights.shipped", lambda: {"fewshot-32bit": tmp_path, "fewshot-4bit": tmp_path}
    )
    with pytest.raises(WeightsError, match=r"fewshot-32bits: .*did you mean 'fewshot-32bit'"):
        load_weights("fewshot-32bits")
    with pytest.raises(WeightsError, match="a folder"):
        load_weights(tmp_path)


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_weights_load_and_have_a_card(name: str) -> None:
    weights = load_weights(name)
    told = "precision" if weights.kind == FEWSHOT else "validation"
    assert {"command", "seed", "data", "versions", "steps", told} <= weights.training.keys()
    assert weights.path.with_suffix(".md").read_text(encoding="utf-8").strip()
    assert name in ovonic.weights()
