"""What the command line shows: progress bars on stderr, a table on stdout."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from diffphyscam_ros.calibrate.compare import Comparison
from diffphyscam_ros.calibrate.judge import DETERMINED, Parameter, WEAK


@contextmanager
def bars() -> Iterator[Callable[[str, Iterable, int], Iterator]]:
    """Yield ``progress(title, items, count)``, which shows a bar while it iterates."""
    with Progress(TextColumn('{task.description:24s}'), BarColumn(), MofNCompleteColumn(),
                  TimeElapsedColumn(), console=Console(stderr=True)) as display:
        def progress(title: str, items: Iterable, count: int) -> Iterator:
            task = display.add_task(title, total=count)
            for item in items:
                yield item
                display.advance(task)
            display.update(task, total=display.tasks[task].completed or 1, completed=display.tasks[
                task].completed or 1)
        yield progress


def table(parameters: Sequence[Parameter]) -> None:
    """Print one line per parameter."""
    grid = Table(box=None, pad_edge=False)
    for heading, justify in (('parameter', 'left'), ('value', 'right'), ('sigma', 'right'),
                             ('unit', 'left'), ('verdict', 'left')):
        grid.add_column(heading, justify=justify, no_wrap=True)
    grid.add_column('what to record next', overflow='fold')
    colours = {DETERMINED: 'green', WEAK: 'yellow'}
    for p in parameters:
        several = isinstance(p.value, tuple)
        value = ', '.join(f'{v:.4g}' for v in p.value) if several else f'{p.value:.6g}'
        sigma = f'{p.sigma:.2g}' if not isinstance(p.sigma, tuple) and p.sigma else ''
        colour = colours.get(p.verdict, 'dim')
        grid.add_row(p.name, value, sigma, p.unit, f'[{colour}]{p.verdict}[/{colour}]', p.advice)
    Console(width=max(Console().width, 150)).print(grid)


def scores(comparison: Comparison) -> None:
    """Print the PSNR of every frame by every camera."""
    grid = Table(box=None, pad_edge=False)
    grid.add_column('frame')
    for camera in comparison.cameras:
        grid.add_column(f'{camera} [dB]', justify='right')
    for shot in comparison.shots:
        grid.add_row(shot.name, *(f'{shot.psnr(c):.2f}' for c in comparison.cameras))
    grid.add_row('mean', *(f'{comparison.mean(c):.2f}' for c in comparison.cameras))
    Console().print(grid)
