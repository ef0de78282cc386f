"""``average``: one mixture out of several, of different seeds or source models."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import PromptMismatchError
from ..models.lm import LanguageModel
from ..prompts.history import Averaged, Carried, Record
from ..prompts.mixtures import Mixture
from ..prompts.prompt import Prompt

__all__ = ["average"]


def average(prompts: Sequence[Prompt], lm: LanguageModel) -> Prompt:
    """The mean of mixtures that were tuned for one task, with different seeds or on different LMs.

    What one run or one model has come to by chance is averaged away, without tuning anything again; no LM is run.
    Mixtures that start from the same words stay near enough to each other for that. From several models, a mixture that
    is tuned on all of them at once transfers better (13_prompts_that_travel measures both). The idea is that of model
    soups (Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves accuracy without
    increasing inference time").

    Args:
        prompts: mixtures in the same template. They may be of any LMs.
        lm: the LM that the result is for.

    Returns:
        A mixture of all their words; its weights and gains are the means of theirs.

    Raises:
        PromptMismatchError: there is no prompt; one is not a mixture; their templates or tasks differ; or ``lm`` has
            none of the words of some vector.
    """
    free = [prompt.lm_name for prompt in prompts if prompt.mixture is None]
    if free:
        raise PromptMismatchError(f"{len(free)} of {len(prompts)} prompts to average are free vectors, which only "
                                  f"{', '.join(dict.fromkeys(free))} can read; tune mixtures, with "
                                  "parameterization='mixture'")
    for what in ("template", "task"):
        found = sorted({repr(getattr(prompt, what)) for prompt in prompts})
        if len(found) > 1:
            raise PromptMismatchError(f"the prompts to average have {len(found)} different {what}s "
                                      f"({', '.join(found)}); expected the same in all")
    mixture = Mixture.mean([prompt.mixture for prompt in prompts if prompt.mixture is not None])
    record: Record = Averaged(tuple(prompt.history for prompt in prompts))
    if any(prompt.lm_fingerprint != lm.fingerprint for prompt in prompts):
        record = Carried(record, **mixture.record(lm))
    return Prompt(mixture.on(lm).cpu(), prompts[0].template, lm.name, lm.fingerprint, prompts[0].task,
                  record.as_json(), mixture)
