"""What a forward used, for the one that runs again: by the generator's state and the device, the latest ones."""

import copy

import pytest
import torch

from gan_regularizers.state import recomputation
from gan_regularizers.state.recomputation import Remembered

CPU, OTHER = torch.device("cpu"), torch.device("mps")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def again(monkeypatch):
    """Inside of a backward pass from when it is called."""
    return lambda: monkeypatch.setattr(recomputation, "runs_again", lambda: True)


def test_a_value_is_found_by_the_state_of_its_generator(again):
    remembered = Remembered()
    for seed in (1, 2):
        assert remembered(seed, CPU, generator(seed)) == seed
    torch.manual_seed(3)
    assert remembered("of torch", CPU) == "of torch"
    again()
    assert [remembered(None, CPU, generator(seed)) for seed in (2, 1, 4)] == [2, 1, None]
    torch.manual_seed(3)
    assert remembered(None, CPU) == "of torch"


def test_a_value_is_found_by_its_words(again):
    remembered = Remembered()
    words = [torch.randint(-(2**63), 2**63 - 1, (3, 2)) for _ in range(2)]
    for value in words:
        assert remembered(value, CPU, words=value) is value
    again()
    assert all(remembered(None, CPU, generator(1), value.clone()) is value for value in words)
    assert remembered(None, CPU, words=words[0] + 1) is None


def test_a_longer_draw_of_the_same_generator_is_another(again):
    """It begins with the same words. Only some of many are read."""
    remembered = Remembered()
    words = torch.randint(-(2**63), 2**63 - 1, (2, 500))
    for count in (100, 500):
        remembered(count, CPU, words=words[:, :count].clone())
    again()
    assert [remembered(None, CPU, words=words[:, :count].clone()) for count in (100, 500, 99)] == [100, 500, None]


def test_generators_of_two_devices_may_be_seeded_alike(again):
    remembered = Remembered()
    remembered("here", CPU, generator(1))
    remembered("there", OTHER, generator(1))
    again()
    assert remembered(None, CPU, generator(1)) == "here"
    assert remembered(None, OTHER, generator(1)) == "there"


def test_the_latest_forwards_are_kept(again, monkeypatch):
    monkeypatch.setattr(recomputation, "_KEPT", 2)
    remembered = Remembered()
    for seed, value in ((1, "a"), (2, "b"), (1, "c"), (3, "d")):
        remembered(value, CPU, generator(seed))
    again()
    assert [remembered(None, CPU, generator(seed)) for seed in (1, 2, 3)] == ["c", None, "d"]


def test_a_copy_begins_with_none(again):
    remembered = Remembered()
    remembered("a", CPU, generator(1))
    copied = copy.deepcopy(remembered)
    again()
    assert copied(None, CPU, generator(1)) is None
