"""Where the base can be had is told with the command; another file under its name is refused before the first job."""

import re

import pytest

from lethe.experiment import mirrors, plan
from lethe.files.errors import UserError
from lethe.files.io import sha256

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_what_is_not_there_is_told_with_the_command_that_fetches_it(params):
    params["base"] |= {
        "path": "models/paper/sd",
        "mirrors": [{"id": "first/sd", "revision": COMMIT}, {"id": "second/sd"}],
    }
    with pytest.raises(UserError, match=r"base\.path: models/paper/sd: no such folder; fetch it: hf download first/sd"):
        plan.build(params)
    first, second = mirrors.commands(params["base"])
    assert f"--revision {COMMIT} --local-dir models/paper/sd" in first and "'unet/*'" in first
    assert "second/sd --local-dir" in second and "--revision" not in second


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ({"mirrors": [{"id": "sd"}]}, "base.mirrors.0.id: the value 'sd' is not made of OWNER/NAME"),
        ({"mirrors": [{"id": "a/b", "revision": "main"}]}, "is not made of the 40 hex digits of a commit"),
        ({"sha256": {"unet/x": "12"}}, "is not made of 64 hex digits"),
    ],
)
def test_what_is_no_mirror_is_refused(params, base, words):
    params["base"] |= base
    with pytest.raises(UserError, match=re.escape(words)):
        plan.build(params)


def test_files_that_are_named_are_held_against_their_hashes(params, root):
    before = plan.build(params).nodes.keys()
    name = "unet/config.json"
    own = sha256(root / params["base"]["path"] / name)
    params["base"]["sha256"] = {name: own}
    assert plan.build(params).nodes.keys() == before  # what is only checked moves no result
    params["base"]["mirrors"] = [{"id": "first/sd"}]
    assert plan.build(params).nodes.keys() == before
    params["base"]["sha256"] = {name: "0" * 64}
    with pytest.raises(UserError, match=rf"{name}: its sha256 begins {own[:12]}, the params file has 000000000000"):
        plan.build(params)
    params["base"]["sha256"] = {"unet/other.safetensors": own}
    with pytest.raises(UserError, match=r"other\.safetensors: no such file; fetch it again"):
        plan.build(params)
