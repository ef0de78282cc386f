"""Templates as token ids: equal to what the tokenizer makes of the whole sentence."""

import re

import pytest
import torch
from families import FAMILIES

from ptlib import PromptMismatchError, load_lm
from ptlib.prompts.templates import Template, batches, collate

TEMPLATES = ["[X] [V]*5 [Y] .", "[V]*2 [X] [V] [Y] .", "The capital of [X] is [Y].", "The capital of [X] is [Y] .",
             "[Y] is the capital of [X] .", "[X], the old capital [V] [Y].", "[V]*5 [X] [Y]",
             "[X]'s capital is [Y] [V] .", '"[X]" ( [V] ) is in [Y]', "people of\n[X]\nthe capital is [Y] .",
             "[V] [Y] [V] [X] [V]*2"]
# A family for each kind of tokenizer.
KINDS = ["bert", "roberta", "xlm-roberta", "gpt2", "qwen2", "opt", "llama", "gemma", "t5", "bart"]
WORDS = ["the", "old", "capital", "of", "people"]
SUBJECTS = ["France", "Saint Helena", "Côte d’Ivoire", "Ελλάδα", "東京 (都)", "القاهرة", '{a} "b" [X] [V]*2 [Y]']


@pytest.fixture(scope="module")
def lms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    for kind in KINDS:
        FAMILIES[kind].save(folder / kind)
    return {kind: load_lm(folder / kind) for kind in KINDS}


def sentence(lm, text, subject, answer="Paris"):
    """The template in words, up to the answer if ``lm`` is causal, as its tokenizer gives them."""
    if lm.kind == "causal":
        text = text[:text.index("[Y]")].rstrip(" ")
    words = iter(WORDS)
    for slot in re.findall(r"\[V\](?:\*\d)?", text):
        text = text.replace(slot, " ".join(next(words) for _ in range(int(slot[4:] or 1))), 1)
    before, _, after = text.partition("[X]")
    before = before or ". " * lm.loses_first_token
    return lm.tokenizer(before.replace("[Y]", answer) + subject + after.replace("[Y]", answer))["input_ids"]


@pytest.mark.parametrize("text", TEMPLATES)
@pytest.mark.parametrize("kind", [*KINDS, "albert"])
def test_layout_is_how_the_tokenizer_reads_the_sentence(lms, toys, kind, text):
    lm, template = lms.get(kind) or toys[kind], Template(text)
    # The toy ALBERT's tokenizer knows few letters, and makes one token of several unknown ones in a row.
    subjects = SUBJECTS[:2] if kind == "albert" else SUBJECTS
    if lm.kind == "causal" and re.search(r"\[Y\].*\[[XV]\]", text):
        with pytest.raises(PromptMismatchError, match="causal"):
            template.layout(lm, subjects)
        return
    for layout, subject in zip(template.layout(lm, subjects), subjects, strict=True):
        own = sentence(lm, text, subject)
        free = layout.slots if lm.kind == "causal" else [*layout.slots, layout.answer]
        assert [i for k, i in enumerate(layout.ids) if k not in free] == [
            i for k, i in enumerate(own) if k not in free]
        assert [lm.tokenizer.decode([own[k]]).strip() for k in layout.slots] == WORDS[:template.num_vectors]
        if lm.kind == "causal":
            assert layout.answer == len(own) - 1
        else:
            assert lm.tokenizer.decode([own[layout.answer]]).strip() == "Paris"


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "t5", "bart"])
def test_the_answer_slot_is_the_tokenizers_own_mask(lms, kind):
    lm = lms[kind]
    layout, = Template("The capital of [X] is [Y] .").layout(lm, ["France"])
    blank = lm.tokenizer.mask_token or "<extra_id_0>"
    assert layout.ids == lm.tokenizer(f"The capital of France is {blank} .")["input_ids"]
    assert layout.ids[layout.answer] == lm.tokenizer.convert_tokens_to_ids(blank)


@pytest.mark.parametrize("kind", [*KINDS, "albert"])
def test_subjects_are_text_whatever_they_hold(lms, toys, kind):
    lm = lms.get(kind) or toys[kind]
    tokens = lm.tokenizer.all_special_tokens
    assert lm.word_ids(tokens) == [None] * len(tokens)
    if kind in ("roberta", "gpt2", "qwen2", "opt", "bart"):  # they know every byte
        assert [lm.tokenizer.decode(ids).strip() for ids in lm.tokenize_many(tokens)] == tokens
        assert all(len(ids) > 1 for ids in lm.tokenize_many(tokens))
    for text in ("[X] [V] [Y] .", "The capital of [X] is [Y] .", '"[X]" [Y]'):
        if lm.kind == "causal":
            text = text.removesuffix(" .")
        template = Template(text)
        plain, *others = template.layout(lm, ["France", *tokens, *(f"the {token}, or" for token in tokens)])
        fixed = [i for i in plain.ids if i in lm.control_ids]
        for layout in others:
            assert [i for i in layout.ids if i in lm.control_ids] == fixed
            assert len(layout.slots) == template.num_vectors
            assert layout.ids[layout.answer] == lm.blank_id or lm.kind == "causal"


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_of_the_template_are_its_authors(lms, kind):
    lm = lms[kind]
    token = lm.tokenizer.all_special_tokens[0]
    layout, = Template(f"people {token} [X] is [Y]").layout(lm, ["France"])
    assert lm.tokenizer.convert_tokens_to_ids(token) in layout.ids[len(lm.frame[0]):layout.answer]


@pytest.mark.parametrize("text", ["[X] [V] [Y]", "The capital of [X] is [Y]", '"[X]" is [Y]'])
@pytest.mark.parametrize("kind", KINDS)
def test_spaces_around_a_subject_and_none_in_it(lms, kind, text):
    lm = lms[kind]
    plain, spaced, empty = Template(text).layout(lm, ["Saint Helena", " Saint Helena \n", " "])
    assert spaced == plain
    if text.startswith("The"):
        own = sentence(lm, "The capital of is [Y]", "")
        assert [i for k, i in enumerate(empty.ids) if k != empty.answer or lm.kind == "causal"] == [
            i for k, i in enumerate(own) if k != empty.answer or lm.kind == "causal"]
    assert len(empty.ids) < len(plain.ids)


def test_an_answer_is_predicted_from_something_even_after_an_empty_subject(lms):
    assert lms["qwen2"].frame == ([], [])
    for kind in ("llama", "qwen2"):
        lm = lms[kind]
        read = [layout.ids for layout in Template("[X] [Y]").layout(lm, ["France", ""])]
        assert read[1] == (lm.frame[0] or lm.tokenizer(".")["input_ids"])


@pytest.mark.parametrize(("kind", "start"), [("llama", "<s>"), ("gemma", "<bos>"), ("opt", "</s>"), ("qwen2", None),
                                             ("gpt2", None)])
def test_causal_lms_start_as_their_tokenizers_do(lms, kind, start):
    lm = lms[kind]
    layout, = Template("[V]*5 [X] [Y]").layout(lm, ["France"])
    assert layout.slots[0] == (0 if start is None else 1)
    assert start is None or layout.ids[0] == lm.tokenizer.convert_tokens_to_ids(start)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma"])
def test_text_after_the_answer_does_not_count_for_a_causal_lm(lms, kind):
    short, *longer = (Template(f"[X] [V]*2 is [Y]{end}").layout(lms[kind], ["France"]) for end in ("", " .", ", old !"))
    assert all(layouts == short for layouts in longer)


def test_answer_and_slots_hold_the_mask(toys):
    lm = toys["bert"]
    layout, = Template("[X] [V]*3 [Y] .").layout(lm, ["New Zealand"])
    assert [layout.ids[i] for i in (*layout.slots, layout.answer)] == [lm.tokenizer.mask_token_id] * 4
    assert layout.slots == [3, 4, 5]  # after [CLS] New Zealand
    assert layout.answer == 6


def test_causal_layout_ends_where_the_answer_is_predicted(toys):
    lm = toys["gpt2"]
    layout, = Template("[X] [V]*2 [Y] .").layout(lm, ["New Zealand"])
    assert layout.ids[:3] == lm.tokenizer(". New Zealand")["input_ids"]
    assert layout.slots == [3, 4]
    assert layout.answer == 4 == len(layout.ids) - 1


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
    rows = [chosen for chosen, _ in batches(layouts, toys["bert"], size=2)]
    assert sorted(i for chosen in rows for i in chosen) == list(range(5))
    lengths = [len(layouts[i].ids) for chosen in rows for i in chosen]
    assert lengths == sorted(lengths)


@pytest.mark.parametrize(("kind", "loses"), [("gpt2", True), ("qwen2", True), ("llama", False), ("gemma", False),
                                             ("bert", False), ("t5", False)])
def test_text_stands_before_a_subject_that_the_lm_would_hardly_read(lms, kind, loses):
    """A causal LM whose tokenizer adds no start token hardly reads what stands first."""
    lm = lms[kind]
    assert lm.loses_first_token == loses
    assert ("a full stop" in repr(lm)) == loses

    def read(template):
        [layout] = Template(template).layout(lm, ["France"])
        return layout.ids

    assert (read("[X] lies in [Y] .") == read(". [X] lies in [Y] .")) == loses
    assert (read(" [X] lies in [Y] .") == read(". [X] lies in [Y] .")) == loses
    assert read("In [X] lies [Y] .") != read(". In [X] lies [Y] ."), "words stand first already"
    assert read("[V] [X] [Y] .") != read(". [V] [X] [Y] ."), "as do vectors, which can do without the first"
