"""Images as callers have them: paths, PIL images and arrays."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from incept._errors import ConfigError, DataError
from incept._incept import image_files

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image as PILImage

    Pixels: TypeAlias = NDArray[np.uint8]
    ImageLike: TypeAlias = str | os.PathLike[str] | NDArray[np.uint8] | PILImage
    Images: TypeAlias = ImageLike | Iterable[ImageLike]
    Item: TypeAlias = str | NDArray[np.uint8]

CHANNELS = (1, 3, 4)


def is_path(value: object) -> bool:
    """Whether a value is a path."""
    return isinstance(value, (str, os.PathLike))


def _is_pil(value: object) -> bool:
    return hasattr(value, "mode") and hasattr(value, "convert") and hasattr(value, "tobytes")


def _is_array(value: object) -> bool:
    arrays = ("__array_interface__", "__array__")
    return isinstance(value, np.ndarray) or any(hasattr(value, name) for name in arrays)


def _from_pil(image: Any) -> Pixels:
    """The pixels of a PIL image, turned as its EXIF orientation says, as in files."""
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode not in ("L", "RGB", "RGBA"):
        transparent = image.mode in ("LA", "PA", "La", "RGBa") or "transparency" in image.info
        grey = image.mode in ("1", "I", "F") or image.mode.startswith("I;")
        image = image.convert("RGBA" if transparent else "L" if grey else "RGB")
    return _checked(np.asarray(image))


def _checked(array: Any) -> Pixels:
    """An array of uint8, contiguous."""
    array = np.asarray(array)
    if array.dtype != np.uint8:
        advice = ""
        if array.dtype.kind == "f":
            advice = ": convert values in [0, 1] with (x * 255).round().astype(np.uint8)"
        raise TypeError(f"images are arrays of uint8 (0 to 255), not of {array.dtype}{advice}")
    return cast("Pixels", np.ascontiguousarray(array))


def one(array: Pixels) -> Pixels:
    """An image as height x width x channels."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in CHANNELS:
        raise DataError(_misshapen(array.shape))
    if 0 in array.shape:
        raise DataError(f"an image of shape {array.shape} has no pixels")
    return np.ascontiguousarray(array)


def _misshapen(shape: Sequence[int]) -> str:
    text = (
        f"an array of shape {tuple(shape)} is not an image: expected height x width, or height x width x "
        "channels with 1 (grey), 3 (RGB) or 4 (RGBA) channels; a batch has one more dimension in front"
    )
    if len(shape) in (3, 4) and shape[-3] in CHANNELS:
        axes = "1, 2, 0" if len(shape) == 3 else "0, 2, 3, 1"
        text += f". Channels come last: use array.transpose({axes})"
    return text


def items(images: Images) -> tuple[list[str | None], list[Item]]:
    """All images, with their files; folders are searched for images."""
    names: list[str | None] = []
    found: list[Item] = []

    def add(name: str | None, item: Item) -> None:
        names.append(name)
        found.append(item)

    def visit(value: Any, nested: bool) -> None:
        if is_path(value):
            for file in image_files(os.fspath(value)):
                add(str(file), str(file))
        elif _is_pil(value):
            add(None, one(_from_pil(value)))
        elif _is_array(value):
            array = _checked(value)
            if array.ndim == 4:
                for image in array:
                    add(None, one(image))
            else:
                add(None, one(array))
        elif isinstance(value, Iterable) and not isinstance(value, (bytes, dict)) and not nested:
            for each in value:
                visit(each, nested=True)
        else:
            kind = type(value).__name__
            raise TypeError(f"an image is a path, a PIL image or an array of uint8, not {kind}")

    visit(images, nested=False)
    if not found:
        raise ConfigError("there are no images")
    return names, found


def labelled(
    images: Any, labels: Any, classes: Sequence[str] | None
) -> tuple[list[str], list[Item], list[int]]:
    """Class names, images and class numbers of a data set in memory."""
    if labels is None:
        raise ConfigError("images in memory need labels, one per image")
    if _is_array(images) and not _is_pil(images):
        array = _checked(images)
        if array.ndim == 3:
            array = array[:, :, :, None]
        if array.ndim != 4 or array.shape[3] not in CHANNELS:
            raise DataError(
                f"an array of shape {array.shape} is not a batch of images: expected images x height x "
                "width, with 1, 3 or 4 channels in a fourth dimension"
            )
        found: list[Item] = [one(image) for image in array]
    else:
        _, found = items(images)
    names, numbers = _numbered(labels, classes)
    if len(numbers) != len(found):
        raise DataError(f"there are {len(found)} images and {len(numbers)} labels")
    if not found:
        raise DataError("there are no images")
    return names, found, numbers


def _numbered(labels: Any, classes: Sequence[str] | None) -> tuple[list[str], list[int]]:
    """Class names, and the labels as class numbers."""
    array = np.asarray(labels)
    if array.ndim != 1:
        raise DataError(f"labels have one dimension, not the shape {array.shape}")
    if array.dtype.kind in "US":
        text = [str(label) for label in array.tolist()]
        names = sorted(set(text)) if classes is None else [str(name) for name in classes]
        numbers = {name: number for number, name in enumerate(names)}
        unknown = sorted(set(text) - set(names))
        if unknown:
            raise DataError(f"the label {unknown[0]!r} is none of the classes {', '.join(names)}")
        return names, [numbers[label] for label in text]
    if array.dtype.kind not in "iu":
        raise TypeError(f"labels are class numbers or names, not {array.dtype}")
    count = int(array.max(initial=-1)) + 1
    names = [str(number) for number in range(count)] if classes is None else [str(name) for name in classes]
    if array.size and (int(array.min()) < 0 or count > len(names)):
        wrong = int(array.min()) if int(array.min()) < 0 else count - 1
        raise DataError(f"the label {wrong} is out of range: there are {len(names)} classes, from 0")
    return names, [int(label) for label in array.tolist()]
