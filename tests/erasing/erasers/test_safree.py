import gc
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lethe.drawing import sampling
from lethe.erasing.erasers import safree
from lethe.files.errors import UserError
from lethe.models import pipelines
from lethe.stage.record import Budget
from lethe.texts.rows import Prompt

OPTIONS = {
    "alpha": 0.0,
    "gamma": None,
    "padding": False,
    "hide": "mask",
    "filter": "paper",
    "negative": False,
    "reattention": False,
}
PROMPT = "a sun by me"


@pytest.fixture(scope="module", params=["tiny_base", "other_base"])
def base(request):
    found = pipelines.load_base(
        str(request.getfixturevalue(request.param)), None, ["unet", "vae", "text_encoder", "tokenizer", "scheduler"]
    )
    found.latent_shape = pipelines.latent_shape(found.unet)
    return found


def embedding(base, text):
    return pipelines.encode_prompts(base.tokenizer, base.text_encoder, [text])[0]


def span(rows):
    """Orthogonal projection onto the rows' span by singular vectors."""
    _, sizes, directions = np.linalg.svd(rows.numpy(), full_matrices=False)
    basis = directions[sizes > 1e-5 * sizes[0]]
    return torch.from_numpy(basis.T @ basis)


def test_projections_are_projections_also_of_dependent_rows():
    rows = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    rows[3] = 2 * rows[0] - rows[1]
    rows[4] = rows[2] * (1 + 1e-7)
    found = safree.projection(rows.double())
    torch.testing.assert_close(found @ found, found)
    torch.testing.assert_close(found, found.T)
    torch.testing.assert_close(rows.double() @ found, rows.double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(found, span(rows.double()), atol=1e-6, rtol=0)
    assert round(float(found.trace()), 3) == 3


def test_a_masked_token_is_seen_by_no_other(base):
    words = safree.tokens(base, PROMPT)
    others = [3 if place == 2 else word for place, word in enumerate(words)]
    assert others != words
    for hidden, alike in ((2, True), (1, False), (None, False)):
        found, wanted = (safree.pooled(base, ids, [hidden], "mask") for ids in (others, words))
        assert torch.equal(found, wanted) == alike
    end = embedding(base, PROMPT)[len(words) - 1].double()
    torch.testing.assert_close(safree.pooled(base, words, [None], "mask")[0], end, atol=1e-5, rtol=1e-4)


def test_a_token_counts_if_hiding_it_takes_the_prompt_farther():
    distances = torch.tensor([1.0, 1.1, 1.0, 1.5])  # others' means: 1.2, 1.1667, 1.2, 1.0333
    assert safree.detected(distances, 0.0, None).tolist() == [False, False, False, True]
    assert safree.detected(distances, 0.44, None).tolist() == [False, False, False, True]
    assert safree.detected(distances, 0.46, None).tolist() == [False] * 4
    assert safree.detected(torch.tensor([1.2]), 0.1, torch.tensor([1.0])).tolist() == [True]
    assert safree.detected(torch.tensor([1.2]), 0.3, torch.tensor([1.0])).tolist() == [False]


@pytest.mark.parametrize("padding", [False, True])
def test_detected_tokens_are_projected_and_no_others(base, padding):
    before, words = embedding(base, PROMPT), safree.tokens(base, PROMPT)
    count = len(words) - 2
    hidden = safree.pooled(base, words, range(1, count + 1), "mask")
    unsafe = span(safree.pooled(base, safree.tokens(base, "me"), [None], "mask"))
    found, similarity = safree.move(base, PROMPT, before, unsafe, 0.0, padding, "mask")

    outside = torch.eye(len(unsafe), dtype=torch.float64) - unsafe
    distances = [float(torch.linalg.norm(outside @ row)) for row in hidden]
    means = [sum(distances[:i] + distances[i + 1 :]) / (count - 1) for i in range(count)]
    theirs = [i + 1 for i in range(count) if distances[i] > means[i]]
    assert 0 < len(theirs) < count
    if padding:
        theirs += range(count + 1, len(before))
    for place, (old, new) in enumerate(zip(before, found, strict=True)):
        wanted = (span(hidden) @ outside @ old.double()).float() if place in theirs else old
        torch.testing.assert_close(new, wanted, atol=1e-5, rtol=1e-4)
        assert torch.equal(new, old) == (place not in theirs)
    own = before[: count + 2].double()  # start and end count
    moved = own @ outside @ span(hidden)
    cosines = [float(a @ b / (a.norm() * b.norm())) for a, b in zip(own, moved, strict=True)]
    assert math.isclose(similarity, sum(cosines) / (count + 2), abs_tol=1e-6)


def test_a_moved_token_stays_in_the_input_space_and_leaves_the_concept_there(base):
    before, words = embedding(base, PROMPT), safree.tokens(base, PROMPT)
    count = len(words) - 2
    hidden = safree.pooled(base, words, range(1, count + 1), "mask")
    concept = hidden[:2].sum(0, keepdim=True)  # within the input space
    found, _ = safree.move(base, PROMPT, before, span(concept), 0.0, False, "mask")
    moved = [new.double() for old, new in zip(before, found, strict=True) if not torch.equal(old, new)]
    assert moved
    for new in moved:
        torch.testing.assert_close(span(hidden) @ new, new, atol=1e-5, rtol=0)
        assert abs(float(new @ concept[0])) < 1e-4 * float(concept.norm()) * max(1, float(new.norm()))


@pytest.mark.parametrize(("text", "alpha"), [(PROMPT, 1.0e6), ("", 0.0), ("m", 1.0e6)])
def test_a_prompt_far_from_the_concepts_comes_back_bit_for_bit(base, text, alpha):
    before = embedding(base, text)
    unsafe = span(safree.pooled(base, safree.tokens(base, "me"), [None], "mask"))
    found, _ = safree.move(base, text, before, unsafe, alpha, True, "mask")
    assert torch.equal(found, before)


def test_a_prompt_that_the_encoder_cuts(base):
    text = "a very long prompt that is cut " * 3
    words = safree.tokens(base, text)
    assert len(words) == len(embedding(base, text))
    unsafe = span(safree.pooled(base, safree.tokens(base, "cut"), [None], "mask"))
    found, _ = safree.move(base, text, embedding(base, text), unsafe, 0.0, False, "mask")
    assert found.shape == embedding(base, text).shape


@pytest.mark.parametrize(
    ("similarity", "gamma", "steps", "wanted"),
    [(1.0, 10.0, 50, 6), (0.5, 10.0, 50, 7), (-1.0, 10.0, 50, 10), (0.5, 10.0, 20, 3), (0.5, 500.0, 20, 20)],
)
def test_self_validating_filter(similarity, gamma, steps, wanted):
    """Steps 0 to round(gamma sigmoid(1 - cos)), with the last: eq. 6."""
    assert wanted == min(steps, 1 + round(gamma / 50 * steps / (1 + math.exp(similarity - 1))))
    assert safree.filtered(similarity, gamma, steps) == wanted


@pytest.mark.parametrize(
    ("fit", "similarity", "wanted"),
    [("nudity", 0.9, 1), ("nudity", 1 - 0.5333, 6), ("nudity", 0.0, 11), ("artists", 0.45, 6), ("artists", 0.4, 11)],
)
def test_the_released_filter_is_fitted_to_a_kind_of_concept(fit, similarity, wanted):
    """Half of gamma at a distance of 0.5333 or 0.55, and from there steep: 10 sigmoid(2 * 3.5 * 0.5) = 9.7."""
    assert safree.filtered(similarity, 10.0, 50, fit) == wanted


def test_the_former_filter_counts_the_prompts_own_tokens_and_one_step_less(base):
    text, words = embedding(base, PROMPT), safree.tokens(base, PROMPT)
    unsafe = safree.projection(safree.pooled(base, safree.tokens(base, "me"), [None], "mask"))
    _, found = safree.move(base, PROMPT, text, unsafe, 0.0, False, "mask", own_alone=True)
    away = torch.eye(len(unsafe), dtype=torch.float64) - unsafe
    inside = safree.projection(safree.pooled(base, words, range(1, len(words) - 1), "mask"))
    own = text[1 : len(words) - 1].double()
    assert found == pytest.approx(float(torch.cosine_similarity(own, own @ away @ inside, dim=1).mean()))
    assert safree.filtered(found, 20.0, 10, "words") == safree.filtered(found, 20.0, 10) - 1


@pytest.mark.parametrize("gamma", [20.0, None])
def test_the_first_steps_use_the_moved_prompt(base, gamma):
    record = {"eraser": "safree", "texts": ["me"], **OPTIONS, "gamma": gamma}
    seen = []

    class Listening(torch.nn.Linear):
        def forward(self, x, t, encoder_hidden_states, return_dict):
            seen.append(encoder_hidden_states)
            return (x,)

    settings = sampling.Settings("ddim", 10, 4.0, 2)
    embeddings = {text: embedding(base, text) for text in ("", PROMPT, "m")}
    begin = safree.guide(base, Listening(1, 1), record, settings, embeddings)
    predict = begin(["m", PROMPT])
    for index in range(10):
        predict(torch.ones(2, 4, 2, 2), torch.tensor(9 - index), index)
    unsafe = safree.projection(safree.pooled(base, safree.tokens(base, "me"), [None], "mask"))
    moved, similarity = safree.move(base, PROMPT, embeddings[PROMPT], unsafe, 0.0, False, "mask")
    last = 10 if gamma is None else safree.filtered(similarity, gamma, 10)
    assert not torch.equal(moved, embeddings[PROMPT])
    assert last == 10 or 0 < last < 6
    for index, text in enumerate(seen):
        assert torch.equal(text[:2], embeddings[""].expand(2, -1, -1))
        assert torch.equal(text[3], moved if index < last else embeddings[PROMPT])


def test_pictures_change_only_if_a_token_is_found(base):
    rows = [[Prompt(0, PROMPT, 1), Prompt(1, "a boat", 2)]]
    for guidance in (1.0, 4.0):
        settings = sampling.Settings("ddim", 2, guidance, 2)
        plain = next(sampling.draw(base, base.unet, rows, settings))
        for alpha, same in ((1.0e6, True), (0.0, False)):
            record = {"eraser": "safree", "texts": ["me"], **OPTIONS, "alpha": alpha, "padding": True}
            found = next(sampling.draw(base, base.unet, rows, settings, 1, record))
            assert np.array_equal(found, plain) == same


def test_the_record_holds_the_prompts_and_the_options():
    concepts = {"monet": {"prompt": "by monet"}, "sun": {"prompt": "a sun"}}
    base = SimpleNamespace(tokenizer=SimpleNamespace(eos_token_id=1))
    found = safree.erase(None, base, concepts, OPTIONS, 0, None, Budget())
    assert found.guidance == {"eraser": "safree", "texts": ["by monet", "a sun"], **OPTIONS}
    assert found.progress is None


def test_a_vocabulary_that_ends_with_0_cannot_hide_by_it():
    base = SimpleNamespace(tokenizer=SimpleNamespace(eos_token_id=0))
    with pytest.raises(UserError, match="give 'mask'"):
        safree.erase(None, base, {"sun": {"prompt": "a sun"}}, OPTIONS | {"hide": "zero"}, 0, None, Budget())


def test_a_record_of_an_older_version_draws_as_it_did(base):
    old = {"eraser": "safree", "texts": ["me"], "alpha": 0.0, "gamma": 20.0, "padding": False}
    settings, rows = sampling.Settings("ddim", 10, 4.0, 1), [[Prompt(0, PROMPT, 1)]]
    options = {"hide": "mask", "filter": "words", "negative": False, "reattention": False}
    found, wanted = (next(sampling.draw(base, base.unet, rows, settings, guidance=one)) for one in (old, old | options))
    published = next(sampling.draw(base, base.unet, rows, settings, guidance=old | options | {"filter": "paper"}))
    assert np.array_equal(found, wanted) and not np.array_equal(found, published)


def test_a_cut_negative_prompt_is_told(base, capsys):
    concepts = {name: {"prompt": f"a painting by {name}"} for name in ("monet", "munch")}
    found = safree.erase(None, base, concepts, OPTIONS | {"negative": True}, 0, None, Budget())
    whole = len(base.tokenizer("a painting by monet, a painting by munch").input_ids)
    cut = whole - base.tokenizer.model_max_length
    assert cut > 0
    assert found.facts == {"negative_tokens_cut": cut}
    assert f"is cut by {cut} tokens" in capsys.readouterr().out


def test_a_token_is_hidden_by_the_number_0(base):
    words = safree.tokens(base, PROMPT)
    by_hand = torch.tensor([[0 if place == 2 else word for place, word in enumerate(words)]])
    wanted = base.text_encoder(by_hand).pooler_output.double()
    torch.testing.assert_close(safree.pooled(base, words, [2], "zero"), wanted, atol=1e-6, rtol=0)
    assert torch.equal(safree.pooled(base, words, [None], "zero"), safree.pooled(base, words, [None], "mask"))


EXAMPLES = ("a sun by me", "a boat", "by monet", "a red house", "sea and sky", "old tree")


def test_what_the_docstring_says_of_the_sizes_of_its_differences(tiny_base):
    """Other tokens are found by the other way to hide them, and the released order of projections leads elsewhere."""
    base = pipelines.load_base(str(tiny_base), None, ["text_encoder", "tokenizer"])
    other, away = 0, []
    for text in EXAMPLES:
        words = safree.tokens(base, text)
        found = []
        for hide in ("zero", "mask"):
            unsafe = span(safree.pooled(base, safree.tokens(base, "monet"), [None], hide))
            outside = torch.eye(len(unsafe), dtype=torch.float64) - unsafe
            hidden = safree.pooled(base, words, range(1, len(words) - 1), hide)
            found.append(safree.detected((hidden @ outside).norm(dim=1), 0.01, None).tolist())
            if hide == "zero":
                own = embedding(base, text)[1 : len(words) - 1].double()
                ours, theirs = own @ outside @ span(hidden), own @ span(hidden) @ outside
                away += ((ours - theirs).norm(dim=1) / ours.norm(dim=1)).tolist()
        other += found[0] != found[1]
    assert other == 5
    assert sum(away) / len(away) == pytest.approx(0.2, abs=0.01)


def test_the_concepts_are_the_negative_prompt(base):
    seen = []

    class Listening(torch.nn.Linear):
        def forward(self, x, t, encoder_hidden_states, return_dict):
            seen.append(encoder_hidden_states)
            return (x,)

    record = {"eraser": "safree", "texts": ["me", "sun"], **OPTIONS, "negative": True}
    embeddings = {text: embedding(base, text) for text in ("", "m")}
    settings = sampling.Settings("ddim", 2, 4.0, 1)
    safree.guide(base, Listening(1, 1), record, settings, embeddings)(["m"])(torch.ones(1, 4, 2, 2), torch.tensor(1), 0)
    assert torch.equal(seen[0][0], embedding(base, "me, sun"))


def test_reattention_acts_where_the_prompt_moved_alone_and_leaves_no_hook(base):
    rows = [[Prompt(0, PROMPT, 1), Prompt(1, "a boat", 2)]]
    settings = sampling.Settings("ddim", 2, 4.0, 2)

    def drawn(**changes):
        record = {"eraser": "safree", "texts": ["me"], **OPTIONS, **changes}
        return next(sampling.draw(base, base.unet, rows, settings, 1, record)).astype(int)

    for alpha in (1.0e6, 0.0):
        with_it, without = (drawn(alpha=alpha, padding=True, reattention=on) for on in (True, False))
        assert (abs(with_it - without).max() > 1) == (alpha == 0.0)
    gc.collect()
    assert not any(part._forward_pre_hooks for part in base.unet.modules())
