"""How the benchmark of fine-tuning words what it measured: tables and verdicts, as Markdown."""

from collections.abc import Iterable
from statistics import fmean

from examples.benchmarks.step_clock import BACKWARD, FETCH, FORWARD, LOOP, OPTIMIZER, PARTS, Profile
from examples.benchmarks.step_clock import N_FIRST as N_UNPROFILED
from examples.benchmarks.training_memory import N_STEPS as N_MEMORY_STEPS
from examples.benchmarks.training_memory import Memory
from examples.benchmarks.training_quality import ACTIVATION_BITS, ALONE, DISTILLED, UNTRAINED, Recovery, Sameness
from examples.benchmarks.training_steps import CACHED, N_FIRST, N_STEPS, PLAIN, StepCosts, Turns
from examples.benchmarks.verdicts import Verdict

LARGEST_STEP_RATIO = 1.35
LARGEST_OVERHEAD = 0.05
LEAST_REGAINED = 0.7
LARGEST_MEMORY_RATIO = 1.3
MEGABYTE = 1e6


def steps(costs: list[StepCosts], turns: Turns) -> list[str]:
    """Price of a step, and where its time goes."""
    about = (
        f"Trainings take turns in blocks of {turns.n_block} steps, the first {N_FIRST} of which are left out; each "
        "round begins with the next one and every second round goes backwards. A ratio is that of the medians of two "
        "blocks of one round: median over the rounds, and the middle half of them. Batches of 64, channels last, fused "
        "AdamW, the same batches with the same augmentation for all. Checkpoints are not in these numbers but in the "
        "next table."
    )
    head = "| | " + " | ".join(f"{c.net}, ms | over bare FP32, {c.n_rounds} rounds" for c in costs) + " |"
    rows = [f"| {name} | " + " | ".join(_cost(c, name) for c in costs) + " |" for name in costs[0].ms]
    parts = ["## The price of a step", about, _table(head, rows), _inside_about(turns)]
    return [*parts, *(_inside(c) for c in costs)]


def _cost(costs: StepCosts, name: str) -> str:
    middle, low, high = costs.ratios[name]
    ratio = "" if name == PLAIN else f"{middle:.2f}x [{low:.2f}, {high:.2f}]"
    return f"{costs.ms[name]:.1f} | {ratio}"


def _inside_about(turns: Turns) -> str:
    return (
        f"### Where a step's time goes\n\nMedians over {turns.n_profiled - N_UNPROFILED} steps of a training of "
        f"{N_STEPS} steps, by clocks around the parts of our loop; a part does not hold the time of parts inside of "
        "it. A checkpoint is spread over the steps to the next one. The next batch is made by the task: gather, flip "
        "and shift."
    )


def _inside(costs: StepCosts) -> str:
    head = "| " + f"{costs.net} | " + " | ".join(f"{profile.name}, ms | share" for profile in costs.profiles) + " |"
    rows = [f"| {part} | " + " | ".join(_part(p, part) for p in costs.profiles) + " |" for part in PARTS]
    rows.append("| all | " + " | ".join(f"{p.step_ms:.2f} | " for p in costs.profiles) + " |")
    return _table(head, rows)


def _part(profile: Profile, part: str) -> str:
    return f"{profile.ms[part]:.2f} | {100 * profile.share(part):.1f} %"


def regained(recoveries: list[Recovery], n_steps: int) -> list[str]:
    """Accuracy before and after training."""
    first = recoveries[0]
    about = (
        f"Every layer of the built-in net with the same bits for weights and {ACTIVATION_BITS} for its input; "
        f"{n_steps} steps with the settings of a search, its range test of the rate included; each seed has its own "
        "order and augmentation of the data. Accuracies are torch's on the test split "
        f"({first.n_samples} images): mean over the seeds, smallest and largest. FP32 has {100 * first.fp32:.2f} %."
    )
    head = "| weights | | accuracy | of the loss regained | each seed |"
    rows = [_regained_row(r, name) for r in recoveries for name in (UNTRAINED, ALONE, DISTILLED)]
    deployed = "; ".join(
        f"{r.weight_bits} bits: {100 * r.deployed:.2f} % against {100 * r.accuracies[DISTILLED][0]:.2f} % in torch"
        for r in recoveries
    )
    rates = ", ".join(f"{rate:.1e}" for rate in first.learning_rates)
    notes = f"Deployed with OpenVINO, the first seed with distillation has {deployed}. Rates of the seeds: {rates}."
    return ["## Accuracy regained", about, _table(head, rows), notes, *_easy(first)]


def _regained_row(recovery: Recovery, name: str) -> str:
    values = recovery.accuracies[name]
    accuracy = f"{100 * fmean(values):.2f} % [{100 * min(values):.2f}, {100 * max(values):.2f}]"
    cells = [f"{recovery.weight_bits} bits", name, accuracy]
    if name == UNTRAINED:
        return f"| {' | '.join(cells)} | | |"
    seeds = ", ".join(f"{100 * share:.0f}" for share in recovery.regained(name))
    return f"| {' | '.join(cells)} | {100 * recovery.mean_regained(name):.0f} % | {seeds} % |"


def _easy(recovery: Recovery) -> list[str]:
    """A word of caution where there is little to regain beside what chance does to an accuracy."""
    lost = recovery.fp32 - fmean(recovery.accuracies[UNTRAINED])
    error = (recovery.fp32 * (1 - recovery.fp32) / recovery.n_samples) ** 0.5
    if lost > 4 * error:
        return []
    return [
        f"Calibration alone loses {100 * lost:.2f} points at {recovery.weight_bits} bits, where the standard error of "
        f"an accuracy is {100 * error:.2f} points: a share of so little says little, which is what the other rows are "
        "for."
    ]


def same(sameness: Sameness, n_steps: int) -> list[str]:
    """Bitwise comparisons of weights."""
    n = sameness.n_tensors
    return [
        "## The same weights again",
        f"INT8 with distillation, {n_steps} steps, {n} tensors of weights, ranges and statistics; the first training "
        "computes what the teacher says, the others read it. The stopped one is ended by an exception half-way and "
        "goes on from the checkpoint in its folder, written before that.",
        _table(
            "| compared with the first training | tensors that differ in a bit |",
            [
                f"| the same again | {sameness.repeated} of {n} |",
                f"| stopped and gone on with | {sameness.resumed} of {n} |",
                f"| another seed, to see that they can differ | {sameness.other_seed} of {n} |",
            ],
        ),
    ]


def memory(memories: list[Memory]) -> list[str]:
    """Peaks of memory."""
    if not memories:
        return []
    about = (
        "Peak of resident memory above what the process held with the data and the FP32 model, in a process each, of "
        f"{N_MEMORY_STEPS} steps: a bare FP32 loop on a copy of the model, and INT8 with distillation as in a search, "
        "with another copy as the teacher and a checkpoint after every step. The ratio leaves the teacher out."
    )
    rows = [
        f"| {m.net} | {m.plain / MEGABYTE:.0f} | {m.tuned / MEGABYTE:.0f} | {m.teacher / MEGABYTE:.1f} "
        f"| {m.ratio:.2f}x |"
        for m in memories
    ]
    return ["## Memory", about, _table("| | plain, MB | fine-tuning, MB | teacher, MB | ratio |", rows)]


def targets(found: Iterable[Verdict]) -> list[str]:
    """The table of verdicts."""
    rows = [f"| {v.target} | {v.case} | {v.measured} | {'yes' if v.met else '**no**'} |" for v in found]
    return ["## Targets", _table("| target | on | measured | met |", rows)]


def verdicts(
    costs: list[StepCosts], recoveries: list[Recovery], sameness: Sameness, memories: list[Memory]
) -> list[Verdict]:
    """What was asked for, and what was measured."""
    return [
        *(_step(c) for c in costs),
        *(_overhead(c) for c in costs),
        *_accuracy(recoveries[0]),
        *_same(sameness),
        *(_memory(m) for m in memories),
    ]


def _step(costs: StepCosts) -> Verdict:
    middle, low, high = costs.ratios[CACHED]
    return Verdict(
        "INT8 + distillation step, teacher cached, at most 1.35x of FP32's",
        costs.net,
        f"{middle:.2f}x [{low:.2f}, {high:.2f}]",
        middle <= LARGEST_STEP_RATIO,
    )


def _overhead(costs: StepCosts) -> Verdict:
    """The largest of all trainings that were looked into; the task's own batches are shown but not the loop's."""
    worst = max(costs.profiles, key=lambda profile: profile.share(*LOOP))
    computing = 100 * worst.share(FORWARD, BACKWARD, OPTIMIZER)
    measured = (
        f"at most {100 * worst.share(*LOOP):.1f} % ({worst.name}); with the task's batches "
        f"{100 * worst.share(*LOOP, FETCH):.1f} %; forward, backward and optimizer are {computing:.1f} %"
    )
    return Verdict("loop overhead at most 5 % of a step", costs.net, measured, worst.share(*LOOP) <= LARGEST_OVERHEAD)


def _accuracy(recovery: Recovery) -> list[Verdict]:
    case = f"fashion net, {recovery.weight_bits} bits"
    alone, distilled = recovery.mean_regained(ALONE), recovery.mean_regained(DISTILLED)
    points = 100 * (fmean(recovery.accuracies[DISTILLED]) - fmean(recovery.accuracies[ALONE]))
    return [
        Verdict(
            "training regains at least 70 % of the loss", case, f"{100 * distilled:.0f} %", distilled >= LEAST_REGAINED
        ),
        Verdict(
            "with distillation more than without",
            case,
            f"{100 * distilled:.0f} % against {100 * alone:.0f} %, {points:+.2f} points",
            distilled > alone,
        ),
    ]


def _same(sameness: Sameness) -> list[Verdict]:
    differs = sameness.other_seed > 0
    cases = {"the same seed": sameness.repeated, "stopped and gone on with": sameness.resumed}
    return [
        Verdict(f"{what}, the same bits", "fashion net", f"{n} tensors differ", n == 0 and differs)
        for what, n in cases.items()
    ]


def _memory(memory: Memory) -> Verdict:
    target = "memory at most 1.3x of plain training plus the teacher"
    return Verdict(target, memory.net, f"{memory.ratio:.2f}x", memory.ratio <= LARGEST_MEMORY_RATIO)


def _table(head: str, rows: Iterable[str]) -> str:
    return "\n".join([head, "|" + "---|" * (head.count("|") - 1), *rows])
