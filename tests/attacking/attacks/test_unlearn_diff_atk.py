import dataclasses

import pytest
import torch

from lethe.attacking import token_search
from lethe.attacking.attacks import unlearn_diff_atk
from lethe.drawing import sampling
from lethe.files.errors import UserError
from lethe.models import cutting, pipelines
from lethe.stage.record import Budget
from lethe.training import losses
from tests.attacking.attacks.searching import OPTIONS, hearing, only
from tests.attacking.attacks.searching import run as run_any
from tests.attacking.attacks.victims import victim


def run(own, folder, seed=0, **changed):
    return run_any(unlearn_diff_atk.attack, own, folder, seed, **changed)


def losses_of(found, key="loss"):
    return [float(row[key]) for row in found.facts]


@pytest.mark.parametrize("base", ["tiny_base", "other_base"])
def test_tokens_lower_the_loss_on_noise_that_the_search_did_not_see(base, tmp_path, request):
    own = hearing(request.getfixturevalue(base))
    found, _ = run(own, tmp_path, timesteps=10, iterations=8)
    table = losses.schedule(own.base.scheduler, None, "legacy", own.device)
    unseen = token_search.Search(
        own, OPTIONS, table, lambda shown: table.target(shown.clean, shown.noise, shown.t), "x", 7, Budget()
    )
    draws = torch.Generator().manual_seed(0)
    words = {word: one for one, word in unseen.words.items()}
    chosen = torch.tensor([[words[word] for word in row["tokens"].split()] for row in found.facts])
    value = unseen.compared(unseen.texts.filled(chosen)).mean()
    others = [
        unseen.compared(unseen.texts.filled(unseen.ids[torch.randint(len(unseen.ids), chosen.shape, generator=draws)]))
        for _ in range(30)
    ]
    means = torch.stack([other.mean() for other in others])
    assert value < means.min(), "better than each of thirty random choices"


@pytest.mark.parametrize("position", ["prefix", "suffix"])
def test_what_is_asked_is_text_that_is_read_as_it_was_found(tiny_base, tmp_path, position):
    own = hearing(tiny_base)
    prompts = {name: [dataclasses.replace(row, prompt="a b") for row in rows] for name, rows in own.rows.items()}
    own = dataclasses.replace(own, rows=prompts)
    found, _ = run(own, tmp_path, position=position)
    assert not found.states
    assert found.about["not_as_text"] == 0
    assert set(found.asked) == set(own.originals)
    for row in found.facts:
        text = found.asked[row["set"], row["case_number"]]
        assert text == (f"{row['tokens']} a b" if position == "prefix" else f"a b {row['tokens']}")
        assert len(row["tokens"].split()) == 2
    made = pipelines.encode_prompts(own.base.tokenizer, own.base.text_encoder, [text])
    drawn = sampling.encode_unique(own.base, [text])[text]
    torch.testing.assert_close(made[0], drawn)


def test_no_row_changes_another(tiny_base, tmp_path):
    """Bit for bit: alone, in other company, in another place of the tile, or in another tile."""
    own = hearing(tiny_base)
    whole, _ = run(own, tmp_path / "whole")
    for number, keys in enumerate([{("picasso", 2)}, {("monet", 5), ("picasso", 0)}]):
        few, _ = run(only(own, keys), tmp_path / str(number))
        assert few.asked == {key: whole.asked[key] for key in whole.asked if key in keys}
        assert few.facts == [row for row in whole.facts if (row["set"], row["case_number"]) in keys]
    changed = {name: [dataclasses.replace(row, prompt="zz") for row in rows] for name, rows in own.rows.items()}
    changed["monet"] = own.rows["monet"]
    other, _ = run(dataclasses.replace(own, rows=changed), tmp_path / "changed")
    assert other.facts[:3] == whole.facts[:3]
    assert other.facts[3:] != whole.facts[3:]


def test_chances_of_a_row_are_the_same_bits_in_any_company(tiny_base):
    own = hearing(tiny_base)
    table = losses.schedule(own.base.scheduler, None, "legacy", own.device)

    def chances(own):
        made = token_search.Search(
            own, OPTIONS, table, lambda shown: table.target(shown.clean, shown.noise, shown.t), "x", 0, Budget()
        )
        for k in range(4):
            made.step(k)
        return dict(zip(made.keys, made.state.chances, strict=True))

    whole, alone = chances(own), chances(only(own, {("picasso", 2)}))
    assert torch.equal(alone["picasso", 2], whole["picasso", 2])


def test_several_tiles(tiny_base, tmp_path):
    own = hearing(tiny_base)
    found, budget = run(own, tmp_path, batch=4)
    steps, levels, rows = 12, 4, 8  # six rows in two tiles of four
    checks = token_search.CHECKS * rows
    assert budget == Budget(student_forward=steps * rows + (levels + 1) * checks, student_backward=steps * rows)
    assert len(found.asked) == 6


def test_a_stopped_run_ends_as_one_that_was_not(tiny_base, tmp_path, monkeypatch):
    own = hearing(tiny_base)
    wanted, budget = run(own, tmp_path / "whole")
    step, steps = token_search.Search.step, []

    def stopping(self, k):
        steps.append(k)
        if len(steps) == 8:
            raise KeyboardInterrupt
        return step(self, k)

    monkeypatch.setattr(token_search.Search, "step", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(own, tmp_path / "cut")
    found, counted = run(own, tmp_path / "cut")
    assert steps == [*range(8), *range(7, 12)]
    assert (found.asked, found.facts) == (wanted.asked, wanted.facts)
    assert counted == budget
    assert found.progress.rows == wanted.progress.rows


def test_seeds_differ_and_weights_stay(tiny_base, tmp_path):
    own, fresh = hearing(tiny_base), hearing(tiny_base)
    one, _ = run(own, tmp_path / "one")
    other, _ = run(own, tmp_path / "other", seed=1)
    assert one.facts != other.facts
    pairs = zip(own.unet.parameters(), fresh.unet.parameters(), strict=True)
    assert all(torch.equal(after, before) and after.grad is None for after, before in pairs)


def test_it_works_on_a_pruned_net(tiny_base, tmp_path):
    own = victim(tiny_base)
    heads = [(name, module) for name, module in own.unet.named_modules() if name.endswith("attn2")]
    cutting.cut(own.unet, {name: {"kind": "heads", "total": one.heads, "kept": [0]} for name, one in heads})
    own.unet.requires_grad_(False)
    assert len(run(own, tmp_path)[0].asked) == 6


def test_a_guided_victim_is_searched_on_its_net_alone(tiny_base, tmp_path):
    own = hearing(tiny_base)
    guided = dataclasses.replace(own, guidance={"eraser": "sld", "text": "monet", "preset": "max"})
    plain, found = run(own, tmp_path / "plain")[0], run(guided, tmp_path / "guided")[0]
    assert (found.asked, found.facts) == (plain.asked, plain.facts)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tokens": 0}, r"unlearn_diff_atk\.tokens: 0 tokens beside the prompt.* give 1 to 13"),
        ({"tokens": 14}, r"unlearn_diff_atk\.tokens: 14 tokens beside the prompt; the text encoder reads 16"),
        ({"tokens": 8, "position": "suffix"}, r"no room for 8 tokens after 'a boat by monet'"),
        ({"timesteps": 1001}, r"unlearn_diff_atk\.timesteps: 1001 is not from 1 to the model's 1000 timesteps"),
    ],
)
def test_options_that_cannot_be(tiny_base, tmp_path, changed, message):
    with pytest.raises(UserError, match=message):
        run(victim(tiny_base), tmp_path, **changed)
