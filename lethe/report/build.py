"""Builds a whole report beside its place and puts it there; the stamp that says "finished" comes last."""

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from lethe.files.io import check_ours, parts, remove, sha256, write_json, write_text
from lethe.measuring.measures import BY_CONCEPT, Measured, measure
from lethe.measuring.runs import Group
from lethe.report import attacks, claims, cost, curves, grids, markup, page, relearning, tables, varied
from lethe.report.cost import Cost
from lethe.report.plan import Plan, Table, stamp
from lethe.report.remarks import remarks
from lethe.report.tables import Found
from lethe.stage import record

OURS = ("index.html", "summary.json", "tables", "grids", "curves")
PUBLISHED = Path(__file__).resolve().parents[2] / "reports" / "published"


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
    found = measured(plan.groups, resamples)
    main = [own for name in page.MAIN if (own := _main(part / "tables", name, plan.groups, resamples))]
    further = {table.name: measured(table.groups, resamples) for table in plan.tables}
    tried = [attacks.success(own, resamples) for own in attacks.victims(plan)]
    totals = summary(found, resamples) | {name: rows(own) for name, own in further.items()}
    write_json(part / "summary.json", totals | ({"attacks": attacks.summary(tried)} if tried else {}))
    parts = [_part(plan, part, *one, prompts) for one in found]
    sections = [_attacks(part, tried)] if tried else []
    sections += [_section(part, table, further[table.name]) for table in plan.tables]
    code, packages = record.code_revision(), record.versions()
    write_text(part / "index.html", page.render(plan, main, sections, parts, code, packages))
    files = {str(p.relative_to(part)): sha256(p) for p in sorted(part.rglob("*")) if p.is_file()}
    keys = ("arm", "table", "labels", "attack", "budget", "set", "seed")
    runs = [{key: getattr(run, key) for key in keys} for run in plan.runs]
    for row, run in zip(runs, plan.runs, strict=True):
        row["metrics"] = run.recipe
    about = {"recipe": plan.recipe, "experiment": plan.experiment, "params": plan.params, "runs": runs}
    write_json(part / stamp(plan.recipe), about | {"code": code, "packages": packages, "files": files})


def measured(groups: Iterable[Group], resamples: int, table: str | None = None) -> list[Found]:
    """Metrics and costs of every row; of a table's own concepts alone, where one is named: groups without such go."""
    return [
        (group, measure(group, resamples, members), {row: cost.of(runs) for row, runs in group.arms.items()})
        for group in groups
        if (members := group.members if table is None else group.of_table(table))
    ]


def _main(folder: Path, name: str, groups: Iterable[Group], resamples: int) -> page.Main | None:
    """Table `style`, `unsafe` or `kept` of the grid with its differences, written; None if no concept is for it."""
    found = measured(groups, resamples, name)
    if not found:
        return None
    known = PUBLISHED / f"{name}.csv"
    rows, differences = tables.of_kind(found, known, name), tables.paired(found, name)
    metrics = tables.columns_of(found, (name,), tables.published_rows(known))
    notes = remarks((run for group, _, _ in found for runs in group.arms.values() for run in runs), metrics)
    text, paired = tables.style_text(rows, metrics, notes), tables.paired_text(differences)
    markup.write(rows, text, folder, name)
    markup.write(differences, paired, folder, f"{name}_paired")
    return page.Main(name, *page.MAIN[name], text, paired)


def _section(folder: Path, table: Table, found: list[Found]) -> page.Section:
    """One table of the plan, its files written: rows, what must stay, differences, the matrix of its arms, curves."""
    runs = [run for group, _, _ in found for runs in group.arms.values() for run in runs]
    texts = {}
    for suffix, kept in (("", False), ("_kept", True)):
        frame, notes = varied.frame(table, found, kept), remarks(runs, varied.columns(found, kept))
        texts[suffix] = frame, varied.text(table, frame, found, notes, kept)
    differences, cells = varied.paired(table, found), varied.matrix(table, found)
    if len(differences):
        texts["_paired"] = (differences, varied.paired_text(table, differences))
    if cells is not None:
        texts["_matrix"] = (cells, varied.matrix_text(table, cells, varied.pair_of_metrics(found)))
    for suffix, (rows_of, text) in texts.items():
        markup.write(rows_of, text, folder / "tables", f"{table.name}{suffix}")
    path, figures = folder / "curves" / f"{table.name}.png", []
    if curves.iterations(table, found, path):
        figures.append(page.Figure(path, "Length of training", "Bars: 95 % intervals. Dashes tell the budgets apart."))
    shown = {suffix: text for suffix, (_, text) in texts.items()}
    return page.Section(
        table.name,
        varied.title(table.name),
        varied.CAPTIONS.get(table.name, ""),
        shown[""],
        shown["_kept"],
        shown.get("_matrix"),
        shown.get("_paired"),
        figures,
    )


def _attacks(folder: Path, tried: list[attacks.Success]) -> page.Section:
    """Table `attacks`, its files written: rows, differences, relearning curves."""
    frame, differences = attacks.frame(tried), attacks.paired(tried)
    text, paired = attacks.text(tried, frame), attacks.paired_text(differences)
    markup.write(frame, text, folder / "tables", "attacks")
    markup.write(differences, paired, folder / "tables", "attacks_paired")
    path, figures = folder / "curves" / "attacks.png", []
    if relearning.draw(tried, path):
        caption = "At 0 steps: asked plainly, before. Bars: 95 % intervals, as in the table."
        figures.append(page.Figure(path, "Relearning", caption))
    return page.Section(
        "attacks", *page.ATTACKS, text, None, None, paired, figures, "Bold: the lowest of rows that erase."
    )


def _part(
    plan: Plan, folder: Path, group: Group, measured: Measured, costs: dict[str, Cost], prompts: int
) -> page.Part:
    """Pictures and verdicts of one budget and set."""
    several = len(plan.groups) > 1
    tag = f"-{group.tag}" if several else ""
    title = f"budget {group.budget:g}, set {grids.plain(group.set)}" if several else ""
    return page.Part(
        title,
        claims.judge(group, measured, costs),
        _grids(folder, group, prompts, tag),
        _curves(folder, group, measured, tag),
    )


def _grids(folder: Path, group: Group, prompts: int, tag: str) -> list[page.Figure]:
    made, runs = [], {arm: found[0] for arm, found in group.arms.items()}
    (folder / "grids").mkdir(exist_ok=True)
    views = [("", group.members, "All concepts")]
    views += [(f"-{name}", (name,), grids.plain(name).capitalize()) for name in group.members if len(group.members) > 1]
    seed = next((run.seed for run in runs.values() if run.seed is not None), None)
    for suffix, members, title in views:
        sections = grids.sections(group, members, prompts)
        path = folder / "grids" / f"style{tag}{suffix}.png"
        picture, _ = grids.grid(runs, sections)
        picture.save(path)
        caption = "One picture seed a column. Below a picture: what the judges see in it. " if _judged(runs) else ""
        caption += "Prompts stand at even steps of the prompt files; none was picked by eye."
        made.append(page.Figure(path, title, caption + ("" if seed is None else f" Training seed {seed}.")))
    return made


def _judged(runs: dict) -> bool:
    return any("style_pred" in run.scores for run in runs.values())


def _curves(folder: Path, group: Group, measured: Measured, tag: str) -> list[page.Figure]:
    (folder / "curves").mkdir(exist_ok=True)
    made = []
    path = folder / "curves" / f"tradeoff{tag}.png"
    if curves.tradeoff(group, measured, path):
        made.append(
            page.Figure(path, "Erasure against what must stay", "Right and up is better. Bars: 95 % intervals.")
        )
    path = folder / "curves" / f"training{tag}.png"
    if curves.losses(group, path):
        made.append(page.Figure(path, "Training losses", "Thin: one training seed. Thick: their mean."))
    return made


def summary(found: Sequence[Found], resamples: int) -> dict:
    """arm > concept > metric > value, for `dvc metrics diff`; "all" is the mean over the concepts.

    With several budgets or sets the arm's name carries them: "esd-b080-all".
    """
    made: dict[str, dict[str, dict[str, float]]] = {}
    names = [metric.name for metric in varied.every(found)]
    own = [name for name in names if name.partition(":")[0] in BY_CONCEPT]
    for group, measured, costs in found:
        alone = {name: measure(group, resamples, [name]) for name in group.members} if len(group.members) > 1 else {}
        for arm in group.arms:
            views = {"all": _values(measured, arm, names) | {"budget": costs[arm].passes}}
            views |= {name: _values(one, arm, own) for name, one in alone.items()}
            made[arm if len(found) == 1 else f"{arm}-{group.tag}"] = views
    return made


def rows(found: Sequence[Found]) -> dict[str, dict[str, float]]:
    """The same for a table of the plan: row > metric > value."""
    made = {}
    names = [metric.name for metric in varied.every(found)]
    for group, own, costs in found:
        for row in group.own:
            name = row if len(found) == 1 else f"{row} {group.tag}"
            made[name] = _values(own, row, names) | {"budget": costs[row].passes}
    return made


def _values(measured: Measured, arm: str, names: Sequence[str]) -> dict[str, float]:
    estimates = {name: measured.estimate(arm, name) for name in names}
    return {name: float(f"{one.value:.6g}") for name, one in estimates.items() if one is not None}


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
