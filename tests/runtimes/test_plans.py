"""Plans of the native kernels: what `apot_open` refuses, and that runs depend on nothing else."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path

import numpy as np
import pytest

from apot_export.errors import KernelError
from apot_export.runtimes.native import compile_network
from apot_export.runtimes.native._compiled import FastNetwork
from apot_export.runtimes.native._library import Library, compile_kernels
from apot_export.runtimes.native._lower import lower
from apot_export.runtimes.native._structs import Header, Options, Step
from tests.support import plans
from tests.support.native_checks import byte_levels
from tests.support.networks import images_of, small_network
from tests.support.plans import opened, sealed, with_number
from tests.support.random_coded_networks import random_network

pytestmark = pytest.mark.skipif(
    not (shutil.which("cc") or shutil.which("gcc")), reason="no C compiler"
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(compile_kernels(tmp_path_factory.mktemp("kernels"), ("-O1", "-Werror")))


@pytest.fixture(scope="module")
def plan() -> bytes:
    return lower(small_network()).plan()


def status_of(library: Library, plan: bytes, max_memory: int = 0) -> int:
    status, handle = opened(library, plan, max_memory)
    library.functions.apot_close(handle)
    return status


def test_equal_networks_have_equal_plans(plan: bytes) -> None:
    assert lower(small_network()).plan() == plan


def test_files_and_memory_give_the_same(library: Library, plan: bytes, tmp_path: Path) -> None:
    path, handle = tmp_path / "network.apot", ctypes.c_void_p()
    path.write_bytes(plan)
    functions = library.functions
    assert functions.apot_open(ctypes.byref(handle), str(path).encode(), None) == plans.OK
    status, other = opened(library, plan)
    assert status == plans.OK
    of_file = plans.run(library, handle, 5, 2)
    np.testing.assert_array_equal(of_file, plans.run(library, other, 5, 3))
    for one in (handle, other):
        functions.apot_close(one)


def test_what_is_no_plan_is_refused(library: Library, plan: bytes, tmp_path: Path) -> None:
    assert status_of(library, b"") == plans.NOT_A_PLAN
    assert status_of(library, b"PK" + plan[2:]) == plans.NOT_A_PLAN
    assert status_of(library, plan[:-1]) == plans.NOT_A_PLAN
    assert status_of(library, plan + b"\0") == plans.NOT_A_PLAN
    path, handle = tmp_path / "network.apot", ctypes.c_void_p()
    for content, expected in ((plan[:50], plans.NOT_A_PLAN), (plan[:-1], plans.NOT_A_PLAN)):
        path.write_bytes(content)
        found = library.functions.apot_open(ctypes.byref(handle), str(path).encode(), None)
        assert (found, handle.value) == (expected, None)
    for missing in (tmp_path / "none", tmp_path):
        found = library.functions.apot_open(ctypes.byref(handle), str(missing).encode(), None)
        assert found == plans.UNREADABLE


@pytest.mark.parametrize("field", ["version", "step_bytes"])
def test_plans_of_other_versions_are_refused(library: Library, plan: bytes, field: str) -> None:
    at = getattr(Header, field).offset
    assert status_of(library, with_number(plan, at, 7)) == plans.VERSION


def test_damage_is_found(library: Library, plan: bytes) -> None:
    for at in (plans.BEHIND + 40, len(plan) // 2, len(plan) - 1):
        changed = plan[:at] + bytes([plan[at] ^ 1]) + plan[at + 1 :]
        assert status_of(library, changed) == plans.DAMAGED
        assert sealed(plan) == plan


@pytest.mark.parametrize("field", ["arena_bytes", "scratch_bytes"])
def test_memory_that_no_such_file_needs_is_refused(
    library: Library, plan: bytes, field: str
) -> None:
    at = getattr(Header, field).offset
    hungry = with_number(plan, at, (256 << 20) + 256 * len(plan))
    assert status_of(library, hungry) == plans.TOO_LARGE
    assert status_of(library, hungry, max_memory=1 << 30) == plans.OK
    assert status_of(library, plan, max_memory=100) == plans.TOO_LARGE


def test_every_address_of_every_step_is_checked(library: Library, plan: bytes) -> None:
    header = Header.from_buffer_copy(plan)
    size, refused = ctypes.sizeof(Step), 0
    for at in range(header.steps_at, header.size, 8):
        for number in (-8, 1 << 45):
            refused += status_of(library, with_number(plan, at, number)) == plans.MALFORMED
    # Of a step's numbers those count that its kind reads.
    assert refused > header.steps * size // 8 // 2


def test_arguments_are_checked(library: Library, plan: bytes) -> None:
    _, handle = opened(library, plan)
    functions, image = library.functions, np.zeros(10_000, dtype=np.float32)
    address = image.ctypes.data
    assert functions.apot_run(handle, address, 1, address, 0, None) == plans.BAD_ARGUMENT
    assert functions.apot_run(handle, address, 1, address, 65, None) == plans.BAD_ARGUMENT
    assert functions.apot_run(handle, address, -1, address, 1, None) == plans.BAD_ARGUMENT
    assert functions.apot_run(handle, None, 1, address, 1, None) == plans.BAD_ARGUMENT
    assert functions.apot_run(handle, None, 0, None, 1, None) == plans.OK
    assert functions.apot_workspace_bytes(handle, 0) == 0
    functions.apot_close(handle)
    functions.apot_close(None)
    other, wrong = ctypes.c_void_p(), Options(8, None, 0)
    assert functions.apot_open_memory(
        ctypes.byref(other), plan, len(plan), ctypes.byref(wrong)
    ) == (plans.BAD_ARGUMENT)
    unknown = Options(ctypes.sizeof(Options), b"abacus", 0)
    found = functions.apot_open_memory(ctypes.byref(other), plan, len(plan), ctypes.byref(unknown))
    assert found == plans.NO_KERNELS
    texts = {functions.apot_message(status) for status in range(12)}
    assert len(texts) == 12


def test_python_raises_what_the_library_says(library: Library) -> None:
    network = small_network()
    program = lower(network)
    program.steps[1].kind = 99
    with pytest.raises(KernelError) as caught:
        FastNetwork(network, program, library, "plain", 1)
    assert "leave its memory" in str(caught.value.got)


def test_runs_depend_on_nothing_in_the_workspace(library: Library) -> None:
    for seed in range(6):
        network = random_network(seed, byte_levels())
        for threads in (1, 2):
            fast = compile_network(network, threads=threads, library=library)
            images = images_of(network, 3)
            expected = fast.run(images)
            for content in (0xFF, 0x7F, 0x00):
                fast._workspace[:] = content
                np.testing.assert_array_equal(fast.run(images), expected)


def test_any_number_of_threads_gives_the_same(library: Library) -> None:
    network = random_network(3, byte_levels())
    images = images_of(network, 7)
    expected = compile_network(network, library=library).run(images)
    for threads in (2, 3, 4, 7, 64):
        fast = compile_network(network, threads=threads, library=library)
        for count in (1, 2, 3, 5, 7):
            np.testing.assert_array_equal(fast.run(images[:count]), expected[:count])
