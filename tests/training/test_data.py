import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from lethe.files import images, tensors
from lethe.files.errors import UserError
from lethe.models import pipelines
from lethe.training import data, pictures

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tiny_base):
    return pipelines.load_base(str(tiny_base), None, ["vae", "tokenizer", "text_encoder", "unet"])


@pytest.fixture(scope="module")
def encoded(base, tiny_pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoded")
    data.encode(pictures.read(tiny_pictures), base, folder, 32, True, CPU)
    return folder


def test_fit_resizes_the_short_side_and_cuts_the_middle():
    picture = Image.new("RGB", (80, 40), (0, 0, 0))
    picture.paste((255, 255, 255), (20, 0, 60, 40))
    found = data.fit(picture, 16)
    assert found.shape == (3, 16, 16)
    assert found[:, :, 2:-2].min() > 0.99
    assert data.fit(picture, 40).unique().tolist() == [1.0]
    assert data.fit(picture, 80).shape == (3, 80, 80)


def test_latents_are_the_posterior_in_the_unets_units(encoded, base, tiny_pictures):
    found = tensors.load(encoded / "latents.safetensors")
    assert found["mean"].shape == found["std"].shape == (24, 4, 8, 8)
    with Image.open(tiny_pictures / "03.png") as picture:
        pixels = data.fit(picture.convert("RGB"), 32)[None]
    factor = base.vae.config.scaling_factor
    for row, own in ((3, pixels), (15, pixels.flip(-1))):  # flipped copies follow after all twelve
        posterior = base.vae.encode(own).latent_dist
        torch.testing.assert_close(found["mean"][row], posterior.mean[0] * factor, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found["std"][row], posterior.std[0] * factor, atol=1e-5, rtol=1e-4)


def test_each_caption_is_encoded_once(encoded, base):
    found, index = tensors.load(encoded / "captions.safetensors"), data.read_json(encoded / "index.json")
    assert len(set(index["captions"])) == len(index["captions"]) == len(found["embeddings"]) == 12
    assert found["embeddings"].dtype == torch.float16
    row = index["captions"].index("a house by monet")
    wanted = pipelines.encode_prompts(base.tokenizer, base.text_encoder, ["a house by monet"])[0]
    torch.testing.assert_close(found["embeddings"][row].float(), wanted, atol=2e-3, rtol=2e-3)
    wanted = pipelines.encode_prompts(base.tokenizer, base.text_encoder, [""])
    torch.testing.assert_close(found["empty"].float(), wanted, atol=2e-3, rtol=2e-3)


@pytest.fixture(scope="module")
def anchored(base, tiny_pictures, tmp_path_factory):
    """The same, with anchors: "a thing by style" without style; but the anchor of row 2 is another's caption."""
    folder, found = tmp_path_factory.mktemp("anchored"), pictures.read(tiny_pictures)
    anchors = [text.partition(" by ")[0] for text in found.captions]
    data.encode(found, base, folder, 32, True, CPU, [*anchors[:2], found.captions[0], *anchors[3:]])
    return folder


def test_anchors_are_encoded_once_beside_the_captions(encoded, anchored, base):
    found, index = tensors.load(anchored / "captions.safetensors"), data.read_json(anchored / "index.json")
    plain = tensors.load(encoded / "captions.safetensors")
    assert index["captions"][12:] == ["a boat", "a house", "a sun", "a tree"]
    assert torch.equal(found["embeddings"][:12], plain["embeddings"])  # bit for bit those without anchors
    assert len(found["embeddings"]) == len(index["captions"])
    assert [index["captions"][i] for i in index["anchor"][:3]] == ["a boat", "a house", "a boat by van gogh"]
    wanted = pipelines.encode_prompts(base.tokenizer, base.text_encoder, ["a house"])[0]
    torch.testing.assert_close(found["embeddings"][index["anchor"][1]].float(), wanted, atol=2e-3, rtol=2e-3)
    # start, a, h, o, u, s, e, then by monet: a letter a token; end
    assert found["mask"].dtype == torch.uint8
    assert found["mask"][1].tolist() == [0] * 7 + [1] * 7 + [0] * 2
    assert found["end"][1] == 14


def test_anchors_change_no_draw_and_go_with_their_rows(encoded, anchored):
    plain, found = (data.Encoded.load(folder, CPU) for folder in (encoded, anchored))
    one, two = (source.batch(data.generator(0, "upper", 3), 40) for source in (plain, found))
    assert torch.equal(one.latents, two.latents) and torch.equal(one.text, two.text)
    assert one.anchor is one.mask is one.end is None
    rows = found.rows(data.generator(0, "upper", 3), 40)
    assert rows.max() >= 12  # flipped copies among them
    assert torch.equal(two.text, found.embeddings[found.caption[rows]].float())
    index = data.read_json(anchored / "index.json")
    for k, row in enumerate(rows.tolist()):
        assert torch.equal(two.anchor[k], found.embeddings[index["anchor"][row % 12]].float())
        assert torch.equal(two.mask[k], found.mask[row % 12].float()) and two.end[k] == found.end[row % 12]
    assert two.mask.dtype == torch.float32


def test_a_dropped_caption_has_no_concept(anchored):
    found = data.Encoded.load(anchored, CPU)
    half = found.batch(data.generator(0, "lower", 0), 64, 0.5)
    gone = (half.text == found.empty).flatten(1).all(1)
    assert 16 < gone.sum() < 48
    assert torch.equal((half.anchor == found.empty).flatten(1).all(1), gone)
    assert torch.equal(half.mask.sum(1) == 0, gone) and torch.equal(half.end == 1, gone)


def test_an_anchor_file_that_is_not_whole(anchored, tmp_path):
    folder = shutil.copytree(anchored, tmp_path / "encoded")
    found = tensors.load(folder / "captions.safetensors")
    tensors.save(folder / "captions.safetensors", {key: found[key] for key in ("embeddings", "empty", "mask")})
    with pytest.raises(UserError, match="do not belong together"):
        data.Encoded.load(folder, CPU)
    tensors.save(folder / "captions.safetensors", found | {"embeddings": found["embeddings"][:13]})
    with pytest.raises(UserError, match="do not belong together"):
        data.Encoded.load(folder, CPU)


def test_an_unreadable_picture_is_named(base, tiny_pictures, tmp_path):
    folder = shutil.copytree(tiny_pictures, tmp_path / "pictures")
    (folder / "07.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"line 8: 07\.png: not a readable picture"):
        data.encode(pictures.read(folder), base, tmp_path, 32, False, CPU)
    (folder / "07.png").write_bytes((folder / "06.png").read_bytes()[:400])
    with pytest.raises(UserError, match=r"line 8: 07\.png: not a readable picture"):
        data.encode(pictures.read(folder), base, tmp_path, 32, False, CPU)


def test_resolution_must_fit_the_vae(base, tiny_pictures, tmp_path):
    with pytest.raises(UserError, match="30 is not a multiple of 4"):
        data.encode(pictures.read(tiny_pictures), base, tmp_path, 30, False, CPU)


def test_a_batch_is_a_function_of_seed_stream_and_step(encoded):
    found = data.Encoded.load(encoded, CPU)
    first = found.batch(data.generator(0, "lower", 3), 5)
    again = found.batch(data.generator(0, "lower", 3), 5)
    assert all(torch.equal(a, b) for a, b in zip(first[:2], again[:2], strict=True))
    assert first[0].shape == (5, 4, 8, 8)
    assert first[1].shape == (5, 16, 16)
    for other in ((1, "lower", 3), (0, "upper", 3), (0, "lower", 4)):
        assert not torch.equal(first[0], found.batch(data.generator(*other), 5)[0])


def test_caption_dropout_puts_the_empty_caption_and_changes_nothing_else(encoded):
    found = data.Encoded.load(encoded, CPU)
    plain = found.batch(data.generator(0, "lower", 0), 64)
    half = found.batch(data.generator(0, "lower", 0), 64, 0.5)
    assert torch.equal(plain[0], half[0])
    empty = (half[1] == found.empty).flatten(1).all(1)
    assert 16 < empty.sum() < 48
    assert torch.equal(half[1][~empty], plain[1][~empty])
    assert (found.batch(data.generator(0, "lower", 0), 8, 1.0)[1] == found.empty).all()


def test_latents_are_drawn_from_the_posterior(encoded):
    found = data.Encoded.load(encoded, CPU)
    one = data.Encoded(found.mean[:1], found.std[:1], found.embeddings, found.empty, found.caption[:1], CPU)
    drawn = one.batch(data.generator(0, "lower", 0), 4000)[0]
    torch.testing.assert_close((drawn.mean(0) - one.mean[0]) / one.std[0], torch.zeros(4, 8, 8), atol=0.1, rtol=0)
    torch.testing.assert_close(drawn.std(0) / one.std[0], torch.ones(4, 8, 8), atol=0.1, rtol=0)


def test_files_that_do_not_belong_together(encoded, tmp_path):
    folder = shutil.copytree(encoded, tmp_path / "encoded")
    text = (folder / "index.json").read_text()
    (folder / "index.json").write_text(text.replace('"flip": true', '"flip": false'))
    with pytest.raises(UserError, match="do not belong together"):
        data.Encoded.load(folder, CPU)
    shutil.copytree(encoded, folder, dirs_exist_ok=True)
    whole = (folder / "latents.safetensors").read_bytes()
    (folder / "latents.safetensors").write_bytes(whole[:-4])
    with pytest.raises(UserError, match=r"latents\.safetensors: not a whole safetensors file"):
        data.Encoded.load(folder, CPU)


def test_latents_of_another_base_are_refused(encoded, base, other_base):
    found = data.Encoded.load(encoded, CPU)
    found.check(base.unet, "here", found)
    other = pipelines.load_base(str(other_base), None, ["unet"]).unet
    with pytest.raises(UserError, match="captions are 16 wide, the U-Net takes 24"):
        found.check(other, "here", found)
    small = data.Encoded(found.mean[:, :, :4], found.std[:, :, :4], found.embeddings, found.empty, found.caption, CPU)
    with pytest.raises(UserError, match=r"latents \[4, 4, 8\]"):
        small.check(base.unet, "here", found)


@pytest.mark.parametrize(("total", "parts"), [(32, 3), (2, 5), (6, 3), (7, 1)])
def test_shares_are_equal_and_the_remainder_goes_round(total, parts):
    steps = [data.shares(total, parts, step) for step in range(parts)]
    assert all(sum(step) == total and max(step) - min(step) <= 1 for step in steps)
    assert [sum(column) for column in zip(*steps, strict=True)] == [total] * parts


def test_of_a_strip_only_what_stays_is_computed(monkeypatch):
    """Its middle is that of the whole strip resized, but for rounding."""
    colours = torch.randint(0, 256, (2, 6000, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    strip = Image.fromarray(colours.numpy())
    whole = strip.resize((192_000, 64), Image.Resampling.BICUBIC).crop((95_968, 0, 96_032, 64))
    asked = []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *a, **k: asked.append(size) or resize(self, size, *a, **k)
    )
    found = data.fit(strip, 64)
    assert asked == [(64, 64)]
    wanted = torch.from_numpy(np.asarray(whole, dtype=np.float32)).permute(2, 0, 1)
    torch.testing.assert_close((found + 1) * 127.5, wanted, atol=1.01, rtol=0)


def test_latents_that_are_not_finite_name_their_picture(tiny_base, tiny_pictures, tmp_path):
    own = pipelines.load_base(str(tiny_base), None, ["vae", "tokenizer", "text_encoder"])
    own.vae.quant_conv.weight.data[0] = float("nan")
    with pytest.raises(UserError, match=r"metadata.jsonl line 1: 00.png: the base's vae gives NaN"):
        data.encode(pictures.read(tiny_pictures), own, tmp_path, 32, False, CPU)


def test_what_is_converted_and_what_is_cut_is_told(base, tmp_path):
    Image.new("L", (40, 40), 200).save(tmp_path / "grey.png")
    Image.new("RGB", (40, 40)).save(tmp_path / "plain.png")
    long = "a boat " * 30
    rows = [{"file_name": "grey.png", "text": long}, {"file_name": "plain.png", "text": "a house"}]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "out").mkdir()
    told = data.encode(pictures.read(tmp_path), base, tmp_path / "out", 32, False, CPU)
    assert told == {"converted": {"L": 1}, "cut": [long]}
    assert pipelines.cut_line(told["cut"]).startswith("1 texts are longer than the text encoder reads")


@pytest.mark.parametrize(
    ("save", "told"),
    [
        (lambda path: Image.new("I;16", (40, 40), 60_000).save(path), "mode I;16, more than eight bits"),
        (lambda path: Image.new("RGBA", (40, 40), (255, 0, 0, 0)).save(path), "transparent parts"),
        (
            lambda path: Image.new("RGB", (40, 40)).save(
                path, save_all=True, append_images=[Image.new("RGB", (40, 40), "red")]
            ),
            "has 2 frames",
        ),
        (lambda path: path.write_bytes(png(64)[:-400]), "not a readable picture"),
    ],
)
def test_pictures_that_would_lose_something_are_refused_with_their_row(base, tmp_path, save, told):
    save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a house"}\n')
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=rf"metadata.jsonl line 1: a.png: .*{told}"):
        data.encode(pictures.read(tmp_path), base, tmp_path / "out", 32, False, CPU)


def png(side: int) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return images.png(noise)
