"""The installed command as a whole: quick to answer, light to install, clear when it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from coronet_deploy.cli import COMMANDS
from coronet_deploy.coronet.zoo import bundled_checkpoint
from support import Cli

HEAVY = (
    "torch", "numpy", "pydantic", "rich", "onnx", "onnxruntime", "ai_edge_litert", "matplotlib",
    "PIL", "safetensors",
)  # fmt: skip


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from coronet_deploy.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert all(f"  {command}" in result.stdout for command in COMMANDS)
    assert result.stderr == "[]\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_in_80_columns(command: str, cli: Cli) -> None:
    result = cli(command, "--help")
    assert result.returncode == 0
    assert "--json" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    "line", [(), ("exprot",), ("export", "--dtype", "int4"), ("bench", "--threads", "0")]
)
def test_wrong_usage_is_status_2(line: tuple[str, ...], cli: Cli) -> None:
    result = cli(*line)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "coronet-deploy" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("line", "flag"),
    [
        (("export", "--output", ""), "--output"),
        (("export", "--output="), "--output"),
        (("results", "list", "--store", ""), "--store"),
        (("bench", "x.onnx", "--baseline", ""), "--baseline"),
        (("inspect", ""), "an argument"),
    ],
)
def test_an_argument_that_says_nothing_is_refused(
    line: tuple[str, ...], flag: str, cli: Cli, tmp_path: Path
) -> None:
    result = cli(*line, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        f"coronet-deploy: error: {flag} is given as '' (is a variable of the shell not set?)\n"
    )
    assert not list(tmp_path.iterdir())


def _without(module: str, line: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command where a package is not installed."""
    program = (
        "import sys\n"
        f"sys.modules[{module!r}] = None\n"
        "from coronet_deploy.cli import main\n"
        f"sys.exit(main({list(line)!r}))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=folder
    )


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("inspect", "torch"),
        ("materialize", "torch"),
        ("export", "export"),
        ("demo", "export,report"),
    ],
)
def test_without_torch_the_line_says_what_to_install(
    command: str, extra: str, tmp_path: Path
) -> None:
    result = _without("torch", [command], tmp_path)
    assert result.returncode == 3
    assert "the package 'torch' is not installed" in result.stderr
    assert f"coronet-deploy[{extra}]" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "line",
    [
        ("inspect",),
        ("export",),
        ("evaluate", "--data", "facades"),
        ("train", "facades-unet256", "--data", "facades"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("kind", ["ImportError", "OSError"])
def test_a_torch_that_does_not_load_is_no_defect_of_ours(
    kind: str, line: tuple[str, ...], tmp_path: Path
) -> None:
    lost = "libcudart.so.13: cannot open shared object file"
    (tmp_path / "site/torch").mkdir(parents=True)
    (tmp_path / "site/torch/__init__.py").write_text(f"raise {kind}({lost!r})\n")
    program = (
        "import sys\n"
        f"sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "from coronet_deploy.cli import main\n"
        f"sys.exit(main({list(line)!r}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 3
    assert done.stderr == (
        f"coronet-deploy: error: the package 'torch' is installed and does not load: {lost} "
        "(install it again, or what it asks for)\n"
    )


@pytest.mark.parametrize(
    ("module", "line", "extra"),
    [
        ("onnx", ("export", "--dtype", "int8"), "export"),
        ("onnxruntime", ("export",), "export"),
        ("flatbuffers", ("export", "--runtime", "tflite"), "export"),
        ("ai_edge_litert", ("export", "--dtype", "int16x8"), "export"),
        ("ai_edge_quantizer", ("export", "--dtype", "all", "--runtime", "tflite"), "export"),
        ("ai_edge_quantizer", ("export", "--dtype", "int8-weights"), "export"),
        ("ai_edge_quantizer", ("demo",), "export,report"),
        ("matplotlib", ("demo",), "export,report"),
    ],
)
def test_a_package_that_is_needed_late_is_missed_at_once(
    module: str, line: tuple[str, ...], extra: str, tmp_path: Path
) -> None:
    result = _without(module, line, tmp_path)
    assert result.returncode == 3
    assert result.stderr == (
        f"coronet-deploy: error: the package {module.replace('_', '-')!r} is not installed "
        f"(pip install 'coronet-deploy[{extra}]')\n"
    )
    assert not list(tmp_path.iterdir())


def test_only_what_is_asked_for_must_be_installed() -> None:
    needed = {
        kind: _needed(*kind)
        for kind in (("onnx", "int8"), ("tflite", "fp16"), ("tflite", "int8-full"))
    }
    of_tflite = {"torch", "safetensors", "flatbuffers", "ai_edge_litert"}
    assert needed == {
        ("onnx", "int8"): {"torch", "safetensors", "onnx", "onnxruntime"},
        ("tflite", "fp16"): of_tflite,
        ("tflite", "int8-full"): of_tflite,
    }


def _needed(runtime: str, dtype: str) -> set[str]:
    """Return which packages an artifact is not made without."""
    from coronet_deploy.cli._installed import require_writers
    from coronet_deploy.errors import EnvironmentProblem

    needed = set()
    for module in (*HEAVY, "flatbuffers", "ai_edge_quantizer"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            try:
                require_writers([(runtime, dtype)])
            except EnvironmentProblem:
                needed.add(module)
    return needed


@pytest.mark.parametrize(
    "line",
    [
        ("inspect",),
        ("materialize",),
        ("export",),
        ("demo",),
        ("evaluate", "--data", "facades"),
        ("train", "facades-unet256", "--data", "facades"),
        ("train", "facades-unet256", "--data", "facades", "--qat", "net.safetensors"),
    ],
    ids=" ".join,
)
def test_beside_a_torch_of_ones_own_the_line_says_what_else_to_install(
    line: tuple[str, ...], tmp_path: Path
) -> None:
    result = _without("safetensors", line, tmp_path)
    extra = {"export": "export", "demo": "export,report"}.get(line[0], "torch")
    assert result.returncode == 3
    assert result.stderr == (
        "coronet-deploy: error: the package 'safetensors' is not installed "
        f"(pip install 'coronet-deploy[{extra}]')\n"
    )
    assert not list(tmp_path.iterdir())


def test_inspect_describes_the_bundled_checkpoint(cli: Cli, tmp_path: Path) -> None:
    result = cli("inspect", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout)
    assert said["kind"] == "coronet"
    assert said["architecture"] == "unet_256"
    assert said["total_macs"] == 6_048_186_368
    assert 0.095 <= said["macs_ratio"] <= 0.1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("export", "lost.safetensors"), "checkpoint lost.safetensors does not exist"),
        (("export", "nets:g", "--weights", "lost.pt"), "weights file lost.pt does not exist"),
        (("export", "--pictures", "lost"), "lost is not a folder of pictures"),
        (("export", "--calibration", "lost"), "lost is not a folder of pictures"),
        (("inspect", "lost.safetensors"), "checkpoint lost.safetensors does not exist"),
        (("materialize", "lost.safetensors"), "checkpoint lost.safetensors does not exist"),
        (
            ("inspect", "my:Net"),
            (
                "checkpoint my:Net does not exist (export and verify take a generator of your own, "
                "as package.module:name)"
            ),
        ),
        (
            ("export", "nets"),
            (
                "checkpoint nets does not exist (export and verify take a generator of your own, "
                "as package.module:name)"
            ),
        ),
        (
            ("export", "horse2zebra-resnet9"),
            (
                "checkpoint horse2zebra-resnet9 does not exist (that of the bundled model is "
                f"{bundled_checkpoint('horse2zebra-resnet9')})"
            ),
        ),
    ],
)
def test_what_is_missing_is_said_before_torch_is_loaded(
    line: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    result = _without("torch", line, tmp_path)
    assert (result.returncode, result.stderr.splitlines()) == (
        2,
        [f"coronet-deploy: error: {said}"],
    )


@pytest.mark.parametrize("command", ["inspect", "materialize", "export"])
@pytest.mark.parametrize("name", ["theirs.onnx", "theirs.tflite"])
def test_an_artifact_in_place_of_a_checkpoint_is_called_one(
    command: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"\x08\x08:\x00")
    result = _without("torch", (command, name), tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert f"{name} is an artifact by its name, not a checkpoint (give the" in result.stderr


def test_code_in_place_of_a_checkpoint_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text("def make(): ...\n")
    result = _without("torch", ("export", "nets.py"), tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "nets.py is code by its name, not a checkpoint (export and verify" in result.stderr


def test_an_error_drives_no_terminal(cli: Cli, tmp_path: Path) -> None:
    done = cli("inspect", "\x1b[31mred\x1b]0;title\x07.pt", cwd=tmp_path)
    assert done.returncode == 2
    assert "�[31mred�]0;title�.pt" in done.stderr
    assert done.stderr.replace("\n", "").isprintable()
