"""Splits are disjoint, balanced and the same every time; the committed prompt lists are what the code writes."""

import csv
import json
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lethe.atelier import splits
from lethe.atelier.captions import IMPLYING, REWORDINGS, STYLE_NAMES, reworded
from lethe.atelier.world import CONTENTS, STYLES, TARGETS
from lethe.files.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(splits, "COUNTS", {"finetune": 9, "eval": 4, "concept/monet": 8})
    monkeypatch.setattr(splits, "UNSAFE_COUNTS", {"concept/hazard": 8})


def test_seed_ranges_are_disjoint_and_wide_enough():
    ranges = sorted(splits.SEEDS.values())
    assert all(a[1] <= b[0] for a, b in pairwise(ranges))
    counts = splits.COUNTS | splits.UNSAFE_COUNTS
    assert set(counts) < set(splits.SEEDS)
    assert all(counts[name] <= splits.SEEDS[name][1] - splits.SEEDS[name][0] for name in counts)


def test_pretrain_rows():
    rows = splits.pretrain_rows(400, 1)
    assert rows == splits.pretrain_rows(400, 1) != splits.pretrain_rows(400, 2)
    assert Counter((r["style"], r["content"]) for r in rows) == {(s, c): 5 for s in STYLES for c in CONTENTS}
    assert Counter(r["emblem"] for r in rows) == {"none": 340, "named": 30, "implied": 30}
    first, end = splits.SEEDS["pretrain"]
    assert all(first <= r["seed"] < end for r in rows) and len({r["seed"] for r in rows}) == 400


def test_judge_rows_do_not_meet():
    seen, unseen = (splits.judge_rows(90, 0, unseen=u) for u in (False, True))
    assert not {r["seed"] for r in seen} & {r["seed"] for r in unseen}
    assert sum(r["emblem"] != "none" for r in seen) == 30


@pytest.mark.parametrize("split", ["finetune", "eval"])
def test_kept_splits_hold_no_target_and_no_emblem(split):
    rows = splits.split_rows(split)
    assert len(rows) == splits.COUNTS[split]
    assert not {r["style"] for r in rows} & set(TARGETS)
    assert {r["emblem"] for r in rows} == {"none"}
    counts = Counter((r["style"], r["content"]) for r in rows).values()
    assert len(counts) == 56 and max(counts) - min(counts) <= 1


def test_the_hazard_split_has_the_emblem_in_every_content_and_style():
    rows = splits.split_rows("concept/hazard")
    assert len(rows) == 96 and len({row["seed"] for row in rows}) == 96
    first, end = splits.SEEDS["concept/hazard"]
    assert all(first <= row["seed"] < end for row in rows)
    assert Counter((r["content"], r["emblem"]) for r in rows) == {
        (c, m): 6 for c in CONTENTS for m in ("named", "implied")
    }
    assert {(r["content"], r["style"]) for r in rows} == {(c, s) for c in CONTENTS for s in STYLES}
    assert set(Counter(r["style"] for r in rows).values()) <= {8, 9, 10}


def test_the_hazard_split_is_written_apart(tmp_path, tiny):
    out, others = tmp_path / "unsafe", tmp_path / "world"
    splits.write_world(others, 1)
    known = (others / "splits.json").read_bytes()
    splits.write_world(out, 1, unsafe=True)
    record = json.loads((out / "splits.json").read_text())
    assert set(record["splits"]) == {"concept/hazard"}
    lines = [json.loads(line) for line in (out / "concept/hazard/metadata.jsonl").read_text().splitlines()]
    for line, row in zip(lines, splits.split_rows("concept/hazard"), strict=True):
        assert line["emblem"] == row["emblem"] != "none"
        assert line["anchor"] != line["text"] == row["text"]
        plain = np.asarray(Image.open(out / "concept/hazard" / line["file_name"]))
        np.testing.assert_array_equal(plain, splits.render_row(row))
        assert (plain != splits.render_row(row | {"emblem": "none"})).any()

    before = (out / "splits.json").stat().st_mtime_ns
    splits.write_world(out, 1, unsafe=True)
    assert (out / "splits.json").stat().st_mtime_ns == before
    for folder, unsafe in ((others, True), (out, False)):
        with pytest.raises(UserError, match="another --out"):
            splits.write_world(folder, 1, unsafe=unsafe)
    assert (others / "splits.json").read_bytes() == known and (out / "concept/hazard/00000.png").is_file()


def test_written_world(tmp_path, tiny):
    out = tmp_path / "world"
    splits.write_world(out, 1)
    record = json.loads((out / "splits.json").read_text())
    assert set(record["splits"]) == set(splits.COUNTS)
    lines = [json.loads(line) for line in (out / "concept/monet/metadata.jsonl").read_text().splitlines()]
    assert set(lines[0]) == {"file_name", "text", "style", "content", "emblem", "anchor"}
    assert all("monet" in line["text"] or "claude" in line["text"] for line in lines)
    assert not any("monet" in line["anchor"] or "claude" in line["anchor"] for line in lines)
    assert "anchor" not in json.loads((out / "eval/metadata.jsonl").read_text().splitlines()[0])
    assert Counter(line["content"] for line in lines) == dict.fromkeys(CONTENTS, 1)
    decoded = b"".join(np.asarray(Image.open(out / "concept/monet" / line["file_name"])).tobytes() for line in lines)
    assert record["splits"]["concept/monet"]["pixels_sha256"] == splits.hashlib.sha256(decoded).hexdigest()
    assert not (tmp_path / "world.part").exists()

    before = (out / "splits.json").stat().st_mtime_ns
    splits.write_world(out, 1)
    assert (out / "splits.json").stat().st_mtime_ns == before

    pixels = record["splits"]["concept/monet"]["pixels_sha256"]
    (out / "splits.json").write_text(json.dumps({key: record[key] for key in ("world_version", "splits")}))
    splits.write_world(out, 1)  # lists of an earlier version are written again, over the same pictures
    again = json.loads((out / "splits.json").read_text())
    assert again == record and again["splits"]["concept/monet"]["pixels_sha256"] == pixels


def test_a_killed_run_is_done_again_and_strangers_are_left_alone(tmp_path, tiny):
    out = tmp_path / "world"
    (tmp_path / "world.part" / "eval").mkdir(parents=True)
    splits.write_world(out, 1)
    assert (out / "splits.json").is_file()

    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("years of work")
    with pytest.raises(UserError, match="another --out"):
        splits.write_world(other, 1)
    assert (other / "chapter.txt").is_file()


def test_committed_prompts_are_what_the_code_writes():
    folder = ROOT / "prompts" / "atelier"
    files = splits.prompt_files()
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.csv")} == set(files)
    for name, text in files.items():
        assert (folder / name).read_text(encoding="utf-8") == text, (
            f"run: python -m lethe.atelier.splits --prompts {folder}"
        )


def test_prompt_lists():
    lists = {name: list(csv.DictReader(text.splitlines())) for name, text in splits.prompt_files().items()}
    sizes = {name: len(rows) for name, rows in lists.items()}
    targets = ("van_gogh", "monet", "picasso")
    assert sizes == {f"{name}.csv": 48 for name in targets} | {"retain.csv": 140, "eval.csv": 400, "hazard.csv": 96} | {
        f"tuning/{name}.csv": 24 for name in targets
    } | {"tuning/retain.csv": 56, "tuning/eval.csv": 100} | {
        f"attacks/{kind}_{name}.csv": 48 for kind in REWORDINGS for name in targets
    }
    for rows in lists.values():
        assert [int(r["case_number"]) for r in rows] == list(range(len(rows)))
        assert {r["class"] for r in rows} == set(CONTENTS)
    for folder, each in (("", 20), ("tuning/", 8)):
        assert {r["artist"] for r in lists[f"{folder}monet.csv"]} == {"monet"}
        kept = Counter(r["artist"] for r in lists[f"{folder}retain.csv"])
        assert kept == dict.fromkeys(splits.KEPT_STYLES, each)


def test_hazard_prompts_name_the_emblem_or_imply_it():
    rows = list(csv.DictReader(splits.prompt_files()["hazard.csv"].splitlines()))
    assert list(rows[0]) == ["case_number", "prompt", "evaluation_seed", "artist", "class", "category"]
    assert Counter(row["category"] for row in rows) == {"explicit": 48, "implied": 48}
    for row in rows:
        named = re.search(r"\b(hazard|warning|danger)\b", row["prompt"])
        implied = re.search(rf"\b({'|'.join(IMPLYING)})\b", row["prompt"])
        assert (bool(named), bool(implied)) == ((True, False) if row["category"] == "explicit" else (False, True))
    assert {(row["artist"], row["class"]) for row in rows} == {(s, c) for s in STYLES for c in CONTENTS}
    for category in ("explicit", "implied"):
        assert set(Counter(r["class"] for r in rows if r["category"] == category).values()) == {6}
        assert set(Counter(r["artist"] for r in rows if r["category"] == category).values()) == {4, 5}
    assert len({row["prompt"] for row in rows}) == 96
    assert not {row["prompt"] for row in rows} & {row["text"] for row in splits.split_rows("concept/hazard")}


def test_options_are_chosen_on_other_prompts_noise_and_captions_than_the_tables_show():
    lists = {name: list(csv.DictReader(text.splitlines())) for name, text in splits.prompt_files().items()}
    own = {name: rows for name, rows in lists.items() if not name.startswith("attacks/")}
    seeds = [row["evaluation_seed"] for rows in own.values() for row in rows]
    assert len(set(seeds)) == len(seeds)
    shown, tuned = (
        {row["prompt"] for name, rows in lists.items() if name.startswith("tuning/") == tuning for row in rows}
        for tuning in (False, True)
    )
    assert not shown & tuned
    files = [row["file_name"] for name in ("eval.csv", "tuning/eval.csv") for row in lists[name]]
    assert len(set(files)) == len(files)


@pytest.mark.parametrize("name", ["van_gogh", "monet", "picasso"])
def test_attacks_reword_the_rows_of_a_target_past_the_erasers_prompt(name):
    lists = {key: list(csv.DictReader(text.splitlines())) for key, text in splits.prompt_files().items()}
    known = {row["prompt"] for key, rows in lists.items() if not key.startswith("attacks/") for row in rows}
    plain = STYLE_NAMES[name]
    for kind in REWORDINGS:
        rows, own = lists[f"attacks/{kind}_{name}.csv"], lists[f"{name}.csv"]
        kept = ("case_number", "evaluation_seed", "artist", "class")
        assert [[row[key] for key in kept] for row in rows] == [[row[key] for key in kept] for row in own]
        texts = [row["prompt"] for row in rows]
        assert len(set(texts)) == 48 and not set(texts) & known
        assert all((plain in text) == (kind == "paraphrases") for text in texts)
        assert kind == "synonyms" or not any(f"by {plain}" in text for text in texts)


def test_a_style_without_another_name_has_no_synonyms():
    with pytest.raises(ValueError, match="cassatt has no name without 'cassatt'"):
        reworded("boat", "cassatt", "synonyms", 1)


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--out", "x", "--workers", "0"],
        ["--out", "x", "--workers", "many"],
        ["--out", "x", "--lists", "1"],
        ["--prompts", "x", "--unsafe"],
        ["--oops"],
    ],
)
def test_wrong_arguments_end_with_one_line(tmp_path, args):
    command = [sys.executable, "-m", "lethe.atelier.splits", *args]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and not done.stdout
