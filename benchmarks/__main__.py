"""Run every benchmark of this folder, or those named on the command line."""

import importlib
from pathlib import Path
import sys

HERE = Path(__file__).parent
available = sorted(p.stem for p in HERE.glob('[a-z]*.py'))
chosen = [a for a in sys.argv[1:] if not a.startswith('-')] or available
unknown = [c for c in chosen if c not in available]
if unknown:
    sys.exit(f'there is no benchmark {unknown[0]!r}; pass some of {", ".join(available)}')
sys.argv[1:] = [a for a in sys.argv[1:] if a.startswith('-')]
for name in chosen:
    importlib.import_module(f'benchmarks.{name}').main()
    print()
