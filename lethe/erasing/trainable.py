"""Which of a U-Net's weights an eraser trains."""

from torch import nn

from lethe.files.errors import UserError


def select(unet: nn.Module, variant: str, where: str) -> list[nn.Parameter]:
    """Lets gradients flow to the variant's parameters alone, and returns them.

    x: cross-attention, u: all but it, x-strict: its keys and values, full: everything (names after ESD, arXiv
    2303.07345). Layers are found by name, so dropped blocks are no matter. Raises UserError, naming the eraser
    `where`, for a variant that selects nothing.
    """
    chosen = []
    for name, parameter in unet.named_parameters():
        words = name.split(".")
        cross = "attn2" in words
        keys = cross and ("to_k" in words or "to_v" in words)
        parameter.requires_grad_({"x": cross, "u": not cross, "x-strict": keys, "full": True}[variant])
        if parameter.requires_grad:
            chosen.append(parameter)
    if not chosen:
        raise UserError(
            f"{where}.variant: {variant!r} selects no parameter of this U-Net (it has no cross-attention); take full"
        )
    return chosen
