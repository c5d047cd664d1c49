"""Classification with trained weights."""

from __future__ import annotations

import copy
import json
import os
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from incept import _incept
from incept._errors import ConfigError
from incept._images import items
from incept._wayland import quiet_wayland

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from incept._images import Images, Item

# Images of one call into the engine: it bounds the memory of copied arrays, and nothing else.
_CHUNK = 256


# A class has no syntax for the key `class`.
ClassProbability = TypedDict("ClassProbability", {"class": str, "probability": float})
ClassProbability.__doc__ = "A class of an image, by its name, and its probability, in [0, 1]."


class Classification(TypedDict):
    """The most probable classes of an image, as ``incept classify --json`` prints them."""

    #: The image's file; None for images in memory.
    file: str | None
    #: The most probable classes, most probable first.
    predictions: list[ClassProbability]


class Classifier:
    """A trained network on a device. Create it with :meth:`load`, or by training.

    Methods release the GIL, and may be called from several threads.
    """

    def __init__(self, network: _incept.Network) -> None:
        """For the package itself: use :meth:`load`."""
        self._network = network
        self._description: dict[str, Any] = json.loads(network.description())

    @classmethod
    def load(
        cls,
        weights: str | os.PathLike[str] = "included",
        *,
        device: str = "auto",
        threads: int | None = None,
        precision: str = "auto",
    ) -> Classifier:
        """Load weights, and open a device.

        weights: a checkpoint (.safetensors), a run's folder (its best checkpoint), ``included`` (the
            weights that come with incept: CIFAR-10's ten classes), or ``imagenet`` (torchvision's
            weights with 1000 classes, 50 MiB, downloaded once to the cache).
        device: ``auto`` (the fastest GPU, or the CPU if there is none), ``cpu``, ``gpu``, or an
            adapter's index in :func:`incept.devices` or part of its name.
        threads: threads of the CPU [default: one per core]. Results are the same bits for any number.
        precision: of activations: ``f32``, ``f16``, or ``auto`` (f16 on GPUs where it is faster).
        """
        with quiet_wayland():
            return cls(_incept.load(os.fspath(weights), device, threads, precision))

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return list(self._description["classes"])

    @property
    def image_size(self) -> int:
        """Height and width of the network's input in pixels; images of any size are resized."""
        return int(self._description["network"]["input"])

    @property
    def channels(self) -> int:
        """Channels of the network's input. Grey images are repeated three times."""
        return 3

    @property
    def variant(self) -> str:
        """``paper`` or ``torchvision``."""
        return str(self._description["network"]["variant"])

    @property
    def parameters(self) -> int:
        """Number of parameters, auxiliary heads included."""
        return self._network.parameters()

    @property
    def device(self) -> str:
        """Name, class and driver of the device."""
        return self._network.device_name()

    @property
    def metadata(self) -> dict[str, Any]:
        """The checkpoint's description: network, preprocessing, progress and configuration of its run."""
        return copy.deepcopy(self._description)

    def classify(self, images: Images, *, top: int = 5, batch_size: int = 16) -> list[Classification]:
        """Return the most probable classes of each image, as ``incept classify --json`` prints them.

        images: one or several paths (folders are searched for images), PIL images, or arrays of
            uint8: height x width (grey), height x width x 1, 3 (RGB) or 4 (RGBA) channels, or a batch
            images x height x width x channels.
        top: number of classes per image.
        batch_size: images that run at a time.
        """
        if top < 1:
            raise ConfigError(f"top must be an integer, at least 1, not {top}")
        names, found = items(images)
        rows = self._rows(found, batch_size)
        # Stable, so that the first class is first in a tie.
        order = np.argsort(-rows, axis=1, kind="stable")[:, :top]
        return [
            {
                "file": name,
                "predictions": [
                    {"class": self._description["classes"][c], "probability": float(row[c])} for c in best
                ],
            }
            for name, row, best in zip(names, rows, order, strict=True)
        ]

    def probabilities(self, images: Images, *, batch_size: int = 16) -> NDArray[np.float32]:
        """Return the probability of each class, as an array of images x classes.

        The images are those of :meth:`classify`.
        """
        return self._rows(items(images)[1], batch_size)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the checkpoint to a .safetensors file, which the command and :meth:`load` read."""
        self._network.save(os.fspath(path))

    def _rows(self, found: list[Item], batch_size: int) -> NDArray[np.float32]:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be an integer, at least 1, not {batch_size}")
        batch = min(batch_size, len(found))
        chunk = max(_CHUNK // batch, 1) * batch
        chunks = range(0, len(found), chunk)
        return np.concatenate([self._network.probabilities(found[i : i + chunk], batch) for i in chunks])

    def __repr__(self) -> str:
        return (
            f"Classifier({self.variant}, {len(self._description['classes'])} classes, "
            f"{self.image_size} x {self.image_size} pixels, {self.device})"
        )
