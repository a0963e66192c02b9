"""reports/bench/<device>.json as a table to read."""

from collections.abc import Iterator, Mapping

HEAD = ["row", "what", "ms", "quartiles", "against the first", "floor, ms", "of the ceiling", "peak, GiB", ""]


def table(found: Mapping) -> str:
    """Markdown: where it was measured, the ceilings, and a table a kind of work."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Mapping) -> Iterator[str]:
    yield f"# Speed and memory on {found['device']}"
    yield ""
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    yield f"Made by `python -m stages.bench` (networks: {found['size']}, random weights); {packages}."
    yield "Milliseconds are medians; the floor is what the networks' arithmetic takes at the ceiling of bfloat16."
    yield f"Code: {found['code']}."
    yield ""
    yield "| product of two matrices | TFLOP/s |"
    yield "|---|---|"
    for name, ceiling in found["ceilings"].items():
        yield f"| {name}, {ceiling['side']} × {ceiling['side']} | {ceiling['tflops']:.0f} |"
    for kind in dict.fromkeys(row["kind"] for row in found["rows"]):
        rows = [row for row in found["rows"] if row["kind"] == kind]
        yield from ("", f"## {kind}", "", f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|")
        first = next((row["ms"] for row in rows if "ms" in row), None)
        for row in rows:
            yield f"| {' | '.join(_cells(row, first))} |"


def _cells(row: Mapping, first: float | None) -> list[str]:
    if "ms" not in row:
        return [row["name"], row["about"], *[""] * 6, row.get("failed") or row["not_measured"]]
    notes = [row[key] for key in ("spread",) if key in row]
    notes += [f"{row['per_second']} pictures a second"] if "per_second" in row else []
    notes += [f"pictures {row['distance']} of 255 from ours"] if "distance" in row else []
    batch = row.get("batch", row.get("pictures"))
    return [
        row["name"],
        f"{row['about']}; {batch} pictures",
        f"{row['ms']:.1f}",
        " to ".join(f"{value:.1f}" for value in row["quartiles"]),
        f"{first / row['ms']:.2f} ×",
        f"{row['floor_ms']:.1f}",
        f"{100 * row['share']:.1f} %",
        "" if row["peak_gib"] is None else f"{row['peak_gib']:.1f}",
        "; ".join(notes),
    ]
