#!/usr/bin/env bash
# Install fer-edge on JetPack, in a venv that uses the TensorRT and OpenCV of JetPack.
#
#   ./install.sh [options] fer_edge-VERSION-py3-none-any.whl [faces.fer]
#
#   --prefix DIR   where to install (default: /opt/fer-edge)
#   --apt          install missing packages with apt-get (default: only list them)
#   --service      also install the systemd unit (needs root; it is not started)
#
# Not run on a device yet.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=${FER_EDGE_ROOT:-}    # tests use another folder instead of /
prefix=/opt/fer-edge
apt=no
service=no
wheel=
archive=

say() { printf '%s\n' "$*"; }
die() {
  printf 'error: %s\n' "$1" >&2
  [ $# -lt 2 ] || printf 'fix:   %s\n' "$2" >&2
  exit "${3:-2}"
}

while [ $# -gt 0 ]; do
  case $1 in
    --prefix)
      [ $# -gt 1 ] || die "--prefix needs a folder"
      prefix=$2
      shift
      ;;
    --apt) apt=yes ;;
    --service) service=yes ;;
    -h | --help)
      sed -n '2,/^# Not run/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    -*) die "unknown option $1" "./install.sh --help" ;;
    *.whl) wheel=$1 ;;
    *.fer) archive=$1 ;;
    *) die "$1 is neither a wheel (.whl) nor a packed bundle (.fer)" "./install.sh --help" ;;
  esac
  shift
done
[ -n "$wheel" ] || die "the wheel (.whl) is missing" "make it on the workstation: python -m build --wheel"
for file in "$wheel" "$archive"; do
  [ -z "$file" ] || [ -f "$file" ] || die "file not found: $file"
done

# The Jetson Linux release of the board determines its CUDA release, and so the cuda-bindings.
[ "$(uname -m)" = aarch64 ] || die "this is not a Jetson: $(uname -m)" "pip install $wheel" 5
release=$root/etc/nv_tegra_release
[ -r "$release" ] || die "this is not a Jetson: $release is missing" "pip install $wheel" 5
l4t=$(sed -n 's/^# R\([0-9]*\) (release), REVISION: \([0-9.]*\).*/\1.\2/p' "$release" | head -n 1)
case ${l4t%%.*} in
  36) cuda_bindings='cuda-bindings>=12.6,<13' ;;
  3[89] | [4-9][0-9]) cuda_bindings='cuda-bindings>=13,<14' ;;
  *) die "Jetson Linux ${l4t:-of unknown release} is not supported: fer-edge needs JetPack 6 or later" \
    "install a newer JetPack: https://developer.nvidia.com/embedded/jetpack" 5 ;;
esac
say "Jetson Linux $l4t: $cuda_bindings"
if [ "$service" = yes ] && ! command -v systemctl >/dev/null; then
  die "--service needs systemd, which this system does not have" "leave out --service" 5
fi

missing=()
need() { # the package, the command that checks for it
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || missing+=("$package")
}
need python3-venv python3 -c 'import venv, ensurepip'
need python3-libnvinfer python3 -c 'import tensorrt'
need python3-opencv python3 -c 'import cv2'
need opencv-data test -e "$root/usr/share/opencv4/haarcascades/haarcascade_frontalface_default.xml"
need v4l-utils command -v v4l2-ctl
if [ ${#missing[@]} -gt 0 ]; then
  say "missing: ${missing[*]}"
  if [ "$apt" = yes ]; then
    sudo apt-get update
    sudo apt-get install -y "${missing[@]}"
  else
    die "packages of JetPack or Ubuntu are missing" \
      "sudo apt-get install ${missing[*]}, or run this script again with --apt" 5
  fi
fi

# --system-site-packages: TensorRT and an OpenCV with GStreamer come from apt, not from PyPI.
say "venv: $prefix/venv"
mkdir -p "$prefix"
python3 -m venv --system-site-packages "$prefix/venv"
# numpy below 2: OpenCV from apt was compiled against numpy 1 and cannot be imported with numpy 2.
"$prefix/venv/bin/pip" install --disable-pip-version-check \
  "$wheel" "$cuda_bindings" 'numpy>=1.26,<2'
# The old name of `fer-edge camera`, for what calls it by its path.
install -m 0644 "$here/camera.py" "$prefix/"
rm -f "$prefix/vision.py"

fer_edge=$prefix/venv/bin/fer-edge
if [ -n "$archive" ]; then
  say "bundle: $prefix/bundle"
  "$fer_edge" bundle unpack "$archive" -o "$prefix/bundle" --replace
fi

if [ "$service" = yes ]; then
  id fer-edge >/dev/null 2>&1 ||
    useradd --system --no-create-home --shell /usr/sbin/nologin fer-edge
  # Members of these groups may use the GPU and the cameras.
  for group in video render; do
    ! getent group "$group" >/dev/null || usermod --append --groups "$group" fer-edge
  done
  mkdir -p "$root/etc/systemd/system"
  sed "s|/opt/fer-edge|$prefix|g" "$here/fer-edge-camera.service" \
    >"$root/etc/systemd/system/fer-edge-camera.service"
  systemctl daemon-reload
  say "service installed; to start it: systemctl enable --now fer-edge-camera"
fi

say
"$fer_edge" doctor || true
say
say "next: $fer_edge build $prefix/bundle --precision int8 --target tensorrt"
say "      $fer_edge camera csi --bundle $prefix/bundle --backend tensorrt --detector haar --format json"
