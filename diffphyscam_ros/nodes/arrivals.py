"""What a subscriber can say of a stream: rate, jitter, frames that did not come."""

from collections.abc import Sequence

import numpy as np


def figures(arrivals: Sequence[tuple[int, int]]) -> dict[str, float]:
    """
    Count what came and what did not; give rate [Hz] and jitter [ms], the spread of the gaps.

    The period is a short distance of stamps (the tenth part are shorter); a gap of several
    periods lacks the frames between, whoever dropped them: camera, network or subscriber.

    :param arrivals: (stamp, time of arrival) [ns] of each message, in order of arrival.
    """
    result = {'frames received': len(arrivals)}
    if len(arrivals) < 3:
        return result
    stamps, times = np.array(arrivals, np.float64).T * 1e-9
    steps, gaps = np.diff(np.sort(stamps)), np.diff(times)
    period = np.percentile(steps, 10)
    result['rate [Hz]'] = 1 / gaps.mean()
    result['jitter [ms]'] = 1e3 * gaps.std()
    if period > 0:
        result['frames missing'] = int((np.rint(steps / period) - 1).clip(min=0).sum())
    result['out of order'] = int((np.diff(stamps) < 0).sum())
    return result
