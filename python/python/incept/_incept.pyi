"""The native module. Use what the package exports instead."""

import os
from typing import Any, Protocol, final

import numpy as np
from numpy.typing import NDArray

__version__: str

_Item = str | NDArray[np.uint8]
_Labelled = tuple[list[_Item], list[int]]
_Memory = tuple[list[str], _Labelled, _Labelled | None]

class _Observer(Protocol):
    def started(self, values: dict[str, Any], /) -> None: ...
    def step(self, values: dict[str, Any], /) -> bool | None: ...
    def epoch(self, values: dict[str, Any], /) -> bool | None: ...

@final
class Network:
    def description(self) -> str: ...
    def device_name(self) -> str: ...
    def parameters(self) -> int: ...
    def probabilities(self, images: list[_Item], batch: int) -> NDArray[np.float32]: ...
    def save(self, path: str | os.PathLike[str]) -> None: ...

def run(arguments: list[str]) -> int: ...
def devices() -> str: ...
def image_files(path: str | os.PathLike[str]) -> list[os.PathLike[str]]: ...
def load(
    path: str | os.PathLike[str], device: str | None, threads: int | None, precision: str
) -> Network: ...
def train(
    config: str,
    recipe: str | None,
    data: _Memory | None,
    resume: str | os.PathLike[str] | None,
    device: str | None,
    threads: int | None,
    observer: _Observer,
    every_step: bool,
) -> tuple[Network, str, tuple[int, float] | None, os.PathLike[str] | None]: ...
def gradient_flow(
    config: str,
    data: _Memory | None,
    network: Network | None,
    batch: int | None,
    seed: int,
    device: str | None,
    threads: int | None,
) -> dict[str, Any]: ...
