"""Scores the pictures of one model: one row a picture, and every metric with its 95 % interval.

In: a samples folder, the prompt CSVs it was drawn from, the concepts with the names of those erased, real pictures, the
networks of section score, the metrics folder of the reference (the distilled model), unless this is the reference, and
the samples folder of the dense base, if there is one. What networks say of real pictures is kept in state/features.
Or a model of your own, or pictures that it drew, beside its prompts (lethe/measuring/evaluation.py); what is not given
is not measured, and said; without --out it goes to results/, under the model's or the pictures' name. --reference is
told apart by what is in it: a metrics folder, or real pictures in any folder.
Out: scores.csv, metrics.json, features.safetensors ("fid": [N, D] of the eval prompts), meta.json; with a judge of the
unsafe also detections.csv (every detection, raw) and unsafe_conventions.csv (what follows by each convention).

    python -m stages.score --samples results/own/samples --out results/own/metrics \\
        --prompts monet=prompts/atelier/monet.csv eval=prompts/atelier/eval.csv --erased monet \\
        --concepts @concepts.json \\
        --eval-pictures data/atelier/eval
    python -m stages.score --model my-model --prompts my.csv --reference my-pictures
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe.experiment import absent
from lethe.files import io
from lethe.measuring import evaluation, judges, statistics
from lethe.params.recipe import of_file, of_judges, of_pictures, of_result, recipe
from lethe.stage import cli
from lethe.stage.record import Recorder
from lethe.stage.reuse import settled
from lethe.texts.prompts import left_out, read_sets
from lethe.training import pictures

if TYPE_CHECKING:
    from lethe.measuring.scoring import Scored

VERSION = 4
CACHE = Path("state/features")


def main(words: Sequence[str] | None = None) -> None:
    """Parses the command line (or these words), checks, scores; raises UserError before anything is loaded
    if the inputs are wrong."""
    args = parsed(words)
    evaluation.check_flags(args)
    values, concepts = cli.section_values(args, "score"), evaluation.read_concepts(args)
    paths = evaluation.prompt_files(args.prompts, concepts)
    skip, subset = cli.switch(args, "prompts", "skip_empty"), cli.subset(args)
    sets, erased = read_sets(paths, skip), evaluation.erased(args.erased, paths, concepts)
    lost: dict[str, dict[str, int]] = {"without_prompt": left_out(paths) if skip else {}}
    judges.check(values)
    usable, lacking = absent.split(values)
    judges.check_truth(usable["judges"], concepts, sets)
    for line in absent.warnings(lacking):
        print(line, flush=True)
    reference, real = evaluation.references(args.reference, args.eval_pictures)
    flag = "--eval-pictures" if args.eval_pictures else "--reference"
    told = statistics.read(real, usable["features"], flag) if real and statistics.is_one(real) else None
    real, files = (None, {"eval_pictures": told.path}) if told else (real, {})
    folders = {"eval_pictures": real} if real else {}
    folders |= {f"pictures:{name}": Path(own["pictures"]) for name, own in concepts.items() if own["pictures"]}
    results = {role: own for role, own in (("reference", reference), ("originals", args.originals)) if own}

    standalone = not (args.samples or reference)  # a model of one's own is not what others are compared with
    resolved = values | {"concepts": concepts, "erased": erased} | ({"standalone": True} if standalone else {})
    lost["without_picture"] = missing(folders, subset)
    parents = identities(args, results, paths, folders, subset) | absent.identities(values, lacking)
    parents |= {role: of_file(path) for role, path in files.items()}
    samples = args.samples or evaluation.gathered(args, paths, sets, usable["clip"], partial(cli.run_stage, "sample"))
    if samples is None:
        return
    parents |= {"samples": of_result(samples)}
    own = recipe("score", VERSION, resolved, parents)
    if settled(args.out, own, args.dry_run):
        return
    if args.dry_run:
        print(f"would score {sum(map(len, sets.values()))} pictures of {samples} into {args.out}")
        return

    from lethe.files.images import Images
    from lethe.measuring.scoring import score
    from lethe.measuring.work import Work

    device = cli.device(args)
    prompts = {f"prompts:{name}": path for name, path in paths.items()}
    recorder = Recorder("score", VERSION, own, resolved, {"samples": samples} | results | folders | files | prompts)
    with Images(samples) as images, io.result_folder(args.out) as part:
        work = Work(
            images,
            sets,
            concepts,
            erased,
            reference,
            real,
            usable,
            device,
            originals=args.originals,
            identities=parents,
            cache=args.cache,
            standalone=standalone,
            lacking=lacking,
            statistics=told,
            subset=subset,
        )
        found = score(work)
        write(found, part)
        reasons = evaluation.reasons(found.absent, concepts)
        converted = found.work.converted
        more: dict[str, Any] = {key: counts for key, counts in lost.items() if counts}
        networks = of_judges(usable)
        recorder.write(part, device=str(device), networks=networks, absent=reasons, converted=converted, **more)
    print(evaluation.missing(reasons))
    print(evaluation.table(found.metrics))
    print(f"{args.out}: {len(found.table)} pictures scored")


def missing(folders: dict[str, Path], subset: bool) -> dict[str, int]:
    """Folder -> rows of its list that have no picture; a mistake there is told before hours of drawing."""
    found = [pictures.read(folder, prompt="", plain=True, subset=subset) for folder in folders.values()]
    for one in found:
        if one.missing:
            print(one.missing_line(), file=sys.stderr, flush=True)
    return {str(folder): one.missing for folder, one in zip(folders.values(), found, strict=True) if one.missing}


def identities(
    args: argparse.Namespace,
    results: dict[str, Path],
    prompts: dict[str, Path],
    folders: dict[str, Path],
    subset: bool = False,
) -> dict[str, str]:
    """Of results, prompt files and picture folders, by role. Pictures of a run that nobody planned, without --samples,
    count by their bytes."""
    of_folder = (
        partial(of_pictures, make=args.make, plain=True) if args.samples else partial(pictures.contents, subset=subset)
    )
    found = {role: of_result(folder) for role, folder in results.items()}
    found |= {f"prompts:{name}": of_file(path) for name, path in prompts.items()}
    return found | {role: of_folder(folder) for role, folder in folders.items()}


def write(found: "Scored", part: Path) -> None:
    """scores.csv, metrics.json, features.safetensors, and what single metrics add."""
    import torch

    from lethe.files import tensors
    from lethe.measuring import networks

    io.write_text(part / "scores.csv", found.table.drop(columns="prompt").to_csv(index=False, lineterminator="\n"))
    io.write_json(part / "metrics.json", found.metrics)
    for name, text in found.files.items():
        io.write_text(part / name, text)
    features = networks.beside_statistics(found.work)
    if features is None and not isinstance(both := networks.features(found.work), str):
        features = both[0]
    if features is not None and not isinstance(features, str):
        tensors.save(part / "features.safetensors", {"fid": torch.tensor(features, dtype=torch.float32)})


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = cli.parser("score", __doc__)
    evaluation.add_subject(parser)
    about = "prompt sets (lists in other layouts: python -m lethe.texts.prompts)"
    parser.add_argument("--prompts", nargs="+", required=True, metavar="[NAME=]CSV", help=about)
    evaluation.add_concepts(parser)
    parser.add_argument(
        "--reference",
        type=Path,
        help="metrics folder of the distilled model; or real pictures, or clean-fid's .npz of them",
    )
    about = "real pictures for FID, KID and CMMD, or clean-fid's .npz of them, if not --reference"
    parser.add_argument("--eval-pictures", type=Path, help=about)
    parser.add_argument("--originals", type=Path, help="samples folder of the dense base, same prompts and seeds")
    parser.add_argument("--make", help="command that makes the picture folders: they count by it, not by content")
    parser.add_argument(
        "--cache", type=Path, default=CACHE, help=f"where features of real pictures are kept (default: {CACHE})"
    )
    cli.add_skip_empty(parser)
    cli.add_subset(parser)
    cli.add_section(parser, "score")
    return parser.parse_args(evaluation.placed(sys.argv[1:] if words is None else list(words)))


if __name__ == "__main__":
    sys.argv[1:] = evaluation.placed(sys.argv[1:])
    cli.run(main)
