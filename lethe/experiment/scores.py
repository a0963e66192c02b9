"""Nodes of stage score: metrics of one arm's pictures, drawn as asked or under an attack."""

from lethe.experiment.arms import UNERASED, weights
from lethe.experiment.attacked import attack
from lethe.experiment.encoded import make_flags, pictures
from lethe.experiment.given import Given
from lethe.experiment.graph import Node, folders, some
from lethe.experiment.samples import sample
from lethe.experiment.weights import distill
from lethe.files.io import canonical
from lethe.stage import cli


def score(given: Given, arm: str, budget: float, name: str, seed: int, under: str | None = None) -> Node:
    """Metrics of one arm for one set of erased concepts, against the arm `distill` of its budget and seed; `under`:
    the label of an attack, for metrics of the erased concepts' pictures under it."""
    own = weights(given, arm, budget, name, seed)
    if under:
        samples, asked, key = attack(given, under, arm, own, name, seed), given.members(name), ""
    else:
        samples, asked, key = sample(given, own), [*given.prompts], f"-{name}" if arm in UNERASED else ""
    reference, originals = _reference(given, samples, budget, name, seed), _originals(given, samples)
    values, erased, real = given.params["score"], given.members(name), given.params["pictures"]["eval"]
    prompts = {one: path for one, path in given.prompts.items() if one in asked}
    found = {concept: pictures(given, concept) for concept in prompts if concept in given.params["concepts"]}
    concepts = {concept: _told(given, concept, folder) for concept, (folder, _, _) in found.items()}
    return Node(
        given.experiment,
        "score",
        "metrics",
        arm,
        samples.key + key,
        options=values | {"concepts": concepts, "erased": erased},
        parents={
            "samples": samples,
            "eval_pictures": given.eval_pictures,
            **some(reference=reference, originals=originals),
            **given.judges,
            **{f"prompts:{one}": given.prompt_files[f"prompts:{one}"] for one in prompts},
            **{f"pictures:{concept}": parent for concept, (_, parent, _) in found.items()},
        },
        flags=[
            *["--samples", str(samples.folder)],
            *folders(reference=reference, originals=originals),
            *["--prompts", *(f"{one}={path}" for one, path in prompts.items())],
            *["--concepts", canonical(concepts), "--erased", *erased],
            *["--eval-pictures", real, *make_flags(given), *given.subset_flags, *given.skip_flags],
            *cli.flags(values),
        ],
        pictures=(real, *(folder for _, _, needed in found.values() for folder in needed)),
    )


def _told(given: Given, concept: str, folder: str) -> dict:
    """What a score is told of a concept."""
    own = given.params["concepts"][concept]
    return {key: own[key] for key in ("kind", "style", "neighbours")} | {"pictures": folder}


def _reference(given: Given, samples: Node, budget: float, name: str, seed: int) -> Node | None:
    """Scores of the grid's arm `distill`, unless it is that arm which is scored."""
    if samples.recipe == sample(given.origin, distill(given.origin, budget, seed)).recipe:
        return None
    return score(given.origin, "distill", budget, name, seed)


def _originals(given: Given, samples: Node) -> Node | None:
    """Pictures of the dense base, if the grid has it and they are not those that are scored."""
    if "base" not in given.params["grid"]["arms"]:
        return None
    found = sample(given.origin, None)
    return None if found.recipe == samples.recipe else found
