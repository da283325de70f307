"""What a prepared call points to lives as long as the call."""

import gc
import weakref

import pytest
import torch
from tests.tolerance import assert_close

import cellwright.nn as nn
from cellwright.cpu.call.walks import dense


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


def test_parameters_changed_before_the_backward_pass_are_refused():
    """As by torch: a kernel would read beyond what is left of them."""
    module = nn.GRU(3, 5)
    out, _ = module(torch.randn(4, 2, 3))
    module.half()
    with pytest.raises(RuntimeError, match="changed since"):
        out.sum().backward()


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU])
def test_a_hook_may_lay_out_saved_tensors_anew(cell, spread):
    module = cell(3, 5)
    expected, found = [], []
    for gradients, pack in ((expected, lambda t: t), (found, lambda t: t.detach().contiguous())):
        torch.manual_seed(3)
        x = torch.randn(2, 6, 6)[..., ::2] if spread else torch.randn(2, 6, 3)
        x = x.transpose(0, 1)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            out, _ = module(x)
        gradients.extend(torch.autograd.grad(out.square().sum(), list(module.parameters())))
    for left, right in zip(found, expected, strict=True):
        assert_close(left, right)


def test_cotangents_without_memory_are_zeros():
    module, x = nn.GRU(3, 5), torch.randn(4, 2, 3, requires_grad=True)
    out, _ = module(x)
    (gradient,) = torch.autograd.grad(out, [x], torch._efficientzerotensor(out.shape))
    assert torch.equal(gradient, torch.zeros_like(x))


def test_the_default_device_does_not_matter():
    module, x = nn.GRU(23, 29), torch.randn(4, 2, 23)
    with torch.device("meta"), torch.no_grad():
        found, _ = module(x)
    assert_close(found, module.double()(x.double())[0])
