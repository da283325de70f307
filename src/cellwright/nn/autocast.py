"""What autocast makes of a layer: torch lowers some calls whole, of others each operation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cellwright.nn.recurrent import Recurrent

__all__ = ["lowered_dtype"]


def lowered_dtype(
    module: Recurrent, x: Tensor, states: Sequence[Tensor], *, packed: bool
) -> torch.dtype | None:
    """Return the dtype that autocast lowers a whole call to, or None where it does not."""
    device = x.device.type
    if device not in module._lowered_on or not torch.is_autocast_enabled(device):
        return None
    if device == "cpu" and (packed or module.proj_size or not _onednn_takes(x)):
        return None
    if any(t.dtype is torch.float64 for t in (x, module._first_weight(x), *states)):
        return None
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
