"""The latency and the size model that a search plans with, measured in the worker process and kept for the study."""

from contextlib import suppress

from autocompress.errors import MeasurementError
from autocompress.measure import describe_environment
from autocompress.measure.latency_model import LatencyModel, latency_key
from autocompress.search.context import EvaluationContext
from autocompress.search.latency_samples import collect, profile_prior
from autocompress.search.size_model import SizeModel

LATENCY_MODEL = "latency_model.json"
_LATENCY_SAMPLES = "latency_samples"
_LEAST_SECONDS = 40.0  # for timing random recipes; less gives too few to learn from


def cost_models(
    context: EvaluationContext, seconds: float, has_profiles: bool = True
) -> tuple[LatencyModel, SizeModel]:
    """What recipes of the task's model cost, as well as can be known in some seconds; exported models, no training.

    The latency model is written into the study's cache, and read again by the next call.

    Args:
        context: The study's.
        seconds: For timing random recipes; where that is too little, the processor's counters are all that is known.
        has_profiles: Whether to read those counters, which takes some seconds; else latency follows from
            multiply-accumulates until candidates are measured.
    """
    task, graph, n_threads = context.task, context.graph, context.n_inference_threads
    size = SizeModel.measure(task, graph)
    environment = describe_environment(n_threads)
    key = latency_key(size.architecture, environment.cpu, environment.versions["openvino"], n_threads)
    path = context.cache / LATENCY_MODEL
    if path.is_file():
        with suppress(MeasurementError):
            return LatencyModel.load(path, key), size
    architecture = size.architecture
    prior = profile_prior(task, graph, architecture, n_threads) if has_profiles else None
    model = LatencyModel(architecture, prior, key)
    if seconds >= _LEAST_SECONDS:
        model.fit(collect(task, graph, context.cache / _LATENCY_SAMPLES, seconds, n_threads=n_threads))
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return model, size
