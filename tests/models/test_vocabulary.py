"""The whole words of a vocabulary are found whatever its tokenizer is made of; and at their place in a text."""

from functools import partial
from pathlib import Path

import families
import pytest
import torch
from conftest import SENTENCES
from families import LETTERS, SMALL, WORDS, begin, pieces, tokenizer_of
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from ptlib import (
    AnchorError,
    Example,
    LanguageModel,
    ModelLoadError,
    Prompt,
    TaskError,
    evaluate,
    random_prompt,
    shared_anchors,
)
from ptlib.models.vocabulary import LARGE, Vocabulary
from ptlib.prompts.templates import Template

SOME = ["capital", "Paris", "people", "windows"]
CHINESE = ["法国的首都是巴黎。", "日本的首都是东京。", "巴黎和东京", "法国和日本", "巴黎", "东京", "法国", "日本"]


def lm_of(tokenizer: Tokenizer, name: str = "toy") -> LanguageModel:
    """A toy BERT with this tokenizer."""
    angled = "<pad>" in tokenizer.get_vocab()
    special = {f"{role}_token": f"<{role}>" if angled else f"[{role.upper()}]" for role in ("pad", "unk", "mask")}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(vocab_size=len(fast), **SMALL, pad_token_id=fast.pad_token_id))
    return LanguageModel(model, fast, name, "masked")


SPECIAL = ["<pad>", "<unk>", "<mask>"]


def metaspace(replacement: str, decoder=None, words: list[str] = WORDS) -> Tokenizer:
    """Unigram with a sign of its own for the space."""
    scored = [(token, 0.0) for token in SPECIAL] + [(replacement + word, -5.0) for word in words]
    known = {token for token, _ in scored}
    scored += [(letter, -20.0) for letter in [replacement, *LETTERS] if letter not in known]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=1))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=replacement)
    if decoder:
        tokenizer.decoder = decoder
    return tokenizer


def byte_level(special: list[str], texts: list[str] = SENTENCES, decoder=None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if decoder:
        tokenizer.decoder = decoder
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=3000, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def ends_of_words() -> Tokenizer:
    """BPE that marks where a word ends, without its decoder."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=3000, special_tokens=SPECIAL,
                                                                 end_of_word_suffix="</w>"))
    return tokenizer


def plain_words() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(SPECIAL + WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def whole_text(added: str | None = None) -> Tokenizer:
    """BPE that reads a text as one piece, its spaces as letters of their own."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # for the training alone
    tokenizer.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=3000, special_tokens=SPECIAL))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Replace("▁", " ")
    if added:
        tokenizer.add_tokens([AddedToken(added, lstrip=True, normalized=False)])
    return tokenizer


def uncased() -> Tokenizer:
    tokenizer = metaspace("▁", decoders.Metaspace(), list(dict.fromkeys(map(str.lower, WORDS))))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    return tokenizer


TOKENIZERS = {
    "unigram, no decoder": lambda: metaspace("▁"),
    "unigram, own sign, no decoder": lambda: metaspace("_"),
    "unigram, decoder of WordPiece": lambda: metaspace("▁", decoders.WordPiece()),
    "unigram": lambda: metaspace("▁", decoders.Metaspace()),
    "byte level": lambda: byte_level(SPECIAL, decoder=decoders.ByteLevel()),
    "byte level, no decoder": lambda: byte_level(SPECIAL),
    "byte level, decoder of WordPiece": lambda: byte_level(SPECIAL, decoder=decoders.WordPiece()),
    "byte level, decoder of Metaspace": lambda: byte_level(SPECIAL, decoder=decoders.Metaspace()),
    "ends of words, no decoder": ends_of_words,
    "words": plain_words,
    "whole text": whole_text,
    "whole text, a word added": lambda: whole_text("Paris"),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_whole_words_are_found(name):
    lm = lm_of(TOKENIZERS[name]())
    assert lm.words.keys() >= set(SOME)
    assert len(lm.words) > 70
    for word, i in lm.words.items():
        assert lm.tokenizer(f"The capital of {word}", add_special_tokens=False)["input_ids"][-1:] == [i]


def test_models_with_foreign_decoders_share_their_words():
    lms = [lm_of(TOKENIZERS[name](), name) for name in ("unigram", "byte level, decoder of WordPiece", "words")]
    assert {*SOME} <= {*shared_anchors(*lms).words}


def plain_words_of(tokenizer: PreTrainedTokenizerFast, name: str) -> dict[str, int]:
    """The whole words, token by token with the tokenizer's own calls."""
    special = set(tokenizer.all_special_ids)

    def after_a_space(word: str) -> list[int]:
        for before in ("a", '"', ""):  # a quotation mark where "a" joins with the word, nothing where both do
            start = tokenizer(before, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            whole = tokenizer(before + " " + word, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            if whole[:len(start)] == start:
                return whole[len(start):]
        raise AssertionError("every text starts with nothing")

    words = {}
    for i, token in enumerate(tokenizer.convert_ids_to_tokens(range(len(tokenizer)))):
        text = tokenizer.decode([i])
        if "byte level" in name:  # by whatever decoder
            text = decoders.ByteLevel().decode([token])
        elif "no decoder" in name or "decoder of" in name:
            text = token.strip("_▁").removesuffix("</w>")
        word = text.strip()
        is_word = any(map(str.isalnum, word)) and not any(map(str.isspace, word)) and i not in special
        if is_word and after_a_space(word) == [i]:
            words[word] = i
    return words


KINDS = {**TOKENIZERS, "unigram, uncased": uncased,
         **{f"family {kind}": partial(tokenizer_of, kind) for kind in families.TOKENIZERS}}


def tokenizer_named(name: str) -> PreTrainedTokenizerFast:
    made = KINDS[name]()
    return made if not isinstance(made, Tokenizer) else PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", pad_token="<pad>", mask_token="<mask>")


@pytest.mark.parametrize("name", KINDS)
def test_the_words_are_those_that_are_found_one_by_one(name):
    tokenizer = tokenizer_named(name)
    found = Vocabulary(tokenizer, name, len(tokenizer)).words
    expected = plain_words_of(tokenizer, name)
    assert len(expected) > 70
    assert list(found.items()) == list(expected.items())


@pytest.mark.parametrize("name", KINDS)
def test_looking_a_word_up_gives_the_same_before_and_after_the_words_are_found(name):
    tokenizer = tokenizer_named(name)
    asked = [*(word.title() for word in WORDS), *(word.lower() for word in WORDS), *WORDS, "Qarqar", "ﬁve", "café", "a",
             "ing", ",", "of the", "▁of", "▁", "Ġof", "", " ", "##s", "<mask>"]
    before, after = (Vocabulary(tokenizer, name, len(tokenizer)) for _ in range(2))
    assert after.words
    assert dict(zip(asked, after.word_ids(asked), strict=True)) == dict(zip(asked, before.word_ids(asked), strict=True))


def large_tokenizer(last: str) -> PreTrainedTokenizerFast:
    words = [*SPECIAL, *(f"w{i}" for i in range(LARGE)), last]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>",
                                   mask_token="<mask>")


def large(last: str, name: str = "large") -> Vocabulary:
    tokenizer = large_tokenizer(last)
    return Vocabulary(tokenizer, name, len(tokenizer))


def entries(cache: Path) -> list[Path]:
    return sorted((cache / "ptlib").rglob("*.json"))


def test_the_words_of_a_large_vocabulary_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = large("end").words
    assert list(first.items())[-1] == ("end", LARGE + 3)
    [entry] = entries(tmp_path)
    again = large("end")
    assert list(again.words.items()) == list(first.items())
    assert "_spell" not in vars(again), "no token was read"
    assert again.word_ids(["end", "w7", "strange"]) == [LARGE + 3, 10, None]
    assert "other" in large("other").words and "end" not in large("other").words
    assert len(entries(tmp_path)) == 2
    smaller = Vocabulary(large_tokenizer("end"), "cut", LARGE + 3)  # the model has no embedding for the last token
    assert "end" not in smaller.words and len(entries(tmp_path)) == 3
    assert entry in entries(tmp_path)


@pytest.mark.parametrize("spoil", [lambda text: text[:-9], lambda text: text.replace("w7", "w8"), lambda text: "",
                                   lambda text: "{}"])
def test_a_spoilt_entry_is_made_again(tmp_path, monkeypatch, spoil):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = large("end").words
    [entry] = entries(tmp_path)
    whole = entry.read_text()
    entry.write_text(spoil(whole))
    assert large("end").words == first
    assert entry.read_text() == whole


class Spaces:
    """A pre-tokenizer in Python, which no file can hold."""

    def pre_tokenize(self, text):
        text.split(lambda i, part: part.split(" ", "removed"))


def test_a_tokenizer_with_parts_in_python_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tokenizer = large_tokenizer("end")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Spaces())
    assert Vocabulary(tokenizer, "python", len(tokenizer)).words == large("end").words
    assert len(entries(tmp_path)) == 1


def test_a_part_that_is_set_after_loading_counts_too():
    """A tokenizer that was read from files is known by them, and by what has been changed since."""
    def digest(change) -> str | None:
        tokenizer = large_tokenizer("end")
        change(tokenizer)
        return Vocabulary(tokenizer, "loaded", len(tokenizer), origin="the same files").digest

    def lowercase(tokenizer):
        tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()

    def in_python(tokenizer):
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Spaces())

    as_read, lower, added = map(digest, (len, lowercase, lambda tokenizer: tokenizer.add_tokens(["narwhal"])))
    assert digest(len) == as_read is not None
    assert len({as_read, lower, added}) == 3
    assert digest(in_python) is None


def test_shared_words_of_large_vocabularies_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = []
    for _ in range(2):
        lms = [lm_of(large_tokenizer(last)._tokenizer, last) for last in ("one", "two")]
        found.append(shared_anchors(*lms))
    assert "_spell" not in vars(lms[0]), "no token was read"
    first, again = found
    assert len(first) == LARGE and first.words == again.words and first.report == again.report
    assert first.report["not shared"] == 2
    assert all(first.ids[name].equal(again.ids[name]) for name in ("one", "two"))


def letters_alone() -> Tokenizer:
    """No token but the special ones is what its text becomes."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*SPECIAL, "???", "!!!"])},
                                           unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def test_a_vocabulary_without_words_says_so():
    lm = lm_of(letters_alone())
    assert lm.words == {}
    vocabulary = rf"no word is one token of toy.*its {len(lm.tokenizer)} tokens"
    with pytest.raises(TaskError, match=vocabulary):
        evaluate(lm, random_prompt(lm), [Example("France", "Paris")])
    with pytest.raises(AnchorError, match="share 0 words"):
        shared_anchors(lm)


def without_merges() -> Tokenizer:
    """BPE whose words lack the merges that make them, as in a file that was converted wrongly."""
    tokens = dict.fromkeys([*SPECIAL, "▁", *LETTERS, "▁a", *("▁" + word for word in WORDS)])
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, [("▁", "a")], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def test_a_tokenizer_that_splits_its_own_words_is_refused():
    with pytest.raises(ModelLoadError, match=rf"toy splits \d+ of the {len(WORDS) + 1} whole words"):
        _ = lm_of(without_merges()).words


# --- the place ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("template", "place"), [
    ("[X] [V]*5 [Y] .", " "), ("[Y] is the capital of [X]", ""), ('The capital of [X] is "[Y]".', '"'),
    ("The capital of [X] ([Y])", "("), ("capital:[Y] [X]", "capital:"), ("[X]的首都是[Y]。", "的首都是"),
    ("[X] [V]*2[Y]", '"'), ("[X][Y]", '"'), (" [Y] [X]", " ")])
def test_the_text_before_the_answer(template, place):
    assert Template(template).place == place


def spoken_of() -> dict[str, LanguageModel]:
    """LMs that have words with and without a space before them, or need none."""
    llama = pieces(["<pad>", "<unk>", "<mask>", "<s>"], bare=True)
    llama.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    begin(llama, "<s>")
    gemma = pieces(["<pad>", "<unk>", "<mask>"], bare=True)
    gemma.normalizer = normalizers.Replace(" ", "▁")
    quoted = byte_level(SPECIAL, [*SENTENCES, *(f'"{word}" ({word}) of:{word}' for word in SOME)] * 3)
    return {"byte level": lm_of(quoted), "llama": lm_of(llama), "gemma": lm_of(gemma),
            "bert": lm_of(tokenizer_of("bert")._tokenizer)}


@pytest.mark.parametrize("name", ["byte level", "llama", "gemma", "bert"])
def test_the_token_of_an_answer_is_the_one_that_stands_there(name):
    lm = spoken_of()[name]
    for text in ('The capital of [X] is "[Y]".', "The capital of [X] ([Y])", "The capital of:[Y] [X]",
                 "The old capital of [X] is [Y] ."):
        before, _, behind = text.replace("[X]", "France").partition("[Y]")
        place, start = Template(text).place, lm.tokenize(before.rstrip(" "))
        for word, i in zip(SOME, lm.word_ids(SOME, place), strict=True):
            whole = lm.tokenize(before + word + behind)
            assert whole[:len(start)] == start
            assert i == whole[len(start)] == lm.words_at(place)[word]
    if name != "bert":
        assert not set(lm.words_at('"').values()) & set(lm.words.values()), "other tokens than behind a space"


def test_ranks_are_of_the_tokens_that_stand_there():
    lm = spoken_of()["byte level"]
    text = 'The capital of [X] is "[Y]".'
    prompt = Prompt(torch.zeros(0, lm.dim), text, lm.name, lm.fingerprint)
    ev = evaluate(lm, prompt, [Example("France", word) for word in SOME], candidates=SOME)
    ids = lm.tokenizer(text.replace("[X]", "France").replace("[Y]", "<mask>"), return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = lm.model(input_ids=ids).logits[0, ids[0].tolist().index(lm.blank_id)]
    behind = [lm.tokenizer(f'"{word}')["input_ids"][1] for word in SOME]
    assert ev.ranks.tolist() == [(logits[behind] >= logits[own]).sum() for own in behind]
    assert set(behind).isdisjoint(lm.word_ids(SOME))


def chinese_lm() -> LanguageModel:
    """Byte-level BPE, in which no Chinese word is one token behind a space."""
    return lm_of(byte_level(SPECIAL, CHINESE, decoders.ByteLevel()))


def test_a_language_without_spaces_is_ranked():
    lm = chinese_lm()
    assert lm.word_ids(["巴黎", "东京"]) == [None, None], "behind a space they are two tokens"
    prompt = Prompt(torch.zeros(0, lm.dim), "[X]的首都是[Y]。", lm.name, lm.fingerprint)
    found = evaluate(lm, prompt, [Example("法国", "巴黎"), Example("日本", "东京")])
    assert found.n == 2 and not found.dropped
    assert {"巴黎", "东京", "法国", "日本"} <= lm.words_at("的首都是").keys()
