"""One experiment: a method for each stage gives the node, address and command, of a result in its grid."""

import copy
from collections.abc import Callable
from pathlib import Path

from lethe.experiment import absent, tried
from lethe.experiment.graph import Node
from lethe.files.errors import UserError
from lethe.files.io import canonical
from lethe.measuring import judges
from lethe.models.pipelines import check_base, check_resolution, check_steps
from lethe.params import recipe, registry
from lethe.params.variation import varied
from lethe.stage import cli
from lethe.texts.prompts import read_prompts, read_sets
from lethe.texts.templates import check_pairs
from lethe.texts.wording import check_anchors
from lethe.training.pictures import read as read_pictures


class Experiment:
    """One method a stage; each gives the node for its place in the grid. `params` must be valid (options.validate)."""

    def __init__(self, params: dict):
        self.params = params
        base = params["base"]
        self.base = _at("base.path", recipe.of_model, base["path"], base["revision"])
        _at("base.path", check_base, base["path"], base["revision"])
        self.base_flags = ["--base", base["path"], *(["--revision", base["revision"]] if base["revision"] else [])]
        _at("base.resolution", check_resolution, base["path"], base["resolution"])
        self._check_steps()
        check_anchors(params["concepts"])
        self.resolution = {"resolution": base["resolution"]}
        self.sized_flags = [*self.base_flags, *cli.flags(self.resolution)]
        self.origin = self
        self.prompts = self._prompts()
        self.prompt_files = {f"prompts:{name}": recipe.of_file(path) for name, path in self.prompts.items()}
        self.given = self._given_pictures()
        self.judges = self._checked_judges()
        self.eval_pictures = self._identity("pictures.eval", params["pictures"]["eval"])
        self.finetune_pictures = self._identity("pictures.finetune", params["pictures"]["finetune"])

    def _check_steps(self) -> None:
        """No sampler takes more steps than the base model has noise levels."""
        params = self.params
        steps = {"sample.steps": params["sample"]["steps"]}
        steps["bilevel.upper_sampler_steps"] = params["bilevel"]["upper_sampler_steps"]
        steps |= {f"erase.{name}.sampler_steps": own.get("sampler_steps", 1) for name, own in params["erase"].items()}
        for key, value in steps.items():
            _at(key, check_steps, params["base"]["path"], value)

    def _prompts(self) -> dict[str, str]:
        """Prompt-set name -> CSV: each concept's, then what must stay."""
        concepts = self.params["concepts"]
        found = {name: concepts[name]["prompts"] for name in sorted(concepts)}
        for name in ("retain", "eval", "finetune"):
            if name in found:
                raise UserError(
                    f"concepts: {name!r} is the name of a set of prompts or pictures; call it something else"
                )
        for name in ("retain", "eval"):
            found[name] = self.params["prompts"][name]
        for name, path in found.items():
            _at(f"concepts.{name}.prompts" if name in concepts else f"prompts.{name}", read_prompts, path)
        return found

    def _checked_judges(self) -> dict[str, str]:
        """Identities of the networks that measure, whose labels are those of prompt files and concepts; `lacking`: key
        -> what is not there."""
        score = self.params["score"]
        judges.check(score)
        usable, self.lacking = absent.split(score)
        judges.check_truth(usable["judges"], self.params["concepts"], read_sets(self.prompts))
        return absent.identities(score, self.lacking)

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
        values = self.origin.params["sample"]  # a table that draws otherwise does not train on other pictures
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
            folder, prompt, anchor = self.params["pictures"]["finetune"], None, None
            parent, pictures = self.finetune_pictures, (folder,)
        else:
            folder, parent, pictures = self.pictures(name)
            prompt, anchor = (self.params["concepts"][name][key] for key in ("prompt", "anchor"))
        return self._node(
            "encode",
            "encode",
            "frozen",
            name,
            options={"flip": values["flip"], "prompt": prompt, "anchor": anchor} | self.resolution,
            parents={"base": self.base, "pictures": parent},
            flags=[
                *self.sized_flags,
                *["--pictures", folder],
                *(["--prompt", prompt, "--anchor", anchor] if prompt else []),
                *(self.make_flags() if pictures else []),
                *cli.flags(values),
            ],
            pictures=pictures,
        )

    def prune(self, budget: float, dense: Node | None = None) -> Node:
        """The base model's U-Net, or an edited dense one, pruned."""
        values = {"budget": budget} | self.params["prune"]
        pruner = self.params["prune"]["pruner"]
        needs = registry.needs("pruners", pruner)
        data = {"data": self.encode("finetune")} if "data" in needs else {}
        given = {"checkpoint": self._checkpoint(pruner)} if "checkpoint" in needs else {}
        return self._node(
            "prune",
            "weights",
            "pruned",
            f"{tag(budget)}-{pruner}",
            options=values | self.resolution,
            parents={"base": self.base} | _some(model=dense) | data | given,
            flags=[*self.sized_flags, *_folders(model=dense, **data), *cli.flags(values)],
        )

    def _checkpoint(self, pruner: str) -> str:
        """Identity of a published checkpoint that a pruner takes over, looked over first."""
        _at("prune", registry.get("pruners", pruner).check, self.params["prune"])
        return recipe.of_folder(Path(self.params["prune"]["checkpoint"]))

    def distill(self, budget: float, seed: int, pruned: Node | None = None, teacher: Node | None = None) -> Node:
        """The pruned model, or another, healed under the base model or another teacher."""
        values = {"seed": seed} | self.params["distill"]
        pruned, data = pruned or self.prune(budget), self.encode("finetune")
        return self._node(
            "distill",
            "weights",
            "distill",
            f"{tag(budget)}-s{seed}",
            options=values,
            parents={"base": self.base, "pruned": pruned, "data": data} | _some(teacher=teacher),
            flags=[*self.base_flags, *_folders(pruned=pruned, data=data, teacher=teacher), *cli.flags(values)],
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
            parents={"base": self.base, "pruned": pruned, "data": data} | _concepts(concepts),
            flags=[
                *self.base_flags,
                *_folders(pruned=pruned, data=data),
                *["--concepts", *(f"{member}={node.folder}" for member, node in concepts.items())],
                *cli.flags(values),
            ],
        )

    def erase(self, eraser: str, model: Node | None, name: str, seed: int, start: str) -> Node:
        """Concepts erased from some weights, or without from the dense base. `start`: how the key begins."""
        values, needs = self.params["erase"][eraser], registry.needs("erasers", eraser)
        own = self.params["concepts"]
        concepts = {member: {key: own[member][key] for key in ("prompt", "anchor")} for member in self.members(name)}
        check_pairs(values, concepts.values(), f"erase.{eraser}")
        pictures = {member: self.encode(member) for member in concepts} if "concepts" in needs else {}
        data = {"data": self.encode("finetune")} if "data" in needs else {}
        return self._node(
            "erase",
            "weights",
            eraser,
            f"{start}-{name}-s{seed}",
            options={"eraser": eraser, "seed": seed, "concepts": concepts} | self.resolution | values,
            parents={"base": self.base} | _some(model=model) | data | _concepts(pictures),
            flags=[
                *self.sized_flags,
                *_folders(model=model, **data),
                *["--eraser", eraser, "--concepts", canonical(concepts)],
                *(
                    ["--concept-pictures", *(f"{key}={node.folder}" for key, node in pictures.items())]
                    if pictures
                    else []
                ),
                *cli.flags({"seed": seed} | values),
            ],
        )

    def ordered(self, eraser: str, budget: float, name: str, seed: int) -> Node:
        """Pruning, distilling and erasing in the order that the grid names."""
        dense, start = (eraser, None, name, seed, "dense"), tag(budget)
        match self.params["grid"]["order"]:
            case "erase":
                return self.erase(*dense)
            case "prune_erase":
                return self.erase(eraser, self.prune(budget), name, seed, start)
            case "prune_erase_distill":
                erased = self.erase(eraser, self.prune(budget), name, seed, start)
                return self.distill(budget, seed, erased)
            case "erase_prune_distill":
                teacher = self.erase(*dense)
                return self.distill(budget, seed, self.prune(budget, teacher), teacher)
            case "erase_distill":
                return self.distill(budget, seed, self.prune(budget), self.erase(*dense))
            case _:
                return self.erase(eraser, self.distill(budget, seed), name, seed, start)

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
                return self.ordered(arm, budget, name, seed)

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

    def attack(self, label: str, arm: str, budget: float, name: str, seed: int) -> Node:
        """Pictures of one arm under one attack."""
        return tried.node(self, label, arm, self.weights(arm, budget, name, seed), name, seed)

    def score(self, arm: str, budget: float, name: str, seed: int, attack: str | None = None) -> Node:
        """Metrics of one arm for one set of erased concepts, against the arm `distill` of its budget and seed; with the
        label of an attack those of the pictures under it."""
        if attack:
            samples = self.attack(attack, arm, budget, name, seed)
            return self.score_of(samples, arm, samples.key, budget, name, seed, self.members(name))
        samples = self.sample(self.weights(arm, budget, name, seed))
        key = f"{samples.key}-{name}" if arm in ("base", "pruned", "distill") else samples.key
        return self.score_of(samples, arm, key, budget, name, seed)

    def score_of(
        self, samples: Node, arm: str, key: str, budget: float, name: str, seed: int, sets: list[str] | None = None
    ) -> Node:
        """Metrics of any samples of the experiment's prompts, or of some sets of them, against the same model."""
        prompts = {one: path for one, path in self.prompts.items() if sets is None or one in sets}
        reference, originals = self._reference(samples, budget, name, seed), self._originals(samples)
        values, erased = self.params["score"], self.members(name)
        found = {concept: self.pictures(concept) for concept in prompts if concept in self.params["concepts"]}
        concepts = {
            concept: {key: self.params["concepts"][concept][key] for key in ("kind", "style", "neighbours")}
            | {"pictures": folder}
            for concept, (folder, _, _) in found.items()
        }
        real = self.params["pictures"]["eval"]
        return self._node(
            "score",
            "metrics",
            arm,
            key,
            options=values | {"concepts": concepts, "erased": erased},
            parents={"samples": samples, "eval_pictures": self.eval_pictures}
            | _some(reference=reference, originals=originals)
            | self.judges
            | {f"prompts:{set_name}": self.prompt_files[f"prompts:{set_name}"] for set_name in prompts}
            | {f"pictures:{concept}": parent for concept, (_, parent, _) in found.items()},
            flags=[
                *["--samples", str(samples.folder)],
                *_folders(reference=reference, originals=originals),
                *["--prompts", *(f"{set_name}={path}" for set_name, path in prompts.items())],
                *["--concepts", canonical(concepts), "--erased", *erased],
                *["--eval-pictures", real, *self.make_flags()],
                *cli.flags(values),
            ],
            pictures=(real, *(folder for _, _, folders in found.values() for folder in folders)),
        )

    def _reference(self, samples: Node, budget: float, name: str, seed: int) -> Node | None:
        """Scores of the grid's arm `distill`, unless it is that arm which is scored."""
        if samples.recipe == self.origin.sample(self.origin.distill(budget, seed)).recipe:
            return None
        return self.origin.score("distill", budget, name, seed)

    def _originals(self, samples: Node) -> Node | None:
        """Pictures of the dense base, if the grid has it and they are not those that are scored."""
        if "base" not in self.params["grid"]["arms"]:
            return None
        found = self.origin.sample(None)
        return None if found.recipe == samples.recipe else found

    def varied(self, changes: dict, arm: str, where: str) -> "Experiment":
        """The same experiment with some values changed; what it is compared with does not change."""
        found = copy.copy(self)
        found.params = varied(self.params, changes, arm, where)
        _at(where, found._check_steps)
        return found


def _some(**nodes: Node | None) -> dict[str, Node]:
    """Those that are there."""
    return {role: node for role, node in nodes.items() if node}


def _concepts(nodes: dict[str, Node]) -> dict[str, Node]:
    return {f"concept:{name}": node for name, node in nodes.items()}


def _folders(**nodes: Node | None) -> list[str]:
    """Flags that name the folders of nodes: --pruned FOLDER ..."""
    return [word for role, node in nodes.items() if node for word in (cli.flag(role), str(node.folder))]


def tag(budget: float) -> str:
    """0.8 -> b080."""
    return f"b{round(budget * 100):03d}"


def _at(key: str, check: Callable, *values: object) -> object:
    """Calls a check; its UserError gets the params key in front."""
    try:
        return check(*values)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
