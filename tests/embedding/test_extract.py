"""Extraction: what every source gives, resuming after a kill, refusals, and one clear line for bad input."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import infomech as im
import infomech.cli as cli
from infomech.embedding import ExtractOptions, extract, open_source
from infomech.embedding.cache import Cache
from infomech.embedding.encoders.encoder import ModelChoice
from infomech.embedding.encoders.loading import load_towers
from infomech.io import read_embeddings, read_pairs

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import small_datasets as datasets  # noqa: E402
import user_model  # noqa: E402

USER = ModelChoice("user_model:encode")


def towers(spec: str = "user_model:encode"):
    return load_towers(ModelChoice(spec), ["image", "text"])


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    return int(stopped.value.code or 0)  # type: ignore[arg-type]


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


def test_coco_gives_every_caption_to_its_image(tmp_path: Path) -> None:
    source = open_source([datasets.coco_folder(tmp_path / "coco", images=10, captions=5)])
    result = extract(source, towers(), tmp_path / "out", options=ExtractOptions(batch_size=4, shard_batches=2))
    x, y = (read_embeddings(folder) for folder in result.folders)
    pairs = read_pairs(result.pairs)
    assert (len(x), len(y), len(pairs)) == (10, 50, 50)
    assert result.temperature == 0.05
    assert len(list(result.folders[0].glob("*.npy"))) == 2  # 3 batches, 2 a shard
    keys = (tmp_path / "out" / "keys.txt").read_text().splitlines()
    assert keys == [f"{i:012d}.jpg" for i in range(100, 110)]
    captions = [text for i in range(100, 110) for text in datasets.captions_of(i, 5)]
    assert torch.equal(y, unit(user_model.encode(captions)))
    owners = [100 + i // 5 for i in range(50)]
    for (row, text), owner in zip(pairs.tolist(), owners, strict=True):
        assert keys[row] == f"{owner:012d}.jpg"
        assert captions[text] in datasets.captions_of(owner, 5)
    assert source.categories["000000000100.jpg"] == {0, 3}


def test_folder_webdataset_and_texts_agree(tmp_path: Path) -> None:
    """The same pictures and captions through three layouts give the same rows."""
    folder = datasets.image_folder(tmp_path / "folder", images=10)
    shards = datasets.tar_shards(tmp_path / "tars", images=10)
    options = ExtractOptions(batch_size=3)
    from_folder = extract(open_source([folder]), towers(), tmp_path / "a", options=options)
    from_tars = extract(open_source(shards), towers(), tmp_path / "b", options=options)
    x, y = (read_embeddings(f) for f in from_folder.folders)
    tar_x, tar_y = (read_embeddings(f) for f in from_tars.folders)
    assert torch.equal(x, tar_x)
    assert torch.equal(y[::2], tar_y)
    texts = [tmp_path / "left.txt", tmp_path / "right.txt"]
    first = [datasets.captions_of(i, 2) for i in range(10)]
    for path, k in zip(texts, (0, 1), strict=True):
        path.write_text("".join(f"{pair[k]}\n" for pair in first), encoding="utf-8")
    paired = extract(open_source(texts), load_towers(USER, ["text"]), tmp_path / "c", options=options)
    assert [f.name for f in paired.folders] == ["x_emb", "y_emb"]
    assert torch.equal(read_embeddings(paired.folders[0]), y[::2])
    assert torch.equal(read_embeddings(paired.folders[1]), y[1::2])


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "tsv"])
def test_tables_of_captions(tmp_path: Path, kind: str) -> None:
    folder = datasets.image_folder(tmp_path / "folder", images=3)
    (folder / "captions.csv").unlink()
    rows = [{"path": f"{i}.png", "text": datasets.captions_of(i, 2)} for i in range(3)]
    table = tmp_path / f"captions.{kind}"
    if kind == "jsonl":
        table.write_text("\n".join(json.dumps(r) for r in rows))
    elif kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet

        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), table)
    else:
        table.write_text("path\ttext\n" + "".join(f"{r['path']}\t{t}\n" for r in rows for t in r["text"]))
    source = open_source([folder, table])
    assert [(s.key, list(s.texts)) for s in source.samples()] == [(r["path"], r["text"]) for r in rows]


@pytest.mark.slow
def test_killed_at_any_moment_gives_the_same_bytes(tmp_path: Path) -> None:
    """SIGKILL at random moments until it ends; every byte is as without, and no finished batch is computed again."""
    coco = datasets.coco_folder(tmp_path / "coco", images=40, captions=2)
    (coco / "val2017" / "000000000117.jpg").write_bytes(b"no image")  # a skipped one must not shift the others
    environment = os.environ | {"PYTHONPATH": f"{Path(im.__file__).parents[1]}:{HERE}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _SMALL_SHARDS, str(coco)]
    whole = tmp_path / "whole"
    subprocess.run([*command, str(whole)], env=environment, check=True, timeout=100)
    pick = random.Random(0)
    log, out = tmp_path / "calls", tmp_path / "killed"
    kills = 0
    environment |= {"SLOW": "0.03", "CALLS": str(log)}
    for _ in range(60):
        batches = len(log.read_text().splitlines()) if log.exists() else 0
        with (tmp_path / "errors").open("w") as errors:
            process = subprocess.Popen([*command, str(out)], env=environment, stderr=errors)
        deadline = time.monotonic() + 60  # moments of the work itself, not of the imports
        while process.poll() is None and time.monotonic() < deadline:
            if log.exists() and len(log.read_text().splitlines()) > batches:
                break
            time.sleep(0.005)
        time.sleep(pick.uniform(0.0, 0.35))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert process.returncode == 0, (tmp_path / "errors").read_text()
    assert kills >= 3
    assert tree(out) == tree(whole)
    calls = log.read_text().splitlines()
    # Two calls a batch, images and texts. A kill costs at most the calls of the one batch that was not written yet.
    assert len(calls) - len(set(calls)) <= 2 * kills


_SMALL_SHARDS = """
import sys
from pathlib import Path
from infomech.embedding import ExtractOptions, extract, open_source
from infomech.embedding.encoders.encoder import ModelChoice
from infomech.embedding.encoders.loading import load_towers
options = ExtractOptions(batch_size=2, shard_batches=3, workers=2)
towers = load_towers(ModelChoice("user_model:encode"), ["image", "text"])
extract(open_source([Path(sys.argv[1])]), towers, Path(sys.argv[2]), options=options)
"""


def test_a_second_run_computes_nothing(tmp_path: Path) -> None:
    source = open_source([datasets.image_folder(tmp_path / "folder")])
    first = extract(source, towers(), tmp_path / "out", options=ExtractOptions(batch_size=2))
    before = tree(tmp_path / "out")
    again = extract(source, towers(), tmp_path / "out", options=ExtractOptions(batch_size=2))
    assert (first.computed, again.computed) == (9, 0)
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("model", "another model"),
        ("batch", "another batch size"),
        ("precision", "another precision"),
        ("caption", "other data"),
        ("image", "other data"),
    ],
)
def test_mixing_is_refused(tmp_path: Path, change: str, words: str) -> None:
    folder = datasets.image_folder(tmp_path / "folder")
    extract(open_source([folder]), towers(), tmp_path / "out", options=ExtractOptions(batch_size=2))
    before = tree(tmp_path / "out")
    spec, options = "user_model:encode", ExtractOptions(batch_size=2)
    if change == "model":
        spec = "user_model:another"
    elif change == "batch":
        options = ExtractOptions(batch_size=4)
    elif change == "precision":
        options = ExtractOptions(batch_size=2, precision="bf16")
    elif change == "caption":
        table = folder / "captions.csv"
        table.write_text(table.read_text().replace("seen from 1", "seen from 2", 1))
    else:
        datasets.picture(99).save(folder / "3.png")
    with pytest.raises(im.InputError, match=words) as refused:
        extract(open_source([folder]), towers(spec), tmp_path / "out", options=options)
    assert "\n" not in str(refused.value)
    assert tree(tmp_path / "out") == before


def test_a_checkpoint_of_the_same_name_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source([datasets.image_folder(tmp_path / "folder")])
    extract(source, towers(), tmp_path / "out")
    monkeypatch.setattr(user_model.encode, "fingerprint", "step 2000", raising=False)
    with pytest.raises(im.InputError, match="another checkpoint"):
        extract(source, towers(), tmp_path / "out")


def test_a_damaged_batch_is_made_again(tmp_path: Path) -> None:
    """A power cut may leave a file of zeros under the right name."""
    folder = datasets.image_folder(tmp_path / "folder")
    options = ExtractOptions(batch_size=2, shard_batches=100)
    extract(open_source([folder]), towers(), tmp_path / "whole", options=options)
    out = tmp_path / "cut"

    def stop(done: int, total: int | None) -> None:
        if len(list((out / "batches").glob("*"))) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(open_source([folder]), towers(), out, options=options, progress=stop)
    files = sorted((out / "batches").glob("*.safetensors"))
    files[0].write_bytes(bytes(files[0].stat().st_size))
    files[1].write_bytes(files[1].read_bytes()[:-1] + b"\x01")
    result = extract(open_source([folder]), towers(), out, options=options)
    assert result.computed == 9 - 2
    assert tree(out) == tree(tmp_path / "whole")


def test_damaged_items_are_named_skipped_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(HERE)
    folder = datasets.image_folder(tmp_path / "folder", images=12)
    (folder / "1.png").write_bytes(b"this is no image")
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:200])  # truncated
    (folder / "3.png").unlink()
    (folder / "4.png").write_bytes(b"")
    table = folder / "captions.csv"
    lines = table.read_text().splitlines()
    lines = [("5.png,  " if line.startswith("5.png") else line) for line in lines if not line.startswith("6.png")]
    table.write_text("\n".join(lines))
    command = ("embed", str(folder), "-m", "user_model:encode", "-o", str(tmp_path / "out"), "--batch-size", "5")
    assert run(*command, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    reasons = dict(found["skipped"])
    assert set(reasons) == {f"{i}.png" for i in (1, 2, 3, 4, 5, 6)}
    assert "no readable image" in reasons["1.png"]
    assert "no readable image" in reasons["2.png"]
    assert reasons["3.png"] == "has captions and no image"
    assert reasons["4.png"] == "is empty"
    assert reasons["5.png"] == "has an empty caption"
    assert reasons["6.png"] == "is an image without captions"
    assert found["rows"] == [6, 12]
    assert run(*command, "--strict") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for number in (3, 6):  # without those that a listing shows, the first damaged image itself is named
        (folder / f"{number}.png").unlink(missing_ok=True)
    table.write_text("\n".join(line for line in lines if not line.startswith("3.png")))
    assert run(*command[:-4], "-o", str(tmp_path / "strict"), "--strict") == 2
    assert "1.png is no readable image" in capsys.readouterr().err


def test_the_command_and_the_report_that_follows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(HERE)
    coco = datasets.coco_folder(tmp_path / "coco", images=12)
    assert run("embed", str(coco), "-m", "user_model:encode", "-o", str(tmp_path / "out")) == 0
    said = capsys.readouterr().out.strip().splitlines()
    assert "12 + 60 rows of 8" in said[0]
    assert said[-1] == f"Now: infomech report {tmp_path / 'out'} -o report"
    follow = said[-1].removeprefix("Now: infomech ").split()
    follow[follow.index("-o") + 1] = str(tmp_path / "report")
    assert run(*follow, "--no-figures") == 0
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert (content["inputs"]["pairs"], content["inputs"]["groups"]) == (60, 12)
    assert content["inputs"]["temperature"] == 0.05
    assert (content["inputs"]["name_x"], content["inputs"]["name_y"]) == ("image", "text")
    assert "from the manifest of" in capsys.readouterr().out
    two = (str(tmp_path / "out" / "img_emb"), str(tmp_path / "out" / "text_emb"))
    assert run("doctor", *two, "--pairs", str(tmp_path / "out" / "pairs.npy"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["inputs"]["temperature"] == 0.05
    assert run("doctor", str(tmp_path / "out"), "-t", "0.1", "--names", "a,b", "--json") == 0
    inputs = json.loads(capsys.readouterr().out)["inputs"]
    assert (inputs["temperature"], inputs["name_x"]) == (0.1, "a")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest | {"complete": False}))
    assert run("doctor", str(tmp_path / "out")) == 2
    assert "is not complete; run the same infomech embed again" in capsys.readouterr().err


def test_overwriting_removes_only_what_the_manifest_names(tmp_path: Path) -> None:
    source = open_source([datasets.image_folder(tmp_path / "folder", images=3)])
    out = tmp_path / "out"
    extract(source, towers(), out)
    before = tree(out)
    (out / "mine_emb").mkdir()
    (out / "mine_emb" / "mine_emb_00000.npy").write_bytes(b"years of work")
    with pytest.raises(
        im.InputError, match=r"holds other files \(mine_emb\) beside the embeddings; nothing was removed"
    ):
        Cache.clear(out)
    assert (out / "mine_emb" / "mine_emb_00000.npy").read_bytes() == b"years of work"
    (out / "mine_emb").rename(tmp_path / "mine")
    (out / "img_emb" / "notes.txt").write_text("mine")
    with pytest.raises(im.InputError, match=r"notes\.txt"):
        Cache.clear(out)
    (out / "img_emb" / "notes.txt").unlink()
    assert tree(out) == before
    (out / "text_emb").rename(tmp_path / "elsewhere")
    (out / "text_emb").symlink_to(tmp_path / "elsewhere")
    Cache.clear(out)
    assert [p.name for p in out.iterdir()] == [".lock"]
    assert [p.name for p in (tmp_path / "elsewhere").iterdir()] == [
        "text_emb_00000.npy"
    ]  # the link went, not its target
    again = extract(source, towers(), out)
    assert again.computed == 3
    for content in ({"name": "an extension of a browser"}, [], {"key": "x"}, {"key": {"format": 1}, "names": ["../x"]}):
        other = tmp_path / "other"
        other.mkdir(exist_ok=True)
        (other / "manifest.json").write_text(json.dumps(content))
        (other / "img_emb").mkdir(exist_ok=True)
        with pytest.raises(im.InputError, match="is not a manifest of `infomech embed`"):
            Cache.clear(other)
        assert (other / "img_emb").exists()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nothing", "names no model"),
        ("no_such_module:encode", "there is no module 'no_such_module'"),
        ("user_model:missing", "has no function 'missing'"),
        ("user_model:three_dimensional", "shape"),
        ("user_model:not_a_number", "NaN"),
        ("user_model:no_tensor", "returned a list"),
        ("user_model:two_widths", "share one embedding space"),
        ("user_model:sparse", "user_model:sparse returned a sparse tensor"),
        ("user_model:leaving", "user_model:leaving ended the program (exit code 3)"),
    ],
)
def test_bad_models(
    tmp_path: Path, spec: str, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(HERE)
    folder = datasets.image_folder(tmp_path / "folder", images=3)
    assert run("embed", str(folder), "-m", spec, "-o", str(tmp_path / "out")) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("of_no_syntax", "def f(:\n", "of_no_syntax cannot be imported (SyntaxError: invalid syntax"),
        (
            "of_an_error",
            "raise RuntimeError('no\\nlicence')",
            "of_an_error cannot be imported (RuntimeError: no licence)",
        ),
        ("of_an_end", "import sys\nsys.exit(3)", "of_an_end cannot be imported (SystemExit: 3)"),
    ],
)
def test_modules_that_cannot_be_imported(
    tmp_path: Path,
    name: str,
    content: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"{name}.py").write_text(content)
    folder = datasets.image_folder(tmp_path / "folder", images=3)
    assert run("embed", str(folder), "-m", f"{name}:f", "-o", str(tmp_path / "out")) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_rows_in_a_graph_are_detached(tmp_path: Path) -> None:
    folder = datasets.image_folder(tmp_path / "folder", images=3)
    found = extract(open_source([folder]), towers("user_model:in_a_graph"), tmp_path / "out")
    assert found.rows[0] == 3


def test_keys_stay_on_their_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(HERE)
    folder = datasets.image_folder(tmp_path / "folder", images=3)
    (folder / "a\n\x1b[31mb.png").write_bytes(b"")
    assert run("embed", str(folder), "-m", "user_model:encode", "-o", str(tmp_path / "out")) == 0
    error = capsys.readouterr().err
    assert "skipped: a\\n\\x1b[31mb.png" in error
    assert "\x1b" not in error


def test_bad_data(tmp_path: Path) -> None:
    coco = datasets.coco_folder(tmp_path / "coco", images=3)
    with pytest.raises(im.InputError, match=r"train2017.*Fetch http://images\.cocodataset\.org/zips/train2017\.zip"):
        open_source([coco], split="train2017")
    for image in (coco / "val2017").iterdir():
        image.unlink()
    with pytest.raises(im.InputError, match="none of the 3 images that have captions"):
        open_source([coco])
    with pytest.raises(im.InputError, match="does not exist"):
        open_source([tmp_path / "none"])
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "b.txt").write_text("one\n")
    with pytest.raises(im.InputError, match=r"has 2 lines and .* has 1"):
        open_source([tmp_path / "a.txt", tmp_path / "b.txt"])
    (tmp_path / "c.tar").write_bytes(b"not a tar")
    with pytest.raises(im.InputError, match="damaged tar file"):
        list(open_source([tmp_path / "c.tar"]).samples())
    folder = datasets.image_folder(tmp_path / "folder", images=3)
    (folder / "captions.csv").write_text("a,b\n1,2\n")
    with pytest.raises(im.InputError, match="columns a, b; say which one with Columns\\(image=NAME"):
        open_source([folder])
    (folder / "captions.jsonl").write_text("{}\n")
    with pytest.raises(im.InputError, match="2 tables of captions"):
        open_source([folder])
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(im.InputError, match="none of the 1 samples"):
        extract(open_source([tmp_path / "empty.txt"] * 2), towers(), tmp_path / "nothing")


def test_a_folder_with_other_files_and_a_second_writer(tmp_path: Path) -> None:
    source = open_source([datasets.image_folder(tmp_path / "folder", images=3)])
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.doc").write_text("years")
    with pytest.raises(im.InputError, match="holds other files"):
        extract(source, towers(), out)
    Cache.clear(out)
    assert [p.name for p in out.iterdir()] == ["thesis.doc"]
    with (
        Cache(tmp_path / "busy", {}, ("a", "b"), 1).locked(),
        pytest.raises(im.InputError, match="written by another process"),
    ):
        extract(source, towers(), tmp_path / "busy")


def test_no_space_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source([datasets.image_folder(tmp_path / "folder")])
    whole = extract(source, towers(), tmp_path / "whole", options=ExtractOptions(batch_size=2))
    real, written = os.replace, []

    def full(new: Path, target: Path) -> None:
        written.append(target)
        if len(written) == 4:  # the manifest, two batches, and then
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        real(new, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(im.InputError, match="No space left on device; free some space"):
        extract(source, towers(), tmp_path / "out", options=ExtractOptions(batch_size=2))
    assert not list((tmp_path / "out").rglob(".*infomech*"))
    again = extract(source, towers(), tmp_path / "out", options=ExtractOptions(batch_size=2))
    assert again.computed == 9 - 4
    assert tree(tmp_path / "out") == tree(whole.folder)


def test_mixed_precision_and_lengths(tmp_path: Path) -> None:
    folder = datasets.image_folder(tmp_path / "folder")
    kept = extract(
        open_source([folder]), towers(), tmp_path / "raw", options=ExtractOptions(normalize=False, precision="bf16")
    )
    rows = np.load(kept.folders[0] / "img_emb_00000.npy")
    assert rows.dtype == np.float32
    assert not np.allclose(np.linalg.norm(rows, axis=1), 1, atol=0.05)
    with pytest.raises(im.InputError, match="torch cannot use here"):
        extract(open_source([folder]), towers(), tmp_path / "gpu", options=ExtractOptions(device="gpu"))
