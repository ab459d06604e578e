"""``ovonic crossbar fit``: from a CSV to a model that arrays are made of, with a figure and a plain verdict."""

import importlib.util
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from ovonic.adapters.fitted_models import device_model_from
from ovonic.commands.crossbar_fit import fit
from ovonic.models.device_regressions import OverTime
from ovonic.models.errors import ConfigError, DataError
from ovonic.models.pcm import device_model
from ovonic.models.pulse_fit import OverPulses

from .models.fit_cases import over_pulses, over_time

app = typer.Typer()
app.command()(fit)


def run(*options: str) -> str:
    result = CliRunner().invoke(app, list(options))
    if result.exception is not None:
        raise result.exception
    return result.output


def write(path: Path, data: OverTime | OverPulses) -> str:
    x = data.time_s if isinstance(data, OverTime) else data.pulse
    over = "time_s" if isinstance(data, OverTime) else "pulse"
    targets = None if isinstance(data, OverPulses) else data.target_us
    lines = [f"device,{over},g_us" + ("" if targets is None else ",g_target_us")]
    for device, at, g in zip(data.device, x, data.g_us, strict=True):
        end = "" if targets is None else f",{targets[device]:.9g}"
        lines.append(f"{data.names[device]},{at:.9g},{g:.9g}{end}")
    path.write_text("\n".join(lines))
    return str(path)


def test_over_time_with_figure_and_json(tmp_path: Path) -> None:
    lab = write(tmp_path / "lab.csv", over_time(device_model("pcm"), 0, n=200))
    out = tmp_path / "model.json"
    said = run(lab, "--out", str(out), "--figures", str(tmp_path), "--json", str(tmp_path / "r.json"), "--name", "mine")
    assert said.startswith("2400 measurements of 200 devices; fitted to 200")
    assert "warning" not in said
    assert (tmp_path / "lab_fit.png").stat().st_size > 10_000
    model = device_model_from(out)
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["schema"] == "ovonic/crossbar-fit/1"
    assert result["model"]["prog_coeff"] == list(model.prog_coeff)
    assert model.name == "mine"
    assert result["fit"]["warnings"] == []


def test_over_pulses_onto_a_model(tmp_path: Path) -> None:
    first = tmp_path / "time.json"
    run(write(tmp_path / "time.csv", over_time(device_model("pcm"), 0, n=100)), "--out", str(first))
    lab = write(tmp_path / "pulses.csv", over_pulses(0, n=100, spread=0.2))
    said = run(lab, "--onto", str(first), "--out", str(tmp_path / "both.json"), "--figures", str(tmp_path))
    assert "warning: steps are not independent" in said
    both, base = device_model_from(tmp_path / "both.json"), device_model_from(first)
    assert (both.nu_mean, both.q_scale) == (base.nu_mean, base.q_scale)
    assert both.prog_coeff != base.prog_coeff
    with pytest.raises(ConfigError, match="--onto is for measurements over pulses"):
        run(str(tmp_path / "time.csv"), "--onto", str(first))


def test_bad_measurements(tmp_path: Path) -> None:
    (tmp_path / "lab.csv").write_text("device,time_s,g_us\na,1,oops\n")
    with pytest.raises(DataError, match=r"lab\.csv: line 2, column 'g_us': 'oops'"):
        run(str(tmp_path / "lab.csv"), "--out", str(tmp_path / "m.json"))
    assert not (tmp_path / "m.json").exists()


def test_the_example_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(__file__).parents[1] / "examples" / "fit_devices.py"
    spec = importlib.util.spec_from_file_location("fit_devices", path)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.main(tmp_path)
    said = capsys.readouterr().out
    assert "contradicted by the data: nothing" in said
    first, later = (float(line.split("weights ")[1].split()[0]) for line in said.splitlines()[-2:])
    assert 0.01 < first < 0.05 < later < 0.3
    assert device_model_from(tmp_path / "device_model.json").name == "my devices"
