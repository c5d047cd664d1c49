from __future__ import annotations

import incept
import numpy as np
import pytest
from conftest import stripes


def test_shares_of_the_gradient_add_up() -> None:
    flow = incept.explain("digits", width=0.0625, image_size=32, batch_size=16, device="cpu")
    assert flow["heads"] == ["main", "aux1", "aux2"]
    np.testing.assert_allclose(flow["weights"], [1, 0.3, 0.3])
    layers = flow["layers"]
    rows = len(layers["name"])
    for name in ("norm", "weighted", "share"):
        assert layers[name].shape == (rows, 3)
    np.testing.assert_allclose(layers["share"].sum(axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(layers["weighted"], layers["norm"] * flow["weights"], rtol=1e-6)
    assert layers["depth"].max() == 22
    assert flow["parts"]["name"][0] == "conv1"
    total = np.sqrt((layers["norm"] ** 2).sum(axis=0))
    np.testing.assert_allclose(total, flow["norms"], rtol=1e-6)


def test_trained_networks_and_images_in_memory() -> None:
    images, labels = stripes(32)
    options = {"width": 0.0625, "image_size": 32, "batch_size": 8, "device": "cpu"}
    run = incept.train(images, labels, epochs=1, progress=False, **options)
    flow = incept.explain(images, labels, weights=run.classifier, batch_size=8)
    again = incept.explain(images, labels, weights=run.classifier, batch_size=8)
    np.testing.assert_array_equal(flow["layers"]["norm"], again["layers"]["norm"])
    fresh = incept.explain(images, labels, **options)
    assert not np.array_equal(fresh["losses"], flow["losses"])


def test_wrong_options_are_refused() -> None:
    images, labels = stripes(8)
    with pytest.raises(incept.ConfigError, match="come with the weights"):
        incept.explain(images, labels, weights="included", width=0.5, device="cpu")
    with pytest.raises(incept.ConfigError, match="batch_size must be"):
        incept.explain("digits", batch_size=0, device="cpu")
    with pytest.raises(incept.ConfigError, match="labels is for images in memory"):
        incept.explain("digits", labels)
    with pytest.raises(incept.InceptError, match="classes"):
        incept.explain("digits", weights="included", device="cpu")
