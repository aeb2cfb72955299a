#!/usr/bin/env bash
# Train with torchrun: one process per device, on one machine or several without a scheduler.
#
#   launch/torchrun.sh +experiment=vit_b trainer.devices=8
#
# Several machines: the same command on each, with the address of one of them (any free port).
#
#   MASTER_ADDR=node0 NNODES=4 launch/torchrun.sh +experiment=vit_h trainer.devices=8
#
# Elastic: NNODES=2:4 begins with as many machines as come, 2 to 4 of them. When one leaves or
# joins, all processes start again from the newest checkpoint (resume=auto) with those that are
# there: the same samples in the same order, as long as data.batch_size can be divided among them.
#
# Every argument is a setting of `python -m sam_train fit`; VERB=doctor looks at the machines
# instead. On one machine `python -m sam_train fit ... trainer.devices=8` starts its processes
# itself; what torchrun adds there are restarts: MAX_RESTARTS=3 starts all processes anew when one
# dies, before it gives up.
set -euo pipefail

nodes="${NNODES:-1}"
devices=""
for argument in "$@"; do
  case "$argument" in
    trainer.devices=*) devices="${argument#trainer.devices=}" ;;
    trainer.num_nodes=*) nodes="${argument#trainer.num_nodes=}" ;;
  esac
done
# Lightning and torchrun must agree on the number of processes, so it is counted here, once.
if [[ -z "$devices" || "$devices" == auto ]]; then
  devices="$( (nvidia-smi --list-gpus 2>/dev/null || true) | wc -l)"
  if ((devices == 0)); then devices=1; fi
fi
if ! [[ "$devices" =~ ^[0-9]+$ ]]; then
  echo "error: trainer.devices=$devices: torchrun takes a number; choose devices by CUDA_VISIBLE_DEVICES" >&2
  exit 2
fi
if ! [[ "$nodes" =~ ^[1-9][0-9]*(:[1-9][0-9]*)?$ ]]; then
  echo "error: NNODES=$nodes must be a number, or two such as 2:4" >&2
  exit 2
fi

PROCESSES_PER_NODE="$devices"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=launch/env.sh
source "$here/env.sh"

# On one machine torchrun finds a free port by itself (--standalone), so that two runs do not meet.
# On several, whichever finds MASTER_ADDR to be its own address listens there and everyone connects
# to it; the id keeps the processes of two runs on the same machines apart.
if [[ "$nodes" == 1 ]]; then
  rendezvous=(--standalone)
else
  : "${MASTER_ADDR:?set MASTER_ADDR to the name or address of one of the machines}"
  rendezvous=(
    --rdzv-backend=c10d
    "--rdzv-endpoint=$MASTER_ADDR:${MASTER_PORT:-29500}"
    "--rdzv-id=${RUN_ID:-sam_train}"
  )
fi
# To torchrun a machine that leaves is a failure like any other; one that joins is not counted.
restarts="${MAX_RESTARTS:-$([[ "$nodes" == *:* ]] && echo 10 || echo 0)}"

# torchrun says how many machines there are now; the number may be another after a restart.
# shellcheck disable=SC2016
count='trainer.num_nodes=${oc.env:GROUP_WORLD_SIZE}'
exec "$PYTHON" -m torch.distributed.run \
  --nnodes="$nodes" --nproc-per-node="$devices" --max-restarts="$restarts" "${rendezvous[@]}" \
  -m sam_train "${VERB:-fit}" "$@" "trainer.devices=$devices" "$count"
