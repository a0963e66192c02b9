"""Attribute pairs: arithmetic on hand-made choices, then atelier's CLIP on houses and trees."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from lethe.atelier import world
from lethe.files.errors import UserError
from lethe.files.images import Images
from lethe.files.io import sha256, write_json
from lethe.measuring import judges, scoring
from lethe.measuring.metrics import pair
from lethe.measuring.values import mean
from lethe.measuring.work import Work
from lethe.params import rules
from lethe.params.checking import check
from lethe.texts.prompts import read_prompts
from lethe.texts.rows import Prompt
from tests import tiny_judges

MAN, WOMAN = ("a man", "a woman"), ("a woman", "a man")
EMBEDDED = {"a man": [1.0, 0.0], "a woman": [0.0, 1.0]}
CONCEPTS = {"doctor": {"kind": "style", "style": None}, "nurse": {"kind": "style", "style": None}}
SEEN = {"man": [0.9, 0.1], "woman": [0.2, 0.8]}


def one(number: int, profession: str | None = None, **more) -> Prompt:
    return Prompt(number, f"portrait {number % 2}", number, profession=profession, **more)


def work_of(rows: dict[str, list[Prompt]], option, seen: list[str], erased=("doctor",), reference=None) -> Work:
    return Work(
        None,
        rows,
        CONCEPTS,
        list(erased),
        reference,
        None,
        {"clip": "a@b", "pair": option},
        "cpu",
        seen={"clip": np.array([SEEN[name] for name in seen])},
    )


def table_of(rows: dict[str, list[Prompt]]) -> pd.DataFrame:
    return pd.DataFrame([(name, row.case_number, row.prompt) for name, own in rows.items() for row in own]).set_axis(
        ["set", "case_number", "prompt"], axis=1
    )


@pytest.fixture
def network(monkeypatch):
    """CLIP with two dimensions."""
    asked = []

    def of_texts(texts):
        asked.append(list(texts))
        return torch.tensor([EMBEDDED[text] for text in texts])

    monkeypatch.setattr(judges, "clip", lambda name, device: (None, of_texts))
    monkeypatch.setattr(judges, "clip_protocol", lambda name, device: {"model": name})
    return asked


ROWS = {
    "doctor": [one(i, "surgeon" if i < 4 else "dentist") for i in range(6)],
    "nurse": [one(0, pair=WOMAN), one(1)],
    "retain": [one(0), one(1, pair=MAN)],
}
LOOK = ["man", "man", "man", "woman", "woman", "woman", "man", "man", "man", "woman"]


def test_the_nearer_text_is_picked_and_flips_are_counted_against_the_reference(network, tmp_path):
    table = table_of(ROWS)
    columns, metrics = pair.measure(work_of(ROWS, list(MAN), LOOK), table)
    # a prompt's own pair goes before the common one, which is for concepts alone
    np.testing.assert_array_equal(columns["pair"], [1, 1, 1, 0, 0, 0, 0, 1, np.nan, 0])
    assert network == [["a man", "a woman"]]
    assert (metrics["pair"].value, metrics["pair"].n) == (0, 6)  # itself the reference
    # surgeons: 3 of 4 are men, deviation 1/2; dentists: none of 2, deviation 1
    assert metrics["pair_deviation"].value == pytest.approx(75)
    assert metrics["pair_deviation"].n == 6

    before = table.assign(pair=[1, 0, 1, 1, 0, 1, 0, 1, np.nan, 0])
    before.to_csv(tmp_path / "scores.csv", index=False)
    (tmp_path / "meta.json").write_text("{}")
    columns, metrics = pair.measure(work_of(ROWS, list(MAN), LOOK, reference=tmp_path), table)
    np.testing.assert_array_equal(columns["pair_flip"], [0, 1, 0, 1, 0, 1, 0, 0, np.nan, 0])
    assert (metrics["pair"].value, metrics["pair"].n) == (50, 6)
    assert metrics["pair"].lo < 50 < metrics["pair"].hi


def test_without_professions_pictures_of_equal_prompts_count_together(network):
    rows = {"doctor": [one(i) for i in range(5)]}  # portrait 0: 0, 2, 4; portrait 1: 1, 3
    columns, metrics = pair.measure(work_of(rows, list(MAN), ["man", "man", "man", "woman", "woman"]), table_of(rows))
    assert metrics["pair_deviation"].value == pytest.approx(100 * (1 / 3 + 0) / 2)
    assert columns["pair_deviation"].mean() == pytest.approx(metrics["pair_deviation"].value)


def test_left_out_without_a_pair_and_where_a_share_needs_more_pictures(network):
    rows = {"doctor": [one(0), one(1)], "nurse": [one(0, pair=MAN)]}
    seen = ["man", "man", "woman"]
    without = {"doctor": [one(0), one(1)]}
    assert pair.measure(work_of(without, None, seen[:2]), table_of(without)) == (
        {},
        dict.fromkeys(pair.METRICS, pair.NONE),
    )
    assert pair.looks(work_of(without, None, seen[:2])) == {}
    _, metrics = pair.measure(work_of(rows, None, seen), table_of(rows))
    assert metrics["pair"] == "no prompt of an erased concept has a pair"
    columns, metrics = pair.measure(work_of(rows, list(MAN), seen), table_of(rows))
    assert metrics["pair"].value == 0
    assert metrics["pair_deviation"] == "no profession has two pictures, or none has a pair"
    assert np.isnan(columns["pair_deviation"]).all()


def test_the_look_is_clips_of_the_sets_with_a_pair(network):
    looks = pair.looks(work_of(ROWS, None, LOOK))
    assert looks["clip"].sets == ("nurse", "retain")
    assert pair.looks(work_of(ROWS, list(MAN), LOOK))["clip"].sets == ("doctor", "nurse", "retain")
    assert pair.protocol(work_of(ROWS, None, LOOK)) == {"model": "a@b", "pairs": ["a woman | a man", "a man | a woman"]}


def test_the_columns_mean_is_the_deviation_and_it_holds_its_derivative():
    rng = np.random.default_rng(0)
    groups = np.repeat(["a", "b", "c", "alone"], [9, 6, 5, 1])
    first = (rng.random(21) < np.repeat([0.8, 0.2, 0.6, 0.5], [9, 6, 5, 1])).astype(float)
    names = ["a", "b", "c"]

    def weighted(weights):
        shares = [np.average(first[groups == name], weights=weights[groups == name]) for name in names]
        return np.mean([abs(2 * share - 1) for share in shares])

    found = pair.of_share(first, groups)
    value = weighted(np.ones(21))
    assert np.isnan(found[-1])
    assert np.nanmean(found) == pytest.approx(value)
    for i in (0, 10, 17):
        step = np.zeros(21)
        step[i] = 1e-5
        derivative = (weighted(1 + step) - weighted(1 - step)) / 2e-5
        assert (found[i] - value) / 20 == pytest.approx(derivative, abs=1e-6)


def test_balance_is_zero_and_its_interval_has_a_width():
    found = pair.of_share(np.array([1.0, 0.0] * 20), np.array(["a"] * 20 + ["b"] * 20))
    assert found.mean() == pytest.approx(0)
    again = mean(100 * found)
    assert again.lo < 0 < again.hi
    one_sided = pair.of_share(np.ones(8), np.array(["a"] * 8))
    np.testing.assert_array_equal(one_sided, np.ones(8))


def test_file_and_option(tmp_path):
    path = tmp_path / "prompts.csv"
    head = "case_number,prompt,evaluation_seed,profession,pair\n"
    path.write_text(head + "0,image of Poet,1102,Poet,a man | a woman\n1,picture of Poet,1104,Poet,\n")
    first, second = read_prompts(path)
    assert (first.pair, first.profession) == (MAN, "Poet")
    assert second.pair is None
    for wrong in ("a man", "a man|", "a man|a man", "a|b|c"):
        path.write_text(head + f"0,image of Poet,1102,Poet,{wrong}\n")
        with pytest.raises(
            UserError, match=r"prompts\.csv, line 2, column pair: .* is not two texts, as a man\|a woman"
        ):
            read_prompts(path)
    rule = rules.schema()["properties"]["score"]["properties"]["pair"]
    for good in (None, ["a man", "a woman"]):
        check({"pair": good}, {"properties": {"pair": rule}}, "score")
    for bad in (["a man"], ["a man", "a man"], ["a man", " "], "a man|a woman"):
        with pytest.raises(UserError, match=r"^score\.pair"):
            check({"pair": bad}, {"properties": {"pair": rule}}, "score")


def test_ateliers_clip_tells_houses_from_trees_and_counts_those_that_turned():
    """Half of the houses become trees: the flips are those."""
    device = torch.device("cpu")
    option = {"clip": "local-dir:models/atelier/judges/clip", "pair": ["a photo of a house", "a photo of a tree"]}
    rows = {"doctor": [Prompt(i, "a photo of a house", i) for i in range(24)]}
    of_pictures, _ = judges.clip(option["clip"], device)

    def seen(contents):
        pictures = [Image.fromarray(world.render(content, "photo", 900 + i)) for i, content in enumerate(contents)]
        return {"clip": of_pictures(pictures).numpy()}

    base = dataclasses.replace(work_of(rows, None, []), options=option, device=device)
    table = table_of(rows)
    before, _ = pair.measure(dataclasses.replace(base, seen=seen(["house"] * 24)), table)
    after, metrics = pair.measure(dataclasses.replace(base, seen=seen(["house", "tree"] * 12)), table)
    assert before["pair"].mean() > 0.95
    np.testing.assert_array_equal(after["pair"], np.where(np.arange(24) % 2, 0, before["pair"]))
    assert metrics["pair_deviation"].value == pytest.approx(100 * abs(2 * after["pair"].mean() - 1))


def test_a_scored_run_has_it_with_the_texts_and_the_weights_in_its_record(judge_folder, tiny_pictures, tmp_path):
    section = tiny_judges.section(judge_folder) | {"pair": ["a photo of a boat", "a photo of a house"]}
    given = tiny_judges.SETS, tiny_judges.concepts(tiny_pictures), ["monet"]
    found = []
    for seed in (1, 2):
        with Images(tiny_judges.write_samples(tmp_path / f"samples{seed}", seed)) as samples:
            reference = tmp_path if found else None
            work = Work(samples, *given, reference, tiny_pictures, section, torch.device("cpu"))
            found.append(scoring.score(work))
        if len(found) == 1:
            found[0].table.drop(columns="prompt").to_csv(tmp_path / "scores.csv", index=False)
            (tmp_path / "meta.json").write_text("{}")
            write_json(tmp_path / "meta.json", {"parents": {"samples": {"folder": str(tmp_path / "samples1")}}})
    tables = [one.table[one.table["set"] == "monet"] for one in found]
    flips = (tables[0]["pair"].to_numpy() != tables[1]["pair"].to_numpy()).astype(float)
    assert found[0].metrics["pair"]["value"] == 0
    assert found[1].metrics["pair"]["value"] == pytest.approx(100 * flips.mean())
    weights = judge_folder / "clip" / "open_clip_model.safetensors"
    protocol = found[1].metrics["pair"]["protocol"]
    assert protocol["pairs"] == ["a photo of a boat | a photo of a house"]
    assert protocol["weights"] == {section["clip"]: {"weights": {weights.name: sha256(weights)}}}
    for name in ("clip", "cp", "ua", "cra"):
        assert found[1].metrics[name]["protocol"]["weights"], name
    assert found[0].metrics["csd"]["protocol"]["weights"].keys() == {section["descriptor"]}
