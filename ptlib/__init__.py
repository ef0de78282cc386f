"""Zero-shot transfer of soft prompts between language models (Wu, Wu and Mou, ICLR 2024).

A soft prompt is tuned on one model, then transferred to another without any training there. The usual steps
are ``load_lm``, ``load_task``, ``tune``, ``shared_anchors``, ``transfer`` and ``evaluate``.
"""

from .errors import (
    AnchorError,
    ModelLoadError,
    NotFiniteError,
    PromptLoadError,
    PromptMismatchError,
    PromptTransferError,
    SweepError,
    TaskError,
)
from .evaluation.contextual import calibrate_contextually
from .evaluation.evaluations import Evaluation, evaluate, evaluate_majority, evaluate_many
from .evaluation.metrics import METRICS
from .evaluation.summaries import per_evaluation, per_relation, relation_mean, summarize, summarize_relations
from .models.lm import LanguageModel
from .models.loading import list_lms, load_lm
from .moving.anchors import Anchors, shared_anchors
from .moving.calibration import calibrate
from .moving.demonstration import demonstrate
from .moving.methods import METHODS
from .moving.relative import encode
from .moving.selection import agreement, select
from .moving.transfer import transfer, transfer_many
from .progress import set_progress
from .prompts.mixtures import Mixture
from .prompts.prompt import Prompt, manual_prompt, random_prompt
from .sweep import store
from .sweep.record import record
from .tasks.loading import list_tasks, load_task, load_tasks, task_from_rows
from .tasks.task import Example, Task
from .tuning.averaging import average
from .tuning.refinement import refine, refine_many
from .tuning.tuning import starting_prompt, tune, tune_many, tune_seeds

__version__ = "0.1.0"

__all__ = [
    "METHODS", "METRICS", "AnchorError", "Anchors", "Evaluation", "Example", "LanguageModel", "Mixture",
    "ModelLoadError", "NotFiniteError", "Prompt", "PromptLoadError", "PromptMismatchError", "PromptTransferError",
    "SweepError", "Task", "TaskError", "agreement", "average", "calibrate", "calibrate_contextually", "demonstrate",
    "encode", "evaluate", "evaluate_majority", "evaluate_many", "list_lms", "list_tasks", "load_lm", "load_task",
    "load_tasks", "manual_prompt", "per_evaluation", "per_relation", "random_prompt", "record", "refine", "refine_many",
    "relation_mean", "select", "set_progress", "shared_anchors", "starting_prompt", "store", "summarize",
    "summarize_relations", "task_from_rows", "transfer", "transfer_many", "tune", "tune_many", "tune_seeds",
]
