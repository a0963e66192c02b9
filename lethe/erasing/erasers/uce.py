"""UCE: Unified Concept Editing (Gandikota et al. 2024, arXiv 2308.14761 eq. 7), in closed form.

Every key and value matrix W of cross-attention becomes the minimum over W' of

    lamb |W' - W|^2 + scale_erase sum_i |W' k_i - v_i|^2 + scale_preserve sum_j |W' p_j - W p_j|^2

over text states k of the concepts, their new values v = W g (g: states of the anchor), and states p of what must stay:

    W' = (lamb W + scale_erase sum v k^T + scale_preserve W sum p p^T)
         (lamb I + scale_erase sum k k^T + scale_preserve sum p p^T)^-1

The right factor is the same for all matrices: it is summed and factored once, in float64.

A prompt enters by rows, one a token. With `alignment: span` a concept's are the tokens from its last word to the end of
the text, padding too, each beside the guide's as many places after its last word; what must stay enters with all its
tokens. With `last` each is one row, its last word's. The empty prompt is one of those that must stay
(`preserve_empty`), as in the code of 2023: it counts in their number, and so in their weight, and enters with all its
tokens or, with `last`, with its start token. That code would take it twice if it were listed, too; here it is taken
once.

Defaults are those of the code of 2023, which the paper that lethe follows compares with (2412.15341), but for
`expand_guide`, which that code has false. The current repository is `alignment: last`, `scale_preserve: 1.0`,
`preserve_empty: false`, `expand_guide: true`. Two things differ from both. Prompts that must stay are left out if they
name an erased concept, where the code of 2023 leaves out exact matches of its list of artists, and the current one
nothing. And the equations are solved in float64, where both invert in float32: less than 1e-4 of the edit of two small
nets. For scale, the same measure of a small net: the empty prompt 0.22, guides in templates 0.89, with `tensor` a
projection a row in the place of the published one a prompt 0.17 (tests/erasing/erasers/test_uce.py).

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
from lethe.texts.templates import expanded, in_templates, mentions
from lethe.texts.wording import check_anchors
from lethe.training.loop import Keeping

VERSION = {"technique": {"tensor": 2}, "debias": {"*": 2}}  # 2: a projection a prompt; whole steps, and who is there
OPTIONS = {  # as the code of 2023 has it, which the paper compares with
    "preserve": {
        "description": "prompts that must stay (published: 1,734 artists, none for things); those that name an erased "
        "concept are left out",
        "type": "array",
        "uniqueItems": True,
        "items": {"type": "string"},
    },
    "preserve_empty": {
        "description": "whether the empty prompt must stay too, and counts as one of them, as in the code of 2023",
        "type": "boolean",
        "default": True,
        "former": False,
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
        "description": "new value: replace takes the guide's, tensor that without its part along the old one, of all "
        "a prompt's rows together",
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
        "description": "templates that make more prompts of a concept's name",
        "enum": ["none", "art", "object"],
        "default": "none",
    },
    "expand_guide": {
        "description": "whether such a prompt becomes the guide in the same template, as in the current repository, or "
        "the guide alone, as in the code of 2023",
        "type": "boolean",
        "default": True,
        "former": False,
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
                "description": "difference of a share below which a concept is left as it is",
                "$ref": "#/$defs/rate",
                "default": 0.05,
            },
            "step": {
                "description": "how far a round moves an attribute's weight, times the share that is missing; the "
                "current repository reads 0.1, but takes 1",
                "$ref": "#/$defs/rate",
                "default": 1.0,
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
    listed = [text for text in options["preserve"] if text.strip() or not options["preserve_empty"]]
    told = [text for text in listed if not any(mentions(text, own) for own in concepts.values())]
    kept = [*([""] if options["preserve_empty"] else []), *told]
    _check(options, kept)
    matrices = linears(unet, "attn2.to_k") | linears(unet, "attn2.to_v")
    if not matrices:
        raise UserError("uce: this U-Net has no cross-attention (no layer *.attn2.to_k or *.attn2.to_v) to edit")

    weight = options["scale_preserve"]
    weight = max(0.1, 1 / max(1, len(kept))) if weight is None else weight
    stay = weight * states.products(base, kept if weight else [], options["alignment"])
    old = {name: matrix.weight.detach().to(torch.float64, copy=True) for name, matrix in matrices.items()}
    common = {"matrices": len(matrices), "preserved": len(kept), "left_out": len(listed) - len(told)}
    prompts = {name: expanded(concept, options["expand"]) for name, concept in concepts.items()}

    def edit(parts: Sequence[tuple[Tensor, Tensor]]) -> None:
        scale, lamb = options["scale_erase"], options["lamb"]
        for name, new in solve(old, parts, stay, lamb, scale, options["technique"]):
            matrices[name].weight.copy_(new)

    if mode:
        device = stay.device
        classify = debias.zero_shot(mode["clip"], mode["attributes"], device, "uce.debias")
        observe = debias.observer(unet, base, concepts, classify, mode, seed, budget)
        mixed = states.mixer(base, prompts, mode["attributes"], options["alignment"])
        found = debias.balance(lambda weights: edit([mixed(weights)]), observe, list(concepts), desired, mode)
        return Erased(facts=common | {"change": _change(matrices, old), "debias": found})

    texts: list[tuple[str, str]] = []
    for name, own in prompts.items():
        guide = concepts[name]["anchor"] if options["guide"] == "anchor" else " "
        more = in_templates(guide, options["expand"]) if options["expand_guide"] else [guide] * (len(own) - 1)
        texts += zip(own, [guide, *more], strict=True)
    edit(states.pairs(base, texts, options["alignment"]))
    return Erased(facts=common | {"prompts": len(texts), "change": _change(matrices, old)})


def solve(
    old: Mapping[str, Tensor],
    parts: Sequence[tuple[Tensor, Tensor]],
    stay: Tensor,
    lamb: float,
    scale: float,
    technique: str,
) -> Iterator[tuple[str, Tensor]]:
    """The optimum of every matrix [out, D]; all float64.

    `parts` are keys and guides [rows, D] of each prompt, `stay` [D, D] = scale_preserve sum p p^T. "tensor" takes from
    a prompt's values V [rows, out] their projection on its old ones K = W k: V - <V, K> / <K, K> K, with one product
    over all rows and columns, as the code of 2023 has it. Raises UserError if lamb is too small for the sums to be told
    from singular ones.
    """
    keys, guides = (torch.cat(column) for column in zip(*parts, strict=True))
    right = lamb * torch.eye(len(stay), dtype=stay.dtype, device=stay.device) + scale * keys.T @ keys + stay
    rows = [len(own) for own, _ in parts]
    factor, failed = torch.linalg.cholesky_ex(right)
    if failed:
        raise UserError(f"uce.lamb: {lamb} is too small beside the other weights: the equations are singular; raise it")
    for name, matrix in old.items():
        values, own = guides @ matrix.T, keys @ matrix.T
        if technique == "tensor":
            spans = zip(values.split(rows), own.split(rows), strict=True)
            values = torch.cat([new - (new * of).sum() / of.square().sum().clamp_min(1e-24) * of for new, of in spans])
        left = scale * (values - own).T @ keys  # of W' - W: nothing cancels, and what agrees stays exact
        yield name, matrix + torch.cholesky_solve(left.T, factor).T


def _check(options: Mapping, kept: Sequence[str]) -> None:
    if options["debias"] and options["technique"] == "tensor":
        raise UserError(
            "uce.technique: tensor takes a concept's own values away, and debias is to keep them; set it to replace"
        )
    if options["scale_preserve"] == 0 or kept:
        return
    why = "all of its prompts name an erased concept" if options["preserve"] else "it is empty"
    raise UserError(
        f"uce.preserve: {why}; list prompts that must stay, set preserve_empty to true or scale_preserve to 0"
    )


def _change(matrices: Mapping[str, nn.Linear], old: Mapping[str, Tensor]) -> float:
    """|W' - W| / |W| over all edited matrices together (Frobenius)."""
    moved = sum((matrix.weight.double() - old[name]).square().sum() for name, matrix in matrices.items())
    return math.sqrt(moved / sum(value.square().sum() for value in old.values()))
