"""The rehearsal of the paper's table, and the paper's numbers beside ours."""

import pandas as pd
import pytest
from conftest import ROOT

import ptlib
from ptlib.lab import beside_published, rehearsal
from ptlib.lab.published import numbers_of, published_by_post
from ptlib.lab.rehearsal import SHAPES, SHARED, TEST, TRAIN, Shape, counted, measure, seconds_of, write_model
from ptlib.parameters import listed
from ptlib.sweep.grids import expand, read_grid, read_notebook

SMALL = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
TINY = {"a/bert": Shape("bert-mini", {**SMALL, "vocab_size": 3100}),
        "b/bert": Shape("bert-mini", {**SMALL, "vocab_size": 3200}),
        "c/albert": Shape("albert-mini", {**SMALL, "vocab_size": 3000, "embedding_size": 16})}
RUN = {"relations": "P1,P2", "num_seeds": 3, "epochs": 10, "methods": "copy,linear"}
SWEEPS = ROOT / "notebooks" / "sweeps"


def grid_of(name: str, notebook: str) -> list[dict]:
    return expand(read_grid(SWEEPS / name), read_notebook(ROOT / "notebooks" / notebook))


@pytest.mark.parametrize("name, notebook", [("paper.yaml", "05_baselines.ipynb"),
                                            ("paper-gpt2.yaml", "08_beyond_factual_probing.ipynb")])
def test_the_paper_s_grids_have_every_relation_once_for_each_seed(name, notebook):
    runs = grid_of(name, notebook)
    for seed in range(3):
        relations = [relation for run in runs if run["seed"] == seed for relation in listed(run["relations"])]
        assert len(relations) == len(set(relations)) == 41
    assert {model for run in runs for model in listed(run["models"])} <= SHAPES.keys()


@pytest.mark.parametrize("zoo", ["bert-mini", "roberta-mini", "albert-mini", "gpt2-mini"])
def test_a_model_has_its_shape_and_the_words_that_all_have(zoo, tmp_path, monkeypatch):
    monkeypatch.setattr(rehearsal, "SHARED", 50)
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2} if zoo == "gpt2-mini" else SMALL
    own = ptlib.load_lm(f"zoo/{zoo}")
    write_model(Shape(zoo, {**sizes, "vocab_size": own.vocab_size + 80}), tmp_path / "model")
    lm = ptlib.load_lm(tmp_path / "model")
    assert (lm.vocab_size, len(lm.given_ids), lm.kind) == (own.vocab_size + 80, own.vocab_size + 80, own.kind)
    new = lm.words.keys() - own.words.keys()
    assert {word for word in new if word.startswith("qx")} == {f"qx{rehearsal.letters(i)}" for i in range(50)}
    assert len(new) == 80 and SHARED > 50


def test_every_step_of_a_run_is_measured(tmp_path):
    measured = measure(list(TINY), ["copy", "gradient"], 2, tmp_path, num_vectors=3, shapes=TINY)
    widths = {name: shape.width for name, shape in TINY.items()}
    assert set(measured.index) == set(counted({**RUN, "methods": "copy,gradient"}, widths))
    assert (measured["seconds"] > 0).all()
    assert measured["peak GiB"].dropna().is_monotonic_increasing
    assert seconds_of({**RUN, "methods": "copy,gradient"}, widths, measured) > 0


def test_a_run_s_steps_are_counted_as_the_notebook_takes_them():
    found = counted(RUN, {"x": 8, "y": 8, "z": 4})
    assert found["tune", "x"] == (2 * 3 + 2) * 10 * TRAIN  # 2 relations, 3 seeds, and the control of one seed
    assert (found["move: copy", "x"], found["move: copy", "z"], found["move: linear", "z"]) == (2, 1, 3)
    assert found["evaluate", "z"] == TEST * (6 + 2 + 2 + 6 * (1 + 3))
    assert found["load", "y"] == found["shared words", "all"] == 1


def test_twice_the_relations_take_twice_the_passes():
    twice = counted({**RUN, "relations": "P1,P2,P3,P4"}, {"x": 8})
    once = counted(RUN, {"x": 8})
    for step in ("tune", "evaluate"):
        assert twice[step, "x"] == 2 * once[step, "x"]
    assert twice["move: linear", "x"] == once["move: linear", "x"]  # one call for all prompts


def test_published_numbers_stand_beside_rows_of_the_paper_s_models():
    rows = [("bert-base-cased", "roberta-base", "gradient"), ("", "mine/roberta-base", "direct tuning"),
            ("bert-base-cased", "roberta-base", "linear"), ("zoo/bert-mini", "roberta-base", "gradient")]
    ours = pd.DataFrame({"relation_mean": [0.1, 0.2, 0.3, 0.4]},
                        pd.MultiIndex.from_tuples(rows, names=["source", "target", "method"]))
    found = beside_published(ours)
    assert found["paper"].tolist() == [17.7, 46.2]
    assert found["relation_mean"].tolist() == [0.1, 0.2]
    assert beside_published(ours.iloc[2:]).empty


def test_published_numbers_are_of_models_and_methods_of_the_grid():
    run = grid_of("paper.yaml", "05_baselines.ipynb")[0]
    table = numbers_of("Wu et al. 2024")
    assert set(table["source"]) | set(table["target"]) <= {"", *listed(run["models"])}
    assert set(table["method"]) <= {"manual template", "direct tuning", *listed(run["methods"])}
    assert not table.duplicated(["source", "target", "method"]).any()


def test_every_task_of_post_has_its_own_way_and_the_paper_s_below_it():
    table = published_by_post()
    assert {"POST", "gradient"} <= set(table.dropna().index), "TREC has no other number"
    assert (table.loc["POST"] > table.loc["gradient"]).all()
    others = table.drop(columns="TREC")
    assert (others.loc["direct tuning"] > others.loc["POST"]).all() and others.notna().all(axis=None)
