"""Everything that a params file names, looked at one by one: what is there, how large, and how to get what is not."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from lethe.experiment import absent, given, mirrors
from lethe.files import hashes
from lethe.files.errors import UserError
from lethe.files.io import META
from lethe.measuring import judges
from lethe.models.pipelines import check_base, check_resolution
from lethe.params import experts, recipe, registry
from lethe.texts.prompts import empty_rows, read_prompts, read_sets
from lethe.texts.wording import check_anchors

COCO = "http://images.cocodataset.org/zips/{name}.zip beside annotations/ of annotations_trainval2017.zip"
HOW = {  # section of the key -> where such a thing comes from
    "prompts": "a published list becomes one by: python -m lethe.texts.prompts LIST --out {path}",
    "concepts": "null lets the base draw them; a released upper set becomes one by python -m lethe.training.upper_set",
    "prune": "the expert of that budget, as its authors publish it",
}


@dataclass(frozen=True)
class Item:
    """One thing that is named. `files`: the folder whose bytes count in addresses; `rows`: of a list or of pictures;
    `problem`: why no job can begin, with what to do; `note`: what else there is to say."""

    key: str
    name: str
    files: Path | None = None
    rows: int | None = None
    note: str = ""
    problem: str | None = None

    @cached_property
    def sizes(self) -> tuple[int, int] | None:
        """Bytes of its files, and of those the ones whose hash is not kept; None for what is no folder to read."""
        if self.files is None:
            return None
        total, unread = hashes.sizes(self.files)
        return total, 0 if (self.files / META).is_file() else unread

    @property
    def unread(self) -> int:
        return self.sizes[1] if self.sizes else 0


def items(params: dict) -> list[Item]:
    """Of valid params (`options.validate`), in the order of the file. Reads no file of weights and no picture."""
    found = [*_base(params), *_pictures(params), *_prompts(params), *_experts(params), *_networks(params)]
    return found + list(_rest(params, found))


def _tried(key: str, name: str, look: Callable[[], Item], how: str = "") -> Item:
    """What a look gives, its files' sizes looked up; a UserError is the item's problem, the key in front and what to do
    behind."""
    try:
        item = look()
        _ = item.sizes
        return item
    except UserError as error:
        told = str(error).removeprefix(f"{key}: ")
        return Item(key, name, problem=f"{key}: {told}{f'; {how}' if how else ''}")


def _base(params: dict) -> Iterator[Item]:
    base = params["base"]

    def look() -> Item:
        mirrors.check_there(base)
        if not Path(base["path"]).is_dir():
            recipe.of_model(base["path"], base["revision"])  # says whether the hub id is one
            return Item("base.path", base["path"], note="a hub id: the first job fetches it")
        check_base(base["path"], base["revision"])
        check_resolution(base["path"], base["resolution"])
        given.check_steps_of(params)
        return Item("base.path", base["path"], Path(base["path"]))

    yield _tried("base.path", base["path"], look)


def _pictures(params: dict) -> Iterator[Item]:
    own, make = params["pictures"], params["pictures"]["make"]
    named = {f"pictures.{name}": own[name] for name in ("finetune", "eval")}
    named |= {f"concepts.{name}.pictures": concept["pictures"] for name, concept in params["concepts"].items()}
    for key, folder in named.items():
        if folder is None:
            yield Item(key, "null", rows=params["encode"]["generated"], note="the base draws them")
        elif make:
            yield Item(key, folder, note="pictures.make makes them")
        else:

            def look(key: str = key, folder: str = folder) -> Item:
                found = given.check_pictures(own, key, folder)
                note = f"{found.missing:,} more of its list have no picture, left out" if found.missing else ""
                return Item(key, folder, Path(folder), len(found), note)

            name = Path(folder).name
            how = COCO.format(name=name) if name in ("train2017", "val2017") else HOW.get(key.partition(".")[0], "")
            yield _tried(key, folder, look, "" if Path(folder).is_dir() else how)


def _prompts(params: dict) -> Iterator[Item]:
    skip = given.skips_empty(params)
    for name, path in given.prompt_sets(params).items():

        def look(key: str = given.prompt_key(name, params), path: str = path) -> Item:
            rows = read_prompts(path, skip)
            empty = empty_rows(path) if skip else 0
            note = f"; {empty:,} more have no prompt, left out" if empty else ""
            return Item(key, path, rows=len(rows), note=recipe.of_file(Path(path)) + note)

        how = "" if Path(path).is_file() else HOW["prompts"].format(path=path)
        yield _tried(given.prompt_key(name, params), path, look, how)


def _experts(params: dict) -> Iterator[Item]:
    """Published checkpoints of all budgets of the grid and of the tables."""
    own, pruner = params["prune"], params["prune"]["pruner"]
    if "checkpoint" not in registry.needs("pruners", pruner):
        return
    budgets = dict.fromkeys(params["grid"]["budgets"])
    budgets |= dict.fromkeys(budget for table in params["tables"].values() for budget in table["budgets"] or [])
    for budget in budgets:
        key = f"prune.checkpoint of {budget:g}"

        def look(key: str = key, budget: float = budget) -> Item:
            values = experts.at_budget(own, budget)
            registry.get("pruners", pruner).check(values)
            return Item(key, values["checkpoint"], Path(values["checkpoint"]))

        found = own["checkpoint"]
        name = found if isinstance(found, str) else next((f for k, f in found.items() if float(k) == budget), "–")
        yield _tried(key, name, look, "" if Path(name).is_dir() else HOW["prune"])


def _networks(params: dict) -> Iterator[Item]:
    """What measures. What lacks costs metrics and stops no job; of names that a hub knows only the form is known."""
    try:
        judges.check(params["score"])
        _, lacking = absent.split(params["score"])
    except UserError as error:
        yield Item("score", "", problem=str(error))
        return
    named = {key: params["score"][key] for key in ("clip", "descriptor", "features", "lpips")}
    named |= {f"judges.{role}": name for role, name in params["score"]["judges"].items()}
    for key, name in named.items():
        if name is None:
            continue
        folder = Path(name.removeprefix("local-dir:"))
        there = folder.is_dir() and key not in lacking
        note = f"not there, so not measured: {absent.NETWORKS[key].metrics}; {absent.NETWORKS[key].where}"
        set_up = key == "judges.unsafe" and name == judges.NUDENET  # by make nudenet; no job fetches it
        known = there or set_up
        note = note if key in lacking else "" if known else "fetched when it is first needed, unless it is kept already"
        yield _tried(f"score.{key}", name, partial(Item, f"score.{key}", name, folder if there else None, note=note))


def _rest(params: dict, found: list[Item]) -> Iterator[Item]:
    """What is wrong with things that are there."""
    try:
        check_anchors(params["concepts"])
    except UserError as error:
        yield Item("concepts", "", problem=str(error))
    read = [item for item in found if item.key.startswith(("prompts.", "score")) or item.key.endswith(".prompts")]
    if not any(item.problem for item in read):
        try:
            paths = {name: Path(path) for name, path in given.prompt_sets(params).items()}
            sets = read_sets(paths, given.skips_empty(params))
            judges.check_truth(absent.split(params["score"])[0]["judges"], params["concepts"], sets)
        except UserError as error:
            yield Item("score.judges", "", problem=str(error))
