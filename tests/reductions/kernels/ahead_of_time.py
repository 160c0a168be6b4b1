"""Compiles the kernels for a card that need not be there, and prints what each takes: `ahead_of_time.py 9.0 half`.

Run by itself, since kernels of one process are either interpreted or compiled. One line of JSON for each kernel.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from infomech.reductions.kernels.block_sums import _block_sums
from infomech.reductions.kernels.configs import Tiles, nearest
from infomech.reductions.kernels.counts import _counts_above
from infomech.reductions.kernels.log_sums import _sums_again, _sums_by_tile
from infomech.reductions.kernels.merging import _merge, _merge_within
from infomech.reductions.kernels.rows import _extents, _finish, _levels, _pair_products, _positives
from infomech.reductions.kernels.softplus import _softplus, _softplus_again
from infomech.reductions.kernels.weights import _weights, _weights_again

ELEMENT = {"half": "bf16", "three": "bf16", "tf32": "fp32", "ieee": "fp32"}
FLOATS = ("U", "V", "A", "B", "P", "Q", "W", "RS", "CS", "RP", "RT", "CP", "CT", "OWNED", "VALUES", "EX", "EY")
NUMBERS = ("M", "N", "D", "first", "skip", "across", "down", "width", "row", "col")


@dataclass(frozen=True)
class Case:
    """One kernel with one epilogue: which tiles of the plan it takes, and its flags."""

    name: str
    kernel: Any
    tiles: str
    terms: tuple[bool, bool] = (False, False)
    sums: tuple[bool, bool] = (False, False)
    groups: str = ""
    listed: bool = False
    cols: bool = True
    store: bool = True
    half: bool = False
    weighted: bool = False
    by_row: bool = False


BOTH = (True, True)
CASES = [
    Case("weights", _weights, "weights"),
    Case("weights of one side", _weights, "weights", terms=(False, True), cols=False),
    Case("weights with terms", _weights, "careful", terms=BOTH),
    Case("weights with terms and sums", _weights, "careful", terms=BOTH, sums=BOTH),
    Case("weights with groups, terms and sums", _weights, "careful", terms=BOTH, sums=BOTH, groups="same"),
    Case("weights of one side with sums", _weights, "careful", terms=(False, True), sums=(False, True), cols=False),
    Case("sums of weights alone", _weights, "careful", terms=BOTH, sums=BOTH, store=False),
    Case("weights on the diagonal", _weights_again, "careful", terms=BOTH, sums=BOTH, groups="same"),
    Case("weights without listed entries", _weights_again, "weights", listed=True),
    Case("weights without listed ones, with all", _weights_again, "careful", BOTH, BOTH, groups="same", listed=True),
    Case("log-sums", _sums_by_tile, "sums"),
    Case("log-sums of a symmetric matrix", _sums_by_tile, "sums", half=True),
    Case("log-sums of a symmetric matrix with groups", _sums_by_tile, "careful", terms=BOTH, groups="same", half=True),
    Case("log-sums of one side", _sums_by_tile, "sums", terms=(False, True), cols=False),
    Case("log-sums with terms", _sums_by_tile, "sums", terms=BOTH),
    Case("log-sums with groups and terms", _sums_by_tile, "careful", terms=BOTH, groups="same"),
    Case("log-sums on the diagonal", _sums_again, "sums", terms=BOTH),
    Case("log-sums without listed entries", _sums_again, "sums", terms=BOTH, listed=True, half=True),
    Case("log-sums of other groups", _sums_by_tile, "careful", terms=(False, True), groups="other", cols=False),
    Case("softplus with weights and sums", _softplus, "weights", terms=BOTH, sums=BOTH),
    Case("softplus with groups", _softplus, "careful", terms=(False, True), sums=(False, True), groups="same"),
    Case("softplus alone", _softplus, "sums", terms=(False, True), store=False),
    Case("softplus on the diagonal", _softplus_again, "weights", terms=BOTH, sums=BOTH),
    Case("softplus of other groups", _softplus, "careful", (False, True), (False, True), groups="other", weighted=True),
    Case("softplus by row", _softplus, "sums", terms=(False, True), store=False, by_row=True),
    Case("softplus without listed entries", _softplus_again, "weights", terms=BOTH, sums=BOTH, listed=True),
]


DOUBLES = ("PAIRS", "R_PEAK", "R_TOTAL", "R_VALUE", "C_PEAK", "C_TOTAL", "C_VALUE", "PRODUCTS", "R", "C",
           "COTANGENT", "PEAK", "TOTAL", "SIZE", "P", "DOTS", "scale")  # fmt: skip
SINGLES = ("RP", "RT", "CP", "CT", "ROUNDED", "LEVEL", "FACTOR", "SUM")
BY_ROW = {  # kernels beside the tiles, with their flags and what else they take
    "extents and products": (_extents, {"X_TERMS": True, "Y_TERMS": True, "PAIRED": True, "ROWS": 8,
                                        "STEP": 128, "PROGRAMS": 512}, {"U": "*fp32", "V": "*fp32", "OUT": "*fp32"}),
    "products of pairs": (_pair_products, {"ROWS": 8, "STEP": 128}, {"OUT": "*fp64"}),
    "positives": (_positives, {"X_TERMS": True, "Y_TERMS": True, "BLOCK": 256},
                  {"U": "*fp64", "V": "*fp64", "OUT": "*fp64"}),
    "levels": (_levels, {"BLOCK": 256}, {}),
    "gradients in their final form": (_finish, {"PAIRED": True, "WITH_DOTS": True, "ROWS": 8, "STEP": 128}, {}),
    "sums by block": (_block_sums, {"A_TERMS": True, "C_TERMS": True, "WEIGHTS": True, "GROUPS": True, "SQUARED": True,
                                    "KEPT": 32, "SUMMED": 64},
                      {"S": "*fp32", "A": "*fp32", "C": "*fp32", "W": "*fp32", "GA": "*i64", "GC": "*i64",
                       "EDGES": "*i32", "SCALES": "*fp64", "TOTAL": "*fp64", "SQUARES": "*fp64"}),
    "counts": (_counts_above, {"KEPT": 32, "COUNTED": 128},
               {"S": "*fp32", "HIGH": "*fp32", "LOW": "*fp32", "ABOVE": "*fp64", "NEAR": "*fp64"}),
    "merged sums": (_merge, {"COLS": True, "R_EARLIER": True, "C_EARLIER": True, "BLOCK": 32, "STEP": 64},
                    {}),
    "merged sums of a symmetric matrix": (_merge_within, {"EARLIER": True, "BM": 256, "BN": 128, "BLOCK": 32,
                                                          "STEP": 64}, {"PEAK": "*fp64", "TOTAL": "*fp64",
                                                                        "VALUE": "*fp64"}),
}  # fmt: skip


def compiled_by_row(name: str, capability: tuple[int, int], kind: str) -> dict[str, object]:
    """The same of a kernel that works row by row."""
    kernel, flags, others = BY_ROW[name]
    element = "*" + ELEMENT[kind]
    types = {"X": element, "Y": element, "OUT": element, "gain": "fp32"}
    types |= dict.fromkeys(DOUBLES, "*fp64") | dict.fromkeys(SINGLES, "*fp32") | others
    signature = {a: "constexpr" if a in flags else types.get(a, "i32") for a in kernel.arg_names}
    values = {(kernel.arg_names.index(flag),): value for flag, value in flags.items()}
    target = GPUTarget("cuda", 10 * capability[0] + capability[1], 32)
    made = triton.compile(ASTSource(kernel, signature, values), target=target, options={"num_warps": 4})
    return {"case": name, "shared": made.metadata.shared, "stack": stack(made.asm["cubin"])}


def compiled(case: Case, capability: tuple[int, int], kind: str) -> dict[str, object]:
    """Registers, spilled bytes and shared memory of a kernel."""
    plan = nearest(capability, kind)
    tiles: Tiles = getattr(plan, case.tiles)
    names, element = case.kernel.arg_names, "*" + ELEMENT[kind]
    types = {"X": element, "Y": element, "G": element, "L": element, "scale": "*fp64",
             "limit": "fp32", "gain": "fp32"}  # fmt: skip
    types |= dict.fromkeys(("GX", "GY", "LI", "LJ", "STOPS"), "*i64")
    types |= dict.fromkeys(FLOATS, "*fp32") | dict.fromkeys(NUMBERS, "i32")
    flags = {
        "GROUPS": case.groups, "X_TERMS": case.terms[0], "Y_TERMS": case.terms[1], "COLS": case.cols,
        "X_SUMS": case.sums[0], "Y_SUMS": case.sums[1], "STORE": case.store, "HALF": case.half,
        "OWN": True, "KEEP": not case.listed, "LISTED": case.listed, "WEIGHTED": case.weighted, "BY_ROW": case.by_row,
        "PARTS": 3 if kind == "three" else 1, "DOT": "ieee" if kind == "ieee" else "tf32", "EXTENT": 512,
        "BM": tiles.rows, "BN": tiles.cols, "BK": tiles.depth, "GROUP": tiles.group, "SMS": 132,
    }  # fmt: skip
    absent = {"U": case.terms[0], "V": case.terms[1], "GX": case.groups, "GY": case.groups, "RS": case.sums[0],
              "CS": case.sums[1], "LI": case.listed, "LJ": case.listed, "STOPS": case.listed,
              "W": case.weighted}  # fmt: skip
    flags |= {name: None for name, there in absent.items() if not there}
    flags = {name: value for name, value in flags.items() if name in names}
    signature = {name: "constexpr" if name in flags else types[name] for name in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names)
               if signature[name].startswith("*") or name == "D"}  # fmt: skip
    source = ASTSource(case.kernel, signature, {(names.index(k),): v for k, v in flags.items()}, aligned)
    target = GPUTarget("cuda", 10 * capability[0] + capability[1], 32)
    made = triton.compile(source, target=target, options={"num_warps": tiles.warps, "num_stages": tiles.stages})
    return {"case": case.name, "shared": made.metadata.shared, "stack": stack(made.asm["cubin"])}


def stack(cubin: bytes) -> int | None:
    """Bytes of a thread's registers that spill, by the tool that comes with Triton; None where it is missing."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.exists():
        return None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        found = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=False).stdout
    match = re.search(r"STACK:(\d+)", found)
    return int(match.group(1)) if match else None


def lines(capability: tuple[int, int], kind: str, names: list[str]) -> Iterator[dict[str, object]]:
    """What every case, or each that is named, takes; or why it does not compile."""
    work = {case.name: partial(compiled, case) for case in CASES}
    work |= {name: partial(compiled_by_row, name) for name in BY_ROW}
    for name, compile_ in work.items():
        if not names or name in names:
            try:
                yield compile_(capability, kind)
            except Exception as error:
                yield {"case": name, "error": f"{type(error).__name__}: {error}"[:500]}


if __name__ == "__main__":
    assert os.environ.get("TRITON_INTERPRET") != "1"
    major, minor = sys.argv[1].split(".")
    for line in lines((int(major), int(minor)), sys.argv[2], sys.argv[3:]):
        print(json.dumps(line), flush=True)
