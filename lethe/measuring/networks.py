"""What the networks of section score say of the drawn pictures, for every metric that asks; or why one does not.

A look is what a metric wants run in the one pass over the pictures (`lethe.measuring.looking`); a protocol is what its
numbers must be told with.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from lethe.measuring import judges
from lethe.measuring.looking import Look, Real
from lethe.measuring.work import Work


def features_network(work: Work) -> Callable | str:
    """Pictures -> features [B, D], or why there are none."""
    if work.options["features"] is None:
        return work.lacking.get("features", "no features (score.features)")
    return judges.features_or_reason(work.options["features"], work.device, work.options["features_weights"])


def features(work: Work) -> tuple[np.ndarray, Real] | str:
    """Features [N, D] of the eval prompts' pictures (the look `features`) and of the real ones, or why not."""
    folder = work.real_pictures
    if isinstance(folder, str):
        return folder
    network = features_network(work)
    if isinstance(network, str):
        return network
    drawn = drawn_features(work)
    real = work.reference_features(folder, "features", network)
    return (drawn, real) if min(len(drawn), len(real.features)) > 1 else "fewer than two pictures"


def drawn_features(work: Work) -> np.ndarray:
    """[N, D] of the eval prompts' pictures (the look `features`)."""
    return work.seen["features"][[entry.set == "eval" for entry in work.images.entries]].astype(np.float64)


def beside_statistics(work: Work) -> np.ndarray | str | None:
    """The same, to be held against `work.statistics`, or why not; None if there are none."""
    if not work.statistics or not work.has("eval"):
        return None
    network = features_network(work)
    if isinstance(network, str):
        return network
    drawn = drawn_features(work)
    return drawn if len(drawn) > 1 else "fewer than two pictures"


def features_look(work: Work) -> dict[str, Look]:
    """The look `features`, for a distance to real pictures."""
    if isinstance(work.real_pictures, str) and not (work.statistics and work.has("eval")):
        return {}
    network = features_network(work)
    return {} if isinstance(network, str) else {"features": Look(network, ("eval",))}


def features_protocol(work: Work) -> dict:
    """What a distance between features must be told with."""
    found = features(work)
    if isinstance(found, str):
        return {}
    drawn, real = found
    counts = {"n_drawn": len(drawn), "n_real": len(real.features), "reference_sha": real.sha256}
    return judges.features_protocol(work.options["features"]) | counts


def clip(work: Work) -> tuple[Callable, Callable] | str:
    """(pictures -> [B, D], texts -> [B, D]), both of length 1, or why there is no CLIP."""
    if work.options["clip"] is None:
        return work.lacking.get("clip", "no network (score.clip)")
    return judges.clip_or_reason(work.options["clip"], work.device)


def clip_look(work: Work, sets: tuple[str, ...] | None = None) -> dict[str, Look]:
    """The look `clip`: embeddings."""
    found = clip(work)
    return {} if isinstance(found, str) else {"clip": Look(found[0], sets)}


def clip_protocol(work: Work) -> dict:
    """What a number that CLIP made must be told with."""
    return {} if isinstance(clip(work), str) else judges.clip_protocol(work.options["clip"], work.device)


def judge_look(work: Work, role: str) -> dict[str, Look]:
    """The look of a judge (score.judges.ROLE) that is an image classifier: its probabilities [N, K]; {} without one."""
    path = work.options["judges"].get(role)
    if not path:
        return {}
    _, network = judges.classifier(path, work.device)
    return {role: Look(lambda batch: network(batch)[0])}


def judged(work: Work, role: str, truth: pd.Series, column: str) -> dict[str, np.ndarray]:
    """A judge on every picture: `pred` its label, `prob` that label's probability, `ok` 1 if it is the true one, 0 if
    not, NaN where there is none. Raises UserError if a true label is none of the judge's."""
    path = work.options["judges"][role]
    labels, _ = judges.classifier(path, work.device)
    known = truth.notna().to_numpy()
    judges.check_labels(path, labels, truth[known], column)
    found = work.seen[role]
    pred = np.array(labels, dtype=object)[found.argmax(1)]
    return {"pred": pred, "prob": found.max(1), "ok": np.where(known, pred == truth.to_numpy(), np.nan)}
