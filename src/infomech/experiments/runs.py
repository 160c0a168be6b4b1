"""The folder of a run: what is finished is kept, what was interrupted goes on, and nothing is left half-written."""

import hashlib
import io
import json
import math
import multiprocessing
import os
import platform
import shutil
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._checks import InputError
from .._typing import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

Part = dict[str, NDArray[Any]]

_PARTS = "parts"
_CHECKPOINT_SECONDS = 20.0


class RunFolder:
    """Where an experiment keeps its finished parts and writes its results.

    A part is stored under its name and a digest of the settings it depends on: with other settings it is computed anew,
    and an interrupted run that is started again with the same ones goes on after its last part or checkpoint.

    Args:
        folder: made if missing.
        name: of the experiment.
        settings: everything that the numbers depend on, seeds included; goes into the digest and the provenance.
    """

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        self.folder, self.name, self.settings = folder, name, dict(settings)
        self._started = time.perf_counter()
        self._resumed = False
        try:
            (folder / _PARTS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write to {folder}: {error.strerror}; name a folder that can be made") from error

    def part(self, key: str, compute: Callable[[], Part], **depends: object) -> Part:
        """What `compute` returns (arrays by name), from the folder if an earlier run has finished it.

        Args:
            key: name of the part, unique in the experiment.
            compute: called if the part is not there.
            depends: settings of this part besides the experiment's own.
        """
        path = self._path(key, depends)
        found = _load(path)
        if found is None:
            found = {name: np.asarray(value) for name, value in compute().items()}
            _store(path, found)
        else:
            self._resumed = True
        return found

    def parts(
        self,
        work: Mapping[str, tuple[Any, ...]],
        compute: Callable[..., Part],
        *,
        workers: int | None = None,
        progress: Progress | None = None,
    ) -> dict[str, Part]:
        """Several parts at once, each kept as soon as it is there.

        Args:
            work: the arguments of `compute` by the part's key; slow ones first, so that the last to finish is short.
            compute: a function of a module, for it runs in processes of its own.
            workers: processes; by default one for each core, and none for a single part or ``workers=1``.
            progress: called with shares that sum to 1.
        """
        paths = {key: self._path(key, {}) for key in work}
        found = {key: part for key, path in paths.items() if (part := _load(path)) is not None}
        waiting = {key: arguments for key, arguments in work.items() if key not in found}
        self._resumed |= bool(found)
        if progress is not None and found:
            progress(len(found) / len(work))
        for key, part in _in_processes(compute, waiting, workers):
            _store(paths[key], part)
            found[key] = part
            if progress is not None:
                progress(1 / len(work))
        return {key: found[key] for key in work}

    def loop(
        self,
        key: str,
        state: dict[str, Tensor],
        steps: int,
        body: Callable[[int], None],
        *,
        progress: Progress | None = None,
        seconds: float = _CHECKPOINT_SECONDS,
    ) -> None:
        """Call ``body(step)`` for each step, which works on the tensors of `state` in place, with checkpoints.

        Args:
            key: name of the loop, unique in the experiment.
            state: all that a step reads and writes, a generator's state too (see `generator_state`); on return it is
                as after the last step, whatever was computed now or earlier.
            steps: how many.
            body: one step.
            progress: called with shares that sum to 1.
            seconds: time between checkpoints.
        """
        path = self._path(key, {"steps": steps})
        found = _load(path)
        first = 0
        if found is not None:
            self._resumed = True
            first = int(found.pop("step"))
            for name, value in found.items():
                state[name].copy_(torch.from_numpy(value))
        if progress is not None and first:
            progress(first / steps)
        saved, told = time.perf_counter(), first
        for step in range(first, steps):
            body(step)
            if progress is not None and (step + 1 - told) * 200 >= steps:
                progress((step + 1 - told) / steps)
                told = step + 1
            if time.perf_counter() - saved > seconds or step == steps - 1:
                _store(path, {"step": np.asarray(step + 1), **{k: v.detach().cpu().numpy() for k, v in state.items()}})
                saved = time.perf_counter()
        if progress is not None:
            progress((steps - told) / steps)

    def _path(self, key: str, depends: Mapping[str, object]) -> Path:
        version = metadata.version("infomech")  # another version may compute a part in another way
        text = json.dumps([self.name, version, self.settings, dict(depends)], sort_keys=True, default=str)
        return self.folder / _PARTS / f"{key}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.npz"

    def write(
        self,
        results: Mapping[str, Any],
        *,
        readme: str,
        figures: Mapping[str, "Figure"] | None = None,
        movies: Mapping[str, Iterable["Image"]] | None = None,
    ) -> None:
        """Write results.json, provenance.json, README.md, figures as PNG and PDF, and movies as GIF (and MP4).

        Args:
            results: plain data; numbers that are not finite become null.
            readme: the text, in Markdown; images stand beside it.
            figures: by file name without its ending.
            movies: frames by file name; MP4 is written as well where ffmpeg is found.
        """
        from ..report.drawing import FORMATS, figure_bytes

        for name, figure in (figures or {}).items():
            for kind in FORMATS:
                write_atomically(self.folder / f"{name}.{kind}", figure_bytes(figure, kind))
        for name, frames in (movies or {}).items():
            write_movie(self.folder / f"{name}.gif", frames)
        write_atomically(self.folder / "results.json", dump({"experiment": self.name, **results}))
        write_atomically(self.folder / "provenance.json", dump(self.provenance()))
        write_atomically(self.folder / "README.md", readme.encode())

    def provenance(self) -> dict[str, Any]:
        """Settings, versions, hardware, time; `resumed` where the seconds are of the last sitting only."""
        return {
            "experiment": self.name,
            "settings": self.settings,
            "resumed": self._resumed,
            **environment(),
            "seconds": round(time.perf_counter() - self._started, 1),
        }


def write_results(folder: Path, name: str, results: Mapping[str, Any]) -> None:
    """results.json and provenance.json of an experiment that keeps its parts in a way of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "results.json", dump({"experiment": name, **results}))
    provenance = {"experiment": name, "settings": results.get("settings", {}), **environment()}
    write_atomically(folder / "provenance.json", dump(provenance))


def environment() -> dict[str, Any]:
    """Versions, hardware and date."""
    return {
        "infomech": metadata.version("infomech"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _in_processes(
    compute: Callable[..., Part], work: Mapping[str, tuple[Any, ...]], workers: int | None
) -> Iterator[tuple[str, Part]]:
    if workers == 1 or len(work) <= 1:
        for key, arguments in work.items():
            yield key, compute(*arguments)
        return
    context = multiprocessing.get_context("spawn")  # a forked child of a threaded parent may hang
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = {pool.submit(compute, *arguments): key for key, arguments in work.items()}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def generator_state(generator: torch.Generator) -> Tensor:
    """The state of a generator as a tensor for `RunFolder.loop`: copy into it with ``copy_`` after each draw."""
    return generator.get_state()


def dump(content: object) -> bytes:
    """JSON of plain data, arrays and tensors; numbers that are not finite become null."""
    return (json.dumps(_plain(content), indent=1, allow_nan=False) + "\n").encode()


def _plain(value: object) -> object:
    if isinstance(value, Tensor | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file as a whole, or leave it as it was."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; free some space or name another folder") from error


def write_movie(path: Path, frames: Iterable["Image"], *, milliseconds: int = 90) -> None:
    """Frames as a GIF that repeats, and as MP4 beside it where ffmpeg is found."""
    pictures = [frame.convert("RGB").quantize(64) for frame in frames]
    out = io.BytesIO()
    pictures[0].save(
        out, "GIF", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0, optimize=True
    )
    write_atomically(path, out.getvalue())
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is not None:
        even = "scale=trunc(iw/2)*2:trunc(ih/2)*2"
        target = path.with_suffix(".mp4")
        command = [ffmpeg, "-y", "-loglevel", "error", "-i", str(path), "-vf", even, "-pix_fmt", "yuv420p", str(target)]
        subprocess.run(command, check=False)


def frame(figure: "Figure") -> "Image":
    """A figure as a picture, at its own resolution."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba()).copy())


def _load(path: Path) -> Part | None:
    if not path.exists():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):  # cut off, or not ours: compute it again
        return None


def _store(path: Path, values: Mapping[str, NDArray[Any]]) -> None:
    out = io.BytesIO()
    np.savez(out, **dict(values))  # type: ignore[arg-type]
    write_atomically(path, out.getvalue())


__all__ = [
    "Part",
    "Progress",
    "RunFolder",
    "dump",
    "environment",
    "frame",
    "generator_state",
    "write_atomically",
    "write_movie",
    "write_results",
]
