"""Published layouts, with the quirks of the real files and harmless text."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lethe.files.errors import UserError
from lethe.texts.prompt_formats import FORMATS, convert, recognised, write
from lethe.texts.prompts import read_prompts

ROOT = Path(__file__).parents[2]
I2P = (
    "prompt,categories,hard,inappropriate_percentage,nudity_percentage,q16_percentage,sd_safety_percentage,"
    "prompt_toxicity,lexica_url,sd_seed,sd_guidance_scale,sd_image_width,sd_image_height,sd_model\n"
    '"a boat, oil on canvas","shocking, hate",0,10.0,0.0,10.0,0.0,0.01,https://example.org/1,4048542262,7.0,512,512,1.4\n'
    "a cow on a road,violence,1,5.0,0.0,0.0,0.0,0.02,https://example.org/2,1349160790,8.5,512,768,1.4\n"
    '"two lines\nof one prompt",sexual,0,5.0,0.0,0.0,0.0,0.02,https://example.org/3,7.0,7.0,512,512,1.4\n'
    ",hate,0,5.0,0.0,0.0,0.0,0.02,https://example.org/4,12,7.0,512,512,1.4\n"
)
ATTACKED = (
    ",prompt,categories,evaluation_seed,evaluation_guidance,width,height,case_number\r\n"
    "0,a quiet street,sexual,2219.0,7.5,512,512,58\r\n"
    '1,"trees, at night","sexual,shocking",17,11,512,640,104\r\n'
)
MMA = (
    "\ufefftarget_prompt,adv_prompt\n"
    '"a boat, at sea","vessel zfloat <|sea|> ""wave"", lo"\n'
    "a sun,brightest</w> kkk orb\n"
    "a fish,\n"
)
# no header; quotes around some lines, as CSV wrote them; bytes that are no UTF-8; a blank line
LINES = (
    b"\xef\xbb\xbfwhisper boat lantern reed\r\n"
    b'"oak, window ""old"" hill, fern"\r\n'
    b"\r\n"
    b"caf\xe9 moss \xef\xbf\xbd cedar, slate\n"
    b'"half quoted, stays\n'
    b"line\xe2\x80\xa8separator is no line end\n"
)


def written(tmp_path, content, name="list.csv"):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_i2p(tmp_path):
    found = convert(written(tmp_path, I2P))
    assert [row["prompt"] for row in found.rows] == [
        "a boat, oil on canvas",
        "a cow on a road",
        "two lines\nof one prompt",
    ]
    assert [row["evaluation_seed"] for row in found.rows] == [4048542262, 1349160790, 7]
    assert [row["category"] for row in found.rows] == ["shocking, hate", "violence", "sexual"]
    assert [(row["evaluation_guidance"], row["height"]) for row in found.rows] == [
        ("7.0", "512"),
        ("8.5", "768"),
        ("7.0", "512"),
    ]
    assert [row["source"] for row in found.rows] == ["list.csv:0", "list.csv:1", "list.csv:2"]
    assert found.facts["format"] == "i2p"
    assert found.facts["seeds"] == "column sd_seed"
    assert found.facts["left_out"] == {"empty": 1, "of_other_categories": 0}
    assert found.facts["not_used"]["evaluation_guidance"] == {"7.0": 2, "8.5": 1}

    out = tmp_path / "i2p.csv"
    write(found, out)
    rows = read_prompts(out)
    assert [(row.case_number, row.seed) for row in rows] == [(0, 4048542262), (1, 1349160790), (2, 7)]
    assert rows[0].category == "shocking, hate"
    told = json.loads((tmp_path / "i2p.json").read_text())
    assert told["rows"] == 3 and len(told["sha256"]) == 64


def test_i2p_of_one_category_and_with_the_literatures_seed(tmp_path):
    path = written(tmp_path, I2P)
    found = convert(path, seeds=0, only="hate")
    assert [(row["case_number"], row["prompt"], row["evaluation_seed"]) for row in found.rows] == [
        (0, "a boat, oil on canvas", 0)
    ]
    assert found.facts["seeds"] == 0
    assert found.facts["left_out"] == {"empty": 1, "of_other_categories": 2}
    with pytest.raises(UserError, match="no prompt left of category self-harm"):
        convert(path, only="self-harm")


def test_unlearn_diff_atk_keeps_its_case_numbers_and_seeds(tmp_path):
    found = convert(written(tmp_path, ATTACKED))
    assert found.facts["format"] == "unlearn_diff_atk"
    assert [(r["case_number"], r["prompt"], r["evaluation_seed"], r["category"]) for r in found.rows] == [
        (58, "a quiet street", 2219, "sexual"),
        (104, "trees, at night", 17, "sexual, shocking"),
    ]
    # it holds all that ours needs, so it can be used as it is, once its seeds are whole numbers
    whole = written(tmp_path, ATTACKED.replace("2219.0", "2219"))
    assert [row.category for row in read_prompts(whole)] == ["sexual", "sexual, shocking"]


def test_mma_diffusion_has_no_seeds(tmp_path):
    found = convert(written(tmp_path, MMA))
    assert found.facts["format"] == "mma_diffusion"
    assert [(row["prompt"], row["evaluation_seed"]) for row in found.rows] == [
        ('vessel zfloat <|sea|> "wave", lo', 0),
        ("brightest</w> kkk orb", 1),
    ]
    assert found.facts["seeds"] == "row number"
    assert found.facts["left_out"]["empty"] == 1
    assert {row["evaluation_seed"] for row in convert(written(tmp_path, MMA), seeds=43).rows} == {43}


def test_ring_a_bell_lines(tmp_path):
    path = written(tmp_path, LINES)
    found = convert(path, "ring_a_bell")
    assert [row["prompt"] for row in found.rows] == [
        "whisper boat lantern reed",
        'oak, window "old" hill, fern',
        "caf\ufffd moss \ufffd cedar, slate",
        '"half quoted, stays',
        "line\u2028separator is no line end",
    ]
    assert [row["evaluation_seed"] for row in found.rows] == [0, 1, 3, 4, 5]
    assert found.facts["unreadable_characters"] == 2
    assert found.facts["left_out"]["empty"] == 1
    kept = convert(path, "ring_a_bell", quotes="keep")
    assert kept.rows[1]["prompt"] == '"oak, window ""old"" hill, fern"'
    write(found, tmp_path / "bell.csv")
    assert [row.prompt for row in read_prompts(tmp_path / "bell.csv")] == [row["prompt"] for row in found.rows]


def test_ring_a_bell_pairs(tmp_path):
    text = 'sensitive prompt,normal prompt\n"A starry night, by a painter","A starry night"\n'
    found = convert(written(tmp_path, text))
    assert found.facts["format"] == "ring_a_bell_pairs"
    assert found.rows[0]["prompt"] == "A starry night, by a painter"


@pytest.mark.parametrize(
    ("content", "how", "words"),
    [
        (LINES, {}, ["unknown layout", "whisper boat", "ring_a_bell (no header; only by --format)", "i2p (prompt"]),
        ("text,seed\na boat,1\n", {}, ["unknown layout", "'text, seed'"]),
        ("text,seed\na boat,1\n", {"wanted": "nocaps"}, ["'nocaps' is not one of", *FORMATS]),
        (MMA, {"wanted": "i2p"}, ["is not i2p", "no column categories, prompt, sd_seed"]),
        (MMA, {"wanted": "ring_a_bell"}, ["has a header, that of mma_diffusion"]),
        ("prompt,evaluation_seed,adv_prompt\na,1,b\n", {}, ["could be unlearn_diff_atk or mma_diffusion", "--format"]),
        ("prompt,evaluation_seed\na boat,-3\n", {}, ["row 0", "column evaluation_seed", "'-3'", "--seeds 0"]),
        ("prompt,evaluation_seed\na boat,\n", {}, ["row 0", "''"]),
        ("prompt,evaluation_seed\na boat, on a lake,3\n", {}, ["line 2", "more cells than columns"]),
        ('prompt,evaluation_seed\n"a boat,3\n', {}, ["not valid CSV"]),
        ("case_number,prompt,evaluation_seed\n4,a,1\n4,b,2\n", {}, ["4 stands there twice"]),
        ("adv_prompt\n\n", {}, ["no prompt left"]),
        (MMA, {"only": "sexual"}, ["no column category"]),
        ("", {}, ["empty"]),
        ("a boat\n".encode("utf-16"), {"wanted": "ring_a_bell"}, ["zero bytes"]),
    ],
)
def test_a_wrong_list_is_told_in_one_line(tmp_path, content, how, words):
    path = written(tmp_path, content)
    with pytest.raises(UserError) as error:
        convert(path, **how)
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_formats_do_not_overlap_by_themselves():
    for name, own in FORMATS.items():
        assert recognised(list(own.columns)) == ([name] if own.columns else [])


def test_prompt_files_in_another_layout_are_told_how_to_convert(tmp_path):
    with pytest.raises(UserError, match=r"list of format i2p: python -m lethe.texts.prompts .*list.csv --out"):
        read_prompts(written(tmp_path, I2P))


def called(tmp_path, *args):
    command = [sys.executable, "-m", "lethe.texts.prompts", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})


def test_the_command(tmp_path):
    path, out = written(tmp_path, LINES), tmp_path / "own" / "bell.csv"
    done = called(tmp_path, path, "--format", "ring_a_bell", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "5 prompts of Ring-A-Bell" in done.stdout and "2 characters that are no UTF-8" in done.stdout
    with open(out, newline="", encoding="utf-8") as file:
        assert list(next(csv.DictReader(file))) == ["case_number", "prompt", "evaluation_seed", "source"]
    done = called(tmp_path, written(tmp_path, I2P), "--out", out, "--only", "violence")
    assert "width: 1 different values, kept in the file and not used for drawing" in done.stdout


@pytest.mark.parametrize(
    "args",
    [
        ["list.csv"],
        ["list.csv", "--out", "list.csv", "--format", "ring_a_bell"],
        ["list.csv", "--out", "out.txt"],
        ["list.csv", "--out", "out.csv", "--seeds", "-1"],
        ["none.csv", "--out", "out.csv"],
        ["list.csv", "--out", "out.csv"],
    ],
)
def test_wrong_arguments_end_with_one_line(tmp_path, args):
    path = written(tmp_path, LINES)
    done = called(tmp_path, *args)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.count("\n") == 1, done.stderr
    assert path.read_bytes() == LINES


def test_the_json_file_beside_the_csv_is_never_the_list_itself(tmp_path):
    path = written(tmp_path, json.dumps(COCO).encode(), "captions.json")
    before = path.read_bytes()
    done = called(tmp_path, "captions.json", "--out", "captions.csv")
    assert done.returncode == 2 and "captions.json, which would be written, is the list itself" in done.stderr
    assert path.read_bytes() == before and not (tmp_path / "captions.csv").exists()


COCO = {
    "images": [{"id": 30}, {"id": 7}, {"id": 9}],
    "annotations": [
        {"id": 5, "image_id": 7, "caption": "a later caption"},
        {"id": 2, "image_id": 7, "caption": "a boat\n on  water "},
        {"id": 3, "image_id": 30, "caption": "two birds, on a wire"},
        {"id": 4, "image_id": 30, "caption": "birds"},
    ],
}


def test_coco_gives_one_caption_a_picture_by_the_stated_rule(tmp_path):
    path = written(tmp_path, json.dumps(COCO), "captions_val2017.json")
    found = convert(path)
    assert [(row["case_number"], row["prompt"], row["evaluation_seed"]) for row in found.rows] == [
        (7, "a boat on water", 0),
        (30, "two birds, on a wire", 2),
    ]
    assert found.facts["left_out"]["empty"] == 1 and found.facts["caption"] == "first"
    last = convert(path, caption="last", seeds=43)
    assert [(row["prompt"], row["evaluation_seed"]) for row in last.rows] == [("a later caption", 43), ("birds", 43)]
    write(found, tmp_path / "eval.csv")
    assert [row.case_number for row in read_prompts(tmp_path / "eval.csv")] == [7, 30]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"annotations": [{"id": 1, "image_id": 8, "caption": "x"}]},
            "annotation 1: picture 8 is not among its images",
        ),
        ({"annotations": [{"id": 1, "image_id": 7, "caption": 3}]}, "annotation 1: caption 3 is no text"),
        ({"annotations": None}, "not COCO's captions"),
        ({"images": [{"id": 7}, {"id": 7}]}, "1 picture ids stand there twice"),
    ],
)
def test_what_is_not_cocos_captions_is_refused_in_one_line(tmp_path, change, words):
    path = written(tmp_path, json.dumps(COCO | change), "captions_val2017.json")
    with pytest.raises(UserError) as found:
        convert(path)
    assert words in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (  # unsafe-prompts4703.csv
            ",prompt,categories,hard,inappropriate_percentage,nudity_percentage,q16_percentage,sd_safety_percentage,"
            "prompt_toxicity,evaluation_seed,evaluation_guidance,width,height,case_number\n"
            "0,a quiet street,sexual,0,1.0,0.0,1.0,0.0,0.1,12,7.0,512,512,3\n",
            {"case_number": 3, "prompt": "a quiet street", "evaluation_seed": 12, "category": "sexual"},
        ),
        (  # vangogh_prompts.csv, test_Van Gogh.csv
            "case_number,prompt,evaluation_seed,artist,evaluation_guidance,base\n"
            "0,The Night by Vincent van Gogh,2219,Vincent van Gogh,7.5,The Night\n",
            {"case_number": 0, "prompt": "The Night by Vincent van Gogh", "artist": "Vincent van Gogh"},
        ),
        (  # coco_30k.csv
            "image_id,source,prompt,evaluation_seed\n391895,ms_coco,a man on a hill,8151\n",
            {"case_number": 0, "prompt": "a man on a hill", "evaluation_seed": 8151},
        ),
        (
            "case_number,source,prompt,evaluation_seed,coco_id\n0,ms_coco,a man on a hill,8151,391895\n",
            {"case_number": 0, "prompt": "a man on a hill", "evaluation_seed": 8151},
        ),
    ],
)
def test_the_fields_files_are_read(tmp_path, text, wanted):
    row = convert(written(tmp_path, text)).rows[0]
    assert {key: row[key] for key in wanted} == wanted
    assert row["source"] == "list.csv:0"


def test_lists_become_one_with_their_names_as_categories(tmp_path):
    lines, pairs = written(tmp_path, "a fern\na moss\n", "lines.csv"), written(tmp_path, MMA, "mma.csv")
    for path, name, more in ((lines, "ring_a_bell", ["--format", "ring_a_bell"]), (pairs, "mma", [])):
        assert called(tmp_path, path, "--category", name, "--out", tmp_path / f"{name}_own.csv", *more).returncode == 0
    out = tmp_path / "both.csv"
    done = called(tmp_path, tmp_path / "mma_own.csv", tmp_path / "ring_a_bell_own.csv", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "4 prompts of 2 lists, numbered anew" in done.stdout
    rows = read_prompts(out)
    assert [(row.case_number, row.seed, row.category) for row in rows] == [
        (0, 0, "mma"),
        (1, 1, "mma"),
        (2, 0, "ring_a_bell"),
        (3, 1, "ring_a_bell"),
    ]
    assert len(json.loads(out.with_suffix(".json").read_text())["lists"]) == 2
