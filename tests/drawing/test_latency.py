"""Side by side, warmed up, in milliseconds."""

import time
from types import SimpleNamespace

import torch

from lethe.drawing import latency
from lethe.models import precision
from lethe.models.pipelines import load_base


class Waiting:
    """A net that takes its time, and notes who was asked for what."""

    def __init__(self, name, seconds, calls):
        self.name, self.seconds, self.calls = name, seconds, calls
        self.config = SimpleNamespace(cross_attention_dim=6)

    def __call__(self, x, t, text, return_dict):
        assert x.shape[1:] == (4, 2, 2)
        assert text.shape == (len(x), 3, 6)
        assert len(t) == len(x)
        assert torch.is_inference_mode_enabled()
        self.calls.append((self.name, len(x)))
        time.sleep(self.seconds * len(x))


def test_median_milliseconds_by_batch(monkeypatch):
    monkeypatch.setattr(latency, "SECONDS", 0.5)
    calls = []
    nets = {"dense": Waiting("dense", 0.004, calls), "kept": Waiting("kept", 0.002, calls)}
    started = time.monotonic()
    found = latency.compare(nets, (4, 2, 2), 3, torch.device("cpu"))
    assert time.monotonic() - started < 25
    assert 4 <= found["dense"]["1"] < 40  # a busy machine wakes sleepers late, never early
    assert 16 <= found["kept"]["8"] < 160
    assert found["kept"]["1"] < found["dense"]["1"]
    for batch in (1, 8):
        turns = [name for name, size in calls if size == batch][4:]  # two passes each to warm up
        assert turns == ["dense", "kept"] * (len(turns) // 2)
        assert len(turns) >= 10


def test_what_samples_tell_of_the_unet_that_drew(tiny_base, monkeypatch):
    monkeypatch.setattr(latency, "SECONDS", 0.001)
    unet = load_base(str(tiny_base), None, ["unet"]).unet
    found = latency.deployed(unet, "int8", (4, 8, 8), 16, torch.device("cpu"))
    assert found["bytes"] == precision.stored(unet, "int8")
    assert list(found["latency_ms"]) == ["float32", "int8"]
    assert all(set(times) == {"1", "8"} for times in found["latency_ms"].values())
    assert min(min(times.values()) for times in found["latency_ms"].values()) > 0
    assert found["threads"] == torch.get_num_threads()
    alone = latency.deployed(unet, "float32", (4, 8, 8), 16, torch.device("cpu"))
    assert set(alone["latency_ms"]) == {"float32"}


def test_a_slow_net_is_timed_once(monkeypatch):
    calls = []
    monkeypatch.setattr(latency, "SECONDS", 0.001)
    latency.compare({"dense": Waiting("dense", 0.003, calls)}, (4, 2, 2), 3, torch.device("cpu"))
    assert calls == [("dense", 1)] * 3 + [("dense", 8)] * 3
