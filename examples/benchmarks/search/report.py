"""The report of the search benchmark: which runs there are, their tables, the targets."""

import hashlib
import itertools
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from autocompress import planning, search
from examples.benchmarks.search import benches, replay, synthetic
from examples.benchmarks.search.benches import N_UNITS, bench_of
from examples.benchmarks.search.plots import write_plot
from examples.benchmarks.search.replay import Run, run
from examples.benchmarks.search.statistics import Comparison, compare
from examples.benchmarks.search.table import TABLE
from examples.benchmarks.search.targets import Target, permuted_targets, synthetic_targets, table_targets
from examples.benchmarks.search.timing import proposal_target
from examples.fetch import cache_folder

REPORT = Path(__file__).parents[3] / "reports" / "benchmarks" / "search.md"
SAMPLING = ("samplers", "planwise", "greedy", "trial_view")  # files of `autocompress.search` that decide about plans
N_SEEDS, N_SHARED = 10, 10
OURS = "bayesdp"
N_CORES = 2

Runs = dict[str, list[Run]]


@dataclass(frozen=True)
class Part:
    """Runs of some samplers on one problem.

    Attributes:
        bench: Name for `bench_of`.
        title: Of its section and picture.
        samplers: Names; ours first.
        n_trials: Of each run.
        shared: Whether all samplers start from the first plans of ours.
        n_units: Of a synthetic network.
    """

    bench: str
    title: str
    samplers: tuple[str, ...]
    n_trials: int
    shared: bool = False
    n_units: int = N_UNITS

    @property
    def shown_at(self) -> list[int]:
        """Numbers of trials of the tables."""
        return [n for n in (5, 10, 20, 30, 60, 100) if n <= self.n_trials]


RIVALS = ("tpe", "gp", "nsga2", "random")
LARGE_RIVALS = ("spdy", "greedy", "tpe", "nsga2", "random")
PARTS = (
    Part("table", "Exhaustive table of a real network", (OURS, "spdy", "greedy", *RIVALS), 60),
    Part("table", "The same, all from the same ten plans", (OURS, "tpe", "nsga2", "random"), 60, shared=True),
    Part("synthetic", "Synthetic network of 40 units", (OURS, *LARGE_RIVALS), 100),
    Part("synthetic", "The same 40 units, all from the same ten plans", (OURS, *LARGE_RIVALS), 100, shared=True),
    Part("permuted", "40 units with a useless damage table", (OURS, "random"), 100),
)


def run_one(part: Part, sampler: str, seed: int) -> Run:
    """One sampler with one seed."""
    bench = bench_of(part.bench, seed, part.n_units)
    first = run(OURS, bench, min(N_SHARED, part.n_trials), seed).plans if part.shared else ()
    return run(sampler, bench, part.n_trials, seed, first)


def all_runs(parts: Sequence[Part], n_seeds: int, kept: Path | None = None, n_cores: int = N_CORES) -> list[Runs]:
    """Runs of each part by name of the sampler; the slow ones begin first.

    Args:
        parts: What to run.
        n_seeds: Of each sampler.
        kept: File to which finished runs are appended, and from which those of an earlier call are read.
        n_cores: Processes.
    """
    jobs = [(part, name, seed) for part in parts for seed in range(n_seeds) for name in part.samplers]
    done = read_runs(kept) if kept else {}
    left = [job for job in jobs if key_of(*job) not in done]
    left.sort(key=lambda job: (job[1] not in ("gp", "tpe"), -job[0].n_trials))
    with ProcessPoolExecutor(n_cores, get_context("spawn")) as pool:
        running = {pool.submit(run_one, *job): key_of(*job) for job in left}
        for future in as_completed(running):
            done[running[future]] = future.result()
            if kept:
                append_run(kept, running[future], future.result())
            print(f"{len(running) - sum(not f.done() for f in running)} of {len(running)} runs", file=sys.stderr)
    return [{n: [done[key_of(part, n, s)] for s in range(n_seeds)] for n in part.samplers} for part in parts]


def key_of(part: Part, sampler: str, seed: int) -> str:
    """What tells one run from another."""
    return f"{part.bench} {part.n_units} {part.n_trials} {part.shared} {sampler} {seed}"


def runs_file() -> Path:
    """Where finished runs are kept, for samplers, problems and table as they are."""
    own = [Path(replay.__file__), Path(benches.__file__), Path(synthetic.__file__), TABLE]
    engine = [
        path for package in (planning, search) for path in sorted(Path(package.__file__ or "").parent.glob("*.py"))
    ]
    used = [path for path in engine if path.parent.name == "planning" or path.stem in SAMPLING]
    digest = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in (*used, *own)))
    return cache_folder() / "benchmarks" / f"search-{digest.hexdigest()[:12]}.jsonl"


def read_runs(path: Path) -> dict[str, Run]:
    """Runs that an earlier call has finished, by key."""
    lines = path.read_text().splitlines() if path.is_file() else []
    contents = [json.loads(line) for line in lines]
    arrays = ("shares", "seconds")
    return {c.pop("key"): Run(**{n: np.array(v) if n in arrays else v for n, v in c.items()}) for c in contents}


def append_run(path: Path, key: str, done: Run) -> None:
    """Add one run to the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps({**asdict(done), "key": key}, default=np.ndarray.tolist) + "\n")


def benchmark(*, smoke: bool, only: Sequence[str] = ()) -> str:
    """The report; with `smoke` two seeds of a few trials, without pictures.

    Args:
        smoke: Whether only a slice is run.
        only: Names of the benches to run; all by default.
    """
    start = time.monotonic()
    wanted = [part for part in PARTS if not only or part.bench in only]
    parts = [_small(part) for part in wanted] if smoke else wanted
    runs = all_runs(parts, 2 if smoke else N_SEEDS, None if smoke else runs_file())
    found_of = {(part.bench, part.shared): found for part, found in zip(parts, runs, strict=True)}
    targets: list[Target] = []
    if "table" in {part.bench for part in parts}:
        targets += table_targets(found_of["table", False])
    if "synthetic" in {part.bench for part in parts}:
        targets += synthetic_targets(found_of["synthetic", False], found_of["synthetic", True])
    if "permuted" in {part.bench for part in parts}:
        targets += permuted_targets(found_of["permuted", False])
    targets.append(proposal_target(20 if smoke else 200, 30 if smoke else 300))
    sections = [_section(part, found) for part, found in zip(parts, runs, strict=True)]
    for part, found in zip(parts, runs, strict=True):
        if not smoke:
            write_plot(found, part.title, REPORT.with_name(picture_name(part)))
    slice_note = (
        f"Only a slice: no run has more than {parts[0].n_trials} trials, whatever is said below.\n\n" if smoke else ""
    )
    return slice_note + _head(targets, 2 if smoke else N_SEEDS, time.monotonic() - start) + "\n".join(sections)


def picture_name(part: Part) -> str:
    """File name of the picture of a part."""
    return f"search-{part.bench}{'-shared' if part.shared else ''}.svg"


def _small(part: Part) -> Part:
    cheap = tuple(name for name in part.samplers if name != "gp")
    return Part(part.bench, part.title, cheap, 12, part.shared, n_units=8)


def _head(targets: Iterable[Target], n_seeds: int, seconds: float) -> str:
    rows = [f"| {t.wanted} | {t.measured} | {'yes' if t.met else '**no**'} |" for t in targets]
    return "\n".join(
        [
            "# The search engine against other samplers",
            "",
            f"{n_seeds} seeds each; every sampler has the same study, parameters, constraint and noise, and tries "
            "all-INT8, then all-INT8 with a quarter of all filters removed, first. A number is the share of the best "
            "known hypervolume that the true values (half B of the held-out images; no noise) of those plans have "
            "which look undominated in what the sampler was told. The best known one is that of the exhaustive front; "
            "for synthetic networks that of as many plans as there were trials, chosen by one who knows the truth.",
            "",
            "## Targets",
            "",
            "| target | measured | met |",
            "|---|---|---|",
            *rows,
            "",
            f"This call took {seconds:.0f} seconds on {N_CORES} cores; finished runs of earlier calls are read again.",
            "",
            "",
        ]
    )


def _section(part: Part, runs: Mapping[str, Sequence[Run]]) -> str:
    picture = f"![hypervolume over trials and over time]({picture_name(part)})"
    return "\n".join([f"## {part.title}", "", picture, "", _medians(part, runs), "", _tests(part, runs), ""])


def _medians(part: Part, runs: Mapping[str, Sequence[Run]]) -> str:
    head = ["sampler", *(f"{n} trials" for n in part.shown_at), "slowest proposal"]
    rows = []
    for name, some in runs.items():
        shares = np.stack([r.shares for r in some])
        cells = [
            "{1:.3f} [{0:.3f}, {2:.3f}]".format(*np.quantile(shares[:, n - 1], [0.25, 0.5, 0.75]))
            for n in part.shown_at
        ]
        rows.append([name, *cells, f"{max(r.slowest for r in some):.2f} s"])
    return "Median [quartiles]:\n\n" + _table(head, rows)


def _tests(part: Part, runs: Mapping[str, Sequence[Run]]) -> str:
    ours = np.stack([r.shares for r in runs[OURS]])
    head = ["against", "trials (ours / theirs)", "median difference", "95 % interval of the mean", "wins", "p", "A12"]
    rows = []
    for mine, theirs in _pairs(part):
        rivals = {n: np.array([r.shares[theirs - 1] for r in some]) for n, some in runs.items() if n != OURS}
        rows += [_row(c, f"{mine} / {theirs}") for c in compare(ours[:, mine - 1], rivals)]
    return f"`{OURS}` against the others (signed-rank test, one-sided, Holm-corrected):\n\n" + _table(head, rows)


def _pairs(part: Part) -> list[tuple[int, int]]:
    last = part.shown_at[-1]
    return sorted({(min(10, last), last), (last, last)})


def _row(c: Comparison, trials: str) -> list[str]:
    wins = f"{c.wins:g} of {c.n_seeds}"
    return [
        c.rival,
        trials,
        f"{c.median:+.3f}",
        f"{c.low:+.3f} to {c.high:+.3f}",
        wins,
        f"{c.p_value:.4f}",
        f"{c.effect:.2f}",
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = itertools.chain([head, ["---"] * len(head)], rows)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
