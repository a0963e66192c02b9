"""The one pass over the pictures, and the cache of what networks say of real ones."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from lethe.files import images
from lethe.files.errors import UserError
from lethe.files.images import Entry, Images
from lethe.files.io import write_json, write_text
from lethe.measuring import looking
from lethe.measuring.looking import Look


def mean_colour(batch) -> torch.Tensor:
    return torch.tensor(np.array([np.array(picture).mean((0, 1)) for picture in batch]), dtype=torch.float32)


def samples(folder, count=5, side=8, sets=("a", "b"), seed=0, pixels=None):
    """`count` pictures a set, of noise; `pixels`: (set, number) -> an array instead."""
    folder.mkdir(parents=True)
    rng, contents, entries = np.random.default_rng(seed), {}, []
    for name in sets:
        for number in range(count):
            own = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            own = (pixels or {}).get((name, number), own)
            file, content = f"{name}/{number}.png", images.png(own)
            contents[file] = content
            entries.append(Entry(name, number, f"p{number}", 100 + number, file, hashlib.sha256(content).hexdigest()))
    images.write_tar(folder / images.TAR, contents.items())
    images.write_manifest(folder / images.MANIFEST, entries)
    write_json(folder / "meta.json", {"recipe": "samples000"})
    return folder


def test_each_look_has_a_row_a_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(looking, "BATCH", 2)
    sizes = []
    with Images(samples(tmp_path / "s")) as found:
        looks = {
            "all": Look(lambda batch: sizes.append(len(batch)) or mean_colour(batch)),
            "some": Look(lambda batch: mean_colour(batch)[:, 0], ("b",)),
            "words": Look(lambda batch: np.array([f"{p.width}" for p in batch], dtype=object), ("a",)),
            "never": Look(mean_colour, ("c",)),
        }
        seen = looking.look(found, looks)
        wanted = mean_colour([found.picture(entry) for entry in found.entries])
    np.testing.assert_array_equal(seen.looks["all"], wanted)
    np.testing.assert_array_equal(seen.looks["some"], [*[np.nan] * 5, *wanted[5:, 0]])
    assert seen.looks["words"].tolist() == ["8"] * 5 + [None] * 5
    assert np.isnan(seen.looks["never"]).all() and len(seen.looks["never"]) == 10
    assert seen.size == (8, 8) and seen.converted == {}
    assert sizes == [2, 2, 1, 2, 2, 1]  # no batch holds pictures of two sets


def test_a_look_beside_gets_the_other_models_pictures(tmp_path):
    other = samples(tmp_path / "other", seed=1)

    def apart(ours, theirs):
        return (mean_colour(ours) - mean_colour(theirs)).abs().sum(1)

    with Images(samples(tmp_path / "s")) as ours, Images(other) as theirs:
        seen = looking.look(ours, {"apart": Look(apart, None, other)}).looks["apart"]
        pictures = [[found.picture(entry) for entry in found.entries] for found in (ours, theirs)]
    np.testing.assert_allclose(seen, apart(*pictures))
    few = samples(tmp_path / "few", count=3)
    with Images(samples(tmp_path / "more")) as ours, pytest.raises(UserError, match=r"few: has no picture of a/3"):
        looking.look(ours, {"apart": Look(apart, None, few)})


def test_two_wishes_for_a_look_are_one():
    network = object()
    assert Look(network, ("a",)).joined(Look(None, ("b", "a"))) == Look(network, ("a", "b"))
    assert Look(network, ("a",)).joined(Look(None)).sets is None


def test_fewer_or_more_pictures_than_the_manifest_names_are_refused(tmp_path):
    folder = samples(tmp_path / "s")
    members = dict(images.read_tar(folder / images.TAR))
    images.write_tar(folder / images.TAR, list(members.items())[:-2])
    with Images(folder) as found, pytest.raises(UserError, match=r"lacks 2 of the 10 pictures .* such as b/3\.png"):
        looking.look(found, {})
    images.write_tar(folder / images.TAR, [*members.items(), ("b/9.png", members["b/1.png"])])
    with Images(folder) as found, pytest.raises(UserError, match=r"holds 1 beside the 10 pictures .* such as b/9\.png"):
        looking.look(found, {})
    images.write_tar(folder / images.TAR, [(name, members["a/0.png"]) for name in members])
    with Images(folder) as found, pytest.raises(UserError, match=r"a/1\.png differs from its sha256"):
        looking.look(found, {})


def test_pictures_of_two_sizes_are_refused_and_both_named(tmp_path):
    odd = {("b", 2): np.zeros((8, 9, 3), np.uint8)}
    message = r"a/0\.png has 8 x 8 pixels, b/2\.png 9 x 8; .* one size"
    with Images(samples(tmp_path / "s", pixels=odd)) as found, pytest.raises(UserError, match=message):
        looking.look(found, {"all": Look(mean_colour)})


def test_a_network_that_gives_nan_is_refused_with_the_pictures_name(tmp_path):
    black = {("b", 2): np.zeros((8, 8, 3), np.uint8)}

    def direction(batch):
        found = mean_colour(batch)
        return found / found.norm(dim=1, keepdim=True)

    message = r"images\.tar: b/2\.png: network direction gives NaN or infinity for it"
    with Images(samples(tmp_path / "s", pixels=black)) as found, pytest.raises(UserError, match=message):
        looking.look(found, {"direction": Look(direction)})


def save(folder, **pictures):
    folder.mkdir(parents=True)
    lines = []
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.png")
        lines.append(f'{{"file_name": "{name}.png", "text": ""}}')
    write_text(folder / "metadata.jsonl", "\n".join(lines) + "\n")
    return folder


def test_grey_palette_and_opaque_alpha_become_rgb_and_are_counted(tmp_path):
    grey = Image.fromarray(np.full((6, 5), 200, np.uint8))
    colour = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8))
    modes = {"a": grey, "b": grey.convert("RGBA"), "c": colour, "d": grey.convert("P"), "e": grey.convert("LA")}
    found = looking.real(save(tmp_path / "real", **modes), ("mean",), mean_colour, tmp_path / "cache")
    assert found.converted == {"L": 1, "RGBA": 1, "P": 1, "LA": 1}
    np.testing.assert_allclose(found.features[[0, 1, 3, 4]], 200)
    again = looking.real(tmp_path / "real", ("mean",), None, tmp_path / "cache")  # the network is not asked
    assert again.converted == found.converted and again.sha256 == found.sha256
    np.testing.assert_array_equal(again.features, found.features)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("RGBA", r"line 2: odd\.png: has transparent parts; put it on a background"),
        ("LA", r"odd\.png: has transparent parts"),
        ("I;16", r"odd\.png: has mode I;16, more than eight bits a channel; save it as 8-bit RGB"),
    ],
)
def test_what_rgb_would_lose_is_refused(tmp_path, mode, message):
    plain = Image.new("RGB", (6, 6), "red")
    if mode == "I;16":
        odd = Image.fromarray(np.full((6, 6), 40000, np.uint16))
    else:
        odd = plain.convert(mode)
        odd.putalpha(Image.fromarray(np.tile(np.arange(6, dtype=np.uint8) * 40, (6, 1))))
    with pytest.raises(UserError, match=message):
        looking.real(save(tmp_path / "real", plain=plain, odd=odd), ("mean",), mean_colour, None)


def test_a_broken_reference_picture_is_named(tmp_path):
    folder = save(tmp_path / "real", one=Image.new("RGB", (6, 6)))
    (folder / "one.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"line 1: one\.png: not a readable picture"):
        looking.real(folder, ("mean",), mean_colour, None)


def test_nan_features_of_real_pictures_name_the_file_and_leave_no_cache(tmp_path):
    folder = save(tmp_path / "real", one=Image.new("RGB", (6, 6), "red"), two=Image.new("RGB", (6, 6)))

    def logarithm(batch):
        return mean_colour(batch).sum(1, keepdim=True).log()

    with pytest.raises(UserError, match=r"line 2: two\.png: network log gives NaN or infinity"):
        looking.real(folder, ("log",), logarithm, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_other_pictures_or_another_network_are_another_entry(tmp_path):
    folder = save(tmp_path / "real", one=Image.new("RGB", (6, 6), "red"))
    for key in (("mean", "w1", "p1"), ("mean", "w2", "p1"), ("mean", "w1", "p2")):
        looking.real(folder, key, mean_colour, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 3
    assert not list((tmp_path / "cache").glob("*.part-*"))


def test_another_models_samples_are_read_like_real_pictures(tmp_path):
    folder = samples(tmp_path / "s")
    found = looking.real(folder, ("mean",), mean_colour, None)
    with Images(folder) as own:
        np.testing.assert_allclose(found.features, mean_colour([own.picture(entry) for entry in own.entries]))
