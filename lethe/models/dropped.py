"""What stands in a U-Net where a whole layer was dropped: it has no weights and passes on what it is given."""

from diffusers.models import Transformer2DModel
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn


class DroppedResnet(nn.Module):
    """Called as a ResnetBlock2D: [B, c, h, w] -> its first `channels` channels.

    In an up block these are the hidden state, and what follows are the skip channels.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def forward(self, input_tensor: Tensor, temb: Tensor | None = None) -> Tensor:
        return input_tensor[:, : self.channels]


class DroppedTransformer(nn.Module):
    """Called as a Transformer2DModel: [B, c, h, w] -> the same."""

    def forward(
        self, hidden_states: Tensor, *_inputs: object, return_dict: bool = True, **_more: object
    ) -> tuple[Tensor] | Transformer2DModelOutput:
        return Transformer2DModelOutput(sample=hidden_states) if return_dict else (hidden_states,)


def in_place_of(module: nn.Module, path: str) -> nn.Module:
    """The stand-in of the layer at `path`. Raises ValueError for one that has to stay: it changes the trunk's width."""
    if isinstance(module, Transformer2DModel):
        return DroppedTransformer()
    if not isinstance(module, ResnetBlock2D):
        raise ValueError(f"{path}: a {type(module).__name__} cannot be dropped")
    up, first = path.startswith("up_blocks."), path.endswith(".resnets.0")
    if first if up else module.in_channels != module.out_channels:
        raise ValueError(f"{path}: leads from {module.in_channels} to {module.out_channels} channels: it has to stay")
    return DroppedResnet(module.out_channels)
