"""Train GoogLeNet (Inception v1) with its three heads on any GPU that has a driver, or on the CPU.

    import incept

    classifier = incept.Classifier.load("imagenet")
    print(classifier.classify("cat.jpg"))

    run = incept.train("photos", recipe="finetune", output="photos.safetensors")
    run.classifier.classify(["cat.jpg", "holiday/"])

The same program as the command ``incept``, which this package installs too.
"""

from incept._classifier import Classification, Classifier, ClassProbability
from incept._errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DeviceError,
    DivergedError,
    FileError,
    InceptError,
    MissingFileError,
)
from incept._explain import GradientFlow, GradientTable, explain
from incept._incept import __version__
from incept._train import Training, devices, train

__all__ = [
    "CheckpointError",
    "ClassProbability",
    "Classification",
    "Classifier",
    "ConfigError",
    "DataError",
    "DeviceError",
    "DivergedError",
    "FileError",
    "GradientFlow",
    "GradientTable",
    "InceptError",
    "MissingFileError",
    "Training",
    "__version__",
    "devices",
    "explain",
    "train",
]
