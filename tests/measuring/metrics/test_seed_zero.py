"""The literature's variant of the CP score: all rows of a prompt file with seed 0, all else as it was."""

import csv
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from lethe.texts.prompts import read_prompts

ATELIER = Path("prompts/atelier/monet.csv")


def test_a_prompt_file_is_written_with_seed_zero_and_nothing_else_changed(tmp_path):
    rows = list(csv.DictReader(ATELIER.open(encoding="utf-8")))
    own = tmp_path / "own.csv"
    with own.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], "pair", "profession"])
        writer.writeheader()
        writer.writerows(row | {"pair": "a man|a woman", "profession": "painter"} for row in rows)
    for path in (ATELIER, own):
        out = tmp_path / "zero.csv"
        words = [sys.executable, "-m", "lethe.texts.prompts", str(path), "--seeds", "0", "--out", str(out)]
        subprocess.run(words, capture_output=True, check=True)
        before, after = read_prompts(path), read_prompts(out)
        assert len({row.seed for row in before}) > 1
        assert after == [replace(row, seed=0) for row in before]
        out.unlink()
    assert before[0].pair == ("a man", "a woman")
