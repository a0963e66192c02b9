"""What all stages share on the command line: flags made from the schema, one-line errors, the device."""

import argparse
import errno
import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe.files import io
from lethe.files.errors import UserError, needed
from lethe.params import options as opts
from lethe.params import registry, rules
from lethe.params.checking import check
from lethe.stage import alone, gpus, stopping

if TYPE_CHECKING:
    import torch


def parser(stage: str, doc: str) -> argparse.ArgumentParser:
    """A parser with the flags that every stage has. `doc` is the stage's docstring; its text is the help."""
    made = argparse.ArgumentParser(
        prog=prog(f"stages.{stage}"),
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--out", type=Path, required=True, help="result folder")
    made.add_argument("--dry-run", action="store_true", help="check every input, say what would be done, do nothing")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    made.add_argument("--threads", type=_threads, default=0, help="CPU threads; 0 takes all (default: 0)")
    made.add_argument("--params", type=Path, help="params file whose values go before the defaults of flags")
    return made


def prog(module: str) -> str:
    """What usage lines call a command: as the user did, by the command `lethe` or by its module."""
    called = sys.argv[0]  # `lethe prune`, where lethe.__main__ has put it
    return called if called.startswith(("lethe ", "python -m lethe ")) else f"python -m {module}"


def add_base(made: argparse.ArgumentParser) -> None:
    """--base and --revision."""
    made.add_argument("--base", required=True, help="base model: a StableDiffusionPipeline folder, or a hub id")
    made.add_argument("--revision", help="commit of the hub id")


def add_resolution(made: argparse.ArgumentParser) -> None:
    """--resolution."""
    made.add_argument(
        "--resolution", type=_resolution, help="picture side in pixels, or none: the model's own (default)"
    )


def _resolution(text: str) -> int | str:
    return "none" if text == "none" else _count(text)


def resolution(args: argparse.Namespace) -> int | None:
    """The picture side: the flag over the params file; None is the model's own."""
    if args.resolution is None:
        return of_params(args, "base", "resolution")
    return None if args.resolution == "none" else args.resolution


def of_params(args: argparse.Namespace, section: str, key: str) -> Any:
    """A single value of the params file, or without one its default."""
    if args.params:
        return opts.load(args.params)[section][key]
    return rules.section_schema(section)["properties"][key]["default"]


def switch(args: argparse.Namespace, section: str, key: str) -> bool:
    """A switch that changes no result, but whether there is one: the flag, or the params file, which may lack it."""
    return getattr(args, key) or bool(args.params and opts.load(args.params)[section].get(key))


def add_skip_empty(made: argparse.ArgumentParser) -> None:
    """--skip-empty."""
    made.add_argument("--skip-empty", action="store_true", help="leave out and count prompt rows without a prompt")


def add_subset(made: argparse.ArgumentParser) -> None:
    """--subset."""
    about = "leave out and count rows of a picture folder's list whose picture is not there"
    made.add_argument("--subset", action="store_true", help=about)


def subset(args: argparse.Namespace) -> bool:
    """That switch (`switch`). Raises UserError beside --make."""
    found = switch(args, "pictures", "subset")
    opts.check_subset(args.make, found, "--make and --subset (or pictures.subset)")
    return found


def add_training(made: argparse.ArgumentParser) -> None:
    """--seed, --state and --checkpoint-seconds."""
    made.add_argument("--seed", type=_seed, default=0, help="training seed, from 0 (default: 0)")
    made.add_argument("--state", type=Path, help="folder of the state for resuming (default: state/RECIPE)")
    made.add_argument(
        "--checkpoint-seconds",
        type=_seconds,
        default=300.0,
        help="seconds between checkpoints, more where one takes over 2 %% of that; 0 makes one a step (default: 300)",
    )


def early(key: str, section: str | None = None, words: Sequence[str] | None = None) -> str | None:
    """A value that decides which flags there are, before they (or these words) are parsed; of a section also from the
    params file, or its default."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument(flag(key))
    first.add_argument("--params", type=Path)
    found, _ = first.parse_known_args(words)
    value = getattr(found, key)
    return of_params(found, section, key) if value is None and section else value


def add_section(
    made: argparse.ArgumentParser, section: str, *plugins: tuple[str, str] | None, prefix: str = ""
) -> None:
    """One flag a key of a params section, with the schema's description, choices and default. `prefix` stands before
    each key, where a stage reads two sections with keys of one name."""
    group = made.add_argument_group(f"values of section {section}")
    for key, rule in rules.section_schema(section, *plugins)["properties"].items():
        about = [rule["description"]] if "description" in rule else []
        if package := rules.CHOICES.get(section, {}).get(key):
            about.append(f"one of {', '.join(registry.names(package))}")
        told = f"default: {word(rule['default'])}" if "default" in rule else "no default"
        group.add_argument(
            flag(prefix + key),
            dest=f"value_{prefix}{key}",
            metavar=f"{{{','.join(rule['enum'])}}}" if "enum" in rule else "VALUE",
            type=_value,
            help=f"{'; '.join(about)} ({told})".lstrip().replace("%", "%%"),
        )


def early_plugins(section: str, words: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """The plug-ins that a section's flags, the params file or the defaults choose, before flags are parsed."""
    return [
        (package, registry.check(package, needed(early(key, section, words), key)))
        for key, package in rules.CHOICES[section].items()
    ]


def flag(key: str) -> str:
    """params key -> flag: upper_lr -> --upper-lr."""
    return "--" + key.replace("_", "-")


def flags(values: dict) -> list[str]:
    """A section's values as the words of a command line; `add_section` reads them back."""
    return [part for key, value in values.items() for part in (flag(key), word(value))]


def word(value: object) -> str:
    """A value as a word of a command line."""
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError("must be at least 0")
    return number


def _threads(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must be at least 0")
    return number


def _seed(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError("must be from 0 to 2^63 - 1")
    return number


def _value(text: str) -> object:
    if text in ("none", "null"):
        return "none"  # told apart from a flag that was not given
    try:
        return json.loads(text, parse_constant=lambda name: name)
    except json.JSONDecodeError:
        return text


def section_values(
    args: argparse.Namespace,
    section: str,
    *plugins: tuple[str, str] | None,
    prefix: str = "",
    under: Mapping | None = None,
) -> dict:
    """The section's values: flags over the params file over defaults. `under`: values that take the place of the
    params file where none is given. Raises UserError for a missing or illegal one."""
    schema = rules.section_schema(section, *plugins)
    given = dict(under or {})
    if args.params:
        found = opts.load(args.params)
        for part in section.split("_", 1) if section.startswith("erase_") else [section]:
            found = found.get(part, {})
        given = {key: found[key] for key in schema["properties"] if key in found}
    flags = {key: getattr(args, f"value_{prefix}{key}") for key in schema["properties"]}
    given |= {key: _null(value, schema["properties"][key]) for key, value in flags.items() if value is not None}
    values = rules.complete(given, schema)
    missing = [flag(prefix + key) for key in schema["required"] if key not in values]
    if missing:
        other = f"or add them to {args.params}" if args.params else "or --params FILE"
        raise UserError(f"section {section}: missing {' '.join(missing)}; give them, {other}")
    check(values, schema, section, given)
    return values


def _null(value: object, rule: dict) -> object:
    """The word none is null, but where a value may be called so."""
    return None if value == "none" and "none" not in rule.get("enum", []) else value


def named_paths(pairs: list[str], what: str) -> dict[str, Path]:
    """["monet=a.csv", ...] -> {"monet": Path("a.csv"), ...}."""
    found = {}
    for pair in pairs:
        name, sign, path = pair.partition("=")
        if not (name and sign and path):
            raise UserError(f"{what}: {pair!r} is not NAME=PATH")
        if name in found:
            raise UserError(f"{what}: {name!r} is given twice")
        found[name] = Path(path)
    return found


def device(args: argparse.Namespace) -> "torch.device":
    """The torch device asked for; sets the number of CPU threads. Raises UserError if it is not there, and OSError if
    what is to be computed there could not be written in the end."""
    io.check_place(args.out)
    name = args.device
    if name == "auto":
        gpus.claim()
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(name)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise UserError(f"--device: {name!r} is not one of auto, cpu, cuda, cuda:N") from None
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"--device: {name!r} is not available on this machine; use cpu")
        if (chosen.index or 0) >= torch.cuda.device_count():
            raise UserError(
                f"--device: {name!r} is not there: this machine has {torch.cuda.device_count()} GPUs, from 0"
            )
        torch.cuda.set_device(chosen.index or 0)  # what peak memory is read from
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS sums in any order
        torch.use_deterministic_algorithms(True, warn_only=True)
        # torch puts a property on the module's class, of which its own types do not tell
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return chosen


def run_stage(name: str, words: Sequence[str]) -> None:
    """The command `python -m stages.NAME WORDS`, in this process."""
    importlib.import_module(f"stages.{name}").main(words)


def run(main: Callable[[], None]) -> None:
    """Runs a command: what a user can mend becomes one line on stderr and an exit code that is not 0.

    2 a mistake, 3 a full disk or one that cannot be written, 130 and 143 interrupted. Of two that make the same --out
    one waits for the other.
    """
    stopping.install()
    try:
        with _alone(sys.argv[1:]):
            main()
    except UserError as error:
        sys.exit(_say(str(error), 2))
    except KeyboardInterrupt:
        sys.exit(_say("interrupted; run the same command to go on", 130))
    except OSError as error:
        if error.errno not in DISK:
            raise
        sys.exit(_say(of_disk(error), 3))


def of_disk(error: OSError) -> str:
    """The line that tells of a disk that does not take what is to be written; the error's number is one of DISK."""
    name = re.sub(r"\.part-\d+", "", str(error.filename or "a file"))  # what is to become of it
    what = "" if error.errno == errno.ENAMETOOLONG else "cannot be written: "  # a name that is read may be too long too
    return f"{name}: {what}{DISK[error.errno]}, then run again"


DISK: dict[int | None, str] = {  # None, the number of an OSError made from words alone, is not there
    errno.ENOSPC: "no space left on the disk; free some",
    errno.EDQUOT: "your quota of the disk is used up; free some",
    errno.EROFS: "the file system is mounted read-only; mount it for writing or link the folder elsewhere",
    errno.EACCES: "no permission; change its owner or mode",
    errno.EPERM: "not permitted; change its owner or mode",
    errno.ELOOP: "its symbolic links lead in a circle; remove them",
    errno.ENOTDIR: "a file stands where a folder is wanted; move it away",
    errno.EIO: "the disk does not answer; look after it",
    errno.ENAMETOOLONG: "its name is too long for this file system; choose shorter names",
}


def _alone(words: list[str]) -> AbstractContextManager:
    """The lock on --out, for a command that will write there."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--out", nargs="?")
    first.add_argument("--dry-run", action="store_true")
    found, rest = first.parse_known_args(words)
    writes = found.out and not found.dry_run and not {"-h", "--help"} & set(rest)
    return alone.alone(Path(found.out)) if writes else nullcontext()


def _say(text: str, code: int) -> int:
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    if code == 130:
        sys.stdout.flush()
        os._exit(code)  # worker threads of torch may hold a normal exit back for seconds
    return code
