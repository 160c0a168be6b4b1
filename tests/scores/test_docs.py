"""The code of the page on scores runs as it stands, one block after the other."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "what-score-is-a-match.md"


def test_the_page_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 5
    if find_spec("faiss") is None:
        blocks = [block for block in blocks if "faiss" not in block]
    code = "\n".join(blocks) + "\nassert found.double().mean() > 0.5\nassert queries.shape[1] == index.shape[1] == 34\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "Threshold for a false positive rate of 0.001" in done.stdout
