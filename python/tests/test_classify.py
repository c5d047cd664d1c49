from __future__ import annotations

import json
import threading
from pathlib import Path

import incept
import numpy as np
import pytest
from conftest import command
from PIL import Image


def test_results_are_those_of_the_command(included: incept.Classifier, photos: list[Path]) -> None:
    for files in (photos[:3], photos[:1], photos):
        ran = command("classify", "included", "--device", "cpu", "--json", *files)
        assert ran.returncode == 0, ran.stderr
        lines = [json.loads(line) for line in ran.stdout.splitlines()]
        results = included.classify(files)
        assert [r["file"] for r in results] == [line["file"] for line in lines] == [str(f) for f in files]
        for result, line in zip(results, lines, strict=True):
            assert [p["class"] for p in result["predictions"]] == [p["class"] for p in line["predictions"]]
            for ours, theirs in zip(result["predictions"], line["predictions"], strict=True):
                assert np.float32(ours["probability"]) == np.float32(theirs["probability"])


def test_paths_pil_images_and_arrays_agree(included: incept.Classifier, photos: list[Path]) -> None:
    files = photos[:4]
    by_path = included.probabilities(files)
    images = [Image.open(file).convert("RGB") for file in files]
    arrays = [np.asarray(image) for image in images]
    assert by_path.shape == (4, 10)
    assert by_path.dtype == np.float32
    np.testing.assert_allclose(by_path.sum(axis=1), 1, rtol=1e-5)
    for same in (images, arrays, np.stack(arrays), [str(files[0]), images[1], arrays[2], files[3]]):
        np.testing.assert_array_equal(included.probabilities(same), by_path)
    # Neither memory layout nor an opaque alpha channel changes anything.
    batch = np.stack(arrays)
    opaque = np.concatenate([batch, np.full((*batch.shape[:3], 1), 255, np.uint8)], axis=3)
    planes = np.ascontiguousarray(batch.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    for same in (opaque, planes):
        np.testing.assert_array_equal(included.probabilities(same), by_path)


def test_results_do_not_depend_on_the_batch(included: incept.Classifier, photos: list[Path]) -> None:
    whole = included.probabilities(photos)
    for size in (1, 3):
        np.testing.assert_array_equal(included.probabilities(photos, batch_size=size), whole)


def test_transparent_and_grey_images_are_read_as_files(
    included: incept.Classifier, tmp_path: Path, photos: list[Path]
) -> None:
    photo = Image.open(photos[0])
    transparent = photo.convert("RGBA")
    transparent.putalpha(100)
    kinds = {
        "rgba": transparent,
        "grey": photo.convert("L"),
        "palette": photo.convert("P"),
        "grey with alpha": transparent.convert("LA"),
        "bits": photo.convert("1"),
    }
    for kind, image in kinds.items():
        file = tmp_path / f"{kind}.png"
        image.save(file)
        of_file, of_image = included.probabilities(file), included.probabilities(Image.open(file))
        np.testing.assert_array_equal(of_file, of_image, err_msg=kind)
    turned = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.convert("RGB").save(turned, exif=exif)
    np.testing.assert_array_equal(
        included.probabilities(turned), included.probabilities(Image.open(turned)), err_msg="turned"
    )


def test_folders_are_searched(included: incept.Classifier, photos: list[Path]) -> None:
    results = included.classify(photos[0].parent, top=1)
    assert {r["file"] for r in results} == {str(f) for f in photos if f.parent == photos[0].parent}
    assert all(len(r["predictions"]) == 1 for r in results)


@pytest.mark.parametrize(
    ("images", "error", "text"),
    [
        (np.zeros((8, 8, 3), np.float32), TypeError, "astype"),
        (np.zeros((8, 8), np.int64), TypeError, "int64"),
        (np.zeros((3, 8, 8), np.uint8), incept.DataError, "transpose(1, 2, 0)"),
        (np.zeros((5, 3, 8, 8), np.uint8), incept.DataError, "transpose(1, 2, 0)"),
        (np.zeros(8, np.uint8), incept.DataError, "(8,)"),
        (np.zeros((0, 8, 3), np.uint8), incept.DataError, "no pixels"),
        (np.zeros((0, 8, 8, 3), np.uint8), incept.ConfigError, "no images"),
        ([], incept.ConfigError, "no images"),
        (7, TypeError, "not int"),
        ([[1]], TypeError, "not list"),
        ("missing.png", FileNotFoundError, "missing.png"),
        (b"bytes", TypeError, "bytes"),
    ],
)
def test_wrong_images_are_refused(
    included: incept.Classifier, images: object, error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as raised:
        included.classify(images)  # type: ignore[arg-type]
    assert text in str(raised.value)


def test_wrong_options_are_refused(included: incept.Classifier, photos: list[Path], tmp_path: Path) -> None:
    for wrong in ({"top": 0}, {"batch_size": 0}):
        with pytest.raises(incept.ConfigError, match=next(iter(wrong))):
            included.classify(photos[0], **wrong)
    broken = tmp_path / "broken.png"
    broken.write_bytes(photos[0].read_bytes()[:60])
    with pytest.raises(incept.DataError, match=r"broken\.png"):
        included.classify(broken)
    with pytest.raises(incept.MissingFileError, match="absent"):
        incept.Classifier.load("absent.safetensors", device="cpu")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    with pytest.raises(incept.CheckpointError, match="damaged"):
        incept.Classifier.load(damaged, device="cpu")
    with pytest.raises(incept.InceptError, match="f64"):
        incept.Classifier.load(device="cpu", precision="f64")
    with pytest.raises(incept.DeviceError, match="no such adapter"):
        incept.Classifier.load(device="no such adapter")


def test_properties(included: incept.Classifier, tmp_path: Path, photos: list[Path]) -> None:
    assert included.classes[:2] == ["airplane", "automobile"]
    assert (included.image_size, included.channels) == (96, 3)
    assert included.variant in ("paper", "torchvision")
    assert included.parameters > 1e5
    assert included.metadata["network"]["classes"] == 10
    assert "10 classes" in repr(included)
    included.metadata["network"].clear()
    file = tmp_path / "again.safetensors"
    included.save(file)
    again = incept.Classifier.load(file, device="cpu", threads=1)
    np.testing.assert_array_equal(again.probabilities(photos[:2]), included.probabilities(photos[:2]))
    with pytest.raises(incept.FileError):
        included.save(tmp_path / "absent" / "x" / "\0.safetensors")


def test_threads_share_a_classifier(included: incept.Classifier, photos: list[Path]) -> None:
    expected = included.probabilities(photos)
    found: dict[int, np.ndarray] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: included.probabilities(photos)}))
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for rows in found.values():
        np.testing.assert_array_equal(rows, expected)


def test_devices_are_listed() -> None:
    devices = incept.devices()
    assert devices[-1]["backend"].lower() == "cpu" or "cpu" in str(devices[-1]).lower()
    assert all({"index", "name", "class", "driver"} <= set(device) for device in devices)
