"""What ``ovonic crossbar`` places: robot and few-shot weights, NIR files, and networks or modules of a user's file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovonic.models.errors import ConfigError, OvonicError

if TYPE_CHECKING:
    from torch import nn

    from ovonic.adapters.crossbar import Layout
    from ovonic.adapters.crossbar_image import Software
    from ovonic.models.network import Network
    from ovonic.models.pcm import DeviceModel

__all__ = ["NoiseModel", "Part", "PlacedSource", "SourceName", "parse_noise_model", "read_placed_source"]

SourceName = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="Weights (a shipped name, a safetensors or a published file), a NIR file, or FILE.py:NAME, a Python file "
        "of yours that defines a torch module or an Ovonic Network by that name. FILE.py is run: give only code you "
        "trust.",
    ),
]
Part = Annotated[
    str | None, typer.Option("--part", metavar="lsg|trainee", help="Which of a robot's networks (default: trainee).")
]
NoiseModel = Annotated[
    str,
    typer.Option(
        "--noise-model",
        metavar="NAME|FILE",
        help="pcm, hermes, hermes-pair, published or none; or a JSON file that 'fit' wrote.",
    ),
]


@dataclass(frozen=True)
class PlacedSource:
    """A model to place.

    Attributes:
        kind: in words. model: what the layout is made of: a network or a torch module.
        weights: by name, those that stay digital among them.
        config: what its file says of it, JSON values.
    """

    kind: str
    model: Network | nn.Module
    weights: Mapping[str, Any]
    config: Mapping[str, Any] = field(default_factory=dict)

    def layout(self, **options: Any) -> Layout:
        """Where it lies by itself; options: of ``crossbar_mapping.layout_of``."""
        from ovonic.adapters.crossbar_mapping import cnn_layout, layout_of, trainee_layout
        from ovonic.models.fewshot_cnn import FewshotCNN

        if isinstance(self.model, FewshotCNN):
            return cnn_layout(self.model, **options)
        if self.kind.startswith("robot"):
            return trainee_layout(self.model, **options)  # type: ignore[arg-type]
        return layout_of(self.model, **options)

    def software(self) -> Software:
        """The software side of its image."""
        from ovonic.adapters.crossbar_image import Software
        from ovonic.models.network import Network

        if isinstance(self.model, Network):
            return Software.of(self.model, self.config)
        return Software(dict(self.weights), None, self.config)


def read_placed_source(source: str, part: str | None = None) -> PlacedSource:
    """Read what a user names.

    Raises: OvonicError: nothing of that name, damaged, or nothing that can be placed. OSError: no such file.
    """
    from ovonic.commands.convert_sources import OBJECT, Options, read_source

    if match := OBJECT.fullmatch(source):
        if part is not None:
            raise ConfigError(f"--part {part}: {source} has no parts: leave it out")
        return _from_python(Path(match["file"]), match["name"])
    if (path := Path(source)).suffix == ".h5" and path.is_file():
        raise ConfigError(f"{source}: a chip already; export its network: ovonic crossbar export {source} OUT.nir")
    if not source.endswith((".nir", ".py")) and (fewshot := _from_fewshot(source)) is not None:
        if part is not None:
            raise ConfigError(f"--part {part}: {source} is one network: leave it out")
        return fewshot
    found = read_source(source, Options(part=part))
    if len(found.networks) > 1:
        found = found.part("trainee")
    (network,) = found.networks.values()
    return PlacedSource(_robot(found.kind), network, network.weights())


def parse_noise_model(text: str) -> DeviceModel:
    """The device model of ``--noise-model``.

    Raises: ConfigError: no such name. DataError: a file that is no device model.
    """
    from ovonic.adapters.fitted_models import resolve_device_model

    try:
        return resolve_device_model(text)
    except ConfigError as error:
        raise ConfigError(f"--noise-model: {error}") from None


def _robot(kind: str) -> str:
    return kind.replace("trainee of robot weights", "robot's trainee").replace("lsg of robot weights", "robot's LSG")


def _from_fewshot(source: str) -> PlacedSource | None:
    """Few-shot weights; None where the source is something else."""
    import dataclasses

    from ovonic.adapters.published import is_published, load_published
    from ovonic.adapters.weights import FEWSHOT, describe, locate, resolve_fewshot

    path = Path(source)
    if path.is_file() and path.read_bytes()[:8] == b"\x89HDF\r\n\x1a\n":
        return None
    path = locate(source)
    if "W_in_lsg" in load_published(path) if is_published(path) else describe(path)["kind"] != FEWSHOT:
        return None
    net, training = resolve_fewshot(source)
    config = {"kind": FEWSHOT, "network": dataclasses.asdict(net.config), "training": training}
    return PlacedSource("few-shot CNN", net, _parameters(net), config)


def _from_python(path: Path, name: str) -> PlacedSource:
    from torch import nn

    from ovonic.commands.convert_sources import defined
    from ovonic.models.network import Network

    value = getattr(defined(path, name), name)
    if isinstance(value, Network):
        return PlacedSource("Network", value, value.weights())
    if isinstance(value, nn.Module):
        return PlacedSource(f"torch module {type(value).__name__}", value, _parameters(value))
    kind = f"the class {value.__name__}: give an instance of it" if isinstance(value, type) else type(value).__name__
    raise ConfigError(f"{path}:{name}: {kind}, where a torch module or an Ovonic Network is due")


def _parameters(module: nn.Module) -> dict[str, Any]:
    """Parameters and number-valued buffers as arrays, by name; read-only properties of a module (ties) counted once."""
    try:
        state = module.state_dict()
        return {name: tensor.detach().cpu().numpy() for name, tensor in state.items() if tensor.is_floating_point()}
    except (RuntimeError, TypeError, AttributeError) as error:
        raise OvonicError(f"{type(module).__name__}: its weights cannot be read ({error})") from error
