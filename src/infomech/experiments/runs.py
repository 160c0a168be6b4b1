"""The folder of a run: what is finished is kept, what was interrupted goes on, and nothing is left half-written."""

import hashlib
import io
import json
import multiprocessing
import shutil
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._checks import InputError
from .._files import dump_json, environment, plain, write_file
from .._typing import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

Part = dict[str, NDArray[Any]]

_PARTS = "parts"
_CHECKPOINT_SECONDS = 20.0


def silent(share: float) -> None:
    """Progress that nobody is told of."""


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

    def part(self, key: str, compute: Callable[[], Part]) -> Part:
        """What `compute` returns (arrays by name), from the folder if an earlier run has finished it.

        Args:
            key: name of the part, unique in the experiment.
            compute: called if the part is not there.
        """
        path = self._path(key, {})
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
        progress: Progress = silent,
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
        if found:
            progress(len(found) / len(work))
        for key, part in _in_processes(compute, waiting, workers):
            _store(paths[key], part)
            found[key] = part
            progress(1 / len(work))
        return {key: found[key] for key in work}

    def loop(
        self,
        key: str,
        state: dict[str, Tensor],
        steps: int,
        body: Callable[[int], None],
        *,
        progress: Progress = silent,
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
        if first:
            progress(first / steps)
        saved, told = time.perf_counter(), first
        for step in range(first, steps):
            body(step)
            if (step + 1 - told) * 200 >= steps:
                progress((step + 1 - told) / steps)
                told = step + 1
            if time.perf_counter() - saved > seconds or step == steps - 1:
                _store(path, {"step": np.asarray(step + 1), **{k: v.detach().cpu().numpy() for k, v in state.items()}})
                saved = time.perf_counter()
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
        """Write what was found and how; see `write_results`. Movies, frames by file name, become GIF (and MP4)."""
        for name, frames in (movies or {}).items():
            write_movie(self.folder / f"{name}.gif", frames)
        write_results(self.folder, self.name, results, readme=readme, figures=figures, provenance=self.provenance())

    def provenance(self) -> dict[str, Any]:
        """Settings, versions, hardware, time; `resumed` where the seconds are of the last sitting only."""
        return {
            "experiment": self.name,
            "settings": self.settings,
            "resumed": self._resumed,
            **environment(),
            "seconds": round(time.perf_counter() - self._started, 1),
        }


def write_results(
    folder: Path,
    name: str,
    results: Mapping[str, Any],
    *,
    readme: str,
    figures: Mapping[str, "Figure"] | None = None,
    texts: Mapping[str, str] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write results.json, provenance.json, README.md, figures as PNG and PDF, and other texts.

    Args:
        folder: made if missing.
        name: of the experiment.
        results: plain data; numbers that are not finite become null.
        readme: the text, in Markdown; images stand beside it.
        figures: by file name without its ending.
        texts: by file name.
        provenance: by default the settings in the results, versions and hardware.
    """
    from ..report.drawing import FORMATS, figure_bytes

    folder.mkdir(parents=True, exist_ok=True)
    for title, figure in (figures or {}).items():
        for kind in FORMATS:
            write_file(folder / f"{title}.{kind}", figure_bytes(figure, kind))
    told = provenance or {"experiment": name, "settings": results.get("settings", {}), **environment()}
    for file, content in {
        "results.json": dump_json(plain({"experiment": name, **results})),
        "provenance.json": dump_json(plain(dict(told))),
        "README.md": readme.encode(),
        **{title: text.encode() for title, text in (texts or {}).items()},
    }.items():
        write_file(folder / file, content)


def scaled(progress: Progress, share: float) -> Progress:
    """Progress of a piece of the work that is such a share of it."""
    return lambda part: progress(share * part)


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


def write_movie(path: Path, frames: Iterable["Image"], *, milliseconds: int = 90) -> None:
    """Frames as a GIF that repeats, and as MP4 beside it where ffmpeg is found."""
    pictures = [frame.convert("RGB").quantize(64) for frame in frames]
    out = io.BytesIO()
    pictures[0].save(
        out, "GIF", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0, optimize=True
    )
    write_file(path, out.getvalue())
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is not None:
        even = "scale=trunc(iw/2)*2:trunc(ih/2)*2"
        with tempfile.TemporaryDirectory() as folder:  # whole or not at all, like all other files
            made = Path(folder) / "movie.mp4"
            command = [
                ffmpeg,
                "-y",
                "-loglevel",
                "error",
                "-i",
                str(path),
                "-vf",
                even,
                "-pix_fmt",
                "yuv420p",
                str(made),
            ]
            if subprocess.run(command, check=False).returncode == 0:
                write_file(path.with_suffix(".mp4"), made.read_bytes())


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
    write_file(path, out.getvalue())


__all__ = [
    "Part",
    "RunFolder",
    "frame",
    "generator_state",
    "scaled",
    "silent",
    "write_movie",
    "write_results",
]
