"""``Prompt``: vectors in a template, made for one language model, with a record of how they were made.

Prompts are saved to and loaded from safetensors files. ``manual_prompt`` and ``random_prompt`` make simple ones.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from ..tasks.task import Example, Task
from .history import Carried, Record, Refined, Reweighted, Tuned, history_of
from .mixtures import Mixture
from .templates import Template

__all__ = ["Prompt", "behind", "common_template", "default_template", "demonstrated_prompt", "manual_prompt",
           "random_prompt", "random_vectors", "salted_generator", "template_of", "varied"]


OLD_FINGERPRINT = 16  # the length of a fingerprint of ptlib 0.1.0


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt for one language model.

    Attributes:
        vectors: (m, d) float32; m is 0 for a manual template.
        template: the template, with m prompt slots, such as ``"[X] [V]*5 [Y] ."``.
        lm_name, lm_fingerprint: the LM that the vectors were made for.
        task: the name of the task that the prompt is for, or None.
        meta: how the prompt was made, as plain JSON; ``history`` is the same as records.
        mixture: the words and weights of the vectors, if they are mixtures. ``on`` computes such a prompt for other
            LMs. None for free vectors.
        offsets: (V,) float32, added to the logits of all tokens at the answer slot, as ``calibrate`` makes them. They
            belong to the LM: a prompt that is transferred or refined has none. None if nothing is added.

    Raises:
        PromptMismatchError: the template does not have as many prompt slots as there are vectors, or the offsets are
            not one number for each token.
        NotFiniteError: some numbers of the vectors or offsets are not finite.
    """

    vectors: Tensor
    template: str
    lm_name: str
    lm_fingerprint: str
    task: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    mixture: Mixture | None = None
    offsets: Tensor | None = None

    def __post_init__(self) -> None:
        slots = Template(self.template).num_vectors
        if self.vectors.ndim != 2 or len(self.vectors) != slots:
            raise PromptMismatchError(f"template {self.template!r} has {slots} prompt slots, but the vectors have the "
                                      f"shape {tuple(self.vectors.shape)}; expected ({slots}, d)")
        if self.offsets is not None and not self.offsets.isfinite().all():
            raise NotFiniteError(f"{int((~self.offsets.isfinite()).sum())} of the {self.offsets.numel()} offsets of a "
                                 f"prompt for {self.lm_name} are not finite; calibrate it again")
        broken = int((~self.vectors.isfinite()).sum())
        if broken:
            raise NotFiniteError(f"{broken} of the {self.vectors.numel()} numbers of a prompt for {self.lm_name} are "
                                 "not finite; tune it with a lower lr=, or transfer it with another method")

    def __repr__(self) -> str:
        dropped = self.history.dropped if isinstance(self.history, Tuned | Refined) else {}
        counts = [count for reasons in dropped.values() for count in reasons.values()]
        notes = (f", {sum(counts)} examples dropped" * bool(counts) + ", calibrated" * (self.offsets is not None)
                 + self.unknown)
        return f"Prompt({tuple(self.vectors.shape)}, {self.template!r}, for {self.lm_name}, task {self.task}{notes})"

    @cached_property
    def history(self) -> Record:
        """How the prompt was made."""
        return history_of(self.meta)

    @property
    def unknown(self) -> str:
        """A note for ``repr`` if the fingerprint is that of ptlib 0.1.0, which hashes only the embedding table."""
        old = len(self.lm_fingerprint) == OLD_FINGERPRINT
        return ", made with ptlib 0.1.0, which identified a model by its embedding table alone" * old

    def check(self, lm: LanguageModel) -> None:
        """Raise PromptMismatchError unless the prompt was made for ``lm``."""
        advice = f"; move it first: ptlib.transfer(prompt, source=..., target={lm.name!r})"
        if self.vectors.shape[1] != lm.dim:
            raise PromptMismatchError(f"the prompt is {self.vectors.shape[1]} wide (made for {self.lm_name}), but "
                                      f"{lm.name} has embeddings of width {lm.dim}{advice}")
        if self.offsets is not None and self.offsets.shape != (lm.vocab_size,):
            raise PromptMismatchError(f"the prompt has offsets of the shape {tuple(self.offsets.shape)}, but {lm.name} "
                                      f"has {lm.vocab_size} tokens; expected one for each: calibrate it again")
        known = lm.table_fingerprint if self.unknown else lm.fingerprint
        if self.lm_fingerprint != known:
            raise PromptMismatchError(f"the prompt was made for {self.lm_name} (fingerprint {self.lm_fingerprint}), "
                                      f"not for {lm.name} ({known}){advice}")

    def on(self, lm: LanguageModel) -> Prompt:
        """The mixture with the same words and weights for another LM. Its width and tokenizer may differ.

        ``meta`` of the result says what was lost: ``lost_weight``, the mean weight of the words that ``lm`` does not
        have, and ``lacking``, the heaviest of these words.

        Raises:
            PromptMismatchError: the prompt is not a mixture, or ``lm`` has none of the words of some vector.
        """
        if self.mixture is None:
            raise PromptMismatchError(f"the prompt is made of free vectors, which only {self.lm_name} understands; "
                                      "use ptlib.transfer, or tune a prompt with parameterization='mixture'")
        meta = Carried(self.history, **self.mixture.record(lm)).as_json()
        return Prompt(self.mixture.on(lm).cpu(), self.template, lm.name, lm.fingerprint, self.task, meta, self.mixture)

    def with_weights(self, lm: LanguageModel, weights: Mapping[tuple[int, str], float]) -> Prompt:
        """The mixture with other weights for some words, which may be 0.

        Args:
            lm: the LM that the prompt was made for.
            weights: {(vector, word): weight}, as for ``Mixture.with_weights``.

        Raises:
            PromptMismatchError: the prompt is not a mixture or was made for another LM; or as ``Mixture.with_weights``.
        """
        self.check(lm)
        if self.mixture is None:
            raise PromptMismatchError("the prompt is made of free vectors, which have no words to weigh; tune a prompt "
                                      "with parameterization='mixture'")
        mixture = self.mixture.with_weights(weights)
        changes = tuple((vector, word, float(weight)) for (vector, word), weight in weights.items())
        meta = Reweighted(self.history, changes).as_json()
        return Prompt(mixture.on(lm).cpu(), self.template, lm.name, lm.fingerprint, self.task, meta, mixture)

    def save(self, path: str | Path) -> Path:
        """Write the prompt as a safetensors file with JSON metadata. A file at ``path`` is replaced in one step."""
        path = Path(path)
        attributes: dict[str, Any] = {"template": self.template, "lm_name": self.lm_name,
                                      "lm_fingerprint": self.lm_fingerprint, "task": self.task, "meta": self.meta}
        tensors = {"vectors": self.vectors.contiguous()}
        if self.mixture is not None:
            attributes["words"] = self.mixture.words
            tensors |= {"weights": self.mixture.weights.contiguous(), "gains": self.mixture.gains.contiguous()}
        if self.offsets is not None:
            tensors["offsets"] = self.offsets.contiguous()
        with replacing(path) as partial:
            save_file(tensors, partial, metadata={"ptlib": json.dumps(attributes)})
        return path

    @classmethod
    def load(cls, path: str | Path) -> Prompt:
        """Read a file that ``save`` wrote.

        Raises:
            PromptLoadError: the file is missing or corrupt, or it does not contain a prompt.
        """
        expected = "expected a file that Prompt.save wrote"
        if not Path(path).is_file():
            raise PromptLoadError(f"there is no file {path}; {expected}")
        try:
            with safe_open(str(path), "pt") as file:
                attributes = read_attributes(file.metadata()["ptlib"])
                words, mixture = attributes.pop("words", None), None
                if words is not None:
                    mixture = Mixture(tuple(words), file.get_tensor("weights"), file.get_tensor("gains"))
                vectors = file.get_tensor("vectors")
                if not vectors.is_floating_point():
                    raise ValueError(f"its vectors are {vectors.dtype}")
                offsets = file.get_tensor("offsets").float() if "offsets" in file.keys() else None  # noqa: SIM118
                return cls(vectors.float(), **attributes, mixture=mixture, offsets=offsets)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise PromptLoadError(f"{path} holds no readable prompt ({error}); {expected}") from error


def read_attributes(text: str) -> dict[str, Any]:
    """The attributes in the JSON text that ``Prompt.save`` wrote.

    Raises:
        ValueError: the text is not JSON, or some attribute has the wrong type.
    """
    types = {"template": str, "lm_name": str, "lm_fingerprint": str, "task": str | None, "meta": dict, "words": list}
    attributes = json.loads(text)
    if not isinstance(attributes, dict):
        raise ValueError(f"its metadata is {attributes!r:.60}")
    for name, value in attributes.items():
        if not isinstance(value, types.get(name, object)):
            raise ValueError(f"its {name} is {value!r:.60}")
    if not all(isinstance(word, str) for word in attributes.get("words", [])):
        raise ValueError("its words are not all strings")
    return attributes


def default_template(num_vectors: int) -> str:
    """The template of OptiPrompt (Zhong et al. 2021): subject, vectors, answer."""
    return f"[X] [V]*{num_vectors} [Y] ."


def template_of(task: Task) -> str:
    """The task's manual template.

    Raises:
        TaskError: it has none.
    """
    if task.manual_template is None:
        raise TaskError(f"task {task.name!r} has no manual template; give template= to load_task, or put a LAMA "
                        "relations.jsonl that describes the relation next to the task's file")
    return task.manual_template


def manual_prompt(lm: LanguageModel, task: Task) -> Prompt:
    """The task's manual template as a prompt without vectors.

    Raises:
        TaskError: the task has no manual template.
    """
    return Prompt(torch.zeros(0, lm.dim), template_of(task), lm.name, lm.fingerprint, task.name, {"method": "manual"})


def demonstrated_prompt(lm: LanguageModel, task: Task, count: int = 5, seed: int = 0) -> Prompt:
    """The manual template behind ``count`` train facts in its words (Brown et al. 2020).

    It costs no tuning, but a label for each fact, and it makes every text longer.

    Raises:
        TaskError: the task has no manual template, or fewer than ``count`` train facts.
    """
    if len(task.train) < count:
        raise TaskError(f"task {task.name!r} has {len(task.train)} train examples; expected at least count={count}")
    order = torch.randperm(len(task.train), generator=salted_generator(seed, task.name)).tolist()
    shown = varied([task.train[i] for i in order], count)
    return replace(behind(shown, manual_prompt(lm, task)), meta={"method": "demonstrated", "seed": seed})


def varied(facts: Sequence[Example], count: int) -> list[Example]:
    """``count`` of the facts, in their order, but those with new objects before those whose object came already."""
    seen: Counter[str] = Counter()
    turns = []
    for fact in facts:
        turns.append(seen[fact.object])
        seen[fact.object] += 1
    return [facts[i] for i in sorted(range(len(facts)), key=turns.__getitem__)[:count]]


def behind(facts: Sequence[Example], prompt: Prompt) -> Prompt:
    """The prompt behind facts that are told in its own template, with the same vectors in each of them.

    Raises:
        PromptMismatchError: a fact holds a slot such as [X].
    """
    told = [prompt.template.replace("[Y]", fact.object).replace("[X]", fact.subject) for fact in facts]
    copies, mixture = len(facts) + 1, prompt.mixture
    if mixture is not None:
        mixture = replace(mixture, weights=mixture.weights.repeat(copies, 1), gains=mixture.gains.repeat(copies))
    return replace(prompt, vectors=prompt.vectors.repeat(copies, 1), template=" ".join([*told, prompt.template]),
                   mixture=mixture, offsets=None)


def common_template(prompts: Iterable[Prompt]) -> str:
    """The template that all prompts have.

    Raises:
        PromptMismatchError: the prompts have different templates, or a template without vectors.
    """
    templates = {prompt.template: len(prompt.vectors) for prompt in prompts}
    if len(templates) > 1:
        raise PromptMismatchError(f"the prompts have different templates ({', '.join(sorted(templates))}); make a "
                                  "separate call for each template")
    [(template, count)] = templates.items()
    if not count:
        raise PromptMismatchError(f"the template {template!r} has only words and works on every LM as it is; "
                                  "expected a prompt with vectors ([V])")
    return template


def salted_generator(seed: int, salt: str) -> torch.Generator:
    """A generator that depends only on ``seed`` and ``salt``, so that results do not depend on other draws."""
    digest = hashlib.sha256(f"{seed}\t{salt}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def random_vectors(lm: LanguageModel, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """(*shape, d) normal random numbers with the mean and standard deviation of the LM's embedding table."""
    mean, std = lm.moments
    return torch.randn(*shape, lm.dim, generator=generator) * std + mean


def random_prompt(lm: LanguageModel, num_vectors: int = 5, seed: int = 0) -> Prompt:
    """A prompt of random vectors on the scale of the LM's embeddings, as a start for tuning or as a baseline."""
    vectors = random_vectors(lm, (num_vectors,), torch.Generator().manual_seed(seed))
    return Prompt(vectors, default_template(num_vectors), lm.name, lm.fingerprint, None,
                  {"method": "random", "seed": seed})
