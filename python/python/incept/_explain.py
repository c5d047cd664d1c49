"""What the auxiliary heads contribute to the gradients of the lower layers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypedDict, cast

from incept import _incept
from incept._classifier import Classifier
from incept._errors import ConfigError
from incept._images import is_path, labelled
from incept._train import configuration
from incept._wayland import quiet_wayland

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from incept._images import Images
    from incept._train import Labels


class GradientTable(TypedDict, total=False):
    """Gradients per layer, or per part of the network, from the input up."""

    #: Names of the layers or parts.
    name: list[str]
    #: The part of each layer: conv1, conv2, 3a to 5b, or a head.
    part: list[str]
    #: Layers with weights on the longest path from the images; 22 for the main classifier.
    depth: NDArray[np.int64]
    #: Number of parameters.
    parameters: NDArray[np.int64]
    #: Norm of a layer's parameters.
    weight_norm: NDArray[np.float64]
    #: Norm of the gradient of the weighted sum of the losses.
    sum: NDArray[np.float64]
    #: Norm of each loss's gradient, without its weight: rows x heads.
    norm: NDArray[np.float64]
    #: The same with the loss's weight.
    weighted: NDArray[np.float64]
    #: Share of the summed gradient: the projection of the loss's weighted gradient on the sum. The
    #: shares of a row add up to 1.
    share: NDArray[np.float64]


class GradientFlow(TypedDict):
    """The gradient of each head's loss, for one batch."""

    #: ``main``, ``aux1``, ``aux2``: the columns of the arrays.
    heads: list[str]
    #: Weight of each head's loss in the sum.
    weights: NDArray[np.float32]
    #: Mean cross-entropy of the batch at each head.
    losses: NDArray[np.float32]
    #: Norm of each loss's gradient with respect to all parameters, without its weight.
    norms: NDArray[np.float64]
    #: By layer.
    layers: GradientTable
    #: By part of the network.
    parts: GradientTable


def explain(
    data: str | os.PathLike[str] | Images | None = None,
    labels: Labels | None = None,
    *,
    classes: Sequence[str] | None = None,
    weights: Classifier | str | os.PathLike[str] | None = None,
    batch_size: int | None = None,
    seed: int = 1,
    device: str = "auto",
    threads: int | None = None,
    variant: Literal["paper", "torchvision"] | None = None,
    width: float | None = None,
    image_size: int | None = None,
    aux_weight: float | None = None,
    dropout: float | None = None,
    aux_dropout: float | None = None,
    label_smoothing: float | None = None,
    init: Literal["xavier", "glorot", "he"] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    fit: Literal["crop", "squash", "pad"] | None = None,
) -> GradientFlow:
    """Measure the gradient of each head's loss at each layer, as ``incept explain`` does.

    One batch is run forward and backward, with the same dropout, from the loss of each head and from
    their weighted sum. Nothing is trained.

    data, labels, classes: as in :func:`incept.train` [default: digits, or what the weights were
        trained on].
    weights: a :class:`Classifier` (on its device), or weights as :meth:`Classifier.load` takes them
        [default: a freshly initialized network of a quarter of the width].
    batch_size: number of images [default: 128].
    seed: of initialization, shuffling and dropout.
    """
    options = dict(locals())
    path = os.fspath(data) if is_path(data) else None  # type: ignore[arg-type]
    memory = None
    if data is None or path is not None:
        for keyword in ("labels", "classes"):
            if options[keyword] is not None:
                raise ConfigError(f"{keyword} is for images in memory, and the data set is a path")
    else:
        if classes is None and isinstance(weights, Classifier):
            classes = weights.classes
        names, images, numbers = labelled(data, labels, classes)
        memory = (names, (images, numbers), None)
    # These are arguments of their own, not options of a network.
    for keyword in ("weights", "batch_size", "seed"):
        del options[keyword]
    if weights is not None and not isinstance(weights, Classifier):
        weights = Classifier.load(weights, device=device, threads=threads, precision="f32")
    network = None if weights is None else weights._network
    config = configuration(options, path)
    with quiet_wayland():
        flow = _incept.gradient_flow(config, memory, network, batch_size, seed, device, threads)
    return cast("GradientFlow", flow)
