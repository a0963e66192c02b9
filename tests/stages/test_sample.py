import copy
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lethe.files import io, tensors
from lethe.files.errors import UserError
from lethe.files.images import Images, read_tar
from lethe.files.tiles import Tiles
from lethe.models import precision
from lethe.models.cutting import cut
from lethe.models.pipelines import load_base
from lethe.models.unets import save_unet
from lethe.stage.record import Recorder
from stages import sample

HEADER = "case_number,prompt,evaluation_seed,artist\n"
VALUES = {"sampler": "ddim", "steps": 2, "guidance": 4.0, "tile": 4, "precision": "float32"}
SLD = {"eraser": "sld", "text": "by monet", "preset": "max"}


@pytest.fixture
def prompts(tmp_path) -> dict[str, Path]:
    texts = {
        "monet": "7,a boat by monet,5,monet\n3,a house by monet,6,monet\n",
        "eval": "7,sun,5,\n1,a boat,9,\n2,tree,2,\n",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.csv").write_text(HEADER + text)
    return {name: tmp_path / f"{name}.csv" for name in texts}


def words(base, out, *more, **changes) -> list[str]:
    values = [word for key, value in (VALUES | changes).items() for word in (f"--{key}", str(value))]
    return [
        "--base",
        str(base),
        "--out",
        str(out),
        "--state",
        f"{out}-state",
        "--threads",
        "1",
        *values,
        *map(str, more),
    ]


def run(monkeypatch, *args) -> None:
    monkeypatch.setattr(sys, "argv", ["sample", *args])
    sample.main()


def named(prompts) -> list[str]:
    return ["--prompts", *(f"{name}={path}" for name, path in prompts.items())]


def test_all_sets_in_one_result(tiny_base, prompts, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    arguments = words(tiny_base, out, *named(prompts))
    run(monkeypatch, *arguments, "--dry-run")
    assert "would draw 5 pictures" in capsys.readouterr().out
    assert not out.exists()
    run(monkeypatch, *arguments)
    assert not Path(f"{out}-state").exists()
    with Images(out) as images:
        assert [(e.set, e.case_number, e.prompt, e.evaluation_seed, e.file) for e in images.entries] == [
            ("monet", 7, "a boat by monet", 5, "monet/7.png"),
            ("monet", 3, "a house by monet", 6, "monet/3.png"),
            ("eval", 7, "sun", 5, "eval/7.png"),
            ("eval", 1, "a boat", 9, "eval/1.png"),
            ("eval", 2, "tree", 2, "eval/2.png"),
        ]
        assert {images.picture(entry).size for entry in images.entries} == {(32, 32)}
    meta = io.read_meta(out)
    assert meta["options"] == VALUES | {"resolution": None}
    assert meta["budget"] == {"student_forward": 0, "student_backward": 0, "teacher_forward": 8 * 2 * 2}
    before = (out / "images.tar").stat().st_mtime_ns
    run(monkeypatch, *arguments)
    assert "finished" in capsys.readouterr().out
    assert (out / "images.tar").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="holds a result of recipe"):
        run(monkeypatch, *words(tiny_base, out, *named(prompts), steps=3))


def test_a_picture_is_the_same_in_another_run(tiny_base, prompts, tmp_path, monkeypatch):
    run(monkeypatch, *words(tiny_base, tmp_path / "all", *named(prompts)))
    run(monkeypatch, *words(tiny_base, tmp_path / "one", "--prompts", f"eval={prompts['eval']}"))
    every = dict(read_tar(tmp_path / "all" / "images.tar"))
    alone = dict(read_tar(tmp_path / "one" / "images.tar"))
    assert len(alone) == 3
    assert all(every[name] == content for name, content in alone.items())


def test_one_prompt_drawn_many_times(tiny_base, tmp_path, monkeypatch):
    run(monkeypatch, *words(tiny_base, tmp_path / "out", "--prompt", "a boat", "--count", 3, sampler="dpmsolver++"))
    with Images(tmp_path / "out") as images:
        assert [(e.set, e.prompt, e.evaluation_seed) for e in images.entries] == [
            ("generated", "a boat", seed) for seed in range(3)
        ]
        assert len({entry.sha256 for entry in images.entries}) == 3
    meta = io.read_meta(tmp_path / "out")
    assert meta["options"] == VALUES | {"resolution": None, "sampler": "dpmsolver++", "prompt": "a boat", "count": 3}


def test_a_pruned_model_draws(tiny_base, prompts, tmp_path, monkeypatch):
    unet, pruned = load_base(str(tiny_base), None, ["unet"]).unet, tmp_path / "pruned"
    name = "down_blocks.0.attentions.0.transformer_blocks.0.ff"
    layers = {name: {"kind": "ffn", "total": 64, "kept": list(range(32))}}
    cut(unet, layers)
    save_unet(unet, {"layers": layers}, pruned)
    Recorder("prune", 1, "pruned", {}, {}).write(pruned)
    run(monkeypatch, *words(tiny_base, tmp_path / "out", *named(prompts), "--model", pruned))
    meta = io.read_meta(tmp_path / "out")
    assert meta["parents"]["model"]["recipe"] == "pruned"
    assert meta["budget"]["student_forward"] == 32
    assert meta["budget"]["teacher_forward"] == 0


@pytest.fixture
def weights(tiny_base, tmp_path):
    """Makes a finished weights folder: the base's U-Net, and what an eraser may leave beside it."""

    def make(guidance: object = None, text_encoder=None) -> Path:
        folder = tmp_path / f"weights-{len(list(tmp_path.glob('weights-*')))}"
        save_unet(load_base(str(tiny_base), None, ["unet"]).unet, None, folder)
        if guidance is not None:
            io.write_json(folder / "guidance.json", guidance)
        if text_encoder is not None:
            tensors.save(folder / "text_encoder" / "model.safetensors", text_encoder.state_dict(), {"format": "pt"})
            io.write_text(folder / "text_encoder" / "config.json", text_encoder.config.to_json_string())
        Recorder("erase", 1, folder.name, {}, {}).write(folder)
        return folder

    return make


def pictures(tiny_base, out, monkeypatch, prompts, *more, **changes) -> dict[str, bytes]:
    run(monkeypatch, *words(tiny_base, out, *named(prompts), *more, **changes))
    return dict(read_tar(out / "images.tar"))


def test_an_eraser_acts_while_sampling(tiny_base, prompts, weights, tmp_path, monkeypatch):
    plain = pictures(tiny_base, tmp_path / "plain", monkeypatch, prompts, "--model", weights())
    assert plain == pictures(tiny_base, tmp_path / "base", monkeypatch, prompts)
    guided = pictures(tiny_base, tmp_path / "guided", monkeypatch, prompts, "--model", weights(SLD))
    assert guided.keys() == plain.keys()
    assert all(guided[name] != content for name, content in plain.items())
    forwards = [io.read_meta(tmp_path / name)["budget"]["student_forward"] for name in ("plain", "guided")]
    assert forwards == [8 * 2 * 2, 8 * 2 * 3]


def test_guidance_that_is_not_the_results_own_is_refused(tiny_base, weights, tmp_path, monkeypatch):
    damaged, missing, foreign = weights(SLD), weights(SLD), weights()
    io.write_json(damaged / "guidance.json", SLD | {"preset": "weak"})
    (missing / "guidance.json").unlink()
    io.write_json(foreign / "guidance.json", SLD)
    for folder, message in [
        (damaged, "sha256 is not the one in meta.json"),
        (missing, "missing, though meta.json lists it"),
        (foreign, "meta.json does not list it"),
        (weights({"eraser": "esd"}), "eraser 'esd' is not one that guides sampling: safree, sld"),
        (weights({}), "eraser None is not one that guides sampling"),
        (weights([]), "eraser None is not one that guides sampling"),
    ]:
        with pytest.raises(UserError) as error:
            run(monkeypatch, *words(tiny_base, tmp_path / "out", "--prompt", "a", "--count", 1, "--model", folder))
        assert f"{folder}/guidance.json: {message}" in str(error.value)
        assert not (tmp_path / "out").exists()


def test_sld_without_classifier_free_guidance_is_refused(tiny_base, weights, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"sample\.guidance: 1 is no classifier-free guidance"):
        run(
            monkeypatch,
            *words(tiny_base, tmp_path / "out", "--prompt", "a", "--count", 1, "--model", weights(SLD), guidance=1),
        )
    assert not (tmp_path / "out").exists()


def test_a_text_encoder_of_the_weights_takes_the_place_of_the_bases(tiny_base, prompts, weights, tmp_path, monkeypatch):
    own = load_base(str(tiny_base), None, ["text_encoder"]).text_encoder
    plain = pictures(tiny_base, tmp_path / "plain", monkeypatch, prompts)
    same = pictures(tiny_base, tmp_path / "same", monkeypatch, prompts, "--model", weights(text_encoder=own))
    assert same == plain
    edited = copy.deepcopy(own)
    for parameter in edited.parameters():
        parameter.mul_(-1.5)
    changed = pictures(tiny_base, tmp_path / "changed", monkeypatch, prompts, "--model", weights(text_encoder=edited))
    assert all(changed[name] != content for name, content in plain.items())


def test_a_text_encoder_that_is_not_the_results_own_is_refused(tiny_base, weights, tmp_path, monkeypatch):
    own = load_base(str(tiny_base), None, ["text_encoder"]).text_encoder
    damaged, short, missing, foreign = (weights(text_encoder=own) for _ in range(4))
    io.write_text(damaged / "text_encoder" / "config.json", "{}")
    (missing / "text_encoder" / "config.json").unlink()
    (foreign / "text_encoder" / "more.bin").write_bytes(b"x")
    file = short / "text_encoder" / "model.safetensors"
    state = dict(own.state_dict())
    state.pop(next(name for name in state if "final_layer_norm" in name))
    tensors.save(file, state, {"format": "pt"})
    (short / "meta.json").unlink()
    Recorder("erase", 1, "short", {}, {}).write(short)
    for folder, message in [
        (damaged, "config.json: sha256 is not the one in meta.json"),
        (missing, "config.json: missing, though meta.json lists it"),
        (foreign, "more.bin: meta.json does not list it"),
        (short, "its weights lack"),
    ]:
        with pytest.raises(UserError) as error:
            run(monkeypatch, *words(tiny_base, tmp_path / "out", "--prompt", "a", "--count", 1, "--model", folder))
        assert f"{folder}/text_encoder" in str(error.value)
        assert message in str(error.value)
        assert not (tmp_path / "out").exists()


def test_precision_is_part_of_the_recipe(tiny_base, prompts, tmp_path, monkeypatch):
    exact = pictures(tiny_base, tmp_path / "float32", monkeypatch, prompts)
    fast = pictures(tiny_base, tmp_path / "bfloat16", monkeypatch, prompts, precision="bfloat16")
    assert any(fast[name] != content for name, content in exact.items())
    metas = [io.read_meta(tmp_path / name) for name in ("float32", "bfloat16")]
    assert [meta["options"]["precision"] for meta in metas] == ["float32", "bfloat16"]
    assert metas[0]["recipe"] != metas[1]["recipe"]


def test_meta_tells_what_the_unet_takes_in_its_precision(tiny_base, prompts, tmp_path, monkeypatch):
    pictures(tiny_base, tmp_path / "int4", monkeypatch, prompts, precision="int4")
    meta, unet = io.read_meta(tmp_path / "int4"), load_base(str(tiny_base), None, ["unet"]).unet
    assert meta["unet"]["bytes"] == precision.stored(unet, "int4")
    assert set(meta["unet"]["latency_ms"]) == {"float32", "int4"}
    assert meta["peak_memory_mb"] > 0


def test_killed_and_run_again_gives_the_same_bytes(tiny_base, tmp_path, monkeypatch):
    rows = "".join(f"{i},a boat {i},{i},\n" for i in range(12))
    path = tmp_path / "many.csv"
    path.write_text(HEADER + rows)
    changes = {"steps": 12, "tile": 1}
    run(monkeypatch, *words(tiny_base, tmp_path / "whole", "--prompts", f"many={path}", **changes))

    out, state = tmp_path / "cut", tmp_path / "cut-state"
    arguments = words(tiny_base, out, "--prompts", f"many={path}", **changes)
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.sample", *arguments], cwd=Path(sample.__file__).parents[1]
    )
    deadline = time.monotonic() + 120
    while len(list(state.glob("*.tar"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {tile: tile.stat().st_mtime_ns for tile in state.glob("*.tar")}
    assert 2 <= len(kept) < 12
    assert not out.exists()

    drawn, save = [], Tiles.save
    monkeypatch.setattr(Tiles, "save", lambda own, start, members: (drawn.append(start), save(own, start, members))[1])
    run(monkeypatch, *arguments)
    assert sorted([*drawn, *(int(tile.name.split("-")[1]) for tile in kept)]) == list(range(12))
    for name in ("images.tar", "manifest.csv"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert io.read_meta(out)["budget"] == io.read_meta(tmp_path / "whole")["budget"]
    assert not state.exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--prompts", "monet=none.csv", "--count", "2"], "--count: counts pictures of --prompt"),
        (["--prompt", "a boat", "--count", "0"], "--count: 0 is not at least 1"),
        (["--prompt", "a boat", "--count", str(10**12)], "--count: 1000000000000 is not at least 1 and at most 100000"),
        (["--prompts", "monet"], "is not NAME=PATH"),
        (["--prompts", "../x=none.csv"], "letters, digits"),
        (["--prompts", "monet=none.csv"], "none.csv: no such prompt file"),
        (["--prompt", "a", "--count", "1", "--model", "none"], "no finished result"),
        (["--prompt", "a", "--count", "1", "--tile", "0"], "sample.tile"),
        (["--prompt", "a", "--count", "1", "--precision", "float64"], "'float64' is not one of float32, bfloat16"),
        (["--prompt", "a", "--count", "1", "--sampler", "euler"], "'euler' is not one of ddim, dpmsolver++"),
        (["--prompt", "a", "--count", "1", "--steps", "2000"], "2000 is more than the model's 1000"),
    ],
)
def test_a_mistake_leaves_nothing_behind(tiny_base, tmp_path, monkeypatch, more, message):
    out = tmp_path / "out"
    with pytest.raises(UserError) as error:
        run(monkeypatch, *words(tiny_base, out), *more)
    assert message in str(error.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_finished_stage_does_not_import_torch(tiny_base, prompts, tmp_path, monkeypatch):
    run(monkeypatch, *words(tiny_base, tmp_path / "out", *named(prompts)))
    code = "import sys; sys.argv[0] = 'sample'; from stages import sample; sample.main(); print('torch' in sys.modules)"
    arguments = words(tiny_base, tmp_path / "out", *named(prompts))
    root = Path(sample.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == "False"
    assert json.loads((tmp_path / "out" / "meta.json").read_text())["stage"] == "sample"


def test_rows_without_a_prompt_are_left_out_and_texts_that_are_cut_are_said_on_stderr(tiny_base, tmp_path, capsys):
    path = tmp_path / "many.csv"
    path.write_text(f"{HEADER}0,a boat,1,\n1,,2,\n2,{'long words ' * 9},3,\n")
    more = ["--prompts", f"many={path}", "--device", "cpu"]
    with pytest.raises(UserError, match=r"line 3, column prompt: empty"):
        sample.main(words(tiny_base, tmp_path / "out", *more))
    sample.main(words(tiny_base, tmp_path / "out", *more, "--skip-empty"))
    said, meta = capsys.readouterr().err, io.read_meta(tmp_path / "out")
    assert "rows without a prompt, left out: 1 of many\n" in said
    assert "1 texts are longer than the text encoder reads; their ends change nothing (such as 'long words" in said
    assert (meta["without_prompt"], meta["pictures"], len(meta["cut"])) == ({"many": 1}, 2, 1)
    with Images(tmp_path / "out") as images:
        assert [entry.case_number for entry in images.entries] == [0, 2]
