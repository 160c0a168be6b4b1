"""Install a wheel with its dependencies into a new environment of every Python found here, and use it.

python tests/try_wheel.py WHEEL [CONSTRAINTS]
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import pythons

CODE = """
import torch, infomech as im
g = torch.Generator().manual_seed(0)
x = torch.randn(60, 4, generator=g)
report = im.diagnose(x, x + torch.randn(60, 4, generator=g), temperature=0.5)
print(report.save("report"))
"""


def attempt(python: str, wheel: str, constraints: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-m", "venv", f"{folder}/venv"], check=True)
        own = f"{folder}/venv/bin/python"
        subprocess.run([own, "-m", "pip", "install", "-q", *constraints, wheel], check=True)
        subprocess.run([own, "-W", "error::SyntaxWarning", "-c", CODE], check=True, cwd=folder)
        subprocess.run([f"{folder}/venv/bin/infomech", "compare", "report", "-o", "both"], check=True, cwd=folder)
        subprocess.run([f"{folder}/venv/bin/infomech", "demo", "--steps", "5"], check=True, cwd=folder)


def main(wheel: str, constraints: str | None = None) -> None:
    """All of them; stops at the first that fails."""
    extra = [] if constraints is None else ["-c", str(Path(constraints).resolve())]
    for version in pythons.VERSIONS:
        python = pythons.find(version)
        if python is None:
            print(f"{version}: not found")
            continue
        attempt(python, str(Path(wheel).resolve()), extra)
        print(f"{version}: the wheel works")


if __name__ == "__main__":
    main(*sys.argv[1:])
