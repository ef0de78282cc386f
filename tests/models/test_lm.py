"""One face over the architectures: logits at the answer slot, words, fingerprints, errors."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from ptlib import ModelLoadError, list_lms, load_lm, tune
from ptlib.models.lm import finite_rows, only_positions
from ptlib.prompts.templates import Template, collate


def layouts_of(lm, subjects):
    return Template("[V]*2 [X] [V] [Y]").layout(lm, subjects)


def test_prompt_of_word_embeddings_gives_the_models_own_logits(lm):
    words = lm.word_ids(["capital", "of", "is"])
    layouts = layouts_of(lm, ["France", "Saint Helena", "the old capital of New Zealand"])
    assert len({len(layout.ids) for layout in layouts}) > 1, "the batch should need padding"
    batch = collate(layouts, lm.device)
    answers = lm.answer_logits(batch.ids, batch.mask, batch.slots, lm.embeddings[words], batch.answers)
    for layout, logits in zip(layouts, answers, strict=True):
        ids = torch.tensor([layout.ids])
        ids[0, layout.slots] = torch.tensor(words)
        own = lm.model(input_ids=ids).logits[0, layout.answer]  # alone, without padding
        torch.testing.assert_close(logits, own, atol=1e-4, rtol=1e-4)


def test_each_row_may_have_vectors_of_its_own(lm):
    batch = collate(layouts_of(lm, ["France", "New Zealand"]), lm.device)
    vectors = torch.randn(2, 3, lm.dim, generator=torch.Generator().manual_seed(0))
    both = lm.answer_logits(batch.ids, batch.mask, batch.slots, vectors, batch.answers)
    for i in range(2):
        shared = lm.answer_logits(batch.ids, batch.mask, batch.slots, vectors[i], batch.answers)
        torch.testing.assert_close(both[i], shared[i], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(both[1 - i], shared[1 - i], atol=1e-3), "other vectors should give other logits"


def test_only_positions_gathers_before_the_head(lm):
    ids = torch.tensor([lm.tokenize("The capital of France is"), lm.tokenize("The people of Spain eat")])
    rows, columns = torch.tensor([0, 1, 1]), torch.tensor([2, 0, 4])
    whole = lm.model(input_ids=ids).logits
    with only_positions(lm.model, rows, columns):
        some = lm.model(input_ids=ids).logits
    torch.testing.assert_close(some[0], whole[rows, columns], atol=1e-5, rtol=1e-5)


def test_only_positions_leaves_no_hook_after_an_exception(lm):
    ids, at = torch.tensor([lm.tokenize("The capital of France")]), torch.tensor([0])
    with pytest.raises(RuntimeError, match="deliberate"), only_positions(lm.model, at, at):
        raise RuntimeError("deliberate")
    with pytest.raises(IndexError), only_positions(lm.model, at, at + 99):
        lm.model(input_ids=ids)
    assert not lm.model.base_model._forward_hooks
    assert lm.model(input_ids=ids).logits.shape == (1, ids.shape[1], lm.vocab_size)


@pytest.mark.parametrize("family", ["bert", "roberta", "albert"])
def test_tuning_does_not_touch_the_weights(toys, capitals, family):
    lm = toys[family]
    before = {name: weight.clone() for name, weight in lm.model.state_dict().items()}
    tune(lm, capitals, num_vectors=2, epochs=2)
    assert all(torch.equal(weight, before[name]) for name, weight in lm.model.state_dict().items())
    assert all(weight.grad is None and not weight.requires_grad for weight in lm.model.parameters())


def test_albert_prompts_live_in_the_factorised_table(toys):
    assert toys["albert"].dim == 12 == toys["albert"].embeddings.shape[1] != toys["albert"].model.config.hidden_size


@pytest.mark.parametrize(("family", "kind"), [("bert", "masked"), ("roberta", "masked"), ("albert", "masked"),
                                              ("gpt2", "causal")])
def test_kind(toys, family, kind):
    assert toys[family].kind == kind


def test_load_lm_loads_once(toys):
    name = toys["bert"].name
    assert load_lm(name) is toys["bert"]
    assert load_lm(name, device="auto") is toys["bert"]
    assert load_lm(name=name) is toys["bert"]


def test_fingerprint_tells_weights_apart(toys, tmp_path):
    shutil.copytree(toys["bert"].name, tmp_path / "copy")
    copy = load_lm(str(tmp_path / "copy"))
    assert copy is not toys["bert"]
    assert copy.fingerprint == toys["bert"].fingerprint
    assert len({lm.fingerprint for lm in toys.values()}) == len(toys)


def test_random_weights_control(toys):
    lm, state = toys["bert"], torch.get_rng_state()
    control = lm.with_random_weights(seed=1)
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers should go on undisturbed"
    assert control.embeddings.shape == lm.embeddings.shape
    assert control.fingerprint == lm.with_random_weights(seed=1).fingerprint
    assert len({lm.fingerprint, control.fingerprint, lm.with_random_weights(seed=2).fingerprint}) == 3


def test_words_are_whole_words_and_round_trip(lm):
    assert {"capital", "Paris", "the"} <= lm.words.keys()
    assert lm.word_ids(lm.words) == list(lm.words.values())
    assert list(lm.words.values()) == sorted(set(lm.words.values()))
    assert lm.tokenize_many(f" {word}" for word in lm.words) == [[i] for i in lm.words.values()]
    tokens = lm.tokenizer.convert_ids_to_tokens(list(lm.words.values()))
    assert not [token for token in tokens if token.startswith("##")]
    assert not set(lm.words.values()) & set(lm.tokenizer.all_special_ids)


def test_word_ids_of_what_is_no_single_token(lm):
    assert lm.word_ids(["capital", "New Zealand", "\N{SNOWMAN}", "zzyzx"])[1:] == [None] * 3
    assert lm.word_ids([]) == []


@pytest.mark.parametrize("name", ["/nowhere/at-all", "./nowhere", "~/nowhere-at-all", "zoo/nothing", "zoo/halves",
                                  "zoo/halves/nothing"])
def test_missing_model(name):
    with pytest.raises(ModelLoadError, match=name):
        load_lm(name)


def broken(folder, file, content):
    """``folder`` with one file cut to ``content`` of its bytes, or without it."""
    path = folder / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:content])


@pytest.mark.parametrize("content", [None, 0, 100, -1000])
@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_missing_or_truncated_file(toys, tmp_path, file, content):
    folder = tmp_path / "broken"
    shutil.copytree(toys["bert"].name, folder)
    broken(folder, file, content)
    with pytest.raises(ModelLoadError, match=str(folder)):
        load_lm(str(folder))


def test_weights_that_lack_a_tensor_are_not_made_up(toys, tmp_path):
    # The library underneath only warns, and fills what is missing with random numbers.
    folder = tmp_path / "headless"
    shutil.copytree(toys["bert"].name, folder)
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("cls.predictions.transform")}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=str(folder)):
        load_lm(str(folder))


def test_list_lms_names_what_load_lm_takes():
    assert {"zoo/bert-mini", "zoo/roberta-mini"} <= set(list_lms())
    assert all(load_lm(name).name == name for name in list_lms())


def test_rows_with_a_number_that_is_not_finite_are_found():
    """A row of large numbers is finite, though its sum is not."""
    table = torch.randn(6, 4)
    table[1, 2], table[3, 0], table[4, :2] = torch.nan, -torch.inf, torch.tensor([torch.inf, -torch.inf])
    table[5] = torch.finfo(table.dtype).max
    assert finite_rows(table).tolist() == [True, False, True, False, False, True]
    assert finite_rows(table.to(torch.bfloat16).clamp(-1e3, 1e3)).tolist() == [True, False, True, True, True, True]
