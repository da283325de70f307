"""What a prepared call points to lives as long as the call."""

import gc
import weakref

import torch

import cellwright.nn as nn
from cellwright.cpu.walks import dense


def test_prepared_calls_keep_the_bounds_that_they_point_to():
    layer, x = nn.LSTM(3, 7), torch.randn(11, 5, 3)

    def gradients():
        return torch.autograd.grad(layer(x)[0].square().sum(), list(layer.parameters()))

    dense.cache_clear()
    with torch.no_grad():
        layer(x)
    first = gradients()
    bounds = weakref.ref(dense(11, 5).bounds(1))
    dense.cache_clear()
    gc.collect()
    assert bounds() is not None
    assert all(a.equal(b) for a, b in zip(first, gradients(), strict=True))
