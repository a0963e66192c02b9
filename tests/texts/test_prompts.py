import pytest

from lethe.files.errors import UserError
from lethe.texts.prompts import left_out, read_prompts, repeated
from lethe.texts.rows import Prompt

HEADER = "case_number,prompt,evaluation_seed"


def written(tmp_path, text):
    path = tmp_path / "prompts.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_reads_the_fields_of_known_prompt_files(tmp_path):
    path = written(
        tmp_path,
        "\ufeff,case_number,prompt,evaluation_seed,artists,class,evaluation_guidance,file_name\r\n"
        '0,7,"Water Lilies, by Monet",2219,monet,pond,7.5,a.png\r\n1,8,Sunrise,0,,,7.5,\r\n',
    )
    assert read_prompts(path) == [
        Prompt(7, "Water Lilies, by Monet", 2219, "monet", "pond", "a.png"),
        Prompt(8, "Sunrise", 0),
    ]


def test_categories_are_names_with_commas_between_them(tmp_path):
    rows = read_prompts(written(tmp_path, HEADER + ',categories\n0,a,1,"hate, shocking,hate ,"\n1,b,2,\n'))
    assert [row.category for row in rows] == ["hate, shocking", None]
    assert read_prompts(written(tmp_path, HEADER + ",category\n0,a,1,implied\n"))[0].category == "implied"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty", HEADER]),
        ("\n", ["empty"]),
        (HEADER + "\n", ["no prompts"]),
        (
            "case_number,prompt,seed\n1,a,2\n",
            ["line 1", "missing column evaluation_seed", "found case_number, prompt, seed"],
        ),
        (HEADER + "\n1,a,2\n2,,3\n", ["line 3", "column prompt", "empty"]),
        (HEADER + "\n1,a,2.5\n", ["line 2", "column evaluation_seed", "'2.5'"]),
        (HEADER + "\n1,a\n", ["line 2", "column evaluation_seed", "no cell"]),
        (HEADER + "\n-1,a,2\n", ["line 2", "column case_number", "'-1'"]),
        (HEADER + "\n1,a,9223372036854775808\n", ["column evaluation_seed", "2^63"]),
        (HEADER + "\n1,a,2\n1,b,3\n", ["row 2", "case_number", "row 1"]),
        (HEADER + "\n1,a, b,2\n", ["line 2", "more cells than columns"]),
        (HEADER + '\n1,"a,2\n', ["not valid CSV"]),
        (HEADER.encode() + b"\n1,caf\xe9,2\n", ["not UTF-8"]),
        (HEADER + ",prompt\n1,a,2,b\n", ["line 1", "column prompt stands there twice"]),
        (HEADER.replace(",", ";") + "\n1;a;2\n", ["line 1", "kept apart by ';'", "with commas"]),
        (HEADER.replace(",", "\t") + "\n1\ta\t2\n", ["line 1", "with commas"]),
        (HEADER + ',class\n1,a,2,"b\nc"\n', ["line 3", "column class", "line end"]),
        (HEADER + "\n1,a\0b,2\n", ["line 2", "column prompt", "NUL"]),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path, text, words):
    path = written(tmp_path, text)
    with pytest.raises(UserError) as error:
        read_prompts(path)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="no such prompt file"):
        read_prompts(tmp_path / "none.csv")
    with pytest.raises(UserError, match="is a folder"):
        read_prompts(tmp_path)


def test_one_prompt_many_seeds():
    assert [(row.case_number, row.prompt, row.seed) for row in repeated("a boat", 2)] == [
        (0, "a boat", 0),
        (1, "a boat", 1),
    ]


HEAD = "case_number,prompt,evaluation_seed\n"


def test_rows_without_a_prompt_are_left_out_and_counted_where_that_is_asked_for(tmp_path, capsys):
    path = written(tmp_path, HEAD + '0,a,1\n1,,2\nx,"  ",y\n3,b,4\n')
    with pytest.raises(UserError, match=r"line 3, column prompt: empty; .* --skip-empty of sample"):
        read_prompts(path)
    assert [(row.case_number, row.prompt) for row in read_prompts(path, skip_empty=True)] == [(0, "a"), (3, "b")]
    whole = written(tmp_path, HEAD + "0,a,1\n").rename(tmp_path / "whole.csv")
    path = written(tmp_path, HEAD + '0,a,1\n1,,2\nx,"  ",y\n3,b,4\n')
    assert left_out({"monet": path, "eval": whole}) == {"monet": 2}
    assert capsys.readouterr().err == "rows without a prompt, left out: 2 of monet\n"
    assert left_out({"eval": whole}) == {} and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("case_number,Prompt,prompt,evaluation_seed\n0,a,b,1\n", r"column prompt stands there twice \(Prompt and"),
        ("case_number,prompt;evaluation_seed\n0,a;1\n", "kept apart by ';'; save it with commas"),
        (HEAD + "0;a;1\n", "line 2: has no cell for column prompt; its cells are kept apart by ';'"),
        (HEAD + "0,a\n", "line 2: has no cell for column evaluation_seed; mend the row"),
        (HEAD + "0,a\0b,1\n", "line 2, column prompt: holds a line end or a NUL byte"),
        ('case_number,prompt,evaluation_seed,artist\n0,a,1,"mo\nnet"\n', "column artist: holds a line end"),
    ],
)
@pytest.mark.parametrize("skip", [False, True])
def test_what_would_be_read_as_something_else_is_refused(tmp_path, text, words, skip):
    with pytest.raises(UserError, match=words):
        read_prompts(written(tmp_path, text), skip)


def test_a_prompt_may_have_two_lines(tmp_path):
    assert read_prompts(written(tmp_path, HEAD + '0,"a\nb",1\n'))[0].prompt == "a\nb"
