"""Mutated input files: each gives an error of ptlib's, or what plain libraries read from the same bytes."""

import ast
import csv
import io
import json
import math
import random
import re
import shutil
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest
import torch
import yaml
from conftest import CAPITALS, SENTENCES, uncased_tokenizer, write_notebook
from families import FAMILIES
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerFast

import ptlib
from ptlib.prompts.peft import load_peft_prompt, save_peft_prompt
from ptlib.sweep.grids import expand, read_grid, read_notebook

pytestmark = pytest.mark.slow

# --- mutators: bytes and a random generator in, other bytes out ----------------------------------

PIECES = [b"\0", b"\xff", b"\xc3", b"\r", b"\n", b'"', b" ", b"\t", b",", *(text.encode() for text in "\ufeff\u2028🙂")]
VALUES = [None, True, False, 0, 1, 3, -1, 2.5, 10**18, math.nan, math.inf, "", " ", "x", "1", "I32", "a" * 300, "\0",
          "\ud800", [], [1], [[]], {}, {"a": 1}]


def flipped(data, draw):
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ draw.randrange(1, 256)]) + data[at + 1:]


def cut(data, draw):
    return data[:draw.randrange(len(data))]


def inserted(data, draw):
    at = draw.randrange(len(data) + 1)
    return data[:at] + draw.choice(PIECES) + data[at:]


def lacking(data, draw):
    at = draw.randrange(len(data))
    return data[:at] + data[at + draw.randrange(1, 9):]


def lines(data, draw):
    """One is dropped, stands twice, or in the place of another."""
    rows = data.splitlines(keepends=True)
    one, other = draw.randrange(len(rows)), draw.randrange(len(rows))
    rows[one:one + 1] = draw.choice([[], [rows[one]] * 2, [rows[other]]])
    return b"".join(rows)


def blanks(data, draw):
    """Around the cells of a line, in the places of commas, tabs and colons."""
    rows = data.splitlines(keepends=True)
    one = draw.randrange(len(rows))
    rows[one] = re.sub(rb'([,\t:])(?=\S)', rb" \1 ", rows[one])
    return b"".join(rows)


def changed(value, draw):
    """A JSON value of which one part, deep inside or not, is another, gone, or named otherwise."""
    if not isinstance(value, dict | list) or not value or draw.random() < 0.05:
        return draw.choice(VALUES)
    key, kind = draw.choice(list(value) if isinstance(value, dict) else range(len(value))), draw.random()
    if kind < 0.7:
        value[key] = changed(value[key], draw)
    elif kind < 0.85 or isinstance(value, list):
        del value[key]
    else:
        value[draw.choice([key + "s", key.upper(), " " + key])] = value.pop(key)
    return value


def in_json(data, draw):
    return json.dumps(changed(json.loads(data), draw)).encode()


def in_json_line(data, draw):
    rows = data.splitlines()
    one = draw.randrange(len(rows))
    rows[one] = in_json(rows[one], draw)
    return b"\n".join(rows)


def key_twice(data, draw):
    """One that a JSON text has stands once more before itself, with another value."""
    found = draw.choice(list(re.finditer(rb'"\w+":', data)))
    return data[:found.start()] + found[0] + b' "Rome", ' + data[found.start():]


def in_header(data, draw):
    """Of a safetensors file: the names, types, shapes and places of tensors, or the JSON that stands as a string."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    notes = header.get("__metadata__", {})
    if "ptlib" in notes and draw.random() < 0.5:
        notes["ptlib"] = in_json(notes["ptlib"], draw).decode()
    else:
        header = changed(header, draw)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size:]


def not_finite(data, draw):
    """A number of the last tensors is none, or huge."""
    at = len(data) - 4 * draw.randrange(1, 17)
    return data[:at] + struct.pack("<f", draw.choice([math.nan, math.inf, -math.inf, 3e38])) + data[at + 4:]


ANY = [flipped, cut, inserted, lacking]
TEXT = [*ANY, inserted, lines, lines, blanks]
JSON_LINES = [*TEXT, in_json_line, in_json_line, in_json_line, key_twice]
JSON = [*ANY, lines, key_twice, *[in_json] * 8]
TENSORS = [*ANY, not_finite, not_finite, *[in_header] * 5]


# --- many of them, and all that goes wrong -------------------------------------------------------


@dataclass
class Case:
    """Files that are there in ``folder``; ``read`` gives a result, and ``judge`` raises unless it is what they say."""

    folder: Path
    read: Callable
    judge: Callable


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def outcome(case, folder):
    """``"error"`` or ``"right"``; else what is wrong."""
    before = content(folder)
    try:
        result = case.read(folder)
    except ptlib.PromptTransferError as error:
        found = "error" if str(error).strip() and "\n" not in str(error).strip() else f"not one sentence: {error}"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # what panics in Rust is no Exception
        found = f"{type(error).__name__}: {error}"
    else:
        try:
            case.judge(folder, result)
            found = "right"
        except Exception as error:
            found = f"accepted, but {type(error).__name__}: {error}"
    return found if content(folder) == before else f"{found}, and the folder holds something else than before"


def assert_each_told_or_right(case, file, mutators, count, room):
    """``count`` mutations of one of the case's files, each in a copy of the folder."""
    original, counts, wrong = (case.folder / file).read_bytes(), Counter(), []
    for seed in range(count):
        draw = random.Random(f"{file} {seed}")
        data = original
        while data == original:  # not each finds something to do
            mutator = draw.choice(mutators)
            data = mutator(original, draw)
        folder = shutil.copytree(case.folder, room / str(seed))
        (folder / file).write_bytes(data)
        found = outcome(case, folder)
        shutil.rmtree(folder)
        counts[found if found in ("error", "right") else "wrong"] += 1
        if found not in ("error", "right"):
            wrong.append(f"seed {seed}, {mutator.__name__}: {' '.join(found.split())[:300]}")
    print(f"{file}: {dict(counts)}")
    assert not wrong, "\n".join([f"{file}: {dict(counts)}", *wrong])
    assert min(counts["error"], counts["right"]) > 0


def save_checkpoint(folder, family):
    """A model whose files are the same in every process, as those with tokenizers that are trained are not."""
    tokenizer = uncased_tokenizer() if family == "bert" else byte_level_tokenizer()
    FAMILIES[family].build(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def byte_level_tokenizer():
    """BPE that puts each word of the toy text together from its start on."""
    words = dict.fromkeys("Ġ" + word for text in SENTENCES for word in text.split())
    merges = dict.fromkeys((word[:at], word[at]) for word in words for at in range(1, len(word)))
    tokens = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, list(merges)))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=tokens[0], eos_token=tokens[0])


# --- tasks ---------------------------------------------------------------------------------------

SPLITS = ["train"] * 8 + ["dev"] * 4 + ["test"] * 8
FACTS = [(*fact, split) for fact, split in zip(CAPITALS.items(), SPLITS, strict=True)]
TEXTS = [(f"it is {i} times {word}", label) for i in range(4) for word, label in (("fine", "1"), ("dull", "0"))]


def plain_rows(path):
    """What the csv or json modules read, without the blanks around it."""
    text = path.read_bytes().decode("utf-8-sig")
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    else:
        dialect = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {
            "strict": True, "skipinitialspace": True}
        cells = [row for row in csv.reader(io.StringIO(text, newline=""), **dialect) if any(map(str.strip, row))]
        rows = [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]
    return [{key.strip(): value.strip() if isinstance(value, str) else value for key, value in row.items()}
            for row in rows]


def plain_words(path):
    """The label words and the template that the json module reads."""
    said = {key.strip(): value for key, value in json.loads(path.read_text(encoding="utf-8")).items()}
    words = said.get("label_words")
    words = dict(enumerate(words)) if isinstance(words, list) else words
    return words and {str(label).strip(): word.strip() for label, word in words.items()}, said.get("template") or None


def judge_task(folder, task):
    path = folder / task.name
    rows, labelled = plain_rows(path), path.stem == "labelled"
    subject, answer = ("text", "label") if labelled else ("sub_label", "obj_label")
    words = {str(row[answer]): str(row[answer]) for row in rows}
    if labelled:
        given, template = plain_words(folder / "labelled.verbalizer.json")
        words = given or words
        assert (task.label_words, task.manual_template) == (words, template)
        assert len(set(words.values())) == len(words)
    assert all(isinstance(row[subject], str) and row[subject] and row[answer] not in ("", None) for row in rows)
    facts = [(row[subject], words[str(row[answer])]) for row in rows]
    named = [row.get("split") or None for row in rows]
    parts = {name: [(e.subject, e.object) for e in getattr(task, name)] for name in ("train", "dev", "test")}
    if set(named) in ({None}, {"train"}):
        assert set(facts) == {fact for part in parts.values() for fact in part}
    else:
        assert parts == {name: [fact for fact, split in zip(facts, named, strict=True) if split == name]
                         for name in parts}
        assert set(named) <= parts.keys()


def write_rows(path, columns, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) + "\n"
                                for row in rows), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([columns, *rows])


@pytest.mark.parametrize(("file", "mutators", "count"), [
    ("facts.csv", TEXT, 150), ("facts.tsv", TEXT, 150), ("facts.jsonl", JSON_LINES, 200),
    ("labelled.csv", TEXT, 60), ("labelled.jsonl", JSON_LINES, 60), ("labelled.verbalizer.json", JSON, 150)])
def test_task_files(tmp_path, file, mutators, count):
    made, task = tmp_path / "made", "labelled.csv" if file.endswith(".json") else file
    made.mkdir()
    if file.startswith("facts"):
        write_rows(made / task, ("sub_label", "obj_label", "split"), FACTS)
    else:
        write_rows(made / task, ("text", "label"), TEXTS)
        (made / "labelled.verbalizer.json").write_text(json.dumps(
            {"label_words": {"0": "bad", "1": "good"}, "template": "[X] . it was [Y] ."}, indent=1), encoding="utf-8")
    case = Case(made, lambda folder: ptlib.load_task(task, folder), judge_task)
    assert_each_told_or_right(case, file, mutators, count, tmp_path)


# --- grids ---------------------------------------------------------------------------------------

GRID = """# a sweep
cross:
  x: [1, 2, 3]
  words: [a, null]
zip:
  seed: [0, 1]
  scale: [0.5, 2.0e-3]
rows:
  - &first {x: 9, flag: true}
  - {<<: *first, x: 10, sizes: [3, 4]}
exclude:
  - {x: 2, seed: 1}
"""
PARAMETERS = """x: int = 0
scale: float = 1.0
words: Optional[str] = None
flag: bool = False
sizes: list = [1, 2]
seed: int = 0"""
TYPES = {"x": (int,), "scale": (float,), "words": (str, type(None)), "flag": (bool,), "sizes": (list,), "seed": (int,)}
DEFAULTS = {"x": 0, "scale": 1.0, "words": None, "flag": False, "sizes": [1, 2], "seed": 0}


def keys_twice(node):
    """Whether a mapping of a YAML document has one key twice; what an anchor adds is not its own."""
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value]
        return len(set(map(str, keys))) < len(keys) or any(keys_twice(value) for _, value in node.value)
    return isinstance(node, yaml.SequenceNode) and any(map(keys_twice, node.value))


def judge_runs(folder, runs):
    text = (folder / "grid.yaml").read_text(encoding="utf-8")
    # The loader in Python, where ptlib has the one in C; but it refuses tabs that YAML allows.
    loader = yaml.CSafeLoader if "\t" in text else yaml.SafeLoader
    assert not keys_twice(yaml.compose(text, loader))
    grid = yaml.load(text, loader)
    cross, together = grid.get("cross", {}), grid.get("zip", {})
    axes = [[{name: value} for value in values] for name, values in cross.items()]
    if together:
        axes.append([dict(zip(together, values, strict=True)) for values in zip(*together.values(), strict=True)])
    rows = [{name: value for part in parts for name, value in part.items()} for parts in product(*axes) if axes]
    expected = []
    for run in ({**DEFAULTS, **row} for row in [*rows, *grid.get("rows", [])]):
        out = any(all(run[name] == value for name, value in entry.items()) for entry in grid.get("exclude", []))
        if not out and run not in expected:
            expected.append(run)
    assert runs == expected
    for run in runs:
        assert {name: type(value) in TYPES[name] for name, value in run.items()} == dict.fromkeys(TYPES, True)


def test_grids(tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "grid.yaml").write_text(GRID, encoding="utf-8")
    notebook = read_notebook(write_notebook(tmp_path / "tiny.ipynb", "from typing import Optional", PARAMETERS, "x"))
    case = Case(tmp_path / "made", lambda folder: expand(read_grid(folder / "grid.yaml"), notebook), judge_runs)
    assert_each_told_or_right(case, "grid.yaml", [*ANY, *TEXT], 400, tmp_path)


def judge_notebook(folder, notebook):
    cells = json.loads((folder / "tiny.ipynb").read_text(encoding="utf-8"))["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", []))
    named = set(re.findall(r"^\s*(\w+)\s*[:=]", source, re.MULTILINE))
    assert notebook.parameters.keys() <= named
    with suppress(SyntaxError, UnicodeEncodeError):  # of a cell that is no Python each run tells
        ast.parse(source)
        assert notebook.parameters.keys() == named


def test_notebooks(tmp_path):
    (tmp_path / "made").mkdir()
    write_notebook(tmp_path / "made" / "tiny.ipynb", "from typing import Optional", PARAMETERS, "x")
    case = Case(tmp_path / "made", lambda folder: read_notebook(folder / "tiny.ipynb"), judge_notebook)
    assert_each_told_or_right(case, "tiny.ipynb", JSON, 80, tmp_path)


# --- prompts -------------------------------------------------------------------------------------


VECTORS = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))


def tensor_of(path, name):
    """A tensor, which is to be of finite numbers, and the notes beside it, as safetensors has them."""
    tensor = load_file(path)[name]
    assert tensor.is_floating_point() and tensor.isfinite().all()
    with safe_open(path, "pt") as file:
        return tensor.float(), file.metadata() or {}


def judge_prompt(folder, prompt):
    vectors, notes = tensor_of(folder / "prompt.safetensors", "vectors")
    about = json.loads(notes["ptlib"])
    words = about.pop("words", None)
    assert torch.equal(prompt.vectors, vectors) and prompt.vectors.dtype == torch.float32
    assert prompt.template.count("[V]") == 1 and prompt.template.count(f"[V]*{len(vectors)}") == 1
    assert all(isinstance(about[name], str) for name in ("template", "lm_name", "lm_fingerprint"))
    assert isinstance(about.get("meta", {}), dict) and isinstance(about.get("task"), str | None)
    assert repr({name: getattr(prompt, name) for name in about}) == repr(about)  # equal, were it not for NaN
    assert (None if prompt.mixture is None else list(prompt.mixture.words)) == words
    for name in ("weights", "gains") if words is not None else ():
        assert torch.equal(getattr(prompt.mixture, name), tensor_of(folder / "prompt.safetensors", name)[0])
        assert all(isinstance(word, str) for word in words)


@pytest.mark.parametrize("mixture", [None, ptlib.Mixture(("Paris", "Rome"), torch.full((3, 2), 0.5), torch.ones(3))])
def test_prompt_files(tmp_path, mixture):
    prompt = ptlib.Prompt(VECTORS, "[X] [V]*3 [Y] .", "toys/bert", "0123456789abcdef", "capitals", {"seed": 0}, mixture)
    prompt.save(tmp_path / "made" / "prompt.safetensors")
    case = Case(tmp_path / "made", lambda folder: ptlib.Prompt.load(folder / "prompt.safetensors"), judge_prompt)
    assert_each_told_or_right(case, "prompt.safetensors", TENSORS, 200, tmp_path)


def judge_peft(folder, prompt):
    vectors, notes = tensor_of(folder / "adapter_model.safetensors", "prompt_embeddings")
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert torch.equal(prompt.vectors, vectors)
    assert (config["peft_type"], config["num_virtual_tokens"]) == ("PROMPT_TUNING", len(vectors))
    assert config.get("task_type") in (None, "CAUSAL_LM") and notes.get("ptlib_start_tokens", "0") == "0"
    assert json.dumps(prompt.meta["peft"]) == json.dumps(config)
    if "ptlib_lm_fingerprint" in notes:
        assert notes["ptlib_lm_fingerprint"] == prompt.lm_fingerprint
    elif (named := config.get("base_model_name_or_path")) is not None:
        assert named.split("/")[-1] == "gpt2"


@pytest.mark.parametrize(("file", "mutators", "count"), [("adapter_config.json", JSON, 150),
                                                         ("adapter_model.safetensors", TENSORS, 150)])
def test_peft_checkpoints(tmp_path, file, mutators, count):
    save_checkpoint(tmp_path / "gpt2", "gpt2")
    lm, made = ptlib.load_lm(tmp_path / "gpt2"), tmp_path / "made"
    prompt = ptlib.Prompt(VECTORS, "[V]*3 [X] [Y]", lm.name, lm.fingerprint)
    save_peft_prompt(prompt, made, lm, base_model="toys/gpt2")
    # PEFT writes no notes, and safetensors writes several in another order each time.
    notes = None if file.endswith(".json") else {"ptlib_lm_fingerprint": lm.fingerprint}
    save_file({"prompt_embeddings": VECTORS}, made / "adapter_model.safetensors", metadata=notes)
    case = Case(made, lambda folder: load_peft_prompt(folder, lm), judge_peft)
    assert_each_told_or_right(case, file, mutators, count, tmp_path)


# --- models --------------------------------------------------------------------------------------

THREE = [ptlib.Example(*fact) for fact in list(CAPITALS.items())[:3]]
CITIES = sorted(CAPITALS.values())


def evaluated(folder):
    lm = ptlib.load_lm(folder)
    prompt = ptlib.Prompt(torch.zeros(0, lm.dim), "The capital of [X] is [Y] .", lm.name, lm.fingerprint)
    return ptlib.evaluate(lm, prompt, THREE, candidates=CITIES)


@torch.no_grad()
def plain_scores(folder, subjects):
    """{subject: {city: score}} by transformers alone, of the cities that are one token."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    masked, found = tokenizer.mask_token is not None, {}
    auto = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    model = auto.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = {city: tokenizer(city if masked else " " + city, add_special_tokens=False).input_ids for city in CITIES}
    for subject in subjects:
        text = f"The capital of {subject} is" + f" {tokenizer.mask_token} ." * masked
        ids = tokenizer(text, return_tensors="pt").input_ids
        at = (ids[0] == tokenizer.mask_token_id).nonzero()[0, 0] if masked else -1
        logits = model(input_ids=ids).logits[0, at]
        found[subject] = {city: logits[ids[0]].item() for city, ids in tokens.items()
                          if len(ids) == 1 and ids[0] != tokenizer.unk_token_id}
    return found


def judge_evaluation(folder, ev):
    plain = plain_scores(folder, ev.predictions["subject"])
    for row in ev.predictions.to_dict("records"):
        scores = plain[row["subject"]]
        own = scores.pop(row["object"])
        assert math.isfinite(own) and all(map(math.isfinite, scores.values()))
        assert len(scores) + 1 == ev.num_candidates
        better = sum(score > own + 1e-4 for score in scores.values())
        equal = sum(abs(score - own) <= 1e-4 for score in scores.values())
        assert 1 + better <= row["rank"] <= 1 + better + equal


@pytest.mark.parametrize(("file", "mutators", "count"), [
    ("config.json", JSON, 50), ("tokenizer.json", JSON, 60), ("tokenizer_config.json", JSON, 30),
    ("model.safetensors", TENSORS, 30)])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_models(tmp_path, family, file, mutators, count):
    save_checkpoint(tmp_path / "made", family)
    case = Case(tmp_path / "made", evaluated, judge_evaluation)
    assert outcome(case, tmp_path / "made") == "right"
    assert_each_told_or_right(case, file, mutators, count, tmp_path)


@pytest.mark.parametrize(("file", "old", "new"), [
    ("tokenizer.json", '"special_tokens": {', '"special_tokens": {}, "other": {'),  # tokenizers panics
    ("tokenizer_config.json", '"mask_token": "[MASK]"', '"mask_token": ""'),  # the unknown token would be the mask
    ("tokenizer_config.json", '"model_max_length": 1', '"model_max_length": [], "other": 1')])
def test_a_tokenizer_that_loads_and_fails_in_use(tmp_path, file, old, new):
    save_checkpoint(tmp_path, "bert")
    text = (tmp_path / file).read_text(encoding="utf-8")
    assert text.count(old) == 1
    (tmp_path / file).write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ptlib.ModelLoadError, match="tokenize"):
        evaluated(tmp_path)
