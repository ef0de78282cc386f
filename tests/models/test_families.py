"""Every family: a prompt of ordinary word embeddings answers as the model does on these words."""

import pytest
import torch
from families import CAUSAL, FAMILIES, MASKED, SEQ2SEQ

from ptlib import PromptMismatchError, Task, evaluate, load_lm, transfer, tune
from ptlib.prompts.templates import Template, collate

pytestmark = pytest.mark.slow

SUBJECTS = ["France", "New Zealand", "the old capital of Saint Helena"]
# The same sentence with no, some and all of its words as prompt vectors.
TEMPLATES = ["The capital of [X] is [Y] .", "The [V]*2 [X] [V] [Y] .", "[V]*3 [X] [V] [Y] ."]


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """family(name) -> (the LM as ``load_lm`` gives it, the model that was saved), built once."""
    built = {}

    def get(name):
        if name not in built:
            folder = tmp_path_factory.mktemp("family") / name
            model = FAMILIES[name].save(folder)
            built[name] = load_lm(folder, device="cpu"), model
        return built[name]

    return get


def reference(lm, model, subject):
    """(ids, position of the answer, logits there) of the sentence, as a user of transformers would get them."""
    tokenizer, start = lm.tokenizer, f"The capital of {subject} is"
    if lm.kind == "causal":
        ids = tokenizer(start, return_tensors="pt")["input_ids"]
        return ids[0].tolist(), ids.shape[1] - 1, model(input_ids=ids).logits[0, -1]
    blank = tokenizer.mask_token or "<extra_id_0>"
    ids = tokenizer(f"{start} {blank} .", return_tensors="pt")["input_ids"]
    at = ids[0].tolist().index(tokenizer.convert_tokens_to_ids(blank))
    if blank == "<extra_id_0>":
        decoder = torch.tensor([[model.config.decoder_start_token_id, tokenizer.convert_tokens_to_ids(blank)]])
        return ids[0].tolist(), at, model(input_ids=ids, decoder_input_ids=decoder).logits[0, 1]
    return ids[0].tolist(), at, model(input_ids=ids).logits[0, at]


@pytest.mark.parametrize("text", TEMPLATES)
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_words_as_vectors_answer_as_words_as_tokens(family, name, text):
    lm, model = family(name)
    own = [reference(lm, model, subject) for subject in SUBJECTS]
    layouts = Template(text).layout(lm, SUBJECTS)
    assert len({len(layout.ids) for layout in layouts}) > 1, "the batch should need padding"
    for layout, (ids, at, _) in zip(layouts, own, strict=True):
        assert layout.answer == at
        assert [i for k, i in enumerate(layout.ids) if k not in layout.slots] == [
            i for k, i in enumerate(ids) if k not in layout.slots]
    vectors = torch.stack([lm.embeddings[[ids[k] for k in layout.slots]]
                           for layout, (ids, _, _) in zip(layouts, own, strict=True)])
    batch, seen = collate(layouts, lm.device), []
    spy = lm.model.get_output_embeddings().register_forward_hook(lambda head, args, out: seen.append(args[0].shape))
    logits = lm.answer_logits(batch.ids, batch.mask, batch.slots, vectors, batch.answers)
    spy.remove()
    torch.testing.assert_close(logits, torch.stack([logits for _, _, logits in own]), atol=1e-4, rtol=1e-4)
    assert logits.shape == (len(SUBJECTS), lm.vocab_size)
    assert [shape[:-1].numel() for shape in seen] == [len(SUBJECTS)], "the head should see the answer slots alone"


@pytest.mark.parametrize("name", FAMILIES)
def test_kind(family, name):
    assert family(name)[0].kind == ("masked" if name in MASKED else "causal" if name in CAUSAL else "seq2seq")


@pytest.mark.parametrize("name", FAMILIES)
def test_embeddings_are_what_enters_the_model(family, name):
    lm, model = family(name)
    layer = model.get_input_embeddings()
    torch.testing.assert_close(lm.embeddings, layer(torch.arange(lm.vocab_size)).detach(), atol=0, rtol=0)
    scaled = "gemma" in name or "scaled" in name
    assert torch.equal(lm.embeddings, layer.weight) == (not scaled)
    width = model.config.hidden_size
    assert lm.dim == (8 if name in ("albert", "electra", "opt-projected") else width)


@pytest.mark.parametrize("name", FAMILIES)
def test_words_are_one_token_in_the_middle_of_a_sentence(family, name):
    lm, _ = family(name)
    words = ["capital", "Paris", "people"]
    ids = lm.word_ids(words)
    assert lm.words.keys() >= set(words)
    for word, i in zip(words, ids, strict=True):
        assert lm.tokenizer(f"The capital of {word}", add_special_tokens=False)["input_ids"][-1] == i
        assert lm.words[word] == i


@torch.no_grad()
def loss(lm, prompt, examples):
    batch = collate(Template(prompt.template).layout(lm, [e.subject for e in examples]), lm.device)
    logits = lm.answer_logits(batch.ids, batch.mask, batch.slots, prompt.vectors, batch.answers)
    return torch.nn.functional.cross_entropy(logits, torch.tensor(lm.word_ids(e.object for e in examples))).item()


@pytest.mark.parametrize(("source", "target"), [("distilbert", "gemma3"), ("llama", "t5"), ("t5-untied", "bart-scaled"),
                                                ("bart", "opt-projected"), ("gemma", "electra")])
def test_tune_transfer_evaluate(family, capitals, source, target):
    assert {source, target} & (SEQ2SEQ.keys() | CAUSAL.keys())
    (lm, _), (other, _) = family(source), family(target)
    task = Task("capitals", capitals.train + capitals.dev, (), capitals.test, None)
    start, tuned = (tune(lm, task, num_vectors=3, epochs=epochs, lr=lr) for epochs, lr in ((1, 1e-9), (5, 0.3)))
    assert loss(lm, tuned, task.train) < loss(lm, start, task.train) - 0.02
    moved = transfer(tuned, source=lm, target=other)
    assert moved.vectors.shape == (3, other.dim)
    moved.check(other)
    result = evaluate(other, moved, task.test, candidates=[e.object for e in task.train + task.test])
    assert result.n == len(task.test) and result.predictions["rank"].between(1, result.num_candidates).all()


@pytest.mark.parametrize("text", ["The capital of [X] is [Y] .", "[V]*3 [X] [V]*2 [Y] ."])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_long_subject_loses_its_end_and_the_prompt_nothing(family, name, text):
    lm, _ = family(name)
    template, subjects = Template(text), ["France", " ".join(["the old capital of Saint Helena"] * 20)]
    if name in ("t5", "t5-untied", "bloom"):
        assert lm.max_length is None
        layouts = template.layout(lm, subjects)
        assert len(layouts[1].ids) > 100
    else:
        with pytest.warns(UserWarning, match="1 of 2 subjects are cut"):
            layouts = template.layout(lm, subjects)
        assert len(layouts[1].ids) == lm.max_length <= 64
    short, long = layouts
    begun, = template.layout(lm, ["the old capital of Saint"])
    assert long.ids[:begun.answer - 3] == begun.ids[:begun.answer - 3]
    assert [long.ids[i] for i in long.slots] == [short.ids[i] for i in short.slots]
    behind = len(short.ids) - short.answer
    assert long.ids[-behind:] == short.ids[-behind:] or lm.kind == "causal"
    assert long.answer == len(long.ids) - behind
    batch = collate(layouts, lm.device)
    vectors = torch.zeros(template.num_vectors, lm.dim)
    assert lm.answer_logits(batch.ids, batch.mask, batch.slots, vectors, batch.answers).isfinite().all()


@pytest.mark.parametrize("name", ["bert", "roberta", "xlm-roberta", "albert", "distilbert", "electra", "mpnet", "gpt2",
                                  "opt", "bart"])
def test_max_length_is_all_that_learned_positions_allow(family, name):
    lm, _ = family(name)
    lm.model(inputs_embeds=lm.embeddings[None, :lm.max_length], **decoder_of(lm, lm.max_length))
    with pytest.raises((IndexError, RuntimeError)):
        lm.model(inputs_embeds=lm.embeddings[None, :lm.max_length + 1], **decoder_of(lm, lm.max_length + 1))


def decoder_of(lm, length):
    return {"decoder_inputs_embeds": lm.embeddings[None, :length]} if lm.kind == "seq2seq" else {}


@pytest.mark.parametrize("name", ["bert", "gpt2", "bart"])
def test_a_template_that_leaves_no_room(family, name):
    lm, _ = family(name)
    with pytest.raises(PromptMismatchError, match="shorten it"):
        Template(f"[X] [V]*{lm.max_length + 1} [Y]").layout(lm, ["France"])
