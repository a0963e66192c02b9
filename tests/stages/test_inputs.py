"""A stage alone needs its inputs: every value has a default, and the help says which."""

import importlib

import pytest

from lethe.files.io import read_meta
from lethe.params import registry, rules
from lethe.stage import cli
from tests.stages.running import stage

CONCEPTS = '{"monet": {"prompt": "a boat by monet", "anchor": "a boat"}}'


def commands(tiny, pictures, prompts, originals):
    """Stage -> the words that name its inputs."""
    base = ["--base", tiny.base]
    training = [*base, "--pruned", tiny.pruned, "--data", tiny.data]
    attacked = ["--attack", "completion", "--concepts", CONCEPTS, "--prompts", f"monet={prompts}", "--each", 2]
    return {
        "prune": [*base, "--budget", 0.8],
        "encode": [*base, "--pictures", pictures],
        "distill": training,
        "bilevel": [*training, "--concepts", *tiny.named()],
        "erase": [*base, "--eraser", "esd", "--concepts", CONCEPTS],
        "sample": [*base, "--prompt", "a boat by monet"],
        "attack": [*base, *attacked, "--originals", originals],
    }


@pytest.fixture(scope="module")
def drawn(tiny, tmp_path_factory):
    """Prompts, and what the base draws for them, in few steps."""
    folder = tmp_path_factory.mktemp("drawn")
    prompts = folder / "monet.csv"
    prompts.write_text("case_number,prompt,evaluation_seed\n0,a boat by monet,1\n1,a tree by monet,2\n")
    stage("sample", "--base", tiny.base, "--prompts", f"monet={prompts}", "--steps", 2, "--out", folder / "out")
    return prompts, folder / "out"


@pytest.mark.parametrize("name", ["prune", "encode", "distill", "bilevel", "erase", "sample", "attack"])
def test_inputs_are_enough(tiny, tiny_pictures, drawn, tmp_path, capsys, name):
    words = [*commands(tiny, tiny_pictures, *drawn)[name], "--out", tmp_path / "out", "--dry-run"]
    cli.run_stage(name, list(map(str, words)))
    assert capsys.readouterr().out.startswith("would ") and not (tmp_path / "out").exists()


def test_defaults_are_what_a_result_is_made_with(tiny, tmp_path):
    stage("sample", "--base", tiny.base, "--prompt", "a boat", "--steps", 2, "--out", tmp_path / "out")
    section = rules.complete({}, rules.section_schema("sample"))
    own = {"steps": 2, "resolution": None, "prompt": "a boat", "count": 1}
    assert read_meta(tmp_path / "out")["options"] == section | own
    assert "sheet.jpg" in read_meta(tmp_path / "out")["files"]


def test_what_has_no_default_is_asked_for_in_one_line(tiny, tmp_path):
    words = ["--base", tiny.base, "--eraser", "uce", "--concepts", CONCEPTS, "--out", tmp_path / "out"]
    with pytest.raises(Exception, match="section erase_uce: missing --preserve; give them, or --params FILE"):
        stage("erase", *words)


@pytest.mark.parametrize(
    ("name", "words", "sections"),
    [
        ("prune", [], [("prune", ("pruners", "magnitude"))]),
        ("distill", [], [("distill",)]),
        (
            "bilevel",
            ["--solver", "penalty"],
            [("bilevel", ("solvers", "penalty"), ("suppressions", "negative_guidance"))],
        ),
        ("erase", ["--eraser", "esd"], [("erase_esd", ("erasers", "esd"))]),
        ("attack", ["--attack", "p4d"], [("attack_p4d", ("attacks", "p4d")), ("sample",)]),
        ("encode", [], [("encode",)]),
        ("sample", [], [("sample",)]),
        ("score", [], [("score",), ("sample",)]),
        ("report", [], [("report",)]),
    ],
)
def test_help_tells_each_default_and_the_names_of_plug_ins(capsys, name, words, sections):
    with pytest.raises(SystemExit):
        importlib.import_module(f"stages.{name}").main([*words, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for section in sections:
        for key, rule in rules.section_schema(*section)["properties"].items():
            told = f"(default: {cli.word(rule['default'])})" if "default" in rule else "(no default)"
            assert cli.flag(key) in shown or f"--sample-{key}" in shown
            assert told.replace("-", "") in shown.replace("- ", "").replace("-", ""), key  # lines break at hyphens
            for package in filter(None, [rules.CHOICES.get(section[0], {}).get(key)]):
                assert all(plugin in shown for plugin in registry.names(package))
