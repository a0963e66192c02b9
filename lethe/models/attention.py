"""Cross-attention maps of a U-Net, with their graphs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from lethe.files.errors import UserError


def cross_attentions(unet: nn.Module) -> list[Attention]:
    """The cross-attention layers that are there, by name: blocks may be missing or have other widths.

    Raises UserError if there is none.
    """
    found = [
        module for name, module in unet.named_modules() if name.endswith("attn2") and isinstance(module, Attention)
    ]
    if not found:
        raise UserError("this U-Net has no cross-attention (attn2), so its attention cannot be trained")
    return found


@contextmanager
def recorded(unet: nn.Module) -> Iterator[list[Tensor]]:
    """Within, each forward appends the probabilities of each attn2, [B, heads, queries, tokens], in order of use.

    They have graphs if gradients are on, and are computed once: the layers answer from them. Only inside the context;
    then the layers have their own processors again.
    """
    found: list[Tensor] = []
    own = [(module, module.processor) for module in cross_attentions(unet)]
    for module, _ in own:
        module.set_processor(_Recording(found))
    try:
        yield found
    finally:
        for module, processor in own:
            module.set_processor(processor)


class _Recording:
    """softmax(Q K^T / sqrt(d)) V as the library's own processors compute it, with the softmax kept."""

    def __init__(self, found: list[Tensor]):
        self.found = found

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """hidden_states [B, Q, C], encoder_hidden_states [B, L, D] -> [B, Q, C]. `temb` is not for transformers."""
        residual = hidden_states
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if attn.norm_cross:
            text = attn.norm_encoder_hidden_states(text)
        attention_mask = attn.prepare_attention_mask(attention_mask, text.shape[1], len(text))
        query, key, value = (
            attn.head_to_batch_dim(part) for part in (attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text))
        )
        probabilities = attn.get_attention_scores(query, key, attention_mask)
        self.found.append(probabilities.unflatten(0, (len(text), attn.heads)))
        answer = attn.batch_to_head_dim(torch.bmm(probabilities, value))
        for layer in attn.to_out:
            answer = layer(answer)
        return (answer + residual if attn.residual_connection else answer) / attn.rescale_output_factor
