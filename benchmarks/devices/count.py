"""Instructions of one image of a C project in QEMU, and of an int8 loop for comparison.

python benchmarks/devices/count.py PROJECT rv32i|cortex-m0plus|cortex-m3|cortex-m4 [--level=-O2]
python benchmarks/devices/count.py --int8 PROJECT rv32i|rv32im|cortex-m0plus|cortex-m3|cortex-m4

PROJECT is a folder that `apot-export emit c` wrote; the int8 loop takes its start and memory.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
_RISCV = ("riscv64-unknown-elf-gcc", "-mabi=ilp32", "-mcmodel=medany", "-DAPOT_NO_MULTIPLY")
_ARM = ("arm-none-eabi-gcc", "-mthumb")
COMPILERS = {
    "rv32i": (*_RISCV, "-march=rv32i"),
    "rv32im": (*_RISCV, "-march=rv32im"),
    "cortex-m0plus": (*_ARM, "-mcpu=cortex-m0plus", "-DAPOT_NO_MULTIPLY"),
    "cortex-m3": (*_ARM, "-mcpu=cortex-m3", "-DAPOT_NO_MULTIPLY"),
    "cortex-m4": (*_ARM, "-mcpu=cortex-m4"),
}
_OFF = "a=false,f=false,d=false,c=false"
EMULATORS = {
    "rv32i": ("qemu-system-riscv32", "-M", "virt", "-cpu", f"rv32,m=false,{_OFF}", "-bios", "none"),
    "rv32im": ("qemu-system-riscv32", "-M", "virt", "-cpu", f"rv32,{_OFF}", "-bios", "none"),
    "cortex-m0plus": ("qemu-system-arm", "-M", "mps2-an385"),
    "cortex-m3": ("qemu-system-arm", "-M", "mps2-an385"),
    "cortex-m4": ("qemu-system-arm", "-M", "mps2-an386"),
}
_PRINTING = ("-display", "none", "-monitor", "none", "-serial", "none", "-chardev", "stdio,id=p")
_COUNTING = ("-semihosting-config", "enable=on,chardev=p", "-icount", "shift=0")
_FREESTANDING = ("-DAPOT_BARE", "-ffreestanding", "-fno-builtin", "-fno-strict-aliasing")


def counted(project: Path, target: str, level: str, *, int8: bool) -> int:
    """Return how many instructions an image takes on a target."""
    sources = [HERE / "count.c", project / "platform.c"]
    if int8:
        sources.append(HERE / "int8.c")
    else:
        sources += [HERE / "network.c", project / "model.c", project / "apot_kernels.c"]
    flash, ram = ("0x80000000", "0x80400000") if target[:2] == "rv" else ("0", "0x20000000")
    memory = {"FLASH_ORIGIN": flash, "FLASH_BYTES": "4M", "RAM_ORIGIN": ram, "RAM_BYTES": "4M"}
    symbols = [f"-Wl,--defsym={name}={value}" for name, value in memory.items()]
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "count")
        link = [
            "-nostdlib",
            "-T",
            str(project / "board.ld"),
            *symbols,
            "-Wl,--defsym=STACK_BYTES=4096",
        ]
        compiler = [
            *COMPILERS[target],
            level,
            *_FREESTANDING,
            f"-I{project}",
            "-ffunction-sections",
        ]
        command = [
            *compiler,
            *map(str, sources),
            *link,
            "-Wl,--gc-sections",
            "-lgcc",
            "-o",
            program,
        ]
        subprocess.run(command, check=True)
        emulator = [*EMULATORS[target], *_PRINTING, *_COUNTING, "-kernel", program]
        done = subprocess.run(emulator, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1], 16)


def main() -> None:
    """Print one count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", type=Path)
    parser.add_argument("target", choices=COMPILERS)
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--level", default="-O2")
    given = parser.parse_args()
    found = counted(given.project, given.target, given.level, int8=given.int8)
    print(f"{found:,} instructions")


if __name__ == "__main__":
    main()
