import copy
import inspect

import pytest
import torch
from diffusers import PNDMScheduler, UNet2DModel
from torch import nn

from lethe.drawing import sampling
from lethe.erasing import wanda
from lethe.erasing.erasers import conceptprune
from lethe.files.errors import UserError
from lethe.models import cutting, pipelines
from lethe.models.schedulers import build_scheduler
from lethe.params import rules
from lethe.params.checking import check
from lethe.stage.record import Budget
from lethe.texts import templates
from lethe.training.data import generator
from tests.erasing.erasers.subjects import load

OPTIONS = {
    "task": "style",
    "subjects": ["tree", "sun", "fish"],
    "base_template": "a {subject}",
    "target_template": "{subject} by {concept}",
    "layers": "ffn.2",
    "skill_ratio": 0.1,
    "timesteps": 3,
    "select_ratio": 0.0,
    "sampler_steps": 5,
    "guidance": 3.0,
    "sampler": "ddim",
    "noise": "own",
    "shares": "cut",
}
CONCEPTS = {
    "monet": {"prompt": "art by monet", "anchor": "art"},
    "seurat": {"prompt": "art by seurat", "anchor": "art"},
}
ENDS = {"ffn.2": "ff.net.2", "ffn.0": "ff.net.0.proj", "attn2.to_k": "attn2.to_k", "attn2.to_v": "attn2.to_v"}


@pytest.fixture(params=["tiny_base", "other_base"])
def base(request):
    return load(request.getfixturevalue(request.param))


@pytest.fixture
def tiny(tiny_base):
    return load(tiny_base)


def run(base, unet=None, concepts=CONCEPTS, seed=0, **changed):
    own = copy.copy(base)
    own.text_encoder = copy.deepcopy(base.text_encoder)
    unet, budget = copy.deepcopy(base.unet if unet is None else unet), Budget()
    erased = conceptprune.erase(unet, own, concepts, OPTIONS | changed, seed, None, budget)
    return unet, erased, budget, own.text_encoder


def gone(before, after):
    """{layer: mask of the weights that became zero}; asserts that nothing else changed."""
    found = {}
    for name, old in before.named_parameters():
        new = after.get_parameter(name)
        if not torch.equal(old, new):
            mask = old != new
            assert (new[mask] == 0).all()
            found[name.removesuffix(".weight")] = mask
    return found


def pndm(base):
    return PNDMScheduler.from_config(base.scheduler.config, skip_prk_steps=True)


def activations(unet, base, prompts, values, steps):
    """{layer: [steps][inputs]}: every input of every chosen layer, stored, of the pipeline's own guided sampling."""
    chosen = [(name, m) for name, m in unet.named_modules() if name.endswith(ENDS[values["layers"]])]
    stored = {name: [[] for _ in range(steps)] for name, _ in chosen}
    step = {"now": -1}

    def clock(module, inputs):
        step["now"] += 1

    handles = [unet.register_forward_pre_hook(clock)]
    for name, module in chosen:
        handles.append(
            module.register_forward_pre_hook(
                lambda m, x, name=name: stored[name][step["now"]].append(x[0].clone()) if step["now"] < steps else None
            )
        )
    embeddings = pipelines.encode_prompts(base.tokenizer, base.text_encoder, list(prompts))
    empty = pipelines.encode_prompts(base.tokenizer, base.text_encoder, [""])[0]
    own = values["noise"] == "own"
    draws = [generator(0, "conceptprune", row if own else 0) for row in range(len(prompts))]
    noise = torch.cat([torch.randn((1, *base.latent_shape), generator=draw) for draw in draws])
    scheduler = build_scheduler("ddim", base.scheduler.config, values["sampler_steps"])
    scheduler = scheduler if values["sampler"] == "ddim" else pndm(base)
    with torch.no_grad():
        sampling.denoise(unet, scheduler, noise, embeddings, empty, values["sampler_steps"], values["guidance"])
    for handle in handles:
        handle.remove()
    return stored


def column_norms(inputs):
    x = torch.cat([part.reshape(-1, part.shape[-1]) for part in inputs]).double()
    x = x / x.norm(dim=1, keepdim=True)
    return x.norm(dim=0)


def brute(unet, base, concept, values, steps=None):
    """{layer: mask}, from stored activations, row by row and step by step."""
    steps = steps or values["timesteps"]
    target = activations(unet, base, [f"{s} by {concept}" for s in values["subjects"]], values, steps)
    plain = activations(unet, base, [f"a {s}" for s in values["subjects"]], values, steps)
    found = {}
    for name in target:
        size = unet.get_submodule(name).weight.detach().abs().double()
        times = torch.zeros_like(size)
        for one, other in zip(target[name], plain[name], strict=True):
            high, low = size * column_norms(one), size * column_norms(other)
            count = int(values["skill_ratio"] * size.shape[1])
            for row in range(len(size)):
                for column in high[row].argsort(descending=True)[:count]:
                    times[row, column] += high[row, column] > low[row, column]
        found[name] = times > values["select_ratio"] * steps
    return found


@pytest.mark.parametrize("layers", ENDS)
@pytest.mark.parametrize("select", [0.0, 0.5])
def test_masks_are_those_of_stored_activations(base, layers, select):
    """One concept, against full sampling by another function: stopping after `timesteps` steps changes nothing."""
    values = OPTIONS | {"layers": layers, "select_ratio": select}
    concepts = {"monet": CONCEPTS["monet"]}
    unet, erased, _, _ = run(base, concepts=concepts, **values)
    wanted = brute(base.unet, base, "monet", values)
    found = gone(base.unet, unet)
    assert len(wanted) > 1 and sum(int(mask.sum()) for mask in wanted.values()) > 10
    for name, mask in wanted.items():
        assert torch.equal(found.get(name, torch.zeros_like(mask)), mask), name
    assert set(found) <= set(wanted)
    assert erased.facts["zeroed_weights"] == sum(int(mask.sum()) for mask in wanted.values())


def test_a_mask_is_a_part_of_each_rows_highest_and_steps_are_united():
    draws = torch.Generator().manual_seed(0)
    weight = torch.randn((7, 20), generator=draws)
    target, plain = torch.rand((2, 4, 20), generator=draws)
    each = [wanda.serving(weight, target[i : i + 1], plain[i : i + 1], 0.2, 0.0) for i in range(4)]
    for i, mask in enumerate(each):
        scores = weight.abs() * target[i]
        highest = scores >= scores.sort(dim=1).values[:, -4:-3]
        assert mask.any() and not (mask & ~highest).any()
        assert torch.equal(mask, highest & (target[i] > plain[i]))
    times = sum(mask.int() for mask in each)
    for least in (0.0, 0.25, 0.5, 0.75):
        assert torch.equal(wanda.serving(weight, target, plain, 0.2, least), times > 4 * least)


@pytest.mark.parametrize(("columns", "wanted"), [(1280, 12), (100, 1), (99, 0), (3, 0)])
def test_a_share_of_a_row_is_cut_to_an_integer(columns, wanted):
    """1 % of 1,280 columns are 12.8: 12 of every row, and none of a row that is too narrow."""
    nets = torch.ones(2, columns), torch.ones(1, columns), torch.zeros(1, columns)
    assert wanda.serving(*nets, 0.01, 0.0).sum(1).tolist() == [wanted, wanted]
    rounded = {1280: 13, 100: 1, 99: 1, 3: 1}[columns]
    assert wanda.serving(*nets, 0.01, 0.0, rounded=True).sum(1).tolist() == [rounded, rounded]


def test_layers_that_are_too_narrow_are_counted_and_all_of_them_refused(tiny):
    widths = [part.weight.shape[1] for part in wanda.linears(tiny.unet, "ff.net.2").values()]
    assert min(widths) < max(widths)
    _, erased, _, _ = run(tiny, skill_ratio=1.5 / max(widths))
    assert erased.facts["too_narrow"] == sum(1.5 / max(widths) * width < 1 for width in widths) > 0
    with pytest.raises(UserError, match=r"conceptprune\.skill_ratio: 0\.0001 is less than one of the") as error:
        run(tiny, skill_ratio=0.0001)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("changed", [{"noise": "shared"}, {"sampler": "pndm"}, {"noise": "shared", "sampler": "pndm"}])
def test_noise_and_sampler_as_released(base, changed):
    values = OPTIONS | {"timesteps": 4} | changed
    unet, _, _, _ = run(base, concepts={"monet": CONCEPTS["monet"]}, **values)
    found = gone(base.unet, unet)
    for name, mask in brute(base.unet, base, "monet", values).items():
        assert torch.equal(found.get(name, torch.zeros_like(mask)), mask), name


def test_what_the_docstring_says_of_noise_and_sampler(tiny):
    taken = [
        torch.cat([mask.flatten() for _, mask in sorted(brute(tiny.unet, tiny, "monet", OPTIONS | changed).items())])
        for changed in ({}, {"noise": "shared"}, {"sampler": "pndm"})
    ]
    shares = [float((taken[0] & other).sum() / (taken[0] | other).sum()) for other in taken[1:]]
    assert shares == pytest.approx([0.65, 0.94], abs=0.02)


def test_a_prediction_that_pndm_does_not_know_is_refused(tiny):
    own = copy.copy(tiny)
    own.scheduler = type(tiny.scheduler).from_config(tiny.scheduler.config, prediction_type="sample")
    with pytest.raises(UserError, match=r"conceptprune\.sampler: pndm knows no prediction 'sample'.*give ddim"):
        run(own, sampler="pndm")


def test_rows_are_normalised_and_empty_ones_say_nothing():
    layer = nn.Linear(2, 1, bias=False)
    with wanda.listening({"a": layer}, 2) as (sums, at):
        at(1)
        layer(torch.tensor([[[3.0, 4.0], [0.0, 0.0]]]))
        layer(torch.tensor([[0.0, 0.5]]))
    layer(torch.tensor([[1.0, 1.0]]))  # after the context nobody listens
    torch.testing.assert_close(sums["a"], torch.tensor([[0.0, 0.0], [0.36, 0.64 + 1.0]]))


def test_several_concepts_lose_the_union(base):
    both, erased, _, _ = run(base)
    found = gone(base.unet, both)
    parts = [gone(base.unet, run(base, concepts={name: own})[0]) for name, own in CONCEPTS.items()]
    assert set(found) == set(parts[0]) | set(parts[1])
    for name, mask in found.items():
        one, other = (part.get(name, torch.zeros_like(mask)) for part in parts)
        assert torch.equal(mask, one | other)
    counts = [sum(int(mask.sum()) for mask in part.values()) for part in parts]
    assert [own["zeroed_weights"] for own in erased.facts["concepts"].values()] == counts
    assert counts[0] != counts[1] and erased.facts["zeroed_weights"] < sum(counts)


def test_facts_are_counts_and_shares(base):
    unet, erased, _, _ = run(base)
    facts, names = erased.facts, [name for name, _ in base.unet.named_modules() if name.endswith("ff.net.2")]
    among = sum(base.unet.get_submodule(name).weight.numel() for name in names)
    zeroed = sum(int((p == 0).sum()) for p in unet.parameters()) - sum(
        int((p == 0).sum()) for p in base.unet.parameters()
    )
    assert facts["edited"] == "unet"
    assert facts["layers"] == {"kind": "ffn.2", "number": len(names), "weights": among}
    assert facts["zeroed_weights"] == zeroed
    assert facts["zeroed_of_layers"] == pytest.approx(zeroed / among)
    assert facts["zeroed"] == pytest.approx(zeroed / sum(p.numel() for p in base.unet.parameters()))


def test_shared_prompts_are_sampled_once_and_all_is_counted(tiny, monkeypatch):
    seen = {"samples": 0}
    forward = type(tiny.unet).forward

    def counting(self, sample, *rest, **named):
        seen["samples"] += len(sample)
        return forward(self, sample, *rest, **named)

    monkeypatch.setattr(type(tiny.unet), "forward", counting)
    _, _, budget, _ = run(tiny)
    assert budget == Budget(
        student_forward=3 * 3 * 2 * 3
    )  # two concepts and what is without them; pairs, halves, steps
    assert seen["samples"] == budget.student_forward
    assert run(tiny, guidance=1.0)[2] == Budget(student_forward=3 * 3 * 3)
    assert run(tiny, layers="attn2.to_v")[2] == Budget(
        student_forward=3 * 3 * 2
    )  # the caption is the same in all steps


def test_runs_are_equal_and_seeds_differ(base):
    one, other, third = (run(base, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one[0].parameters(), other[0].parameters(), strict=True))
    assert one[1].facts == other[1].facts
    assert any(not torch.equal(a, b) for a, b in zip(one[0].parameters(), third[0].parameters(), strict=True))


def test_more_subjects_than_a_tile_are_taken_together(tiny, monkeypatch):
    values = OPTIONS | {"subjects": ["tree", "sun", "fish", "boat", "house"], "timesteps": 2}
    concepts = {"monet": CONCEPTS["monet"]}
    monkeypatch.setattr(conceptprune, "TILE", 2)
    found = gone(tiny.unet, run(tiny, concepts=concepts, **values)[0])
    for name, mask in brute(tiny.unet, tiny, "monet", values).items():
        assert torch.equal(found[name], mask)


def test_pruned_widths_and_dropped_blocks(tiny):
    unet = copy.deepcopy(tiny.unet)
    paths = [name for name, _ in unet.named_modules() if name.endswith(".ff")]
    total = unet.get_submodule(paths[0]).net[2].weight.shape[1]
    cutting.cut(unet, {paths[0]: {"kind": "ffn", "total": total, "kept": list(range(0, total, 3))}})
    owner, _, last = paths[-1].rpartition(".transformer_blocks.")[0].rpartition(".")
    transformer = unet.get_submodule(owner)[int(last)]
    transformer.transformer_blocks = nn.ModuleList()
    edited, erased, _, _ = run(tiny, unet, concepts={"monet": CONCEPTS["monet"]})
    assert erased.facts["layers"]["number"] == len(paths) - 1
    found = gone(unet, edited)
    wanted = brute(unet, tiny, "monet", OPTIONS)
    assert any(mask.shape[1] == len(range(0, total, 3)) for mask in wanted.values())
    for name, mask in wanted.items():
        assert torch.equal(found.get(name, torch.zeros_like(mask)), mask)


def test_the_text_encoder_is_pruned_in_place_and_said_so(base):
    unet, erased, budget, encoder = run(base, layers="text", skill_ratio=0.2)
    assert not gone(base.unet, unet)
    found = gone(base.text_encoder, encoder)
    assert found and all(name.endswith("mlp.fc2") for name in found)
    assert erased.facts["edited"] == "text_encoder"
    assert erased.facts["zeroed_weights"] == sum(int(mask.sum()) for mask in found.values())
    assert erased.facts["zeroed"] == pytest.approx(
        erased.facts["zeroed_weights"] / sum(p.numel() for p in base.text_encoder.parameters())
    )
    assert budget == Budget()
    # by hand: inputs of fc2 from the pipeline's own prompts, the empty one beside each
    name = next(iter(found))
    layer, stored = base.text_encoder.get_submodule(name), []
    handle = layer.register_forward_pre_hook(lambda m, x: stored.append(x[0]))
    columns = {}
    for key, ending in (("base", "a {}"), ("monet", "{} by monet"), ("seurat", "{} by seurat")):
        stored.clear()
        prompts = [ending.format(subject) for subject in OPTIONS["subjects"]]
        pipelines.encode_prompts(base.tokenizer, base.text_encoder, [*prompts, "", "", ""])
        columns[key] = column_norms(stored)
    handle.remove()
    size = layer.weight.detach().abs().double()
    union = torch.zeros_like(found[name])
    for concept in ("monet", "seurat"):
        scores = size * columns[concept]
        count = int(0.2 * size.shape[1])
        mask = torch.zeros_like(union).scatter(1, scores.topk(count, dim=1).indices, True)
        union |= mask & (scores > size * columns["base"])
    assert torch.equal(found[name], union)


@pytest.mark.parametrize(
    ("task", "concept", "subject", "wanted"),
    [
        ("style", ("a painting by monet", "a painting"), "boat", ("a photo of a boat", "a boat in the style of monet")),
        ("unsafe", ("a photo of a naked person", "a photo of a person"), "man",
         ("a photo of a man", "a photo of a naked man")),
        ("object", ("a photo of a church", "a photo of a place"), "valley", ("a valley", "a church in a valley")),
        ("attribute", ("a woman", "a man"), "man/woman", ("a headshot of a man", "a headshot of a woman")),
        ("memorised", ("the bloodborne cover", "a cover"), "1", ("", "the bloodborne cover")),
    ],
)  # fmt: skip
def test_the_published_pairs_of_each_task(task, concept, subject, wanted):
    prompt, anchor = concept
    assert templates.pairs({"prompt": prompt, "anchor": anchor}, [subject], task, None, None, "conceptprune") == [
        wanted
    ]


def test_a_concepts_name_is_its_prompt_if_that_says_nothing_more():
    assert templates.name({"prompt": "a painting", "anchor": "a painting by monet"}) == "a painting"
    assert templates.name({"prompt": "art by", "anchor": "art"}) == "by"
    assert templates.mentions("a boat, by MONET's hand", {"prompt": "art by monet", "anchor": "art"})
    assert not templates.mentions("a boat by monetta", {"prompt": "art by monet", "anchor": "art"})


@pytest.mark.parametrize(
    ("changed", "concepts", "message"),
    [
        ({}, {"a": {"prompt": "art", "anchor": "Art "}}, r"concepts\.a\.anchor: .* is the prompt"),
        (
            {"base_template": "{thing}"},
            CONCEPTS,
            r"conceptprune\.base_template: .* unknown field \{thing\}; known: \{sub",
        ),
        ({"target_template": "a {}"}, CONCEPTS, r"conceptprune\.target_template: .* unknown field \{\}"),
        ({"target_template": "a {sub"}, CONCEPTS, r"conceptprune\.target_template: .* is no template"),
        ({"target_template": "a {subject:d}"}, CONCEPTS, r"conceptprune\.target_template: .* ':' or '!'; .* {subject}"),
        ({"base_template": "a {subject!r}"}, CONCEPTS, r"conceptprune\.base_template: .* ':' or '!'"),
        ({"target_template": "A {subject}"}, CONCEPTS, r"subject 'tree' gives the pair .* do not differ"),
        (
            {"task": "attribute", "base_template": None, "target_template": None},
            CONCEPTS,
            "two forms, such as man/woman",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(tiny, changed, concepts, message):
    with pytest.raises(UserError, match=message) as error:
        run(tiny, concepts=concepts, **changed)
    assert "\n" not in str(error.value)


def test_a_net_without_the_layers_is_refused(tiny):
    plain = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4,
    )
    with pytest.raises(UserError, match=r"conceptprune\.layers: 'ffn\.2' selects nothing"):
        run(tiny, plain)


def test_options_are_a_schema():
    schema = rules.section_schema("erase_conceptprune", ("erasers", "conceptprune"))
    check(OPTIONS | {"base_template": None}, schema, "erase.conceptprune")
    for wrong, message in (
        ({"subjects": []}, "subjects"),
        ({"timesteps": 6}, r"timesteps: 6 is more than sampler_steps \(5\)"),
        ({"select_ratio": 1}, "select_ratio"),
        ({"layers": "ffn"}, "attn2.to_k"),
    ):
        with pytest.raises(UserError, match=message):
            check(OPTIONS | wrong, schema, "erase.conceptprune")


def test_erasers_share_one_signature():
    from lethe.erasing.erasers import esd, uce

    wanted = list(inspect.signature(esd.erase).parameters)
    assert list(inspect.signature(conceptprune.erase).parameters) == wanted
    assert list(inspect.signature(uce.erase).parameters) == wanted
