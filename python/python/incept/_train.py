"""Training with the options and recipes of ``incept train``."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from incept import _incept
from incept._classifier import Classifier
from incept._errors import ConfigError
from incept._images import is_path, labelled
from incept._wayland import quiet_wayland

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from incept._images import Images

    Labels: TypeAlias = Sequence[int] | Sequence[str] | NDArray[Any]

Metrics: TypeAlias = dict[str, Any]
Callback: TypeAlias = Callable[[Metrics], bool | None]

# The options of `incept train`, by the sections of its configuration file.
SECTIONS: dict[str, tuple[str, ...]] = {
    "network": (
        "variant",
        "width",
        "image_size",
        "aux_weight",
        "dropout",
        "aux_dropout",
        "label_smoothing",
        "init",
        "bias_rate",
    ),
    "training": (
        "epochs",
        "batch_size",
        "seed",
        "patience",
        "class_weights",
        "weights",
        "freeze_until",
        "reset_head",
        "precision",
        "no_validation",
        "limit",
        "val_split",
    ),
    "optimizer": (
        "optimizer",
        "lr",
        "schedule",
        "warmup_epochs",
        "momentum",
        "weight_decay",
        "trust_coefficient",
        "max_grad_norm",
        "average",
        "grad_accum",
        "grad_checkpointing",
    ),
    "augment": ("augment", "hflip", "vflip", "photometric", "random_interpolation", "mixup", "cutmix"),
    "pixels": ("mean", "std", "fit"),
    "load": ("workers", "max_bad", "max_pixels"),
    "run": ("name", "save_every", "keep", "tensorboard", "output", "runs_dir"),
}

# What may change when a run is resumed.
RESUMED = (
    "epochs",
    "patience",
    "no_validation",
    "grad_checkpointing",
    "workers",
    "max_bad",
    "max_pixels",
    "save_every",
    "keep",
    "tensorboard",
    "output",
    "runs_dir",
)


def configuration(options: dict[str, Any], data: str | None = None) -> str:
    """Return the options that were given as the JSON of a configuration file's sections."""
    sections: dict[str, Any] = {} if data is None else {"data": data}
    for section, names in SECTIONS.items():
        given = {
            name.replace("_", "-"): _plain(name, options[name])
            for name in names
            if options.get(name) is not None
        }
        if given:
            sections[section] = given
    return json.dumps(sections)


def _plain(name: str, value: Any) -> Any:
    """Return a value for JSON."""
    if isinstance(value, np.generic):
        value = value.item()
    if is_path(value):
        return os.fspath(value)
    if isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ConfigError(f"{name} must be a finite number, not {value}")
        return value
    if isinstance(value, (Sequence, np.ndarray)):
        numbers = [_plain(name, each) for each in value]
        return ",".join(repr(float(each)) for each in numbers) if name == "class_weights" else numbers
    raise TypeError(f"{name} has the type {type(value).__name__}, which no option takes")


@dataclass(frozen=True, eq=False)
class Training:
    """The result of a training."""

    #: The network of the best epoch by validation accuracy; of the last step without validation.
    classifier: Classifier
    #: The epochs since this start, with the columns of a run's metrics.csv.
    history: list[Metrics]
    #: ``done``, ``patience`` (early stopping), or ``interrupted`` (a callback returned False).
    stopped: str
    #: The best epoch, from 1; None without validation.
    best_epoch: int | None
    #: Its validation accuracy, in [0, 1].
    best_accuracy: float | None
    #: The run's folder; None unless `runs_dir` was given.
    folder: Path | None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the classifier's checkpoint to a .safetensors file."""
        self.classifier.save(path)


def devices() -> list[dict[str, Any]]:
    """Return the devices of this machine: the adapters of graphics APIs, then the CPU.

    Each has its index, name, class, driver and limits, as ``incept devices --json`` prints them.
    """
    with quiet_wayland():
        listed: list[dict[str, Any]] = json.loads(_incept.devices())
    return listed


def train(
    data: str | os.PathLike[str] | Images | None = None,
    labels: Labels | None = None,
    *,
    classes: Sequence[str] | None = None,
    validation: tuple[Images, Labels] | None = None,
    recipe: Literal["paper", "caffe", "torchvision", "small", "finetune"] | None = None,
    resume: str | os.PathLike[str] | None = None,
    callback: Callback | None = None,
    step_callback: Callback | None = None,
    progress: bool = True,
    device: str = "auto",
    threads: int | None = None,
    # Network
    variant: Literal["paper", "torchvision"] | None = None,
    width: float | None = None,
    image_size: int | None = None,
    aux_weight: float | None = None,
    dropout: float | None = None,
    aux_dropout: float | None = None,
    label_smoothing: float | None = None,
    init: Literal["xavier", "glorot", "he"] | None = None,
    bias_rate: float | None = None,
    # Training
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    patience: int | None = None,
    class_weights: Literal["balanced"] | Sequence[float] | None = None,
    weights: str | os.PathLike[str] | None = None,
    freeze_until: str | None = None,
    reset_head: bool | None = None,
    precision: Literal["f32", "f16", "auto"] | None = None,
    no_validation: bool | None = None,
    limit: int | None = None,
    val_split: float | None = None,
    # Optimizer
    optimizer: Literal["sgd", "nesterov", "adamw", "lars"] | None = None,
    lr: float | None = None,
    schedule: str | None = None,
    warmup_epochs: float | None = None,
    momentum: float | None = None,
    weight_decay: float | None = None,
    trust_coefficient: float | None = None,
    max_grad_norm: float | None = None,
    average: str | float | None = None,
    grad_accum: int | None = None,
    grad_checkpointing: bool | None = None,
    # Augmentation
    augment: Literal["auto", "none", "shifts", "standard", "crops", "paper"] | None = None,
    hflip: bool | None = None,
    vflip: bool | None = None,
    photometric: float | None = None,
    random_interpolation: bool | None = None,
    mixup: float | None = None,
    cutmix: float | None = None,
    # Preprocessing and loading
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    fit: Literal["crop", "squash", "pad"] | None = None,
    workers: int | None = None,
    max_bad: int | None = None,
    max_pixels: int | None = None,
    # Files
    name: str | None = None,
    save_every: int | None = None,
    keep: int | None = None,
    tensorboard: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    runs_dir: str | os.PathLike[str] | None = None,
) -> Training:
    """Train a network; every option of ``incept train`` is a keyword with the same default.

    data: a data set by its path (a folder with one subfolder per class, or another format of
        docs/data-sets.md), ``digits`` (embedded), or images in memory with `labels`: an array
        images x height x width, with channels in a fourth dimension, or a list of images as
        :meth:`Classifier.classify` takes them. Images in memory are not augmented by default.
    labels: of images in memory: class numbers from 0, or names.
    classes: names of the classes [default: the sorted labels, or their numbers].
    validation: validation images in memory and their labels [default: a fifth of each class].
    recipe: a configuration to start from; other options override it.
    resume: a checkpoint or a run's folder to continue; the result is bit-identical to that of an
        uninterrupted run. Only the options in docs/python.md may change.
    callback: called after every epoch with a dict of its metrics; if it returns False, training
        stops, and :func:`train` returns. An exception stops training too, and is raised once the
        checkpoint is saved.
    step_callback: as `callback`, after every step.
    progress: show progress, with tqdm if it is installed.
    output: file of the latest checkpoint, saved after every epoch and when training is interrupted,
        also by Ctrl-C, which raises KeyboardInterrupt. Nothing is saved without `output` and
        `runs_dir`.
    runs_dir: record the run in a new folder there, as the command does.

    Callbacks run in the calling thread. Notes are logged by the logger ``incept`` of Python's logging.
    """
    options = dict(locals())
    path = os.fspath(data) if is_path(data) else None  # type: ignore[arg-type]
    memory = None
    if data is None or path is not None:
        for keyword in ("labels", "classes", "validation"):
            if options[keyword] is not None:
                raise ConfigError(f"{keyword} is for images in memory, and the data set is a path")
        if data is None and resume is None:
            raise ConfigError("no data set: give a path, or images and their labels")
    else:
        names, images, numbers = labelled(data, labels, classes)
        separate = None
        if validation is not None:
            validation_set = labelled(*validation, names)
            separate = validation_set[1:]
        memory = (names, (images, numbers), separate)
    if resume is not None:
        for keyword in (name for names in SECTIONS.values() for name in names):
            if options[keyword] is not None and keyword not in RESUMED:
                raise ConfigError(f"{keyword} is fixed by the run that is resumed")
        if recipe is not None:
            raise ConfigError("recipe is fixed by the run that is resumed")
    config = configuration(options, path)
    resumed = None if resume is None else os.fspath(resume)
    observer = _Observer(callback, step_callback, progress)
    try:
        with quiet_wayland():
            network, stopped, best, folder = _incept.train(
                config, recipe, memory, resumed, device, threads, observer, step_callback is not None
            )
    finally:
        observer.close()
    return Training(
        classifier=Classifier(network),
        history=observer.history,
        stopped=stopped,
        best_epoch=None if best is None else best[0],
        best_accuracy=None if best is None else best[1],
        folder=None if folder is None else Path(folder),
    )


@dataclass
class _Observer:
    """Passes on what happens, and shows progress."""

    callback: Callback | None
    step_callback: Callback | None
    progress: bool
    history: list[Metrics] = field(default_factory=list)
    epochs: int = 0
    images: int = 0
    bar: Any = None

    def started(self, values: Metrics) -> None:
        self.epochs, self.images = values["epochs"], values["images"]
        if self.progress and importlib.util.find_spec("tqdm") is not None:
            from tqdm import tqdm

            self.bar = tqdm(
                total=self.epochs * self.images,
                initial=values["epoch"] * self.images,
                unit="image",
                dynamic_ncols=True,
                # Where lines cannot be redrawn, each update is a line of a log.
                mininterval=0.1 if sys.stderr.isatty() else 10,
            )

    def step(self, values: Metrics) -> bool | None:
        # The last step of an epoch has the number of the next one; the end of its epoch is reported soon.
        if self.bar is not None and values["done"] < self.images:
            epoch = int(values["epoch"])
            self.bar.set_description(f"epoch {epoch + 1}/{self.epochs}", refresh=False)
            self.bar.set_postfix_str(f"loss {values['loss']:.3f}", refresh=False)
            self._advance(epoch * self.images + values["done"])
        return None if self.step_callback is None else self._answer(self.step_callback, values)

    def epoch(self, values: Metrics) -> bool | None:
        self.history.append(values)
        text = f"loss {values['train_loss']:.3f}"
        if "val_accuracy" in values:
            text += f", validation accuracy {100 * values['val_accuracy']:.1f}%"
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)
            self._advance(values["epoch"] * self.images)
        elif self.progress:
            print(f"epoch {values['epoch']}/{self.epochs}: {text}", file=sys.stderr)
        return None if self.callback is None else self._answer(self.callback, values)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def _advance(self, done: int) -> None:
        self.bar.update(done - self.bar.n)

    @staticmethod
    def _answer(callback: Callback, values: Metrics) -> bool | None:
        """Return what the callback does: None continues, as a function without a result should."""
        answer = callback(dict(values))
        return None if answer is None else bool(answer)
