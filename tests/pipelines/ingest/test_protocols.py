"""Headers of common protocols at 1.5 T and 3 T, as the vendors write them, names left out."""

from __future__ import annotations

import pytest

from radloom.pipelines.ingest.discovery import discover
from radloom.pipelines.ingest.roles import Acquisition, role_of


def mr(sequence, tr, te, ti=None, flip=None, *, variant=("SK",), image=("M", "ND"), **tags):
    """An acquisition from what stands in the console's first lines."""
    words = tags.pop("words", "")
    split = tags.pop("is_split", False)
    values = {
        "ScanningSequence": sequence.split("\\") if sequence else None,
        "SequenceVariant": list(variant),
        "RepetitionTime": tr,
        "EchoTime": te,
        "InversionTime": ti,
        "FlipAngle": flip,
        **tags,
    }
    known = {key: value for key, value in values.items() if value is not None}
    return Acquisition("MR", known, ("ORIGINAL", "PRIMARY", *image), words, is_split=split)


SP = ("SK", "SP", "MP")

SIEMENS = {
    "mprage 3 T": (mr("GR\\IR", 2300, 2.98, 900, 9, variant=SP), "t1"),
    "mprage 1.5 T": (mr("GR\\IR", 1900, 3.37, 1100, 15, variant=SP), "t1"),
    "space t1": (mr("SE", 700, 11, None, 120), "t1"),
    "space t2": (mr("SE", 3200, 408, None, 120), "t2"),
    "space flair": (mr("SE\\IR", 5000, 395, 1800, 120), "flair"),
    "space dir": (mr("SE\\IR", 7500, 318, 3000, 120, words="t2_space_DIR"), ""),
    "tse t2 3 T": (mr("SE", 6000, 100, None, 150), "t2"),
    "tse t2 1.5 T": (mr("SE", 4000, 99, None, 150), "t2"),
    "se t1 1.5 T": (mr("SE", 500, 14, None, 70), "t1"),
    "tse pd": (mr("SE", 3000, 28, None, 150), "pd"),
    "tirm flair": (mr("SE\\IR", 9000, 81, 2500, 150, words="t2_tirm_tra_dark-fluid"), "flair"),
    "tirm stir": (mr("SE\\IR", 4000, 40, 160, 150, words="t2_tirm_cor"), ""),
    "t1 tirm": (mr("SE\\IR", 2000, 9, 860, 150, words="t1_tirm_tra_dark-fluid"), "t1"),
    "flash 2d": (mr("GR", 250, 2.46, None, 70, variant=("SP", "OSP")), "t1"),
    "vibe": (mr("GR", 5.5, 2.46, None, 10, variant=("SP",)), "t1"),
    "vibe dixon water": (mr("GR", 6, 2.5, None, 9, image=("DIXON", "WATER")), "t1"),
    "vibe dixon in": (mr("GR", 6, 2.5, None, 9, image=("M", "IN_PHASE"), words="vibe_dixon_in"),
                      "t1"),
    "vibe dixon fat": (mr("GR", 6, 2.5, None, 9, image=("DIXON", "FAT")), ""),
    "vibe dixon opposed": (mr("GR", 6, 1.2, None, 9, image=("M", "OPP_PHASE")), ""),
    "vibe dixon fat by name": (mr("GR", 6, 2.5, None, 9, words="t1_vibe_dixon_tra_F"), ""),
    "swi magnitude": (mr("GR", 27, 20, None, 15, words="Mag_Images"), ""),
    "swi": (mr("GR", 27, 20, None, 15, image=("M", "SWI")), ""),
    "tof": (mr("GR", 21, 3.4, None, 18, AngioFlag="Y"), ""),
    "ciss": (mr("GR", 5.7, 2.6, None, 50, variant=("SS",)), ""),
    "trufi": (mr("GR", 4.3, 2.1, None, 60, variant=("SK", "SS")), ""),
    "field map magnitude": (mr("GR", 488, 4.92, None, 60, SequenceName="*fm2d2r"), ""),
    "field map echo": (mr("GR", 488, 4.92, None, 60, is_split=True), ""),
    "t2*": (mr("GR", 620, 20, None, 20), ""),
    "ep2d diff": (mr("EP", 6000, 90, None, 90), ""),
    "resolve trace": (mr("EP\\RM", 5000, 70, image=("DIFFUSION", "TRACEW")), ""),
    "bold": (mr("EP", 2000, 30, None, 90), ""),
    "mp2rage inv1": (mr("GR\\IR", 5000, 2.98, 700, 4, variant=SP), ""),
    "mp2rage inv2": (mr("GR\\IR", 5000, 2.98, 2500, 5, variant=SP), ""),
    "mp2rage inv1 by name": (mr("GR\\IR", 3000, 2.0, 700, 4, words="t1_mp2rage_INV1"), ""),
    "mp2rage uni": (mr("GR\\IR", 5000, 2.98, 700, 4, image=("M", "ND", "UNI")), "t1"),
    "mp2rage map": (mr("GR\\IR", 5000, 2.98, 700, 4, image=("M", "T1 MAP", "ND")), ""),
    "haste": (mr("SE", 1500, 90, None, 150), ""),
}  # fmt: skip

GE = {
    "bravo": (mr("GR", 8.2, 3.2, 450, 12, variant=("SS", "SP", "SK")), "t1"),
    "bravo unprepared": (mr("GR", 7.0, 2.9, None, 11, variant=("SS", "SP", "SK")), "t1"),
    "mprage": (mr("GR\\IR", 2300, 3.0, 900, 8, variant=("MP",)), "t1"),
    "fspgr 1.5 T": (mr("GR", 11, 4.2, 300, 20, variant=("SS", "SP")), "t1"),
    "fse-xl t2": (mr("SE", 5200, 102, None, 90, variant=("SK",)), "t2"),
    "fse-xl pd": (mr("SE", 2400, 14, None, 90), "pd"),
    "t1 se": (mr("SE", 600, 9, None, 90), "t1"),
    "t1 flair": (mr("SE\\IR", 2200, 22, 920, 90), "t1"),
    "t2 flair": (mr("SE\\IR", 9500, 122, 2250, 90), "flair"),
    "cube t2": (mr("SE", 2500, 92, None, 90), "t2"),
    "cube t1": (mr("SE", 600, 14, None, 90), "t1"),
    "cube flair": (mr("SE\\IR", 6500, 120, 1900, 90), "flair"),
    "cube flair, sequence SE": (mr("SE", 6500, 120, 1900, 90), "flair"),
    "cube t2 between": (mr("SE", 2500, 62, None, 90, words="Sag CUBE T2"), "t2"),
    "stir": (mr("SE\\IR", 5000, 45, 150, 90, words="Cor T2 STIR"), ""),
    "swan": (mr("GR", 40, 25, None, 15, words="SWAN"), ""),
    "tof": (mr("GR", 24, 2.7, None, 20, words="3D TOF MRA"), ""),
    "fiesta": (mr("GR", 5.4, 2.2, None, 55, variant=("SS",)), ""),
    "dwi": (mr("EP\\SE", 8000, 80, None, 90), ""),
    "lava flex water": (mr("GR", 6, 1.7, 5, 12, words="WATER: Ax LAVA-Flex"), "t1"),
    "lava flex in phase": (mr("GR", 6, 2.2, 5, 12, words="InPhase: Ax LAVA-Flex"), "t1"),
    "lava flex fat": (mr("GR", 6, 1.7, 5, 12, words="FAT: Ax LAVA-Flex"), ""),
    "lava flex out": (mr("GR", 6, 1.1, 5, 12, words="OutPhase: Ax LAVA-Flex"), ""),
    "research mode": (mr("RM", 6.2, 3.4), ""),
}

PHILIPS = {
    "t1 tfe": (mr("GR", 8.1, 3.7, None, 8, variant=("MP",)), "t1"),
    "t1 ffe": (mr("GR", 25, 4.6, None, 30, variant=("SP",)), "t1"),
    "t2 tse": (mr("SE", 3000, 80, None, 90), "t2"),
    "vista t2": (mr("SE", 2500, 250, None, 90), "t2"),
    "flair": (mr("IR", 11000, 125, 2800, 90), "flair"),
    "vista flair": (mr("IR", 4800, 340, 1650, 90), "flair"),
    "flair at low field": (mr("SE\\IR", 4000, 194, 1400, 90,
                              AcquisitionContrast="FLUID_ATTENUATED"), "flair"),
    "epi called SE": (mr("SE", 3000, 80, None, 90, EPIFactor=67.0), ""),
    "dwi called SE": (mr("SE", 3000, 80, None, 90, DiffusionBValue=1000.0), ""),
    "b0 among anatomy": (mr("SE", 3000, 80, None, 90, DiffusionBValue=0.0), "t2"),
    "tse, echo-planar factor 1": (mr("SE", 3000, 80, None, 90, EPIFactor=1.0), "t2"),
    "swip": (mr("GR", 31, 7.2, None, 17, words="SWIp"), ""),
    "ct-like name": (mr("", None, None, words="CT overlay"), ""),
}  # fmt: skip

ENHANCED = {
    "t2": (mr("", 4000, 100, None, 150, EchoPulseSequence="SPIN"), "t2"),
    "mprage": (mr("", 2300, 2.9, 900, 9, EchoPulseSequence="GRADIENT", InversionRecovery="YES"),
               "t1"),
    "flair": (mr("", 9000, 90, 2500, 150, EchoPulseSequence="SPIN", InversionRecovery="YES"),
              "flair"),
    "epi": (mr("", 3000, 80, EchoPulseSequence="SPIN", EchoPlanarPulseSequence="YES"), ""),
    "tof": (mr("", 21, 3.4, None, 18, EchoPulseSequence="GRADIENT", TimeOfFlightContrast="YES"),
            ""),
}  # fmt: skip

PROTOCOLS = [
    pytest.param(*case, id=f"{vendor} {name}")
    for vendor, cases in (
        ("siemens", SIEMENS), ("ge", GE), ("philips", PHILIPS), ("enhanced", ENHANCED)
    )
    for name, case in cases.items()
]  # fmt: skip


@pytest.mark.parametrize(("acquisition", "role"), PROTOCOLS)
def test_the_protocol_has_its_role(acquisition, role):
    found = role_of(acquisition)
    assert found.role == role, found.rule
    assert found.rule


@pytest.mark.parametrize(
    ("agent", "words", "role"),
    [
        ("Gadovist", "", "t1ce"), ("GADOLINIUM", "t1 mprage", "t1ce"),
        ("", "t1_mprage_sag_gd", "t1ce"), ("", "Ax T1 +C", "t1ce"), ("", "AX T1 POST", "t1ce"),
        ("", "t1_km", "t1ce"), ("", "t1 mprage post contrast", "t1ce"),
        ("NONE", "t1_mprage", "t1"), ("no", "t1_mprage", "t1"), ("", "t1_mprage_pre_gd", "t1"),
        ("", "T1 without contrast", "t1"), ("", "T1 W/O", "t1"), ("", "t1 nativ", "t1"),
        ("Gadovist", "t1_mprage_pre", "t1"), ("", "t1_mprage", "t1"), ("", "postop t1", "t1"),
    ],
)  # fmt: skip
def test_contrast_agent_by_header_then_name(agent, words, role):
    tags = {"ContrastBolusAgent": agent} if agent else {}
    assert role_of(mr("GR\\IR", 2300, 2.9, 900, 9, words=words, **tags)).role == role


@pytest.mark.parametrize(
    ("corrected", "words", "role"),
    [
        (["DECY", "ATTN", "SCAT"], "", "pet"), (["DECY", "DTIM"], "", ""), (None, "", "pet"),
        (None, "PET head NAC", ""),
    ],
)  # fmt: skip
def test_pet_needs_its_attenuation_correction(corrected, words, role):
    tags = {"CorrectedImage": corrected} if corrected else {}
    assert role_of(Acquisition("PT", tags, words=words)).role == role


def test_the_rule_says_what_it_saw_and_what_the_name_says_otherwise():
    found = role_of(mr("SE\\IR", 9000, 90, 2500, words="T1 brain"))
    assert found == (
        "flair",
        "long inversion time, T2 weighting: TR 9000, TE 90, TI 2500; "
        "the name speaks of t1, tags come first",
    )
    assert role_of(mr("", None, None, words="brain T2W")) == ("t2", "name of T2: 't2'")


def test_the_protocol_name_stands_in_for_a_missing_description():
    assert role_of(Acquisition("MR", {"ProtocolName": "Ax FLAIR"})).role == "flair"
    assert role_of(Acquisition("MR", {"ProtocolName": "Ax FLAIR"}, words="x")).role == ""


def test_of_two_candidates_inspect_says_which_was_chosen_and_why(tmp_path, series, t1_tags):
    series(tmp_path / "a", n=5, series_uid="1.2.1", SeriesDescription="thick", **t1_tags)
    series(tmp_path / "b", n=9, series_uid="1.2.2", SeriesDescription="thin", **t1_tags)
    (study,) = discover(tmp_path)
    thick, thin = study.series
    assert (thin.role, thick.role) == ("t1", "")
    assert thin.role_rule.endswith("; chosen of 2: more voxels")
    assert thick.role_rule.endswith("; another is the t1: thin, more voxels")


def test_tags_reach_the_rules_from_files(tmp_path, series):
    def agent(dataset, _):
        from pydicom.dataset import Dataset

        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator = "C-B03CA", "SRT"
        item.CodeMeaning = "Gadolinium"
        dataset.ContrastBolusAgentSequence = [item]

    def planar(dataset, _):
        dataset.add_new((0x2001, 0x0010), "LO", "Philips Imaging DD 001")
        dataset.add_new((0x2001, 0x1013), "SL", 67)

    spin = {"ScanningSequence": "SE", "RepetitionTime": 600, "EchoTime": 12}
    long = {"ScanningSequence": "SE", "RepetitionTime": 6000, "EchoTime": 90}
    series(tmp_path / "ce", study_uid="1.1", edit=agent, **spin)
    series(tmp_path / "epi", study_uid="1.2", edit=planar, **long)
    series(tmp_path / "t2", study_uid="1.3", **long)
    found = {study.study_uid: study.series[0].role for study in discover(tmp_path)}
    assert found == {"1.1": "t1ce", "1.2": "", "1.3": "t2"}
