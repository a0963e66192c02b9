import copy

import pytest
import torch
from diffusers import UNet2DModel
from torch import nn

from lethe.erasing import debias, states
from lethe.erasing.erasers import uce
from lethe.files.errors import UserError
from lethe.models import cutting
from lethe.params import rules
from lethe.params.checking import check
from lethe.stage.record import Budget
from tests.erasing.erasers.subjects import load

OPTIONS = {
    "preserve": ["a boat", "a tree by munch"],
    "preserve_empty": False,
    "guide": "anchor",
    "alignment": "last",
    "technique": "replace",
    "lamb": 0.5,
    "scale_erase": 1.0,
    "scale_preserve": None,
    "expand": "none",
    "expand_guide": True,
    "debias": None,
}
DEBIAS = {
    "attributes": ["red", "blue"],
    "desired": None,
    "rounds": 6,
    "images": 4,
    "tolerance": 0.05,
    "step": 1.0,
    "clip": "fake",
    "sampler_steps": 2,
    "guidance": 2.0,
}
CONCEPTS = {  # short: the tiny tokenizer has a token a letter
    "monet": {"prompt": "oil by monet", "anchor": "oil"},
    "picasso": {"prompt": "ink by picasso", "anchor": "ink on art"},
}


@pytest.fixture(params=["tiny_base", "other_base"])
def base(request):
    return load(request.getfixturevalue(request.param))


def run(base, unet=None, concepts=CONCEPTS, **changed):
    unet = copy.deepcopy(base.unet if unet is None else unet)
    return unet, uce.erase(unet, base, concepts, OPTIONS | changed, 0, None, Budget())


def matrices(unet):
    return {name: p for name, p in unet.named_parameters() if "attn2.to_k." in name or "attn2.to_v." in name}


def text(base, prompt):
    """States [L, D] float64 and the last content token's place, from the pipeline's own arguments."""
    length = base.text_encoder.config.max_position_embeddings
    ids = base.tokenizer(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    with torch.no_grad():
        found = base.text_encoder(ids.input_ids).last_hidden_state[0].double()
    return found, max(0, int(ids.attention_mask.sum()) - 2)


def rows(base, alignment, guide="anchor", kept=tuple(OPTIONS["preserve"])):
    """Keys and guides of each concept, and preserved states, written out by hand."""
    keys, guides = [], []
    for concept in CONCEPTS.values():
        k, i = text(base, concept["prompt"])
        g, j = text(base, concept["anchor"] if guide == "anchor" else " ")
        if alignment == "last":
            keys, guides = [*keys, k[i : i + 1]], [*guides, g[j : j + 1]]
        else:
            length = len(k)
            keys.append(k[i : length - max(0, j - i)])
            guides.append(g[j : length - max(0, i - j)])
    kept = [text(base, prompt) for prompt in kept]
    kept = torch.cat([p if alignment == "span" else p[i : i + 1] for p, i in kept])
    return list(zip(keys, guides, strict=True)), kept


@pytest.mark.parametrize("alignment", ["last", "span"])
@pytest.mark.parametrize("technique", ["replace", "tensor"])
@pytest.mark.parametrize("guide", ["anchor", "empty"])
@pytest.mark.parametrize("empty", [False, True])
def test_every_matrix_is_the_least_squares_optimum(base, alignment, technique, guide, empty):
    unet, erased = run(base, alignment=alignment, technique=technique, guide=guide, preserve_empty=empty)
    prompts = [*([""] if empty else []), *OPTIONS["preserve"]]
    parts, kept = rows(base, alignment, guide, prompts)
    assert erased.facts["preserved"] == len(prompts)
    before, after = matrices(base.unet), matrices(unet)
    assert len(after) > 2
    for name, matrix in before.items():
        w = matrix.detach().double()
        values = []
        for k, g in parts:
            unit = k @ w.T / (k @ w.T).norm()  # of all rows together
            values.append(g @ w.T - ((g @ w.T) * unit).sum() * unit if technique == "tensor" else g @ w.T)
        keys, values = torch.cat([k for k, _ in parts]), torch.cat(values)
        scales = [0.5**0.5, 1.0, (1 / len(prompts)) ** 0.5]  # lamb, scale_erase, 1 / number of preserved prompts
        left = torch.cat([scales[0] * torch.eye(w.shape[1]).double(), scales[1] * keys, scales[2] * kept])
        right = torch.cat([scales[0] * w.T, scales[1] * values, scales[2] * kept @ w.T])
        wanted = torch.linalg.lstsq(left, right, driver="gelsd").solution.T
        torch.testing.assert_close(after[name].detach().double(), wanted, atol=1e-6, rtol=1e-5)


def test_the_gradient_of_the_objective_vanishes(base):
    unet, _ = run(base, lamb=0.2, scale_erase=3.0, scale_preserve=0.7, alignment="span")
    parts, kept = rows(base, "span")
    keys, guides = (torch.cat(column) for column in zip(*parts, strict=True))
    for name, matrix in matrices(unet).items():
        w = matrices(base.unet)[name].detach().double()
        new = matrix.detach().double().requires_grad_(True)
        apart = 0.2 * (new - w).square().sum() + 3.0 * ((keys @ new.T) - guides @ w.T).square().sum()
        loss = apart + 0.7 * (kept @ (new - w).T).square().sum()
        (slope,) = torch.autograd.grad(loss, new)
        assert slope.abs().max() < 1e-4  # the weights are stored in float32


def test_only_keys_and_values_of_cross_attention_change(base):
    unet, erased = run(base)
    before = dict(base.unet.named_parameters())
    changed = {name for name, p in unet.named_parameters() if not torch.equal(p, before[name])}
    assert changed == set(matrices(unet))
    assert erased.facts["matrices"] == len(changed)
    assert erased.facts["preserved"] == 2 and erased.facts["prompts"] == 2
    assert erased.progress is None and erased.guidance is None
    moved = sum((p - before[name]).square().sum() for name, p in matrices(unet).items())
    whole = sum(before[name].square().sum() for name in changed)
    assert erased.facts["change"] == pytest.approx(float((moved / whole).sqrt()), rel=1e-4)


def test_inversion_in_float32_as_released_moves_little_of_the_edit(base):
    """The released sums and their inverse in float32, against these: how far they are apart, over |W' - W|."""
    unet, _ = run(base, alignment="span")
    parts, kept = rows(base, "span")
    apart = edit = 0.0
    for name, matrix in matrices(base.unet).items():
        w, p = matrix.detach(), kept.float()
        left, right = 0.5 * w + 0.5 * w @ p.T @ p, 0.5 * torch.eye(w.shape[1]) + 0.5 * p.T @ p
        for k, g in ((k.float(), g.float()) for k, g in parts):
            left, right = left + w @ g.T @ k, right + k.T @ k
        apart += float((left @ torch.inverse(right) - matrices(unet)[name]).square().sum())
        edit += float((matrices(unet)[name] - w).square().sum())
    print(f"{(apart / edit) ** 0.5:.1e} of the edit")
    assert (apart / edit) ** 0.5 < 1e-4


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        ({"preserve_empty": True}, {}, 0.22),
        ({"expand": "art"}, {"expand": "art", "expand_guide": False}, 0.89),
        ({"technique": "tensor"}, {"technique": "tensor", "apart": True}, 0.17),
    ],
    ids=["preserve_empty", "expand_guide", "tensor"],
)
def test_what_the_releases_differ_in_moves_the_edit(tiny_base, monkeypatch, one, other, wanted):
    """|W1 - W2| / |W2 - W| over all edited matrices, spans of tokens. `apart`: each row loses its own projection."""
    base, found, pairs = load(tiny_base), [], states.pairs
    for changed in (one, other):
        if changed.pop("apart", False):
            monkeypatch.setattr(
                states,
                "pairs",
                lambda *given: [rows for k, g in pairs(*given) for rows in zip(k.split(1), g.split(1), strict=True)],
            )
        unet, _ = run(base, alignment="span", **changed)
        found.append(torch.cat([matrix.flatten() for matrix in matrices(unet).values()]).detach())
    before = torch.cat([matrix.flatten() for matrix in matrices(base.unet).values()]).detach()
    apart = float((found[0] - found[1]).norm() / (found[1] - before).norm())
    print(f"{one}: {apart:.3f} of the edit")
    assert apart == pytest.approx(wanted, abs=0.01)


def test_a_guide_that_is_the_concept_changes_nothing():
    draws = torch.Generator().manual_seed(0)
    old = {"k": torch.randn((6, 5), generator=draws).double()}
    keys = torch.randn((3, 5), generator=draws).double()
    ((_, new),) = uce.solve(old, [(keys, keys)], torch.eye(5).double(), 0.5, 1.0, "replace")
    assert torch.equal(new, old["k"])


def test_what_is_preserved_stays_and_what_is_erased_goes(base):
    """With weights that leave lamb nothing to say: W' k = W g and W' p = W p."""
    unet, _ = run(base, lamb=1e-9, scale_preserve=1.0)
    parts, kept = rows(base, "last")
    keys, guides = (torch.cat(column) for column in zip(*parts, strict=True))
    for name, new in matrices(unet).items():
        old, new = matrices(base.unet)[name].detach().double(), new.detach().double()
        torch.testing.assert_close(keys @ new.T, guides @ old.T, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(kept @ new.T, kept @ old.T, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("guided", [True, False])
def test_expansion_adds_the_published_templates_of_the_concepts_name(base, monkeypatch, guided):
    seen = []
    pairs = states.pairs
    monkeypatch.setattr(states, "pairs", lambda b, texts, how: seen.extend(texts) or pairs(b, texts, how))
    _, erased = run(base, expand="art", expand_guide=guided)
    assert [text for text, _ in seen[:6]] == [
        "oil by monet",
        "painting by monet",
        "art by monet",
        "artwork by monet",
        "picture by monet",
        "style of monet",
    ]
    templates = ["painting by {}", "art by {}", "artwork by {}", "picture by {}", "style of {}"]
    wanted = [template.format("ink on art") for template in templates] if guided else ["ink on art"] * 5
    assert [guide for _, guide in seen[6:]] == ["ink on art", *wanted]
    assert erased.facts["prompts"] == 12


def test_an_empty_guide_is_put_into_the_templates_as_nothing(base, monkeypatch):
    seen = []
    pairs = states.pairs
    monkeypatch.setattr(states, "pairs", lambda b, texts, how: seen.extend(texts) or pairs(b, texts, how))
    run(base, expand="object", guide="empty")
    assert [guide for _, guide in seen[:3]] == [" ", "image of", "photo of"]


def test_tensor_takes_one_projection_from_all_rows_of_a_prompt():
    """W = I, keys e1 and 2 e2, guides e1 + e2 and e2: <V, K> = 1 + 2, <K, K> = 5, so V - 0.6 K is (0.4, 1) and
    (0, -0.2). Alone, without lamb's pull, W' K = V: W' e1 = (0.4, 1), W' e2 = (0, -0.1)."""
    keys, guides = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).double(), torch.tensor([[1.0, 1.0], [0.0, 1.0]]).double()
    old, stay = {"k": torch.eye(2).double()}, torch.zeros((2, 2)).double()
    ((_, one),) = uce.solve(old, [(keys, guides)], stay, 1e-12, 1.0, "tensor")
    torch.testing.assert_close(one, torch.tensor([[0.4, 0.0], [1.0, -0.1]]).double())
    apart = [(keys[:1], guides[:1]), (keys[1:], guides[1:])]  # two prompts: each loses its own: (0, 1) and (0, 0)
    ((_, two),) = uce.solve(old, apart, stay, 1e-12, 1.0, "tensor")
    torch.testing.assert_close(two, torch.tensor([[0.0, 0.0], [1.0, 0.0]]).double(), atol=1e-9, rtol=0)


def test_the_empty_prompt_counts_once_and_is_legal_in_the_list(base):
    wanted, erased = run(base, preserve_empty=True)
    assert erased.facts["preserved"] == 3 and erased.facts["left_out"] == 0
    for preserve, empty in ((["", *OPTIONS["preserve"]], False), (["", *OPTIONS["preserve"]], True)):
        unet, erased = run(base, preserve=preserve, preserve_empty=empty)
        assert erased.facts["preserved"] == 3
        for name, matrix in matrices(wanted).items():
            assert torch.equal(matrices(unet)[name], matrix)
    _, erased = run(base, preserve=[], preserve_empty=True)  # as the code of 2023 has it for things
    assert erased.facts["preserved"] == 1 and erased.facts["change"] > 0
    check(OPTIONS | {"preserve": [""]}, rules.section_schema("erase_uce", ("erasers", "uce")), "erase.uce")


def test_prompts_are_encoded_in_tiles_as_if_alone(base):
    texts = [f"a boat {number}" for number in range(19)]
    found = states.products(base, texts, "span")
    wanted = sum(own.T @ own for own in (text(base, prompt)[0] for prompt in texts))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)


def test_preserved_prompts_that_name_a_concept_are_left_out(base):
    wanted, _ = run(base)
    unet, erased = run(base, preserve=[*OPTIONS["preserve"], "a tree by Claude Monet", "OIL by  monet"])
    assert erased.facts["left_out"] == 2
    for name, matrix in matrices(wanted).items():
        assert torch.equal(matrices(unet)[name], matrix)


def test_pruned_heads_and_dropped_blocks(tiny_base):
    base = load(tiny_base)
    unet = copy.deepcopy(base.unet)
    paths = [name for name, module in unet.named_modules() if name.endswith("attn2")]
    cutting.cut(unet, {paths[0]: {"kind": "heads", "total": unet.get_submodule(paths[0]).heads, "kept": [0]}})
    owner, _, last = paths[-1].rpartition(".transformer_blocks.")[0].rpartition(".")
    unet.get_submodule(owner)[int(last)] = nn.Identity()
    edited, erased = run(base, unet)
    assert erased.facts["matrices"] == len(matrices(unet)) < len(matrices(base.unet))
    for name, matrix in matrices(edited).items():
        assert not torch.equal(matrix, matrices(unet)[name])


@pytest.mark.parametrize(
    ("changed", "concepts", "message"),
    [
        ({"preserve": []}, CONCEPTS, r"uce\.preserve: it is empty; .* set preserve_empty to true"),
        ({"preserve": ["a monet"]}, CONCEPTS, r"uce\.preserve: all of its prompts name an erased concept"),
        ({}, {"a": {"prompt": "oil by monet", "anchor": "Oil by  Monet"}}, r"concepts\.a\.anchor: .* is the prompt"),
        ({"debias": DEBIAS | {"desired": [0.5, 0.6]}}, CONCEPTS, r"uce\.debias\.desired: .* sum to 1"),
        ({"debias": DEBIAS | {"desired": [1.0]}}, CONCEPTS, r"uce\.debias\.desired: .* 2 shares"),
        ({"debias": DEBIAS}, CONCEPTS, r"uce\.debias\.clip: 'fake' is neither"),
        ({"debias": DEBIAS, "technique": "tensor"}, CONCEPTS, r"uce\.technique: tensor .* set it to replace"),
    ],
)
def test_mistakes_are_told_in_one_line(tiny_base, changed, concepts, message):
    base = load(tiny_base)
    with pytest.raises(UserError, match=message) as error:
        run(base, concepts=concepts, **changed)
    assert "\n" not in str(error.value)


def test_nothing_need_be_preserved_if_it_has_no_weight(base):
    _, erased = run(base, preserve=[], scale_preserve=0)
    assert erased.facts["preserved"] == 0 < erased.facts["change"]


def test_a_net_without_cross_attention_is_refused(tiny_base):
    plain = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4,
    )
    with pytest.raises(UserError, match="no cross-attention"):
        run(load(tiny_base), plain)


def test_equations_that_are_singular_are_refused():
    keys = 1e9 * torch.ones((1, 4)).double()
    with pytest.raises(UserError, match=r"uce\.lamb: 1e-12 is too small"):
        list(uce.solve({}, [(keys, keys)], torch.zeros((4, 4)).double(), 1e-12, 1.0, "replace"))


def test_options_are_a_schema():
    schema = rules.section_schema("erase_uce", ("erasers", "uce"))
    check(OPTIONS, schema, "erase.uce")
    check(OPTIONS | {"debias": DEBIAS}, schema, "erase.uce")
    for wrong, message in (
        ({"lamb": 0}, "lamb"),
        ({"alignment": "first"}, "last, span"),
        ({"debias": DEBIAS | {"rounds": 31}}, "31"),
        ({"debias": DEBIAS | {"attributes": ["red"]}}, "attributes"),
    ):
        with pytest.raises(UserError, match=message):
            check(OPTIONS | wrong, schema, "erase.uce")


def test_rounds_move_the_shares_to_the_wanted_ones():
    """A model whose share of the first attribute is 0.9 + its weight - the other's."""
    now = {"a": 0.9, "b": 0.5}
    history = []

    def edit(weights):
        history.append(weights["a"])
        for name, start in (("a", 0.9), ("b", 0.5)):
            now[name] = start + weights[name][0] - weights[name][1]

    found = debias.balance(
        edit, lambda name, turn: [now[name], 1 - now[name]], ["a", "b"], [0.5, 0.5], DEBIAS | {"step": 0.25}
    )
    assert found["reached"] and found["edits"] == len(history)
    shares = [first for first, _ in found["concepts"]["a"]["shares"]]
    assert shares == pytest.approx([0.9, 0.7, 0.6, 0.55, 0.525][: len(shares)])
    assert history[0] == pytest.approx([-0.1, 0.1])  # step * (0.5 - 0.9)
    assert found["concepts"]["b"]["weights"] == pytest.approx([0.0, 0.0])


def test_a_concept_within_the_tolerance_stands_still_and_is_looked_at_again():
    """Steps of 1 on shares that are missing, as released. `a` is there (0.5 + 0.04) and leaves in the second round."""
    seen = {"a": [[0.54, 0.46], [0.6, 0.4], [0.5, 0.5]], "b": [[0.9, 0.1], [0.7, 0.3], [0.5, 0.5]]}
    given = []
    found = debias.balance(
        lambda weights: given.append(dict(weights)), lambda name, turn: seen[name][turn], ["a", "b"], [0.5, 0.5], DEBIAS
    )
    assert given[0]["a"] == [0.0, 0.0] and given[0]["b"] == pytest.approx([-0.4, 0.4])
    assert given[1]["a"] == pytest.approx([-0.1, 0.1]) and given[1]["b"] == pytest.approx([-0.6, 0.6])
    assert found["reached"] and found["edits"] == 2


def test_a_share_that_misses_by_the_tolerance_is_moved():
    found = debias.balance(
        lambda weights: None, lambda name, turn: [0.75, 0.25], ["a"], [0.5, 0.5], DEBIAS | {"tolerance": 0.25}
    )
    assert not found["reached"] and found["edits"] == 6


def test_rounds_end_though_the_shares_are_not_reached():
    found = debias.balance(lambda weights: None, lambda name, turn: [1.0, 0.0], ["a"], [0.5, 0.5], DEBIAS)
    assert not found["reached"]
    assert found["edits"] == len(found["concepts"]["a"]["shares"]) == 6


def fake(monkeypatch, choose):
    monkeypatch.setattr(debias, "zero_shot", lambda name, attributes, device, where: choose)


def test_debias_mixes_attributes_into_the_concepts_value(base, monkeypatch):
    """All pictures are called red: after one round W' k is W (k - 0.5 red + 0.5 blue) up to what lamb holds back."""
    fake(monkeypatch, lambda pictures: [0] * len(pictures))
    concepts = {"monet": CONCEPTS["monet"]}
    unet, erased = run(base, concepts=concepts, debias=DEBIAS | {"rounds": 1}, lamb=1e-9, preserve=[], scale_preserve=0)
    assert erased.facts["debias"]["concepts"]["monet"] == {"weights": [-0.5, 0.5], "shares": [[1.0, 0.0]]}
    (k, i), (red, j), (blue, m) = (text(base, prompt) for prompt in ("oil by monet", "red", "blue"))
    mixed = k[i] - 0.5 * red[j] + 0.5 * blue[m]
    for name, new in matrices(unet).items():
        old = matrices(base.unet)[name].detach().double()
        torch.testing.assert_close(new.detach().double() @ k[i], old @ mixed, atol=1e-4, rtol=1e-3)


def test_debias_draws_judges_by_colour_and_counts(tiny_base, monkeypatch):
    base = load(tiny_base)

    def warmer(pictures):
        assert pictures[0].mode == "RGB"
        return [int(sum(picture.resize((1, 1)).getpixel((0, 0))[::2]) % 2) for picture in pictures]

    fake(monkeypatch, warmer)
    found = []
    for _ in range(2):
        unet, budget = copy.deepcopy(base.unet), Budget()
        values = OPTIONS | {"debias": DEBIAS | {"rounds": 2, "tolerance": 1.0e-6}, "alignment": "span"}
        erased = uce.erase(unet, base, CONCEPTS, values, 3, None, budget)
        seen = sum(len(own["shares"]) for own in erased.facts["debias"]["concepts"].values())
        assert budget == Budget(student_forward=seen * 4 * 2 * 2)  # pictures, steps, both halves of guidance
        found.append((erased.facts, {name: p.clone() for name, p in matrices(unet).items()}))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(found[0][1][name], found[1][1][name]) for name in found[0][1])


def test_zero_shot_takes_the_nearest_text(monkeypatch):
    axes = {"red": [1.0, 0.0], "blue": [0.0, 1.0]}
    clip = (
        lambda pictures: torch.tensor([[0.9, 0.1] if p == "warm" else [0.2, 0.8] for p in pictures]),
        lambda texts: torch.tensor([axes[word] for word in texts]),
    )
    monkeypatch.setattr(debias.judges, "clip", lambda name, device: clip)
    classify = debias.zero_shot("any", ["red", "blue"], torch.device("cpu"), "uce.debias")
    assert classify(["warm", "cold", *["warm"] * 16]) == [0, 1, *[0] * 16]
