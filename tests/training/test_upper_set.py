"""A released upper set becomes imagefolders, one a style, that the reader of pictures takes."""

import io

import pytest
from PIL import Image

from lethe.files.errors import UserError
from lethe.training import pictures, upper_set


def picture(kind: str, colour: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(out, kind)
    return out.getvalue()


ROWS = [
    {
        "image": {"bytes": picture("PNG", "red"), "path": "a.png"},
        "caption": " a boat\nby Claude Monet",
        "style": "Claude Monet",
    },
    {"image": {"bytes": picture("JPEG", "blue"), "path": None}, "caption": "stars", "style": "Van Gogh"},
    {"image": {"bytes": picture("WEBP", "green"), "path": None}, "caption": "a pond", "style": "Claude Monet"},
]


def test_each_style_is_a_folder_with_the_bytes_as_they_were(tmp_path):
    upper_set.write(upper_set.by_style(ROWS, None), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["claude_monet", "van_gogh"]
    found = pictures.read(tmp_path / "claude_monet")
    assert found.captions == ["a boat by Claude Monet", "a pond"]
    assert [found.read(row) for row in range(2)] == [ROWS[0]["image"]["bytes"], ROWS[2]["image"]["bytes"]]
    assert [path.suffix for path in sorted((tmp_path / "claude_monet").glob("0*"))] == [".png", ".webp"]


def test_a_set_without_styles_is_one_folder(tmp_path):
    plain = [{key: row[key] for key in ("image", "caption")} for row in ROWS]
    upper_set.write(upper_set.by_style(plain, "nudity"), tmp_path)
    assert len(pictures.read(tmp_path / "nudity")) == 3
    with pytest.raises(UserError, match="nudity: is there already"):
        upper_set.write(upper_set.by_style(plain, "nudity"), tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"style": None}, "row 0: style None is no text; --name NAME puts all rows"),
        ({"caption": " "}, "row 0: caption ' ' is no text"),
        ({"image": {"bytes": None, "path": "a.png"}}, "row 0: its image has no bytes"),
        ({"image": {"bytes": b"\x89PNG broken"}}, "row 0: "),
    ],
)
def test_a_row_that_lacks_something_is_named(change, words):
    with pytest.raises(UserError) as found:
        upper_set.by_style([ROWS[0] | change], None)
    assert words in str(found.value) and "\n" not in str(found.value)


def test_a_folder_without_parquet_is_told(tmp_path):
    with pytest.raises(UserError, match=r"no \*\.parquet there or below"):
        list(upper_set.rows(tmp_path))


def test_parquet_is_read_as_it_is_or_told_what_it_needs(tmp_path):
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        (tmp_path / "train.parquet").write_bytes(b"PAR1")
        with pytest.raises(UserError, match="read with pyarrow, which is not there: pip install pyarrow"):
            list(upper_set.rows(tmp_path))
        return
    (tmp_path / "data").mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "data/train-0.parquet")
    assert list(upper_set.rows(tmp_path)) == ROWS
    (tmp_path / "data/train-1.parquet").write_bytes(b"PAR1 half of a file")
    with pytest.raises(UserError, match=r"train-1\.parquet: no parquet file"):
        list(upper_set.rows(tmp_path))
