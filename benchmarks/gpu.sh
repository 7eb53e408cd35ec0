#!/usr/bin/env bash
# What a CUDA device is needed for, in steps of a few minutes each, in the order given. Every step leaves its output and
# its figures in FOLDER; one that fails does not stop the next.
#
#   bash benchmarks/gpu.sh FOLDER test sanitize=memcheck bench=float32 compile share=CHECKOUT
#
#   test             the GPU suite
#   sanitize=TOOL    a part of it under a tool of compute-sanitizer: memcheck, racecheck, initcheck or synccheck
#   bench=DTYPE      the benchmark in float32, float16 or bfloat16, without a compiler
#   compile          a small and a large batch against torch.compile too, also in its mode max-autotune-no-cudagraphs
#   share=CHECKOUT   of a training iteration, in a checkout of stylegan2-ada-pytorch, which is patched if it is not
#
# The package is installed first if it is not, with what this Python has at hand. device=cpu tries the steps that can be
# tried there.
set -uo pipefail
usage() { sed -n '/^# What/,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 2; }
[[ $# -ge 2 ]] || usage
for step in "${@:2}"; do
  [[ $step =~ ^(test|sanitize=(mem|race|init|sync)check|bench=(float32|float16|bfloat16)|compile|share=.+)$ ]] || usage
done
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
root=$(dirname "$0")/..
export PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 COLUMNS=160 GAN_REGULARIZERS_TEST_DEVICE="${device:=cuda}"
if ! python -c "import gan_regularizers" 2> /dev/null; then
  pip install --quiet --no-build-isolation --no-deps "$root" || exit 1
fi
python -m gan_regularizers info
# Without a device or kernels the suite would skip everything and be content.
python - "$device" << 'EOF' || exit 1
import sys
import torch
from gan_regularizers.ops import native
device = sys.argv[1]
if device == "cuda" and not torch.cuda.is_available():
    sys.exit("gpu.sh: torch finds no CUDA device")
sys.exit(native.missing(device) or None)
EOF

suite() { python -m pytest -p no:cacheprovider -m cuda "$root/tests/test_cuda.py"; }
bench() { python -m gan_regularizers bench --device "$device" --json "$folder/$1.json" "${@:2}"; }

sanitize() {
  # Memory from torch's cache would hide an access beyond a tensor; what torch's kernels write, initcheck must see.
  [[ $1 == memcheck || $1 == initcheck ]] && export PYTORCH_NO_CUDA_MEMORY_CACHING=1
  local ours=(--kernel-name kns=gan_regularizers --error-exitcode 1)
  [[ $1 == initcheck ]] && ours=()
  compute-sanitizer --tool "$1" "${ours[@]}" python -m pytest -p no:cacheprovider -x -m cuda "$root/tests/test_cuda.py" \
    -k 'value_and_gradients and parts0 or not_contiguous or draws_equal or adjoint'
}

share() {
  grep -q gan_regularizers "$1/train.py" || python -m gan_regularizers patch "$1" || return
  python "$root/benchmarks/stylegan2_ada_share.py" "$1" --device "$device" --json "$folder/share.json"
}

status=0
for step in "$@"; do
  name=${step%%=*} value=${step#*=}
  case $step in
    test) run=(suite) ;;
    sanitize=*) run=(sanitize "$value") ;;
    bench=*) run=(bench "$value" --dtypes "$value" --no-compile --seconds 0.2) ;;
    compile) run=(bench compile --shapes 256x3x32x32,64x3x256x256 --parts noise,all --seconds 0.5) ;;
    share=*) run=(share "$value") ;;
  esac
  [[ $step == compile && $device == cuda ]] && run+=(--autotune)
  begun=$SECONDS
  (set -o pipefail; "${run[@]}" 2>&1 | tee "$folder/${step//[^A-Za-z0-9]/-}.txt")
  code=$?
  echo "== $name ended with $code after $((SECONDS - begun)) s"
  ((status |= code))
done
exit "$status"
