"""What every stage does with an error: one line, an exit code, no traceback."""

import errno
import importlib
from pathlib import Path

import pytest

from lethe.files import io
from lethe.files.errors import UserError
from lethe.params import options, registry, rules
from lethe.stage import cli


def ended(capsys, error: BaseException) -> tuple[int, str]:
    def main():
        raise error

    with pytest.raises(SystemExit) as caught:
        cli.run(main)
    return caught.value.code, capsys.readouterr().err


def test_a_users_mistake_is_one_line_and_code_2(capsys):
    assert ended(capsys, UserError("a.csv: no such\n  file")) == (2, "error: a.csv: no such file\n")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left on the disk; free some"),
        (errno.EROFS, "the file system is mounted read-only; mount it for writing"),
        (errno.EACCES, "no permission; change its owner or mode"),
        (errno.ELOOP, "its symbolic links lead in a circle"),
    ],
)
def test_a_disk_that_does_not_take_it_is_one_line_and_code_3(capsys, number, words):
    code, text = ended(capsys, OSError(number, "full", "out/latents.safetensors"))
    assert code == 3
    assert text.startswith(f"error: out/latents.safetensors: cannot be written: {words}") and text.count("\n") == 1


def test_any_other_error_keeps_its_traceback():
    def main():
        raise OSError(errno.EDOM, "broken", "x")

    with pytest.raises(OSError, match="broken"):
        cli.run(main)


def test_two_commands_with_one_out_take_turns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    held = []
    monkeypatch.setattr("sys.argv", ["stage", "--out", "results/x", "--threads", "1"])
    cli.run(lambda: held.extend((tmp_path / "state/locks").iterdir()))
    assert len(held) == 1 and not held[0].exists()
    for words in (["--out", "x", "--dry-run"], ["--help"], ["--out"], []):
        monkeypatch.setattr("sys.argv", ["stage", *words])
        cli.run(lambda: held.extend((tmp_path / "state/locks").iterdir()))
    assert len(held) == 1


DEFAULT = options.load(Path(__file__).resolve().parents[2] / "params.yaml")
PENALTY = {"solver": "penalty", "lambda": 2.0, "inner_steps": 3, "coupling": "none", "pull": 0.5, "lambda_growth": 1.0}
PENALTY |= {"lambda_most": 10.0, "gap_tolerance": 0.0, "second_copy": "device"}
SECTIONS = [
    ("prune", DEFAULT["prune"], [("pruners", "magnitude")]),
    ("distill", DEFAULT["distill"] | {"clip_norm": 1.0}, []),
    ("distill", DEFAULT["distill"], []),
    ("bilevel", DEFAULT["bilevel"], [("solvers", "alternate"), ("suppressions", "negative_guidance")]),
    (
        "bilevel",
        {key: value for key, value in DEFAULT["bilevel"].items() if key != "upper_every"} | PENALTY,
        [("solvers", "penalty"), ("suppressions", "negative_guidance")],
    ),
    ("sample", DEFAULT["sample"], []),
    ("score", DEFAULT["score"], []),
    *((f"erase_{name}", own, [("erasers", name)]) for name, own in DEFAULT["erase"].items()),
]


@pytest.mark.parametrize(("section", "values", "plugins"), SECTIONS, ids=lambda value: str(value)[:24])
def test_a_sections_values_survive_the_command_line(section, values, plugins):
    made = cli.parser("stage", "doc")
    cli.add_section(made, section, *plugins)
    args = made.parse_args(["--out", "x", *cli.flags(values)])
    assert cli.section_values(args, section, *plugins) == values


@pytest.mark.parametrize(
    ("stage", "flag", "package"),
    [
        ("erase", "--eraser", "erasers"),
        ("prune", "--pruner", "pruners"),
        ("bilevel", "--solver", "solvers"),
        ("bilevel", "--suppression", "suppressions"),
    ],
)
def test_every_plug_in_has_its_flags_and_none_twice(stage, flag, package, monkeypatch, capsys):
    for name in registry.names(package):
        monkeypatch.setattr("sys.argv", [stage, flag, name, "--help"])
        with pytest.raises(SystemExit) as ended:
            importlib.import_module(f"stages.{stage}").main()
        shown = capsys.readouterr().out
        assert ended.value.code == 0
        assert all(cli.flag(key) in shown for key in rules.options_of(package, name)), name


@pytest.mark.parametrize("name", ["mps", "xpu", "xpu:0", "cuda:-1", "meta", "gpu", ""])
def test_a_device_that_is_none_of_ours_is_named(tmp_path, name):
    args = cli.parser("sample", "").parse_args(["--out", str(tmp_path / "out"), "--device", name])
    with pytest.raises(UserError, match=f"--device: '{name}' is not one of auto, cpu, cuda, cuda:N"):
        cli.device(args)


def test_a_gpu_that_is_not_there_is_named(tmp_path, monkeypatch):
    import torch

    args = cli.parser("sample", "").parse_args(["--out", str(tmp_path / "out"), "--device", "cuda:9"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device: 'cuda:9' is not available on this machine; use cpu"):
        cli.device(args)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="'cuda:9' is not there: this machine has 2 GPUs, from 0"):
        cli.device(args)


@pytest.mark.parametrize("words", [["--threads", "-1"], ["--seed", str(2**63)], ["--seed", "-1"]])
def test_numbers_that_torch_does_not_take_are_refused_by_the_command_line(words, capsys):
    made = cli.parser("distill", "")
    cli.add_training(made)
    with pytest.raises(SystemExit):
        made.parse_args(["--out", "x", *words])
    assert f"argument {words[0]}: must be" in capsys.readouterr().err


def test_a_name_that_is_too_long_is_told_before_any_work(tmp_path, capsys):
    for path in (tmp_path / ("x" * 250), tmp_path / ("x" * 250) / "out", tmp_path / ("ü" * 126)):
        with pytest.raises(OSError) as caught:
            io.check_place(path)
        assert caught.value.errno == errno.ENAMETOOLONG
    io.check_place(tmp_path / ("x" * 200))
    code, text = ended(capsys, OSError(errno.ENAMETOOLONG, "long", "x.csv"))
    assert (code, text.count("\n")) == (3, 1)
    assert text.startswith("error: x.csv: its name is too long for this file system; choose shorter names")


def test_a_params_file_that_was_given_is_not_called_missing(tmp_path):
    (tmp_path / "mine.yaml").write_text((Path(__file__).parents[2] / "params/own.yaml").read_text())
    made = cli.parser("erase", "")
    cli.add_section(made, "erase_uce", ("erasers", "uce"))
    args = made.parse_args(["--out", "x", "--params", str(tmp_path / "mine.yaml")])
    with pytest.raises(UserError, match=r"missing --preserve; give them, or add them to .*mine\.yaml"):
        cli.section_values(args, "erase_uce", ("erasers", "uce"))
