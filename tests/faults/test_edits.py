"""What was changed by hand, cut off, swapped or put there by somebody else is refused by name, or never opened."""

import importlib
import io as memory
import pickle
import re
import shutil
import tarfile
from pathlib import Path

import pytest
import torch

from lethe.files import images, tensors
from lethe.files.errors import UserError
from lethe.files.io import checked, read_json, sha256, write_json
from lethe.files.tiles import Tiles
from lethe.models.unets import load_unet
from lethe.stage import cli
from lethe.training.data import Encoded
from tests import tiny_judges
from tests.faults.commands import files, traces

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def ends(monkeypatch, capsys, tmp_path):
    """Runs a stage as its command line does; returns the exit code and the one line on stderr."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, words: list) -> tuple[int, str]:
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", [name, *map(str, words)])
        try:
            cli.run(importlib.import_module(f"stages.{name}").main)
            code = 0
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr().err
        assert "Traceback" not in said
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        with capsys.disabled():
            print("\n" + "\n".join(lines))
        return code, "".join(lines)

    return run


class Ran:
    """Unpickled, it leaves a trace."""

    def __reduce__(self):
        return Path.write_text, (Path("opened"), "yes")


def flipped(path: Path) -> None:
    """One bit of the file changes, its size does not."""
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def cut(path: Path, count: int = 100) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weights": Ran()}))


CHANGED = "sha256 is not the one in meta.json: changed or damaged; delete the folder and run again"


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (flipped, f"{WEIGHTS}: {CHANGED}"),
        (cut, f"{WEIGHTS}: .* bytes, but its header says .*: truncated or damaged; fetch or make it again"),
        (pickled, f"{WEIGHTS}: not a whole safetensors file .*; fetch or make it again"),
        (Path.unlink, f"{WEIGHTS}: no such file|{WEIGHTS}: missing, though meta.json lists it"),
    ],
)
def test_weights_that_are_not_what_they_were(ready, tmp_path, ends, commands, harm, message):
    mine = shutil.copytree(ready.pruned, tmp_path / "pruned")
    harm(mine / WEIGHTS)
    with pytest.raises(UserError, match=message):
        load_unet(mine)
    for name in ("distill", "sample"):
        words = [mine if word == str(ready.pruned) else word for word in commands[name].at(tmp_path)]
        code, line = ends(name, words)
        assert code == 2 and str(mine) in line
    assert not (tmp_path / "results/out").exists() and not Path("opened").exists()


@pytest.mark.parametrize("name", ["config.json", "pruning.json"])
def test_a_number_changed_by_hand_beside_the_weights(ready, tmp_path, name):
    mine = shutil.copytree(ready.pruned, tmp_path / "pruned")
    write_json(mine / "unet" / name, read_json(mine / "unet" / name) | {"note": 1})
    with pytest.raises(UserError, match=f"unet/{name}: {CHANGED}"):
        load_unet(mine)


@pytest.mark.parametrize(
    "name", ["diffusion_pytorch_model.bin", "diffusion_pytorch_model.safetensors.index.json", "pytorch_model.bin"]
)
def test_weights_that_somebody_put_beside_are_not_opened(ready, tmp_path, ends, name):
    mine, base = shutil.copytree(ready.pruned, tmp_path / "pruned"), shutil.copytree(ready.base, tmp_path / "base")
    pickled(mine / "unet" / name)
    with pytest.raises(UserError, match=f"unet/{name}: meta.json does not list it: not of this result; delete it"):
        load_unet(mine)
    if name.endswith(".bin"):  # a base model may well bring them
        pickled(base / "unet" / name)
        pickled(base / "text_encoder/pytorch_model.bin")
        assert ends("prune", ["--base", base, "--budget", 0.8, "--out", "x", *PRUNE])[0] == 0
        (base / "unet/diffusion_pytorch_model.safetensors").unlink()
        code, line = ends("prune", ["--base", base, "--budget", 0.8, "--out", "y", *PRUNE])
        assert code == 2 and "no such weight file (weights must be safetensors)" in line
    assert not Path("opened").exists()


PRUNE = ["--pruner", "random_init", "--keep-least", "0.2", "--tolerance", "0.1", "--draw", "0"]


@pytest.mark.parametrize("name", ["latents.safetensors", "captions.safetensors", "index.json"])
def test_encoded_pictures_that_are_not_what_they_were(ready, tmp_path, ends, commands, name):
    mine = shutil.copytree(ready.data, tmp_path / "data")
    if name == "index.json":
        write_json(mine / name, read_json(mine / name) | {"caption": [0] * 12})
    else:
        flipped(mine / name)
    with pytest.raises(UserError, match=f"{name}: {CHANGED}"):
        Encoded.load(mine, torch.device("cpu"))
    words = [mine if word == str(ready.data) else word for word in commands["distill"].at(tmp_path)]
    code, line = ends("distill", words)
    assert code == 2 and f"{mine / name}: {CHANGED}" in line
    (mine / "meta.json").unlink()
    assert ends("distill", words)[1].endswith("no finished result there (no meta.json); run the stage that makes it")


def drawn(folder: Path) -> Path:
    """A samples folder whose meta.json tells of its files."""
    tiny_judges.write_samples(folder, 1)
    told = {name: sha256(folder / name) for name in (images.TAR, images.MANIFEST)}
    write_json(folder / "meta.json", {"recipe": "samples000", "files": told})
    return folder


def other_tar(path: Path, name: str, link: str | None = None) -> None:
    """The archive again, its second member called `name`, or a link to a name."""
    members = list(images.read_tar(path))
    with tarfile.open(path, "w") as tar:
        for number, (own, content) in enumerate(members):
            info = tarfile.TarInfo(name if number == 1 else own)
            if number == 1 and link:
                info.type, info.linkname = tarfile.SYMTYPE, link
                content = b""
            info.size = len(content)
            tar.addfile(info, memory.BytesIO(content))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: other_tar(folder / images.TAR, "../../evil.png"), r"\.\./\.\./evil\.png leads out of it"),
        (lambda folder: other_tar(folder / images.TAR, "/etc/evil.png"), r"/etc/evil\.png leads out of it"),
        (lambda folder: other_tar(folder / images.TAR, "monet/1.png", "/etc/passwd"), r"monet/1\.png is no plain file"),
        (lambda folder: other_tar(folder / images.TAR, "monet/x.png"), r"monet/1\.png|lacks 1 of the 22 pictures"),
        (lambda folder: cut(folder / images.TAR, 20000), r"not a readable tar \(unexpected end of data\)"),
        (lambda folder: pickled(folder / images.TAR), "not a readable tar"),
        (lambda folder: retold(folder), rf"manifest\.csv: {CHANGED}"),
    ],
    ids=["above", "absolute", "link", "renamed", "cut", "pickle", "manifest"],
)
def test_pictures_that_are_not_what_they_were(tmp_path, ends, commands, harm, message):
    words = commands["score"].at(tmp_path)
    mine = drawn(tmp_path / "samples")
    harm(mine)
    words = [mine if before == "--samples" else word for before, word in zip(["", *words], words, strict=False)]
    before = traces(tmp_path)
    code, line = ends("score", words)
    assert code == 2 and str(mine) in line
    assert re.search(message, line), line
    after = traces(tmp_path)
    assert {name for name in after if not name.startswith(("state", "features"))} == before.keys()


def retold(folder: Path) -> None:
    path = folder / images.MANIFEST
    path.write_text(path.read_text().replace("a boat 0 by monet", "a boat 0 by munch"))


def test_scores_that_are_not_what_they_were(tmp_path, ends, commands):
    words = commands["score"].at(tmp_path)
    assert ends("score", words)[0] == 0
    first = (tmp_path / "results/out").rename(tmp_path / "results/distill")
    again = [*words, "--reference", first]
    path = first / "scores.csv"
    path.write_text(path.read_text().replace("monet", "munch", 1))
    code, line = ends("score", again)
    assert code == 2 and f"{path}: {CHANGED}" in line
    assert not (tmp_path / "results/out").exists()


def test_a_checkpoint_of_another_run_is_refused_and_stays(tmp_path, ends, commands, ready):
    own, other = commands["distill"].at(tmp_path), commands["distill"].at(tmp_path)
    own[own.index("--seed") + 1] = "1"
    state = tmp_path / "state"
    with pytest.MonkeyPatch.context() as here:
        here.setattr("lethe.training.loop.forget", lambda _: None)
        assert ends("distill", own)[0] == 0
    shutil.rmtree(tmp_path / "results")
    before = traces(state)
    code, line = ends("distill", other)
    assert code == 2 and "state of recipe" in line and "not of this run" in line and "delete it or give another" in line
    assert traces(state) == before


def test_damaged_tiles_are_drawn_again(tmp_path, nursery, commands):
    words = commands["sample"].at(tmp_path)
    code, said = nursery.run("sample", words)
    assert code == 0, said
    whole = files(tmp_path / "results/out")
    own = read_json(tmp_path / "results/out/meta.json")["recipe"]
    members = dict(images.read_tar(tmp_path / "results/out" / images.TAR))
    shutil.rmtree(tmp_path / "results")
    tiles = Tiles(tmp_path / "state", own)
    name, content = next(iter(members.items()))
    good, bad = tiles.save(0, [(name, content)]), tiles.save(1, [(name, content)])
    flipped(bad)
    assert set(tiles.found()) == {0} and good.is_file()
    code, said = nursery.run("sample", words)
    assert code == 0 and f"{bad}: is not what was saved; that tile is drawn again" in said
    assert files(tmp_path / "results/out") == whole and not (tmp_path / "state").exists()


def test_links_that_lead_in_a_circle(tmp_path, ends, ready, tiny_pictures):
    mine = shutil.copytree(tiny_pictures, tmp_path / "pictures")
    words = ["--base", ready.base, "--out", tmp_path / "out", "--flip", "false", "--generated", "4", "--pictures"]
    for name, to in (("circle", mine), ("loop.png", "loop.png")):  # listed or not: what they hold would count
        (mine / name).symlink_to(to)
        code, line = ends("encode", [*words, mine])
        assert code == 2 and f"{name}: broken link" in line
        (mine / name).unlink()
    assert ends("encode", [*words, mine])[0] == 0
    words[3] = tmp_path / "other"
    (tmp_path / "round").symlink_to("round")
    code, line = ends("encode", [*words, tmp_path / "round"])
    assert code == 2 and "round: broken link" in line
    words[3] = tmp_path / "round"
    code, line = ends("encode", [*words, tiny_pictures])
    assert code == 2 and "round: is no folder; it would be replaced: give another --out, or move it away" in line


@pytest.mark.parametrize("name", ["prune", "report"])
def test_a_folder_with_other_things_is_not_replaced(tmp_path, ends, commands, name):
    out = tmp_path / "results/out"
    (out / "mine").mkdir(parents=True)
    (out / "mine/thesis.tex").write_text("years of work")
    code, line = ends(name, commands[name].at(tmp_path))
    assert code == 2 and f"{out}: holds mine, which no stage makes; it would be replaced: give another --out" in line
    assert (out / "mine/thesis.tex").read_text() == "years of work"


def test_a_state_folder_with_other_things_keeps_them(tmp_path, ends, commands):
    state = tmp_path / "state"
    state.mkdir()
    (state / "notes.txt").write_text("mine")
    (state / "settings.json").write_text("[1]")
    for name in ("erase", "sample"):
        assert ends(name, commands[name].at(tmp_path))[0] == 0
        shutil.rmtree(tmp_path / "results")
        assert {path.name for path in state.iterdir()} <= {"notes.txt", "settings.json", "locks", "hashes"}
        assert (state / "notes.txt").read_text() == "mine"


def test_what_meta_tells_of_is_checked_file_by_file(tmp_path):
    tensors.save(tmp_path / "unet/a.safetensors", {"x": torch.zeros(3)})
    (tmp_path / "log.csv").write_text("step\n")
    told = {name: sha256(tmp_path / name) for name in ("unet/a.safetensors", "log.csv")}
    write_json(tmp_path / "meta.json", {"recipe": "r", "files": told})
    assert checked(tmp_path, "unet/") == ["unet/a.safetensors"]
    assert checked(tmp_path, "log.csv") == ["log.csv"] and checked(tmp_path, "guidance.json") == []
    (tmp_path / "unet/.nfs0001").write_text("the file system's own")
    assert checked(tmp_path, "unet/") == ["unet/a.safetensors"]
    (tmp_path / "guidance.json").write_text("{}")
    with pytest.raises(UserError, match=r"guidance\.json: meta\.json does not list it"):
        checked(tmp_path, "guidance.json")
