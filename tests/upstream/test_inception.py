"""Features of torchvision's Inception-v3 from a file of its weights."""

import pytest
import torch

from gan_regularizers.spider.features import feature_space

pytestmark = pytest.mark.upstream


def test_weights_of_torchvisions_inception_give_its_pooled_features(tmp_path):
    models = pytest.importorskip("torchvision.models", reason="needs torchvision")
    torch.manual_seed(0)
    network = models.inception_v3(weights=None, init_weights=False).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    space = feature_space(str(tmp_path / "weights.pth"))
    assert (space.name, space.side) == ("inception-torchvision", 299)
    images = torch.rand(2, 3, 299, 299) * 2 - 1
    pooled = []
    network.avgpool.register_forward_hook(lambda _, __, output: pooled.append(output.flatten(1)))
    # With transform_input, torchvision takes images normalised for its other networks, and undoes that.
    network.transform_input = True
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        network(((images + 1) / 2 - mean) / std)
    features = space.extract(images)
    assert features.shape == (2, 2048)
    torch.testing.assert_close(features, pooled[0], rtol=1e-3, atol=1e-4)
