"""What stands before the prompt vectors is computed once, and changes no number."""

import pytest
import torch
from families import SMALL, Family

from ptlib import load_lm, random_prompt
from ptlib.models import prefixes as module
from ptlib.prompts.templates import Template, batches, collate

SUBJECTS = ["France", "New Zealand", "the old capital of Saint Helena", "", "Peru"]
HEADS = SMALL | {"num_key_value_heads": 1, "head_dim": 8}
REMEMBER = {
    "gpt2": Family("GPT2", "GPT2LMHeadModel", "gpt2", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}),
    "llama": Family("Llama", "LlamaForCausalLM", "gpt2", HEADS),
    "gemma, a window of three": Family("Gemma3Text", "Gemma3ForCausalLM", "gpt2", HEADS | {"sliding_window": 3}),
    "bloom": Family("Bloom", "BloomForCausalLM", "gpt2", {"hidden_size": 16, "n_layer": 2, "n_head": 2}),
}
DO_NOT = {
    "mamba": Family("Mamba", "MambaForCausalLM", "gpt2", {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}),
    "bert": Family("Bert", "BertForMaskedLM", "bert", SMALL),
}


def loaded(family, folder):
    family.save(folder)
    return load_lm(folder)


def logits_and_gradient(lm, layouts, vectors, batched):
    """(B, V) logits of all layouts, and the gradient of the vectors."""
    leaf, found = vectors.clone().requires_grad_(), {}
    for rows, batch in batched:
        found |= dict(zip(rows, batch.logits(lm, leaf), strict=True))
    logits = torch.stack([found[row] for row in range(len(layouts))])
    return logits, torch.autograd.grad(logits.square().mean(), leaf)[0]


@pytest.mark.parametrize("text", ["[X] [V]*3 [Y]", "The [X] , in [V] words [V]*2 [Y] .",
                                  "[V] Peru , [V] . [V] [X] , [Y]", "France [V] Paris . [X] [V]*2 [Y]"])
@pytest.mark.parametrize("name", REMEMBER)
def test_logits_and_gradients_are_those_of_the_whole_text(tmp_path, name, text):
    lm = loaded(REMEMBER[name], tmp_path)
    assert lm.prefixes is not None
    layouts = Template(text).layout(lm, SUBJECTS)
    vectors = random_prompt(lm, 3).vectors
    whole = [([row], collate([layout], lm.device)) for row, layout in enumerate(layouts)]
    expected = logits_and_gradient(lm, layouts, vectors, whole)
    for _ in range(2):  # once read anew, once remembered
        found = logits_and_gradient(lm, layouts, vectors, batches(layouts, lm, size=3))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    for rows, batch in batches(layouts, lm):  # with a prompt for each text, as in tuning
        own = batch.logits(lm, vectors.expand(len(rows), -1, -1))
        torch.testing.assert_close(own, expected[0][rows], atol=1e-5, rtol=1e-4)


def test_a_prefix_is_read_once(toys, monkeypatch):
    lm, read = toys["gpt2"], []
    layouts, vectors = Template("[X] [V]*2 [Y]").layout(lm, ["Peru", "Saint Helena"]), random_prompt(lm, 2).vectors
    monkeypatch.setattr(lm.prefixes, "known", {})
    handle = lm.model.get_decoder().register_forward_hook(lambda module, args, output: read.append(1))
    for passes in (2, 3, 4):  # the first batch reads the prefixes and what follows, the others what follows alone
        for _, batch in batches(layouts, lm):
            batch.logits(lm, vectors)
        assert len(read) == passes
    handle.remove()


@pytest.mark.parametrize("text", ["[X] [Y]", "The capital of [X] is [Y]", "In France , Paris . In [X] , [Y]"])
@pytest.mark.parametrize("name", REMEMBER)
def test_what_all_texts_without_vectors_begin_with_is_read_once(tmp_path, monkeypatch, name, text):
    lm = loaded(REMEMBER[name], tmp_path)
    monkeypatch.setattr(lm.prefixes, "known", {})
    layouts, vectors = Template(text).layout(lm, SUBJECTS), torch.zeros(0, lm.dim)
    for rows, batch in batches(layouts, lm):
        alone = torch.cat([collate([layouts[row]], lm.device).logits(lm, vectors) for row in rows])
        torch.testing.assert_close(batch.logits(lm, vectors), alone, atol=1e-5, rtol=1e-4)
    assert len(lm.prefixes.known) == (text != "[X] [Y]")


@pytest.mark.parametrize("name", REMEMBER)
def test_demonstrations_before_the_subject_are_read_once(tmp_path, name):
    lm, widths = loaded(REMEMBER[name], tmp_path), []
    layouts = Template("In France , Paris . In [X] , [V] [Y]").layout(lm, SUBJECTS)
    vectors = random_prompt(lm, 1).vectors
    assert lm.prefixes is not None  # which tests the model first
    handle = lm.model.get_input_embeddings().register_forward_hook(lambda module, args, out: widths.append(out.shape))
    [(rows, batch)] = batches(layouts, lm)
    together = batch.logits(lm, vectors)
    handle.remove()
    shared, longest = module.common_length(batch.before), max(map(len, batch.before))
    assert [(sequences, tokens) for sequences, tokens, _ in widths[:2]] == [(1, shared), (len(rows), longest - shared)]
    alone = torch.cat([collate([layouts[row]], lm.device).logits(lm, vectors) for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_memory_is_bounded_and_changes_no_logits(toys, monkeypatch):
    lm = toys["gpt2"]
    monkeypatch.setattr(lm.prefixes, "known", {})
    monkeypatch.setattr(lm.prefixes, "size", 0)
    layouts, vectors = Template("[X] [V]*2 [Y]").layout(lm, SUBJECTS), random_prompt(lm, 2).vectors
    (rows, batch), = batches(layouts, lm)
    expected = batch.logits(lm, vectors)
    monkeypatch.setattr(module, "LIMIT", lm.prefixes.size * 3 // 4)
    monkeypatch.setattr(lm.prefixes, "known", {})
    monkeypatch.setattr(lm.prefixes, "size", 0)
    for row, logits in zip(rows, expected, strict=True):
        (_, own), = batches([layouts[row]], lm)
        torch.testing.assert_close(own.logits(lm, vectors)[0], logits)
        assert lm.prefixes.size == sum(states.nbytes for states in lm.prefixes.known.values()) <= module.LIMIT
    batch.logits(lm, vectors)
    assert lm.prefixes.known.keys() == set(batch.before)  # more than the limit, but this batch needs them


@pytest.mark.parametrize("name", DO_NOT)
def test_other_models_read_the_whole_text(tmp_path, name):
    lm = loaded(DO_NOT[name], tmp_path)
    assert lm.prefixes is None
    layouts = Template("[X] [V]*2 [Y]").layout(lm, SUBJECTS[:3])
    assert all(batch.before is None for _, batch in batches(layouts, lm))
