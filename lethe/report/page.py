"""index.html: one file that shows everything and opens offline (styles inside, pictures as base64)."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from lethe.files.io import read_meta
from lethe.measuring.runs import KEPT
from lethe.report.claims import CONTRADICTED, SHOWN, UNMEASURED, UNSETTLED, Claim
from lethe.report.markup import Text
from lethe.report.plan import Plan

TEMPLATES = Path(__file__).with_name("templates")
TONES = {SHOWN: "good", CONTRADICTED: "bad", UNSETTLED: "open", UNMEASURED: "none"}


@dataclass(frozen=True)
class Figure:
    """A picture file and its words."""

    path: Path
    title: str
    caption: str

    @property
    def data(self) -> Markup:
        """The file as a data: address."""
        return Markup("data:image/png;base64," + base64.b64encode(self.path.read_bytes()).decode())


@dataclass(frozen=True)
class Part:
    """What one budget and set has to show."""

    title: str
    claims: Sequence[Claim]
    grids: Sequence[Figure]
    curves: Sequence[Figure]


# tables of the grid: title, what to know before reading
MAIN = {
    "style": (
        "What was erased, and what was kept",
        "The published rows are SD 2.1 at the 80 % budget of APTP pruning, measured with other models on other "
        "prompts: compare their order and ratios with ours, not their values.",
    ),
    "unsafe": (
        "What must not be drawn",
        "Removal: of the pictures that show it before, on the same prompts and seeds, how many no longer do after. The "
        "published rows are SD 2.1 at the 80 % budget, with NudeNet on other prompts.",
    ),
    KEPT: (
        "What must stay",
        "Prompts that name no erased concept: neighbours, which are easily confused with one, and all others.",
    ),
}


# the table of attacks: title, what to know before reading
ATTACKS = (
    "What attacks get back",
    "How often the erased concept is seen: asked plainly, then under each attack, on the same prompts and seeds. An "
    "arm that erases nothing tells what an attack's own beginning shows.",
)


@dataclass(frozen=True)
class Main:
    """One of the MAIN tables, and its differences of bilevel to each other arm."""

    name: str
    title: str
    caption: str
    text: Text
    paired: Text


@dataclass(frozen=True)
class Section:
    """One table of the plan, or that of attacks. `kept`: what must stay; `matrix`: its arms side by side; `paired`: its
    differences; `best`: what is bold."""

    name: str
    title: str
    caption: str
    text: Text
    kept: Text | None
    matrix: Text | None
    paired: Text | None
    curves: Sequence[Figure]
    best: str = "Bold: the best of this table's own rows at one budget; arms that erase nothing compete apart."

    @property
    def differences(self) -> str:
        """What `paired` holds."""
        what = "before, and to other arms" if self.name == "attacks" else "the first row of each arm"
        return f"Differences to {what}, on the same prompts and seeds"


def render(
    plan: Plan,
    tables: Sequence[Main],
    sections: Sequence[Section],
    parts: Sequence[Part],
    code: str,
    packages: Mapping,
) -> str:
    """The page's text. `tables`: those of MAIN that there are; `sections`: the other tables."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = lambda name: str(name).replace("_", " ")
    environment.filters["parted"] = parted
    return environment.get_template("index.html").render(
        plan=plan,
        params=plan.params,
        tables=tables,
        sections=sections,
        parts=parts,
        tones=TONES,
        protocol=protocol(plan.params),
        provenance=provenance(plan),
        seeds=plan.params["grid"]["seeds"],
        code=code,
        packages=packages,
    )


def parted(note: str) -> tuple[str, str]:
    """A table's note "column: meaning" in its two parts; a column may have a colon of its own, before its arrow."""
    found = re.fullmatch(r"(.*? [↑↓]): (.*)", note, re.DOTALL)
    if found:
        return found[1], found[2]
    name, _, about = note.partition(": ")
    return name, about


def protocol(params: Mapping) -> list[tuple[str, list[tuple[str, str]]]]:
    """How the numbers came about: titled lists of (what, value) from the whole params of the experiment."""
    concepts = params["concepts"]
    erased = dict.fromkeys(name for members in params["grid"]["sets"].values() for name in members)
    base, tables = params["base"], params["tables"].values()
    return [
        (
            "Model and data",
            [
                ("base model", base["path"] + (f" @ {base['revision']}" if base["revision"] else "")),
                ("picture side", f"{base['resolution']} pixels" if base["resolution"] else "the model's own"),
                ("order of the steps", params["grid"]["order"].replace("_", ", ")),
                ("fine-tuning pictures", params["pictures"]["finetune"]),
                ("real pictures for FID, KID", params["pictures"]["eval"]),
                ("prompts that must stay", params["prompts"]["retain"]),
                ("captions for FID, KID, CLIP", params["prompts"]["eval"]),
            ],
        ),
        ("Concepts", [(name.replace("_", " "), _concept(concepts[name])) for name in erased]),
        ("Sampling", [*_pairs(params["sample"]), ("picture seed", "evaluation_seed of the prompt, for all arms")]),
        ("Measuring", [*_pairs({k: v for k, v in params["score"].items() if k != "judges"}), *_judges(params)]),
        ("Pruning", _pairs(params["prune"])),
        ("Distilling, and lower level of bilevel", _pairs(params["distill"])),
        ("Bilevel", _pairs(params["bilevel"])),
        *(
            (f"Eraser {name}", _pairs(params["erase"][name]))
            for name in dict.fromkeys([*params["grid"]["arms"], *(arm for own in tables for arm in own["of"])])
            if name in params["erase"]
        ),
        *((f"Table {name.replace('_', ' ')}", _varied(own)) for name, own in params["tables"].items()),
        *((f"Attack {name.replace('_', ' ')}", _pairs(own)) for name, own in _tried(params).items()),
        ("Intervals", _pairs(params["report"])),
    ]


def _tried(params: Mapping) -> dict[str, Mapping]:
    own = params["attacks"]
    return own["tried"] if own["arms"] or own["tables"] else {}


def _concept(own: Mapping) -> str:
    neighbours = ", ".join(own["neighbours"]) or "none"
    return f"{own['kind']}, “{own['prompt']}” → “{own['anchor']}”; prompts {own['prompts']}; neighbours {neighbours}"


def _varied(own: Mapping) -> list[tuple[str, str]]:
    """What a table varies: its arms, then each axis with its labels and the values they set."""
    pairs = [("of", ", ".join(own["of"]))]
    pairs += [(key, ", ".join(map(str, own[key]))) for key in ("budgets", "seeds") if own[key] is not None]
    for axis, labels in own["vary"].items():
        sets = [f"{label}: {_settings(values)}" for label, values in labels.items()]
        pairs.append((axis.replace("_", " "), "; ".join(sets)))
    return pairs


def _settings(values: Mapping) -> str:
    return ", ".join(f"{key} = {value}" for key, value in values.items()) or "as above"


def _judges(params: Mapping) -> list[tuple[str, str]]:
    return [(f"judge of {name}", str(path or "none")) for name, path in params["score"]["judges"].items()]


def _pairs(values: Mapping) -> list[tuple[str, str]]:
    return [(key.replace("_", " "), "none" if value is None else str(value)) for key, value in values.items()]


def provenance(plan: Plan) -> list[dict]:
    """A row a run: recipes along its chain, code, device, seconds."""
    rows = []
    for run in plan.runs:
        metas = [*run.chain, read_meta(run.samples), read_meta(run.metrics)]
        codes = sorted({meta.get("code", "unknown")[:12] for meta in metas})
        rows.append(
            {
                "arm": run.row if run.attack is None else f"{run.row} under {run.attack}",
                "table": (run.table or "style").replace("_", " "),
                "budget": "–" if run.budget is None else f"{run.budget:g}",
                "set": run.set or "–",
                "seed": "–" if run.seed is None else str(run.seed),
                "recipes": [(meta["stage"], meta["recipe"]) for meta in metas],
                "code": ", ".join(codes),
                "devices": ", ".join(sorted({meta.get("machine", {}).get("device", "?") for meta in metas})),
                "seconds": f"{sum(meta.get('seconds', 0) for meta in metas):,.0f}",
            }
        )
    return rows
