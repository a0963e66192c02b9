"""The command `lethe`: every stage, and what else people run, under one name.

`lethe prune ...` is `python -m stages.prune ...`, run in this process as Python itself would run it: lines of errors,
exit codes and locks are those of the module. No module is imported before it is chosen, which keeps --help quick.
"""

import ast
import pkgutil
import runpy
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import stages
from lethe import __version__

# Stages are found by their files. Beside them:
OTHERS = {
    "tables": "lethe.experiment.tables",
    "status": "lethe.experiment.status",
    "check": "lethe.experiment.check",
    "plan": "lethe.experiment.plan",
    "gc": "lethe.experiment.collect",
    "demo": "lethe.report.demo",
    "prompts": "lethe.texts.prompts",
}


def commands() -> dict[str, str]:
    """Name of each command -> the module that `python -m` would run; imports none of them."""
    return {name: f"stages.{name}" for _, name, _ in pkgutil.iter_modules(stages.__path__)} | OTHERS


def main(words: Sequence[str] | None = None) -> None:
    """Runs the command line (or these words)."""
    name, *rest = [*(sys.argv[1:] if words is None else words), ""]
    known = commands()
    if name in ("-h", "--help"):
        print(overview(known))
    elif name == "--version":
        print(f"lethe {__version__}")
    elif name in known:
        sys.argv = [f"{typed()} {name}", *rest[:-1]]  # what usage lines say
        runpy.run_module(known[name], run_name="__main__")
    else:
        from lethe.stage.cli import run

        run(lambda: refuse(name, known))


def typed() -> str:
    """How this command was called."""
    return "python -m lethe" if Path(sys.argv[0]).name == "__main__.py" else "lethe"


def refuse(name: str, known: dict[str, str]) -> None:
    """Raises UserError for a command that is none."""
    from lethe.files.errors import UserError

    told = f"{name!r} is not one of the commands" if name else "give a command"
    raise UserError(f"{typed()}: {told}: {', '.join(known)}; {typed()} --help says what each does")


def overview(known: dict[str, str]) -> str:
    """What --help prints: each command with the first sentence of its module."""
    wide = max(map(len, known))
    lines = [f"usage: {typed()} COMMAND ... | {typed()} --version", "", "Commands, each with a --help of its own:", ""]
    return "\n".join(lines + [f"  {name:<{wide}}  {about(module)}" for name, module in known.items()])


def about(module: str) -> str:
    """The first sentence of a module's docstring, read from its source without importing it."""
    package, _, name = module.rpartition(".")
    source = (files(package) / f"{name}.py").read_text(encoding="utf-8")
    doc = ast.get_docstring(ast.parse(source)) or ""
    return " ".join(doc.partition("\n\n")[0].split()).partition(". ")[0].rstrip(".")


if __name__ == "__main__":
    main()
