import pytest
import torch

from cellwright import autograd
from cellwright.graph.interpret import interpret_layer


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


ENGINES = [
    ("kernel", torch.float32),
    ("kernel", torch.float64),
    ("interpreter", torch.float64),
]


@pytest.fixture(params=ENGINES, ids=["float32", "float64", "interpreter"])
def dtype(request, monkeypatch):
    """The dtype of a test; in float64 it runs twice: as a user would, and on the interpreter."""
    engine, dtype = request.param
    if engine == "interpreter":
        monkeypatch.setattr(autograd, "run_layer", interpret_layer)
    return dtype
