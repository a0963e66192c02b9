import pytest

from lethe.attacking.attacks import prompts
from lethe.files.errors import UserError
from lethe.stage.record import Budget
from tests.attacking.attacks.victims import victim


def write(path, texts, first=0):
    lines = [f'{first + i},"{text}",{100 + i}' for i, text in enumerate(texts)]
    path.write_text("\n".join(["case_number,prompt,evaluation_seed", *lines]) + "\n")
    return str(path)


def asked(base, **files):
    options = {"files": files, "provenance": "written for this test"}
    return prompts.attack(victim(base), options, 0, None, Budget())


def test_rows_meet_by_case_number_where_the_file_has_them_all(tiny_base, tmp_path):
    texts = [f"text {i}" for i in range(6)]
    found = asked(tiny_base, monet=write(tmp_path / "a.csv", texts), picasso=write(tmp_path / "b.csv", texts, 50))
    assert {key: text for key, text in found.asked.items() if key[0] == "monet"} == {
        ("monet", 0): "text 0",
        ("monet", 2): "text 2",
        ("monet", 5): "text 5",
    }
    # numbers of another file: in its order
    assert [found.asked["picasso", number] for number in (0, 2, 5)] == ["text 0", "text 1", "text 2"]
    assert found.about == {"provenance": "written for this test"}
    assert found.unet is None and not found.starts and not found.states


def test_rows_without_a_prompt_are_left_out_and_counted_where_that_is_asked_for(tiny_base, tmp_path):
    files = dict.fromkeys(("monet", "picasso"), write(tmp_path / "a.csv", ["one", "", "two", "three"], 50))
    options = {"files": files, "provenance": "a test"}
    with pytest.raises(UserError, match="column prompt: empty"):
        prompts.attack(victim(tiny_base), options, 0, None, Budget())
    found = prompts.attack(victim(tiny_base, skip_empty=True), options, 0, None, Budget())
    assert [found.asked["monet", number] for number in (0, 2, 5)] == ["one", "two", "three"]
    assert found.about["without_prompt"] == {"file:monet": 1, "file:picasso": 1}


def test_a_file_for_another_concept_is_no_matter(tiny_base, tmp_path):
    path = write(tmp_path / "a.csv", ["one", "two", "three"])
    assert len(asked(tiny_base, monet=path, picasso=path, van_gogh="nowhere.csv").asked) == 6


def test_too_few_prompts_and_a_concept_without_a_file(tiny_base, tmp_path):
    path = write(tmp_path / "a.csv", ["one", "two"], 7)
    with pytest.raises(UserError, match=r"a.csv: has 2 prompts, 3 are to be attacked; lower attacks.prompts"):
        asked(tiny_base, monet=path, picasso=path)
    with pytest.raises(UserError, match="files: none of picasso: give the attack prompts a CSV for each"):
        asked(tiny_base, monet=write(tmp_path / "a.csv", ["one", "two", "three"]))
