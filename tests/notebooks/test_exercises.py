"""The tutorial is one course: every part opens and ends alike, and the solutions print what stands under them."""

import re
from pathlib import Path

import nbformat
import pytest
from documents import assert_alike, printed, with_output

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
COURSE = ["00_quickstart", "01_tuning", "02_relative_encoding", "03_search", "04_multi_source",
          "13_prompts_that_travel", "15_real_models"]


def words_of(name: str) -> list[str]:
    """The Markdown cells of a notebook."""
    cells = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "markdown"]


SOLUTIONS = {f"{name} {i + 1}": one for name in COURSE for i, one in enumerate(with_output("\n".join(words_of(name))))}


@pytest.mark.parametrize("name", COURSE)
def test_a_part_opens_with_its_question_and_its_answer(name):
    opening = words_of(name)[0]
    places = [opening.find(part) for part in ("# ", "**Question.**", "**You will see**", "**In a line.**")]
    assert places == sorted(places) and places[0] == 0 and len(set(places)) == len(places)


@pytest.mark.parametrize(("name", "following"), zip(COURSE, [*COURSE[1:], "10_your_own_models"], strict=True))
def test_a_part_ends_with_exercises_and_leads_to_the_next(name, following):
    *_, exercises, ending = words_of(name)
    assert exercises.startswith("## Exercises")
    numbers = re.findall(r"^\*\*Exercise (\d)\.\*\*", exercises, re.M)
    assert numbers == [str(i + 1) for i in range(len(numbers))] and len(numbers) in (2, 3)
    assert len(with_output(exercises)) == exercises.count("<summary>Solution</summary>") == len(numbers)
    assert ending.startswith("**Next:**") and f"({following}.ipynb)" in ending
    assert "**Further reading.**" in ending and "(glossary.md)" in ending


@pytest.mark.slow
@pytest.mark.parametrize("code, output", SOLUTIONS.values(), ids=SOLUTIONS)
def test_a_solution_prints_what_stands_under_it(code, output):
    assert_alike(printed(code), output)
