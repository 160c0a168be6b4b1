"""Messages that say how to go on, in names that are there; and what is taken where it is plain what is meant."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import infomech as im
import infomech.cli as cli
from infomech.cli.choose import _names
from infomech.corrections import Correction, MeanRemoval
from infomech.scores import DensityRatio


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    return int(stopped.value.code or 0)  # type: ignore[arg-type]


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, torch.Tensor]:
    monkeypatch.chdir(tmp_path)
    x = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    y = x + 0.5 * torch.randn(60, 8, generator=torch.Generator().manual_seed(1))
    np.savez("both.npz", a=x.numpy(), b=y.numpy())
    save_file({"image_embeds": x, "text_embeds": y}, "clip.safetensors")
    np.save("x.npy", x.numpy())
    return x, y


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("both.npz",), "both.npz holds 2 arrays (a, b); name both: both.npz::a both.npz::b"),
        (("x.npy",), "only x.npy is given; name the embeddings of the other modality, too"),
        (("clip.safetensors", "x.npy"), "name one: clip.safetensors::image_embeds"),
        (("x.npy", "clip.safetensors"), "name one: clip.safetensors::text_embeds"),
        (("clip.safetensors::image_embeds", "clip.safetensors"), "name one: clip.safetensors::text_embeds"),
        (("clip.safetensors::text_embeds", "clip.safetensors"), "name one: clip.safetensors::image_embeds"),
    ],
)
def test_arrays_are_named_as_they_are(given: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor", *given, "-t", "0.1") == 2
    assert capsys.readouterr().err.rstrip().endswith(said)


@pytest.mark.usefixtures("rows")
def test_text_in_place_of_embeddings(capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.csv").write_text("0.1,0.2\n0.3,0.4\n")
    assert run("doctor", "text.csv", "x.npy", "-t", "0.1") == 2
    assert capsys.readouterr().err.rstrip().endswith("save the rows as .npy: numpy.save('text.npy', rows)")


def test_unequal_lengths_are_seen_before_any_work(rows: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = rows
    worked: list[float] = []
    for other, said in (((x[:50], y[:50]), "b has 50 and 50 rows, a has 60 and 60"), ((x, y[:50]), "b has 60 and 50")):
        with pytest.raises(im.InputError, match=said):
            im.rank({"a": (x, y), "b": other}, progress=worked.append)
    with pytest.raises(im.InputError, match="x of a has 60 rows and y has 50, and no pairs are given"):
        im.rank({"a": (x, y[:50]), "b": (2 * x, y[:50])}, progress=worked.append)
    assert not worked


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["embeddings", "corrected/x.npy,corrected/y.npy"], ["embeddings", "corrected"]),
        (["clip/x.npy,clip/y.npy", "runs/siglip/x.npy,runs/siglip/y.npy"], ["clip", "siglip"]),
        (["out/clip.npy,out/text.npy", "out/siglip.npy,out/words.npy"], ["clip", "siglip"]),
        (["clip.npy,text.npy", "../siglip.npy,../words.npy"], ["clip", "siglip"]),
        (["data/clip.npz::a,data/clip.npz::b", "data/siglip.npz::a,data/siglip.npz::b"], ["clip", "siglip"]),
        (["one/x.npy,two/y.npy", "two/x.npy,one/y.npy"], ["one/x", "two/x"]),
    ],
)
def test_two_files_of_an_encoding_are_named_by_their_folder(given: list[str], names: list[str]) -> None:
    assert _names(None, given) == [str(Path(name)) for name in names]


def test_reports_by_name(rows: tuple[torch.Tensor, torch.Tensor], tmp_path: Path) -> None:
    x, y = rows
    first, second = (im.diagnose(x, rows, temperature=0.2) for rows in (y, y + x))
    second.save(tmp_path / "second", figures=False)
    named = im.compare({"before": first, "after": tmp_path / "second"})
    assert named.names == ("before", "after")
    with pytest.raises(im.InputError, match="compare needs one list of reports"):
        im.compare(first, second)  # type: ignore[arg-type]
    with pytest.raises(im.InputError, match="compare needs a list of reports"):
        im.compare(first.to_dict())


def test_what_was_fitted_is_read_from_its_folder(rows: tuple[torch.Tensor, torch.Tensor], tmp_path: Path) -> None:
    x, y = rows
    for name in ("score", "corrected"):
        (tmp_path / name).mkdir()
    ratio = DensityRatio(0.2).fit(x, y)
    ratio.save(tmp_path / "score" / "ratio.safetensors")
    assert torch.equal(DensityRatio.load(tmp_path / "score").log_ratio(x, y), ratio.log_ratio(x, y))
    correction = MeanRemoval().fit(x, y)
    correction.save(tmp_path / "corrected" / "correction.safetensors")
    assert torch.equal(Correction.load(tmp_path / "corrected").transform(x, y)[0], correction.transform(x, y)[0])
    with pytest.raises(im.InputError, match=r"ratio\.safetensors"):
        DensityRatio.load(tmp_path / "corrected")
