# Sourced by the launchers of this folder. Every line only fills in what the caller has not set.

# --- threads -----------------------------------------------------------------------------------
# Each process takes an equal share of the machine's cores; without this every process would start
# as many threads as there are cores, and N processes N times too many.
: "${PROCESSES_PER_NODE:=1}"
cores="$(nproc)"
share=$((cores / PROCESSES_PER_NODE))
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((share > 0 ? share : 1))}"
# Threads that spin while they wait steal the core from whoever they wait for as soon as anything
# else runs on it (docs/benchmarks/cpu.md).
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"

# --- NCCL, between GPUs -------------------------------------------------------------------------
# Warnings name the machine and the cause; INFO also prints rings and transports, for slow networks.
export NCCL_DEBUG="${NCCL_DEBUG:-WARN}"
# On machines with several networks NCCL and Gloo may pick one that does not reach the others (a
# container's bridge, for instance). Name the right one then:
#   export NCCL_SOCKET_IFNAME=eth0 GLOO_SOCKET_IFNAME=eth0
# A process whose peer has died ends by itself (torch's TORCH_NCCL_ASYNC_ERROR_HANDLING, on by
# default). InfiniBand is found by itself; NCCL_IB_DISABLE=1 falls back to TCP, to see whether it
# is at fault.

# --- python -------------------------------------------------------------------------------------
# Lines appear when they are printed, also in a batch job's file.
export PYTHONUNBUFFERED=1

# The environment that `make install` made, wherever the launcher is called from.
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [[ -z "${PYTHON:-}" ]]; then
  if [[ -x "$root/.venv/bin/python" ]]; then PYTHON="$root/.venv/bin/python"; else PYTHON=python3; fi
fi
export PYTHON
