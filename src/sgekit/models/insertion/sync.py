"""BatchNorm in step between processes, in networks that carry attention."""

from typing import Any

from timm.layers.norm_act import convert_sync_batchnorm
from torch import nn

from sgekit.models.insertion.host import carry_over, is_host


def synchronize_norms(model: nn.Module, process_group: Any = None) -> nn.Module:
    """Exchange every BatchNorm for a SyncBatchNorm; returns the network, changed in place.

    torch's own conversion makes new norms of its own and so leaves out the attention that
    `insert` has put behind the old ones, and the activation that timm's norms hold. Here
    both stay. Only where the network itself is one norm another module is returned.
    """
    hosts = {name: module for name, module in model.named_modules() if is_host(module)}
    converted: nn.Module = convert_sync_batchnorm(model, process_group)  # type: ignore[no-untyped-call]
    now = dict(converted.named_modules())
    for name, host in hosts.items():
        if now[name] is not host:
            carry_over(host, now[name])
    return converted
