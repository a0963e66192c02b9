"""Result folders of a whole experiment with chosen scores, for tests of the report: no model is run."""

import copy
import hashlib
import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import yaml

from lethe.experiment import tried
from lethe.files.images import Entry, png, write_manifest, write_tar
from lethe.files.io import digest, sha256, write_json

ROOT = Path(__file__).resolve().parents[1]
TINT = {"base": 20, "pruned": 60, "distill": 100, "esd": 140, "bilevel": 180}


def params(**grid) -> dict:
    """The default experiment's params with another grid, few resamples."""
    found = yaml.safe_load((ROOT / "params.yaml").read_text())
    found["experiment"] = "fabricated"
    one = {"budgets": [0.8], "sets": {"all": ["van_gogh", "monet"]}, "seeds": [0], "arms": list(TINT)}
    found["grid"] = one | {"order": "distill_erase"} | grid
    found["tables"] = {}
    found["report"] = {"bootstrap": 200, "grid_prompts": 2}
    return found


def table(
    of: list[str], vary: dict[str, dict], budgets: list[float] | None = None, seeds: list[int] | None = None
) -> dict:
    """A table of the params."""
    return {"of": of, "budgets": budgets, "seeds": seeds, "vary": vary}


def folder(
    path: Path, stage: str, recipe: str, parents: Mapping[str, Path], budget: Mapping | None = None, **extra
) -> Path:
    """Finishes a folder with a meta.json as `Recorder.write` makes it."""
    recipes = {role: {"folder": str(p), "recipe": p.name.rpartition("-")[2]} for role, p in parents.items()}
    write_json(
        path / "meta.json",
        {
            "stage": stage,
            "version": 1,
            "recipe": recipe,
            "options": {},
            "parents": recipes,
            "code": "0123456789abcdef",
            "packages": {},
            "machine": {"device": "cpu"},
            "seconds": 10.0,
            "budget": budget or {},
            "files": {str(p.relative_to(path)): sha256(p) for p in path.rglob("*") if p.is_file()},
        }
        | extra,
    )
    return path


def place(root: Path, kind: str, arm: str, key: str) -> tuple[Path, str]:
    recipe = digest([kind, arm, key])
    path = root / kind / arm / f"{key}-{recipe}"
    path.mkdir(parents=True, exist_ok=True)
    return path, recipe


def weights(root: Path, arm: str, key: str, parents: Mapping[str, Path], steps: int, **extra) -> Path:
    """Weights without weights: pruning.json and, for trained ones, log.csv. `extra`: further keys of meta.json."""
    path, recipe = place(root, "weights", arm, key)
    sizes = {"macs": {"dense": 1000, "kept": 803}, "params": {"dense": 100, "kept": 79}, "layers": {}}
    write_json(path / "unet" / "pruning.json", sizes)
    if steps:
        log(arm, steps).to_csv(path / "log.csv", index=False)
    stage = {"pruned": "prune", "distill": "distill", "bilevel": "bilevel"}.get(arm, "erase")
    spent = {"student_forward": 32 * steps, "student_backward": 32 * steps, "teacher_forward": 32 * steps}
    return folder(path, stage, recipe, parents, spent, **extra)


def log(arm: str, steps: int) -> pd.DataFrame:
    """Losses that fall; the bilevel arm also tells of its two levels, from its second row on."""
    step = np.arange(1, steps + 1)
    found = pd.DataFrame({"step": step, "loss": 2 / step})
    if arm in ("distill", "bilevel"):
        found = found.assign(diff=1 / step, out=0.5 / step, feat=0.3 / step)
    if arm == "bilevel":
        levels = {"upper": 0.2 / step, "gap": 1 / step - 0.1, "cosine": np.cos(step), "displacement": 0.1 * step}
        found = found.assign(**levels, passes=96 * step)
        found.loc[0, ["gap", "cosine"]] = np.nan
    return found


def prompts(concepts: list[str], count: int) -> pd.DataFrame:
    """`count` rows a concept, twice `count` retain rows (half neighbours of van_gogh), `count` eval rows."""
    rows = []
    for name in concepts:
        rows += [(name, i, f"a boat number {i} by {name}", 100 + i, name, "boat") for i in range(count)]
    rows += [("retain", i, f"a tree {i}", 500 + i, ("munch", "seurat")[i % 2], "tree") for i in range(2 * count)]
    rows += [("eval", i, f"a fish {i}", 900 + i, None, None) for i in range(count)]
    return pd.DataFrame(rows, columns=["set", "case_number", "prompt", "seed", "artist", "class"])


def scored(arm: str, seed: int | None, table: pd.DataFrame) -> pd.DataFrame:
    """Default scores: normal noise around a level per arm; the erasing arms erase, bilevel most."""
    noise = np.random.default_rng([sum(arm.encode()), seed or 0])
    erased = ~table["set"].isin(["retain", "eval"]).to_numpy()
    level = {"base": 0.98, "pruned": 0.3, "distill": 0.9, "esd": 0.25}.get(arm.split()[0], 0.05)
    known = table["artist"].notna().to_numpy()
    style = np.where(erased, noise.random(len(table)) < level, noise.random(len(table)) < 0.9)
    table["clip"] = 30 + 4 * level * erased + noise.normal(0, 1, len(table))
    table["csd"] = np.where(erased, 20 + 60 * level + noise.normal(0, 3, len(table)), np.nan)
    table["cp"] = np.where(erased, noise.random(len(table)) < 1 - level, np.nan) if arm != "distill" else erased * 0.0
    table["style_pred"] = np.where(known, np.where(style, table["artist"], "photo"), "photo")
    table["style_ok"] = np.where(known, style.astype(float), np.nan)
    table["content_pred"] = table["class"]
    table["content_ok"] = np.where(known, (noise.random(len(table)) < 0.85).astype(float), np.nan)
    return judged(table)


def judged(table: pd.DataFrame) -> pd.DataFrame:
    """The columns that metrics of kept and erased styles read, from what the judges say."""
    erased = ~table["set"].isin(["retain", "eval"])
    table["shown"] = table["style_ok"].where(erased)
    table["domain_ok"], table["cross_ok"] = table["style_ok"].where(~erased), table["content_ok"]
    return table


def distance(arm: str, table: pd.DataFrame, value: float, half: float) -> np.ndarray:
    """Column `fid`: eval pictures with this mean and a 95 % interval of this half-width."""
    shown = (table["set"] == "eval").to_numpy()
    noise = np.random.default_rng(sum(arm.encode())).normal(size=shown.sum())
    noise = (noise - noise.mean()) / noise.std() * half / 1.96 * np.sqrt(shown.sum())
    column = np.full(len(table), np.nan)
    column[shown] = value + noise
    return column


def experiment(
    root: Path,
    values: dict | None = None,
    *,
    count: int = 6,
    side: int = 64,
    score: Callable[[str, int | None, pd.DataFrame], pd.DataFrame] = scored,
    fid: Mapping[str, tuple[float, float]] | None = None,
    picture: Callable[[str, int, int], np.ndarray] | None = None,
    meta: Mapping[str, Mapping] | None = None,
) -> Path:
    """Writes everything below `root` and returns the path of the plan.

    `score(row, seed, prompts)` gives scores.csv, a row being an arm and, in a table, its labels; `fid`: row, or
    (row, budget), -> value and half-width of its interval; `picture(arm, number, side)`: uint8 [side, side, 3], by
    default flat, red tells the arm, green the row; `meta`: arm -> further keys of the meta.json of its weights, or
    "samples" -> of all samples.
    """
    values = copy.deepcopy(values or params())
    with mock.patch("os.fsync"):  # hundreds of small files: nothing here must outlive a power cut
        return _Maker(root, values, count, side, score, fid or {}, picture, meta or {}).plan()


class _Maker:
    def __init__(self, root, values, count, side, score, fid, picture, meta):
        self.root, self.values, self.side, self.score, self.fid, self.meta = root, values, side, score, fid, meta
        sets = values["grid"]["sets"].values()
        self.prompts = prompts(sorted({name for members in sets for name in members}), count)
        files = [f"{row.set}/{row.case_number}.png" for row in self.prompts.itertuples()]
        self.prompts.insert(3, "file", files)
        self.picture = picture or (lambda arm, n, s: np.full((s, s, 3), (TINT.get(arm, 220), n, 50), np.uint8))

    def plan(self) -> Path:
        grid, rows = self.values["grid"], []
        for arm in grid["arms"]:
            budgets = grid["budgets"][:1] if arm == "base" else grid["budgets"]
            rows += self.rows(arm, None, {}, {}, budgets, grid["seeds"])
        for name, own in self.values["tables"].items():
            axes = own["vary"]
            for arm, labels in itertools.product(own["of"], itertools.product(*axes.values())):
                changes = {}
                for axis, label in zip(axes, labels, strict=True):
                    changes |= axes[axis][label]
                at = own["budgets"] or grid["budgets"], own["seeds"] or grid["seeds"]
                rows += self.rows(arm, name, dict(zip(axes, labels, strict=True)), changes, *at)
        path = self.root / "plan.json"
        head = {"recipe": digest([self.values, rows]), "experiment": self.values["experiment"]}
        write_json(path, head | {"params": self.values, "rows": rows})
        return path

    def rows(self, arm, table, labels, changes, budgets, seeds) -> list[dict]:
        """Rows of the plan; without a change they are the same folders as those of the grid."""
        rows = []
        for budget in budgets:
            for name in self.values["grid"]["sets"]:
                for seed in [None] if arm in ("base", "pruned") else seeds:
                    tag = f"b{round(budget * 100):03d}"
                    drawn = _of(changes, "sample")
                    chain = self.chain(arm, tag, name, seed, {k: v for k, v in changes.items() if k not in drawn})
                    row = " ".join([arm, *labels.values()]) if changes else arm
                    first = f"{tag}-s{seeds[0]}-{name}"
                    metrics, samples = self.scored(row, arm, chain, name, seed, budget, first, drawn)
                    own = {"arm": arm, "table": table, "labels": labels}
                    own |= {"budget": None if arm == "base" else budget, "set": name, "seed": seed}
                    paths = {"metrics": str(metrics), "samples": str(samples), "weights": [str(p) for p in chain]}
                    rows.append(own | paths | {"attack": None})
                    for label in tried.labels(self.values, arm, table):
                        metrics, samples = self.attacked(row, arm, chain, name, seed, label)
                        paths |= {"metrics": str(metrics), "samples": str(samples)}
                        rows.append(own | paths | {"attack": label})
        return rows

    def attacked(self, row, arm, chain, name, seed, label) -> tuple[Path, Path]:
        """Metrics and samples of one run under an attack: the first prompts of each erased concept."""
        key = f"{chain[-1].name.rpartition('-')[0] if chain else 'base'}-{name}-{label}"
        samples, recipe = place(self.root, "samples", arm, key)
        metrics, own = place(self.root, "metrics", arm, key)
        first = self.prompts["case_number"] < self.values["attacks"]["prompts"]
        asked = self.prompts[self.prompts["set"].isin(self.values["grid"]["sets"][name]) & first]
        _pictures(samples, asked, arm, self.side, self.picture)
        folder(samples, "attack", recipe, {"model": chain[-1]} if chain else {})
        table = self.score(f"{row} under {label}", seed, asked.drop(columns="prompt").reset_index(drop=True))
        table.to_csv(metrics / "scores.csv", index=False)
        folder(metrics, "score", own, {"samples": samples})
        return metrics, samples

    def scored(self, row, arm, chain, name, seed, budget, first, drawn) -> tuple[Path, Path]:
        """Metrics and samples of one run; `first`: key of the distilled model whose seed stands in for no seed;
        `drawn`: changes of section sample."""
        key = chain[-1].name.rpartition("-")[0] if chain else "base"
        key = f"{key}-{digest(drawn)[:4]}" if drawn else key
        samples, recipe = place(self.root, "samples", arm, key)
        metrics, own = place(self.root, "metrics", arm, f"{key}-{name}")
        if (metrics / "meta.json").exists():
            return metrics, samples
        _pictures(samples, self.prompts, arm, self.side, self.picture)
        options = self.values["sample"] | {name.partition(".")[2]: value for name, value in drawn.items()}
        told = {"options": options, "pictures": len(self.prompts)} | self.meta.get("samples", {})
        passes = -(-len(self.prompts) // options["tile"]) * options["tile"] * options["steps"] * 2
        folder(samples, "sample", recipe, {"model": chain[-1]} if chain else {}, {"student_forward": passes}, **told)
        scores = self.score(row, seed, self.prompts.drop(columns="prompt").copy())
        scores["fid"] = distance(row, scores, *self.fid.get((row, budget), self.fid.get(row, (30.0, 2.0))))
        scores.to_csv(metrics / "scores.csv", index=False)
        reference = first if seed is None else f"{first.split('-')[0]}-s{seed}-{name}"
        parents = {"reference": place(self.root, "metrics", "distill", reference)[0]} if row != "distill" else {}
        folder(metrics, "score", own, {"samples": samples} | parents)
        return metrics, samples

    def chain(self, arm, tag, name, seed, changes) -> list[Path]:
        """Weights from the first to the last; a change makes others of the stage whose section it is in."""
        order = changes.get("grid.order", self.values["grid"]["order"])
        if arm == "base":
            return []
        if arm not in ("pruned", "distill", "bilevel") and order == "erase":
            return [self.weights(arm, f"dense-{name}-s{seed}", {}, 6, changes)]
        pruned = self.weights("pruned", tag, {}, 0, _of(changes, "prune"))
        if arm == "pruned":
            return [pruned]
        if arm == "bilevel":
            return [pruned, self.weights(arm, f"{tag}-{name}-s{seed}", {"pruned": pruned}, 66, changes)]
        healed = self.weights("distill", f"{tag}-s{seed}", {"pruned": pruned}, 60, _of(changes, "prune", "distill"))
        if arm == "distill":
            return [pruned, healed]
        return [pruned, healed, self.weights(arm, f"{tag}-{name}-s{seed}", {"model": healed}, 6, changes)]

    def weights(self, arm, key, parents, steps, changes) -> Path:
        key = f"{key}-{digest(changes)[:4]}" if changes else key
        return weights(self.root, arm, key, parents, steps, **self.meta.get(arm, {}))


def _of(changes: Mapping, *sections: str) -> dict:
    return {key: value for key, value in changes.items() if key.split(".")[0] in sections}


def _pictures(path: Path, table: pd.DataFrame, arm: str, side: int, picture: Callable) -> None:
    contents = [png(picture(arm, number, side)) for number in range(len(table))]
    write_tar(path / "images.tar", zip(table["file"], contents, strict=True))
    write_manifest(
        path / "manifest.csv",
        [
            Entry(row.set, row.case_number, row.prompt, row.seed, row.file, hashlib.sha256(c).hexdigest())
            for row, c in zip(table.itertuples(), contents, strict=True)
        ],
    )


def signed(folder: Path) -> None:
    """Its meta.json tells of the files that lie there now, as if a stage had made them so."""
    own = {str(p.relative_to(folder)): sha256(p) for p in folder.rglob("*") if p.is_file() and p.name != "meta.json"}
    edit(folder / "meta.json", lambda meta: meta.update(files=own))


def edit(path: Path, change: Callable[[dict], None]) -> None:
    """Changes a JSON file in place."""
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
