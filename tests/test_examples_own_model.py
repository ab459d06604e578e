"""The example that validates a model of one's own does what it says."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.toolchain


def test_your_model_is_validated(tmp_path: Path) -> None:
    pytest.importorskip("snntorch", reason="needs snnTorch: pip install 'ovonic[snntorch]'")
    file = Path(__file__).parents[1] / "examples" / "validate_your_model.py"
    spec = importlib.util.spec_from_file_location("validate_your_model", file)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    further = ["--toolchains", "snntorch", "--skip", "gradients", "--chips", "2", "--read-time", "0", "--quiet"]
    assert example.main(["--out", str(tmp_path), "--updates", "40", "--samples", "60", *further]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["dynamics"]["native"]["equal_samples"] == 60
    accuracy = report["hardware"]["conditions"][0]["accuracy"]
    assert accuracy["software"]["mean"] > 0.8
    assert abs(accuracy["difference"]["mean"]) < 0.2
