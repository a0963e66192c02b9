"""What every stage does with an error: one line, an exit code, no traceback."""

import errno

import pytest

from lethe import cli
from lethe.errors import UserError


def ended(capsys, error: BaseException) -> tuple[int, str]:
    def main():
        raise error

    with pytest.raises(SystemExit) as caught:
        cli.run(main)
    return caught.value.code, capsys.readouterr().err


def test_a_users_mistake_is_one_line_and_code_2(capsys):
    assert ended(capsys, UserError("a.csv: no such\n  file")) == (2, "error: a.csv: no such file\n")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line_and_code_3(capsys, number):
    code, text = ended(capsys, OSError(number, "full", "out/latents.safetensors"))
    assert code == 3
    assert text == "error: no space left on the disk while writing out/latents.safetensors; free some, run again\n"


def test_any_other_error_keeps_its_traceback():
    def main():
        raise OSError(errno.EIO, "broken", "x")

    with pytest.raises(OSError, match="broken"):
        cli.run(main)
