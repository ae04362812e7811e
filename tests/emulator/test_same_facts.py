"""Facts that the emulator, a package of its own, has to state again are those that the stack goes by."""

import itertools

from components.vast.models import HOURS_PER_MONTH
from components.vllm.catalog import load_catalog
from components.vllm.gpu_requirements import load_flags
from emulator import clock, market
from emulator.scoring import VERSION
from emulator.stub import FLAGS, build_parser


def test_the_stub_takes_the_flags_of_the_vllm_that_it_stands_in_for():
    flags, version = load_flags(), VERSION.partition("-")[0]
    shown = itertools.chain.from_iterable(action.option_strings for action in build_parser()._actions)
    assert {*shown, "--model"} >= flags.everywhere | flags.only[version]
    assert {flag.rstrip("=*") for flag in FLAGS} <= flags.everywhere | flags.only[version]


def test_an_image_takes_as_long_to_download_as_the_catalog_says():
    assert load_catalog().default_image.download_gb == clock.IMAGE_GB


def test_a_month_has_as_many_hours():
    assert market.HOURS_PER_MONTH == HOURS_PER_MONTH
