"""Who wants to know how far a fit is."""

from typing import Protocol


class Progress(Protocol):
    """Called now and then while a fit runs."""

    def __call__(self, share: float, text: str, loss: float | None = None) -> None:
        """
        Hear of a step.

        :param share: of the work that is done, in [0, 1].
        :param text: what is being done.
        :param loss: residual's standard deviation [DN], where there is one.
        """


def silent(share: float, text: str, loss: float | None = None) -> None:
    """Tell nobody."""
