"""The gray stem: a network made for RGB images takes one gray channel instead, exactly.

A gray image g in [0, 1] reaches an RGB network as three copies, each normalised by its own mean and
deviation. Here it is normalised once, x = (g - mean) / std, so copy c is a linear function of x:

    (g - mean_c) / std_c  =  a_c * x + b_c,   a_c = std / std_c,   b_c = (mean - mean_c) / std_c

A convolution is linear too, so it can act on x with the weights sum_c a_c W_c and on a plane of
ones with the weights sum_c b_c W_c. The plane of ones is needed because zero padding pads the
*normalised* copies: b_c cannot become a bias without spoiling the border. Where all channels share
mean and deviation every b_c is 0, and a stem of one channel is exact.

A network may keep its RGB stem all the same. It then gets the copies, made of x by that formula.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from xraycomp.model.body import BodyParts

Channels = tuple[float, float, float]
NO_PARTS = BodyParts()
Activation = Literal["softmax", "sigmoid"]


class GrayModel(nn.Module):
    """A classifier of gray images: float (batch, 1, height, width) to logits (batch, num_classes).

    The input is a gray image in [0, 1] normalised as ``(image - mean) / std``.

    Attributes
    ----------
    body : the torchvision or timm network, with its stem folded to one or two channels, or as it is
    arch : the name that `create_model` built it from
    mean, std : the two scalars, kept in checkpoints beside the state dict
    planes : 1 if the stem reads the image alone, 2 if it also reads a plane of ones, 3 if it reads
        RGB
    rgb : of a network with RGB stem the mean and deviation of each channel, kept in its checkpoints
        in place of the scalars, which follow from them
    parts : where in the body the last feature map and the codes are
    classes : what the logits mean, in index order; () where nobody has said it
    activation : what makes probabilities of the logits; all that depends on the kind of labels asks
        for it here
    """

    classes: tuple[str, ...] = ()
    activation: Activation = "softmax"
    factors: Tensor | None
    summands: Tensor | None

    def __init__(
        self,
        body: nn.Module,
        arch: str,
        mean: float,
        std: float,
        planes: int,
        parts: BodyParts = NO_PARTS,
        rgb: tuple[Channels, Channels] | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.arch = arch
        self.mean = mean
        self.std = std
        self.planes = planes
        self.parts = parts
        self.rgb = rgb
        factors, summands = _copies(*rgb) if rgb else (None, None)
        self.register_buffer("factors", factors, persistent=False)
        self.register_buffer("summands", summands, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        # The ones are added here and not at the convolution: whatever pads or resizes the image on
        # its way there (Swin, CrossViT) treats them as it would have treated the RGB copies.
        if self.planes == 2:
            images = torch.cat((images, torch.ones_like(images)), dim=1)
        elif self.factors is not None and self.summands is not None:
            images = images * self.factors + self.summands
        logits: Tensor = self.body(images)
        return logits

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities in float64 for logits, both of shape (batch, num_classes)."""
        logits = logits.double()
        return logits.sigmoid() if self.activation == "sigmoid" else logits.softmax(dim=1)


def gray_mix(mean: Channels, std: Channels) -> tuple[float, float, Tensor]:
    """The scalars that replace a mean and std per channel, and how the RGB copies follow from them.

    Returns
    -------
    mean, std : the averages over the channels, for ``x = (gray - mean) / std``
    mix : float64 tensor of shape (1, 3) if the channels agree, else (2, 3): the rows a and b of the
        module's formula
    """
    means, stds = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
    if len(set(mean)) == len(set(std)) == 1:
        return mean[0], std[0], torch.ones(1, 3, dtype=torch.float64)
    gray_mean, gray_std = means.mean(), stds.mean()
    mix = torch.stack((gray_std / stds, (gray_mean - means) / stds))
    return gray_mean.item(), gray_std.item(), mix


def _copies(mean: Channels, std: Channels) -> tuple[Tensor, Tensor]:
    """a and b of the module's formula, both float32 of shape (3, 1, 1)."""
    *_, mix = gray_mix(mean, std)
    factors, summands = (mix if len(mix) == 2 else torch.stack((mix[0], 0 * mix[0]))).float()
    return factors[:, None, None], summands[:, None, None]


def stem_convs(body: nn.Module) -> dict[str, nn.Conv2d]:
    """The convolutions that read RGB, by name: a network may have several (RepVGG, CrossViT)."""
    return {
        name: module
        for name, module in body.named_modules()
        if isinstance(module, nn.Conv2d) and module.in_channels == 3
    }


@torch.no_grad()
def fold_stem(body: nn.Module, mix: Tensor) -> bool:
    """Let the convolutions that read RGB read the planes that ``mix`` makes RGB from, in place.

    The convolutions stay what they are (class, padding, bias, state dict key); only their weight
    and ``in_channels`` change.

    Parameters
    ----------
    body : a network with RGB stem
    mix : tensor of shape (planes, 3) with ``rgb[c] = sum_p mix[p, c] * planes[p]``

    Returns
    -------
    True if the new stem was seen to equal the old one on a small image. False for convolutions
    that are not linear in their weight (timm's weight-standardised ones).
    """
    exact = True
    for conv in stem_convs(body).values():
        size = 2 * max(conv.kernel_size) + 1
        gray = torch.linspace(0, 40, size * size).sin().view(1, 1, size, size)
        planes = torch.cat((gray, torch.ones_like(gray)), dim=1)[:, : len(mix)]
        before = conv(torch.einsum("pc,bphw->bchw", mix.float(), planes))
        weight = torch.einsum("pc,ochw->ophw", mix.double(), conv.weight.double())
        conv.weight = nn.Parameter(weight.to(conv.weight.dtype))
        conv.in_channels = len(mix)
        difference = (conv(planes) - before).abs().max()
        exact &= bool(difference <= 1e-4 * before.abs().max())
    return exact
