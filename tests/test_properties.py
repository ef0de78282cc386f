"""What has to hold for every model, dtype, template, batch size and script: hypothesis looks for where it fails."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptlib import Example, Prompt, TaskError, evaluate, load_lm, random_prompt
from ptlib.prompts.templates import Template, batches, collate

pytestmark = pytest.mark.slow

MODELS = [*(f"zoo/{name}" for name in ("bert-mini", "roberta-mini", "albert-mini", "gpt2-mini"))]
DTYPES = [torch.float32, torch.bfloat16]
WORDS = ["Paris", "London", "French", "English", "France", "music", "Italian", "Spain"]
BEFORE = ["[V]*2 ", "The ", "", '"', "(", "[V]", "in [V] of "]
BETWEEN = [" ", ' is "', " (", ": ", ":", "的", " [V]*3 ", " [V] is ", "[V]"]
AFTER = ["", " .", '".', ") of"]
SUBJECTS = st.one_of(
    st.sampled_from(["France", "a", "", "  ", "São Paulo", "Ελλάδα", "Москва", "日本", "القاهرة", "İstanbul", "naïve",
                     "[MASK]", "</s> x", "🙂", "e\u0301t\u00e9", "ﬁn", "word " * 20]),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12))
QUICK = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@st.composite
def questions(draw) -> tuple:
    """An LM, a prompt for it with a template of any sort, and subjects."""
    lm = load_lm(draw(st.sampled_from(MODELS)), dtype=draw(st.sampled_from(DTYPES)))
    text = draw(st.sampled_from(BEFORE)) + "[X]" + draw(st.sampled_from(BETWEEN)) + "[Y]" + draw(st.sampled_from(AFTER))
    count = Template(text).num_vectors
    vectors = random_prompt(lm, count, draw(st.integers(0, 9))).vectors if count else torch.zeros(0, lm.dim)
    return lm, Prompt(vectors, text, lm.name, lm.fingerprint), draw(st.lists(SUBJECTS, min_size=1, max_size=7))


@QUICK
@given(questions(), st.integers(1, 7))
def test_an_answer_does_not_depend_on_its_neighbours(question, size):
    lm, prompt, subjects = question
    layouts = Template(prompt.template).layout(lm, subjects)
    allowed = 1e-4 if lm.model.dtype == torch.float32 else 0.15
    seen = []
    with torch.inference_mode():
        for rows, batch in batches(layouts, lm, size):
            together = batch.logits(lm, prompt.vectors)
            for row, logits in zip(rows, together, strict=True):
                one = collate([layouts[row]], lm.device)
                alone = one.logits(lm, prompt.vectors)[0]
                assert (logits - alone).abs().max() <= allowed * max(1, alone.std().item())
                seen.append(row)
    assert sorted(seen) == list(range(len(subjects)))


@QUICK
@given(questions(), st.data())
def test_hits_ranks_and_predictions_agree_and_ties_never_help(question, data):
    lm, prompt, subjects = question
    objects = data.draw(st.lists(st.sampled_from(WORDS), min_size=len(subjects), max_size=len(subjects)))
    examples = [Example(*pair) for pair in zip(subjects, objects, strict=True)]
    given_words = data.draw(st.sampled_from([None, WORDS]))
    try:
        ev = evaluate(lm, prompt, examples, candidates=given_words, facts=examples)
    except TaskError as error:  # no object is one token at such a place
        assert "can be scored" in str(error)
        return
    assert ev.n + len(ev.dropped) == len(examples)
    table = ev.predictions
    assert ((table["object"] == table["prediction"]) == (ev.ranks == 1)).all()
    assert (ev.ranks >= 1).all() and (ev.ranks <= ev.num_candidates).all()
    assert (ev.filtered_ranks <= ev.ranks).all()
    layouts = Template(prompt.template).layout(lm, [example.subject for example in ev.examples])
    place = Template(prompt.template).place
    ids = list(lm.words_at(place).values()) if given_words is None else [
        i for i in dict.fromkeys(lm.word_ids(WORDS, place)) if i is not None]
    with torch.inference_mode():  # the questions that evaluate asked: in bfloat16 other ones round otherwise
        for rows, batch in batches(layouts, lm):
            logits = batch.logits(lm, prompt.vectors, torch.tensor(ids))
            for row, own in zip(rows, logits, strict=True):
                target = own[ids.index(lm.word_ids([ev.examples[row].object], place)[0])]
                assert ev.ranks[row] == (own >= target).sum()


@QUICK
@given(questions())
def test_the_answers_tokens_are_those_that_text_has_there(question):
    lm, prompt, _ = question
    template = Template(prompt.template)
    before = template.text.partition("[Y]")[0]
    if before.endswith(("]", "的")):
        return  # a subject or a vector stands there, of which no text is known; or words that no vocabulary here has
    before = before.rpartition("]")[2]
    start = lm.tokenize("a" + before.rstrip(" "))
    for word, i in zip(WORDS, lm.word_ids(WORDS, template.place), strict=True):
        whole = lm.tokenize("a" + before + word)
        assert whole[:len(start)] != start or (whole[len(start):] == [i]) == (i is not None)


@pytest.mark.parametrize("name", MODELS)
def test_a_prompt_of_word_embeddings_is_the_words(name):
    lm = load_lm(name)
    words = ["the", "of", "is"]
    ids = lm.word_ids(words)
    spoken = Prompt(torch.zeros(0, lm.dim), "[X] the of is [Y]", lm.name, lm.fingerprint)
    vectors = Prompt(lm.embeddings[ids], "[X] [V]*3 [Y]", lm.name, lm.fingerprint)

    @settings(QUICK, max_examples=8)
    @given(st.lists(SUBJECTS.filter(lambda text: text.strip()), min_size=1, max_size=4))
    def same(subjects):
        examples = [Example(subject, "Paris") for subject in subjects]
        assert (evaluate(lm, spoken, examples).ranks == evaluate(lm, vectors, examples).ranks).all()

    same()
