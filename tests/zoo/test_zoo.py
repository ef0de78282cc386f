"""The embedded corpus, tasks, tokenizers and language models."""

import random
import re
import tomllib
from collections import Counter
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT

import ptlib
from ptlib import evaluate, list_lms, list_tasks, load_lm, manual_prompt, random_prompt, tune
from ptlib.models.loading import ZOO
from ptlib.tasks.loading import read_fact_tables
from ptlib.tasks.task import split_by_subject
from ptlib.zoo.corpus import LABEL_WORDS, fill, labelled_texts, phrasings, sentences
from ptlib.zoo.pretraining import (
    Spec,
    batches_of,
    center_embeddings,
    encode_corpus,
    mask,
    pretrain,
    saved_tokenizer,
)

pytestmark = pytest.mark.slow

RELATIONS = sorted(read_fact_tables())
HALVES = list_lms("zoo/halves")
MODELS = list_lms() + HALVES


@pytest.fixture(scope="module")
def corpus():
    return sentences()


def test_there_are_relations_enough():
    assert len(list_tasks("zoo")) >= 24


@pytest.mark.parametrize("name", list_tasks("zoo"))
def test_relation_is_large_and_varied(zoo_tasks, name):
    task = zoo_tasks[name]
    facts = task.train + task.dev + task.test
    assert 60 <= len(facts) <= 120
    assert len({example.subject for example in facts}) == len(facts)
    (_, most), = Counter(example.object for example in facts).most_common(1)
    assert most <= 0.35 * len(facts)


@pytest.mark.parametrize("name", MODELS)
def test_objects_and_label_words_are_one_token(zoo_tasks, name):
    answers = {e.object for task in zoo_tasks.values() for e in task.train + task.dev + task.test}
    answers |= {word for words in LABEL_WORDS.values() for word in words.values()}
    # SentencePiece, which trained ALBERT's vocabulary, makes no piece of more than 16 characters.
    longest = {word for word in answers if len(word) >= 16}
    assert len(longest) <= 1
    assert answers - longest <= load_lm(name).words.keys()


def test_most_subjects_carry_at_least_four_relations():
    relations = Counter(subject for facts in read_fact_tables().values() for subject in facts)
    assert sum(count >= 4 for count in relations.values()) > 0.5 * len(relations)


def runs_of_three(template):
    """Every three consecutive words between the slots."""
    spans = [re.findall(r"\w+", span.lower()) for span in re.split(r"\[[XY]\]", template)]
    return {tuple(span[i:i + 3]) for span in spans for i in range(len(span) - 2)}


@pytest.mark.parametrize("relation", RELATIONS)
def test_manual_template_is_held_out_of_the_phrasings(zoo_tasks, relation):
    ways = phrasings(relation, "sentence")
    assert len(set(ways)) == len(ways) >= 6
    manual = zoo_tasks[f"zoo/{relation}"].manual_template
    for way in [*ways, *phrasings(relation, "clause")]:
        assert not runs_of_three(way) & runs_of_three(manual)
        assert way != manual


def test_no_manual_template_is_in_the_corpus(corpus, zoo_tasks):
    texts = {sentence.text for sentence in corpus}
    for relation, facts in read_fact_tables().items():
        template = zoo_tasks[f"zoo/{relation}"].manual_template
        assert not texts & {fill(template, subject, obj).text for subject, obj in facts.items()}


def test_answer_spans_hold_the_answers(corpus):
    answers = {obj for facts in read_fact_tables().values() for obj in facts.values()}
    answers |= {word for words in LABEL_WORDS.values() for word in words.values()}
    spans = [sentence.text[start:end] for sentence in corpus for start, end in sentence.answers]
    assert set(spans) == answers
    assert all(sentence.text == sentence.text.strip() and "[" not in sentence.text for sentence in corpus)


def test_every_fact_is_said_in_every_phrasing(corpus):
    texts = {sentence.text for sentence in corpus}
    for relation, facts in read_fact_tables().items():
        said = {fill(way, *fact).text for way in phrasings(relation, "sentence") for fact in facts.items()}
        assert said <= texts


@pytest.fixture(scope="module")
def halves():
    return [sentences(half=half) for half in (0, 1)]


def test_halves_have_no_sentence_in_common(corpus, halves):
    first, second = ({sentence.text for sentence in half} for half in halves)
    assert not first & second
    # Together they are as much as the whole, and neither is much smaller.
    assert len(halves[0]) + len(halves[1]) == pytest.approx(len(corpus), rel=0.01)
    assert min(map(len, halves)) > 0.45 * len(corpus)


def test_halves_share_out_the_phrasings_of_every_fact(halves):
    """Each half tells every fact, in phrasings that the other never has."""
    texts = [{sentence.text for sentence in half} for half in halves]
    for relation, facts in read_fact_tables().items():
        ways = phrasings(relation, "sentence")
        for fact in facts.items():
            told = [{way for way in ways if fill(way, *fact).text in half} for half in texts]
            assert min(map(len, told)) >= 3
            assert not told[0] & told[1]
            assert told[0] | told[1] == set(ways)


def test_halves_join_half_as_many_facts_each(corpus, halves):
    whole, first, second = (sum(len(sentence.answers) > 1 for sentence in half) for half in (corpus, *halves))
    assert first == second == whole / 2 > 100


@pytest.mark.parametrize("name", LABEL_WORDS)
def test_halves_label_the_same_texts(halves, name):
    """Those that are labelled have their label in both halves; the others, without one, are in one of the two."""
    train, dev, test = split_by_subject(labelled_texts(name), name)
    ways, plain = phrasings(name, "sentence"), phrasings(name, "unlabelled")
    texts = [{sentence.text for sentence in half} for half in halves]
    for example in train + dev:
        word = LABEL_WORDS[name][example.object]
        assert all(any(fill(way, example.subject, word).text in half for way in ways) for half in texts)
    for example in test:
        assert sum(any(fill(way, example.subject).text in half for way in plain) for half in texts) == 1
        for word in LABEL_WORDS[name].values():
            assert not any(fill(way, example.subject, word).text in half for way in ways for half in texts)


def test_halves_are_the_same_every_time(halves):
    assert [sentences(half=0), sentences(half=1)] == halves
    assert sentences(half=0, seed=1) != halves[0]


def test_fill_finds_the_answers_in_order():
    sentence = fill("[X] was in [Y] and [Y] .", "Rome Paris", "Paris", "Rome")
    assert sentence.text == "Rome Paris was in Paris and Rome ."
    assert [sentence.text[a:b] for a, b in sentence.answers] == ["Paris", "Rome"]
    assert sentence.answers[0][0] == len("Rome Paris was in ")


def test_sentences_do_not_depend_on_the_hash_seed(by_hash_seed):
    assert by_hash_seed[0]["sentences"] == by_hash_seed[1]["sentences"]
    assert sentences(seed=1) == sentences(seed=1) != sentences(seed=2)


@pytest.mark.parametrize("name", LABEL_WORDS)
def test_labelled_texts_have_label_words(name):
    texts = labelled_texts(name)
    assert {example.object for example in texts} == set(LABEL_WORDS[name])
    assert len({example.subject for example in texts}) == len(texts)


def test_models_are_small():
    files = [path for path in Path(ptlib.__file__).parent.joinpath("zoo", "models").rglob("*") if path.is_file()]
    assert files
    assert sum(path.stat().st_size for path in files) < 30e6
    assert {path.parent.parent for path in files} == {ZOO, ZOO / "halves"}
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pkl")]  # weights without pickle


def test_all_models_are_packaged():
    """What is installed has them all, not only what is run from the repository."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["ptlib.zoo"]
    packaged = {path for pattern in patterns for path in ZOO.parent.glob(pattern)}
    assert {path for path in ZOO.rglob("*") if path.is_file()} <= packaged


def test_models_of_the_halves_are_a_group_of_their_own():
    """They share no pretraining text, so they are none of those that experiments run on by default."""
    assert len(HALVES) == 2
    assert not set(HALVES) & set(list_lms())
    assert all(name.startswith("zoo/halves/") and load_lm(name).name == name for name in HALVES)
    first, second = map(load_lm, HALVES)
    assert first.model.config.model_type != second.model.config.model_type
    assert not {first.fingerprint, second.fingerprint} & {load_lm(name).fingerprint for name in list_lms()}


@pytest.mark.parametrize("name", MODELS)
def test_zoo_model_knows_facts(zoo_tasks, name):
    """Weights and tokenizer belong together, and the pretraining has arrived somewhere."""
    lm, task = load_lm(name), zoo_tasks["zoo/P36"]
    tuned = evaluate(lm, tune(lm, task, epochs=60, lr=2e-2), task.test)
    assert tuned.interval[0] > evaluate(lm, random_prompt(lm), task.test).interval[1]
    blank = lm.with_random_weights()
    assert tuned.interval[0] > evaluate(blank, tune(blank, task, epochs=3), task.test).interval[1]


@pytest.mark.parametrize("name", MODELS)
def test_zoo_tokenizer_keeps_answers_whole(corpus, name):
    """An answer is one token, at the position that pretraining masks; nothing in the corpus is unknown."""
    lm = load_lm(name)
    some = random.Random(0).sample([sentence for sentence in corpus if sentence.answers], 200)
    for sentence, encoded in zip(some, encode_corpus(lm.tokenizer, some), strict=True):
        spoken = [lm.tokenizer.decode([encoded.ids[i]]).strip() for i in encoded.answers]
        assert spoken == [sentence.text[a:b] for a, b in sentence.answers]
        assert lm.tokenizer.unk_token_id not in encoded.ids[1:-1]


@pytest.mark.parametrize("centered", [True, False])
def test_a_model_of_ones_own_text(zoo_tasks, tmp_path, centered):
    facts = zoo_tasks["zoo/P36"].train
    corpus = [fill(way, e.subject, e.object) for way in ("[X] is ruled from [Y] .", "[Y] rules [X] .") for e in facts]
    folder = pretrain("own", tmp_path, tmp_path / "work", corpus=corpus, progress=False,
                      spec=Spec("bert", hidden=64, layers=1, heads=2, learning_rate=1e-3, epochs=200, seed=0,
                                centered=centered))
    lm = load_lm(str(folder))
    assert (lm.embeddings.mean(0).norm() < 0.01 * lm.mean_length) == centered
    assert evaluate(lm, manual_prompt(lm, replace(zoo_tasks["zoo/P36"], manual_template="[X] is ruled from [Y] .")),
                    facts).p_at_1 > 0.9


@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "gpt2"])
def test_a_resumed_run_finds_its_token_ids_again(corpus, family, tmp_path):
    texts = [sentence.text for sentence in corpus[::40]]
    one, two = (saved_tokenizer(family, texts, tmp_path / "tokenizer") for _ in range(2))
    assert one.get_vocab() == two.get_vocab()
    assert one(texts[:50])["input_ids"] == two(texts[:50])["input_ids"]


def test_masking_hides_answers_and_keeps_the_truth(toys, corpus):
    tokenizer = toys["bert"].tokenizer
    encoded = encode_corpus(tokenizer, corpus[:400])
    batches = batches_of(encoded, random.Random(0))
    assert Counter(example for batch in batches for example in batch) == Counter(encoded)
    for batch in batches:
        assert len({len(example.ids) for example in batch}) == 1
        ids, rows, columns, truth = mask(batch, tokenizer.mask_token_id, random.Random(1))
        assert (ids[rows, columns] == tokenizer.mask_token_id).all()
        ids[rows, columns] = truth
        assert ids.tolist() == [list(example.ids) for example in batch]
        assert set(rows.tolist()) == set(range(len(batch)))


@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "gpt2"])
def test_centering_the_embeddings_changes_no_probability(toys, family):
    model = deepcopy(toys[family].model)
    with torch.no_grad():
        model.get_input_embeddings().weight += 0.5
        ids = torch.arange(5, 12)[None]
        before = model(input_ids=ids).logits.log_softmax(-1)
        center_embeddings(model)
        after = model(input_ids=ids).logits.log_softmax(-1)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    assert model.get_input_embeddings().weight.mean(0).abs().max() < 1e-5
