"""``python -m tests.simulation``: as many seeds as the time allows, or one of them again."""

from __future__ import annotations

import sys
import time

import click

from tests.simulation.run import STEPS, Failure, run
from tests.simulation.site import Site


@click.command()
@click.option(
    "--minutes", type=click.FloatRange(min=0), default=None, help="How long to go on.  [default: 1]"
)
@click.option("--seeds", type=click.IntRange(min=1), default=None, help="How many seeds, whatever it takes.")
@click.option("--seed", default=1, show_default=True, help="The first seed; the next ones count up from it.")
@click.option(
    "--steps", type=click.IntRange(min=1), default=STEPS, show_default=True, help="Turns of a site."
)
@click.option("--replay", type=int, default=None, help="Run this one seed and print everything it does.")
@click.option("--keep-going", is_flag=True, help="Do not stop at the first seed that fails.")
def main(
    minutes: float | None, seeds: int | None, seed: int, steps: int, replay: int | None, keep_going: bool
) -> None:
    """Simulate whole sites: queues, registers, TSEs, disks and clocks that fail, until the time is over.

    Every seed is a site of its own and always does the same. One that breaks a promise is printed with its last
    steps and the command that replays it, and the exit code is 1.

    \b
    python -m tests.simulation --minutes 10
    python -m tests.simulation --seeds 2000 --keep-going
    python -m tests.simulation --replay 17
    """
    if replay is not None:
        sys.exit(_replay(replay, steps))
    sys.exit(_campaign(seed, seeds, minutes, steps, keep_going))


def _replay(seed: int, steps: int) -> int:
    def watch(site: Site) -> None:
        site.keep_all = True
        for line in site.lines:
            print(line)

    try:
        result = run(seed, steps=steps, watch=watch)
    except Failure as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    print(f"seed {seed} keeps all promises: {_summary(result.counts)}; digest {result.digest[:16]}")
    return 0


def _campaign(first: int, seeds: int | None, minutes: float | None, steps: int, keep_going: bool) -> int:
    began = time.monotonic()
    until = (
        None if seeds is not None and minutes is None else began + 60 * (1 if minutes is None else minutes)
    )
    counts: dict[str, int] = {}
    done = failed = 0
    seed = first
    try:
        while (seeds is None or done < seeds) and (until is None or time.monotonic() < until):
            try:
                for name, count in run(seed, steps=steps).counts.items():
                    counts[name] = counts.get(name, 0) + count
            except Failure as error:
                failed += 1
                print(f"\r{error}", file=sys.stderr, flush=True)
                if not keep_going:
                    return 1
            seed += 1
            done += 1
            _progress(done, failed, began, seeds)
    except KeyboardInterrupt:
        print(f"\nstopped before seed {seed} was done", file=sys.stderr)
    elapsed = time.monotonic() - began
    rate = 60 * done / elapsed if elapsed else 0
    print(f"\n{done} seeds from {first}, {failed} failed, {rate:.0f} seeds per minute; {_summary(counts)}")
    return 1 if failed else 0


def _progress(done: int, failed: int, began: float, seeds: int | None) -> None:
    elapsed = max(time.monotonic() - began, 1e-9)
    of = "" if seeds is None else f" of {seeds}"
    line = f"{done}{of} seeds, {failed} failed, {60 * done / elapsed:.0f} per minute"
    if sys.stderr.isatty():
        print(f"\r{line}", end="", file=sys.stderr, flush=True)
    elif done % 100 == 0:
        print(line, file=sys.stderr, flush=True)


def _summary(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


if __name__ == "__main__":
    main()
