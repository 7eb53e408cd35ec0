"""The list of deliberate faults (tests/faults) fits the code that there is. ``python tests/faults`` tries them out."""

from pathlib import Path

import pytest
from faults.faults import FAULTS, Fault

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_is_one_edit(fault: Fault):
    assert fault.before != fault.after
    assert (ROOT / fault.path).read_text(encoding="utf-8").count(fault.before) == 1
    assert fault.tests
    for test in fault.tests:
        assert (ROOT / test).is_file()


def test_names_are_unique():
    assert len({str(fault) for fault in FAULTS}) == len(FAULTS)
