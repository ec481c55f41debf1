"""Flags of `bench` and `compare` that would be ignored, or are beyond all measure: refused."""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from coronet_deploy.bench.launch import WORKER
from coronet_deploy.cli import main
from coronet_deploy.cli._bench_flags import SECONDS_MOST, THREADS_MOST, phone_flags
from coronet_deploy.cli._bench_phone import read_earlier
from coronet_deploy.cli.bench import count, duration, thread_counts
from coronet_deploy.errors import BadInput
from coronet_deploy.results.files import read_run, write_run
from coronet_deploy.vocabulary import Launch, Run, Target

PHONES = {
    "--serial": "foo",
    "--profiles": "nowhere",
    "--backend": "cpu",  # the default, and yet of a phone
    "--phone-libraries": "nowhere",
    "--runner": "nowhere",
    "--litert-library": "nowhere",
    "--onnxruntime-library": "nowhere",
    "--backend-library": "qnn=x.so",
    "--backend-option": "zzz.x=1",
    "--vendor-tool": "nowhere",
    "--cpu-mask": "f0",
    "--allow-fallback": None,
    "--pictures": "nowhere",
    "--no-parity": None,
    "--cool-down": "300",
    "--cool-down-total": "900",
    "--warmest": "36",
    "--canary-limit": "2",
    "--repeats": "2",
    "--reconnect": "60",
    "--resume": "nosuch.json",
    "--dry-run": None,
}


@pytest.fixture
def place(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder to work in: tiny.onnx, and run files of rows with 1 and with 2 threads."""
    (tmp_path / "tiny.onnx").write_bytes((tiny / "tiny.onnx").read_bytes())
    for name in ("base", "candidate"):
        launches = tuple(
            Launch("a.onnx", "ab" * 32, Target("host", "cpu", 1 + order % 2), order, (10.0,))
            for order in range(12)
        )
        made = "2026-01-01T00:00:00+00:00"
        write_run(Run(name, made, (), {}, {}, {"a.onnx": {"runtime": "onnx"}}, launches), tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], status: int, *line: str) -> str:
    """Return the one line that the command ends with."""
    assert main(line) == status
    out, err = capsys.readouterr()
    assert out == ""
    (told,) = err.splitlines()
    assert told.startswith("coronet-deploy: error: ")
    return told


def listed(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def test_every_flag_for_phones_is_tried_here() -> None:
    assert set(phone_flags()) == set(PHONES)


@pytest.mark.parametrize(("flag", "value"), PHONES.items())
def test_flags_for_phones_are_refused_on_the_host(
    place: Path, capsys: pytest.CaptureFixture[str], flag: str, value: str | None
) -> None:
    given = [flag] if value is None else [flag, value]
    if flag == "--serial":  # by itself it names a phone
        given += ["--device", "host"]
    before = listed(place)
    told = refused(capsys, 2, "bench", "tiny.onnx", *given)
    assert f"error: {flag} means nothing without a phone" in told
    sides = ("compare", "tiny.onnx", "tiny.onnx")
    assert f"error: {flag} means nothing" in refused(capsys, 2, *sides, *given)
    assert f"error: {flag} means nothing" in refused(
        capsys, 2, "compare", "base.json", "candidate.json", *given
    )
    assert listed(place) == before


@pytest.mark.parametrize("line", [("bench", "tiny.onnx"), ("compare", "tiny.onnx", "tiny.onnx")])
@pytest.mark.usefixtures("place")
def test_a_serial_alone_names_a_phone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: tuple[str, ...]
) -> None:
    monkeypatch.setattr("coronet_deploy.bench.choose.list_devices", lambda: ())
    told = refused(capsys, 3, *line, "--serial", "R5CT30")
    assert "--device any --serial R5CT30: no such phone is attached; none is attached" in told


@pytest.mark.usefixtures("place")
def test_a_dry_run_is_of_a_whole_bench(capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--device", "any", "--dry-run", "--resume", "first.json")
    told = refused(capsys, 2, "bench", "tiny.onnx", *given)
    assert "error: --resume means nothing with --dry-run" in told


@pytest.mark.parametrize("given", [["--device", "any"], ["--serial", "R5"]])
def test_a_dry_run_of_any_phone_needs_none(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    given: list[str],
) -> None:
    monkeypatch.setattr("coronet_deploy.bench.choose.list_devices", lambda: ())
    for name in ("coronet-runner", "libonnxruntime.so"):
        (place / name).write_bytes(b"")
    line = ["bench", "tiny.onnx", *given, "--dry-run", "--phone-libraries", str(place)]
    assert main(line) == 0
    out, err = capsys.readouterr()
    assert f"adb -s {'R5' if 'R5' in given else 'SERIAL'} push" in out
    assert err.startswith("no phone yet: --device any")


@pytest.mark.usefixtures("place")
def test_host_and_any_are_understood_however_they_are_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coronet_deploy.bench.choose.list_devices", lambda: ())
    for line in (("bench", "tiny.onnx"), ("compare", "tiny.onnx", "tiny.onnx")):
        told = refused(capsys, 3, *line, "--device", "ANY")
        assert "--device any: no such phone is attached" in told
        told = refused(capsys, 2, *line, "--device", "Host", "--reconnect", "9")
        assert "--reconnect means nothing without a phone" in told


@pytest.mark.usefixtures("place")
def test_numbers_of_threads_may_be_given_one_by_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = ["bench", "tiny.onnx", "--rounds", "1", "--samples", "5", "--json", "--threads"]
    told = []
    # A script may give what its caller gives too.
    for threads in (["1,3"], ["1", "--threads", "3"], ["1", "--threads", "1,3"]):
        assert main([*line, *threads]) == 0
        told.append([row["threads"] for row in json.loads(capsys.readouterr().out)["rows"]])
    assert told == [[1, 3], [1, 3], [1, 3]]
    with pytest.raises(SystemExit) as ended:
        main([*line, "1,2,2"])
    assert ended.value.code == 2
    assert "argument --threads: '1,2,2' names a number twice" in capsys.readouterr().err


def test_back_ends_may_be_given_one_by_one(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coronet_deploy.bench.choose.list_devices", lambda: ())
    for name in ("coronet-runner", "libonnxruntime.so"):
        (place / name).write_bytes(b"")
    line = ["bench", "tiny.onnx", "--device", "any", "--dry-run", "--phone-libraries", str(place)]
    told = []
    for backends in (["cpu,nnapi"], ["cpu", "--backend", "nnapi"]):
        assert main([*line, "--backend", *backends]) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]
    assert "nnapi" in told[0]


@pytest.mark.parametrize("folder", ["/vendor/lib64", "/odm/lib64", "/data/local/tmp"])
def test_a_library_that_is_on_the_phone_is_not_pushed(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.setattr("coronet_deploy.bench.choose.list_devices", lambda: ())
    for name in ("coronet-runner", "libonnxruntime.so"):
        (place / name).write_bytes(b"")
    library = f"{folder}/libQnnHtp.so"
    own = ["--backend", "qnn", "--backend-library", f"qnn={library}"]
    line = ["bench", "tiny.onnx", "--device", "any", "--phone-libraries", str(place), *own]
    assert main([*line, "--dry-run"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert any(f"--backend-library {library} " in one for one in said)
    assert not any("push" in one and library in one for one in said)


@pytest.mark.parametrize(
    "given",
    [
        ["--rounds", "6"],
        ["--most", "10"],
        ["--samples", "30"],
        ["--seconds", "3"],
        ["--deadline", "300"],
        ["--device", "sm8550"],
        ["--threads", "1"],
    ],
)
def test_flags_that_say_how_to_measure_are_refused_with_run_files(
    place: Path, capsys: pytest.CaptureFixture[str], given: list[str]
) -> None:
    before = listed(place)
    for files in (["base.json", "candidate.json"], ["--history", ".", "base.json"]):
        told = refused(capsys, 2, "compare", *files, *given)
        assert told.startswith(f"coronet-deploy: error: {given[0]}")
    assert listed(place) == before


@pytest.mark.usefixtures("place")
def test_what_the_github_action_gives_may_stand_with_run_files(
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ("--device", "host", "--threads", "2,1", "--output", "out")
    assert main(["compare", "base.json", "candidate.json", *given]) == 0
    assert "same" in capsys.readouterr().out
    told = refused(capsys, 2, "compare", "base.json", "candidate.json", "--threads", "1")
    assert "rows of 1,2 threads" in told


def test_compare_does_not_offer_what_is_for_bench(capsys: pytest.CaptureFixture[str]) -> None:
    for command, there in (("bench", True), ("compare", False)):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        out = capsys.readouterr().out
        assert ("--resume" in out, "--dry-run" in out) == (there, there)
        assert "--reconnect" in out


@pytest.mark.parametrize(
    ("parse", "text", "bound"),
    [
        (thread_counts, "1,10000", "1,024"),
        (thread_counts, "99999999999999999999", "1,024"),
        (count, "999999999999999999999", "1,000,000"),
        (duration, "1e10", "604800 seconds, a week"),
        (duration, "604801", "a week"),
    ],
)
def test_a_number_beyond_all_measure_is_refused_with_its_bound(
    parse: Any, text: str, bound: str
) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=bound):
        parse(text)


def test_numbers_up_to_their_bounds_are_taken() -> None:
    assert thread_counts(f"1,{THREADS_MOST}") == (1, THREADS_MOST)
    assert count("1000000") == 1_000_000
    assert duration(str(SECONDS_MOST)) == SECONDS_MOST


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--threads", "10000"),
        ("--rounds", "1" + "0" * 20),
        ("--samples", "1" + "0" * 20),
        ("--seconds", "1e10"),
        ("--deadline", "1e10"),
    ],
)
@pytest.mark.parametrize("command", ["bench", "compare"])
def test_each_flag_has_its_bound(
    capsys: pytest.CaptureFixture[str], command: str, flag: str, value: str
) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "tiny.onnx", "tiny.onnx", flag, value])
    assert end.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {flag}: " in last


@pytest.mark.parametrize("seconds", ["5", "9"])
@pytest.mark.parametrize("line", [("bench", "tiny.onnx"), ("compare", "tiny.onnx", "tiny.onnx")])
def test_a_launch_that_samples_past_its_deadline_is_refused_before_any(
    place: Path, capsys: pytest.CaptureFixture[str], line: tuple[str, ...], seconds: str
) -> None:
    before = listed(place)
    told = refused(capsys, 2, *line, "--seconds", seconds, "--deadline", "5")
    assert f"--seconds {seconds} is not below --deadline 5" in told
    assert listed(place) == before


@pytest.mark.parametrize(
    ("given", "seconds", "deadline"),
    [([], 3, 300), (["--seconds", "400"], 400, 800), (["--deadline", "2"], 1, 2)],
)
def test_of_sampling_and_deadline_the_one_that_is_not_given_makes_room(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    given: list[str],
    seconds: float,
    deadline: float,
) -> None:
    line = ("bench", "tiny.onnx", "--threads", "1", "--rounds", "1", "--samples", "5", *given)
    main(line)  # whether a busy machine answers within 2 s or not
    capsys.readouterr()
    (path,) = (place / "runs").glob("*.json")
    settings = read_run(path).conditions["settings"]
    assert (settings["seconds"], settings["deadline_s"]) == (seconds, deadline)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--cool-down", "1e10"),
        ("--cool-down-total", "1e10"),
        ("--reconnect", "1e10"),
        ("--repeats", "9" * 20),
    ],
)
def test_each_flag_for_phones_has_its_bound(
    capsys: pytest.CaptureFixture[str], flag: str, value: str
) -> None:
    told = refused(capsys, 2, "bench", "tiny.onnx", "--device", "sm8550", flag, value)
    assert flag in told
    assert "at most" in told


def test_a_worker_takes_any_alarm(tiny: Path) -> None:
    line = (*WORKER, tiny / "tiny.onnx", "--threads=1", "--samples=1", "--seconds=1")
    done = subprocess.run(
        [*line, "--alarm=10000000005"], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "samples_ms" in done.stdout


@pytest.mark.parametrize("flag", ["--markdown", "--junit", "--bmf", "--benchmark-action"])
def test_a_report_that_cannot_be_written_is_told_before_anything_is_measured(
    place: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    before = listed(place)
    sides = ("compare", "tiny.onnx", "tiny.onnx")
    told = refused(capsys, 3, *sides, flag, "tiny.onnx/sub/report")
    assert f"{flag} tiny.onnx/sub/report cannot be written" in told
    assert f"{flag} . is a folder" in refused(capsys, 2, *sides, flag, ".")
    assert refused(capsys, 3, *sides, flag, "/proc/nowhere/report")
    if flag == "--markdown":
        assert flag in refused(capsys, 3, "bench", "tiny.onnx", flag, "base.json/report")
    assert listed(place) == before


def test_looking_whether_a_report_can_be_written_leaves_no_trace(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "old.xml").write_text("as it was")
    before = listed(place)
    sides = ("compare", "tiny.onnx", "missing.onnx")
    told = refused(capsys, 2, *sides, "--junit", "old.xml", "--bmf", "a/b/c.json")
    assert "missing.onnx" in told
    assert (place / "old.xml").read_text() == "as it was"
    assert [name for name in listed(place) if name != "runs"] == before


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("x.partial", b'{"id": 1}\n{"order": 0}\n\0', r"journal .*results recover \S*x.partial"),
        ("x.json", b"\x7fELF\xff\xfe", "is no run file: it is not text"),
        ("x.json", b"{\0\0\0", "is no run file: it is not text"),
        ("x.json", b'{"cut": ', "x.json is not a run file"),
        ("x.json", None, "does not exist"),
    ],
)
def test_what_cannot_be_gone_on_with_is_told(
    tmp_path: Path, name: str, data: bytes | None, told: str
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(BadInput, match=told):
        read_earlier(tmp_path / name)
