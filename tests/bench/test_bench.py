"""The bench measures the project's own steps: every row of every kind, on networks that take no time."""

import json

import pytest

from lethe.bench import networks, rows, table, timing
from lethe.files import io
from lethe.stage import cli
from stages import bench

EAGER = [
    "distill/reference",
    "distill/ours",
    "bilevel/ours",
    "sample/stock",
    "sample/ours",
    "sample/eager",
    "encode/ours",
]


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """Times are of no interest here."""
    monkeypatch.setattr(timing, "MOST", 1)
    monkeypatch.setattr(timing, "LEAST", 1)
    monkeypatch.setattr(rows, "TILES", 1)


def ran(monkeypatch, folder, *words: str) -> dict:
    monkeypatch.setattr("sys.argv", ["bench", "--size", "tiny", "--device", "cpu", "--out", str(folder), *words])
    bench.main()
    (file,) = folder.glob("*.json")
    return io.read_json(file)


def test_rows_are_measured_and_told(monkeypatch, tmp_path):
    found = ran(monkeypatch, tmp_path, "--rows", *EAGER)
    assert [row.get("failed") for row in found["rows"]] == [None] * len(EAGER)
    assert all(row["ms"] > 0 and row["floor_ms"] > 0 and row["share"] > 0 for row in found["rows"])
    by_name = {f"{row['kind']}/{row['name']}": row for row in found["rows"]}
    assert by_name["sample/ours"]["distance"] == 0
    assert by_name["sample/eager"]["distance"] < 5
    assert by_name["bilevel/ours"]["upper_every"] == 10
    (file,) = tmp_path.glob("*.md")
    assert file.read_text() == table.table(found)


def test_what_fails_or_is_late_says_so_and_the_rest_goes_on(monkeypatch, tmp_path):
    broken = "out of memory\nand a long tale"
    monkeypatch.setattr(rows.Bench, "_drawn", lambda *_: (_ for _ in ()).throw(RuntimeError(broken)))
    found = ran(monkeypatch, tmp_path, "--rows", "sample/ours", "encode/ours")["rows"]
    assert found[0]["failed"] == "RuntimeError: out of memory"
    assert "ms" in found[1]
    found = ran(monkeypatch, tmp_path, "--rows", "encode/ours", "--seconds", "0.001")["rows"]
    assert found[0]["not_measured"] == "out of time"


@pytest.mark.parametrize(
    ("words", "told"), [(["--rows", "distill/none"], "no row distill/none"), (["--size", "xl"], "'xl'")]
)
def test_mistakes_end_in_a_line(monkeypatch, tmp_path, capsys, words, told):
    monkeypatch.setattr("sys.argv", ["bench", "--device", "cpu", "--out", str(tmp_path), *words])
    with pytest.raises(SystemExit) as ended:
        cli.run(bench.main)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_the_published_form_has_the_published_cost():
    """402.1 GMACs a forward at 64 x 64 latents, 865.9 million parameters."""
    import torch
    from diffusers import UNet2DConditionModel

    from lethe.models.macs import count_macs, count_params

    with torch.device("meta"):
        unet = UNet2DConditionModel(**networks.sizes()["sd21"]["unet"])
    assert count_params(unet) == 865_910_724
    assert round(count_macs(unet, (4, 64, 64), 77) / 1e9, 1) == 402.1


def test_a_wide_spread_is_told():
    assert "spread" in timing.summary([1.0, 5.0, 9.0, 1.0])
    assert "spread" not in timing.summary([1.0, 1.01, 1.02])


def test_rows_have_names_of_their_own():
    assert len(set(rows.titles())) == len(rows.ROWS)
    assert json.dumps([row.settings for row in rows.ROWS])
