"""table.tex in a document as people have it: two columns, the packages that it names, nothing beside them."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from benchmarks.synthetic_sweep import write_run
from brsweep.report.results import judge
from brsweep.report.rows import cohorts
from brsweep.report.runs import read_sweeps
from brsweep.report.typeset import to_latex

MANY = {"reg.ramp.act": "constant", "reg.unit.weight": "value", "reg.reduction.act": "sum", "bits": 4,
        "reg.backprop_to_alpha": True, "schedule.freeze_alpha": True}  # fmt: skip


def latex_of(sweep) -> str:
    return to_latex([judge(cohort) for cohort in cohorts(read_sweeps([sweep])[0])])


def test_the_first_line_says_which_packages_it_needs(tmp_path):
    write_run(tmp_path / "s", {})
    text = latex_of(tmp_path / "s")
    assert text.startswith("% For the preamble: \\usepackage{booktabs,graphicx}. ")
    used = {"booktabs": "toprule", "graphicx": "resizebox"}
    assert all(f"\\{command}" in text for command in used.values())


@pytest.mark.system
@pytest.mark.parametrize("settings", [{"reg.lambda_act": 2.0}, MANY], ids=["few columns", "many columns"])
def test_it_compiles_in_two_columns_without_an_overfull_box(settings, tmp_path):
    if shutil.which("pdflatex") is None:
        pytest.skip("needs pdflatex (Debian's texlive-latex-recommended)")
    for seed in (1, 2, 3):
        write_run(tmp_path / "s", {"seed": seed, "reg.lambda_weight": 0.0, "reg.lambda_act": 0.0})
        for key, value in settings.items():
            write_run(tmp_path / "s", {"seed": seed, key: value})
    write_run(tmp_path / "s", {"seed": 4, "model._target_": "mine.\u540d_{}$%#&~^\\\\x"}, state="failed")
    text = latex_of(tmp_path / "s")
    (tmp_path / "table.tex").write_text(text)
    (packages,) = re.findall(r"\\usepackage\{(.*?)\}", text)
    document = rf"\documentclass[twocolumn]{{article}}\usepackage{{{packages}}}\begin{{document}}x\input{{table}}"
    (tmp_path / "paper.tex").write_text(document + r"\end{document}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    log = (tmp_path / "paper.log").read_text(errors="replace")
    assert done.returncode == 0, log[-3000:]
    assert not re.findall(r"^Overfull.*", log, flags=re.M)
    assert "Missing character" not in log and "LaTeX Warning" not in log.replace("LaTeX Warning: Label(s)", "")
