#!/usr/bin/env bash
# Measure experiments of docs/results again, one after the other, and pack each into a bundle as soon as it is complete:
#
#     tools/measure.sh OUT [CONFIG...]        # for example: tools/measure.sh ~/measured configs/speedrun.yaml
#
# Without CONFIG: all of them, in the order below; a path is taken from the top of this repository. OUT/NAME.nbz is what
# belongs beside the page, whose tables and figures `make results` then makes of it. Ctrl-C, or the end of SECONDS_EACH,
# loses nothing: the same command goes on.
#
# PROCESSES (3) of the same command share an experiment, because one spends as long launching as a GPU computes; each trains
# RUNS_AT_ONCE (4) runs at once. With several GPUs each process uses all of them. SECONDS_EACH (86400) bounds an experiment.
#
# Minutes of GPU time on H200s. Measured: zoo_resnet9 26 and accuracy 11, on two; speedrun 8, transformer 6, style 2. Reckoned:
# micro_batch 3; speedrun_all 18 for the norms with kernels, by the 9 minutes that 264 of its 341 runs took on one H200 and then
# two. Not noted: the others, each a matter of minutes but all, with its norms without kernels.
set -uo pipefail
cd "$(dirname "$0")/.."

out=$(realpath -m "${1:?"usage: tools/measure.sh OUT [CONFIG...]"}")
shift
normbench=${NORMBENCH:-.venv/bin/normbench}
names=(tutorial all lr batch_size batch_size_rates batch_size_small batch_one speedrun speedrun_bn transformer
    transformer_lr style accuracy why why_init why_rates evaluation micro_batch zoo_resnet9 speedrun_all)
[ $# -gt 0 ] || set -- "${names[@]/#/configs/}"

mkdir -p "$out"
for config; do
    name=$(basename "${config%.yaml}")
    [ -f "$config" ] || config=$config.yaml
    echo "$(date +%T) $name"
    for process in $(seq "${PROCESSES:-3}"); do
        timeout --signal INT --kill-after 60 "${SECONDS_EACH:-86400}" \
            "$normbench" compare "$config" --runs-at-once "${RUNS_AT_ONCE:-4}" --runs-dir "$out" \
            > "$out/$name.$process.log" 2>&1 &
        sleep 2 # the first one plans and makes the folder
    done
    wait
    tail -n 3 "$out/$name.1.log"
    rm -f "$out/$name.nbz"
    "$normbench" bundle "$out/$name" --output "$out/$name.nbz" --small || echo "$name: not packed"
done
