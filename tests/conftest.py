"""Toy language models of each architecture with random weights, the zoo's trained ones, and the real data."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import nbformat
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import ptlib
from ptlib import Example, Task
from ptlib.models import loading
from ptlib.zoo.pretraining import Spec, build_model
from ptlib.zoo.tokenization import frame, train_tokenizer

ROOT = Path(__file__).parents[1]
FAMILIES = ("bert", "roberta", "albert", "gpt2")
CAPITALS = {"France": "Paris", "Spain": "Madrid", "Italy": "Rome", "Japan": "Tokyo", "Egypt": "Cairo", "Peru": "Lima",
            "Kenya": "Nairobi", "Norway": "Oslo", "Austria": "Vienna", "Greece": "Athens", "Cuba": "Havana",
            "Iran": "Tehran", "Iraq": "Baghdad", "Ghana": "Accra", "Chile": "Santiago", "Saint Helena": "Jamestown",
            "New Zealand": "Wellington", "Saudi Arabia": "Riyadh", "Turkey": "Ankara", "South Korea": "Seoul"}
SENTENCES = [*(f"The capital of {country} is {city} . In {city} , the old capital , many people of {country} live ."
               for country, city in CAPITALS.items()),
             "Some people eat turkey in May but they may also eat rice , bread and fish for lunch .",
             "She was born in a small town by the river where her mother had a house with nine windows ."]
GREEK = ["η Αθήνα είναι πόλη της Ελλάδας ."]


LONGEST = ("test_sweep.py", "test_interruptions.py", "test_real.py", "test_site.py")


def pytest_collection_modifyitems(items):
    """What takes a minute or more comes first, so that no core waits for it at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session", autouse=True)
def _silent():
    ptlib.set_progress(False)


@pytest.fixture(scope="session", autouse=True)
def _on_the_cpu():
    """Most tests compare with tensors of their own, on the CPU; ``test_devices.py`` names a device."""
    on_any = loading.full_device
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "full_device", lambda device: "cpu" if device == "auto" else on_any(device))
        yield


def save_toy(folder: Path, spec: Spec, tokenizer) -> ptlib.LanguageModel:
    """Save a model with random weights in Hugging Face format and load it as a user would."""
    torch.manual_seed(spec.seed)
    model = build_model(spec, tokenizer)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.2)  # at the usual 0.02 the logits would hardly depend on the context
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ptlib.load_lm(str(folder))


def uncased_tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece over the lower-case words of the toy text."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = sorted({word.lower() for text in SENTENCES for word in text.split()})
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(special + words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    frame(tokenizer, "[CLS]", "[SEP]")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]",
                                   cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")


@pytest.fixture(scope="session")
def toys(tmp_path_factory) -> dict[str, ptlib.LanguageModel]:
    """One LM of each family, of three widths, plus an uncased one and one of another script."""
    folder = tmp_path_factory.mktemp("toys")
    sizes = {"bert": Spec("bert", 16, 2, 2, 0, 0, 1), "roberta": Spec("roberta", 24, 2, 2, 0, 0, 2),
             "albert": Spec("albert", 32, 2, 2, 0, 0, 3, embedding=12), "gpt2": Spec("gpt2", 16, 2, 2, 0, 0, 4)}
    lms = {family: save_toy(folder / family, spec, train_tokenizer(family, SENTENCES))
           for family, spec in sizes.items()}
    lms["uncased"] = save_toy(folder / "uncased", sizes["bert"], uncased_tokenizer())
    lms["greek"] = save_toy(folder / "greek", sizes["bert"], train_tokenizer("bert", GREEK))
    return lms


@pytest.fixture(params=FAMILIES)
def lm(request, toys) -> ptlib.LanguageModel:
    """Each family in turn."""
    return toys[request.param]


@pytest.fixture(scope="session")
def capitals() -> Task:
    """A task whose objects the toy LMs know as words."""
    facts = tuple(Example(*pair) for pair in CAPITALS.items())
    return Task("capitals", facts[:8], facts[8:12], facts[12:], "The capital of [X] is [Y] .")


@contextmanager
def sequences_read(lm):
    """A record of the sequences that an LM really reads inside: with a graph to go back through, and without."""
    read = {"backwards": 0, "forwards": 0}
    assert lm.answers_alone  # the first question would test this, with a text of its own

    def count(model, args, inputs):
        read["forwards"] += len(inputs["inputs_embeds"])
        read["backwards"] += len(inputs["inputs_embeds"]) * inputs["inputs_embeds"].requires_grad

    handle = lm.model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield read
    finally:
        handle.remove()


@pytest.fixture(scope="session")
def bert_mini() -> ptlib.LanguageModel:
    return ptlib.load_lm("zoo/bert-mini")


@pytest.fixture(scope="session")
def roberta_mini() -> ptlib.LanguageModel:
    return ptlib.load_lm("zoo/roberta-mini")


@pytest.fixture(scope="session")
def zoo_tasks() -> dict[str, Task]:
    return {name: ptlib.load_task(name) for name in ptlib.list_tasks("zoo")}


@pytest.fixture(scope="session")
def zoo_prompts(bert_mini, zoo_tasks) -> dict[str, ptlib.Prompt]:
    """Prompts of two relations, tuned on a trained LM."""
    return ptlib.tune_many(bert_mini, [zoo_tasks["zoo/P36"], zoo_tasks["zoo/P103"]], epochs=20)


@pytest.fixture(scope="session")
def trex() -> Path:
    """The folder of real data; see its README for the licences."""
    folder = Path(os.environ.get("PTLIB_TREX", ROOT.parent / "shared" / "trex"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; point PTLIB_TREX at a folder with lama/, pararel/ and checkpoints/")
    return folder


ORDERED_THINGS = """
import hashlib, json, sys, ptlib
from ptlib.sweep.grids import expand, read_notebook, run_name
from ptlib.zoo.corpus import sentences

ptlib.set_progress(False)
notebook, facts, *folders = sys.argv[1:]
notebook = read_notebook(notebook)
lms = [ptlib.load_lm(folder) for folder in folders]
tasks = [ptlib.load_task(name) for name in ("zoo/P36", facts)]
print(json.dumps({
    "splits": [[[e.subject for e in part] for part in (task.train, task.dev, task.test)] for task in tasks],
    "anchors": {select: ptlib.shared_anchors(*lms, num=num, select=select).words
                for select, num in (("all", None), ("random", 20), ("frequent", 20))},
    "sentences": [hashlib.sha256("".join(map(repr, sentences(half=half))).encode()).hexdigest()
                  for half in (None, 0, 1)],
    "runs": [run_name(run, notebook) for run in expand({"rows": [{"seed": 1}, {"seed": 2}, {"source": "ä"}]}, notebook)]
    }))
"""


@pytest.fixture(scope="session")
def by_hash_seed(toys, facts_file) -> list[dict]:
    """Everything whose order could depend on the hash seed, from two processes with different ones."""
    command = [sys.executable, "-c", ORDERED_THINGS, str(ROOT / "notebooks" / "00_quickstart.ipynb"), str(facts_file),
               toys["bert"].name, toys["roberta"].name]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True,
                             env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)})
            for seed in ("1", "2")]
    return [json.loads(run.communicate()[0]) for run in runs]


@pytest.fixture(scope="session")
def facts_file(tmp_path_factory) -> Path:
    """The capitals as a JSON-lines file without splits, one of the subjects with two objects."""
    path = tmp_path_factory.mktemp("facts") / "P36.jsonl"
    pairs = [*CAPITALS.items(), ("Chile", "Lima")]
    path.write_text("".join(json.dumps({"sub_label": s, "obj_label": o}) + "\n" for s, o in pairs), encoding="utf-8")
    return path


# --- sweeps -------------------------------------------------------------------------------------


def write_notebook(path: Path, *cells: str) -> Path:
    """The second cell holds the parameters."""
    content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in cells])
    content.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    content.cells[1].metadata["tags"] = ["parameters"]
    nbformat.write(content, path)
    return path


def wait_for(ready, seconds: float = 120):
    end = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


@pytest.fixture
def started():
    """Starts processes, and ends those that are left."""
    processes = []

    def start(*command: str, **options) -> subprocess.Popen:
        processes.append(subprocess.Popen([sys.executable, *command], env={**os.environ, "PYTHONPATH": str(ROOT)},
                                          text=True, **options))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Cluster:
    """Processes as a user starts them, and the scheduler's address."""

    address: str
    scheduler: subprocess.Popen
    workers: list[subprocess.Popen]


@pytest.fixture
def cluster(started, tmp_path):
    """Starts a scheduler and two workers."""
    quiet = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}

    def start(*options: str) -> Cluster:
        file = tmp_path / f"{uuid4().hex}.json"
        scheduler = started("-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0",
                            "--no-dashboard", "--scheduler-file", str(file), **quiet)
        wait_for(file.exists)
        address = json.loads(file.read_text())["address"]
        workers = [started("-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard",
                           "--local-directory", str(tmp_path), "--death-timeout", "60", *options, **quiet)
                   for _ in range(2)]
        return Cluster(address, scheduler, workers)

    return start


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True,
                             text=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
