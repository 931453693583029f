#!/usr/bin/env bash
# Runs dynamo-dist as a job of the running cluster, whose dashboard is forwarded to this machine (`ray dashboard`, `kubectl port-forward`):
#   bash submit.sh FOLDER train-population groups.toml --data {{ storage }}/recordings --out {{ storage }}/mine
# FOLDER becomes the job's working directory on the cluster: small files only (groups.toml, modules of your networks). Results go to the
# storage, which all nodes see. RAY_AUTH_TOKEN_PATH names another file with the token, RAY_API_SERVER_ADDRESS another dashboard.
set -euo pipefail
folder=${1:?the folder to take along, then the arguments of dynamo-dist}
shift
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}"
[ "$(stat -c %a "$RAY_AUTH_TOKEN_PATH")" = 600 ] || {
    echo "$RAY_AUTH_TOKEN_PATH must be readable by you alone: chmod 600 $RAY_AUTH_TOKEN_PATH" >&2
    exit 2
}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec ray job submit --address "${RAY_API_SERVER_ADDRESS:-http://127.0.0.1:8265}" \
    --working-dir "$folder" --runtime-env "$here/runtime-env.yaml" -- \
    dynamo-dist "$@" --address auto --workers {{ nodes * per_node }}
