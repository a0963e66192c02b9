"""Which of a U-Net's weights an eraser trains."""

from collections.abc import Callable

from torch import nn

from lethe.files.errors import UserError

# Of a parameter: its path, and whether it is of a linear or convolutional layer. Names after ESD (arXiv 2303.07345):
# those of the current release, where esd- goes before them, and those of the code of 2023 (noxattn, notime, full).
VARIANTS: dict[str, Callable[[str, bool], bool]] = {
    "x": lambda path, _: _cross(path),
    "x-strict": lambda path, _: _cross(path) and (".to_k." in path or ".to_v." in path),
    "u": lambda path, layer: layer and not _cross(path),
    "all": lambda path, layer: layer,
    "noxattn": lambda path, _: not _cross(path) and not _ends(path),
    "notime": lambda path, _: not _ends(path),
    "full": lambda path, _: True,
}


def select(unet: nn.Module, variant: str, where: str) -> list[nn.Parameter]:
    """Lets gradients flow to the variant's parameters alone, and returns them, in the order of the net.

    x: cross-attention, x-strict: its keys and values. Of linear and convolutional layers alone, so without norms:
    u: all but cross-attention, all: everything. Norms too: noxattn: all but cross-attention, the embedding of time and
    what follows the last block; notime: all but the latter two; full: everything.
    Layers are found by name, so dropped blocks are no matter. Raises UserError, naming the eraser `where`, for a
    variant that selects nothing.
    """
    layers = {
        id(parameter)
        for module in unet.modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        for parameter in module.parameters(recurse=False)
    }
    chosen = []
    for path, parameter in unet.named_parameters():
        parameter.requires_grad_(VARIANTS[variant](path, id(parameter) in layers))
        if parameter.requires_grad:
            chosen.append(parameter)
    if not chosen:
        raise UserError(
            f"{where}.variant: {variant!r} selects no parameter of this U-Net (it has no cross-attention); take full"
        )
    return chosen


def _cross(path: str) -> bool:
    return "attn2" in path.split(".")


def _ends(path: str) -> bool:
    return path.split(".")[0] in ("time_embedding", "conv_norm_out", "conv_out")
