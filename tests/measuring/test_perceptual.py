"""LPIPS with random weights in the published files' formats."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from lethe.files import io
from lethe.files.errors import NotThere, UserError
from lethe.measuring import perceptual

CPU = torch.device("cpu")
PUBLISHED = dict(perceptual.NETS)
WIDTHS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}


def trunk(name):
    """torchvision's network, without weights."""
    import torchvision

    with torch.device("meta"):
        return {"alex": torchvision.models.alexnet, "vgg": torchvision.models.vgg16}[name](weights=None).features


def write(folder, name, patch):
    """Random weights under the published names, with the published keys; they pass for the published ones."""
    net, random = perceptual.NETS[name], torch.Generator().manual_seed(0)
    state = {"classifier.6.bias": torch.zeros(1000)}
    for key, own in trunk(name).state_dict().items():
        wide = own[0].numel() if own.dim() > 1 else 100
        state[f"features.{key}"] = torch.randn(own.shape, generator=random) * (2 / wide) ** 0.5
    lins = {
        f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1, generator=random) for i, width in enumerate(WIDTHS[name])
    }
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / net.trunk, _use_new_zipfile_serialization=False)  # as torchvision's is
    torch.save(lins, folder / net.calibration, _use_new_zipfile_serialization=False)
    hashes = {"trunk_sha256": net.trunk, "calibration_sha256": net.calibration}
    own = {key: io.sha256(folder / file) for key, file in hashes.items()}
    patch.setitem(perceptual.NETS, name, dataclasses.replace(net, **own))
    return folder


@pytest.fixture(scope="module", params=["alex", "vgg"])
def folder(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield write(tmp_path_factory.mktemp("weights") / request.param, request.param, patch)


@pytest.fixture(scope="module")
def pairs():
    noise = np.random.default_rng(0)
    ours = noise.integers(0, 256, (3, 64, 80, 3))
    theirs = np.clip(ours + noise.integers(-60, 61, ours.shape) * np.arange(3)[:, None, None, None], 0, 255)
    return [[Image.fromarray(pixels.astype(np.uint8)) for pixels in both] for both in (ours, theirs)]


def written_out(folder, ours, theirs):
    """The formula layer by layer, with torchvision's own network and hooks on its rectifiers."""
    name = perceptual.files(folder)
    net, layers = perceptual.NETS[name], trunk(name)
    own = torch.load(folder / net.trunk, weights_only=True)
    own = {key.removeprefix("features."): value for key, value in own.items() if key.startswith("features.")}
    layers.load_state_dict(own, assign=True)
    lins = torch.load(folder / net.calibration, weights_only=True)
    relus = [i for i, layer in enumerate(layers) if isinstance(layer, torch.nn.ReLU)]
    taken = relus if name == "alex" else [3, 8, 15, 22, 29]  # of VGG the last before each pooling
    assert set(taken) <= set(relus)

    def activations(picture):
        x = torch.tensor(np.array(picture), dtype=torch.float32).permute(2, 0, 1)[None] / 255 * 2 - 1
        x = (x - torch.tensor([-0.030, -0.088, -0.188])[:, None, None]) / torch.tensor([0.458, 0.448, 0.450])[
            :, None, None
        ]
        found = []
        for i, layer in enumerate(layers):
            x = layer(x)
            if i in taken:
                found.append(x.clone())
        return found

    total = 0.0
    with torch.no_grad():
        for depth, (a, b) in enumerate(zip(activations(ours), activations(theirs), strict=True)):
            weight = lins[f"lin{depth}.model.1.weight"][0, :, 0, 0]
            height, width = a.shape[2:]
            for h in range(height):
                for w in range(width):
                    u, v = a[0, :, h, w], b[0, :, h, w]
                    u, v = u / (u.norm() + 1e-10), v / (v.norm() + 1e-10)
                    total += float((weight * (u - v) ** 2).sum()) / (height * width)
    return total


def test_is_the_formula_place_by_place(folder, pairs):
    found = perceptual.lpips(str(folder), CPU)(*pairs)
    assert found.shape == (3,)
    for i in range(3):
        assert float(found[i]) == pytest.approx(written_out(folder, pairs[0][i], pairs[1][i]), rel=1e-4, abs=1e-7)


def test_equal_pictures_are_at_zero_and_order_does_not_matter(folder, pairs):
    run = perceptual.lpips(str(folder), CPU)
    assert not run(pairs[0], pairs[0]).any()
    torch.testing.assert_close(run(*pairs), run(*pairs[::-1]))
    assert 0 == run(*pairs)[0] < run(*pairs)[1] < run(*pairs)[2]
    torch.testing.assert_close(run(pairs[0][1:2], pairs[1][1:2]), run(*pairs)[1:2])


def test_pictures_of_two_sizes_or_too_small_are_refused(folder, pairs):
    run = perceptual.lpips(str(folder), CPU)
    with pytest.raises(UserError, match=r"pictures must be of one size, .* found 64 x 64, 80 x 64"):
        run(pairs[0][:1], [pairs[0][0].crop((0, 0, 64, 64))])
    small = [pairs[0][0].crop((0, 0, 31, 64))]
    with pytest.raises(UserError, match="32 pixels a side at least; found 31 x 64"):
        run(small, small)


def test_files_are_the_published_ones_or_refused(tmp_path, monkeypatch):
    with pytest.raises(NotThere, match=r"wanted there are .*alexnet-owt-7be5be79\.pth and https.*/v0\.1/alex\.pth"):
        perceptual.files(tmp_path)
    published = perceptual.NETS["alex"]
    folder = write(tmp_path / "weights", "alex", monkeypatch)
    assert perceptual.files(folder) == "alex"
    monkeypatch.setitem(perceptual.NETS, "alex", published)
    with pytest.raises(UserError, match=r"alexnet-owt-7be5be79\.pth: is not the published file: its sha256 begins"):
        perceptual.lpips(str(folder), CPU)


def test_both_nets_in_one_folder_are_one_too_many(tmp_path):
    for net in perceptual.NETS.values():
        for file in net.hashes():
            (tmp_path / file).touch()
    with pytest.raises(UserError, match="holds the files of alex and vgg"):
        perceptual.files(tmp_path)


def test_weights_of_another_shape_are_told_in_one_line(tmp_path, monkeypatch):
    folder = write(tmp_path / "weights", "alex", monkeypatch)
    net = perceptual.NETS["alex"]
    torch.save({"lin0.model.1.weight": torch.rand(1, 64, 1, 1)}, folder / net.calibration)
    own = dataclasses.replace(net, calibration_sha256=io.sha256(folder / net.calibration))
    monkeypatch.setitem(perceptual.NETS, "alex", own)
    with pytest.raises(UserError, match=r"its weights do not fit: .*lin1\.model\.1\.weight"):
        perceptual.lpips(str(folder), CPU)


def test_protocol_names_the_net_and_its_files(folder):
    found = perceptual.protocol(str(folder))
    assert found["version"] == "0.1"
    assert found["files"] == perceptual.NETS[found["network"]].hashes()
    assert perceptual.protocol(None) is None


def test_published_files_have_the_hash_that_their_name_says():
    for net in PUBLISHED.values():
        assert net.trunk.rsplit("-", 1)[1] == f"{net.trunk_sha256[:8]}.pth"
        assert len(net.calibration_sha256) == 64
