"""What is wrong with a recording that cannot be opened, and what to do about it: one sentence."""

from collections.abc import Sequence
from pathlib import Path
import sqlite3


def nothing_in(path: Path, suffixes: Sequence[str]) -> str:
    """Say what a folder lacks that is neither a bag nor holds images of these suffixes."""
    bags = [p for p in sorted(path.iterdir()) if p.suffix in ('.mcap', '.db3')]
    if bags:
        storage = 'mcap' if bags[0].suffix == '.mcap' else 'sqlite3'
        return (f'{path} has no metadata.yaml (the recorder was probably killed); pass the file '
                f'{bags[0]} itself or rebuild it with `ros2 bag reindex {path} -s {storage}`.')
    return (f'{path} holds neither a rosbag (metadata.yaml) nor image files '
            f'({", ".join(s[1:] for s in suffixes)}); pass the right folder.')


def damaged(path: Path, error: Exception) -> str:
    """Say why a bag cannot be read, and how it is recovered."""
    reason = (' '.join(str(error).split()) or type(error).__name__).rstrip('.')
    if isinstance(error, AssertionError):
        reason = 'its structure ends early'
    if isinstance(error, sqlite3.Error):
        reason = f'database error: {reason}'
    files = [path] if path.is_file() else [p for p in path.iterdir()
                                           if p.suffix in ('.mcap', '.db3')]
    if not files:
        return f'{path} has no data ({reason}); copy the whole folder of the recording.'
    if 'metadata.yaml' in reason:
        return (f'{path} has a damaged metadata.yaml ({reason}); pass the file {files[0]} itself '
                f'or rebuild it with `ros2 bag reindex {path}`.')
    step = {'.mcap': f'`mcap recover {files[0]} -o recovered.mcap`',
            '.bag': f'`rosbag reindex {path}`',
            '.db3': f'`sqlite3 {files[0]} .recover | sqlite3 recovered.db3`',
            }[files[0].suffix]
    return (f'{path} is truncated or damaged ({reason}); recover it with {step} '
            'and pass the result.')
