"""Small valid files of every format, by our own writers; what a mutation starts from."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import pickle
import sys
import types
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import h5py  # type: ignore[import-untyped]
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch import nn

from ovonic.adapters.checkpoints import save_checkpoint
from ovonic.adapters.crossbar import ArraySpec, Block, Layout, PlacedLayer
from ovonic.adapters.crossbar_exports import write_cells, write_npz
from ovonic.adapters.crossbar_file import save_image
from ovonic.adapters.crossbar_image import CrossbarImage, Software, image_of
from ovonic.adapters.crossbar_placed import PlacedChip
from ovonic.adapters.nir import save_nir, save_pair
from ovonic.adapters.recorded_chip import RecordingChip
from ovonic.adapters.sealed_json import write_sealed
from ovonic.adapters.weights import save_fewshot
from ovonic.models.chip import SimulatedChip
from ovonic.models.device_faults import Faults
from ovonic.models.dynamics import Dynamics, ResetToValue
from ovonic.models.fewshot_cnn import CNNConfig, FewshotCNN
from ovonic.models.fitted_model import FittedModel
from ovonic.models.layers import Conv, Flatten, Input, Linear, Recurrence, Spiking
from ovonic.models.natural_eprop_networks import NaturalEPropConfig, initial_pair
from ovonic.models.network import Network
from ovonic.models.pcm import device_model
from ovonic.models.periphery import Periphery
from ovonic.models.verify import Verify
from ovonic.tasks.episodes import EpisodeSpec
from ovonic.tasks.fewshot_training import TrainingConfig, TrainingState
from ovonic.tasks.robot import Robot
from ovonic.tasks.robot_run import save as save_robot
from ovonic.tasks.robot_training import RobotTrainingConfig, RobotTrainingState, robot_train
from ovonic.tasks.trajectories import TrajectorySpec
from ovonic.validation.report_content import At, Picture, Section, Table
from ovonic.validation.reproduction_part import Measured
from ovonic.validation.reproduction_store import Finished, keep

__all__ = [
    "CNN",
    "CONDITION",
    "FEWSHOT_RUN",
    "IDENTITY",
    "ROBOT",
    "ROBOT_RUN",
    "SPEC",
    "chain",
    "fewshot_state",
    "layout",
    "robot_state",
]

CNN = CNNConfig(n_way=2, channels=2, updates=1)
ROBOT = NaturalEPropConfig(trainee=2, lsg_lif=1, lsg_alif=1, dt_ms=10.0)
FEWSHOT_RUN = TrainingConfig(network=CNN, episode=EpisodeSpec(2, 1, 1), steps=2, tasks=1)
ROBOT_RUN = RobotTrainingConfig(ROBOT, steps=2, batch=1, log_every=1, validate_every=2, validation_trajectories=1)
IDENTITY = {"training": {"seed": 0}}
SPEC = TrajectorySpec(dt_ms=10.0)
CONDITION = {"condition": {"experiment": "robot", "weights": "robot-q16"}, "size": {"chips": 2, "tasks": 3}, "seed": 0}

Seeds = tuple[bytes, ...]


def _bytes(write: Callable[[Path], Any], folder: Path, name: str = "seed") -> bytes:
    path = folder / name
    write(path)
    data = path.read_bytes()
    path.unlink()
    return data


def fewshot_weights(folder: Path) -> Seeds:
    """A few-shot CNN of two channels."""
    net = FewshotCNN(CNN, torch.Generator().manual_seed(0))
    return (_bytes(lambda path: save_fewshot(path, net, {"command": "x", "readout_w_max": 1.0}), folder),)


def robot_weights(folder: Path) -> Seeds:
    """A robot's pair of two neurons each."""
    robot = Robot(ROBOT, initial_pair(ROBOT, 0), provenance={"command": "x"})
    return (_bytes(lambda path: save_robot(path, robot), folder),)


class ResourceVariable:
    """Pickles as TensorFlow 2.5's does."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(ResourceVariable, **self.arguments), ()


def _pickled(content: Any, protocol: int) -> bytes:
    """Under TensorFlow's module name."""
    ResourceVariable.__module__ = name = "tensorflow.python.ops.resource_variable_ops"
    fakes: dict[str, Any] = {".".join(name.split(".")[:n]): types.ModuleType(name) for n in range(1, 5)}
    fakes[name].ResourceVariable = ResourceVariable
    with mock.patch.dict(sys.modules, fakes):
        return pickle.dumps(content, protocol)


def _arrays() -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    shapes = {f"kernel{i}": (3, 3, 1 if i == 1 else 2, 2) for i in range(1, 5)}
    shapes["w_readout"] = (2, 2)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def _npz(arrays: dict[str, NDArray[Any]]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def published_npz(folder: Path) -> Seeds:
    """A few-shot checkpoint, and a robot's whose sizes are not the paper's."""
    rng = np.random.default_rng(0)
    names = [f"W_{part}_{network}" for network in ("lsg", "trainee") for part in ("in", "rec", "out")]
    return _npz(_arrays()), _npz({name: rng.normal(size=(2, 2)).astype(np.float32) for name in names})


def published_pickle(folder: Path) -> Seeds:
    """A list of variables, a dict of variables, and a dict of arrays."""
    arrays = _arrays()
    arrays["kernel2"] = np.asfortranarray(arrays["kernel2"])
    listed = [
        ResourceVariable(initial_value=array, name=name.replace("w_readout", "kernel5"), trainable=True)
        for name, array in arrays.items()
    ]
    named = {f"W_{k}": ResourceVariable(initial_value=array, name="x") for k, array in enumerate(arrays.values())}
    return _pickled(listed, 4), _pickled(named, 5), pickle.dumps(arrays, 4)


def fewshot_state() -> TrainingState:
    """The state of a run that has not begun."""
    return TrainingState(FEWSHOT_RUN, FewshotCNN(CNN, torch.Generator().manual_seed(0)))


def robot_state() -> RobotTrainingState:
    """The state of a run that has not begun."""
    return RobotTrainingState(ROBOT_RUN)


def fewshot_checkpoint(folder: Path) -> Seeds:
    """Of a few-shot run after one step of Adam."""
    state = fewshot_state()
    for parameter in state.net.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()
    return (_bytes(lambda path: save_checkpoint(path, state.tensors(), IDENTITY, state.progress()), folder),)


def robot_checkpoint(folder: Path) -> Seeds:
    """Of a robot run at its end."""
    state = robot_state()
    robot_train(state)
    return (_bytes(lambda path: save_checkpoint(path, state.tensors(), IDENTITY, state.progress()), folder),)


def metrics(folder: Path) -> Seeds:
    """The numbers of a run."""
    found = {"config": IDENTITY, "history": [{"step": 1, "loss": 0.5}], "validation": [{"step": 1, "accuracy": [0.5]}]}
    return (json.dumps(found).encode(),)


def _small_network() -> Network:
    rng = np.random.default_rng(0)
    neurons = Dynamics([0.5, 0.6], 0.4, reset=ResetToValue(0.0))
    return Network.stack(
        {
            "x": Input((2,)),
            "s": Linear(rng.normal(size=(2, 2)), None),
            "h": Spiking(neurons, Recurrence(np.ones((2, 2)))),
        }
    )


def _convolving_network() -> Network:
    rng = np.random.default_rng(0)
    return Network.stack(
        {
            "x": Input((1, 3, 3)),
            "c": Conv(rng.normal(size=(1, 1, 2, 2)), rng.normal(size=1)),
            "f": Flatten(),
            "s": Spiking(Dynamics(0.5, 0.4)),
        }
    )


def _without_contract(data: bytes) -> bytes:
    file = io.BytesIO(data)
    with h5py.File(file, "r+") as opened:
        del opened["node/metadata"]
    return file.getvalue()


def nir_graphs(folder: Path) -> Seeds:
    """Graphs with and without the contract; a pair."""
    recurrent, convolving = (
        _bytes(lambda path, n=net: save_nir(path, n), folder) for net in (_small_network(), _convolving_network())
    )
    pair = _bytes(lambda path: save_pair(path, initial_pair(replace(ROBOT, target=0, clock=1), 0)), folder)
    small = _bytes(
        lambda path: save_nir(path, Network.stack({"x": Input((2,)), "h": Spiking(Dynamics(0.5, 0.4))})), folder
    )
    bare = _without_contract(small)
    return (
        small,
        bare,
        small,
        bare,
        small,
        bare,
        recurrent,
        _without_contract(recurrent),
        _without_contract(convolving),
        pair,
    )


ROWS, COLUMNS = 4, 3


def layout() -> Layout:
    """A matrix, and beside it a recurrence, on one array."""
    return Layout(
        (ArraySpec("A0", ROWS, COLUMNS),),
        (
            PlacedLayer("w.weight", (2, 2), w_max=(2.0,)),
            PlacedLayer("h.recurrence", (2, 2), "recurrence", "binary", w_max=(1.0, 2.0), masked_diagonal=True),
        ),
        (Block("w.weight", 0, 2, 0, 2, 0, 0, 0), Block("h.recurrence", 0, 2, 0, 2, 0, 2, 1)),
        digital=("w.bias",),
    )


def _image() -> CrossbarImage:
    rng = np.random.default_rng(0)
    network = Network.stack(
        {
            "x": Input((2,)),
            "w": Linear(rng.normal(size=(2, 2)), rng.normal(size=2)),
            "h": Spiking(Dynamics(0.9, 1.0), Recurrence(rng.normal(size=(2, 2)), masked_diagonal=True)),
        }
    )
    chip = SimulatedChip(
        1, device_model("pcm"), Periphery(column_gain_sigma=0.1), seed=1, rows=ROWS, columns=COLUMNS,
        verify=Verify(3, 0.5), faults=Faults(0.1, 0.1, 0.1, 0.2, 16),
    )  # fmt: skip
    placed = PlacedChip.program(layout(), network.weights(), chip)
    chip.advance(100.0)
    return image_of(chip, placed.layout, software=Software.of(network, {"note": "ä"}), provenance={"command": "x"})


def images(folder: Path) -> Seeds:
    """A chip of one array, with its network and without."""
    image = _image()
    return tuple(
        _bytes(lambda path, i=i: save_image(path, i), folder)
        for i in (image, image.replace(software=None, verify=None))
    )


def recordings(folder: Path) -> Seeds:
    """A session of four calls, its arrays in small chunks and in none: the writer's own make 217 KB, mostly space."""

    def record(path: Path) -> None:
        with RecordingChip(
            SimulatedChip(1, device_model("pcm"), Periphery(), seed=3, rows=3, columns=2), path
        ) as driver:
            driver.program(0, torch.tensor([0, 2]), torch.tensor([0, 1]), torch.arange(8.0).reshape(4, 2))
            driver.read(0)
            driver.advance(10.0)
            driver.mvm(0, torch.ones(1, 2), slice(0, 2), slice(0, 2))

    def smaller(path: Path, chunk: int | None) -> None:
        record(path.with_name("whole.h5"))
        with h5py.File(path.with_name("whole.h5")) as whole, h5py.File(path, "w") as file:
            for name, item in whole.items():
                chunked = {"chunks": (chunk,), "maxshape": (None,)} if chunk and item.ndim else {}
                file.create_dataset(name, data=item[()], dtype=item.dtype, **chunked)
        path.with_name("whole.h5").unlink()

    return tuple(_bytes(lambda path, chunk=chunk: smaller(path, chunk), folder) for chunk in (8, None))


def conductances_npz(folder: Path) -> Seeds:
    """All of an image, and conductances alone."""
    g = np.full((4, ROWS, COLUMNS), 3.0, np.float32)
    return _bytes(lambda path: write_npz(path, _image()), folder), _npz({"array0_g_read": g})


def cells(folder: Path) -> Seeds:
    """The table of an image's cells, and one of the columns that are due."""
    whole = _bytes(lambda path: write_cells(path, _image()), folder)
    lines = [line.split(b",") for line in whole.splitlines()]
    names = [b"array", b"row", b"column", b"g1_plus_us", b"g1_minus_us", b"g2_plus_us", b"g2_minus_us"]
    kept = [lines[0].index(name) for name in names]
    return whole, b"\n".join(b",".join(line[k] for k in kept) for line in lines)


def layouts(folder: Path) -> Seeds:
    """A layout as JSON."""
    return (layout().to_json().encode(),)


def _drawing(seed: int, side: int = 105, mode: str = "1") -> bytes:
    image = Image.new(mode, (side, side), "white")
    rng = np.random.default_rng(seed)
    ImageDraw.Draw(image).line([tuple(map(int, p)) for p in rng.integers(5, side - 5, (3, 2))], fill=0, width=3)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _zip(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def omniglot_zips(folder: Path) -> Seeds:
    """Two characters of two drawings, bare and under an official outer folder."""
    names = [f"{a}/character0{c}/000{c}_0{k}.png" for a, c in (("Greek", 1), ("Latin", 1)) for k in (1, 2)]
    members = {name: _drawing(k) for k, name in enumerate(names)}
    return _zip(members), _zip({f"images_background/{name}": data for name, data in members.items()})


def picture_zips(folder: Path) -> Seeds:
    """Two classes of pictures: grey, colour, transparent, of other sizes; and one picture alone."""
    members = {"a/1.png": _drawing(1, 30, "L"), "a/2.png": _drawing(2, 120, "RGB"), "b/1.png": _drawing(3, 28, "RGBA")}
    return _zip(members), members["a/2.png"]


def trajectories(folder: Path) -> Seeds:
    """Angles with times, positions without, and angles in another dialect."""
    s = SPEC.arm_dt_s * np.arange(1, SPEC.steps + 1)
    q = np.stack([0.5 * (1 - np.cos(1.3 * s)), -0.4 * (1 - np.cos(1.9 * s))], -1)
    from ovonic.tasks.scorbot import forward_kinematics

    xyz = forward_kinematics(torch.from_numpy(q)).numpy()
    timed = ["t,q1,q2", *(f"{t:.3f},{a:.5f},{b:.5f}" for t, (a, b) in zip(s, np.rad2deg(q), strict=True))]
    tips = ["x,y,z", *(",".join(f"{v:.6f}" for v in row) for row in xyz)]
    return (
        "\n".join(timed).encode(),
        "\n".join(tips).encode(),
        ("# note\n" + "\r\n".join(timed).replace(",", ";")).encode(),
    )


def measurements(folder: Path) -> Seeds:
    """Conductances over time, over pulses, and in another dialect."""
    over_time = "device,time_s,g_us,g_target_us\na,20,5,6\na,40,4.5,6\nb,20,3,3\nb,50,2.5,3\n"
    over_pulses = "device,pulse,g_us\na,0,0.1\na,1,1.6\na,2,2.9\n"
    return over_time.encode(), over_pulses.encode(), ("\ufeff# x\n" + over_time.replace(",", "\t")).encode()


def costs_toml(folder: Path) -> Seeds:
    """Three ways to say a cost."""
    triple = "pulse_energy_j = [5e-12, 8e-12, 12e-12]\niterations = 12\n"
    table = 'pulse_time_s = { low = 1e-7, typical = 2e-7, high = 5e-7, source = "our lab" }\n'
    return (f"[programming]\n{triple}{table}".encode(),)


def costs_json(folder: Path) -> Seeds:
    """The same in JSON."""
    told = {"low": 1e-7, "typical": 2e-7, "high": 5e-7, "source": "our lab"}
    costs = {"programming": {"pulse_energy_j": [5e-12, 8e-12, 12e-12], "iterations": 12, "pulse_time_s": told}}
    return (json.dumps(costs).encode(),)


def device_models(folder: Path) -> Seeds:
    """A fitted model."""
    model = json.loads(json.dumps(dataclasses.asdict(FittedModel())))
    return (json.dumps({"format": "ovonic/device-model/1", "model": model, "fit": {}}).encode(),)


def results(folder: Path) -> Seeds:
    """Results of our commands, cut down to what the paper's table reads."""
    shares, ends = {"mean": 0.97, "ci95": 0.01}, {"ratio": 1.06, "low": 1.03, "high": 1.09}
    energy = {"adaptation, array": {"energy_j": {"low": 1.0, "typical": 2.0, "high": 3.0}}}
    size = {"size": {"chips": 2, "tasks": 3}, "seed": 5, "command": "ovonic x"}
    few, arm = "fewshot-32bit-noise-blind-pcm-0s-5w5s", "robot-q16-pcm-0s"
    report = {"ratio": ends, "accuracy_per_update": [shares, shares], "chips": {"sd": 0.1, "n": 2}, "tasks": 3}
    moved = {"hardware": {"tip_rmse_mm": {"after": shares}, "loss": shares, "chips": {"n": 2}}, "error": 0.5}
    evaluated = {"config": {"weights": {"source": "fewshot-4bit", "precision": 4}, "data": "omniglot:a.zip+b.zip",
                            "episode": {"n_way": 5, "k_shot": 5}, "precision": {"bits": 4}},
                 "accuracy": shares}  # fmt: skip
    inner = {"step": 0.0625, "rounding": "stochastic", "updates": 1}
    chip = {"read_time_s": 2592000.0, "periphery": {"compensation": "column"}}
    on_chip = {"weights": {"source": "robot-q16"}, "family": "consistent", "inner": inner, "hardware": "crossbar"}
    on_chip |= {"noise_model": "pcm", "chip": chip}
    robot = {"experiment": "robot", "weights": "robot-q16"}
    costs = {name: {} for name in ("counts", "break_even", "costs", "scratch_j")}
    found: dict[str, dict[str, Any]] = {
        "reproduce": {"fewshot": {"pcm_32bit": {"error_ratio": ends}}, "hardware": {"conditions": {few: report}},
                      "config": {"seed": 0}},
        "validate-hardware-condition": {"config": {"condition": robot, **size}, **moved},
        "validate-hardware": {"config": size, "conditions": {few: report, arm: moved}},
        "validate-eprop": {"config": {"network": "robot-q16"}, "references": {"nest": {"worst": 1e-16}},
                           "bptt": {"sweep": [{"cosine": 0.9}]}},
        "validate-paper": {"measured": {"delta": {"worst": 0.0}, "still": {"robot-q16": {"omega": 0.3}}}},
        "crossbar-cost": {"config": {"experiment": "robot"}, "estimates": energy, "meta_training_j": ends, **costs},
        "crossbar-inspect": {"provenance": {"source": "a/fewshot-32bit"}, "device": {"name": "pcm"}, "arrays": [{}],
                             "layers": [{"name": "convs.0.weight", "error_now": 1.0}]},
        "fewshot-evaluate": evaluated,
        "robot-evaluate": {"config": on_chip, "hardware": {"loss": shares, "chips": {"n": 3}}},
    }  # fmt: skip
    return tuple(json.dumps({"schema": f"ovonic/{name}/1"} | content).encode() for name, content in found.items())


def parts(folder: Path) -> Seeds:
    """A finished part of a reproduction."""
    table = Table("t", ("a", "b"), [("x", At("fewshot/a"))], "ovonic x")
    section = Section("s", "text", tables=[table], pictures=[Picture(b"png", "alt", "caption", "ovonic x")])
    keep(folder, "part", {"seed": 0}, Finished(Measured({"a": 1.0}, {"seed": 0}, section, ()), {"cpu_s": 1.0}))
    return ((folder / "parts" / "part.json").read_bytes(),)


def sweep_records(folder: Path) -> Seeds:
    """A point that ended well, and one that did not."""
    record = {"schema": "ovonic/sweep-point/1", "identity": {"arguments": ["x"]}, "status": 0, "error": None}
    return tuple(
        _bytes(lambda path, r=r: write_sealed(path, record | r), folder)
        for r in ({"result": {"loss": {"mean": 0.5}, "chips": [1, 2]}}, {"status": 2, "error": "x", "result": None})
    )


def hardware_conditions(folder: Path) -> Seeds:
    """The result of a condition."""
    ratio = {"ratio": 1.06, "low": 1.03, "high": 1.09}
    report = {"schema": "ovonic/validate-hardware-condition/1", "config": CONDITION, "error": 0.5, "ratio": ratio}
    report |= {"own_ratio": ratio, "devices_reprogrammed": 3.5, "software": {"loss": {"mean": 0.4}}}
    report |= {"hardware": {"chips": {"n": 2, "worst": 0.6}}}
    report |= {"errors": {"software": [0.1, 0.2, 0.3], "hardware": [[0.1, 0.2, 0.3], [0.2, 0.2, 0.2]]}}
    return (_bytes(lambda path: write_sealed(path, report), folder),)


def samples_npz(folder: Path) -> Seeds:
    """Inputs with labels, two inputs with targets, and inputs alone as npy."""
    x = np.arange(12.0).reshape(2, 3, 2)
    file = io.BytesIO()
    np.save(file, x)
    return (
        _npz({"inputs": x.astype(np.float32), "labels": np.array([1, 0])}),
        _npz({"inputs.a": x > 4, "inputs.b": x, "targets": x[..., :1]}),
        file.getvalue(),
    )


def samples_csv(folder: Path) -> Seeds:
    """Tables with headings and without, in two dialects."""
    return b"left,right\n1,2\n3,4.5\n", b"# steps\n0;1\n1;0\n", "\ufeff1,2e-3\r\n3,4\r\n".encode()


def chain() -> nn.Sequential:
    """Three linear layers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))


def torch_files(folder: Path) -> Seeds:
    """A state dict, under its own name in a checkpoint, with other types, by protocol 4, and as torch before 1.6."""
    state = chain().state_dict()
    others = {"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.tensor([[1, 2]]).T, "c": torch.tensor(True)}
    others["d"] = others["b"][1:]
    whole = {"state_dict": state, "epoch": 3, "betas": (0.9, 0.999), "state": {0: [None, "x"]}}
    written: tuple[tuple[Any, dict[str, Any]], ...] = (
        (state, {}),
        (whole, {}),
        (others, {}),
        (nn.Parameter(torch.ones(1)), {}),
        ({"w.weight": nn.Parameter(torch.ones(1, 2))}, {"pickle_protocol": 4}),
        (state, {"_use_new_zipfile_serialization": False}),
    )
    return tuple(_bytes(lambda path, v=v, o=o: torch.save(v, path, **o), folder) for v, o in written)


def tensors(folder: Path) -> Seeds:
    """Linear layers by name, as safetensors."""
    return (_bytes(lambda path: save_file(chain().state_dict(), path), folder),)


def inputs(folder: Path) -> Seeds:
    """Input spikes of a network, npy and npz."""
    spikes = np.ones((1, 3, 2), np.float32)
    file = io.BytesIO()
    np.save(file, spikes)
    return file.getvalue(), _npz({"x": spikes[0]})
