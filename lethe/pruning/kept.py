"""What a pruned net kept, in words: every layer, or the sums."""

from collections.abc import Iterator
from pathlib import Path

from lethe.files import io
from lethe.files.errors import UserError
from lethe.models import unets


def listing(folder: Path) -> Iterator[str]:
    """Every layer's kept part, blocks that are gone, and totals. Raises UserError if the folder is not pruned."""
    found = unets.read_pruning(folder)
    if not found:
        raise UserError(f"{folder}: no unet/{unets.PRUNING} there; --list takes a pruned weights folder")
    meta = io.read_meta(folder) if (folder / io.META).is_file() else {}
    rows = [(path, "removed", "", "") for path in found.get("removed", [])]
    for path, layer in found["layers"].items():
        kept, total = len(layer["kept"]), layer["total"]
        share = ("", "") if layer["kind"] == "dropped" else (f"{kept}/{total}", f"{100 * kept / total:.1f} %")
        rows.append((path, layer["kind"], *share))
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    for path, kind, part, percent in rows:
        yield f"{path:{widths[0]}}  {kind:{widths[1]}}  {part:>{widths[2]}}  {percent:>{widths[3]}}".rstrip()
    yield f"{found['pruner']} to {found['budget']} of the MACs: {'; '.join(summary(found))}"
    yield from totals(found | meta)


def summary(found: dict) -> list[str]:
    """What is left by kind of unit, and how many blocks are gone."""
    kinds: dict[str, tuple[int, int]] = {}
    parts = []
    for layer in found["layers"].values():
        kept, total = kinds.get(layer["kind"], (0, 0))
        kinds[layer["kind"]] = (kept + len(layer["kept"]), total + layer["total"])
    for kind, (kept, total) in kinds.items():
        parts.append(f"{total} dropped" if kind == "dropped" else f"{kind} {kept}/{total}")
    removed = len(found.get("removed", []))
    return parts + ([f"{removed} removed"] if removed else [])


def totals(facts: dict) -> list[str]:
    """MACs, parameters and, where it was measured, latency."""
    macs, params, times = facts["macs"], facts["params"], facts.get("latency_ms")
    theirs = facts.get("macs_released")  # results that are older have none
    other = f" ({theirs['kept'] / theirs['dense']:.4f} as the released code counts)" if theirs else ""
    found = [
        f"kept {macs['kept'] / macs['dense']:.4f} of {macs['dense'] / 1e6:.1f} M MACs{other}",
        f"{params['kept'] / params['dense']:.4f} of {params['dense'] / 1e6:.2f} M parameters",
    ]
    if times:
        sizes = ", ".join(
            f"{times['kept'][size]:.1f} of {times['dense'][size]:.1f} at {size}" for size in times["kept"]
        )
        found.append(f"ms a forward pass by batch: {sizes}")
    return found
