#!/usr/bin/env bash
# What one GPU has to say of speed and accuracy. Each part writes its files as
# soon as it has them and goes on where it was ended.
#
#   results/gpu.sh benchmark [NAME...]  # gpu_benchmark_*.csv, gpu_profile_*.csv
#   results/gpu.sh train CONFIG CLASS... [FLAG...]  # gpu_<config>.csv
#   results/gpu.sh choose CONFIG CLASS... [FLAG...]  # gpu_choice_<config>.csv
#
# `benchmark` times the steps of dacl, rotation and cutpaste as published and, with
# a large batch, of dacl_large and rotation_large. `train` trains classes one after
# the other, for at most SECONDS_TO_TRAIN if that is set, and beside it evaluates on
# the CPU those that are done; it needs CIFAR-10 as a TFDS set. Its flags are those of
# deep_oc.together. `choose` trains each candidate for a quarter of its passes and
# evaluates it on the validation part of the training split; no test image is
# seen. OUT is where files go, results by default.
set -euo pipefail
shopt -s globstar
cd "$(dirname "$0")/.."
out=${OUT:-results} python=${PYTHON:-python}

file() {  # small_fmnist:rotation is configs/small_fmnist.py:rotation
  local argument=${1#"${1%%:*}"}
  echo "configs/${1%%:*}.py$argument"
}

benchmark() {  # name, config, flags; where names were asked for, those alone
  [[ " ${names:-$1} " == *" $1 "* ]] || return 0
  $python -m deep_oc.benchmark --config="$(file "$2")" --rounds="${ROUNDS:-3}" \
    --seconds="${SECONDS_A_PART:-0.4}" --output="$out/gpu_benchmark_$1.csv" \
    --profile="$out/gpu_profile_$1.csv" "${@:3}"
}

candidates() {  # of CONFIG: lines of a name, a tab, and flags
  local jitter='' field crop=pretext.augment.crop
  for field in brightness contrast saturation hue; do
    jitter+=" --set=pretext.augment.$field=0.4"
  done
  local published="$jitter --set=optimizer.name=sgd"
  printf '%s\t%s\n' 'as it is' ''
  case $1 in
    # Published: 64 network inputs a step, so four times the steps.
    fast_dacl_*) printf '%s\t%s\n' \
      'jitter 0.4' "$jitter" \
      'jitter 0.4, crops from 0.5' "$jitter --set=$crop=0.5" \
      'temperature 0.2' '--set=pretext.temperature=0.2' \
      'contrast alone, as published' "$published --set=$crop=0.5 \
--set=pretext.turn_weight=0.0 --set=pretext.temperature=0.2 \
--set=optimizer.learning_rate=0.01 --set=train.batch=8 \
--set=train.steps=32000" ;;
    fast_rotation_*) printf '%s\t%s\n' \
      'as published' "$published" \
      'jitter 0.4' "$jitter" \
      'crops from 0.75' "--set=$crop=0.75" ;;
  esac
}

evaluate() {  # what is new below $root/$experiment
  JAX_PLATFORMS=cpu $python -m deep_oc.evaluate --runs="$root/$experiment/**"
}

usage() {
  sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "$0"
  exit 2
}

case ${1:-} in
  benchmark)
    names="${*:2}"
    benchmark dacl dacl_cifar10
    benchmark rotation rotation_cifar10
    benchmark dacl_large dacl_cifar10 --config.train.batch=512
    benchmark rotation_large rotation_cifar10 --config.train.batch=512
    benchmark cutpaste cutpaste_mvtec:bottle
    ;;
  train)
    (($# > 2)) || usage
    config=$2 experiment=${2/:/_} root=runs classes=() flags=()
    for argument in "${@:3}"; do
      case $argument in
        --root=*) root=${argument#--root=} ;;
        --*) flags+=("$argument") ;;
        *) classes+=("$argument") ;;
      esac
    done
    ((${#classes[@]})) || usage
    mkdir -p "$out"
    limit=()
    if [[ -n ${SECONDS_TO_TRAIN:-} ]]; then
      limit=(timeout --preserve-status "$SECONDS_TO_TRAIN")
    fi
    "${limit[@]}" $python -m deep_oc.together --config="$(file "$config")" \
      --at_once=1 --root="$root" --set=train.monitor_every=4000 \
      --set=train.checkpoint_every=16000 "${flags[@]}" \
      "${classes[@]/#/--run=protocol.normal=}" &
    trainer=$! finished=0
    trap 'kill "$trainer" 2> /dev/null || true' EXIT
    while kill -0 "$trainer" 2> /dev/null; do
      sleep 2
      now=$(find "$root/$experiment" -path '*/embeddings/test.npz' \
        2> /dev/null | wc -l) || now=0
      ((now == finished)) || evaluate > /dev/null || true  # again at the end
      finished=$now
    done
    wait "$trainer" || status=$?
    ((${status:-0} == 0 || status == 75)) || exit "$status"  # 75: time was up
    evaluate
    awk 'FNR > 1 || NR == 1' "$root/$experiment"/**/results.csv \
      > "$out/gpu_$experiment.csv"
    ;;
  choose)
    (($# > 2)) || usage
    experiment=${2/:/_} root=runs/choice/${2/:/_} steps=4000
    [[ $2 != fast_dacl_* ]] || steps=8000
    candidates "$2" | while IFS=$'\t' read -r name flags; do
      # shellcheck disable=SC2086  # several flags
      OUT=$root/$name results/gpu.sh train "$2" --root="$root/$name" \
        --set=protocol.name=validation --set=train.steps=$steps $flags \
        "${@:3}" < /dev/null
      awk -v OFS=, 'NR == 1 {print "candidate", $0}
        FNR == 1 {n = split(FILENAME, path, "/"); next}
        {print "\"" path[n - 1] "\"", $0}' "$root"/*/"gpu_$experiment.csv" \
        > "$root/table.csv"
      mkdir -p "$out"
      mv "$root/table.csv" "$out/gpu_choice_$experiment.csv"
    done
    ;;
  *) usage ;;
esac
