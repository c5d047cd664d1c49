from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import incept
import pytest
import tomllib
from conftest import REPOSITORY, command
from incept import _incept
from incept._train import RESUMED, SECTIONS


def test_version_is_that_of_the_workspace() -> None:
    workspace = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())
    version = workspace["workspace"]["package"]["version"]
    assert incept.__version__ == version
    for ran in (
        command("--version"),
        subprocess.run(
            [sys.executable, "-m", "incept", "--version"], capture_output=True, text=True, check=True
        ),
    ):
        assert ran.stdout == f"incept {version}\n"


def test_the_command_exits_with_its_code(tmp_path: Path) -> None:
    assert command("--help").returncode == 0
    wrong = command("train", "digits", "--epoch", "3")
    assert wrong.returncode == 2
    assert "--epochs" in wrong.stderr
    failed = command("classify", "absent.png", cwd=tmp_path)
    assert failed.returncode == 1
    assert "absent.png" in failed.stderr


def test_the_demo_runs_without_a_driver(tmp_path: Path) -> None:
    # The loaders of Vulkan and OpenGL find nothing, as where none is installed.
    absent = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES", "__EGL_VENDOR_LIBRARY_FILENAMES")
    environment = os.environ | dict.fromkeys(absent, "/nonexistent")
    arguments = ("demo", "-o", "demo.png", "--checkpoint", "demo.safetensors")
    ran = command(*arguments, cwd=tmp_path, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "demo.png").stat().st_size > 10_000
    assert len(incept.Classifier.load(tmp_path / "demo.safetensors", device="cpu").classes) == 10


def test_every_option_has_a_keyword_and_a_flag() -> None:
    keywords = set(inspect.signature(incept.train).parameters)
    options = {name for names in SECTIONS.values() for name in names}
    assert options <= keywords
    assert set(RESUMED) <= options
    help_text = command("train", "--help").stdout
    missing = [name for name in options if f"--{name.replace('_', '-')}" not in help_text]
    assert not missing
    # Flags without a keyword: files of options, the display, and flags for GPUs.
    others = {
        "config",
        "preview-augment",
        "view",
        "backend",
        "default-limits",
        "tune",
        "json",
        "verbose",
        "help",
        "version",
    }
    listed = set(re.findall(r"^ {2,6}(?:-\w, )?--([a-z-]+)", help_text, re.MULTILINE))
    assert len(listed) > 50
    unknown = {flag for flag in listed - others if flag.replace("-", "_") not in keywords}
    assert not unknown


def test_stubs_are_those_of_the_runtime(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    # The functions of the native module have no signature with types.
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy.stubtest",
            "incept._incept",
            "--ignore-missing-stub",
            "--ignore-disjoint-bases",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_native_module_has_what_the_stub_names() -> None:
    stub = (Path(incept.__file__).parent / "_incept.pyi").read_text()
    named = {line.split("(")[0].removeprefix("def ") for line in stub.splitlines() if line.startswith("def ")}
    public = {name for name in vars(_incept) if not name.startswith("_")}
    assert named | {"Network"} == public
    assert (Path(incept.__file__).parent / "py.typed").exists()


def test_public_names_have_docstrings() -> None:
    for name in incept.__all__:
        value = getattr(incept, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, name
    for name, value in vars(incept.Classifier).items():
        if not name.startswith("_"):
            assert inspect.getdoc(value), name


@pytest.mark.skipif(sys.platform != "linux", reason="Wayland is for Linux")
def test_the_environment_is_left_as_it_was() -> None:
    code = "import incept, os; incept.devices(); print(os.environ.get('XDG_RUNTIME_DIR'))"
    for value in (None, "relative", "/run"):
        environment = {k: v for k, v in os.environ.items() if k != "XDG_RUNTIME_DIR"}
        if value is not None:
            environment["XDG_RUNTIME_DIR"] = value
        ran = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
        )
        assert (ran.stdout, ran.stderr) == (f"{value}\n", "")
