"""The code of the page on losses runs as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "choose-a-loss.md"


def test_the_page_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    *firsts, second, third = blocks
    assert len(firsts) == 3
    first = "".join(firsts)
    group = f"'gloo', init_method='file://{tmp_path / 'group'}', rank=0, world_size=1"
    code = f"{first}assert torch.isfinite(loss)\ntorch.distributed.init_process_group({group})\n{second}"
    code += "rows = [torch.nn.functional.normalize(z) for z in (users, items)]\nassert torch.isfinite(loss(*rows))\n"
    code += f"torch.distributed.destroy_process_group()\n{third}assert torch.isfinite(x.grad).all()\n"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
