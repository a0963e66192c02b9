"""Builds a whole report beside its place and puts it there; the stamp that says "finished" comes last."""

import os
import shutil
from pathlib import Path

from lethe.files.io import check_ours, parts, remove, sha256, write_json, write_text
from lethe.report import attacks, page, sections, success, summary
from lethe.report.columns import measured
from lethe.report.plan import Plan, stamp
from lethe.stage import record

OURS = ("index.html", "summary.json", "tables", "grids", "curves")
RUN = ("arm", "table", "labels", "attack", "budget", "set", "seed")  # what tells a run from others in the stamp


def build(plan: Plan, out: Path, resamples: int, prompts: int) -> None:
    """Writes the report of a plan to `out`, replacing what is there.

    `resamples`: bootstrap replicates; `prompts`: columns of a concept in the picture grids. Killed at any moment, it
    leaves the old report, or one without a stamp, which counts as absent.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    if not any(out.glob(stamp("*"))):
        check_ours(out, OURS)
    part = out.with_name(f"{out.name}.part-{os.getpid()}")
    for old in parts(out):
        remove(old)
    part.mkdir()
    try:
        _fill(plan, part, resamples, prompts)
        _replace(part, out, stamp(plan.recipe))
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _fill(plan: Plan, part: Path, resamples: int, prompts: int) -> None:
    """Measures everything once, then writes summary.json, tables, pictures, the page, and the stamp."""
    grid = measured(plan.groups, resamples)
    main = [own for name in page.MAIN if (own := sections.main(part, name, plan.groups, resamples))]
    further = [(table, measured(table.groups, resamples)) for table in plan.tables]
    tried = [success.of(own, resamples) for own in success.victims(plan)]
    totals = summary.of_grid(grid, resamples) | {table.name: summary.of_table(own) for table, own in further}
    write_json(part / "summary.json", totals | ({"attacks": attacks.summary(tried)} if tried else {}))
    parts = [sections.part(plan, part, own, prompts) for own in grid]
    tables = [sections.attacked(part, tried)] if tried else []
    tables += [sections.table(part, table, own) for table, own in further]
    code, packages = record.code_revision(), record.versions()
    write_text(part / "index.html", page.render(plan, main, tables, parts, code, packages))
    _sign(plan, part, code, packages)


def _sign(plan: Plan, part: Path, code: str, packages: dict[str, str]) -> None:
    """The stamp: which runs the report is of, and the hash of each of its files."""
    files = {str(path.relative_to(part)): sha256(path) for path in sorted(part.rglob("*")) if path.is_file()}
    runs = [{key: getattr(run, key) for key in RUN} | {"metrics": run.recipe} for run in plan.runs]
    about = {"recipe": plan.recipe, "experiment": plan.experiment, "params": plan.params, "runs": runs}
    write_json(part / stamp(plan.recipe), about | {"code": code, "packages": packages, "files": files})


def _replace(part: Path, out: Path, last: str) -> None:
    """Moves the files of `part` over those of `out`: old stamps go first, the new one comes last."""
    out.mkdir(exist_ok=True)
    for old in out.glob("recipe-*.json"):
        old.unlink()
    new = [path.relative_to(part) for path in part.rglob("*") if path.is_file()]
    for path in [path for path in out.rglob("*") if path.is_file() and path.relative_to(out) not in new]:
        path.unlink()
    for name in sorted(new, key=lambda name: name.name == last):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(part / name, out / name)
    for folder in sorted((path for path in out.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
