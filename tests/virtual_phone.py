"""Virtual phones: Android's real debugging daemon in a small root, with a phone's identity.

    with VirtualPhone.boot(SM8550, rig) as phone:
        ... adb -s {phone.serial} shell getprop ...

What they prove is transport, handling and arithmetic; their timings are this machine's. Needs root
(namespaces, chroot) and the packages of `tests/rig/setup.sh`. Roots are built once, in a cache
folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

RIG = Path(__file__).with_name("rig")
_PROGRAMS = ("adb", "mmdebstrap", "toybox", "gcc", "unshare", "setpriv", "chroot")
_ARM_PROGRAMS = ("aarch64-linux-gnu-gcc", "qemu-aarch64-static")


@dataclass(frozen=True)
class Cluster:
    """CPUs that share a clock: first and last number, the highest clock, what they are."""

    first: int
    last: int
    max_khz: int
    part: str
    capacity: int


@dataclass(frozen=True)
class Model:
    """What a phone says of itself."""

    name: str
    properties: Mapping[str, str]
    clusters: tuple[Cluster, ...]


def _model(
    name: str, maker: str, soc_maker: str, soc: str, board: str, clusters: tuple[Cluster, ...]
) -> Model:
    properties = {
        "ro.product.manufacturer": maker,
        "ro.product.model": name,
        "ro.product.device": name.lower().replace(" ", "_"),
        "ro.soc.manufacturer": soc_maker,
        "ro.soc.model": soc,
        "ro.board.platform": board,
        "ro.hardware": board,
        "ro.build.fingerprint": f"{maker}/virtual/{board}:14/UP1A/1:user/release-keys",
        "ro.build.version.release": "14",
        "ro.build.version.sdk": "34",
        "ro.product.cpu.abi": "arm64-v8a",
        # It is not that phone, and says so where Android's emulators do.
        "ro.boot.qemu": "1",
        "sys.boot_completed": "1",
    }
    return Model(name, properties, clusters)


SM8550 = _model("Virtual S23", "samsung", "QTI", "SM8550", "kalama", (
    Cluster(0, 2, 2_016_000, "0xd46", 325),
    Cluster(3, 6, 2_803_200, "0xd4d", 828),
    Cluster(7, 7, 3_187_200, "0xd4e", 1024),
))  # fmt: skip
EXYNOS_2400 = _model("Virtual S24", "samsung", "Samsung", "s5e9945", "erd9945", (
    Cluster(0, 3, 1_959_000, "0xd80", 300),
    Cluster(4, 6, 2_600_000, "0xd81", 780),
    Cluster(7, 8, 2_900_000, "0xd81", 870),
    Cluster(9, 9, 3_207_000, "0xd82", 1024),
))  # fmt: skip
DIMENSITY_9300 = _model("Virtual X100", "vivo", "Mediatek", "MT6989", "mt6989", (
    Cluster(0, 3, 2_000_000, "0xd81", 600),
    Cluster(4, 6, 2_850_000, "0xd82", 920),
    Cluster(7, 7, 3_250_000, "0xd82", 1024),
))  # fmt: skip


def missing_for_rig(arch: str = "amd64") -> str | None:
    """Return why virtual phones cannot be had here, or None."""
    programs = _PROGRAMS + (_ARM_PROGRAMS if arch == "arm64" else ())
    if missing := [one for one in programs if shutil.which(one) is None]:
        return f"{', '.join(missing)} not installed: run tests/rig/setup.sh"
    if os.geteuid() != 0:
        return "virtual phones need root"
    spaces = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], check=False)
    return "no namespace can be made here" if spaces.returncode else None


def require_rig(arch: str = "amd64") -> None:
    """Skip a test where there can be no virtual phone; fail it where `.ci/run` says there can."""
    if reason := missing_for_rig(arch):
        if os.environ.get("CORONET_REQUIRE_RIG"):
            pytest.fail(reason)
        pytest.skip(reason)


_claims: list[socket.socket] = []


def free_port() -> int:
    """Return a TCP port of this process's own, outside those that adb takes for emulators'.

    It is bound only later, by adb: until then another test process could be given the same. So its
    number is claimed: as UDP, which adb leaves alone, for as long as this process lives. It is
    below those that the kernel gives to outgoing connections.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        claim = socket.socket(type=socket.SOCK_DGRAM)
        try:
            with socket.socket() as probe:
                claim.bind(("127.0.0.1", port))
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
        else:
            _claims.append(claim)
            return port


def pristine_root(arch: str) -> Path:
    """Return the root that phones of `arch` are copies of, building it if need be."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "coronet-deploy-rig"
    sources = [RIG / "make_root.sh", RIG / "loopback.c", *(RIG / "android").iterdir()]
    stamp = str(max(int(one.stat().st_mtime) for one in sources))
    root = base / arch
    if _built(root, stamp):
        return root
    base.mkdir(parents=True, exist_ok=True)
    with (base / f"{arch}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes side by side build it once
        _build_root(root, arch, stamp)
    return root


def _built(root: Path, stamp: str) -> bool:
    mark = root / "fake" / "built"
    return mark.exists() and mark.read_text() == stamp


def _build_root(root: Path, arch: str, stamp: str) -> None:
    if _built(root, stamp):
        return
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        made = Path(folder) / "root"
        subprocess.run([str(RIG / "make_root.sh"), str(made), arch], check=True, timeout=240)
        (made / "fake" / "built").write_text(stamp)
        shutil.rmtree(root, ignore_errors=True)
        made.rename(root)


@dataclass
class AdbServer:
    """An adb server of the tests' own, beside a developer's."""

    port: int
    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    @contextlib.contextmanager
    def start(cls, folder: Path) -> Iterator[AdbServer]:
        """Start a server whose keys live in `folder`; ends with the context."""
        port = free_port()
        environment = {
            **os.environ,
            "HOME": str(folder),
            "ANDROID_ADB_SERVER_PORT": str(port),
            "ADB_MDNS": "0",
        }
        server = cls(port, folder, environment)
        server.adb("start-server")
        try:
            yield server
        finally:
            server.adb("kill-server")

    def adb(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the real adb client against this server."""
        return subprocess.run(
            ["adb", *arguments], env=self.environment, check=check, text=True, timeout=60,
            capture_output=True,
        )  # fmt: skip


class VirtualPhone:
    """A booted phone; `root` is its file system seen from here, but for /data: that is its own."""

    def __init__(self, model: Model, root: Path, port: int, init: subprocess.Popen[bytes]) -> None:
        self.model = model
        self.root = root
        self.serial = f"127.0.0.1:{port}"
        self._init = init

    @classmethod
    @contextlib.contextmanager
    def boot(
        cls, model: Model, server: AdbServer, *, arch: str = "amd64", data_mb: int = 256
    ) -> Iterator[VirtualPhone]:
        """Boot a phone and connect `server` to it; ends with the context."""
        with tempfile.TemporaryDirectory(prefix="phone-", ignore_cleanup_errors=True) as folder:
            os.chmod(folder, 0o755)  # noqa: PTH101, S103 - the phone's user looks inside
            root = Path(folder) / "root"
            subprocess.run(["cp", "-a", str(pristine_root(arch)), str(root)], check=True)
            _give_identity(root, model)
            port = free_port()
            spaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
            wrap = [str(RIG / "with_arm64.sh")] if arch == "arm64" else spaces
            # A test run that is killed takes its phones along.
            line = ["setpriv", "--pdeathsig", "KILL", *wrap]
            line += [str(RIG / "boot.sh"), str(root), str(port), str(data_mb)]
            with subprocess.Popen(line, stdin=subprocess.DEVNULL, start_new_session=True) as init:
                phone = cls(model, root, port, init)
                try:
                    phone.connect(server, seconds=60)
                    yield phone
                finally:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(init.pid, signal.SIGKILL)
                    init.wait()
                    server.adb("disconnect", phone.serial, check=False)

    def connect(self, server: AdbServer, seconds: float) -> None:
        """Connect `server` to the phone, waiting for it to be ready."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            server.adb("connect", self.serial, check=False)
            told = server.adb("-s", self.serial, "get-state", check=False).stdout
            if told.strip() == "device":
                return
            time.sleep(0.2)
        raise AssertionError(f"{self.serial} did not come up")

    def processes(self) -> dict[int, str]:
        """Return the command lines of the phone's processes, by this machine's process ids."""
        found: dict[int, str] = {}
        waiting = [self._init.pid]
        while waiting:
            pid = waiting.pop()
            try:
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            found[pid] = line.replace(b"\0", b" ").decode(errors="replace").strip()
            waiting += map(int, children)
        return found

    def kill(self, part: str) -> int:
        """Kill the phone's processes whose command line holds `part`; returns how many."""
        victims = [pid for pid, line in self.processes().items() if part in line]
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(victims)

    def kill_daemon(self, *, for_good: bool = False) -> None:
        """Kill the debugging daemon; init starts it again unless it is `for_good`."""
        if for_good:
            (self.root / "fake" / "gone").touch()
        self.kill("/usr/sbin/adbd")

    def fake(self, name: str, text: str | None) -> None:
        """Write the file that a fixture of the phone reads, or remove it."""
        path = self.root / "fake" / name
        if text is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(text)


def thermal(status: int, skin: float) -> str:
    """Return what `dumpsys thermalservice` says at a thermal status and a skin temperature."""
    return (
        "IsStatusOverride: false\nThermalEventListeners:\n\tcallbacks: 1\n"
        f"Thermal Status: {status}\nCached temperatures:\n"
        f"\tTemperature{{mValue={skin}, mType=3, mName=SKIN, mStatus={status}}}\n"
        f"\tTemperature{{mValue={skin + 4}, mType=0, mName=CPU, mStatus=0}}\n"
        "HAL Ready: true\nHAL connection:\n\tThermalHAL 2.0 connected: yes\n"
        "Current temperatures from HAL:\n"
        f"\tTemperature{{mValue={skin}, mType=3, mName=SKIN, mStatus={status}}}\n"
        f"\tTemperature{{mValue={skin + 4}, mType=0, mName=CPU, mStatus=0}}\n"
        "Current cooling devices from HAL:\n"
    )


_BATTERY = (
    "Current Battery Service state:\n  AC powered: false\n  USB powered: true\n"
    "  Wireless powered: false\n  status: 2\n  health: 2\n  present: true\n  level: 87\n"
    "  scale: 100\n  voltage: 4213\n  temperature: 284\n  technology: Li-ion\n"
)


def _give_identity(root: Path, model: Model) -> None:
    lines = [f"{key}={value}\n" for key, value in model.properties.items()]
    (root / "system" / "build.prop").write_text("".join(lines))
    services = {
        "thermalservice": thermal(0, 31.5),
        "battery": _BATTERY,
        "power": "POWER MANAGER (dumpsys power)\n  mWakefulness=Asleep\n",
    }
    for name, text in services.items():
        path = root / "fake" / "dumpsys" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    settings = root / "fake" / "settings"
    settings.mkdir()
    (settings / "global.airplane_mode_on").write_text("1\n")
    (settings / "global.low_power").write_text("0\n")
    cpus = max(cluster.last for cluster in model.clusters)
    system = root / "sys" / "devices" / "system" / "cpu"
    files = {system / name: f"0-{cpus}" for name in ("possible", "present", "online")}
    for cluster in model.clusters:
        policy = system / "cpufreq" / f"policy{cluster.first}"
        own = range(cluster.first, cluster.last + 1)
        files |= {
            policy / "related_cpus": " ".join(map(str, own)),
            policy / "affected_cpus": " ".join(map(str, own)),
            policy / "cpuinfo_max_freq": str(cluster.max_khz),
            policy / "cpuinfo_min_freq": "300000",
            policy / "scaling_max_freq": str(cluster.max_khz),
            policy / "scaling_min_freq": "300000",
            policy / "scaling_cur_freq": str(cluster.max_khz),
            policy / "scaling_governor": "walt",
        }
        for cpu in own:
            files[system / f"cpu{cpu}" / "cpu_capacity"] = str(cluster.capacity)
            files[system / f"cpu{cpu}" / "regs" / "identification" / "midr_el1"] = (
                f"0x00000000410f{cluster.part.removeprefix('0x')}0"
            )
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
