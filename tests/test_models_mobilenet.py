"""MobileNetV2 against torchvision's own, its sizes for small images, and through a run."""

import pytest
import torch
from torch import nn

from brsweep.errors import BrsweepError
from brsweep.models.mobilenet import mobilenet_v2
from brsweep.torchvision_import import import_torchvision


def sizes(network: nn.Module, images: torch.Tensor) -> list[int]:
    """Height of what each of `features` gives."""
    heights = []
    for part in network.features:
        images = part(images)
        heights.append(images.shape[-1])
    return heights


def test_the_large_stem_is_torchvisions_network():
    torch.manual_seed(3)
    theirs = import_torchvision().models.mobilenet_v2(num_classes=10).eval()
    ours = mobilenet_v2(10, stem="large").eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(ours(images), theirs(images))


def test_small_images_are_shrunk_by_8_and_the_large_stem_shrinks_by_32():
    with torch.no_grad():
        assert sizes(mobilenet_v2(10).eval(), torch.randn(1, 3, 32, 32))[-1] == 4
        assert sizes(mobilenet_v2(10, stem="large").eval(), torch.randn(1, 3, 64, 64))[-1] == 2


def test_the_width_multiplies_channels_in_multiples_of_8():
    half = mobilenet_v2(10, in_channels=1, width=0.5)
    assert half.features[0][0].weight.shape == (16, 1, 3, 3)
    assert [block.out_channels for block in half.features[1:-1]] == [
        8, 16, 16, 16, 16, 16, 32, 32, 32, 32, 48, 48, 48, 80, 80, 80, 160,
    ]  # fmt: skip
    assert half.classifier[1].in_features == 1280
    assert sum(p.numel() for p in mobilenet_v2(10).parameters()) == 2_236_682


@pytest.mark.parametrize(
    ("options", "said"), [({"stem": "tiny"}, "model.stem='tiny'"), ({"width": 0}, "model.width=0")]
)
def test_what_it_does_not_know_is_an_error(options, said):
    with pytest.raises(BrsweepError, match=said):
        mobilenet_v2(10, **options)
