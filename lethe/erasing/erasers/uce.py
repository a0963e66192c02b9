"""UCE: Unified Concept Editing (Gandikota et al. 2024, arXiv 2308.14761 eq. 7), in closed form.

Every key and value matrix W of cross-attention becomes the minimum over W' of

    lamb |W' - W|^2 + scale_erase sum_i |W' k_i - v_i|^2 + scale_preserve sum_j |W' p_j - W p_j|^2

over text states k of the concepts, their new values v = W g (g: states of the anchor), and states p of what must stay:

    W' = (lamb W + scale_erase sum v k^T + scale_preserve W sum p p^T)
         (lamb I + scale_erase sum k k^T + scale_preserve sum p p^T)^-1

The right factor is the same for all matrices: it is summed and factored once, in float64.

With `debias`, a concept is not erased: its new value W (k + sum_a c_a a) mixes in attributes a, whose weights c follow
from pictures, round by round (see lethe.erasing.debias).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from lethe.erasing import debias, states
from lethe.erasing.erased import Erased
from lethe.erasing.wanda import linears
from lethe.files.errors import UserError
from lethe.stage.record import Budget
from lethe.texts.templates import expanded, mentions
from lethe.texts.wording import check_anchors
from lethe.training.loop import Keeping

OPTIONS = {  # as the code of 2023 has it, which the paper compares with
    "preserve": {
        "description": "prompts that must stay (published: 1,734 artists); those that name an erased concept are left "
        "out",
        "$ref": "#/$defs/texts",
    },
    "guide": {
        "description": "what a concept becomes: its anchor, or the empty text",
        "enum": ["anchor", "empty"],
        "default": "anchor",
    },
    "alignment": {
        "description": "tokens of a prompt that count: its last, or the span from there to the end of the text (of one "
        "that must stay: all)",
        "enum": ["last", "span"],
        "default": "span",
    },
    "technique": {
        "description": "new value: replace takes the guide's, tensor that without its part along the old one",
        "enum": ["replace", "tensor"],
        "default": "replace",
    },
    "lamb": {"description": "weight of staying near the old matrix", "$ref": "#/$defs/scale", "default": 0.5},
    "scale_erase": {"description": "weight of the concepts", "$ref": "#/$defs/scale", "default": 1.0},
    "scale_preserve": {
        "description": "weight of each prompt that must stay; null: 1 / their number, at least 0.1",
        "type": ["number", "null"],
        "minimum": 0,
        "default": None,
    },
    "expand": {
        "description": "templates that make more prompts of a concept's name; each becomes the same guide",
        "enum": ["none", "art", "object"],
        "default": "none",
    },
    "debias": {
        "description": "null erases; else pictures of the concepts are to show attributes in given shares",
        "type": ["object", "null"],
        "default": None,
        "additionalProperties": False,
        "required": ["attributes"],
        "properties": {
            "attributes": {
                "description": "prompts that are told apart, such as a man, a woman",
                "$ref": "#/$defs/texts",
                "minItems": 2,
            },
            "desired": {
                "description": "wanted share of each attribute; null: equal ones",
                "type": ["array", "null"],
                "items": {"type": "number", "minimum": 0, "maximum": 1},
                "default": None,
            },
            "rounds": {
                "description": "rounds at most",
                "type": "integer",
                "minimum": 1,
                "maximum": 30,
                "default": 30,
            },
            "images": {"description": "pictures of a concept a round", "$ref": "#/$defs/count", "default": 10},
            "tolerance": {
                "description": "largest allowed difference of a share",
                "$ref": "#/$defs/rate",
                "default": 0.05,
            },
            "step": {
                "description": "how far a round moves an attribute's weight",
                "$ref": "#/$defs/rate",
                "default": 0.1,
            },
            "clip": {"$ref": "#/$defs/clip"},
            "sampler_steps": {"$ref": "#/$defs/picture_steps", "default": 20},
            "guidance": {"$ref": "#/$defs/guidance", "default": 7.5},
        },
    },
}


@torch.no_grad()
def erase(
    unet: nn.Module,
    base: SimpleNamespace,
    concepts: Mapping[str, Mapping],
    options: Mapping,
    seed: int,
    keeping: Keeping | None,
    budget: Budget,
) -> Erased:
    """Edits the cross-attention of `unet`, in place. `seed` matters to debias alone.

    `base` holds tokenizer and text_encoder, for debias also scheduler, vae and latent_shape; all on one device.
    Raises UserError if there is no cross-attention, for an anchor that is the prompt, and if nothing is preserved
    though scale_preserve is not 0, and for debias with the technique tensor.
    """
    mode = options["debias"]
    desired = debias.shares(mode["attributes"], mode["desired"], "uce.debias") if mode else []
    if not mode and options["guide"] == "anchor":
        check_anchors(concepts)
    kept = [text for text in options["preserve"] if not any(mentions(text, own) for own in concepts.values())]
    _check(options, kept)
    matrices = linears(unet, "attn2.to_k") | linears(unet, "attn2.to_v")
    if not matrices:
        raise UserError("uce: this U-Net has no cross-attention (no layer *.attn2.to_k or *.attn2.to_v) to edit")

    weight = options["scale_preserve"]
    weight = max(0.1, 1 / max(1, len(kept))) if weight is None else weight
    stay = weight * states.products(base, kept if weight else [], options["alignment"])
    old = {name: matrix.weight.detach().to(torch.float64, copy=True) for name, matrix in matrices.items()}
    common = {"matrices": len(matrices), "preserved": len(kept), "left_out": len(options["preserve"]) - len(kept)}
    prompts = {name: expanded(concept, options["expand"]) for name, concept in concepts.items()}

    def edit(keys: Tensor, guides: Tensor) -> None:
        scale, lamb = options["scale_erase"], options["lamb"]
        for name, new in solve(old, keys, guides, stay, lamb, scale, options["technique"]):
            matrices[name].weight.copy_(new)

    if mode:
        device = stay.device
        classify = debias.zero_shot(mode["clip"], mode["attributes"], device, "uce.debias")
        observe = debias.observer(unet, base, concepts, classify, mode, seed, budget)
        mixed = states.mixer(base, prompts, mode["attributes"], options["alignment"])
        found = debias.balance(lambda weights: edit(*mixed(weights)), observe, list(concepts), desired, mode)
        return Erased(facts=common | {"change": _change(matrices, old), "debias": found})

    guides = {name: own["anchor"] if options["guide"] == "anchor" else " " for name, own in concepts.items()}
    texts = [(text, guides[name]) for name, own in prompts.items() for text in own]
    edit(*states.aligned(base, texts, options["alignment"]))
    return Erased(facts=common | {"prompts": len(texts), "change": _change(matrices, old)})


def solve(
    old: Mapping[str, Tensor],
    keys: Tensor,
    guides: Tensor,
    stay: Tensor,
    lamb: float,
    scale: float,
    technique: str,
) -> Iterator[tuple[str, Tensor]]:
    """The optimum of every matrix [out, D]; all float64.

    `keys`, `guides` [n, D], `stay` [D, D] = scale_preserve sum p p^T. "tensor" takes from v its projection on the
    unit direction of W k. Raises UserError if lamb is too small for the sums to be told from singular ones.
    """
    right = lamb * torch.eye(len(stay), dtype=stay.dtype, device=stay.device) + scale * keys.T @ keys + stay
    factor, failed = torch.linalg.cholesky_ex(right)
    if failed:
        raise UserError(f"uce.lamb: {lamb} is too small beside the other weights: the equations are singular; raise it")
    for name, matrix in old.items():
        values = guides @ matrix.T
        if technique == "tensor":
            along = nn.functional.normalize(keys @ matrix.T, dim=1)
            values = values - (values * along).sum(1, keepdim=True) * along
        left = scale * (values - keys @ matrix.T).T @ keys  # of W' - W: nothing cancels, and what agrees stays exact
        yield name, matrix + torch.cholesky_solve(left.T, factor).T


def _check(options: Mapping, kept: Sequence[str]) -> None:
    if options["debias"] and options["technique"] == "tensor":
        raise UserError(
            "uce.technique: tensor takes a concept's own values away, and debias is to keep them; set it to replace"
        )
    if options["scale_preserve"] == 0 or kept:
        return
    why = "all of its prompts name an erased concept" if options["preserve"] else "it is empty"
    raise UserError(f"uce.preserve: {why}; list prompts that must stay, or set scale_preserve to 0")


def _change(matrices: Mapping[str, nn.Linear], old: Mapping[str, Tensor]) -> float:
    """|W' - W| / |W| over all edited matrices together (Frobenius)."""
    moved = sum((matrix.weight.double() - old[name]).square().sum() for name, matrix in matrices.items())
    return math.sqrt(moved / sum(value.square().sum() for value in old.values()))
