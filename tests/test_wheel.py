"""The wheel that `make dist` builds holds all that the package needs, and starts on every Python found here."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import pythons

ROOT = Path(__file__).parent.parent
PURE = (  # what the help of the commands needs, taken from this environment: it is the same in every Python
    *("typer", "click", "rich", "pygments", "markdown_it", "mdurl", "shellingham", "typing_extensions"),
    "annotated_doc",
)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content; skipped where it cannot be built: its builder comes from the network."""
    folder = tmp_path_factory.mktemp("dist")
    command = [
        "pip",
        "wheel",
        "--quiet",
        "--disable-pip-version-check",
        "--retries",
        "0",
        "--no-deps",
        "-w",
        str(folder),
    ]
    done = subprocess.run(
        [sys.executable, "-m", *command, str(ROOT)], capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode:
        pytest.skip(f"the wheel cannot be built here: {done.stderr.strip()[-200:]}")
    (wheel,) = folder.glob("infomech-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_all_files_are_in_it(unpacked: Path) -> None:
    source = ROOT / "src" / "infomech"
    own = {p.relative_to(source) for p in source.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert own == {p.relative_to(unpacked / "infomech") for p in (unpacked / "infomech").rglob("*") if p.is_file()}


@pytest.mark.parametrize("version", pythons.VERSIONS)
def test_it_starts(unpacked: Path, version: str, tmp_path: Path) -> None:
    """Every module compiles without a warning, and the help is there; `make test-dist` does the rest."""
    python = pythons.find(version)
    if python is None:
        pytest.skip(f"no Python {version} here")
    for name in PURE:
        for found in Path(sysconfig.get_path("purelib")).glob(f"{name}*"):
            if found.name in (name, f"{name}.py"):
                (tmp_path / found.name).symlink_to(found)
    environment = {"PYTHONPATH": f"{unpacked}:{tmp_path}", "PYTHONPYCACHEPREFIX": str(tmp_path / "cache")}
    for arguments in (
        ["-W", "error", "-m", "compileall", "-q", str(unpacked)],
        ["-m", "infomech", "--help"],
        ["-m", "infomech", "--version"],
    ):
        done = subprocess.run([python, *arguments], capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
