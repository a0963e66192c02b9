"""Every option has a default or must be given; what plug-ins share stands once."""

from collections.abc import Iterator

import pytest

from lethe.files.errors import UserError
from lethe.params import checking, options, registry, rules

# what a person must decide: names, files, texts
REQUIRED = {
    "experiment", "base", "base.path", "pictures", "pictures.finetune", "pictures.eval", "concepts",
    "concepts.*.prompt", "concepts.*.anchor", "concepts.*.prompts", "prompts", "prompts.retain",
    "prompts.eval", "grid", "grid.sets",
    "tables.*.of", "tables.*.vary", "attacks.tried.*.attack",
}  # fmt: skip
ABSENT = {"tables.*.against", "base.mirrors", "base.sha256", "pictures.subset", "prompts.skip_empty"}  # which may be
REQUIRED_OPTIONS = {
    "erasers.uce": {"preserve"},
    "pruners.aptp": {"checkpoint"},
    "pruners.aptp_random_init": {"checkpoint"},
    "attacks.prompts": {"files", "provenance"},
}
PACKAGES = ("pruners", "solvers", "suppressions", "erasers", "attacks")
PLUGINS = [(package, name) for package in PACKAGES for name in registry.names(package)]
MINE = {
    "experiment": "mine",
    "base": {"path": "models/mine"},
    "pictures": {"finetune": "a", "eval": "b"},
    "concepts": {"it": {"prompt": "a painting by it", "anchor": "a painting", "prompts": "it.csv"}},
    "prompts": {"retain": "r.csv", "eval": "e.csv"},
    "grid": {"sets": {"it": ["it"]}},
}


def keys(schema: dict, where: str = "") -> Iterator[tuple[str, dict, bool]]:
    """Every key below a rule, its own rule, and whether it must be given."""
    for key, rule in schema.get("properties", {}).items():
        yield where + key, rule, key in schema.get("required", [])
        yield from keys(rule, f"{where}{key}.")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from keys(schema["additionalProperties"], f"{where}*.")


def test_every_key_has_a_default_or_must_be_given():
    found = list(keys(rules.schema()))
    assert {key for key, _, needed in found if needed} == REQUIRED
    for key, rule, needed in found:
        told = needed + ("default" in rule) + ("default" not in rule and "properties" in rule and not needed)
        assert told == 1 or key in ABSENT, key
        assert "$ref" not in str(rule)


@pytest.mark.parametrize(("package", "name"), PLUGINS)
def test_every_option_of_a_plug_in_has_a_legal_default(package, name):
    schema = rules.section_schema("of_nothing", (package, name))
    missing = REQUIRED_OPTIONS.get(f"{package}.{name}", set())
    assert set(schema["required"]) == missing
    values = rules.complete({}, schema)
    assert values.keys() == schema["properties"].keys() - missing
    own = {
        key: rule for key, rule in schema["properties"].items() if key not in missing and rule.get("atMost") != "steps"
    }
    checking.check({key: values[key] for key in own}, {"properties": own}, name)
    assert all(rule["description"] and "$ref" not in str(rule) for rule in schema["properties"].values())


def test_what_a_person_must_decide_is_a_whole_experiment():
    found = options.validate(MINE)
    assert found["distill"] | {"steps": 20000, "batch": 64, "lr": 1.0e-6} == found["distill"]
    assert found["bilevel"] | {"solver": "alternate", "upper_every": 10, "eta": 1.0} == found["bilevel"]
    assert found["erase"].keys() == {"esd"} and found["erase"]["esd"]["steps"] == 1000  # an arm of the grid
    assert found["concepts"]["it"]["kind"] == "style" and found["score"]["judges"]["style"] is None
    assert options.validate(found) == found and "distill" not in MINE


def test_a_default_is_nobodys_to_change():
    options.validate(MINE)["grid"]["seeds"].append(7)
    assert options.validate(MINE)["grid"]["seeds"] == [0]


def test_a_part_of_a_nested_option_is_enough():
    debias = {"attributes": ["a man", "a woman"]}
    found = options.validate(MINE | {"erase": {"uce": {"preserve": ["a tree"], "debias": debias}}})
    assert found["erase"]["uce"]["debias"] | debias | {"rounds": 30, "desired": None} == found["erase"]["uce"]["debias"]


def test_an_eraser_that_a_table_varies_has_its_defaults():
    table = {"of": ["sld"], "vary": {"preset": {"medium": {}, "max": {"erase.sld.preset": "max"}}}}
    found = options.validate(MINE | {"tables": {"sweep": table}})
    assert found["erase"]["sld"] == {"preset": "medium"} and found["tables"]["sweep"]["seeds"] is None


def test_a_shared_rule_gives_way_to_what_a_key_says_itself():
    found = rules.resolved({"a": {"$ref": "#/$defs/adamw_lr", "default": 0.5}, "b": [{"$ref": "#/$defs/seed"}]})
    assert found["a"]["description"] == "AdamW learning rate" and found["a"]["maximum"] == 1
    assert found["a"]["default"] == 0.5 and found["b"][0]["default"] == 0


def test_a_wrong_key_of_a_plug_in_is_told_with_the_legal_ones():
    with pytest.raises(
        UserError, match=r"attacks\.tried\.x: unknown key 'token'; known keys: batch, iterations, lr, pos"
    ):
        options.validate(MINE | {"attacks": {"tried": {"x": {"attack": "p4d", "token": 3}}}})
