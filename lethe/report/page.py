"""index.html: one file that shows everything and opens offline (styles inside, pictures as base64)."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from lethe.io import read_meta
from lethe.report.claims import CONTRADICTED, SHOWN, UNMEASURED, UNSETTLED, Claim
from lethe.report.runs import Plan
from lethe.report.tables import Text

TEMPLATES = Path(__file__).resolve().parents[2] / "reports" / "templates"
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


def render(plan: Plan, tables: Mapping[str, Text], parts: Sequence[Part], code: str, packages: Mapping) -> str:
    """The page's text. `tables`: "style" and "paired"."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = lambda name: str(name).replace("_", " ")
    return environment.get_template("index.html").render(
        plan=plan,
        params=plan.params,
        tables=tables,
        parts=parts,
        tones=TONES,
        protocol=protocol(plan.params),
        provenance=provenance(plan),
        seeds=plan.params["grid"]["seeds"],
        code=code,
        packages=packages,
    )


def protocol(params: Mapping) -> list[tuple[str, list[tuple[str, str]]]]:
    """How the numbers came about: titled lists of (what, value) from the whole params of the experiment."""
    concepts = params["concepts"]
    erased = dict.fromkeys(name for members in params["grid"]["sets"].values() for name in members)
    base = params["base"]
    return [
        (
            "Model and data",
            [
                ("base model", base["path"] + (f" @ {base['revision']}" if base["revision"] else "")),
                ("picture side", f"{base['resolution']} pixels" if base["resolution"] else "the model's own"),
                ("erasers work on", params["grid"]["erase_from"]),
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
            for name in params["grid"]["arms"]
            if name in params["erase"]
        ),
        *((f"Variant {name}", [("of", own["of"]), *_pairs(own["with"])]) for name, own in params["variants"].items()),
        ("Intervals", _pairs(params["report"])),
    ]


def _concept(own: Mapping) -> str:
    neighbours = ", ".join(own["neighbours"]) or "none"
    return f"“{own['prompt']}” → “{own['anchor']}”; prompts {own['prompts']}; neighbours {neighbours}"


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
                "arm": run.arm,
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
