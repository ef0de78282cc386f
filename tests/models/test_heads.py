"""Logits of some words alone: those that they have among all, and finer ones in half precision."""

import torch

import ptlib
from ptlib.models.heads import head_of
from ptlib.prompts.templates import Template, batches

FRANCE = ["France", "Spain", "New Zealand"]


def answers(lm, words=None):
    """The logits at the answer slots of three texts with two prompt vectors each."""
    template = Template("[X] [V]*2 [Y] .")
    [(_, batch)] = batches(template.layout(lm, FRANCE), lm)
    return batch.logits(lm, lm.embeddings[lm.given_ids[-2:]], words)


def test_some_words_have_the_logits_that_they_have_among_all(lm):
    words = lm.given_ids[[5, 3, 9, 3]]
    torch.testing.assert_close(answers(lm, words), answers(lm)[:, words], atol=1e-5, rtol=1e-5)
    assert lm.head(words).weight.shape == (4, lm.head(words).weight.shape[1])
    assert "forward" not in vars(lm.model.get_output_embeddings()), "the model is as it was"
    other = lm.given_ids[[4, 8]]
    torch.testing.assert_close(answers(lm, other), answers(lm)[:, other], atol=1e-5, rtol=1e-5)


def test_all_words_are_asked_of_the_model_itself(lm):
    everything = torch.arange(lm.vocab_size)
    assert lm.head(everything) is None
    assert torch.equal(answers(lm, everything), answers(lm))


def test_a_model_with_something_behind_its_last_layer_is_asked_for_all(toys, monkeypatch):
    """As BART adds a bias for every token: the answer is the same, and no error."""
    lm = ptlib.LanguageModel(toys["gpt2"].model, toys["gpt2"].tokenizer, "biased", "causal")
    bias = torch.linspace(-1, 1, lm.vocab_size)
    forward = type(lm.model).forward

    def biased(self, *args, **inputs):
        output = forward(self, *args, **inputs)
        output.logits = output.logits + bias
        return output

    monkeypatch.setattr(type(lm.model), "forward", biased)
    words = lm.given_ids[[7, 2]]
    assert torch.equal(answers(lm, words), answers(lm)[:, words])


def test_a_last_layer_that_is_not_plainly_linear_is_left_alone(toys):
    class Scaled(torch.nn.Linear):
        pass

    lm = toys["bert"]
    own = lm.model.get_output_embeddings()
    try:
        own.__class__ = Scaled
        assert head_of(lm.model, lm.given_ids[:3]) is None
    finally:
        own.__class__ = torch.nn.Linear


def test_words_that_half_precision_makes_equal_are_told_apart(toys):
    """The prediction of a model in bfloat16 is rounded to 8 bits; its hidden states hold more."""
    half = ptlib.load_lm(toys["gpt2"].name, dtype=torch.bfloat16)
    words = half.given_ids[5:-5]
    rounded, fine = answers(half)[:, words], answers(half, words)
    assert (fine - rounded).abs().max() < 2**-7 * rounded.abs().max()
    assert len(fine.unique()) > len(rounded.unique())
