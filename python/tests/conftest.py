from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import incept
import numpy as np
import pytest
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parents[2]

# A network that a CPU trains within seconds.
SMALL = {"width": 0.125, "image_size": 32, "batch_size": 16, "device": "cpu", "progress": False}


def command(*arguments: str | os.PathLike[str], **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command that the wheel installed."""
    program = shutil.which("incept", path=sysconfig.get_path("scripts"))
    assert program is not None, "the wheel did not install the command"
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, timeout=120, **options
    )


def stripes(count: int = 96, size: int = 24) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Grey images with horizontal (0) or vertical (1) stripes."""
    random = np.random.default_rng(1)
    labels = np.arange(count) % 2
    images = np.empty((count, size, size), dtype=np.uint8)
    for i, label in enumerate(labels):
        wave = (np.arange(size) // (2 + i // 2 % 4) % 2 * 180).astype(np.uint8)
        image = np.broadcast_to(wave[:, None] if label == 0 else wave[None, :], (size, size))
        images[i] = image + random.integers(0, 60, (size, size), dtype=np.uint8)
    return images, labels


@pytest.fixture(scope="session")
def included() -> incept.Classifier:
    return incept.Classifier.load("included", device="cpu")


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    files = sorted((REPOSITORY / "tests/fixtures/data/cifar10").rglob("*.png"))
    assert len(files) > 3, "the repository's fixtures are missing"
    return files


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set as a folder with one subfolder per class."""
    from PIL import Image

    root = tmp_path_factory.mktemp("data") / "stripes"
    images, labels = stripes()
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        file = root / ["horizontal", "vertical"][label] / f"{i:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return root
