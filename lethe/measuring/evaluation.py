"""Evaluation in one command: what is scored, as somebody says it who has a checkpoint or pictures, and no time.

- A model (--model): a StableDiffusionPipeline folder, a hub id with its --revision, or with --base weights alone: a
  folder that stage prune, distill, bilevel or erase made, or one in which others saved a U-Net (`unet/`, or the U-Net's
  own files). Stage sample draws it into OUT-samples, with the values of section sample.
- Pictures (--pictures) that other code drew, one file a prompt (`lethe.measuring.flat`); they become OUT-samples too.
- A samples folder (--samples), as the workflow gives it.

A prompt file without a name is called as its file, where that is a concept, retain or eval; otherwise it is the prompts
of the one concept that has none yet, or, where no concept is given, set eval. So `my.csv` alone gets the CLIP score of
its prompts and their distances to real pictures, and with a concept what tells whether that is forgotten.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from lethe.files import io, kinds
from lethe.files.errors import NotThere, UserError
from lethe.measuring import flat, statistics
from lethe.params import rules
from lethe.params.checking import check
from lethe.params.options import check_neighbours
from lethe.stage import alone, cli
from lethe.texts.rows import Prompt

KEPT = ("retain", "eval")  # prompt sets that are no concept's
OF_CONCEPTS = ("kind", "style", "neighbours", "pictures")
KINDS = ("style", "object", "unsafe")
OF_MODEL = ("base", "revision", "resolution", "state")  # flags that go with --model, beside those of section sample
NO_CONCEPT = "no concept given (--concept, --concepts)"


def add_subject(made: argparse.ArgumentParser) -> None:
    """Flags of what is scored."""
    what = made.add_mutually_exclusive_group(required=True)
    what.add_argument("--samples", type=Path, help="samples folder")
    what.add_argument(
        "--model", help="a pipeline folder, a hub id, or with --base weights alone; drawn into OUT-samples"
    )
    what.add_argument(
        "--pictures", nargs="+", metavar="[NAME=]FOLDER", help="pictures {case_number}.png, or {case_number}_{k}.png"
    )
    made.add_argument("--base", help="with --model: the base model of weights alone")
    made.add_argument("--revision", help="with --model: commit of the hub id")
    cli.add_resolution(made)
    made.add_argument("--state", type=Path, help="with --model: folder of finished tiles, for resuming")
    made.add_argument(
        "--sample-number", type=int, metavar="K", help="with --pictures: of several a prompt the K-th, from 0"
    )
    cli.add_section(made, "sample")


def add_concepts(made: argparse.ArgumentParser) -> None:
    """Flags of what should be forgotten."""
    made.add_argument("--concepts", help=f"JSON, or @FILE: {{name: {{{', '.join(OF_CONCEPTS)}}}}}")
    made.add_argument("--erased", nargs="+", metavar="NAME", help="concepts that had to go (default: all with prompts)")
    made.add_argument("--concept", metavar="TEXT", help="short for --concepts: one, called TEXT with _ for spaces")
    made.add_argument("--kind", choices=KINDS, help="with --concept: what it is (default: style)")
    made.add_argument("--style", metavar="LABEL", help="with --concept: its label for the judge of its kind")


def placed(words: list[str]) -> list[str]:
    """A command line with its --out: without one, what --model or --pictures is called, under results/."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--out", nargs="?")
    first.add_argument("--model", nargs="?")
    first.add_argument("--pictures", nargs="*")
    found, _ = first.parse_known_args(words)
    subject = found.model or (found.pictures or [""])[0].rpartition("=")[2]
    if found.out is not None or "--out" in words or not subject:
        return words
    name = "-".join(re.findall(r"[A-Za-z0-9._-]+", Path(subject).resolve().name)).strip(".")
    return [*words, "--out", str(Path("results") / (name or "own"))]


def check_flags(args: argparse.Namespace) -> None:
    """Raises UserError for flags that speak of something that is not given."""
    model = [*OF_MODEL, *(f"value_{key}" for key in rules.section_schema("sample")["properties"])]
    wanted = {"model": model, "pictures": ["sample_number"], "concept": ["kind", "style"]}
    for subject, names in wanted.items():
        for name in names:
            if getattr(args, name) is not None and getattr(args, subject) is None:
                raise UserError(f"{cli.flag(name.removeprefix('value_'))}: goes with --{subject} only")
    if args.concept and args.concepts:
        raise UserError("--concept: is short for --concepts; give one of them")


def read_concepts(args: argparse.Namespace) -> dict[str, dict]:
    """{name: {kind, style, neighbours, pictures}}, {} if none is given. Raises UserError if it is not that."""
    if args.concept is not None:
        name = "_".join(re.findall(r"[A-Za-z0-9-]+", args.concept))
        if not name or name in KEPT:
            raise UserError(f"--concept: {args.concept!r} gives no name for its prompts; give letters or digits")
        return {name: {"kind": args.kind or "style", "style": args.style, "neighbours": [], "pictures": None}}
    if args.concepts is None:
        return {}
    text = args.concepts
    try:
        found = io.read_json(Path(text[1:])) if text.startswith("@") else json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"--concepts: not JSON ({error}); give {{name: {{{', '.join(OF_CONCEPTS)}}}}}") from None
    known = rules.schema()["properties"]["concepts"]["additionalProperties"]["properties"]
    one = {"type": "object", "properties": {key: known[key] for key in OF_CONCEPTS}}
    every = {"type": "object", "minProperties": 1, "additionalProperties": one}
    found = rules.complete(found, every)
    check(found, every, "--concepts")
    check_neighbours(found, "--concepts")
    return {name: {key: own[key] for key in OF_CONCEPTS} for name, own in found.items()}


def prompt_files(words: Sequence[str], concepts: Iterable[str]) -> dict[str, Path]:
    """Prompt set -> its CSV, of NAME=CSV and of bare CSVs (see above). Raises UserError where that leaves a choice."""
    concepts = list(concepts)
    bare = [Path(word) for word in words if "=" not in word or Path(word).is_file()]
    found = cli.named_paths([word for word in words if Path(word) not in bare], "--prompts")
    for path in [path for path in bare if path.stem in (*concepts, *KEPT)]:
        if path.stem in found:
            raise UserError(f"--prompts: {path.stem!r} is given twice")
        found[path.stem] = path
        bare.remove(path)
    free = [name for name in concepts or ["eval"] if name not in found]
    if bare and (len(bare) > 1 or len(free) != 1):
        names = ", ".join((*concepts, *KEPT))
        raise UserError(f"--prompts: which set is {bare[-1]}? write NAME={bare[-1]}, where NAME is one of {names}")
    return found | ({free[0]: bare[0]} if bare else {})


def erased(given: Sequence[str] | None, sets: Iterable[str], concepts: Iterable[str]) -> list[str]:
    """Concepts that had to go: those named, or all that have prompts. Prompt sets, concepts and these must speak of
    each other, or UserError is raised."""
    for name in sets:
        if name not in (*concepts, *KEPT):
            raise UserError(f"--prompts: {name!r} is not one of {', '.join((*concepts, *KEPT))}")
    found = [name for name in concepts if name in sets] if given is None else list(given)
    for name in found:
        if name not in concepts or name not in sets or found.count(name) > 1:
            raise UserError(f"--erased: {name!r} must stand there once, and in --concepts and --prompts too")
    if concepts and not found:
        raise UserError(f"--prompts: none of {', '.join(concepts)}; give its prompts as NAME=CSV")
    return found


def references(reference: Path | None, eval_pictures: Path | None) -> tuple[Path | None, Path | None]:
    """(metrics folder to compare with, real pictures or their statistics, `lethe.measuring.statistics`).

    --reference may be either, and is told apart by what is in it. Raises UserError if it is neither, or both flags give
    pictures.
    """
    if reference is None:
        return None, eval_pictures
    if (reference / io.META).is_file() and io.read_meta(reference).get("stage") == "score":
        return reference, eval_pictures
    real = statistics.is_one(reference)
    if not (real or reference.is_dir()):
        link = kinds.dangling(reference)
        told = link or "no finished result, nor a folder of pictures; make or correct it"
        raise UserError(f"--reference: {reference}: {told}")
    if eval_pictures:
        what = "is of real pictures, as --eval-pictures" if real else "holds no scores"
        raise UserError(f"--reference: {reference} {what}; beside --eval-pictures give a metrics folder")
    return None, reference


def picture_folders(words: Sequence[str], sets: Iterable[str]) -> dict[str, Path]:
    """Prompt set -> folder of its pictures, of NAME=FOLDER, or of one folder for the only set."""
    sets = list(sets)
    if len(words) == len(sets) == 1 and not words[0].startswith(f"{sets[0]}="):
        return {sets[0]: Path(words[0])}
    found = cli.named_paths(list(words), "--pictures") if all("=" in word for word in words) else {}
    if sorted(found) != sorted(sets):
        raise UserError(f"--pictures: give a folder for each prompt set: {' '.join(f'{name}=FOLDER' for name in sets)}")
    return found


def gathered(
    args: argparse.Namespace,
    files: Mapping[str, Path],
    sets: Mapping[str, Sequence[Prompt]],
    clip: str | None,
    draw: Callable[[Sequence[str]], None],
) -> Path | None:
    """The samples folder of --model or --pictures, made unless it is there; None in a dry run, if it is not.

    `clip`: what CLIP is called; `draw`: the command of stage sample, given its words. Nobody else makes the folder
    meanwhile.
    """
    out, words = samples_folder(args.out), sample_words(args, files) if args.model else []
    found = None if args.model else flat.gather(picture_folders(args.pictures, sets), files, sets, args.sample_number)
    if not (args.dry_run or io.is_finished(out)):
        if args.model:  # all that can be wrong with it, before anything is fetched
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                draw([*words, "--dry-run"])
        fetched(clip)
    with nullcontext() if args.dry_run else alone.alone(out):
        if found is None:
            draw(words)
        else:
            print(f"would copy {found.count} pictures into {out}" if args.dry_run else found.write(out))
    return out if io.is_finished(out) else None


def fetched(clip: str | None) -> None:
    """Has CLIP's weights before hours of drawing, or says that they are not to be had."""
    from lethe.measuring import weights

    try:
        _ = clip and weights.told(clip)
    except NotThere as error:
        print(f"score.clip: {error}; what it measures will be left out", flush=True)


def samples_folder(out: Path) -> Path:
    """Where the pictures stand that are scored into `out`."""
    return out.with_name(f"{out.name}-samples")


def sample_words(args: argparse.Namespace, files: Mapping[str, Path]) -> list[str]:
    """The command line of stage sample that draws --model. Raises UserError for a model that is none."""
    base, weights = checkpoint(args.model, args.base)
    words = ["--base", base, *(["--model", weights] if weights else [])]
    words += ["--revision", args.revision] if args.revision else []
    words += ["--prompts", *(f"{name}={path}" for name, path in files.items())]
    words += ["--resolution", str(cli.resolution(args) or "none"), *cli.flags(cli.section_values(args, "sample"))]
    words += ["--out", str(samples_folder(args.out)), "--device", args.device, "--threads", str(args.threads)]
    words += ["--state", str(args.state)] if args.state else []
    words += ["--skip-empty"] if cli.switch(args, "prompts", "skip_empty") else []
    return words + (["--dry-run"] if args.dry_run else [])


def checkpoint(model: str, base: str | None) -> tuple[str, str | None]:
    """(base model, weights folder or None) of what was given as --model and --base."""
    path = Path(model)
    if what := kinds.told(path):
        raise UserError(f"--model: {model} is {what}; or draw the prompts with its own code and give --pictures")
    if path.is_file():
        raise UserError(
            f"--model: {model} is a file; give a folder: load it into its pipeline or U-Net and save_pretrained that, "
            "or draw the prompts with its own code and give --pictures"
        )
    if path.is_dir() and not (path / "model_index.json").is_file():
        if base:
            return base, model
        own = io.read_meta(path).get("parents", {}).get("base", {}) if (path / io.META).is_file() else {}
        told = f", such as {own['folder']}, which it was made from" if "folder" in own else ""
        raise UserError(f"--model: {model} is no whole pipeline (no model_index.json); give --base{told}")
    if base:
        what = "is a whole pipeline" if path.is_dir() else "is no folder with a U-Net"
        raise UserError(f"--base: goes with weights alone, and --model {model} {what}; leave it out")
    return model, None


def reasons(absent: Mapping[str, str], concepts: Mapping) -> dict[str, str]:
    """Why metrics are absent; without any concept, those of concepts and of what must stay beside them all for that."""
    from lethe.measuring.measures import METRICS

    kept = {name for name, own in METRICS.items() if own.rows == "eval"}
    return {name: why if concepts or name in kept else NO_CONCEPT for name, why in absent.items()}


def missing(absent: Mapping[str, str]) -> str:
    """What was not measured, a line each reason."""
    told = {reason: [name for name, own in absent.items() if own == reason] for reason in absent.values()}
    names = {reason: ", ".join(found) for reason, found in told.items()}
    names |= {NO_CONCEPT: f"{len(told[NO_CONCEPT])} metrics of concepts"} if NO_CONCEPT in told else {}
    return "\n".join(f"{names[reason]}: not measured, {reason}" for reason in told)


def table(metrics: Mapping[str, Mapping]) -> str:
    """What was measured, a line each, as people read it, in the order of the report's columns; what these hide is left
    out. Warnings stand below."""
    from lethe.measuring.measures import METRICS, named

    order = {name: place for place, name in enumerate(METRICS)}
    shown = [name for name in metrics if name.partition(":")[0] in order and not named(name).hidden]
    shown.sort(key=lambda name: order[name.partition(":")[0]])
    rows = [("metric", "value", "95 % interval", "n", "")]
    for name in shown:
        own = metrics[name]
        about = named(name).told([own.get("protocol", {})])
        value, lo, hi = (f"{own[key]:.{about.digits}f}" for key in ("value", "lo", "hi"))
        rows.append((about.header, value, f"{lo} to {hi}", str(own["n"]), about.about))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{name:<{widths[0]}}  {value:>{widths[1]}}  {interval:>{widths[2]}}  {n:>{widths[3]}}  {about}".rstrip()
        for name, value, interval, n, about in rows
    ]
    return "\n".join(lines + [f"{name}: {metrics[name]['warning']}" for name in shown if "warning" in metrics[name]])
