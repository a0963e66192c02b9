"""The graph of one experiment: every result it needs, its address, and the command that makes it.

Planned from the params file before anything exists: what is missing or wrong shows before the first job.

    python -m lethe.plan params.yaml --out PLAN.json    # the plan of the report, as stages.report reads it
"""

import argparse
import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from lethe import cli, judges, options, recipe
from lethe.errors import UserError
from lethe.graph import Node, Plan, version
from lethe.io import canonical, digest, write_json
from lethe.models import check_base, check_resolution, check_steps
from lethe.pictures import read as read_pictures
from lethe.prompts import read_prompts, read_sets


class Experiment:
    """One method a stage; each gives the node for its place in the grid. `params` must be valid (options.validate)."""

    def __init__(self, params: dict):
        self.params = params
        base = params["base"]
        self.base = _at("base.path", recipe.of_model, base["path"], base["revision"])
        _at("base.path", check_base, base["path"], base["revision"])
        self.base_flags = ["--base", base["path"], *(["--revision", base["revision"]] if base["revision"] else [])]
        _at("base.resolution", check_resolution, base["path"], base["resolution"])
        _at("sample.steps", check_steps, base["path"], params["sample"]["steps"])
        for name, own in params["erase"].items():
            _at(f"erase.{name}.sampler_steps", check_steps, base["path"], own.get("sampler_steps", 1))
        self.resolution = {"resolution": base["resolution"]}
        self.sized_flags = [*self.base_flags, *cli.flags(self.resolution)]
        self.origin = self
        self.prompts = self._prompts()
        self.prompt_files = {f"prompts:{name}": recipe.of_file(path) for name, path in self.prompts.items()}
        self.given = self._given_pictures()
        self.judges = recipe.of_judges(params["score"])
        self._check_judges()
        self.eval_pictures = self._identity("pictures.eval", params["pictures"]["eval"])
        self.finetune_pictures = self._identity("pictures.finetune", params["pictures"]["finetune"])

    def _prompts(self) -> dict[str, str]:
        """Prompt-set name -> CSV: each concept's, then what must stay."""
        concepts = self.params["concepts"]
        found = {name: concepts[name]["prompts"] for name in sorted(concepts)}
        for name in ("retain", "eval"):
            if name in found:
                raise UserError(f"concepts: {name!r} is the name of a prompt set; call the concept something else")
            found[name] = self.params["prompts"][name]
        for name, path in found.items():
            _at(f"concepts.{name}.prompts" if name in concepts else f"prompts.{name}", read_prompts, path)
        return found

    def _check_judges(self) -> None:
        """Networks that measure: folders are whole, and their labels are those of prompt files and concepts."""
        score = self.params["score"]
        judges.check(score)
        judges.check_truth(score["judges"], self.params["concepts"], read_sets(self.prompts))

    def _given_pictures(self) -> dict[str, str]:
        """Identity of each concept's pictures, for concepts that bring some."""
        return {
            name: self._identity(f"concepts.{name}.pictures", own["pictures"])
            for name, own in self.params["concepts"].items()
            if own["pictures"]
        }

    def _identity(self, key: str, folder: str) -> str:
        make = self.params["pictures"]["make"]
        if not make and not Path(folder).is_dir():
            raise UserError(f"{key}: {folder}: no such folder, and pictures.make is null; add it, or give the command")
        if not make:
            _at(key, read_pictures, folder, None if key == "pictures.finetune" else "")  # each row has its file
        return _at(key, recipe.of_pictures, folder, make)

    def _node(self, stage: str, kind: str, arm: str, key: str, **more: object) -> Node:
        return Node(self.params["experiment"], stage, kind, arm, key, **more)

    def members(self, name: str) -> list[str]:
        """Concepts of a set, sorted: their order in the file is no part of the recipe, so it must not matter."""
        return sorted(self.params["grid"]["sets"][name])

    def drawn_pictures(self, concept: str) -> Node:
        """Pictures of a concept that brings none, drawn by the base model."""
        own = {"prompt": self.params["concepts"][concept]["prompt"], "count": self.params["encode"]["generated"]}
        values = self.params["sample"]
        return self._node(
            "sample",
            "samples",
            "base",
            f"pictures-{concept}",
            options=values | own | self.resolution,
            parents={"base": self.base},
            flags=[*self.sized_flags, *cli.flags(own), *cli.flags(values)],
        )

    def pictures(self, concept: str) -> tuple[str, "Node | str", tuple[str, ...]]:
        """Folder, parent and, where they are not ours, the folder again as one that must be there."""
        own = self.params["concepts"][concept]["pictures"]
        if own:
            return own, self.given[concept], (own,)
        node = self.drawn_pictures(concept)
        return str(node.folder), node, ()

    def make_flags(self) -> list[str]:
        make = self.params["pictures"]["make"]
        return ["--make", make] if make else []

    def encode(self, name: str) -> Node:
        """Latents and caption embeddings of the fine-tuning pictures ("finetune") or of a concept's."""
        values = self.params["encode"]
        if name == "finetune":
            folder, prompt = self.params["pictures"]["finetune"], None
            parent, pictures = self.finetune_pictures, (folder,)
        else:
            folder, parent, pictures = self.pictures(name)
            prompt = self.params["concepts"][name]["prompt"]
        return self._node(
            "encode",
            "encode",
            "frozen",
            name,
            options={"flip": values["flip"], "prompt": prompt} | self.resolution,
            parents={"base": self.base, "pictures": parent},
            flags=[
                *self.sized_flags,
                *["--pictures", folder],
                *(["--prompt", prompt] if prompt else []),
                *(self.make_flags() if pictures else []),
                *cli.flags(values),
            ],
            pictures=pictures,
        )

    def prune(self, budget: float) -> Node:
        values = {"budget": budget} | self.params["prune"]
        return self._node(
            "prune",
            "weights",
            "pruned",
            tag(budget),
            options=values | self.resolution,
            parents={"base": self.base},
            flags=[*self.sized_flags, *cli.flags(values)],
        )

    def distill(self, budget: float, seed: int) -> Node:
        values = {"seed": seed} | self.params["distill"]
        pruned, data = self.prune(budget), self.encode("finetune")
        return self._node(
            "distill",
            "weights",
            "distill",
            f"{tag(budget)}-s{seed}",
            options=values,
            parents={"base": self.base, "pruned": pruned, "data": data},
            flags=[*self.base_flags, "--pruned", str(pruned.folder), "--data", str(data.folder), *cli.flags(values)],
        )

    def bilevel(self, budget: float, name: str, seed: int) -> Node:
        values = {"seed": seed} | self.params["distill"] | self.params["bilevel"]
        pruned, data = self.prune(budget), self.encode("finetune")
        concepts = {member: self.encode(member) for member in self.members(name)}
        return self._node(
            "bilevel",
            "weights",
            "bilevel",
            f"{tag(budget)}-{name}-s{seed}",
            options=values,
            parents={"base": self.base, "pruned": pruned, "data": data}
            | {f"concept:{member}": node for member, node in concepts.items()},
            flags=[
                *self.base_flags,
                *["--pruned", str(pruned.folder), "--data", str(data.folder)],
                *["--concepts", *(f"{member}={node.folder}" for member, node in concepts.items())],
                *cli.flags(values),
            ],
        )

    def erase(self, eraser: str, budget: float, name: str, seed: int) -> Node:
        model = self.weights(self.params["grid"]["erase_from"], budget, name, seed)
        values = self.params["erase"][eraser]
        own = self.params["concepts"]
        concepts = {member: {key: own[member][key] for key in ("prompt", "anchor")} for member in self.members(name)}
        return self._node(
            "erase",
            "weights",
            eraser,
            f"{tag(budget) if model else 'dense'}-{name}-s{seed}",
            options={"eraser": eraser, "seed": seed, "concepts": concepts} | self.resolution | values,
            parents={"base": self.base} | ({"model": model} if model else {}),
            flags=[
                *self.sized_flags,
                *(["--model", str(model.folder)] if model else []),
                *["--eraser", eraser, "--concepts", canonical(concepts)],
                *cli.flags({"seed": seed} | values),
            ],
        )

    def weights(self, arm: str, budget: float, name: str, seed: int) -> Node | None:
        """Node of an arm's weights; None for the base model."""
        match arm:
            case "base":
                return None
            case "pruned":
                return self.prune(budget)
            case "distill":
                return self.distill(budget, seed)
            case "bilevel":
                return self.bilevel(budget, name, seed)
            case _:
                return self.erase(arm, budget, name, seed)

    def sample(self, weights: Node | None) -> Node:
        """Pictures of every prompt set, drawn with some weights or, without, by the base model."""
        values = self.params["sample"]
        return self._node(
            "sample",
            "samples",
            weights.arm if weights else "base",
            weights.key if weights else "base",
            options=values | self.resolution,
            parents={"base": self.base} | ({"model": weights} if weights else {}) | self.prompt_files,
            flags=[
                *self.sized_flags,
                *(["--model", str(weights.folder)] if weights else []),
                *["--prompts", *(f"{name}={path}" for name, path in self.prompts.items())],
                *cli.flags(values),
            ],
        )

    def score(self, arm: str, budget: float, name: str, seed: int) -> Node:
        """Metrics of one arm for one set of erased concepts, against the arm `distill` of its budget and seed."""
        samples = self.sample(self.weights(arm, budget, name, seed))
        reference = None if arm == "distill" else self.origin.score("distill", budget, name, seed)
        values, erased = self.params["score"], self.members(name)
        found = {concept: self.pictures(concept) for concept in self.prompts if concept in self.params["concepts"]}
        concepts = {
            concept: {key: self.params["concepts"][concept][key] for key in ("style", "neighbours")}
            | {"pictures": folder}
            for concept, (folder, _, _) in found.items()
        }
        real = self.params["pictures"]["eval"]
        return self._node(
            "score",
            "metrics",
            arm,
            f"{samples.key}-{name}" if arm in ("base", "pruned", "distill") else samples.key,
            options=values | {"concepts": concepts, "erased": erased},
            parents={"samples": samples, "eval_pictures": self.eval_pictures}
            | ({"reference": reference} if reference else {})
            | self.judges
            | self.prompt_files
            | {f"pictures:{concept}": parent for concept, (_, parent, _) in found.items()},
            flags=[
                *["--samples", str(samples.folder)],
                *(["--reference", str(reference.folder)] if reference else []),
                *["--prompts", *(f"{set_name}={path}" for set_name, path in self.prompts.items())],
                *["--concepts", canonical(concepts), "--erased", *erased],
                *["--eval-pictures", real, *self.make_flags()],
                *cli.flags(values),
            ],
            pictures=(real, *(folder for _, _, folders in found.values() for folder in folders)),
        )

    def variant(self, name: str) -> "Experiment":
        """The same experiment with the values of one of its variants; what it is compared with does not vary."""
        found = copy.copy(self)
        found.params = options.varied(self.params, name)
        return found

    def places(self, arms: list[str]) -> Iterator[tuple[str, float, str, int, dict]]:
        """Every run once: what `score` needs, and the values that tell it from others (null: it has no such value)."""
        grid = self.params["grid"]
        for arm in arms:
            for budget in grid["budgets"][:1] if arm == "base" else grid["budgets"]:
                for name in grid["sets"]:
                    for seed in grid["seeds"][:1] if arm in ("base", "pruned") else grid["seeds"]:
                        own = {
                            "arm": arm,
                            "budget": None if arm == "base" else budget,
                            "set": name,
                            "seed": None if arm in ("base", "pruned") else seed,
                        }
                        yield arm, budget, name, seed, own


def build(params: dict) -> Plan:
    """The whole plan. Raises UserError for a base model, prompt file, picture folder or judge that is not there."""
    options.validate(params)
    experiment, nodes, rows = Experiment(params), {}, []
    runs = [(experiment, *place) for place in experiment.places(params["grid"]["arms"])]
    for variant, values in params["variants"].items():
        varied = experiment.variant(variant)
        runs += [(varied, *place[:-1], place[-1] | {"arm": variant}) for place in varied.places([values["of"]])]
    for planner, arm, budget, name, seed, own in runs:
        metrics = planner.score(arm, budget, name, seed)
        samples = metrics.parents["samples"]
        weights = samples.parents.get("model")
        _collect(metrics, nodes)
        chain = [node for node in (*_ancestors(weights), weights) if node.kind == "weights"] if weights else []
        paths = {"metrics": str(metrics.folder), "samples": str(samples.folder)}
        rows.append(own | paths | {"weights": [str(node.folder) for node in chain]})
    return Plan(params, nodes, rows, digest({"version": version("report"), "params": params, "rows": rows}))


def _collect(node: Node, nodes: dict[str, Node]) -> None:
    if str(node.folder) not in nodes:
        for parent in node.made_from:
            _collect(parent, nodes)
        nodes[str(node.folder)] = node


def _ancestors(node: Node) -> list[Node]:
    return [found for parent in node.made_from for found in (*_ancestors(parent), parent)]


def tag(budget: float) -> str:
    """0.8 -> b080."""
    return f"b{round(budget * 100):03d}"


def _at(key: str, check: Callable, *values: object) -> object:
    """Calls a check; its UserError gets the params key in front."""
    try:
        return check(*values)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


def main() -> None:
    made = argparse.ArgumentParser(prog="python -m lethe.plan", description=__doc__.split("\n")[0])
    made.add_argument("params", type=Path, help="params file")
    made.add_argument("--out", type=Path, help="file to write the report's plan to (default: print it)")
    args = made.parse_args()
    plan = build(options.load(args.params))
    if args.out is None:
        print(json.dumps(plan.as_json(), indent=2, ensure_ascii=False))
    elif args.out.stem != plan.recipe:
        raise UserError(f"{args.params}: has changed while the workflow ran (recipe {plan.recipe}); run it again")
    else:
        write_json(args.out, plan.as_json())


if __name__ == "__main__":
    cli.run(main)
