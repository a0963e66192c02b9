import dataclasses

import pytest
import torch

from lethe.attacking import token_search
from lethe.attacking.attacks import p4d
from lethe.params import rules
from lethe.stage.record import Budget
from lethe.texts import tokens
from tests.attacking.attacks.searching import hearing, only
from tests.attacking.attacks.searching import run as run_any


def run(own, folder, seed=0, **changed):
    return run_any(p4d.attack, own, folder, seed, **changed)


def test_the_options_are_those_of_the_other_search():
    assert rules.options_of("attacks", "p4d") == rules.options_of("attacks", "unlearn_diff_atk")


def test_the_target_is_what_the_dense_net_answers_to_the_clean_prompt(tiny_base, tmp_path, monkeypatch):
    """Read with the base's own text encoder, whatever the victim brings."""
    own, seen = hearing(tiny_base), []
    with torch.no_grad():
        for parameter in own.base.text_encoder.parameters():
            parameter += 0.1
    search = token_search.search
    monkeypatch.setattr(p4d, "search", lambda *given: (seen.append(given[2](None)), search(*given))[1])
    run(own, tmp_path)
    clean = torch.stack([*own.originals.values()])
    rows = list(range(6))
    shown = token_search.Noised(rows, clean, clean, clean, torch.full((6,), 500))
    plain = hearing(tiny_base)
    length = tokens.length(own.base)
    prompts = [row.prompt for _, row in own.pictures()]
    text = tokens.encode(plain.base.text_encoder, tokens.plain(own.base.tokenizer, prompts, length, own.device))
    with torch.no_grad():
        wanted = own.base.unet(clean, shown.t, text).sample
    torch.testing.assert_close(seen[0](shown), wanted, atol=1e-5, rtol=1e-5)


def test_nothing_is_lost_where_nothing_was_erased(tiny_base, tmp_path):
    """The dense net itself as the victim: without adversarial tokens there is no difference at all."""
    own = hearing(tiny_base)
    found, _ = run(dataclasses.replace(own, unet=own.base.unet), tmp_path)
    assert all(float(row["loss_of_prompt"]) < 1e-10 for row in found.facts)
    assert all(float(row["loss"]) > 1e-7 for row in found.facts)


def test_the_loss_is_lowered(tiny_base, tmp_path):
    own = hearing(tiny_base)
    few, _ = run(own, tmp_path / "few", timesteps=1, iterations=1)
    many, _ = run(own, tmp_path / "many", timesteps=12, iterations=6)
    means = [sum(float(row["loss"]) for row in found.facts) / 6 for found in (few, many)]
    assert means[1] < 0.95 * means[0]


def test_every_pass_is_counted(tiny_base, tmp_path, monkeypatch):
    own, seen = hearing(tiny_base), []
    forward = type(own.unet).forward

    def counting(self, sample, *rest, **named):
        seen.append((self is own.unet, len(sample)))
        return forward(self, sample, *rest, **named)

    monkeypatch.setattr(type(own.unet), "forward", counting)
    _, budget = run(own, tmp_path)
    steps, checks, rows = 12, token_search.CHECKS, 8
    students = steps * rows + (4 + 1) * checks * rows
    assert budget == Budget(students, steps * rows, steps * rows + checks * rows)
    assert sum(size for victims, size in seen if victims) == budget.student_forward
    assert sum(size for victims, size in seen if not victims) == budget.teacher_forward


def test_no_row_changes_another(tiny_base, tmp_path):
    own, key = hearing(tiny_base), ("picasso", 2)
    whole, _ = run(own, tmp_path / "whole")
    alone, _ = run(only(own, {key}), tmp_path / "alone")
    assert alone.facts == [row for row in whole.facts if (row["set"], row["case_number"]) == key]
    assert alone.asked == {key: whole.asked[key]}


@pytest.mark.parametrize("at", [1, 5])
def test_a_stopped_run_ends_as_one_that_was_not(tiny_base, tmp_path, monkeypatch, at):
    own = hearing(tiny_base)
    wanted, budget = run(own, tmp_path / "whole")
    with monkeypatch.context() as patch:
        step = token_search.Search.step

        def stopping(self, k):
            if k == at:
                raise KeyboardInterrupt
            return step(self, k)

        patch.setattr(token_search.Search, "step", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(own, tmp_path / "cut")
    found, counted = run(own, tmp_path / "cut")
    assert (found.asked, found.facts, counted) == (wanted.asked, wanted.facts, budget)
