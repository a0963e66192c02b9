"""A whole experiment: read from its params file, filled with defaults, checked, refused in one line."""

from collections.abc import Mapping
from pathlib import Path

from lethe.files.errors import UserError
from lethe.params import inheritance, registry
from lethe.params.checking import check
from lethe.params.rules import CHOICES, complete, completed, options_of, plugins_of, schema, section_schema
from lethe.params.variation import check_axes, check_names, points, varied


def load(path: Path) -> dict:
    """All values of a params file, those that it inherits and defaults among them (`inheritance`, `rules`).

    Raises UserError at the first thing that is wrong.
    """
    return validate(inheritance.read(path))


def check_losses(distill: dict) -> None:
    """Raises UserError if no loss has a weight: there would be nothing to train on."""
    if not any(distill[key] for key in ("w_diff", "w_out", "w_feat")):
        raise UserError("distill: w_diff, w_out and w_feat are all 0; give at least one of them a weight")


def check_rounds(distill: dict, bilevel: dict) -> None:
    """Raises UserError if the solver would take no upper step in all of training: nothing would be forgotten."""
    for key, rule in options_of("solvers", bilevel["solver"]).items():
        if rule.get("atMost") == "steps" and bilevel[key] > distill["steps"]:
            told = f"{bilevel[key]} is more than distill.steps ({distill['steps']}): no upper step"
            raise UserError(f"bilevel.{key}: {told}; set it to at most that")


def check_subset(make: str | None, subset: bool, where: str) -> None:
    """Raises UserError for a part of pictures that a command makes: they count by the command alone, whatever lacks."""
    if make and subset:
        raise UserError(f"{where}: pictures that a command makes count by the command, so none may lack; leave one out")


def validate(given: Mapping) -> dict:
    """The whole experiment, with defaults for what is not given. Raises UserError for a wrong type, value, plug-in, or
    name that one section uses of another."""
    values = complete(given, schema())
    check(values, schema(), "", given)
    values = completed(values)
    check_losses(values["distill"])
    check_subset(values["pictures"]["make"], values["pictures"].get("subset", False), "pictures: make and subset")
    for section in CHOICES:
        rules = section_schema(section, *plugins_of(section, values[section]))
        check(values[section], rules, section, given.get(section, {}))
    check_rounds(values["distill"], values["bilevel"])
    for name, own in values["erase"].items():
        rules = section_schema(f"erase_{name}", ("erasers", name))
        check(own, rules, f"erase.{name}", given.get("erase", {}).get(name, {}))
    _check_names(values)
    return values


def _check_names(values: dict) -> None:
    """Raises UserError where one section names what another has not, or cannot go with."""
    grid = values["grid"]
    _check_arms(values, grid["arms"], "grid.arms")
    if "distill" not in grid["arms"]:
        raise UserError("grid.arms: 'distill' is missing; CP and CSD are measured against it")
    for name, members in grid["sets"].items():
        for member in members:
            if member not in values["concepts"]:
                known = ", ".join(values["concepts"])
                raise UserError(f"grid.sets.{name}: {member!r} is not one of the concepts: {known}")
    _check_doubles(grid["sets"])
    check_neighbours(values["concepts"], "concepts")
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


def check_neighbours(concepts: Mapping[str, Mapping], where: str) -> None:
    """Raises UserError for a concept whose own label is among its neighbours: it would have to go and to stay."""
    for name, concept in concepts.items():
        if concept["style"] is not None and concept["style"] in concept["neighbours"]:
            raise UserError(
                f"{where}.{name}.neighbours: {concept['style']!r} is its own label (style), which cannot go and stay; "
                "take it out"
            )


def _check_doubles(sets: Mapping[str, list[str]]) -> None:
    """Raises UserError for two sets of the same concepts: one training under two names, which share its state."""
    first: dict[frozenset[str], str] = {}
    for name, members in sets.items():
        before = first.setdefault(frozenset(members), name)
        if before != name:
            raise UserError(f"grid.sets: {before} and {name} hold the same concepts; keep one")


def _check_attacks(values: dict) -> None:
    own, known = values["attacks"], {"arms": values["grid"]["arms"], "tables": list(values["tables"])}
    for key, names in known.items():
        for name in own[key]:
            if name not in names:
                what = "of the grid's arms" if key == "arms" else "of the tables"
                raise UserError(f"attacks.{key}: {name!r} is not one {what}: {', '.join(names) or 'there is none'}")
    for label, tried in own["tried"].items():
        where = f"attacks.tried.{label}"
        options = {key: value for key, value in tried.items() if key != "attack"}
        check(options, section_schema(f"attack_{tried['attack']}", ("attacks", tried["attack"])), where)


def _check_arms(values: dict, arms: list[str], where: str) -> None:
    erasers = registry.names("erasers")
    known = ["base", "pruned", "distill", "bilevel", *erasers]
    for arm in arms:
        if arm not in known:
            raise UserError(f"{where}: {arm!r} is not one of {', '.join(known)}")
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
