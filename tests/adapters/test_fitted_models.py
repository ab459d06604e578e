"""Files of fitted models: what is saved is read bit for bit, damage is named, and names still work."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from ovonic.adapters.fitted_models import FORMAT, device_model_from, resolve_device_model, save_fit
from ovonic.models.errors import ConfigError, DataError
from ovonic.models.fitted_model import FittedModel
from ovonic.models.pcm import DEVICE_MODELS, device_model
from ovonic.models.pulse_fit import fit_over_pulses

from ..models.fit_cases import over_pulses

FIT = fit_over_pulses(over_pulses(0, n=40), name="mine")


def test_saved_and_read(tmp_path: Path) -> None:
    save_fit(tmp_path / "m.json", FIT, measurements="lab.csv")
    assert device_model_from(tmp_path / "m.json") == FIT.model
    data = json.loads((tmp_path / "m.json").read_text())
    assert data["format"] == FORMAT
    assert data["fit"]["n_devices"] == 40
    assert data["provenance"] == {"measurements": "lab.csv"}


def test_by_name_or_file(tmp_path: Path) -> None:
    save_fit(tmp_path / "m.json", FIT)
    for name in DEVICE_MODELS:
        assert resolve_device_model(name) == device_model(name)
    changed = resolve_device_model(tmp_path / "m.json", zero_targets="noisy")
    assert changed == dataclasses.replace(FIT.model, zero_targets="noisy")
    assert resolve_device_model("pcm", prog_scale=2.0) == device_model("pcm", prog_scale=2.0)
    with pytest.raises(ConfigError, match="did you mean 'hermes'"):
        resolve_device_model("hermis")
    with pytest.raises(ConfigError, match="did you mean 'prog_scale'"):
        resolve_device_model(tmp_path / "m.json", prog_scal=1)
    with pytest.raises(DataError, match="No such file"):
        resolve_device_model(tmp_path / "none.json")


def damaged(**changes: Any) -> dict[str, Any]:
    model = {**dataclasses.asdict(FittedModel()), **changes}
    return {"format": FORMAT, "model": {k: v for k, v in model.items() if v is not None}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ([1], "format 'list'"),
        ({"format": "ovonic/device-model/2"}, "format 'ovonic/device-model/2'"),
        ({"format": FORMAT}, "model: an object"),
        (damaged(g_max_us=None), "model.g_max_us: missing"),
        (damaged(g_max=1.0), "model.g_max: unknown: did you mean 'g_max_us'"),
        (damaged(g_max_us="25"), "model.g_max_us: '25' where one like 25.0"),
        (damaged(g_max_us=True), "model.g_max_us: 'True'"),
        (damaged(g_max_us=10**400), "model.g_max_us"),
        (damaged(g_max_us=float("nan")), "model.g_max_us"),
        (damaged(prog_coeff=[0.1] * 1000), "model.prog_coeff"),
        (damaged(prog_coeff=[]), "model.prog_coeff"),
        (damaged(nu_knots=[1.0, 0.0], nu_mean=[0.0, 0.0], nu_sigma=[0.0, 0.0]), "must rise"),
        (damaged(zero_targets="maybe"), "zero_targets"),
        (damaged(name="a\nb"), "model.name"),
    ],
)
def test_damage_is_named(tmp_path: Path, data: Any, message: str) -> None:
    path = tmp_path / "m.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    with pytest.raises(DataError) as caught:
        device_model_from(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_absurd_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "m.json").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(DataError, match="at most"):
        device_model_from(tmp_path / "m.json")
