"""`extends`: a file says what differs, and a mistake in that ends in one line."""

import shutil
from pathlib import Path

import pytest
import yaml

from lethe.files.errors import UserError
from lethe.params import inheritance, options

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = yaml.safe_load((ROOT / "params.yaml").read_text())


@pytest.fixture
def folder(tmp_path) -> Path:
    """params.yaml, and a folder params/ beside it."""
    shutil.copy2(ROOT / "params.yaml", tmp_path)
    (tmp_path / "params").mkdir()
    return tmp_path


def write(folder: Path, text: str, name: str = "own") -> Path:
    path = folder / f"params/{name}.yaml"
    path.write_text(text)
    return path


CHILD = "extends: ../params.yaml\nexperiment: own\n"


def test_what_is_not_said_is_the_parents(folder):
    found = options.load(write(folder, CHILD + "distill: {steps: 17, clip_norm: 1.0}\nbilevel: {upper_every: 2}\n"))
    wanted = DEFAULT | {"experiment": "own", "distill": DEFAULT["distill"] | {"steps": 17, "clip_norm": 1.0}}
    assert found == wanted | {"bilevel": DEFAULT["bilevel"] | {"upper_every": 2}}


def test_maps_merge_and_lists_replace(folder):
    found = options.load(write(folder, CHILD + "grid: {seeds: [1, 2]}\nconcepts: {monet: {neighbours: []}}\n"))
    assert found["grid"] == DEFAULT["grid"] | {"seeds": [1, 2]}
    assert found["concepts"]["monet"] == DEFAULT["concepts"]["monet"] | {"neighbours": []}
    assert list(found["concepts"]) == ["monet", "van_gogh", "picasso"]  # what the file names comes first


def test_null_takes_out_what_has_a_free_name_and_is_a_value_elsewhere(folder):
    text = """
concepts: {monet: null}
grid: {sets: {all: null, two: [van_gogh, picasso]}, arms: [base, distill, esd, bilevel]}
tables: {solvers: {against: null, vary: {solver: {released: null}}}}
erase: {fmn: null, uce: null}
distill: {snr_gamma: null}
"""
    found = options.load(write(folder, CHILD + text))
    assert list(found["concepts"]) == ["van_gogh", "picasso"] and list(found["grid"]["sets"]) == ["two"]
    assert "against" not in found["tables"]["solvers"] and list(found["tables"]["solvers"]["vary"]["solver"]) == [
        "ours"
    ]
    assert not {"fmn", "uce"} & found["erase"].keys() and found["distill"]["snr_gamma"] is None


def test_another_plug_in_does_not_inherit_options_that_only_the_old_one_has(folder):
    found = options.load(
        write(
            folder,
            CHILD + "tables: {solvers: null}\nbilevel: {solver: penalty, inner_steps: 3}\nprune: {pruner: random}\n",
        )
    )
    assert "upper_every" not in found["bilevel"] and found["bilevel"]["inner_steps"] == 3
    assert found["bilevel"]["eta"] == DEFAULT["bilevel"]["eta"] and found["prune"]["draw"] == 0
    write(folder, CHILD + "attacks: {tried: {a: {attack: completion, strength: 0.5}, b: {attack: p4d, tokens: 2}}}\n")
    other = "extends: own.yaml\nexperiment: other\nattacks: {tried: {a: {attack: p4d}, b: {attack: p4d, lr: 0.1}}}\n"
    tried = options.load(write(folder, other, "other"))["attacks"]["tried"]
    assert "strength" not in tried["a"] and (tried["b"]["tokens"], tried["b"]["lr"]) == (2, 0.1)


def test_a_chain_is_followed_and_a_change_at_its_end_is_seen(folder):
    write(folder, CHILD + "distill: {steps: 17}\n", "middle")
    path = write(folder, "extends: middle.yaml\nexperiment: own\ndistill: {batch: 3}\n")
    found = options.load(path)["distill"]
    assert (found["steps"], found["batch"], found["lr"]) == (17, 3, DEFAULT["distill"]["lr"])
    (folder / "params.yaml").write_text((folder / "params.yaml").read_text().replace("  lr: 2.0e-4", "  lr: 3.0e-4"))
    assert options.load(path)["distill"]["lr"] == 3.0e-4


def test_a_fragment_may_be_a_parent(folder):
    write(folder, "experiment: part\ndistill: {steps: 17}\n", "part")
    assert inheritance.read(write(folder, "extends: part.yaml\n")) == {"distill": {"steps": 17}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: own.yaml\nexperiment: own\n", "own.yaml: extends: {own} extends {own}: a circle; break it"),
        ("extends: two.yaml\nexperiment: own\n", "a circle; break it"),
        ("extends: gone.yaml\n", "extends: {folder}/params/gone.yaml: no such params file; the path starts at"),
        ("extends: params.yaml\n", "{folder}/params/params.yaml: no such params file"),
        ("extends: ..\n", "extends: {folder}: no such params file"),
        ("extends: [../params.yaml]\n", "extends: ['../params.yaml'] is not the name of one params file"),
        ("extends: null\n", "extends: None is not the name of one params file"),
        ("extends: list.yaml\n", "list.yaml: holds no sections"),
        ("extends: broken.yaml\n", "broken.yaml: not valid YAML"),
        ("extends: ../params.yaml\n", "params: missing key 'experiment' (name of the experiment"),
        (
            CHILD + "concepts: {manet: null}\n",
            "concepts: manet: null takes out what {folder}/params.yaml has, which is",
        ),
        (CHILD + "distill: null\n", "distill: None is not of type object"),
        (CHILD + "distill: {lr: null}\n", "distill.lr: None is not of type number"),
        (CHILD + "distill: {rate: 1.0}\n", "distill: unknown key 'rate'; known keys: batch"),
        (CHILD + "bilevel: {solver: newton}\n", "bilevel.solver: 'newton' is not one of the solvers: alternate"),
        (CHILD + "concepts: [monet]\n", "concepts: ['monet'] is not of type object"),
        (CHILD + "concepts: {monet: null}\n", "grid.sets.all: 'monet' is not one of the concepts: van_gogh, picasso"),
    ],
)
def test_a_mistake_is_one_line(folder, text, message):
    write(folder, "- a\n", "list")
    write(folder, "a: {\n", "broken")
    write(folder, "extends: own.yaml\nexperiment: two\n", "two")
    path = write(folder, text)
    with pytest.raises(UserError) as found:
        options.load(path)
    said = str(found.value)
    assert message.format(own=path, folder=folder) in said and "\n" not in said, said


def test_the_name_of_an_experiment_stands_where_make_looks_for_it():
    for path in sorted((ROOT / "params").glob("*.yaml")):
        own = inheritance.parse(path)
        assert f"\nexperiment: {own['experiment']}" in "\n" + path.read_text()
