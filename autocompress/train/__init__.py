"""Getting accuracy back: batch-norm adaptation, fine-tuning and distillation."""

from autocompress.train.batch_norm import adapt_batch_norm
from autocompress.train.finetune import FinetuneSettings, channels_last, finetune

__all__ = ["FinetuneSettings", "adapt_batch_norm", "channels_last", "finetune"]
