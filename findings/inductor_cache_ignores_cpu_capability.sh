#!/usr/bin/env bash
# ATEN_CPU_CAPABILITY=avx2 makes torch.compile compute wrong numbers if its cache was filled without it.
#
# Versions: torch 2.14.1 and GCC 12 on a CPU with AVX-512; the same in 2.15.0.
# Guess: the variable tells torch, Inductor included, to do without AVX-512, so that results differ by rounding at most.
# Behaviour: with an empty cache that is so. But the cached code of a function does not depend on the variable: the
#   loop that was written for vectors of 16 floats is taken, and compiled anew for AVX2, whose vectors have 8. Of each
#   16 results the second 8 are never written: whatever was in that memory is returned, without a warning. (With the
#   cache filled the other way round the loop writes beyond the end of its result, and the process dies.)
# Output seen (which of 48 sigmoids are wrong):
#   empty cache: []
#   cache of a process with AVX-512: [8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31, 40, 41, 42, 43, 44, 45, 46, 47]
# Why it matters: the variable is how one machine stands in for another in tests and timings. Give each value a
#   TORCHINDUCTOR_CACHE_DIR of its own.
set -euo pipefail
if ! grep -qs avx512f /proc/cpuinfo; then
    echo 'Not to be seen here: this CPU has no AVX-512.'
    exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check 'torch==2.14.1' numpy==2.3.5
cat > "$folder/wrong.py" <<'PYTHON'
import torch

x = torch.linspace(-3, 3, 48)
y = torch.compile(torch.sigmoid)(x)
print(((y - torch.sigmoid(x)).abs() > 1e-3).nonzero().flatten().tolist())
PYTHON
wrong() {  # which numbers are wrong, with this cache and this capability ("": that of the CPU)
    env TORCHINDUCTOR_CACHE_DIR="$folder/$1" ATEN_CPU_CAPABILITY="$2" \
        "$folder/env/bin/python" "$folder/wrong.py" 2>> "$folder/log"
}
echo "empty cache: $(wrong first avx2)" | tee "$folder/seen"
wrong second '' > "$folder/filled"
echo "cache of a process with AVX-512: $(wrong second avx2)" | tee -a "$folder/seen"
diff "$folder/seen" - <<'SEEN'
empty cache: []
cache of a process with AVX-512: [8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31, 40, 41, 42, 43, 44, 45, 46, 47]
SEEN
