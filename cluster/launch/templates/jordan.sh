#!/usr/bin/env bash
# One solve on all machines of the hostfile: bash jordan.sh example resonators --ep --out {{ storage }}/resonators
# RANKS=4 takes fewer ranks than there are slots: a sparse solve stops gaining early.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. {{ environment }}/bin/activate
export OMP_NUM_THREADS=1
exec mpirun --hostfile "$here/hostfile" -n "${RANKS:-{{ nodes * cpus }}}" -x PATH -x OMP_NUM_THREADS jordan-dist "$@"
