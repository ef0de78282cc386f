"""The zoo's tokenizers: one of each kind that the paper's models use, trained on the zoo's own text.

Every word of this small text is one token. WordPiece and byte-level BPE learn a few hundred pieces for other words,
and the words of the text are added to their vocabularies. Unigram keeps these words whole by itself.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

__all__ = ["train_tokenizer"]

PIECES = 400
UNIGRAM_SIZE = 3000


def train_tokenizer(family: str, texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Train a fast tokenizer of the kind that the full-size models of ``family`` have.

    ``"bert"``: WordPiece, cased. ``"roberta"`` and ``"gpt2"``: byte-level BPE. ``"albert"``: Unigram, cased so that all
    vocabularies share their words (the tokenizer of the original ALBERT is uncased).
    """
    counts = Counter(word for text in texts for word in text.split())
    words = sorted(counts, key=lambda word: (-counts[word], word))  # ids by frequency, roughly as in large LMs
    return {"bert": _wordpiece, "roberta": _byte_level, "gpt2": _byte_level_causal, "albert": _unigram}[family](
        texts, words)


def _wordpiece(texts: Sequence[str], words: Sequence[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=PIECES, special_tokens=special))
    tokenizer.model = models.WordPiece(with_words(tokenizer, words), unk_token="[UNK]")
    frame(tokenizer, "[CLS]", "[SEP]")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]",
                                   cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")


def train_byte_level(texts: Sequence[str], words: Sequence[str], special: list[str | AddedToken]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=PIECES, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    merges = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    # ignore_merges: a word in the vocabulary becomes one token without merges, as in Llama 3's tokenizer.
    tokenizer.model = models.BPE(with_words(tokenizer, ["Ġ" + word for word in words]), merges, ignore_merges=True)
    return tokenizer


def _byte_level(texts: Sequence[str], words: Sequence[str]) -> PreTrainedTokenizerFast:
    # The mask token swallows the space before it, as RoBERTa's does, so that " <mask>" is one token.
    mask = AddedToken("<mask>", lstrip=True, special=True)
    tokenizer = train_byte_level(texts, words, ["<s>", "<pad>", "</s>", "<unk>", mask])
    frame(tokenizer, "<s>", "</s>")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", cls_token="<s>", eos_token="</s>",
                                   sep_token="</s>", pad_token="<pad>", unk_token="<unk>", mask_token=mask)


def _byte_level_causal(texts: Sequence[str], words: Sequence[str]) -> PreTrainedTokenizerFast:
    end = "<|endoftext|>"
    tokenizer = train_byte_level(texts, words, [end])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end)


def _unigram(texts: Sequence[str], words: Sequence[str]) -> PreTrainedTokenizerFast:
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer  # only needed to make the zoo

    trained = io.BytesIO()
    special = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    # Every word is added 60 times, so that the trainer does not split rare ones.
    SentencePieceTrainer.train(
        sentence_iterator=iter([*texts, *(" ".join([word] * 60) for word in words)]), model_writer=trained,
        vocab_size=UNIGRAM_SIZE, hard_vocab_limit=False, character_coverage=1.0, normalization_rule_name="identity",
        pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, user_defined_symbols=special[2:], minloglevel=2)
    pieces = SentencePieceProcessor(model_proto=trained.getvalue())
    scored = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(pieces.get_piece_size())]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=1))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    mask = AddedToken("[MASK]", lstrip=True, special=True)
    tokenizer.add_special_tokens([*special[:4], mask])
    frame(tokenizer, "[CLS]", "[SEP]")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>",
                                   cls_token="[CLS]", sep_token="[SEP]", mask_token=mask)


def with_words(tokenizer: Tokenizer, words: Sequence[str]) -> dict[str, int]:
    """The vocabulary with ``words`` appended."""
    vocabulary = tokenizer.get_vocab()
    for word in words:
        vocabulary.setdefault(word, len(vocabulary))
    return vocabulary


def frame(tokenizer: Tokenizer, start: str, end: str) -> None:
    """Surround every sequence with its start and end tokens."""
    ids = [(token, tokenizer.token_to_id(token)) for token in (start, end)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", pair=f"{start} $A {end} $B:1 {end}:1", special_tokens=ids)
