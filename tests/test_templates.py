"""Templates as token ids: equal to what the tokenizer makes of the whole sentence."""

import pytest
import torch

from ptlib import PromptMismatchError
from ptlib.templates import Template, batches, collate

TEMPLATES = ["[X] [V]*5 [Y] .", "[V]*2 [X] [V] [Y] .", "The capital of [X] is [Y].", "The capital of [X] is [Y] .",
             "[Y] is the capital of [X] .", "[X], the old capital [V] [Y]."]
WORDS = ["the", "old", "capital", "of", "people"]


@pytest.mark.parametrize("subject", ["France", "Saint Helena"])
@pytest.mark.parametrize("text", TEMPLATES)
@pytest.mark.parametrize("family", ["bert", "roberta", "albert"])
def test_layout_is_how_the_tokenizer_reads_the_sentence(toys, family, text, subject):
    lm, template = toys[family], Template(text)
    words = WORDS[:template.num_vectors]
    layout, = template.layout(lm, [subject])
    ids = list(layout.ids)
    for slot, i in zip(layout.slots, lm.word_ids(words), strict=True):
        ids[slot] = i
    ids[layout.answer], = lm.word_ids(["Paris"])
    sentence = text.replace("[X]", subject).replace("[Y]", "Paris")
    for count in (5, 2):
        sentence = sentence.replace(f"[V]*{count}", " ".join(words[:count]))
        words = words[count:] if f"[V]*{count}" in text else words
    assert ids == lm.tokenizer(sentence.replace("[V]", "".join(words)))["input_ids"]


def test_answer_and_slots_hold_the_mask(toys):
    lm = toys["bert"]
    layout, = Template("[X] [V]*3 [Y] .").layout(lm, ["New Zealand"])
    assert [layout.ids[i] for i in (*layout.slots, layout.answer)] == [lm.tokenizer.mask_token_id] * 4
    assert layout.slots == [3, 4, 5]  # after [CLS] New Zealand
    assert layout.answer == 6


def test_causal_layout_ends_where_the_answer_is_predicted(toys):
    lm = toys["gpt2"]
    layout, = Template("[X] [V]*2 [Y] .").layout(lm, ["New Zealand"])
    assert layout.ids[:2] == lm.tokenizer("New Zealand")["input_ids"]
    assert layout.slots == [2, 3]
    assert layout.answer == 3 == len(layout.ids) - 1


@pytest.mark.parametrize("text", ["[Y] is the capital of [X]", "[X] [Y] [V]"])
def test_a_causal_lm_does_not_see_slots_after_the_answer(toys, text):
    with pytest.raises(PromptMismatchError, match="causal"):
        Template(text).layout(toys["gpt2"], ["France"])


@pytest.mark.parametrize("text", ["", "[X] is a country .", "The capital is [Y] .", "[X] [X] [Y]", "[X] [Y] or [Y]",
                                  "[X] [V]*0 [Y]"])
def test_malformed_template(text):
    with pytest.raises(PromptMismatchError, match="template"):
        Template(text)


@pytest.mark.parametrize(("text", "count"), [("[X] [V]*5 [Y]", 5), ("[V] [X] [V]*12 [Y] [V]", 14), ("[X] [Y]", 0)])
def test_num_vectors(text, count):
    assert Template(text).num_vectors == count


def test_collate_pads_on_the_right_under_a_mask(toys):
    layouts = Template("[X] [V] [Y] .").layout(toys["bert"], ["France", "the old capital of France"])
    batch = collate(layouts, torch.device("cpu"))
    for row, layout in enumerate(layouts):
        length = int(batch.mask[row].sum())
        assert batch.mask[row, :length].all()
        assert batch.ids[row, :length].tolist() == layout.ids
        assert (batch.slots[row].tolist(), batch.answers[row].item()) == (layout.slots, layout.answer)


def test_batches_hold_every_layout_once_by_length(toys):
    subjects = ["France", "the old capital of France", "New Zealand", "Spain", "South Korea"]
    layouts = Template("[X] [Y]").layout(toys["bert"], subjects)
    rows = [chosen for chosen, _ in batches(layouts, torch.device("cpu"), size=2)]
    assert sorted(i for chosen in rows for i in chosen) == list(range(5))
    lengths = [len(layouts[i].ids) for chosen in rows for i in chosen]
    assert lengths == sorted(lengths)
