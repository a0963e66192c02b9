"""A graph of results: nodes with addresses, and the plan of one experiment made of them.

A node's recipe is computed with the formula that its stage uses on finished inputs (`lethe.params.recipe`), so both
name the same folder. Of the code only the VERSION of a stage is hashed, and that of a plug-in once it was raised.
"""

import importlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from lethe.files.io import META, digest
from lethe.params import recipe
from lethe.params.recipe import REPORTS, RESULTS
from lethe.stage import cli


@dataclass(frozen=True, eq=False)
class Node:
    """One result. A parent is another node, or the identity of something that nobody makes here.

    `flags`: command-line words of its stage, but for --out and the machine's settings.
    """

    experiment: str
    stage: str
    kind: str
    arm: str
    key: str
    options: dict
    parents: dict[str, "Node | str"]
    flags: list[str]
    pictures: tuple[str, ...] = ()  # picture folders the command reads

    @cached_property
    def recipe(self) -> str:
        parents = {role: p.recipe if isinstance(p, Node) else p for role, p in self.parents.items()}
        return recipe.recipe(self.stage, version(self.stage), self.options, parents)

    @property
    def folder(self) -> Path:
        return RESULTS / self.experiment / self.kind / self.arm / f"{self.key}-{self.recipe}"

    @property
    def meta(self) -> str:
        """The file that says the result is finished."""
        return str(self.folder / META)

    @property
    def results(self) -> dict[str, "Node"]:
        """Parents that are results of this experiment, by role."""
        return {role: parent for role, parent in self.parents.items() if isinstance(parent, Node)}

    @property
    def made_from(self) -> list["Node"]:
        """The same without their roles."""
        return list(self.results.values())


@dataclass(frozen=True)
class Plan:
    """All nodes by folder, parents before children; one row a run for the report; the report's own recipe; and what
    section score names that is not there, by its key (`absent.split`)."""

    params: dict
    nodes: dict[str, Node]
    rows: list[dict]
    recipe: str
    lacking: dict[str, str] = field(default_factory=dict)

    @property
    def stamp(self) -> str:
        """The file that says the published report is that of this plan."""
        return str(REPORTS / self.params["experiment"] / f"recipe-{self.recipe}.json")

    @property
    def file(self) -> str:
        """Where the workflow puts this plan for the report to read."""
        return str(RESULTS / self.params["experiment"] / "plans" / f"{self.recipe}.json")

    @property
    def tables(self) -> list[str]:
        """The grid's tables: `style` if some set erases a style or an object, `unsafe` if one erases such a concept;
        and `kept`."""
        members = {name for names in self.params["grid"]["sets"].values() for name in names}
        found = {self.params["concepts"][name]["kind"] == "unsafe" for name in members}
        return [table for table, unsafe in (("style", False), ("unsafe", True)) if unsafe in found] + ["kept"]

    def of_kind(self, *kinds: str) -> list[Node]:
        return [node for node in self.nodes.values() if node.kind in kinds]

    def as_json(self) -> dict:
        """What stages.report reads."""
        return {
            "recipe": self.recipe,
            "experiment": self.params["experiment"],
            "params": self.params,
            "rows": self.rows,
        }


def some(**nodes: Node | None) -> dict[str, Node]:
    """Those that are there, as parents by role."""
    return {role: node for role, node in nodes.items() if node}


def folders(**nodes: Node | None) -> list[str]:
    """Flags that name the folders of those that are there: --pruned FOLDER ..."""
    return [word for role, node in some(**nodes).items() for word in (cli.flag(role), str(node.folder))]


def version(stage: str) -> int:
    """VERSION of a stage; importing one is cheap, its heavy imports stand inside `main`."""
    return importlib.import_module(f"stages.{stage}").VERSION


def arguments(node: Node) -> list[str]:
    """What follows `python -m stages.NAME` in the command that makes a node."""
    return ["--out", str(node.folder), *node.flags]


def made_marker(params: dict) -> str:
    """File beside the fine-tuning pictures that says `pictures.make` has run; deleted with them, it runs again."""
    pictures = params["pictures"]
    return str(Path(pictures["finetune"]).parent / f".made-{digest(pictures['make'])}")
