"""What is installed is what stands in the four folders, under one name, and importing it costs nothing."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import ovonic

ROOT = Path(__file__).parents[1]
FOLDERS = ("adapters", "models", "tasks", "validation")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _packages_on_disk() -> dict[str, Path]:
    """Folder of every package, by its installed name; src/ovonic's links count as the folders they lead to."""
    found = {"ovonic": ROOT / "src" / "ovonic"}
    roots = {f"ovonic.{name}": ROOT / name for name in FOLDERS}
    roots["ovonic.commands"] = ROOT / "src" / "ovonic" / "commands"
    for name, folder in roots.items():
        for file in sorted(folder.rglob("__init__.py")):
            found[".".join([name, *file.parent.relative_to(folder).parts])] = file.parent
    return found


def test_the_packages_list_equals_what_is_on_disk() -> None:
    assert sorted(PYPROJECT["tool"]["setuptools"]["packages"]) == sorted(_packages_on_disk())
    for file in (ROOT / "src" / "ovonic").glob("*/__init__.py"):
        assert f"ovonic.{file.parent.name}" in _packages_on_disk(), f"{file} belongs to no known package"


@pytest.mark.parametrize("name", FOLDERS)
def test_the_links_lead_to_the_folders(name: str) -> None:
    link = ROOT / "src" / "ovonic" / name
    if not link.is_symlink():
        pytest.skip("links are checked out as plain files here")
    assert link.resolve() == (ROOT / name).resolve()


def test_no_folder_is_imported_past_the_package() -> None:
    for file in ROOT.glob("*/**/*.py"):
        if any(part.startswith(".") or part == "build" for part in file.relative_to(ROOT).parts):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in names:
                assert name.partition(".")[0] not in FOLDERS, f"{file}: import ovonic.{name}"


def _heavy_after(statement: str) -> set[str]:
    program = f"{statement}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    return {"torch", "numpy", "rich", "typer", "safetensors", "importlib.metadata"} & set(done.stdout.split())


def test_importing_ovonic_costs_nothing() -> None:
    assert not _heavy_after("import ovonic")
    assert not _heavy_after("import ovonic.models.errors")
    assert "torch" not in _heavy_after("import ovonic; ovonic.__version__; ovonic.weights()")


def test_the_face_of_the_package() -> None:
    assert ovonic.__version__ == version("ovonic") == PYPROJECT["project"]["version"]
    assert set(ovonic.__all__) == {"__version__", "compare", "deploy", "load", "weights"}
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        ovonic.lod  # noqa: B018


def test_the_installed_command_is_main() -> None:
    assert PYPROJECT["project"]["scripts"] == {"ovonic": "ovonic.__main__:main"}


@pytest.mark.slow
def test_a_wheel_holds_every_package(tmp_path: Path) -> None:
    """Builds a wheel with uv and runs the command from it alone."""
    if shutil.which("uv") is None:
        pytest.skip("needs uv")
    build = ["uv", "build", "--quiet", "--wheel", "--out-dir", str(tmp_path)]
    source = tmp_path / "source"  # a copy: setuptools leaves build/ beside what it builds
    shutil.copytree(
        ROOT, source, symlinks=True, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "runs")
    )
    done = subprocess.run([*build, str(source)], capture_output=True, text=True, timeout=600)
    if done.returncode and "fetch" in done.stderr:
        pytest.skip("no network for the build backend")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        members = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    expected = {
        f"{name.replace('.', '/')}/{file.name}"
        for name, folder in _packages_on_disk().items()
        for file in folder.glob("*.py")
    }
    weights = {
        f"ovonic/weights/{file.name}" for file in (ROOT / "src/ovonic/weights").iterdir() if file.suffix != ".py"
    }
    assert expected | weights <= members
    strangers = {name for name in members - expected - weights if ".dist-info/" not in name}
    assert not strangers
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
        "import ovonic.__main__ as cli; print(cli.__file__); sys.exit(cli.main(['weights', 'list']))"
    )
    ran = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    assert str(tmp_path / "site") in ran.stdout
