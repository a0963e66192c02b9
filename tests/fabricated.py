"""Result folders of a whole experiment with chosen scores, for tests of the report: no model is run."""

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import yaml

from lethe.images import Entry, png, write_manifest, write_tar
from lethe.io import digest, sha256, write_json

ROOT = Path(__file__).resolve().parents[1]
TINT = {"base": 20, "pruned": 60, "distill": 100, "esd": 140, "bilevel": 180}


def params(**grid) -> dict:
    """The default experiment's params with another grid, few resamples."""
    found = yaml.safe_load((ROOT / "params.yaml").read_text())
    found["experiment"] = "fabricated"
    one = {"budgets": [0.8], "sets": {"all": ["van_gogh", "monet"]}, "seeds": [0], "arms": list(TINT)}
    found["grid"] = one | {"erase_from": "distill"} | grid
    found["report"] = {"bootstrap": 200, "grid_prompts": 2}
    return found


def folder(path: Path, stage: str, recipe: str, parents: Mapping[str, Path], budget: Mapping | None = None) -> Path:
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
        },
    )
    return path


def place(root: Path, kind: str, arm: str, key: str) -> tuple[Path, str]:
    recipe = digest([kind, arm, key])
    path = root / kind / arm / f"{key}-{recipe}"
    path.mkdir(parents=True, exist_ok=True)
    return path, recipe


def weights(root: Path, arm: str, key: str, parents: Mapping[str, Path], steps: int) -> Path:
    """Weights without weights: pruning.json and, for trained ones, log.csv."""
    path, recipe = place(root, "weights", arm, key)
    macs = {"macs": {"dense": 1000, "kept": 803}, "layers": {}}
    write_json(path / "unet" / "pruning.json", macs)
    if steps:
        rows = [{"step": s, "diffusion": 1 / s, "output": 0.5 / s} for s in range(1, steps + 1)]
        pd.DataFrame(rows).to_csv(path / "log.csv", index=False)
    stage = {"pruned": "prune", "distill": "distill", "bilevel": "bilevel"}.get(arm, "erase")
    spent = {"student_forward": 32 * steps, "student_backward": 32 * steps, "teacher_forward": 32 * steps}
    return folder(path, stage, recipe, parents, spent)


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
    level = {"base": 0.98, "pruned": 0.3, "distill": 0.9, "esd": 0.25}.get(arm, 0.05)
    known = table["artist"].notna().to_numpy()
    style = np.where(erased, noise.random(len(table)) < level, noise.random(len(table)) < 0.9)
    table["clip"] = 30 + 4 * level * erased + noise.normal(0, 1, len(table))
    table["csd"] = np.where(erased, 20 + 60 * level + noise.normal(0, 3, len(table)), np.nan)
    table["cp"] = np.where(erased, noise.random(len(table)) < 1 - level, np.nan) if arm != "distill" else erased * 0.0
    table["style_pred"] = np.where(known, np.where(style, table["artist"], "photo"), "photo")
    table["style_ok"] = np.where(known, style.astype(float), np.nan)
    table["content_pred"] = table["class"]
    table["content_ok"] = np.where(known, (noise.random(len(table)) < 0.85).astype(float), np.nan)
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
) -> Path:
    """Writes everything below `root` and returns the path of the plan.

    `score(arm, seed, prompts)` gives scores.csv; `fid`: arm -> value and half-width of its interval;
    `picture(arm, number, side)`: uint8 [side, side, 3], by default flat, red tells the arm, green the row.
    """
    with mock.patch("os.fsync"):  # hundreds of small files: nothing here must outlive a power cut
        return _experiment(root, values, count, side, score, fid, picture)


def _experiment(root, values, count, side, score, fid, picture) -> Path:
    values = copy.deepcopy(values or params())
    grid = values["grid"]
    table = prompts(sorted({name for members in grid["sets"].values() for name in members}), count)
    table.insert(3, "file", [f"{row.set}/{row.case_number}.png" for row in table.itertuples()])
    picture = picture or (lambda arm, n, side: np.full((side, side, 3), (TINT.get(arm, 220), n, 50), np.uint8))
    rows = []
    for arm in [*grid["arms"], *values.get("variants", {})]:
        for budget in grid["budgets"][:1] if arm == "base" else grid["budgets"]:
            for name in grid["sets"]:
                for seed in [None] if arm in ("base", "pruned") else grid["seeds"]:
                    chain = _chain(root, arm, f"b{round(budget * 100):03d}", name, seed)
                    key = chain[-1].name.rpartition("-")[0] if chain else "base"
                    samples, recipe = place(root, "samples", arm, key)
                    _pictures(samples, table, arm, side, picture)
                    folder(samples, "sample", recipe, {"model": chain[-1]} if chain else {})
                    metrics, recipe = place(root, "metrics", arm, f"{key}-{name}")
                    own = score(arm, seed, table.drop(columns="prompt").copy())
                    own["fid"] = distance(arm, own, *(fid or {}).get(arm, (30.0, 2.0)))
                    own.to_csv(metrics / "scores.csv", index=False)
                    parents = {"samples": samples}
                    if arm != "distill":
                        tag = f"b{round(budget * 100):03d}-s{grid['seeds'][0] if seed is None else seed}-{name}"
                        parents["reference"] = place(root, "metrics", "distill", tag)[0]
                    folder(metrics, "score", recipe, parents)
                    own = {"arm": arm, "budget": None if arm == "base" else budget, "set": name, "seed": seed}
                    paths = {"metrics": str(metrics), "samples": str(samples), "weights": [str(p) for p in chain]}
                    rows.append(own | paths)
    plan = root / "plan.json"
    recipe = digest([values, rows])
    write_json(plan, {"recipe": recipe, "experiment": values["experiment"], "params": values, "rows": rows})
    return plan


def _chain(root: Path, arm: str, tag: str, name: str, seed: int | None) -> list[Path]:
    if arm == "base":
        return []
    pruned = weights(root, "pruned", tag, {}, 0)
    if arm == "pruned":
        return [pruned]
    if arm == "bilevel":
        return [pruned, weights(root, arm, f"{tag}-{name}-s{seed}", {"pruned": pruned}, 66)]
    distill = weights(root, "distill", f"{tag}-s{seed}", {"pruned": pruned}, 60)
    if arm == "distill":
        return [pruned, distill]
    return [pruned, distill, weights(root, arm, f"{tag}-{name}-s{seed}", {"model": distill}, 6)]


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


def edit(path: Path, change: Callable[[dict], None]) -> None:
    """Changes a JSON file in place."""
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
