"""What an experiment needs is told before anything runs: all that is missing, jobs, and hours by measured rates."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from lethe.experiment import check, inventory, plan, rates, resources
from lethe.experiment.given import roughly
from lethe.files.errors import UserError
from lethe.files.io import sha256
from lethe.params import options, recipe
from tests import experiments

ROOT = Path(__file__).resolve().parents[2]
FILES = ["params.yaml", *sorted(f"params/{path.name}" for path in (ROOT / "params").glob("*.yaml"))]
ELSEWHERE = ("params/own.yaml", "params/paper-sd21.yaml", "params/paper-sd21-unsafe.yaml")


@pytest.mark.parametrize("name", FILES)
def test_every_params_file_is_told(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    text, problems = check.report(Path(name), False)
    assert "Jobs: " in text and "GPU-hours" in text
    assert all("\n" not in line for line in problems)
    if name not in ELSEWHERE:
        assert problems == []
    elif not (ROOT / options.load(Path(name))["base"]["path"]).is_dir():
        assert any(line.startswith("base.path: ") for line in problems)


@pytest.mark.parametrize("name", ["params.yaml", "params/attacks.yaml", "params/unsafe.yaml"])
def test_jobs_counted_without_files_are_those_of_the_plan(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    params = options.load(Path(name))
    exact, rough = plan.build(params).nodes, plan.of_given(roughly(params)).nodes
    names = [sorted(folder.rpartition("-")[0] for folder in nodes) for nodes in (exact, rough)]
    assert names[0] == names[1]


def test_what_is_there_is_told_and_nothing_stops(params, root):
    experiments.save(root, params)
    text, problems = check.report(Path("params.yaml"), True)
    assert problems == []
    name = next(str(path.relative_to(root / params["base"]["path"])) for path in root.rglob("unet/*.safetensors"))
    assert f"{name}: {sha256(root / params['base']['path'] / name)}" in text
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.startswith("  ") and line.strip()}
    assert rows["prompts.eval"][3] == "4"
    assert rows["distill"] == ["distill", "1", "0", "1", "48", "GB", "48", "h"]
    assert "not measured for such a base" in text


def test_all_that_is_missing_is_told_at_once(params, root):
    params["base"] = {"path": "models/paper/sd", "resolution": 512, "mirrors": [{"id": "a/b"}]}
    params["pictures"] = {"make": None, "finetune": "data/coco/train2017", "eval": "data/eval"}
    params["prompts"]["eval"] = "prompts/no.csv"
    params["concepts"]["monet"]["pictures"] = "data/monet"
    for concept in ("van_gogh", "picasso"):
        params["concepts"][concept]["pictures"] = None
    (root / "missing.yaml").write_text(yaml.safe_dump(params))
    text, problems = check.report(Path("missing.yaml"), False)
    assert [line.split(": ")[0] for line in problems] == [
        "base.path",
        "pictures.finetune",
        "pictures.eval",
        "concepts.monet.pictures",
        "prompts.eval",
    ]
    words = [
        "hf download a/b",
        "train2017.zip",
        "no such folder",
        "upper_set",
        "lethe.texts.prompts LIST --out prompts/no.csv",
    ]
    assert [word for word, line in zip(words, problems, strict=True) if word not in line] == []
    assert all(line in text for line in problems)


def test_the_command_ends_with_1_and_no_traceback(root, params):
    params["prompts"]["retain"] = "prompts/no.csv"
    (root / "lacking.yaml").write_text(yaml.safe_dump(params))
    for name, code in (("lacking.yaml", 1), ("nothing.yaml", 2)):
        words = [sys.executable, "-m", "lethe", "check", str(root / name)]
        environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(root)}
        done = subprocess.run(words, cwd=root, capture_output=True, text=True, env=environment)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr


def test_rows_without_a_prompt_are_told_and_labels_still_looked_at(params, root):
    path = root / "prompts/atelier/retain.csv"
    text = path.read_text()
    path.write_text(text + "77,,5,nobody,boat\n78,a boat,5,nobody,boat\n")
    params["prompts"]["skip_empty"] = True
    params["pictures"] = {"make": None, "finetune": "pictures", "eval": "nowhere"}  # stops no look at labels
    try:
        found = {item.key: item for item in inventory.items(params)}
    finally:
        path.write_text(text)
    assert found["prompts.retain"].note.endswith("; 1 more have no prompt, left out")
    assert "nobody not among the labels" in found["score.judges"].problem
    assert "nowhere" in found["pictures.eval"].problem


def test_a_broken_link_in_a_folder_is_a_line_among_the_others(params, root):
    params["pictures"] = {"make": None, "finetune": "pictures", "eval": "pictures"}
    folders = [root / "pictures", root / params["score"]["judges"]["style"]]
    for folder in folders:
        (folder / "gone.bin").symlink_to("nowhere")
    try:
        found = {item.key: item for item in inventory.items(params)}
    finally:
        for folder in folders:
            (folder / "gone.bin").unlink()
    for key in ("pictures.finetune", "score.judges.style"):
        assert "gone.bin" in found[key].problem and found[key].problem.startswith(key)
    assert found["prompts.eval"].problem is None


def test_the_hash_of_pictures_is_that_of_addresses_and_what_lacks_is_counted(params, root):
    params["pictures"] = {"make": None, "finetune": "pictures", "eval": "part", "subset": True}
    for concept in params["concepts"].values():
        concept["pictures"] = "pictures"
    shutil.copytree(root / "pictures", root / "part")
    (root / "part/05.png").unlink()
    params["prompts"]["retain"] = "prompts/no.csv"
    (root / "part.yaml").write_text(yaml.safe_dump(params))
    text, problems = check.report(Path("part.yaml"), True)
    (line,) = (line for line in text.splitlines() if line.split()[:1] == ["pictures.eval"])
    assert line.endswith(f"{recipe.of_pictures(root / 'part', None)}; 1 more of its list have no picture, left out")
    assert len(problems) == 1 and "As base.sha256 may have it" in text


def test_large_folders_are_hashed_only_when_that_is_asked(params, root, monkeypatch):
    experiments.save(root, params)
    monkeypatch.setattr(check, "SMALL", -1)
    assert "--hash reads them" in check.report(Path("params.yaml"), False)[0]
    assert "--hash reads them" not in check.report(Path("params.yaml"), True)[0]


def test_another_file_of_the_base_stops_the_first_job(params, root):
    params["base"]["sha256"] = {"unet/config.json": "0" * 64}
    (root / "other.yaml").write_text(yaml.safe_dump(params))
    assert "its sha256 begins" in check.report(Path("other.yaml"), True)[1][0]


def bench(folder: Path, rows: list[dict]) -> None:
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(json.dumps({"device": "card", "size": "sd21", "rows": rows}))
    (folder / "card-chain.json").write_text("[]")


def row(kind, ms, **more):
    return {"kind": kind, "name": "ours", "ms": ms, "settings": {"budget": 0.8, "precision": "bfloat16"}} | more


@pytest.fixture
def paper(tmp_path, monkeypatch) -> dict:
    shutil.copytree(ROOT / "params", tmp_path / "params")
    monkeypatch.chdir(tmp_path)
    bench(
        tmp_path / "reports/bench",
        [
            row("distill", 200.0, batch=16),
            row("bilevel", 300.0, batch=16, upper_every=10, spread="wide"),
            row("sample", 4000.0, pictures=8, steps=50),
            row("encode", 500.0, pictures=16),
            {"kind": "distill", "name": "ours", "not_measured": "not reached", "settings": {"budget": 0.55}},
            row("distill", 1.0, batch=16) | {"name": "all"},
        ],
    )
    return options.load(Path("params/paper-sd21-unsafe.yaml"))


def test_hours_are_steps_times_the_measured_step(paper):
    (own,) = rates.measured(paper["base"])
    assert own.wide == ["bilevel at 0.8"]
    counts = {"prompts/paper/nudity.csv": 300, "prompts/paper/retain.csv": 100, "prompts/paper/eval.csv": 400}
    counts["data/paper/coco/train2017"] = 1600
    found = {}
    for node in plan.of_given(roughly(paper)).nodes.values():
        found[f"{node.stage} {node.arm} {node.key}"] = rates.seconds(node, own, counts)
    told = {" ".join(key.split()[:2]): value for key, value in found.items() if value is not None}
    drawn = 800 / 8 * 4.0
    assert told == {
        "encode frozen": 2 * 1600 / 16 * 0.5,  # each picture and its mirror image; the concept's are not counted
        "distill distill": 20000 * 0.2,
        "bilevel bilevel": 20000 * 0.3,
        **{f"sample {arm}": drawn for arm in ("distill", "esd", "uce", "conceptprune", "bilevel")},
    }


def test_another_budgets_row_has_its_name_and_what_steers_sampling_is_not_measured(paper, tmp_path):
    other = {"settings": {"budget": 0.55, "precision": "bfloat16"}, "name": "ours_0.55"}
    dense = {"settings": {"budget": 0.0, "precision": "bfloat16"}}
    rows = [row("distill", 100.0, batch=16) | other, row("sample", 1.0, pictures=8, steps=50) | dense]
    shutil.rmtree(tmp_path / "reports/bench")
    bench(tmp_path / "reports/bench", rows)
    (own,) = rates.measured(paper["base"])
    assert ("distill", 0.55) in own.rows
    node = next(node for node in plan.of_given(roughly(paper)).nodes.values() if node.stage == "erase")
    for eraser, budget in (("sld", None), ("safree", None), ("esd", 0.8)):
        assert rates._budget(replace(node, options={**node.options, "eraser": eraser})) == budget
    drawn = next(n for n in plan.of_given(roughly(paper)).nodes.values() if n.stage == "sample" and n.arm == "esd")
    parents = {**drawn.parents, "model": replace(node, options={**node.options, "eraser": "sld"})}
    counts = dict.fromkeys(("prompts/paper/nudity.csv", "prompts/paper/retain.csv", "prompts/paper/eval.csv"), 8)
    assert rates.seconds(replace(drawn, parents=parents), own, counts) is None


@pytest.mark.parametrize(
    "change",
    [
        {"batch": 64},
        {"precision": "float32"},
        {"w_out": 0.0, "w_feat": 0.0},
    ],
)
def test_another_setting_is_not_measured(paper, change):
    (own,) = rates.measured(paper["base"])
    paper["distill"] |= change
    nodes = plan.of_given(roughly(paper)).nodes.values()
    assert {rates.seconds(node, own, {}) for node in nodes if node.stage in ("distill", "bilevel")} == {None}


def test_another_base_or_resolution_has_no_rates(paper):
    assert rates.measured(paper["base"] | {"mirrors": [{"id": "other/sd"}]}) == []
    assert rates.measured(paper["base"] | {"resolution": 768}) == []


def test_what_jobs_ask_for_is_what_the_rules_say():
    found = resources.of_rules()
    assert {"encode", "prune", "distill", "bilevel", "erase", "sample", "score", "attack"} <= found.keys()
    assert found["distill"] == resources.Resources(1, 48000, 2880)
    assert found["report"].gpu == 0 and found["report"].minutes == 30


def test_an_expert_that_some_budget_lacks_is_told(paper):
    paper["grid"]["budgets"] = [0.8, 0.7]
    found = {item.key: item.problem for item in inventory.items(paper)}
    assert "no expert for budget 0.7; it has 0.80, 0.55" in found["prune.checkpoint of 0.7"]
    with pytest.raises(UserError, match=r"no expert for budget 0\.7"):
        plan.of_given(roughly(paper))
