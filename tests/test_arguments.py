"""Arguments of a wrong kind, seeds without a range and inputs that are the same end in one line that names them."""

import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import infomech as im
import infomech.cli as cli
from infomech import compression, corrections, embedding, energies, equilibria, geometry, io, scores
from infomech.corrections import score_corrections
from infomech.diagnosis import Settings
from infomech.embedding import ExtractOptions
from infomech.experiments.claims.verify import run_claims
from infomech.measures import PairedSample
from infomech.scores import DensityRatio

pytestmark = pytest.mark.usefixtures("unchecked")

G = torch.Generator().manual_seed(0)
X = torch.nn.functional.normalize(torch.randn(120, 4, generator=G), dim=1)
Y = torch.nn.functional.normalize(X + torch.randn(120, 4, generator=G), dim=1)
TAU = {"temperature": 0.2}

DATA: dict[str, Callable[..., Any]] = {
    "decompose": partial(im.decompose, **TAU),
    "diagnose": partial(im.diagnose, **TAU),
    "shared_information": im.shared_information,
    "rank": lambda x, y, **options: im.rank({"a": (x, y), "b": (Y, X)}, **options),
    "shrink": im.shrink,
    "score_corrections": partial(score_corrections, methods=["mean-removal"], **TAU),
    "DensityRatio": lambda x, y, seed=0: DensityRatio(0.2, seed=seed).fit(x, y),
    "compare_scores": partial(scores.compare_scores, **TAU),
    "best_bias": partial(scores.best_bias, batch_size=8, **TAU),
}  # everything that takes both modalities

SEEDED: dict[str, Callable[[Any], Any]] = {
    "gap": lambda seed: im.gap(X, Y, seed=seed),
    **{name: lambda seed, door=door: door(X, Y, seed=seed) for name, door in DATA.items()},
    "Settings": lambda seed: Settings(0.2, seed=seed),
    "PairedSample": lambda seed: PairedSample.from_embeddings(X, Y, seed=seed),
    "claims": lambda seed: run_claims("T3", seed),
    "minimise_parametric": lambda seed: equilibria.minimise_parametric(equilibria.LatentAngles(), seed=seed),
    "minimise_measure": lambda seed: equilibria.minimise_measure(
        equilibria.LinearPotential(torch.tensor([1.0, 0.0])),
        temperature=0.1,
        quadrature=geometry.quadrature_rule(im.Sphere(2), 8),
        seed=seed,
    ),
}


@pytest.mark.parametrize("seed", [2**70, 1.5, "a", -1, None, True])
@pytest.mark.parametrize("name", SEEDED)
def test_seeds(name: str, seed: object) -> None:
    with pytest.raises(im.InputError, match=r"seed is .*; it must be a whole number from 0 to 4,294,967,295$"):
        SEEDED[name](seed)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    return int(stopped.value.code or 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [str(2**70), "1.5", "a", "-1"])
@pytest.mark.parametrize(
    "command",
    [
        *(f"{name} x y -t 0.1 -o out" for name in ("report", "score", "correct -m all")),
        "doctor x y -t 0.1",
        "rank a,b c,d",
        "shrink x y",
        "demo",
        "verify",
        "reproduce control",
        "reproduce all",
    ],
)
def test_seeds_of_commands(command: str, seed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*command.split(), "--seed", seed) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{seed} is no seed; give a whole number from 0 to 4,294,967,295" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "no such command 'nonsense'; see infomech --help"),
        (["report", "x", "y"], "missing option '--out' / '-o'; see infomech report --help"),
        (["doctor", "x", "-t", "abc"], "invalid value for '--temperature' / '-t'"),
        (["doctor", "--nope"], "no such option: --nope"),
        (["--nope"], "no such option: --nope"),
        (["reproduce", "--nope"], "no such option: --nope"),
        (["reproduce", "control", "--steps", "abc"], "invalid value for '--steps'"),
    ],
)
def test_words_that_no_command_takes(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("infomech: ")
    assert words in said


def test_help_without_a_command() -> None:
    done = subprocess.run([sys.executable, "-m", "infomech"], capture_output=True, text=True)
    assert done.returncode in (0, 2)
    assert "Usage" in done.stdout + done.stderr
    assert "fault" not in done.stderr


ZERO = X.clone()
ZERO[0, 0] = 0.0
MINUS = ZERO.clone()
MINUS[0, 0] = -0.0


@pytest.mark.parametrize(
    "other", [MINUS, ZERO.double(), ZERO.numpy(), ZERO.tolist()], ids=["-0", "double", "np", "list"]
)
@pytest.mark.parametrize("name", DATA)
def test_both_modalities_are_the_same_rows(name: str, other: Any) -> None:
    with pytest.raises(im.InputError, match=r"^x and y( of a)? hold the same rows; give the embeddings of both"):
        DATA[name](ZERO, other)


def test_an_encoding_twice() -> None:
    with pytest.raises(im.InputError, match="a and b hold the same rows; name each encoding once"):
        im.rank({"a": (X, Y), "b": (X.numpy(), Y)})


SEEN: list[tuple[Any, str]] = [
    ((X, X), "seen holds the same rows twice"),
    ((Y, Y.double()), "seen holds"),
    ((X.roll(1), X.roll(1)), "seen holds the same rows twice"),
    ((ZERO, Y), "seen holds the rows that are diagnosed"),
    ((X, Y), "seen holds the rows that are diagnosed"),
    ((Y, X), "seen holds the rows that are diagnosed"),
    ((X.flip(0), X.roll(1)), "seen holds the rows that are diagnosed"),
    ((X,), "seen is a tuple of 1; give two sets of rows"),
    (X, "seen is Tensor of shape"),
    ("ab", "seen is 'ab'; give two sets of rows"),
    ((X.roll(1), "y.npy"), "seen y is a str"),
]


@pytest.mark.parametrize(("seen", "words"), SEEN)
def test_seen_pairs_are_others(seen: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr("infomech.report.report.examine", fails)
    with pytest.raises(im.InputError, match=f"^{words}"):
        im.diagnose(ZERO if seen[0] is ZERO else X, Y, temperature=0.2, seen=seen)


@pytest.mark.parametrize("copied", ["same file", "hard link", "copy", "other type", "twice"])
def test_seen_files_are_others(tmp_path: Path, copied: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name, rows in (("x", X), ("y", Y), ("z", X.roll(1))):
        np.save(tmp_path / f"{name}.npy", rows.numpy())
    x, y, z = (tmp_path / f"{name}.npy" for name in "xyz")
    other = tmp_path / "other.npy"
    if copied == "hard link":
        other.hardlink_to(x)
    else:
        np.save(other, X.double().numpy() if copied == "other type" else X.numpy())
    seen = {"same file": (x, z), "twice": (z, z)}.get(copied, (other, z))
    assert run("doctor", str(x), str(y), "-t", "0.2", "--seen", *map(str, seen)) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"infomech: --seen holds the {'same rows twice' if copied == 'twice' else 'rows that are'}")
    assert said.count("\n") == 1


RATIO = DensityRatio(0.3).fit(X[:100], Y[:100])
LAW = im.VonMisesFisher(X[0], 5.0)
SMALL = compression.Compression(compression.Plan(bits="int8")).fit(X, Y)
WRONG: list[tuple[str, Callable[[], object], str]] = [
    ("k", lambda: RATIO.best_matches(X, Y, k=2.5), "k is 2.5; it must be a whole number of at least 1"),
    ("k", lambda: RATIO.best_matches(X, Y, k=True), "k is True"),
    ("side", lambda: RATIO.query_vectors(X, side=[1]), "side is [1]; it is one of x, y"),
    ("groups", lambda: RATIO.log_field_y(X, groups="a"), "groups is 'a'; give one group"),
    ("rows", lambda: RATIO.scored_pairs(X, Y, rows=2.5), "rows is 2.5; give row numbers"),
    ("rows", lambda: RATIO.scored_pairs(X, Y, rows=([0], [120])), "rows names a row of y that is none"),
    ("rows", lambda: RATIO.scored_pairs(X, Y, rows=([0.5], [1.0])), "rows is ([0.5], [1.0])"),
    ("prior", lambda: RATIO.match_probability(X, Y, prior="a"), "prior is 'a'; it is the share of true pairs"),
    ("prior", lambda: RATIO.threshold(best_f1=True, prior="a"), "prior is 'a'"),
    ("best_f1", lambda: RATIO.threshold(best_f1="yes", prior=0.1), "best_f1 is 'yes'; it must be True or False"),
    ("rate", lambda: RATIO.threshold(false_positive_rate="a"), "false_positive_rate is 'a'"),
    ("method", lambda: RATIO.calibrate([]), "method is []; it is one of isotonic, logistic"),
    ("ratio", lambda: scores.summarise(None), "ratio is None; give a fitted DensityRatio"),
    ("weights", lambda: DensityRatio(0.2, weights=X).fit(X, Y), "weights is Tensor of shape (120, 4)"),
    ("normalize", lambda: im.gap(X, Y, normalize="no"), "normalize is 'no'; it must be True, False or None"),
    ("progress", lambda: im.gap(X, Y, progress=3), "progress is 3; give a function"),
    ("backend", lambda: im.gap(X, Y, backend="cuda"), "backend is 'cuda'; it is one of auto, tiles, triton"),
    ("statistic", lambda: im.gap(X, Y, statistic=["U"]), "statistic is ['U']; it is one of U, V"),
    ("bandwidth", lambda: im.gap(X, Y, bandwidth="a"), "bandwidth is 'a'"),
    ("critic", lambda: im.gap(X, Y, critic=X), "critic is Tensor of shape (120, 4); give Cosine()"),
    ("temperature", lambda: im.decompose(X, Y, temperature="0.1"), "temperature is '0.1'; it must be a finite number"),
    ("temperature", lambda: im.decompose(X, Y, temperature=None), "temperature is None"),
    ("batch_size", lambda: im.decompose(X, Y, batch_size=2.5, **TAU), "batch_size is 2.5; it must be a whole number"),
    ("labels", lambda: im.diagnose(X, Y, labels="a" * 120, **TAU), "labels is 'aaa"),
    ("ids", lambda: im.diagnose(X, Y, ids=3, **TAU), "ids is 3; give a list with one for each row of x"),
    ("names", lambda: im.diagnose(X, Y, names=3, **TAU), "names is 3; give two names"),
    ("curves", lambda: im.diagnose(X, Y, curves="no", **TAU), "curves is 'no'; it must be True or False"),
    ("direction", lambda: im.shared_information(X, Y, direction=[]), "direction is []; it is one of both"),
    ("anchors", lambda: im.shared_information(X, Y, anchors="a"), "anchors is 'a'; it must be a whole number"),
    ("offsets", lambda: im.shared_information(X, Y, offsets=3), "offsets is 3; give numbers for the rows of x"),
    ("offsets", lambda: im.shared_information(X, Y, offsets=("a", None)), "offsets of x are 'a'"),
    ("encodings", lambda: im.rank([(X, Y)]), "encodings is a list of 1; give a dictionary"),
    ("encodings", lambda: im.rank({"a": (X, Y), "b": X}), "encodings is"),
    ("ids", lambda: im.rank({"a": (X, Y), "b": (Y, X)}, ids=3), "ids is 3; give a dictionary"),
    ("plans", lambda: im.shrink(X, Y, plans="int8"), "plans is 'int8'; give a list of"),
    ("share", lambda: im.shrink(X, Y, share="a"), "share is 'a'; it is the part of the groups"),
    ("reports", lambda: im.compare(3), "reports is 3; give a list of folders"),
    ("reports", lambda: im.compare([3]), "reports is 3; it must be the name of a file or folder"),
    ("names", lambda: im.compare(["a"], names="a"), "names is 'a'; give a list with a name"),
    ("methods", lambda: score_corrections(X, Y, methods="whitening", **TAU), "methods is 'whitening'; give a list of"),
    ("method", lambda: corrections.make_correction([]), "[] is no correction; there are"),
    ("amount", lambda: corrections.CentroidShift("a"), "amount is 'a'; 1 closes the gap"),
    ("shrinkage", lambda: corrections.Whitening("a"), "shrinkage is 'a'; it is a share"),
    ("center", lambda: corrections.OrthogonalProcrustes("no"), "center is 'no'"),
    ("plan", lambda: compression.Compression("int8"), "plan is 'int8'; give a Plan"),
    ("dim", lambda: compression.plans(2.5), "dim is 2.5"),
    ("scale", lambda: im.RBF("a"), "RBF scale is 'a'"),
    ("dim", lambda: im.FlatTorus("a"), "FlatTorus dim is 'a'"),
    ("dim", lambda: im.Sphere([2]), "Sphere ambient_dim is [2]"),
    ("manifold", lambda: im.log_kernel_volume("s", im.Cosine(), 0.1), "manifold is 's'; give Sphere(d)"),
    ("critic", lambda: energies.energy(X, Y, temperature=0.1, critic="cosine"), "critic is 'cosine'"),
    ("mean", lambda: im.VonMisesFisher("a", 1.0), "vMF mean is a str"),
    ("concentration", lambda: im.VonMisesFisher(X[0], "a"), "vMF concentration is 'a'"),
    ("n", lambda: LAW.sample(2.5, generator=torch.Generator()), "n is 2.5"),
    ("generator", lambda: LAW.sample(2, generator=0), "generator is 0; give torch.Generator()"),
    ("z", lambda: LAW.log_density([1.0, 0.0]), "z has shape (2,); expected points (..., 4)"),
    ("other", lambda: LAW.kl(3), "other is 3; give another VonMisesFisher"),
    ("width", lambda: im.Cosine().pairwise(X, X[:, :2]), "z has shape (120, 4) and w (120, 2)"),
    ("points", lambda: im.Cosine().pointwise(X[:3], Y[:2]), "z has shape (3, 4) and w (2, 4); point i"),
    ("dim", lambda: geometry.log_sphere_area("a"), "dim is 'a'"),
    ("kappa", lambda: geometry.mean_resultant(3, "a"), "kappa is a str"),
    ("modalities", lambda: equilibria.mode_coefficients(modalities="a"), "modalities is 'a'"),
    ("labels", lambda: io.as_labels(3), "labels is 3; give a list"),
    ("scores", lambda: scores.sigmoid_probability("a", bias=0.0, batch_size=2, prior=0.1, **TAU), "scores is 'a'"),
    *(
        ("path", lambda read=read, path=path: read(path), "path is " if path is not None else "path is None")
        for read in (
            io.read_embeddings, io.read_pairs, io.read_labels, io.read_lines, io.read_text, io.read_table,
            corrections.Correction.load, DensityRatio.load, compression.load,
        )
        for path in (None, b"x.npy", 3)
    ),
    ("side", lambda: SMALL.encode(X, side=3), "side is 3; it is one of x, y"),
    ("codes", lambda: SMALL.decode("a"), "codes is 'a'; give what encode returns"),
    ("dimensions", lambda: compression.Plan("half"), "dimensions is 'half'; it is one of all, first, pca"),
    ("width", lambda: compression.Plan("pca"), "width is None; it must be a whole number of at least 1"),
    ("bits", lambda: compression.Plan(bits=[]), "bits is []; it is one of float32"),
    ("paths", lambda: embedding.open_source("a.csv"), "paths is 'a.csv'; give a list of files or folders"),
    ("paths", lambda: embedding.open_source([None]), "paths is None; it must be the name of a file or folder"),
    ("paths", lambda: embedding.open_source([]), "paths is []; give a list"),
    ("kind", lambda: embedding.open_source(["a"], kind="b"), "kind is 'b'; it is one of coco"),
    ("columns", lambda: embedding.open_source(["a"], columns="b"), "columns is 'b'; give Columns("),
    ("folder", lambda: embedding.open_coco(None), "folder is None"),
    ("source", lambda: embedding.extract("a", {}, Path("o")), "source is 'a'; give what open_source returns"),
    *(
        (name, lambda name=name: embedding.extract(None, {}, "o", options=ExtractOptions(**{name: "a"})), f"{name} is")
        for name in ("batch_size", "workers", "shard_batches", "precision", "normalize", "strict", "device")
    ),
    ("device", lambda: embedding.resolve_device(3), "device is 3; pass cpu"),
    ("start", lambda: equilibria.fokker_planck(3, len, temperature=0.5), "start is 3; give a Density"),
    ("rho", lambda: equilibria.matched_stability(3), "rho is 3; give a Density"),
    ("weight", lambda: equilibria.LatentAngles("a"), "weight is 'a'; it is the share"),
    ("dim", lambda: equilibria.vmf_equilibrium("a", temperature=0.1), "ambient_dim is 'a'"),
    ("density", lambda: energies.kl_divergence(3, 3), "density is 3; give a Density"),
    ("quadrature", lambda: equilibria.GibbsLaw(len, 0.1, 3), "quadrature is 3; give what quadrature_rule returns"),
    ("summary", lambda: scores.score_findings(3), "summary is 3; give what summarise returns"),
    ("fit", lambda: scores.sigmoid_findings(3), "fit is 3; give what best_bias returns"),
    ("folder", lambda: im.Report.load(None), "folder is None; it must be the name"),
    ("key", lambda: io.read_embeddings("x", key=3), "key is 3"),
    ("path", lambda: io.write_embeddings(None, X), "path is None"),
]  # fmt: skip


@pytest.mark.parametrize(("_", "call", "words"), WRONG)
def test_a_wrong_kind_is_named(_: str, call: Callable[[], object], words: str) -> None:
    with pytest.raises(im.InputError, match=f"^{re.escape(words)}") as caught:
        call()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 260
