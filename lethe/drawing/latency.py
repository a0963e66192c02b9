"""How long one forward pass of a U-Net takes, measured side by side, and how large it is."""

import statistics
import time
from collections.abc import Mapping

import torch
from diffusers import UNet2DConditionModel

from lethe.models import precision
from lethe.training.data import generator

BATCHES = (1, 8)
SECONDS = 2.0  # of measuring a batch size
ROUNDS = 50  # at most


def compare(
    nets: Mapping[str, UNet2DConditionModel], latent_shape: tuple[int, int, int], text_length: int, device: torch.device
) -> dict[str, dict[str, float]]:
    """Median milliseconds of one forward pass by net and batch size, {"dense": {"1": 12.3, "8": 80.1}, ...}.

    The nets take turns, so that what else the machine does meets all of them alike. Each is warmed up at every size;
    a net of seconds is timed once.
    """
    found: dict[str, dict[str, float]] = {name: {} for name in nets}
    with torch.inference_mode():
        for batch in BATCHES:
            draws = generator(0, "latency", batch)
            width = next(iter(nets.values())).config.cross_attention_dim
            x = torch.randn((batch, *latent_shape), generator=draws).to(device)
            text = torch.randn((batch, text_length, width), generator=draws).to(device)
            t = torch.full((batch,), 500, device=device)
            spent = sum(min(_seconds(net, x, t, text) for _ in range(2)) for net in nets.values())  # warms up as well
            rounds = min(ROUNDS, max(1, int(SECONDS / max(spent, 1e-9))))
            times = [{name: _seconds(net, x, t, text) for name, net in nets.items()} for _ in range(rounds)]
            for name in nets:
                found[name][str(batch)] = round(1000 * statistics.median(row[name] for row in times), 3)
    return found


def deployed(
    unet: UNet2DConditionModel, name: str, latent_shape: tuple[int, int, int], text_length: int, device: torch.device
) -> dict[str, object]:
    """What samples tell of the U-Net that drew them in precision `name`: the `bytes` its parameters take there (see
    `precision.stored`), and `latency_ms`, the medians in that precision and, beside it, in float32, on `threads`."""
    nets = {"float32": unet, name: precision.applied(unet, name)}
    times = compare(nets, latent_shape, text_length, device)
    return {"bytes": precision.stored(unet, name), "latency_ms": times, "threads": torch.get_num_threads()}


def _seconds(net: UNet2DConditionModel, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> float:
    _wait(x.device)
    start = time.perf_counter()
    net(x, t, text, return_dict=False)
    _wait(x.device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
