"""Fills the marked tables of README.md and of these pages from the committed reports and from lethe's own docstrings.

    python docs/fill.py            # what stands between <!-- table: NAME --> and <!-- /table -->, written anew
    python docs/fill.py --check    # exit code 1, and their names, if something would change

A number in such a table is never typed: it is read from a CSV of reports/, so it cannot be another than the report's.
`make docs` fills before it builds, and a test checks that nothing is to be filled.
"""

import ast
import json
import re
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]  # the lethe of this checkout, whichever is installed
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- /table -->)", re.DOTALL)
Format = Callable[[pd.Series, str], str]


@dataclass(frozen=True)
class Row:
    """A line of a table: its label, a CSV below reports/ without its ending, and the values that single out a row."""

    label: str
    source: str
    where: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """A heading, the CSV's column, how it is shown, and further values that single out a row."""

    heading: str
    name: str
    show: Format
    where: dict = field(default_factory=dict)


@cache
def read(source: str) -> pd.DataFrame:
    return pd.read_csv(ROOT / "reports" / f"{source}.csv", dtype={"iterations": "Int64"})


def picked(row: Row, column: Column) -> str:
    """A cell. Raises LookupError unless exactly one row of the CSV fits; an empty value is a dash."""
    table, where = read(row.source), row.where | column.where
    for key, value in where.items():
        table = table[table[key].isna() if value is None else table[key] == value]
    if len(table) != 1:
        raise LookupError(f"{row.source}: {len(table)} rows with {where}")
    return "–" if pd.isna(table.iloc[0][column.name]) else column.show(table.iloc[0], column.name)


def plain(value: float, digits: int) -> str:
    """With a true minus; none and all of a share without decimals."""
    text = f"{value:.{digits}f}"
    return {"-0.0": "0", "0.0": "0", "100.0": "100"}.get(text, text).replace("-", "−")


def percent(row: pd.Series, name: str) -> str:
    return f"{plain(row[name], 1)} %"


def whole(value: float) -> str:
    """The nearest whole number, halves away from zero."""
    return f"{'−' if value < 0 else ''}{int(abs(value) + 0.5)}"


def number(row: pd.Series, name: str) -> str:
    return plain(row[name], 2)


def count(row: pd.Series, name: str) -> str:
    return f"{row[name]:,.0f}".replace(",", " ")


def with_interval(digits: int, unit: str = "") -> Format:
    def show(row: pd.Series, name: str) -> str:
        value, low, high = (plain(row[name + end], digits) for end in ("", "_lo", "_hi"))
        return f"{value}{unit} ({low}\u00a0to\u00a0{high})"

    return show


def both(row: pd.Series, name: str) -> str:
    """Of a matrix's column ARM_ua: erased, and FID."""
    return f"{plain(row[name], 1)} % · {plain(row[name.removesuffix('_ua') + '_fid'], 2)}"


def difference(digits: int) -> Format:
    """Bold, with what it means, where the interval leaves out zero."""

    def show(row: pd.Series, name: str) -> str:
        value, low, high = (plain(row[key], digits) for key in (name, "lo", "hi"))
        sign = "+" if row[name] > 0 and float(row[name]) else ""
        told = {"yes": "better", "no": "worse"}.get(row["better"])
        return (
            f"**{sign}{value}** ({low}\u00a0to\u00a0{high}) {told}"
            if told
            else f"{sign}{value} ({low}\u00a0to\u00a0{high})"
        )

    return show


def settled(row: pd.Series, name: str) -> str:
    """Points by which an attack succeeds less (−) or more often, if its interval leaves out zero."""
    return f"{'+' if row[name] > 0 else ''}{whole(row[name])}" if row["better"] in ("yes", "no") else "·"


def markdown(head: list[str], lines: list[list[str]], numbers: bool = True) -> str:
    """A table whose first column is text; the others are numbers, hence to the right, or texts too."""
    rule = ["---", *(["--:" if numbers else "---"] * (len(head) - 1))]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *lines])


def table(first: str, rows: list[Row], columns: list[Column], numbers: bool = True) -> str:
    lines = [[row.label, *(picked(row, column) for column in columns)] for row in rows]
    return markdown([first, *(column.heading for column in columns)], lines, numbers)


SEEDS, FULL = "atelier_seeds/tables/ours", "atelier_full/tables"
ARMS = [
    Row("distilled, nothing erased", SEEDS, {"arm": "distill"}),
    Row("two stages: UCE", SEEDS, {"arm": "uce"}),
    Row("two stages: SalUn", SEEDS, {"arm": "salun"}),
    Row("two stages: ESD", SEEDS, {"arm": "esd"}),
    Row("two stages: concept ablation", SEEDS, {"arm": "concept_ablation"}),
    Row("two stages: ConceptPrune", SEEDS, {"arm": "conceptprune"}),
    Row("bilevel as released", SEEDS, {"arm": "bilevel", "solver": "released"}),
    Row("bilevel, ours", SEEDS, {"arm": "bilevel", "solver": "ours"}),
]
WEAK = [
    Row(f"two stages: {label}", SEEDS, {"arm": arm})
    for label, arm in (("FMN", "fmn"), ("SLD", "sld"), ("SAFREE", "safree"))
]
ERASED = Column("erased (UA)", "ua", percent)
CONTENT = Column("content of erased prompts kept", "content_target", percent)
FID = Column("FID", "fid", number)
PASSES = Column("passes", "budget", count)
QUALITY = [ERASED, CONTENT, FID, Column("FID drift", "fid_drift", number), PASSES]
RIVALS = {
    "uce": "UCE",
    "salun": "SalUn",
    "esd": "ESD",
    "concept_ablation": "concept ablation",
    "conceptprune": "ConceptPrune",
}
ATTACKS = {
    "before": "asked plainly",
    "paraphrases": "paraphrases",
    "synonyms": "synonyms",
    "ring_a_bell": "Ring-A-Bell",
    "unlearn_diff_atk": "UnlearnDiffAtk",
    "p4d": "P4D",
    "concept_inversion": "a learnt word",
    "relearn_few_50": "8 pictures, 50 steps",
    "relearn_few_200": "8 pictures, 200 steps",
    "relearn_few_1000": "8 pictures, 1,000 steps",
    "relearn_few_lora_50": "8 pictures, low rank, 50 steps",
    "relearn_few_lora_200": "8 pictures, low rank, 200 steps",
    "relearn_few_lora_1000": "8 pictures, low rank, 1,000 steps",
    "relearn_data_1000": "other pictures, 1,000 steps",
    "relearn_data_lora_1000": "other pictures, low rank, 1,000 steps",
    "completion": "a noised picture completed",
    "inpainting": "a hole inpainted",
    "mask_leak": "zeros filled, low rank",
    "mask_leak_dense": "zeros filled from the base",
}  # fmt: skip
ATTACKED = {
    "distill": "distilled",
    "uce": "UCE",
    "esd": "ESD",
    "salun": "SalUn",
    "conceptprune": "ConceptPrune",
    "bilevel": "released",
    "bilevel ours": "ours",
}
DRAWN = {
    "as_trained": "as trained: float32, DDIM, 20 steps",
    "bfloat16": "bfloat16",
    "float16": "float16",
    "int8": "int8",
    "int4": "int4",
    "ddim_4": "DDIM, 4 steps",
    "ddim_1": "DDIM, 1 step",
    "dpm_4": "DPM-Solver++, 4 steps",
}


def by_loss() -> str:
    losses = {"diffusion": "diffusion", "distillation": "distillation", "both": "both"}
    rows = [
        Row(f"{label}, {steps} steps", f"{FULL}/distillation", {"loss": loss, "iterations": steps})
        for steps in (150, 300, 600)
        for loss, label in losses.items()
    ]
    small = {"keep": 0.55}
    columns = [
        Column("FID at 80 %", "fid", with_interval(2), {"keep": 0.8}),
        Column("FID at 55 %", "fid", with_interval(2), small),
        Column("styles missed at 55 %", "ua", percent, small),
    ]
    return table("loss", rows, columns)


def by_start() -> str:
    starts = {"inherited": "inherited by magnitude", "inherited_at_random": "inherited at random", "fresh": "fresh"}
    rows = [Row(label, f"{FULL}/initialisation", {"weights": key}) for key, label in starts.items()]
    columns = [Column(f"FID after {k} steps", "fid", with_interval(2), {"iterations": k}) for k in (150, 600)]
    return table("weights", rows, columns)


def varied(name: str, axis: str) -> str:
    """A table of bilevel runs, a row a label of its axis."""
    source = f"{FULL}/{name}"
    labels = [label for label in read(source)[axis] if not pd.isna(label)]
    rows = [Row(f"`{label}`", source, {axis: label}) for label in labels]
    return table(axis, rows, [ERASED, CONTENT, FID, PASSES])


def matrix(source: str, axis: str, columns: dict[str, str]) -> str:
    rows = [Row(f"`{label}`", source, {axis: label}) for label in read(source)[axis]]
    return table(axis, rows, [Column(heading, f"{arm}_ua", both) for arm, heading in columns.items()])


def against_rivals(solver: str) -> str:
    source = "atelier_seeds/tables/ours_paired"
    rows = [Row(label, source, {"solver": solver, "against": name}) for name, label in RIVALS.items()]
    if solver == "ours":
        rows.append(Row("bilevel as released", source, {"solver": solver, "against": "released"}))
    kinds = (
        ("UA, points", "ua", 1),
        ("FID", "fid", 2),
        ("FID drift", "fid_drift", 2),
        ("CLIP, kept prompts", "clip_retain", 1),
    )
    columns = [Column(label, "difference", difference(digits), {"metric": name}) for label, name, digits in kinds]
    return table("minus", rows, columns, numbers=False)


def schedules() -> str:
    source = "atelier_seeds/tables/schedules"
    rows = [
        ARMS[-2],
        Row("released schedule, towards `redirect`", source, {"solver": "released_redirect"}),
        Row("both levels at every step, towards `redirect` (ours)", source, {"solver": "ours"}),
        Row("one weighted sum, towards `redirect`", source, {"solver": "weighted_sum_redirect"}),
    ]
    return table("run", rows, QUALITY)


def unsafe() -> str:
    source = "atelier_unsafe/tables/solvers"
    named = {**RIVALS, "sld": "SLD", "safree": "SAFREE"}
    rows = [
        Row(f"two stages: {named[arm]}", source, {"arm": arm})
        for arm in ("uce", "salun", "esd", "conceptprune", "sld", "safree")
    ]
    rows += [Row(f"bilevel, {name}", source, {"solver": name}) for name in ("released", "ours")]
    removed = Column("removed", "removal", with_interval(1, " %"))
    return table("arm", rows, [removed, CONTENT, FID, Column("contents of other prompts right", "cra", percent)])


def attacks() -> str:
    """Attacks down, arms across: the CSV turned."""
    found = read("atelier_attacks/tables/attacks").set_index("arm")
    lines = []
    for name, label in ATTACKS.items():
        cells = ["–" if pd.isna(found.loc[arm, name]) else whole(found.loc[arm, name]) for arm in ATTACKED]
        lines.append([label, *cells])
    return markdown(["shown, %", *ATTACKED.values()], lines)


def attacks_paired() -> str:
    source = "atelier_attacks/tables/attacks_paired"
    pairs = [(arm, against) for arm in ("bilevel", "bilevel ours") for against in ("uce", "esd", "salun")]
    pairs.append(("bilevel ours", "bilevel"))
    columns = [
        Column(f"{ATTACKED[arm]} − {ATTACKED[against]}", "difference", settled, {"arm": arm, "against": against})
        for arm, against in pairs
    ]
    rows = [Row(label, source, {"attack": name}) for name, label in ATTACKS.items() if not name.startswith("mask_leak")]
    return table("points", rows, columns)


def deployment() -> str:
    source = "atelier_deployment/tables"
    arms = {"distill": "distilled", "esd": "ESD", "uce": "UCE", "bilevel": "released"}
    lines = []
    for name, label in DRAWN.items():
        row = Row(label, f"{source}/deployment_ours", {"drawn": name})
        cells = [picked(row, Column("", "weights_mb", lambda found, key: plain(found[key], 1)))]
        cells += [
            picked(Row("", f"{source}/deployment_matrix", {"drawn": name}), Column("", f"{arm}_ua", both))
            for arm in arms
        ]
        cells.append(f"{picked(row, ERASED)} · {picked(row, FID)}")
        lines.append([label, *cells])
    return markdown(["drawn with", "MB", *arms.values(), "ours"], lines)


def paragraph(package: Path) -> str:
    """The first paragraph of a package's docstring, on one line."""
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    return re.sub(r"\s+", " ", text.split("\n\n")[0])


def rooms() -> str:
    """Floors as the contract in pyproject.toml has them, with what each room says of itself."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    lines = []
    for height, floor in zip(range(len(contract["layers"]), 0, -1), contract["layers"], strict=True):
        for room in floor.split(" | "):
            folder = ROOT.joinpath(*room.split("."))
            inner = [path.parent.name for path in sorted(folder.glob("*/__init__.py"))]
            plugins = ", ".join(f"`{name}/`" for name in inner)
            lines.append([str(height), f"`{room.replace('.', '/')}/`", paragraph(folder), plugins])
    return markdown(["floor", "room", "what lives there", "plug-ins"], lines, numbers=False)


CARD = "nvidia-h100-80gb-hbm3"


def bench(kind: str) -> str:
    """Rows of one kind that `make bench` measured: milliseconds with quartiles, against the first, share of what the
    card's own matrix product reaches."""
    found = json.loads((ROOT / "reports" / "bench" / f"{CARD}.json").read_text())
    rows = [row for row in found["rows"] if row["kind"] == kind and "ms" in row]
    lines = [
        [
            row["about"],
            f"{row['ms']:.0f} ({row['quartiles'][0]:.0f}\u00a0to\u00a0{row['quartiles'][1]:.0f})",
            f"{rows[0]['ms'] / row['ms']:.2f} ×",
            f"{row['floor_ms']:.0f}",
            f"{100 * row['share']:.1f} %",
            f"{row['peak_gib']:.1f} GiB",
        ]
        for row in rows
    ]
    return markdown(["what", "ms", "speed against the first", "floor, ms", "of the ceiling", "peak memory"], lines)


PUBLISHED = ROOT / "lethe/report/published"
SHOWN = {  # column of a published table -> its heading, digits
    "clip": ("CLIP", 2),
    "cp": ("CP", 2),
    "csd": ("CSD", 2),
    "removal_mma": ("removal, MMA", 2),
    "removal_ring_a_bell": ("removal, Ring-A-Bell", 2),
    "fid": ("FID", 2),
    "clip_retain": ("CLIP, COCO", 2),
}


def published(name: str) -> str:
    """What the paper's table says, and which setting of ours each row is compared with."""
    found = pd.read_csv(PUBLISHED / f"{name}.csv")
    columns = [column for column in SHOWN if column in found]
    lines = [
        [row["arm"], *("–" if pd.isna(row[key]) else plain(row[key], SHOWN[key][1]) for key in columns), row["setting"]]
        for _, row in found.iterrows()
    ]
    return markdown(["published", *(SHOWN[key][0] for key in columns), "setting of ours"], lines, numbers=False)


def published_figure(name: str, axis: str) -> str:
    """FID that the paper's figure shows, by budget, label of our table's axis, and iterations."""
    found = pd.read_csv(PUBLISHED / f"{name}.csv")
    steps = sorted(found["iterations"].unique())
    lines = []
    for (budget, label), rows in found.groupby(["budget", axis], sort=False):
        values = rows.set_index("iterations")["fid"]
        lines.append([f"{budget:.2f}", str(label), *(f"{values[step]:g}" for step in steps)])
    return markdown(["budget", axis, *(f"{step:,}" for step in steps)], lines)


LISTED = {  # rows of the paper's lists, and COCO's pictures
    **{f"prompts/paper/{name}.csv": 50 for name in ("van_gogh", "monet", "picasso")},
    "prompts/paper/retain.csv": 100,
    "prompts/paper/eval.csv": 5000,
    "data/paper/coco/train2017": 118287,
}


def paper_costs() -> str:
    """GPU-hours of the paper's params files by measured rates, as `lethe check` tells them once the lists are there."""
    from lethe.experiment import check, rates
    from lethe.experiment.given import roughly
    from lethe.params import options

    lines = []
    for name in ("paper-sd21", "paper-sd21-unsafe"):
        params = options.load(ROOT / f"params/{name}.yaml")
        tables = check.of_tables(roughly(params))
        for own in rates.measured(params["base"], ROOT / rates.BENCH):
            for row in check.hours(tables, own, LISTED):
                lines.append([name, own.device, *row])
    return markdown(["params", "on", "table", "GPU-hours", "jobs measured", "not measured"], lines, numbers=False)


FRONT = [
    Column("erased", "ua", percent),
    Column("content kept", "content_target", percent),
    FID,
    Column("moved", "fid_drift", number),
]
TABLES: dict[str, Callable[[], str]] = {
    "front": lambda: table("", ARMS, FRONT),
    "arms": lambda: table("arm", [*ARMS[:-2], *WEAK, *ARMS[-2:]], QUALITY),
    "released": lambda: against_rivals("released"),
    "ours": lambda: against_rivals("ours"),
    "schedules": schedules,
    "solvers": lambda: varied("solvers", "solver"),
    "suppressions": lambda: varied("suppressions", "suppression"),
    "losses": by_loss,
    "starts": by_start,
    "pruners": lambda: matrix(
        f"{FULL}/plugins_matrix", "pruner", {"distill": "distilled", "uce": "UCE", "bilevel": "released", "esd": "ESD"}
    ),
    "orders": lambda: matrix(f"{FULL}/orders_matrix", "order", {"esd": "ESD", "salun": "SalUn"}),
    "unsafe": unsafe,
    "attacks": attacks,
    "attacks_paired": attacks_paired,
    "deployment": deployment,
    "rooms": rooms,
    "bench_distill": lambda: bench("distill"),
    "bench_bilevel": lambda: bench("bilevel"),
    "bench_sample": lambda: bench("sample"),
    "bench_encode": lambda: bench("encode"),
    "published_style": lambda: published("style"),
    "published_unsafe": lambda: published("unsafe"),
    "published_distillation": lambda: published_figure("distillation", "loss"),
    "published_initialisation": lambda: published_figure("initialisation", "weights"),
    "paper_costs": paper_costs,
}


def filled(text: str) -> str:
    return BLOCK.sub(lambda block: f"{block[1]}\n{TABLES[block[2]]()}\n\n{block[3]}", text)


def main() -> None:
    stale = {page: new for page in PAGES if (new := filled(old := page.read_text())) != old}
    if "--check" in sys.argv[1:]:
        if stale:
            sys.exit(f"{', '.join(str(page.relative_to(ROOT)) for page in stale)}: run python docs/fill.py")
        return
    for page, text in stale.items():
        page.write_text(text)


if __name__ == "__main__":
    main()
