"""Prompts: the vectors that stand in a template, and where they came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import NotFiniteError, PromptLoadError, PromptMismatchError, TaskError
from ..files import replacing
from ..models.lm import LanguageModel
from ..tasks.task import Task
from .history import Carried, Record, Refined, Tuned, history_of
from .mixtures import Mixture
from .templates import Template

__all__ = ["Prompt", "common_template", "default_template", "manual_prompt", "random_prompt", "random_vectors",
           "salted_generator"]


OLD_FINGERPRINT = 16  # characters


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt for one language model.

    Attributes:
        vectors: (m, d) float32; m is 0 for a prompt of words alone.
        template: with m prompt slots, such as ``"[X] [V]*5 [Y] ."``.
        lm_name, lm_fingerprint: the LM in whose embedding space the vectors live.
        task: name of the task that it is for, or None.
        meta: how it was made, as plain JSON; ``history`` is the same as records.
        mixture: the words that the vectors are made of, where they are: then other LMs understand it too (``on``).
    """

    vectors: Tensor
    template: str
    lm_name: str
    lm_fingerprint: str
    task: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    mixture: Mixture | None = None

    def __post_init__(self) -> None:
        slots = Template(self.template).num_vectors
        if self.vectors.ndim != 2 or len(self.vectors) != slots:
            raise PromptMismatchError(f"template {self.template!r} has {slots} prompt slots, but the vectors have the "
                                      f"shape {tuple(self.vectors.shape)}; expected ({slots}, d)")
        broken = int((~self.vectors.isfinite()).sum())
        if broken:
            raise NotFiniteError(f"{broken} of the {self.vectors.numel()} numbers of a prompt for {self.lm_name} are "
                                 "not finite; expected all to be: tune it with a lower lr=, or move it otherwise")

    def __repr__(self) -> str:
        dropped = self.history.dropped if isinstance(self.history, Tuned | Refined) else {}
        counts = [count for reasons in dropped.values() for count in reasons.values()]
        notes = f", {sum(counts)} examples dropped" * bool(counts) + self.unknown
        return f"Prompt({tuple(self.vectors.shape)}, {self.template!r}, for {self.lm_name}, task {self.task}{notes})"

    @cached_property
    def history(self) -> Record:
        """Where it came from."""
        return history_of(self.meta)

    @property
    def unknown(self) -> str:
        """What is not known of the model: ptlib 0.1.0 kept a shorter fingerprint, of its embedding table alone."""
        old = len(self.lm_fingerprint) == OLD_FINGERPRINT
        return ", of whose model the embedding table alone is known (ptlib 0.1.0)" * old

    def check(self, lm: LanguageModel) -> None:
        """Raise PromptMismatchError unless the prompt was made for ``lm``."""
        advice = f"; move it first: ptlib.transfer(prompt, source=..., target={lm.name!r})"
        if self.vectors.shape[1] != lm.dim:
            raise PromptMismatchError(f"the prompt is {self.vectors.shape[1]} wide (made for {self.lm_name}), but "
                                      f"{lm.name} has embeddings of width {lm.dim}{advice}")
        known = lm.table_fingerprint if self.unknown else lm.fingerprint
        if self.lm_fingerprint != known:
            raise PromptMismatchError(f"the prompt was made for {self.lm_name} (fingerprint {self.lm_fingerprint}), "
                                      f"not for {lm.name} ({known}){advice}")

    def on(self, lm: LanguageModel) -> Prompt:
        """The same words with the same weights on another LM, of any width and tokenizer that knows them.

        ``meta`` says what it lost: ``lost_weight``, the mean weight of the words that ``lm`` does not know, and the
        heaviest of them in ``lacking``.

        Raises:
            PromptMismatchError: the prompt is no mixture of words, or all words of a vector are unknown to ``lm``.
        """
        if self.mixture is None:
            raise PromptMismatchError(f"the prompt is made of free vectors, which only {self.lm_name} understands; "
                                      "move it with ptlib.transfer, or tune it with parameterization='mixture'")
        meta = Carried(self.history, **self.mixture.record(lm)).as_json()
        return Prompt(self.mixture.on(lm).cpu(), self.template, lm.name, lm.fingerprint, self.task, meta, self.mixture)

    def save(self, path: str | Path) -> Path:
        """Write as safetensors with JSON metadata; a file at ``path`` is replaced at once or not at all."""
        path = Path(path)
        about: dict[str, Any] = {"template": self.template, "lm_name": self.lm_name,
                                 "lm_fingerprint": self.lm_fingerprint, "task": self.task, "meta": self.meta}
        tensors = {"vectors": self.vectors.contiguous()}
        if self.mixture is not None:
            about["words"] = self.mixture.words
            tensors |= {"weights": self.mixture.weights.contiguous(), "gains": self.mixture.gains.contiguous()}
        with replacing(path) as partial:
            save_file(tensors, partial, metadata={"ptlib": json.dumps(about)})
        return path

    @classmethod
    def load(cls, path: str | Path) -> Prompt:
        """Read what ``save`` wrote.

        Raises:
            PromptLoadError: the file is missing, corrupt, or holds no prompt.
        """
        expected = "expected a file that Prompt.save wrote"
        if not Path(path).is_file():
            raise PromptLoadError(f"there is no file {path}; {expected}")
        try:
            with safe_open(str(path), "pt") as file:
                about = read_about(file.metadata()["ptlib"])
                words, mixture = about.pop("words", None), None
                if words is not None:
                    mixture = Mixture(tuple(words), file.get_tensor("weights"), file.get_tensor("gains"))
                vectors = file.get_tensor("vectors")
                if not vectors.is_floating_point():
                    raise ValueError(f"its vectors are {vectors.dtype}")
                return cls(vectors.float(), **about, mixture=mixture)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise PromptLoadError(f"{path} holds no readable prompt ({error}); {expected}") from error


def read_about(text: str) -> dict[str, Any]:
    """What ``Prompt.save`` wrote beside the vectors; a ValueError where it cannot have."""
    kinds = {"template": str, "lm_name": str, "lm_fingerprint": str, "task": str | None, "meta": dict, "words": list}
    about = json.loads(text)
    if not isinstance(about, dict):
        raise ValueError(f"its metadata is {about!r:.60}")
    for name, value in about.items():
        if not isinstance(value, kinds.get(name, object)):
            raise ValueError(f"its {name} is {value!r:.60}")
    if not all(isinstance(word, str) for word in about.get("words", [])):
        raise ValueError("its words are no strings")
    return about


def default_template(num_vectors: int) -> str:
    """OptiPrompt's layout (Zhong et al. 2021): subject, vectors, answer."""
    return f"[X] [V]*{num_vectors} [Y] ."


def manual_prompt(lm: LanguageModel, task: Task) -> Prompt:
    """The task's manual template, as a prompt of words.

    Raises:
        TaskError: the task has none.
    """
    if task.manual_template is None:
        raise TaskError(f"task {task.name!r} has no manual template; name its file after a relation that a LAMA "
                        "relations.jsonl beside it describes, or evaluate a Prompt with a template of your own")
    return Prompt(torch.zeros(0, lm.dim), task.manual_template, lm.name, lm.fingerprint, task.name,
                  {"method": "manual"})


def common_template(prompts: Iterable[Prompt]) -> str:
    """The one template of prompts that are worked on together.

    Raises:
        PromptMismatchError: they have several, or it has no vectors.
    """
    templates = {prompt.template: len(prompt.vectors) for prompt in prompts}
    if len(templates) > 1:
        raise PromptMismatchError(f"the prompts have different templates ({', '.join(sorted(templates))}); expected "
                                  "one, in a call for each template")
    [(template, count)] = templates.items()
    if not count:
        raise PromptMismatchError(f"the template {template!r} is words alone and works on every LM as it is; "
                                  "expected a prompt with vectors ([V])")
    return template


def salted_generator(seed: int, salt: str) -> torch.Generator:
    """Random numbers of one name's own, the same whatever is drawn beside it."""
    digest = hashlib.sha256(f"{seed}\t{salt}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def random_vectors(lm: LanguageModel, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """(*shape, d) normal draws with the mean and standard deviation of all entries of the embedding table."""
    mean, std = lm.moments
    return torch.randn(*shape, lm.dim, generator=generator) * std + mean


def random_prompt(lm: LanguageModel, num_vectors: int = 5, seed: int = 0) -> Prompt:
    """Random vectors on the scale of the LM's embeddings: where tuning starts, and a baseline."""
    vectors = random_vectors(lm, (num_vectors,), torch.Generator().manual_seed(seed))
    return Prompt(vectors, default_template(num_vectors), lm.name, lm.fingerprint, None,
                  {"method": "random", "seed": seed})
