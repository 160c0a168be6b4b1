"""The code of the page on losses runs as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "choose-a-loss.md"


def test_the_page_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 8
    start = (
        f"torch.distributed.init_process_group('gloo', init_method='file://{tmp_path / 'group'}', rank=0, world_size=1)"
    )
    code = f"import torch\n{start}\n"
    for block in blocks:
        code += block
        code += "assert not isinstance(loss, torch.Tensor) or torch.isfinite(loss)\n"
    code += "assert log_scale.grad.isfinite() and log_scale.grad != 0 and ranks is not None\n"
    code += "rows = [unit(z, dim=1) for z in (users, items)]\n"
    code += "assert torch.isfinite(SymmetricInfoNCE(temperature=0.07, divergence_weight=0.75, ranks=Ranks())(*rows))\n"
    code += "assert torch.isfinite(x.grad).all() and torch.isfinite(plus) and torch.isfinite(value)\n"
    code += "torch.distributed.destroy_process_group()\n"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
