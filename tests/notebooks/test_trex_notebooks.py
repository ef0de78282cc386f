"""Notebooks run on strangers: real checkpoints and real facts, by parameters alone."""

from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest

import ptlib

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("facts", ["checkpoints/facts", "pararel"])
def test_baselines_on_trex(trex, tmp_path, facts):
    models = [str(trex / "checkpoints" / name) for name in ("bert-s", "roberta-s")]
    where = {"tasks": "pararel", "root": str(trex)} if facts == "pararel" else {"tasks": str(trex / facts)}
    papermill.execute_notebook(
        str(NOTEBOOKS / "05_baselines.ipynb"), str(tmp_path / "run.ipynb"), progress_bar=False,
        parameters={"models": ",".join(models), "relations": "P36,P1303", "epochs": 3, "out": str(tmp_path),
                    "num_seeds": 2, **where})
    table = pd.read_csv(tmp_path / "table.csv", index_col=["source", "target", "method"])
    methods = papermill.inspect_notebook(str(NOTEBOOKS / "05_baselines.ipynb"))["methods"]["default"]
    assert len(table) == 2 * 2 * len(methods.split(","))  # both are 128 wide: copy moves both ways
    assert (table["repeats"] == 2).all()
    assert (table["relations"] == 2).all()
    assert table["relation_mean"].between(table["relation_low"], table["relation_high"]).all()
    # A prompt that moves to its own model is the one that was tuned there, up to the ridge and normalisation.
    own = table.xs("closed-form", level="method").loc[[(model, model) for model in models], "relation_mean"]
    assert (own > table.xs("random", level="method")["relation_mean"].max()).all()


@pytest.mark.parametrize("layout", ["lama", "lpaqa"])
def test_your_own_models_on_trex(trex, tmp_path, layout):
    models = {name: str(trex / "checkpoints" / f"{name}-s") for name in ("bert", "roberta")}
    papermill.execute_notebook(
        str(NOTEBOOKS / "10_your_own_models.ipynb"), str(tmp_path / "run.ipynb"), progress_bar=False,
        parameters={"source": models["bert"], "target": models["roberta"], "tasks": layout, "root": str(trex),
                    "relation": "P1303", "epochs": 2, "out": str(tmp_path)})
    moved = ptlib.Prompt.load(tmp_path / "P1303.safetensors")
    moved.check(ptlib.load_lm(models["roberta"]))
    assert moved.task == f"{layout}/P1303"


def test_strangers(trex, tmp_path):
    papermill.execute_notebook(
        str(NOTEBOOKS / "trex" / "strangers.ipynb"), str(tmp_path / "run.ipynb"), progress_bar=False,
        parameters={"root": str(trex), "work": str(tmp_path), "third_epochs": 1, "relations": "P36,P1303", "epochs": 2,
                    "num_seeds": 2})
    third = ptlib.load_lm(str(tmp_path / "third"))
    assert (third.dim, third.model.config.num_hidden_layers) == (192, 3)
    printed = [output.get("text", "") for cell in nbformat.read(tmp_path / "run.ipynb", 4).cells
               for output in cell.get("outputs", [])]
    # Two relations, three targets: 4 ways that have no one source, 4 from each of two.
    assert any(f"scores: {2 * 3 * (4 + 4 * 2)} rows" in text for text in printed)
