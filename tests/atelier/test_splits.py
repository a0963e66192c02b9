"""Splits are disjoint, balanced and the same every time; the committed prompt lists are what the code writes."""

import csv
import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lethe.atelier import splits
from lethe.atelier.world import CONTENTS, STYLES, TARGETS
from lethe.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(splits, "COUNTS", {"finetune": 9, "eval": 4, "concept/monet": 8})


def test_seed_ranges_are_disjoint_and_wide_enough():
    ranges = sorted(splits.SEEDS.values())
    assert all(a[1] <= b[0] for a, b in pairwise(ranges))
    assert all(splits.COUNTS[name] <= splits.SEEDS[name][1] - splits.SEEDS[name][0] for name in splits.COUNTS)


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
    assert sizes == {f"{name}.csv": 48 for name in targets} | {"retain.csv": 140, "eval.csv": 400} | {
        f"tuning/{name}.csv": 24 for name in targets
    } | {"tuning/retain.csv": 56, "tuning/eval.csv": 100}
    for rows in lists.values():
        assert [int(r["case_number"]) for r in rows] == list(range(len(rows)))
        assert {r["class"] for r in rows} == set(CONTENTS)
    for folder, each in (("", 20), ("tuning/", 8)):
        assert {r["artist"] for r in lists[f"{folder}monet.csv"]} == {"monet"}
        kept = Counter(r["artist"] for r in lists[f"{folder}retain.csv"])
        assert kept == dict.fromkeys(splits.KEPT_STYLES, each)


def test_options_are_chosen_on_other_prompts_noise_and_captions_than_the_tables_show():
    lists = {name: list(csv.DictReader(text.splitlines())) for name, text in splits.prompt_files().items()}
    seeds = [row["evaluation_seed"] for rows in lists.values() for row in rows]
    assert len(set(seeds)) == len(seeds)
    shown, tuned = (
        {row["prompt"] for name, rows in lists.items() if name.startswith("tuning/") == tuning for row in rows}
        for tuning in (False, True)
    )
    assert not shown & tuned
    files = [row["file_name"] for name in ("eval.csv", "tuning/eval.csv") for row in lists[name]]
    assert len(set(files)) == len(files)


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--out", "x", "--workers", "0"],
        ["--out", "x", "--workers", "many"],
        ["--out", "x", "--lists", "1"],
        ["--oops"],
    ],
)
def test_wrong_arguments_end_with_one_line(tmp_path, args):
    command = [sys.executable, "-m", "lethe.atelier.splits", *args]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and not done.stdout
