"""What the page shows, part by part: tables, picture grids and curves, their files written on the way."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from lethe.measuring.measures import Measured
from lethe.measuring.runs import Group, Run
from lethe.report import attacks, claims, curves, grids, markup, page, relearning, tables, varied
from lethe.report.columns import Found, columns_of, measured
from lethe.report.plan import Plan, Table
from lethe.report.remarks import remarks
from lethe.report.success import Success


def main(folder: Path, name: str, groups: Iterable[Group], resamples: int) -> page.Main | None:
    """Table `style`, `unsafe` or `kept` of the grid with its differences; None if no concept is for it."""
    found = measured(groups, resamples, name)
    if not found:
        return None
    known = tables.PUBLISHED / f"{name}.csv"
    rows, differences = tables.of_kind(found, known, name), tables.paired(found, name)
    metrics = columns_of(found, (name,), tables.published_rows(known))
    text, paired = tables.style_text(rows, metrics, remarks(_runs(found), metrics)), tables.paired_text(differences)
    markup.write(rows, text, folder / "tables", name)
    markup.write(differences, paired, folder / "tables", f"{name}_paired")
    return page.Main(name, *page.MAIN[name], text, paired)


def table(folder: Path, own: Table, found: list[Found]) -> page.Section:
    """One table of the plan: rows, what must stay, differences, the matrix of its arms, curves."""
    texts = {}
    for suffix, (frame, text) in _frames(own, found).items():
        markup.write(frame, text, folder / "tables", f"{own.name}{suffix}")
        texts[suffix] = text
    path, figures = folder / "curves" / f"{own.name}.png", []
    if curves.iterations(own, found, path):
        figures.append(page.Figure(path, "Length of training", "Bars: 95 % intervals. Dashes tell the budgets apart."))
    return page.Section(
        own.name,
        varied.title(own.name),
        varied.CAPTIONS.get(own.name, ""),
        texts[""],
        texts["_kept"],
        texts.get("_matrix"),
        texts.get("_paired"),
        figures,
    )


def _frames(own: Table, found: list[Found]) -> dict[str, tuple[pd.DataFrame, markup.Text]]:
    """Ending of the files' name -> a table, and the same for people."""
    frames = {}
    for suffix, kept in (("", False), ("_kept", True)):
        frame, notes = varied.frame(own, found, kept), remarks(_runs(found), varied.columns(found, kept))
        frames[suffix] = frame, varied.text(own, frame, found, notes, kept)
    differences, cells = varied.paired(own, found), varied.matrix(own, found)
    if len(differences):
        frames["_paired"] = differences, varied.paired_text(own, differences)
    if cells is not None:
        frames["_matrix"] = cells, varied.matrix_text(own, cells, varied.pair_of_metrics(found))
    return frames


def _runs(found: Iterable[Found]) -> list[Run]:
    return [run for group, _, _ in found for runs in group.arms.values() for run in runs]


def attacked(folder: Path, tried: list[Success]) -> page.Section:
    """Table `attacks`: rows, differences, relearning curves."""
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


def part(plan: Plan, folder: Path, found: Found, prompts: int) -> page.Part:
    """Verdicts and pictures of one budget and set. `prompts`: columns of a concept in its picture grids."""
    group, measures, costs = found
    several = len(plan.groups) > 1
    tag = f"-{group.tag}" if several else ""
    title = f"budget {group.budget:g}, set {grids.plain(group.set)}" if several else ""
    drawn, plotted = _grids(folder, group, prompts, tag), _curves(folder, group, measures, tag)
    return page.Part(title, claims.judge(group, measures, costs), drawn, plotted)


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
