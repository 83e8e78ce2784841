"""The errors that a user can meet; each message says what is wrong, where, and what to do."""


class AutocompressError(Exception):
    """Base of all errors that are about the user's input or machine, not about a defect of ours."""


class TaskError(AutocompressError):
    """A task cannot be found, loaded or used: its model, data, loss or score."""


class GraphError(AutocompressError):
    """A model cannot be inspected: its forward fails, or it has nothing to compress."""


class RecipeError(AutocompressError):
    """A recipe breaks one of its own laws or names layers that the model lacks."""


class SearchSpaceError(AutocompressError):
    """A search space file is wrong; the message starts with `file:line`."""


class CompressionError(AutocompressError):
    """A recipe cannot be applied to a model; the message names the layer."""


class TrainingError(AutocompressError):
    """Fine-tuning cannot go on: the loss is not a scalar, not finite, or there is no data."""


class DeployError(AutocompressError):
    """A compressed model cannot be exported, saved or loaded again."""


class MeasurementError(AutocompressError):
    """A deployed model cannot be measured, or its score is not a finite number."""


class StudyError(AutocompressError):
    """A study folder cannot be written, read or resumed."""


class BudgetError(AutocompressError):
    """A budget does not parse or is too small for anything to be measured."""
