"""What autocast makes of a layer: torch lowers some calls whole, of others each operation."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

__all__ = ["lowered_dtype"]


def lowered_dtype(
    devices: Collection[str], tensors: Sequence[Tensor], *, plain: bool
) -> torch.dtype | None:
    """Return the dtype that autocast lowers a whole call to, or None where it does not.

    Args:
        devices: where torch lowers calls of this module.
        tensors: the input, a parameter, the initial states.
        plain: whether the call is neither packed nor projected.
    """
    x = tensors[0]
    device = x.device.type
    if device not in devices or not torch.is_autocast_enabled(device):
        return None
    if device == "cpu" and not (plain and _onednn_takes(x)):
        return None
    if any(t.dtype is torch.float64 for t in tensors if isinstance(t, Tensor)):
        return None  # what is no tensor is refused elsewhere
    return torch.get_autocast_dtype(device)


def _onednn_takes(x: Tensor) -> bool:
    """Whether torch leaves an LSTM over this input to oneDNN, whose calls autocast lowers whole."""
    mkldnn = torch.backends.mkldnn
    if not (mkldnn.is_available() and mkldnn.enabled) or x.numel() == 0:
        return False
    if x.dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if x.dtype is torch.float16:
        return not torch.is_grad_enabled() and bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return x.dtype is torch.float32
