"""What real tables, pictures and folders hold: every value by its type, and what cannot be used is named."""

import io
import json
import re
import sys
import tarfile
import unicodedata
import zlib
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image

import infomech as im
from infomech.embedding import ExtractOptions, extract, open_source
from infomech.embedding.encoders.encoder import ModelChoice
from infomech.embedding.encoders.loading import load_towers
from infomech.embedding.images import decode_image
from infomech.embedding.opening import Columns
from infomech.embedding.sources import Damaged, Source

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import small_datasets as datasets  # noqa: E402
import user_model  # noqa: E402


def towers(*modalities: str):
    return load_towers(ModelChoice("user_model:encode"), modalities or ("image", "text"))


def texts(source: Source) -> dict[str, tuple[str, ...]]:
    return {sample.key: sample.texts for sample in source.samples()}


def png(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_captions_by_their_type(tmp_path: Path) -> None:
    folder = datasets.image_folder(tmp_path / "folder", images=8)
    (folder / "captions.csv").unlink()
    values = ["a cat", None, 0, float("nan"), ["a dog", None, 7], {"raw": "a"}, True, "\ud800"]
    rows = [{"image": f"{i}.png", "caption": value} for i, value in enumerate(values)]
    (folder / "captions.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    source = open_source([folder])
    assert texts(source)["2.png"] == ("0",)  # a number is its digits, and 0 is not empty
    assert texts(source)["4.png"] == ("a dog", "7")
    result = extract(source, towers(), tmp_path / "out", options=ExtractOptions(batch_size=3))
    assert result.rows == (3, 4)
    assert dict(result.skipped) == {
        "1.png": "has a caption that is missing",
        "3.png": "has a caption that is missing",
        "4.png": "has a caption that is missing",  # one of its three
        "5.png": "has a caption that is a dict",
        "6.png": "has a caption that is true or false",
        "7.png": "has a caption with half of a surrogate pair",
    }
    x, y, pairs = result.load()
    assert torch.allclose(y, torch.nn.functional.normalize(user_model.encode(["a cat", "0", "a dog", "7"]), dim=1))
    assert pairs.tolist() == [[0, 0], [1, 1], [2, 2], [2, 3]]
    assert torch.allclose(x[2], torch.nn.functional.normalize(user_model.encode([datasets.picture(4)]), dim=1)[0])


def test_images_in_the_table(tmp_path: Path) -> None:
    """As Hugging Face's datasets write them: a structure of bytes and path; also bare bytes."""
    pixels = [png(datasets.picture(i)) for i in range(3)]
    structures = [{"bytes": p, "path": f"{i}.png"} for i, p in enumerate(pixels)]
    structures[1] = {"bytes": None, "path": None}
    for name, values in (("structs", structures), ("bytes", [pixels[0], None, pixels[2]])):
        table = pa.Table.from_pylist([{"image": v, "caption": f"text {i}"} for i, v in enumerate(values)])
        file = tmp_path / f"{name}.parquet"
        pyarrow.parquet.write_table(table, file)
        result = extract(open_source([file]), towers(), tmp_path / name)
        assert result.rows == (2, 2)
        assert result.skipped == [("row 2", "holds no image")]
        x, _, _ = result.load()
        truth = user_model.encode([datasets.picture(0), datasets.picture(2)])
        assert torch.allclose(x, torch.nn.functional.normalize(truth, dim=1))


def test_paired_texts_by_their_type(tmp_path: Path) -> None:
    rows = [{"a": "one", "b": 1}, {"a": None, "b": "x"}, {"a": "zero", "b": 0}, {"a": {"x": 1}, "b": "y"}]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    source = open_source([tmp_path / "t.jsonl"])
    assert [(sample.read(), sample.texts) for sample in source.samples()] == [(b"one", ("1",)), (b"zero", ("0",))]
    assert [(o.key, o.reason) for o in source.left_out] == [
        ("row 2", "lacks one of the two texts"),
        ("row 4", "has in a a value that is a dict"),
    ]
    (tmp_path / "l.txt").write_text("\ufeffun\u2028e\ndeux\n", encoding="utf-8")
    assert [s.texts for s in open_source([tmp_path / "l.txt"] * 2).samples()] == [("un\u2028e",), ("deux",)]


def test_one_policy_for_bytes_and_text(tmp_path: Path) -> None:
    """A byte-order mark is no letter of a caption, and what holds a NUL is no text, wherever it stands."""
    contents = {"a": b"\xef\xbb\xbfred cat", "b": "grey".encode("utf-16-le"), "c": "grey".encode("utf-16")}
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for stem, content in contents.items():
            for name, held in ((f"{stem}.png", b""), (f"{stem}.txt", content)):
                member = tarfile.TarInfo(name)
                member.size = len(held)
                archive.addfile(member, io.BytesIO(held))
    found = [(s.texts, s.damage) for s in open_source([tmp_path / "s.tar"]).samples()]
    assert found == [
        (("red cat",), ()),
        ((), ("has a caption that holds a NUL",)),
        ((), ("has a caption that is text in UTF-16",)),
    ]
    (tmp_path / "t.jsonl").write_text('{"a": "bom", "b": "x"}\n{"a": "q\\u0000r", "b": "y"}\n')
    source = open_source([tmp_path / "t.jsonl"])
    assert [(s.read(), s.texts) for s in source.samples()] == [(b"bom", ("x",))]
    assert [(o.key, o.reason) for o in source.left_out] == [("row 2", "has in a a value that holds a NUL")]
    binary = pa.table({"a": [b"\xef\xbb\xbfbom", b"a\0b"], "b": ["x", "y"]})
    pa.parquet.write_table(binary, tmp_path / "t.parquet")
    source = open_source([tmp_path / "t.parquet"])
    assert [(s.read(), s.texts) for s in source.samples()] == [(b"bom", ("x",))]
    images = pa.table({"image": [{"bytes": b"1", "path": "a\0b.png"}], "caption": [b"\xef\xbb\xbfbom"]})
    pa.parquet.write_table(images, tmp_path / "i.parquet")
    assert [(s.key, s.texts) for s in open_source([tmp_path / "i.parquet"]).samples()] == [("row 1", ("bom",))]


def test_tables_are_not_paired_by_their_lines(tmp_path: Path) -> None:
    for suffix in ("jsonl", "csv"):
        files = [tmp_path / f"{name}.{suffix}" for name in "ab"]
        for file in files:
            file.write_text('{"a": "one", "b": "two"}\n')
        with pytest.raises(im.InputError, match=re.escape(f"a.{suffix} is a table, and two files are paired")):
            open_source(files)
    with pytest.raises(im.InputError, match="the column 'a' is named twice"):
        open_source([tmp_path / "a.jsonl"], columns=Columns("a", "a"))


LISTS = {"a": ["cat", "dog", "pig", "hen"], "b": [["ein Kater", "Kater"], ["Hund"], [], None]}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_list_of_texts_is_several_captions(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"t.{kind}"
    if kind == "jsonl":
        rows = [dict(zip(LISTS, row, strict=True)) for row in zip(*LISTS.values(), strict=True)]
        file.write_text("\n".join(map(json.dumps, rows)))
    else:
        pyarrow.parquet.write_table(pyarrow.table(LISTS), file)
    source = open_source([file])
    assert [(s.key, s.read().decode(), s.texts) for s in source.samples()] == [
        ("row 1", "cat", ("ein Kater", "Kater")),
        ("row 2", "dog", ("Hund",)),
    ]
    assert [(each.key, each.reason) for each in source.left_out] == [
        (f"row {row}", "lacks one of the two texts") for row in (3, 4)
    ]
    with pytest.raises(im.InputError, match=r"row 1 has 2 texts in the column 'b'; only the second text may be"):
        open_source([file], columns=Columns("b", "a"))


def test_what_is_no_text_in_a_list_is_named(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text('{"a": ["one"], "b": ["ok", 3, null, {"q": 1}, " ", ["n"]]}')
    (sample,) = open_source([file]).samples()
    assert (sample.read(), sample.texts) == (b"one", ("ok", "3"))
    assert sample.damage == tuple(
        f"has a{'n empty caption' if what is None else f' caption that is {what}'}"
        for what in ("missing", "a dict", None, "a list")
    )


@pytest.mark.parametrize(
    ("images", "annotations", "words"),
    [
        (None, [], "(it holds something else than lists of records)"),
        ([{"id": 1}], [], "('file_name' is missing)"),
        ([{"id": 1, "file_name": "1.jpg"}], [{"id": 1, "image_id": 1.5, "caption": "c"}], "(the id 1.5 is no whole"),
        ([{"id": "x", "file_name": "1.jpg"}], [], "(the id 'x' is no whole number)"),
    ],
)
def test_damaged_coco(tmp_path: Path, images: object, annotations: object, words: str) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    content = json.dumps({"images": images, "annotations": annotations})
    (tmp_path / "annotations" / "captions_val2017.json").write_text(content)
    with pytest.raises(im.InputError, match=re.escape(f"is no COCO captions file {words}")):
        open_source([tmp_path], kind="coco")


def test_sixteen_bits_floats_and_orientation() -> None:
    grey = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    seen = np.asarray(decode_image(png(Image.fromarray(grey))))
    assert (seen == np.arange(256).reshape(16, 16)[..., None]).all()  # all of the range, and not white
    with pytest.raises(Damaged, match="floating-point numbers, whose range is not known"):
        decode_image(png(Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)), "TIFF"))
    with pytest.raises(Damaged, match="32-bit numbers"):
        decode_image(png(Image.fromarray(np.full((4, 4), 70_000, dtype=np.int32)), "TIFF"))
    upright = datasets.picture(3)
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees, clockwise
    assert np.array_equal(np.asarray(decode_image(png(turned, exif=exif.tobytes()))), np.asarray(upright))
    plain = datasets.picture(4)
    assert np.array_equal(np.asarray(decode_image(png(plain))), np.asarray(plain))
    assert decode_image(png(plain.convert("P"))).mode == "RGB"


def test_names_of_one_image(tmp_path: Path) -> None:
    """./a.png, its whole path and the two Unicode forms are one image; what macOS leaves is none."""
    folder = tmp_path / "folder"
    folder.mkdir()
    stored = unicodedata.normalize("NFD", "café.png")
    for seed, name in enumerate(("a.png", "b.png", stored, "._a.png")):
        datasets.picture(seed).save(folder / name)
    lines = ["image,caption", "./a.png,one", "a.png,two", f"{folder / 'b.png'},three", "café.png,four"]
    (folder / "captions.csv").write_text("\n".join(lines), encoding="utf-8")
    (folder / "._captions.csv").write_bytes(b"\x00\x05\x16\x07")
    source = open_source([folder])
    assert texts(source) == {"a.png": ("one", "two"), "b.png": ("three",), stored: ("four",)}
    assert source.left_out == []


def test_what_lies_beside_shards(tmp_path: Path) -> None:
    datasets.tar_shards(tmp_path / "tars", images=6, per_shard=3)
    truth = texts(open_source([tmp_path / "tars"]))
    for name in ("._00000.tar", "00000.tar.md5", "00001.tar.part", ".DS_Store", "00002.tar.crdownload"):
        (tmp_path / "tars" / name).write_bytes(b"no tar")
    source = open_source([tmp_path / "tars"])
    assert texts(source) == truth
    assert len(truth) == 6
    assert len(source.ignored) == 5
    source = open_source(sorted((tmp_path / "tars").glob("*tar*")))  # as a shell names them
    assert texts(source) == truth
    assert len(source.ignored) == 4


def test_what_lies_beside_images(tmp_path: Path) -> None:
    folder = datasets.image_folder(tmp_path / "folder", images=3)
    for name in ("._0.png", ".DS_Store", "3.png.part", "0.png.md5"):
        (folder / name).write_bytes(b"no image")
    source = open_source([folder])
    assert sorted(source.ignored) == [".DS_Store", "._0.png", "0.png.md5", "3.png.part"]
    assert source.left_out == []
    coco = datasets.coco_folder(tmp_path / "coco", images=3)
    (coco / "val2017" / "._a.jpg").write_bytes(b"no image")
    source = open_source([coco])
    assert source.ignored == ["._a.jpg"]
    assert len(texts(source)) == 3


def test_names_of_coco_and_of_members(tmp_path: Path) -> None:
    """Decomposed on the disk, composed in the list; a file name that is none is refused."""
    coco = datasets.coco_folder(tmp_path / "coco", images=2)
    listed = coco / "annotations" / "captions_val2017.json"
    content = json.loads(listed.read_text())
    first = content["images"][0]
    (coco / "val2017" / first["file_name"]).rename(coco / "val2017" / unicodedata.normalize("NFD", "é.jpg"))
    first["file_name"] = "é.jpg"
    listed.write_text(json.dumps(content))
    assert len(texts(open_source([coco]))) == 2
    first["file_name"] = None
    listed.write_text(json.dumps(content))
    with pytest.raises(im.InputError, match="is no COCO captions file"):
        open_source([coco])
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, body in (("café.png", png(datasets.picture(0))), ("café.txt", b"a cat")):
            form = "NFC" if name.endswith("png") else "NFD"
            info = tarfile.TarInfo(unicodedata.normalize(form, name))
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    (sample,) = open_source([tmp_path / "a.tar"]).samples()
    assert sample.texts == ("a cat",)


def test_a_table_from_windows(tmp_path: Path) -> None:
    folder = datasets.image_folder(tmp_path / "folder", images=1)
    (folder / "sub").mkdir()
    datasets.picture(0).save(folder / "sub" / "b.png")
    (folder / "captions.csv").write_text("image;caption\r\nsub\\b.png;a cat\r\n.\\0.png;a dog\r\n")
    assert texts(open_source([folder])) == {"sub/b.png": ("a cat",), "0.png": ("a dog",)}


def test_names_of_the_modalities(tmp_path: Path) -> None:
    folder = datasets.image_folder(tmp_path / "folder", images=12)
    result = extract(open_source([folder]), towers(), tmp_path / "out", names=("photo", "caption"))
    assert [p.name for p in result.folders] == ["photo_emb", "caption_emb"]
    assert result.load()[0].shape == (12, result.dimension)
    assert "rows of photo" in str(result)
    with pytest.raises(im.InputError, match="holds embeddings named photo, caption, now img, text"):
        extract(open_source([folder]), towers(), tmp_path / "out")
    again = extract(open_source([folder]), towers(), tmp_path / "out", overwrite=True)
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.name.endswith("_emb")) == ["img_emb", "text_emb"]
    assert again.computed == 12
    for names in (("a", "a"), ("a/b", "c"), ("", "b"), ("..", "b")):
        with pytest.raises(im.InputError, match="names is"):
            extract(open_source([folder]), towers(), tmp_path / "other", names=names)
    assert not (tmp_path / "other").exists()


def test_a_picture_that_promises_too_much() -> None:
    content = bytearray(png(Image.new("L", (8, 8))))
    content[16:24] = (20_000).to_bytes(4, "big") + (4_000).to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    with pytest.raises(Damaged, match="promises 20,000 by 4,000 pixels in"):
        decode_image(bytes(content))
    assert decode_image(png(Image.new("L", (3000, 2000), 7))).size == (3000, 2000)


GREY = np.array([[0, 16384, 32768, 65535]], dtype=np.uint16)
RAMP = [0, 64, 128, 255]


@pytest.mark.parametrize(
    ("pixels", "tags", "truth"),
    [
        (GREY, {}, RAMP),
        (GREY.astype(">u2"), {}, RAMP),
        (GREY, {262: [0]}, [255, 191, 127, 0]),  # white is zero
        ((GREY >> 8).astype(np.uint8), {}, RAMP),
        ((GREY >> 8).astype(np.uint8), {262: [0]}, [255, 191, 127, 0]),
        (np.frombuffer(b"\x00\x0f\xff", np.uint8)[None], {256: [2], 258: [12]}, [0, 255]),  # 12 bits: white is 4,095
        (np.frombuffer(b"\x0f", np.uint8)[None], {256: [8], 258: [1]}, [0] * 4 + [255] * 4),
        (np.frombuffer(b"\x0f", np.uint8)[None], {256: [8], 258: [1], 262: [0]}, [255] * 4 + [0] * 4),
        (np.stack([GREY] * 3, -1), {262: [2]}, RAMP),
        (np.stack([GREY] * 4, -1), {262: [2], 338: [2]}, RAMP),
        (np.stack([GREY * 0] * 3 + [GREY], -1), {262: [5]}, [255, 191, 127, 0]),  # black ink
        (np.array([[2, 1, 0]], np.uint8), {262: [3], 320: [0, 32768, 65535, *[0] * 253] * 3}, [255, 128, 0]),
    ],
)
def test_tiffs_have_the_pixels_that_they_say(pixels: np.ndarray, tags: dict[int, list[int]], truth: list[int]) -> None:
    seen = np.asarray(decode_image(datasets.tiff(pixels, tags)))
    assert np.abs(seen[0].astype(int) - np.array(truth)[:, None]).max() <= 1
    turned = np.asarray(decode_image(datasets.tiff(pixels, tags | {0x0112: [6]})))  # a turned copy has no tags
    assert np.array_equal(turned[:, 0], seen[0])


@pytest.mark.parametrize(
    ("pixels", "tags", "words"),
    [
        (GREY.astype(np.int16), {339: [2]}, "signed numbers"),
        ((GREY >> 8).astype(np.uint8), {339: [2]}, "signed numbers"),
        (GREY.astype(np.float32), {339: [3]}, "floating-point numbers"),
        (GREY.astype(np.uint32), {}, "32-bit numbers"),
        (np.stack([GREY] * 2, -1), {338: [2]}, "no readable image"),
    ],
)
def test_tiffs_without_a_range(pixels: np.ndarray, tags: dict[int, list[int]], words: str) -> None:
    with pytest.raises(Damaged, match=words):
        decode_image(datasets.tiff(pixels, tags))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_modes_of_pictures(mode: str, kind: str) -> None:
    grey = Image.fromarray(np.array([[0, 255, 0, 255]], np.uint8)).convert("RGB")
    try:
        content = png(grey.convert(mode), kind)
    except OSError:
        pytest.skip(f"{kind} has no {mode}")
    assert np.abs(np.asarray(decode_image(content)).astype(int) - np.asarray(grey)).max() <= 2


@pytest.mark.parametrize("damage", ["header", "zeros", "two in one", "cut", "no end", "compressed"])
def test_a_damaged_shard_names_what_is_lost(tmp_path: Path, damage: str) -> None:
    """Tarfile takes a bad header after the first for the end; nothing may be lost without a word."""
    (shard,) = datasets.tar_shards(tmp_path / "tars", images=4, per_shard=4)
    content = bytearray(shard.read_bytes())
    with tarfile.open(shard) as archive:
        starts = [member.offset for member in archive]
    if damage == "header":
        content[starts[4] + 148] ^= 0xFF  # the check sum of the third image
    elif damage == "zeros":
        content[starts[4] : starts[4] + tarfile.BLOCKSIZE] = bytes(tarfile.BLOCKSIZE)
    elif damage == "two in one":  # tar files one after the other: readers stop at the end of the first
        content = bytearray(2 * bytes(content))
    elif damage == "cut":
        content = content[: starts[5] + 100]
    elif damage == "no end":
        content = content[: starts[-1] + 1024]
    else:
        import gzip

        content = bytearray(gzip.compress(bytes(content))[:-2000])
        shard = shard.with_name("00000.tar.gz")
    shard.write_bytes(content)
    source = open_source([shard])
    result = extract(source, towers(), tmp_path / "out")
    (lost,) = [(key, reason) for key, reason in result.skipped if "damaged" in reason]
    assert lost[0].startswith(f"{shard.name} after its first ")
    assert result.rows[0] < 4 or damage in ("no end", "two in one")
    words = "sample0002 has no caption" if damage == "cut" else "is damaged: the rest is lost"
    with pytest.raises(im.InputError, match=words):
        extract(source, towers(), tmp_path / "strict", options=ExtractOptions(strict=True))


def test_one_item_that_an_encoder_fails_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = datasets.image_folder(tmp_path / "folder", images=5)
    real = user_model.encode

    def picky(batch):
        if any(isinstance(item, str) and "number 2" in item and "from 1" in item for item in batch):
            raise RuntimeError("token out of range")
        rows = real(batch)
        for at, item in enumerate(batch):
            if isinstance(item, str) and "number 3" in item:
                rows[at] = float("nan")
        return rows

    monkeypatch.setattr(user_model, "encode", picky)
    result = extract(open_source([folder]), towers(), tmp_path / "out", options=ExtractOptions(batch_size=4))
    assert result.rows == (4, 7)  # caption 2 of image 2, and image 3 with both of its captions
    reasons = [reason for _, reason in result.skipped]
    assert [key for key, _ in result.skipped] == ["2.png", "3.png", "3.png"]
    assert "token out of range" in reasons[0]
    assert "NaN or infinity" in reasons[1]

    def broken(batch):
        raise RuntimeError("no weights")

    monkeypatch.setattr(user_model, "encode", broken)
    with pytest.raises(im.InputError, match=r"fails on every image \(RuntimeError: no weights\)"):
        extract(open_source([folder]), towers(), tmp_path / "broken")


def test_special_files_and_odd_names(tmp_path: Path) -> None:
    import os

    folder = datasets.image_folder(tmp_path / "folder", images=2)
    os.mkfifo(folder / "pipe.png")
    with (folder / "captions.csv").open("a") as file:
        file.write('pipe.png,a pipe\n"",nothing\n')
    result = extract(open_source([folder]), towers(), tmp_path / "out")
    assert result.rows == (2, 4)
    assert ("pipe.png", "is no regular file (a device or a pipe)") in result.skipped
    assert ("row 6", "names no image") in result.skipped
    for path in (Path("/dev/zero"), Path("a\0b")):
        with pytest.raises(im.InputError):
            open_source([folder, path])


def test_texts_without_a_choice_are_asked_about(tmp_path: Path) -> None:
    """What would be taken for texts without a word: an id, the first pair as a header, names of images."""
    cases = {
        "three.csv": ("id,question,answer\n1,why,so\n", "has 3 columns (id, question, answer); name the two"),
        "bare.csv": (
            "a dog barks,ein Hund bellt\na cat sleeps,eine Katze ruht\n",
            "has no header, it seems",
        ),
        "names.csv": ("image,caption\na.png,one\nb.JPG,two\n", "names images (a.png) and holds none"),
    }
    for name, (content, words) in cases.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(im.InputError, match=re.escape(words)):
            open_source([tmp_path / name])
    chosen = open_source([tmp_path / "three.csv"], columns=Columns("question", "answer"))
    assert [(s.key, s.read(), s.texts) for s in chosen.samples()] == [("row 1", b"why", ("so",))]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"x")
    (tmp_path / "bare.csv").write_text("a.png,a dog\n")
    with pytest.raises(im.InputError, match=r"has no header: its first line is a\.png, a dog"):
        open_source([tmp_path / "images", tmp_path / "bare.csv"])


def test_rows_keep_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\none,1\ntwo\nthree,3\n")
    source = open_source([tmp_path / "t.csv"])
    assert [s.key for s in source.samples()] == ["row 1", "row 3"]
    assert [o.key for o in source.left_out] == ["row 2"]


def test_numbers_in_their_own_digits(tmp_path: Path) -> None:
    table = pa.table({"a": pa.array([0.1, 2.0, None], pa.float32()), "b": [Decimal("1.50"), Decimal(3), Decimal(1)]})
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    pairs = [(s.read().decode(), *s.texts) for s in open_source([tmp_path / "t.parquet"]).samples()]
    assert pairs == [("0.1", "1.50"), ("2", "3.00")]
    (tmp_path / "t.jsonl").write_text('{"a": Infinity, "b": "x"}\n{"a": 1, "b": "y"}\n')
    source = open_source([tmp_path / "t.jsonl"])
    assert [o.reason for o in source.left_out] == ["has in a a value that is an infinite number"]


@pytest.mark.parametrize("content", ["sep=;\nImage;Caption\na.png;x, y\n", "image;caption;a, b\na.png;x, y;z\n"])
def test_separators(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "t.csv").write_text(content)
    assert [s.texts for s in open_source([tmp_path, tmp_path / "t.csv"]).samples()] == [("x, y",)]
