"""The choice of the backend: by code, by the environment, and what happens where there are no kernels."""

import pytest

from gan_regularizers import use_backend
from gan_regularizers.ops import backend


def test_backends():
    with use_backend("reference"):
        assert backend() == ("reference", "chosen by use_backend")
        with use_backend("auto"):
            assert backend()[0] in ("reference", "native")
        assert backend()[1] == "chosen by use_backend"
    with (
        pytest.raises(ValueError, match="'cuda' is no backend; choose 'auto', 'reference' or 'native'"),
        use_backend("cuda"),
    ):
        pass
    assert backend()[1] != "chosen by use_backend"
