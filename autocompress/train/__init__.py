"""Getting accuracy back: batch-norm adaptation, fine-tuning and distillation."""

from autocompress.train.batch_norm import adapt_batch_norm, adapted_batch_norm, running_norms
from autocompress.train.finetune import LOG, finetune
from autocompress.train.hardware import Hardware, launch, make_hardware
from autocompress.train.layout import channels_last, layout_of
from autocompress.train.loop import CHECKPOINT
from autocompress.train.objective import Compression, Objective
from autocompress.train.own_loop import TrainingBudget
from autocompress.train.range_test import LearningRates, find_learning_rates
from autocompress.train.settings import FinetuneSettings
from autocompress.train.teacher import Teacher
from autocompress.train.training_log import follow
from autocompress.train.watching import Outcome, StepInfo, Watch

__all__ = [
    "CHECKPOINT",
    "LOG",
    "Compression",
    "FinetuneSettings",
    "Hardware",
    "LearningRates",
    "Objective",
    "Outcome",
    "StepInfo",
    "Teacher",
    "TrainingBudget",
    "Watch",
    "adapt_batch_norm",
    "adapted_batch_norm",
    "running_norms",
    "channels_last",
    "find_learning_rates",
    "finetune",
    "follow",
    "launch",
    "layout_of",
    "make_hardware",
]
