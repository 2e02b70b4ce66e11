"""What a program in the root sees of its machine: the files of a small board instead of ours.

ONNX Runtime reads the cores from /sys and their kind from /proc/cpuinfo, and so does fer-edge. With
those of an x86 machine, ONNX Runtime 1.32 for aarch64 ends with a segmentation fault.
"""

from __future__ import annotations

from pathlib import Path

CPU = "cortex-a76"
"""What qemu shows; near an Orin's A78AE. Its default claims more, and OpenVINO crashes there."""

_CORE = """processor\t: {core}
BogoMIPS\t: 62.50
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc \
dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1

"""


def write_board(folder: Path, cores: int) -> None:
    """Write ``folder/cpuinfo`` and ``folder/sys`` of a board with one cluster of ``cores``."""
    every = f"0-{cores - 1}" if cores > 1 else "0"
    files: dict[str, object] = dict.fromkeys(("possible", "present", "online"), every)
    files["kernel_max"] = 511
    for core in range(cores):
        files |= {
            f"cpu{core}/topology/{name}": value
            for name, value in {
                **{"core_id": core, "thread_siblings_list": core, "core_cpus_list": core},
                **{"cluster_id": 0, "physical_package_id": 0},
                # Sets of cores as bits: hwloc, which is in OpenVINO, reads these.
                **dict.fromkeys(("thread_siblings", "core_cpus"), f"{1 << core:x}"),
                **dict.fromkeys(("core_siblings", "package_cpus"), f"{(1 << cores) - 1:x}"),
                **dict.fromkeys(("core_siblings_list", "package_cpus_list"), every),
                "cluster_cpus_list": every,
            }.items()
        }
        files[f"cpu{core}/cpufreq/cpuinfo_min_freq"] = 115200
        files[f"cpu{core}/cpufreq/cpuinfo_max_freq"] = 2201600
    for name, value in files.items():
        path = folder / "sys/devices/system/cpu" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    (folder / "cpuinfo").write_text("".join(_CORE.format(core=core) for core in range(cores)))
