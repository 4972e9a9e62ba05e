"""One torch thread, for folders of many small tests; their conftest.py takes this fixture over."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Many small calls: threads that wait for each other would take most of the time on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
