#!/usr/bin/env bash
# Train with torchrun: one process per device, on one machine or several.
#
#   launch/torchrun.sh +experiment=vit_b trainer.devices=8
#
# Several machines: the same command on each, with the address of the first one (any free port).
#
#   MASTER_ADDR=node0 NNODES=4 NODE_RANK=0 launch/torchrun.sh +experiment=vit_h trainer.devices=8
#   MASTER_ADDR=node0 NNODES=4 NODE_RANK=1 launch/torchrun.sh +experiment=vit_h trainer.devices=8
#   ...
#
# Every argument is a setting of `python -m sam_train fit`. On one machine none of this is needed:
# `python -m sam_train fit ... trainer.devices=8` starts its processes itself. torchrun is for
# several machines without a scheduler, and for restarts: MAX_RESTARTS=3 starts all processes anew
# when one dies, and they continue from the newest checkpoint (resume=auto).
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

PROCESSES_PER_NODE="$devices"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=launch/env.sh
source "$here/env.sh"

# On one machine torchrun finds a free port by itself (--standalone), so that two runs do not meet.
# On several the first one listens at MASTER_ADDR:MASTER_PORT and everyone connects to it; the id
# keeps the processes of two runs on the same machines apart.
if ((nodes == 1)); then
  rendezvous=(--standalone)
else
  : "${MASTER_ADDR:?set MASTER_ADDR to the name or address of the first machine}"
  : "${NODE_RANK:?set NODE_RANK to the number of this machine: 0 for the first, 1, 2 ...}"
  rendezvous=(
    --rdzv-backend=c10d
    "--rdzv-endpoint=$MASTER_ADDR:${MASTER_PORT:-29500}"
    "--rdzv-id=${RUN_ID:-sam_train}"
    "--node-rank=$NODE_RANK"
  )
fi

exec "$PYTHON" -m torch.distributed.run \
  --nnodes="$nodes" --nproc-per-node="$devices" --max-restarts="${MAX_RESTARTS:-0}" \
  "${rendezvous[@]}" \
  -m sam_train fit "$@" "trainer.devices=$devices" "trainer.num_nodes=$nodes"
