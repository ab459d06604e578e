"""The doctor: its cures by error text, and its verdicts on packages that are really broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest

from ovonic import doctor
from ovonic.doctor import CHECKS, check_names, diagnose
from ovonic.models.errors import ConfigError

SCHEMA = {
    "type": "object",
    "required": ["schema", "versions", "config", "healthy", "toolchains"],
    "properties": {
        "schema": {"const": "ovonic/doctor/1"},
        "healthy": {"type": "boolean"},
        "toolchains": {
            "items": {
                "required": ["name", "version", "verdict", "what", "seconds", "error", "cure"],
                "properties": {
                    "verdict": {"enum": ["works", "broken", "absent"]},
                    "seconds": {"type": "number"},
                    "cure": {"type": ["string", "null"]},
                },
            }
        },
    },
}


def _doctor(*arguments: str, path: Path | None = None) -> tuple[int, dict, str]:
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    done = subprocess.run(
        [sys.executable, "-m", "ovonic", "doctor", *arguments, "--json", "-"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    result = json.loads(done.stdout)
    jsonschema.validate(result, SCHEMA)
    return done.returncode, result, done.stderr


@pytest.mark.parametrize(
    ("aihwkit", "torch", "text"),
    [
        ("1.2.0", "2.12.1", "RuntimeError: tensor does not have a device"),
        ("1.1.0", "2.13.0", "RuntimeError: weights must be a CPU tensor"),
        ("1.1.0", "2.15.0", "RuntimeError: Invalid weights dimensions: expected [3,4] tensor"),
        ("1.1.0", "2.9.1", "ImportError: rpu_base.so: undefined symbol: _ZN3c106detail14torchCheckFail"),
        ("1.2.0", "2.12.1", "died of SIGSEGV"),
    ],
)
def test_a_foreign_torch_abi_names_the_tested_pair(aihwkit: str, torch: str, text: str) -> None:
    cure = diagnose("aihwkit", {"aihwkit": aihwkit, "torch": torch}, text)
    assert f"aihwkit {aihwkit} and torch {torch} do not fit" in cure
    assert 'pip install --upgrade "aihwkit==1.2.0" "torch==2.15.0" torchvision' in cure


@pytest.mark.parametrize(
    ("versions", "text"),
    [
        ({"brian2": "2.9.0", "numpy": "2.4.0"}, "AttributeError: 'numpy.ndarray' object has no attribute 'ptp'"),
        ({"brian2": "2.9.0", "numpy": "2.4.1"}, "some other failure"),
        ({}, "`ptp` was removed from the ndarray class in NumPy 2.0"),
    ],
)
def test_an_old_brian2_beside_a_new_numpy(versions: dict[str, str], text: str) -> None:
    assert 'pip install --upgrade "brian2>=2.10.1"' in diagnose("brian2", versions, text)


@pytest.mark.parametrize(
    ("toolchain", "versions", "text", "cure"),
    [
        ("brian2", {"brian2": "2.10.1", "numpy": "2.5.5"}, "boom", "--force-reinstall --no-deps brian2; ovonic doctor"),
        ("nest", {}, "No module named 'nest'", 'pip install "ovonic[nest]"'),
        ("torchvision", {}, "No module named 'torchvision'", 'pip install "ovonic[omniglot]"'),
        ("aihwkit", {"python": "3.14"}, "No module named 'aihwkit'", "Python 3.12 and 3.13 only, this is 3.14"),
        ("aihwkit", {"python": "3.13"}, "No module named 'aihwkit'", 'pip install "ovonic[aihwkit]"'),
        ("torch", {}, "No module named 'torch'", "--force-reinstall ovonic"),
        (
            "norse",
            {"norse": "1.1.0"},
            "ModuleNotFoundError: No module named 'torchvision'",
            "lacks the module 'torchvision'",
        ),
        ("torchvision", {"torch": "2.15.0"}, "operator torchvision::nms does not exist", "another torch than 2.15.0"),
        ("nest", {"nest-simulator": "3.10.0"}, "numpy.dtype size changed", "built for another numpy"),
        ("snntorch", {"snntorch": "1.0.0"}, "timed out after 5 s", "--timeout 600"),
        ("nest", {"nest-simulator": "3.10.0"}, "No module named 'nest'", "--force-reinstall nest-simulator"),
    ],
)
def test_other_cures(toolchain: str, versions: dict[str, str], text: str, cure: str) -> None:
    assert cure in diagnose(toolchain, versions, text)


def test_an_unknown_toolchain_is_refused() -> None:
    assert check_names(["nest", "torch", "nest"]) == ["nest", "torch"]
    with pytest.raises(ConfigError, match="did you mean 'brian2'"):
        check_names(["brian"])


def test_an_absent_toolchain_is_no_failure_but_torch_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda module: None)
    monkeypatch.setattr(doctor, "_versions", lambda distributions: {"python": "3.12"})
    findings = {finding.name: finding for finding in doctor.examine_all(["nest", "torch"])}
    assert (findings["nest"].verdict, findings["nest"].version) == ("absent", None)
    assert findings["nest"].cure == 'pip install "ovonic[nest]"'
    assert findings["torch"].verdict == "broken"


def _fake(folder: Path, name: str, source: str) -> Path:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(source)
    return folder


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (
            "print('chatter {}')\nraise ImportError('libfake.so: cannot open shared object file')",
            "ImportError: libfake.so",
        ),
        ("import os; os.abort()", "died of SIGABRT"),
        ("import os; print('bye'); os._exit(0)", "ended early with exit status 0"),
        ("import time; time.sleep(60)", "timed out after 2 s"),
        ("Leaky = lambda **k: lambda x, v: (x, v)", "expected"),
        ("", "has no attribute 'Leaky'"),
    ],
)
def test_a_broken_package_costs_its_own_line_only(tmp_path: Path, source: str, error: str) -> None:
    begun = time.monotonic()
    status, result, stderr = _doctor(
        "snntorch", "--timeout", "2" if "sleep" in source else "120", path=_fake(tmp_path, "snntorch", source)
    )
    (finding,) = result["toolchains"]
    assert (status, finding["verdict"], result["healthy"]) == (1, "broken", False)
    assert error in finding["error"]
    assert finding["cure"]
    assert "Traceback" not in stderr
    assert time.monotonic() - begun < 60


def test_a_broken_c_extension_is_cured_by_the_tested_pair(tmp_path: Path) -> None:
    source = "raise ImportError('rpu_base.so: undefined symbol: _ZN3c10')"
    status, result, _ = _doctor("aihwkit", path=_fake(tmp_path, "aihwkit", source))
    assert status == 1
    assert '"aihwkit==1.2.0" "torch==2.15.0"' in result["toolchains"][0]["cure"]


@pytest.mark.slow
@pytest.mark.toolchain
def test_every_toolchain_that_is_here_works(tmp_path: Path) -> None:
    """All of them beside one that is broken."""
    status, result, _ = _doctor(path=_fake(tmp_path, "norse", "raise RuntimeError('no')"))
    verdicts = {finding["name"]: finding["verdict"] for finding in result["toolchains"]}
    assert list(verdicts) == list(CHECKS)
    assert verdicts.pop("norse") == "broken"
    assert status == 1
    assert "broken" not in verdicts.values(), result
    assert verdicts["torch"] == "works"


def test_one_toolchain_shows_a_table() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ovonic", "doctor", "torch", "--quiet"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0
    assert "works" in done.stdout
    assert not done.stderr
