"""Which edits compile kernels anew: those that can change machine code, and no others."""

from pathlib import Path
import sys

from numba.core.dispatcher import Dispatcher

import diffphyscam_ros
from diffphyscam_ros import kernels
import diffphyscam_ros.calibrate.run  # noqa: F401
import diffphyscam_ros.simulator  # noqa: F401

PACKAGE = Path(diffphyscam_ros.__file__).parent


def test_every_kernel_comes_from_a_source_that_counts():
    sources = {str(path) for path in kernels.kernel_sources(PACKAGE)}
    loaded = [m for n, m in sys.modules.items() if n.startswith('diffphyscam_ros.')]
    defined = {value.py_func.__code__.co_filename for module in loaded
               for value in vars(module).values() if isinstance(value, Dispatcher)}
    assert len(defined) > 20
    assert defined <= sources


def test_words_and_plain_callers_do_not_count_but_constants_do(tmp_path):
    texts = {'loop.py': 'from diffphyscam_ros.plain import helper\nimport numba\n',
             'part/lanes.py': 'from diffphyscam_ros.kernels import inline\n'
                              'from diffphyscam_ros.layout import (\n    DEPTH,\n    LANES,\n)\n',
             'layout.py': 'from diffphyscam_ros.units import TWO\nDEPTH, LANES = TWO, 4\n',
             'units.py': 'TWO = 2\n', 'plain.py': '# a comment on numba\ndef helper(): pass\n',
             'caller.py': 'from diffphyscam_ros.part.lanes import run\n'}
    package = tmp_path / 'diffphyscam_ros'
    for name, text in texts.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    found = {str(p.relative_to(package)) for p in kernels.kernel_sources(package)}
    assert found == {'loop.py', 'part/lanes.py', 'layout.py', 'units.py'}
