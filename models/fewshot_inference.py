"""The few-shot CNN as it answers once a task is learned: the numbers of the norm stand, one image at a time.

    h_l = (relu(conv_l(h_{l-1})) - mean_l) rstd_l,   f = max over positions of h_4,   logits = f W

mean_l and rstd_l = (var_l + eps)^-1/2 are those of the task's support set, W the read-out that it learned. It is a
plain module of convolutions, ``nn.ReLU`` and a linear layer, as tools that walk through modules expect; the maximum and
the norm stay functions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ovonic.models.errors import ConfigError
from ovonic.models.fewshot_cnn import FewshotCNN

__all__ = ["LearnedTask"]


class LearnedTask(nn.Module):
    """A network that has learned one task.

    Attributes: ``convs``, ``activations`` (one ``nn.ReLU`` a convolution), ``readout``; buffers ``mean`` and ``rstd``,
        [blocks, channels], the numbers of the norm.

    Args:
        net: the network; support: the task's examples, [S, 1, 28, 28]; readout: learned weights, [n_way, channels].
        kernels: in place of the network's (rounded ones).
        dtype: of the module.
    Raises: ConfigError: a norm whose numbers are not the support set's: an answer then depends on the other queries.
    """

    def __init__(
        self,
        net: FewshotCNN,
        support: Tensor,
        readout: Tensor,
        kernels: Sequence[Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if net.config.norm != "support":
            raise ConfigError(f"norm {net.config.norm!r}: an image's answer depends on the others; choose support")
        self.convs, self.activations = nn.ModuleList(), nn.ModuleList()
        means, rstds, h = [], [], support.to(dtype)
        with torch.no_grad():
            for kernel in kernels or net.conv_weights():
                out, n_in, *window = kernel.shape
                conv = nn.Conv2d(n_in, out, (window[0], window[1]), stride=2, padding=1, bias=False, device="meta")
                conv.weight = nn.Parameter(kernel.detach().to(dtype, copy=True), requires_grad=False)
                self.convs.append(conv)
                self.activations.append(nn.ReLU())
                r = torch.relu(conv(h))
                var, mean = torch.var_mean(r, dim=(0, 2, 3), correction=0)
                means.append(mean)
                rstds.append(torch.rsqrt(var + net.config.norm_eps))
                h = (r - mean.view(-1, 1, 1)) * rstds[-1].view(-1, 1, 1)
        self.register_buffer("mean", torch.stack(means))
        self.register_buffer("rstd", torch.stack(rstds))
        n_way, channels = readout.shape
        self.readout = nn.Linear(channels, n_way, bias=False, device="meta")
        self.readout.weight = nn.Parameter(readout.detach().to(dtype, copy=True), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 1, 28, 28] -> logits [B, n_way]."""
        h = images
        mean, rstd = self.get_buffer("mean"), self.get_buffer("rstd")
        for block, (conv, relu) in enumerate(zip(self.convs, self.activations, strict=True)):
            h = (relu(conv(h)) - mean[block].view(-1, 1, 1)) * rstd[block].view(-1, 1, 1)
        logits: Tensor = self.readout(h.amax(dim=(2, 3)))
        return logits
