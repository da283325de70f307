import pytest
import torch


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(20)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    # test processes side by side would wait for each other's threads
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
