"""Every command that a finding on scores ends in runs when it is pasted, in its order, once X and Y are two files."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import infomech as im
import infomech.cli as cli

Rows = tuple[Tensor, Tensor]


def _hubs(count: int) -> Rows:
    z, a, b = torch.randn(3, count, 24, generator=torch.Generator().manual_seed(0))
    x, y = z + 0.6 * a + 0.5, z + 0.6 * b
    y[::40] = 0.5 * y[::40] + 0.8
    return x, y


def _scattered(count: int) -> Rows:
    z, a = torch.randn(2, count, 24, generator=torch.Generator().manual_seed(0))
    return z, z + 0.4 * a


CASES: dict[str, tuple[Callable[[int], Rows], float, set[str]]] = {  # rows, temperature, findings
    "hubs": (_hubs, 0.1, {"match-score", "hubs-cost-recall-y", "uncalibrated"}),
    "far apart": (_scattered, 0.02, {"match-score", "sparse-fields"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_commands_run(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make, temperature, codes = CASES[case]
    x, y = make(500)
    found = [f for f in im.diagnose(x, y, temperature=temperature, scores=True).findings if f.code in codes]
    assert {f.code for f in found} == codes
    monkeypatch.chdir(tmp_path)
    np.save("X.npy", x.numpy())
    np.save("Y.npy", y.numpy())
    for one in found:
        assert re.search(r"`infomech [^`]+`[^`.]*\.$", one.text), (one.code, one.text)
        for command in re.findall(r"`infomech ([^`]+)`", one.text):
            names = {"X": "X.npy", "Y": "Y.npy", "DIR": one.code, "FOLDER": f"{one.code}-index"}
            names["scores.parquet"] = f"{one.code}.parquet"
            words = [names.get(word, word) for word in shlex.split(command)]
            with pytest.raises(SystemExit) as stopped:
                cli.main(words)
            assert not stopped.value.code, (command, capsys.readouterr().err)
    index = tmp_path / "hubs-cost-recall-y-index" / "index.npy"
    assert index.exists() == (case == "hubs")
