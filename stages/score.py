"""Scores the pictures of one model: one row a picture, and every metric with its 95 % interval.

In: a samples folder, the prompt CSVs it was drawn from, the concepts with the names of those erased, real pictures, the
networks of section score, and the metrics folder of the reference (the distilled model), unless this is the reference.
Out: scores.csv, metrics.json, features.safetensors ("fid": [N, D] of the eval prompts), meta.json.

    python -m stages.score --samples results/own/samples --params params.yaml --out results/own/metrics \\
        --prompts monet=prompts/atelier/monet.csv eval=prompts/atelier/eval.csv --erased monet \\
        --concepts @concepts.json \\
        --eval-pictures data/atelier/eval
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from lethe import cli, io, judges, options
from lethe.errors import UserError
from lethe.prompts import read_sets
from lethe.recipe import of_file, of_judges, of_pictures, of_result, recipe
from lethe.record import Recorder

VERSION = 1
KEPT = ("retain", "eval")  # prompt sets that are no concept's


def main() -> None:
    """Parses, checks, scores; raises UserError before anything is loaded if the inputs are wrong."""
    args = parsed()
    values = cli.section_values(args, "score")
    paths, concepts = cli.named_paths(args.prompts, "--prompts"), read_concepts(args.concepts)
    sets = read_sets(paths)
    check_names(paths, concepts, args.erased)
    judges.check(values)
    judges.check_truth(values["judges"], concepts, sets)
    folders = {"eval_pictures": args.eval_pictures}
    folders |= {f"pictures:{name}": Path(own["pictures"]) for name, own in concepts.items() if own["pictures"]}
    results = {"samples": args.samples} | ({"reference": args.reference} if args.reference else {})

    resolved = values | {"concepts": concepts, "erased": args.erased}
    parents = {role: of_result(folder) for role, folder in results.items()} | of_judges(values)
    parents |= {f"prompts:{name}": of_file(path) for name, path in paths.items()}
    parents |= {role: of_pictures(folder, args.make) for role, folder in folders.items()}
    own = recipe("score", VERSION, resolved, parents)
    if io.is_finished(args.out, own):
        print(f"{args.out}: finished before")
        return
    from lethe import pictures

    for folder in folders.values():
        pictures.read(folder, prompt="")
    if args.dry_run:
        print(f"would score {sum(map(len, sets.values()))} pictures of {args.samples} into {args.out}")
        return

    import torch

    from lethe import tensors
    from lethe.images import Images
    from lethe.scoring import Work, score

    device = cli.device(args)
    prompts = {f"prompts:{name}": path for name, path in paths.items()}
    recorder = Recorder("score", VERSION, own, resolved, results | folders | prompts)
    with Images(args.samples) as images, io.result_folder(args.out) as part:
        work = Work(images, sets, concepts, args.erased, args.reference, args.eval_pictures, values, device)
        table, metrics, absent = score(work)
        io.write_text(part / "scores.csv", table.drop(columns="prompt").to_csv(index=False, lineterminator="\n"))
        io.write_json(part / "metrics.json", metrics)
        if work.features is not None:
            tensors.save(part / "features.safetensors", {"fid": torch.tensor(work.features[0], dtype=torch.float32)})
        recorder.write(part, device=str(device), networks=of_judges(values), absent=absent)
    for name, reason in absent.items():
        print(f"{name}: not measured, {reason}")
    print(f"{args.out}: " + ", ".join(f"{name} {own['value']:.2f}" for name, own in metrics.items()))


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = cli.parser("score", __doc__)
    parser.add_argument("--samples", type=Path, required=True, help="samples folder")
    parser.add_argument("--reference", type=Path, help="metrics folder of the distilled model; none if this is it")
    parser.add_argument("--prompts", nargs="+", required=True, metavar="NAME=CSV", help="the samples' prompt sets")
    parser.add_argument("--concepts", required=True, help="JSON, or @FILE: {name: {style, neighbours, pictures}}")
    parser.add_argument("--erased", nargs="+", required=True, metavar="NAME", help="concepts that had to go")
    parser.add_argument(
        "--eval-pictures", type=Path, required=True, help="imagefolder of real pictures for FID and KID"
    )
    parser.add_argument("--make", help="command that makes the picture folders: they count by it, not by content")
    cli.add_section(parser, "score")
    return parser.parse_args()


def read_concepts(text: str) -> dict[str, dict]:
    """{name: {style, neighbours, pictures}}, further keys dropped. Raises UserError if it is not that."""
    try:
        found = io.read_json(Path(text[1:])) if text.startswith("@") else json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"--concepts: not JSON ({error}); give {{name: {{style, neighbours, pictures}}}}") from None
    keys = ("style", "neighbours", "pictures")
    known = options.schema()["properties"]["concepts"]["additionalProperties"]["properties"]
    one = {"type": "object", "required": [*keys], "properties": {key: known[key] for key in keys}}
    options.check(found, {"type": "object", "minProperties": 1, "additionalProperties": one}, "--concepts")
    return {name: {key: own[key] for key in keys} for name, own in found.items()}


def check_names(sets: Iterable[str], concepts: Iterable[str], erased: Sequence[str]) -> None:
    """Prompt sets, concepts and erased concepts must speak of each other."""
    for name in sets:
        if name not in (*concepts, *KEPT):
            raise UserError(f"--prompts: {name!r} is not one of {', '.join((*concepts, *KEPT))}")
    for name in erased:
        if name not in concepts or name not in sets or erased.count(name) > 1:
            raise UserError(f"--erased: {name!r} must stand there once, and in --concepts and --prompts too")


if __name__ == "__main__":
    cli.run(main)
