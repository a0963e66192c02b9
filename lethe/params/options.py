"""params.yaml: read, checked, refused in one line. The schema is `lethe/params/schema.yaml`."""

import functools
from collections.abc import Iterable
from pathlib import Path

import jsonschema
import yaml

from lethe.files.errors import UserError
from lethe.params import registry
from lethe.params.variation import CHOICES, check_axes, check_names, points, varied

SCHEMA = Path(__file__).with_name("schema.yaml")


@functools.cache
def schema() -> dict:
    """The schema of a whole params file."""
    return yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))


def section_schema(section: str, *plugins: tuple[str, str] | None) -> dict:
    """Schema of one section, with the options of plug-ins ("erasers", "esd") merged in; unknown keys refused."""
    found = dict(schema()["properties"].get(section, {"type": "object"}))
    properties, required = dict(found.get("properties", {})), list(found.get("required", []))
    for plugin in filter(None, plugins):
        own = registry.literal(*plugin, "OPTIONS")
        properties |= own
        required += list(own)
    return (
        {"$defs": schema()["$defs"]}
        | found
        | {
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }
    )


def plugins_of(section: str, values: dict) -> list[tuple[str, str]]:
    """The plug-ins whose options a section carries, such as the solver and the suppression of `bilevel`."""
    found = []
    for key, package in CHOICES.get(section, {}).items():
        if isinstance(values.get(key), str):
            found.append((package, _known(section, key, package, values[key])))
    return found


def _known(section: str, key: str, package: str, name: str) -> str:
    try:
        return registry.check(package, name)
    except UserError as error:
        raise UserError(f"{section}.{key}: {error}") from None


def check(values: object, rules: dict, where: str) -> None:
    """Raises UserError that names the key, its value and what is legal.

    `rules` is JSON Schema, in which 600.0 is no integer here, plus two words: {"reuse": {"atMost": "sampler_steps"}}
    and {"states": {"with": {"student": {"reuse": 1}}}}: student goes with a reuse of 1 only.
    """
    validator = _Validator(rules)
    errors = sorted(validator.iter_errors(values), key=lambda e: (len(e.absolute_path), str(e.absolute_path)))
    if errors:
        raise UserError(_explain(errors[0], where, rules))
    for key, rule in rules.get("properties", {}).items():
        other = rule.get("atMost")
        if other in values and values[key] > values[other]:
            raise UserError(f"{where}.{key}: {values[key]} is more than {other} ({values[other]})")
        for other, wanted in (rule.get("with", {}).get(values[key], {}) if "with" in rule else {}).items():
            if values[other] != wanted:
                raise UserError(f"{where}.{other}: {values[other]} does not go with {key} {values[key]}; set {wanted}")


def _is_integer(checker: object, value: object) -> bool:
    """JSON Schema also takes 600.0 for one, which Python's range does not."""
    return isinstance(value, int) and not isinstance(value, bool)


_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer),
)


def _explain(error: jsonschema.ValidationError, where: str, rules: dict) -> str:
    key = ".".join([where, *map(str, error.absolute_path)]).strip(".") or "params"
    own = error.schema if isinstance(error.schema, dict) else {}
    meaning = own.get("description") or _description(rules, error.absolute_path)
    hint = f" ({meaning})" if meaning else ""
    value = error.instance
    if "form" in own or "propertyNames" in error.absolute_schema_path:
        what = "name" if "propertyNames" in error.absolute_schema_path else "value"
        return f"{key}: the {what} {value!r} is not made of {own.get('form', 'text; put it in quotes')}{hint}"
    match error.validator:
        case "additionalProperties":
            known = sorted(error.schema["properties"])
            unknown = sorted(set(value) - set(known), key=str)
            return f"{key}: unknown key {', '.join(map(repr, unknown))}; known keys: {', '.join(known)}"
        case "required":
            missing = [name for name in error.validator_value if name not in value]
            return f"{key}: missing key {', '.join(map(repr, missing))}"
        case "type":
            wanted = error.validator_value
            wanted = wanted if isinstance(wanted, str) else " or ".join(wanted)
            if isinstance(value, str) and ("number" in wanted or "integer" in wanted) and _is_number(value):
                return f"{key}: {value!r} is text, not a number: YAML reads 1e-6 as text, write it as 1.0e-6{hint}"
            return f"{key}: {value!r} is not of type {wanted}{hint}"
        case "enum":
            return f"{key}: {value!r} is not one of {', '.join(map(str, error.validator_value))}{hint}"
        case _:
            return f"{key}: {error.message}{hint}"


def _description(rules: dict, path: Iterable) -> str:
    """What a key means: a rule that only refers to a common one carries its description beside the reference."""
    for step in path:
        inner = rules.get("properties", {})
        rules = inner.get(step, {}) if isinstance(inner, dict) else {}
    return rules.get("description", "")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class _Loader(yaml.SafeLoader):
    """Refuses what YAML lets pass: a key given twice, of which the first would be lost, and numbers that are none."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                raise UserError(f"line {key.start_mark.line + 1}: key {name!r} is given twice; keep one")
            if value.tag == "tag:yaml.org,2002:float" and value.value.lower().lstrip("+-") in (".inf", ".nan"):
                raise UserError(f"line {value.start_mark.line + 1}: {name}: {value.value} is not a finite number")
            seen.add(name)
        return super().construct_mapping(node, deep)


def load(path: Path) -> dict:
    """Reads and checks a params file. Raises UserError at the first thing that is wrong."""
    path = Path(path)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such params file") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read as a params file ({error.strerror})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no sections; copy params.yaml or params/own.yaml")
    validate(values)
    return values


def check_losses(distill: dict) -> None:
    """Raises UserError if no loss has a weight: there would be nothing to train on."""
    if not any(distill[key] for key in ("w_diff", "w_out", "w_feat")):
        raise UserError("distill: w_diff, w_out and w_feat are all 0; give at least one of them a weight")


def check_rounds(distill: dict, bilevel: dict) -> None:
    """Raises UserError if the solver would take no upper step in all of training: nothing would be forgotten."""
    for key, rule in registry.literal("solvers", bilevel["solver"], "OPTIONS").items():
        if rule.get("atMost") == "steps" and bilevel[key] > distill["steps"]:
            raise UserError(
                f"bilevel.{key}: {bilevel[key]} is more than distill.steps ({distill['steps']}): no upper step"
            )


def validate(values: object) -> None:
    """Checks a whole experiment: types, ranges, plug-ins, and the names that sections use of each other."""
    check(values, schema(), "")
    check_losses(values["distill"])
    for section in CHOICES:
        check(values[section], section_schema(section, *plugins_of(section, values[section])), section)
    check_rounds(values["distill"], values["bilevel"])
    for name, own in values["erase"].items():
        _known("erase", name, "erasers", name)
        check(own, section_schema("erase_" + name, ("erasers", name)), f"erase.{name}")
    grid = values["grid"]
    _check_arms(values, grid["arms"], "grid.arms")
    if "distill" not in grid["arms"]:
        raise UserError("grid.arms: 'distill' is missing; CP and CSD are measured against it")
    for name, members in grid["sets"].items():
        for member in members:
            if member not in values["concepts"]:
                known = ", ".join(values["concepts"])
                raise UserError(f"grid.sets.{name}: {member!r} is not one of the concepts: {known}")
    check_names(values["tables"], ["base", "pruned", "distill", "bilevel", *registry.names("erasers")])
    for name, table in values["tables"].items():
        _check_table(values, table, f"tables.{name}")
    _check_attacks(values)
    pruner = values["prune"]["pruner"]
    text = values["erase"].get("conceptprune", {}).get("layers") == "text" and "conceptprune" in grid["arms"]
    if text and grid["order"].endswith("distill"):
        raise UserError("erase.conceptprune.layers: text edits the text encoder, so it must come last, as grid.order")
    if grid["order"] == "erase_prune_distill" and registry.literal("pruners", pruner, "FRESH", False):
        raise UserError(
            f"grid.order: erase_prune_distill prunes erased weights, and {pruner} brings weights of its own"
        )


def _check_attacks(values: dict) -> None:
    own, known = values["attacks"], {"arms": values["grid"]["arms"], "tables": list(values["tables"])}
    for key, names in known.items():
        for name in own[key]:
            if name not in names:
                what = "of the grid's arms" if key == "arms" else "of the tables"
                raise UserError(f"attacks.{key}: {name!r} is not one {what}: {', '.join(names) or 'there is none'}")
    for label, tried in own["tried"].items():
        where = f"attacks.tried.{label}"
        plugin = "attacks", _known(where, "attack", "attacks", tried["attack"])
        options = {key: value for key, value in tried.items() if key != "attack"}
        check(options, section_schema(f"attack_{tried['attack']}", plugin), where)


def _check_arms(values: dict, arms: list[str], where: str) -> None:
    erasers = registry.names("erasers")
    known = ["base", "pruned", "distill", "bilevel", *erasers]
    for arm in arms:
        if arm not in known:
            raise UserError(f"{where}: {arm!r} is not one of {', '.join(known)}")
        if arm in erasers and arm not in values["erase"]:
            raise UserError(f"{where}: {arm!r} is asked for but erase.{arm} is missing")
        if arm in erasers and values["grid"]["order"].endswith("distill") and registry.guides(arm):
            raise UserError(
                f"{where}: {arm!r} edits no weights, so it must come last: order distill_erase, prune_erase or erase"
            )


def _check_rivals(grid: dict, table: dict, where: str) -> None:
    """Arms that a table's rows are compared with must be the grid's, of the table's budgets and seeds."""
    known = [arm for arm in grid["arms"] if arm not in ("base", "pruned", "distill")]
    for arm in table.get("against", []):
        if arm not in known:
            told = ", ".join(known) or "there is none"
            raise UserError(f"{where}.against: {arm!r} is not one of the grid's arms that erase: {told}")
        for key in ("budgets", "seeds"):
            lacking = sorted(set(table[key] or []) - set(grid[key]))
            if lacking:
                raise UserError(f"{where}.against: {arm} has no {key} {lacking} in the grid to compare with")
        if any(arm in labels for labels in table["vary"].values()):
            raise UserError(f"{where}.against: {arm} is the name of a label, too; call the label otherwise")


def _check_table(values: dict, table: dict, where: str) -> None:
    check_axes(table, where)
    _check_rivals(values["grid"], table, where)
    _check_arms(values | {"grid": values["grid"] | {"order": "distill_erase"}}, table["of"], f"{where}.of")
    for arm in table["of"]:
        for labels, changes in points(table):
            place = ".".join([where, *labels.values()])
            try:
                found = varied(values, changes, arm, place)
                alone = {"grid": found["grid"] | {"arms": list({"distill", arm})}}  # it alone varies
                validate(found | alone | {"attacks": found["attacks"] | {"arms": [], "tables": []}})
            except UserError as error:
                text = str(error)
                raise UserError(text if text.startswith(where) else f"{place}: {text}") from None
