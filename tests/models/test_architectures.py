"""Every architecture that transformers can build is read as transformers reads it, or refused by name."""

from collections import Counter

import pytest
from architectures import ARCHITECTURES, MAPPINGS, NOT_BUILT, SAME, outcome_of

SEES_BOTH_SIDES = {"causal/xlnet"}  # unless it is told which words to hide

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the architectures' own warnings


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_reads_vectors_as_plain_transformers_reads_words_or_is_refused_by_name(name):
    outcome = outcome_of(name)
    assert outcome.result in ("equal", "refused"), outcome.reason
    if outcome.result == "refused":
        assert outcome.model in outcome.reason or outcome.config in outcome.reason
    else:
        assert outcome.kind == ("masked" if name in SEES_BOTH_SIDES else name.partition("/")[0])
        assert outcome.heard > 0.02, "the logits should depend on the prompt"
        assert not outcome.not_tuned


def test_at_least_sixty_are_equal_and_nothing_is_in_between():
    results = Counter(outcome_of(name).result for name in ARCHITECTURES)
    assert results["equal"] >= 60
    assert set(results) <= {"equal", "refused"}, results


def test_every_architecture_is_built_or_listed():
    names = {f"{kind}/{family}" for kind, families in MAPPINGS.items() for family in families}
    assert names == {*ARCHITECTURES, *SAME, *NOT_BUILT}
    assert len(names) == len(ARCHITECTURES) + len(SAME) + len(NOT_BUILT)


@pytest.mark.parametrize("name", SAME)
def test_the_same_class_is_built_under_another_name(name):
    assert SAME[name] in ARCHITECTURES
    assert class_of(name) == class_of(SAME[name])


def class_of(name):
    kind, _, family = name.partition("/")
    return MAPPINGS[kind][family]
