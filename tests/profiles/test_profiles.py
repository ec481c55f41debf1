"""Device profiles: what is shipped is sound, and a phone is never taken for another."""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from coronet_deploy.bench.attached import DEVICE, Attached
from coronet_deploy.bench.choose import Candidate, choose
from coronet_deploy.errors import BadInput
from coronet_deploy.profiles import (
    SOURCES_FILE,
    UNVERIFIED,
    Profile,
    cpu_list,
    find_profile,
    load_profiles,
    mask_of,
    match,
)
from coronet_deploy.storage import data_dir

PROFILES = load_profiles()

# As phones (and LiteRT's lists of chipsets) spell them, with the profile they mean.
SEEN = [
    ({"ro.soc.model": "SM8450", "ro.soc.manufacturer": "QTI"}, "sm8450"),
    ({"ro.soc.model": "SM8475", "ro.board.platform": "taro"}, "sm8475"),
    ({"ro.soc.model": "SM7475", "ro.board.platform": "taro"}, "sm7475"),
    ({"ro.soc.model": "SM8550", "ro.soc.manufacturer": "QTI"}, "sm8550"),
    ({"ro.soc.model": "SM8650", "ro.soc.manufacturer": "QTI"}, "sm8650"),
    ({"ro.soc.model": "SM8750P", "ro.board.platform": "sun"}, "sm8750"),
    ({"ro.soc.model": "SM7550", "ro.soc.manufacturer": "Qualcomm"}, "sm7550"),
    ({"ro.soc.model": "s5e9925", "ro.soc.manufacturer": "Samsung"}, "exynos2200"),
    ({"ro.soc.model": "S5E9945", "ro.soc.manufacturer": "Samsung"}, "exynos2400"),
    ({"ro.soc.model": "s5e8835", "ro.hardware": "s5e8835"}, "exynos1380"),
    ({"ro.soc.model": "S5E8845"}, "exynos1480"),
    ({"ro.soc.model": "MT6983Z/TCZA", "ro.soc.manufacturer": "Mediatek"}, "mt6983"),
    ({"ro.soc.model": "MT6983W/CZA"}, "mt6983"),
    ({"ro.soc.model": "MT6985", "ro.board.platform": "mt6985"}, "mt6985"),
    ({"ro.soc.model": "MT6989", "ro.soc.manufacturer": "Mediatek"}, "mt6989"),
    ({"ro.soc.model": "MT6895Z_A"}, "mt6895"),
    ({"ro.soc.model": "MT6896Z/CZA", "ro.soc.manufacturer": "Mediatek"}, "mt6895"),
    ({"ro.soc.model": "Tensor G2", "ro.soc.manufacturer": "Google"}, "gs201"),
    ({"ro.soc.model": "Tensor G4", "ro.board.platform": "zumapro"}, "zumapro"),
    # Before Android 12 there is no ro.soc.model.
    ({"ro.board.platform": "exynos2100", "ro.hardware": "exynos2100"}, "exynos2100"),
    ({"ro.board.platform": "MT6893"}, "mt6893"),
    ({"ro.board.platform": "kalama", "ro.hardware": "qcom"}, "sm8550"),
    ({"ro.soc.model": "", "ro.hardware": "komodo"}, "zumapro"),
]
UNKNOWN = [
    {},
    {"ro.soc.model": "Tensor", "ro.soc.manufacturer": "Google", "ro.hardware": "oriole"},
    {"ro.soc.model": "SM8350", "ro.board.platform": "lahaina", "ro.hardware": "qcom"},
    {"ro.soc.model": "SM84500"},
    {"ro.soc.model": "XSM8450"},
    {"ro.soc.model": "MT69891"},
    {"ro.soc.model": "s5e99450"},
    {"ro.soc.model": "Exynos 24000"},
    # It says what it is; that its board is that of chipsets we know does not matter then.
    {"ro.soc.model": "SM8635", "ro.board.platform": "pineapple"},
    {"ro.soc.model": "SM8550", "ro.soc.manufacturer": "Samsung"},
    # Three chipsets share this board, and all Qualcomm phones this hardware.
    {"ro.board.platform": "taro"},
    {"ro.hardware": "qcom"},
    {"ro.hardware": "ranchu", "ro.board.platform": "goldfish"},
]


def test_all_chipsets_are_there() -> None:
    assert len(PROFILES) == 22
    makers = [profile.vendor for profile in PROFILES]
    assert {one: makers.count(one) for one in makers} == {
        "Qualcomm": 7,
        "Samsung": 5,
        "MediaTek": 7,
        "Google": 3,
    }


@pytest.mark.parametrize("profile", PROFILES, ids=lambda one: one.id)
def test_every_fact_has_a_source_that_is_written_down(profile: Profile) -> None:
    known = tomllib.loads((data_dir("device_profiles") / SOURCES_FILE).read_text())

    def check(where: str, plain: dict[str, Any]) -> None:
        facts = {key for key, value in plain.items() if value is not None and value != ()}
        if "sources" in plain:
            assert set(plain["sources"]) == facts - {"sources"}, where
            sources = list(plain["sources"].values())
        else:
            sources = [plain["source"]]
        for source in sources:
            key = source.partition(":")[0]
            assert key == UNVERIFIED or key in known, f"{where}: {source}"

    for name in ("identity", "gpu", "npu", "isa", "memory", "phones"):
        if section := getattr(profile, name):
            check(f"{profile.id}.{name}", section.model_dump())
    for cluster in profile.clusters:
        check(f"{profile.id} {cluster.cpus}", cluster.model_dump())


def test_masks_are_as_wide_as_the_chipset() -> None:
    masks = {
        one.id: [mask_of(cluster.numbers) for cluster in one.clusters]
        for one in PROFILES
        if one.id in {"sm8550", "exynos2400", "zuma", "mt6989"}
    }
    assert masks == {
        "sm8550": ["7", "18", "60", "80"],
        "exynos2400": ["f", "70", "180", "200"],
        "zuma": ["f", "f0", "100"],
        "mt6989": ["f", "70", "80"],
    }
    assert [one.cpus for one in PROFILES if one.id in {"exynos2400", "zuma"}] == [10, 9]


@pytest.mark.parametrize(("properties", "expected"), SEEN, ids=lambda one: str(one)[:40])
def test_a_phone_is_recognised_by_what_it_says(properties: dict[str, str], expected: str) -> None:
    found = match(properties)
    assert found is not None
    assert found.id == expected


@pytest.mark.parametrize("properties", UNKNOWN, ids=lambda one: str(one)[:60])
def test_a_phone_that_no_profile_knows_is_not_taken_for_another(
    properties: dict[str, str],
) -> None:
    assert match(properties) is None


def test_no_chipset_matches_another(subtests: pytest.Subtests) -> None:
    for profile in PROFILES:
        for name in (profile.id.upper(), *profile.aliases, profile.name):
            with subtests.test(profile=profile.id, name=name):
                found = match({"ro.soc.model": name})
                assert found is None or found.id == profile.id


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sm8550", "sm8550"),
        ("SM8550", "sm8550"),
        ("Snapdragon 8 Gen 2", "sm8550"),
        ("snapdragon8gen2", "sm8550"),
        ("snapdragon-8-gen-1", "sm8450"),
        ("Snapdragon 8+ Gen 1", "sm8475"),
        ("snapdragon 8 plus gen 1", "sm8475"),
        ("s5e9945", "exynos2400"),
        ("Exynos 2400", "exynos2400"),
        ("dimensity 8200", "mt6895"),
        ("Dimensity 9000+", "mt6983"),
        ("dimensity 9300 plus", "mt6989"),
        ("Dimensity 9400+", "mt6991"),
        ("Dimensity 1300", "mt6893"),
        ("Snapdragon 8 Gen 2 for Galaxy", "sm8550"),
        ("MT6983W", "mt6983"),
        ("mt6983z/tcza", "mt6983"),
        (" MT6896Z ", "mt6895"),
        ("SM8650-AC", "sm8650"),
        ("SM8750-AB", "sm8750"),
        ("Tensor G3", "zuma"),
        ("google tensor g3", "zuma"),
    ],
)
def test_a_chipset_goes_by_its_market_names(name: str, expected: str) -> None:
    assert find_profile(name).id == expected


def test_an_unknown_name_gets_the_nearest_ones() -> None:
    with pytest.raises(BadInput, match=r"called 'sm8560' \(did you mean .*sm8550 \(Snapd"):
        find_profile("sm8560")
    with pytest.raises(BadInput, match=r"there are exynos1380,.*sm8550"):
        find_profile("qqqqqqqqqqqqqqqq")


def test_own_profiles_stand_beside_and_before_the_shipped(tmp_path: Path) -> None:
    shipped = data_dir("device_profiles") / "sm8550.toml"
    mine = shipped.read_text().replace("max_mhz = 3190", "max_mhz = 3360")
    (tmp_path / "sm8550.toml").write_text(mine)
    other = (
        'id = "sm8635"\nname = "Snapdragon 8s Gen 3"\nvendor = "Qualcomm"\n'
        "[identity]\nsoc_model = '^SM8635'\n"
        '[[clusters]]\ncore = "Cortex-A520"\ncpus = "0-7"\nmax_mhz = 2000\n'
    )
    (tmp_path / "sm8635.toml").write_text(other)
    profiles = load_profiles(tmp_path)
    assert len(profiles) == 23
    assert find_profile("sm8550", profiles).clusters[-1].max_mhz == 3360
    found = match({"ro.soc.model": "SM8635", "ro.soc.manufacturer": "QTI"}, profiles)
    assert found is not None
    assert found.name == "Snapdragon 8s Gen 3"


SM8550 = {"ro.soc.model": "SM8550", "ro.soc.manufacturer": "QTI", "ro.hardware": "qcom"}
OLD_SM8550 = {"ro.board.platform": "kalama", "ro.hardware": "qcom"}


def own(folder: Path, name: str, *changes: tuple[str, str]) -> None:
    """Write a copy of the shipped sm8550 under another id and name, without aliases."""
    text = (data_dir("device_profiles") / "sm8550.toml").read_text()
    (aliases,) = re.findall(r"^aliases = .*\n", text, re.MULTILINE)
    named = (('id = "sm8550"', f'id = "{name}"'), ('"Snapdragon 8 Gen 2"', f'"My {name}"'))
    for old, new in (*named, (aliases, ""), *changes):
        assert old in text
        text = text.replace(old, new)
    (folder / f"{name}.toml").write_text(text)


@pytest.mark.parametrize(
    "change",
    [
        (),
        (("'^SM8550(?![0-9])'", "'^SM8550'"),),  # matches the same phones in other words
        (('"QTI", "Qualcomm"', '"QTI"'),),
    ],
)
@pytest.mark.parametrize("properties", [SM8550, OLD_SM8550])
def test_ones_own_profile_goes_before_a_shipped_one_of_the_same_phone(
    tmp_path: Path, change: tuple[tuple[str, str], ...], properties: dict[str, str]
) -> None:
    own(tmp_path, "mine", *change)
    profiles = load_profiles(tmp_path)
    phone = Candidate(Attached("R5", DEVICE), properties, match(properties, profiles))
    assert phone.chipset == "My mine"
    assert choose("mine", [phone], profiles=profiles) == phone
    if not change:  # the shipped one can be no phone any more: its names are one's own's
        for name in ("sm8550", "Snapdragon 8 Gen 2", "kalama"):
            assert choose(name, [phone], profiles=profiles) == phone
    other = match({"ro.soc.model": "SM8650"}, profiles)
    assert other is not None
    assert other.id == "sm8650"


def test_ones_own_does_not_take_a_board_that_chipsets_share(tmp_path: Path) -> None:
    own(tmp_path, "mine")
    assert match({"ro.hardware": "qcom"}, load_profiles(tmp_path)) is None


def test_two_of_ones_own_that_are_one_phone_are_refused(tmp_path: Path) -> None:
    own(tmp_path, "mine")
    own(tmp_path, "yours", ("'^SM8550(?![0-9])'", "'^SM8550'"))
    profiles = load_profiles(tmp_path)
    with pytest.raises(BadInput, match=r"mine and yours both match .*'SM8550'"):
        match(SM8550, profiles)
    own(tmp_path, "yours")
    with pytest.raises(BadInput, match="mine and yours have one identity"):
        load_profiles(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("max_mhz = 3190", "max_mzh = 3190", r"sm8550\.toml: unknown key 'clusters\.3\.max_mzh'"),
        ("max_mhz = 3190", "max_mhz = 'fast'", r"clusters\.3\.max_mhz"),
        ('id = "sm8550"\n', "", r"sm8550\.toml: missing key 'id'"),
        ('id = "sm8550"', 'id = "sm8551"', "not the file's name"),
        ('cpus = "7"', 'cpus = "6"', "each from 0 on, once"),
        ('cpus = "7"', 'cpus = "seven"', "not a list of CPUs"),
        ('cpus = "7"', 'cpus = "7-6"', "7-6 goes backwards"),
        ('cpus = "7"', 'cpus = ","', r"clusters\.3\.cpus: .*no CPU"),
        ("'^SM8550(?![0-9])'", "'^SM8550('", "not a regular expression"),
        ('backends = ["cpu", "gpu", "qnn"]', 'backends = ["tpu"]', r"backends\.0"),
        ('backends = ["cpu", "gpu", "qnn"]', 'backends = "cpu"', r"backends: not a list \["),
        ('backends = ["cpu", "gpu", "qnn"]', "backends = []", "backends: an empty list$"),
        ('id = "sm8550"', 'id = "SM8550"', r"sm8550\.toml: id: not of small letters, digits"),
        ('"kalama"]\nback', '"Snapdragon 8 Gen 1"]\nback', "both called"),
        ('"kalama"]\nback', '"Any"]\nback', r"\.toml: called 'Any', which is whatever phone"),
        ('name = "Snapdragon 8 Gen 2"', 'name = "host"', "called 'host', which is this host to"),
        ("[gpu]", "[gpu", r"sm8550\.toml: "),
    ],
)
def test_what_is_wrong_with_a_profile_is_told_with_its_file(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    path = tmp_path / "sm8550.toml"
    shutil.copy(data_dir("device_profiles") / "sm8550.toml", path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(BadInput, match=told):
        load_profiles(tmp_path)


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to nowhere"])
def test_what_is_no_file_is_no_profile(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mine.toml"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere")
    said = "does not exist" if kind == "link to nowhere" else "is not a file"
    with pytest.raises(BadInput, match=rf"^device profile {path} {said}$"):
        load_profiles(tmp_path)


def test_a_byte_order_mark_before_a_profile_is_passed_over(tmp_path: Path) -> None:
    text = (data_dir("device_profiles") / "sm8550.toml").read_text()
    (tmp_path / "sm8550.toml").write_text(text, encoding="utf-8-sig")
    assert find_profile("sm8550", load_profiles(tmp_path)).name == "Snapdragon 8 Gen 2"


def test_a_folder_without_profiles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"holds no \.toml"):
        load_profiles(tmp_path)
    with pytest.raises(BadInput, match="not a folder"):
        load_profiles(tmp_path / "nowhere")


def test_lists_and_masks_of_cpus() -> None:
    assert cpu_list("0-2,7") == (0, 1, 2, 7)
    assert cpu_list("4 5 6\n") == (4, 5, 6)
    assert mask_of((0, 1, 2)) == "7"
    assert mask_of((9,)) == "200"
