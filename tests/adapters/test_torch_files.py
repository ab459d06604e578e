"""Files of torch.save, read without torch.load: what it reads, bit by bit; nothing that a file only declares."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ovonic.adapters.state_dicts import linear_chain, read_state_dict
from ovonic.adapters.torch_files import STORAGES
from ovonic.models.errors import WeightsError


def _trained() -> dict[str, Any]:
    """A checkpoint as trainers write it."""
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = torch.optim.Adam(module.parameters(), betas=(0.8, 0.99))
    module(torch.rand(5, 3)).sum().backward()
    optimizer.step()
    return {
        "epoch": 3,
        "version": "2.1",
        "state_dict": module.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "size": torch.Size([2, 3]),
        "seen": {1, 2},
        "device": torch.device("cpu"),
        "dtype": torch.float32,
    }


def _shapes() -> dict[str, Tensor]:
    x = torch.arange(24.0).reshape(2, 3, 4)
    return {
        "whole": x, "turned": x.permute(2, 0, 1), "part": x[:, 1:, ::2], "one": torch.tensor(3.0),
        "none": torch.empty(0, 3), "spread": torch.tensor([1.0, 2.0])[:, None].expand(2, 5), "tied": x,
    }  # fmt: skip


CONTENTS: dict[str, Any] = {
    "types": {str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in STORAGES.values()},
    "shapes": _shapes(),
    "parameters": {"w": nn.Parameter(torch.rand(2, 2))},
    "checkpoint": _trained(),
    "many": {f"layer.{k}.weight": torch.full((2,), float(k)) for k in range(400)},
}
WAYS: dict[str, dict[str, Any]] = {
    "zip": {},
    "protocol 4": {"pickle_protocol": 4},
    "stream": {"_use_new_zipfile_serialization": False},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("content", CONTENTS)
def test_torchs_own_files_hold_what_torch_reads(tmp_path: Path, content: str, way: str) -> None:
    path = tmp_path / "x.pt"
    torch.save(CONTENTS[content], path, **WAYS[way])
    due = CONTENTS[content].get("state_dict", CONTENTS[content])
    found = read_state_dict(path)
    assert list(found) == list(due)
    for name, tensor in found.items():
        assert tensor.dtype == due[name].dtype
        assert tensor.shape == due[name].shape
        assert torch.equal(tensor, due[name])
        assert not tensor.requires_grad
    if way != "protocol 4":
        read: Any = torch.load(path, weights_only=True)
        assert all(torch.equal(tensor, read.get("state_dict", read)[name]) for name, tensor in found.items())


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.eye(3).to_sparse(), "_rebuild_sparse_tensor"),
        (torch.empty(3, device="meta"), "_rebuild_meta_tensor_no_storage"),
        (torch.zeros(2, dtype=torch.float8_e4m3fn), "_rebuild_tensor_v3"),
    ],
)
def test_other_tensors_are_refused(tmp_path: Path, value: Tensor, said: str) -> None:
    torch.save({"w": value}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=f"{said}.*torch.save\\(module.state_dict"):
        read_state_dict(tmp_path / "x.pt")


def test_one_tensor_alone_is_refused(tmp_path: Path) -> None:
    torch.save(torch.ones(2), tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="one tensor or class alone"):
        read_state_dict(tmp_path / "x.pt")


def _changed(path: Path, old: bytes, new: bytes, kind: int = zipfile.ZIP_STORED) -> None:
    """The pickle of a file, changed in one place."""
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (n for n in members if n.endswith("/data.pkl"))
    assert old in members[name]
    members[name] = members[name].replace(old, new, 1)
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, body in members.items():
            archive.writestr(name, body)


def _wide(number: int) -> bytes:
    return b"\x8a\x08" + number.to_bytes(8, "little")


STATE = {"w": torch.ones(3, 5)}
SIZE, STRIDE = b"K\x03K\x05\x86", b"K\x05K\x01\x86"
TUPLES = b")q\x7f" + b"h\x7f\x86q\x7f" * 64


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (SIZE, _wide(2**40) + b"K\x05\x86", "reaches beyond its storage of 15"),
        (STRIDE, b"K\x05K\x02\x86", "reaches beyond its storage of 15"),
        (STRIDE, b"K\x05J\xff\xff\xff\xff\x86", "no number"),
        (STRIDE, b"K\x05K\x01K\x01\x87", "size and stride differ"),
        (SIZE, b"K\x03\x88\x86", "no number"),
        (b"K\x0ft", _wide(2**50) + b"t", "has 60 bytes"),
        (b"FloatStorage", b"LongStorage", "has 60 bytes"),
        (b"FloatStorage", b"QInt8Storage", "asks for 'torch' 'QInt8Storage'"),
        (b"storage", b"Storage", "no storage"),
        (b"X\x01\0\0\0w", b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R0X\x01\0\0\0w", "opcode POP"),
        (b"X\x01\0\0\0w", b"K\x07", "'7' is a Tensor"),
        (b"X\x01\0\0\0w", TUPLES, "a key that is a tuple"),
        (b"X\x01\0\0\0w", b"cos\nsystem\nX\x02\0\0\0id\x85R", "asks for 'os' 'system'"),
    ],
)
def test_nothing_that_is_only_declared(tmp_path: Path, old: bytes, new: bytes, said: str) -> None:
    path = tmp_path / "x.pt"
    torch.save(STATE, path)
    _changed(path, old, new)
    with pytest.raises(WeightsError, match=said):
        read_state_dict(path)


def test_one_number_is_not_named_without_end(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save(STATE, path)
    _changed(path, SIZE + b"q", _wide(2**40) + b"K\x05\x86q")
    _changed(path, STRIDE, b"K\0K\1\x86")
    with pytest.raises(WeightsError, match="more numbers than it holds"):
        read_state_dict(path)


def test_packed_members_are_refused(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "x.pt")
    _changed(tmp_path / "x.pt", b"w", b"w", zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match="members are packed"):
        read_state_dict(tmp_path / "x.pt")


def test_a_directory_that_points_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save(STATE, path)
    _changed(path, b"w", b"w")
    data = path.read_bytes()
    at = data.rindex(b"PK\x05\x06") + 16
    path.write_bytes(data[:at] + (2**31).to_bytes(4, "little") + data[at + 4 :])
    with pytest.raises(WeightsError, match=r"x\.pt: no file of torch tensors"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ("[0,18446744073709551615]", "no safetensors file"),
        ("[9223372036854775807,0,3]", "more than 4294967296 numbers"),
        ("[4294967295,0,4294967295]", "more than 4294967296 numbers"),
    ],
)
def test_an_empty_tensor_of_any_size(tmp_path: Path, shape: str, said: str) -> None:
    path = tmp_path / "x.safetensors"
    header = b'{"w":{"dtype":"F32","shape":' + shape.encode() + b',"data_offsets":[0,0]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(WeightsError, match=rf"x\.safetensors: .*{said}"):
        read_state_dict(path)


def test_an_empty_tensor_is_read(tmp_path: Path) -> None:
    save_file({"w": torch.empty(0, 3)}, tmp_path / "x.safetensors")
    assert read_state_dict(tmp_path / "x.safetensors")["w"].shape == (0, 3)


def test_a_dict_keeps_its_methods(tmp_path: Path) -> None:
    """torch.load sets what a file says as attributes: ``state.get`` would be a number."""
    module = nn.Linear(2, 2)
    torch.save(module.state_dict(), tmp_path / "x.pt")
    _changed(tmp_path / "x.pt", b"X\x09\0\0\0_metadata", b"X\3\0\0\0get")
    assert torch.load(tmp_path / "x.pt", weights_only=True).get == {"": {"version": 1}}
    assert torch.equal(read_state_dict(tmp_path / "x.pt")["weight"], module.weight)


def test_names_are_not_read_as_numbers_without_end() -> None:
    state = {"9" * 5000 + ".weight": torch.ones(1, 1), "2.weight": torch.ones(1, 1)}
    assert len(linear_chain(state, "none", "x")) == 3
