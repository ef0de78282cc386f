"""Records of where a prompt came from: they survive JSON, know the seed of the tuning, and read what 0.1.0 wrote."""

import json
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from ptlib import Prompt, random_prompt, refine, select, transfer, tune
from ptlib.prompts.history import Carried, Moved, Other, Refined, Selected, Tuned, history_of

DATA = Path(__file__).parents[1] / "data"
QUICK = {"epochs": 1, "num_vectors": 2}


@pytest.fixture(scope="module")
def chain(toys, capitals):
    """A prompt on its way: tuned, moved, refined, selected; and as words on another LM."""
    source, target = toys["bert"], toys["gpt2"]
    inputs = [example.subject for example in capitals.train]
    tuned = tune(source, capitals, seed=3, parameterization="mixture", **QUICK)
    moved = transfer(tuned, source=source, target=target, seed=7)
    taught = {"source": source, "teacher": tuned}
    refined = refine(moved, target, inputs=inputs, seed=9, epochs=1, **taught)
    selected = select(target, {"a": refined, "b": moved}, inputs, **taught)
    return {Tuned: tuned, Moved: moved, Refined: refined, Selected: selected, Carried: tuned.on(target)}


@pytest.mark.parametrize("kind", [Tuned, Moved, Refined, Selected, Carried])
def test_a_record_survives_json_and_knows_the_seed_of_the_tuning(chain, kind, tmp_path):
    prompt = chain[kind]
    assert type(prompt.history) is kind
    assert prompt.history.tuning_seed == 3
    assert prompt.history.as_json() == prompt.meta == json.loads(json.dumps(prompt.meta))
    assert history_of(json.loads(json.dumps(prompt.history.as_json()))) == prompt.history
    assert Prompt.load(prompt.save(tmp_path / "prompt.safetensors")).history == prompt.history
    with pytest.raises(FrozenInstanceError):
        prompt.history.method = "another"


def test_records_hold_those_before_them(chain):
    [origin] = chain[Moved].history.sources
    assert origin.history == chain[Tuned].history
    assert (origin.lm, origin.fingerprint) == (chain[Tuned].lm_name, chain[Tuned].lm_fingerprint)
    assert chain[Refined].history.history == chain[Moved].history
    assert chain[Refined].history.sources == (chain[Tuned].lm_name,)
    assert chain[Selected].history.chosen in (chain[Refined].history, chain[Moved].history)
    assert chain[Carried].history.before == chain[Tuned].history
    assert chain[Carried].history.passes == 0 < chain[Tuned].history.passes  # tuning ran the first LM alone


def test_what_0_1_0_wrote_is_read():
    for name, kind in (("prompt", "vectors"), ("mixture", "mixture")):
        history = Prompt.load(DATA / f"{name}-0.1.0.safetensors").history
        assert (type(history), history.parameterization, history.tuning_seed, history.dropped) == (Tuned, kind, 0, {})


def test_what_is_not_known_is_kept_as_it_is(toys):
    drawn = random_prompt(toys["bert"], seed=5)
    assert drawn.history == Other({"method": "random", "seed": 5}) and drawn.history.tuning_seed == 5
    for meta in ({}, {"method": "someone's"}, {"parameterization": "vectors"}, {"selected": 3}, {"from": []},
                 {"matching_loss": 1, "sources": [None]}, {"parameterization": 1, "dropped": [1]}):
        assert history_of(meta) == Other(meta)
        assert history_of(meta).as_json() == meta
